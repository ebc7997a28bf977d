//! A trained model as a folder in Hugging Face layout, which `transformers` opens unchanged.
//!
//! A folder of ours also holds `suanli.json`, with the hash of every other file: it shows that we
//! made it (so that it may be replaced), and a flipped bit is seen when it is read. Reading does
//! without it, so a checkpoint that other software saved in the same shape is read too.
//!
//! Not for: the city's own state, which is a chain of versions in blobs.
//!
//! Invariants: a folder appears whole or not at all; no folder that is not ours is removed, a
//! forced write moves it aside; parameters that are not finite are neither written nor read.

mod chat;
mod config;
mod error;
mod folder;
mod tensors;

use std::path::{Path, PathBuf};

use suanli_engine::ModelConfig;
use suanli_engine::tokenizer::{JSON_BYTES_MAX, Tokenizer};

pub use chat::{Dialogue, read_dialogue};
pub use error::CheckpointError;
use folder::{Draft, check_hashes, read_text};

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
    let Contents { config, params, tokenizer, card } = *contents;
    config.check()?;
    same_vocab(config, tokenizer)?;
    if params.len() != config.parameters() {
        let (expected, found) = (config.parameters(), params.len());
        return Err(CheckpointError::ParameterCount { expected, found });
    }
    let mut draft = Draft::beside(folder, overwrite)?;
    draft.write(CONFIG, config::to_json(config).as_bytes())?;
    draft.write(GENERATION, config::generation_json().as_bytes())?;
    draft.write(TOKENIZER, tokenizer.to_json()?.as_bytes())?;
    draft.write(TOKENIZER_CONFIG, config::tokenizer_json(config).as_bytes())?;
    draft.write(CARD, readme(config, card).as_bytes())?;
    draft.stream(WEIGHTS, |out| tensors::write(out, config, params))?;
    draft.publish()
}

/// Reads a checkpoint from `folder` and checks all of it.
///
/// # Errors
/// What is missing, damaged, or of a shape that this program does not train.
pub fn read(folder: &Path) -> Result<Loaded, CheckpointError> {
    let text = read_text(&folder.join(CONFIG), CONFIG_BYTES_MAX)?;
    let config = config::from_json(&folder.join(CONFIG), &text)?;
    check_hashes(folder)?;
    let text = read_text(&folder.join(TOKENIZER), JSON_BYTES_MAX as u64)?;
    let tokenizer = Tokenizer::from_json(&text)?;
    same_vocab(&config, &tokenizer)?;
    let params = tensors::read(&folder.join(WEIGHTS), &config)?;
    Ok(Loaded { config, params, tokenizer })
}

fn same_vocab(config: &ModelConfig, tokenizer: &Tokenizer) -> Result<(), CheckpointError> {
    let (expected, found) = (config.vocab, tokenizer.vocab_size());
    if expected == found { Ok(()) } else { Err(CheckpointError::Vocab { expected, found }) }
}

fn readme(config: &ModelConfig, card: &Card) -> String {
    let name = if card.name.is_empty() { "A model" } else { &card.name };
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [suanli]\n---\n\n\
         # {name}\n\n\
         A decoder of the Llama shape with {} parameters, trained by a city of computinglets with\n\
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
mod tests;
