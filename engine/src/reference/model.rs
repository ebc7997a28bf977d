//! The model in plain loops: forward, and backward written out by hand.
//!
//! Nothing here is clever; that is the point. One sequence at a time, matrices as written in the
//! papers, every intermediate kept.

use crate::config::{LayerPlaces, ModelConfig, Places};
use crate::rotary::Rotary;

use super::float::Float;

/// A model's sizes with its angles.
pub(super) struct Model<T> {
    pub(super) config: ModelConfig,
    places: Places,
    rotary: Rotary,
    width: core::marker::PhantomData<T>,
}

/// What a layer keeps of one sequence.
struct Kept<T> {
    x: Vec<T>,
    h1: Vec<T>,
    scale1: Vec<T>,
    /// Queries and keys before their norm, where they have one, and that norm's scales.
    raw: Vec<T>,
    head_scales: Vec<T>,
    qkv: Vec<T>,
    /// Probabilities, `[head][query][key]`.
    p: Vec<T>,
    y: Vec<T>,
    middle: Vec<T>,
    h2: Vec<T>,
    scale2: Vec<T>,
    gate_up: Vec<T>,
    act: Vec<T>,
}

/// A whole sequence on its way.
pub(super) struct Trace<T> {
    /// Sines and cosines, `[token][head_dim / 2]`.
    angles: Vec<(T, T)>,
    layers: Vec<Kept<T>>,
    x: Vec<T>,
    normed: Vec<T>,
    scale: Vec<T>,
    /// `[token][vocab]`.
    pub(super) logits: Vec<T>,
}

fn zeros<T: Float>(len: usize) -> Vec<T> {
    vec![T::ZERO; len]
}

fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let mut sum = T::ZERO;
    for (a, b) in a.iter().zip(b) {
        sum += *a * *b;
    }
    sum
}

fn add<T: Float>(into: &mut [T], from: &[T]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += *from;
    }
}

/// `x W^T` for rows of `inputs`, W of `outputs` rows.
fn apply<T: Float>(x: &[T], w: &[T], inputs: usize, outputs: usize) -> Vec<T> {
    let rows = x.chunks(inputs);
    rows.flat_map(|x| w[..inputs * outputs].chunks(inputs).map(|w| dot(x, w))).collect()
}

/// Gradient of [`apply`]: adds `dy^T x` to `dw` and returns `dy W`.
fn apply_back<T: Float>(dy: &[T], x: &[T], w: &[T], dw: &mut [T], inputs: usize) -> Vec<T> {
    let tokens = x.len() / inputs;
    let outputs = dy.len() / tokens;
    let mut dx = zeros(x.len());
    for t in 0..tokens {
        for o in 0..outputs {
            let slope = dy[t * outputs + o];
            for i in 0..inputs {
                dw[o * inputs + i] += slope * x[t * inputs + i];
                dx[t * inputs + i] += slope * w[o * inputs + i];
            }
        }
    }
    dx
}

fn norm<T: Float>(x: &[T], gain: &[T], eps: f32) -> (Vec<T>, Vec<T>) {
    let d = gain.len();
    let mut scales = Vec::new();
    let mut out = Vec::new();
    for x in x.chunks(d) {
        let scale = T::ONE / (dot(x, x) / T::of(d as f64) + T::of(f64::from(eps))).root();
        scales.push(scale);
        out.extend(x.iter().zip(gain).map(|(x, gain)| *x * scale * *gain));
    }
    (out, scales)
}

fn norm_back<T: Float>(dh: &[T], x: &[T], gain: &[T], scales: &[T], dgain: &mut [T]) -> Vec<T> {
    let d = gain.len();
    let mut dx = zeros(x.len());
    for (t, scale) in scales.iter().enumerate() {
        let range = t * d..(t + 1) * d;
        let (dh, x, dx) = (&dh[range.clone()], &x[range.clone()], &mut dx[range]);
        let mut mean = T::ZERO;
        for i in 0..d {
            dgain[i] += dh[i] * x[i] * *scale;
            mean += dh[i] * gain[i] * x[i];
        }
        let pull = mean * *scale * *scale * *scale / T::of(d as f64);
        for i in 0..d {
            dx[i] = dh[i] * gain[i] * *scale - x[i] * pull;
        }
    }
    dx
}

fn sigmoid<T: Float>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

impl<T: Float> Model<T> {
    pub(super) fn new(config: ModelConfig) -> Self {
        let (places, rotary) = (config.places(), Rotary::new(&config));
        Self { places, rotary, config, width: core::marker::PhantomData }
    }

    fn stride(&self) -> usize {
        self.config.qkv_width()
    }

    fn angles(&self, tokens: usize) -> Vec<(T, T)> {
        let rows = (0..tokens).flat_map(|position| self.rotary.at(position));
        rows.map(|(sine, cosine)| (T::of(sine), T::of(cosine))).collect()
    }

    /// Queries and keys of a row, head by head.
    fn heads<'a>(&self, row: &'a mut [T]) -> core::slice::ChunksExactMut<'a, T> {
        let c = &self.config;
        row[..c.query_width() + c.kv_width()].chunks_exact_mut(c.head_dim())
    }

    fn rotate(&self, qkv: &mut [T], angles: &[(T, T)], turn: T) {
        let half = self.rotary.half();
        for (row, angles) in qkv.chunks_mut(self.stride()).zip(angles.chunks(half)) {
            for head in self.heads(row) {
                for (i, (sine, cosine)) in angles.iter().enumerate() {
                    let (a, b, sine) = (head[i], head[i + half], *sine * turn);
                    head[i] = a * *cosine - b * sine;
                    head[i + half] = b * *cosine + a * sine;
                }
            }
        }
    }

    /// Which gain the head of this index has: queries first, then keys.
    fn head_gain(&self, start: usize, head: usize) -> core::ops::Range<usize> {
        let width = self.config.head_dim();
        let start = if head < self.config.heads { start } else { start + width };
        start..start + width
    }

    /// Norms queries and keys head by head where the model does; returns them as they were, and
    /// the scales.
    fn norm_heads(&self, params: &[T], at: &LayerPlaces, qkv: &mut [T]) -> (Vec<T>, Vec<T>) {
        let (mut raw, mut scales) = (Vec::new(), Vec::new());
        let Some(start) = at.head_norms else { return (raw, scales) };
        for row in qkv.chunks_mut(self.stride()) {
            for (index, head) in self.heads(row).enumerate() {
                raw.extend_from_slice(head);
                let gain = &params[self.head_gain(start, index)];
                let (out, scale) = norm(head, gain, self.config.norm_eps);
                head.copy_from_slice(&out);
                scales.extend(scale);
            }
        }
        (raw, scales)
    }

    /// The way back through [`Self::norm_heads`], in place.
    fn norm_heads_back(
        &self,
        params: &[T],
        at: &LayerPlaces,
        kept: &Kept<T>,
        grads: &mut [T],
        dqkv: &mut [T],
    ) {
        let Some(start) = at.head_norms else { return };
        let mut raw = kept.raw.chunks(self.config.head_dim());
        let mut scales = kept.head_scales.chunks(1);
        for row in dqkv.chunks_mut(self.stride()) {
            for (index, head) in self.heads(row).enumerate() {
                let (raw, scale) = (raw.next().expect("a head"), scales.next().expect("a head"));
                let range = self.head_gain(start, index);
                let (gain, dgain) = (&params[range.clone()], &mut grads[range]);
                let dx = norm_back(head, raw, gain, scale, dgain);
                head.copy_from_slice(&dx);
            }
        }
    }

    /// Where the query, key and value of `head` start in a row.
    fn parts(&self, head: usize) -> (usize, usize, usize) {
        let c = &self.config;
        let (width, kv) = (c.head_dim(), head * c.kv_heads / c.heads);
        let key = c.query_width() + kv * width;
        (head * width, key, key + c.kv_width())
    }

    fn attend(&self, qkv: &[T]) -> (Vec<T>, Vec<T>) {
        let (c, stride) = (&self.config, self.stride());
        let (tokens, width) = (qkv.len() / stride, c.head_dim());
        let scale = T::ONE / T::of(width as f64).root();
        let (mut p, mut y) = (zeros(c.heads * tokens * tokens), zeros(tokens * c.query_width()));
        for head in 0..c.heads {
            let (q, k, v) = self.parts(head);
            let part = |at: usize, t: usize| &qkv[t * stride + at..][..width];
            for t in 0..tokens {
                let row = &mut p[(head * tokens + t) * tokens..][..=t];
                for (s, score) in row.iter_mut().enumerate() {
                    *score = dot(part(q, t), part(k, s)) * scale;
                }
                let greatest = row.iter().fold(row[0], |a, b| if *b > a { *b } else { a });
                let mut sum = T::ZERO;
                for score in row.iter_mut() {
                    *score = (*score - greatest).exp();
                    sum += *score;
                }
                for (s, score) in row.iter_mut().enumerate() {
                    *score = *score / sum;
                    for i in 0..width {
                        y[t * c.query_width() + q + i] += *score * part(v, s)[i];
                    }
                }
            }
        }
        (p, y)
    }

    fn attend_back(&self, dy: &[T], kept: &Kept<T>) -> Vec<T> {
        let (c, stride) = (&self.config, self.stride());
        let (tokens, width) = (dy.len() / c.query_width(), c.head_dim());
        let scale = T::ONE / T::of(width as f64).root();
        let mut dqkv = zeros(kept.qkv.len());
        for head in 0..c.heads {
            let (q, k, v) = self.parts(head);
            for t in 0..tokens {
                let p = &kept.p[(head * tokens + t) * tokens..][..=t];
                let slope = &dy[t * c.query_width() + q..][..width];
                let dp: Vec<T> =
                    (0..=t).map(|s| dot(slope, &kept.qkv[s * stride + v..][..width])).collect();
                let mean = dot(&dp, p);
                for s in 0..=t {
                    let ds = p[s] * (dp[s] - mean) * scale;
                    for i in 0..width {
                        dqkv[s * stride + v + i] += p[s] * slope[i];
                        dqkv[t * stride + q + i] += ds * kept.qkv[s * stride + k + i];
                        dqkv[s * stride + k + i] += ds * kept.qkv[t * stride + q + i];
                    }
                }
            }
        }
        dqkv
    }

    fn layer(
        &self,
        params: &[T],
        at: &LayerPlaces,
        x: Vec<T>,
        angles: &[(T, T)],
    ) -> (Kept<T>, Vec<T>) {
        let c = &self.config;
        let (d, ffn) = (c.hidden, c.ffn);
        let (h1, scale1) = norm(&x, &params[at.norm1..at.norm1 + d], c.norm_eps);
        let mut qkv = apply(&h1, &params[at.qkv..], d, self.stride());
        if let Some(bias) = at.bias {
            let bias = &params[bias..bias + self.stride()];
            qkv.chunks_mut(self.stride()).for_each(|row| add(row, bias));
        }
        let (raw, head_scales) = self.norm_heads(params, at, &mut qkv);
        self.rotate(&mut qkv, angles, T::ONE);
        let (p, y) = self.attend(&qkv);
        let mut middle = apply(&y, &params[at.out..], c.query_width(), d);
        add(&mut middle, &x);
        let (h2, scale2) = norm(&middle, &params[at.norm2..at.norm2 + d], c.norm_eps);
        let gate_up = apply(&h2, &params[at.gate_up..], d, 2 * ffn);
        let mut act = Vec::new();
        for row in gate_up.chunks(2 * ffn) {
            act.extend((0..ffn).map(|i| row[i] * sigmoid(row[i]) * row[ffn + i]));
        }
        let mut next = apply(&act, &params[at.down..], ffn, d);
        add(&mut next, &middle);
        let kept =
            Kept { x, h1, scale1, raw, head_scales, qkv, p, y, middle, h2, scale2, gate_up, act };
        (kept, next)
    }

    fn layer_back(
        &self,
        params: &[T],
        at: &LayerPlaces,
        (kept, angles): (&Kept<T>, &[(T, T)]),
        dnext: &[T],
        grads: &mut [T],
    ) -> Vec<T> {
        let (d, ffn) = (self.config.hidden, self.config.ffn);
        let dact = apply_back(dnext, &kept.act, &params[at.down..], &mut grads[at.down..], ffn);
        let mut dgate_up = zeros(kept.gate_up.len());
        for t in 0..dact.len() / ffn {
            for i in 0..ffn {
                let (g, u) = (t * 2 * ffn + i, t * 2 * ffn + ffn + i);
                let (gate, up, slope) = (kept.gate_up[g], kept.gate_up[u], dact[t * ffn + i]);
                let s = sigmoid(gate);
                dgate_up[u] = slope * gate * s;
                dgate_up[g] = slope * up * s * (T::ONE + gate * (T::ONE - s));
            }
        }
        let (w, dw) = (&params[at.gate_up..], &mut grads[at.gate_up..]);
        let dh2 = apply_back(&dgate_up, &kept.h2, w, dw, d);
        let (gain, dgain) = (&params[at.norm2..at.norm2 + d], &mut grads[at.norm2..at.norm2 + d]);
        let mut dmiddle = norm_back(&dh2, &kept.middle, gain, &kept.scale2, dgain);
        add(&mut dmiddle, dnext);
        let (w, dw) = (&params[at.out..], &mut grads[at.out..]);
        let dy = apply_back(&dmiddle, &kept.y, w, dw, self.config.query_width());
        let mut dqkv = self.attend_back(&dy, kept);
        self.rotate(&mut dqkv, angles, -T::ONE);
        self.norm_heads_back(params, at, kept, grads, &mut dqkv);
        if let Some(bias) = at.bias {
            let dbias = &mut grads[bias..bias + self.stride()];
            dqkv.chunks(self.stride()).for_each(|row| add(dbias, row));
        }
        let dh1 = apply_back(&dqkv, &kept.h1, &params[at.qkv..], &mut grads[at.qkv..], d);
        let (gain, dgain) = (&params[at.norm1..at.norm1 + d], &mut grads[at.norm1..at.norm1 + d]);
        let mut dx = norm_back(&dh1, &kept.x, gain, &kept.scale1, dgain);
        add(&mut dx, &dmiddle);
        dx
    }

    /// One sequence, from ids to logits. `go_on` is asked between layers.
    pub(super) fn forward(
        &self,
        params: &[T],
        ids: &[u32],
        go_on: &dyn Fn() -> bool,
    ) -> Option<Trace<T>> {
        let c = &self.config;
        let d = c.hidden;
        let row = |id: &u32| &params[*id as usize * d..(*id as usize + 1) * d];
        let mut x: Vec<T> = ids.iter().flat_map(|id| row(id).iter().copied()).collect();
        let angles = self.angles(ids.len());
        let mut layers = Vec::new();
        for at in &self.places.layers {
            if !go_on() {
                return None;
            }
            let (kept, next) = self.layer(params, at, x, &angles);
            layers.push(kept);
            x = next;
        }
        let gain = &params[self.places.norm..self.places.norm + d];
        let (normed, scale) = norm(&x, gain, c.norm_eps);
        let logits = apply(&normed, &params[self.places.head..], d, c.vocab);
        Some(Trace { angles, layers, x, normed, scale, logits })
    }

    /// Adds to `grads` what `dlogits` means for every parameter.
    pub(super) fn backward(
        &self,
        params: &[T],
        ids: &[u32],
        trace: &Trace<T>,
        dlogits: &[T],
        grads: &mut [T],
        go_on: &dyn Fn() -> bool,
    ) -> Option<()> {
        let d = self.config.hidden;
        let (head, norm) = (self.places.head, self.places.norm);
        let dnormed = apply_back(dlogits, &trace.normed, &params[head..], &mut grads[head..], d);
        let dgain = &mut grads[norm..norm + d];
        let mut dx = norm_back(&dnormed, &trace.x, &params[norm..norm + d], &trace.scale, dgain);
        for (at, kept) in self.places.layers.iter().zip(&trace.layers).rev() {
            if !go_on() {
                return None;
            }
            dx = self.layer_back(params, at, (kept, &trace.angles), &dx, grads);
        }
        for (id, dx) in ids.iter().zip(dx.chunks(d)) {
            add(&mut grads[*id as usize * d..], dx);
        }
        Some(())
    }
}
