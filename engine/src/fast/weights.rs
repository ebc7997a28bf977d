//! The matrices of a model in the order in which the kernels read them.
#![allow(unsafe_code, reason = "tasks fill disjoint parts of one buffer")]

use crate::config::ModelConfig;

use super::kernel::Right;
use super::pool::{Parts, Pool};
use super::tile::COLUMNS;

/// Where a matrix of `rows` outputs and `columns` inputs lies: in the flat parameters, and packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    /// First element in the flat parameters.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    forward: usize,
    backward: usize,
}

impl Matrix {
    pub(super) const fn range(&self) -> core::ops::Range<usize> {
        self.start..self.start + self.rows * self.columns
    }
}

/// The matrices of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerMatrices {
    pub(super) qkv: Matrix,
    pub(super) out: Matrix,
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}

impl LayerMatrices {
    pub(super) const fn all(&self) -> [Matrix; 4] {
        [self.qkv, self.out, self.gate_up, self.down]
    }
}

/// Packed copies of all matrices: by output for the way forward, by input for the way back.
pub(super) struct Weights {
    pub(super) layers: Vec<LayerMatrices>,
    pub(super) head: Matrix,
    forward: Vec<f32>,
    backward: Vec<f32>,
    forward_fresh: bool,
    backward_fresh: bool,
}

/// Which packed copies a caller needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Forward,
    Both,
}

impl Weights {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let (d, qkv, ffn) = (config.hidden, config.qkv_width(), config.ffn);
        let (mut forward, mut backward) = (0, 0);
        let mut matrix = |start, rows: usize, columns: usize| {
            let matrix = Matrix { start, rows, columns, forward, backward };
            forward += rows.next_multiple_of(COLUMNS) * columns;
            backward += columns.next_multiple_of(COLUMNS) * rows;
            matrix
        };
        let places = config.places();
        let layers = (places.layers.iter())
            .map(|at| LayerMatrices {
                qkv: matrix(at.qkv, qkv, d),
                out: matrix(at.out, d, config.query_width()),
                gate_up: matrix(at.gate_up, 2 * ffn, d),
                down: matrix(at.down, d, ffn),
            })
            .collect();
        let head = matrix(places.head, config.vocab, d);
        Self {
            layers,
            head,
            forward: vec![0.0; forward],
            backward: Vec::new(),
            forward_fresh: false,
            backward_fresh: false,
        }
    }

    /// The parameters have changed.
    pub(super) fn spoil(&mut self) {
        self.forward_fresh = false;
        self.backward_fresh = false;
    }

    /// Packs what is needed and not fresh.
    pub(super) fn pack(&mut self, params: &[f32], need: Need, pool: &mut Pool) {
        let forward = !self.forward_fresh;
        let backward = need == Need::Both && !self.backward_fresh;
        if !(forward || backward) {
            return;
        }
        if backward && self.backward.is_empty() {
            let last = self.head;
            let len = last.backward + last.columns.next_multiple_of(COLUMNS) * last.rows;
            self.backward = vec![0.0; len];
        }
        let (front, back) = (Parts::new(&mut self.forward), Parts::new(&mut self.backward));
        let (layers, head) = (&self.layers, self.head);
        pool.run(4 * layers.len() + 1, &|_, index| {
            let matrix = layers.get(index / 4).map_or(head, |layer| layer.all()[index % 4]);
            let source = &params[matrix.range()];
            if forward {
                let len = matrix.rows.next_multiple_of(COLUMNS) * matrix.columns;
                let range = matrix.forward..matrix.forward + len;
                // SAFETY: each matrix has its own range and its own task.
                pack_columns(source, matrix.columns, unsafe { front.part(range) });
            }
            if backward {
                let len = matrix.columns.next_multiple_of(COLUMNS) * matrix.rows;
                let range = matrix.backward..matrix.backward + len;
                // SAFETY: each matrix has its own range and its own task.
                pack_rows(source, matrix.columns, unsafe { back.part(range) });
            }
        });
        self.forward_fresh |= forward;
        self.backward_fresh |= backward;
    }

    /// `matrix` as right factor of `x W^T`.
    pub(super) fn forward(&self, matrix: &Matrix) -> Right<'_> {
        Right::packed(&self.forward[matrix.forward..], matrix.columns)
    }

    /// `matrix` as right factor of `dy W`.
    pub(super) fn backward(&self, matrix: &Matrix) -> Right<'_> {
        Right::packed(&self.backward[matrix.backward..], matrix.rows)
    }
}

/// Panels of the transpose: panel j holds rows 32 j and on, element (p, c) = row 32 j + c, column p.
pub(super) fn pack_columns(source: &[f32], width: usize, out: &mut [f32]) {
    for (rows, panel) in source.chunks(COLUMNS * width).zip(out.chunks_mut(COLUMNS * width)) {
        for (c, row) in rows.chunks(width).enumerate() {
            for (slot, value) in panel[c..].iter_mut().step_by(COLUMNS).zip(row) {
                *slot = *value;
            }
        }
    }
}

/// Panels of the rows themselves: panel j holds columns 32 j and on.
fn pack_rows(source: &[f32], width: usize, out: &mut [f32]) {
    let rows = source.len() / width;
    for (j, panel) in out.chunks_mut(COLUMNS * rows).enumerate() {
        for (line, row) in panel.chunks_mut(COLUMNS).zip(source.chunks(width)) {
            let columns = &row[j * COLUMNS..width.min((j + 1) * COLUMNS)];
            line[..columns.len()].copy_from_slice(columns);
        }
    }
}
