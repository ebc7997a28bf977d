//! The simulator over many seeds: nothing is violated, every planted bug is seen, and a seed
//! replays itself.

use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use suanli_sim::{Bug, Report, Settings, run};

const SEEDS: u64 = 1000;
const BUGS_MIN: f64 = 20.0;
const THREADS: u64 = 2;
/// Seeds between two times that the row keeps what it has.
const BATCH: u64 = 20;
/// One seed in so many is run twice.
const TWICE_EVERY: u64 = 50;
/// Of the short form.
const SHORT: Duration = Duration::from_secs(10);

pub(super) fn spec() -> RowSpec {
    RowSpec { name: "sim", what: "the simulator over 1000 seeds, and planted bugs", run: measure }
}

/// What is known so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    /// Seeds 1 to this are done.
    seeds: u64,
    violated: u64,
    /// How to see the first violation again.
    first: Option<String>,
    replayed: u64,
    differed: u64,
    /// By bug: the first seed that shows it, or none when no seed does.
    bugs: BTreeMap<String, Option<u64>>,
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let until = short.then(|| Instant::now() + SHORT);
    let over = || until.is_some_and(|until| Instant::now() >= until);
    let settings = Settings::default();
    let mut found = session.resume::<Found>().unwrap_or_default();
    while found.seeds < SEEDS && !over() {
        let from = found.seeds + 1;
        let to = SEEDS.min(found.seeds + if short { THREADS } else { BATCH });
        for report in batch(from, to, &settings) {
            found.add(&report, &settings);
        }
        found.seeds = to;
        session.keep(&found)?;
        if !short && to.is_multiple_of(5 * BATCH) {
            eprintln!("sim: {to} seeds, {} violated", found.violated);
        }
    }
    let bugs: &[Bug] = if short { &Bug::ALL[..2] } else { Bug::ALL };
    for bug in bugs {
        if found.bugs.contains_key(bug.name()) {
            continue;
        }
        let seed = first_seed(*bug, if short { 20 } else { SEEDS });
        eprintln!("sim: {}: seed {seed:?}", bug.name());
        found.bugs.insert(bug.name().into(), seed);
        session.keep(&found)?;
    }
    session.forget()?;
    Ok(found.rows(short))
}

/// The reports of seeds `from` to `to`, in their order.
fn batch(from: u64, to: u64, settings: &Settings) -> Vec<Report> {
    let next = AtomicU64::new(from);
    let mut reports: Vec<Report> = std::thread::scope(|scope| {
        let work = || {
            let mut reports = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed > to {
                    return reports;
                }
                reports.push(run(seed, settings));
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        // A panic inside a run is one of its violations; one outside is ours.
        let reports = threads.into_iter().map(|thread| thread.join());
        reports.flat_map(|reports| reports.expect("a run catches its own panics")).collect()
    });
    reports.sort_by_key(|report| report.seed);
    reports
}

/// The first of so many seeds in which a planted bug is seen.
fn first_seed(bug: Bug, seeds: u64) -> Option<u64> {
    let settings = Settings { bug: Some(bug), ..Settings::default() };
    let mut from = 1;
    while from <= seeds {
        let to = seeds.min(from + THREADS - 1);
        let seen = batch(from, to, &settings).into_iter().find(|r| !r.violations.is_empty());
        if let Some(report) = seen {
            return Some(report.seed);
        }
        from = to + 1;
    }
    None
}

impl Found {
    fn add(&mut self, report: &Report, settings: &Settings) {
        if report.seed % TWICE_EVERY == 1 {
            let again = run(report.seed, settings).trace_hash;
            self.replayed += 1;
            self.differed += u64::from(again != report.trace_hash);
        }
        if let Some(violation) = report.violations.first() {
            self.violated += 1;
            let text = || format!("{}: {violation}", report.command(settings));
            self.first.get_or_insert_with(text);
        }
    }

    fn rows(&self, short: bool) -> Vec<Row> {
        let row = if short { Row::short } else { Row::new };
        let seen = self.bugs.values().flatten().count() as f64;
        let latest = self.bugs.values().flatten().max().copied().unwrap_or(0);
        let unseen: Vec<&str> =
            self.bugs.iter().filter(|(_, seed)| seed.is_none()).map(|(b, _)| b.as_str()).collect();
        let mut violations = row("sim.violated", self.violated as f64, "seeds", Goal::Exactly(0.0))
            .note(format!("of {}", self.seeds));
        if let Some(first) = &self.first {
            violations = violations.note(first.clone());
        }
        let mut bugs = row("sim.bugs", seen, "seen", Goal::AtLeast(BUGS_MIN))
            .note(format!("of {}, the last by seed {latest}", self.bugs.len()));
        if !unseen.is_empty() {
            bugs = bugs.note(format!("not seen: {}", unseen.join(", ")));
        }
        let replay = row("sim.replay", self.differed as f64, "differ", Goal::Exactly(0.0))
            .note(format!("of {} seeds run twice", self.replayed));
        vec![violations, replay, bugs]
    }
}
