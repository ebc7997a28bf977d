//! What training takes from the memory: as much as said, and nothing more step after step.

#![allow(clippy::unwrap_used, unsafe_code, reason = "a test that counts what the system gives")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use suanli_engine::{
    Activations, Batch, Cancel, Engine, Fast, ModelConfig, Sampling, Settings, StepSettings,
    Storage, initial_params,
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

#[test]
fn a_step_allocates_nothing_after_the_first_and_the_whole_is_as_large_as_said() {
    let _alone = ALONE.lock();
    let config = ModelConfig::demo();
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
    let start = initial_params(&config, 0);
    let mut sizes = Vec::new();
    for storage in [Storage::F32, Storage::Bf16] {
        for activations in [Activations::Kept, Activations::Recomputed] {
            let before = BYTES.load(Ordering::Relaxed);
            let settings = Settings { threads: 2, activations, storage, ..Settings::default() };
            let mut engine = Fast::with(config.clone(), &settings).unwrap();
            engine.params_mut().copy_from_slice(&start);
            let (step, cancel) = (StepSettings::default(), Cancel::new());
            engine.step(&batch.into(), &step, &cancel).unwrap();
            let held = BYTES.load(Ordering::Relaxed) - before;
            let said = config.training_memory_bytes(4, config.context, activations, storage);
            let ratio = held as f64 / said as f64;
            assert!((0.9..1.05).contains(&ratio), "{held} held, {said} said: {settings:?}");
            let calls = CALLS.load(Ordering::Relaxed);
            for _ in 0..3 {
                engine.step(&batch.into(), &step, &cancel).unwrap();
            }
            assert_eq!(CALLS.load(Ordering::Relaxed), calls, "{settings:?}");
            sizes.push(held);
        }
    }
    let [kept, again, half, half_again] = sizes[..] else { panic!("four ways") };
    assert!(again < kept && half < kept && half_again < half && half_again < again, "{sizes:?}");
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
