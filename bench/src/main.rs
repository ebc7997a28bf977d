//! The program behind `cargo xtask bench`: ends with 1 when a goal is missed.

use std::process::ExitCode;
use suanli_bench::{Arguments, measure};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(|found| measure(&found)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
