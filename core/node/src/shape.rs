//! How a job's regions are cut: what the signed specification implies, whoever announces it.

use suanli_bus::merge::payload_len;
use suanli_params::{CHUNK_ELEMENTS, Codec, encoded_len};
use suanli_rdpa::Shape;

/// All of a job's parameters, or what is to be added to them, in a codec.
pub(crate) fn of_parameters(codec: Codec, parameters: u64) -> Option<Shape> {
    let parameters = usize::try_from(parameters).ok()?;
    let chunk = encoded_len(codec, CHUNK_ELEMENTS.min(parameters));
    let bytes = payload_len(codec, parameters) as u64;
    Some(Shape { bytes, chunk_bytes: u32::try_from(chunk).ok()? })
}
