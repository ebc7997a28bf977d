//! The kernels of this machine: one table of functions an instruction set, chosen once.
//!
//! All tables give the same bits. `SUANLI_KERNEL=portable|avx2|avx512` forces one that the CPU has.
#![allow(unsafe_code, reason = "functions compiled for instructions that were seen to exist")]

use super::body::{self, Adam};
use super::tile::{COLUMNS, Tile};

/// Longest piece of the inner dimension: a panel of B of this length stays in the first cache.
pub(super) const INNER: usize = 256;

/// What the portable table is on this architecture: on AArch64 the compiler makes NEON of it.
const PORTABLE: &str = if cfg!(target_arch = "aarch64") { "neon" } else { "portable" };

/// C (m x n) = or += A (m x k) times B (k x n), all by address.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// A(i, p) at `i * a_row + p * a_column`.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_column: usize,
    /// B(p, j) at `j / 32 * b_panel + p * b_row + j % 32`.
    pub(super) b: *const f32,
    pub(super) b_panel: usize,
    pub(super) b_row: usize,
    /// C(i, j) at `i * c_row + j`.
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    /// Whether the chains start from C; otherwise from zero.
    pub(super) add: bool,
}

/// Blocks over the inner dimension, strips of columns, tiles of rows: a strip of B stays in the first
/// cache while the rows of A pass by.
macro_rules! product {
    ($tiles:ident, $g:ident) => {
        const { assert!(COLUMNS % $tiles::COLUMNS == 0) };
        let mut start = 0;
        while start < $g.k {
            let k = ($g.k - start).min(INNER);
            for column in (0..$g.n).step_by($tiles::COLUMNS) {
                let columns = ($g.n - column).min($tiles::COLUMNS);
                let panel = column / COLUMNS * $g.b_panel + column % COLUMNS;
                let b = $g.b.wrapping_add(panel + start * $g.b_row);
                for i in (0..$g.m).step_by($tiles::ROWS) {
                    let t = Tile {
                        k,
                        a: $g.a.wrapping_add(i * $g.a_row + start * $g.a_column),
                        a_row: $g.a_row,
                        a_column: $g.a_column,
                        b,
                        b_row: $g.b_row,
                        c: $g.c.wrapping_add(i * $g.c_row + column),
                        c_row: $g.c_row,
                        columns,
                        add: $g.add || start > 0,
                    };
                    // SAFETY: the product's contract covers each of its tiles.
                    unsafe { $tiles::rows(&t, ($g.m - i).min($tiles::ROWS)) }
                }
            }
            start += k;
        }
    };
}

macro_rules! kernels {
    ($( fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?; )*) => {
        /// The functions of one instruction set.
        #[derive(Clone, Copy)]
        pub(super) struct Kernels {
            name: &'static str,
            /// Multiply-adds of one round of `peak`.
            peak_round: usize,
            peak: unsafe fn(usize) -> f32,
            product: unsafe fn(&Product),
            $( $name: unsafe fn($($type),*) $(-> $ret)?, )*
        }

        impl Kernels {
            $(
                #[inline]
                #[allow(clippy::too_many_arguments, reason = "a row and its constants")]
                pub(super) fn $name(&self, $($arg: $type),*) $(-> $ret)? {
                    // SAFETY: a table is handed out only on a CPU that has its instructions.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }

        kernels!(@table portable, PORTABLE, plain, #[inline(never)], $( fn $name($($arg: $type),*) $(-> $ret)?; )*);
        #[cfg(target_arch = "x86_64")]
        kernels!(@table avx2, "avx2", avx2, #[target_feature(enable = "avx2,fma")], $( fn $name($($arg: $type),*) $(-> $ret)?; )*);
        #[cfg(target_arch = "x86_64")]
        kernels!(@table avx512, "avx512", avx512, #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")], $( fn $name($($arg: $type),*) $(-> $ret)?; )*);
    };
    (@table $module:ident, $text:expr, $tiles:ident, #[$feature:meta], $( fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)?; )*) => {
        mod $module {
            use super::*;
            use crate::fast::tile::$tiles;

            #[$feature]
            unsafe fn product(g: &Product) {
                product!($tiles, g);
            }

            #[$feature]
            unsafe fn peak(rounds: usize) -> f32 {
                $tiles::peak(rounds)
            }

            $(
                #[$feature]
                unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    body::$name($($arg),*)
                }
            )*

            pub(super) const TABLE: Kernels = Kernels {
                name: $text,
                peak_round: $tiles::ROWS * $tiles::COLUMNS,
                peak,
                product,
                $($name),*
            };
        }
    };
}

kernels! {
    fn norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) -> f32;
    fn norm_back(dh: &mut [f32], x: &[f32], gain: &[f32], scale: f32, into: &mut [f32]);
    fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], turn: f32);
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]);
    fn swiglu_back(gate: &mut [f32], up: &mut [f32], act: &mut [f32]);
    fn softmax(row: &mut [f32], seen: usize, scale: f32) -> (f32, f32);
    fn softmax_again(row: &mut [f32], seen: usize, scale: f32, shift: f32, inverse: f32);
    fn softmax_back(dp: &mut [f32], p: &[f32], dy: &[f32], y: &[f32], scale: f32);
    fn cross_entropy(row: &mut [f32], target: usize, factor: f32) -> (f32, f32);
    fn add(x: &mut [f32], y: &[f32]);
    fn vector(x: &[f32], panels: &[f32], out: &mut [f32], add: bool);
    fn vector_half(x: &[f32], panels: &[u16], out: &mut [f32], add: bool);
    fn round(x: &mut [f32]);
    fn widen(x: &[u16], out: &mut [f32]);
    fn narrow(x: &[f32], out: &mut [u16]);
    fn odds(logits: &[f32], greatest: f32, temperature: f32, out: &mut [f32]);
    fn adam(s: &Adam, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]);
}

/// Which instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// What `SUANLI_KERNEL` says, otherwise the widest the CPU has.
    Best,
    /// Plain Rust: slow on a CPU without fused multiply-add, right everywhere.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512.
    Avx512,
}

/// A kernel was asked for that there is not: a wrong setting of this machine's operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The CPU lacks the instructions.
    #[error("this CPU has no {0:?} instructions: unset SUANLI_KERNEL to get the best there is")]
    Lacking(KernelChoice),
    /// `SUANLI_KERNEL` says something else.
    #[error("SUANLI_KERNEL is \"{found}\"; it may be portable, avx2 or avx512, or unset")]
    Unknown {
        /// What it says.
        found: String,
    },
}

impl Kernels {
    /// The table of `choice`.
    pub(super) fn choose(choice: KernelChoice) -> Result<Self, KernelError> {
        match choice {
            KernelChoice::Best => Self::best(),
            KernelChoice::Portable => Ok(portable::TABLE),
            #[cfg(target_arch = "x86_64")]
            KernelChoice::Avx2 if has_avx2() => Ok(avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            KernelChoice::Avx512 if has_avx512() => Ok(avx512::TABLE),
            other => Err(KernelError::Lacking(other)),
        }
    }

    fn best() -> Result<Self, KernelError> {
        if let Some(asked) = std::env::var_os("SUANLI_KERNEL") {
            return match asked.to_str() {
                Some("portable") => Self::choose(KernelChoice::Portable),
                Some("avx2") => Self::choose(KernelChoice::Avx2),
                Some("avx512") => Self::choose(KernelChoice::Avx512),
                _ => Err(KernelError::Unknown { found: asked.to_string_lossy().into_owned() }),
            };
        }
        Self::choose(KernelChoice::Avx512)
            .or_else(|_| Self::choose(KernelChoice::Avx2))
            .or_else(|_| Self::choose(KernelChoice::Portable))
    }

    /// What this table is called.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Does about so many multiply-adds and nothing else; says how many.
    pub(super) fn peak(&self, multiply_adds: u64) -> u64 {
        let rounds = (multiply_adds as usize).div_ceil(self.peak_round);
        // SAFETY: a table is handed out only on a CPU that has its instructions.
        core::hint::black_box(unsafe { (self.peak)(core::hint::black_box(rounds)) });
        (rounds * self.peak_round) as u64
    }

    /// Carries out a product.
    ///
    /// # Safety
    /// All of A, B and C must be valid, and no other thread may use C meanwhile.
    #[inline]
    pub(super) unsafe fn product(&self, product: &Product) {
        // SAFETY: a table is handed out only on a CPU that has its instructions; the rest is the
        // caller's contract.
        unsafe { (self.product)(product) }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
}

/// The left factor of a product: element (i, p) at `i * row + p * column`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<'a> Left<'a> {
    /// Rows of `width`, one after the other.
    pub(super) const fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// The transpose of rows of `width`.
    pub(super) const fn columns(data: &'a [f32], width: usize) -> Self {
        Self { data, row: 1, column: width }
    }
}

/// The right factor: element (p, j) at `j / 32 * panel + p * row + j % 32`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    pub(super) panel: usize,
    pub(super) row: usize,
}

impl<'a> Right<'a> {
    /// Packed panels of `k` rows.
    pub(super) const fn packed(data: &'a [f32], k: usize) -> Self {
        Self { data, panel: k * COLUMNS, row: COLUMNS }
    }

    /// Rows of `width`, one after the other.
    pub(super) const fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, panel: COLUMNS, row: width }
    }
}

/// Rows, columns and inner length of a product.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Whether the chains of a product start from what is there, or from zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    Here,
}

impl Kernels {
    /// C = or += A times B, where B is packed in bfloat16: a strip at a time is widened in the first
    /// cache, and its rows pass by.
    pub(super) fn multiply_half(
        &self,
        shape: Shape,
        a: Left<'_>,
        b: &[u16],
        (c, c_row): (&mut [f32], usize),
        start: Start,
    ) {
        let mut strip = [0.0; INNER * COLUMNS];
        let Shape { m, n, k } = shape;
        for first in (0..k).step_by(INNER) {
            let inner = (k - first).min(INNER);
            let start = if first == 0 { start } else { Start::Here };
            let a = Left { data: &a.data[first * a.column..], ..a };
            for column in (0..n).step_by(COLUMNS) {
                let at = column * k + first * COLUMNS;
                let strip = &mut strip[..inner * COLUMNS];
                self.widen(&b[at..at + inner * COLUMNS], strip);
                let shape = Shape { m, n: (n - column).min(COLUMNS), k: inner };
                let out = (&mut c[column..], c_row);
                self.multiply(shape, a, Right::packed(strip, inner), out, start);
            }
        }
    }

    /// C = or += A times B, where rows of C are `c_row` apart.
    pub(super) fn multiply(
        &self,
        shape: Shape,
        a: Left<'_>,
        b: Right<'_>,
        (c, c_row): (&mut [f32], usize),
        start: Start,
    ) {
        let Shape { m, n, k } = shape;
        if m == 0 || n == 0 || k == 0 {
            return;
        }
        assert!((m - 1) * a.row + (k - 1) * a.column < a.data.len(), "A is as large as said");
        let last = (n - 1) / COLUMNS * b.panel + (k - 1) * b.row + (n - 1) % COLUMNS;
        assert!(last < b.data.len(), "B is as large as said");
        assert!((m - 1) * c_row + n - 1 < c.len() && n <= c_row, "C is as large as said");
        let product = Product {
            m,
            n,
            k,
            a: a.data.as_ptr(),
            a_row: a.row,
            a_column: a.column,
            b: b.data.as_ptr(),
            b_panel: b.panel,
            b_row: b.row,
            c: c.as_mut_ptr(),
            c_row,
            add: start == Start::Here,
        };
        // SAFETY: the extents were checked, and C is borrowed exclusively.
        unsafe { self.product(&product) }
    }
}
