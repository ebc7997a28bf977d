//! How fast this machine learns, measured and not guessed.

use crate::exit::Failure;
use std::time::{Duration, Instant};
use suanli_base::Random;
use suanli_engine::{Batch, Cancel, Engine as _, Fast, Settings, StepSettings, initial_params};
use suanli_store::job_file::JobFile;

/// Long enough for a few steps of a small model.
const SPAN: Duration = Duration::from_millis(1500);
const STEPS_MAX: u32 = 50;
/// A model that needs more than this is not tried out just to tell its speed.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Tokens a second of one replica of the job's model with `threads` threads, over a few steps on
/// random tokens. (What the tokens are does not change the arithmetic.)
pub(crate) fn tokens_per_s(job: &JobFile, threads: usize) -> Result<f64, Failure> {
    let mut config = job.model_config(job.tokenizer.vocab);
    config.context = job.model.context;
    let wrong = |error: suanli_engine::StepError| {
        Failure::input(error.to_string(), "correct the sizes in the job file")
    };
    let sequences = job.training.batch_sequences as usize;
    let length = job.model.context;
    let tokens = sequences.saturating_mul(length);
    let memory = job.training_memory_bytes(&config);
    if memory > MEMORY_BYTES_MAX {
        return Err(Failure::usage(
            format!("the model is too large to measure its speed in passing: {memory} bytes"),
            "state the speed: --tokens-per-s N",
        ));
    }
    let params = initial_params(&config, 1);
    let settings = Settings { threads, storage: job.training.storage, ..Settings::default() };
    let mut engine = match &job.lora {
        Some(lora) => {
            let mut engine =
                Fast::adapted(config.clone(), lora, &params, &settings).map_err(wrong)?;
            engine.params_mut().copy_from_slice(&lora.initial(&config, 1));
            engine
        }
        None => {
            let mut engine = Fast::with(config.clone(), &settings).map_err(wrong)?;
            engine.params_mut().copy_from_slice(&params);
            engine
        }
    };
    let mut random = Random::new(1);
    let vocab = config.vocab as u64;
    let ids: Vec<u32> = (0..=tokens).map(|_| random.below(vocab) as u32).collect();
    let weights = vec![1.0; tokens];
    let batch =
        Batch { sequences, length, inputs: &ids[..tokens], targets: &ids[1..], weights: &weights };
    let (settings, cancel) = (StepSettings { lr: 1e-4, ..StepSettings::default() }, Cancel::new());
    // The first step also warms caches and threads up.
    engine.step(&batch.into(), &settings, &cancel).map_err(wrong)?;
    let began = Instant::now();
    let mut steps = 0;
    while steps == 0 || (steps < STEPS_MAX && began.elapsed() < SPAN) {
        engine.step(&batch.into(), &settings, &cancel).map_err(wrong)?;
        steps += 1;
    }
    Ok(tokens as f64 * f64::from(steps) / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_model_has_a_speed() {
        let mut job = JobFile::with_paths(vec!["a".into()]);
        (job.model.hidden, job.model.heads, job.model.kv_heads) = (8, 2, 2);
        (job.model.layers, job.model.ffn, job.model.context) = (1, 16, 8);
        let speed = tokens_per_s(&job, 1).unwrap();
        assert!(speed.is_finite() && speed > 0.0);
    }

    #[test]
    fn a_huge_model_is_not_tried_out() {
        let mut job = JobFile::with_paths(vec!["a".into()]);
        (job.model.hidden, job.model.layers, job.model.ffn) = (8192, 64, 22_016);
        assert!(tokens_per_s(&job, 1).unwrap_err().next.contains("--tokens-per-s"));
    }
}
