//! How long a stranger waits for the binary: a cold release build, with nothing but the sources
//! that cargo has fetched.

use crate::{Goal, Length, Row, RowSpec, Session, cargo, run};
use anyhow::Result;
use std::time::Instant;

/// On two cores.
const SECONDS_MAX: f64 = 300.0;

pub(crate) fn spec() -> RowSpec {
    RowSpec { name: "build", what: "cold release build of the suanli binary", run: measure }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    if session.length() == Length::Short {
        let why = "a cold build takes minutes: measured by the whole form";
        return Ok(vec![Row::not_measured("build", Goal::AtMost(SECONDS_MAX), why)]);
    }
    run(cargo().args(["fetch", "--quiet", "--locked"]))?;
    let target = session.scratch()?;
    let begun = Instant::now();
    let build = ["build", "--quiet", "--release", "--locked", "--package", "suanli"];
    run(cargo().args(build).env("CARGO_TARGET_DIR", &target))?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(target.join("release").join("suanli"))?.len();
    session.scratch()?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let regime = format!("{cores} cores, binary {:.1} MB", bytes as f64 / 1e6);
    Ok(vec![Row::new("build", seconds, "s", Goal::AtMost(SECONDS_MAX)).note(regime)])
}
