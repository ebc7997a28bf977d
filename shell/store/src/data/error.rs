//! What can go wrong when data are prepared or read.

use std::io;
use std::path::{Path, PathBuf};

use suanli_engine::tokenizer::TokenizerError;

use super::parquet::ParquetFault;
use crate::LockError;

/// Data that cannot be prepared or read. Unless it says otherwise, the trainer's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The system refused a file or folder: missing, no permission, a full disk.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A recipe and the tokenizer handed over with it do not go together: ours.
    #[error("{}", if *wanted {
        "the recipe takes the tokenizer of a checkpoint, and none was handed over"
    } else {
        "a checkpoint's tokenizer was handed over with a recipe that makes its own"
    })]
    TokenizerGiven {
        /// Whether the recipe wants one.
        wanted: bool,
    },
    /// A pattern is malformed.
    #[error("the pattern {} is malformed at character {at}: {message}", path.display())]
    Pattern {
        /// The pattern.
        path: PathBuf,
        /// Where, from 0.
        at: usize,
        /// What is wrong.
        message: &'static str,
    },
    /// A pattern matches nothing.
    #[error("no file matches the pattern {}: check it, and that it is relative to the job file", path.display())]
    NoMatch {
        /// The pattern.
        path: PathBuf,
    },
    /// A path names a device, a socket or a pipe.
    #[error("{} is neither a file nor a folder: name files or folders", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder has no text in it.
    #[error("the folder {} holds no text: found {hidden} hidden and {binary} binary files, which \
             are skipped; name the files one by one if they should be used", path.display())]
    NoTextInFolder {
        /// The folder.
        path: PathBuf,
        /// Hidden entries in it.
        hidden: u64,
        /// Binary files in it.
        binary: u64,
    },
    /// More than a job may read.
    #[error("expected at most {max} {what}, found more: {advice}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: u64,
        /// What to do.
        advice: &'static str,
    },
    /// All files together hold no text.
    #[error("the data are empty: {files} files, and not a byte of text in them")]
    Empty {
        /// How many files were read.
        files: u64,
    },
    /// A file for a BPE is not UTF-8.
    #[error("{}: expected UTF-8 text, found a byte that is none at offset {offset}: convert the \
             file, leave it out, or use the tokenizer kind \"bytes\"", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// A line of a `.jsonl` file is not a JSON object.
    #[error("{}:{line}: expected a JSON object, found: {message}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What the reader stumbled over.
        message: String,
    },
    /// A line of a `.jsonl` file lacks the text.
    #[error("{}:{line}: expected a text in the field \"{field}\", found {found}: set `field` under \
             [data]", path.display())]
    NoField {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The field asked for.
        field: String,
        /// What is there instead.
        found: String,
    },
    /// A Parquet file, or the column named, gives no text.
    #[error("{}, column \"{field}\": {fault}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        field: String,
        /// Why.
        #[source]
        fault: ParquetFault,
    },
    /// Not enough for a sample on either side.
    #[error(
        "too little data: a sample takes {sample_tokens} tokens, and at least one is needed to \
             train and one to measure with; found {training} tokens to train and {held_out} held \
             out. Use more text, a shorter context, or another held-out share"
    )]
    TooLittle {
        /// Tokens of a sample.
        sample_tokens: u64,
        /// Tokens to train with.
        training: u64,
        /// Tokens held out.
        held_out: u64,
    },
    /// A file is not what it was a moment ago.
    #[error(
        "the data changed while they were read: wait until nothing writes to them, then try again"
    )]
    Changed,
    /// Another process prepares data in the same folder, or nobody may.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tokenizer refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Prepared data are damaged, or of another version of this program. Ours, or the disk's.
    #[error("the prepared data at {} are damaged: {wrong}; delete that folder and prepare again", path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// No Rust sources to learn from.
    #[error("found no Rust sources below {}: give the text to learn from with --data FILE or \
             --data FOLDER", path.display())]
    NoRustSources {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// Neither variable names a home folder.
    #[error(
        "neither CARGO_HOME nor HOME is set, so there are no Rust sources to be found: give \
             the text to learn from with --data FILE or --data FOLDER"
    )]
    NoHome,
    /// Somebody asked to stop: an ordinary event. Nothing was left behind.
    #[error("stopped on request; nothing was left behind")]
    Cancelled,
}

/// Wraps what the system said with what was attempted.
pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { doing, path: path.clone(), source }
}
