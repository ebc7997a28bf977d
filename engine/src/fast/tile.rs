//! The innermost product: a few rows by a strip of columns of C, one chain of multiply-adds an
//! element.
//!
//! Each module has the same shape: `ROWS` and `COLUMNS` of a full tile, and `rows` for tiles with
//! fewer. How many rows and columns a tile has never touches a chain.
#![allow(
    unsafe_code,
    reason = "vector instructions and raw strides; each function states its contract"
)]

/// Columns of a packed panel of B; a multiple of every tile's.
pub(super) const COLUMNS: usize = 32;

/// One tile: `C[r][c] = chain over p of A(r, p) * B(p, c)`, started from C itself or from zero.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Length of the chain.
    pub(super) k: usize,
    /// A(0, 0); A(r, p) lies at `r * a_row + p * a_column`.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_column: usize,
    /// B(0, 0); B(p, c) lies at `p * b_row + c`.
    pub(super) b: *const f32,
    pub(super) b_row: usize,
    /// C(0, 0); C(r, c) lies at `r * c_row + c`.
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    /// Columns that exist, at most a tile's; the others are neither read nor written.
    pub(super) columns: usize,
    /// Whether the chain starts from C; otherwise from zero.
    pub(super) add: bool,
}

/// The definition in plain Rust, and the way of machines without a kernel of their own: on AArch64,
/// whose every CPU has vectors of four multiply-adds, the compiler makes those of it.
pub(super) mod plain {
    use super::Tile;

    pub(in super::super) const ROWS: usize = 4;
    pub(in super::super) const COLUMNS: usize = 16;

    /// A tile of `rows` rows.
    ///
    /// # Safety
    /// Every A, B and C of the tile's rows and columns must be valid, and C not shared.
    #[inline(always)]
    pub(in super::super) unsafe fn rows(t: &Tile, rows: usize) {
        // SAFETY: the caller's contract; `full` when all columns exist.
        unsafe {
            match (rows, t.columns) {
                (ROWS, COLUMNS) => full::<ROWS>(t),
                (_, COLUMNS) => (0..rows).for_each(|r| full::<1>(&row(t, r))),
                _ => (0..rows).for_each(|r| narrow(&row(t, r))),
            }
        }
    }

    /// Nothing but multiply-adds: `rounds` of a whole tile, out of registers.
    #[inline(always)]
    pub(in super::super) fn peak(rounds: usize) -> f32 {
        let (factor, addend) = (core::hint::black_box(0.999), core::hint::black_box(0.001));
        let mut sums = [[1.0_f32; COLUMNS]; ROWS];
        for _ in 0..rounds {
            for row in &mut sums {
                for sum in row {
                    *sum = sum.mul_add(factor, addend);
                }
            }
        }
        sums.iter().flatten().sum()
    }

    fn row(t: &Tile, r: usize) -> Tile {
        Tile { a: t.a.wrapping_add(r * t.a_row), c: t.c.wrapping_add(r * t.c_row), ..*t }
    }

    #[inline(always)]
    unsafe fn full<const R: usize>(t: &Tile) {
        let mut sums = [[0.0_f32; COLUMNS]; R];
        // SAFETY: rows below R and all columns are valid by contract.
        unsafe {
            if t.add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = *t.c.add(r * t.c_row).cast::<[f32; COLUMNS]>();
                }
            }
            for p in 0..t.k {
                let b = &*t.b.add(p * t.b_row).cast::<[f32; COLUMNS]>();
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = *t.a.add(r * t.a_row + p * t.a_column);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(*b, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                *t.c.add(r * t.c_row).cast::<[f32; COLUMNS]>() = *sums;
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(t: &Tile) {
        let mut sums = [0.0_f32; COLUMNS];
        // SAFETY: the first row and columns below `columns` are valid by contract.
        unsafe {
            let c = core::slice::from_raw_parts_mut(t.c, t.columns);
            if t.add {
                sums[..t.columns].copy_from_slice(c);
            }
            for p in 0..t.k {
                let a = *t.a.add(p * t.a_column);
                let b = core::slice::from_raw_parts(t.b.add(p * t.b_row), t.columns);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
            c.copy_from_slice(&sums[..t.columns]);
        }
    }
}

/// 16 accumulators of 16 lanes.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use core::arch::x86_64::*;

    use super::Tile;

    pub(in super::super) const ROWS: usize = 8;
    pub(in super::super) const COLUMNS: usize = 32;

    /// A tile of `rows` rows.
    ///
    /// # Safety
    /// As for [`super::plain::rows`], on a CPU with AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) unsafe fn rows(t: &Tile, rows: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match (rows, t.columns == COLUMNS) {
                (1, true) => tile::<1, true>(t),
                (2, true) => tile::<2, true>(t),
                (3, true) => tile::<3, true>(t),
                (4, true) => tile::<4, true>(t),
                (5, true) => tile::<5, true>(t),
                (6, true) => tile::<6, true>(t),
                (7, true) => tile::<7, true>(t),
                (_, true) => tile::<8, true>(t),
                (1, false) => tile::<1, false>(t),
                (2, false) => tile::<2, false>(t),
                (3, false) => tile::<3, false>(t),
                (4, false) => tile::<4, false>(t),
                (5, false) => tile::<5, false>(t),
                (6, false) => tile::<6, false>(t),
                (7, false) => tile::<7, false>(t),
                (_, false) => tile::<8, false>(t),
            }
        }
    }

    /// As [`super::plain::peak`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn peak(rounds: usize) -> f32 {
        let factor = _mm512_set1_ps(core::hint::black_box(0.999));
        let addend = _mm512_set1_ps(core::hint::black_box(0.001));
        let mut sums = [[_mm512_set1_ps(1.0); 2]; ROWS];
        for _ in 0..rounds {
            for [low, high] in &mut sums {
                *low = _mm512_fmadd_ps(*low, factor, addend);
                *high = _mm512_fmadd_ps(*high, factor, addend);
            }
        }
        sums.iter().flatten().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const R: usize, const FULL: bool>(t: &Tile) {
        let mask = if FULL { u32::MAX } else { (1_u32 << t.columns) - 1 };
        let (low, high) = (mask as u16, (mask >> 16) as u16);
        // SAFETY: masked lanes are not touched; the others are valid by contract.
        unsafe {
            let load = |at: *const f32, mask: u16| {
                if FULL { _mm512_loadu_ps(at) } else { _mm512_maskz_loadu_ps(mask, at) }
            };
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            if t.add {
                for (r, sum) in sums.iter_mut().enumerate() {
                    let c = t.c.add(r * t.c_row);
                    *sum = [load(c, low), load(c.wrapping_add(16), high)];
                }
            }
            let (mut a, mut b) = (t.a, t.b);
            for _ in 0..t.k {
                let b0 = load(b, low);
                let b1 = load(b.wrapping_add(16), high);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(r * t.a_row));
                    sum[0] = _mm512_fmadd_ps(x, b0, sum[0]);
                    sum[1] = _mm512_fmadd_ps(x, b1, sum[1]);
                }
                a = a.wrapping_add(t.a_column);
                b = b.wrapping_add(t.b_row);
            }
            for (r, sum) in sums.iter().enumerate() {
                let c = t.c.add(r * t.c_row);
                if FULL {
                    _mm512_storeu_ps(c, sum[0]);
                    _mm512_storeu_ps(c.add(16), sum[1]);
                } else {
                    _mm512_mask_storeu_ps(c, low, sum[0]);
                    _mm512_mask_storeu_ps(c.wrapping_add(16), high, sum[1]);
                }
            }
        }
    }
}

/// 12 accumulators of 8 lanes: with two of B and one of A they fill the 16 registers.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use core::arch::x86_64::*;

    use super::Tile;

    pub(in super::super) const ROWS: usize = 6;
    pub(in super::super) const COLUMNS: usize = 16;

    /// A tile of `rows` rows.
    ///
    /// # Safety
    /// As for [`super::plain::rows`], on a CPU with AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) unsafe fn rows(t: &Tile, rows: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match (rows, t.columns == COLUMNS) {
                (1, true) => tile::<1, true>(t),
                (2, true) => tile::<2, true>(t),
                (3, true) => tile::<3, true>(t),
                (4, true) => tile::<4, true>(t),
                (5, true) => tile::<5, true>(t),
                (_, true) => tile::<6, true>(t),
                (1, false) => tile::<1, false>(t),
                (2, false) => tile::<2, false>(t),
                (3, false) => tile::<3, false>(t),
                (4, false) => tile::<4, false>(t),
                (5, false) => tile::<5, false>(t),
                (_, false) => tile::<6, false>(t),
            }
        }
    }

    /// As [`super::plain::peak`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) fn peak(rounds: usize) -> f32 {
        let factor = _mm256_set1_ps(core::hint::black_box(0.999));
        let addend = _mm256_set1_ps(core::hint::black_box(0.001));
        let mut sums = [[_mm256_set1_ps(1.0); 2]; ROWS];
        for _ in 0..rounds {
            for [low, high] in &mut sums {
                *low = _mm256_fmadd_ps(*low, factor, addend);
                *high = _mm256_fmadd_ps(*high, factor, addend);
            }
        }
        let low = sums.iter().flatten().map(|sum| _mm256_cvtss_f32(*sum));
        low.sum()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const R: usize, const FULL: bool>(t: &Tile) {
        let lane = |lane: usize| if FULL || lane < t.columns { -1 } else { 0 };
        let lanes: [i32; 16] = core::array::from_fn(lane);
        // SAFETY: masked lanes are not touched; the others are valid by contract.
        unsafe {
            let low = _mm256_loadu_si256(lanes.as_ptr().cast());
            let high = _mm256_loadu_si256(lanes.as_ptr().add(8).cast());
            let load = |at: *const f32, mask: __m256i| {
                if FULL { _mm256_loadu_ps(at) } else { _mm256_maskload_ps(at, mask) }
            };
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            if t.add {
                for (r, sum) in sums.iter_mut().enumerate() {
                    let c = t.c.add(r * t.c_row);
                    *sum = [load(c, low), load(c.wrapping_add(8), high)];
                }
            }
            let (mut a, mut b) = (t.a, t.b);
            for _ in 0..t.k {
                let b0 = load(b, low);
                let b1 = load(b.wrapping_add(8), high);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(r * t.a_row));
                    sum[0] = _mm256_fmadd_ps(x, b0, sum[0]);
                    sum[1] = _mm256_fmadd_ps(x, b1, sum[1]);
                }
                a = a.wrapping_add(t.a_column);
                b = b.wrapping_add(t.b_row);
            }
            for (r, sum) in sums.iter().enumerate() {
                let c = t.c.add(r * t.c_row);
                if FULL {
                    _mm256_storeu_ps(c, sum[0]);
                    _mm256_storeu_ps(c.add(8), sum[1]);
                } else {
                    _mm256_maskstore_ps(c, low, sum[0]);
                    _mm256_maskstore_ps(c.wrapping_add(8), high, sum[1]);
                }
            }
        }
    }
}
