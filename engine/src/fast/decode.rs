//! Reading on with keys and values kept: generation.
//!
//! A text is read in blocks of rows by the same chains as a whole batch, so the logits are the same
//! bits however it is cut; a block of one row goes through `vector`. Keys and values lie in pages
//! that are added as the text grows: a long context costs nothing before it is used.
//!
//! Regions of tasks share every matrix by its columns, attention by its heads, the rest by rows.
#![allow(unsafe_code, reason = "tasks of a region change disjoint parts of shared buffers")]

use core::ops::Range;

use crate::config::Storage;
use crate::traits::{Cancel, StepError};

use super::kernel::{INNER, Kernels, Product, Start};
use super::pass::Plan;
use super::pool::{Parts, Pool};
use super::tile::COLUMNS;
use super::weights::{Factor, Matrix, Weights};

/// Rows that are read at a time: a block's share of a matrix stays in the second cache.
const ROWS: usize = 128;
/// Rows of scores that a task holds.
const SCORE_ROWS: usize = 32;
/// Positions of a page, when the context has as many.
const PAGE: usize = 256;
/// The least that a task reads: less is done sooner than another thread hears of it.
const TASK_BYTES: usize = 64 << 10;

/// What generation works on.
pub(super) struct Model<'a> {
    pub(super) k: Kernels,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) params: &'a [f32],
    pub(super) pool: &'a mut Pool,
}

/// What is kept of the tokens so far, and room for the next.
#[derive(Default)]
pub(super) struct Decoder {
    position: usize,
    /// Keys and values of [`PAGE`] positions and all layers.
    pages: Vec<Vec<f32>>,
    x: Vec<f32>,
    h: Vec<f32>,
    qkv: Vec<f32>,
    raw: Vec<f32>,
    head_scales: Vec<f32>,
    y: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    /// A part for each worker.
    scores: Vec<f32>,
    logits: Vec<f32>,
}

/// How a page is laid out. For each layer: keys as panels of 32 positions `[kv head][panel]
/// [dimension][position]`, then values `[kv head][position][dimension]`.
#[derive(Clone, Copy)]
struct Paper {
    positions: usize,
    width: usize,
    kv_width: usize,
    layers: usize,
}

impl Paper {
    fn new(plan: &Plan) -> Self {
        let c = &plan.config;
        let positions = PAGE.min(c.context.next_multiple_of(COLUMNS));
        Self { positions, width: c.head_dim(), kv_width: c.kv_width(), layers: c.layers }
    }

    const fn len(&self) -> usize {
        self.layers * 2 * self.positions * self.kv_width
    }

    const fn keys(&self, layer: usize, kv: usize) -> usize {
        (2 * layer * self.kv_width + kv * self.width) * self.positions
    }

    const fn values(&self, layer: usize, kv: usize) -> usize {
        self.keys(layer, kv) + self.positions * self.kv_width
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

impl Decoder {
    /// Forgets all tokens.
    pub(super) fn start(&mut self) {
        self.position = 0;
    }

    /// Positions of the pages that hold the text once `more` tokens were read.
    pub(super) fn reach(&self, plan: &Plan, more: usize) -> usize {
        (self.position + more).next_multiple_of(Paper::new(plan).positions)
    }

    /// Bytes of the pages, of this text or a longer one before.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.pages.iter().map(|page| size_of_val(page.as_slice())).sum()
    }

    /// The logits after the last token read.
    pub(super) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Reads on. The caller has checked the ids, and that the context has room for them.
    ///
    /// # Errors
    /// A raised `cancel`: all has to be read anew then.
    pub(super) fn read(
        &mut self,
        model: &mut Model<'_>,
        ids: &[u32],
        cancel: &Cancel,
    ) -> Result<(), StepError> {
        for ids in ids.chunks(ROWS) {
            self.prepare(model, ids.len());
            let mut block = Block {
                paper: Paper::new(model.plan),
                first: self.position,
                rows: ids.len(),
                model,
                x: Parts::new(&mut self.x),
                h: Parts::new(&mut self.h),
                qkv: Parts::new(&mut self.qkv),
                raw: Parts::new(&mut self.raw),
                head_scales: Parts::new(&mut self.head_scales),
                y: Parts::new(&mut self.y),
                gate_up: Parts::new(&mut self.gate_up),
                act: Parts::new(&mut self.act),
                scores: Parts::new(&mut self.scores),
            };
            block.embed(ids);
            for layer in 0..block.paper.layers {
                cancel.check()?;
                block.layer(layer, &mut self.pages);
            }
            self.position += ids.len();
        }
        let (c, row) = (&model.plan.config, (ids.len().max(1) - 1) % ROWS);
        let gain = &model.params[model.plan.places.norm..][..c.hidden];
        let x = &self.x[row * c.hidden..][..c.hidden];
        model.k.norm(x, gain, c.norm_eps, &mut self.h[..c.hidden]);
        let head = &model.weights.head;
        let (h, logits) = (Parts::new(&mut self.h), Parts::new(&mut self.logits));
        apply(model, head, 1, (h, logits), Start::Zero);
        Ok(())
    }

    /// Room for a block of `rows` rows; nothing grows from one token to the next but a page.
    fn prepare(&mut self, model: &Model<'_>, rows: usize) {
        let (c, heads, paper) = (&model.plan.config, model.plan.heads, Paper::new(model.plan));
        let reach = self.reach(model.plan, rows);
        while self.pages.len() * paper.positions < reach {
            self.pages.push(vec![0.0; paper.len()]);
        }
        let score_rows = score_rows(rows, heads.group);
        for (buffer, len) in [
            (&mut self.x, rows * c.hidden),
            (&mut self.h, rows * c.hidden),
            (&mut self.qkv, rows * heads.stride),
            (&mut self.raw, if c.qk_norm { rows * heads.normed } else { 0 }),
            (&mut self.head_scales, rows * (c.heads + c.kv_heads)),
            (&mut self.y, rows * heads.query),
            (&mut self.gate_up, rows * 2 * c.ffn),
            (&mut self.act, rows * c.ffn),
            (&mut self.scores, model.pool.threads() * score_rows * scores_row(reach)),
            (&mut self.logits, c.vocab),
        ] {
            grow(buffer, len);
        }
    }
}

/// Rows of scores that a worker needs for a block of `rows` rows.
fn score_rows(rows: usize, group: usize) -> usize {
    rows.min(SCORE_ROWS).max(group)
}

/// Distance of the rows of scores: not a power of two, so that columns spread over the cache.
const fn scores_row(length: usize) -> usize {
    length.next_multiple_of(COLUMNS) + 16
}

/// Calls `task(worker, items)` for pieces of `0..count` that are worth a thread's while, when each
/// item reads some `bytes`.
fn share(pool: &mut Pool, count: usize, bytes: usize, task: &(dyn Fn(usize, Range<usize>) + Sync)) {
    let per = TASK_BYTES.div_ceil(bytes.max(1)).clamp(1, count.max(1));
    pool.run(count.div_ceil(per), &|worker, index| {
        task(worker, index * per..(index * per + per).min(count));
    });
}

/// `out = or += x W^T` for `rows` rows.
fn apply(
    model: &mut Model<'_>,
    matrix: &Matrix,
    rows: usize,
    (x, out): (Parts<f32>, Parts<f32>),
    start: Start,
) {
    let (k, n, inner) = (model.k, matrix.rows, matrix.columns);
    let factor = model.weights.forward(matrix);
    let add = start == Start::Here;
    let width = if matches!(factor, Factor::F32(_)) { 4 } else { 2 };
    let bytes = width * COLUMNS * inner;
    // SAFETY: nobody writes the left factor while it is read here.
    let left = unsafe { x.read(0..rows * inner) };
    share(model.pool, n.div_ceil(COLUMNS), bytes, &|_, panels| {
        let columns = panels.start * COLUMNS..(panels.end * COLUMNS).min(n);
        let panel = COLUMNS * inner;
        let range = panels.start * panel..panels.end * panel;
        if rows == 1 {
            // SAFETY: these columns belong to this task alone.
            let out = unsafe { out.part(columns) };
            return match factor {
                Factor::F32(right) => k.vector(left, &right.data[range], out, add),
                Factor::Bf16(right) => k.vector_half(left, &right[range], out, add),
            };
        }
        assert!(rows * n <= out.len(), "C is as large as said");
        let product = |first: usize, columns: Range<usize>, k: usize, b: *const f32, add| Product {
            m: rows,
            n: columns.len(),
            k,
            a: left[first..].as_ptr(),
            a_row: inner,
            a_column: 1,
            b,
            b_panel: panel,
            b_row: COLUMNS,
            c: out.at(columns.start),
            c_row: n,
            add,
        };
        match factor {
            Factor::F32(right) => {
                let b = right.data[range].as_ptr();
                // SAFETY: A, B and C were measured; these columns of C belong to this task alone.
                unsafe { k.product(&product(0, columns, inner, b, add)) }
            }
            Factor::Bf16(right) => {
                let mut strip = [0.0; INNER * COLUMNS];
                for column in columns.clone().step_by(COLUMNS) {
                    for first in (0..inner).step_by(INNER) {
                        let length = (inner - first).min(INNER);
                        let at = column * inner + first * COLUMNS;
                        k.widen(&right[at..at + length * COLUMNS], &mut strip);
                        let columns = column..columns.end.min(column + COLUMNS);
                        let b = strip.as_ptr();
                        // SAFETY: as above; the strip was just filled.
                        unsafe { k.product(&product(first, columns, length, b, add || first > 0)) }
                    }
                }
            }
        }
    });
}

/// Some tokens on their way through the layers.
struct Block<'m, 'a> {
    model: &'m mut Model<'a>,
    paper: Paper,
    /// Position of the first row.
    first: usize,
    rows: usize,
    x: Parts<f32>,
    h: Parts<f32>,
    qkv: Parts<f32>,
    raw: Parts<f32>,
    head_scales: Parts<f32>,
    y: Parts<f32>,
    gate_up: Parts<f32>,
    act: Parts<f32>,
    scores: Parts<f32>,
}

impl Block<'_, '_> {
    fn embed(&self, ids: &[u32]) {
        let d = self.model.plan.config.hidden;
        // SAFETY: no other thread is at work between regions.
        let x = unsafe { self.x.part(0..self.rows * d) };
        for (x, id) in x.chunks_mut(d).zip(ids) {
            let at = *id as usize * d;
            x.copy_from_slice(&self.model.params[at..at + d]);
            self.model.plan.store(&self.model.k, x);
        }
    }

    fn layer(&mut self, layer: usize, pages: &mut [Vec<f32>]) {
        let (weights, places) = (self.model.weights, self.model.plan.places.layers[layer]);
        let (matrices, rows) = (&weights.layers[layer], self.rows);
        let (x, h, y) = (self.x, self.h, self.y);
        self.norm(places.norm1);
        let start = self.bias(places.bias);
        apply(self.model, &matrices.qkv, rows, (h, self.qkv), start);
        self.keep(layer, pages);
        self.attend(layer, pages);
        let (d, query) = (self.model.plan.config.hidden, self.model.plan.heads.query);
        self.store(y, query);
        apply(self.model, &matrices.out, rows, (y, x), Start::Here);
        self.store(x, d);
        self.norm(places.norm2);
        apply(self.model, &matrices.gate_up, rows, (h, self.gate_up), Start::Zero);
        self.activate();
        apply(self.model, &matrices.down, rows, (self.act, x), Start::Here);
        self.store(x, d);
    }

    /// Rounds rows of `width` to what storage has.
    fn store(&mut self, values: Parts<f32>, width: usize) {
        if self.model.plan.storage == Storage::F32 {
            return;
        }
        self.each_row(width, |k, plan, _, row| {
            // SAFETY: this row belongs to this task alone.
            plan.store(k, unsafe { values.part(row * width..(row + 1) * width) });
        });
    }

    /// Calls `task` for every row, on any thread; a row reads some `width` elements.
    fn each_row(&mut self, width: usize, task: impl Fn(&Kernels, &Plan, &[f32], usize) + Sync) {
        let Model { k, plan, params, pool, .. } = &mut *self.model;
        let (k, plan, params) = (*k, *plan, *params);
        share(pool, self.rows, 4 * width, &|_, rows| {
            rows.for_each(|row| task(&k, plan, params, row));
        });
    }

    /// `h` becomes the norm of `x`.
    fn norm(&mut self, gain: usize) {
        let (x, h, d) = (self.x, self.h, self.model.plan.config.hidden);
        self.each_row(d, |k, plan, params, row| {
            let range = row * d..(row + 1) * d;
            // SAFETY: this row belongs to this task alone.
            let (x, h) = unsafe { (x.read(range.clone()), h.part(range)) };
            k.norm(x, &params[gain..gain + d], plan.config.norm_eps, h);
        });
    }

    /// Puts the bias into the rows of q, k, v, where there is one; where their chains then start.
    fn bias(&mut self, bias: Option<usize>) -> Start {
        let Some(bias) = bias else { return Start::Zero };
        let (qkv, stride) = (self.qkv, self.model.plan.heads.stride);
        self.each_row(stride, |_, _, params, row| {
            // SAFETY: this row belongs to this task alone.
            let qkv = unsafe { qkv.part(row * stride..(row + 1) * stride) };
            qkv.copy_from_slice(&params[bias..bias + stride]);
        });
        Start::Here
    }

    /// `act` becomes the feed-forward part's middle.
    fn activate(&mut self) {
        let (gate_up, act, ffn) = (self.gate_up, self.act, self.model.plan.config.ffn);
        self.each_row(2 * ffn, |k, plan, _, row| {
            // SAFETY: this row belongs to this task alone.
            let (gate_up, act) = unsafe {
                (
                    gate_up.part(2 * row * ffn..2 * (row + 1) * ffn),
                    act.part(row * ffn..(row + 1) * ffn),
                )
            };
            plan.store(k, gate_up);
            let (gate, up) = gate_up.split_at(ffn);
            k.swiglu(gate, up, act);
        });
    }

    /// Norms and rotates queries and keys, and writes keys and values into their pages.
    fn keep(&mut self, layer: usize, pages: &mut [Vec<f32>]) {
        let (qkv, raw, scales) = (self.qkv, self.raw, self.head_scales);
        let (first, paper, heads) = (self.first, self.paper, self.model.plan.heads);
        let config = &self.model.plan.config;
        let (raw_width, all) =
            (if config.qk_norm { heads.normed } else { 0 }, config.heads + config.kv_heads);
        let last = (first + self.rows - 1) / paper.positions;
        let open = &mut pages[first / paper.positions..=last];
        // A block of at most ROWS rows touches at most this many pages.
        const OPEN: usize = ROWS / COLUMNS + 1;
        let mut parts = [Parts::new(&mut []); OPEN];
        for (part, page) in parts.iter_mut().zip(open) {
            *part = Parts::new(page);
        }
        self.each_row(heads.stride, |k, plan, params, row| {
            let t = first + row;
            // SAFETY: these rows belong to this task alone.
            let (qkv, raw, scales) = unsafe {
                (
                    qkv.part(row * heads.stride..(row + 1) * heads.stride),
                    raw.part(row * raw_width..(row + 1) * raw_width),
                    scales.part(row * all..(row + 1) * all),
                )
            };
            plan.turn(k, (params, layer), qkv, t, (raw, scales));
            let (page, slot) =
                (parts[t / paper.positions - first / paper.positions], t % paper.positions);
            let (keys, values) = qkv[heads.query..].split_at(paper.kv_width);
            let width = paper.width;
            for (kv, (key, value)) in keys.chunks(width).zip(values.chunks(width)).enumerate() {
                let at = paper.values(layer, kv) + slot * width;
                // SAFETY: this position belongs to this task alone.
                unsafe { page.part(at..at + width) }.copy_from_slice(value);
                let at = paper.keys(layer, kv) + slot / COLUMNS * COLUMNS * width + slot % COLUMNS;
                for (dimension, key) in key.iter().enumerate() {
                    let at = at + dimension * COLUMNS;
                    // SAFETY: as above.
                    let slot = unsafe { page.part(at..at + 1) };
                    slot[0] = *key;
                }
            }
        });
    }

    /// `y` becomes what the heads see.
    fn attend(&mut self, layer: usize, pages: &[Vec<f32>]) {
        let (rows, heads) = (self.rows, self.model.plan.heads);
        let blocks = rows.div_ceil(SCORE_ROWS);
        let seen = self.first + rows;
        let bytes = 8 * seen * heads.width * heads.group;
        let look = Look {
            k: self.model.k,
            plan: self.model.plan,
            paper: self.paper,
            pages,
            layer,
            first: self.first,
            qkv: self.qkv,
            y: self.y,
            scores: self.scores,
            score_rows: score_rows(rows, heads.group),
            row: scores_row(seen.next_multiple_of(self.paper.positions)),
        };
        share(self.model.pool, blocks * heads.kv_heads, bytes, &|worker, tasks| {
            for task in tasks {
                let start = task / heads.kv_heads * SCORE_ROWS;
                let rows = start..(start + SCORE_ROWS).min(rows);
                look.head(worker, task % heads.kv_heads, rows);
            }
        });
    }
}

/// Attention of a block's rows over the pages.
struct Look<'a> {
    k: Kernels,
    plan: &'a Plan,
    paper: Paper,
    pages: &'a [Vec<f32>],
    layer: usize,
    first: usize,
    qkv: Parts<f32>,
    y: Parts<f32>,
    scores: Parts<f32>,
    /// Rows of scores that a worker has, and their distance.
    score_rows: usize,
    row: usize,
}

impl Look<'_> {
    /// Some rows of all query heads that share one key-value head. Of a single row these heads go
    /// together, so that keys and values are read once.
    fn head(&self, worker: usize, kv: usize, rows: Range<usize>) {
        let heads = self.plan.heads;
        let at = worker * self.score_rows * self.row;
        // SAFETY: a worker runs one task at a time, and has this part of the scores.
        let scores = unsafe { self.scores.part(at..at + self.score_rows * self.row) };
        let query = kv * heads.group * heads.width;
        if rows.len() == 1 {
            let from = (rows.start * heads.stride + query, heads.width);
            let to = (rows.start * heads.query + query, heads.width);
            self.mix(kv, scores, (heads.group, |_| self.first + rows.start + 1), from, to);
            return;
        }
        for head in 0..heads.group {
            let query = query + head * heads.width;
            let from = (rows.start * heads.stride + query, heads.stride);
            let to = (rows.start * heads.query + query, heads.query);
            self.mix(kv, scores, (rows.len(), |i| self.first + rows.start + i + 1), from, to);
        }
    }

    /// `m` queries, the i-th of which sees the first `seen(i)` positions; where the first query
    /// and outcome lie and how far apart they are.
    fn mix(
        &self,
        kv: usize,
        scores: &mut [f32],
        (m, seen): (usize, impl Fn(usize) -> usize),
        from: (usize, usize),
        to: (usize, usize),
    ) {
        let (paper, width, most) = (self.paper, self.paper.width, seen(m - 1));
        assert!(m <= self.score_rows && most <= self.row, "as many scores as there is room for");
        let pages = self.pages.iter().zip((0..most).step_by(paper.positions));
        let c = scores.as_mut_ptr();
        for (page, start) in pages.clone() {
            let product = Product {
                m,
                n: (most - start).min(paper.positions),
                k: width,
                a: self.qkv.at(from.0),
                a_row: from.1,
                a_column: 1,
                b: page[paper.keys(self.layer, kv)..].as_ptr(),
                b_panel: COLUMNS * width,
                b_row: COLUMNS,
                c: c.wrapping_add(start),
                c_row: self.row,
                add: false,
            };
            // SAFETY: the block's queries, a page's keys, and scores that were just measured.
            unsafe { self.k.product(&product) }
        }
        for (i, row) in scores.chunks_mut(self.row).take(m).enumerate() {
            self.k.softmax(&mut row[..most], seen(i), self.plan.heads.scale);
        }
        for (page, start) in pages {
            let product = Product {
                m,
                n: width,
                k: (most - start).min(paper.positions),
                a: scores[start..].as_ptr(),
                a_row: self.row,
                a_column: 1,
                b: page[paper.values(self.layer, kv)..].as_ptr(),
                b_panel: COLUMNS,
                b_row: width,
                c: self.y.at(to.0),
                c_row: to.1,
                add: start > 0,
            };
            // SAFETY: as above; these heads' part of y belongs to this task alone.
            unsafe { self.k.product(&product) }
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
