//! Low-rank adapters beside the matrices: what they add on the way forward, and their gradients.
//!
//! The products with A and B are chains like all others. Frozen matrices get no gradient, so a step
//! takes about two thirds of the time of a full one.
#![allow(unsafe_code, reason = "tasks of a region change disjoint rows of shared buffers")]

use core::ops::Range;

use crate::config::ModelConfig;
use crate::lora::{Group, Lora, Slot};

use super::kernel::{Left, Right, Shape, Start};
use super::pass::{BLOCK, Pass, rows_of, scaled};
use super::pool::{Parts, Pool};
use super::tile::COLUMNS;
use super::weights::pack_columns;

/// All adapters of a model.
pub(super) struct Adapter {
    pub(super) lora: Lora,
    pub(super) params: Vec<f32>,
    slots: Vec<Vec<Slot>>,
    /// Layer, index in it and start in `packed` of every slot.
    starts: Vec<(usize, usize, usize)>,
    /// A and B of every slot as right factors of the way forward.
    packed: Vec<f32>,
    fresh: bool,
}

impl Adapter {
    pub(super) fn new(lora: &Lora, config: &ModelConfig) -> Self {
        let slots = lora.slots(config);
        let (mut starts, mut len) = (Vec::new(), 0);
        for (layer, slots) in slots.iter().enumerate() {
            for (index, slot) in slots.iter().enumerate() {
                starts.push((layer, index, len));
                len += packed_len(slot, lora.rank);
            }
        }
        let (params, packed) = (vec![0.0; lora.parameters(config)], vec![0.0; len]);
        Self { lora: lora.clone(), params, slots, starts, packed, fresh: false }
    }

    /// The parameters have changed.
    pub(super) fn spoil(&mut self) {
        self.fresh = false;
    }

    /// Packs what is not fresh.
    pub(super) fn pack(&mut self, pool: &mut Pool) {
        if std::mem::replace(&mut self.fresh, true) {
            return;
        }
        let Self { lora, params, slots, starts, packed, .. } = self;
        let (rank, packed) = (lora.rank, Parts::new(packed));
        pool.run(starts.len(), &|_, task| {
            let (layer, index, start) = starts[task];
            let slot = &slots[layer][index];
            // SAFETY: each task has its own slot.
            let out = unsafe { packed.part(start..start + packed_len(slot, rank)) };
            let (a, b) = out.split_at_mut(packed_a_len(slot, rank));
            pack_columns(&params[slot.a_range(rank)], slot.inputs, a);
            pack_columns(&params[slot.b_range(rank)], rank, b);
        });
    }

    /// As tasks see it, once packed.
    pub(super) fn view(&self) -> View<'_> {
        View {
            rank: self.lora.rank,
            scale: self.lora.scale(),
            params: &self.params,
            slots: &self.slots,
            packed: &self.packed,
        }
    }
}

const fn packed_a_len(slot: &Slot, rank: usize) -> usize {
    rank.next_multiple_of(COLUMNS) * slot.inputs
}

const fn packed_len(slot: &Slot, rank: usize) -> usize {
    packed_a_len(slot, rank) + slot.outputs.next_multiple_of(COLUMNS) * rank
}

/// The adapters while a batch is on its way.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    rank: usize,
    scale: f32,
    params: &'a [f32],
    slots: &'a [Vec<Slot>],
    packed: &'a [f32],
}

impl View<'_> {
    /// Elements a token of what lies between A and B of one layer.
    pub(super) fn low_width(&self) -> usize {
        self.rank * self.slots.iter().map(Vec::len).max().unwrap_or(0)
    }

    pub(super) const fn rank(&self) -> usize {
        self.rank
    }

    /// The adapters of a group, each with its index in the layer and where its packing starts.
    fn of(&self, layer: usize, group: Group) -> impl Iterator<Item = (usize, &Slot, usize)> {
        let before = self.slots[..layer].iter().flatten();
        let mut at = before.map(|slot| packed_len(slot, self.rank)).sum();
        self.slots[layer]
            .iter()
            .enumerate()
            .map(move |(index, slot)| {
                let start = at;
                at += packed_len(slot, self.rank);
                (index, slot, start)
            })
            .filter(move |(_, slot, _)| slot.group == group)
    }

    fn a<'b>(&'b self, slot: &Slot) -> Right<'b> {
        Right::rows(&self.params[slot.a_range(self.rank)], slot.inputs)
    }

    fn b<'b>(&'b self, slot: &Slot) -> Right<'b> {
        Right::rows(&self.params[slot.b_range(self.rank)], self.rank)
    }

    /// `scale * x A^T` for some rows.
    fn down(&self, pass: &Pass<'_>, slot: &Slot, start: usize, x: &[f32], low: &mut [f32]) {
        let shape = Shape { m: x.len() / slot.inputs, n: self.rank, k: slot.inputs };
        let right = Right::packed(&self.packed[start..], slot.inputs);
        let left = Left::rows(x, slot.inputs);
        pass.k.multiply(shape, left, right, (&mut *low, self.rank), Start::Zero);
        low.iter_mut().for_each(|value| *value *= self.scale);
    }
}

impl Pass<'_> {
    /// Adds what the adapters of a group say about `x` to its outputs; `low` is room.
    pub(super) fn adapt(
        &self,
        (layer, group): (usize, Group),
        x: &[f32],
        out: &mut [f32],
        width: usize,
        low: &mut [f32],
    ) {
        let Some(adapter) = &self.adapter else { return };
        let rows = out.len() / width;
        for (_, slot, start) in adapter.of(layer, group) {
            let low = &mut low[..rows * adapter.rank];
            adapter.down(self, slot, start, &x[..rows * slot.inputs], low);
            let shape = Shape { m: rows, n: slot.outputs, k: adapter.rank };
            let at = start + packed_a_len(slot, adapter.rank);
            let right = Right::packed(&adapter.packed[at..], adapter.rank);
            let out = &mut out[slot.column..];
            let left = Left::rows(low, adapter.rank);
            self.k.multiply(shape, left, right, (out, width), Start::Here);
        }
    }

    /// The way back through B and A: keeps the slope between them and adds to `dx`.
    pub(super) fn adapt_back(
        &self,
        (layer, group): (usize, Group),
        dy: &[f32],
        width: usize,
        rows: &Range<usize>,
        dx: &mut [f32],
    ) {
        let Some(adapter) = &self.adapter else { return };
        for (index, slot, _) in adapter.of(layer, group) {
            // SAFETY: these rows belong to this task alone.
            let dlow = unsafe { self.dlow.part(self.low_rows(adapter, index, rows)) };
            let shape = Shape { m: rows.len(), n: adapter.rank, k: slot.outputs };
            let left = Left { data: &dy[slot.column..], row: width, column: 1 };
            let out = (&mut *dlow, adapter.rank);
            self.k.multiply(shape, left, adapter.b(slot), out, Start::Zero);
            dlow.iter_mut().for_each(|value| *value *= adapter.scale);
            let shape = Shape { m: rows.len(), n: slot.inputs, k: adapter.rank };
            let left = Left::rows(dlow, adapter.rank);
            let out = (&mut *dx, slot.inputs);
            self.k.multiply(shape, left, adapter.a(slot), out, Start::Here);
        }
    }

    /// Keeps what lies between A and B of a group's adapters for their gradients.
    pub(super) fn adapt_again(
        &self,
        (layer, group): (usize, Group),
        x: &[f32],
        rows: &Range<usize>,
    ) {
        let Some(adapter) = &self.adapter else { return };
        for (index, slot, start) in adapter.of(layer, group) {
            // SAFETY: these rows belong to this task alone.
            let low = unsafe { self.low.part(self.low_rows(adapter, index, rows)) };
            adapter.down(self, slot, start, x, low);
        }
    }

    /// Where the rows of a layer's adapter lie: adapter after adapter, each with all tokens.
    fn low_rows(&self, adapter: &View<'_>, index: usize, rows: &Range<usize>) -> Range<usize> {
        let first = index * self.batch.tokens();
        scaled(&(first + rows.start..first + rows.end), adapter.rank)
    }

    /// How many tasks make the gradients of a layer's adapters.
    pub(super) fn adapter_tasks(&self, layer: usize) -> usize {
        let Some(adapter) = &self.adapter else { return 0 };
        let blocks = |slot: &Slot| adapter.rank.div_ceil(BLOCK) + slot.outputs.div_ceil(BLOCK);
        adapter.slots[layer].iter().map(blocks).sum()
    }

    /// One of those tasks. `factors` gives, for each group, the slope of its outputs and its
    /// inputs, each with its width.
    ///
    /// # Safety
    /// Nobody writes the factors meanwhile, and each task of the region has another `index`.
    pub(super) unsafe fn adapter_task(
        &self,
        (layer, mut index): (usize, usize),
        worker: usize,
        factors: impl Fn(Group) -> [(Parts<f32>, usize); 2],
        grads: Parts<f32>,
    ) {
        let Some(adapter) = &self.adapter else { return };
        let (rank, tokens) = (adapter.rank, self.batch.tokens());
        for (at, slot) in adapter.slots[layer].iter().enumerate() {
            let low = self.low_rows(adapter, at, &(0..tokens));
            let [(dy, width), (x, inputs)] = factors(slot.group);
            let (a_blocks, b_blocks) = (rank.div_ceil(BLOCK), slot.outputs.div_ceil(BLOCK));
            if index < a_blocks {
                let rows = rows_of(index, 0..rank);
                // SAFETY: the caller's contract.
                let (dlow, x, grad) = unsafe {
                    (
                        self.dlow.read(low),
                        x.read(0..tokens * inputs),
                        grads.part(slot.a + rows.start * inputs..slot.a + rows.end * inputs),
                    )
                };
                return self.outer(worker, dlow, rank, &rows, x, inputs, grad, self.start);
            }
            index -= a_blocks;
            if index < b_blocks {
                let rows = rows_of(index, 0..slot.outputs);
                // SAFETY: the caller's contract.
                let (dy, low, grad) = unsafe {
                    (
                        dy.read(0..tokens * width),
                        self.low.read(low),
                        grads.part(slot.b + rows.start * rank..slot.b + rows.end * rank),
                    )
                };
                let rows = slot.column + rows.start..slot.column + rows.end;
                return self.outer(worker, dy, width, &rows, low, rank, grad, self.start);
            }
            index -= b_blocks;
        }
    }
}
