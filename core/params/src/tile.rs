//! Tiles: the 4096 elements that a codec of fixed length works on at once, so that what is read
//! twice is read from the nearest cache. The last elements of a buffer, fewer than a tile, go by the
//! plain functions.

use crate::codec::{BLOCK, Codec, CodecError, encoded_len, get_f32, put_f32};
use crate::float::Half;
use crate::wide::{Wide, ask_ahead};
use crate::{int4, int8, topk};

/// Elements of a tile, and of a block of top-k.
pub(crate) const TILE: usize = 4096;
/// Blocks of 64 in a tile.
pub(crate) const GROUPS: usize = TILE / BLOCK;
/// Elements of a line of the cache.
pub(crate) const LINE: usize = 16;
/// More than a tile takes in any codec.
const BYTES_MAX: usize = 4 * TILE;

/// sum := sum + step, and the largest magnitudes of it in groups of 64, compared as integers: what is
/// not finite is larger than all numbers.
#[inline(always)]
pub(crate) fn add_step(sum: &mut [f32; TILE], step: &[f32; TILE]) -> [f32; GROUPS] {
    let mut largest = [0.0; GROUPS];
    let groups = sum.as_chunks_mut::<BLOCK>().0.iter_mut().zip(step.as_chunks::<BLOCK>().0);
    for (largest, (sum, step)) in largest.iter_mut().zip(groups) {
        step.iter().step_by(LINE).for_each(ask_ahead);
        let mut top = 0;
        for (sum, step) in sum.iter_mut().zip(step) {
            *sum += step;
            top = top.max((sum.to_bits() & 0x7FFF_FFFF) as i32);
        }
        *largest = f32::from_bits(top as u32);
    }
    largest
}

#[inline(always)]
pub(crate) fn subtract(sum: &mut [f32; TILE], step: &[f32; TILE]) {
    for (sum, step) in sum.iter_mut().zip(step) {
        *sum -= step;
    }
}

/// One multiplication and one addition an element, each rounded.
#[inline(always)]
pub(crate) fn add_scaled(sum: &mut [f32; TILE], factor: f32, step: &[f32; TILE]) {
    for (sum, step) in sum.iter_mut().zip(step) {
        *sum += factor * step;
    }
}

/// Appends the encoding of a + b for the elements of one tile, or of the end of a buffer, and leaves
/// in `a` what it loses. Gives the first sum that is not finite, when there is one: `a` is then lost.
pub(crate) fn encode_sum(
    wide: Wide,
    codec: Codec,
    a: &mut [f32],
    b: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), (usize, u32)> {
    let (Some(a), Some(b)) = (a.as_mut_array::<TILE>(), b.as_array::<TILE>()) else {
        return encode_end(codec, a, b, out);
    };
    let largest = wide.add_step(a, b);
    if largest.iter().any(|largest| !largest.is_finite()) {
        let bad = a.iter().zip(0..).find(|(sum, _)| !sum.is_finite());
        return Err(bad.map(|(sum, at)| (at, sum.to_bits())).expect("it was in the largest"));
    }
    encode_tile(wide, codec, a, &largest, out);
    Ok(())
}

fn encode_end(
    codec: Codec,
    a: &mut [f32],
    b: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), (usize, u32)> {
    let mut sums = a.iter().zip(b).map(|(a, b)| a + b).zip(0..);
    if let Some((sum, at)) = sums.find(|(sum, _)| !sum.is_finite()) {
        return Err((at, sum.to_bits()));
    }
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    let start = out.len();
    encode_plain(codec, a, out);
    let mut sent = [0.0; TILE];
    let sent = &mut sent[..a.len()];
    decode_plain(codec, &out[start..], sent);
    for (a, sent) in a.iter_mut().zip(sent) {
        *a -= *sent;
    }
    Ok(())
}

/// Appends the encoding of finite `values` of one tile, or of the end of a buffer.
pub(crate) fn encode(wide: Wide, codec: Codec, values: &[f32], out: &mut Vec<u8>) {
    match values.as_array::<TILE>() {
        Some(values) => {
            let mut rest = *values;
            encode_tile(wide, codec, &mut rest, &wide.magnitudes(values), out);
        }
        None => encode_plain(codec, values, out),
    }
}

fn encode_tile(
    wide: Wide,
    codec: Codec,
    rest: &mut [f32; TILE],
    largest: &[f32; GROUPS],
    out: &mut Vec<u8>,
) {
    let mut bytes = [0; BYTES_MAX];
    let bytes = &mut bytes[..encoded_len(codec, TILE)];
    match codec {
        Codec::F32 => {
            put_f32(rest, out);
            rest.fill(0.0);
            return;
        }
        Codec::Int4 => wide.int4_encode(rest, largest, bytes),
        Codec::Bf16 => wide.half_encode(Half::Bf16, rest, bytes),
        Codec::F16 => wide.half_encode(Half::F16, rest, bytes),
        Codec::Int8 => wide.int8_encode(rest, largest, bytes),
        Codec::TopK => wide.topk_encode(rest, largest, bytes),
    }
    out.extend_from_slice(bytes);
}

/// The judge of [`encode_tile`], and what the end of a buffer goes by.
pub(crate) fn encode_plain(codec: Codec, values: &[f32], out: &mut Vec<u8>) {
    let mut half = |half: Half| {
        let start = out.len();
        out.resize(start + 2 * values.len(), 0);
        half.encode(values, &mut out[start..]);
    };
    match codec {
        Codec::F32 => put_f32(values, out),
        Codec::Int4 => int4::encode(values, out),
        Codec::Bf16 => half(Half::Bf16),
        Codec::F16 => half(Half::F16),
        Codec::Int8 => int8::encode(values, out),
        Codec::TopK => topk::encode(values, out),
    }
}

/// Decodes what has been validated, for one tile or the end of a buffer.
pub(crate) fn decode(wide: Wide, codec: Codec, bytes: &[u8], values: &mut [f32]) {
    let Some(tile) = values.as_mut_array::<TILE>() else {
        return decode_plain(codec, bytes, values);
    };
    match codec {
        Codec::Int4 => wide.int4_decode(bytes, tile),
        Codec::Bf16 => wide.half_decode(Half::Bf16, bytes, tile),
        Codec::F16 => wide.half_decode(Half::F16, bytes, tile),
        Codec::Int8 => wide.int8_decode(bytes, tile),
        Codec::F32 | Codec::TopK => decode_plain(codec, bytes, tile),
    }
}

/// The judge of [`decode`], and what the end of a buffer goes by.
pub(crate) fn decode_plain(codec: Codec, bytes: &[u8], values: &mut [f32]) {
    match codec {
        Codec::F32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = get_f32(bytes);
            }
        }
        Codec::Int4 => int4::decode(bytes, values),
        Codec::Bf16 => Half::Bf16.decode(bytes, values),
        Codec::F16 => Half::F16.decode(bytes, values),
        Codec::Int8 => int8::decode(bytes, values),
        Codec::TopK => topk::decode(bytes, values),
    }
}

/// Checks bytes whose length fits.
pub(crate) fn validate(
    wide: Wide,
    codec: Codec,
    bytes: &[u8],
    elements: usize,
) -> Result<(), CodecError> {
    match codec {
        Codec::F32 => {
            if wide.f32_largest(bytes) < f32::INFINITY.to_bits() {
                return Ok(());
            }
            let finite = |bytes: &[u8]| get_f32(bytes).is_finite();
            match bytes.chunks_exact(4).position(|bytes| !finite(bytes)) {
                Some(element) => {
                    let bits = get_f32(&bytes[element * 4..][..4]).to_bits();
                    Err(CodecError::NotFinite { element, bits })
                }
                None => Ok(()),
            }
        }
        Codec::Int4 => wide.int4_validate(bytes, elements),
        Codec::Bf16 => wide.half_validate(Half::Bf16, bytes),
        Codec::F16 => wide.half_validate(Half::F16, bytes),
        Codec::Int8 => wide.int8_validate(bytes),
        Codec::TopK => wide.topk_validate(bytes, elements),
    }
}

/// The largest magnitude among f32 bytes, as bits.
#[inline(always)]
pub(crate) fn f32_largest(bytes: &[u8]) -> u32 {
    let magnitude = |bytes: &[u8; 4]| (u32::from_le_bytes(*bytes) & 0x7FFF_FFFF) as i32;
    bytes.as_chunks::<4>().0.iter().map(magnitude).fold(0, i32::max) as u32
}

/// Calls `put` with each tile of `values`, or their end, and what the bytes decode to there.
pub(crate) fn each_decoded(
    wide: Wide,
    codec: Codec,
    bytes: &[u8],
    values: &mut [f32],
    put: impl Fn(&mut [f32], &[f32]),
) {
    let mut decoded = [0.0; TILE];
    let pieces = bytes.chunks(encoded_len(codec, TILE));
    for (values, bytes) in values.chunks_mut(TILE).zip(pieces) {
        let decoded = &mut decoded[..values.len()];
        decode(wide, codec, bytes, decoded);
        put(values, decoded);
    }
}
