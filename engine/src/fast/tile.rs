//! The innermost product: up to 8 rows by 32 columns of C, one chain of multiply-adds an element.
#![allow(
    unsafe_code,
    reason = "vector instructions and raw strides; each function states its contract"
)]

/// Rows of a full tile.
pub(super) const ROWS: usize = 8;
/// Columns of a full tile, and of a packed panel of B.
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
    /// Columns that exist, at most [`COLUMNS`]; the others are neither read nor written.
    pub(super) columns: usize,
    /// Whether the chain starts from C; otherwise from zero.
    pub(super) add: bool,
}

/// The definition, and the way of machines without a kernel of their own.
///
/// # Safety
/// Every A, B and C of the tile's rows and columns must be valid, and C not shared.
#[inline(always)]
pub(super) unsafe fn portable<const R: usize>(t: &Tile) {
    for r in 0..R {
        for half in (0..t.columns).step_by(16) {
            let width = (t.columns - half).min(16);
            let mut sums = [0.0_f32; 16];
            // SAFETY: rows below R and columns below `columns` are valid by contract.
            unsafe {
                let c = core::slice::from_raw_parts_mut(t.c.add(r * t.c_row + half), width);
                if t.add {
                    sums[..width].copy_from_slice(c);
                }
                for p in 0..t.k {
                    let a = *t.a.add(r * t.a_row + p * t.a_column);
                    let b = core::slice::from_raw_parts(t.b.add(p * t.b_row + half), width);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(*b, *sum);
                    }
                }
                c.copy_from_slice(&sums[..width]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use core::arch::x86_64::*;

    use super::Tile;

    /// 16 accumulators of 16 lanes.
    ///
    /// # Safety
    /// As for [`super::portable`], on a CPU with AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) unsafe fn avx512<const R: usize>(t: &Tile) {
        if t.columns == super::COLUMNS {
            // SAFETY: the caller's contract.
            unsafe { avx512_masked::<R, true>(t) }
        } else {
            // SAFETY: the caller's contract.
            unsafe { avx512_masked::<R, false>(t) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_masked<const R: usize, const FULL: bool>(t: &Tile) {
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

    /// Quarters of at most 4 rows by 16 columns: 8 accumulators of 8 lanes.
    ///
    /// # Safety
    /// As for [`super::portable`], on a CPU with AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) unsafe fn avx2<const R: usize>(t: &Tile) {
        for half in (0..t.columns).step_by(16) {
            for row in (0..R).step_by(4) {
                let part = Tile {
                    a: t.a.wrapping_add(row * t.a_row),
                    b: t.b.wrapping_add(half),
                    c: t.c.wrapping_add(row * t.c_row + half),
                    columns: (t.columns - half).min(16),
                    ..*t
                };
                // SAFETY: a part of the caller's tile.
                unsafe {
                    match ((R - row).min(4), part.columns == 16) {
                        (1, true) => avx2_part::<1, true>(&part),
                        (2, true) => avx2_part::<2, true>(&part),
                        (3, true) => avx2_part::<3, true>(&part),
                        (_, true) => avx2_part::<4, true>(&part),
                        (1, false) => avx2_part::<1, false>(&part),
                        (2, false) => avx2_part::<2, false>(&part),
                        (3, false) => avx2_part::<3, false>(&part),
                        (_, false) => avx2_part::<4, false>(&part),
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_part<const R: usize, const FULL: bool>(t: &Tile) {
        let lanes: [i32; 16] = core::array::from_fn(|lane| if lane < t.columns { -1 } else { 0 });
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
