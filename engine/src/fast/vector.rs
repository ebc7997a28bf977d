//! One row times packed panels: what generation does with every matrix, at the speed of memory.
//!
//! Each element is the chain of the tiles in `tile`, over the whole inner dimension at once, so that
//! a matrix is read from its first byte to its last. Vectors are the compiler's: the loop waits for
//! memory, not for arithmetic.

use super::tile::COLUMNS;

/// How far ahead of the loop lines are asked for. On a server CPU the unit that guesses what is read
/// next gets 38 of 47 GB/s on two cores; asked for 2 to 8 KiB ahead, all come.
const AHEAD_BYTES: usize = 4096;
/// A line of the cache.
const LINE_BYTES: usize = 64;

/// `out = x B`, or `out += x B`: one chain an element, from zero or from `out`. `panels` are packed
/// for columns of `x.len()`; the last may have columns that `out` has not.
#[inline(always)]
pub(super) fn vector(x: &[f32], panels: &[f32], out: &mut [f32], add: bool) {
    chains(x, panels, out, add, |b| b);
}

/// The same with a factor in bfloat16.
#[inline(always)]
pub(super) fn vector_half(x: &[f32], panels: &[u16], out: &mut [f32], add: bool) {
    chains(x, panels, out, add, |b| f32::from_bits(u32::from(b) << 16));
}

#[inline(always)]
fn chains<T: Copy>(x: &[f32], panels: &[T], out: &mut [f32], add: bool, wide: impl Fn(T) -> f32) {
    let line = LINE_BYTES / size_of::<T>();
    let panels = panels.chunks_exact(COLUMNS * x.len());
    for (panel, out) in panels.zip(out.chunks_mut(COLUMNS)) {
        let mut sums = [0.0_f32; COLUMNS];
        if add {
            sums[..out.len()].copy_from_slice(out);
        }
        for (x, row) in x.iter().zip(panel.as_chunks::<COLUMNS>().0) {
            for at in (0..COLUMNS).step_by(line) {
                prefetch(row.as_ptr().wrapping_byte_add(AHEAD_BYTES).wrapping_add(at).cast());
            }
            for (sum, b) in sums.iter_mut().zip(row) {
                *sum = x.mul_add(wide(*b), *sum);
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
}

/// Asks for the line at an address, which need not be one of ours.
#[inline(always)]
fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code, reason = "an intrinsic that reads nothing")]
        // SAFETY: a prefetch never faults and every x86-64 CPU has it.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
