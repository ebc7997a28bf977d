//! One product by itself: its share of what the multiply-add units can do, and what its fixed order
//! costs against the `gemm` crate, which may add up in any order.

use super::median;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use std::time::Instant;
use suanli_base::Random;
use suanli_engine::{KernelChoice, Matmul};

const SHARE_MIN: f64 = 0.80;
const AGAINST_GEMM_MIN: f64 = 0.95;
/// Rows, columns and inner length: a layer of the 13.8 M model, its head, one of a 110 M model, and
/// a square.
const SHAPES: [[usize; 3]; 5] =
    [[2048, 2048, 384], [2048, 384, 1024], [2048, 4096, 384], [1024, 2304, 768], [960, 960, 960]];
const TURNS: usize = 25;
const THREADS: usize = 2;
/// Multiply-adds that the units' own speed is measured with, a thread.
const PEAK: u64 = 1 << 31;

pub(super) fn row() -> RowSpec {
    RowSpec {
        name: "matmul",
        what: "one f32 product on 1 thread: share of the multiply-add peak; against `gemm`",
        run: measure,
    }
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let turns = if short { 3 } else { TURNS };
    let mut matmul = Matmul::new(KernelChoice::Best, THREADS)?;
    let mut random = Random::new(1);
    let (mut shares, mut ratios, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for shape @ [m, n, k] in SHAPES {
        let mut draw =
            |count: usize| (0..count).map(|_| random.unit_f32() - 0.5).collect::<Vec<f32>>();
        let (a, b, mut c) = (draw(m * k), draw(k * n), vec![0.0; m * n]);
        let work = 2.0 * (m * n * k) as f64;
        let (mut peak, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let begun = Instant::now();
            let done = matmul.peak(PEAK / if short { 8 } else { 1 });
            peak.push(2.0 * done as f64 / begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            matmul.multiply(shape, &a, &b, &mut c);
            ours.push(work / begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            other(shape, &a, &b, &mut c);
            theirs.push(work / begun.elapsed().as_secs_f64());
        }
        let (peak, ours, theirs) = (median(peak), median(ours), median(theirs));
        shares.push(ours / peak);
        ratios.push(ours / theirs);
        let [ours, theirs, peak] = [ours, theirs, peak].map(|rate| rate / 1e9);
        notes.push(format!("{m}x{n}x{k}: {ours:.0} of {peak:.0}, gemm {theirs:.0}"));
    }
    let row = if short { Row::short } else { Row::new };
    let note = format!("GFLOP/s, {}: {}", matmul.kernel(), notes.join("; "));
    let share = row("matmul", median(shares), "of peak", Goal::AtLeast(SHARE_MIN)).note(note);
    let note = "median over the same shapes, packing included on both sides".to_owned();
    let goal = Goal::AtLeast(AGAINST_GEMM_MIN);
    Ok(vec![share, row("matmul.gemm", median(ratios), "x", goal).note(note)])
}

/// The same by the `gemm` crate.
#[allow(unsafe_code, reason = "its interface takes addresses and strides")]
fn other([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
    let stride = |width: usize| isize::try_from(width).expect("rows are short");
    // SAFETY: all three are plain rows of the sizes just checked, and C is ours alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride(n),
            false,
            a.as_ptr(),
            1,
            stride(k),
            b.as_ptr(),
            1,
            stride(n),
            0.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(THREADS),
        );
    }
}
