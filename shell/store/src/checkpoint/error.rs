//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use suanli_engine::ConfigError;
use suanli_engine::chat::ChatError;
use suanli_engine::tokenizer::TokenizerError;

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused: missing, no permission, a full disk.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The place is taken by something that is not ours to replace.
    #[error("{} holds something else than a checkpoint of ours: take another folder, or force it, \
             which moves the old one aside", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The place is taken by a file.
    #[error("{} is a file: name a folder for the checkpoint", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A part of the checkpoint is not there.
    #[error("{} is missing: is this the folder of a checkpoint? Fetch or export it again", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is damaged.
    #[error("{} is damaged: {wrong}; fetch or export the checkpoint again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The model is of another shape than ours.
    #[error("{}: `{field}`: expected {expected}, found {found}; this program trains decoders of \
             the Llama family: Llama 2 and 3, Mistral, Qwen2, Qwen3", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The field of `config.json`.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Adapters of a kind that this program does not train.
    #[error("{}: `{field}`: expected {expected}, found {found}; this program takes plain LoRA on \
             attention and feed-forward matrices", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// The field of `adapter_config.json`.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor is not as `config.json` says.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}; weights and config.json do \
             not belong together", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What `config.json` asks for.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// The weights are pickled, which only their own software should open.
    #[error("{} is pickled, and reading it can run code: save the model again as safetensors, in \
             transformers with save_pretrained", path.display())]
    Pickled {
        /// The file.
        path: PathBuf,
    },
    /// A weight in a file is infinite or no number.
    #[error("{}: parameter {index} of tensor {tensor} is {found}: the model diverged or is \
             damaged; take an earlier version", path.display())]
    WeightNotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which of its elements.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// A parameter to be written is infinite or no number.
    #[error(
        "parameter {index} of tensor {tensor} is {found}: the model diverged or is damaged; \
             take an earlier version"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Which of its elements.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// Parameters and sizes do not belong together: ours.
    #[error("expected {expected} parameters, found {found}: these are another model's")]
    ParameterCount {
        /// What the sizes ask for.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// Tokenizer and model do not belong together.
    #[error(
        "the model has {expected} entries in its vocabulary, the tokenizer {found}: they do \
             not belong together"
    )]
    Vocab {
        /// The model's.
        expected: usize,
        /// The tokenizer's.
        found: usize,
    },
    /// The chat template cannot be used.
    #[error("{}: {source}", path.display())]
    Chat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ChatError,
    },
    /// No architecture has what the model needs: ours.
    #[error(
        "a model with biases of queries, keys and values and with norms of queries and keys has no \
             architecture in transformers: leave out one of the two"
    )]
    NoArchitecture,
    /// The sizes cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Wraps what the system said with what was attempted.
pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound if doing == "read" => {
            CheckpointError::Missing { path: path.clone() }
        }
        _ => CheckpointError::Io { doing, path: path.clone(), source },
    }
}

pub(super) fn damaged(path: &Path, wrong: impl Into<String>) -> CheckpointError {
    CheckpointError::Damaged { path: path.to_owned(), wrong: wrong.into() }
}
