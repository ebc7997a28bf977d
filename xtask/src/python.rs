//! `cargo xtask python`: builds the wheel of `python/`, installs it into an environment of its own
//! below `target/`, and runs its tests there.
//!
//! Not for: `cargo xtask ci`, which needs no Python. Nothing is installed outside of `target/`.

use crate::tree;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// How this command ends when Python, or a tool that it would fetch, is not to be had.
const NOT_INSTALLED: u8 = 3;

/// Names an interpreter; its PyTorch, if it has one, is used in the tests.
const VARIABLE: &str = "SUANLI_PYTHON";

/// Tells the tests where the program `suanli` is.
const PROGRAM: &str = "SUANLI_PROGRAM";

/// The oldest Python that the wheel serves; `abi3-py310` in the root's Cargo.toml says the same.
const OLDEST: (u32, u32) = (3, 10);

/// What the environment needs: how it is imported, and how it is asked for.
const NEEDS: [(&str, &str); 2] = [("numpy", "numpy>=1.23"), ("maturin", "maturin>=1.9,<2")];

/// Something that is not on this machine; what it is, and what to do.
#[derive(Debug)]
struct Missing {
    what: String,
    then: &'static str,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.then)
    }
}

impl std::error::Error for Missing {}

/// Builds, installs, tests.
pub(crate) fn run() -> Result<ExitCode> {
    match work() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => {
                eprintln!("xtask: not installed: {missing}");
                Ok(ExitCode::from(NOT_INSTALLED))
            }
            None => Err(error),
        },
    }
}

fn work() -> Result<()> {
    let folder = tree::target().join("python");
    let python = interpreter()?;
    let inside = environment(&python, &folder.join("venv"))?;
    lend_torch(&python, &inside)?;
    let wheel = build(&inside, &folder.join("wheels"))?;
    let install = ["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"];
    ended(Command::new(&inside).args(install).arg(&wheel), "install the wheel")?;
    let program = suanli()?;
    let tests = ["-m", "unittest", "discover", "--start-directory", "python/tests"];
    ended(
        Command::new(&inside).current_dir(tree::root()).args(tests).env(PROGRAM, program),
        "the tests",
    )
}

/// The program that the tests of members run; it is built like any other.
fn suanli() -> Result<PathBuf> {
    let build = ["build", "--quiet", "--release", "--package", "suanli"];
    ended(Command::new(tree::cargo()).current_dir(tree::root()).args(build), "build suanli")?;
    Ok(tree::target().join("release").join("suanli"))
}

/// The Python to work with: the one that the variable names, or `python3`.
fn interpreter() -> Result<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let python = named.unwrap_or_else(|| "python3".into());
    let then = "install Python 3.10 or later with its venv module, or name one by SUANLI_PYTHON";
    let ask = "import sys, venv; print(sys.version_info[0], sys.version_info[1])";
    let Some(said) = said(&python, ask) else {
        let what = format!("{} does not run, or lacks venv", python.display());
        return Err(Missing { what, then }.into());
    };
    let words: Vec<u32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match words[..] {
        [major, minor] if (major, minor) >= OLDEST => Ok(python),
        _ => Err(Missing { what: format!("{} is Python {said}", python.display()), then }.into()),
    }
}

/// What a line of Python prints, if it runs.
fn said(python: &Path, line: &str) -> Option<String> {
    let out = Command::new(python).args(["-c", line]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.trim().to_owned())
}

/// An environment with what is needed; made when it is not there. Returns its interpreter.
fn environment(python: &Path, folder: &Path) -> Result<PathBuf> {
    let inside = folder.join("bin").join("python");
    let version = "import sys; print(sys.version)";
    if said(&inside, version).is_none_or(|found| said(python, version) != Some(found)) {
        let make = ["-m", "venv", "--clear"];
        ended(Command::new(python).args(make).arg(folder), "make an environment")?;
    }
    for (module, wanted) in NEEDS {
        if said(&inside, &format!("import {module}")).is_some() {
            continue;
        }
        let install = ["-m", "pip", "install", "--quiet", wanted];
        let done = Command::new(&inside).args(install).status().context("start pip")?;
        if !done.success() {
            let what = format!("{module} for Python could not be fetched");
            let then = "connect to a package index, or put it into target/python/venv";
            return Err(Missing { what, then }.into());
        }
    }
    Ok(inside)
}

/// Shows the PyTorch of the interpreter that was named to the environment; without one the tests that
/// need it are skipped.
fn lend_torch(python: &Path, inside: &Path) -> Result<()> {
    let ask = "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)";
    let place = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let place = said(inside, place).context("the environment has no place for modules")?;
    let link = Path::new(&place).join("lent.pth");
    match std::env::var_os(VARIABLE).and_then(|_| said(python, ask)) {
        Some(torch) => std::fs::write(&link, torch + "\n").context("show PyTorch")?,
        None if link.exists() => std::fs::remove_file(&link).context("hide PyTorch")?,
        None => println!("python: no PyTorch; name an interpreter that has it by {VARIABLE}"),
    }
    Ok(())
}

/// Builds the one wheel.
fn build(inside: &Path, out: &Path) -> Result<PathBuf> {
    if out.exists() {
        std::fs::remove_dir_all(out).context("clear the old wheels")?;
    }
    let mut maturin = Command::new(inside);
    maturin.current_dir(tree::root()).args(["-m", "maturin", "build", "--release", "--locked"]);
    maturin.args(["--manifest-path", "python/Cargo.toml", "--interpreter"]).arg(inside);
    ended(maturin.arg("--out").arg(out), "build the wheel")?;
    let wheels = std::fs::read_dir(out).context("list the wheels")?;
    let wheel = wheels.filter_map(|entry| Some(entry.ok()?.path())).next();
    wheel.context("maturin made no wheel")
}

fn ended(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("start {what}"))?;
    if !status.success() {
        bail!("{what} ended with {status}");
    }
    Ok(())
}
