//! From typing `suanli join` to the first accepted contribution, in the middle of a run.

use super::live::Live;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use std::time::{Duration, Instant};
use suanli_host::control::JobStatus;
use suanli_store::job_file::Length as JobLength;

const SECONDS_MAX: f64 = 15.0;
/// Of a thread each, so that the three together leave room for a newcomer on two cores.
const SHARE_PERCENT: u32 = 50;

pub(super) fn spec() -> RowSpec {
    RowSpec { name: "join", what: "join in mid-run to first accepted contribution", run: measure }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let newcomers = if short { 1 } else { 5 };
    let mut live = Live::found(session)?;
    live.serve(None)?;
    live.submit(session, |job| {
        job.training.length = JobLength::Rounds(10_000);
        if short {
            job.training.inner_steps = 10;
        }
    })?;
    for family in 1..=3 {
        live.join(&format!("family-{family}"), SHARE_PERCENT)?;
    }
    live.until("the first rounds", Duration::from_secs(120), |job| job.round >= 2)?;
    let mut seconds: Vec<f64> = Vec::new();
    for newcomer in 1..=newcomers {
        let name = format!("newcomer-{newcomer}");
        let begun = Instant::now();
        live.join(&name, SHARE_PERCENT)?;
        live.until(&name, Duration::from_secs(60), |job| contributions(job, &name) > 0)?;
        seconds.push(begun.elapsed().as_secs_f64());
        live.kill(&name)?;
    }
    let longest = seconds.iter().copied().fold(0.0, f64::max);
    let list: Vec<String> = seconds.iter().map(|s| format!("{s:.1}")).collect();
    let row = if short { Row::short } else { Row::new };
    let goal = Goal::AtMost(SECONDS_MAX);
    Ok(vec![row("join", longest, "s", goal).note(format!("the longest of {}", list.join(" ")))])
}

fn contributions(job: &JobStatus, name: &str) -> u64 {
    job.contributions.iter().filter(|c| c.name == name).map(|c| c.contributions).sum()
}
