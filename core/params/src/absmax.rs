//! What int8 and int4 blocks have in common: an f16 scale out of the largest magnitude.

use crate::float::{F16_MAX, f16_code, f16_value};

/// The largest magnitude. Compared as integers, which orders magnitudes as the numbers do.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    let magnitude = |value: &f32| (value.to_bits() & 0x7FFF_FFFF) as i32;
    f32::from_bits(values.iter().map(magnitude).fold(0, i32::max) as u32)
}

/// The code of the smallest f16 s with `q_max` s >= `largest`; of the largest f16 when there is
/// none. `q_max` has at most 13 bits.
#[inline(always)]
pub(crate) fn smallest_scale(largest: f32, q_max: f32) -> u32 {
    let nearest = f16_code(largest / q_max).min(F16_MAX);
    // Exact: 11 bits times at most 13.
    let enough = f16_value(nearest) * q_max >= largest;
    (nearest + u32::from(!enough)).min(F16_MAX)
}

/// The code of a scale as it stands before its block.
#[inline(always)]
pub(crate) fn block_scale(bytes: &[u8]) -> u32 {
    u16::from_le_bytes([bytes[0], bytes[1]]).into()
}
