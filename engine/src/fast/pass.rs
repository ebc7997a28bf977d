//! One batch through the model, to logits or to the loss: which task computes which rows, in which
//! order. The way back is in `back`.
//!
//! A region is a set of tasks that may run at the same time; regions follow each other. A task
//! owns a block of rows (or a sequence and head, or rows of a gradient), so bits depend neither on
//! who runs it nor on when.
#![allow(unsafe_code, reason = "tasks of a region change disjoint rows of shared buffers")]

use core::ops::Range;

use crate::config::{Activations, GROUP_TOKENS, LOGITS_MAX, ModelConfig, Places, Storage};
use crate::lora::Group;
use crate::math::ln64;
use crate::rotary::Rotary;
use crate::task::Batch;
use crate::traits::{Cancel, Loss, StepError};

use super::adapter::View;
use super::attention::{self, Heads, Place, Rows};
use super::buffers::{Buffers, KeptParts, Scratch, Stowed, Way};
use super::kernel::{Kernels, Left, Shape, Start};
use super::pool::{Parts, Pool};
use super::weights::{Factor, Matrix, Weights};

/// Rows of a task.
pub(super) const BLOCK: usize = 64;

/// Tokens of a group for each thread, so that all have work.
const GROUP_TOKENS_A_THREAD: usize = 2 * BLOCK;

/// The groups of a batch, each with its first row. A step takes group after group, which bounds
/// what it must keep; a gradient's chains go on from one to the next, so the bits are those of the
/// whole batch at once.
pub(super) fn groups<'a>(
    batch: &Batch<'a>,
    threads: usize,
) -> impl Iterator<Item = (usize, Batch<'a>)> {
    let batch = *batch;
    let tokens = GROUP_TOKENS.max(GROUP_TOKENS_A_THREAD * threads);
    let group = (tokens / batch.length).max(1) * batch.length;
    (0..batch.tokens()).step_by(group).map(move |start| {
        let range = start..(start + group).min(batch.tokens());
        let part = Batch {
            sequences: range.len() / batch.length,
            length: batch.length,
            inputs: &batch.inputs[range.clone()],
            targets: &batch.targets[range.clone()],
            weights: &batch.weights[range],
        };
        (start, part)
    })
}

/// Everything about a model that does not change.
pub(super) struct Plan {
    pub(super) config: ModelConfig,
    pub(super) heads: Heads,
    pub(super) places: Places,
    pub(super) activations: Activations,
    pub(super) storage: Storage,
    rotary: Rotary,
    /// Of every position up to the longest text seen.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Plan {
    pub(super) fn new(config: ModelConfig, activations: Activations, storage: Storage) -> Self {
        Self {
            activations,
            storage,
            heads: Heads::new(&config),
            places: config.places(),
            rotary: Rotary::new(&config),
            cosines: Vec::new(),
            sines: Vec::new(),
            config,
        }
    }

    /// Knows the angles of `length` positions from here on.
    pub(super) fn reach(&mut self, length: usize) {
        let half = self.rotary.half();
        for position in self.cosines.len() / half..length {
            for (sine, cosine) in self.rotary.at(position) {
                self.cosines.push(cosine as f32);
                self.sines.push(sine as f32);
            }
        }
    }

    /// What is kept of `values`: themselves, or the nearest numbers that storage has.
    pub(super) fn store(&self, k: &Kernels, values: &mut [f32]) {
        if self.storage == Storage::Bf16 {
            k.round(values);
        }
    }

    /// From the product of one row with q, k, v to what attention reads: norms where the model has
    /// them, then the rotation.
    pub(super) fn turn(
        &self,
        k: &Kernels,
        at: (&[f32], usize),
        row: &mut [f32],
        position: usize,
        (raw, scales): (&mut [f32], &mut [f32]),
    ) {
        if !raw.is_empty() {
            self.store(k, row);
        }
        self.norm_heads(k, at, row, raw, scales);
        self.rotate(k, row, position, 1.0);
        self.store(k, row);
    }

    /// Norms the queries and keys of one row where the model does, head by head; `raw` takes them
    /// as they were, `scales` what the way back needs. Both are empty when the model does not.
    fn norm_heads(
        &self,
        k: &Kernels,
        (params, layer): (&[f32], usize),
        row: &mut [f32],
        raw: &mut [f32],
        scales: &mut [f32],
    ) {
        let Some(start) = self.places.layers[layer].head_norms else { return };
        let width = self.heads.width;
        raw.copy_from_slice(&row[..raw.len()]);
        let heads = row.chunks_mut(width).zip(raw.chunks(width)).zip(scales);
        for (index, ((head, raw), scale)) in heads.enumerate() {
            let gain = &params[self.head_gain(start, index)];
            *scale = k.norm(raw, gain, self.config.norm_eps, head);
        }
    }

    /// Where the gain of a head lies: queries have one, keys another.
    pub(super) fn head_gain(&self, start: usize, head: usize) -> Range<usize> {
        let width = self.heads.width;
        let start = if head < self.config.heads { start } else { start + width };
        start..start + width
    }

    /// Rotates the queries and keys of one row.
    pub(super) fn rotate(&self, k: &Kernels, row: &mut [f32], position: usize, turn: f32) {
        let width = self.heads.width;
        let half = width / 2;
        let range = position * half..(position + 1) * half;
        let (cosines, sines) = (&self.cosines[range.clone()], &self.sines[range]);
        for head in row[..self.heads.normed].chunks_mut(width) {
            k.rotate(head, cosines, sines, turn);
        }
    }
}

/// Rows whose logits are held at a time: whole blocks.
pub(super) fn chunk_rows(vocab: usize) -> usize {
    (LOGITS_MAX / vocab / BLOCK).max(1) * BLOCK
}

pub(super) fn rows_of(index: usize, rows: Range<usize>) -> Range<usize> {
    let start = rows.start + index * BLOCK;
    start..(start + BLOCK).min(rows.end)
}

pub(super) fn scaled(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// One batch on its way.
pub(super) struct Pass<'a> {
    pub(super) k: Kernels,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) params: &'a [f32],
    pub(super) batch: Batch<'a>,
    /// What all loss weights of the whole batch add up to.
    weight: f64,
    /// Whether gradients start here; otherwise they go on from an earlier group.
    pub(super) start: Start,
    pub(super) cancel: &'a Cancel,
    pub(super) layers: &'a [KeptParts],
    /// What is kept of each layer in half; nothing when all is kept whole.
    pub(super) stowed: &'a [Stowed],
    pub(super) x: Parts<f32>,
    pub(super) normed: Parts<f32>,
    pub(super) scale: Parts<f32>,
    pub(super) logits: Parts<f32>,
    pub(super) losses: Parts<f32>,
    pub(super) dx: [Parts<f32>; 2],
    pub(super) dmiddle: Parts<f32>,
    pub(super) dy: Parts<f32>,
    pub(super) dqkv: Parts<f32>,
    /// What each row and head gives to the gradient of the heads' gains.
    pub(super) dheads: Parts<f32>,
    pub(super) act: Parts<f32>,
    pub(super) h1: Parts<f32>,
    pub(super) h2: Parts<f32>,
    pub(super) dh1: Parts<f32>,
    pub(super) dh2: Parts<f32>,
    pub(super) back: Parts<f32>,
    pub(super) adapter: Option<View<'a>>,
    pub(super) low: Parts<f32>,
    pub(super) dlow: Parts<f32>,
    pub(super) workers: Parts<Scratch>,
}

/// What a pass works on.
pub(super) struct Input<'a> {
    pub(super) k: Kernels,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) params: &'a [f32],
    pub(super) adapter: Option<View<'a>>,
    /// One group.
    pub(super) batch: Batch<'a>,
    /// What all loss weights of the whole batch add up to.
    pub(super) weight: f64,
    /// Whether gradients start with this group or go on.
    pub(super) start: Start,
    pub(super) cancel: &'a Cancel,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        input: Input<'a>,
        buffers: &'a mut Buffers,
        threads: usize,
        way: Way,
    ) -> Self {
        buffers.prepare(&input, threads, way);
        let Input { k, plan, weights, params, adapter, batch, weight, start, cancel } = input;
        let last = buffers.layers.len() - 1;
        buffers.parts.clear();
        for layer in 0..plan.config.layers {
            let kept = &mut buffers.layers[layer.min(last)];
            let streams = buffers.streams.len();
            buffers.parts.push(KeptParts {
                x: Parts::new(&mut buffers.streams[layer % streams]),
                middle: Parts::new(&mut kept.middle),
                qkv: Parts::new(&mut kept.qkv),
                raw: Parts::new(&mut kept.raw),
                head_scales: Parts::new(&mut kept.head_scales),
                y: Parts::new(&mut kept.y),
                gate_up: Parts::new(&mut kept.gate_up),
                scale1: Parts::new(&mut kept.scale1),
                scale2: Parts::new(&mut kept.scale2),
                sums: Parts::new(&mut kept.sums),
            });
        }
        buffers.stowed.clear();
        if way == Way::AndBack {
            let parts = buffers.halves.iter_mut().zip(&mut buffers.parts);
            buffers.stowed.extend(parts.map(|(half, parts)| half.stowed(parts)));
        }
        let [before, after] = &mut buffers.dx;
        Self {
            k,
            plan,
            weights,
            params,
            batch,
            weight,
            start,
            cancel,
            layers: &buffers.parts,
            stowed: &buffers.stowed,
            x: Parts::new(&mut buffers.x),
            normed: Parts::new(&mut buffers.normed),
            scale: Parts::new(&mut buffers.scale),
            logits: Parts::new(&mut buffers.logits),
            losses: Parts::new(&mut buffers.losses),
            dx: [Parts::new(before), Parts::new(after)],
            dmiddle: Parts::new(&mut buffers.dmiddle),
            dy: Parts::new(&mut buffers.dy),
            dqkv: Parts::new(&mut buffers.dqkv),
            dheads: Parts::new(&mut buffers.dheads),
            act: Parts::new(&mut buffers.act),
            h1: Parts::new(&mut buffers.h1),
            h2: Parts::new(&mut buffers.h2),
            dh1: Parts::new(&mut buffers.dh1),
            dh2: Parts::new(&mut buffers.dh2),
            back: Parts::new(&mut buffers.back),
            adapter,
            low: Parts::new(&mut buffers.low),
            dlow: Parts::new(&mut buffers.dlow),
            workers: Parts::new(&mut buffers.workers),
        }
    }

    /// Runs a region; a task is skipped once a stop was asked for, and the region then fails.
    pub(super) fn region(
        pool: &mut Pool,
        cancel: &Cancel,
        tasks: usize,
        task: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), StepError> {
        pool.run(tasks, &|worker, index| {
            if !cancel.is_raised() {
                task(worker, index);
            }
        });
        cancel.check()
    }

    /// The stream `x` before layer `layer`; after the last, what the head reads.
    fn stream(&self, layer: usize) -> Parts<f32> {
        self.layers.get(layer).map_or(self.x, |kept| kept.x)
    }

    pub(super) fn gain(&self, start: usize) -> &'a [f32] {
        &self.params[start..start + self.plan.config.hidden]
    }

    /// From tokens to the norm of the last residual stream.
    pub(super) fn forward(&self, pool: &mut Pool) -> Result<(), StepError> {
        let rows = self.batch.tokens();
        let blocks = rows.div_ceil(BLOCK);
        let this = self;
        let layers = this.plan.config.layers;
        for layer in 0..=layers {
            Self::region(pool, this.cancel, blocks, &|worker, index| {
                let rows = rows_of(index, 0..rows);
                match layer {
                    0 => this.embed(&rows),
                    _ => this.second_half(worker, layer - 1, &rows),
                }
                if layer < layers {
                    this.first_half(layer, worker, &rows);
                } else {
                    this.last_norm(&rows);
                }
            })?;
            if layer < layers {
                self.attend(pool, layer)?;
            }
        }
        Ok(())
    }

    /// Attention of all sequences and heads.
    fn attend(&self, pool: &mut Pool, layer: usize) -> Result<(), StepError> {
        let (kv_heads, length) = (self.plan.config.kv_heads, self.batch.length);
        let this = self;
        Self::region(pool, this.cancel, this.batch.sequences * kv_heads, &|worker, index| {
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { &mut this.workers.part(worker..worker + 1)[0] };
            let place = Place { first: index / kv_heads * length, length, kv: index % kv_heads };
            let rows = this.attention_rows(layer);
            attention::forward(&this.k, &this.plan.heads, place, rows, &mut scratch.room);
        })
    }

    /// Brings back what the way forward kept of a layer in half, and computes again what it did not
    /// keep.
    pub(super) fn again(&self, pool: &mut Pool, layer: usize) -> Result<(), StepError> {
        let rows = self.batch.tokens();
        let blocks = rows.div_ceil(BLOCK);
        let this = self;
        if !this.stowed.is_empty() {
            Self::region(pool, this.cancel, blocks, &|_, index| {
                this.fetch(layer, &rows_of(index, 0..rows));
            })?;
        }
        let last = this.plan.config.layers - 1;
        if this.plan.activations == Activations::Kept || layer == last {
            return Ok(());
        }
        Self::region(pool, this.cancel, blocks, &|worker, index| {
            this.first_half(layer, worker, &rows_of(index, 0..rows));
        })?;
        self.attend(pool, layer)?;
        Self::region(pool, this.cancel, blocks, &|worker, index| {
            this.gate_and_up(worker, layer, &rows_of(index, 0..rows));
        })
    }

    pub(super) fn attention_rows(&self, layer: usize) -> Rows {
        let kept = &self.layers[layer];
        Rows { qkv: kept.qkv, y: kept.y, sums: kept.sums }
    }

    fn embed(&self, rows: &Range<usize>) {
        let d = self.plan.config.hidden;
        // SAFETY: these rows belong to this task alone.
        let x = unsafe { self.stream(0).part(scaled(rows, d)) };
        for (x, id) in x.chunks_mut(d).zip(&self.batch.inputs[rows.clone()]) {
            let at = *id as usize * d;
            x.copy_from_slice(&self.params[at..at + d]);
            self.plan.store(&self.k, x);
        }
    }

    /// Norm, q, k, v and their rotation.
    fn first_half(&self, layer: usize, worker: usize, rows: &Range<usize>) {
        let (kept, d) = (&self.layers[layer], self.plan.config.hidden);
        let stride = self.plan.heads.stride;
        let [raw, head_scales] = self.raw_rows(layer, rows);
        // SAFETY: these rows belong to this task alone, and a worker runs one task at a time.
        let (x, qkv, raw, head_scales, scales, scratch) = unsafe {
            (
                kept.x.read(scaled(rows, d)),
                kept.qkv.part(scaled(rows, stride)),
                kept.raw.part(raw),
                kept.head_scales.part(head_scales),
                kept.scale1.part(rows.clone()),
                &mut self.workers.part(worker..worker + 1)[0],
            )
        };
        let gain = self.gain(self.plan.places.layers[layer].norm1);
        self.norm_rows(x, gain, &mut scratch.h, scales);
        let matrix = &self.weights.layers[layer].qkv;
        let start = self.biased(layer, qkv);
        self.apply(matrix, &scratch.h, rows.len(), qkv, start);
        self.adapt((layer, Group::Qkv), &scratch.h, qkv, stride, &mut scratch.low);
        let (raw_width, scales_width) = (raw.len() / rows.len(), head_scales.len() / rows.len());
        for (i, (row, qkv)) in rows.clone().zip(qkv.chunks_mut(stride)).enumerate() {
            let raw = &mut raw[i * raw_width..(i + 1) * raw_width];
            let scales = &mut head_scales[i * scales_width..(i + 1) * scales_width];
            let position = row % self.batch.length;
            self.plan.turn(&self.k, (self.params, layer), qkv, position, (raw, scales));
        }
    }

    /// Where the queries and keys of some rows are kept before their norm, and its scales: nowhere
    /// when the model does not norm them.
    pub(super) fn raw_rows(&self, layer: usize, rows: &Range<usize>) -> [Range<usize>; 2] {
        let normed = match self.plan.places.layers[layer].head_norms {
            Some(_) => self.plan.heads.normed,
            None => 0,
        };
        [scaled(rows, normed), scaled(rows, normed / self.plan.heads.width)]
    }

    /// Puts the bias into rows of q, k, v, where there is one; where their chains then start.
    fn biased(&self, layer: usize, qkv: &mut [f32]) -> Start {
        let Some(bias) = self.plan.places.layers[layer].bias else { return Start::Zero };
        let stride = self.plan.heads.stride;
        let bias = &self.params[bias..bias + stride];
        qkv.chunks_mut(stride).for_each(|row| row.copy_from_slice(bias));
        Start::Here
    }

    /// The output projection, norm and the first half of the feed-forward part.
    fn gate_and_up(&self, worker: usize, layer: usize, rows: &Range<usize>) {
        let (kept, d, ffn) = (&self.layers[layer], self.plan.config.hidden, self.plan.config.ffn);
        // SAFETY: these rows belong to this task alone, and a worker runs one task at a time.
        let (x, y, middle, gate_up, scales, scratch) = unsafe {
            (
                kept.x.read(scaled(rows, d)),
                kept.y.part(scaled(rows, self.plan.heads.query)),
                kept.middle.part(scaled(rows, d)),
                kept.gate_up.part(scaled(rows, 2 * ffn)),
                kept.scale2.part(rows.clone()),
                &mut self.workers.part(worker..worker + 1)[0],
            )
        };
        let matrices = &self.weights.layers[layer];
        self.plan.store(&self.k, y);
        middle.copy_from_slice(x);
        self.apply(&matrices.out, y, rows.len(), middle, Start::Here);
        self.adapt((layer, Group::Out), y, middle, d, &mut scratch.low);
        self.plan.store(&self.k, middle);
        let gain = self.gain(self.plan.places.layers[layer].norm2);
        self.norm_rows(middle, gain, &mut scratch.h, scales);
        self.apply(&matrices.gate_up, &scratch.h, rows.len(), gate_up, Start::Zero);
        self.adapt((layer, Group::GateUp), &scratch.h, gate_up, 2 * ffn, &mut scratch.low);
        self.plan.store(&self.k, gate_up);
    }

    /// The rest of a layer: from attention's outcome to the next stream.
    fn second_half(&self, worker: usize, layer: usize, rows: &Range<usize>) {
        self.gate_and_up(worker, layer, rows);
        let (kept, d, ffn) = (&self.layers[layer], self.plan.config.hidden, self.plan.config.ffn);
        // SAFETY: these rows belong to this task alone, and a worker runs one task at a time.
        let (middle, gate_up, next, scratch) = unsafe {
            (
                kept.middle.read(scaled(rows, d)),
                kept.gate_up.read(scaled(rows, 2 * ffn)),
                self.stream(layer + 1).part(scaled(rows, d)),
                &mut self.workers.part(worker..worker + 1)[0],
            )
        };
        for (gate_up, act) in gate_up.chunks(2 * ffn).zip(scratch.act.chunks_mut(ffn)) {
            let (gate, up) = gate_up.split_at(ffn);
            self.k.swiglu(gate, up, act);
        }
        next.copy_from_slice(middle);
        let matrix = &self.weights.layers[layer].down;
        self.apply(matrix, &scratch.act, rows.len(), next, Start::Here);
        self.adapt((layer, Group::Down), &scratch.act, next, d, &mut scratch.low);
        self.plan.store(&self.k, next);
        self.stow(layer, rows);
    }

    fn last_norm(&self, rows: &Range<usize>) {
        let d = self.plan.config.hidden;
        // SAFETY: these rows belong to this task alone.
        let (x, out, scales) = unsafe {
            (
                self.x.read(scaled(rows, d)),
                self.normed.part(scaled(rows, d)),
                self.scale.part(rows.clone()),
            )
        };
        self.norm_rows(x, self.gain(self.plan.places.norm), out, scales);
    }

    pub(super) fn norm_rows(&self, x: &[f32], gain: &[f32], out: &mut [f32], scales: &mut [f32]) {
        let (d, eps) = (gain.len(), self.plan.config.norm_eps);
        for ((x, out), scale) in x.chunks(d).zip(out.chunks_mut(d)).zip(scales) {
            *scale = self.k.norm(x, gain, eps, out);
        }
    }

    /// `out = or += x W^T` for some rows.
    fn apply(&self, matrix: &Matrix, x: &[f32], rows: usize, out: &mut [f32], start: Start) {
        let shape = Shape { m: rows, n: matrix.rows, k: matrix.columns };
        let left = Left::rows(x, matrix.columns);
        let out = (out, matrix.rows);
        match self.weights.forward(matrix) {
            Factor::F32(right) => self.k.multiply(shape, left, right, out, start),
            Factor::Bf16(right) => self.k.multiply_half(shape, left, right, out, start),
        }
    }

    /// Packs the matrices of a layer, or the head, for the way back.
    pub(super) fn pack_back(&self, pool: &mut Pool, matrices: &[Matrix]) -> Result<(), StepError> {
        Self::region(pool, self.cancel, Weights::back_tasks(matrices), &|_, index| {
            // SAFETY: this region only packs these.
            unsafe {
                let store = |panels: &mut [f32]| self.plan.store(&self.k, panels);
                Weights::pack_back(matrices, self.params, index, self.back, store);
            }
        })
    }

    /// `out = dy W` for some rows; `first` is the first matrix that was packed for the way back.
    pub(super) fn apply_back(
        &self,
        (matrix, first): (&Matrix, &Matrix),
        dy: &[f32],
        rows: usize,
        out: &mut [f32],
    ) {
        let shape = Shape { m: rows, n: matrix.columns, k: matrix.rows };
        // SAFETY: nothing is packed while rows go back.
        let packed = unsafe { self.back.read(0..self.weights.back_len()) };
        let right = Weights::back(matrix, first, packed);
        let out = (out, matrix.columns);
        self.k.multiply(shape, Left::rows(dy, matrix.rows), right, out, Start::Zero);
    }

    /// The logits of all rows, handed over chunk by chunk.
    pub(super) fn logits(&self, pool: &mut Pool, out: &mut [f32]) -> Result<(), StepError> {
        let (vocab, d) = (self.plan.config.vocab, self.plan.config.hidden);
        let rows = self.batch.tokens();
        let out = Parts::new(out);
        let this = self;
        Self::region(pool, this.cancel, rows.div_ceil(BLOCK), &|_, index| {
            let rows = rows_of(index, 0..rows);
            // SAFETY: these rows belong to this task alone.
            let (x, out) =
                unsafe { (this.normed.read(scaled(&rows, d)), out.part(scaled(&rows, vocab))) };
            this.apply(&this.weights.head, x, rows.len(), out, Start::Zero);
        })
    }

    /// The loss, added to that of earlier groups; with `grads` also the gradient of the head and of
    /// the last norm's output.
    pub(super) fn head(
        &self,
        pool: &mut Pool,
        so_far: Loss,
        mut grads: Option<&mut [f32]>,
    ) -> Result<Loss, StepError> {
        let (vocab, d) = (self.plan.config.vocab, self.plan.config.hidden);
        let all = self.batch.tokens();
        let this = self;
        if grads.is_some() {
            self.pack_back(pool, &[self.weights.head])?;
        }
        for start in (0..all).step_by(chunk_rows(vocab)) {
            let chunk = start..(start + chunk_rows(vocab)).min(all);
            let back = grads.is_some();
            Self::region(pool, this.cancel, chunk.len().div_ceil(BLOCK), &|_, index| {
                this.head_rows(&chunk, index, back);
            })?;
            let Some(grads) = grads.as_deref_mut().filter(|_| this.adapter.is_none()) else {
                continue;
            };
            let matrix = this.weights.head;
            let grad = Parts::new(&mut grads[matrix.range()]);
            let from = if start == 0 { this.start } else { Start::Here };
            Self::region(pool, this.cancel, vocab.div_ceil(BLOCK), &|worker, index| {
                let rows = rows_of(index, 0..vocab);
                // SAFETY: nobody writes logits or norms in this region; these rows are ours.
                let (dlogits, x, grad) = unsafe {
                    (
                        this.logits.read(0..chunk.len() * vocab),
                        this.normed.read(scaled(&chunk, d)),
                        grad.part(scaled(&rows, d)),
                    )
                };
                this.outer(worker, dlogits, vocab, &rows, x, d, grad, from);
            })?;
        }
        // SAFETY: no region runs.
        let losses = unsafe { this.losses.read(0..all) };
        let pairs = losses.iter().zip(this.batch.weights);
        Ok(pairs.fold(so_far, |total, (loss, weight)| {
            let weight = f64::from(*weight);
            total.plus(Loss { sum: f64::from(*loss) * weight, weight })
        }))
    }

    /// The nats of every place, after [`Self::head`].
    pub(super) fn nats(&self) -> &'a [f32] {
        // SAFETY: no region runs.
        unsafe { self.losses.read(0..self.batch.tokens()) }
    }

    fn head_rows(&self, chunk: &Range<usize>, index: usize, back: bool) {
        let (vocab, d) = (self.plan.config.vocab, self.plan.config.hidden);
        let rows = rows_of(index, chunk.clone());
        let at = rows.start - chunk.start..rows.end - chunk.start;
        // SAFETY: these rows belong to this task alone.
        let (x, logits, losses) = unsafe {
            (
                self.normed.read(scaled(&rows, d)),
                self.logits.part(scaled(&at, vocab)),
                self.losses.part(rows.clone()),
            )
        };
        self.apply(&self.weights.head, x, rows.len(), logits, Start::Zero);
        for ((row, logits), loss) in rows.clone().zip(logits.chunks_mut(vocab)).zip(losses) {
            let target = self.batch.targets[row] as usize;
            let factor = (f64::from(self.batch.weights[row]) / self.weight) as f32;
            let said = logits[target];
            let (shift, sum) = self.k.cross_entropy(logits, target, factor);
            *loss = (ln64(f64::from(sum)) + f64::from(shift) - f64::from(said)) as f32;
        }
        if back {
            // SAFETY: these rows belong to this task alone.
            let dnormed = unsafe { self.dh1.part(scaled(&rows, d)) };
            let head = &self.weights.head;
            self.apply_back((head, head), logits, rows.len(), dnormed);
            // SAFETY: as above.
            let (dx, x, scales) = unsafe {
                (
                    self.dx[0].part(scaled(&rows, d)),
                    self.x.read(scaled(&rows, d)),
                    self.scale.read(rows.clone()),
                )
            };
            dx.fill(0.0);
            self.norm_back_rows(dnormed, x, self.gain(self.plan.places.norm), scales, dx);
        }
    }

    pub(super) fn norm_back_rows(
        &self,
        dh: &mut [f32],
        x: &[f32],
        gain: &[f32],
        scales: &[f32],
        dx: &mut [f32],
    ) {
        let d = gain.len();
        let rows = dh.chunks_mut(d).zip(x.chunks(d)).zip(dx.chunks_mut(d)).zip(scales);
        for (((dh, x), dx), scale) in rows {
            self.k.norm_back(dh, x, gain, *scale, dx);
        }
    }
}
