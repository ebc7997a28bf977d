//! Loss, logits and the gradient of every tensor of each architecture against PyTorch in float64
//! (`fixtures/make_architectures.py`): Llama 3, Mistral, Qwen2, Qwen3, and adapters as PEFT has them.

#![allow(clippy::unwrap_used, reason = "a test")]

use safetensors::SafeTensors;
use suanli_base::mix64;
use suanli_engine::{
    Batch, Cancel, Engine, Fast, Lora, ModelConfig, Reference, RopeScaling, Settings, Target,
};
use suanli_params::Space;

const FIXTURE: &[u8] = include_bytes!("fixtures/architectures.safetensors");

/// What tensors may differ by: norm of the difference over norm. 1.0e-6 is what PyTorch's own
/// float32 differs by from its float64 here.
const CLOSE: f64 = 1e-5;

/// Label of the first tensor of the adapters.
const ADAPTERS: u64 = 500;

/// Element by element what `units` of the script gives.
fn units(label: u64, count: usize) -> impl Iterator<Item = f32> {
    (0..count as u64).map(move |i| (mix64((label << 32) + i) >> 40) as f32 / 16_777_216.0)
}

fn llama() -> ModelConfig {
    let (vocab, hidden, layers, heads, kv_heads, ffn, context) = (31, 16, 2, 4, 2, 20, 24);
    let demo = ModelConfig::demo();
    ModelConfig { vocab, hidden, layers, heads, kv_heads, ffn, context, ..demo }
}

fn models() -> [(&'static str, ModelConfig); 4] {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 16,
    };
    let (tied, head_dim) = (true, Some(6));
    [
        ("llama3", ModelConfig { rope_scaling: Some(scaling), ..llama() }),
        ("mistral", ModelConfig { head_dim, ..llama() }),
        ("qwen2", ModelConfig { qkv_bias: true, tied, ..llama() }),
        ("qwen3", ModelConfig { qk_norm: true, head_dim, tied, ..llama() }),
    ]
}

/// As `fill` of the script does.
fn values(space: &Space, first: u64) -> Vec<f32> {
    let mut values = Vec::new();
    for (label, tensor) in (first..).zip(space.tensors()) {
        let (matrix, bias) = (tensor.shape.len() == 2, tensor.name.ends_with("bias"));
        let of = |unit: f32| match (matrix, bias) {
            (true, _) => (unit - 0.5) * 0.5,
            (_, true) => unit - 0.5,
            _ => unit + 0.5,
        };
        values.extend(units(label, tensor.len).map(of));
    }
    values
}

fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Norm of the difference over norm.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (difference / expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

fn agrees(case: &str, engine: &mut dyn Engine) {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let config = engine.config().clone();
    let (length, tokens) = (config.context, 2 * config.context);
    let ids: Vec<u32> = units(1000, tokens).map(|u| (u * config.vocab as f32) as u32).collect();
    let last = |place: usize| place % length == length - 1;
    let targets: Vec<u32> = (0..tokens).map(|i| if last(i) { 0 } else { ids[i + 1] }).collect();
    let weights: Vec<f32> = (0..tokens).map(|i| if last(i) { 0.0 } else { 1.0 }).collect();
    let (inputs, targets, weights) = (&ids, &targets, &weights);
    let batch = Batch { sequences: 2, length, inputs, targets, weights };
    let mut grads = vec![0.0; engine.space().len()];
    let loss = engine.gradient(&batch.into(), &mut grads, &Cancel::new()).unwrap().mean();
    let expected = file.tensor(&format!("{case}.loss")).unwrap().data();
    let expected = f64::from_le_bytes(expected.try_into().unwrap());
    assert!((loss - expected).abs() < 1e-6, "{case}: {loss} against {expected}");
    let mut logits = engine.logits(&ids[..length]).unwrap();
    logits.extend(engine.logits(&ids[length..]).unwrap());
    let error = distance(&logits, &numbers(&file, &format!("{case}.logits")));
    assert!(error < 2e-6, "{case}, logits: {error}");
    let mut worst = 0.0_f64;
    for tensor in engine.space().tensors() {
        let expected = numbers(&file, &format!("{case}.{}", tensor.name));
        let error = distance(&grads[tensor.range()], &expected);
        assert!(error < CLOSE, "{case}, {}: {error}", tensor.name);
        worst = worst.max(error);
    }
    let stem = format!("{case}.");
    let kept = file.names().into_iter().filter(|name| name.starts_with(&stem)).count();
    assert_eq!(kept, engine.space().tensors().len() + 2);
    println!("{case}, {}: {worst:.1e}", engine.capabilities().numeric_class);
}

#[test]
fn both_engines_agree_with_pytorch_on_every_gradient_of_every_architecture() {
    for (case, config) in models() {
        let params = values(&config.space(), 0);
        let engines: [Box<dyn Engine>; 3] = [
            Box::new(Fast::new(config.clone(), 2).unwrap()),
            Box::new(Reference::<f32>::new(config.clone()).unwrap()),
            Box::new(Reference::<f64>::new(config.clone()).unwrap()),
        ];
        for mut engine in engines {
            engine.write(0, &params);
            agrees(case, &mut *engine);
        }
    }
}

#[test]
fn both_engines_agree_with_peft_on_every_gradient_of_adapters() {
    let (config, lora) = (llama(), Lora { rank: 3, alpha: 5.0, targets: Target::ALL.to_vec() });
    let base = values(&config.space(), 0);
    let adapters = values(&lora.space(&config), ADAPTERS);
    let settings = Settings { threads: 2, ..Settings::default() };
    let engines: [Box<dyn Engine>; 3] = [
        Box::new(Fast::adapted(config.clone(), &lora, &base, &settings).unwrap()),
        Box::new(Reference::<f32>::adapted(config.clone(), &lora, &base).unwrap()),
        Box::new(Reference::<f64>::adapted(config, &lora, &base).unwrap()),
    ];
    for mut engine in engines {
        engine.write(0, &adapters);
        agrees("lora", &mut *engine);
    }
}
