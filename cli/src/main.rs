//! The one binary, `suanli`: parses what was typed, puts settings together, and hands over to the
//! command. What a command does lives in the crates below; here are words, tables and exit codes.

mod arguments;
mod command;
mod config;
mod context;
mod demo;
mod exit;
mod folders;
mod language;
mod measure;
mod nearest;
mod plan;
mod show;
mod svg;
mod verify;
mod words;

use arguments::Arguments;
use clap::Parser as _;
use context::Context;
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The worker process closes what it inherited, so it comes before anything that opens a file.
    if std::env::args_os().nth(1).is_some_and(|first| first == "worker") {
        return ExitCode::from(suanli_host::worker::child::main());
    }
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
    let context = Context::new(&arguments.global)?;
    command::run(&context, arguments.command)
}
