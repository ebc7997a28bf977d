//! How a job's regions are cut: what the signed specification implies, whoever announces it.

use suanli_bus::Frozen;
use suanli_bus::merge::payload_len;
use suanli_params::{BYTE_CHUNK, CHUNK_ELEMENTS, Codec, encoded_len};
use suanli_rdpa::Shape;

/// All of a job's parameters, or what is to be added to them, in a codec.
pub(crate) fn of_parameters(codec: Codec, parameters: u64) -> Option<Shape> {
    let parameters = usize::try_from(parameters).ok()?;
    let chunk = encoded_len(codec, CHUNK_ELEMENTS.min(parameters));
    let bytes = payload_len(codec, parameters) as u64;
    Some(Shape { bytes, chunk_bytes: u32::try_from(chunk).ok()? })
}

/// Content that a specification names by its length.
pub(crate) fn of_bytes(bytes: u64) -> Shape {
    Shape { bytes, chunk_bytes: u32::try_from(BYTE_CHUNK).expect("64 KiB") }
}

/// A frozen model as it travels.
pub(crate) fn of_frozen(frozen: &Frozen) -> Option<Shape> {
    let chunk_bytes = u32::try_from(Frozen::PACKED_CHUNK).ok()?;
    Some(Shape { bytes: frozen.packed_bytes, chunk_bytes })
}

/// Whether a holder announces what was expected. One chunk alone may be announced as longer than it
/// is, which changes no byte's place.
///
/// # Errors
/// In words, what was found instead.
pub(crate) fn is_cut(found: Shape, expected: Option<Shape>) -> Result<(), String> {
    let Some(expected) = expected else { return Err("it is too large for this machine".into()) };
    let alone = found.chunk_count() == 1 && expected.chunk_count() == 1;
    if found.bytes == expected.bytes && (alone || found.chunk_bytes == expected.chunk_bytes) {
        return Ok(());
    }
    Err(format!(
        "the city announces {} bytes in chunks of {}, by the job it is {} in chunks of {}",
        found.bytes, found.chunk_bytes, expected.bytes, expected.chunk_bytes
    ))
}
