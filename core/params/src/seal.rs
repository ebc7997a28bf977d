//! Sealing: AdamW's moments rounded in place to one byte each, so that a replica's private state
//! between two leases is small, hashed and repeatable (DESIGN 5.6).
//!
//! A block of n <= 64 elements is: scale of m and scale of sqrt(v) (f32, little-endian), n bytes of
//! m (q in -127..=127, two's complement), n bytes of sqrt(v) (q in 0..=127). m is q x scale, v is
//! the square of q x scale. m goes to the nearest, sqrt(v) up: an entry of v never falls to zero
//! unless it is zero (research B8: sealing v linearly costs 7 %, this costs 0.0 %).
//!
//! A scale is the smallest number of 16 significant bits s with 127 s >= the largest magnitude, but
//! not below 2^-60; a block whose q are all zero has scale +0. 16 bits, because then q x s is exact
//! and the largest q is again 127: sealing what was sealed changes nothing, not even the bytes. Not
//! below 2^-60, because then the square is a normal number and its root is exactly q x s again
//! (Boldo 2015); AdamW's eps of 1e-8 hides anything that small.

use crate::codec::{BLOCK, CodecError, check_finite, get_f32};
use crate::int4::{ROUNDING, largest};

/// Bytes of the two scales of a block.
const SCALES_BYTES: usize = 8;
const Q_MAX: f32 = 127.0;
/// 2^-60.
const SCALE_MIN: f32 = f32::from_bits((127 - 60) << 23);
/// 2^56: squares of 127 times this still are far below the largest f32.
const SCALE_MAX: f32 = f32::from_bits((127 + 56) << 23);
/// The bits of an f32 below its 16 significant ones.
const BELOW: u32 = 0xFF;

/// Moments could not be sealed (this machine's own training diverged), or sealed bytes were refused
/// (the fault of whoever sealed them, or of the disk).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The two moments are not of one model.
    #[error("m has {m} elements, v has {v}; they must be of one model")]
    Lengths {
        /// Elements of m.
        m: usize,
        /// Elements of v.
        v: usize,
    },
    /// An entry of m is infinite or not a number.
    #[error("first moment: {0}")]
    First(CodecError),
    /// An entry of v is infinite or not a number.
    #[error("second moment: {0}")]
    Second(CodecError),
    /// An entry of v is below zero.
    #[error("element {element} of the second moment is negative")]
    Negative {
        /// Which.
        element: usize,
    },
    /// An entry is too large to be sealed.
    #[error("block {block} of the moments holds a number above 2^62 (in m, or the root in v)")]
    TooLarge {
        /// Which block of 64.
        block: usize,
    },
    /// The sealed bytes are too many or too few.
    #[error("the sealed moments of {elements} elements take {expected} bytes, {found} came")]
    Length {
        /// Elements to fill.
        elements: usize,
        /// Bytes they take.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A block is not what sealing writes.
    #[error("block {block} of the sealed moments is not in the form that sealing writes")]
    NotCanonical {
        /// Which block of 64.
        block: usize,
    },
}

/// The bytes that the sealed moments of `elements` elements take: 2.125 each.
#[must_use]
pub const fn sealed_len(elements: usize) -> usize {
    elements.div_ceil(BLOCK) * SCALES_BYTES + elements * 2
}

/// Rounds both moments in place and returns the bytes that [`unseal_moments`] turns back into
/// exactly them. Done chunk by chunk, the bytes one after the other are the bytes of the whole.
///
/// # Errors
/// [`SealError`] for numbers that no healthy training holds; both moments are then as they were.
pub fn seal_moments(m: &mut [f32], v: &mut [f32]) -> Result<Vec<u8>, SealError> {
    check_moments(m, v)?;
    let mut out = Vec::with_capacity(sealed_len(m.len()));
    for (m, v) in m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK)) {
        seal_block(m, v, &mut out);
    }
    Ok(out)
}

/// Restores the moments that [`seal_moments`] left.
///
/// # Errors
/// [`SealError`] unless the bytes are what sealing writes; both moments are then as they were.
pub fn unseal_moments(bytes: &[u8], m: &mut [f32], v: &mut [f32]) -> Result<(), SealError> {
    check_lengths(m, v)?;
    let (elements, expected, found) = (m.len(), sealed_len(m.len()), bytes.len());
    if expected != found {
        return Err(SealError::Length { elements, expected, found });
    }
    let blocks = || bytes.chunks(SCALES_BYTES + 2 * BLOCK);
    if let Some(block) = blocks().position(|block| !canonical(block)) {
        return Err(SealError::NotCanonical { block });
    }
    for ((m, v), block) in m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK)).zip(blocks()) {
        let parts = Parts::of(block);
        for (m, q) in m.iter_mut().zip(parts.m) {
            *m = f32::from(q.cast_signed()) * parts.m_scale;
        }
        for (v, q) in v.iter_mut().zip(parts.v) {
            let root = f32::from(*q) * parts.v_scale;
            *v = root * root;
        }
    }
    Ok(())
}

/// The four parts of a sealed block.
struct Parts<'a> {
    m_scale: f32,
    v_scale: f32,
    m: &'a [u8],
    v: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(block: &'a [u8]) -> Self {
        let (scales, qs) = block.split_at(SCALES_BYTES);
        let (m, v) = qs.split_at(qs.len() / 2);
        Self { m_scale: get_f32(&scales[..4]), v_scale: get_f32(&scales[4..]), m, v }
    }
}

fn check_lengths(m: &[f32], v: &[f32]) -> Result<(), SealError> {
    if m.len() == v.len() { Ok(()) } else { Err(SealError::Lengths { m: m.len(), v: v.len() }) }
}

fn check_moments(m: &[f32], v: &[f32]) -> Result<(), SealError> {
    check_lengths(m, v)?;
    check_finite(m).map_err(SealError::First)?;
    check_finite(v).map_err(SealError::Second)?;
    if let Some(element) = v.iter().position(|v| *v < 0.0) {
        return Err(SealError::Negative { element });
    }
    let large = |m: &[f32], v: &[f32]| {
        let bound = Q_MAX * SCALE_MAX;
        m.iter().any(|m| m.abs() > bound) || v.iter().any(|v| v.sqrt() > bound)
    };
    match m.chunks(BLOCK).zip(v.chunks(BLOCK)).position(|(m, v)| large(m, v)) {
        Some(block) => Err(SealError::TooLarge { block }),
        None => Ok(()),
    }
}

fn seal_block(m: &mut [f32], v: &mut [f32], out: &mut Vec<u8>) {
    let len = m.len();
    let (mut first, mut root) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
    first[..len].copy_from_slice(m);
    for (root, v) in root.iter_mut().zip(&*v) {
        *root = v.sqrt();
    }
    let (m_scale, m_q) = round_nearest(&mut first);
    let (v_scale, v_q) = round_up(&mut root);
    m.copy_from_slice(&first[..len]);
    for (v, root) in v.iter_mut().zip(&root) {
        *v = root * root;
    }
    out.extend_from_slice(&m_scale.to_le_bytes());
    out.extend_from_slice(&v_scale.to_le_bytes());
    out.extend_from_slice(&m_q[..len]);
    out.extend_from_slice(&v_q[..len]);
}

/// Rounds a block to the nearest multiples of its scale; the scale and the multiples.
fn round_nearest(block: &mut [f32; BLOCK]) -> (f32, [u8; BLOCK]) {
    let scale = scale(largest(block));
    let mut multiples = [0_u8; BLOCK];
    if scale == 0.0 {
        block.fill(0.0);
        return (scale, multiples);
    }
    let mut any = 0_u8;
    for (value, multiple) in block.iter_mut().zip(&mut multiples) {
        let shifted = *value / scale + ROUNDING;
        *value = (shifted - ROUNDING) * scale;
        *multiple = shifted.to_bits() as u8;
        any |= *multiple;
    }
    (if any == 0 { 0.0 } else { scale }, multiples)
}

/// Rounds a block of numbers >= 0 up to multiples of its scale; the scale and the multiples.
fn round_up(block: &mut [f32; BLOCK]) -> (f32, [u8; BLOCK]) {
    let scale = scale(largest(block));
    let mut multiples = [0_u8; BLOCK];
    if scale == 0.0 {
        block.fill(0.0);
        return (scale, multiples);
    }
    for (value, multiple) in block.iter_mut().zip(&mut multiples) {
        let nearest = (*value / scale + ROUNDING) - ROUNDING;
        // The product is exact, so this sees even what the division rounded away.
        let up = nearest + if nearest * scale < *value { 1.0 } else { 0.0 };
        *value = up * scale;
        *multiple = (up + ROUNDING).to_bits() as u8;
    }
    (scale, multiples)
}

/// The smallest scale s with 127 s >= `largest`, not below [`SCALE_MIN`]; 0 for 0.
fn scale(largest: f32) -> f32 {
    if largest == 0.0 {
        return 0.0;
    }
    let down = (largest / Q_MAX).to_bits() & !BELOW;
    // Exact: 16 bits times 7 bits.
    let enough = f32::from_bits(down) * Q_MAX >= largest;
    let scale = f32::from_bits(if enough { down } else { down + BELOW + 1 });
    scale.max(SCALE_MIN)
}

/// Whether sealing can have written this block.
fn canonical(block: &[u8]) -> bool {
    let parts = Parts::of(block);
    let m_largest = parts.m.iter().map(|q| q.cast_signed().unsigned_abs()).fold(0, u8::max);
    let v_largest = parts.v.iter().copied().fold(0, u8::max);
    fits(parts.m_scale, m_largest) && fits(parts.v_scale, v_largest)
}

fn fits(scale: f32, largest_q: u8) -> bool {
    match scale.to_bits() {
        0 => largest_q == 0,
        bits if bits == SCALE_MIN.to_bits() => (1..=127).contains(&largest_q),
        bits => {
            let in_range = scale > SCALE_MIN && scale <= SCALE_MAX;
            in_range && bits & BELOW == 0 && largest_q == 127
        }
    }
}
