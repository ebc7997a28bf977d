//! One training run, with the code that ships: the engine's step, sealing, `bus::merge`, the
//! schedule. What a city and four families would do without network, disk and failures.

use super::corpus::Corpus;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use suanli_base::{Hash, Random, Tokens};
use suanli_bus::merge::{
    Outer, OuterState, Packed, Part, check_payload, clips, merge, pack, payload_len,
};
use suanli_bus::{Schedule, Shape, outer_momentum_at};
use suanli_engine::{
    Batch, Cancel, Engine, Fast, ModelConfig, StepError, StepSettings, initial_params,
};
use suanli_params::Codec;

/// Held-out samples in the last loss: 262 144 tokens.
const HELD_OUT_SAMPLES: usize = 2048;
/// The same for the losses on the way.
const ON_THE_WAY_SAMPLES: usize = 128;
/// Rounds between two losses on the way.
const ON_THE_WAY_ROUNDS: u64 = 5;

/// What a run is: with the text, all that its result depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How it trains.
    pub method: Method,
    /// Peak learning rate of AdamW.
    pub lr: f32,
    /// Of the first parameters, and which data are read.
    pub seed: u64,
    /// How much.
    pub size: Size,
    /// AdamW's decay of the second moment.
    #[serde(default = "beta2")]
    pub beta2: f32,
}

fn beta2() -> f32 {
    StepSettings::default().beta2
}

/// How a run trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// AdamW on the batches of all replicas as one batch.
    OneProcess,
    /// Replicas that merge every round.
    Replicas(Exchange),
}

/// How replicas exchange what they learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// How updates travel, both ways.
    pub codec: Codec,
    /// Whether AdamW's moments are sealed at the end of each round.
    pub moments: Moments,
    /// Outer learning rate.
    pub outer_lr: f32,
    /// Outer Nesterov momentum at points that divide the run evenly, linear in between.
    pub outer_momentum: Vec<f32>,
}

/// What becomes of AdamW's moments at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// Kept as they are.
    Kept,
    /// Rounded to what an auditor can replay from.
    Sealed,
}

/// How much is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Rounds.
    pub rounds: u64,
    /// Steps a round (H).
    pub steps: u32,
    /// Replicas.
    pub replicas: u64,
    /// Sequences a step of one replica.
    pub sequences: u64,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Held-out nats a token at the end; none when the run diverged.
    pub held_out: Option<f64>,
    /// Rounds done and held-out loss over fewer samples, on the way.
    pub on_the_way: Vec<(u64, f64)>,
    /// The last parameters.
    pub theta: String,
    /// How long it took.
    pub seconds: f64,
}

impl Plan {
    fn step(&self, engine: &mut Fast, batch: &Batch<'_>, lr: f32) -> Result<()> {
        let settings = StepSettings { lr, beta2: self.beta2, ..StepSettings::default() };
        engine.step(&(*batch).into(), &settings, &Cancel::new())?;
        Ok(())
    }
}

impl Size {
    /// Samples that all replicas read in the whole run.
    const fn samples(&self) -> u64 {
        self.rounds * self.replicas * self.steps as u64 * self.sequences
    }

    /// Where the data of one step of one replica begin: a lease is one contiguous range.
    const fn place(&self, first: u64, round: u64, replica: u64, step: u32) -> u64 {
        let lease = round * self.replicas + replica;
        first + (lease * self.steps as u64 + step as u64) * self.sequences
    }
}

/// The surroundings of a run.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) config: &'a ModelConfig,
    pub(super) corpus: &'a Corpus,
    pub(super) threads: usize,
    /// Told of every loss on the way.
    pub(super) progress: &'a mut dyn FnMut(u64, f64),
}

impl Run<'_> {
    /// Trains.
    pub(super) fn train(&mut self) -> Result<Outcome> {
        let begun = Instant::now();
        let mut on_the_way = Vec::new();
        let theta = match &self.plan.method {
            Method::OneProcess => self.one_process(&mut on_the_way),
            Method::Replicas(exchange) => self.replicas(&exchange.clone(), &mut on_the_way),
        };
        let (held_out, theta) = match theta {
            Ok(theta) => {
                let loss = self.loss(&theta, HELD_OUT_SAMPLES)?;
                (Some(loss), hash(&theta))
            }
            // A rate that is too high is a result, not a failure.
            Err(error) if diverged(&error) => (None, String::new()),
            Err(error) => return Err(error),
        };
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Outcome { held_out, on_the_way, theta, seconds })
    }

    fn one_process(&mut self, on_the_way: &mut Vec<(u64, f64)>) -> Result<Vec<f32>> {
        let size = self.plan.size;
        let mut engine = self.engine(self.threads)?;
        engine.params_mut().copy_from_slice(&initial_params(self.config, self.plan.seed));
        for round in 0..size.rounds {
            for (step, lr) in (0..).zip(self.rates(round)) {
                let first = self.first();
                let places = (0..size.replicas).map(|r| size.place(first, round, r, step));
                let rows = self.corpus.rows(places, size.sequences);
                self.plan.step(&mut engine, &rows.batch(), lr)?;
            }
            self.after_round(round, engine.params(), on_the_way)?;
        }
        Ok(engine.params().to_vec())
    }

    fn replicas(
        &mut self,
        exchange: &Exchange,
        on_the_way: &mut Vec<(u64, f64)>,
    ) -> Result<Vec<f32>> {
        let size = self.plan.size;
        let mut theta = initial_params(self.config, self.plan.seed);
        let (mut momentum, mut residual) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
        let replicas = (0..size.replicas)
            .map(|_| Ok(Replica { engine: self.engine(1)?, residual: vec![0.0; theta.len()] }));
        let mut replicas = replicas.collect::<Result<Vec<Replica>>>()?;
        for round in 0..size.rounds {
            let packed = self.work(exchange, round, &theta, &mut replicas)?;
            let norm = |p: &Packed| check_payload(exchange.codec, &p.payload, theta.len());
            let norms: Result<Vec<f64>, _> = packed.iter().map(|p| Ok(norm(p)?.sqrt())).collect();
            let norms: Vec<f64> = norms.map_err(|error: suanli_params::CodecError| error)?;
            let weight = (size.steps * size.sequences as u32) as f32 * self.config.context as f32;
            let parts = packed.iter().zip(clips(&norms));
            let parts = parts.map(|(p, clip)| Part { payload: &p.payload, weight, clip });
            let parts: Vec<Part<'_>> = parts.collect();
            let share = round as f64 / size.rounds as f64;
            let outer = Outer {
                lr: exchange.outer_lr,
                momentum: outer_momentum_at(&exchange.outer_momentum, share),
                codec: exchange.codec,
            };
            let state =
                OuterState { theta: &mut theta, momentum: &mut momentum, residual: &mut residual };
            let update = merge(&parts, &outer, state)?;
            debug_assert_eq!(update.bytes.len(), payload_len(exchange.codec, theta.len()));
            self.after_round(round, &theta, on_the_way)?;
        }
        Ok(theta)
    }

    /// All replicas' leases of one round, on as many threads as there are.
    fn work(
        &self,
        exchange: &Exchange,
        round: u64,
        theta: &[f32],
        replicas: &mut [Replica],
    ) -> Result<Vec<Packed>> {
        let share = replicas.len().div_ceil(self.threads.max(1));
        let rates = self.rates(round);
        let (plan, size, first, corpus) = (self.plan, self.plan.size, self.first(), self.corpus);
        let lease = |index: u64, replica: &mut Replica| {
            let places = |step| std::iter::once(size.place(first, round, index, step));
            let rows = (0..size.steps).map(|step| corpus.rows(places(step), size.sequences));
            replica.lease(plan, exchange, theta, rows, &rates)
        };
        let lease = &lease;
        std::thread::scope(|scope| {
            let groups = replicas.chunks_mut(share).enumerate().map(|(group, replicas)| {
                let first = (group * share) as u64;
                scope.spawn(move || {
                    let leases = (first..).zip(replicas).map(|(index, r)| lease(index, r));
                    leases.collect::<Result<Vec<Packed>>>()
                })
            });
            let groups: Vec<_> = groups.collect();
            let mut all = Vec::new();
            for group in groups {
                let packed = group.join().ok().context("a replica's thread ended early")?;
                all.extend(packed?);
            }
            Ok(all)
        })
    }

    fn after_round(
        &mut self,
        round: u64,
        theta: &[f32],
        on_the_way: &mut Vec<(u64, f64)>,
    ) -> Result<()> {
        let done = round + 1;
        if done.is_multiple_of(ON_THE_WAY_ROUNDS) || done == self.plan.size.rounds {
            let loss = self.loss(theta, ON_THE_WAY_SAMPLES)?;
            on_the_way.push((done, loss));
            (self.progress)(done, loss);
        }
        Ok(())
    }

    /// Learning rates of the steps of a round: every replica counts the tokens of all.
    fn rates(&self, round: u64) -> Vec<f32> {
        let size = self.plan.size;
        let step = size.replicas * size.sequences * self.config.context as u64;
        let total = step * u64::from(size.steps) * size.rounds;
        let schedule = Schedule {
            shape: Shape::Cosine,
            lr: self.plan.lr,
            min_share: 0.1,
            decay_share: 0.2,
            warmup: Tokens(total / 20),
            total: Tokens(total),
        };
        schedule.rates(Tokens(step * u64::from(size.steps) * round), step, size.steps)
    }

    /// Where the data of this seed begin.
    fn first(&self) -> u64 {
        self.plan.seed * self.plan.size.samples()
    }

    fn engine(&self, threads: usize) -> Result<Fast> {
        Ok(Fast::new(self.config.clone(), threads)?)
    }

    fn loss(&self, theta: &[f32], samples: usize) -> Result<f64> {
        let mut engine = self.engine(self.threads)?;
        engine.params_mut().copy_from_slice(theta);
        let rows = self.corpus.held_out(samples);
        Ok(engine.evaluate(&rows.batch().into(), &Cancel::new())?.mean())
    }
}

struct Replica {
    engine: Fast,
    residual: Vec<f32>,
}

impl Replica {
    fn lease(
        &mut self,
        plan: &Plan,
        exchange: &Exchange,
        theta: &[f32],
        rows: impl Iterator<Item = super::corpus::Rows>,
        rates: &[f32],
    ) -> Result<Packed> {
        self.engine.params_mut().copy_from_slice(theta);
        for (rows, lr) in rows.zip(rates) {
            plan.step(&mut self.engine, &rows.batch(), *lr)?;
        }
        if exchange.moments == Moments::Sealed {
            let sealed = self.engine.seal();
            self.engine.unseal(&sealed)?;
        }
        Ok(pack(exchange.codec, theta, self.engine.params(), &mut self.residual)?)
    }
}

fn diverged(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StepError::NotFinite { .. }))
        || error.downcast_ref::<suanli_bus::merge::MergeError>().is_some()
        || error.downcast_ref::<suanli_params::FeedbackError>().is_some()
}

fn hash(theta: &[f32]) -> String {
    let bytes: Vec<u8> = theta.iter().flat_map(|value| value.to_le_bytes()).collect();
    Hash::of(&bytes).short()
}

/// What the mathematics of this build gives for two tiny runs: results of two builds that agree
/// here are results of the same arithmetic.
pub(super) fn fingerprint() -> Result<String> {
    let config = ModelConfig {
        hidden: 32,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        ffn: 48,
        ..ModelConfig::demo()
    };
    let config = ModelConfig { context: 16, ..config };
    let mut random = Random::new(7);
    let mut draw =
        |samples: usize| (0..samples * 17).map(|_| random.below(256) as u32).collect::<Vec<u32>>();
    let corpus = Corpus::new("random".into(), 17, draw(128), draw(8))?;
    let size = Size { rounds: 2, steps: 3, replicas: 2, sequences: 2 };
    let exchange = |codec, moments| {
        let (outer_lr, outer_momentum) = (0.9, vec![0.5]);
        Method::Replicas(Exchange { codec, moments, outer_lr, outer_momentum })
    };
    let mut all = String::new();
    for method in [
        Method::OneProcess,
        exchange(Codec::F32, Moments::Kept),
        exchange(Codec::Int4, Moments::Sealed),
    ] {
        let plan = Plan { method, lr: 4e-3, seed: 1, size, beta2: beta2() };
        let mut run = Run {
            plan: &plan,
            config: &config,
            corpus: &corpus,
            threads: 1,
            progress: &mut |_, _| {},
        };
        all += &run.train()?.theta;
    }
    Ok(Hash::of(all.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_builds_have_equal_fingerprints() {
        let first = fingerprint().unwrap();
        assert!(!first.is_empty());
        assert_eq!(first, fingerprint().unwrap());
    }

    #[test]
    fn replicas_read_what_one_process_reads_once_each() {
        let size = Size { rounds: 3, steps: 4, replicas: 2, sequences: 5 };
        let mut read = Vec::new();
        for (round, replica) in (0..3).flat_map(|t| [(t, 0), (t, 1)]) {
            for step in 0..4 {
                let start = size.place(7, round, replica, step);
                read.extend(start..start + 5);
            }
        }
        let expected: Vec<u64> = (7..7 + size.samples()).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn one_replica_that_merges_plainly_is_one_process() {
        // With one replica, f32, outer rate 1 and no momentum the merge changes (almost) nothing.
        let mut random = Random::new(3);
        let mut draw = |samples: usize| {
            (0..samples * 17).map(|_| random.below(16) as u32).collect::<Vec<u32>>()
        };
        let corpus = Corpus::new("random".into(), 17, draw(128), draw(32)).unwrap();
        let config = ModelConfig {
            hidden: 32,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            ffn: 48,
            context: 16,
            ..ModelConfig::demo()
        };
        let size = Size { rounds: 4, steps: 5, replicas: 1, sequences: 4 };
        let losses = |method| {
            let plan = Plan { method, lr: 1e-2, seed: 1, size, beta2: beta2() };
            let mut run = Run {
                plan: &plan,
                config: &config,
                corpus: &corpus,
                threads: 2,
                progress: &mut |_, _| {},
            };
            run.train().unwrap().held_out.unwrap()
        };
        let alone = losses(Method::OneProcess);
        let merged = losses(Method::Replicas(Exchange {
            codec: Codec::F32,
            moments: Moments::Kept,
            outer_lr: 1.0,
            outer_momentum: vec![0.0],
        }));
        assert!((alone - merged).abs() < 1e-3 * alone, "{alone} {merged}");
        assert!(alone < 4.5, "it learns that there are sixteen tokens: {alone}");
    }
}
