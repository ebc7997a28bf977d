//! What generation reads against what a whole text gives, bit for bit.

use suanli_base::Random;

use crate::sampling::Reader as _;
use crate::{
    Cancel, Engine as _, Fast, KernelChoice, ModelConfig, RopeScaling, Settings, StepError,
};

const CHOICES: [KernelChoice; 3] =
    [KernelChoice::Portable, KernelChoice::Avx2, KernelChoice::Avx512];

/// Widths that fill no panel, groups of heads, more positions than a page holds.
fn models() -> Vec<ModelConfig> {
    let odd = ModelConfig {
        vocab: 69,
        hidden: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 37,
        context: 700,
        rope_theta: 500.0,
        ..ModelConfig::demo()
    };
    vec![
        ModelConfig {
            tied: true,
            rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
            ..odd.clone()
        },
        ModelConfig { qkv_bias: true, head_dim: Some(10), ..odd.clone() },
        ModelConfig { qk_norm: true, kv_heads: 4, ..odd.clone() },
        // Matrices that are large enough to be shared among threads.
        ModelConfig { hidden: 320, heads: 10, kv_heads: 5, ffn: 300, context: 40, ..odd },
    ]
}

fn engine(config: &ModelConfig, threads: usize, choice: KernelChoice) -> Option<Fast> {
    let settings = Settings { threads, kernel: choice, ..Settings::default() };
    let mut engine = match Fast::with(config.clone(), &settings) {
        Err(StepError::Kernel(_)) => return None,
        other => other.unwrap(),
    };
    let mut random = Random::new(7);
    engine.params_mut().fill_with(|| random.unit_f32() - 0.5);
    Some(engine)
}

fn text(config: &ModelConfig, len: usize) -> Vec<u32> {
    let mut random = Random::new(5);
    (0..len.min(config.context)).map(|_| random.below(config.vocab as u64) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The logits after every piece of `ids`, cut at `cuts`.
fn read_in(engine: &mut Fast, ids: &[u32], cuts: &[usize]) -> Vec<Vec<u32>> {
    engine.begin().unwrap();
    let starts = [0].iter().chain(cuts);
    let ends = cuts.iter().copied().chain([ids.len()]);
    let pieces: Vec<_> = starts.zip(ends).map(|(start, end)| &ids[*start..end]).collect();
    pieces
        .into_iter()
        .map(|piece| {
            engine.read_on(piece, &Cancel::new()).unwrap();
            bits(engine.last_logits())
        })
        .collect()
}

#[test]
fn a_text_read_in_pieces_gives_the_bits_of_the_whole_for_all_threads_and_kernels() {
    for config in models() {
        let ids = text(&config, 620);
        let vocab = config.vocab;
        let mut judge = engine(&config, 1, KernelChoice::Portable).unwrap();
        let whole = bits(&judge.logits(&ids).unwrap());
        let after = |count: usize| &whole[(count - 1) * vocab..count * vocab];
        let all: Vec<usize> = (1..ids.len()).collect();
        let cuts: [&[usize]; 4] = [&[], &[1, 2, 4, 35], &[30], &all];
        for choice in CHOICES {
            for threads in [1, 2, 3, 8] {
                let Some(mut engine) = engine(&config, threads, choice) else {
                    println!("skipped: this CPU has no {choice:?}");
                    continue;
                };
                for cuts in cuts {
                    // Token by token on every machine takes long where nothing is at stake.
                    if cuts.len() > 4 && threads > 2 {
                        continue;
                    }
                    let found = read_in(&mut engine, &ids, cuts);
                    let ends = cuts.iter().copied().chain([ids.len()]);
                    for (found, end) in found.iter().zip(ends) {
                        assert!(found == after(end), "{config:?} {choice:?} {threads} at {end}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_new_text_knows_nothing_of_the_one_before_and_a_long_context_costs_nothing_at_first() {
    let config = ModelConfig { context: crate::CONTEXT_MAX, ..models()[1].clone() };
    let mut model = engine(&config, 2, KernelChoice::Best).unwrap();
    let ids = text(&config, 300);
    let first = read_in(&mut model, &ids, &[100]);
    assert_eq!(model.decoder.kept_bytes(), 2 * 4 * 2 * 256 * config.kv_width() * config.layers);
    read_in(&mut model, &ids[200..], &[]);
    assert_eq!(read_in(&mut model, &ids, &[100]), first);
    let mut fresh = engine(&config, 2, KernelChoice::Best).unwrap();
    read_in(&mut fresh, &ids[..9], &[]);
    assert_eq!(fresh.decoder.kept_bytes(), 4 * 2 * 256 * config.kv_width() * config.layers);
}
