//! Checkpoints between `transformers` and our own engine, both ways. Off by default: it needs
//! Python with torch and transformers. `tests/transformers_logits.py` has the command.

#![expect(clippy::unwrap_used, reason = "a helper of a test")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Batch, Cancel, Engine as _, Fast, ModelConfig, StepSettings, initial_params};
use suanli_store::checkpoint::{Card, Companions, Contents, Loaded, Overwrite, read, write};

const TEXT: &str = "fn main() {\n    println!(\"算粒 🙂\");\t// it's here\n}\n\n\n  The   end.\r\n";
/// The goal of `tests/transformers_logits.py`.
const TOLERANCE: f32 = 1e-4;

#[test]
#[ignore = "needs Python with torch and transformers; see tests/transformers_logits.py"]
fn transformers_agrees_on_logits_ids_and_text() {
    let root = tempfile::tempdir().unwrap();
    let bpe = Tokenizer::train([TEXT.repeat(30)], 320).unwrap();
    for (name, tokenizer, tied, kv_heads, rope_theta) in [
        ("bytes", &Tokenizer::Bytes, false, 4, 10_000.0),
        ("bytes-tied-grouped", &Tokenizer::Bytes, true, 2, 500.0),
        ("bpe", &bpe, false, 1, 500_000.0),
    ] {
        let config = ModelConfig {
            vocab: tokenizer.vocab_size(),
            tied,
            kv_heads,
            rope_theta,
            ..ModelConfig::demo()
        };
        let loaded = Loaded {
            params: spread_params(&config),
            config,
            tokenizer: tokenizer.clone(),
            companions: Companions::default(),
        };
        export(&root.path().join(name), &loaded, TEXT);
    }
    python([root.path().as_os_str()]);
}

/// Models that `transformers` made and saved are read here, compared, trained a little, exported,
/// and compared there.
#[test]
#[ignore = "needs Python with torch and transformers; see tests/transformers_logits.py"]
fn models_of_transformers_are_read_trained_and_given_back() {
    let theirs = tempfile::tempdir().unwrap();
    let ours = tempfile::tempdir().unwrap();
    python([OsStr::new("--make"), theirs.path().as_os_str()]);
    let mut folders: Vec<PathBuf> =
        fs::read_dir(theirs.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 10, "{folders:?}");
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let expected = fs::read_to_string(folder.join("theirs.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let mut loaded = read(&folder).unwrap();
        let difference = compare(&loaded, &expected);
        println!("{name}: read, largest difference {difference:.2e}");
        assert!(difference <= TOLERANCE, "{name}");
        let text = expected["text"].as_str().unwrap();
        export(&ours.path().join(format!("{name}-untouched")), &loaded, text);
        train(&mut loaded);
        export(&ours.path().join(format!("{name}-trained")), &loaded, text);
    }
    python([ours.path().as_os_str()]);
}

/// Compares ids, and gives the largest difference between logits.
fn compare(loaded: &Loaded, expected: &Value) -> f32 {
    let Loaded { config, tokenizer, .. } = loaded;
    let numbers = |field: &str| -> Vec<u32> {
        expected[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    assert_eq!(config.context as u64, expected["context"]);
    assert_eq!(tokenizer.vocab_size() as u64, expected["entries"]);
    let text = expected["text"].as_str().unwrap();
    assert_eq!(tokenizer.encode(text.as_bytes()).unwrap(), numbers("ids"));
    assert_eq!(tokenizer.decode(&numbers("ids")).unwrap(), text);
    let (start, end) = (tokenizer.document_start(), tokenizer.document_end());
    let framed = [start, &tokenizer.encode(b"a").unwrap(), end].concat();
    assert_eq!(framed, numbers("framed"));
    let logits = engine(loaded).logits(&numbers("prompt")).unwrap();
    let theirs = expected["logits"].as_array().unwrap();
    assert_eq!(logits.len(), theirs.len());
    let pairs = logits.iter().zip(theirs);
    pairs.map(|(ours, theirs)| (ours - theirs.as_f64().unwrap() as f32).abs()).fold(0.0, f32::max)
}

fn engine(loaded: &Loaded) -> Fast {
    let mut engine = Fast::new(loaded.config.clone(), 1).unwrap();
    engine.params_mut().copy_from_slice(&loaded.params);
    engine
}

/// A few steps on the prompt, which change every parameter.
fn train(loaded: &mut Loaded) {
    let mut engine = engine(loaded);
    let ids = prompt(&loaded.config);
    let length = ids.len() - 1;
    let weights = vec![1.0; length];
    let batch = Batch {
        sequences: 1,
        length,
        inputs: &ids[..length],
        targets: &ids[1..],
        weights: &weights,
    };
    let settings = StepSettings { lr: 1e-3, ..StepSettings::default() };
    let losses: Vec<f32> = (0..4)
        .map(|_| engine.step(&batch.into(), &settings, &Cancel::new()).unwrap().loss)
        .collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    loaded.params = engine.params().to_vec();
}

/// Ids from all over the vocabulary.
fn prompt(config: &ModelConfig) -> Vec<u32> {
    (0..config.context as u32).map(|i| (i * 37 + 11) % config.vocab as u32).collect()
}

/// First parameters with six times the usual spread: logits of a fresh model hardly differ from
/// each other.
fn spread_params(config: &ModelConfig) -> Vec<f32> {
    let mut params = initial_params(config, 11);
    for tensor in config.space().tensors() {
        let scale = if tensor.shape.len() == 2 { 6.0 } else { 1.0 };
        for (index, value) in params[tensor.range()].iter_mut().enumerate() {
            *value = *value * scale + 0.01 * (index % 7) as f32 * f32::from(scale == 1.0);
        }
    }
    params
}

/// Writes a checkpoint, and beside it what our engine and tokenizer make of it.
fn export(folder: &Path, loaded: &Loaded, text: &str) {
    let Loaded { config, params, tokenizer, companions } = loaded;
    let prompt = prompt(config);
    let expected = serde_json::json!({
        "text": text,
        "ids": tokenizer.encode(text.as_bytes()).unwrap(),
        "vocab": config.vocab,
        "entries": tokenizer.vocab_size(),
        "chat_template": companions.file("chat_template.jinja"),
        "rope_theta": config.rope_theta,
        "tied": config.tied,
        "prompt": prompt,
        "logits": engine(loaded).logits(&prompt).unwrap(),
    });
    let card = Card::default();
    let contents = Contents { config, params, tokenizer, companions, card: &card };
    write(&folder.join("model"), &contents, Overwrite::OursOnly).unwrap();
    fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
}

fn python<const N: usize>(arguments: [&OsStr; N]) {
    let python = std::env::var_os("SUANLI_PYTHON").unwrap_or_else(|| "python3".into());
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/transformers_logits.py");
    let status = Command::new(&python).arg(script).args(arguments).status();
    let status = status.expect("SUANLI_PYTHON names a Python");
    assert!(status.success(), "the differences stand above");
}
