//! Folders of files that came from elsewhere: checkpoints, prepared data, text.
//!
//! A case writes one file of a folder that is otherwise good, and reads the folder.

use crate::{ALLOCATION_BASE, ALLOCATION_PER_BYTE, Target};
use std::fs;
use std::path::{Path, PathBuf};
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Cancel, ModelConfig, initial_params};
use suanli_store::checkpoint::{self, Card, Companions, Contents, Overwrite};
use suanli_store::data::{Prepared, Recipe, prepare};
use suanli_store::job_file::JobFile;
use tempfile::TempDir;

pub(crate) const TARGETS: &[Target] = &[
    file_target(
        "checkpoint-weights",
        "weights that load are finite and as many",
        weights,
        load_weights,
    ),
    file_target("checkpoint-config", "a shape that loads is sound", configs, load_config),
    file_target(
        "checkpoint-index",
        "shards that load are in the folder and hold the model",
        indices,
        load_index,
    ),
    file_target(
        "checkpoint-shard",
        "a shard that loads holds what the index says, in numbers that widen",
        shards,
        load_shard,
    ),
    file_target("prepared-manifest", "what opens is what was prepared", manifests, open_manifest),
    file_target("data-jsonl", "any lines are prepared, or the line is named", lines, prepare_lines),
    file_target(
        "data-parquet",
        "any Parquet file is prepared, or what is wrong is named",
        tables,
        prepare_table,
    ),
];

/// Files are read through buffers that do not depend on the case: 8 MiB more are allowed.
const fn file_target(
    name: &'static str,
    what: &'static str,
    seeds: fn() -> Vec<Vec<u8>>,
    check: fn(&[u8]),
) -> Target {
    let target = Target::new(name, what, seeds, check);
    Target { allocation: |len| ALLOCATION_BASE + (8 << 20) + ALLOCATION_PER_BYTE * len, ..target }
}

thread_local! {
    static CHECKPOINT: (TempDir, PathBuf) = checkpoint_folder();
    static SHARDED: (TempDir, PathBuf) = sharded_folder();
    static PREPARED: (TempDir, PathBuf) = prepared_folder();
    static TEXT: TempDir = folder();
}

fn folder() -> TempDir {
    TempDir::with_prefix("suanli-fuzz-").expect("a temporary folder")
}

fn sizes() -> ModelConfig {
    ModelConfig {
        vocab: 256,
        hidden: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        ffn: 16,
        context: 8,
        ..ModelConfig::demo()
    }
}

/// A checkpoint without the file that vouches for the others, as other software saves it.
fn checkpoint_folder() -> (TempDir, PathBuf) {
    let temporary = folder();
    let path = temporary.path().join("model");
    let config = sizes();
    let params = initial_params(&config, 1);
    let card = Card::default();
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &card,
    };
    checkpoint::write(&path, &contents, Overwrite::OursOnly).expect("a small checkpoint");
    fs::remove_file(path.join("suanli.json")).expect("it was written");
    (temporary, path)
}

fn good(name: &str) -> Vec<u8> {
    CHECKPOINT.with(|(_, path)| fs::read(path.join(name)).expect("a good file"))
}

fn weights() -> Vec<Vec<u8>> {
    vec![good("model.safetensors")]
}

/// Ours, and what other software writes for each family.
fn configs() -> Vec<Vec<u8>> {
    let sizes = |kind: &str, more: serde_json::Value| {
        let mut config = serde_json::json!({
            "model_type": kind, "vocab_size": 256, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
            "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config.to_string().into_bytes()
    };
    let llama3 = serde_json::json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5,
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 4}});
    let window = serde_json::json!({"use_sliding_window": true, "sliding_window": 4,
        "max_window_layers": 0, "eos_token_id": [1, 2]});
    vec![
        good("config.json"),
        sizes("llama", llama3),
        sizes("llama", serde_json::json!({"rope_scaling": {"type": "linear", "factor": 2.0}})),
        sizes("mistral", serde_json::json!({"sliding_window": 4, "head_dim": 4})),
        sizes("qwen2", window),
        sizes("qwen3", serde_json::json!({"head_dim": 4, "tie_word_embeddings": true})),
    ]
}

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["a.safetensors", "b.safetensors"];

/// A checkpoint in two files of 16-bit floats.
fn sharded_folder() -> (TempDir, PathBuf) {
    let (temporary, path) = checkpoint_folder();
    let space = sizes().space();
    let mut map = serde_json::Map::new();
    for (shard, name) in SHARDS.iter().enumerate() {
        let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
        for (at, tensor) in space.tensors().iter().enumerate().filter(|(at, _)| at % 2 == shard) {
            let begin = body.len();
            body.resize(begin + 2 * tensor.range().len(), at as u8);
            let dtype = if at % 3 == 0 { "F16" } else { "BF16" };
            let info = serde_json::json!({
                "dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, body.len()],
            });
            header.insert(tensor.name.clone(), info);
            map.insert(tensor.name.clone(), (*name).into());
        }
        let header = serde_json::Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes(), &body].concat();
        fs::write(path.join(name), bytes).expect("a temporary file");
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(path.join(INDEX), index.to_string()).expect("a temporary file");
    fs::remove_file(path.join("model.safetensors")).expect("it was written");
    (temporary, path)
}

fn good_shards(name: &str) -> Vec<Vec<u8>> {
    SHARDED.with(|(_, path)| {
        checkpoint::read(path).expect("a good folder");
        vec![fs::read(path.join(name)).expect("a good file")]
    })
}

fn indices() -> Vec<Vec<u8>> {
    good_shards(INDEX)
}

fn shards() -> Vec<Vec<u8>> {
    good_shards(SHARDS[0])
}

fn load_index(input: &[u8]) {
    SHARDED.with(|(_, path)| load_in(path, INDEX, input));
}

fn load_shard(input: &[u8]) {
    SHARDED.with(|(_, path)| load_in(path, SHARDS[0], input));
}

fn load(name: &str, input: &[u8]) {
    CHECKPOINT.with(|(_, path)| load_in(path, name, input));
}

fn load_in(path: &Path, name: &str, input: &[u8]) {
    let file = path.join(name);
    let before = fs::read(&file).expect("a good file");
    fs::write(&file, input).expect("a temporary file");
    let found = checkpoint::read(path);
    fs::write(&file, before).expect("a temporary file");
    if let Ok(found) = found {
        assert!(found.config.check().is_ok());
        assert_eq!(found.params.len(), found.config.parameters());
        assert!(found.params.iter().all(|value| value.is_finite()));
    }
}

fn load_weights(input: &[u8]) {
    load("model.safetensors", input);
}

fn load_config(input: &[u8]) {
    load("config.json", input);
}

fn recipe() -> Recipe {
    let mut job = JobFile::with_paths(vec!["text.jsonl".into()]);
    job.model.context = 8;
    Recipe::of_job(&job)
}

const LINES: &str = "{\"text\": \"the cat sat on the mat and on the hat\"}\n\
    {\"other\": 1, \"text\": \"a second line, \\u7b97\\u7c92, longer than a sample of tokens\"}\n\
    {\"text\": \"the third\"}\n";

fn prepared_folder() -> (TempDir, PathBuf) {
    let temporary = folder();
    let text = temporary.path().join("text.jsonl");
    fs::write(&text, LINES.repeat(4)).expect("a temporary file");
    let made = prepare(&[text], &recipe(), temporary.path(), &mut |_| {}, &Cancel::new());
    let path = made.expect("good text").folder().to_owned();
    (temporary, path)
}

fn manifests() -> Vec<Vec<u8>> {
    PREPARED.with(|(_, path)| vec![fs::read(path.join("manifest.json")).expect("a good file")])
}

fn open_manifest(input: &[u8]) {
    PREPARED.with(|(_, path)| {
        let file = path.join("manifest.json");
        let good = Prepared::open(path).expect("a good folder").manifest().clone();
        let before = fs::read(&file).expect("a good file");
        fs::write(&file, input).expect("a temporary file");
        let found = Prepared::open(path);
        fs::write(&file, before).expect("a temporary file");
        if let Ok(found) = found {
            assert_eq!(found.manifest().shards, good.shards, "shards that nobody prepared");
            assert_eq!(found.manifest().tokenizer, good.tokenizer);
        }
    });
}

fn lines() -> Vec<Vec<u8>> {
    vec![LINES.into(), LINES.repeat(3).into()]
}

fn prepare_lines(input: &[u8]) {
    prepare_file("text.jsonl", input);
}

/// What other software wrote: one of each compression and encoding.
fn tables() -> Vec<Vec<u8>> {
    macro_rules! written {
        ($name:literal) => {
            include_bytes!(concat!("../../../shell/store/tests/parquet/", $name, ".parquet")).into()
        };
    }
    vec![
        written!("few-snappy"),
        written!("few-zstd-delta"),
        written!("few-gzip"),
        written!("few-lz4-length"),
        written!("zstd"),
    ]
}

fn prepare_table(input: &[u8]) {
    prepare_file("text.parquet", input);
}

fn prepare_file(name: &str, input: &[u8]) {
    TEXT.with(|folder| {
        let text = folder.path().join(name);
        let out = folder.path().join("out");
        fs::write(&text, input).expect("a temporary file");
        match prepare(&[text], &recipe(), &out, &mut |_| {}, &Cancel::new()) {
            Ok(made) => {
                let opened = Prepared::open(made.folder()).expect("what was just prepared");
                assert_eq!(opened.manifest(), made.manifest());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let _ = fs::remove_dir_all(&out);
    });
}
