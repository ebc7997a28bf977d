//! One function a command.

mod city;
mod doctor;
#[cfg(target_os = "linux")]
mod emulate_link;
mod generate;
mod grant;
mod join;
mod log;
mod merge;
mod network;
mod node;
mod relay;
mod sim;
mod status;
mod train;

use crate::arguments::{Arguments, Command};
use crate::context::{Context, block_on};
use crate::demo;
use crate::exit::Failure;
use clap::CommandFactory as _;
use std::process::ExitCode;
use suanli_host::control::{Stop, StopReason, Stopper, stop_on_signals};

pub(crate) use city::ask_ticket;
pub(crate) use generate::continue_text;
pub(crate) use node::export_job;
pub(crate) use status::event_text;

/// Runs a command to its end; the code is that of a program that it ran, or else zero.
pub(crate) fn run(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::EmulateLink(arguments) => emulate_link::run(context, &arguments),
        other => of_ours(context, other).map(|()| ExitCode::SUCCESS),
    }
}

/// A machine without network namespaces.
#[cfg(not(target_os = "linux"))]
mod emulate_link {
    use super::{Context, ExitCode, Failure};
    use crate::arguments::EmulateLink;

    pub(super) fn run(_: &Context, _: &EmulateLink) -> Result<ExitCode, Failure> {
        Err(Failure::usage("expected Linux for emulate-link, found another system", ""))
    }
}

fn of_ours(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::City(command) => city::run(context, command),
        Command::Grant(command) => grant::run(context, command),
        Command::Join(arguments) => join::run(context, arguments),
        Command::Jobs(folder) => block_on(status::jobs(context, &folder)),
        Command::Watch(arguments) => block_on(status::watch(context, &arguments)),
        Command::Status(folder) => block_on(status::status(context, &folder)),
        Command::Pause(folder) => block_on(node::pause(context, &folder)),
        Command::Resume(folder) => block_on(node::resume(context, &folder)),
        Command::Share(arguments) => block_on(node::share(context, &arguments)),
        Command::Leave(folder) => block_on(node::leave(context, &folder)),
        Command::Export(arguments) => block_on(node::export(context, &arguments)),
        Command::Completions { shell } => completions(shell),
        Command::Doctor(arguments) if arguments.network => network::run(context, &arguments),
        Command::Doctor(_) => doctor::run(context),
        Command::Relay(arguments) => block_on(relay::run(context, arguments)),
        Command::Demo(arguments) => demo::run(context, &arguments),
        Command::Train(arguments) => train::run(context, &arguments),
        Command::Log(command) => log::run(context, &command),
        Command::Generate(arguments) => generate::run(context, &arguments),
        Command::Merge(arguments) => merge::run(context, &arguments),
        Command::Sim(arguments) => sim::run(context, &arguments),
        // `run` hands it on itself.
        Command::EmulateLink(_) => Err(Failure::ours("emulate-link has a code of its own")),
        Command::Worker => Err(Failure::usage("worker must be the first argument", "")),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "suanli", &mut script);
    let text = String::from_utf8(script).map_err(|error| Failure::ours(error.to_string()))?;
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to", "standard output".as_ref(), &error))
        }
        _ => Ok(()),
    }
}

/// The flag that ends a long command: SIGINT, SIGTERM and, for a parent that may die without a
/// word, the end of standard input.
pub(crate) fn stop_flag(on_eof: bool) -> Result<(Stopper, Stop), Failure> {
    let (stopper, stop) =
        stop_on_signals().map_err(|error| Failure::io("listen for", "signals".as_ref(), &error))?;
    if on_eof {
        let stopper = stopper.clone();
        // A plain thread: reading standard input cannot be cancelled, and need not be.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            stopper.stop(StopReason::Terminate);
        });
    }
    Ok((stopper, stop))
}

/// How a long command ends after a clean stop: Ctrl-C is code 130, all else is done.
pub(crate) fn ending(stop: &Stop) -> Result<(), Failure> {
    match stop.reason() {
        Some(StopReason::Interrupt) => Err(Failure::interrupted()),
        _ => Ok(()),
    }
}

/// How this program is called, to be typed again.
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "suanli".into());
    let called = std::path::PathBuf::from(called);
    match called.file_name() {
        Some(name) if called.components().count() == 1 => name.to_string_lossy().into_owned(),
        _ => {
            let here = std::env::current_dir().unwrap_or_default();
            quoted(called.strip_prefix(&here).unwrap_or(&called))
        }
    }
}

/// A path to be typed into a shell.
pub(crate) fn quoted(path: &std::path::Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
