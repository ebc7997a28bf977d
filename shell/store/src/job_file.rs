//! The job file a trainer writes: a TOML text with sensible defaults for all but the data's paths.
//!
//! What is read is checked whole: unknown keys, wrong types, values out of range and settings that
//! exclude each other are errors that name the key, its line, and what to write instead. A job that
//! goes on from a checkpoint (`model.from`) takes sizes and tokenizer from there.
//! Not for: what the city records of a job, which is made from this after the data are prepared.

mod error;
mod reader;
mod template;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suanli_engine::{
    Activations, CONTEXT_MAX, LAYERS_MAX, Lora, ModelConfig, RANK_MAX, Storage, Target, WIDTH_MAX,
};
use suanli_params::Codec;

use crate::checkpoint;

pub use error::JobFileError;
use reader::{Document, Section};

/// Most bytes of a job file.
pub const JOB_FILE_BYTES_MAX: usize = 1 << 20;
/// Most paths and patterns a job file may name.
pub const PATHS_MAX: usize = 4096;
/// Runs shorter than this many rounds have an outer momentum that rises and falls again: a large
/// one throughout costs more than it pays back (decision 0006; measured up to 155 rounds).
pub const SHORT_RUN_ROUNDS: u64 = 400;

/// The sections and their keys, in the order the example shows them.
const KEYS: &[(&str, &[&str])] = &[
    (
        "model",
        &[
            "from",
            "hidden",
            "layers",
            "heads",
            "kv_heads",
            "ffn",
            "context",
            "tied",
            "rope_theta",
            "norm_eps",
        ],
    ),
    ("data", &["paths", "field", "held_out", "max_bytes"]),
    ("tokenizer", &["kind", "vocab"]),
    ("lora", &["rank", "alpha", "targets"]),
    (
        "training",
        &[
            "inner_steps",
            "batch_sequences",
            "lr",
            "warmup",
            "schedule",
            "decay",
            "min_lr",
            "weight_decay",
            "clip",
            "beta1",
            "beta2",
            "outer_lr",
            "outer_momentum",
            "codec",
            "storage",
            "engine",
            "rounds",
            "tokens",
            "seed",
        ],
    ),
    ("replicas", &["min", "max", "expected", "quorum", "grace_ms"]),
];

/// A whole job file, every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFile {
    /// The sizes of the model.
    pub model: ModelSection,
    /// What it learns from.
    pub data: DataSection,
    /// How text becomes tokens.
    pub tokenizer: TokenizerSection,
    /// `[lora]`: the adapters, when only these are trained and the checkpoint stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How it learns.
    pub training: TrainingSection,
    /// How many train it.
    pub replicas: ReplicasSection,
}

/// `[model]`: a decoder of the Llama shape; the vocabulary comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// The checkpoint that training goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StartingPoint>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Longest sequence, and the length of a training sample.
    pub context: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// What RMSNorm adds to the mean square.
    pub norm_eps: f64,
}

/// A checkpoint that training goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartingPoint {
    /// Its folder, relative to the job file.
    pub folder: String,
    /// Its sizes. The other sizes of the section say the same, but for the context, which is then
    /// the length of a training sample: the model keeps its own.
    pub config: ModelConfig,
}

/// `[data]`: where the text is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// Files, folders and patterns, relative to the job file.
    pub paths: Vec<String>,
    /// The field of a `.jsonl` line, or the column of a Parquet file, that holds the text.
    pub field: String,
    /// Share of the data kept out of training, to measure with.
    pub held_out: f64,
    /// Most bytes of text to use.
    pub max_bytes: Option<u64>,
}

/// `[tokenizer]`: how text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerSection {
    /// Which one.
    pub kind: TokenizerKind,
    /// Entries it may have; 256 for bytes.
    pub vocab: usize,
}

/// The tokenizers a job may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// A token is a byte.
    Bytes,
    /// A byte-level BPE trained on the data.
    Bpe,
    /// That of the checkpoint which training goes on from.
    Checkpoint,
}

/// `[training]`: how it learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSection {
    /// Steps of a full lease between two merges (H).
    pub inner_steps: u32,
    /// Sequences a replica reads in a step.
    pub batch_sequences: u32,
    /// Peak learning rate of the inner AdamW.
    pub lr: f64,
    /// Share of the tokens over which the learning rate rises.
    pub warmup: f64,
    /// Its course afterwards.
    pub schedule: Schedule,
    /// Share of the tokens over which `wsd` falls at the end.
    pub decay: f64,
    /// What it falls to, as a share of the peak.
    pub min_lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest norm of a gradient.
    pub clip: f64,
    /// AdamW's first decay.
    pub beta1: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// Learning rate of the outer Nesterov step.
    pub outer_lr: f64,
    /// Momentum of the outer Nesterov step at points that divide the run evenly, by committed
    /// tokens; linear in between.
    pub outer_momentum: Vec<f64>,
    /// How updates travel, both ways.
    pub codec: Codec,
    /// How members hold matrices and activations.
    pub storage: Storage,
    /// What members compute with.
    pub engine: EngineName,
    /// When the job is done.
    pub length: Length,
    /// What keys every draw of the job.
    pub seed: u64,
}

/// The course of the learning rate after its rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stable, then a fall at the end: the length of the run may change on the way.
    Wsd,
    /// Half a cosine: for comparisons.
    Cosine,
}

/// What members compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// The engine of this program: equal work gives equal bits, so anybody can check it.
    #[default]
    Suanli,
    /// That one, or a program of the member's own.
    Any,
}

/// When a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// After this many rounds.
    Rounds(u64),
    /// After this many committed tokens.
    Tokens(u64),
}

/// `[replicas]`: how many train it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicasSection {
    /// Fewer than this and the job waits.
    pub min: u32,
    /// More than this are not given leases.
    pub max: u32,
    /// How many the plan counts with.
    pub expected: u32,
    /// Share of a round's leased tokens that must be in before the grace window starts.
    pub quorum: f64,
    /// How long a round then waits for the rest.
    pub grace_ms: u64,
}

impl JobFile {
    /// Reads a job file that lies in the current folder.
    ///
    /// # Errors
    /// As [`parse_in`](Self::parse_in).
    pub fn parse(text: &str) -> Result<Self, JobFileError> {
        Self::parse_in(text, Path::new(""))
    }

    /// Reads a job file that lies in `folder`, and the sizes of the checkpoint that it goes on
    /// from, if any.
    ///
    /// # Errors
    /// The first thing in it that cannot be, with its line and what to write instead.
    pub fn parse_in(text: &str, folder: &Path) -> Result<Self, JobFileError> {
        let document = Document::parse(text, KEYS)?;
        let model = model(&document.section("model"), folder)?;
        let job = Self {
            data: data(&document.section("data"))?,
            tokenizer: tokenizer(&document.section("tokenizer"), &model)?,
            lora: lora(&document.section("lora"), &model)?,
            replicas: replicas(&document.section("replicas"))?,
            training: TrainingSection::fallback(&model, 1),
            model,
        };
        let training = training(&document.section("training"), &job)?;
        let job = Self { training, ..job };
        job.model_config(job.tokenizer.vocab).check().map_err(JobFileError::Model)?;
        Ok(job)
    }

    /// A job over `paths` with every default.
    #[must_use]
    pub fn with_paths(paths: Vec<String>) -> Self {
        let model = ModelSection::default();
        Self {
            data: DataSection { paths, ..DataSection::default() },
            tokenizer: TokenizerSection::default(),
            lora: None,
            replicas: ReplicasSection::default(),
            training: TrainingSection::fallback(&model, DEFAULT_ROUNDS),
            model,
        }
    }

    /// The file's text, with a comment for every key.
    #[must_use]
    pub fn to_toml(&self) -> String {
        template::write(self)
    }

    /// The model's sizes with a tokenizer of `vocab` entries; those of the checkpoint, if any.
    #[must_use]
    pub fn model_config(&self, vocab: usize) -> ModelConfig {
        let model = &self.model;
        if let Some(from) = &model.from {
            return from.config.clone();
        }
        ModelConfig {
            vocab,
            hidden: model.hidden,
            layers: model.layers,
            heads: model.heads,
            kv_heads: model.kv_heads,
            ffn: model.ffn,
            context: model.context,
            rope_theta: model.rope_theta as f32,
            norm_eps: model.norm_eps as f32,
            tied: model.tied,
            ..ModelConfig::demo()
        }
    }

    /// How many parameters are trained: those of the model, or of its adapters.
    #[must_use]
    pub fn trained_parameters(&self, model: &ModelConfig) -> usize {
        let adapters = self.lora.as_ref().map(|lora| lora.parameters(model));
        adapters.unwrap_or_else(|| model.parameters())
    }

    /// Bytes that a replica's engine takes with all activations kept.
    #[must_use]
    pub fn training_memory_bytes(&self, model: &ModelConfig) -> u64 {
        let sequences = self.training.batch_sequences as usize;
        let (length, kept, storage) =
            (self.model.context, Activations::Kept, self.training.storage);
        match &self.lora {
            Some(lora) => lora.training_memory_bytes(model, sequences, length, kept, storage),
            None => model.training_memory_bytes(sequences, length, kept, storage),
        }
    }

    /// The data's paths and patterns, seen from `folder`, where the job file lies.
    #[must_use]
    pub fn data_paths(&self, folder: &Path) -> Vec<PathBuf> {
        self.data.paths.iter().map(|path| folder.join(path)).collect()
    }

    /// The folder of the checkpoint that training goes on from, seen from `folder`.
    #[must_use]
    pub fn from_folder(&self, folder: &Path) -> Option<PathBuf> {
        self.model.from.as_ref().map(|from| folder.join(&from.folder))
    }

    /// Tokens of one round when every expected replica makes all its steps.
    #[must_use]
    pub fn tokens_per_round(&self) -> u64 {
        let step = u64::from(self.training.batch_sequences) * self.model.context as u64;
        step * u64::from(self.training.inner_steps) * u64::from(self.replicas.expected)
    }

    /// Tokens the whole job is planned with.
    #[must_use]
    pub fn tokens_total(&self) -> u64 {
        match self.training.length {
            Length::Tokens(tokens) => tokens,
            Length::Rounds(rounds) => self.tokens_per_round().saturating_mul(rounds),
        }
    }

    /// Rounds the whole job is planned with.
    #[must_use]
    pub fn rounds_total(&self) -> u64 {
        match self.training.length {
            Length::Rounds(rounds) => rounds,
            Length::Tokens(tokens) => tokens.div_ceil(self.tokens_per_round()).max(1),
        }
    }
}

const DEFAULT_ROUNDS: u64 = 40;
/// A model that is trained already begins with this share of the learning rate: about what the
/// schedule of its first training ended with (`min_lr`).
const GOING_ON_SHARE: f64 = 0.1;
/// Samples of a job that goes on from a checkpoint, unless it says otherwise: contexts of
/// checkpoints are often longer than a member of a city can train on.
const GOING_ON_CONTEXT: usize = 1024;
/// What a job may have (`suanli_bus::MOMENTUM_POINTS_MAX`).
const MOMENTUM_POINTS_MAX: usize = 16;

impl Default for ModelSection {
    /// The decoder that the project's figures are measured on: 869 504 parameters over bytes.
    fn default() -> Self {
        let demo = ModelConfig::demo();
        Self {
            from: None,
            hidden: demo.hidden,
            layers: demo.layers,
            heads: demo.heads,
            kv_heads: demo.kv_heads,
            ffn: demo.ffn,
            context: demo.context,
            tied: demo.tied,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self { paths: Vec::new(), field: "text".to_owned(), held_out: 0.1, max_bytes: None }
    }
}

impl Default for TokenizerSection {
    fn default() -> Self {
        Self { kind: TokenizerKind::Bytes, vocab: 256 }
    }
}

impl Default for ReplicasSection {
    fn default() -> Self {
        Self { min: 1, max: 64, expected: 4, quorum: 0.75, grace_ms: 3000 }
    }
}

impl TrainingSection {
    /// The numeric class that members promise.
    #[must_use]
    pub const fn numeric_class(&self) -> &'static str {
        match self.engine {
            EngineName::Suanli => self.storage.numeric_class(),
            EngineName::Any => suanli_engine::NUMERIC_CLASS_ANY,
        }
    }

    /// The default learning rate and momentum of the outer step for a number of rounds.
    #[must_use]
    pub fn outer(rounds: u64) -> (f64, Vec<f64>) {
        if rounds < SHORT_RUN_ROUNDS {
            (1.0, vec![0.0, 0.6, 0.8, 0.87, 0.9, 0.5])
        } else {
            (0.7, vec![0.9])
        }
    }

    /// The defaults for a model and a number of rounds: H 30, int4 both ways, and the outer numbers
    /// of decision 0006.
    fn fallback(model: &ModelSection, rounds: u64) -> Self {
        let (outer_lr, outer_momentum) = Self::outer(rounds);
        // Measured best at width 128; the usual rule is one over the width.
        let lr = (4e-3 * 128.0 / model.hidden as f64).clamp(1e-5, 4e-3);
        Self {
            inner_steps: 30,
            batch_sequences: 4,
            lr: if model.from.is_some() { GOING_ON_SHARE * lr } else { lr },
            warmup: 0.05,
            schedule: Schedule::Wsd,
            decay: 0.2,
            min_lr: 0.1,
            weight_decay: 0.1,
            clip: 1.0,
            beta1: 0.9,
            beta2: 0.95,
            outer_lr,
            outer_momentum,
            codec: Codec::Int4,
            storage: Storage::F32,
            engine: EngineName::Suanli,
            length: Length::Rounds(DEFAULT_ROUNDS),
            seed: 1,
        }
    }
}

impl TrainingSection {
    /// Adapters start from nothing, and take about ten times the rate at which all of a trained
    /// model would be trained further, without decay.
    fn for_adapters(self) -> Self {
        Self { lr: self.lr / GOING_ON_SHARE, weight_decay: 0.0, ..self }
    }
}

fn lora(section: &Section<'_>, model: &ModelSection) -> Result<Option<Lora>, JobFileError> {
    if !section.is_there() {
        return Ok(None);
    }
    if model.from.is_none() {
        return Err(section.lacks("model.from", "the folder of the checkpoint that they adapt"));
    }
    let rank = section.size("rank", 1..=RANK_MAX, 16)?;
    let alpha = section.number("alpha", 1e-6..=1e6, 2.0 * rank as f64)? as f32;
    let names = Target::ALL.map(|target| (target.name(), target));
    let targets = section.choices("targets", &names, &Target::ALL)?;
    Ok(Some(Lora { rank, alpha, targets }))
}

fn model(section: &Section<'_>, folder: &Path) -> Result<ModelSection, JobFileError> {
    if section.has("from") {
        return checkpoint_model(section, folder);
    }
    let fallback = ModelSection::default();
    let hidden = section.size("hidden", 2..=WIDTH_MAX, fallback.hidden)?;
    // Heads of 32 and a feed-forward part of 8/3, in the steps that kernels like.
    let heads = section.size("heads", 1..=WIDTH_MAX, (hidden / 32).max(1))?;
    Ok(ModelSection {
        from: None,
        hidden,
        layers: section.size("layers", 1..=LAYERS_MAX, fallback.layers)?,
        heads,
        kv_heads: section.size("kv_heads", 1..=WIDTH_MAX, heads)?,
        ffn: section.size("ffn", 1..=WIDTH_MAX, (hidden * 8 / 3).next_multiple_of(32))?,
        context: section.size("context", 1..=CONTEXT_MAX - 1, fallback.context)?,
        tied: section.switch("tied", fallback.tied)?,
        rope_theta: section.number("rope_theta", 1.0..=1e9, fallback.rope_theta)?,
        norm_eps: section.number("norm_eps", 1e-12..=1.0, fallback.norm_eps)?,
    })
}

/// The section of a job that goes on from a checkpoint: sizes come from there.
fn checkpoint_model(section: &Section<'_>, folder: &Path) -> Result<ModelSection, JobFileError> {
    let (_, keys) = KEYS[0];
    let sizes = || keys.iter().filter(|key| !["from", "context"].contains(key));
    if let Some(key) = sizes().find(|key| section.has(key)) {
        return Err(section.conflict(key, "from"));
    }
    let from = section.text("from", "")?;
    let config = match checkpoint::read_config(&folder.join(&from)) {
        Ok(config) => config,
        Err(error) => return Err(section.not_usable("from", error.to_string())),
    };
    let longest = config.context.min(CONTEXT_MAX - 1);
    let context = section.size("context", 1..=longest, longest.min(GOING_ON_CONTEXT))?;
    Ok(ModelSection {
        hidden: config.hidden,
        layers: config.layers,
        heads: config.heads,
        kv_heads: config.kv_heads,
        ffn: config.ffn,
        context,
        tied: config.tied,
        rope_theta: f64::from(config.rope_theta),
        norm_eps: f64::from(config.norm_eps),
        from: Some(StartingPoint { folder: from, config }),
    })
}

fn data(section: &Section<'_>) -> Result<DataSection, JobFileError> {
    let fallback = DataSection::default();
    Ok(DataSection {
        paths: section.texts("paths", PATHS_MAX)?,
        field: section.text("field", &fallback.field)?,
        held_out: section.number("held_out", 0.001..=0.5, fallback.held_out)?,
        max_bytes: section.count_if_any("max_bytes", 1..=1 << 50)?,
    })
}

fn tokenizer(
    section: &Section<'_>,
    model: &ModelSection,
) -> Result<TokenizerSection, JobFileError> {
    if let Some(from) = &model.from {
        let (_, keys) = KEYS[2];
        if let Some(key) = keys.iter().find(|key| section.has(key)) {
            return Err(section.conflict_with(key, "model.from"));
        }
        let vocab = from.config.vocab;
        return Ok(TokenizerSection { kind: TokenizerKind::Checkpoint, vocab });
    }
    let kinds = [("bytes", TokenizerKind::Bytes), ("bpe", TokenizerKind::Bpe)];
    let kind = section.choice("kind", &kinds, TokenizerKind::Bytes)?;
    let vocab = match kind {
        TokenizerKind::Bytes => section.size("vocab", 256..=256, 256)?,
        TokenizerKind::Bpe | TokenizerKind::Checkpoint => {
            section.size("vocab", 256..=suanli_engine::VOCAB_MAX, 4096)?
        }
    };
    Ok(TokenizerSection { kind, vocab })
}

fn replicas(section: &Section<'_>) -> Result<ReplicasSection, JobFileError> {
    const MOST: u32 = 256;
    let fallback = ReplicasSection::default();
    let min = section.small("min", 1..=MOST, fallback.min)?;
    let max = section.small("max", min..=MOST, fallback.max.max(min))?;
    Ok(ReplicasSection {
        min,
        max,
        expected: section.small("expected", min..=max, fallback.expected.clamp(min, max))?,
        quorum: section.number("quorum", 0.01..=1.0, fallback.quorum)?,
        grace_ms: section.count("grace_ms", 0..=86_400_000, fallback.grace_ms)?,
    })
}

fn training(section: &Section<'_>, job: &JobFile) -> Result<TrainingSection, JobFileError> {
    let fallback = &job.training;
    let inner_steps = section.small("inner_steps", 1..=10_000, fallback.inner_steps)?;
    let batch_sequences = section.small("batch_sequences", 1..=65_536, fallback.batch_sequences)?;
    let rounds = section.count_if_any("rounds", 1..=1 << 40)?;
    let tokens = section.count_if_any("tokens", 1..=1 << 60)?;
    let length = match (rounds, tokens) {
        (Some(_), Some(_)) => return Err(section.conflict("tokens", "rounds")),
        (None, Some(tokens)) => Length::Tokens(tokens),
        (rounds, None) => Length::Rounds(rounds.unwrap_or(DEFAULT_ROUNDS)),
    };
    let sized = TrainingSection { inner_steps, batch_sequences, length, ..fallback.clone() };
    let rounds = JobFile { training: sized, ..job.clone() }.rounds_total();
    let fallback = TrainingSection::fallback(&job.model, rounds);
    let fallback = if job.lora.is_some() { fallback.for_adapters() } else { fallback };
    let schedules = [("wsd", Schedule::Wsd), ("cosine", Schedule::Cosine)];
    let codecs = [
        ("int4", Codec::Int4),
        ("int8", Codec::Int8),
        ("topk", Codec::TopK),
        ("bf16", Codec::Bf16),
        ("f16", Codec::F16),
        ("f32", Codec::F32),
    ];
    let storages = [("f32", Storage::F32), ("bf16", Storage::Bf16)];
    let storage = section.choice("storage", &storages, fallback.storage)?;
    let engines = [("suanli", EngineName::Suanli), ("any", EngineName::Any)];
    let engine = section.choice("engine", &engines, fallback.engine)?;
    if engine == EngineName::Any && storage != Storage::F32 {
        return Err(section.conflict("engine", "storage"));
    }
    Ok(TrainingSection {
        inner_steps,
        batch_sequences,
        lr: section.number("lr", 1e-9..=1.0, fallback.lr)?,
        warmup: section.number("warmup", 0.0..=0.5, fallback.warmup)?,
        schedule: section.choice("schedule", &schedules, fallback.schedule)?,
        decay: section.number("decay", 0.0..=0.5, fallback.decay)?,
        min_lr: section.number("min_lr", 0.0..=1.0, fallback.min_lr)?,
        weight_decay: section.number("weight_decay", 0.0..=10.0, fallback.weight_decay)?,
        clip: section.number("clip", 0.0..=1e6, fallback.clip)?,
        beta1: section.number("beta1", 0.0..=0.9999, fallback.beta1)?,
        beta2: section.number("beta2", 0.0..=0.999_999, fallback.beta2)?,
        outer_lr: section.number("outer_lr", 0.01..=2.0, fallback.outer_lr)?,
        outer_momentum: section.course("outer_momentum", 0.0..=0.99, &fallback.outer_momentum)?,
        codec: section.choice("codec", &codecs, fallback.codec)?,
        storage,
        engine,
        length,
        seed: section.count("seed", 0..=i64::MAX as u64, fallback.seed)?,
    })
}

#[cfg(test)]
mod tests;
