//! `suanli merge`, and `generate` with adapters: the same model either way.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod suanli;

use suanli::Suanli;
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Lora, ModelConfig, Target, initial_params};
use suanli_store::checkpoint::{
    AdapterContents, Card, Companions, Contents, Overwrite, read, write, write_adapter,
};

fn sizes(ffn: usize) -> ModelConfig {
    let demo = ModelConfig::demo();
    ModelConfig { hidden: 16, layers: 2, heads: 2, kv_heads: 2, ffn, context: 64, ..demo }
}

fn folders(home: &Suanli) -> (String, String) {
    let config = sizes(32);
    let params = initial_params(&config, 3);
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &Card::default(),
    };
    let (model, adapter) = (home.path("model"), home.path("adapter"));
    write(model.as_ref(), &contents, Overwrite::OursOnly).unwrap();
    let lora = Lora { rank: 2, alpha: 4.0, targets: vec![Target::QProj, Target::UpProj] };
    let params: Vec<f32> =
        (0..lora.parameters(&config)).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
    let contents = AdapterContents { lora: &lora, config: &config, params: &params, base: "model" };
    write_adapter(adapter.as_ref(), &contents, Overwrite::OursOnly).unwrap();
    (model, adapter)
}

#[test]
fn a_merged_checkpoint_says_what_the_adapted_one_says() {
    let home = Suanli::new();
    let (model, adapter) = folders(&home);
    let merged = home.path("merged");
    let merge = ["merge", "--checkpoint", &model, "--adapter", &adapter, "--out", &merged];
    let ended = home.run(&[&merge[..], &["--json"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&ended.works().output).unwrap();
    assert_eq!(answer["targets"], serde_json::json!(["q_proj", "up_proj"]));
    assert_ne!(read(merged.as_ref()).unwrap().params, read(model.as_ref()).unwrap().params);
    let say = |flags: &[&str]| {
        let all = [&["generate", "--prompt", "fn", "--tokens", "40", "--json"], flags].concat();
        let answer: serde_json::Value =
            serde_json::from_str(&home.run(&all).works().output).unwrap();
        answer["text"].as_str().unwrap().to_owned()
    };
    let adapted = say(&["--checkpoint", &model, "--adapter", &adapter]);
    assert_eq!(adapted, say(&["--checkpoint", &merged]));
    assert_ne!(adapted, say(&["--checkpoint", &model]));
    assert!(!say(&["--checkpoint", &merged, "--bf16"]).is_empty());
}

#[test]
fn adapters_of_another_model_are_refused_by_the_tensor() {
    let home = Suanli::new();
    let (_, adapter) = folders(&home);
    let config = sizes(40);
    let params = initial_params(&config, 3);
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &Tokenizer::Bytes,
        companions: &Companions::default(),
        card: &Card::default(),
    };
    let other = home.path("other");
    write(other.as_ref(), &contents, Overwrite::OursOnly).unwrap();
    let out = home.path("out");
    let ended = home.run(&["merge", "--checkpoint", &other, "--adapter", &adapter, "--out", &out]);
    ended.fails(3).says("up_proj.lora_B");
}
