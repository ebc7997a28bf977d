//! int8 blocks: 64 elements share an f16 scale and take a byte each (`docs/spec/params.md`).
//!
//! A block of n <= 64 elements is its scale (f16, little-endian) and n bytes, q in -127..=127 as
//! two's complement. All else is as in [`crate::int4`], with 127 in the place of 7: the scale is the
//! smallest f16 s with 127 s >= the largest magnitude, q x s is exact in f32, larger magnitudes than
//! [`INT8_LARGEST`] saturate, a block whose q are all zero has scale +0.

use crate::absmax::{block_scale, largest_magnitude, smallest_scale};
use crate::codec::{BLOCK, CodecError};
use crate::float::f16_value;
use crate::int4::ROUNDING;
use crate::tile::{RUN, RUN_GROUPS, TILE};

/// The largest magnitude that int8 can say: 127 times the largest f16.
pub const INT8_LARGEST: f32 = 127.0 * 65_504.0;

const Q_MAX: f32 = 127.0;
const SCALE_BYTES: usize = 2;
const BLOCK_BYTES: usize = SCALE_BYTES + BLOCK;

pub(crate) const fn encoded_len(elements: usize) -> usize {
    elements.div_ceil(BLOCK) * SCALE_BYTES + elements
}

/// Appends the encoding of finite `values`, element by element: the judge of [`encode_run`].
pub(crate) fn encode(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks(BLOCK) {
        let scale = smallest_scale(largest_magnitude(block), Q_MAX);
        let divisor = f16_value(scale);
        let q = |value: &f32| match scale {
            0 => 0,
            _ => (value / divisor).clamp(-Q_MAX, Q_MAX).round_ties_even() as i8,
        };
        let all_zero = block.iter().all(|value| q(value) == 0);
        let scale = if all_zero { 0 } else { scale as u16 };
        out.extend_from_slice(&scale.to_le_bytes());
        out.extend(block.iter().map(|value| q(value).cast_unsigned()));
    }
}

/// Decodes bytes that [`validate`] has passed.
pub(crate) fn decode(bytes: &[u8], values: &mut [f32]) {
    for (block, bytes) in values.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK_BYTES)) {
        let (scale, qs) = bytes.split_at(SCALE_BYTES);
        let scale = f16_value(block_scale(scale));
        for (value, q) in block.iter_mut().zip(qs) {
            *value = f32::from(q.cast_signed()) * scale;
        }
    }
}

/// Encodes a run and leaves in it what the bytes lose; `largest` are the blocks' magnitudes.
#[inline(always)]
pub(crate) fn encode_run(rest: &mut [f32; RUN], largest: &[f32; RUN_GROUPS], out: &mut [u8]) {
    let mut scales = [0_u32; RUN_GROUPS];
    for (scale, largest) in scales.iter_mut().zip(largest) {
        *scale = smallest_scale(*largest, Q_MAX);
    }
    let blocks = rest.as_chunks_mut::<BLOCK>().0.iter_mut();
    let bytes = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for ((block, out), scale) in blocks.zip(bytes).zip(scales) {
        let (head, qs) = out.split_at_mut(SCALE_BYTES);
        let mut any = 0;
        if scale == 0 {
            qs.fill(0);
        } else {
            let scale = f16_value(scale);
            for (value, out) in block.iter_mut().zip(qs) {
                let q = (*value / scale).clamp(-Q_MAX, Q_MAX) + ROUNDING;
                *out = q.to_bits() as u8;
                any |= *out;
                *value -= (q - ROUNDING) * scale;
            }
        }
        let scale = if any == 0 { 0 } else { scale as u16 };
        head.copy_from_slice(&scale.to_le_bytes());
    }
}

/// As [`decode`], for a tile.
#[inline(always)]
pub(crate) fn decode_tile(bytes: &[u8], values: &mut [f32; TILE]) {
    let blocks = values.as_chunks_mut::<BLOCK>().0.iter_mut();
    for (block, bytes) in blocks.zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
        let (scale, qs) = bytes.split_at(SCALE_BYTES);
        let scale = f16_value(block_scale(scale));
        for (value, q) in block.iter_mut().zip(qs) {
            *value = f32::from(q.cast_signed()) * scale;
        }
    }
}

/// Checks scales and bytes whose length is already known to fit.
#[inline(always)]
pub(crate) fn validate(bytes: &[u8]) -> Result<(), CodecError> {
    for (block, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let (scale, qs) = bytes.split_at(SCALE_BYTES);
        let scale = block_scale(scale);
        if scale > crate::float::F16_MAX {
            return Err(CodecError::Scale { block, bits: scale as u16 });
        }
        let (mut any, mut no_meaning) = (0_u8, 0_u8);
        for q in qs {
            any |= q;
            no_meaning |= u8::from(*q == 0x80);
        }
        if no_meaning != 0 || (any == 0) != (scale == 0) {
            return Err(CodecError::NotCanonical { block });
        }
    }
    Ok(())
}
