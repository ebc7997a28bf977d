//! Low-rank adapters (Hu et al. 2021): `y = W x + alpha / rank * B A x` with W frozen.
//!
//! Names and shapes are those of Hugging Face PEFT: A is `[rank, inputs]`, B `[outputs, rank]`.

use core::ops::Range;

use serde::{Deserialize, Serialize};
use suanli_base::Random;
use suanli_params::{Space, TensorSpec};

use crate::config::{Activations, ConfigError, LayerPlaces, ModelConfig, Storage, group_tokens};

/// Largest rank: above it an adapter is no smaller than what it adapts.
pub const RANK_MAX: usize = 1024;

/// A matrix of a layer that may have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// What attention writes to the stream.
    OProj,
    /// The gate of the feed-forward part.
    GateProj,
    /// What it gates.
    UpProj,
    /// What the feed-forward part writes to the stream.
    DownProj,
}

impl Target {
    /// All of them, in the order of the adapters.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// What Hugging Face calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    const fn module(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }
}

/// Which adapters a model gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Inner width of every adapter.
    pub rank: usize,
    /// What an adapter says is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Which matrices have one; ascending, each once.
    pub targets: Vec<Target>,
}

/// The matrices that kernels take as one: q, k and v are one, gate and up another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Qkv,
    Out,
    GateUp,
    Down,
}

/// Where one adapter lies, and what it adapts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) group: Group,
    /// First of the group's outputs.
    pub(crate) column: usize,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// First element of A and of B in the adapters' flat buffer.
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// First element of W in the model's.
    pub(crate) weight: usize,
}

impl Slot {
    pub(crate) const fn a_range(&self, rank: usize) -> Range<usize> {
        self.a..self.a + rank * self.inputs
    }

    pub(crate) const fn b_range(&self, rank: usize) -> Range<usize> {
        self.b..self.b + self.outputs * rank
    }
}

impl Lora {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        ConfigError::range("lora.rank", self.rank, 1, RANK_MAX)?;
        ConfigError::number("lora.alpha", self.alpha, 1e-6, 1e6)?;
        let ascending = self.targets.windows(2).all(|pair| pair[0] < pair[1]);
        if self.targets.is_empty() || !ascending {
            let found = self.targets.len();
            return Err(ConfigError::Targets { found });
        }
        Ok(())
    }

    /// `alpha / rank`.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Every tensor of the adapters in the order of their flat buffer, by PEFT's names.
    ///
    /// # Panics
    /// When [`Lora::check`] or [`ModelConfig::check`] would refuse.
    #[must_use]
    pub fn space(&self, config: &ModelConfig) -> Space {
        let mut specs = Vec::new();
        for layer in 0..config.layers {
            for target in &self.targets {
                let slot = slot(config, *target);
                let (module, name) = (target.module(), target.name());
                let stem = format!("base_model.model.model.layers.{layer}.{module}.{name}");
                let tensor =
                    |part, shape| TensorSpec::new(format!("{stem}.lora_{part}.weight"), shape);
                specs.push(tensor("A", [self.rank, slot.inputs]));
                specs.push(tensor("B", [slot.outputs, self.rank]));
            }
        }
        Space::new(specs).expect("checked sizes make a space: names differ, no size is 0")
    }

    /// How many parameters the adapters have.
    #[must_use]
    pub fn parameters(&self, config: &ModelConfig) -> usize {
        let each = self.targets.iter().map(|target| slot(config, *target));
        config.layers * each.map(|slot| self.rank * (slot.inputs + slot.outputs)).sum::<usize>()
    }

    /// Bytes that training the adapters takes on the fast engine, that of the frozen model
    /// included; otherwise as [`ModelConfig::training_memory_bytes`].
    #[must_use]
    pub fn training_memory_bytes(
        &self,
        config: &ModelConfig,
        sequences: usize,
        length: usize,
        activations: Activations,
        storage: Storage,
    ) -> u64 {
        let frozen = 2 * config.parameters();
        // Parameters, gradients, two moments, and a packed copy.
        let trained = 10 * self.parameters(config);
        // What lies between A and B, and its slope.
        let low =
            group_tokens(sequences, length).saturating_mul(4 * self.rank * self.targets.len());
        let halves = config.halves_beside(sequences, length, activations, storage);
        2 * halves.saturating_add(frozen + trained).saturating_add(low) as u64
    }

    /// Fresh adapters, which change nothing yet: A uniform in `+-1/sqrt(inputs)` (PEFT's default),
    /// B zero. The seed alone decides.
    #[must_use]
    pub fn initial(&self, config: &ModelConfig, seed: u64) -> Vec<f32> {
        let mut params = vec![0.0; self.parameters(config)];
        let root = Random::new(seed).fork(0x10A);
        for (index, slot) in self.slots(config).iter().flatten().enumerate() {
            let mut random = root.fork(index as u64);
            let bound = 1.0 / (slot.inputs as f32).sqrt();
            for value in &mut params[slot.a_range(self.rank)] {
                *value = (2.0 * random.unit_f32() - 1.0) * bound;
            }
        }
        params
    }

    /// Adds what the adapters say to the model's matrices: the model that then needs none.
    ///
    /// # Panics
    /// When the buffers are not as long as the spaces say.
    pub fn merge(&self, config: &ModelConfig, adapters: &[f32], model: &mut [f32]) {
        assert_eq!((adapters.len(), model.len()), (self.parameters(config), config.parameters()));
        let (rank, scale) = (self.rank, self.scale());
        for slot in self.slots(config).iter().flatten() {
            let (a, b) = (&adapters[slot.a_range(rank)], &adapters[slot.b_range(rank)]);
            let rows = model[slot.weight..].chunks_mut(slot.inputs).zip(b.chunks(rank));
            for (row, b) in rows {
                for (a, b) in a.chunks(slot.inputs).zip(b) {
                    let b = b * scale;
                    row.iter_mut().zip(a).for_each(|(w, a)| *w = b.mul_add(*a, *w));
                }
            }
        }
    }

    /// The adapters of each layer.
    pub(crate) fn slots(&self, config: &ModelConfig) -> Vec<Vec<Slot>> {
        let mut at = 0;
        let mut take = |elements: usize| {
            let start = at;
            at += elements;
            start
        };
        let places = config.places();
        let layer = |places: &LayerPlaces| {
            let each = self.targets.iter().map(|target| {
                let shape = slot(config, *target);
                let a = take(self.rank * shape.inputs);
                let b = take(shape.outputs * self.rank);
                let first = match shape.group {
                    Group::Qkv => places.qkv,
                    Group::Out => places.out,
                    Group::GateUp => places.gate_up,
                    Group::Down => places.down,
                };
                Slot { a, b, weight: first + shape.column * shape.inputs, ..shape }
            });
            each.collect()
        };
        places.layers.iter().map(layer).collect()
    }
}

/// The shape of an adapter, not yet placed.
fn slot(config: &ModelConfig, target: Target) -> Slot {
    let (d, q, kv, ffn) = (config.hidden, config.query_width(), config.kv_width(), config.ffn);
    let (group, column, outputs, inputs) = match target {
        Target::QProj => (Group::Qkv, 0, q, d),
        Target::KProj => (Group::Qkv, q, kv, d),
        Target::VProj => (Group::Qkv, q + kv, kv, d),
        Target::OProj => (Group::Out, 0, d, q),
        Target::GateProj => (Group::GateUp, 0, ffn, d),
        Target::UpProj => (Group::GateUp, ffn, ffn, d),
        Target::DownProj => (Group::Down, 0, d, ffn),
    };
    Slot { group, column, outputs, inputs, a: 0, b: 0, weight: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora(targets: Vec<Target>) -> Lora {
        Lora { rank: 3, alpha: 6.0, targets }
    }

    #[test]
    fn places_names_and_counts_agree() {
        let config = ModelConfig { kv_heads: 2, ..ModelConfig::demo() };
        let lora = lora(Target::ALL.to_vec());
        let (space, model) = (lora.space(&config), config.space());
        assert_eq!(space.len(), lora.parameters(&config));
        for (layer, slots) in lora.slots(&config).iter().enumerate() {
            for (slot, target) in slots.iter().zip(Target::ALL) {
                let name = format!("model.layers.{layer}.{}.{}", target.module(), target.name());
                let weight = model.tensor(&format!("{name}.weight")).unwrap();
                assert_eq!((slot.weight, weight.len), (weight.offset, slot.inputs * slot.outputs));
                for (part, at) in [("A", slot.a), ("B", slot.b)] {
                    let name = format!("base_model.model.{name}.lora_{part}.weight");
                    assert_eq!(space.tensor(&name).unwrap().offset, at);
                }
            }
        }
    }

    #[test]
    fn fresh_adapters_change_nothing_and_merged_ones_add_their_product() {
        let config = ModelConfig::demo();
        let lora = lora(vec![Target::KProj, Target::DownProj]);
        lora.check().unwrap();
        let mut adapters = lora.initial(&config, 5);
        let base = crate::initial_params(&config, 1);
        let mut merged = base.clone();
        lora.merge(&config, &adapters, &mut merged);
        assert_eq!(merged, base);
        let slot = lora.slots(&config)[1][0];
        // B[7][2] = 0.5 adds alpha / rank * 0.5 * A[2] to row 7 of W.
        adapters[slot.b + 7 * 3 + 2] = 0.5;
        lora.merge(&config, &adapters, &mut merged);
        for i in 0..slot.inputs {
            let at = slot.weight + 7 * slot.inputs + i;
            let expected = base[at] + 2.0 * 0.5 * adapters[slot.a + 2 * slot.inputs + i];
            assert!((merged[at] - expected).abs() < 1e-7);
        }
        let changed = merged.iter().zip(&base).filter(|(a, b)| a != b).count();
        assert!(changed <= slot.inputs && changed > slot.inputs / 2);
    }

    #[test]
    fn numbers_that_cannot_work_are_named() {
        assert!(Lora { rank: 0, ..lora(vec![Target::QProj]) }.check().is_err());
        assert!(Lora { alpha: f32::NAN, ..lora(vec![Target::QProj]) }.check().is_err());
        for targets in [vec![], vec![Target::VProj, Target::QProj], vec![Target::QProj; 2]] {
            let error = lora(targets).check().unwrap_err().to_string();
            assert!(error.contains("q_proj, k_proj"), "{error}");
        }
    }
}
