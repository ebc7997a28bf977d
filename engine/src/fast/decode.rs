//! One token at a time, with keys and values kept: generation.
//!
//! A row goes through the same chains as in a whole batch, so the logits are the same bits.

use crate::config::ModelConfig;

use super::kernel::{Kernels, Left, Right, Shape, Start};
use super::pass::Plan;
use super::tile::COLUMNS;
use super::weights::{Matrix, Weights};

/// What is kept of the tokens so far, and room for the next.
#[derive(Default)]
pub(super) struct Decoder {
    position: usize,
    layers: Vec<Cache>,
    x: Vec<f32>,
    h: Vec<f32>,
    qkv: Vec<f32>,
    raw: Vec<f32>,
    head_scales: Vec<f32>,
    y: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
}

#[derive(Default)]
struct Cache {
    /// For each key-value head, panels of 32 positions: `[panel][dimension][position]`.
    keys: Vec<f32>,
    /// `[position][kv width]`.
    values: Vec<f32>,
}

impl Decoder {
    /// Forgets all tokens.
    pub(super) fn start(&mut self, plan: &Plan) {
        let c = &plan.config;
        self.position = 0;
        self.layers.resize_with(c.layers, Cache::default);
        for cache in &mut self.layers {
            cache.keys.resize(c.context.next_multiple_of(COLUMNS) * c.kv_width(), 0.0);
            cache.values.resize(c.context * c.kv_width(), 0.0);
        }
        for (buffer, len) in [
            (&mut self.x, c.hidden),
            (&mut self.h, c.hidden),
            (&mut self.qkv, plan.heads.stride),
            (&mut self.raw, if c.qk_norm { plan.heads.normed } else { 0 }),
            (&mut self.head_scales, c.heads + c.kv_heads),
            (&mut self.y, plan.heads.query),
            (&mut self.gate_up, 2 * c.ffn),
            (&mut self.act, c.ffn),
            (&mut self.scores, c.context.next_multiple_of(COLUMNS)),
            (&mut self.logits, c.vocab),
        ] {
            buffer.resize(len, 0.0);
        }
    }

    /// Reads one token and returns the logits after it.
    pub(super) fn feed(
        &mut self,
        k: &Kernels,
        plan: &Plan,
        weights: &Weights,
        params: &[f32],
        id: u32,
    ) -> &[f32] {
        let c = &plan.config;
        let (d, ffn) = (c.hidden, c.ffn);
        let gain = |start: usize| &params[start..start + d];
        let apply = |matrix: &Matrix, x: &[f32], out: &mut [f32], start: Start| {
            let shape = Shape { m: 1, n: matrix.rows, k: matrix.columns };
            let left = Left::rows(x, matrix.columns);
            k.multiply(shape, left, weights.forward(matrix), (out, matrix.rows), start);
        };
        let at = id as usize * d;
        self.x.copy_from_slice(&params[at..at + d]);
        for (layer, matrices) in weights.layers.iter().enumerate() {
            let places = plan.places.layers[layer];
            k.norm(&self.x, gain(places.norm1), c.norm_eps, &mut self.h);
            let start = match places.bias {
                Some(bias) => {
                    self.qkv.copy_from_slice(&params[bias..bias + plan.heads.stride]);
                    Start::Here
                }
                None => Start::Zero,
            };
            apply(&matrices.qkv, &self.h, &mut self.qkv, start);
            let (raw, scales) = (&mut self.raw, &mut self.head_scales);
            plan.norm_heads(k, (params, layer), &mut self.qkv, raw, scales);
            plan.rotate(k, &mut self.qkv, self.position, 1.0);
            self.attend(k, plan, layer);
            apply(&matrices.out, &self.y, &mut self.x, Start::Here);
            k.norm(&self.x, gain(places.norm2), c.norm_eps, &mut self.h);
            apply(&matrices.gate_up, &self.h, &mut self.gate_up, Start::Zero);
            let (gate, up) = self.gate_up.split_at(ffn);
            k.swiglu(gate, up, &mut self.act);
            apply(&matrices.down, &self.act, &mut self.x, Start::Here);
        }
        k.norm(&self.x, gain(plan.places.norm), c.norm_eps, &mut self.h);
        apply(&weights.head, &self.h, &mut self.logits, Start::Zero);
        self.position += 1;
        &self.logits
    }

    fn attend(&mut self, k: &Kernels, plan: &Plan, layer: usize) {
        let c: &ModelConfig = &plan.config;
        let (t, width, kv_width) = (self.position, c.head_dim(), c.kv_width());
        let cache = &mut self.layers[layer];
        let panels = c.context.next_multiple_of(COLUMNS) * width;
        let (query, rest) = self.qkv.split_at(plan.heads.query);
        let (key, value) = rest.split_at(kv_width);
        cache.values[t * kv_width..(t + 1) * kv_width].copy_from_slice(value);
        for (kv, key) in key.chunks(width).enumerate() {
            let panel = kv * panels + t / COLUMNS * COLUMNS * width + t % COLUMNS;
            for (slot, key) in cache.keys[panel..].iter_mut().step_by(COLUMNS).zip(key) {
                *slot = *key;
            }
        }
        for (head, (query, y)) in query.chunks(width).zip(self.y.chunks_mut(width)).enumerate() {
            let kv = head / plan.heads.group;
            let seen = t + 1;
            let scores = &mut self.scores[..seen];
            let shape = Shape { m: 1, n: seen, k: width };
            let keys = Right::packed(&cache.keys[kv * panels..], width);
            k.multiply(shape, Left::rows(query, width), keys, (scores, seen), Start::Zero);
            k.softmax(scores, seen, plan.heads.scale);
            let shape = Shape { m: 1, n: width, k: seen };
            let values = Right::rows(&cache.values[kv * width..], kv_width);
            k.multiply(shape, Left::rows(scores, seen), values, (y, width), Start::Zero);
        }
    }
}
