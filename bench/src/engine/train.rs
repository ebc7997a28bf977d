//! Training tokens a second against compiled PyTorch with fused AdamW, and the memory of both.

use super::median;
use super::side::{Load, Side};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;

const SPEED_MIN: f64 = 1.0;
const MEMORY_MAX: f64 = 0.35;
/// Turns; the medians over them are compared.
const TURNS: usize = 5;
/// Steps a turn.
const STEPS: usize = 4;

pub(super) fn two_threads() -> RowSpec {
    RowSpec {
        name: "train",
        what: "training on 2 threads against torch.compile, 13.8 M parameters; peak memory",
        run: |session| measure(session, "train", 2, None),
    }
}

pub(super) fn one_thread() -> RowSpec {
    RowSpec {
        name: "train-1",
        what: "the same on 1 thread",
        run: |session| measure(session, "train-1", 1, None),
    }
}

pub(super) fn avx2() -> RowSpec {
    RowSpec {
        name: "train-avx2",
        what: "the same on 2 threads with AVX2 on both sides",
        run: |session| measure(session, "train-avx2", 2, Some("avx2")),
    }
}

fn measure(
    session: &mut Session,
    name: &str,
    threads: usize,
    kernel: Option<&str>,
) -> Result<Vec<Row>> {
    let load = Load::compared(threads);
    let Some(mut theirs) = Side::torch(&load, kernel.is_some())? else {
        let goal = Goal::AtLeast(SPEED_MIN);
        return Ok(vec![Row::not_measured(name, goal, Side::without_torch())]);
    };
    let mut ours = Side::ours(&load, kernel)?;
    let short = session.length() == Length::Short;
    let (turns, steps) = if short { (2, 1) } else { (TURNS, STEPS) };
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    let (mut our_memory, mut their_memory) = (0, 0);
    for _ in 0..turns {
        let (a, b) = (ours.steps(steps)?, theirs.steps(steps)?);
        our_times.push(median(a.seconds));
        their_times.push(median(b.seconds));
        (our_memory, their_memory) = (a.peak_rss_bytes, b.peak_rss_bytes);
    }
    let rate = |times: Vec<f64>| load.tokens() as f64 / median(times);
    let (our_rate, their_rate) = (rate(our_times), rate(their_times));
    let row = if short { Row::short } else { Row::new };
    let note = format!("{our_rate:.0} against {their_rate:.0} tokens/s, {threads} threads");
    let mut rows = vec![row(name, our_rate / their_rate, "x", Goal::AtLeast(SPEED_MIN)).note(note)];
    if kernel.is_none() && threads == 2 {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (ours, theirs) = (mib(our_memory), mib(their_memory));
        let note = format!("peaks of {ours:.0} and {theirs:.0} MiB");
        rows.push(row("train.rss", ours / theirs, "x", Goal::AtMost(MEMORY_MAX)).note(note));
    }
    Ok(rows)
}
