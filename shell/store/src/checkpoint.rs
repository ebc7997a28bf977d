//! A trained model as a folder in Hugging Face layout, which `transformers` opens unchanged.
//!
//! A folder of ours also holds `suanli.json`, with the hash of every other file: it shows that we
//! made it (so that it may be replaced), and a flipped bit is seen when it is read. Reading does
//! without it, so a checkpoint of the Llama family that other software saved is read too: Llama 2
//! and 3, Mistral, Qwen2 and Qwen3, whole or in shards, as 32-bit or 16-bit floats. A context
//! longer than the engine's, or than a sliding window, is read as that: up to there every number
//! is the same. What is written is 32-bit floats in one file.
//!
//! Not for: the city's own state, which is a chain of versions in blobs.
//!
//! Invariants: a folder appears whole or not at all; no folder that is not ours is removed, a
//! forced write moves it aside; parameters that are not finite are neither written nor read.

mod adapter;
mod chat;
mod companions;
mod config;
mod error;
mod folder;
mod header;
mod shape;
mod shards;
mod tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use suanli_engine::ModelConfig;
use suanli_engine::tokenizer::{JSON_BYTES_MAX, Tokenizer};

pub use adapter::{AdapterContents, read_adapter, write_adapter};
pub use chat::{Dialogue, read_dialogue};
pub use companions::{Companions, pack, unpack};
pub use error::CheckpointError;
use folder::{Draft, check_hashes, read_text};
use shape::{Fields, family_of};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CARD: &str = "README.md";
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What a checkpoint says about itself to people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// What the model is called.
    pub name: String,
    /// Numbers of the job, as label and value: rounds, tokens, loss, members, cost.
    pub facts: Vec<(String, String)>,
    /// A text that the model wrote.
    pub sample: Option<String>,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The sizes.
    pub config: &'a ModelConfig,
    /// The parameters, flat, in the order of the model's space.
    pub params: &'a [f32],
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What goes with the tokenizer.
    pub companions: &'a Companions,
    /// What it says about itself.
    pub card: &'a Card,
}

/// What may give way to a new checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// An earlier checkpoint of ours, or an empty folder.
    OursOnly,
    /// Any folder; one that is not ours is moved aside.
    AnyFolder,
}

/// What is read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The sizes.
    pub config: ModelConfig,
    /// The parameters, flat, in the order of the model's space.
    pub params: Vec<f32>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What goes with a foreign tokenizer.
    pub companions: Companions,
}

/// Writes a checkpoint to `folder`; says where a foreign folder went that had to make room.
///
/// # Errors
/// When the contents do not belong together, `folder` may not be replaced, or the disk refuses.
/// What was there before is then still there.
pub fn write(
    folder: &Path,
    contents: &Contents<'_>,
    overwrite: Overwrite,
) -> Result<Option<PathBuf>, CheckpointError> {
    let Contents { config, params, tokenizer, companions, card } = *contents;
    config.check()?;
    let family = family_of(config).ok_or(CheckpointError::NoArchitecture)?;
    same_vocab(config, tokenizer)?;
    if params.len() != config.parameters() {
        let (expected, found) = (config.parameters(), params.len());
        return Err(CheckpointError::ParameterCount { expected, found });
    }
    let mut small = BTreeMap::from([
        (GENERATION, config::generation_json(companions)),
        (TOKENIZER_CONFIG, config::tokenizer_json(config)),
    ]);
    small.extend(companions.files().map(|(name, text)| (name, text.to_owned())));
    let mut draft = Draft::beside(folder, overwrite)?;
    draft.write(CONFIG, config::to_json(config, family, companions).as_bytes())?;
    draft.write(TOKENIZER, tokenizer.to_json()?.as_bytes())?;
    for (name, text) in small {
        draft.write(name, text.as_bytes())?;
    }
    draft.write(CARD, readme(config, card).as_bytes())?;
    draft.stream(WEIGHTS, |out| tensors::write(out, &config.space(), params))?;
    draft.publish()
}

/// Reads a checkpoint from `folder` and checks all of it.
///
/// # Errors
/// What is missing, damaged, or of a shape that this program does not train.
pub fn read(folder: &Path) -> Result<Loaded, CheckpointError> {
    let path = folder.join(CONFIG);
    let fields = Fields::parse(&path, &read_text(&path, CONFIG_BYTES_MAX)?)?;
    let config = fields.config()?;
    check_hashes(folder)?;
    let (tokenizer, companions) = read_tokenizer(folder, &fields, &config)?;
    let params = tensors::read(folder, &config)?;
    Ok(Loaded { config, params, tokenizer, companions })
}

/// Reads the sizes of a checkpoint, and nothing else.
///
/// # Errors
/// When there is no `config.json`, or it is damaged or of a shape that this program does not train.
pub fn read_config(folder: &Path) -> Result<ModelConfig, CheckpointError> {
    let path = folder.join(CONFIG);
    Fields::parse(&path, &read_text(&path, CONFIG_BYTES_MAX)?)?.config()
}

fn read_tokenizer(
    folder: &Path,
    fields: &Fields<'_>,
    config: &ModelConfig,
) -> Result<(Tokenizer, Companions), CheckpointError> {
    let text = read_text(&folder.join(TOKENIZER), JSON_BYTES_MAX as u64)?;
    let tokenizer = Tokenizer::from_any_json(&text)?;
    same_vocab(config, &tokenizer)?;
    let companions = match &tokenizer {
        Tokenizer::Foreign(_) => Companions::read(folder, fields, config.vocab)?,
        // The files beside our own say nothing that the tokenizer does not.
        _ => Companions::default(),
    };
    Ok((tokenizer, companions))
}

/// A model may have more entries than the tokenizer of its checkpoint, to have a round number.
fn same_vocab(config: &ModelConfig, tokenizer: &Tokenizer) -> Result<(), CheckpointError> {
    let (expected, found) = (config.vocab, tokenizer.vocab_size());
    let padded = matches!(tokenizer, Tokenizer::Foreign(_)) && found < expected;
    if expected == found || padded {
        Ok(())
    } else {
        Err(CheckpointError::Vocab { expected, found })
    }
}

fn readme(config: &ModelConfig, card: &Card) -> String {
    let name = if card.name.is_empty() { "A model" } else { &card.name };
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [suanli]\n---\n\n\
         # {name}\n\n\
         A decoder of the Llama family with {} parameters, trained by a city of computinglets with\n\
         Suanli. It says what its data say, and nothing was done to make it safe or right.\n\n\
         | | |\n| --- | --- |\n\
         | layers, width, heads (keys) | {}, {}, {} ({}) |\n\
         | feed-forward, context, vocabulary | {}, {}, {} |\n",
        config.parameters(),
        config.layers,
        config.hidden,
        config.heads,
        config.kv_heads,
        config.ffn,
        config.context,
        config.vocab,
    );
    for (label, value) in &card.facts {
        text.push_str(&format!("| {} | {} |\n", cell(label), cell(value)));
    }
    text.push_str(
        "\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         model = AutoModelForCausalLM.from_pretrained(\".\")\n\
         tokenizer = AutoTokenizer.from_pretrained(\".\")\n\
         ids = tokenizer(\"Once\", return_tensors=\"pt\")\n\
         print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0]))\n```\n",
    );
    if let Some(sample) = &card.sample {
        text.push_str("\nIt wrote:\n\n");
        text.extend(sample.lines().map(|line| format!("    {line}\n")));
    }
    text
}

/// Text that stays in its cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;
