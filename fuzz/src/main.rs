//! `cargo run -p suanli-fuzz -- TARGET|all [--seconds N] [--seed S] [--case C]`

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use std::time::Duration;
use suanli_fuzz::{Failure, Target, run_case, run_for, targets};

struct Arguments {
    targets: Vec<Target>,
    seconds: u64,
    seed: u64,
    case: Option<u64>,
}

fn main() -> ExitCode {
    let done = parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let (mut name, mut seconds, mut seed, mut case) = (None, 10, 0, None);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let value = words.next().with_context(|| format!("{word} needs a number"))?;
            value.parse().with_context(|| format!("{word} needs a number, found {value:?}"))
        };
        match word.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = number()?,
            "--case" => case = Some(number()?),
            _ if name.is_none() && !word.starts_with('-') => name = Some(word),
            _ => bail!("unknown argument {word:?}"),
        }
    }
    let all = targets::all();
    let list = all.iter().map(|t| format!("  {:<20} {}", t.name, t.what)).collect::<Vec<_>>();
    let name = name.with_context(|| format!("name a target, or all:\n{}", list.join("\n")))?;
    let chosen: Vec<Target> =
        all.iter().filter(|target| name == "all" || target.name == name).copied().collect();
    if chosen.is_empty() {
        bail!("no target {name:?}; there are:\n{}", list.join("\n"));
    }
    Ok(Arguments { targets: chosen, seconds, seed, case })
}

fn run(arguments: &Arguments) -> Result<()> {
    let failed = |failure: Box<Failure>| anyhow::anyhow!("{failure}");
    for target in &arguments.targets {
        if let Some(case) = arguments.case {
            run_case(target, &(target.seeds)(), arguments.seed, case).map_err(failed)?;
            println!("{}: case {case} holds", target.name);
            continue;
        }
        let time = Duration::from_secs(arguments.seconds);
        let cases = run_for(target, arguments.seed, 0, time).map_err(failed)?;
        println!("{:<20} {cases} cases hold", target.name);
    }
    Ok(())
}
