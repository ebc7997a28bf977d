//! The figures of this repository, measured on the machine at hand: `cargo xtask bench NAME`.
//!
//! A bench is a list of [`RowSpec`]s; running one gives [`Row`]s with a value, a goal and a verdict.
//! To add a figure, write a file beside `whole/build.rs` and name it in `whole::rows`.
//!
//! Not for: tests. A test says right or wrong in seconds, a row says how much in minutes.
//!
//! Invariants: a row is printed as soon as it is known; a long row keeps what it has measured in
//! `target/bench/NAME/ROW.json` and goes on from there; a missed goal ends the program with 1.

mod arguments;
pub mod engine;
pub mod rdpa;
mod row;
mod session;
pub mod whole;

pub use arguments::{Arguments, Length, Start};
pub use row::{Goal, Row, Verdict};
pub use session::{Session, cargo, root, run};

use anyhow::{Context, Result, bail};

/// A figure to measure. One run may give several rows, named `NAME` or `NAME.PART`.
pub struct RowSpec {
    /// What `--row` calls it.
    pub name: &'static str,
    /// What is measured, in a sentence.
    pub what: &'static str,
    /// How.
    pub run: fn(&mut Session) -> Result<Vec<Row>>,
}

/// Rows that are measured together.
struct Bench {
    name: &'static str,
    rows: fn() -> Vec<RowSpec>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "whole", rows: whole::rows },
    Bench { name: "engine", rows: engine::rows },
    Bench { name: "rdpa", rows: rdpa::rows },
];

/// Measures what the arguments ask for. Returns whether every goal was met.
///
/// # Errors
/// For a bench or row that does not exist, or a file that cannot be written. A row that breaks is
/// a row with the verdict [`Verdict::Failed`], not an error.
pub fn measure(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for bench in BENCHES {
            for spec in (bench.rows)() {
                println!("{} {:<16} {}", bench.name, spec.name, spec.what);
            }
        }
        return Ok(true);
    }
    let names = BENCHES.iter().map(|bench| bench.name).collect::<Vec<_>>().join(", ");
    let name = arguments.name.as_deref().with_context(|| format!("name a bench: {names}"))?;
    let bench = BENCHES.iter().find(|bench| bench.name == name);
    let bench = bench.with_context(|| format!("no bench \"{name}\"; there are: {names}"))?;
    let mut specs = (bench.rows)();
    if let Some(row) = &arguments.row {
        let known = specs.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
        specs.retain(|spec| spec.name == row);
        if specs.is_empty() {
            bail!("bench {name} has no row \"{row}\"; there are: {known}");
        }
    }
    let rows = measure_rows(bench.name, &specs, arguments);
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&rows).context("rows as JSON")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(rows.iter().all(|row| row.verdict != Verdict::Missed && row.verdict != Verdict::Failed))
}

fn measure_rows(bench: &str, specs: &[RowSpec], arguments: &Arguments) -> Vec<Row> {
    println!("{}", row::heading());
    let mut rows = Vec::new();
    for spec in specs {
        let begun = std::time::Instant::now();
        let measured = Session::new(bench, spec.name, arguments.length, arguments.start)
            .and_then(|mut session| (spec.run)(&mut session));
        let measured = measured.unwrap_or_else(|error| vec![Row::failed(spec.name, &error)]);
        for row in measured {
            println!("{row}");
            rows.push(row);
        }
        eprintln!("{}: {:.0} s", spec.name, begun.elapsed().as_secs_f64());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        for bench in BENCHES {
            let rows = (bench.rows)();
            let names: BTreeSet<&str> = rows.iter().map(|spec| spec.name).collect();
            assert_eq!(names.len(), rows.len(), "{}", bench.name);
        }
    }

    #[test]
    fn a_row_that_breaks_is_a_failed_row_and_the_next_one_runs() {
        fn breaks(_: &mut Session) -> Result<Vec<Row>> {
            bail!("no such machine")
        }
        fn works(_: &mut Session) -> Result<Vec<Row>> {
            Ok(vec![Row::new("works", 1.0, "s", Goal::AtMost(2.0))])
        }
        let specs = [
            RowSpec { name: "breaks", what: "", run: breaks },
            RowSpec { name: "works", what: "", run: works },
        ];
        let rows = measure_rows("self-test", &specs, &Arguments::default());
        assert_eq!(rows[0].verdict, Verdict::Failed);
        assert!(rows[0].notes[0].contains("no such machine"));
        assert_eq!(rows[1].verdict, Verdict::Met);
    }
}
