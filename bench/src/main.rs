//! The program behind `cargo xtask bench`: ends with 1 when a goal is missed.

use std::process::ExitCode;
use suanli_bench::{Arguments, engine, measure};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, load] = &words[..]
        && first == engine::SIDE
    {
        return match engine::serve(load) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error:#}", engine::SIDE);
                ExitCode::FAILURE
            }
        };
    }
    match Arguments::parse(words.into_iter()).and_then(|found| measure(&found)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
