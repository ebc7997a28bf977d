//! Folders of files that came from elsewhere: checkpoints, prepared data, text.
//!
//! A case writes one file of a folder that is otherwise good, and reads the folder.

use crate::{ALLOCATION_BASE, ALLOCATION_PER_BYTE, Target};
use std::fs;
use std::path::PathBuf;
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

fn configs() -> Vec<Vec<u8>> {
    vec![good("config.json")]
}

fn load(name: &str, input: &[u8]) {
    CHECKPOINT.with(|(_, path)| {
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
    });
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
