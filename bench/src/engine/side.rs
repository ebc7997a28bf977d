//! One side of a comparison: a process that takes steps when told, ours or the peer's.
//!
//! A side says `{"ready": ...}` once it is warm, then answers each line with a number of steps by
//! `{"seconds": [...], "peak_rss_bytes": n}`. Each has a process of its own, so that memory is its
//! own too.

use crate::root;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::generate::Speech;
use suanli_base::Random;
use suanli_engine::{Batch, Cancel, Engine, Fast, ModelConfig, StepSettings, initial_params};

/// The word that makes this program a side instead of a bench.
pub const SIDE: &str = "engine-side";
/// The Python that has torch.
const PYTHON: &str = "SUANLI_PYTHON";

/// What our side does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Steps of training.
    Train(Load),
    /// Texts of a checkpoint.
    Generate(Speech),
}

/// What is trained, and on how many threads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) model: ModelConfig,
    pub(super) sequences: usize,
    pub(super) threads: usize,
}

impl Load {
    /// The decoder of 13.8 M parameters that engines were compared on before this one was written.
    pub(super) fn compared(threads: usize) -> Self {
        let (vocab, hidden, layers, ffn, context) = (4096, 384, 6, 1024, 256);
        let (heads, kv_heads, tied) = (6, 6, false);
        let demo = ModelConfig::demo();
        let model =
            ModelConfig { vocab, hidden, layers, heads, kv_heads, ffn, context, tied, ..demo };
        Self { model, sequences: 8, threads }
    }

    pub(super) fn tokens(&self) -> usize {
        self.sequences * self.model.context
    }
}

/// A side that is warm.
pub(super) struct Side {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a side says of some steps.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) seconds: Vec<f64>,
    pub(super) peak_rss_bytes: u64,
}

impl Side {
    /// Our engine with a kernel, or with the best this CPU has.
    pub(super) fn ours(load: &Load, kernel: Option<&str>) -> Result<Self> {
        let mut command = Self::this(&Work::Train(load.clone()))?;
        if let Some(kernel) = kernel {
            command.env("SUANLI_KERNEL", kernel);
        }
        Self::start(&mut command)
    }

    /// This program as the side that does `work`.
    pub(super) fn this(work: &Work) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg(SIDE).arg(serde_json::to_string(work)?);
        Ok(command)
    }

    /// A script of `tests` as the other side; nothing when no Python with torch was named.
    pub(super) fn script(name: &str) -> Option<Command> {
        let mut command = Command::new(std::env::var_os(PYTHON)?);
        command.arg(root().join("tests").join(name));
        Some(command)
    }

    /// PyTorch, compiled; nothing when no Python with torch was named.
    pub(super) fn torch(load: &Load, avx2: bool) -> Result<Option<Self>> {
        let Some(mut command) = Self::script("torch_speed.py") else { return Ok(None) };
        let c = &load.model;
        command.arg("--compile");
        for (name, value) in [
            ("--vocab", c.vocab),
            ("--hidden", c.hidden),
            ("--layers", c.layers),
            ("--heads", c.heads),
            ("--ffn", c.ffn),
            ("--context", c.context),
            ("--batch", load.sequences),
            ("--threads", load.threads),
        ] {
            command.arg(name).arg(value.to_string());
        }
        if avx2 {
            // Its own kernels, MKL's and oneDNN's, each by its own variable.
            command.env("ATEN_CPU_CAPABILITY", "avx2").env("MKL_ENABLE_INSTRUCTIONS", "AVX2");
            command.env("ONEDNN_MAX_CPU_ISA", "AVX2").env("DNNL_MAX_CPU_ISA", "AVX2");
        }
        Self::start(&mut command).map(Some)
    }

    /// Why there is no peer.
    pub(super) fn without_torch() -> String {
        format!("needs Python with torch: set {PYTHON}")
    }

    /// Starts a side and waits until it is warm.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let orders = child.stdin.take().context("a piped standard input")?;
        let answers = BufReader::new(child.stdout.take().context("a piped standard output")?);
        let mut side = Self { child, orders, answers };
        let ready = side.line().with_context(|| format!("wait for {command:?}"))?;
        let first: serde_json::Value = serde_json::from_str(&ready)?;
        ensure!(first.get("ready").is_some(), "{command:?} began with {ready:?}");
        Ok(side)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("it ended with {}", self.child.wait()?);
        }
        Ok(line)
    }

    /// Takes so many steps.
    pub(super) fn steps(&mut self, count: usize) -> Result<Answer> {
        writeln!(self.orders, "{count}")?;
        self.orders.flush()?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Its orders end with this; whoever does not notice is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our side: does as told until standard input ends.
///
/// # Errors
/// When the work cannot be done or the other end is gone.
pub fn serve(work: &str) -> Result<()> {
    match serde_json::from_str(work).context("read the work")? {
        Work::Train(load) => train(&load),
        Work::Generate(speech) => speech.serve(),
    }
}

fn train(load: &Load) -> Result<()> {
    let mut engine = Fast::new(load.model.clone(), load.threads)?;
    engine.params_mut().copy_from_slice(&initial_params(&load.model, 0));
    let (tokens, mut random) = (load.tokens(), Random::new(1));
    let mut draw =
        || (0..tokens).map(|_| random.below(load.model.vocab as u64) as u32).collect::<Vec<u32>>();
    let (inputs, targets, weights) = (draw(), draw(), vec![1.0; tokens]);
    let batch = Batch {
        sequences: load.sequences,
        length: load.model.context,
        inputs: &inputs,
        targets: &targets,
        weights: &weights,
    };
    // The peer clips no gradient either.
    let settings = StepSettings { lr: 3e-4, clip: 0.0, ..StepSettings::default() };
    let cancel = Cancel::new();
    let mut step = || -> Result<f64> {
        let begun = Instant::now();
        engine.step(&batch.into(), &settings, &cancel)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    for _ in 0..3 {
        step()?;
    }
    answer(load.model.parameters(), step)
}

/// Says that this side is warm, then answers every order.
pub(super) fn answer(parameters: usize, mut step: impl FnMut() -> Result<f64>) -> Result<()> {
    println!("{}", serde_json::json!({ "ready": "suanli", "parameters": parameters }));
    for line in std::io::stdin().lines() {
        let count: usize = line?.trim().parse().context("a number of steps")?;
        let seconds = (0..count).map(|_| step()).collect::<Result<Vec<f64>>>()?;
        let answer = Answer { seconds, peak_rss_bytes: peak_rss()? };
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

/// The most memory this process ever held. Linux only.
fn peak_rss() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("look at this process")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).context("the peak in /proc/self/status")
}
