//! Loss, logits and the gradient of every tensor against PyTorch (`fixtures/make_grads.py`).

#![allow(clippy::unwrap_used, reason = "a test")]

use safetensors::SafeTensors;
use suanli_base::mix64;
use suanli_engine::{Batch, Cancel, Engine, Fast, ModelConfig, Reference};

/// Element by element what `units` of the script gives.
fn units(label: u64, count: usize) -> impl Iterator<Item = f32> {
    (0..count as u64).map(move |i| (mix64((label << 32) + i) >> 40) as f32 / 16_777_216.0)
}

fn model(tied: bool) -> ModelConfig {
    ModelConfig {
        vocab: 48,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 40,
        context: 24,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied,
        ..ModelConfig::demo()
    }
}

fn fill(engine: &mut dyn Engine) {
    for (label, tensor) in (0..).zip(engine.space().clone().tensors()) {
        let matrix = tensor.shape.len() == 2;
        let values = units(label, tensor.len)
            .map(|unit| if matrix { (unit - 0.5) * 0.5 } else { unit + 0.5 });
        engine.write(tensor.offset, &values.collect::<Vec<f32>>());
    }
}

fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Norm of the difference over norm.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |sum: f64| sum.sqrt();
    let pairs = found.iter().zip(expected);
    let difference = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    norm(difference) / norm(expected.iter().map(|b| f64::from(*b).powi(2)).sum())
}

fn agrees(engine: &mut dyn Engine, file: &[u8]) {
    let file = SafeTensors::deserialize(file).unwrap();
    fill(engine);
    let config = engine.config().clone();
    let tokens = 2 * config.context;
    let ids: Vec<u32> = units(1000, tokens).map(|u| (u * config.vocab as f32) as u32).collect();
    let mut targets = vec![0; tokens];
    let mut weights = vec![0.0; tokens];
    for at in (0..tokens).filter(|at| at % config.context < config.context - 1) {
        (targets[at], weights[at]) = (ids[at + 1], 1.0);
    }
    let batch = Batch {
        sequences: 2,
        length: config.context,
        inputs: &ids,
        targets: &targets,
        weights: &weights,
    };
    let mut grads = vec![0.0; engine.space().len()];
    let loss = engine.gradient(&batch.into(), &mut grads, &Cancel::new()).unwrap();
    let expected = f64::from(numbers(&file, "loss")[0]);
    assert!((loss.mean() - expected).abs() < 1e-5, "{} against {expected}", loss.mean());
    let mut logits = engine.logits(&ids[..config.context]).unwrap();
    logits.extend(engine.logits(&ids[config.context..]).unwrap());
    let error = distance(&logits, &numbers(&file, "logits"));
    assert!(error < 1e-5, "logits: {error}");
    for tensor in engine.space().tensors() {
        let error = distance(&grads[tensor.range()], &numbers(&file, &tensor.name));
        assert!(error < 1e-4, "{}: {error}", tensor.name);
        println!("{:48} {error:.1e}", tensor.name);
    }
    assert_eq!(file.names().len(), engine.space().tensors().len() + 2);
}

#[test]
fn both_engines_agree_with_pytorch_on_every_gradient() {
    let untied = include_bytes!("fixtures/grads_untied.safetensors");
    let tied = include_bytes!("fixtures/grads_tied.safetensors");
    for (share, file) in [(false, untied.as_slice()), (true, tied.as_slice())] {
        agrees(&mut Fast::new(model(share), 2).unwrap(), file);
        agrees(&mut Reference::<f32>::new(model(share)).unwrap(), file);
        agrees(&mut Reference::<f64>::new(model(share)).unwrap(), file);
    }
}
