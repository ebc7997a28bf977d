//! What can be wrong in a job file. All of it is the trainer's to mend.

use suanli_engine::ConfigError;

/// Something in a job file that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JobFileError {
    /// The file is longer than any job needs.
    #[error("expected a job file of at most {max} bytes, found {found}: is this the right file?")]
    TooLong {
        /// Its bytes.
        found: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// The text is not TOML.
    #[error("line {line}, column {column}: this is not TOML: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the reader stumbled over.
        message: String,
    },
    /// A key or section that does not exist.
    #[error("line {line}: unknown {what} `{key}`: {hint}")]
    Unknown {
        /// Whether a key or a section.
        what: &'static str,
        /// The name found, with its section.
        key: String,
        /// Its line, from 1.
        line: usize,
        /// The nearest known name, or where the name belongs.
        hint: String,
    },
    /// A value of another type.
    #[error("line {line}: `{key}`: expected {expected}, found {found}")]
    WrongType {
        /// The key with its section.
        key: String,
        /// Its line, from 1.
        line: usize,
        /// What the key takes.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A value outside what makes sense.
    #[error("line {line}: `{key}`: expected {expected}, found {found}")]
    OutOfRange {
        /// The key with its section.
        key: String,
        /// Its line, from 1.
        line: usize,
        /// What the key takes.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Something that has no default is not there.
    #[error("`{key}` is missing: expected {expected}")]
    Missing {
        /// The key with its section.
        key: String,
        /// What the key takes.
        expected: String,
    },
    /// Two keys that exclude each other.
    #[error("line {line}: `{key}` and `{other}` exclude each other: keep one of them")]
    Conflict {
        /// The one.
        key: String,
        /// Its line, from 1.
        line: usize,
        /// The other.
        other: String,
    },
    /// The checkpoint that training should go on from cannot be used.
    #[error("line {line}: `{key}`: {wrong}")]
    Checkpoint {
        /// The key with its section.
        key: String,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with the checkpoint.
        wrong: String,
    },
    /// The sizes of the model do not fit together.
    #[error(transparent)]
    Model(ConfigError),
}
