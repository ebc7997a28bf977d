//! What makes version v + 1 out of version v, on every machine alike (DESIGN 5.5).

use crate::codec::{Codec, CodecError, get_f32, validate};
use crate::int4;

/// An update was refused: the fault of whoever published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The bytes are no update for these parameters.
    #[error("the update does not decode: {0}")]
    Codec(#[from] CodecError),
    /// The new value of a parameter would be infinite.
    #[error("the update takes parameter {element} out of the range of f32")]
    Overflow {
        /// Which.
        element: usize,
    },
}

/// theta := theta - decode(bytes). Done chunk by chunk it gives the same bits.
///
/// # Errors
/// [`UpdateError`]; `theta` is then as it was.
pub fn apply_update(theta: &mut [f32], codec: Codec, bytes: &[u8]) -> Result<(), UpdateError> {
    validate(codec, bytes, theta.len())?;
    match codec {
        Codec::F32 => {
            let mut new = theta.iter().zip(bytes.chunks_exact(4));
            if let Some(element) =
                new.position(|(theta, step)| !(theta - get_f32(step)).is_finite())
            {
                return Err(UpdateError::Overflow { element });
            }
            for (theta, step) in theta.iter_mut().zip(bytes.chunks_exact(4)) {
                *theta -= get_f32(step);
            }
        }
        // At most 458 528, less than half of the last place of the largest f32: cannot overflow.
        Codec::Int4 => int4::each_block(bytes, theta, |theta, step| *theta -= step),
    }
    Ok(())
}
