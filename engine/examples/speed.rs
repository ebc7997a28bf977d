//! Tokens a second of training the demo model, on 1 and 2 threads, and of generating with it.
//!
//! `cargo run --release -p suanli-engine --example speed [-- SECONDS [SEQUENCES [wide]]]`; `wide` is
//! a decoder of 13.8 M parameters, the one that engines were compared on before this one was written.

use std::time::Instant;

use suanli_base::Random;
use suanli_engine::{
    Batch, Cancel, Engine, Fast, ModelConfig, Sampling, StepError, StepSettings, initial_params,
};

fn main() -> Result<(), StepError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|argument| argument.parse().ok());
    let seconds: f64 = number(0).unwrap_or(3.0);
    let sequences = number(1).unwrap_or(4.0) as usize;
    let demo = ModelConfig::demo();
    let config = if arguments.get(2).is_some_and(|argument| argument == "wide") {
        let (vocab, hidden, ffn, context) = (4096, 384, 1024, 256);
        ModelConfig { vocab, hidden, layers: 6, heads: 6, kv_heads: 6, ffn, context, ..demo }
    } else {
        demo
    };
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
        let (mut times, mut cpu) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            let (step, used) = (Instant::now(), cpu_seconds());
            engine.step(&batch.into(), &StepSettings::default(), &cancel)?;
            times.push(step.elapsed().as_secs_f64());
            cpu.extend(cpu_seconds().zip(used).map(|(after, before)| after - before));
        }
        times.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        let rate = |at: usize| tokens as f64 / times[at];
        println!(
            "{} threads, {}, {} parameters, {tokens} tokens a step: median {:.0}, best {:.0} tokens/s",
            threads,
            engine.capabilities().kernel,
            config.parameters(),
            rate(times.len() / 2),
            rate(0),
        );
        if let (1, Some(median)) = (threads, cpu.get(cpu.len() / 2)) {
            let (median, best) = (tokens as f64 / median, tokens as f64 / cpu[0]);
            println!("  per second of CPU: median {median:.0}, best {best:.0}");
        }
        let start = Instant::now();
        let mut made = 0;
        let sampling = Sampling { tokens_max: 127, ..Sampling::default() };
        engine.generate(&[0], &sampling, 0, &Cancel::new(), &mut |_| {
            made += 1;
            true
        })?;
        println!("  generates {:.0} tokens/s", f64::from(made) / start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// What this thread has used of a CPU: on a busy machine the better measure. Linux only.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}
