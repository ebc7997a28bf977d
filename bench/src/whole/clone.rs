//! What a stranger types and waits for: from a clone to a trained, exported model.

use crate::{Goal, Length, Row, RowSpec, Session, root, run};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SECONDS_MAX: f64 = 600.0;
const COMMANDS_MAX: f64 = 1.0;
/// Nobody waits longer; neither does the row.
const LIMIT: Duration = Duration::from_secs(1800);

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "clone",
        what: "commands and seconds from a clone to an exported model",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let folder = session.scratch()?;
    let demo = folder.join("demo");
    let short = session.length() == Length::Short;
    let begun = Instant::now();
    let mut command = if short {
        let mut command = Command::new(session.binary()?);
        command.args(["demo", "--rounds", "4", "--no-chaos"]);
        command
    } else {
        let clone = folder.join("clone");
        run(Command::new("git").args(["clone", "--quiet"]).arg(root()).arg(&clone))?;
        let mut command = Command::new("cargo");
        // The stranger builds where cargo builds by itself.
        command.current_dir(&clone).env_remove("CARGO_TARGET_DIR");
        command.args(["run", "--quiet", "--release", "--locked", "--", "demo"]);
        command
    };
    command.arg("--dir").arg(&demo).args(["--lang", "en"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SUANLI_") {
            command.env_remove(&name);
        }
    }
    for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env(name, folder.join("home"));
    }
    let log = folder.join("demo.log");
    run_within(&mut command, &log)?;
    let seconds = begun.elapsed().as_secs_f64();
    let model = demo.join("checkpoint").join("model.safetensors");
    let bytes = model.metadata().with_context(|| format!("find {}", model.display()))?.len();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let note = format!("{cores} cores, model of {:.1} MB", bytes as f64 / 1e6);
    let row = if short { Row::short } else { Row::new };
    Ok(vec![
        row("clone.seconds", seconds, "s", Goal::AtMost(SECONDS_MAX)).note(note),
        // The one above; `git clone` is how the stranger got here.
        row("clone.commands", 1.0, "", Goal::AtMost(COMMANDS_MAX)),
    ])
}

/// Runs a command to its end, its words into a log.
fn run_within(command: &mut Command, log: &Path) -> Result<()> {
    let out = File::create(log).with_context(|| format!("write {}", log.display()))?;
    let errors = out.try_clone().context("share the log")?;
    let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
    let mut child = child.with_context(|| format!("start {command:?}"))?;
    let begun = Instant::now();
    let tail = || {
        let text = std::fs::read(log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    };
    loop {
        if let Some(status) = child.try_wait().context("look after the demo")? {
            if status.success() {
                return Ok(());
            }
            bail!("{command:?} ended with {status}\n{}", tail());
        }
        if begun.elapsed() > LIMIT {
            child.kill().context("end the demo")?;
            child.wait().context("wait for the demo's end")?;
            bail!("{command:?} was not done within {LIMIT:?}\n{}", tail());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
