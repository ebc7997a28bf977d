//! What must never happen, looked for: violations in the pair tests by seed, panics in decoders.

use crate::{Goal, Length, Row, RowSpec, Session, root};
use anyhow::{Context, Result};
use std::process::Command;
use std::time::Instant;

const SEEDS: u64 = 10_000;
const FUZZ_S: u64 = 3_600;
/// Decodes any bytes as a peer's frames and drives a session with them.
const TARGET: &str = "session-accepting";

pub(super) fn pair() -> RowSpec {
    RowSpec {
        name: "pair",
        what: "two sessions under loss, reordering and duplication, 10 000 seeds: violations",
        run: measure_pair,
    }
}

pub(super) fn fuzz() -> RowSpec {
    RowSpec {
        name: "fuzz",
        what: "an hour of mutated frames into a session: panics",
        run: measure_fuzz,
    }
}

fn measure_pair(session: &mut Session) -> Result<Vec<Row>> {
    let goal = Goal::Exactly(0.0);
    if session.length() == Length::Short {
        return Ok(vec![Row::not_measured("pair", goal, "the tests run fewer seeds of it")]);
    }
    let arguments = ["test", "--release", "--locked", "-q", "-p", "suanli-rdpa", "--test", "pair"];
    let begun = Instant::now();
    let output = cargo(&arguments).env("SUANLI_PAIR_SEEDS", SEEDS.to_string()).output();
    let output = output.context("start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.matches("FAILED").count();
    let violations = if output.status.success() { 0 } else { failed.max(1) };
    let took = begun.elapsed().as_secs_f64();
    let note = format!("{SEEDS} seeds of each test in {took:.0} s, the build included");
    Ok(vec![Row::new("pair", violations as f64, "tests", goal).note(note)])
}

fn measure_fuzz(session: &mut Session) -> Result<Vec<Row>> {
    let goal = Goal::Exactly(0.0);
    if session.length() == Length::Short {
        return Ok(vec![Row::not_measured("fuzz", goal, "CI has a stage for it")]);
    }
    let seconds = FUZZ_S.to_string();
    let arguments = ["run", "--release", "--locked", "-q", "-p", "suanli-fuzz", "--", TARGET];
    let output = cargo(&arguments).args(["--seconds", &seconds]).output().context("start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let panics = if output.status.success() { 0.0 } else { 1.0 };
    let told = if panics > 0.0 { String::from_utf8_lossy(&output.stderr) } else { text };
    let note = format!("{seconds} s of {}", told.trim());
    Ok(vec![Row::new("fuzz", panics, "panics", goal).note(note)])
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}
