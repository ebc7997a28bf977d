//! The engine against PyTorch: the same decoder, the same batch or prompt, in turns in one run.

mod generate;
mod matmul;
mod read;
mod scale;
mod side;
mod tokenise;
mod train;

pub use side::{SIDE, serve};

use crate::RowSpec;

/// Every row, in the order in which they are measured.
pub fn rows() -> Vec<RowSpec> {
    vec![
        train::two_threads(),
        train::one_thread(),
        train::avx2(),
        matmul::row(),
        scale::row(),
        generate::row(),
        tokenise::row(),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
