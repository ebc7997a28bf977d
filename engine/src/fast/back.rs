//! The way back of a batch: from the gradient of the last residual stream to that of every
//! parameter. Cheap things (norms, activations, attention's scores) are computed again.
#![allow(unsafe_code, reason = "tasks of a region change disjoint rows of shared buffers")]

use core::ops::Range;

use crate::config::ModelConfig;
use crate::lora::Group;
use crate::traits::StepError;

use super::attention::{self, Place, Slopes};
use super::kernel::{INNER, Kernels, Left, Right, Shape, Start};
use super::pass::{BLOCK, Pass, rows_of, scaled};
use super::pool::{Parts, Pool};

impl Pass<'_> {
    /// Rows `rows` of `dy^T x`: the gradient of a matrix, token after token.
    #[allow(clippy::too_many_arguments, reason = "two factors with their widths, and a place")]
    pub(super) fn outer(
        &self,
        worker: usize,
        dy: &[f32],
        dy_width: usize,
        rows: &Range<usize>,
        x: &[f32],
        x_width: usize,
        grad: &mut [f32],
        start: Start,
    ) {
        // SAFETY: a worker runs one task at a time.
        let scratch = unsafe { &mut self.workers.part(worker..worker + 1)[0] };
        let pieces = dy.chunks(INNER * dy_width).zip(x.chunks(INNER * x_width));
        let starts = core::iter::once(start).chain(core::iter::repeat(Start::Here));
        for ((dy, x), start) in pieces.zip(starts) {
            for (packed, dy) in scratch.slopes.chunks_mut(BLOCK).zip(dy.chunks(dy_width)) {
                packed[..rows.len()].copy_from_slice(&dy[rows.clone()]);
            }
            let shape = Shape { m: rows.len(), n: x_width, k: x.len() / x_width };
            let left = Left::columns(&scratch.slopes, BLOCK);
            self.k.multiply(shape, left, Right::rows(x, x_width), (&mut *grad, x_width), start);
        }
    }

    /// From the gradient of the last stream to that of every parameter but the embedding, whose
    /// slopes it leaves in `slopes`.
    pub(super) fn backward(
        &self,
        pool: &mut Pool,
        grads: &mut [f32],
        slopes: &mut [f32],
    ) -> Result<(), StepError> {
        let rows = self.batch.tokens();
        let blocks = rows.div_ceil(BLOCK);
        let d = self.plan.config.hidden;
        let this = self;
        let kv_heads = this.plan.config.kv_heads;
        let length = this.batch.length;
        // SAFETY: no region runs.
        let last = unsafe { this.dh1.read(0..rows * d) };
        if this.adapter.is_none() {
            this.gain_rows(last, &mut grads[this.plan.places.norm..][..d]);
        }
        for layer in (0..this.plan.config.layers).rev() {
            let turn = (this.plan.config.layers - 1 - layer) % 2;
            let (after, before) = (this.dx[turn], this.dx[1 - turn]);
            this.again(pool, layer)?;
            this.pack_back(pool, &this.weights.layers[layer].all())?;
            Self::region(pool, this.cancel, blocks, &|_, index| {
                this.second_half_back(layer, after, &rows_of(index, 0..rows));
            })?;
            let tasks = this.batch.sequences * kv_heads;
            Self::region(pool, this.cancel, tasks, &|worker, index| {
                // SAFETY: a worker runs one task at a time.
                let scratch = unsafe { &mut this.workers.part(worker..worker + 1)[0] };
                let place =
                    Place { first: index / kv_heads * length, length, kv: index % kv_heads };
                let slopes = Slopes { dy: this.dy, dqkv: this.dqkv };
                let both = (this.attention_rows(layer), slopes);
                attention::backward(&this.k, &this.plan.heads, place, both, &mut scratch.room);
            })?;
            Self::region(pool, this.cancel, blocks, &|_, index| {
                this.first_half_back(layer, before, &rows_of(index, 0..rows));
            })?;
            this.layer_grads(pool, layer, after, grads)?;
        }
        let turn = this.plan.config.layers % 2;
        // SAFETY: no region runs.
        slopes.copy_from_slice(unsafe { this.dx[turn].read(0..rows * d) });
        Ok(())
    }

    fn second_half_back(&self, layer: usize, after: Parts<f32>, rows: &Range<usize>) {
        let (kept, d, ffn) = (&self.layers[layer], self.plan.config.hidden, self.plan.config.ffn);
        // SAFETY: these rows belong to this task alone.
        let (dx, y, middle, gate_up, scales, act, h, dh, dmiddle, dy) = unsafe {
            (
                after.read(scaled(rows, d)),
                kept.y.read(scaled(rows, self.plan.heads.query)),
                kept.middle.read(scaled(rows, d)),
                kept.gate_up.part(scaled(rows, 2 * ffn)),
                kept.scale2.part(rows.clone()),
                self.act.part(scaled(rows, ffn)),
                self.h2.part(scaled(rows, d)),
                self.dh2.part(scaled(rows, d)),
                self.dmiddle.part(scaled(rows, d)),
                self.dy.part(scaled(rows, self.plan.heads.query)),
            )
        };
        let matrices = &self.weights.layers[layer];
        let first = &matrices.qkv;
        self.apply_back((&matrices.down, first), dx, rows.len(), act);
        self.adapt_back((layer, Group::Down), dx, d, rows, act);
        for (gate_up, act) in gate_up.chunks_mut(2 * ffn).zip(act.chunks_mut(ffn)) {
            let (gate, up) = gate_up.split_at_mut(ffn);
            self.k.swiglu_back(gate, up, act);
        }
        self.adapt_again((layer, Group::Down), act, rows);
        let gain = self.gain(self.plan.places.layers[layer].norm2);
        self.norm_rows(middle, gain, h, scales);
        self.adapt_again((layer, Group::GateUp), h, rows);
        self.apply_back((&matrices.gate_up, first), gate_up, rows.len(), dh);
        self.adapt_back((layer, Group::GateUp), gate_up, 2 * ffn, rows, dh);
        dmiddle.copy_from_slice(dx);
        self.norm_back_rows(dh, middle, gain, scales, dmiddle);
        self.apply_back((&matrices.out, first), dmiddle, rows.len(), dy);
        self.adapt_back((layer, Group::Out), dmiddle, d, rows, dy);
        self.adapt_again((layer, Group::Out), y, rows);
    }

    fn first_half_back(&self, layer: usize, before: Parts<f32>, rows: &Range<usize>) {
        let (kept, d) = (&self.layers[layer], self.plan.config.hidden);
        let stride = self.plan.heads.stride;
        let [raw, head_scales] = self.raw_rows(layer, rows);
        // SAFETY: these rows belong to this task alone.
        let (dheads, raw, head_scales) = unsafe {
            (self.dheads.part(raw.clone()), kept.raw.read(raw), kept.head_scales.read(head_scales))
        };
        // SAFETY: as above.
        let (x, dqkv, scales, h, dh, dmiddle, dx) = unsafe {
            (
                kept.x.read(scaled(rows, d)),
                self.dqkv.part(scaled(rows, stride)),
                kept.scale1.part(rows.clone()),
                self.h1.part(scaled(rows, d)),
                self.dh1.part(scaled(rows, d)),
                self.dmiddle.read(scaled(rows, d)),
                before.part(scaled(rows, d)),
            )
        };
        for (row, dqkv) in rows.clone().zip(dqkv.chunks_mut(stride)) {
            self.plan.rotate(&self.k, dqkv, row % self.batch.length, -1.0);
        }
        self.norm_heads_back(layer, dqkv, dheads, raw, head_scales);
        let gain = self.gain(self.plan.places.layers[layer].norm1);
        self.norm_rows(x, gain, h, scales);
        self.adapt_again((layer, Group::Qkv), h, rows);
        let matrix = &self.weights.layers[layer].qkv;
        self.apply_back((matrix, matrix), dqkv, rows.len(), dh);
        self.adapt_back((layer, Group::Qkv), dqkv, stride, rows, dh);
        dx.copy_from_slice(dmiddle);
        self.norm_back_rows(dh, x, gain, scales, dx);
    }

    /// Back through the norm of queries and keys, where there is one; `dheads` is left holding each
    /// head's part of the gain's gradient.
    fn norm_heads_back(
        &self,
        layer: usize,
        dqkv: &mut [f32],
        dheads: &mut [f32],
        raw: &[f32],
        scales: &[f32],
    ) {
        let Some(start) = self.plan.places.layers[layer].head_norms else { return };
        let (width, normed) = (self.plan.heads.width, self.plan.heads.normed);
        let rows = dqkv.chunks_mut(self.plan.heads.stride).zip(dheads.chunks_mut(normed));
        for ((dqkv, dheads), (raw, scales)) in
            rows.zip(raw.chunks(normed).zip(scales.chunks(normed / width)))
        {
            dheads.copy_from_slice(&dqkv[..normed]);
            dqkv[..normed].fill(0.0);
            let heads = dqkv.chunks_mut(width).zip(dheads.chunks_mut(width));
            for (index, ((into, dh), (raw, scale))) in
                heads.zip(raw.chunks(width).zip(scales)).enumerate()
            {
                let gain = &self.params[self.plan.head_gain(start, index)];
                self.k.norm_back(dh, raw, gain, *scale, into);
            }
        }
    }

    /// The gradients of a layer's matrices and gains: tasks are blocks of their rows.
    fn layer_grads(
        &self,
        pool: &mut Pool,
        layer: usize,
        after: Parts<f32>,
        grads: &mut [f32],
    ) -> Result<(), StepError> {
        if self.adapter.is_some() {
            return self.adapter_grads(pool, layer, after, grads);
        }
        let (kept, c) = (&self.layers[layer], &self.plan.config);
        let (tokens, d, stride) = (self.batch.tokens(), c.hidden, self.plan.heads.stride);
        let mut all = self.weights.layers[layer].all();
        all.reverse();
        let blocks = all.map(|matrix| matrix.rows.div_ceil(BLOCK));
        let places = self.plan.places.layers[layer];
        let grads = Parts::new(grads);
        let query = self.plan.heads.query;
        let sums = [Some(places.norm1), Some(places.norm2), places.bias, places.head_norms];
        let tasks = sums.len() + blocks.iter().sum::<usize>();
        Self::region(pool, self.cancel, tasks, &|worker, index| {
            // SAFETY: this region only reads these; each task has its own rows of `grads`.
            unsafe {
                let mut index = index;
                // The widest first: small tasks at the end leave no thread waiting long.
                let factors = [
                    (after.read(0..tokens * d), self.act.read(0..tokens * c.ffn)),
                    (kept.gate_up.read(0..tokens * 2 * c.ffn), self.h2.read(0..tokens * d)),
                    (self.dmiddle.read(0..tokens * d), kept.y.read(0..tokens * query)),
                    (self.dqkv.read(0..tokens * stride), self.h1.read(0..tokens * d)),
                ];
                for ((matrix, blocks), (dy, x)) in all.iter().zip(blocks).zip(factors) {
                    if index < blocks {
                        let rows = rows_of(index, 0..matrix.rows);
                        let range = scaled(&rows, matrix.columns);
                        let grad = grads.part(matrix.start + range.start..matrix.start + range.end);
                        let (width, columns) = (matrix.rows, matrix.columns);
                        self.outer(worker, dy, width, &rows, x, columns, grad, self.start);
                        return;
                    }
                    index -= blocks;
                }
                let Some(at) = sums[index] else { return };
                match index {
                    0 => self.gain_rows(self.dh1.read(0..tokens * d), grads.part(at..at + d)),
                    1 => self.gain_rows(self.dh2.read(0..tokens * d), grads.part(at..at + d)),
                    2 => {
                        let dqkv = self.dqkv.read(0..tokens * stride);
                        self.gain_rows(dqkv, grads.part(at..at + stride));
                    }
                    _ => {
                        let dheads = self.dheads.read(0..tokens * self.plan.heads.normed);
                        self.head_gain_rows(dheads, grads.part(at..at + 2 * self.plan.heads.width));
                    }
                }
            }
        })
    }

    /// Sums what heads give to their two gains, token after token, head after head.
    fn head_gain_rows(&self, dheads: &[f32], grad: &mut [f32]) {
        let heads = &self.plan.heads;
        let (queries, keys) = grad.split_at_mut(heads.width);
        if self.start == Start::Zero {
            queries.fill(0.0);
            keys.fill(0.0);
        }
        for row in dheads.chunks(heads.normed) {
            let (q, k) = row.split_at(heads.query);
            q.chunks(heads.width).for_each(|head| self.k.add(queries, head));
            k.chunks(heads.width).for_each(|head| self.k.add(keys, head));
        }
    }

    fn adapter_grads(
        &self,
        pool: &mut Pool,
        layer: usize,
        after: Parts<f32>,
        grads: &mut [f32],
    ) -> Result<(), StepError> {
        let (kept, c) = (&self.layers[layer], &self.plan.config);
        let (d, heads) = (c.hidden, &self.plan.heads);
        let factors = |group| match group {
            Group::Qkv => [(self.dqkv, heads.stride), (self.h1, d)],
            Group::Out => [(self.dmiddle, d), (kept.y, heads.query)],
            Group::GateUp => [(kept.gate_up, 2 * c.ffn), (self.h2, d)],
            Group::Down => [(after, d), (self.act, c.ffn)],
        };
        let grads = Parts::new(grads);
        Self::region(pool, self.cancel, self.adapter_tasks(layer), &|worker, index| {
            // SAFETY: this region only reads the factors, and each task has its own index.
            unsafe { self.adapter_task((layer, index), worker, factors, grads) }
        })
    }

    fn gain_rows(&self, dh: &[f32], grad: &mut [f32]) {
        if self.start == Start::Zero {
            grad.fill(0.0);
        }
        for row in dh.chunks(grad.len()) {
            self.k.add(grad, row);
        }
    }
}

/// Adds each token's slope to its row of the embedding, token after token; tasks are strips of
/// columns. A tied embedding already holds the head's gradient.
pub(super) fn embedding_grads(
    k: &Kernels,
    config: &ModelConfig,
    inputs: &[u32],
    slopes: &[f32],
    grads: &mut [f32],
    pool: &mut Pool,
) {
    let d = config.hidden;
    let grads = Parts::new(grads);
    pool.run(d.div_ceil(BLOCK), &|_, index| {
        let columns = rows_of(index, 0..d);
        let at = |row: usize| row * d + columns.start..row * d + columns.end;
        // SAFETY: these columns belong to this task alone.
        unsafe {
            if !config.tied {
                (0..config.vocab).for_each(|id| grads.part(at(id)).fill(0.0));
            }
            for (row, id) in inputs.iter().enumerate() {
                k.add(grads.part(at(*id as usize)), &slopes[at(row)]);
            }
        }
    });
}
