//! Every decoder of bytes from outside, against mutated bytes.
//!
//! A [`Target`] has seeds (good inputs) and a check that must hold for any bytes: no panic, nothing
//! decoded that the format forbids, what was decoded encodes again, and no allocation that the
//! input's length does not justify. Case number n of a seed is the same input on every machine, so
//! a failure is three words: target, seed, case.
//!
//! Not for: coverage-guided search. This finds what a stranger's noise finds, in every test run,
//! on stable Rust; a libFuzzer harness can call the same [`Target::check`].
//!
//! To add a decoder: a file in `targets/`, and a line in [`targets::all`].

mod memory;
mod mutate;
pub mod targets;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use suanli_base::Random;

/// Bytes that any decoder may allocate, whatever comes in.
pub const ALLOCATION_BASE: usize = 1 << 20;
/// Bytes that a decoder may allocate for each byte that came in.
pub const ALLOCATION_PER_BYTE: usize = 64;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    /// What the command line calls it.
    pub name: &'static str,
    /// What must hold, in a sentence.
    pub what: &'static str,
    /// Good inputs, from which the others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Panics when something does not hold for these bytes.
    pub check: fn(&[u8]),
    /// The largest single allocation that `check` may make for an input of so many bytes.
    pub allocation: fn(usize) -> usize,
}

impl Target {
    /// A target whose decoder keeps to [`ALLOCATION_BASE`] and [`ALLOCATION_PER_BYTE`].
    #[must_use]
    pub const fn new(
        name: &'static str,
        what: &'static str,
        seeds: fn() -> Vec<Vec<u8>>,
        check: fn(&[u8]),
    ) -> Self {
        Self { name, what, seeds, check, allocation: usual_allocation }
    }
}

fn usual_allocation(len: usize) -> usize {
    ALLOCATION_BASE + ALLOCATION_PER_BYTE * len
}

/// A case that broke something.
#[derive(Debug)]
pub struct Failure {
    /// The target.
    pub target: &'static str,
    /// The seed.
    pub seed: u64,
    /// The case.
    pub case: u64,
    /// What was fed.
    pub input: Vec<u8>,
    /// What went wrong.
    pub message: String,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { target, seed, case, message, .. } = self;
        writeln!(f, "{target}, seed {seed}, case {case}: {message}")?;
        writeln!(f, "input ({} bytes): {}", self.input.len(), shown(&self.input))?;
        write!(f, "again: cargo run -p suanli-fuzz -- {target} --seed {seed} --case {case}")
    }
}

/// Text as text, anything else in hexadecimal; the first bytes of long inputs.
fn shown(input: &[u8]) -> String {
    let head = &input[..input.len().min(256)];
    match std::str::from_utf8(head) {
        Ok(text) => format!("{text:?}"),
        Err(_) => head.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The bytes of one case.
#[must_use]
pub fn input(seeds: &[Vec<u8>], seed: u64, case: u64) -> Vec<u8> {
    mutate::input(seeds, &mut Random::new(seed).fork(case))
}

/// Runs one case.
///
/// # Errors
/// The [`Failure`], when something does not hold.
pub fn run_case(
    target: &Target,
    seeds: &[Vec<u8>],
    seed: u64,
    case: u64,
) -> Result<(), Box<Failure>> {
    let input = input(seeds, seed, case);
    run_input(target, &input)
        .map_err(|message| Box::new(Failure { target: target.name, seed, case, input, message }))
}

/// Runs the check on bytes of the caller's choice.
///
/// # Errors
/// What went wrong, in words.
pub fn run_input(target: &Target, input: &[u8]) -> Result<(), String> {
    memory::begin();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    let largest = memory::largest();
    if let Err(panic) = outcome {
        return Err(message(panic.as_ref()));
    }
    let bound = (target.allocation)(input.len());
    if largest > bound {
        return Err(format!(
            "{} bytes of input made it allocate {largest} bytes at once, at most {bound} are allowed",
            input.len()
        ));
    }
    Ok(())
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "without a text".into()))
}

/// Runs cases from `first` until `time` is over; returns how many. At least one is run.
///
/// # Errors
/// The first [`Failure`].
pub fn run_for(
    target: &Target,
    seed: u64,
    first: u64,
    time: Duration,
) -> Result<u64, Box<Failure>> {
    let seeds = (target.seeds)();
    for good in &seeds {
        run_input(target, good).map_err(|message| {
            let (target, input) = (target.name, good.clone());
            Box::new(Failure {
                target,
                seed,
                case: 0,
                input,
                message: format!("a seed: {message}"),
            })
        })?;
    }
    let begun = Instant::now();
    let mut case = first;
    loop {
        run_case(target, &seeds, seed, case)?;
        case += 1;
        if begun.elapsed() >= time {
            return Ok(case - first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(check: fn(&[u8])) -> Target {
        Target::new("broken", "", || vec![b"good input".to_vec()], check)
    }

    fn first_failure(check: fn(&[u8])) -> Box<Failure> {
        run_for(&broken(check), 1, 0, Duration::from_secs(20)).unwrap_err()
    }

    #[test]
    fn a_decoder_that_trusts_a_length_is_caught_and_the_case_replays() {
        let found = first_failure(|bytes| {
            let claimed = bytes.first().map_or(0, |byte| usize::from(*byte));
            if claimed > 200 {
                let _ = std::hint::black_box(&bytes[..claimed]);
            }
        });
        assert!(found.message.contains("panicked"), "{found}");
        let seeds = vec![b"good input".to_vec()];
        assert_eq!(input(&seeds, found.seed, found.case), found.input);
    }

    #[test]
    fn a_decoder_that_allocates_before_it_checks_is_caught() {
        let found = first_failure(|bytes| {
            let claimed = bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
            let _ = std::hint::black_box(Vec::<u8>::with_capacity(claimed as usize % (1 << 28)));
        });
        assert!(found.message.contains("allocate"), "{found}");
    }

    #[test]
    fn equal_seed_and_case_give_equal_bytes() {
        let seeds = vec![vec![7; 100], b"x".to_vec()];
        let all: Vec<_> = (0..50).map(|case| input(&seeds, 9, case)).collect();
        let again: Vec<_> = (0..50).map(|case| input(&seeds, 9, case)).collect();
        assert_eq!(all, again);
        assert_ne!(all[0], all[1]);
    }

    #[test]
    fn every_target_has_a_name_of_its_own_and_a_seed() {
        let mut names: Vec<_> = targets::all().iter().map(|target| target.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), targets::all().len());
        assert!(targets::all().iter().all(|target| !(target.seeds)().is_empty()));
    }
}
