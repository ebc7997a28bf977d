//! The one binary, `suanli`: parses what was typed, puts settings together, and hands over to the
//! command. What a command does lives in the crates below; here are words, tables and exit codes.

mod arguments;
mod command;
mod config;
mod context;
mod demo;
mod exit;
mod folders;
mod grant_settings;
mod help;
mod language;
mod link_settings;
mod measure;
mod nearest;
mod plan;
mod show;
mod svg;
mod upload_settings;
mod verify;
mod words;

use arguments::Arguments;
use clap::{CommandFactory as _, FromArgMatches as _};
use context::Context;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The worker process closes what it inherited, so it comes before anything that opens a file.
    if std::env::args_os().nth(1).is_some_and(|first| first == "worker") {
        return ExitCode::from(suanli_worker::child::main());
    }
    // A word that is no text is no language either.
    let words = std::env::args_os().skip(1).filter_map(|word| word.into_string().ok());
    let language = help::language_of(words, |name| std::env::var(name).ok());
    let command = help::in_language(Arguments::command(), language);
    let matches = command.try_get_matches();
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        // Also how --help and --version end, with their own code.
        Err(error) => error.exit(),
    };
    let json = arguments.global.json;
    let (ended, language) = match Context::new(&arguments.global) {
        Ok(context) => (command::run(&context, arguments.command), context.language),
        Err(failure) => (Err(failure), language),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            failure.report(json, language);
            ExitCode::from(failure.class as u8)
        }
    }
}
