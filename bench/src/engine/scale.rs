//! Whether a larger model takes as much longer as it has more to compute.

use super::median;
use super::side::{Load, Side};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use suanli_engine::ModelConfig;

/// How far the time may be from what the work says, either way.
const APART_MAX: f64 = 0.15;
const TURNS: usize = 5;

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "scale",
        what: "a step of a 110 M model against the 13.8 M one, over the ratio of their FLOPs",
        run: measure,
    }
}

/// 109.5 M parameters, 768 wide.
pub(super) fn large() -> ModelConfig {
    ModelConfig {
        vocab: 16_000,
        hidden: 768,
        layers: 12,
        heads: 12,
        kv_heads: 12,
        ffn: 2048,
        context: 256,
        ..ModelConfig::demo()
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let small = Load::compared(2);
    let large = Load { model: large(), ..small.clone() };
    let (mut a, mut b) = (Side::ours(&small, None)?, Side::ours(&large, None)?);
    let (mut small_times, mut large_times) = (Vec::new(), Vec::new());
    for _ in 0..if short { 1 } else { TURNS } {
        small_times.push(median(a.steps(if short { 1 } else { 4 })?.seconds));
        large_times.push(median(b.steps(1)?.seconds));
    }
    let (small_time, large_time) = (median(small_times), median(large_times));
    let work = flops(&large) / flops(&small);
    let apart = large_time / small_time / work - 1.0;
    let note = format!(
        "{:.2} M and {:.1} M parameters: {small_time:.3} s and {large_time:.3} s, {work:.2}x the FLOPs; {apart:+.1}%",
        small.model.parameters() as f64 / 1e6,
        large.model.parameters() as f64 / 1e6,
        apart = 100.0 * apart,
    );
    let row = if short { Row::short } else { Row::new };
    Ok(vec![row("scale", 100.0 * apart.abs(), "%", Goal::AtMost(100.0 * APART_MAX)).note(note)])
}

/// Of a step: three products of two FLOPs for each matrix element and token, and attention's scores
/// and values, of which causality leaves half.
fn flops(load: &Load) -> f64 {
    let c = &load.model;
    let matrices = c.parameters() - if c.tied { 0 } else { c.vocab * c.hidden };
    let attention = c.layers * c.query_width() * c.context;
    6.0 * (matrices + attention) as f64 * load.tokens() as f64
}
