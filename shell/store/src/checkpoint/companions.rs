//! What goes with a tokenizer unchanged: which ids begin and end a text, the chat template, and
//! the small files that `transformers` keeps beside `tokenizer.json`.
//!
//! A job that goes on from a checkpoint carries them in one text with its tokenizer ([`pack`]), so
//! that the export has them again. A tokenizer of ours has none, and its text is then its plain
//! `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use suanli_engine::tokenizer::{JSON_BYTES_MAX, Tokenizer, TokenizerError};

use super::error::{CheckpointError, damaged};
use super::folder::read_text;
use super::shape::Fields;
use super::{GENERATION, TOKENIZER, TOKENIZER_CONFIG};

/// The files that are kept.
const FILES: [&str; 6] = [
    TOKENIZER_CONFIG,
    GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Most bytes of one of them: hundreds of times the largest in use.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a packed tokenizer: its text may double in quotes.
const PACKED_BYTES_MAX: usize = 2 * (JSON_BYTES_MAX + FILES.len() * FILE_BYTES_MAX as usize);
/// How a packed tokenizer begins, and no `tokenizer.json` does.
const PACKED_BEGINS: &str = "{\"suanli_tokenizer\":1,";
const FORMAT: u32 = 1;

/// What goes with a tokenizer unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companions {
    /// Ids that begin a text.
    bos: Vec<u32>,
    /// Ids that end a text.
    eos: Vec<u32>,
    /// Ids that fill up.
    pad: Vec<u32>,
    /// Texts of files by name.
    files: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    suanli_tokenizer: u32,
    tokenizer: String,
    companions: Companions,
}

impl Companions {
    /// What lies beside a foreign tokenizer in `folder`.
    pub(super) fn read(
        folder: &Path,
        config: &Fields<'_>,
        vocab: usize,
    ) -> Result<Self, CheckpointError> {
        let mut files = BTreeMap::new();
        for name in FILES {
            let path = folder.join(name);
            if !path.exists() {
                continue;
            }
            let text = read_text(&path, FILE_BYTES_MAX)?;
            if !is_sound(name, &text) {
                return Err(damaged(&path, "it is not a JSON object"));
            }
            files.insert(name.to_owned(), text);
        }
        let ids = |field| config.ids(field, vocab);
        let (bos, eos, pad) = (ids("bos_token_id"), ids("eos_token_id"), ids("pad_token_id"));
        Ok(Self { bos, eos, pad, files })
    }

    /// Whether nothing goes along.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The text of a file that goes along.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    pub(super) fn bos(&self) -> &[u32] {
        &self.bos
    }

    pub(super) fn eos(&self) -> &[u32] {
        &self.eos
    }

    pub(super) fn pad(&self) -> &[u32] {
        &self.pad
    }

    /// What a stranger packed may name only files that are kept, with what belongs in them.
    fn check(&self) -> Result<(), CheckpointError> {
        let sound = |(name, text): (&str, &str)| {
            FILES.contains(&name) && text.len() as u64 <= FILE_BYTES_MAX && is_sound(name, text)
        };
        match self.files().find(|file| !sound(*file)) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(60).collect();
                Err(damaged(Path::new(TOKENIZER), format!("it carries a wrong file {name:?}")))
            }
        }
    }
}

fn is_sound(name: &str, text: &str) -> bool {
    let object = || serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    !name.ends_with(".json") || object()
}

/// A tokenizer and what goes with it as one text.
///
/// # Errors
/// Only by a defect.
///
/// # Panics
/// Never: our own types always encode.
pub fn pack(tokenizer: &Tokenizer, companions: &Companions) -> Result<String, TokenizerError> {
    let tokenizer = tokenizer.to_json()?;
    if companions.is_empty() {
        return Ok(tokenizer);
    }
    let packed = Packed { suanli_tokenizer: FORMAT, tokenizer, companions: companions.clone() };
    Ok(serde_json::to_string(&packed).expect("our own types always encode"))
}

/// What [`pack`] made one text of, or a plain `tokenizer.json`.
///
/// # Errors
/// When the text is too long, damaged, or no tokenizer that can be used.
pub fn unpack(text: &str) -> Result<(Tokenizer, Companions), CheckpointError> {
    if !text.starts_with(PACKED_BEGINS) {
        return Ok((Tokenizer::from_any_json(text)?, Companions::default()));
    }
    let path = Path::new(TOKENIZER);
    if text.len() > PACKED_BYTES_MAX {
        let found = text.len();
        return Err(damaged(
            path,
            format!("expected at most {PACKED_BYTES_MAX} bytes, found {found}"),
        ));
    }
    let packed: Packed =
        serde_json::from_str(text).map_err(|error| damaged(path, error.to_string()))?;
    packed.companions.check()?;
    Ok((Tokenizer::from_any_json(&packed.tokenizer)?, packed.companions))
}
