//! Received bytes as Python sees them: in place, by numpy's array interface.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use suanli_link::shared::Mapped;

/// Bytes that were received. `numpy.asarray(buffer)` is an array over them, without a copy; they live
/// as long as an array does.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Buffer {
    /// Where they begin. Taken once: from then on they belong to whoever holds the array, and nothing
    /// here looks at them.
    address: usize,
    len: usize,
    read_only: bool,
    _memory: Memory,
}

enum Memory {
    Received { _bytes: Vec<u8> },
    Mapped { _map: Mapped },
}

impl Buffer {
    pub(crate) fn new(mut memory: Vec<u8>) -> Self {
        let (address, len) = (memory.as_mut_ptr().expose_provenance(), memory.len());
        let memory = Memory::Received { _bytes: memory };
        Self { address, len, read_only: false, _memory: memory }
    }

    /// The memory of another process, which numpy may only read.
    pub(crate) fn mapped(map: Mapped) -> Self {
        let (address, len) = (map.as_ptr().expose_provenance(), map.len());
        Self { address, len, read_only: true, _memory: Memory::Mapped { _map: map } }
    }
}

#[pymethods]
impl Buffer {
    /// Version 3 of the protocol that numpy.asarray and torch.as_tensor understand. The buffer
    /// protocol itself is not in the stable interface of Python 3.10.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("shape", (self.len,))?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("data", (self.address, self.read_only))?;
        interface.set_item("version", 3)?;
        Ok(interface)
    }

    fn __len__(&self) -> usize {
        self.len
    }
}
