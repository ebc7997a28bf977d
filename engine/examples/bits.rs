//! Everything that must be the same to the bit on every machine, one line a case: its name and the
//! hash of what came out.
//!
//! `cargo run --release -p suanli-engine --example bits [-- THREADS [few]]`; `few` leaves out what an
//! emulated CPU takes minutes for. `SUANLI_KERNEL` chooses the instructions. The first line says
//! which were taken. `cargo xtask bits` runs it in many ways and compares; the list of hashes is
//! `tests/fixtures/bits.txt`.
//!
//! The inputs come from `suanli_base::Random` alone.

use suanli_base::{Hash, Random};
use suanli_engine::{
    Activations, Batch, Cancel, Engine, Fast, Float, KernelChoice, Lora, ModelConfig, Objective,
    Pair, Reference, RopeScaling, Sampling, Settings, StepError, StepSettings, Storage, Target,
    Task, initial_params,
};
use suanli_params::{
    Codec, apply_update, decode, encode, encode_with_feedback, seal_moments, sum_of_squares,
    unseal_moments,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// How much is run.
#[derive(Clone, Copy)]
struct Run {
    threads: usize,
    few: bool,
    storage: Storage,
}

impl Run {
    fn steps(self) -> u8 {
        if self.few { 3 } else { 50 }
    }

    fn settings(self, activations: Activations) -> Settings {
        let (threads, kernel, storage) = (self.threads, KernelChoice::Best, self.storage);
        Settings { threads, kernel, activations, storage }
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments.first().map_or(Ok(1), |threads| threads.parse())?;
    let few = arguments.get(1).is_some_and(|word| word == "few");
    let run = Run { threads, few, storage: Storage::F32 };
    let engine = Fast::new(ModelConfig::demo(), threads)?;
    let about = engine.capabilities();
    println!("# {} kernel {} threads {}", about.numeric_class, about.kernel, about.threads);
    for (name, config) in architectures() {
        train(run, name, &config)?;
    }
    groups(run, "groups")?;
    adapters(run)?;
    let half = Run { storage: Storage::Bf16, ..run };
    train(half, "bf16", &odd())?;
    groups(half, "bf16-groups")?;
    preference(run)?;
    plain::<f32>()?;
    plain::<f64>()?;
    codecs()
}

fn say(case: &str, what: &str, bytes: &[u8]) {
    println!("{case}/{what} {}", Hash::of(bytes));
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Widths that fill no vector, a context that fills no block, groups of heads.
fn odd() -> ModelConfig {
    let demo = ModelConfig::demo();
    let (vocab, hidden, heads, kv_heads, ffn, context) = (37, 24, 4, 2, 20, 41);
    ModelConfig { vocab, hidden, layers: 2, heads, kv_heads, ffn, context, tied: false, ..demo }
}

fn architectures() -> Vec<(&'static str, ModelConfig)> {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 16,
    };
    let linear = RopeScaling::Linear { factor: 2.5 };
    vec![
        ("llama", odd()),
        ("tied", ModelConfig { tied: true, ..odd() }),
        ("llama3-scaled", ModelConfig { rope_scaling: Some(llama3), ..odd() }),
        ("linear-scaled", ModelConfig { rope_scaling: Some(linear), ..odd() }),
        ("head-width", ModelConfig { head_dim: Some(10), ..odd() }),
        ("qkv-bias", ModelConfig { qkv_bias: true, ..odd() }),
        ("qk-norm", ModelConfig { qk_norm: true, head_dim: Some(8), tied: true, ..odd() }),
    ]
}

/// Parameters at which every part of the model does something.
fn awake(config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut params = initial_params(config, seed);
    for tensor in config.space().tensors() {
        for value in &mut params[tensor.range()] {
            *value = match tensor.shape.len() {
                2 => *value * 6.0,
                _ => 0.6 + 0.8 * random.unit_f32(),
            };
        }
    }
    params
}

struct Text {
    sequences: usize,
    length: usize,
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Text {
    fn new(config: &ModelConfig, sequences: usize, length: usize, seed: u64) -> Self {
        let mut random = Random::new(seed).fork(9);
        let mut ids = || -> Vec<u32> {
            let draw = |_| random.below(config.vocab as u64) as u32;
            (0..sequences * length).map(draw).collect()
        };
        let (ids, targets) = (ids(), ids());
        let weights = (0..sequences * length).map(|place| [1.0, 0.0, 2.0, 0.5][place % 4]);
        Self { sequences, length, weights: weights.collect(), ids, targets }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            sequences: self.sequences,
            length: self.length,
            inputs: &self.ids,
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}

/// Gradient, steps, state, sealed state, logits, log-probabilities, generated tokens.
fn study(
    run: Run,
    case: &str,
    engine: &mut dyn Engine,
    text: &Text,
    objective: Objective<'_>,
) -> Result<(), StepError> {
    let cancel = Cancel::new();
    let task = || Task { objective, ..text.batch().into() };
    let mut slopes = vec![0.0; engine.space().len()];
    engine.gradient(&task(), &mut slopes, &cancel)?;
    say(case, "gradient", &bytes(&slopes));
    let mut losses = Vec::new();
    for step in 0..run.steps() {
        // Rates that rise and fall, so that every step's constants differ.
        let lr = 3e-3 / (1.0 + f32::from(step % 7));
        let report =
            engine.step(&task(), &StepSettings { lr, ..StepSettings::default() }, &cancel)?;
        losses.extend([report.loss, report.grad_norm]);
        if step == 2 {
            say(case, "losses-3", &bytes(&losses));
            say(case, "state-3", engine.state_hash().root.as_bytes());
        }
    }
    if !run.few {
        say(case, "losses-50", &bytes(&losses));
        say(case, "state-50", engine.state_hash().root.as_bytes());
        say(case, "sealed-50", &engine.seal());
        outputs(case, engine, text)?;
    }
    Ok(())
}

fn outputs(case: &str, engine: &mut dyn Engine, text: &Text) -> Result<(), StepError> {
    let cancel = Cancel::new();
    let loss = engine.evaluate(&text.batch().into(), &cancel)?;
    say(case, "loss", &[loss.sum.to_le_bytes(), loss.weight.to_le_bytes()].concat());
    say(case, "logits", &bytes(&engine.logits(&text.ids[..text.length])?));
    say(case, "logprobs", &bytes(&engine.logprobs(&text.batch(), &cancel)?));
    let mut said = Vec::new();
    for (temperature, top_k) in [(0.0, 0), (0.8, 0), (1.2, 5)] {
        let sampling = Sampling { temperature, top_k, tokens_max: 20, ..Sampling::default() };
        let mut emit = |id: u32| {
            said.extend(id.to_le_bytes());
            true
        };
        engine.generate(&text.ids[..3], &sampling, 5, &Cancel::new(), &mut emit)?;
    }
    say(case, "said", &said);
    Ok(())
}

fn train(run: Run, case: &str, config: &ModelConfig) -> Result<(), StepError> {
    let params = awake(config, 1);
    say(case, "parameters", &bytes(&params));
    let mut engine = Fast::with(config.clone(), &run.settings(Activations::Kept))?;
    engine.write(0, &params);
    study(run, case, &mut engine, &Text::new(config, 3, 41, 1), Objective::NextToken)
}

/// More sequences than go through the model together, activations computed again, several blocks
/// of the inner dimension.
fn groups(run: Run, case: &str) -> Result<(), StepError> {
    let (hidden, heads, kv_heads, ffn, context) = (96, 6, 3, 270, 70);
    let config = ModelConfig { hidden, heads, kv_heads, ffn, context, layers: 2, ..odd() };
    let run = Run { few: true, ..run };
    let text = Text::new(&config, 9, 70, 2);
    for (kept, activations) in [("kept", Activations::Kept), ("again", Activations::Recomputed)] {
        let case = &format!("{case}-{kept}");
        let mut engine = Fast::with(config.clone(), &run.settings(activations))?;
        engine.write(0, &awake(&config, 2));
        study(run, case, &mut engine, &text, Objective::NextToken)?;
    }
    Ok(())
}

fn adapters(run: Run) -> Result<(), StepError> {
    let config = ModelConfig { qk_norm: true, head_dim: Some(8), ..odd() };
    let base = awake(&config, 3);
    for (case, lora) in [
        ("lora", Lora { rank: 3, alpha: 5.0, targets: Target::ALL.to_vec() }),
        ("lora-some", Lora { rank: 70, alpha: 16.0, targets: vec![Target::QProj, Target::UpProj] }),
    ] {
        let settings = run.settings(Activations::Kept);
        let mut engine = Fast::adapted(config.clone(), &lora, &base, &settings)?;
        engine.write(0, &lora.initial(&config, 3));
        study(run, case, &mut engine, &Text::new(&config, 3, 41, 3), Objective::NextToken)?;
        if !run.few {
            say(case, "merged", &bytes(&engine.merged()));
        }
    }
    Ok(())
}

fn preference(run: Run) -> Result<(), StepError> {
    let pair = |i: usize| Pair {
        chosen: -60.0 - i as f64,
        rejected: -62.5 + 2.0 * i as f64,
        weight: [1.0, 0.25, 3.0][i % 3],
    };
    let pairs: Vec<Pair> = (0..3).map(pair).collect();
    let mut engine = Fast::with(odd(), &run.settings(Activations::Kept))?;
    engine.write(0, &awake(&odd(), 4));
    let objective = Objective::Preference { beta: 0.3, pairs: &pairs };
    study(run, "preference", &mut engine, &Text::new(&odd(), 6, 17, 4), objective)
}

/// The plain engine, which judges the fast one, is itself the same everywhere.
fn plain<T: Float>() -> Result<(), StepError> {
    let config = ModelConfig { qkv_bias: true, ..odd() };
    let run = Run { threads: 1, few: true, storage: Storage::F32 };
    let mut engine = Reference::<T>::new(config.clone())?;
    engine.write(0, &awake(&config, 5));
    study(run, T::CLASS, &mut engine, &Text::new(&config, 2, 20, 5), Objective::NextToken)?;
    outputs(T::CLASS, &mut engine, &Text::new(&config, 1, 12, 5))
}

/// Numbers of many magnitudes, zeros and subnormal ones among them.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut draw = |_| {
        let size = random.below(40) as i32 - 30;
        let value = (random.unit_f32() - 0.5) * 2.0_f32.powi(size);
        match random.below(50) {
            0 => 0.0,
            1 => value * f32::MIN_POSITIVE,
            _ => value,
        }
    };
    (0..count).map(&mut draw).collect()
}

/// What travels and what is stored.
fn codecs() -> Outcome {
    const COUNT: usize = 150_001; // three chunks, the last one odd
    let values = numbers(COUNT, 6);
    let mut theta = numbers(COUNT, 7);
    let mut second = Vec::new();
    for codec in (1..=6).map(Codec::from_id) {
        let codec = codec?;
        let case = format!("codec-{codec}");
        let mut encoded = Vec::new();
        encode(codec, &values, &mut encoded)?;
        say(&case, "encoded", &encoded);
        let mut decoded = vec![0.0; COUNT];
        decode(codec, &encoded, &mut decoded)?;
        say(&case, "decoded", &bytes(&decoded));
        let (mut residual, mut sent) = (vec![0.0; COUNT], Vec::new());
        for round in 0..5 {
            sent.clear();
            encode_with_feedback(codec, &numbers(COUNT, 8 + round), &mut residual, &mut sent)?;
            apply_update(&mut theta, codec, &sent)?;
        }
        say(&case, "sent", &sent);
        say(&case, "residual", &bytes(&residual));
        say(&case, "applied", &bytes(&theta));
        if codec == Codec::Int4 {
            second.clone_from(&theta);
        }
    }
    say("norm", "squares", &sum_of_squares(&values).to_le_bytes());
    let mut first = values;
    second.iter_mut().for_each(|value| *value *= *value);
    let sealed = seal_moments(&mut first, &mut second)?;
    say("seal", "bytes", &sealed);
    let (mut m, mut v) = (vec![0.0; COUNT], vec![0.0; COUNT]);
    unseal_moments(&sealed, &mut m, &mut v)?;
    say("seal", "first", &bytes(&m));
    say("seal", "second", &bytes(&v));
    Ok(())
}
