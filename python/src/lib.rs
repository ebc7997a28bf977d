//! The native part of the Python package `suanli`: connections and holders, blocking, with the
//! interpreter free while they wait.
//!
//! Not for: shapes, dtypes and slices, which the Python part knows (`python/suanli`); and not for
//! users, who import `suanli`.
//!
//! Invariants: nothing panics across the border; what comes from Python is copied or immutable
//! before another thread sees it; what was received is given to numpy where it lies; every wait
//! looks for a signal ten times a second; every error carries its code, its fault and its words.

mod buffer;
mod codec;
mod error;
mod guarded;
mod holder;
mod node;
mod place;
mod trainer;
mod wait;

use pyo3::prelude::*;

/// Regions of other computers; import `suanli` instead.
#[pymodule(name = "_suanli")]
mod native {
    #[pymodule_export]
    use crate::buffer::Buffer;
    #[pymodule_export]
    use crate::codec::{decode, encode, encoded_len};
    #[pymodule_export]
    use crate::holder::Holder;
    #[pymodule_export]
    use crate::node::{Node, Opened, Versions};
    #[pymodule_export]
    use crate::place::node_of;
    #[pymodule_export]
    use crate::trainer::work;
}
