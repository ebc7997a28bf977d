//! Codecs: how numbers travel. Stable wire ids, exact lengths, one canonical form.

use serde::{Deserialize, Serialize};

use crate::tile::{self, TILE};
use crate::wide::Wide;
use crate::{int4, int8, topk};

/// Elements of a codec's block.
pub const BLOCK: usize = 64;

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[non_exhaustive]
#[repr(u8)]
pub enum Codec {
    /// Little-endian IEEE 754 single precision: 4 bytes an element.
    F32 = 1,
    /// Blocks of 64 with an f16 scale and four bits an element: 34 bytes a block.
    Int4 = 2,
    /// The upper half of an f32, rounded: 2 bytes an element.
    Bf16 = 3,
    /// Little-endian IEEE 754 half precision: 2 bytes an element.
    F16 = 4,
    /// Blocks of 64 with an f16 scale and a byte an element: 66 bytes a block.
    Int8 = 5,
    /// The 64 largest of each 4096 elements at two bits: 84 bytes a block.
    TopK = 6,
}

impl Codec {
    /// The number that stands for this codec on wire and disk; never changes meaning.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a wire id.
    ///
    /// # Errors
    /// [`CodecError::Unknown`] for a number that stands for none we know.
    pub const fn from_id(id: u8) -> Result<Self, CodecError> {
        match id {
            1 => Ok(Self::F32),
            2 => Ok(Self::Int4),
            3 => Ok(Self::Bf16),
            4 => Ok(Self::F16),
            5 => Ok(Self::Int8),
            6 => Ok(Self::TopK),
            _ => Err(CodecError::Unknown { id }),
        }
    }
}

impl From<Codec> for u8 {
    fn from(codec: Codec) -> Self {
        codec.id()
    }
}

impl TryFrom<u8> for Codec {
    type Error = CodecError;

    fn try_from(id: u8) -> Result<Self, CodecError> {
        Self::from_id(id)
    }
}

impl core::fmt::Display for Codec {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int4 => "int4",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::TopK => "topk",
        })
    }
}

/// Numbers or bytes were refused. From [`encode`] it is the caller's own arithmetic that diverged;
/// from [`decode`] and [`validate`] it is the fault of whoever encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A wire id that stands for no codec.
    #[error("codec {id} is unknown to this version; both sides need a version that knows it")]
    Unknown {
        /// The id.
        id: u8,
    },
    /// The bytes are too many or too few for the elements.
    #[error("{elements} elements in {codec} take {expected} bytes, {found} came")]
    Length {
        /// The codec.
        codec: Codec,
        /// The elements that were to come.
        elements: usize,
        /// The bytes they take.
        expected: usize,
        /// The bytes that came.
        found: usize,
    },
    /// An element that is infinite or not a number.
    #[error("element {element} is infinite or not a number (bits {bits:#010x})")]
    NotFinite {
        /// Which.
        element: usize,
        /// Its bits.
        bits: u32,
    },
    /// A block whose scale is negative, infinite or not a number.
    #[error("block {block} has the scale bits {bits:#06x}, which is no finite scale >= 0")]
    Scale {
        /// Which block.
        block: usize,
        /// The bits of its f16 scale.
        bits: u16,
    },
    /// A block whose positions do not rise, or go beyond its end.
    #[error("block {block} names positions that do not rise inside it")]
    Positions {
        /// Which block.
        block: usize,
    },
    /// A block that says in an unusual way what has one usual way, or something that has no meaning.
    #[error("block {block} is not in the canonical form that every encoder of ours writes")]
    NotCanonical {
        /// Which block.
        block: usize,
    },
}

/// The bytes that `elements` elements take.
#[must_use]
pub const fn encoded_len(codec: Codec, elements: usize) -> usize {
    match codec {
        Codec::F32 => elements * 4,
        Codec::Int4 => int4::encoded_len(elements),
        Codec::Bf16 | Codec::F16 => elements * 2,
        Codec::Int8 => int8::encoded_len(elements),
        Codec::TopK => topk::encoded_len(elements),
    }
}

/// Appends the encoding of `values` to `out`. Encoding a buffer chunk by chunk gives the same bytes
/// as encoding it at once; any pieces do that are a multiple of 4096 elements but for the last.
///
/// # Errors
/// [`CodecError::NotFinite`]; `out` is then as it was.
pub fn encode(codec: Codec, values: &[f32], out: &mut Vec<u8>) -> Result<(), CodecError> {
    check_finite(values)?;
    out.reserve(encoded_len(codec, values.len()));
    let wide = Wide::best();
    values.chunks(TILE).for_each(|values| tile::encode(wide, codec, values, out));
    Ok(())
}

/// Decodes `bytes` into all of `values`.
///
/// # Errors
/// [`CodecError`] unless `bytes` are exactly what an encoder of ours writes for that many elements;
/// `values` is then as it was.
pub fn decode(codec: Codec, bytes: &[u8], values: &mut [f32]) -> Result<(), CodecError> {
    validate(codec, bytes, values.len())?;
    let wide = Wide::best();
    let pieces = bytes.chunks(encoded_len(codec, TILE));
    for (values, bytes) in values.chunks_mut(TILE).zip(pieces) {
        tile::decode(wide, codec, bytes, values);
    }
    Ok(())
}

/// Adds `factor` times what `bytes` decode to: sums := sums + factor x decoded, one multiplication
/// and one addition an element, each rounded to f32. The same bits as from [`decode`] and a loop,
/// without a second buffer.
///
/// # Errors
/// As [`decode`]; `sums` is then as it was.
pub fn accumulate(
    codec: Codec,
    bytes: &[u8],
    factor: f32,
    sums: &mut [f32],
) -> Result<(), CodecError> {
    validate(codec, bytes, sums.len())?;
    let wide = Wide::best();
    tile::each_decoded(wide, codec, bytes, sums, |sums, decoded| {
        match (sums.as_mut_array::<TILE>(), decoded.as_array::<TILE>()) {
            (Some(sums), Some(decoded)) => wide.add_scaled(sums, factor, decoded),
            _ => sums.iter_mut().zip(decoded).for_each(|(sum, value)| *sum += factor * value),
        }
    });
    Ok(())
}

/// Checks that `bytes` decode to `elements` elements, without decoding them.
///
/// # Errors
/// [`CodecError`] for a wrong length, a number that is not finite, or a form that is not canonical.
pub fn validate(codec: Codec, bytes: &[u8], elements: usize) -> Result<(), CodecError> {
    let (expected, found) = (encoded_len(codec, elements), bytes.len());
    if expected != found {
        return Err(CodecError::Length { codec, elements, expected, found });
    }
    tile::validate(Wide::best(), codec, bytes, elements)
}

/// Refuses a buffer with an infinite element or one that is not a number.
pub(crate) fn check_finite(values: &[f32]) -> Result<(), CodecError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(element) => Err(CodecError::NotFinite { element, bits: values[element].to_bits() }),
        None => Ok(()),
    }
}

#[inline(always)]
pub(crate) fn put_f32(values: &[f32], out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

pub(crate) fn get_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().expect("the caller cuts four bytes"))
}
