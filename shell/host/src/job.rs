//! A job from its file to a folder that a city can take in, and from a city to a checkpoint.

use crate::control::{Refusal, RefusalClass};
use crate::packed::{self, pack_model};
use crate::trainable::{Trainable, read_params};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use suanli_base::{JobId, Round, Tokens};
use suanli_bus::merge::hash_chunks;
use suanli_bus::{
    DataSpec, Frozen, JOB_FORMAT, JobSpec, Replicas, Schedule, Shape as Course, ShardSpec, Training,
};
use suanli_engine::order::GROUP_SAMPLES;
use suanli_engine::{Cancel, Lora, ModelConfig, initial_params};
use suanli_params::{BYTE_CHUNK, CHUNK_ELEMENTS};
use suanli_rdpa::{RegionInfo, Shape};
use suanli_store::checkpoint::{
    self, AdapterContents, Card, CheckpointError, Contents, Loaded, Overwrite,
};
use suanli_store::data::{self, DataError, Given, Progress, Recipe};
use suanli_store::job_file::{self, JobFile, Length};

/// The file in a prepared folder that says what else is there.
const INDEX: &str = "job.index";
const THETA: &str = "theta.bin";
const FROZEN: &str = "frozen.packed";
/// Bytes of an index, at most: descriptions of up to 256 shards.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a chunk of parameters.
const PARAMETER_CHUNK: usize = 4 * CHUNK_ELEMENTS;
/// Versions a contribution may be late and still count.
const STALENESS_MAX: u64 = 2;

/// A job ready to be handed to a city.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Canonical bytes of the specification.
    pub spec: Vec<u8>,
    /// What the specification names: files and their descriptions.
    pub contents: Vec<(PathBuf, RegionInfo)>,
    /// Where the index lies.
    pub folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Index {
    spec: Vec<u8>,
    contents: Vec<(PathBuf, RegionInfo)>,
}

/// Prepares the data a job file names and its first parameters, below `out`: drawn, or those of
/// the checkpoint that the job goes on from.
///
/// # Errors
/// [`Refusal`] of the class that fits: the data and the model are the trainer's, the disk ours.
pub fn prepare(
    name: &str,
    file: &JobFile,
    base: &Path,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
    cancel: &Cancel,
) -> Result<Prepared, Refusal> {
    let recipe = Recipe::of_job(file);
    let from = checkpoint_of(file, base)?;
    let tokenizer = from.as_ref().map(|from| &from.tokenizer);
    let given = Given { tokenizer, threads: None };
    let paths = file.data_paths(base);
    let data = data::prepare_with(given, &paths, &recipe, out, progress, cancel)
        .map_err(|error| data_refusal(&error))?;
    let model = file.model_config(data.manifest().vocab as usize);
    model.check().map_err(|error| input(error.to_string()))?;
    let start = Start::of(from, &model, file, &data)?;
    let spec = spec_of(name, file, &model, &data, &start)?;
    let bytes = spec.to_bytes();
    let folder = out.join(format!("job-{}", JobSpec::id_of(&bytes).short()));
    std::fs::create_dir_all(&folder).map_err(|error| disk(&folder, &error))?;
    let Start { theta, frozen, tokenizer: tokenizer_text } = start;
    let mut contents = Vec::new();
    let theta: Vec<u8> = theta.iter().flat_map(|value| value.to_le_bytes()).collect();
    let packed = frozen.map(|(_, packed)| packed);
    for (name, bytes) in [(THETA, Some(theta)), (FROZEN, packed)] {
        let Some(bytes) = bytes else { continue };
        let path = folder.join(name);
        std::fs::write(&path, &bytes).map_err(|error| disk(&path, &error))?;
        contents.push((path, describe(&bytes, PARAMETER_CHUNK.min(bytes.len()))?));
    }
    let tokenizer = folder.join("tokenizer.json");
    std::fs::write(&tokenizer, tokenizer_text).map_err(|error| disk(&tokenizer, &error))?;
    let shards = (0..data.manifest().shards.len()).map(|index| data.shard_path(index));
    for path in shards.chain([data.held_out_path(), tokenizer]) {
        let bytes = std::fs::read(&path).map_err(|error| disk(&path, &error))?;
        contents.push((path, describe(&bytes, BYTE_CHUNK)?));
    }
    let index = Index { spec: bytes.clone(), contents: contents.clone() };
    let text = postcard::to_stdvec(&index).expect("our own types always encode");
    let path = folder.join(INDEX);
    std::fs::write(&path, text).map_err(|error| disk(&path, &error))?;
    Ok(Prepared { spec: bytes, contents, folder })
}

/// The checkpoint that a job goes on from, whose sizes the job file already has.
fn checkpoint_of(file: &JobFile, base: &Path) -> Result<Option<Loaded>, Refusal> {
    let (Some(from), Some(folder)) = (&file.model.from, file.from_folder(base)) else {
        return Ok(None);
    };
    let loaded = checkpoint::read(&folder).map_err(|error| checkpoint_refusal(&error))?;
    if loaded.config == from.config {
        return Ok(Some(loaded));
    }
    let what = "changed while the job was prepared; prepare the job again";
    Err(input(format!("the checkpoint {} {what}", folder.display())))
}

/// What a job begins with.
struct Start {
    theta: Vec<f32>,
    /// The model that stays as it is, when only adapters are trained: what the job says of it, and
    /// its packed bytes.
    frozen: Option<(Frozen, Vec<u8>)>,
    /// The tokenizer, with what goes along when it came with a checkpoint.
    tokenizer: String,
}

impl Start {
    fn of(
        from: Option<Loaded>,
        model: &ModelConfig,
        file: &JobFile,
        data: &data::Prepared,
    ) -> Result<Self, Refusal> {
        let Some(from) = from else {
            let theta = initial_params(model, file.training.seed);
            return Ok(Self { theta, frozen: None, tokenizer: data.tokenizer_json().to_owned() });
        };
        let tokenizer = checkpoint::pack(&from.tokenizer, &from.companions);
        let tokenizer = tokenizer.map_err(|error| input(error.to_string()))?;
        let seed = file.training.seed;
        let (theta, frozen) = match &file.lora {
            Some(lora) => (lora.initial(model, seed), Some(frozen_of(file, lora, &from.params)?)),
            None => (from.params, None),
        };
        Ok(Self { theta, frozen, tokenizer })
    }
}

impl Prepared {
    /// Opens what [`prepare`] left.
    ///
    /// # Errors
    /// [`Refusal`] when the folder is none or is damaged.
    pub fn open(folder: &Path) -> Result<Self, Refusal> {
        let path = folder.join(INDEX);
        let length = std::fs::metadata(&path).map_err(|error| disk(&path, &error))?.len();
        let bytes = (length <= INDEX_BYTES_MAX).then(|| std::fs::read(&path));
        let bytes = bytes.transpose().map_err(|error| disk(&path, &error))?;
        let index: Option<Index> = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let Some(Index { spec, contents }) = index else {
            return Err(input(format!(
                "{} is not a prepared job; prepare it again",
                path.display()
            )));
        };
        Ok(Self { spec, contents, folder: folder.to_path_buf() })
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        JobSpec::id_of(&self.spec)
    }
}

fn describe(bytes: &[u8], chunk_bytes: usize) -> Result<RegionInfo, Refusal> {
    let chunk = u32::try_from(chunk_bytes).expect("chunks are below 4 MiB");
    RegionInfo::of(1, bytes, chunk).map_err(|error| input(error.to_string()))
}

fn spec_of(
    name: &str,
    file: &JobFile,
    model: &ModelConfig,
    data: &data::Prepared,
    start: &Start,
) -> Result<JobSpec, Refusal> {
    let manifest = data.manifest();
    let shard = |shard: &data::Shard| ShardSpec {
        bytes: shard.bytes,
        samples: shard.samples,
        root: shard.root,
    };
    let theta = &start.theta;
    let spec = JobSpec {
        format: JOB_FORMAT,
        name: name.chars().take(64).collect(),
        model: serde_json::to_string(model).expect("plain numbers are JSON"),
        numeric_class: file.training.numeric_class().to_owned(),
        parameters: theta.len() as u64,
        replica_memory_bytes: file.training_memory_bytes(model),
        theta_root: suanli_params::root(&hash_chunks(theta)),
        frozen: start.frozen.as_ref().map(|frozen| frozen.0.clone()),
        tokenizer: describe(start.tokenizer.as_bytes(), BYTE_CHUNK)?.root,
        data: DataSpec {
            sample_tokens: manifest.sample_tokens,
            token_bytes: manifest.token_bytes,
            samples: manifest.samples,
            group: GROUP_SAMPLES as u32,
            order_seed: file.training.seed,
            shards: manifest.shards.iter().map(shard).collect(),
            held_out: shard(&manifest.held_out),
        },
        training: training_of(file),
        replicas: Replicas {
            min: file.replicas.min,
            expected: file.replicas.expected,
            max: file.replicas.max,
            quorum_per_mille: (file.replicas.quorum * 1000.0) as u32,
            grace_ms: file.replicas.grace_ms,
            staleness_max: STALENESS_MAX,
        },
    };
    spec.check().map_err(|error| input(error.to_string()))?;
    Ok(spec)
}

/// What a job says of the model beside which it trains adapters, and the bytes that travel.
fn frozen_of(file: &JobFile, lora: &Lora, params: &[f32]) -> Result<(Frozen, Vec<u8>), Refusal> {
    let folder = file.model.from.as_ref().map(|from| Path::new(&from.folder));
    // The last word of the path: where else it lies is nobody's business.
    let name = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default().chars().take(64).collect();
    let adapters = serde_json::to_string(lora).expect("plain numbers are JSON");
    let packed = pack_model(params).map_err(|error| input(format!("the checkpoint: {error}")))?;
    Ok((packed::describe(name, params, &packed, adapters), packed))
}

fn training_of(file: &JobFile) -> Training {
    let t = &file.training;
    let total = file.tokens_total();
    let (rounds, tokens) = match t.length {
        Length::Rounds(rounds) => (rounds, Tokens(0)),
        Length::Tokens(tokens) => (0, Tokens(tokens)),
    };
    Training {
        inner_steps: t.inner_steps,
        batch_sequences: t.batch_sequences,
        schedule: Schedule {
            shape: match t.schedule {
                job_file::Schedule::Wsd => Course::WarmupStableDecay,
                job_file::Schedule::Cosine => Course::Cosine,
            },
            lr: t.lr as f32,
            min_share: t.min_lr as f32,
            decay_share: t.decay as f32,
            warmup: Tokens((t.warmup * total as f64) as u64),
            total: Tokens(total),
        },
        beta1: t.beta1 as f32,
        beta2: t.beta2 as f32,
        eps: 1e-8,
        weight_decay: t.weight_decay as f32,
        clip: t.clip as f32,
        outer_lr: t.outer_lr as f32,
        outer_momentum: t.outer_momentum.iter().map(|momentum| *momentum as f32).collect(),
        codec: t.codec,
        rounds,
        tokens,
    }
}

/// What a job has learned up to a version.
pub(crate) struct Learned<'a> {
    pub spec: &'a JobSpec,
    pub version: Round,
    pub tokens: Tokens,
    /// The parameters, f32 little-endian.
    pub theta: &'a [u8],
    /// The file of the frozen model, if there is one.
    pub frozen: Option<&'a Path>,
}

impl Learned<'_> {
    fn trainable(&self) -> Result<Trainable, Refusal> {
        Trainable::of(self.spec).map_err(corrupt)
    }

    fn params(&self) -> Vec<f32> {
        let words = self.theta.as_chunks::<4>().0;
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    /// The whole model: the parameters, or the frozen ones with the adapters in them.
    fn model(&self, trainable: &Trainable) -> Result<Vec<f32>, Refusal> {
        let params = self.params();
        let (Some(lora), Some(path)) = (&trainable.lora, self.frozen) else { return Ok(params) };
        let mut model = read_params(path, trainable.model.parameters() as u64).map_err(corrupt)?;
        lora.merge(&trainable.model, &params, &mut model);
        Ok(model)
    }
}

/// Writes what a job has learned as a Hugging Face folder; adapters are merged into their model.
///
/// # Errors
/// [`Refusal`] when the folder is in the way or the disk refuses.
pub(crate) fn export(learned: &Learned<'_>, tokenizer: &[u8], dir: &Path) -> Result<(), Refusal> {
    let trainable = learned.trainable()?;
    let params = learned.model(&trainable)?;
    let (tokenizer, companions) = checkpoint::unpack(&String::from_utf8_lossy(tokenizer))
        .map_err(|error| corrupt(format!("the job's tokenizer: {error}")))?;
    let spec = learned.spec;
    let mut facts = vec![
        ("job".to_owned(), JobSpec::id_of(&spec.to_bytes()).to_string()),
        ("rounds".to_owned(), learned.version.to_string()),
        ("tokens".to_owned(), learned.tokens.to_string()),
        ("parameters".to_owned(), params.len().to_string()),
    ];
    if let (Some(frozen), Some(lora)) = (&spec.frozen, &trainable.lora) {
        facts.push(("checkpoint".to_owned(), frozen.name.clone()));
        let adapters = format!("rank {}, alpha {}, merged", lora.rank, lora.alpha);
        facts.push(("adapters".to_owned(), adapters));
    }
    let card = Card { name: spec.name.clone(), facts, sample: None };
    let contents = Contents {
        config: &trainable.model,
        params: &params,
        tokenizer: &tokenizer,
        companions: &companions,
        card: &card,
    };
    written(checkpoint::write(dir, &contents, Overwrite::OursOnly))
}

/// Writes the adapters that a job has learned in the layout of PEFT.
///
/// # Errors
/// [`Refusal`] when the job has none, the folder is in the way or the disk refuses.
pub(crate) fn export_adapters(learned: &Learned<'_>, dir: &Path) -> Result<(), Refusal> {
    let trainable = learned.trainable()?;
    let (Some(lora), Some(frozen)) = (&trainable.lora, &learned.spec.frozen) else {
        let text =
            format!("job {:?} trains the whole model, it has no adapters", learned.spec.name);
        return Err(Refusal::new(RefusalClass::Input, text, "export it without --adapters"));
    };
    let contents = AdapterContents {
        lora,
        config: &trainable.model,
        params: &learned.params(),
        base: &frozen.name,
    };
    written(checkpoint::write_adapter(dir, &contents, Overwrite::OursOnly))
}

fn written(result: Result<Option<PathBuf>, CheckpointError>) -> Result<(), Refusal> {
    result.map(|_| ()).map_err(|error| {
        let next = "choose another folder, or move that one away";
        Refusal::new(RefusalClass::Environment, error.to_string(), next)
    })
}

fn corrupt(text: String) -> Refusal {
    Refusal::new(RefusalClass::Corrupt, text, "")
}

fn input(text: String) -> Refusal {
    Refusal::new(RefusalClass::Input, text, "")
}

fn disk(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(RefusalClass::Environment, format!("{}: {error}", path.display()), "")
}

fn checkpoint_refusal(error: &CheckpointError) -> Refusal {
    let class = match error {
        CheckpointError::Io { .. } => RefusalClass::Environment,
        _ => RefusalClass::Input,
    };
    Refusal::new(class, error.to_string(), "")
}

fn data_refusal(error: &DataError) -> Refusal {
    let class = match error {
        DataError::Damaged { .. } => RefusalClass::Corrupt,
        _ => RefusalClass::Input,
    };
    Refusal::new(class, error.to_string(), "")
}

/// The shape that content of `bytes` bytes has in a city.
#[must_use]
pub const fn content_shape(bytes: u64) -> Shape {
    Shape { bytes, chunk_bytes: BYTE_CHUNK as u32 }
}
