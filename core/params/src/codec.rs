//! Codecs: how numbers travel. Stable wire ids, exact lengths, one canonical form.

use serde::{Deserialize, Serialize};

use crate::int4;

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
    }
}

/// Appends the encoding of `values` to `out`. Encoding a buffer chunk by chunk gives the same bytes
/// as encoding it at once.
///
/// # Errors
/// [`CodecError::NotFinite`]; `out` is then as it was.
pub fn encode(codec: Codec, values: &[f32], out: &mut Vec<u8>) -> Result<(), CodecError> {
    check_finite(values)?;
    out.reserve(encoded_len(codec, values.len()));
    match codec {
        Codec::F32 => put_f32(values, out),
        Codec::Int4 => int4::encode(values, out),
    }
    Ok(())
}

/// Decodes `bytes` into all of `values`.
///
/// # Errors
/// [`CodecError`] unless `bytes` are exactly what an encoder of ours writes for that many elements;
/// `values` is then as it was.
pub fn decode(codec: Codec, bytes: &[u8], values: &mut [f32]) -> Result<(), CodecError> {
    validate(codec, bytes, values.len())?;
    match codec {
        Codec::F32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = get_f32(bytes);
            }
        }
        Codec::Int4 => int4::decode(bytes, values),
    }
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
    match codec {
        Codec::F32 => {
            let finite = |bytes: &[u8]| get_f32(bytes).is_finite();
            match bytes.chunks_exact(4).position(|bytes| !finite(bytes)) {
                Some(element) => {
                    let bits = get_f32(&bytes[element * 4..][..4]).to_bits();
                    Err(CodecError::NotFinite { element, bits })
                }
                None => Ok(()),
            }
        }
        Codec::Int4 => int4::validate(bytes, elements),
    }
}

/// Refuses a buffer with an infinite element or one that is not a number.
pub(crate) fn check_finite(values: &[f32]) -> Result<(), CodecError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(element) => Err(CodecError::NotFinite { element, bits: values[element].to_bits() }),
        None => Ok(()),
    }
}

pub(crate) fn put_f32(values: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() * 4, 0);
    for (bytes, value) in out[start..].chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

pub(crate) fn get_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().expect("the caller cuts four bytes"))
}
