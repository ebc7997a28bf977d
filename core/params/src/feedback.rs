//! Error feedback: what a codec loses in one round is handed in with the next (Seide et al. 2014;
//! Karimireddy et al. 2019, "Error feedback fixes SignSGD").

use crate::codec::{Codec, CodecError, encoded_len, put_f32};
use crate::int4;

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
/// The subtraction is exact unless int4 saturates, so the one rounding is that of the addition.
/// Done chunk by chunk it gives the same bytes and residual.
///
/// # Errors
/// [`FeedbackError`]; `residual` and `out` are then as they were.
pub fn encode_with_feedback(
    codec: Codec,
    delta: &[f32],
    residual: &mut [f32],
    out: &mut Vec<u8>,
) -> Result<(), FeedbackError> {
    if delta.len() != residual.len() {
        return Err(FeedbackError::Length { delta: delta.len(), residual: residual.len() });
    }
    let sum = || residual.iter().zip(delta).map(|(residual, delta)| residual + delta);
    if let Some(element) = sum().position(|sum| !sum.is_finite()) {
        let bits = (residual[element] + delta[element]).to_bits();
        return Err(CodecError::NotFinite { element, bits }.into());
    }
    for (residual, delta) in residual.iter_mut().zip(delta) {
        *residual += delta;
    }
    let start = out.len();
    out.reserve(encoded_len(codec, delta.len()));
    match codec {
        Codec::F32 => {
            put_f32(residual, out);
            residual.fill(0.0);
        }
        Codec::Int4 => {
            int4::encode(residual, out);
            int4::each_block(&out[start..], residual, |residual, sent| *residual -= sent);
        }
    }
    Ok(())
}
