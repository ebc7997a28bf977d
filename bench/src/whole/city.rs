//! A city killed with -9 again and again, half of the times at fault points of its own: no
//! committed round is lost, the chain of heads stays the same, and work goes on soon.

use super::live::chain::OnDisk;
use super::live::{LOOK, Live};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use suanli_base::Random;
use suanli_host::control::JobStatus;
use suanli_store::job_file::Length as JobLength;

/// The points of `host::fault` that a city passes.
const FAULTS: &[&str] = &["before-append", "after-append"];
const FAMILIES: u32 = 4;
const SECONDS_MAX: f64 = 10.0;
/// How long work may take to go on before the row gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A city passes each of its points this often within seconds.
const PASSES_MAX: u64 = 12;

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "city",
        what: "a city killed 50 times: rounds lost, other heads, seconds until work goes on",
        run: measure,
    }
}

struct Trial {
    live: Live,
    random: Random,
    known: OnDisk,
    /// The newest round that the running city told of.
    told: u64,
    rounds_lost: u64,
    heads_changed: u64,
    seconds: Vec<f64>,
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    // Two kills a cycle: one at random, one at a fault point.
    let cycles: usize = if short { 1 } else { 25 };
    let mut live = Live::found(session)?;
    live.serve(None)?;
    live.submit(session, |job| {
        job.training.length = JobLength::Rounds(100_000);
        job.training.inner_steps = 6;
        job.replicas.min = FAMILIES;
        job.replicas.expected = FAMILIES;
    })?;
    for family in 1..=FAMILIES {
        live.join(&format!("family-{family}"), 100)?;
    }
    live.until("the first rounds", Duration::from_secs(120), |job| job.round >= 2)?;
    let mut trial = Trial {
        live,
        random: Random::new(9),
        known: OnDisk::default(),
        told: 0,
        rounds_lost: 0,
        heads_changed: 0,
        seconds: Vec::new(),
    };
    for cycle in 0..cycles {
        trial.kill_at_random()?;
        let fault = FAULTS[cycle % FAULTS.len()];
        trial.kill_at(fault)?;
        trial.live.serve(None)?;
        trial.until_work_goes_on()?;
        eprintln!(
            "city: {} kills, round {}, {} rounds lost, {} heads changed, longest {:.1} s",
            2 * (cycle + 1),
            trial.told,
            trial.rounds_lost,
            trial.heads_changed,
            longest(&trial.seconds),
        );
    }
    trial.live.look_after()?;
    trial.live.kill_city()?;
    trial.compare()?;
    trial.live.verify()?;
    let row = if short { Row::short } else { Row::new };
    let mut sorted = trial.seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let kills = format!("{} kills up to round {}", 2 * cycles, trial.known.round);
    let median = format!("{} restarts, median {:.1} s", sorted.len(), sorted[sorted.len() / 2]);
    Ok(vec![
        row("city.lost", trial.rounds_lost as f64, "rounds", Goal::Exactly(0.0)).note(kills),
        row("city.heads", trial.heads_changed as f64, "changed", Goal::Exactly(0.0)),
        row("city.goes-on", longest(&sorted), "s", Goal::AtMost(SECONDS_MAX)).note(median),
    ])
}

fn longest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(0.0, f64::max)
}

impl Trial {
    fn kill_at_random(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_millis(300 + self.random.below(3000));
        while Instant::now() < until {
            self.told = self.told.max(self.live.job()?.round);
            std::thread::sleep(LOOK);
        }
        self.live.kill_city()?;
        self.compare()
    }

    /// Runs a city that ends itself at a fault point.
    fn kill_at(&mut self, fault: &str) -> Result<()> {
        let pass = 1 + self.random.below(PASSES_MAX);
        self.live.serve(Some(&format!("{fault}:{pass}")))?;
        let (begun, mut start, mut went_on) = (Instant::now(), None, false);
        while self.live.city_runs()? {
            if begun.elapsed() > PATIENCE {
                bail!("fault point {fault} was not passed {pass} times within {PATIENCE:?}");
            }
            // It may end while it answers.
            if let Ok(job) = self.live.job() {
                self.told = self.told.max(job.round);
                let start = *start.get_or_insert_with(|| done(&job));
                if !went_on && done(&job) > start {
                    went_on = true;
                    self.seconds.push(begun.elapsed().as_secs_f64());
                }
            }
            std::thread::sleep(LOOK);
        }
        self.compare()
    }

    fn until_work_goes_on(&mut self) -> Result<()> {
        let begun = Instant::now();
        let start = done(&self.live.job()?);
        let job = self.live.until("work goes on", PATIENCE, |job| done(job) > start)?;
        self.seconds.push(begun.elapsed().as_secs_f64());
        self.told = self.told.max(job.round);
        Ok(())
    }

    /// Holds what lies on the disk now against all that was known.
    fn compare(&mut self) -> Result<()> {
        let now = OnDisk::read(&self.live.city_folder())?;
        let (lost, changed) = self.known.lost_in(&now);
        self.rounds_lost += lost.max(self.told.saturating_sub(now.round));
        self.heads_changed += changed;
        self.told = now.round;
        self.known = now;
        Ok(())
    }
}

/// Accepted contributions: the first thing that shows that work goes on.
fn done(job: &JobStatus) -> u64 {
    job.contributions.iter().map(|family| family.contributions).sum()
}
