//! The parts of a step by themselves, for measurements against other software.
#![allow(unsafe_code, reason = "tasks change disjoint parts of one buffer")]

use crate::traits::StepError;

use super::kernel::{KernelChoice, Kernels, Left, Right, Shape, Start};
use super::pass::{BLOCK, rows_of, scaled};
use super::pool::{Parts, Pool};
use super::tile::COLUMNS;
use super::weights::pack_rows;

/// Columns of the right factor that a task packs.
const STRIP: usize = 4 * COLUMNS;

/// The engine's product, one chain of multiply-adds an element, with its kernels and threads.
pub struct Matmul {
    k: Kernels,
    pool: Pool,
    packed: Vec<f32>,
}

impl Matmul {
    /// With these instructions and threads.
    ///
    /// # Errors
    /// A kernel that this CPU has not.
    pub fn new(kernel: KernelChoice, threads: usize) -> Result<Self, StepError> {
        let (k, pool) = (Kernels::choose(kernel)?, Pool::new(threads.max(1)));
        Ok(Self { k, pool, packed: Vec::new() })
    }

    /// What the instructions are called.
    #[must_use]
    pub const fn kernel(&self) -> &'static str {
        self.k.name()
    }

    /// `c = a b`, all in plain rows: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]`. Packing `b` is
    /// part of it.
    ///
    /// # Panics
    /// When a size is 0 or a buffer is not as large as said.
    pub fn multiply(&mut self, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        assert!(m * n * k > 0 && a.len() == m * k && b.len() == k * n && c.len() == m * n);
        self.packed.resize(n.next_multiple_of(COLUMNS) * k, 0.0);
        let packed = Parts::new(&mut self.packed);
        self.pool.run(n.div_ceil(STRIP), &|_, index| {
            let columns = index * STRIP..((index + 1) * STRIP).min(n);
            let len = columns.len().next_multiple_of(COLUMNS) * k;
            // SAFETY: each task has its own panels.
            let out = unsafe { packed.part(columns.start * k..columns.start * k + len) };
            pack_rows(b, n, columns, out);
        });
        let (kernels, packed, out) = (self.k, &self.packed, Parts::new(c));
        self.pool.run(m.div_ceil(BLOCK), &|_, index| {
            let rows = rows_of(index, 0..m);
            let shape = Shape { m: rows.len(), n, k };
            let a = Left::rows(&a[scaled(&rows, k)], k);
            // SAFETY: each task has its own rows.
            let c = unsafe { out.part(scaled(&rows, n)) };
            kernels.multiply(shape, a, Right::packed(packed, k), (c, n), Start::Zero);
        });
    }

    /// About so many multiply-adds on every thread, out of registers and independent of each other:
    /// what no product can be faster than. Says how many.
    pub fn peak(&mut self, multiply_adds: u64) -> u64 {
        let mut done = vec![0; self.pool.threads()];
        let (kernels, counts) = (self.k, Parts::new(&mut done));
        self.pool.run(counts.len(), &|_, index| {
            // SAFETY: each task has its own element.
            let count = unsafe { counts.part(index..index + 1) };
            count[0] = kernels.peak(multiply_adds);
        });
        done.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_the_chain_over_its_inner_dimension_whatever_the_kernel() {
        let [m, n, k] = [67, 45, 301];
        let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 13) as f32 * 0.3).collect();
        let mut plain = vec![0.0; m * n];
        for (at, c) in plain.iter_mut().enumerate() {
            let (i, j) = (at / n, at % n);
            *c = (0..k).fold(0.0_f32, |sum, p| a[i * k + p].mul_add(b[p * n + j], sum));
        }
        for kernel in [KernelChoice::Portable, KernelChoice::Avx2, KernelChoice::Avx512] {
            let Ok(mut matmul) = Matmul::new(kernel, 2) else { continue };
            let mut c = vec![f32::NAN; m * n];
            matmul.multiply([m, n, k], &a, &b, &mut c);
            assert_eq!(c, plain, "{kernel:?}");
            assert!(matmul.peak(1000) >= 2000);
        }
    }
}
