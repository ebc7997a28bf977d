//! Tiles: the 4096 elements that a codec of fixed length works on at once, so that what is read
//! twice is read from the nearest cache. The last elements of a buffer, fewer than a tile, go by the
//! plain functions.

use crate::codec::{BLOCK, Codec, CodecError, encoded_len, get_f32, put_f32};
use crate::float::Half;
use crate::wide::Wide;
use crate::{int4, int8, topk};

/// Elements of a tile, and of a block of top-k.
pub(crate) const TILE: usize = 4096;
/// Blocks of 64 in a tile.
pub(crate) const GROUPS: usize = TILE / BLOCK;
/// Blocks of a run: what is summed, then encoded, before the next is looked at. So short that memory
/// goes on to be read while a run is encoded. Of the rate of a copy, int8 with residual (AMD EPYC,
/// AVX-512): 0.8 to 1.1 in runs of 4 and 8 blocks, 0.7 to 0.9 of 16 and 32, 0.7 of 64; with lines asked
/// for ahead 0.6 to 0.7.
pub(crate) const RUN_GROUPS: usize = 4;
/// Elements of a run.
pub(crate) const RUN: usize = RUN_GROUPS * BLOCK;

/// The first sum that is not finite: where, and its bits.
pub(crate) type NotFinite = (usize, u32);

/// sum := sum + step, and the largest magnitudes of it in groups of 64, compared as integers: what is
/// not finite is larger than all numbers.
#[inline(always)]
pub(crate) fn add_step<const N: usize, const GROUPS: usize>(
    sum: &mut [f32; N],
    step: &[f32; N],
) -> [f32; GROUPS] {
    let mut largest = [0.0; GROUPS];
    let groups = sum.as_chunks_mut::<BLOCK>().0.iter_mut().zip(step.as_chunks::<BLOCK>().0);
    for (largest, (sum, step)) in largest.iter_mut().zip(groups) {
        let mut top = 0;
        for (sum, step) in sum.iter_mut().zip(step) {
            *sum += step;
            top = top.max((sum.to_bits() & 0x7FFF_FFFF) as i32);
        }
        *largest = f32::from_bits(top as u32);
    }
    largest
}

/// Encodes a run, the largest magnitudes of its blocks being known; what the bytes lose is left in it.
#[inline(always)]
fn encode_run(codec: Codec, run: &mut [f32; RUN], largest: &[f32; RUN_GROUPS], out: &mut [u8]) {
    match codec {
        Codec::F32 => {
            put_f32(run, out);
            run.fill(0.0);
        }
        Codec::Int4 => int4::encode_run(run, largest, out),
        Codec::Bf16 => Half::Bf16.encode_run(run, out),
        Codec::F16 => Half::F16.encode_run(run, out),
        Codec::Int8 => int8::encode_run(run, largest, out),
        Codec::TopK => unreachable!("a block of top-k is a tile"),
    }
}

/// sum := sum + step, and its encoding, run by run; what the bytes lose is left in `sum`.
#[inline(always)]
pub(crate) fn encode_sum_in_runs(
    codec: Codec,
    sum: &mut [f32; TILE],
    step: &[f32; TILE],
    out: &mut [u8],
) -> Result<(), NotFinite> {
    let outs = out.chunks_exact_mut(out.len() / (TILE / RUN));
    let runs = sum.as_chunks_mut::<RUN>().0.iter_mut().zip(step.as_chunks::<RUN>().0);
    for (index, ((sum, step), out)) in runs.zip(outs).enumerate() {
        let largest = add_step(sum, step);
        check_finite(sum, &largest).map_err(|(at, bits)| (index * RUN + at, bits))?;
        encode_run(codec, sum, &largest, out);
    }
    Ok(())
}

/// The encoding of a tile, run by run; what the bytes lose is left in it.
#[inline(always)]
pub(crate) fn encode_in_runs(
    codec: Codec,
    rest: &mut [f32; TILE],
    largest: &[f32; GROUPS],
    out: &mut [u8],
) {
    let outs = out.chunks_exact_mut(out.len() / (TILE / RUN));
    let runs = rest.as_chunks_mut::<RUN>().0.iter_mut();
    for ((rest, largest), out) in runs.zip(largest.as_chunks::<RUN_GROUPS>().0).zip(outs) {
        encode_run(codec, rest, largest, out);
    }
}

/// Looks at the elements only when their largest magnitudes say that one is not finite.
#[inline(always)]
fn check_finite(sums: &[f32], largest: &[f32]) -> Result<(), NotFinite> {
    if largest.iter().all(|largest| largest.is_finite()) {
        return Ok(());
    }
    let bad = sums.iter().zip(0..).find(|(sum, _)| !sum.is_finite());
    Err(bad.map(|(sum, at)| (at, sum.to_bits())).expect("it was in the largest"))
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
) -> Result<(), NotFinite> {
    let (Some(a), Some(b)) = (a.as_mut_array::<TILE>(), b.as_array::<TILE>()) else {
        return encode_end(codec, a, b, out);
    };
    let out = room(codec, TILE, out);
    if codec != Codec::TopK {
        return wide.encode_sum_in_runs(codec, a, b, out);
    }
    let largest = wide.add_step(a, b);
    check_finite(a, &largest)?;
    wide.topk_encode(a, &largest, out);
    Ok(())
}

/// Room for the bytes of so many elements more.
fn room(codec: Codec, elements: usize, out: &mut Vec<u8>) -> &mut [u8] {
    let start = out.len();
    out.resize(start + encoded_len(codec, elements), 0);
    &mut out[start..]
}

fn encode_end(codec: Codec, a: &mut [f32], b: &[f32], out: &mut Vec<u8>) -> Result<(), NotFinite> {
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
            let (mut rest, largest) = (*values, wide.magnitudes(values));
            let out = room(codec, TILE, out);
            match codec {
                Codec::TopK => wide.topk_encode(&mut rest, &largest, out),
                _ => wide.encode_in_runs(codec, &mut rest, &largest, out),
            }
        }
        None => encode_plain(codec, values, out),
    }
}

/// The judge of [`encode`] and [`encode_sum`], and what the end of a buffer goes by.
pub(crate) fn encode_plain(codec: Codec, values: &[f32], out: &mut Vec<u8>) {
    match codec {
        Codec::F32 => put_f32(values, room(codec, values.len(), out)),
        Codec::Int4 => int4::encode(values, out),
        Codec::Bf16 => Half::Bf16.encode(values, room(codec, values.len(), out)),
        Codec::F16 => Half::F16.encode(values, room(codec, values.len(), out)),
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
