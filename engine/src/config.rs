//! The sizes of a model, their limits, and where each tensor lies in the flat buffer.
//!
//! The layout puts q, k, v of a layer next to each other, and gate and up: each group is then one
//! matrix for the kernels. Names and shapes are those of a Hugging Face Llama checkpoint.

use serde::{Deserialize, Serialize};
use suanli_params::{Space, TensorSpec};

/// Most entries a vocabulary may have. With the other limits: no product of sizes overflows.
pub const VOCAB_MAX: usize = 1 << 20;
/// Largest width of the residual stream and of the feed-forward part.
pub const WIDTH_MAX: usize = 1 << 16;
/// Most layers.
pub const LAYERS_MAX: usize = 1 << 10;
/// Longest context.
pub const CONTEXT_MAX: usize = 1 << 17;

/// Most elements of the logits that are held at a time in training: 8 MiB.
pub(crate) const LOGITS_MAX: usize = 1 << 21;

/// Most tokens that go through the model together on up to four threads, at least one sequence.
pub(crate) const GROUP_TOKENS: usize = 512;

/// What the way forward keeps for the way back. Bits do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Everything that is dear to compute.
    #[default]
    Kept,
    /// The stream before each layer; the rest is computed again, for about a quarter more time
    /// (Chen et al. 2016).
    Recomputed,
}

/// The arithmetic of this engine. A change of any bit of a result is a new name.
pub const NUMERIC_CLASS: &str = "f32-chain-1";
/// The same with [`Storage::Bf16`].
pub const NUMERIC_CLASS_BF16: &str = "bf16-chain-1";
/// A job whose members compute as they like, this engine with [`Storage::F32`] among them: no two
/// need have the same bits, so nobody can check a member by doing its steps again.
pub const NUMERIC_CLASS_ANY: &str = "any";

/// How the matrices that kernels read, and what the way forward keeps, are held. It decides bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16, rounded to nearest, ties to even: half the memory. Sums, the master copy of the
    /// parameters, gradients and moments stay in 32 bits.
    Bf16,
}

impl Storage {
    /// What the fast engine's arithmetic is called when it holds numbers so.
    #[must_use]
    pub const fn numeric_class(self) -> &'static str {
        match self {
            Self::F32 => NUMERIC_CLASS,
            Self::Bf16 => NUMERIC_CLASS_BF16,
        }
    }

    /// What the numeric class of a job asks for.
    ///
    /// # Errors
    /// A class that this program does not compute.
    pub fn of_class(class: &str) -> Result<Self, ConfigError> {
        if class == NUMERIC_CLASS_ANY {
            return Ok(Self::F32);
        }
        let all = [Self::F32, Self::Bf16];
        let found = all.into_iter().find(|storage| storage.numeric_class() == class);
        found.ok_or_else(|| ConfigError::NumericClass { found: class.chars().take(32).collect() })
    }
}

/// The sizes of a decoder of the Llama shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Longest sequence.
    pub context: usize,
    /// Base of the rotary angles.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f32,
    /// What RMSNorm adds to the mean square.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f32,
    /// Whether the head is the embedding.
    #[serde(default)]
    pub tied: bool,
    /// Width of a head where it is not `hidden / heads` (Mistral Nemo, Qwen3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries, keys and values have biases (Qwen2).
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// Whether each query and key head is normed before it is rotated (Qwen3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// How the rotary angles are stretched for long texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
}

/// How rotary angles are stretched beyond the context that a model was first trained with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum RopeScaling {
    /// All frequencies divided by a factor (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Long waves divided, short ones left, those in between blended (Llama 3.1).
    Llama3 {
        /// The divisor of long waves.
        factor: f32,
        /// Waves longer than the original context over this are long.
        low_freq_factor: f32,
        /// Waves shorter than the original context over this are short.
        high_freq_factor: f32,
        /// The context first trained with.
        original_context: usize,
    },
}

impl RopeScaling {
    fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = |field, found, max| ConfigError::number(field, found, 1.0, max);
        match *self {
            Self::Linear { factor } => at_least_one("rope_scaling.factor", factor, 1e4),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context,
            } => {
                at_least_one("rope_scaling.factor", factor, 1e4)?;
                at_least_one("rope_scaling.low_freq_factor", low, 1e4)?;
                // Strictly above, so that the blend in between divides by no zero.
                let least = f32::from_bits(low.to_bits() + 1);
                ConfigError::number("rope_scaling.high_freq_factor", high, least, 1e5)?;
                let (field, found, max) =
                    ("rope_scaling.original_context", original_context, CONTEXT_MAX);
                ConfigError::range(field, found, 1, max)
            }
        }
    }
}

/// Tokens of a batch that go together, on up to four threads.
pub(crate) fn group_tokens(sequences: usize, length: usize) -> usize {
    let most = (GROUP_TOKENS / length.max(1)).max(1).saturating_mul(length);
    sequences.saturating_mul(length).min(most)
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn default_rope_theta() -> f32 {
    10_000.0
}

const fn default_norm_eps() -> f32 {
    1e-5
}

/// A size of a model that cannot work. Always the fault of whoever wrote the sizes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size is outside what this program handles.
    #[error("model.{field} is {found}; it must be from {min} to {max}")]
    OutOfRange {
        /// Which size.
        field: &'static str,
        /// What it is.
        found: usize,
        /// The least it may be.
        min: usize,
        /// The most it may be.
        max: usize,
    },
    /// An arithmetic that this program does not compute.
    #[error(
        "the job is computed as {found:?}, this program computes {NUMERIC_CLASS:?} and {NUMERIC_CLASS_BF16:?}; use the trainer's version of suanli"
    )]
    NumericClass {
        /// What it is called.
        found: String,
    },
    /// One size must be a multiple of another.
    #[error(
        "model.{field} is {found}; it must be a multiple of {of}, which is {divisor}: try {nearest}"
    )]
    NotMultiple {
        /// Which size.
        field: &'static str,
        /// What it is.
        found: usize,
        /// The name of the divisor.
        of: &'static str,
        /// The divisor.
        divisor: usize,
        /// The next larger size that would do.
        nearest: usize,
    },
    /// More parameters than the format of a region holds.
    #[error(
        "the model has {found} parameters; {max} is the most: make hidden, ffn, layers or vocab smaller"
    )]
    TooLarge {
        /// Parameters of these sizes.
        found: usize,
        /// The most there may be.
        max: usize,
    },
    /// Adapters for no matrix, or for one twice.
    #[error(
        "lora.targets names {found} matrices; expected at least one of q_proj, k_proj, v_proj, \
         o_proj, gate_proj, up_proj, down_proj, each once and in this order"
    )]
    Targets {
        /// How many were named.
        found: usize,
    },
    /// A number must be finite and within limits.
    #[error("model.{field} is {found}; it must be a number from {min} to {max}")]
    BadNumber {
        /// Which number.
        field: &'static str,
        /// What it is.
        found: f32,
        /// The least it may be.
        min: f32,
        /// The most it may be.
        max: f32,
    },
}

impl ConfigError {
    pub(crate) const fn range(
        field: &'static str,
        found: usize,
        min: usize,
        max: usize,
    ) -> Result<(), Self> {
        if found < min || found > max {
            return Err(Self::OutOfRange { field, found, min, max });
        }
        Ok(())
    }

    pub(crate) fn number(field: &'static str, found: f32, min: f32, max: f32) -> Result<(), Self> {
        if (min..=max).contains(&found) {
            return Ok(());
        }
        Err(Self::BadNumber { field, found, min, max })
    }
}

impl ModelConfig {
    /// The byte-level decoder of the demo: 869 504 parameters.
    #[must_use]
    pub const fn demo() -> Self {
        Self {
            vocab: 256,
            hidden: 128,
            layers: 4,
            heads: 4,
            kv_heads: 4,
            ffn: 352,
            context: 128,
            rope_theta: default_rope_theta(),
            norm_eps: default_norm_eps(),
            tied: false,
            head_dim: None,
            qkv_bias: false,
            qk_norm: false,
            rope_scaling: None,
        }
    }

    /// Checks every size against its limits and against each other.
    ///
    /// # Errors
    /// The first size that cannot work, with what would.
    pub fn check(&self) -> Result<(), ConfigError> {
        let heads_max = if self.head_dim.is_some() { WIDTH_MAX } else { self.hidden / 2 };
        for (field, found, min, max) in [
            ("vocab", self.vocab, 2, VOCAB_MAX),
            ("hidden", self.hidden, 2, WIDTH_MAX),
            ("layers", self.layers, 1, LAYERS_MAX),
            ("heads", self.heads, 1, heads_max),
            ("kv_heads", self.kv_heads, 1, self.heads),
            ("ffn", self.ffn, 1, WIDTH_MAX),
            ("context", self.context, 1, CONTEXT_MAX),
            ("head_dim", self.head_dim.unwrap_or(2), 2, WIDTH_MAX / self.heads.clamp(1, WIDTH_MAX)),
        ] {
            ConfigError::range(field, found, min, max)?;
        }
        let width = match self.head_dim {
            Some(width) => ("head_dim", width, "2", 2),
            None => ("hidden", self.hidden, "2 x heads", 2 * self.heads),
        };
        for (field, found, of, divisor) in [width, ("heads", self.heads, "kv_heads", self.kv_heads)]
        {
            if !found.is_multiple_of(divisor) {
                let nearest = found.next_multiple_of(divisor);
                return Err(ConfigError::NotMultiple { field, found, of, divisor, nearest });
            }
        }
        ConfigError::number("rope_theta", self.rope_theta, 1.0, 1e9)?;
        ConfigError::number("norm_eps", self.norm_eps, 1e-12, 1.0)?;
        if let Some(scaling) = &self.rope_scaling {
            scaling.check()?;
        }
        let (found, max) = (self.parameters(), Space::ELEMENTS_MAX);
        if found > max { Err(ConfigError::TooLarge { found, max }) } else { Ok(()) }
    }

    /// Width of a head.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        match self.head_dim {
            Some(width) => width,
            None => self.hidden / self.heads,
        }
    }

    /// Width of the queries of a token: what attention gives to its output projection.
    #[must_use]
    pub const fn query_width(&self) -> usize {
        self.heads * self.head_dim()
    }

    /// Width of the keys, and of the values, of a token.
    #[must_use]
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim()
    }

    /// Width of queries, keys and values together.
    #[must_use]
    pub const fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }

    /// How many parameters the model has.
    #[must_use]
    pub const fn parameters(&self) -> usize {
        let d = self.hidden;
        let attention = (self.qkv_width() + self.query_width()) * d;
        let bias = if self.qkv_bias { self.qkv_width() } else { 0 };
        let norms = if self.qk_norm { 2 * self.head_dim() } else { 0 };
        let layer = attention + bias + norms + 3 * self.ffn * d + 2 * d;
        let heads = if self.tied { 1 } else { 2 };
        heads * self.vocab * d + self.layers * layer + d
    }

    /// Bytes that training takes on the fast engine with batches of `sequences` sequences of
    /// `length` tokens: parameters, gradients, two moments, the packed copy of the matrices and of
    /// one layer for the way back, activations of the tokens that go together, logits. More than
    /// four threads let more tokens go together.
    #[must_use]
    pub fn training_memory_bytes(
        &self,
        sequences: usize,
        length: usize,
        activations: Activations,
        storage: Storage,
    ) -> u64 {
        let trained = 8 * self.parameters();
        let halves = self.halves_beside(sequences, length, activations, storage);
        2 * halves.saturating_add(trained) as u64
    }

    /// The same without parameters, gradients and moments, in half words.
    pub(crate) fn halves_beside(
        &self,
        sequences: usize,
        length: usize,
        activations: Activations,
        storage: Storage,
    ) -> usize {
        let (d, qkv, ffn, query) = (self.hidden, self.qkv_width(), self.ffn, self.query_width());
        let heads = if self.qk_norm { query + self.kv_width() } else { 0 };
        let (tokens, group) = (sequences.saturating_mul(length), group_tokens(sequences, length));
        let inside = d + qkv + heads + query + 2 * ffn + 2 * self.heads + 2;
        // In half words a token: what each layer keeps, and the set that is worked on.
        let kept = match (storage, activations) {
            (Storage::F32, Activations::Kept) => 2 * self.layers * (d + inside),
            (Storage::F32, Activations::Recomputed) => 2 * (self.layers * d + inside),
            (Storage::Bf16, Activations::Kept) => {
                self.layers * (d + inside + 2 * self.heads) + 2 * (2 * d + inside)
            }
            (Storage::Bf16, Activations::Recomputed) => self.layers * d + 2 * (2 * d + inside),
        };
        let packed = match storage {
            Storage::F32 => 2 * self.parameters(),
            Storage::Bf16 => self.parameters(),
        };
        let shared = 9 * d + query + qkv + heads + ffn + 2;
        let logits = group.saturating_mul(self.vocab).min(LOGITS_MAX);
        let layer = (qkv + query) * d + 3 * ffn * d;
        let back = layer.max(self.vocab * d);
        (packed + 2 * (back + logits))
            .saturating_add(group.saturating_mul(kept + 2 * shared))
            .saturating_add(tokens.saturating_mul(2 * d))
    }

    /// Every tensor in the order of the flat buffer.
    ///
    /// # Panics
    /// When [`ModelConfig::check`] would refuse the sizes.
    #[must_use]
    pub fn space(&self) -> Space {
        let (d, ffn) = (self.hidden, self.ffn);
        let (q, kv) = (self.query_width(), self.kv_width());
        let mut specs = vec![TensorSpec::new("model.embed_tokens.weight", [self.vocab, d])];
        for layer in 0..self.layers {
            let mut push = |part: &str, shape: &[usize]| {
                specs.push(TensorSpec::new(format!("model.layers.{layer}.{part}"), shape));
            };
            push("input_layernorm.weight", &[d]);
            push("self_attn.q_proj.weight", &[q, d]);
            push("self_attn.k_proj.weight", &[kv, d]);
            push("self_attn.v_proj.weight", &[kv, d]);
            if self.qkv_bias {
                push("self_attn.q_proj.bias", &[q]);
                push("self_attn.k_proj.bias", &[kv]);
                push("self_attn.v_proj.bias", &[kv]);
            }
            if self.qk_norm {
                push("self_attn.q_norm.weight", &[self.head_dim()]);
                push("self_attn.k_norm.weight", &[self.head_dim()]);
            }
            push("self_attn.o_proj.weight", &[d, q]);
            push("post_attention_layernorm.weight", &[d]);
            push("mlp.gate_proj.weight", &[ffn, d]);
            push("mlp.up_proj.weight", &[ffn, d]);
            push("mlp.down_proj.weight", &[d, ffn]);
        }
        specs.push(TensorSpec::new("model.norm.weight", [d]));
        if !self.tied {
            specs.push(TensorSpec::new("lm_head.weight", [self.vocab, d]));
        }
        Space::new(specs).expect("checked sizes make a space: names differ, no size is 0")
    }

    /// Where each group of tensors starts: what the implementations work from.
    pub(crate) fn places(&self) -> Places {
        let (d, ffn, qkv) = (self.hidden, self.ffn, self.qkv_width());
        let mut at = self.vocab * d;
        let mut take = |elements: usize| {
            let start = at;
            at += elements;
            start
        };
        let layers = (0..self.layers)
            .map(|_| LayerPlaces {
                norm1: take(d),
                qkv: take(qkv * d),
                bias: self.qkv_bias.then(|| take(qkv)),
                head_norms: self.qk_norm.then(|| take(2 * self.head_dim())),
                out: take(d * self.query_width()),
                norm2: take(d),
                gate_up: take(2 * ffn * d),
                down: take(d * ffn),
            })
            .collect();
        let norm = take(d);
        let head = if self.tied { 0 } else { take(self.vocab * d) };
        Places { layers, norm, head }
    }
}

/// First elements of the tensors of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerPlaces {
    pub(crate) norm1: usize,
    pub(crate) qkv: usize,
    /// Biases of q, k and v.
    pub(crate) bias: Option<usize>,
    /// Gains of the norm of a query head, then of a key head.
    pub(crate) head_norms: Option<usize>,
    pub(crate) out: usize,
    pub(crate) norm2: usize,
    pub(crate) gate_up: usize,
    pub(crate) down: usize,
}

/// First elements of all tensors; the embedding is at 0, and so is a tied head.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) layers: Vec<LayerPlaces>,
    pub(crate) norm: usize,
    pub(crate) head: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_model_has_the_documented_size_and_the_space_covers_it() {
        let config = ModelConfig::demo();
        config.check().unwrap();
        assert_eq!(config.parameters(), 869_504);
        for tied in [false, true] {
            let config = ModelConfig { tied, kv_heads: 2, ..ModelConfig::demo() };
            assert_eq!(config.space().len(), config.parameters());
        }
    }

    #[test]
    fn places_agree_with_the_layout() {
        let config = ModelConfig { kv_heads: 2, ..ModelConfig::demo() };
        let space = config.space();
        let offset = |name: &str| space.tensor(name).unwrap().offset;
        let places = config.places();
        for (index, layer) in places.layers.iter().enumerate() {
            let of = |part: &str| offset(&format!("model.layers.{index}.{part}.weight"));
            assert_eq!(layer.norm1, of("input_layernorm"));
            assert_eq!(layer.qkv, of("self_attn.q_proj"));
            assert_eq!(layer.out, of("self_attn.o_proj"));
            assert_eq!(layer.norm2, of("post_attention_layernorm"));
            assert_eq!(layer.gate_up, of("mlp.gate_proj"));
            assert_eq!(layer.down, of("mlp.down_proj"));
        }
        assert_eq!(places.norm, offset("model.norm.weight"));
        assert_eq!(places.head, offset("lm_head.weight"));
    }

    #[test]
    fn sizes_that_do_not_divide_are_named_with_what_would() {
        let config = ModelConfig { heads: 3, kv_heads: 3, ..ModelConfig::demo() };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "model.hidden is 128; it must be a multiple of 2 x heads, which is 6: try 132"
        );
        assert!(ModelConfig { kv_heads: 3, ..ModelConfig::demo() }.check().is_err());
        assert!(ModelConfig { vocab: 0, ..ModelConfig::demo() }.check().is_err());
        assert!(ModelConfig { norm_eps: f32::NAN, ..ModelConfig::demo() }.check().is_err());
        assert!(ModelConfig { layers: usize::MAX, ..ModelConfig::demo() }.check().is_err());
        let huge = ModelConfig { hidden: WIDTH_MAX, layers: LAYERS_MAX, ..ModelConfig::demo() };
        assert!(matches!(huge.check(), Err(ConfigError::TooLarge { .. })));
    }
}
