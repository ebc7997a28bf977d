//! Adapters between PEFT and our own engine, both ways. Off by default: it needs Python with torch,
//! transformers and peft. `tests/peft_logits.py` has the command.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Engine as _, Fast, Lora, ModelConfig, Settings, Target, initial_params};
use suanli_store::checkpoint::{
    AdapterContents, Card, Companions, Contents, Overwrite, read_adapter, write, write_adapter,
};

/// The goal of `tests/peft_logits.py`.
const TOLERANCE: f32 = 1e-4;

#[test]
#[ignore = "needs Python with torch, transformers and peft; see tests/peft_logits.py"]
fn peft_agrees_on_adapters_of_ours_and_we_on_those_of_peft() {
    let home = tempfile::tempdir().unwrap();
    let config = ModelConfig { kv_heads: 2, ..ModelConfig::demo() };
    let base: Vec<f32> = initial_params(&config, 4).iter().map(|x| x * 3.0).collect();
    let contents = Contents {
        config: &config,
        params: &base,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &Card::default(),
    };
    write(&home.path().join("model"), &contents, Overwrite::OursOnly).unwrap();
    let lora = Lora { rank: 4, alpha: 6.0, targets: Target::ALL.to_vec() };
    let mut adapters = lora.initial(&config, 1);
    for (index, value) in adapters.iter_mut().enumerate() {
        // B is zero at first: a value for each.
        *value += (index % 13) as f32 * 0.01 - 0.06;
    }
    let contents =
        AdapterContents { lora: &lora, config: &config, params: &adapters, base: "model" };
    write_adapter(&home.path().join("adapter"), &contents, Overwrite::OursOnly).unwrap();
    let prompt: Vec<u32> = (0..40).map(|i| i * 37 % 256).collect();
    let logits = |lora: &Lora, adapters: &[f32]| {
        let settings = Settings::default();
        let mut engine = Fast::adapted(config.clone(), lora, &base, &settings).unwrap();
        engine.write(0, adapters);
        engine.logits(&prompt).unwrap()
    };
    let expected = serde_json::json!({ "prompt": prompt, "logits": logits(&lora, &adapters) });
    fs::write(home.path().join("expected.json"), expected.to_string()).unwrap();
    python(home.path());
    let (lora, adapters) = read_adapter(&home.path().join("theirs"), &config).unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.targets.len()), (5, 8.0, 5));
    let text = fs::read_to_string(home.path().join("theirs.json")).unwrap();
    let theirs: Vec<f32> = serde_json::from_str(&text).unwrap();
    let ours = logits(&lora, &adapters);
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("PEFT's in ours: largest difference {apart:.2e}");
    assert!(apart <= TOLERANCE);
}

fn python(folder: &Path) {
    let python = std::env::var_os("SUANLI_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peft_logits.py");
    let status = Command::new(python).arg(script).arg(folder).status().unwrap();
    assert!(status.success());
}
