//! A family killed with -9 every twenty seconds: what the run loses by it.
//!
//! Two runs of one job: undisturbed, which gives the loss to compare with, and disturbed. Each
//! family lends less than its part of the cores, so that the others do not become faster when one
//! is gone; what the living could make is then the time that each was alive, times the speed of a
//! family in the same run while nobody was missing: a machine's speed changes in ten minutes.

use super::live::Live;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use suanli_base::Random;
use suanli_host::control::{JobState, JobStatus};
use suanli_store::job_file::Length as JobLength;

const FAMILIES: u32 = 4;
/// Of a thread each: the four and the city fit on two cores.
const SHARE_PERCENT: u32 = 35;
const KILL_EVERY: Duration = Duration::from_secs(20);
/// How long a killed family is gone.
const GONE: Duration = Duration::from_secs(3);
/// After this a family that came back works as before.
const SETTLED: Duration = Duration::from_secs(4);
/// Seconds of calm in all that give a speed.
const CALM_S_MIN: f64 = 20.0;
const TOKENS_MIN: f64 = 95.0;
const LOSS_MAX: f64 = 2.0;
/// Of the undisturbed run, about.
const RUN_S: f64 = 300.0;
const LIMIT: Duration = Duration::from_secs(1200);

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "families",
        what: "a family killed every 20 s: rounds lost, tokens committed, loss",
        run: measure,
    }
}

/// The undisturbed run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Undisturbed {
    rounds: u64,
    /// From the first committed round to the last.
    seconds: f64,
    tokens: u64,
    loss: f64,
}

/// The disturbed run.
#[derive(Clone, Copy, Debug, Default)]
struct Disturbed {
    kills: u64,
    rounds_lost: u64,
    tokens: u64,
    loss: f64,
    /// Sum over families of the time they were alive, from the first committed round to the last.
    alive_s: f64,
    /// Tokens a second of all families while nobody was missing; none when that was too short.
    calm_rate: Option<f64>,
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let undisturbed = match session.resume::<Undisturbed>() {
        Some(kept) => kept,
        None => {
            let measured = undisturbed(session, short)?;
            session.keep(&measured)?;
            measured
        }
    };
    let disturbed = disturbed(session, short, undisturbed.rounds)?;
    session.forget()?;
    let undisturbed_rate = undisturbed.tokens as f64 / undisturbed.seconds;
    let rate = disturbed.calm_rate.unwrap_or(undisturbed_rate);
    let could = rate / f64::from(FAMILIES) * disturbed.alive_s;
    let share = 100.0 * disturbed.tokens as f64 / could;
    let loss = 100.0 * (disturbed.loss / undisturbed.loss - 1.0);
    let row = if short { Row::short } else { Row::new };
    let note = format!(
        "{} kills in {:.0} family seconds; {rate:.0} tokens/s between kills, \
         {undisturbed_rate:.0} undisturbed over {:.0} s",
        disturbed.kills, disturbed.alive_s, undisturbed.seconds,
    );
    Ok(vec![
        row("families.lost", disturbed.rounds_lost as f64, "rounds", Goal::Exactly(0.0)).note(note),
        row("families.tokens", share, "%", Goal::AtLeast(TOKENS_MIN)),
        row("families.loss", loss, "%", Goal::AtMost(LOSS_MAX))
            .note(format!("{:.4} against {:.4}", disturbed.loss, undisturbed.loss)),
    ])
}

/// A city with the job and its families.
fn start(session: &Session, short: bool, rounds: u64) -> Result<Live> {
    let mut live = Live::found(session)?;
    live.serve(None)?;
    live.submit(session, |job| {
        if short {
            job.training.inner_steps = 10;
        }
        job.replicas.min = FAMILIES;
        job.replicas.expected = FAMILIES;
        // As many tokens for both runs: their losses are those of equal work, and of a schedule
        // that has come to its end.
        job.training.length = JobLength::Tokens(rounds * job.tokens_per_round());
    })?;
    for family in 1..=FAMILIES {
        live.join(&format!("family-{family}"), SHARE_PERCENT)?;
    }
    Ok(live)
}

fn undisturbed(session: &Session, short: bool) -> Result<Undisturbed> {
    let rounds = if short { 6 } else { rounds_of(session, RUN_S)? };
    eprintln!("families: undisturbed, {rounds} rounds");
    let mut live = start(session, short, rounds)?;
    let first = live.until("the first round", LIMIT, |job| job.round > 0)?;
    let begun = Instant::now();
    let last = live.until("the job's end", LIMIT, |job| job.state == JobState::Done)?;
    let seconds = begun.elapsed().as_secs_f64();
    let loss = last_loss(&mut live)?;
    Ok(Undisturbed { rounds, seconds, tokens: last.tokens - first.tokens, loss })
}

/// How many rounds take so many seconds: measured over a few.
fn rounds_of(session: &Session, seconds: f64) -> Result<u64> {
    let mut live = start(session, false, 10_000)?;
    let first = live.until("the first round", LIMIT, |job| job.round >= 1)?.round;
    let begun = Instant::now();
    let last = live.until("some rounds", LIMIT, |job| job.round >= first + 4)?.round;
    let each = begun.elapsed().as_secs_f64() / (last - first) as f64;
    Ok(((seconds / each).round() as u64).max(8))
}

/// Held-out loss at the last version, which the city measures a moment after it commits.
fn last_loss(live: &mut Live) -> Result<f64> {
    let measured = |job: &JobStatus| job.losses.last().is_some_and(|l| l.round == job.round);
    let job = live.until("the last loss", Duration::from_secs(60), measured)?;
    Ok(job.losses.last().context("a loss was measured")?.loss)
}

/// Who is alive since when, and for how long all were together.
#[derive(Default)]
struct Alive {
    since: BTreeMap<String, Instant>,
    total: Duration,
}

impl Alive {
    fn begin(&mut self, name: &str) {
        self.since.insert(name.into(), Instant::now());
    }

    fn end(&mut self, name: &str) {
        if let Some(since) = self.since.remove(name) {
            self.total += since.elapsed();
        }
    }
}

/// Times and tokens from one committed round to another while nobody is missing.
#[derive(Default)]
struct Calm {
    first: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
    seconds: f64,
    tokens: u64,
}

impl Calm {
    fn committed(&mut self, tokens: u64) {
        let now = Some((Instant::now(), tokens));
        self.first = self.first.or(now);
        self.last = now;
    }

    fn end(&mut self) {
        if let (Some((since, before)), Some((until, after))) = (self.first.take(), self.last.take())
        {
            self.seconds += until.duration_since(since).as_secs_f64();
            self.tokens += after - before;
        }
    }

    fn rate(&self) -> Option<f64> {
        (self.seconds > CALM_S_MIN).then(|| self.tokens as f64 / self.seconds)
    }
}

fn disturbed(session: &Session, short: bool, rounds: u64) -> Result<Disturbed> {
    eprintln!("families: disturbed, {rounds} rounds");
    let kill_every = if short { Duration::from_secs(4) } else { KILL_EVERY };
    let mut live = start(session, short, rounds)?;
    let mut seen = live.until("the first round", LIMIT, |job| job.round > 0)?;
    let first = seen.tokens;
    let (mut found, mut alive, mut random) =
        (Disturbed::default(), Alive::default(), Random::new(5));
    live.names().iter().for_each(|name| alive.begin(name));
    let (begun, mut killed, mut gone) = (Instant::now(), Instant::now(), None::<(String, Instant)>);
    let (mut calm, mut back) = (Calm::default(), None::<Instant>);
    while seen.state != JobState::Done {
        ensure!(begun.elapsed() < LIMIT, "not done after {LIMIT:?}, round {}", seen.round);
        if let Some((name, _)) = gone.take_if(|(_, since)| since.elapsed() >= GONE) {
            live.join(&name, SHARE_PERCENT)?;
            alive.begin(&name);
            back = Some(Instant::now());
        }
        if gone.is_none() && killed.elapsed() >= kill_every {
            let names = live.names();
            let name = names[random.below(names.len() as u64) as usize].clone();
            live.kill(&name)?;
            alive.end(&name);
            calm.end();
            (killed, found.kills) = (Instant::now(), found.kills + 1);
            eprintln!("families: {name} killed at round {}", seen.round);
            gone = Some((name, killed));
        }
        std::thread::sleep(Duration::from_millis(100));
        live.look_after()?;
        let job = live.job()?;
        found.rounds_lost += seen.round.saturating_sub(job.round);
        let settled = back.is_none_or(|back| back.elapsed() >= SETTLED);
        if job.round > seen.round && gone.is_none() && settled {
            calm.committed(job.tokens);
        }
        seen = job;
    }
    live.names().iter().for_each(|name| alive.end(name));
    found.alive_s = alive.total.as_secs_f64();
    found.tokens = seen.tokens - first;
    calm.end();
    found.calm_rate = calm.rate();
    found.loss = last_loss(&mut live)?;
    live.kill_city()?;
    live.verify().context("the city's record after the run")?;
    Ok(found)
}
