//! `suanli generate` on a checkpoint that the store wrote, and on what is none.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod suanli;

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use suanli::{Ended, Suanli};
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{ModelConfig, initial_params};
use suanli_store::checkpoint::{Card, Companions, Contents, Overwrite, write};

fn checkpoint(home: &Suanli) -> String {
    checkpoint_with(home, 16)
}

fn checkpoint_with(home: &Suanli, context: usize) -> String {
    let config = ModelConfig {
        hidden: 16,
        layers: 1,
        heads: 2,
        kv_heads: 2,
        ffn: 32,
        context,
        ..ModelConfig::demo()
    };
    let params = initial_params(&config, 3);
    let (tokenizer, card) = (Tokenizer::Bytes, Card::default());
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &tokenizer,
        companions: &Companions::default(),
        card: &card,
    };
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

/// What `generate` answers to programs.
fn json(home: &Suanli, arguments: &[&str]) -> serde_json::Value {
    let ended = home.run(&[&["generate", "--json", "--checkpoint"], arguments].concat());
    serde_json::from_str(&ended.works().output).unwrap()
}

#[test]
fn a_text_ends_before_a_stop_and_says_why_it_ended() {
    let home = Suanli::new();
    let folder = checkpoint(&home);
    let whole = json(&home, &[&folder, "--prompt", "fn main", "--tokens", "60"]);
    assert_eq!((&whole["ended"], &whole["tokens"]), (&"length".into(), &60.into()));
    assert_eq!(whole["prompt_tokens"], 7);
    assert!(whole["tokens_per_s"].as_f64().unwrap() > 0.0, "{whole}");
    let text = whole["text"].as_str().unwrap();
    let (at, letter) = text.char_indices().skip(10).find(|(_, c)| c.is_ascii_graphic()).unwrap();
    let stop: String = text[at..].chars().take_while(char::is_ascii).take(3).collect();
    let run = ["--prompt", "fn main", "--tokens", "60", "--stop", "never said", "--stop", &stop];
    let stopped = json(&home, &[&[folder.as_str()][..], &run].concat());
    assert_eq!(stopped["ended"], "stop", "{letter} {stop:?} in {text:?}");
    assert_eq!(stopped["text"], text[..text.find(&stop).unwrap()]);
    // One token of the end of text, in either form in which a checkpoint may say it.
    let path = std::path::Path::new(&folder);
    std::fs::remove_file(path.join("suanli.json")).unwrap();
    for ends in [format!("{}", letter as u32), format!("[255, {}]", letter as u32)] {
        let text = format!("{{\"eos_token_id\": {ends}}}");
        std::fs::write(path.join("generation_config.json"), text).unwrap();
        let ended = json(&home, &[&folder, "--prompt", "fn main", "--tokens", "60"]);
        assert_eq!(ended["ended"], "end_of_text");
        let said = ended["text"].as_str().unwrap();
        assert!(text_before(whole["text"].as_str().unwrap(), letter).starts_with(said), "{said:?}");
    }
}

fn text_before(text: &str, letter: char) -> &str {
    &text[..text.find(letter).unwrap_or(text.len())]
}

#[test]
fn text_goes_to_a_pipe_as_it_is_with_the_prompt_first_and_whole_lines() {
    let home = Suanli::new();
    let folder = checkpoint(&home);
    let whole = json(&home, &[&folder, "--prompt", "fn main", "--tokens", "60"]);
    let arguments = ["generate", "--checkpoint", &folder, "--prompt", "-", "--tokens", "60", "-v"];
    let mut child = home
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"fn main\n").unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    let mut expected = format!("fn main{}", whole["text"].as_str().unwrap());
    if !expected.ends_with('\n') {
        expected.push('\n');
    }
    assert_eq!(ended.works().output, expected);
    ended.says("7 tokens read, 60 made");
}

#[test]
fn a_chat_goes_through_the_models_own_template_and_ends_where_the_context_does() {
    let home = Suanli::new();
    let folder = checkpoint_with(&home, 64);
    let path = std::path::Path::new(&folder);
    home.run(&["generate", "--checkpoint", &folder, "--prompt", "hi", "--chat"])
        .fails(3)
        .says("no chat template");
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:";
    std::fs::write(path.join("chat_template.jinja"), template).unwrap();
    let chat = ["--prompt", "hi", "--chat", "--system", "Be short.", "--tokens", "100"];
    let chat = json(&home, &[&[folder.as_str()][..], &chat].concat());
    let text = json(&home, &[&folder, "--prompt", "s:Be short.;u:hi;a:", "--tokens", "100"]);
    assert_eq!((&chat["prompt_tokens"], &chat["ended"]), (&19.into(), &"context".into()));
    assert_eq!((&chat["tokens"], &text["tokens"]), (&46.into(), &100.into()));
    let (said, longer) = (chat["text"].as_str().unwrap(), text["text"].as_str().unwrap());
    assert!(longer.starts_with(said.trim_end_matches('\u{fffd}')), "{said:?} {longer:?}");
    // The answer alone, without what was asked.
    let run = |prompt: &str| {
        home.run(&["generate", "--checkpoint", &folder, "--prompt", prompt, "--chat"])
    };
    assert!(!run("hi").works().output.contains("u:hi"));
    run(&"long ".repeat(20)).fails(3).says("context of 64");
    run("").fails(2).says("empty");
    std::fs::write(path.join("chat_template.jinja"), "{{ raise_exception('not you') }}").unwrap();
    run("hi").fails(3).says("refuses: not you");
    std::fs::write(path.join("chat_template.jinja"), "{% if %}").unwrap();
    run("hi").fails(3).says("chat_template.jinja");
}

#[test]
fn flags_that_cannot_work_are_refused_before_a_token_is_made() {
    let home = Suanli::new();
    let folder = checkpoint(&home);
    let stops = vec!["--stop=x"; 17];
    let long = format!("--stop={}", "x".repeat(1025));
    for wrong in [
        &["--system", "a"][..],
        &["--stop", ""],
        &[&long],
        &stops,
        &["--tokens", "0"],
        &["--top-p", "0"],
        &["--top-p", "1.1"],
        &["--top-k", "-1"],
        &["--threads", "0"],
        &["--temperature", "nan"],
    ] {
        let run = [&["generate", "--checkpoint", &folder, "--prompt", "a"], wrong].concat();
        let ended = home.run(&run);
        ended.fails(2);
        assert!(ended.output.is_empty(), "{ended:?}");
    }
    let mut command = home.command(&["generate", "--checkpoint", &folder, "--prompt", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"caf\xe9").unwrap();
    Ended::of(child.wait_with_output().unwrap()).fails(3).says("standard input");
}

#[test]
fn an_interrupt_ends_the_text_cleanly_with_code_130() {
    let home = Suanli::new();
    let folder = checkpoint_with(&home, 4096);
    let arguments = ["generate", "--checkpoint", &folder, "--prompt", "a", "--tokens", "100000"];
    let mut command = home.command(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    // The prompt and the first text have come: it is at work and listens to signals.
    let mut text = vec![0; 2];
    out.read_exact(&mut text).unwrap();
    let reading = std::thread::spawn(move || {
        out.read_to_end(&mut text).unwrap();
        text
    });
    let killed =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.fails(130).says("interrupted");
    let text = String::from_utf8(reading.join().unwrap()).unwrap();
    assert!(text.starts_with('a') && text.ends_with('\n'), "{text:?}");
}

#[test]
fn a_checkpoint_of_other_software_continues_a_text_behind_its_own_beginning() {
    let home = Suanli::new();
    let folder = checkpoint(&home);
    let path = |name: &str| std::path::Path::new(&folder).join(name);
    let ours = Tokenizer::train(["fn main() {}\n".repeat(50)], 262).unwrap();
    let begin = ours.vocab_size();
    let mut json: serde_json::Value = serde_json::from_str(&ours.to_json().unwrap()).unwrap();
    json["added_tokens"] =
        serde_json::json!([{"id": begin, "content": "<|begin|>", "special": true}]);
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [begin]}},
    });
    let tokenizer = Tokenizer::from_any_json(&json.to_string()).unwrap();
    // Twenty entries more than the tokenizer has, and biases: a Qwen2.
    let config = ModelConfig {
        vocab: begin + 21,
        hidden: 16,
        layers: 1,
        heads: 2,
        kv_heads: 2,
        ffn: 32,
        context: 64,
        qkv_bias: true,
        ..ModelConfig::demo()
    };
    let contents = Contents {
        config: &config,
        params: &initial_params(&config, 3),
        tokenizer: &tokenizer,
        companions: &Companions::default(),
        card: &Card::default(),
    };
    write(folder.as_ref(), &contents, Overwrite::OursOnly).unwrap();
    std::fs::remove_file(path("suanli.json")).unwrap();
    let arguments = ["generate", "--checkpoint", &folder, "--prompt", "fn main", "--json"];
    let ended = home.run(&[&arguments[..], &["--tokens", "50"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&ended.works().output).unwrap();
    let count = tokenizer.encode(b"fn main").unwrap().len() + 1;
    assert_eq!(
        (answer["prompt_tokens"].as_u64(), &answer["tokens"]),
        (Some(count as u64), &50.into())
    );

    let text = std::fs::read_to_string(path("config.json")).unwrap();
    std::fs::write(path("config.json"), text.replace("\"silu\"", "\"gelu\"")).unwrap();
    home.run(&arguments[..5]).fails(3).says("`hidden_act`").says("\"gelu\"");
    std::fs::write(path("config.json"), &text).unwrap();
    json["model"]["type"] = "Unigram".into();
    std::fs::write(path("tokenizer.json"), json.to_string()).unwrap();
    home.run(&arguments[..5]).fails(3).says("`model.type`").says("\"Unigram\"");
}
