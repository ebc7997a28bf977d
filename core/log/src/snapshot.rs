//! A snapshot: the state at a point of the log, as one file, so that older segments may go.
//!
//! The state is bytes that whoever folds the log knows how to read. Format: magic `SSnp`, version
//! u16, zero u16, length u64, next seq u64, head (32), hash over the 56 bytes before and the state
//! (32), the state.

use suanli_base::Hash;

use crate::chain::Chain;

/// Bytes of a snapshot's header.
const HEADER_BYTES: usize = 88;
const MAGIC: [u8; 4] = *b"SSnp";
const VERSION: u16 = 1;

/// The most bytes of a state: it holds ids, hashes and counts, never parameters.
pub const STATE_BYTES_MAX: usize = 1 << 30;

/// A snapshot as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Where the log stood.
    pub chain: Chain,
    /// The state after all bodies before that.
    pub state: &'a [u8],
}

/// A file is no snapshot that this program can use. It may be damaged by the disk, or newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Too short, or it begins with something else.
    #[error("not a snapshot: {found} bytes that do not begin as one")]
    NotOne {
        /// How many bytes it has.
        found: usize,
    },
    /// Another version.
    #[error(
        "a snapshot of version {found}, this program reads {VERSION}; run the version that wrote it"
    )]
    Version {
        /// Its version.
        found: u16,
    },
    /// Its length is not what its header says.
    #[error("the snapshot should hold {expected} bytes of state, it holds {found}")]
    Length {
        /// What its header says.
        expected: u64,
        /// What is there.
        found: usize,
    },
    /// Its hash does not fit.
    #[error("the snapshot is damaged: expected hash {}, found {}", expected.short(), found.short())]
    Hash {
        /// The hash in its header.
        expected: Hash,
        /// The hash of what is there.
        found: Hash,
    },
}

/// The bytes of a snapshot of `state` where the log stands at `chain`.
///
/// # Panics
/// When `state` is longer than [`STATE_BYTES_MAX`].
#[must_use]
pub fn snapshot(chain: &Chain, state: &[u8]) -> Vec<u8> {
    assert!(state.len() <= STATE_BYTES_MAX, "a state of {} bytes is no state", state.len());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + state.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&chain.next_seq().to_le_bytes());
    bytes.extend_from_slice(chain.head().as_bytes());
    let hash = hash(&bytes, state);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(state);
    bytes
}

/// Reads a snapshot.
///
/// # Errors
/// [`SnapshotError`] when the bytes are not exactly one.
pub fn read_snapshot(bytes: &[u8]) -> Result<Snapshot<'_>, SnapshotError> {
    let header = bytes.first_chunk::<HEADER_BYTES>().filter(|header| header[..4] == MAGIC);
    let Some(header) = header else {
        return Err(SnapshotError::NotOne { found: bytes.len() });
    };
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(SnapshotError::Version { found: version });
    }
    let word =
        |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes of a header"));
    let hash_at = |at: usize| Hash(header[at..at + 32].try_into().expect("32 bytes of a header"));
    let state = &bytes[HEADER_BYTES..];
    if word(8) != state.len() as u64 || state.len() > STATE_BYTES_MAX {
        return Err(SnapshotError::Length { expected: word(8), found: state.len() });
    }
    let (expected, found) = (hash_at(56), hash(&header[..56], state));
    if expected != found {
        return Err(SnapshotError::Hash { expected, found });
    }
    Ok(Snapshot { chain: Chain::at(word(16), hash_at(24)), state })
}

fn hash(front: &[u8], state: &[u8]) -> Hash {
    Hash::of_parts("suanli 2026 log snapshot", &[front, state])
}
