//! The commands of this repository: `cargo xtask ci | layers | words | licences | bits | python |
//! second-client | nat | bench`.
//!
//! Not for: anything that needs our own crates. What does (benches) lives in `bench/` and is
//! started from here, so that xtask builds in seconds.

mod bits;
mod ci;
mod layers;
mod licences;
mod nat;
mod python;
mod second_client;
mod tree;
mod words;

use anyhow::{Result, bail, ensure};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci [--short]      what CI runs: format, layers, words, licences, lints, tests, docs, seeds,
                    fuzzing, same bits, benches; --short leaves out the last five
  layers [--write]  check that every crate uses lower layers only, and that both READMEs show the
                    table; --write puts the table into them
  words             check the words of the tree: no machine paths, no registry hosts, no stubs
  licences          check that every dependency has a licence that we accept
  bits [--short | --qemu | --aarch64 | --write]
                    the same numbers from every kernel, thread count and profile; --qemu on
                    emulated x86-64 CPUs, --aarch64 on an emulated ARM one (3: not installed);
                    --write makes the list of hashes anew
  python            build the wheel of python/ and run its tests in target/python (3: no Python);
                    SUANLI_PYTHON names an interpreter, whose PyTorch is tested with
  second-client     the second implementation of RDPA, in Python, against the test vectors and a node of
                    ours; 3 without Python 3.10
  nat               homes behind routers join a city that nobody can reach from outside, in network
                    namespaces (3: not possible here)
  bench NAME [--short] [--fresh] [--row ROW] [--json FILE]
                    measure; ends with 1 when a goal is missed (bench --list names them all)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci"] => ci::run(ci::Length::Whole)?,
        ["ci", "--short"] => ci::run(ci::Length::Short)?,
        ["layers"] => layers::run(layers::Table::Check)?,
        ["layers", "--write"] => layers::run(layers::Table::Write)?,
        ["words"] => words::run()?,
        ["licences"] => licences::run()?,
        ["bits"] => return bits::run(bits::Extent::Whole),
        ["bits", "--short"] => return bits::run(bits::Extent::Short),
        ["bits", "--qemu"] => return bits::run(bits::Extent::Qemu),
        ["bits", "--aarch64"] => return bits::run(bits::Extent::Aarch64),
        ["bits", "--write"] => return bits::run(bits::Extent::Write),
        ["python"] => return python::run(),
        ["second-client"] => return Ok(second_client::run()?.into()),
        ["nat"] => return Ok(nat::run(true)?.into()),
        // What it runs of itself, in namespaces.
        ["nat", "--inside"] => nat::inside()?,
        ["nat", "--router", kind] => nat::router(kind)?,
        ["bench", rest @ ..] => return bench(rest),
        [] | ["help" | "--help" | "-h"] => print!("{USAGE}"),
        _ => bail!("unknown command \"{}\"\n\n{USAGE}", words.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

fn bench(arguments: &[&str]) -> Result<ExitCode> {
    // Other tools on the same work take minutes to build, which the short form has not.
    let whole = arguments.contains(&"rdpa") && !arguments.contains(&"--short");
    let peers: &[&str] = if whole { &["--features", "suanli-bench/peers"] } else { &[] };
    // Of the workspace, as every build here: a package built alone has other features than one built
    // with its neighbours, and half of what they need would be compiled twice.
    let built = Command::new(tree::cargo())
        .current_dir(tree::root())
        .args(["build", "--quiet", "--release", "--workspace", "--bin", "suanli-bench"])
        .args(peers)
        .status()?;
    ensure!(built.success(), "cargo build ended with {built}");
    let program = tree::target().join("release").join("suanli-bench");
    let status = Command::new(program)
        .current_dir(tree::root())
        .args(arguments)
        .env("CARGO", tree::cargo())
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
