//! How fast one thread encodes with residual, and decodes, against a plain copy of as many numbers.

use super::{load, median};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use std::hint::black_box;
use std::time::Instant;
use suanli_base::Random;
use suanli_params::{CHUNK_ELEMENTS, Codec, decode, encode_with_feedback, encoded_len};

/// 256 MiB of f32: far more than any cache holds.
const ELEMENTS: usize = 64 << 20;
const ELEMENTS_SHORT: usize = 4 << 20;
const TURNS: usize = 9;
/// A chunk's first elements, which stay in the nearest caches.
const NEAR: usize = 16_384;
const NEAR_TIMES: usize = 64;

/// Each codec, and the share of the copy's rate that it has to reach.
const CODECS: [(Codec, &str, Goal); 6] = [
    (Codec::Int8, "codec.int8", Goal::AtLeast(0.6)),
    (Codec::Int4, "codec.int4", Goal::AtLeast(0.5)),
    (Codec::TopK, "codec.topk", Goal::AtLeast(0.2)),
    (Codec::Bf16, "codec.bf16", Goal::None),
    (Codec::F16, "codec.f16", Goal::None),
    (Codec::F32, "codec.f32", Goal::None),
];

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "codec",
        what: "encode with residual, and decode, on 1 thread: share of the rate of a copy",
        run: measure,
    }
}

/// What is worked on.
struct Buffers {
    delta: Vec<f32>,
    residual: Vec<f32>,
    values: Vec<f32>,
}

impl Buffers {
    /// Steps as training makes them: bell-shaped, some thousandths wide.
    fn new(elements: usize) -> Self {
        let mut random = Random::new(1);
        let mut draw = || {
            let sum: f32 = (0..4).map(|_| random.unit_f32() - 0.5).sum();
            sum * 1e-3
        };
        let some: Vec<f32> = (0..elements.min(1 << 20)).map(|_| draw()).collect();
        let delta: Vec<f32> = some.iter().copied().cycle().take(elements).collect();
        Self { residual: vec![0.0; elements], values: delta.clone(), delta }
    }

    /// Chunk by chunk, as a round does it.
    fn encode(&mut self, codec: Codec, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let chunks = self.residual.chunks_mut(CHUNK_ELEMENTS);
        for (residual, delta) in chunks.zip(self.delta.chunks(CHUNK_ELEMENTS)) {
            encode_with_feedback(codec, delta, residual, out)?;
        }
        Ok(())
    }

    fn decode(&mut self, codec: Codec, bytes: &[u8]) -> Result<()> {
        let pieces = bytes.chunks(encoded_len(codec, CHUNK_ELEMENTS));
        for (values, bytes) in self.values.chunks_mut(CHUNK_ELEMENTS).zip(pieces) {
            decode(codec, bytes, values)?;
        }
        Ok(())
    }

    fn copy(&mut self) {
        self.values.copy_from_slice(black_box(&self.delta));
        black_box(&mut self.values);
    }
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let elements = if short { ELEMENTS_SHORT } else { ELEMENTS };
    let turns = if short { 1 } else { TURNS };
    let before = load();
    let mut buffers = Buffers::new(elements);
    let mut outs = CODECS.map(|(codec, ..)| Vec::with_capacity(encoded_len(codec, elements)));
    let (mut copies, mut times) = (Vec::new(), [const { (Vec::new(), Vec::new()) }; CODECS.len()]);
    // The first turn touches every page, and is forgotten.
    for turn in 0..=turns {
        for (((codec, ..), out), (encodes, decodes)) in CODECS.iter().zip(&mut outs).zip(&mut times)
        {
            let copied = seconds(|| {
                buffers.copy();
                Ok(())
            })?;
            let encoded = seconds(|| buffers.encode(*codec, out))?;
            let decoded = seconds(|| buffers.decode(*codec, out))?;
            if turn > 0 {
                copies.push(copied);
                encodes.push(encoded);
                decodes.push(decoded);
            }
        }
    }
    let copied = median(copies);
    let note = format!(
        "{elements} f32, {turns} turns, copy {:.1} GB/s; load {before} before, {} after",
        4.0 * elements as f64 / copied / 1e9,
        load()
    );
    let make = if short { Row::short } else { Row::new };
    let mut rows = Vec::new();
    for ((codec, name, goal), (encodes, decodes)) in CODECS.into_iter().zip(times) {
        let (encoded, decoded) = (median(encodes), median(decodes));
        let (near_encode, near_decode) = near(codec)?;
        for (what, time, near) in
            [("encode", encoded, near_encode), ("decode", decoded, near_decode)]
        {
            let name = format!("{name}.{what}");
            let rate = elements as f64 / time / 1e9;
            rows.push(
                make(&name, copied / time, "of a copy", goal)
                    .note(format!("{rate:.2} G parameters/s, {near:.2} in cache")),
            );
        }
    }
    if let Some(first) = rows.first_mut() {
        first.notes.push(note);
    }
    Ok(rows)
}

/// Giga-parameters a second of encoding and decoding what stays in cache.
fn near(codec: Codec) -> Result<(f64, f64)> {
    let mut buffers = Buffers::new(NEAR);
    let mut out = Vec::with_capacity(encoded_len(codec, NEAR));
    let (mut encodes, mut decodes) = (Vec::new(), Vec::new());
    for _ in 0..NEAR_TIMES {
        encodes.push(seconds(|| buffers.encode(codec, &mut out))?);
        decodes.push(seconds(|| buffers.decode(codec, &out))?);
        black_box(&mut buffers.values);
    }
    let rate = |times| NEAR as f64 / median(times) / 1e9;
    Ok((rate(encodes), rate(decodes)))
}
