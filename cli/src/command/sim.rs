//! `suanli sim`: seeds of the simulator. A seed that fails names the one command that replays it.

use crate::arguments::Sim;
use crate::context::Context;
use crate::exit::Failure;
use serde::Serialize;
use suanli_sim::{Report, Settings, sweep};

/// After so many failing seeds a sweep has told enough.
const FAILURES_MAX: usize = 5;

#[derive(Serialize)]
struct Answer {
    seeds: u64,
    rounds: u64,
    contributions: u64,
    crashes: u64,
    events: u64,
    virtual_ms: u64,
    trace_hash: u64,
    failures: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    replay: String,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(context: &Context, arguments: &Sim) -> Result<(), Failure> {
    let settings = Settings {
        families: usize::from(arguments.families),
        bug: arguments.bug,
        ..Settings::default()
    };
    let mut answer = Answer {
        seeds: 0,
        rounds: 0,
        contributions: 0,
        crashes: 0,
        events: 0,
        virtual_ms: 0,
        trace_hash: 0,
        failures: Vec::new(),
    };
    let end = arguments.seed.saturating_add(arguments.seeds);
    sweep(arguments.seed..end, &settings, |report| {
        answer.seeds += 1;
        answer.rounds += report.rounds;
        answer.contributions += report.contributions;
        answer.crashes += report.crashes;
        answer.events += report.events;
        answer.virtual_ms += report.time.0;
        answer.trace_hash = answer.trace_hash.rotate_left(1) ^ report.trace_hash;
        if !report.violations.is_empty() {
            let replay = report.command(&settings);
            answer.failures.push(Failed { replay, report: report.clone() });
        }
        answer.failures.len() < FAILURES_MAX
    });
    context.answer(&answer, || text(&answer))?;
    match answer.failures.len() {
        0 => Ok(()),
        failed => Err(Failure::ours(format!("{failed} of {} seeds failed", answer.seeds))),
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for Failed { replay, report } in &answer.failures {
        text += &format!("seed {} failed; replay it with: {replay}\n", report.seed);
        for violation in &report.violations {
            text += &format!("    {violation}\n");
        }
    }
    let Answer { seeds, rounds, contributions, crashes, events, virtual_ms, trace_hash, .. } =
        answer;
    let hours = *virtual_ms as f64 / 3_600_000.0;
    text + &format!(
        "{seeds} seeds, {hours:.1} virtual hours: {rounds} rounds of {contributions} contributions, {crashes} crashes, {events} events, trace hash {trace_hash:016x}"
    )
}
