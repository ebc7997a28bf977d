//! The sizes of a model in a `config.json`, of ours or of other software.
//!
//! What a field means, and what it is when it is absent, is what `transformers` 4 and 5 make of
//! it. Every field that would change the arithmetic must have a value that the engine has, or the
//! file is refused; fields that change nothing here (caches, dropout, names) are left alone.

use std::path::Path;

use serde_json::Value;
use suanli_engine::{CONTEXT_MAX, ModelConfig, RopeScaling};

use super::error::{CheckpointError, damaged};

/// What `transformers` takes where a file of Mistral says nothing about its window.
const MISTRAL_WINDOW: usize = 4096;
/// What `transformers` takes where a file of Qwen says nothing about where its windows begin.
const QWEN_WINDOW: usize = 4096;
const QWEN_WINDOW_LAYERS: usize = 28;
const QWEN3_HEAD_DIM: usize = 128;

/// The kinds of models that differ in what they need beside plain Llama.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

const FAMILIES: [(&str, Family); 4] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
];

/// A `config.json` whose fields can be asked for.
pub(super) struct Fields<'a> {
    path: &'a Path,
    value: Value,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(path: &'a Path, text: &str) -> Result<Self, CheckpointError> {
        let value = serde_json::from_str(text).map_err(|error| damaged(path, error.to_string()))?;
        Ok(Self { path, value })
    }

    /// The sizes.
    pub(super) fn config(&self) -> Result<ModelConfig, CheckpointError> {
        let family = self.family()?;
        self.refuse_others(family)?;
        let hidden = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let kv_heads = match family {
            Family::Llama => heads,
            Family::Mistral => 8,
            Family::Qwen2 | Family::Qwen3 => 32,
        };
        let (rope_theta, rope_scaling) = self.rope()?;
        let config = ModelConfig {
            vocab: self.size("vocab_size")?,
            hidden,
            layers: self.size("num_hidden_layers")?,
            heads,
            kv_heads: self.size_or("num_key_value_heads", kv_heads, heads)?,
            ffn: self.size("intermediate_size")?,
            context: self.context(family)?,
            rope_theta,
            norm_eps: self.number_or("rms_norm_eps", 1e-6)?,
            tied: self.switch("tie_word_embeddings")?,
            head_dim: self.head_dim(family, hidden, heads)?,
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            rope_scaling,
        };
        config.check()?;
        Ok(config)
    }

    /// The ids in `field` that are in the vocabulary: one, several or none. Files in use also say
    /// -1 where there is none.
    pub(super) fn ids(&self, field: &str, vocab: usize) -> Vec<u32> {
        let value = self.get(field);
        let one = std::slice::from_ref(value);
        let list = value.as_array().map_or(one, Vec::as_slice);
        let known = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let in_vocab = |id: &u32| usize::try_from(*id).is_ok_and(|id| id < vocab);
        list.iter().filter_map(known).filter(in_vocab).take(IDS_MAX).collect()
    }

    fn family(&self) -> Result<Family, CheckpointError> {
        let kind = self.get("model_type");
        let family = FAMILIES.iter().find(|(name, _)| kind == name);
        let expected = "\"llama\", \"mistral\", \"qwen2\" or \"qwen3\"";
        family.map(|(_, family)| *family).ok_or_else(|| self.shape("model_type", expected))
    }

    /// Refuses what would make another model of it.
    fn refuse_others(&self, family: Family) -> Result<(), CheckpointError> {
        self.only("hidden_act", Value::from("silu"))?;
        for field in ["quantization_config", "compression_config", "num_local_experts"] {
            self.only(field, Value::Null)?;
        }
        self.only("num_experts", Value::Null)?;
        self.only("use_mrope", Value::from(false))?;
        if matches!(family, Family::Llama | Family::Qwen3) {
            // These biases would also be in the output projection, where the engine has none.
            self.only("attention_bias", Value::from(false))?;
        }
        if family == Family::Llama {
            self.only("mlp_bias", Value::from(false))?;
        }
        Ok(())
    }

    /// A width of heads that is not the usual one.
    fn head_dim(
        &self,
        family: Family,
        hidden: usize,
        heads: usize,
    ) -> Result<Option<usize>, CheckpointError> {
        let usual = hidden / heads.max(1);
        let absent = if family == Family::Qwen3 { QWEN3_HEAD_DIM } else { usual };
        let found = self.size_or("head_dim", absent, usual)?;
        let divides = heads > 0 && hidden.is_multiple_of(heads);
        Ok((found != usual || !divides).then_some(found))
    }

    /// The longest sequence for which every token sees all before it: no longer than a sliding
    /// window, where the model has one, and than the engine goes.
    fn context(&self, family: Family) -> Result<usize, CheckpointError> {
        let mut context = self.size("max_position_embeddings")?.min(CONTEXT_MAX);
        if let Some(window) = self.window(family)? {
            context = context.min(window);
        }
        Ok(context)
    }

    fn window(&self, family: Family) -> Result<Option<usize>, CheckpointError> {
        let absent = match family {
            Family::Llama => return Ok(None),
            Family::Mistral => MISTRAL_WINDOW,
            Family::Qwen2 | Family::Qwen3 => {
                if !self.switch("use_sliding_window")? || !self.slides()? {
                    return Ok(None);
                }
                QWEN_WINDOW
            }
        };
        if self.value.get("sliding_window").is_some_and(Value::is_null) {
            return Ok(None);
        }
        self.size_or("sliding_window", absent, absent).map(Some)
    }

    /// Whether any layer of a Qwen that may use a window does.
    fn slides(&self) -> Result<bool, CheckpointError> {
        if let Some(kinds) = self.get("layer_types").as_array() {
            return Ok(kinds.iter().any(|kind| kind != "full_attention"));
        }
        let first = self.size_or("max_window_layers", QWEN_WINDOW_LAYERS, QWEN_WINDOW_LAYERS)?;
        Ok(first < self.size("num_hidden_layers")?)
    }

    /// Base and stretching of the rotary angles: under `rope_scaling` as `transformers` 4 writes
    /// them, which goes first, or under `rope_parameters` as 5 does.
    fn rope(&self) -> Result<(f32, Option<RopeScaling>), CheckpointError> {
        let filled = |field: &'static str| {
            let value = self.get(field);
            let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
            (!empty).then_some(field)
        };
        let Some(field) = filled("rope_scaling").or_else(|| filled("rope_parameters")) else {
            self.whole_heads(&Value::Null)?;
            return Ok((self.number_or("rope_theta", 1e4)?, None));
        };
        let rope = self.get(field);
        if rope.as_object().is_none_or(|rope| rope.values().any(Value::is_object)) {
            return Err(self.shape(field, "one set of rotary angles for all layers"));
        }
        self.whole_heads(&rope["partial_rotary_factor"])?;
        let theta = match rope["rope_theta"].as_f64() {
            Some(theta) => theta as f32,
            None => self.number_or("rope_theta", 1e4)?,
        };
        let kind = rope["rope_type"].as_str().or_else(|| rope["type"].as_str());
        let factor = |name: &str| {
            let number = rope[name].as_f64().map(|number| number as f32);
            number.ok_or_else(|| self.shape(field, format!("a number `{name}`")))
        };
        let scaling = match kind.unwrap_or("default") {
            "default" => None,
            "linear" => Some(RopeScaling::Linear { factor: factor("factor")? }),
            "llama3" => Some(RopeScaling::Llama3 {
                factor: factor("factor")?,
                low_freq_factor: factor("low_freq_factor")?,
                high_freq_factor: factor("high_freq_factor")?,
                original_context: self.original_context(rope)?,
            }),
            _ => return Err(self.shape(field, "the type \"default\", \"linear\" or \"llama3\"")),
        };
        Ok((theta, scaling))
    }

    /// The context first trained with: outside the angles, among them, or the whole one.
    fn original_context(&self, rope: &Value) -> Result<usize, CheckpointError> {
        let field = "original_max_position_embeddings";
        let found = if self.get(field).is_null() { &rope[field] } else { self.get(field) };
        match found {
            Value::Null => self.size("max_position_embeddings"),
            value => whole(value).ok_or_else(|| self.shape(field, "a whole number")),
        }
    }

    /// Refuses angles for a part of each head only.
    fn whole_heads(&self, inner: &Value) -> Result<(), CheckpointError> {
        let field = "partial_rotary_factor";
        let part = if inner.is_null() { self.get(field) } else { inner };
        if part.is_null() || part.as_f64() == Some(1.0) {
            return Ok(());
        }
        Err(self.found(field, "1.0", part))
    }

    /// The field, or null when there is none.
    fn get(&self, field: &str) -> &Value {
        &self.value[field]
    }

    /// Refuses a field that is there with another value.
    fn only(&self, field: &'static str, only: Value) -> Result<(), CheckpointError> {
        let value = self.get(field);
        if value.is_null() || *value == only {
            return Ok(());
        }
        let expected = if only.is_null() { "nothing".to_owned() } else { only.to_string() };
        Err(self.shape(field, expected))
    }

    fn size(&self, field: &'static str) -> Result<usize, CheckpointError> {
        whole(self.get(field)).ok_or_else(|| self.shape(field, "a whole number"))
    }

    fn size_or(
        &self,
        field: &'static str,
        absent: usize,
        null: usize,
    ) -> Result<usize, CheckpointError> {
        match self.value.get(field) {
            None => Ok(absent),
            Some(Value::Null) => Ok(null),
            Some(_) => self.size(field),
        }
    }

    fn number_or(&self, field: &'static str, absent: f32) -> Result<f32, CheckpointError> {
        match self.get(field) {
            Value::Null => Ok(absent),
            value => {
                let number = value.as_f64().map(|number| number as f32);
                number.ok_or_else(|| self.shape(field, "a number"))
            }
        }
    }

    fn switch(&self, field: &'static str) -> Result<bool, CheckpointError> {
        match self.get(field) {
            Value::Null => Ok(false),
            value => value.as_bool().ok_or_else(|| self.shape(field, "true or false")),
        }
    }

    fn shape(&self, field: &'static str, expected: impl ToString) -> CheckpointError {
        self.found(field, expected, self.get(field))
    }

    fn found(
        &self,
        field: &'static str,
        expected: impl ToString,
        found: &Value,
    ) -> CheckpointError {
        let found = match found {
            Value::Null => "nothing".to_owned(),
            value => value.to_string().chars().take(100).collect(),
        };
        let path = self.path.to_owned();
        CheckpointError::Shape { path, field, expected: expected.to_string(), found }
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}

/// Most ids that end a text.
const IDS_MAX: usize = 64;

/// What a model needs of an architecture; none has both biases and norms without more.
pub(super) const fn family_of(config: &ModelConfig) -> Option<Family> {
    match (config.qkv_bias, config.qk_norm) {
        (false, false) => Some(Family::Llama),
        (true, false) => Some(Family::Qwen2),
        (false, true) => Some(Family::Qwen3),
        (true, true) => None,
    }
}
