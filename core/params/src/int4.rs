//! int4 blocks: 64 elements share an f16 scale and take four bits each (`docs/spec/params.md`).
//!
//! A block of n <= 64 elements is its scale (f16, little-endian) and ceil(n / 2) bytes; byte i holds
//! element 2i in its low half and 2i + 1 in its high half. A half holds q + 8 with q in -7..=7; an
//! element is q x scale, which f32 holds exactly. Blocks of zeros have scale +0. The unused half of
//! an odd last block is 0, which stands for no q.
//!
//! The scale is the smallest f16 s with 7 s >= the largest magnitude, so no element is further than
//! s / 2 from its value. Two edges: magnitudes up to [`INT4_LARGEST`] exist, larger ones saturate
//! (with error feedback the rest stays in the residual); a block whose elements all round to zero
//! at the smallest scale, 2^-24, is a block of zeros.
//!
//! Source: research B7, B8 (dense int4, blocks of 64, absmax, fp16 scale).

use half::f16;

use crate::absmax::{block_scale, smallest_scale};
use crate::codec::{BLOCK, CodecError};
use crate::float::f16_value;
use crate::tile::{RUN, RUN_GROUPS, TILE};

/// The largest magnitude that int4 can say: 7 times the largest f16.
pub const INT4_LARGEST: f32 = 7.0 * 65_504.0;

const Q_MAX: f32 = 7.0;
const SCALE_BYTES: usize = 2;
const BLOCK_BYTES: usize = SCALE_BYTES + BLOCK / 2;

/// 1.5 x 2^23: adding it to |x| < 2^22 leaves the nearest integer, ties to even, in the low bits of
/// the sum. One IEEE addition, and unlike `round_ties_even` it vectorises on every x86-64.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

pub(crate) const fn encoded_len(elements: usize) -> usize {
    let rest = elements % BLOCK;
    let tail = if rest == 0 { 0 } else { SCALE_BYTES + rest.div_ceil(2) };
    elements / BLOCK * BLOCK_BYTES + tail
}

/// Appends the encoding of finite `values`, block by block: the judge of [`encode_run`].
pub(crate) fn encode(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks(BLOCK) {
        let (scale, halves) = quantise(block);
        put_block(scale, &halves, block.len(), out);
    }
}

/// The scale of a block, and q + 8 of each element; 8 beyond its end.
fn quantise(block: &[f32]) -> (f16, [u8; BLOCK]) {
    let mut padded = [0.0_f32; BLOCK];
    padded[..block.len()].copy_from_slice(block);
    let scale = scale(largest(&padded));
    let mut halves = [8_u8; BLOCK];
    if scale.to_bits() == 0 {
        return (scale, halves);
    }
    let divisor = scale.to_f32_const();
    let mut all = 0_u8;
    for (half, value) in halves.iter_mut().zip(&padded) {
        let q = (value / divisor).clamp(-7.0, 7.0) + ROUNDING;
        *half = (q.to_bits() as u8).wrapping_add(8);
        all |= *half ^ 8;
    }
    if all == 0 { (f16::ZERO, halves) } else { (scale, halves) }
}

fn put_block(scale: f16, halves: &[u8; BLOCK], len: usize, out: &mut Vec<u8>) {
    let mut bytes = [0_u8; BLOCK_BYTES];
    bytes[..SCALE_BYTES].copy_from_slice(&scale.to_le_bytes());
    for (byte, pair) in bytes[SCALE_BYTES..].iter_mut().zip(halves.chunks_exact(2)) {
        *byte = pair[0] | (pair[1] << 4);
    }
    let end = SCALE_BYTES + len.div_ceil(2);
    if len % 2 == 1 {
        bytes[end - 1] &= 0x0F;
    }
    out.extend_from_slice(&bytes[..end]);
}

/// The largest magnitude. Compared as integers, which orders magnitudes as the numbers do.
pub(crate) fn largest(block: &[f32; BLOCK]) -> f32 {
    let magnitude = |value: &f32| (value.to_bits() & 0x7FFF_FFFF) as i32;
    f32::from_bits(block.iter().map(magnitude).fold(0, i32::max) as u32)
}

/// The smallest f16 s with 7 s >= `largest`; the largest f16 when there is none.
fn scale(largest: f32) -> f16 {
    let nearest = f16::from_f32_const(largest / 7.0);
    if !nearest.is_finite() {
        return f16::MAX;
    }
    // Exact: 11 bits times 3 bits.
    let enough = nearest.to_f32_const() * 7.0 >= largest;
    let bits = nearest.to_bits() + u16::from(!enough);
    f16::from_bits(bits.min(f16::MAX.to_bits()))
}

/// Decodes bytes that [`validate`] has passed.
pub(crate) fn decode(bytes: &[u8], values: &mut [f32]) {
    for (block, bytes) in values.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK_BYTES)) {
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32_const();
        for (pair, byte) in block.chunks_mut(2).zip(&bytes[SCALE_BYTES..]) {
            for (value, half) in pair.iter_mut().zip([byte & 0x0F, byte >> 4]) {
                *value = (i32::from(half) - 8) as f32 * scale;
            }
        }
    }
}

/// Encodes a run as [`encode`] does and leaves in it what the bytes lose; `largest` are the blocks'
/// magnitudes.
#[inline(always)]
pub(crate) fn encode_run(rest: &mut [f32; RUN], largest: &[f32; RUN_GROUPS], out: &mut [u8]) {
    let mut scales = [0_u32; RUN_GROUPS];
    for (scale, largest) in scales.iter_mut().zip(largest) {
        *scale = smallest_scale(*largest, Q_MAX);
    }
    let blocks = rest.as_chunks_mut::<BLOCK>().0.iter_mut();
    let bytes = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for ((block, out), scale) in blocks.zip(bytes).zip(scales) {
        let mut halves = [8_u8; BLOCK];
        let mut any = 0;
        if scale != 0 {
            let scale = f16_value(scale);
            for (value, half) in block.iter_mut().zip(&mut halves) {
                let q = (*value / scale).clamp(-Q_MAX, Q_MAX) + ROUNDING;
                *half = (q.to_bits() as u8).wrapping_add(8);
                any |= *half ^ 8;
                *value -= (q - ROUNDING) * scale;
            }
        }
        let (head, pairs) = out.split_at_mut(SCALE_BYTES);
        let scale = if any == 0 { 0 } else { scale as u16 };
        head.copy_from_slice(&scale.to_le_bytes());
        for (byte, pair) in pairs.iter_mut().zip(halves.as_chunks::<2>().0) {
            let pair = u16::from_le_bytes(*pair);
            *byte = (pair | pair >> 4) as u8;
        }
    }
}

/// As [`decode`], for a tile.
#[inline(always)]
pub(crate) fn decode_tile(bytes: &[u8], values: &mut [f32; TILE]) {
    let blocks = values.as_chunks_mut::<BLOCK>().0.iter_mut();
    for (block, bytes) in blocks.zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
        let (scale, pairs) = bytes.split_at(SCALE_BYTES);
        let scale = f16_value(block_scale(scale));
        let mut halves = [0_u8; BLOCK];
        for (pair, byte) in halves.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            let byte = u16::from(*byte);
            *pair = ((byte | byte << 4) & 0x0F0F).to_le_bytes();
        }
        for (value, half) in block.iter_mut().zip(halves) {
            *value = (i32::from(half) - 8) as f32 * scale;
        }
    }
}

/// Checks scales and halves of bytes whose length is already known to fit.
#[inline(always)]
pub(crate) fn validate(bytes: &[u8], elements: usize) -> Result<(), CodecError> {
    for (block, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
        // Above the largest finite f16 lie infinity, what is not a number, and all negatives.
        if bits > f16::MAX.to_bits() {
            return Err(CodecError::Scale { block, bits });
        }
        let odd_end = elements % 2 == 1 && (block + 1) * BLOCK > elements;
        if !canonical(bits == 0, &bytes[SCALE_BYTES..], odd_end) {
            return Err(CodecError::NotCanonical { block });
        }
    }
    Ok(())
}

#[inline(always)]
fn canonical(zero_scale: bool, pairs: &[u8], odd_end: bool) -> bool {
    let (pairs, last) = match pairs.split_last() {
        Some((last, pairs)) if odd_end => (pairs, Some(*last)),
        _ => (pairs, None),
    };
    let mut no_meaning = 0_u8;
    let mut some = 0_u8;
    for pair in pairs {
        no_meaning |= u8::from(pair & 0x0F == 0) | u8::from(pair & 0xF0 == 0);
        some |= pair ^ 0x88;
    }
    if let Some(last) = last {
        no_meaning |= u8::from(last == 0) | u8::from(last > 0x0F);
        some |= last ^ 0x08;
    }
    no_meaning == 0 && (some == 0) == zero_scale
}
