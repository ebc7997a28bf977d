//! What a round makes of numbers, which must be the same to the bit in every city and family: one
//! line a case, its name and the hash of what came out.
//!
//! `cargo xtask bits` runs it next to the engine's `bits`, whose list of hashes holds its lines too.

use suanli_base::{Hash, Random, Tokens};
use suanli_bus::merge::{Outer, OuterState, Part, check_payload, clips, merge, pack};
use suanli_bus::{Schedule, Shape, outer_momentum_at};
use suanli_params::Codec;

/// Three chunks, the last one odd.
const PARAMETERS: usize = 150_001;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for codec in (1..=6).map(Codec::from_id) {
        let codec = codec?;
        rounds(codec)?;
    }
    schedules();
    Ok(())
}

fn say(case: &str, what: &str, bytes: &[u8]) {
    println!("{case}/{what} {}", Hash::of(bytes));
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn numbers(spread: f32, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..PARAMETERS).map(|_| spread * (random.unit_f32() - 0.5)).collect()
}

/// Five rounds of four replicas whose steps differ in size, so that some are clipped.
fn rounds(codec: Codec) -> Result<(), Box<dyn std::error::Error>> {
    let case = format!("merge-{codec}");
    let mut theta = numbers(1.0, 1);
    let (mut momentum, mut residual) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
    let mut untold = vec![vec![0.0; PARAMETERS]; 4];
    let (mut norms, mut factors, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5_u8 {
        let mut payloads = Vec::new();
        for (replica, untold) in untold.iter_mut().enumerate() {
            let spread = 0.01 * (1 + replica) as f32 / f32::from(1 + round);
            let step = numbers(spread, 100 * u64::from(round) + replica as u64 + 2);
            let local: Vec<f32> = theta.iter().zip(&step).map(|(base, step)| base + step).collect();
            payloads.push(pack(codec, &theta, &local, untold)?.payload);
        }
        let squares: Result<Vec<f64>, _> =
            payloads.iter().map(|payload| check_payload(codec, payload, PARAMETERS)).collect();
        norms = squares?.into_iter().map(f64::sqrt).collect();
        factors = clips(&norms);
        let weights = [1.0, 0.3, 2.5, 1.7];
        let each = payloads.iter().zip(&factors).zip(weights);
        let parts: Vec<Part<'_>> =
            each.map(|((payload, clip), weight)| Part { payload, weight, clip: *clip }).collect();
        let state =
            OuterState { theta: &mut theta, momentum: &mut momentum, residual: &mut residual };
        let outer = Outer { lr: 0.7, momentum: 0.5 + 0.1 * f32::from(round), codec };
        last = merge(&parts, &outer, state)?.bytes;
    }
    let norms: Vec<u8> = norms.iter().flat_map(|norm| norm.to_le_bytes()).collect();
    say(&case, "norms", &norms);
    say(&case, "clips", &bytes(&factors));
    say(&case, "update", &last);
    say(&case, "theta", &bytes(&theta));
    say(&case, "momentum", &bytes(&momentum));
    say(&case, "residual", &bytes(&residual));
    say(&case, "untold", &untold.iter().flat_map(|untold| bytes(untold)).collect::<Vec<u8>>());
    Ok(())
}

fn schedules() {
    for (name, shape) in [
        ("stable", Shape::WarmupStableDecay),
        ("cosine", Shape::Cosine),
        ("constant", Shape::Constant),
    ] {
        let schedule = Schedule {
            shape,
            lr: 4e-3,
            min_share: 0.1,
            decay_share: 0.2,
            warmup: Tokens(700),
            total: Tokens(99_991),
        };
        say("schedule", name, &bytes(&schedule.rates(Tokens(17), 13, 8_000)));
    }
    let points = [0.0, 0.3, 0.9, 0.6];
    let shares = (0..=1000).map(|share| outer_momentum_at(&points, f64::from(share) / 1000.0));
    say("schedule", "momentum", &bytes(&shares.collect::<Vec<f32>>()));
}
