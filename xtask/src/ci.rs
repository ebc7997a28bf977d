//! What CI runs, stage by stage, each with its time. The first failure ends it.

use crate::{layers, licences, nat, second_client, tree, words};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Everything.
    Whole,
    /// Without docs, seeds, fuzzing, bits and benches: before every commit.
    Short,
}

/// Runs every stage.
pub(crate) fn run(length: Length) -> Result<()> {
    let begun = Instant::now();
    let mut tests = Tests::default();
    stage("format", || cargo(&["fmt", "--all", "--check"]))?;
    stage("layers", || layers::run(layers::Table::Check))?;
    stage("words", words::run)?;
    stage("licences", licences::run)?;
    stage("lints", || {
        cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--features",
            "suanli-bench/peers",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    stage("tests", || {
        tests = cargo_test()?;
        Ok(())
    })?;
    if length == Length::Whole {
        stage("docs", docs)?;
        stage("seeds", seeds)?;
        stage("fuzz", fuzz)?;
        stage("nat", || match nat::run(false)? {
            nat::Ended::Passed | nat::Ended::NotHere => Ok(()),
            nat::Ended::Failed => bail!("two homes behind routers did not find each other"),
        })?;
        stage("second client", || second_client::run().map(|_| ()))?;
        stage("bits", || cargo(&["xtask", "bits", "--short"]))?;
        stage("benches", || {
            cargo(&["xtask", "bench", "whole", "--short"])?;
            cargo(&["xtask", "bench", "engine", "--short"])?;
            cargo(&["xtask", "bench", "rdpa", "--short"])
        })?;
    }
    println!("\nci: all stages passed in {:.0} s", begun.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", tests.passed, tests.failed, tests.skipped);
    Ok(())
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let begun = Instant::now();
    let result = work().with_context(|| format!("stage {name}"));
    let ended = if result.is_ok() { "done" } else { "FAILED" };
    println!("== {name}: {ended} in {:.1} s", begun.elapsed().as_secs_f64());
    result
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(tree::cargo());
    command.current_dir(tree::root()).args(arguments).stdin(Stdio::null());
    // Nothing here is built twice, so what only helps a second build is left out: it would be
    // gigabytes.
    command.env("CARGO_INCREMENTAL", "0");
    command
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let status = command(arguments).status().context("start cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// With the features of the lints, whose half-compiled libraries serve here too.
fn docs() -> Result<()> {
    let arguments =
        ["doc", "--locked", "--workspace", "--no-deps", "--features", "suanli-bench/peers"];
    let status = command(&arguments).env("RUSTDOCFLAGS", "-D warnings").status()?;
    if !status.success() {
        bail!("cargo doc ended with {status}");
    }
    Ok(())
}

/// A handful of the simulator's seeds, always the same: what stops a change must be the change.
/// Other seeds are for `cargo xtask bench` and for whoever looks for trouble.
fn seeds() -> Result<()> {
    built("suanli", &["sim", "--seeds", "50"])
}

/// A minute of mutated bytes.
fn fuzz() -> Result<()> {
    built("suanli-fuzz", &["all", "--seconds", "2"])
}

/// Runs a program that the stage of tests built. `cargo run --package` would choose the features
/// of that package alone, and build most of the workspace a second time.
fn built(program: &str, arguments: &[&str]) -> Result<()> {
    let path = tree::target().join("debug").join(program);
    let mut command = Command::new(&path);
    let status = command.current_dir(tree::root()).args(arguments).status();
    let status = status.with_context(|| format!("start {}", path.display()))?;
    if !status.success() {
        bail!("{program} {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Sums of the lines in which test runners close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tests {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = counts.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

fn cargo_test() -> Result<Tests> {
    let arguments = ["test", "--locked", "--workspace"];
    let mut test = command(&arguments);
    // Property tests draw the same cases each time: what stops a change must be the change.
    test.env("PROPTEST_RNG_SEED", "1").stdout(Stdio::piped());
    let mut child = test.spawn().context("start cargo")?;
    let output = child.stdout.take().context("the output of cargo test")?;
    let mut tests = Tests::default();
    let mut here = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        tests.add(&String::from_utf8_lossy(&line));
        here.write_all(&line)?;
        here.write_all(b"\n")?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    if tests.passed == 0 {
        bail!("cargo test ran no test at all");
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut sum = Tests::default();
        sum.add("running 3 tests");
        sum.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(sum, Tests { passed: 4, failed: 2, skipped: 1 });
    }
}
