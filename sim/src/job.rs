//! The tiny job that every run trains: a decoder of a few hundred parameters on a few hundred
//! samples, so that several epochs, a short last block of the codec and a short last batch of data
//! all come up within a few rounds.

use suanli_base::{Hash, Random, Tokens};
use suanli_bus::{
    DataSpec, Frozen, JOB_FORMAT, JobSpec, Replicas, Schedule, Shape, ShardSpec, Training,
};
use suanli_engine::{
    Activations, Engine, Float as _, Lora, ModelConfig, Reference, Storage, Target, initial_params,
};
use suanli_params::{BYTE_CHUNK, Codec, Packing, pack, unpack};
use suanli_rdpa::RegionInfo;

/// A token on the simulated disk.
const TOKEN_BYTES: usize = 2;
/// Samples of each shard: a lease now and then spans both.
const SHARDS: [u64; 2] = [70, 90];
const HELD_OUT: u64 = 4;

/// What a trainer brings: the specification and the content it names.
#[derive(Clone, Debug)]
pub(crate) struct TinyJob {
    pub(crate) spec: JobSpec,
    pub(crate) content: Vec<Vec<u8>>,
    pub(crate) theta: Vec<f32>,
    /// The model beside which adapters are trained; empty when all of it is trained.
    pub(crate) frozen: Vec<f32>,
}

/// The model that is trained.
pub(crate) const fn model() -> ModelConfig {
    ModelConfig {
        vocab: 12,
        hidden: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        ffn: 6,
        context: 4,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied: false,
        ..ModelConfig::demo()
    }
}

/// An engine for a model that a specification names, and the adapters, if such are trained beside
/// `frozen`.
pub(crate) fn engine(spec: &JobSpec, frozen: &[f32]) -> Result<Box<dyn Engine>, String> {
    let text = |error: serde_json::Error| error.to_string();
    let config: ModelConfig = serde_json::from_str(&spec.model).map_err(text)?;
    let engine = match &spec.frozen {
        Some(named) if root_of(frozen) != named.root => return Err("another model".into()),
        Some(named) => {
            let lora: Lora = serde_json::from_str(&named.adapters).map_err(text)?;
            Reference::<f32>::adapted(config, &lora, frozen)
        }
        None => Reference::new(config),
    };
    Ok(Box::new(engine.map_err(|error| error.to_string())?))
}

/// Every third job or so trains adapters.
fn adapters(random: &mut Random) -> Option<Lora> {
    let lora = Lora { rank: 2, alpha: 4.0, targets: vec![Target::QProj, Target::DownProj] };
    random.chance(300).then_some(lora)
}

impl TinyJob {
    /// The job of a seed.
    pub(crate) fn new(random: &mut Random, rounds: u64, families: u32) -> Self {
        let config = model();
        let sample_tokens = config.context + 1;
        let mut content = Vec::new();
        let mut shard = |samples: u64| {
            let mut bytes = Vec::new();
            for _ in 0..samples {
                let (start, pace) = (random.below(12), 1 + random.below(3));
                for place in 0..sample_tokens as u64 {
                    let token = u16::try_from((start + place * pace) % 12).unwrap_or(0);
                    bytes.extend_from_slice(&token.to_le_bytes());
                }
            }
            let spec =
                ShardSpec { bytes: bytes.len() as u64, samples, root: content_info(&bytes).root };
            content.push(bytes);
            spec
        };
        let shards: Vec<ShardSpec> = SHARDS.into_iter().map(&mut shard).collect();
        let held_out = shard(HELD_OUT);
        let model = initial_params(&config, random.next_u64());
        let lora = adapters(&mut random.fork(1));
        let (theta, frozen) = match &lora {
            Some(lora) => (lora.initial(&config, 1), model),
            None => (model, Vec::new()),
        };
        let tokenizer = b"one token, one number".to_vec();
        let roots = [content_info(&tokenizer).root, root_of(&theta)];
        content.push(tokenizer);
        content.push(bytes_of(&theta));
        let mut packed = Vec::new();
        pack(Packing::F32, &frozen, &mut packed).expect("first parameters are finite");
        let packed_bytes = packed.len() as u64;
        let packed_root = (packed_bytes > 0).then(|| content_info(&packed).root);
        if packed_bytes > 0 {
            content.push(packed);
        }
        let inner_steps = 3 + u32::try_from(random.below(3)).unwrap_or(0);
        let spec = JobSpec {
            format: JOB_FORMAT,
            name: "tiny".into(),
            model: serde_json::to_string(&config).expect("our own types always encode"),
            numeric_class: f32::CLASS.into(),
            parameters: theta.len() as u64,
            replica_memory_bytes: config.training_memory_bytes(
                1,
                config.context,
                Activations::Kept,
                Storage::F32,
            ),
            theta_root: roots[1],
            frozen: lora.map(|lora| Frozen {
                name: "tiny".into(),
                parameters: frozen.len() as u64,
                root: root_of(&frozen),
                packed_bytes,
                packed_root: packed_root.unwrap_or(Hash::ZERO),
                adapters: serde_json::to_string(&lora).expect("our own types always encode"),
            }),
            tokenizer: roots[0],
            data: DataSpec {
                sample_tokens: u32::try_from(sample_tokens).unwrap_or(5),
                token_bytes: TOKEN_BYTES as u8,
                samples: SHARDS.iter().sum(),
                group: 16,
                order_seed: random.next_u64(),
                shards,
                held_out,
            },
            training: Training {
                inner_steps,
                batch_sequences: 1 + u32::try_from(random.below(2)).unwrap_or(0),
                schedule: Schedule {
                    shape: Shape::WarmupStableDecay,
                    lr: 1e-2,
                    min_share: 0.1,
                    decay_share: 0.2,
                    warmup: Tokens(16),
                    total: Tokens(4000),
                },
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
                outer_lr: 0.7,
                outer_momentum: vec![0.2, 0.8, 0.4],
                codec: Codec::from_id(u8::try_from(1 + random.below(6)).unwrap_or(1))
                    .expect("codecs have the ids 1 to 6"),
                rounds,
                tokens: Tokens(0),
            },
            replicas: Replicas {
                min: 1 + u32::try_from(random.below(u64::from(families.min(3)))).unwrap_or(0),
                expected: families,
                max: 256,
                quorum_per_mille: 500 + u32::try_from(random.below(501)).unwrap_or(0),
                grace_ms: 100 + random.below(1500),
                staleness_max: random.below(4),
            },
        };
        Self { spec, content, theta, frozen }
    }
}

/// How content that a trainer brings is cut.
pub(crate) fn content_info(bytes: &[u8]) -> RegionInfo {
    let chunk = u32::try_from(BYTE_CHUNK).expect("64 KiB fit 32 bits");
    RegionInfo::of(1, bytes, chunk).expect("content is short and not empty")
}

/// What the packed bytes of a frozen model hold, if they are what the specification names.
pub(crate) fn unpacked(frozen: &Frozen, packed: &[u8]) -> Option<Vec<f32>> {
    let mut params = vec![0.0; usize::try_from(frozen.parameters).ok()?];
    unpack(Packing::F32, packed, &mut params).ok()?;
    (root_of(&params) == frozen.root).then_some(params)
}

/// Merkle root of parameters.
pub(crate) fn root_of(values: &[f32]) -> Hash {
    suanli_params::root(&suanli_bus::merge::hash_chunks(values))
}

/// Parameters as they lie on disk.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The parameters that lie on disk as these bytes.
pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    let four = |piece: &[u8]| f32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]);
    bytes.chunks_exact(4).map(four).collect()
}

/// The batch of a step: samples as they are stored, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) inputs: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) weights: Vec<f32>,
}

impl Rows {
    /// Adds a stored sample.
    pub(crate) fn push(&mut self, sample: &[u8]) {
        let tokens: Vec<u32> = sample
            .chunks_exact(TOKEN_BYTES)
            .map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])))
            .collect();
        self.inputs.extend_from_slice(&tokens[..tokens.len() - 1]);
        self.targets.extend_from_slice(&tokens[1..]);
        self.weights.resize(self.inputs.len(), 1.0);
    }

    /// As the engine takes it.
    pub(crate) fn batch(&self, length: usize) -> suanli_engine::Batch<'_> {
        suanli_engine::Batch {
            sequences: self.inputs.len() / length,
            length,
            inputs: &self.inputs,
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}
