//! `suanli generate` on a checkpoint that the store wrote, and on what is none.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod suanli;

use suanli::Suanli;
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{ModelConfig, initial_params};
use suanli_store::checkpoint::{Card, Contents, Overwrite, write};

fn checkpoint(home: &Suanli) -> String {
    let config = ModelConfig {
        hidden: 16,
        layers: 1,
        heads: 2,
        kv_heads: 2,
        ffn: 32,
        context: 16,
        ..ModelConfig::demo()
    };
    let params = initial_params(&config, 3);
    let (tokenizer, card) = (Tokenizer::Bytes, Card::default());
    let contents =
        Contents { config: &config, params: &params, tokenizer: &tokenizer, card: &card };
    let folder = home.path("checkpoint");
    write(folder.as_ref(), &contents, Overwrite::OursOnly).unwrap();
    folder
}

#[test]
fn a_text_goes_on_past_the_context_and_the_same_for_the_same_seed() {
    let home = Suanli::new();
    let folder = checkpoint(&home);
    let run = |seed: &str| {
        let arguments = ["generate", "--checkpoint", &folder, "--prompt", "fn main", "--json"];
        let ended = home.run(&[&arguments[..], &["--tokens", "60", "--seed", seed]].concat());
        let answer: serde_json::Value = serde_json::from_str(&ended.works().output).unwrap();
        assert_eq!(answer["prompt"], "fn main");
        answer["text"].as_str().unwrap().to_owned()
    };
    let text = run("1");
    // 60 bytes that an untrained model drew: each at most one character.
    assert!(text.chars().count() > 20 && text.chars().count() <= 60, "{text:?}");
    assert_eq!(text, run("1"));
    assert_ne!(text, run("2"));
    home.run(&["generate", "--checkpoint", &folder, "--prompt", ""]).fails(2).says("empty");
    home.run(&["generate", "--checkpoint", &folder, "--prompt", "a", "--temperature", "-1"])
        .fails(2);
}

#[test]
fn a_missing_cut_or_changed_checkpoint_is_code_3() {
    let home = Suanli::new();
    let nowhere = home.path("nowhere");
    home.run(&["generate", "--checkpoint", &nowhere, "--prompt", "a"]).fails(3).says("missing");
    let folder = checkpoint(&home);
    let path = std::path::Path::new(&folder).join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..4], &changed] {
        std::fs::write(&path, damaged).unwrap();
        let ended = home.run(&["generate", "--checkpoint", &folder, "--prompt", "a"]);
        ended.fails(3).says("damaged");
    }
}
