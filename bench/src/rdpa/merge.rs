//! The merge of staged contributions on two threads against a plain loop on one.

use super::{load, median};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Result, ensure};
use std::time::Instant;
use suanli_base::Random;
use suanli_bus::merge::{Part, payload_len, weighted_sum};
use suanli_params::{CHUNK_ELEMENTS, Codec, decode, encode, encoded_len};

const CODEC: Codec = Codec::Int4;
const PARTS: usize = 8;
const THREADS: usize = 2;
const ELEMENTS: usize = 32 << 20;
const ELEMENTS_SHORT: usize = 2 << 20;
const TURNS: usize = 9;

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "merge",
        what: "8 staged int4 contributions merged on 2 threads, against a plain loop on 1",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let elements = if short { ELEMENTS_SHORT } else { ELEMENTS };
    let turns = if short { 1 } else { TURNS };
    let before = load();
    let payloads = payloads(elements)?;
    let parts: Vec<Part<'_>> = payloads
        .iter()
        .zip(1_u8..)
        .map(|(payload, number)| Part { payload, weight: number.into(), clip: 0.9 })
        .collect();
    let (mut plain, mut merged) = (vec![0.0; elements], vec![0.0; elements]);
    let (mut plain_times, mut times, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn touches every page, and is forgotten.
    for turn in 0..=turns {
        let begun = Instant::now();
        plainly(&parts, &mut plain)?;
        let first = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        on_threads(&parts, &mut merged, THREADS)?;
        let second = begun.elapsed().as_secs_f64();
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        ensure!(plain.iter().zip(&merged).all(same), "the merge gives other bits than the loop");
        let begun = Instant::now();
        on_threads(&parts, &mut merged, 1)?;
        if turn > 0 {
            plain_times.push(first);
            times.push(second);
            alone.push(begun.elapsed().as_secs_f64());
        }
    }
    let (plain, time, alone) = (median(plain_times), median(times), median(alone));
    let make = if short { Row::short } else { Row::new };
    let rate = (PARTS * elements) as f64 / time / 1e9;
    let note = format!(
        "{elements} parameters, {rate:.2} G contributed parameters/s; on one thread {:.2}x; load {before} before, {} after",
        plain / alone,
        load()
    );
    Ok(vec![make("merge", plain / time, "x", Goal::AtLeast(1.6)).note(note)])
}

fn payloads(elements: usize) -> Result<Vec<Vec<u8>>> {
    let mut random = Random::new(2);
    let some: Vec<f32> = (0..1 << 20).map(|_| (random.unit_f32() - 0.5) * 1e-3).collect();
    let mut payloads = Vec::new();
    for part in 0..PARTS {
        let mut payload = Vec::with_capacity(payload_len(CODEC, elements));
        let values: Vec<f32> =
            some.iter().copied().cycle().skip(part * 4099).take(elements).collect();
        encode(CODEC, &values, &mut payload)?;
        payloads.push(payload);
    }
    Ok(payloads)
}

/// What one would write without thinking of caches and cores: each contribution decoded chunk by
/// chunk, then multiplied and added.
fn plainly(parts: &[Part<'_>], sums: &mut [f32]) -> Result<()> {
    sums.fill(0.0);
    let mut decoded = vec![0.0; CHUNK_ELEMENTS];
    let chunk_bytes = encoded_len(CODEC, CHUNK_ELEMENTS);
    for (sums, index) in sums.chunks_mut(CHUNK_ELEMENTS).zip(0..) {
        let decoded = &mut decoded[..sums.len()];
        for part in parts {
            let at = index * chunk_bytes;
            let bytes = &part.payload[at..at + encoded_len(CODEC, sums.len())];
            decode(CODEC, bytes, decoded)?;
            let factor = part.weight * part.clip;
            for (sum, value) in sums.iter_mut().zip(&*decoded) {
                *sum += factor * value;
            }
        }
    }
    Ok(())
}

fn on_threads(parts: &[Part<'_>], sums: &mut [f32], threads: usize) -> Result<()> {
    let chunks = sums.len().div_ceil(CHUNK_ELEMENTS).div_ceil(threads);
    std::thread::scope(|scope| {
        let pieces = sums.chunks_mut(chunks * CHUNK_ELEMENTS).enumerate();
        let running: Vec<_> = pieces
            .map(|(index, sums)| {
                scope.spawn(move || weighted_sum(parts, CODEC, index * chunks, sums))
            })
            .collect();
        for thread in running {
            thread.join().expect("a merge does not panic")?;
        }
        Ok(())
    })
}
