//! What training takes from the memory: as much as said, and nothing more step after step.

#![allow(clippy::unwrap_used, unsafe_code, reason = "a test that counts what the system gives")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use suanli_engine::{
    Activations, Batch, Cancel, Engine, Fast, ModelConfig, StepSettings, initial_params,
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

#[test]
fn a_step_allocates_nothing_after_the_first_and_the_whole_is_as_large_as_said() {
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
    let before = BYTES.load(Ordering::Relaxed);
    let mut engine = Fast::new(config.clone(), 2).unwrap();
    engine.params_mut().copy_from_slice(&start);
    let (settings, cancel) = (StepSettings::default(), Cancel::new());
    engine.step(&batch.into(), &settings, &cancel).unwrap();
    let held = (BYTES.load(Ordering::Relaxed) - before) as f64;
    let said = config.training_memory_bytes(4, config.context, Activations::Kept) as f64;
    assert!((0.9..1.05).contains(&(held / said)), "{held} bytes held, {said} said");
    let calls = CALLS.load(Ordering::Relaxed);
    for _ in 0..3 {
        engine.step(&batch.into(), &settings, &cancel).unwrap();
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), calls);
}
