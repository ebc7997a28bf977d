//! `config.json` and its small companions, as `transformers` 4 and 5 write them.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use suanli_engine::ModelConfig;

use super::error::{CheckpointError, damaged};

/// A struct and not a JSON value, because `f32` then prints as short as it was written.
#[derive(Serialize)]
struct Config<'a> {
    architectures: [&'a str; 1],
    attention_bias: bool,
    attention_dropout: f32,
    bos_token_id: Option<u32>,
    dtype: &'a str,
    eos_token_id: Option<u32>,
    head_dim: usize,
    hidden_act: &'a str,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: usize,
    max_position_embeddings: usize,
    mlp_bias: bool,
    model_type: &'a str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pad_token_id: Option<u32>,
    pretraining_tp: u32,
    rms_norm_eps: f32,
    /// Where `transformers` 5 looks.
    rope_parameters: Rope<'a>,
    rope_scaling: Option<u32>,
    /// Where `transformers` 4 looks.
    rope_theta: f32,
    tie_word_embeddings: bool,
    /// The older name of `dtype`.
    torch_dtype: &'a str,
    use_cache: bool,
    vocab_size: usize,
}

#[derive(Serialize)]
struct Rope<'a> {
    rope_theta: f32,
    rope_type: &'a str,
}

#[derive(Serialize)]
struct Generation {
    bos_token_id: Option<u32>,
    do_sample: bool,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    temperature: f32,
    top_p: f32,
}

#[derive(Serialize)]
struct TokenizerConfig<'a> {
    add_bos_token: bool,
    add_eos_token: bool,
    clean_up_tokenization_spaces: bool,
    model_max_length: usize,
    tokenizer_class: &'a str,
}

pub(super) fn to_json(config: &ModelConfig) -> String {
    pretty(&Config {
        architectures: ["LlamaForCausalLM"],
        attention_bias: false,
        attention_dropout: 0.0,
        bos_token_id: None,
        dtype: "float32",
        eos_token_id: None,
        head_dim: config.head_dim(),
        hidden_act: "silu",
        hidden_size: config.hidden,
        initializer_range: 0.02,
        intermediate_size: config.ffn,
        max_position_embeddings: config.context,
        mlp_bias: false,
        model_type: "llama",
        num_attention_heads: config.heads,
        num_hidden_layers: config.layers,
        num_key_value_heads: config.kv_heads,
        pad_token_id: None,
        pretraining_tp: 1,
        rms_norm_eps: config.norm_eps,
        rope_parameters: Rope { rope_theta: config.rope_theta, rope_type: "default" },
        rope_scaling: None,
        rope_theta: config.rope_theta,
        tie_word_embeddings: config.tied,
        torch_dtype: "float32",
        use_cache: true,
        vocab_size: config.vocab,
    })
}

pub(super) fn generation_json() -> String {
    pretty(&Generation {
        bos_token_id: None,
        do_sample: true,
        eos_token_id: None,
        pad_token_id: None,
        temperature: 0.8,
        top_p: 0.95,
    })
}

pub(super) fn tokenizer_json(config: &ModelConfig) -> String {
    pretty(&TokenizerConfig {
        add_bos_token: false,
        add_eos_token: false,
        clean_up_tokenization_spaces: false,
        model_max_length: config.context,
        tokenizer_class: "PreTrainedTokenizerFast",
    })
}

/// The sizes in a `config.json` of ours, or of other software for the same shape.
pub(super) fn from_json(path: &Path, text: &str) -> Result<ModelConfig, CheckpointError> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| damaged(path, error.to_string()))?;
    let fields = Fields { path, value: &value };
    fields.must("model_type", &Value::from("llama"))?;
    for (field, only) in [
        ("hidden_act", Value::from("silu")),
        ("attention_bias", Value::from(false)),
        ("mlp_bias", Value::from(false)),
        ("rope_scaling", Value::Null),
    ] {
        if !fields.get(field).is_null() {
            fields.must(field, &only)?;
        }
    }
    let heads = fields.size("num_attention_heads")?;
    let config = ModelConfig {
        vocab: fields.size("vocab_size")?,
        hidden: fields.size("hidden_size")?,
        layers: fields.size("num_hidden_layers")?,
        heads,
        kv_heads: fields.size_or("num_key_value_heads", heads)?,
        ffn: fields.size("intermediate_size")?,
        context: fields.size("max_position_embeddings")?,
        rope_theta: fields.rope_theta()?,
        norm_eps: fields.number("rms_norm_eps")?,
        tied: fields.get("tie_word_embeddings").as_bool().unwrap_or(false),
        ..ModelConfig::demo()
    };
    config.check()?;
    let head_dim = fields.size_or("head_dim", config.head_dim())?;
    if head_dim != config.head_dim() {
        return Err(fields.shape("head_dim", config.head_dim()));
    }
    Ok(config)
}

struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Fields<'_> {
    /// The field, or null when there is none.
    fn get(&self, field: &str) -> &Value {
        &self.value[field]
    }

    fn must(&self, field: &'static str, only: &Value) -> Result<(), CheckpointError> {
        if self.get(field) == only { Ok(()) } else { Err(self.shape(field, only)) }
    }

    fn size(&self, field: &'static str) -> Result<usize, CheckpointError> {
        let size = self.get(field).as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.shape(field, "a whole number"))
    }

    fn size_or(&self, field: &'static str, other: usize) -> Result<usize, CheckpointError> {
        if self.get(field).is_null() { Ok(other) } else { self.size(field) }
    }

    fn number(&self, field: &'static str) -> Result<f32, CheckpointError> {
        let number = self.get(field).as_f64();
        number.map(|number| number as f32).ok_or_else(|| self.shape(field, "a number"))
    }

    fn rope_theta(&self) -> Result<f32, CheckpointError> {
        let rope = self.get("rope_parameters");
        let kind = &rope["rope_type"];
        if !kind.is_null() && kind != "default" {
            return Err(self.shape("rope_parameters", "the rope_type \"default\""));
        }
        match rope["rope_theta"].as_f64() {
            Some(theta) => Ok(theta as f32),
            None if self.get("rope_theta").is_null() => Ok(10_000.0),
            None => self.number("rope_theta"),
        }
    }

    fn shape(&self, field: &'static str, expected: impl ToString) -> CheckpointError {
        let found = match self.get(field) {
            Value::Null => "nothing".to_owned(),
            value => value.to_string().chars().take(60).collect(),
        };
        let path = self.path.to_owned();
        CheckpointError::Shape { path, field, expected: expected.to_string(), found }
    }
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("our own types always encode");
    text.push('\n');
    text
}
