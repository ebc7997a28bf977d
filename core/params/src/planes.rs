//! Lossless packing: the bytes of floats apart by their places, each plane compressed where that
//! makes it smaller (`docs/spec/params.md`).
//!
//! For: what is read once and must come back to the bit, such as base weights over slow links. Not
//! for contributions and updates: the length depends on the numbers, and one buffer has many
//! packings (any zstd will do), so it is no [`crate::Codec`] and no job can ask for it.
//!
//! A word is turned left by one bit first, so that the exponent is one byte, the last plane; of
//! trained weights it is most of what can be saved (research 2d: 0.36 of its size, the others none).
//!
//! Bounds: a plane comes out of one zstd block of at most 128 KiB, whose header is checked before
//! anything is unpacked; what would swell beyond its elements is refused.

use ruzstd::decoding::FrameDecoder;
use ruzstd::encoding::{CompressionLevel, compress};

use crate::chunk::CHUNK_ELEMENTS;
use crate::codec::{CodecError, check_finite};
use crate::float::Half;

/// What is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Packing {
    /// f32 in four planes: every bit comes back.
    F32 = 7,
    /// bf16 in two planes: numbers are rounded as [`crate::Codec::Bf16`] rounds them, and no more.
    Bf16 = 8,
}

/// Numbers or bytes were refused. From [`pack`] it is the caller's own arithmetic that diverged; from
/// [`unpack`] the fault of whoever packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A number that stands for no packing.
    #[error("packing {id} is unknown to this version; both sides need a version that knows it")]
    Unknown {
        /// The id.
        id: u8,
    },
    /// An element that is infinite or not a number.
    #[error("packed numbers: {0}")]
    Number(#[from] CodecError),
    /// The bytes end inside a plane, or go on after the last one.
    #[error("{found} bytes came where the planes of {elements} elements end elsewhere")]
    Length {
        /// The elements that were to come.
        elements: usize,
        /// The bytes that came.
        found: usize,
    },
    /// A plane says that it is longer than its elements, which packing never makes it.
    #[error("plane {plane} of chunk {chunk} says {length} bytes; its elements take {elements}")]
    Long {
        /// Which chunk.
        chunk: usize,
        /// Which plane of it.
        plane: usize,
        /// What it says.
        length: u32,
        /// Elements of the chunk.
        elements: usize,
    },
    /// A plane that is not one zstd frame of one block with exactly its elements in it.
    #[error("plane {plane} of chunk {chunk} is no zstd block of exactly {elements} bytes")]
    Plane {
        /// Which chunk.
        chunk: usize,
        /// Which plane of it.
        plane: usize,
        /// Elements of the chunk.
        elements: usize,
    },
}

/// Bytes before a plane: its length.
const LENGTH_BYTES: usize = 4;
/// zstd's magic number and a frame header without size, sum or dictionary.
const FRAME: [u8; 5] = [0x28, 0xB5, 0x2F, 0xFD, 0x00];
/// The window descriptor of 128 KiB.
const WINDOW_MAX: u8 = 0x38;
const WINDOW_BYTES: u64 = 128 << 10;
/// Bytes up to the end of the block's header.
const HEADERS_BYTES: usize = FRAME.len() + 1 + 3;

impl Packing {
    /// The number that stands for this packing; of one space with [`crate::Codec::id`].
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The packing of an id.
    ///
    /// # Errors
    /// [`PackError::Unknown`] for a number that stands for none we know.
    pub const fn from_id(id: u8) -> Result<Self, PackError> {
        match id {
            7 => Ok(Self::F32),
            8 => Ok(Self::Bf16),
            _ => Err(PackError::Unknown { id }),
        }
    }

    const fn planes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The most bytes that so many elements take.
    #[must_use]
    pub const fn len_max(self, elements: usize) -> usize {
        let chunks = elements.div_ceil(CHUNK_ELEMENTS);
        self.planes() * (elements + chunks * LENGTH_BYTES)
    }

    fn word(self, value: f32) -> u32 {
        match self {
            Self::F32 => value.to_bits().rotate_left(1),
            Self::Bf16 => Half::Bf16.code(value).rotate_left(1).into(),
        }
    }

    fn value(self, word: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(word.rotate_right(1)),
            Self::Bf16 => Half::Bf16.value((word as u16).rotate_right(1)),
        }
    }
}

/// Appends the packed `values`. Chunks packed apart give the same bytes one after the other.
///
/// # Errors
/// [`PackError::Number`]; `out` is then as it was.
pub fn pack(packing: Packing, values: &[f32], out: &mut Vec<u8>) -> Result<(), PackError> {
    check_finite(values)?;
    let mut plane = Vec::with_capacity(CHUNK_ELEMENTS.min(values.len()));
    let mut packed = Vec::new();
    for chunk in values.chunks(CHUNK_ELEMENTS) {
        for place in 0..packing.planes() {
            plane.clear();
            plane.extend(chunk.iter().map(|value| (packing.word(*value) >> (8 * place)) as u8));
            packed.clear();
            if is_uneven(&plane) {
                compress(&plane[..], &mut packed, CompressionLevel::Fastest);
            }
            let shrunk = !packed.is_empty() && packed.len() < plane.len();
            let bytes = if shrunk { &packed } else { &plane };
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
    Ok(())
}

/// How many bytes at the beginning of `bytes` are the packing of one chunk of `elements` elements;
/// nothing when they end before it does. For reading a long packing chunk by chunk: none is longer
/// than [`Packing::len_max`].
///
/// # Errors
/// [`PackError::Long`] for a plane that no packing has.
pub fn packed_chunk_len(
    packing: Packing,
    elements: usize,
    bytes: &[u8],
) -> Result<Option<usize>, PackError> {
    let mut at = 0;
    for plane in 0..packing.planes() {
        let Some((length, _)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        if length as usize > elements {
            return Err(PackError::Long { chunk: 0, plane, length, elements });
        }
        at += LENGTH_BYTES + length as usize;
    }
    Ok((at <= bytes.len()).then_some(at))
}

/// Whether trying to compress is worth the time: two bytes drawn are the same more often than once
/// in 128. Of even ones it is once in 256, and nothing is to be gained.
fn is_uneven(plane: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for byte in plane {
        counts[usize::from(*byte)] += 1;
    }
    let same: u64 = counts.iter().map(|count| count * count).sum();
    let all = plane.len() as u64;
    same * 128 > all * all
}

/// Unpacks `bytes` into all of `values`.
///
/// # Errors
/// [`PackError`] unless `bytes` are exactly the packing of that many finite numbers; `values` is then
/// as it was.
pub fn unpack(packing: Packing, bytes: &[u8], values: &mut [f32]) -> Result<(), PackError> {
    let elements = values.len();
    let broken = PackError::Length { elements, found: bytes.len() };
    // What even empty planes take comes before anything is allocated.
    if bytes.len() < elements.div_ceil(CHUNK_ELEMENTS) * packing.planes() * LENGTH_BYTES {
        return Err(broken);
    }
    let mut rest = bytes;
    let mut words = vec![0_u32; elements];
    let mut plane = vec![0_u8; CHUNK_ELEMENTS.min(elements)];
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_BYTES);
    for (chunk, words) in words.chunks_mut(CHUNK_ELEMENTS).enumerate() {
        let elements = words.len();
        for place in 0..packing.planes() {
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(broken)?;
            let length = u32::from_le_bytes(*length);
            if length as usize > elements {
                return Err(PackError::Long { chunk, plane: place, length, elements });
            }
            let (packed, after) = after.split_at_checked(length as usize).ok_or(broken)?;
            let plane = &mut plane[..elements];
            if packed.len() == elements {
                plane.copy_from_slice(packed);
            } else if !is_one_block(packed, elements)
                || decoder.decode_all(packed, plane).ok() != Some(elements)
            {
                return Err(PackError::Plane { chunk, plane: place, elements });
            }
            for (word, byte) in words.iter_mut().zip(&*plane) {
                *word |= u32::from(*byte) << (8 * place);
            }
            rest = after;
        }
    }
    if !rest.is_empty() {
        return Err(broken);
    }
    let bad = words.iter().map(|word| packing.value(*word)).position(|value| !value.is_finite());
    if let Some(element) = bad {
        let bits = packing.value(words[element]).to_bits();
        return Err(CodecError::NotFinite { element, bits }.into());
    }
    for (value, word) in values.iter_mut().zip(words) {
        *value = packing.value(word);
    }
    Ok(())
}

/// Whether these bytes are a frame of one block, by its headers: compressed, or one byte repeated
/// exactly as often as there are elements. A block never unpacks to more than 128 KiB.
fn is_one_block(bytes: &[u8], elements: usize) -> bool {
    const LAST: u32 = 1;
    const REPEATED: u32 = 1;
    const COMPRESSED: u32 = 2;
    let Some((headers, content)) = bytes.split_first_chunk::<HEADERS_BYTES>() else {
        return false;
    };
    let [a, b, c] = [headers[6], headers[7], headers[8]];
    let block = u32::from_le_bytes([a, b, c, 0]);
    let size = (block >> 3) as usize;
    let fits = match (block >> 1) & 3 {
        REPEATED => content.len() == 1 && size == elements,
        COMPRESSED => content.len() == size,
        _ => false,
    };
    headers[..5] == FRAME && headers[5] <= WINDOW_MAX && block & LAST == 1 && fits
}
