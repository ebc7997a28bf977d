//! `suanli emulate-link`: a command behind a home's link, on this machine.

use crate::arguments::EmulateLink;
use crate::command::stop_flag;
use crate::context::{Context, block_on};
use crate::exit::{Class, Failure, Whose};
use crate::{link_settings, words};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use suanli_host::control::{Stop, StopReason};
use suanli_link::emulator::{
    DirectionReport, Emulator, EmulatorError, FAR, HOME, Report, Side, enter_user_namespace,
    is_root,
};
use tokio::process::{Child, Command};

/// How long the far side's command may take to end once it is asked to.
const FAR_END: Duration = Duration::from_secs(2);

/// Runs both commands; the answer is the home's exit code.
pub(super) fn run(context: &Context, arguments: &EmulateLink) -> Result<ExitCode, Failure> {
    let profile = link_settings::profile(arguments)?;
    if !is_root() {
        // Now, as long as this process has one thread.
        enter_user_namespace().map_err(failure)?;
    }
    let emulator = Emulator::start(profile, arguments.seed).map_err(failure)?;
    let status = block_on(both(&emulator, arguments))?;
    let report = emulator.report().map_err(failure)?;
    let code = exit_code(status);
    context.answer(&answer(&report, code), || text(context, &report))?;
    Ok(ExitCode::from(code))
}

async fn both(emulator: &Emulator, arguments: &EmulateLink) -> Result<ExitStatus, Failure> {
    let (_, mut stop) = stop_flag(false)?;
    let far = arguments.far.as_ref().map(|line| {
        let mut shell = Command::new("sh");
        // A group of its own, to end with all that it started.
        shell.arg("-c").arg(line).stdin(std::process::Stdio::null()).process_group(0);
        start(emulator.side_b(), &mut shell, "sh")
    });
    let mut far = far.transpose()?;
    let (program, words) = arguments.command.split_first().ok_or_else(|| {
        Failure::usage(
            "expected a command behind --, found none",
            "add one: -- ping -c 3 10.77.0.2",
        )
    })?;
    let mut command = Command::new(program);
    let home = start(emulator.side_a(), command.args(words), &program.to_string_lossy());
    let status = match home {
        Ok(mut home) => wait(&mut home, &mut stop).await,
        Err(failure) => Err(failure),
    };
    if let Some(far) = &mut far {
        end(far).await;
    }
    status
}

/// Starts a process in a side.
fn start(side: &Side, command: &mut Command, name: &str) -> Result<Child, Failure> {
    command.env("SUANLI_LINK_HOME", HOME.to_string()).env("SUANLI_LINK_FAR", FAR.to_string());
    let runtime = tokio::runtime::Handle::current();
    let spawned = side.run_in(|| {
        let _inside = runtime.enter();
        command.kill_on_drop(true).spawn()
    });
    spawned.map_err(failure)?.map_err(|error| {
        Failure::usage(format!("cannot start {name}: {error}"), "name a program of this machine")
    })
}

/// Waits for the command's end. Ctrl-C reaches it by itself; another's SIGTERM is passed on.
async fn wait(child: &mut Child, stop: &mut Stop) -> Result<ExitStatus, Failure> {
    let id = child.id();
    let ended = tokio::select! {
        ended = child.wait() => ended,
        reason = stop.wait() => {
            if let (StopReason::Terminate, Some(id)) = (reason, pid(id)) {
                let _ = kill_process(id, Signal::TERM);
            }
            child.wait().await
        }
    };
    ended.map_err(|error| Failure::ours(format!("cannot wait for the command: {error}")))
}

/// Ends the far side's command and all that it started.
async fn end(far: &mut Child) {
    let Some(group) = pid(far.id()) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let _ = tokio::time::timeout(FAR_END, far.wait()).await;
    let _ = kill_process_group(group, Signal::KILL);
}

fn pid(id: Option<u32>) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id?).ok()?)
}

/// As a shell says it: a signal is 128 and its number.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(1)
}

fn failure(error: EmulatorError) -> Failure {
    let what = error.to_string();
    match error {
        EmulatorError::Profile(_) => Failure::usage(what, ""),
        _ => Failure {
            class: Class::Environment,
            what,
            whose: Whose::ThisMachine,
            next: String::new(),
        },
    }
}

fn answer(report: &Report, code: u8) -> Value {
    json!({ "exit": code, "up": direction(&report.up), "down": direction(&report.down) })
}

fn direction(report: &DirectionReport) -> Value {
    let counts = report.counts;
    json!({
        "offered_packets": counts.offered_packets,
        "offered_bytes": counts.offered_bytes,
        "delivered_packets": counts.delivered_packets,
        "delivered_bytes": counts.delivered_bytes,
        "dropped_by_queue": counts.dropped_by_queue,
        "dropped_by_loss": counts.dropped_by_loss,
        "queue_bytes_max": counts.queue_bytes_max,
        "missed_packets": report.missed_packets,
        "refused_packets": report.refused_packets,
        "late_max_us": report.late_max.0 / 1000,
    })
}

fn text(context: &Context, report: &Report) -> String {
    let language = context.language;
    let line = |name: String, report: &DirectionReport| {
        let counts = report.counts;
        words::link_direction(
            language,
            &name,
            counts.delivered_packets,
            counts.delivered_bytes,
            counts.dropped_by_queue,
            counts.dropped_by_loss,
            counts.queue_bytes_max,
        )
    };
    let mut lines = vec![
        line(words::link_up(language), &report.up),
        line(words::link_down(language), &report.down),
    ];
    let missed = report.up.missed_packets + report.down.missed_packets;
    if missed > 0 {
        lines.push(words::link_missed(language, missed));
    }
    lines.join("\n")
}
