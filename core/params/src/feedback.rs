//! Error feedback: what a codec loses in one round is handed in with the next (Seide et al. 2014;
//! Karimireddy et al. 2019, "Error feedback fixes SignSGD").

use crate::codec::{Codec, CodecError, encoded_len};
use crate::tile::{self, TILE};
use crate::wide::Wide;

/// A step could not be encoded: this machine's own arithmetic diverged, or its buffers do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedbackError {
    /// The residual belongs to a buffer of another size.
    #[error("the residual has {residual} elements, the step {delta}; they must be of one model")]
    Length {
        /// Elements of the step.
        delta: usize,
        /// Elements of the residual.
        residual: usize,
    },
    /// The sum of residual and step is infinite or not a number somewhere.
    #[error("residual plus step: {0}")]
    Codec(#[from] CodecError),
}

/// Appends the encoding of residual + delta to `out` and leaves in `residual` what it lost:
/// a = residual + delta; bytes = encode(a); residual = a - decode(bytes).
///
/// The subtraction is exact unless the codec saturates (or, in top-k, an element is 2^13 times
/// larger or smaller than its level), so the one rounding is that of the addition. Done chunk by
/// chunk it gives the same bytes and residual.
///
/// # Errors
/// [`FeedbackError`]; `out` is then as it was. Unless it was the lengths, the residual is then not to
/// be used: part of it has taken the step in. (To check all of it first would read both buffers
/// twice, and a run that has diverged has no use for its residual.)
pub fn encode_with_feedback(
    codec: Codec,
    delta: &[f32],
    residual: &mut [f32],
    out: &mut Vec<u8>,
) -> Result<(), FeedbackError> {
    if delta.len() != residual.len() {
        return Err(FeedbackError::Length { delta: delta.len(), residual: residual.len() });
    }
    let start = out.len();
    out.reserve(encoded_len(codec, delta.len()));
    let wide = Wide::best();
    for (index, (residual, delta)) in residual.chunks_mut(TILE).zip(delta.chunks(TILE)).enumerate()
    {
        if let Err((at, bits)) = tile::encode_sum(wide, codec, residual, delta, out) {
            out.truncate(start);
            return Err(CodecError::NotFinite { element: index * TILE + at, bits }.into());
        }
    }
    Ok(())
}
