//! The room that batches work in: made once, and grown to the largest batch seen.
#![allow(unsafe_code, reason = "tasks of a region change disjoint rows of shared buffers")]

use core::ops::Range;

use crate::config::{Activations, Storage};

use super::attention::Room;
use super::kernel::INNER;
use super::pass::{BLOCK, Input, Pass, chunk_rows, scaled};
use super::pool::Parts;

/// What a layer keeps for the way back, but for the stream before it.
#[derive(Default)]
pub(super) struct Kept {
    /// The residual stream in its middle.
    pub(super) middle: Vec<f32>,
    pub(super) qkv: Vec<f32>,
    /// Queries and keys before their own norm, for models that have it, and its scales.
    pub(super) raw: Vec<f32>,
    pub(super) head_scales: Vec<f32>,
    pub(super) y: Vec<f32>,
    pub(super) gate_up: Vec<f32>,
    pub(super) scale1: Vec<f32>,
    pub(super) scale2: Vec<f32>,
    pub(super) sums: Vec<(f32, f32)>,
}

/// The same, as tasks see it.
#[derive(Clone, Copy)]
pub(super) struct KeptParts {
    pub(super) x: Parts<f32>,
    pub(super) middle: Parts<f32>,
    pub(super) qkv: Parts<f32>,
    pub(super) raw: Parts<f32>,
    pub(super) head_scales: Parts<f32>,
    pub(super) y: Parts<f32>,
    pub(super) gate_up: Parts<f32>,
    pub(super) scale1: Parts<f32>,
    pub(super) scale2: Parts<f32>,
    pub(super) sums: Parts<(f32, f32)>,
}

/// What a layer keeps in bfloat16: the stream before it, and the rest unless it is computed again.
#[derive(Default)]
pub(super) struct Half {
    x: Vec<u16>,
    middle: Vec<u16>,
    qkv: Vec<u16>,
    raw: Vec<u16>,
    y: Vec<u16>,
    gate_up: Vec<u16>,
    /// Small and dear: kept whole.
    head_scales: Vec<f32>,
    sums: Vec<(f32, f32)>,
}

/// One buffer that is kept in half: where it is worked on, where it is kept, its width.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    whole: Parts<f32>,
    half: Parts<u16>,
    width: usize,
}

/// All of a layer's.
pub(super) type Stowed = [Option<Pair>; 6];

impl Half {
    /// Pairs up with where a layer is worked on. Its sums and scales are worked on where they are
    /// kept.
    pub(super) fn stowed(&mut self, parts: &mut KeptParts) -> Stowed {
        if !self.sums.is_empty() {
            parts.sums = Parts::new(&mut self.sums);
            parts.head_scales = Parts::new(&mut self.head_scales);
        }
        let rows = parts.scale1.len().max(1);
        let pair = |half: &mut Vec<u16>, whole: Parts<f32>| {
            let width = whole.len() / rows;
            (!half.is_empty()).then(|| Pair { whole, half: Parts::new(half), width })
        };
        [
            pair(&mut self.x, parts.x),
            pair(&mut self.middle, parts.middle),
            pair(&mut self.qkv, parts.qkv),
            pair(&mut self.raw, parts.raw),
            pair(&mut self.y, parts.y),
            pair(&mut self.gate_up, parts.gate_up),
        ]
    }
}

impl Pass<'_> {
    /// Keeps some rows of a layer in half, where they are kept so. They have been rounded already,
    /// so that nothing is lost.
    pub(super) fn stow(&self, layer: usize, rows: &Range<usize>) {
        for pair in self.stowed.get(layer).into_iter().flatten().flatten() {
            let range = scaled(rows, pair.width);
            // SAFETY: these rows belong to this task alone.
            let (whole, half) = unsafe { (pair.whole.read(range.clone()), pair.half.part(range)) };
            self.k.narrow(whole, half);
        }
    }

    /// Brings them back.
    pub(super) fn fetch(&self, layer: usize, rows: &Range<usize>) {
        for pair in self.stowed.get(layer).into_iter().flatten().flatten() {
            let range = scaled(rows, pair.width);
            // SAFETY: these rows belong to this task alone.
            let (half, whole) = unsafe { (pair.half.read(range.clone()), pair.whole.part(range)) };
            self.k.widen(half, whole);
        }
    }
}

/// Room for one worker.
pub(super) struct Scratch {
    pub(super) h: Vec<f32>,
    pub(super) act: Vec<f32>,
    /// Between the two factors of an adapter.
    pub(super) low: Vec<f32>,
    /// Some tokens' slopes, packed for a product over tokens.
    pub(super) slopes: Vec<f32>,
    pub(super) room: Room,
}

/// All buffers of a pass; they grow to the largest batch seen and are kept.
#[derive(Default)]
pub(super) struct Buffers {
    /// The residual stream before each layer.
    pub(super) streams: Vec<Vec<f32>>,
    /// For each layer, or one for all when they are kept in half or computed again.
    pub(super) layers: Vec<Kept>,
    pub(super) halves: Vec<Half>,
    pub(super) stowed: Vec<Stowed>,
    /// The residual stream after the last layer, and its norm.
    pub(super) x: Vec<f32>,
    pub(super) normed: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) losses: Vec<f32>,
    /// Gradients of the residual stream: after a layer, before it, in its middle.
    pub(super) dx: [Vec<f32>; 2],
    pub(super) dmiddle: Vec<f32>,
    pub(super) dy: Vec<f32>,
    pub(super) dqkv: Vec<f32>,
    pub(super) dheads: Vec<f32>,
    pub(super) act: Vec<f32>,
    pub(super) h1: Vec<f32>,
    pub(super) h2: Vec<f32>,
    pub(super) dh1: Vec<f32>,
    pub(super) dh2: Vec<f32>,
    /// The matrices of one layer, or the head, packed for the way back.
    pub(super) back: Vec<f32>,
    /// Between the two factors of a layer's adapters, and the slope there.
    pub(super) low: Vec<f32>,
    pub(super) dlow: Vec<f32>,
    pub(super) workers: Vec<Scratch>,
    pub(super) parts: Vec<KeptParts>,
}

/// Which buffers a pass needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    AndBack,
}

/// Fresh zeros come from the system untouched, so that large buffers do not delay a cancel.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        *buffer = Vec::new();
        *buffer = vec![T::default(); len];
    }
}

impl Buffers {
    pub(super) fn prepare(&mut self, input: &Input<'_>, threads: usize, way: Way) {
        let (plan, batch) = (input.plan, &input.batch);
        let c = &plan.config;
        let (rows, d, qkv, ffn) = (batch.tokens(), c.hidden, plan.heads.stride, c.ffn);
        let query = plan.heads.query;
        let normed = if c.qk_norm { plan.heads.normed } else { 0 };
        let whole = plan.storage == Storage::F32;
        let streams = if whole { c.layers } else { 2 };
        self.streams.resize_with(streams, Vec::new);
        self.streams.iter_mut().for_each(|x| grow(x, rows * d));
        let sets = if whole && plan.activations == Activations::Kept { c.layers } else { 1 };
        let halves = if whole || way == Way::Forward { 0 } else { c.layers };
        self.halves.resize_with(self.halves.len().max(halves), Half::default);
        for half in &mut self.halves[..halves] {
            grow(&mut half.x, rows * d);
            if plan.activations == Activations::Recomputed {
                continue;
            }
            grow(&mut half.middle, rows * d);
            grow(&mut half.qkv, rows * qkv);
            grow(&mut half.raw, rows * normed);
            grow(&mut half.y, rows * query);
            grow(&mut half.gate_up, rows * 2 * ffn);
            grow(&mut half.head_scales, rows * normed / plan.heads.width);
            grow(&mut half.sums, rows * c.heads);
        }
        self.layers.resize_with(sets, Kept::default);
        for kept in &mut self.layers {
            grow(&mut kept.middle, rows * d);
            grow(&mut kept.qkv, rows * qkv);
            grow(&mut kept.raw, rows * normed);
            grow(&mut kept.head_scales, rows * normed / plan.heads.width);
            grow(&mut kept.y, rows * query);
            grow(&mut kept.gate_up, rows * 2 * ffn);
            grow(&mut kept.scale1, rows);
            grow(&mut kept.scale2, rows);
            grow(&mut kept.sums, rows * c.heads);
        }
        for buffer in [&mut self.x, &mut self.normed] {
            grow(buffer, rows * d);
        }
        for buffer in [&mut self.scale, &mut self.losses] {
            grow(buffer, rows);
        }
        grow(&mut self.logits, chunk_rows(c.vocab).min(rows) * c.vocab);
        if way == Way::AndBack {
            let [before, after] = &mut self.dx;
            let square = [&mut self.h1, &mut self.h2, &mut self.dh1, &mut self.dh2];
            for buffer in [before, after, &mut self.dmiddle].into_iter().chain(square) {
                grow(buffer, rows * d);
            }
            grow(&mut self.dy, rows * query);
            grow(&mut self.dqkv, rows * qkv);
            grow(&mut self.dheads, rows * normed);
            grow(&mut self.act, rows * ffn);
            grow(&mut self.back, input.weights.back_len());
            let low = input.adapter.map_or(0, |adapter| rows * adapter.low_width());
            grow(&mut self.low, low);
            grow(&mut self.dlow, low);
        }
        let empty = || Scratch {
            h: Vec::new(),
            act: Vec::new(),
            low: Vec::new(),
            slopes: Vec::new(),
            room: Room::new(),
        };
        self.workers.resize_with(threads, empty);
        for worker in &mut self.workers {
            grow(&mut worker.h, BLOCK * d);
            grow(&mut worker.act, BLOCK * ffn);
            grow(&mut worker.slopes, BLOCK * INNER);
            grow(&mut worker.low, BLOCK * input.adapter.map_or(0, |adapter| adapter.rank()));
            worker.room.grow(&plan.heads, batch.length);
        }
    }
}
