//! The matrices of a model in the order in which the kernels read them.
#![allow(unsafe_code, reason = "tasks fill disjoint parts of one buffer")]

use crate::config::{ModelConfig, Storage};
use crate::traits::{Cancel, StepError};

use super::body::half;
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
    /// Where it would lie if all matrices were packed for the way back.
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

/// The packed copy of all matrices for the way forward; the way back packs one layer at a time.
pub(super) struct Weights {
    pub(super) layers: Vec<LayerMatrices>,
    pub(super) head: Matrix,
    forward: Packed,
    fresh: bool,
}

/// Packed panels, as they are held.
enum Packed {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

/// One packed matrix as right factor.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    F32(Right<'a>),
    Bf16(&'a [u16]),
}

/// Panels that a task packs.
const TASK_PANELS: usize = 4;

impl Weights {
    pub(super) fn new(config: &ModelConfig, storage: Storage) -> Self {
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
        let forward = match storage {
            Storage::F32 => Packed::F32(vec![0.0; forward]),
            Storage::Bf16 => Packed::Bf16(vec![0; forward]),
        };
        Self { layers, head, forward, fresh: false }
    }

    /// The parameters have changed.
    pub(super) fn spoil(&mut self) {
        self.fresh = false;
    }

    /// Packs everything for the way forward, unless it is fresh.
    ///
    /// # Errors
    /// A raised `cancel`.
    pub(super) fn pack(
        &mut self,
        params: &[f32],
        pool: &mut Pool,
        cancel: &Cancel,
    ) -> Result<(), StepError> {
        if self.fresh {
            return Ok(());
        }
        let matrices = || self.layers.iter().flat_map(LayerMatrices::all).chain([self.head]);
        match &mut self.forward {
            Packed::F32(out) => {
                let out = Parts::new(out);
                for matrix in matrices() {
                    pack_matrix(&matrix, params, out, pool, |value| value);
                    cancel.check()?;
                }
            }
            Packed::Bf16(out) => {
                let out = Parts::new(out);
                for matrix in matrices() {
                    pack_matrix(&matrix, params, out, pool, half);
                    cancel.check()?;
                }
            }
        }
        self.fresh = true;
        Ok(())
    }

    /// `matrix` as right factor of `x W^T`.
    pub(super) fn forward(&self, matrix: &Matrix) -> Factor<'_> {
        match &self.forward {
            Packed::F32(all) => Factor::F32(Right::packed(&all[matrix.forward..], matrix.columns)),
            Packed::Bf16(all) => Factor::Bf16(&all[matrix.forward..]),
        }
    }

    /// Elements of the largest part that [`Self::pack_back`] packs.
    pub(super) fn back_len(&self) -> usize {
        let len = |matrices: &[Matrix]| {
            let each = matrices.iter().map(|m| m.columns.next_multiple_of(COLUMNS) * m.rows);
            each.sum::<usize>()
        };
        let layers = self.layers.iter().map(|layer| len(&layer.all()));
        layers.chain([len(&[self.head])]).max().unwrap_or(0)
    }

    /// Packs some matrices for the way back, one after the other from the start of `out`; task
    /// `index` of [`Self::back_tasks`].
    ///
    /// # Safety
    /// Nobody else uses `out`, but for other tasks of the same matrices.
    pub(super) unsafe fn pack_back(
        matrices: &[Matrix],
        params: &[f32],
        mut index: usize,
        out: Parts<f32>,
        store: impl Fn(&mut [f32]),
    ) {
        for matrix in matrices {
            let tasks = matrix.columns.div_ceil(TASK_PANELS * COLUMNS);
            if index >= tasks {
                index -= tasks;
                continue;
            }
            let first = index * TASK_PANELS * COLUMNS;
            let end = (first + TASK_PANELS * COLUMNS).min(matrix.columns);
            let start = matrix.backward - matrices[0].backward + first * matrix.rows;
            let len = (end - first).next_multiple_of(COLUMNS) * matrix.rows;
            // SAFETY: each task has its own panels.
            let out = unsafe { out.part(start..start + len) };
            pack_rows(&params[matrix.range()], matrix.columns, first..end, out);
            return store(out);
        }
    }

    /// How many tasks pack these matrices for the way back.
    pub(super) fn back_tasks(matrices: &[Matrix]) -> usize {
        matrices.iter().map(|matrix| matrix.columns.div_ceil(TASK_PANELS * COLUMNS)).sum()
    }

    /// `matrix` as right factor of `dy W`, out of what [`Self::pack_back`] packed with `first` as
    /// first matrix.
    pub(super) fn back<'a>(matrix: &Matrix, first: &Matrix, packed: &'a [f32]) -> Right<'a> {
        Right::packed(&packed[matrix.backward - first.backward..], matrix.rows)
    }
}

/// Packs one matrix for the way forward, a few panels a task.
fn pack_matrix<T: Send>(
    matrix: &Matrix,
    params: &[f32],
    out: Parts<T>,
    pool: &mut Pool,
    of: impl Fn(f32) -> T + Sync,
) {
    pool.run(matrix.rows.div_ceil(TASK_PANELS * COLUMNS), &|_, index| {
        let rows = index * TASK_PANELS * COLUMNS;
        let end = (rows + TASK_PANELS * COLUMNS).min(matrix.rows);
        let source = &params[matrix.range()][rows * matrix.columns..end * matrix.columns];
        let start = matrix.forward + rows * matrix.columns;
        let len = (end - rows).next_multiple_of(COLUMNS) * matrix.columns;
        // SAFETY: each task has its own panels.
        pack_columns_as(source, matrix.columns, unsafe { out.part(start..start + len) }, &of);
    });
}

/// Panels of the transpose: panel j holds rows 32 j and on, element (p, c) = row 32 j + c, column p.
/// Slots of rows that do not exist are left as they are.
pub(super) fn pack_columns(source: &[f32], width: usize, out: &mut [f32]) {
    pack_columns_as(source, width, out, |value| value);
}

fn pack_columns_as<T>(source: &[f32], width: usize, out: &mut [T], of: impl Fn(f32) -> T) {
    /// Lines of a panel that are filled together, so that they stay in the first cache.
    const LINES: usize = 16;
    for (rows, panel) in source.chunks(COLUMNS * width).zip(out.chunks_mut(COLUMNS * width)) {
        for (block, lines) in panel.chunks_mut(LINES * COLUMNS).enumerate() {
            for (c, row) in rows.chunks(width).enumerate() {
                let row = &row[block * LINES..];
                for (slot, value) in lines[c..].iter_mut().step_by(COLUMNS).zip(row) {
                    *slot = of(*value);
                }
            }
        }
    }
}

/// Panels of some columns of the rows themselves: panel j holds the columns 32 j and on.
pub(super) fn pack_rows(
    source: &[f32],
    width: usize,
    columns: core::ops::Range<usize>,
    out: &mut [f32],
) {
    let rows = source.len() / width;
    for (first, panel) in columns.clone().step_by(COLUMNS).zip(out.chunks_mut(COLUMNS * rows)) {
        for (line, row) in panel.chunks_mut(COLUMNS).zip(source.chunks(width)) {
            let values = &row[first..columns.end.min(first + COLUMNS)];
            line[..values.len()].copy_from_slice(values);
        }
    }
}
