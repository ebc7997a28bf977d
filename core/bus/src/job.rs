//! What a job is: the numbers that trainer, city and replicas agree on. A job's id is the hash of
//! the canonical bytes of its [`JobSpec`], so nobody can change one of them afterwards.

use crate::schedule::Schedule;
use serde::{Deserialize, Serialize};
use suanli_base::{Hash, JobId, Tokens};
use suanli_params::{CHUNK_ELEMENTS, Codec, Packing};

/// Format of [`JobSpec`].
pub const JOB_FORMAT: u16 = 3;
/// The most bytes an encoded specification may have.
pub const SPEC_BYTES_MAX: usize = 64 << 10;
const SHARDS_MAX: usize = 256;
const STEPS_MAX: u32 = 10_000;
/// The most points of an outer momentum.
pub const MOMENTUM_POINTS_MAX: usize = 16;
/// A head names every contribution it merged and must fit a control message.
const REPLICAS_MAX: u32 = 256;

/// Everything that is agreed on before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// [`JOB_FORMAT`].
    pub format: u16,
    /// What people call it.
    pub name: String,
    /// The engine's model configuration as JSON; this crate does not read it.
    pub model: String,
    /// The arithmetic that every replica computes with: equal classes give equal bits. This crate
    /// does not read it.
    pub numeric_class: String,
    /// How many parameters are trained: those of the model, or of its adapters.
    pub parameters: u64,
    /// Memory one replica needs to train it.
    pub replica_memory_bytes: u64,
    /// Merkle root of the first parameters (params chunks of f32).
    pub theta_root: Hash,
    /// What is not trained: nothing, or the whole model, whose adapters are trained then.
    pub frozen: Option<Frozen>,
    /// The tokenizer's file: Merkle root over its 64 KiB chunks.
    pub tokenizer: Hash,
    /// The data.
    pub data: DataSpec,
    /// How it learns.
    pub training: Training,
    /// Who takes part, and how long a round waits for them.
    pub replicas: Replicas,
}

/// A model that stays as it is while adapters beside its matrices are trained (DESIGN 5.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frozen {
    /// What the trainer calls it.
    pub name: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// Merkle root of its parameters (params chunks of f32).
    pub root: Hash,
    /// Bytes of its parameters packed without loss ([`suanli_params::Packing::F32`]), as they travel.
    pub packed_bytes: u64,
    /// Merkle root of these, in chunks of [`Frozen::PACKED_CHUNK`] bytes.
    pub packed_root: Hash,
    /// The engine's description of the adapters as JSON; this crate does not read it.
    pub adapters: String,
}

impl Frozen {
    /// Bytes of a chunk of the packed parameters; the last one may be shorter.
    pub const PACKED_CHUNK: usize = 4 * CHUNK_ELEMENTS;

    /// How many chunks travel.
    #[must_use]
    pub const fn packed_chunks(&self) -> u64 {
        self.packed_bytes.div_ceil(Self::PACKED_CHUNK as u64)
    }

    /// Whether the packed bytes are no more than these parameters can take.
    fn is_packed(&self) -> bool {
        let parameters = usize::try_from(self.parameters).unwrap_or(usize::MAX >> 8);
        let most = Packing::F32.len_max(parameters.min(usize::MAX >> 8)) as u64;
        (1..=most).contains(&self.packed_bytes)
    }
}

/// The global sample sequence (DESIGN 5.8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Tokens of one sample: context + 1.
    pub sample_tokens: u32,
    /// Bytes of one token on disk and on the wire: 2 or 4.
    pub token_bytes: u8,
    /// Samples in one epoch.
    pub samples: u64,
    /// Samples a group; later epochs permute groups.
    pub group: u32,
    /// Seed of the groups' permutation.
    pub order_seed: u64,
    /// The shards in training order.
    pub shards: Vec<ShardSpec>,
    /// The samples nobody trains on.
    pub held_out: ShardSpec,
}

/// One stored piece of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSpec {
    /// Its length.
    pub bytes: u64,
    /// How many samples it holds.
    pub samples: u64,
    /// Merkle root over its 64 KiB chunks.
    pub root: Hash,
}

/// How it learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Inner steps a round of a replica of mean speed (H).
    pub inner_steps: u32,
    /// Sequences a step of one replica.
    pub batch_sequences: u32,
    /// Inner learning rate by committed tokens.
    pub schedule: Schedule,
    /// AdamW.
    pub beta1: f32,
    /// AdamW.
    pub beta2: f32,
    /// AdamW.
    pub eps: f32,
    /// AdamW, decoupled.
    pub weight_decay: f32,
    /// Clip of the global gradient norm; 0 for none.
    pub clip: f32,
    /// Outer learning rate.
    pub outer_lr: f32,
    /// Outer Nesterov momentum at points that divide the schedule evenly, the first before anything
    /// is committed, the last at its end; linear in the committed tokens between them. At most
    /// [`MOMENTUM_POINTS_MAX`].
    pub outer_momentum: Vec<f32>,
    /// How updates travel, both ways.
    pub codec: Codec,
    /// Rounds to commit; 0 when `tokens` decides.
    pub rounds: u64,
    /// Tokens to commit; 0 when `rounds` decides.
    pub tokens: Tokens,
}

/// Who takes part, and how long a round waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// The first round starts when this many ask for work.
    pub min: u32,
    /// How many are counted on before anything was measured.
    pub expected: u32,
    /// How many may train at once.
    pub max: u32,
    /// Share of the expected tokens, in thousandths, after which a round waits only `grace_ms`.
    pub quorum_per_mille: u32,
    /// How long a round waits after its quorum.
    pub grace_ms: u64,
    /// How many rounds late a contribution still counts (with less weight).
    pub staleness_max: u64,
}

/// A specification was refused: the trainer's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The bytes are no specification of a format this program knows.
    #[error(
        "expected a job of format {JOB_FORMAT} in at most {SPEC_BYTES_MAX} bytes, found {found} bytes that are none; use the same version of suanli on both sides"
    )]
    Malformed {
        /// How many bytes came.
        found: usize,
    },
    /// A field is out of its bounds.
    #[error("job field `{field}`: expected {expected}, found {found}; change it in the job file")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was there.
        found: f64,
    },
}

impl Training {
    /// The outer momentum of a round that starts when `tokens` are committed. With few rounds a
    /// large momentum has no time to pay back what it costs at first, and at the end what it
    /// carries on of the rounds before is noise: so it grows and falls again.
    #[must_use]
    pub fn outer_momentum_at(&self, tokens: Tokens) -> f32 {
        let share = (tokens.0 as f64 / self.schedule.total.0 as f64).min(1.0);
        outer_momentum_at(&self.outer_momentum, share)
    }
}

/// The outer momentum after a share of the schedule, 0 to 1, from points that divide it evenly.
#[must_use]
pub fn outer_momentum_at(points: &[f32], share: f64) -> f32 {
    let at = share * points.len().saturating_sub(1) as f64;
    let point = |index: usize| points.get(index).or(points.last()).map_or(0.0, |p| f64::from(*p));
    let (from, to) = (point(at as usize), point(at as usize + 1));
    (from + (to - from) * at.fract()) as f32
}

impl JobSpec {
    /// The canonical bytes.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("our own types always encode")
    }

    /// Reads and checks what [`JobSpec::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SpecError> {
        let malformed = SpecError::Malformed { found: bytes.len() };
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(malformed);
        }
        let Ok((spec, [])) = postcard::take_from_bytes::<Self>(bytes) else {
            return Err(malformed);
        };
        if spec.format != JOB_FORMAT || spec.to_bytes() != bytes {
            return Err(malformed);
        }
        spec.check()?;
        Ok(spec)
    }

    /// The id of a job with these bytes.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> JobId {
        JobId(Hash::of_parts("suanli 2026 job", &[bytes]).0)
    }

    /// Tokens a replica trains on in one step.
    #[must_use]
    pub fn tokens_a_step(&self) -> u64 {
        u64::from(self.training.batch_sequences) * u64::from(self.data.sample_tokens - 1)
    }

    /// Whether a job with this many committed rounds and tokens is done.
    #[must_use]
    pub fn is_done(&self, rounds: u64, tokens: Tokens) -> bool {
        let t = &self.training;
        (t.rounds > 0 && rounds >= t.rounds) || (t.tokens.0 > 0 && tokens >= t.tokens)
    }

    /// Checks every bound a stranger's job must keep.
    ///
    /// # Errors
    /// [`SpecError::Field`] for the first field out of its bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        let (t, d, r) = (&self.training, &self.data, &self.replicas);
        let samples: u64 = d.shards.iter().map(|s| s.samples).fold(0, u64::saturating_add);
        let width = u64::from(d.sample_tokens) * u64::from(d.token_bytes);
        let sized = d
            .shards
            .iter()
            .chain([&d.held_out])
            .all(|s| s.samples.checked_mul(width) == Some(s.bytes));
        let frozen = self.frozen.as_ref().map_or(1, |frozen| frozen.parameters);
        let called = self.frozen.as_ref().map_or(0, |frozen| frozen.name.chars().count());
        let packed = self.frozen.as_ref().map_or(0, |frozen| frozen.packed_bytes);
        let is_packed = self.frozen.as_ref().is_none_or(Frozen::is_packed);
        let class = self.numeric_class.len();
        let rules: [(&'static str, bool, &'static str, f64); 26] = [
            (
                "name",
                self.name.chars().count() <= 64,
                "at most 64 characters",
                self.name.len() as f64,
            ),
            (
                "parameters",
                (1..=1 << 40).contains(&self.parameters),
                "1 to 2^40",
                self.parameters as f64,
            ),
            ("numeric_class", (1..=32).contains(&class), "1 to 32 bytes", class as f64),
            ("frozen.name", called <= 64, "at most 64 characters", called as f64),
            ("frozen.parameters", (1..=1 << 40).contains(&frozen), "1 to 2^40", frozen as f64),
            ("frozen.packed_bytes", is_packed, "1 to what the parameters take", packed as f64),
            (
                "data.sample_tokens",
                (2..=1 << 17).contains(&d.sample_tokens),
                "2 to 131072",
                f64::from(d.sample_tokens),
            ),
            (
                "data.token_bytes",
                matches!(d.token_bytes, 2 | 4),
                "2 or 4",
                f64::from(d.token_bytes),
            ),
            (
                "data.shards",
                (1..=SHARDS_MAX).contains(&d.shards.len()),
                "1 to 256",
                d.shards.len() as f64,
            ),
            (
                "data.samples",
                samples == d.samples && samples > 0,
                "the sum over the shards",
                d.samples as f64,
            ),
            (
                "data.shards.bytes",
                sized,
                "samples x tokens x bytes a token",
                d.held_out.bytes as f64,
            ),
            ("data.group", d.group > 0, "at least 1", f64::from(d.group)),
            (
                "data.held_out",
                d.held_out.samples > 0,
                "at least one sample",
                d.held_out.samples as f64,
            ),
            (
                "training.inner_steps",
                (1..=STEPS_MAX).contains(&t.inner_steps),
                "1 to 10000",
                f64::from(t.inner_steps),
            ),
            (
                "training.batch_sequences",
                (1..=1 << 16).contains(&t.batch_sequences),
                "1 to 65536",
                f64::from(t.batch_sequences),
            ),
            (
                "training.schedule",
                t.schedule.is_sound(),
                "finite, not negative, warm-up within the whole",
                f64::from(t.schedule.lr),
            ),
            ("training.beta1", (0.0..1.0).contains(&t.beta1), "0 up to 1", f64::from(t.beta1)),
            ("training.beta2", (0.0..1.0).contains(&t.beta2), "0 up to 1", f64::from(t.beta2)),
            ("training.eps", t.eps > 0.0 && t.eps < 1.0, "above 0, below 1", f64::from(t.eps)),
            (
                "training.weight_decay",
                (0.0..=10.0).contains(&t.weight_decay),
                "0 to 10",
                f64::from(t.weight_decay),
            ),
            ("training.clip", (0.0..=1e6).contains(&t.clip), "0 to 1e6", f64::from(t.clip)),
            (
                "training.outer_lr",
                t.outer_lr > 0.0 && t.outer_lr <= 10.0,
                "above 0, at most 10",
                f64::from(t.outer_lr),
            ),
            (
                "training.outer_momentum",
                (1..=MOMENTUM_POINTS_MAX).contains(&t.outer_momentum.len())
                    && t.outer_momentum.iter().all(|momentum| (0.0..1.0).contains(momentum)),
                "1 to 16 numbers from 0 up to 1",
                t.outer_momentum.iter().copied().map(f64::from).fold(0.0, f64::max),
            ),
            (
                "training.rounds",
                (t.rounds > 0) != (t.tokens.0 > 0),
                "either rounds or tokens above 0",
                t.rounds as f64,
            ),
            (
                "replicas",
                r.min >= 1 && r.min <= r.max && r.expected >= 1 && r.max <= REPLICAS_MAX,
                "1 <= min <= max <= 256",
                f64::from(r.min),
            ),
            (
                "replicas.quorum",
                (1..=1000).contains(&r.quorum_per_mille)
                    && r.staleness_max <= 16
                    && r.grace_ms <= 3_600_000,
                "quorum 0.001 to 1, staleness at most 16, grace at most an hour",
                f64::from(r.quorum_per_mille),
            ),
        ];
        match rules.into_iter().find(|rule| !rule.1) {
            Some((field, _, expected, found)) => Err(SpecError::Field { field, expected, found }),
            None => Ok(()),
        }
    }
}
