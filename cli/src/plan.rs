//! What a job will take, before anything starts: memory, bytes, time, disk. A plain calculation
//! from the job file, the speed of a replica, and nothing else.

use crate::exit::Failure;
use crate::language::Language;
use crate::{show, words};
use serde::Serialize;
use std::time::Duration;
use suanli_params::{CHUNK_ELEMENTS, Packing, encoded_len};
use suanli_store::job_file::JobFile;

/// Bytes of header and acknowledgement that go with each chunk of a transfer: two headers of 64
/// bytes, and TLS and TCP around them (measured on loopback).
const FRAMING_BYTES: u64 = 256;
/// Bytes of control messages a replica and a round: lease, contribution, head, heart-beats.
const CONTROL_BYTES: u64 = 4096;
/// Bits a second of a home's uplink and downlink, for the time that transfers take.
const UPLINK_BITS_PER_S: f64 = 30e6;
const DOWNLINK_BITS_PER_S: f64 = 200e6;

/// What a job will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Plan {
    pub(crate) parameters: u64,
    pub(crate) replicas: u64,
    pub(crate) rounds: u64,
    pub(crate) steps_a_replica: u64,
    pub(crate) tokens_a_round: u64,
    pub(crate) tokens: u64,
    /// Memory of one replica: engine and what the agent keeps.
    pub(crate) memory_bytes: u64,
    /// A replica and a round.
    pub(crate) up_bytes_a_round: u64,
    pub(crate) down_bytes_a_round: u64,
    /// Of these: training data.
    pub(crate) data_bytes_a_round: u64,
    /// Once a replica.
    pub(crate) first_download_bytes: u64,
    /// The first download may turn out smaller: a model in it is packed.
    pub(crate) first_at_most: bool,
    /// A replica, the whole run.
    pub(crate) up_bytes: u64,
    pub(crate) down_bytes: u64,
    /// What data parallel would send a replica.
    pub(crate) data_parallel_bytes: u64,
    /// Disk of a replica and of the city.
    pub(crate) replica_disk_bytes: u64,
    pub(crate) city_disk_bytes: u64,
    /// Tokens a second of one replica, and where the number comes from.
    pub(crate) tokens_per_s: f64,
    pub(crate) measured: bool,
    /// Computing, and transfers at a home's link that nothing overlaps.
    pub(crate) compute_s: f64,
    pub(crate) transfer_s: f64,
}

impl Plan {
    /// Counts with `replicas` (nothing: those the job file expects) of `tokens_per_s` each.
    pub(crate) fn new(
        job: &JobFile,
        replicas: Option<u32>,
        tokens_per_s: f64,
        measured: bool,
    ) -> Result<Self, Failure> {
        let model = job.model_config(job.tokenizer.vocab);
        model.check().map_err(|error| Failure::input(error.to_string(), "correct the job file"))?;
        let codec = job.training.codec;
        let parameters = job.trained_parameters(&model);
        // Read once, packed; nothing of it travels again. How far it packs, its numbers decide: a
        // checkpoint of bf16 to less than half of this.
        let whole = job.lora.as_ref().map_or(0, |_| model.parameters());
        let (frozen, packed) = (4 * whole as u64, Packing::F32.len_max(whole) as u64);
        let (p, context) = (parameters as u64, job.model.context as u64);
        let replicas = u64::from(replicas.unwrap_or(job.replicas.expected));
        let step_samples = u64::from(job.training.batch_sequences);
        let steps = u64::from(job.training.inner_steps);
        let tokens_a_replica = steps * step_samples * context;
        let rounds = match job.training.length {
            suanli_store::job_file::Length::Rounds(rounds) => rounds,
            suanli_store::job_file::Length::Tokens(tokens) => {
                tokens.div_ceil((tokens_a_replica * replicas).max(1))
            }
        };
        let payload = encoded_len(codec, parameters) as u64;
        let chunks = parameters.div_ceil(CHUNK_ELEMENTS) as u64;
        let update = payload + chunks * FRAMING_BYTES + CONTROL_BYTES;
        let token_bytes: u64 = if model.vocab <= 1 << 16 { 2 } else { 4 };
        let data = steps * step_samples * (context + 1) * token_bytes;
        let data = data + data.div_ceil(64 << 10) * FRAMING_BYTES;
        let frozen_chunks = packed.div_ceil(4 * CHUNK_ELEMENTS as u64);
        let first = 4 * p + packed + (chunks + frozen_chunks) * FRAMING_BYTES;
        let tokens = tokens_a_replica.saturating_mul(replicas).saturating_mul(rounds);
        let (up, down) = (update, update + data);
        let training = job.training_memory_bytes(&model);
        // Beside the engine: base parameters, residual, update and payload of the agent.
        let memory = training + 8 * p + 2 * payload;
        let transfer =
            8.0 * up as f64 / UPLINK_BITS_PER_S + 8.0 * down as f64 / DOWNLINK_BITS_PER_S;
        Ok(Self {
            parameters: p,
            replicas,
            rounds,
            steps_a_replica: steps.saturating_mul(rounds),
            tokens_a_round: tokens_a_replica.saturating_mul(replicas),
            tokens,
            memory_bytes: memory,
            up_bytes_a_round: up,
            down_bytes_a_round: down,
            data_bytes_a_round: data,
            first_download_bytes: first,
            first_at_most: packed > 0,
            up_bytes: up.saturating_mul(rounds),
            down_bytes: down.saturating_mul(rounds).saturating_add(first),
            data_parallel_bytes: 8 * p.saturating_mul(steps).saturating_mul(rounds),
            // Parameters, residual, sealed moments (two bytes each), update and pending payload.
            replica_disk_bytes: packed + frozen + 4 * p + 4 * p + 2 * p + 2 * payload,
            // Two versions of parameters, momentum and residual, and a round's payloads.
            city_disk_bytes: packed + frozen + 2 * 12 * p + (replicas + 2) * payload,
            tokens_per_s,
            measured,
            compute_s: tokens_a_replica as f64 * rounds as f64 / tokens_per_s.max(1e-9),
            transfer_s: transfer * rounds as f64,
        })
    }

    /// How many times fewer bytes than data parallel, data and first download apart.
    pub(crate) fn times_fewer(&self) -> f64 {
        let update = self.up_bytes_a_round + self.down_bytes_a_round - self.data_bytes_a_round;
        self.data_parallel_bytes as f64 / (update * self.rounds).max(1) as f64
    }

    /// For a person.
    pub(crate) fn text(&self, language: Language) -> String {
        let span = |s: f64| show::span(Duration::from_secs_f64(s.clamp(0.0, 1e12)));
        let speed = show::count(self.tokens_per_s as u64);
        let first = show::bytes(self.first_download_bytes);
        let first = if self.first_at_most { words::plan_at_most(language, &first) } else { first };
        let speed = if self.measured {
            words::plan_measured(language, &speed)
        } else {
            words::plan_stated(language, &speed)
        };
        let rows = [
            (
                words::plan_model(language),
                words::plan_parameters(language, &show::count(self.parameters)),
            ),
            (
                words::plan_work(language),
                words::plan_steps(
                    language,
                    self.rounds,
                    self.replicas,
                    self.steps_a_replica,
                    &show::count(self.tokens),
                ),
            ),
            (
                words::plan_memory(language),
                words::plan_a_replica(language, &show::bytes(self.memory_bytes)),
            ),
            (
                words::plan_round(language),
                words::plan_up_down(
                    language,
                    &show::bytes(self.up_bytes_a_round),
                    &show::bytes(self.down_bytes_a_round),
                    &show::bytes(self.data_bytes_a_round),
                ),
            ),
            (
                words::plan_run(language),
                words::plan_whole(
                    language,
                    &show::bytes(self.up_bytes),
                    &show::bytes(self.down_bytes),
                    &first,
                    self.times_fewer(),
                ),
            ),
            (
                words::plan_time(language),
                words::plan_spans(language, &span(self.compute_s), &speed, &span(self.transfer_s)),
            ),
            (
                words::plan_disk(language),
                words::plan_disks(
                    language,
                    &show::bytes(self.replica_disk_bytes),
                    &show::bytes(self.city_disk_bytes),
                ),
            ),
        ];
        let width = rows.iter().map(|(head, _)| show::columns(head)).max().unwrap_or(0);
        rows.iter().map(|(head, row)| format!("{}  {row}\n", show::padded(head, width))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> JobFile {
        JobFile::with_paths(vec!["a.txt".into()])
    }

    #[test]
    fn the_default_job_sends_some_two_hundred_times_less_than_data_parallel() {
        let plan = Plan::new(&job(), None, 2000.0, false).unwrap();
        assert_eq!((plan.parameters, plan.replicas, plan.rounds), (869_504, 4, 40));
        // 34 bytes for 64 parameters each way, against 8 bytes a parameter and step.
        let payload = 869_504 * 34 / 64;
        assert!(plan.up_bytes_a_round >= payload && plan.up_bytes_a_round < payload * 102 / 100);
        assert!((215.0..226.0).contains(&plan.times_fewer()), "{}", plan.times_fewer());
        // 30 steps of 4 x 128 tokens in 40 rounds at 2000 a second.
        assert!((plan.compute_s - 307.2).abs() < 1e-6, "{}", plan.compute_s);
    }

    #[test]
    fn more_replicas_make_more_tokens_but_not_more_bytes_each() {
        let four = Plan::new(&job(), Some(4), 2000.0, true).unwrap();
        let eight = Plan::new(&job(), Some(8), 2000.0, true).unwrap();
        assert_eq!(eight.tokens, 2 * four.tokens);
        assert_eq!(eight.up_bytes, four.up_bytes);
        assert!(eight.city_disk_bytes > four.city_disk_bytes);
    }

    #[test]
    fn the_plan_reads_in_both_languages() {
        let plan = Plan::new(&job(), None, 2000.0, true).unwrap();
        for language in [Language::English, Language::Chinese] {
            let text = plan.text(language);
            assert!(text.contains("869.5 k") && text.contains("MiB"), "{text}");
        }
    }
}
