//! Writes `config.json` and its small companions, as `transformers` 4 and 5 read them.

use serde::Serialize;
use suanli_engine::{ModelConfig, RopeScaling};

use super::companions::Companions;
use super::shape::Family;

/// A struct and not a JSON value, because `f32` then prints as short as it was written.
#[derive(Serialize)]
struct Config<'a> {
    architectures: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    attention_bias: Option<bool>,
    attention_dropout: f32,
    bos_token_id: Ids<'a>,
    dtype: &'a str,
    eos_token_id: Ids<'a>,
    head_dim: usize,
    hidden_act: &'a str,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mlp_bias: Option<bool>,
    model_type: &'a str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pad_token_id: Ids<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pretraining_tp: Option<u32>,
    rms_norm_eps: f32,
    /// Where `transformers` 5 looks.
    rope_parameters: Rope<'a>,
    /// Where `transformers` 4 looks.
    rope_scaling: Option<Rope<'a>>,
    rope_theta: f32,
    tie_word_embeddings: bool,
    /// The older name of `dtype`.
    torch_dtype: &'a str,
    use_cache: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    use_sliding_window: Option<bool>,
    vocab_size: usize,
}

#[derive(Serialize)]
struct Rope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high_freq_factor: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_freq_factor: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_max_position_embeddings: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_theta: Option<f32>,
    rope_type: &'a str,
}

#[derive(Serialize)]
struct Generation<'a> {
    bos_token_id: Ids<'a>,
    do_sample: bool,
    eos_token_id: Ids<'a>,
    pad_token_id: Ids<'a>,
    temperature: f32,
    top_p: f32,
}

/// Ids as they are written: none as null, one alone, several as a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Ids<'a> {
    None(()),
    One(u32),
    Several(&'a [u32]),
}

impl<'a> Ids<'a> {
    const fn of(ids: &'a [u32]) -> Self {
        match ids {
            [] => Self::None(()),
            [one] => Self::One(*one),
            several => Self::Several(several),
        }
    }
}

#[derive(Serialize)]
struct TokenizerConfig<'a> {
    add_bos_token: bool,
    add_eos_token: bool,
    clean_up_tokenization_spaces: bool,
    model_max_length: usize,
    tokenizer_class: &'a str,
}

/// The `config.json` of a model that needs `family`.
pub(super) fn to_json(config: &ModelConfig, family: Family, companions: &Companions) -> String {
    let (architecture, kind) = match family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Mistral => ("MistralForCausalLM", "mistral"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let llama = family == Family::Llama;
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    let scaling = config.rope_scaling.as_ref();
    pretty(&Config {
        architectures: [architecture],
        attention_bias: (llama || family == Family::Qwen3).then_some(false),
        attention_dropout: 0.0,
        bos_token_id: Ids::of(companions.bos()),
        dtype: "float32",
        eos_token_id: Ids::of(companions.eos()),
        head_dim: config.head_dim(),
        hidden_act: "silu",
        hidden_size: config.hidden,
        initializer_range: 0.02,
        intermediate_size: config.ffn,
        max_position_embeddings: config.context,
        mlp_bias: llama.then_some(false),
        model_type: kind,
        num_attention_heads: config.heads,
        num_hidden_layers: config.layers,
        num_key_value_heads: config.kv_heads,
        pad_token_id: Ids::of(companions.pad()),
        pretraining_tp: llama.then_some(1),
        rms_norm_eps: config.norm_eps,
        rope_parameters: rope(scaling, Some(config.rope_theta)),
        rope_scaling: scaling.map(|scaling| rope(Some(scaling), None)),
        rope_theta: config.rope_theta,
        tie_word_embeddings: config.tied,
        torch_dtype: "float32",
        use_cache: true,
        use_sliding_window: qwen.then_some(false),
        vocab_size: config.vocab,
    })
}

fn rope(scaling: Option<&RopeScaling>, rope_theta: Option<f32>) -> Rope<'static> {
    let plain = Rope {
        factor: None,
        high_freq_factor: None,
        low_freq_factor: None,
        original_max_position_embeddings: None,
        rope_theta,
        rope_type: "default",
    };
    match scaling {
        None => plain,
        Some(RopeScaling::Linear { factor }) => {
            Rope { factor: Some(*factor), rope_type: "linear", ..plain }
        }
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        }) => Rope {
            factor: Some(*factor),
            high_freq_factor: Some(*high_freq_factor),
            low_freq_factor: Some(*low_freq_factor),
            original_max_position_embeddings: Some(*original_context),
            rope_type: "llama3",
            ..plain
        },
    }
}

pub(super) fn generation_json(companions: &Companions) -> String {
    pretty(&Generation {
        bos_token_id: Ids::of(companions.bos()),
        do_sample: true,
        eos_token_id: Ids::of(companions.eos()),
        pad_token_id: Ids::of(companions.pad()),
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

fn pretty(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("our own types always encode");
    text.push('\n');
    text
}
