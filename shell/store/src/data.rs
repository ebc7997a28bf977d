//! Training data: from files to shards of samples in training order (DESIGN 5.8).
//!
//! [`prepare()`] reads the files, keeps the last share of them out of training, makes tokens of the
//! text, cuts samples of context + 1 tokens, shuffles them by a keyed permutation and writes them
//! to shards, each with the Merkle root of its 64 KiB chunks. The same input and the same recipe
//! give the same bytes, so a second preparation finds the first one's output and stops there.
//!
//! Not for: which sample comes when (`engine::order`), and who may read the shards (`host`).
//!
//! Invariants: no token of the held-out text is in a training shard, nor did a tokenizer that is trained see it;
//! every training token but those of an unfinished last sample is a target exactly once; the
//! output's folder appears whole or not at all.

mod documents;
mod error;
mod manifest;
mod parquet;
mod prepare;
mod samples;
mod sources;
mod tokens;

pub use error::DataError;
pub use manifest::{
    Counts, DataManifest, MANIFEST_BYTES_MAX, Prepared, SHARD_BYTES_MAX, SHARDS_MAX, Shard,
    byte_chunks,
};
pub use parquet::ParquetFault;
pub use prepare::{Given, Progress, Recipe, Stage, prepare, prepare_with};
pub use samples::{SampleError, SampleLayout, ShardPiece, locate};
pub use sources::{Found, Skipped, Source, SourceKind, find, rust_sources};

#[cfg(test)]
mod tests;
