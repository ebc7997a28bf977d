//! `cargo xtask second-client`: RDPA's second implementation (`tests/rdpa`, plain Python, written from
//! `docs/spec` alone) against the test vectors, and against a real node of ours.

use crate::tree;
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Names an interpreter.
const VARIABLE: &str = "SUANLI_PYTHON";
/// The oldest Python that the client is written for.
const OLDEST: &str = "import sys; sys.exit(sys.version_info < (3, 10))";

/// How it ended.
pub(crate) enum Ended {
    Agreed,
    /// No Python that is new enough.
    NotHere,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Agreed => Self::SUCCESS,
            Ended::NotHere => Self::from(3),
        }
    }
}

/// Builds the node, and runs both.
pub(crate) fn run() -> Result<Ended> {
    let named = std::env::var_os(VARIABLE);
    let python = named.unwrap_or_else(|| "python3".into());
    let mut look = Command::new(&python);
    let found = look.args(["-c", OLDEST]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        let python = Path::new(&python).display();
        println!("second-client: {python} is not Python 3.10 or later: not tested");
        return Ok(Ended::NotHere);
    }
    let built = Command::new(tree::cargo())
        .current_dir(tree::root())
        .args(["build", "--locked", "--workspace", "--example", "hold"])
        .status()?;
    ensure!(built.success(), "cargo build ended with {built}");
    let node = tree::target().join("debug").join("examples").join("hold");
    let folder = tree::root().join("tests").join("rdpa");
    for (program, argument) in [("vectors.py", None), ("against_node.py", Some(&node))] {
        let mut command = Command::new(&python);
        // The tree stays as it is.
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(folder.join(program)).args(argument);
        let ended = command.stdin(Stdio::null()).status()?;
        if !ended.success() {
            bail!("{program} ended with {ended}");
        }
    }
    Ok(Ended::Agreed)
}
