//! What training takes from the memory: as much as said, and nothing more step after step.

#![allow(clippy::unwrap_used, unsafe_code, reason = "a test that counts what the system gives")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use suanli_engine::{
    Activations, Batch, Cancel, Engine, Fast, Lora, ModelConfig, Sampling, Settings, StepSettings,
    Storage, Target, initial_params,
};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes that an engine holds after a step; fails when they are not about as many as `said`, or
/// when another step allocates.
fn held(config: &ModelConfig, said: u64, make: impl FnOnce() -> Fast) -> usize {
    let tokens = 4 * config.context;
    let ids: Vec<u32> = (0..=tokens as u32).map(|i| i * 37 % 256).collect();
    let weights = vec![1.0; tokens];
    let batch = Batch {
        sequences: 4,
        length: config.context,
        inputs: &ids[..tokens],
        targets: &ids[1..],
        weights: &weights,
    };
    let before = BYTES.load(Ordering::Relaxed);
    let mut engine = make();
    let (step, cancel) = (StepSettings::default(), Cancel::new());
    engine.step(&batch.into(), &step, &cancel).unwrap();
    let held = BYTES.load(Ordering::Relaxed) - before;
    let ratio = held as f64 / said as f64;
    assert!((0.9..1.05).contains(&ratio), "{held} held, {said} said");
    let calls = CALLS.load(Ordering::Relaxed);
    for _ in 0..3 {
        engine.step(&batch.into(), &step, &cancel).unwrap();
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), calls);
    held
}

const WAYS: [(Storage, Activations); 4] = [
    (Storage::F32, Activations::Kept),
    (Storage::F32, Activations::Recomputed),
    (Storage::Bf16, Activations::Kept),
    (Storage::Bf16, Activations::Recomputed),
];

#[test]
fn a_step_allocates_nothing_after_the_first_and_the_whole_is_as_large_as_said() {
    let _alone = ALONE.lock();
    let config = ModelConfig::demo();
    let start = initial_params(&config, 0);
    let sizes = WAYS.map(|(storage, activations)| {
        let settings = Settings { threads: 2, activations, storage, ..Settings::default() };
        let said = config.training_memory_bytes(4, config.context, activations, storage);
        held(&config, said, || {
            let mut engine = Fast::with(config.clone(), &settings).unwrap();
            engine.params_mut().copy_from_slice(&start);
            engine
        })
    });
    let [kept, again, half, half_again] = sizes;
    assert!(again < kept && half < kept && half_again < half && half_again < again, "{sizes:?}");
}

#[test]
fn adapters_take_as_much_as_said_and_less_than_training_all() {
    let _alone = ALONE.lock();
    // Large enough for the parameters to count.
    let config =
        ModelConfig { hidden: 256, layers: 6, heads: 8, kv_heads: 8, ..ModelConfig::demo() };
    let config = ModelConfig { ffn: 704, context: 64, ..config };
    let start = initial_params(&config, 0);
    let lora = Lora { rank: 8, alpha: 16.0, targets: Target::ALL.to_vec() };
    for (storage, activations) in WAYS {
        let settings = Settings { threads: 2, activations, storage, ..Settings::default() };
        let said = lora.training_memory_bytes(&config, 4, config.context, activations, storage);
        let all = config.training_memory_bytes(4, config.context, activations, storage);
        let taken = held(&config, said, || {
            let mut engine = Fast::adapted(config.clone(), &lora, &start, &settings).unwrap();
            engine.params_mut().copy_from_slice(&lora.initial(&config, 0));
            engine
        });
        assert!((taken as u64) < all * 2 / 3, "{taken} of {all}: {settings:?}");
    }
}

#[test]
fn a_token_allocates_nothing_and_a_long_context_takes_memory_only_as_it_fills() {
    let _alone = ALONE.lock();
    let config = ModelConfig { context: 1 << 17, ..ModelConfig::demo() };
    let mut engine = Fast::new(config.clone(), 2).unwrap();
    engine.params_mut().copy_from_slice(&initial_params(&config, 0));
    let sampling = Sampling { top_k: 40, tokens_max: 200, ..Sampling::default() };
    let (mut calls, mut bytes) = (Vec::with_capacity(200), Vec::with_capacity(200));
    let before = BYTES.load(Ordering::Relaxed);
    engine
        .generate(&[1; 40], &sampling, 1, &Cancel::new(), &mut |_| {
            calls.push(CALLS.load(Ordering::Relaxed));
            bytes.push(BYTES.load(Ordering::Relaxed) - before);
            true
        })
        .unwrap();
    assert_eq!(calls.len(), 200);
    // The second token is the first that is read alone. 240 positions fit a page.
    assert_eq!(calls[2], calls[199]);
    let page = 4 * 2 * 256 * config.kv_width() * config.layers;
    assert!(bytes[199] < page + (1 << 20), "{}", bytes[199]);
}
