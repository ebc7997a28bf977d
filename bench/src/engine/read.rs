//! How fast this machine reads its memory: what generation is held against.
#![allow(unsafe_code, reason = "vector loads and prefetches; the bounds are the slice's")]

use std::hint::black_box;
use std::time::Instant;

/// Far more than any cache holds.
const BYTES: usize = 512 << 20;

/// A stretch of memory, read on some threads.
pub(super) struct Memory {
    values: Vec<u64>,
    threads: usize,
}

impl Memory {
    pub(super) fn new(threads: usize) -> Self {
        // Not zeros: those may all be one page.
        Self { values: (0..BYTES as u64 / 8).collect(), threads }
    }

    /// Bytes a second: the best of a few passes, since nothing but others' work makes one slower.
    pub(super) fn bytes_per_s(&self) -> f64 {
        let pass = |asked: bool| {
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for part in self.values.chunks(self.values.len().div_ceil(self.threads)) {
                    scope.spawn(move || black_box(read(part, asked)));
                }
            });
            BYTES as f64 / begun.elapsed().as_secs_f64()
        };
        [false, true, true, true].into_iter().map(pass).fold(0.0, f64::max)
    }
}

/// Reads everything once; `asked` asks for lines before they are needed.
fn read(part: &[u64], asked: bool) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the instructions.
        return unsafe { read_avx2(part, asked) };
    }
    let _ = asked;
    part.iter().fold(0, |sum, value| sum ^ value)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn read_avx2(part: &[u64], asked: bool) -> u64 {
    use core::arch::x86_64::*;
    /// Values of a line of the cache, and how many lines ahead.
    const LINE: usize = 8;
    const AHEAD: usize = 64 * LINE;
    let mut sums = [_mm256_setzero_si256(); 4];
    for block in part.chunks_exact(2 * LINE) {
        // SAFETY: the loads stay in the block; a prefetch never faults.
        unsafe {
            let at = block.as_ptr();
            if asked {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + LINE).cast());
            }
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_xor_si256(*sum, _mm256_loadu_si256(at.add(4 * index).cast()));
            }
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    let mut lanes = [0_u64; 4];
    // SAFETY: four lanes of 64 bits.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) }
    lanes.iter().fold(0, |sum, lane| sum ^ lane)
}
