//! NIXL's UCX backend over TCP, driven by a Python program beside this file.

use crate::root;
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A reader and a holder in processes of their own.
pub(super) struct Nixl {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(super) version: String,
}

impl Nixl {
    /// Starts both; the inner error says what is missing on this machine.
    pub(super) fn start(bytes: usize) -> Result<Result<Self, String>> {
        let Some(python) = std::env::var_os("SUANLI_PYTHON") else {
            return Ok(Err("set SUANLI_PYTHON to a Python that has the package nixl".into()));
        };
        let has = Command::new(&python).args(["-c", "import nixl, numpy"]).output();
        if !has.is_ok_and(|has| has.status.success()) {
            return Ok(Err("SUANLI_PYTHON has no package nixl: pip install nixl numpy".into()));
        }
        let program = root().join("bench/src/rdpa/peers/ucx.py");
        let mut child = Command::new(python)
            .arg(program)
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start Python")?;
        let asks = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        let mut nixl = Self { child, asks, answers, version: String::new() };
        let line = nixl.line()?;
        let Some(version) = line.strip_prefix("ready ") else { bail!("NIXL began with {line:?}") };
        nixl.version = version.into();
        Ok(Ok(nixl))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("what NIXL says")?;
        ensure!(!line.is_empty(), "NIXL's program ended: {}", self.child.wait()?);
        Ok(line.trim().into())
    }

    /// MB/s of one READ.
    pub(super) fn turn(&mut self) -> Result<f64> {
        self.asks.as_mut().context("it runs")?.write_all(b"turn\n")?;
        self.line()?.parse().context("NIXL's rate")
    }
}

impl Drop for Nixl {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.asks.take();
        let _ = self.child.wait();
    }
}
