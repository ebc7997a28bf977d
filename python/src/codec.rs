//! Deltas in the codecs that contributions travel in.

use crate::buffer::Buffer;
use crate::error::Trouble;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use suanli_params::{CHUNK_ELEMENTS, Codec, encode_with_feedback};

/// The codec that is called so.
pub(crate) fn named(text: &str) -> Result<Codec, Trouble> {
    let all = (0..=u8::MAX).filter_map(|id| Codec::from_id(id).ok());
    all.into_iter().find(|codec| codec.to_string() == text).ok_or_else(|| Trouble::Word {
        what: "a codec",
        found: text.to_owned(),
        expected: "int4, int8, topk, bf16, f16, f32",
    })
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>, Trouble> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Trouble::Length { what: "float32 values", found: bytes.len(), unit: 4 });
    }
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Bytes of one chunk of a contribution of so many elements.
fn chunk_bytes(codec: Codec, elements: usize) -> usize {
    suanli_params::encoded_len(codec, CHUNK_ELEMENTS.min(elements.max(1)))
}

/// Encodes residual + delta (bytes of little-endian float32). Returns the payload, the residual that
/// is left, and the bytes of one chunk of the payload.
#[pyfunction]
pub(crate) fn encode(
    py: Python<'_>,
    codec: &str,
    delta: PyBackedBytes,
    residual: Option<PyBackedBytes>,
) -> PyResult<(Py<pyo3::types::PyBytes>, Buffer, usize)> {
    let work = || -> Result<_, Trouble> {
        let codec = named(codec)?;
        let delta = floats(&delta)?;
        let mut residual = match residual {
            Some(bytes) => floats(&bytes)?,
            None => vec![0.0; delta.len()],
        };
        let mut payload = Vec::new();
        encode_with_feedback(codec, &delta, &mut residual, &mut payload)?;
        Ok((payload, bytes_of(&residual), chunk_bytes(codec, delta.len())))
    };
    let (payload, left, chunk) = py.detach(work).map_err(|trouble| trouble.raise(py))?;
    Ok((pyo3::types::PyBytes::new(py, &payload).unbind(), Buffer::new(left), chunk))
}

/// Decodes a payload of so many elements, checked whole before.
#[pyfunction]
pub(crate) fn decode(
    py: Python<'_>,
    codec: &str,
    payload: PyBackedBytes,
    elements: usize,
) -> PyResult<Buffer> {
    let work = || -> Result<_, Trouble> {
        let codec = named(codec)?;
        // Looks at the length before anything of it is allocated.
        suanli_params::validate(codec, &payload, elements)?;
        let mut values = vec![0.0; elements];
        suanli_params::decode(codec, &payload, &mut values)?;
        Ok(bytes_of(&values))
    };
    py.detach(work).map(Buffer::new).map_err(|trouble| trouble.raise(py))
}

/// Bytes that so many elements take.
#[pyfunction]
pub(crate) fn encoded_len(py: Python<'_>, codec: &str, elements: usize) -> PyResult<usize> {
    let codec = named(codec).map_err(|trouble| trouble.raise(py))?;
    Ok(suanli_params::encoded_len(codec, elements))
}
