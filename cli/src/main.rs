//! The one binary, `suanli`: parses what was typed, puts settings together, and hands over to the
//! command. What a command does lives in the crates below; here are words, tables and exit codes.

mod arguments;
mod command;
mod config;
mod context;
mod exit;
mod folders;
mod language;
mod nearest;
mod show;
mod words;

use arguments::{Arguments, Command};
use clap::Parser as _;
use context::Context;
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Also how --help and --version end, with their own code.
        Err(error) => error.exit(),
    };
    let json = arguments.global.json;
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.class as u8)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    // The worker process reads no settings and speaks no language.
    if let Command::Worker { rest } = &arguments.command {
        return command::worker(rest);
    }
    let context = Context::new(&arguments.global)?;
    command::run(&context, arguments.command)
}
