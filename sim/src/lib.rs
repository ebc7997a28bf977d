//! The same machines under a virtual clock, network and disk; faults, checkers, planted bugs.
//!
//! Level 0: one city and tens of families train a tiny model with the plain reference engine. The
//! nodes are [`suanli_node`]'s, the ones that ship; the hosts here do every piece of work as the real
//! host must, on a disk that loses what was not synced and over links that lose frames. Everything
//! follows from one seed: equal seeds give equal trace hashes.
//!
//! Not for: throughput, real sockets or the shell's own code.

mod audit;
mod checkers;
mod city_host;
mod city_log;
mod context;
pub mod disk;
mod family_host;
mod faults;
mod job;
mod network;
mod plant;
mod replica;
mod world;

pub use network::Weather;
pub use plant::{Bug, NoSuchBug};

use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use suanli_base::Duration;

/// What a run is like, apart from its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Families of the city.
    pub families: usize,
    /// Rounds to commit.
    pub rounds: u64,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Until when, in virtual milliseconds.
    pub fault_ms: u64,
    /// A planted defect.
    pub bug: Option<Bug>,
    /// The city's operator brings back an old copy of its folder: nobody who saw more may follow.
    pub forked: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { families: 20, rounds: 12, faults: true, fault_ms: 30_000, bug: None, forked: false }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// A hash over everything that happened, in order.
    pub trace_hash: u64,
    /// What did not hold: empty, or the first thing.
    pub violations: Vec<String>,
    /// Committed rounds.
    pub rounds: u64,
    /// Accepted contributions.
    pub contributions: u64,
    /// Families that turned away from their city.
    pub refusals: u64,
    /// Times a node went down without a word.
    pub crashes: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time it took.
    pub time: Duration,
}

impl Report {
    /// The one command that replays it.
    #[must_use]
    pub fn command(&self, settings: &Settings) -> String {
        let bug = settings.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
        format!("suanli sim --seed {} --families {}{bug}", self.seed, settings.families)
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, settings: &Settings) -> Report {
    let mut world = world::World::new(seed, settings);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut violations = world.watch.violations().to_vec();
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        violations.push(format!("panic: {}", text.unwrap_or_default()));
    }
    Report {
        seed,
        trace_hash: world.trace,
        violations,
        rounds: world.watch.rounds,
        contributions: world.watch.accepted_count(),
        refusals: world.refusals,
        crashes: world.crashes,
        events: world.events,
        time: world.virtual_time(),
    }
}

/// Runs seeds one after the other and hands each report to `each`, until that says false.
pub fn sweep(
    seeds: impl IntoIterator<Item = u64>,
    settings: &Settings,
    mut each: impl FnMut(&Report) -> bool,
) {
    for seed in seeds {
        if !each(&run(seed, settings)) {
            return;
        }
    }
}
