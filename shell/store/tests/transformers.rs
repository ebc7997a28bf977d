//! Exports opened in `transformers`, against our own engine. Off by default: it needs Python with
//! torch and transformers. `tests/transformers_logits.py` has the command.

#![expect(clippy::unwrap_used, reason = "a helper of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Engine as _, Fast, ModelConfig, initial_params};
use suanli_store::checkpoint::{Card, Contents, Overwrite, write};

const TEXT: &str = "fn main() {\n    println!(\"算粒 🙂\");\t// it's here\n}\n\n\n  The   end.\r\n";

#[test]
#[ignore = "needs Python with torch and transformers; see tests/transformers_logits.py"]
fn transformers_agrees_on_logits_ids_and_text() {
    let python = std::env::var_os("SUANLI_PYTHON").unwrap_or_else(|| "python3".into());
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
        export(&root.path().join(name), &config, tokenizer);
    }
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/transformers_logits.py");
    let status = Command::new(&python).arg(script).arg(root.path()).status();
    let status = status.expect("SUANLI_PYTHON names a Python");
    assert!(status.success(), "the differences stand above");
}

/// Writes a checkpoint, and beside it what our engine and tokenizer make of it.
fn export(folder: &Path, config: &ModelConfig, tokenizer: &Tokenizer) {
    // Six times the usual spread: logits of a fresh model hardly differ from each other.
    let mut params = initial_params(config, 11);
    for tensor in config.space().tensors() {
        let scale = if tensor.shape.len() == 2 { 6.0 } else { 1.0 };
        for (index, value) in params[tensor.range()].iter_mut().enumerate() {
            *value = *value * scale + 0.01 * (index % 7) as f32 * f32::from(scale == 1.0);
        }
    }
    let mut engine = Fast::new(config.clone(), 1).unwrap();
    engine.params_mut().copy_from_slice(&params);
    let prompt: Vec<u32> =
        (0..config.context as u32).map(|i| (i * 37 + 11) % config.vocab as u32).collect();
    let expected = serde_json::json!({
        "text": TEXT,
        "ids": tokenizer.encode(TEXT.as_bytes()).unwrap(),
        "vocab": config.vocab,
        "rope_theta": config.rope_theta,
        "tied": config.tied,
        "prompt": prompt,
        "logits": engine.logits(&prompt).unwrap(),
    });
    let card = Card::default();
    let contents = Contents { config, params: &params, tokenizer, card: &card };
    write(&folder.join("model"), &contents, Overwrite::OursOnly).unwrap();
    fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
}
