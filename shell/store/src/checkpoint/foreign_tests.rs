//! Checkpoints as other software saves them, made here file by file.

use std::collections::BTreeMap;
use std::fs;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use suanli_base::Random;
use suanli_engine::RopeScaling;

use super::*;

/// A tokenizer of some 270 entries; the models have 310, as Qwen's have more than their tokenizer.
pub(super) fn tokenizer_json() -> String {
    let text = "the cat sat on the mat, the cat sat on the hat\n".repeat(9);
    let ours = Tokenizer::train([text], 300).unwrap().to_json().unwrap();
    let mut json: Value = serde_json::from_str(&ours).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap().len();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    json["added_tokens"] = json!([special(vocab, "<|begin|>"), special(vocab + 1, "<|end|>")]);
    json.to_string()
}

fn config_json(kind: &str, change: Value) -> Value {
    let mut config = json!({
        "model_type": kind, "vocab_size": 310, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "bos_token_id": 300, "eos_token_id": [301, 2], "pad_token_id": -1,
    });
    for (field, value) in change.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn plain() -> ModelConfig {
    ModelConfig {
        vocab: 310,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 24,
        context: 32,
        rope_theta: 10_000.0,
        norm_eps: 1e-6,
        ..ModelConfig::demo()
    }
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Tensor>;

/// The upper half of each number is a `bf16`; all fit an `f16` too.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (random.below(256) as f32 - 128.0) / 64.0).collect()
}

fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value == 0.0 {
        return (bits >> 16) as u16;
    }
    let exponent = (bits >> 23 & 0xFF) as i32 - 127 + 15;
    ((bits >> 16 & 0x8000) | (exponent as u32) << 10 | (bits >> 13 & 0x3FF)) as u16
}

fn encoded(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => {
            values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        Dtype::F16 => values.iter().flat_map(|v| half_bits(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn tensors(config: &ModelConfig, params: &[f32], dtype: Dtype) -> Tensors {
    let space = config.space();
    let tensor = |tensor: &suanli_params::Tensor| {
        let bytes = encoded(&params[tensor.range()], dtype);
        (tensor.name.clone(), Tensor { dtype, shape: tensor.shape.clone(), bytes })
    };
    space.tensors().iter().map(tensor).collect()
}

fn save(path: &Path, tensors: &[(&String, &Tensor)]) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        ((*name).clone(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A folder of another's checkpoint.
struct Foreign {
    root: tempfile::TempDir,
    params: Vec<f32>,
}

impl Foreign {
    fn new(config: &Value, sizes: &ModelConfig, dtype: Dtype, files: usize) -> Self {
        let params = values(sizes.parameters(), 5);
        let foreign = Self { root: tempfile::tempdir().unwrap(), params };
        foreign.put("config.json", &config.to_string());
        foreign.put("tokenizer.json", &tokenizer_json());
        foreign.put("tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}");
        foreign.put("chat_template.jinja", "{{ messages }}");
        foreign.put("generation_config.json", "{\"eos_token_id\": [301, 7]}");
        foreign.weights(&tensors(sizes, &foreign.params, dtype), files);
        foreign
    }

    fn llama() -> Self {
        Self::new(&config_json("llama", json!({})), &plain(), Dtype::F32, 1)
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn weights(&self, tensors: &Tensors, files: usize) {
        let all: Vec<_> = tensors.iter().collect();
        if files == 1 {
            return save(&self.path().join("model.safetensors"), &all);
        }
        let mut map = serde_json::Map::new();
        for (number, part) in all.chunks(all.len().div_ceil(files)).enumerate() {
            let name = format!("model-{:05}-of-{files:05}.safetensors", number + 1);
            save(&self.path().join(&name), part);
            map.extend(part.iter().map(|(tensor, _)| ((*tensor).clone(), json!(name))));
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        self.put(shards::INDEX, &index.to_string());
    }

    fn refusal(&self) -> String {
        read(self.path()).map(|_| ()).unwrap_err().to_string()
    }
}

#[test]
fn every_family_is_read_from_any_float_in_shards_or_whole_and_comes_back() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 16,
    };
    let stretched = json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}});
    let linear =
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": true});
    let wide = json!({"head_dim": 6, "sliding_window": 20});
    let none = json!({});
    let cases = [
        ("llama", &none, plain(), Dtype::F32, 1),
        (
            "llama",
            &stretched,
            ModelConfig { rope_theta: 5e5, rope_scaling: Some(llama3), ..plain() },
            Dtype::BF16,
            3,
        ),
        (
            "llama",
            &linear,
            ModelConfig {
                tied: true,
                rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
                ..plain()
            },
            Dtype::F16,
            1,
        ),
        (
            "mistral",
            &wide,
            ModelConfig { head_dim: Some(6), context: 20, ..plain() },
            Dtype::BF16,
            1,
        ),
        ("qwen2", &none, ModelConfig { qkv_bias: true, ..plain() }, Dtype::BF16, 2),
        (
            "qwen3",
            &json!({"head_dim": 8}),
            ModelConfig { qk_norm: true, head_dim: Some(8), ..plain() },
            Dtype::F16,
            4,
        ),
    ];
    for (kind, change, expected, dtype, files) in cases {
        let foreign = Foreign::new(&config_json(kind, change.clone()), &expected, dtype, files);
        let loaded = read(foreign.path()).unwrap();
        assert_eq!(loaded.config, expected, "{kind}");
        assert_eq!(loaded.params, foreign.params, "{kind}");
        assert_eq!(read_dialogue(foreign.path()).unwrap().ends, [301, 7], "{kind}");

        let out = foreign.path().join("out");
        let card = Card::default();
        let contents = Contents {
            config: &loaded.config,
            params: &loaded.params,
            tokenizer: &loaded.tokenizer,
            companions: &loaded.companions,
            card: &card,
        };
        write(&out, &contents, Overwrite::OursOnly).unwrap();
        let again = read(&out).unwrap();
        assert_eq!((&again.config, &again.params), (&expected, &foreign.params), "{kind}");
        assert_eq!(again.companions, loaded.companions, "{kind}");
        assert_eq!(read_dialogue(&out).unwrap().ends, [301, 7], "{kind}");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            let [before, after] = [foreign.path(), &out].map(|folder| fs::read(folder.join(name)));
            assert_eq!(before.unwrap(), after.unwrap(), "{kind}: {name}");
        }
        let config: Value = serde_json::from_slice(&fs::read(out.join(CONFIG)).unwrap()).unwrap();
        let exported = if kind == "mistral" { "llama" } else { kind };
        assert_eq!(config["model_type"], exported);
        assert_eq!(
            (&config["bos_token_id"], &config["eos_token_id"]),
            (&json!(300), &json!([301, 2]))
        );
    }
}

/// The sizes of a config, or why there are none.
fn sizes_of(kind: &str, change: Value) -> Result<ModelConfig, String> {
    let text = config_json(kind, change).to_string();
    let fields = Fields::parse(Path::new("config.json"), &text).unwrap();
    fields.config().map_err(|error| error.to_string())
}

#[test]
fn rotary_angles_are_found_where_either_transformers_writes_them() {
    let of = |change: Value| {
        let config = sizes_of("llama", change).unwrap();
        (config.rope_theta, config.rope_scaling)
    };
    let linear = Some(RopeScaling::Linear { factor: 4.0 });
    assert_eq!(of(json!({})), (1e4, None));
    assert_eq!(of(json!({"rope_theta": 5e5, "rope_scaling": null})), (5e5, None));
    assert_eq!(
        of(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})),
        (5e5, None)
    );
    assert_eq!(
        of(json!({"rope_parameters": {"rope_theta": 2e4, "rope_type": "linear", "factor": 4}})),
        (2e4, linear)
    );
    assert_eq!(
        of(json!({"rope_theta": 2e4, "rope_scaling": {"type": "linear", "factor": 4.0}})),
        (2e4, linear)
    );
    // Both: the older one goes first, as in transformers.
    let both = json!({"rope_theta": 3e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
                      "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}});
    assert_eq!(of(both), (3e4, linear));
    let short = json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let found = of(json!({"rope_scaling": short})).1;
    assert!(matches!(found, Some(RopeScaling::Llama3 { original_context: 32, .. })), "{found:?}");
}

#[test]
fn a_context_ends_where_a_window_or_the_engine_does() {
    let of = |kind: &str, change: Value| sizes_of(kind, change).unwrap().context;
    assert_eq!(
        of("llama", json!({"max_position_embeddings": 1_u64 << 40})),
        suanli_engine::CONTEXT_MAX
    );
    assert_eq!(of("llama", json!({"sliding_window": 8})), 32);
    assert_eq!(of("mistral", json!({"sliding_window": 8})), 8);
    assert_eq!(
        of("mistral", json!({"sliding_window": null, "max_position_embeddings": 9000})),
        9000
    );
    assert_eq!(of("mistral", json!({"max_position_embeddings": 9000})), 4096);
    let window = |change: Value| {
        let mut all =
            json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1});
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        of("qwen2", all)
    };
    assert_eq!(window(json!({})), 8);
    assert_eq!(window(json!({"use_sliding_window": false})), 32);
    assert_eq!(window(json!({"max_window_layers": 2})), 32);
    assert_eq!(window(json!({"sliding_window": null})), 32);
    assert_eq!(window(json!({"layer_types": ["full_attention", "full_attention"]})), 32);
    assert_eq!(window(json!({"layer_types": ["full_attention", "sliding_attention"]})), 8);
    assert_eq!(sizes_of("qwen3", json!({})).unwrap().head_dim, Some(128));
}

#[test]
fn what_would_be_another_model_is_refused_by_its_field() {
    for (kind, change, expected) in [
        (
            "gemma",
            json!({}),
            "`model_type`: expected \"llama\", \"mistral\", \"qwen2\" or \"qwen3\", found \"gemma\"",
        ),
        ("llama", json!({"attention_bias": true}), "`attention_bias`: expected false, found true"),
        ("qwen3", json!({"attention_bias": true}), "`attention_bias`"),
        ("llama", json!({"mlp_bias": true}), "`mlp_bias`"),
        ("qwen2", json!({"hidden_act": "gelu"}), "`hidden_act`: expected \"silu\", found \"gelu\""),
        (
            "llama",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "expected the type \"default\", \"linear\" or \"llama3\", found {\"factor\"",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}),
            "`rope_parameters`",
        ),
        ("llama", json!({"rope_scaling": {"rope_type": "longrope"}}), "`rope_scaling`"),
        ("llama", json!({"rope_scaling": {"rope_type": "linear"}}), "a number `factor`"),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}),
            "rope_scaling.factor",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
            "one set of rotary angles",
        ),
        ("llama", json!({"rope_scaling": 3}), "one set of rotary angles"),
        (
            "llama",
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor`: expected 1.0, found 0.5",
        ),
        (
            "qwen3",
            json!({"rope_parameters": {"partial_rotary_factor": 0.25}}),
            "`partial_rotary_factor`",
        ),
        (
            "mistral",
            json!({"quantization_config": {"bits": 4}}),
            "`quantization_config`: expected nothing",
        ),
        ("qwen2", json!({"num_experts": 8}), "`num_experts`"),
        ("mistral", json!({"num_local_experts": 8}), "`num_local_experts`"),
        ("qwen2", json!({"use_mrope": true}), "`use_mrope`"),
        (
            "llama",
            json!({"tie_word_embeddings": "yes"}),
            "`tie_word_embeddings`: expected true or false",
        ),
        ("mistral", json!({"sliding_window": "wide"}), "`sliding_window`"),
        (
            "llama",
            json!({"hidden_size": null}),
            "`hidden_size`: expected a whole number, found nothing",
        ),
        ("llama", json!({"rms_norm_eps": "small"}), "`rms_norm_eps`"),
        ("llama", json!({"num_key_value_heads": 3}), "model.heads"),
        ("llama", json!({"vocab_size": 0}), "model.vocab"),
    ] {
        let error = sizes_of(kind, change.clone()).unwrap_err();
        assert!(error.contains(expected), "{kind} {change}: {error}");
    }
}

#[test]
fn an_index_that_lies_or_leads_out_of_the_folder_is_refused() {
    let foreign = Foreign::new(&config_json("llama", json!({})), &plain(), Dtype::F32, 2);
    read(foreign.path()).unwrap();
    let path = foreign.path().join(shards::INDEX);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let moved = |tensor: &str, file: &str| {
        let mut index = good.clone();
        index["weight_map"][tensor] = json!(file);
        index
    };
    let norm = "model.norm.weight";
    for (index, expected) in [
        (moved(norm, "../x.safetensors"), "\"../x.safetensors\", which is no file of the folder"),
        (moved(norm, "/etc/x.safetensors"), "which is no file of the folder"),
        (moved(norm, "sub/x.safetensors"), "which is no file of the folder"),
        (moved(norm, ".."), "which is no file of the folder"),
        (moved(norm, "config.json"), "which is no file of the folder"),
        (moved(norm, "gone.safetensors"), "gone.safetensors is missing"),
        (moved(norm, first), "found no such tensor"),
        (moved("lm_head.weight", second), "found it in another file"),
        (moved("ghost", second), "tensor ghost: expected it in model-00002"),
        (json!({"weight_map": {}}), "expected 1 to 1024 files, found 0"),
        (json!({"weight_map": 3}), "is damaged"),
    ] {
        foreign.put(shards::INDEX, &index.to_string());
        let error = foreign.refusal();
        assert!(error.contains(expected), "{index}: {error}");
    }
    let mut lacking = good.clone();
    lacking["weight_map"].as_object_mut().unwrap().remove(norm);
    foreign.put(shards::INDEX, &lacking.to_string());
    assert!(foreign.refusal().contains("found nothing about it"));
    foreign.put(shards::INDEX, &good.to_string());
    fs::remove_file(foreign.path().join(second)).unwrap();
    assert!(foreign.refusal().contains(second));
}

#[test]
fn harmless_tensors_are_passed_over_and_others_are_not() {
    let foreign = Foreign::llama();
    let with = |name: &str| {
        let mut all = tensors(&plain(), &foreign.params, Dtype::F32);
        let extra = Tensor { dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 8] };
        all.insert(name.to_owned(), extra);
        foreign.weights(&all, 1);
        read(foreign.path()).map(|loaded| loaded.params)
    };
    for name in ["model.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"] {
        assert_eq!(with(name).unwrap(), foreign.params);
    }
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.x.self_attn.rotary_emb.inv_freq",
        "inv_freq",
    ] {
        let error = with(name).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {name}: expected no such tensor")), "{error}");
    }
}

#[test]
fn a_tied_head_may_be_stored_when_it_is_the_embedding() {
    let sizes = ModelConfig { tied: true, ..plain() };
    let tied = config_json("llama", json!({"tie_word_embeddings": true}));
    let foreign = Foreign::new(&tied, &sizes, Dtype::BF16, 1);
    let mut all = tensors(&sizes, &foreign.params, Dtype::BF16);
    let embedding = &all["model.embed_tokens.weight"];
    let (shape, bytes) = (embedding.shape.clone(), embedding.bytes.clone());
    let mut head = Tensor { dtype: Dtype::BF16, shape, bytes };
    all.insert(
        "lm_head.weight".to_owned(),
        Tensor { shape: head.shape.clone(), bytes: head.bytes.clone(), ..head },
    );
    foreign.weights(&all, 1);
    assert_eq!(read(foreign.path()).unwrap().params, foreign.params);
    head.bytes[100] ^= 1;
    all.insert("lm_head.weight".to_owned(), head);
    foreign.weights(&all, 1);
    assert!(foreign.refusal().contains("tensor lm_head.weight: expected the values of"));
    let untied = config_json("llama", json!({}));
    foreign.put("config.json", &untied.to_string());
    all.remove("lm_head.weight");
    foreign.weights(&all, 1);
    assert!(foreign.refusal().contains("tensor lm_head.weight: expected F32, F16 or BF16"));
}

#[test]
fn a_bad_weight_is_named_with_its_file_and_tensor() {
    let foreign = Foreign::new(&config_json("llama", json!({})), &plain(), Dtype::BF16, 2);
    let mut all = tensors(&plain(), &foreign.params, Dtype::BF16);
    let norm = all.get_mut("model.norm.weight").unwrap();
    norm.bytes[6..8].copy_from_slice(&0x7F80_u16.to_le_bytes());
    foreign.weights(&all, 2);
    let error = foreign.refusal();
    assert!(
        error.contains(
            "model-00002-of-00002.safetensors: parameter 3 of tensor model.norm.weight is inf"
        ),
        "{error}"
    );
    let norm = all.get_mut("model.norm.weight").unwrap();
    (norm.dtype, norm.shape) = (Dtype::U8, vec![32]);
    foreign.weights(&all, 2);
    assert!(foreign.refusal().contains("found U8 of shape [32]"));
}

#[test]
fn pickled_weights_are_not_opened() {
    let foreign = Foreign::llama();
    fs::rename(foreign.path().join("model.safetensors"), foreign.path().join("pytorch_model.bin"))
        .unwrap();
    let error = foreign.refusal();
    assert!(error.contains("pytorch_model.bin is pickled"), "{error}");
}

#[test]
fn a_model_with_fewer_entries_than_its_tokenizer_is_refused() {
    let config = config_json("llama", json!({"vocab_size": 260}));
    let foreign = Foreign::new(&config, &ModelConfig { vocab: 260, ..plain() }, Dtype::F32, 1);
    assert!(foreign.refusal().contains("do not belong together"));
    foreign.put("tokenizer.json", "{\"model\": {\"type\": \"Unigram\"}}");
    assert!(foreign.refusal().contains("tokenizer.json cannot be used"));
}

#[test]
fn a_packed_tokenizer_carries_its_companions_and_no_other_file() {
    let loaded = read(Foreign::llama().path()).unwrap();
    let text = pack(&loaded.tokenizer, &loaded.companions).unwrap();
    let (tokenizer, companions) = unpack(&text).unwrap();
    assert_eq!(tokenizer.to_json().unwrap(), loaded.tokenizer.to_json().unwrap());
    assert_eq!(companions, loaded.companions);
    assert_eq!(companions.file("chat_template.jinja"), Some("{{ messages }}"));
    for (from, to) in [
        ("chat_template.jinja", "../../chat_template"),
        ("chat_template.jinja", "model.safetensors"),
        ("\"{\\\"eos", "\"[\\\"eos"),
        ("\"bos\"", "\"boss\""),
    ] {
        assert!(text.contains(from), "{from}");
        let error = unpack(&text.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{from}: {error}");
    }
    let ours = pack(&Tokenizer::Bytes, &Companions::default()).unwrap();
    assert_eq!(ours, Tokenizer::Bytes.to_json().unwrap());
    assert!(matches!(unpack(&ours).unwrap().0, Tokenizer::Bytes));
    assert!(unpack("{").is_err());
}

#[test]
fn a_companion_that_is_no_json_is_named() {
    let foreign = Foreign::llama();
    foreign.put("generation_config.json", "[");
    let error = foreign.refusal();
    assert!(error.contains("generation_config.json is damaged"), "{error}");
}
