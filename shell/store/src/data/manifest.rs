//! What a preparation left: its manifest, and the folder it lies in.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suanli_base::Hash;
use suanli_engine::tokenizer::{JSON_BYTES_MAX, Tokenizer};
use suanli_params::{BYTE_CHUNK, root};

use super::error::{DataError, io};
use super::samples::SampleLayout;
use super::sources::Skipped;

/// Largest shard: a member that needs a few samples opens a region of this size at most.
pub const SHARD_BYTES_MAX: u64 = 16 << 20;
/// Most training shards, as many as a job may name.
pub const SHARDS_MAX: usize = 256;
/// Most bytes of a manifest.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Changed when the same input and recipe would give other bytes.
pub(super) const FORMAT: u32 = 1;
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const HELD_OUT: &str = "held-out.bin";

/// One stored piece of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its length.
    pub bytes: u64,
    /// How many samples it holds.
    pub samples: u64,
    /// Merkle root over its 64 KiB chunks.
    #[serde(with = "hexadecimal")]
    pub root: Hash,
}

/// What was read, and what it became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Files read.
    pub files: u64,
    /// Documents in them.
    pub documents: u64,
    /// Bytes of text in those.
    pub text_bytes: u64,
    /// Bytes of that text kept out of training.
    pub held_out_bytes: u64,
    /// Tokens to train with.
    pub training_tokens: u64,
    /// Tokens kept out of training.
    pub held_out_tokens: u64,
    /// What folders held that was not read.
    pub skipped: Skipped,
}

/// Everything about prepared data but the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataManifest {
    /// The format of manifest and shards.
    pub format: u32,
    /// Hash of the documents' text.
    #[serde(with = "hexadecimal")]
    pub input: Hash,
    /// Hash of how they were prepared.
    #[serde(with = "hexadecimal")]
    pub recipe: Hash,
    /// Hash of `tokenizer.json`.
    #[serde(with = "hexadecimal")]
    pub tokenizer: Hash,
    /// Ids are below this.
    pub vocab: u32,
    /// Bytes of a token: 2 or 4.
    pub token_bytes: u8,
    /// Tokens of a sample: context + 1.
    pub sample_tokens: u32,
    /// Training samples in all shards.
    pub samples: u64,
    /// The training shards, in training order.
    pub shards: Vec<Shard>,
    /// The samples nobody trains on, shuffled too, at most one shard of them.
    pub held_out: Shard,
    /// What was read, and what it became.
    pub counts: Counts,
}

impl DataManifest {
    /// The shape of the samples.
    #[must_use]
    pub const fn layout(&self) -> SampleLayout {
        SampleLayout {
            sample_tokens: self.sample_tokens,
            token_bytes: self.token_bytes,
            vocab: self.vocab,
        }
    }

    /// The manifest's text.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("our own types always encode");
        text.push('\n');
        text
    }

    /// Checks that the numbers agree with each other; what does not is named.
    fn check(&self) -> Result<(), String> {
        let width = self.layout().sample_bytes().map_err(|error| error.to_string())?;
        let fits = |shard: &Shard| {
            shard.samples > 0
                && shard.bytes <= SHARD_BYTES_MAX
                && shard.samples.checked_mul(width) == Some(shard.bytes)
        };
        let samples = self.shards.iter().map(|shard| shard.samples).fold(0, u64::saturating_add);
        for (holds, wrong) in [
            (self.format == FORMAT, "its format is another version's"),
            ((1..=SHARDS_MAX).contains(&self.shards.len()), "it has no shards, or too many"),
            (self.shards.iter().all(fits) && fits(&self.held_out), "a shard's size is wrong"),
            (samples == self.samples, "its samples are not the sum over its shards"),
        ] {
            if !holds {
                return Err(wrong.to_owned());
            }
        }
        Ok(())
    }
}

/// Prepared data on this disk, checked.
#[derive(Clone, Debug)]
pub struct Prepared {
    folder: PathBuf,
    manifest: DataManifest,
    tokenizer: Tokenizer,
    tokenizer_json: String,
}

impl Prepared {
    /// Opens what a preparation left in `folder`, and checks every byte of it.
    ///
    /// # Errors
    /// When something is missing, damaged, or of another version.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(MANIFEST);
        let text = read_text(&path, MANIFEST_BYTES_MAX)?;
        let manifest: DataManifest =
            serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        manifest.check().map_err(|wrong| damaged(&path, wrong))?;
        let path = folder.join(TOKENIZER);
        let tokenizer_json = read_text(&path, JSON_BYTES_MAX as u64)?;
        if Hash::of(tokenizer_json.as_bytes()) != manifest.tokenizer {
            return Err(damaged(&path, "its hash is not the manifest's"));
        }
        let tokenizer = Tokenizer::from_any_json(&tokenizer_json)
            .map_err(|error| damaged(&path, error.to_string()))?;
        if tokenizer.vocab_size() as u64 != u64::from(manifest.vocab) {
            return Err(damaged(&path, "its vocabulary is not the manifest's"));
        }
        let prepared = Self { folder: folder.to_owned(), manifest, tokenizer, tokenizer_json };
        for (index, shard) in prepared.manifest.shards.iter().enumerate() {
            check_shard(&prepared.shard_path(index), shard)?;
        }
        check_shard(&prepared.held_out_path(), &prepared.manifest.held_out)?;
        Ok(prepared)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is in it.
    #[must_use]
    pub const fn manifest(&self) -> &DataManifest {
        &self.manifest
    }

    /// The tokenizer the data were made with.
    #[must_use]
    pub const fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its `tokenizer.json`, the bytes that the manifest's hash is over.
    #[must_use]
    pub fn tokenizer_json(&self) -> &str {
        &self.tokenizer_json
    }

    /// The file of training shard `index`.
    #[must_use]
    pub fn shard_path(&self, index: usize) -> PathBuf {
        self.folder.join(shard_name(index))
    }

    /// The file of the held-out shard.
    #[must_use]
    pub fn held_out_path(&self) -> PathBuf {
        self.folder.join(HELD_OUT)
    }
}

/// The hashes of the 64 KiB chunks of some bytes, whose root names them.
#[must_use]
pub fn byte_chunks(bytes: &[u8]) -> Vec<Hash> {
    bytes.chunks(BYTE_CHUNK).map(Hash::of).collect()
}

pub(super) fn shard_name(index: usize) -> String {
    format!("shard-{index:05}.bin")
}

fn check_shard(path: &Path, shard: &Shard) -> Result<(), DataError> {
    let bytes = read_bounded(path, SHARD_BYTES_MAX)?;
    if bytes.len() as u64 != shard.bytes {
        let found = bytes.len();
        return Err(damaged(path, format!("expected {} bytes, found {found}", shard.bytes)));
    }
    let found = root(&byte_chunks(&bytes));
    if found != shard.root {
        let (expected, found) = (shard.root.short(), found.short());
        return Err(damaged(path, format!("expected the root {expected}, found {found}")));
    }
    Ok(())
}

fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(path, "it is missing"));
        }
        Err(error) => return Err(io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(damaged(path, format!("expected at most {max} bytes, found more")));
    }
    Ok(bytes)
}

fn read_text(path: &Path, max: u64) -> Result<String, DataError> {
    String::from_utf8(read_bounded(path, max)?).map_err(|_| damaged(path, "it is not UTF-8"))
}

fn damaged(path: &Path, wrong: impl Into<String>) -> DataError {
    DataError::Damaged { path: path.to_owned(), wrong: wrong.into() }
}

/// Removes a folder of ours that is damaged or half made; absent is fine.
pub(super) fn remove(folder: &Path) -> Result<(), DataError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Hashes as 64 hexadecimal digits: a manifest is read by people too.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use suanli_base::Hash;

    pub(super) fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
