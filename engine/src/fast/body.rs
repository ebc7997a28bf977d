//! What is done row by row, written once in plain Rust and compiled for every instruction set.
//!
//! Row reductions run over 16 virtual lanes and a fixed tree, whatever the width of the hardware.
//! Every function is `inline(always)`, so that it takes on the instructions of its caller.

use crate::math::exp;
pub(super) use crate::sampling::odds;

pub(super) use super::vector::{vector, vector_half};

const LANES: usize = 16;

/// Pairwise over 16 lanes.
#[inline(always)]
fn tree(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of products.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane = x.mul_add(*y, *lane);
    }
    tree(lanes, |a, b| a + b)
}

/// The greatest element; not-a-number in, not-a-number or anything out.
#[inline(always)]
fn greatest(x: &[f32]) -> f32 {
    let join = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (xs, rest) = x.as_chunks::<LANES>();
    for x in xs {
        for lane in 0..LANES {
            lanes[lane] = join(lanes[lane], x[lane]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, *x);
    }
    tree(lanes, join)
}

/// `x = e^(x - shift)`; returns the sum.
#[inline(always)]
fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (xs, rest) = x.as_chunks_mut::<LANES>();
    for x in xs {
        for lane in 0..LANES {
            x[lane] = exp(x[lane] - shift);
            lanes[lane] += x[lane];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *lane += *x;
    }
    tree(lanes, |a, b| a + b)
}

/// RMSNorm of one row (Zhang and Sennrich 2019); returns the reciprocal root mean square.
#[inline(always)]
pub(super) fn norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) -> f32 {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = *x * scale * gain;
    }
    scale
}

/// Adds the gradient through one row of RMSNorm: `into += scale (g dh) - x scale^3 mean(x g dh)`.
/// `dh` is left holding `dh * x * scale`, the row's part of the gain's gradient.
#[inline(always)]
pub(super) fn norm_back(dh: &mut [f32], x: &[f32], gain: &[f32], scale: f32, into: &mut [f32]) {
    let mut lanes = [0.0_f32; LANES];
    for ((dh, x), gain) in dh.chunks(LANES).zip(x.chunks(LANES)).zip(gain.chunks(LANES)) {
        for (((lane, dh), x), gain) in lanes.iter_mut().zip(dh).zip(x).zip(gain) {
            *lane = (*dh * *gain).mul_add(*x, *lane);
        }
    }
    let mean = tree(lanes, |a, b| a + b) / x.len() as f32;
    let pull = -(mean * scale * scale * scale);
    for (((dh, x), gain), into) in dh.iter_mut().zip(x).zip(gain).zip(into) {
        *into += (*dh * *gain).mul_add(scale, *x * pull);
        *dh = *dh * *x * scale;
    }
}

/// Rotates one head by its angles; `turn` -1 rotates back.
#[inline(always)]
pub(super) fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32], turn: f32) {
    let (low, high) = head.split_at_mut(head.len() / 2);
    for (((low, high), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
        let (a, b, sine) = (*low, *high, *sine * turn);
        *low = a.mul_add(*cosine, -(b * sine));
        *high = a.mul_add(sine, b * *cosine);
    }
}

/// SwiGLU (Shazeer 2020): `out = gate / (1 + e^-gate) * up`.
#[inline(always)]
pub(super) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// The way back; `act` holds its gradient on entry and its value on return, `gate_up` takes the
/// gradients in place.
#[inline(always)]
pub(super) fn swiglu_back(gate: &mut [f32], up: &mut [f32], act: &mut [f32]) {
    for ((gate, up), act) in gate.iter_mut().zip(up).zip(act) {
        let (g, u, d) = (*gate, *up, *act);
        let sigmoid = 1.0 / (1.0 + exp(-g));
        let silu = g * sigmoid;
        *act = silu * u;
        *up = d * silu;
        *gate = d * u * (sigmoid * g.mul_add(1.0 - sigmoid, 1.0));
    }
}

/// Softmax of one row of scores, of which the first `seen` count; the others become 0. Returns the
/// shift and the reciprocal sum from which [`softmax_again`] makes the same row.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32], seen: usize, scale: f32) -> (f32, f32) {
    let (row, hidden) = row.split_at_mut(seen);
    for x in row.iter_mut() {
        *x *= scale;
    }
    let shift = greatest(row);
    let inverse = 1.0 / exp_sum(row, shift);
    for x in row {
        *x *= inverse;
    }
    hidden.fill(0.0);
    (shift, inverse)
}

/// The row that [`softmax`] made, from the same scores.
#[inline(always)]
pub(super) fn softmax_again(row: &mut [f32], seen: usize, scale: f32, shift: f32, inverse: f32) {
    let (row, hidden) = row.split_at_mut(seen);
    for x in row {
        *x = exp(*x * scale - shift) * inverse;
    }
    hidden.fill(0.0);
}

/// Gradient of the scores from probabilities `p` and their gradient in `dp`, in place.
#[inline(always)]
pub(super) fn softmax_back(dp: &mut [f32], p: &[f32], dy: &[f32], y: &[f32], scale: f32) {
    let mean = dot(dy, y);
    for (dp, p) in dp.iter_mut().zip(p) {
        *dp = *p * (*dp - mean) * scale;
    }
}

/// Cross entropy of one row: returns the shift and the sum of exponentials; the row becomes
/// `factor * (probability - 1 at the target)`.
#[inline(always)]
pub(super) fn cross_entropy(row: &mut [f32], target: usize, factor: f32) -> (f32, f32) {
    let shift = greatest(row);
    let sum = exp_sum(row, shift);
    let inverse = factor / sum;
    for x in row.iter_mut() {
        *x *= inverse;
    }
    row[target] -= factor;
    (shift, sum)
}

/// Rounds to the nearest bfloat16, ties to even, and stays in 32 bits.
#[inline(always)]
pub(super) fn round(x: &mut [f32]) {
    for x in x {
        *x = f32::from_bits(u32::from(half(*x)) << 16);
    }
}

/// The nearest bfloat16, ties to even; what is no number stays none.
#[inline(always)]
pub(super) fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let bits = if bits & 0x7FFF_FFFF > 0x7F80_0000 { bits | 0x0040_0000 } else { rounded };
    (bits >> 16) as u16
}

/// Takes up bfloat16.
#[inline(always)]
pub(super) fn widen(x: &[u16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f32::from_bits(u32::from(*x) << 16);
    }
}

/// Lays down as bfloat16.
#[inline(always)]
pub(super) fn narrow(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = half(*x);
    }
}

/// `x += y`.
#[inline(always)]
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// The constants of one AdamW step over some elements.
#[derive(Clone, Copy)]
pub(super) struct Adam {
    /// Factor of the gradient: the clip.
    pub(super) clip: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) eps: f32,
    /// `1 - lr * decay`, or 1.
    pub(super) keep: f32,
    /// `lr / (1 - beta1^t)`.
    pub(super) rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub(super) lift: f32,
}

/// AdamW on some elements.
#[inline(always)]
pub(super) fn adam(s: &Adam, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
    let (rest1, rest2) = (1.0 - s.beta1, 1.0 - s.beta2);
    for (((param, grad), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
        let g = *grad * s.clip;
        *m = m.mul_add(s.beta1, g * rest1);
        *v = v.mul_add(s.beta2, g * g * rest2);
        let below = v.sqrt().mul_add(s.lift, s.eps);
        *param = (*param * s.keep) - (s.rate * *m) / below;
    }
}
