//! What makes version v + 1 out of version v, on every machine alike (DESIGN 5.5).

use crate::codec::{Codec, CodecError, encoded_len, validate};
use crate::tile::{self, TILE};
use crate::wide::Wide;

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
    let wide = Wide::best();
    if reaches_far(codec) {
        check_range(wide, theta, codec, bytes)?;
    }
    tile::each_decoded(wide, codec, bytes, theta, |theta, step| {
        match (theta.as_mut_array::<TILE>(), step.as_array::<TILE>()) {
            (Some(theta), Some(step)) => wide.subtract(theta, step),
            _ => theta.iter_mut().zip(step).for_each(|(theta, step)| *theta -= step),
        }
    });
    Ok(())
}

/// Whether a codec holds numbers that can take a parameter out of f32. All others end at 8 319 008,
/// less than half of the last place of the largest f32.
fn reaches_far(codec: Codec) -> bool {
    match codec {
        Codec::F32 | Codec::Bf16 => true,
        Codec::Int4 | Codec::F16 | Codec::Int8 | Codec::TopK => false,
    }
}

fn check_range(wide: Wide, theta: &[f32], codec: Codec, bytes: &[u8]) -> Result<(), UpdateError> {
    let mut decoded = [0.0; TILE];
    let pieces = bytes.chunks(encoded_len(codec, TILE));
    for (index, (theta, bytes)) in theta.chunks(TILE).zip(pieces).enumerate() {
        let decoded = &mut decoded[..theta.len()];
        tile::decode(wide, codec, bytes, decoded);
        let mut new = theta.iter().zip(decoded).map(|(theta, step)| theta - *step);
        if let Some(at) = new.position(|new| !new.is_finite()) {
            return Err(UpdateError::Overflow { element: index * TILE + at });
        }
    }
    Ok(())
}
