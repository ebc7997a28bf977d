//! Tokens a second of training the demo model, on 1 and 2 threads, and of generating with it.
//!
//! `cargo run --release -p suanli-engine --example speed [-- SECONDS [SEQUENCES]]`

use std::time::Instant;

use suanli_base::Random;
use suanli_engine::{
    Batch, Cancel, Engine, Fast, ModelConfig, Sampling, StepError, StepSettings, initial_params,
};

fn main() -> Result<(), StepError> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let seconds: f64 = arguments.next().unwrap_or(3.0);
    let sequences = arguments.next().unwrap_or(4.0) as usize;
    let config = ModelConfig::demo();
    let tokens = sequences * config.context;
    let mut random = Random::new(1);
    let ids: Vec<u32> = (0..=tokens).map(|_| random.below(256) as u32).collect();
    let weights = vec![1.0; tokens];
    let batch = Batch {
        sequences,
        length: config.context,
        inputs: &ids[..tokens],
        targets: &ids[1..],
        weights: &weights,
    };
    let cancel = Cancel::new();
    for threads in [1, 2] {
        let mut engine = Fast::new(config.clone(), threads)?;
        engine.params_mut().copy_from_slice(&initial_params(&config, 0));
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            let step = Instant::now();
            engine.step(&batch, &StepSettings::default(), &cancel)?;
            times.push(step.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let rate = |at: usize| tokens as f64 / times[at];
        println!(
            "{} threads, {}, {} parameters, {tokens} tokens a step: median {:.0}, best {:.0} tokens/s",
            threads,
            engine.capabilities().kernel,
            config.parameters(),
            rate(times.len() / 2),
            rate(0),
        );
        let start = Instant::now();
        let mut made = 0;
        let sampling = Sampling { tokens_max: 127, ..Sampling::default() };
        engine.generate(&[0], &sampling, 0, &mut |_| {
            made += 1;
            true
        })?;
        println!("  generates {:.0} tokens/s", f64::from(made) / start.elapsed().as_secs_f64());
    }
    Ok(())
}
