//! Bytes on the wire of a real run against data parallel, counted outside of our own program.

use super::live::Live;
use super::live::relay::Relay;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use std::time::Duration;
use suanli_host::control::JobState;
use suanli_store::job_file::Length as JobLength;

const TIMES_FEWER_MIN: f64 = 200.0;
const FAMILIES: u32 = 4;

pub(super) fn spec() -> RowSpec {
    RowSpec { name: "wire", what: "socket bytes of a run against data parallel", run: measure }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let (rounds, steps) = if short { (3, 10) } else { (20, 30) };
    let mut live = Live::found(session)?;
    let relay = Relay::start(live.address())?;
    live.advertise(relay.address());
    live.serve(None)?;
    live.submit(session, |job| {
        job.training.length = JobLength::Rounds(rounds);
        job.training.inner_steps = steps;
        job.replicas.min = FAMILIES;
        job.replicas.expected = FAMILIES;
    })?;
    for family in 1..=FAMILIES {
        live.join(&format!("family-{family}"), 100)?;
    }
    let limit = Duration::from_secs(if short { 120 } else { 900 });
    let job = live.until("the job's end", limit, |job| job.state == JobState::Done)?;
    // The last update is on its way to everyone still.
    std::thread::sleep(Duration::from_secs(2));
    let status = live.job()?;
    let (up, down) = relay.bytes();
    let steps: u64 = status.contributions.iter().map(|family| family.steps).sum();
    let aside = status.traffic.bytes_first_download + status.traffic.bytes_shards;
    let ours = (up + down).saturating_sub(aside);
    let theirs = 8 * job.parameters * steps;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let note = format!(
        "{rounds} rounds, {steps} steps; {:.2} MB up, {:.2} MB down, of these {:.2} MB first \
         download and {:.2} MB data; the city's own count is {:.2} MB in all",
        megabytes(up),
        megabytes(down),
        megabytes(status.traffic.bytes_first_download),
        megabytes(status.traffic.bytes_shards),
        megabytes(status.traffic.bytes_up + status.traffic.bytes_down),
    );
    let (value, goal) = (theirs as f64 / ours as f64, Goal::AtLeast(TIMES_FEWER_MIN));
    let row = if short { Row::short } else { Row::new };
    Ok(vec![row("wire", value, "x", goal).note(note)])
}
