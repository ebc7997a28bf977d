//! How a checkpoint's model is spoken to: its chat template, and the tokens that end what it says.
//!
//! Reads `chat_template.jinja`, `tokenizer_config.json`, `special_tokens_map.json`,
//! `generation_config.json` and `config.json`, as `transformers` does, and needs none of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use suanli_engine::chat::{TEMPLATE_BYTES_MAX, Template};

use super::error::{CheckpointError, damaged};
use super::folder::read_text;
use super::{CONFIG, CONFIG_BYTES_MAX, GENERATION, TOKENIZER_CONFIG};

const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL: &str = "special_tokens_map.json";
/// Of the tokenizer's settings: some list every token that was added.
const SETTINGS_BYTES_MAX: u64 = 16 << 20;
/// Most tokens that end a text.
const ENDS_MAX: usize = 256;

/// How a model is spoken to.
#[derive(Debug, Default)]
pub struct Dialogue {
    /// Makes one text of what was said; models that only continue texts have none.
    pub template: Option<Template>,
    /// Tokens with which the model says that it has ended.
    pub ends: Vec<u32>,
}

/// Reads how the model in `folder` is spoken to.
///
/// # Errors
/// What is damaged, or a template that is not understood.
pub fn read_dialogue(folder: &Path) -> Result<Dialogue, CheckpointError> {
    let settings = object(folder, TOKENIZER_CONFIG, SETTINGS_BYTES_MAX)?;
    let mut special = texts(&object(folder, SPECIAL, SETTINGS_BYTES_MAX)?);
    special.extend(texts(&settings));
    let path = folder.join(TEMPLATE);
    let (path, source) = if path.exists() {
        let text = read_text(&path, TEMPLATE_BYTES_MAX as u64)?;
        (path, Some(text))
    } else {
        let path = folder.join(TOKENIZER_CONFIG);
        let source = named_template(&path, &settings["chat_template"])?;
        (path, source)
    };
    let template = source.map(|source| Template::new(&source, special)).transpose();
    let template = template.map_err(|source| CheckpointError::Chat { path, source })?;
    let mut ends = ends(folder, GENERATION)?;
    if ends.is_empty() {
        ends = self::ends(folder, CONFIG)?;
    }
    Ok(Dialogue { template, ends })
}

/// The template itself, or of several by name the default one.
fn named_template(path: &Path, value: &Value) -> Result<Option<String>, CheckpointError> {
    let found = match value {
        Value::Null => return Ok(None),
        Value::Array(list) => {
            let default = list.iter().find(|item| item["name"] == "default");
            default.map(|item| &item["template"])
        }
        other => Some(other),
    };
    match found.and_then(Value::as_str) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(damaged(path, "its `chat_template` is neither a text nor a list with a default"))
        }
    }
}

/// The texts of special tokens: `bos_token` and so on.
fn texts(settings: &Value) -> BTreeMap<String, String> {
    let tokens = settings.as_object().into_iter().flatten();
    tokens
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// The tokens in a file's `eos_token_id`: a number, or a list of them.
fn ends(folder: &Path, name: &str) -> Result<Vec<u32>, CheckpointError> {
    let value = object(folder, name, CONFIG_BYTES_MAX)?;
    let list = match &value["eos_token_id"] {
        Value::Null => &[],
        Value::Array(list) => &list[..],
        one => std::slice::from_ref(one),
    };
    let ids = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
    match ids.collect::<Option<Vec<u32>>>() {
        Some(ids) if ids.len() <= ENDS_MAX => Ok(ids),
        _ => {
            let wrong =
                format!("its `eos_token_id` is neither a token nor a list of up to {ENDS_MAX}");
            Err(damaged(&folder.join(name), wrong))
        }
    }
}

/// The object in a file; an empty one when there is no file.
fn object(folder: &Path, name: &str, max: u64) -> Result<Value, CheckpointError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = read_text(&path, max)?;
    serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use suanli_engine::chat::Message;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn said(dialogue: &Dialogue) -> String {
        let messages = [Message::new("user", "hi")];
        dialogue.template.as_ref().unwrap().render(&messages, 0).unwrap()
    }

    #[test]
    fn templates_and_ends_are_found_wherever_they_lie() {
        let none = read_dialogue(folder(&[]).path()).unwrap();
        assert!(none.template.is_none() && none.ends.is_empty());
        let one = r#"{"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}one {{ messages[0].content }}{{ eos_token }}"}"#;
        let map = r#"{"eos_token": "</s>", "bos_token": "old"}"#;
        let files = [(TOKENIZER_CONFIG, one), (SPECIAL, map), (CONFIG, r#"{"eos_token_id": 2}"#)];
        let read = read_dialogue(folder(&files).path()).unwrap();
        assert_eq!((said(&read).as_str(), &read.ends[..]), ("<s>one hi</s>", &[2][..]));
        let several = r#"{"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}"#;
        let generation = r#"{"eos_token_id": [7, 9]}"#;
        let files = [
            (TOKENIZER_CONFIG, several),
            (GENERATION, generation),
            (CONFIG, r#"{"eos_token_id": 2}"#),
        ];
        let read = read_dialogue(folder(&files).path()).unwrap();
        assert_eq!((said(&read).as_str(), &read.ends[..]), ("b", &[7, 9][..]));
        let files = [(TOKENIZER_CONFIG, several), (TEMPLATE, "own file")];
        assert_eq!(said(&read_dialogue(folder(&files).path()).unwrap()), "own file");
    }

    #[test]
    fn what_is_damaged_is_named() {
        let refused = |name: &str, text: &str| {
            read_dialogue(folder(&[(name, text)]).path()).unwrap_err().to_string()
        };
        assert!(refused(TOKENIZER_CONFIG, "{").contains(TOKENIZER_CONFIG));
        assert!(refused(TOKENIZER_CONFIG, r#"{"chat_template": 3}"#).contains("neither"));
        let nameless = r#"{"chat_template": [{"name": "tools", "template": "a"}]}"#;
        assert!(refused(TOKENIZER_CONFIG, nameless).contains("default"));
        assert!(refused(TEMPLATE, "\n{% if %}").contains("line 2"));
        assert!(refused(TEMPLATE, &"a".repeat(TEMPLATE_BYTES_MAX + 1)).contains("at most"));
        for wrong in ["-1", "\"2\"", "[1, -1]", "[[1]]", "4294967296"] {
            let text = format!("{{\"eos_token_id\": {wrong}}}");
            assert!(refused(GENERATION, &text).contains("eos_token_id"), "{wrong}");
        }
    }
}
