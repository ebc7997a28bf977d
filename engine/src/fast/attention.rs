//! Causal grouped-query attention of one sequence and one key-value head, forward and back.
//!
//! Queries go in blocks of 32 rows, whose scores are the only square that is ever held; the way
//! back makes them again from the shift and sum kept of each row (the idea of Dao et al. 2022).
#![allow(unsafe_code, reason = "heads are interleaved in rows: tasks write disjoint columns")]

use crate::config::ModelConfig;

use super::kernel::{Kernels, Product};
use super::pool::Parts;
use super::tile::COLUMNS;

/// Query rows at a time.
const BLOCK: usize = 32;

/// The sizes of attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// Width of all queries: of the rows of the outcome.
    pub(super) query: usize,
    /// Width of queries and keys: what is rotated.
    pub(super) normed: usize,
    /// Width of a head.
    pub(super) width: usize,
    pub(super) kv_heads: usize,
    /// Query heads a key-value head.
    pub(super) group: usize,
    /// Distance of the rows of q, k, v.
    pub(super) stride: usize,
    pub(super) scale: f32,
}

impl Heads {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let width = config.head_dim();
        Self {
            query: config.query_width(),
            normed: config.query_width() + config.kv_width(),
            width,
            kv_heads: config.kv_heads,
            group: config.heads / config.kv_heads,
            stride: config.qkv_width(),
            scale: 1.0 / (width as f32).sqrt(),
        }
    }

    const fn query_of(&self, head: usize) -> usize {
        head * self.width
    }

    const fn key(&self, kv: usize) -> usize {
        self.query + kv * self.width
    }

    const fn value(&self, kv: usize) -> usize {
        self.query + (self.kv_heads + kv) * self.width
    }
}

/// Room for one task.
pub(super) struct Room {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
}

/// Distance of the rows of scores: not a power of two, so that columns spread over the cache.
const fn scores_row(length: usize) -> usize {
    length.next_multiple_of(COLUMNS) + 16
}

impl Room {
    pub(super) const fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), scores: Vec::new(), slopes: Vec::new() }
    }

    pub(super) fn grow(&mut self, heads: &Heads, length: usize) {
        let panels = length.next_multiple_of(COLUMNS) * heads.width;
        for (buffer, len) in [
            (&mut self.keys, panels),
            (&mut self.values, panels),
            (&mut self.scores, BLOCK * scores_row(length)),
            (&mut self.slopes, BLOCK * scores_row(length)),
        ] {
            if buffer.len() < len {
                buffer.resize(len, 0.0);
            }
        }
    }
}

/// What attention reads and writes: all rows of the batch.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// q, k, v in rows of `stride`.
    pub(super) qkv: Parts<f32>,
    /// The outcome, in rows of `query`.
    pub(super) y: Parts<f32>,
    /// Shift and reciprocal sum of each row and head.
    pub(super) sums: Parts<(f32, f32)>,
}

/// The gradients on the way back.
#[derive(Clone, Copy)]
pub(super) struct Slopes {
    pub(super) dy: Parts<f32>,
    pub(super) dqkv: Parts<f32>,
}

/// One sequence and one key-value head.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// First row of the sequence.
    pub(super) first: usize,
    /// Tokens of the sequence.
    pub(super) length: usize,
    pub(super) kv: usize,
}

/// Panels of the transpose of `length` rows of `width` columns that lie `stride` apart.
fn pack_heads(
    from: Parts<f32>,
    at: usize,
    (length, width, stride): (usize, usize, usize),
    out: &mut [f32],
) {
    for t in 0..length {
        // SAFETY: q, k, v are only read while attention runs.
        let row = unsafe { from.read(at + t * stride..at + t * stride + width) };
        let panel = &mut out[t / COLUMNS * COLUMNS * width + t % COLUMNS..];
        for (slot, value) in panel.iter_mut().step_by(COLUMNS).zip(row) {
            *slot = *value;
        }
    }
}

/// The way forward.
pub(super) fn forward(k: &Kernels, heads: &Heads, place: Place, rows: Rows, room: &mut Room) {
    let Place { first, length, kv } = place;
    let (stride, width, row) = (heads.stride, heads.width, scores_row(length));
    pack_heads(rows.qkv, first * stride + heads.key(kv), (length, width, stride), &mut room.keys);
    for head in kv * heads.group..(kv + 1) * heads.group {
        for start in (0..length).step_by(BLOCK) {
            let end = (start + BLOCK).min(length);
            let queries = rows.qkv.at((first + start) * stride + heads.query_of(head));
            score(k, heads, queries, (start, end), &room.keys, &mut room.scores, row);
            // SAFETY: these rows and this head belong to this task alone.
            let sums = unsafe { rows.sums.part(sums_range(heads, first, start, end, head)) };
            for t in start..end {
                let scores = &mut room.scores[(t - start) * row..][..end];
                sums[t - start] = k.softmax(scores, t + 1, heads.scale);
            }
            let product = Product {
                m: end - start,
                n: width,
                k: end,
                a: room.scores.as_ptr(),
                a_row: row,
                a_column: 1,
                b: rows.qkv.at(first * stride + heads.value(kv)),
                b_panel: COLUMNS,
                b_row: stride,
                c: rows.y.at((first + start) * heads.query + heads.query_of(head)),
                c_row: heads.query,
                add: false,
            };
            // SAFETY: rows and columns inside their buffers; this head's columns of y are ours.
            unsafe { k.product(&product) }
        }
    }
}

/// Where the sums of a block of rows lie: row block after row block, inside it head after head, so
/// that a task's part is contiguous.
const fn sums_range(
    heads: &Heads,
    first: usize,
    start: usize,
    end: usize,
    head: usize,
) -> core::ops::Range<usize> {
    let at = (first + start) * heads.kv_heads * heads.group + head * (end - start);
    at..at + end - start
}

/// Raw scores of the queries `start..end` against the keys `0..end`.
fn score(
    k: &Kernels,
    heads: &Heads,
    queries: *const f32,
    (start, end): (usize, usize),
    keys: &[f32],
    scores: &mut [f32],
    row: usize,
) {
    assert!(scores.len() >= (end - start) * row && keys.len() >= end * heads.width);
    let product = Product {
        m: end - start,
        n: end,
        k: heads.width,
        a: queries,
        a_row: heads.stride,
        a_column: 1,
        b: keys.as_ptr(),
        b_panel: COLUMNS * heads.width,
        b_row: COLUMNS,
        c: scores.as_mut_ptr(),
        c_row: row,
        add: false,
    };
    // SAFETY: the queries are rows of the batch; keys and scores were just measured.
    unsafe { k.product(&product) }
}

/// The way back: fills this head's part of `dqkv` (of all heads of the group).
pub(super) fn backward(
    k: &Kernels,
    heads: &Heads,
    place: Place,
    (rows, slopes): (Rows, Slopes),
    room: &mut Room,
) {
    let Place { first, length, kv } = place;
    let (stride, width, d, row) = (heads.stride, heads.width, heads.query, scores_row(length));
    let (key, value) = (first * stride + heads.key(kv), first * stride + heads.value(kv));
    pack_heads(rows.qkv, key, (length, width, stride), &mut room.keys);
    pack_heads(rows.qkv, value, (length, width, stride), &mut room.values);
    for t in 0..length {
        for at in [key, value] {
            // SAFETY: this head's columns of k and v belong to this task alone.
            unsafe { slopes.dqkv.part(at + t * stride..at + t * stride + width) }.fill(0.0);
        }
    }
    for head in kv * heads.group..(kv + 1) * heads.group {
        for start in (0..length).step_by(BLOCK) {
            let end = (start + BLOCK).min(length);
            let m = end - start;
            let at = (first + start) * stride + heads.query_of(head);
            let y_at = (first + start) * d + heads.query_of(head);
            score(k, heads, rows.qkv.at(at), (start, end), &room.keys, &mut room.scores, row);
            // dP = dY V^T
            let product = Product {
                m,
                n: end,
                k: width,
                a: slopes.dy.at(y_at),
                a_row: d,
                a_column: 1,
                b: room.values.as_ptr(),
                b_panel: COLUMNS * width,
                b_row: COLUMNS,
                c: room.slopes.as_mut_ptr(),
                c_row: row,
                add: false,
            };
            // SAFETY: rows of the batch and room of this task, as large as `grow` made it.
            unsafe { k.product(&product) }
            // SAFETY: nobody writes the sums on the way back.
            let sums = unsafe { rows.sums.read(sums_range(heads, first, start, end, head)) };
            for t in start..end {
                let p = &mut room.scores[(t - start) * row..][..end];
                let dp = &mut room.slopes[(t - start) * row..][..end];
                let (shift, inverse) = sums[t - start];
                k.softmax_again(p, t + 1, heads.scale, shift, inverse);
                let range = y_at + (t - start) * d..y_at + (t - start) * d + width;
                // SAFETY: nobody writes y or its gradient while attention goes back.
                let (dy, y) = unsafe { (slopes.dy.read(range.clone()), rows.y.read(range)) };
                k.softmax_back(dp, p, dy, y, heads.scale);
            }
            let by_rows = Product {
                m,
                n: width,
                k: end,
                a: room.slopes.as_ptr(),
                a_row: row,
                a_column: 1,
                b: rows.qkv.at(key),
                b_panel: COLUMNS,
                b_row: stride,
                c: slopes.dqkv.at(at),
                c_row: stride,
                add: false,
            };
            let by_columns =
                Product { m: end, k: m, a_row: 1, a_column: row, add: true, ..by_rows };
            let (q, dy) = (rows.qkv.at(at), slopes.dy.at(y_at));
            let (dk, dv) = (slopes.dqkv.at(key), slopes.dqkv.at(value));
            // SAFETY: rows of the batch and room of this task; of dqkv only this task's heads.
            unsafe {
                k.product(&by_rows);
                k.product(&Product { b: q, c: dk, ..by_columns });
                let p = room.scores.as_ptr();
                k.product(&Product { a: p, b: dy, b_row: d, c: dv, ..by_columns });
            }
        }
    }
}
