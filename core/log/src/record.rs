//! One record as bytes: a fixed header, then the body (`docs/spec/log.md`).
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | magic `SLog` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | kind: 0 a body, 1 a mark |
//! | 8 | 8 | seq: the number of this body, or of the next one for a mark |
//! | 16 | 8 | synced: how many bodies were durable when this was written |
//! | 24 | 4 | length of the body |
//! | 28 | 4 | zero |
//! | 32 | 32 | prev: hash of the body before, or the genesis |
//! | 64 | 32 | hash over the 64 bytes before and the body |
//!
//! Magic, length, hash and where they lie stay in all versions, so that an old program sees that a
//! record of a new version is whole, and stops instead of taking it for damage.

use suanli_base::Hash;

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 96;

/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// What every record begins with.
pub(crate) const MAGIC: [u8; 4] = *b"SLog";

/// The version that this program writes.
pub(crate) const VERSION: u16 = 1;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Body = 0,
    Mark = 1,
}

/// The fields of a header that come before the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u16,
    pub(crate) kind: u16,
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    pub(crate) length: u32,
    pub(crate) prev: Hash,
}

/// A record whose hash fits its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) header: Header,
    pub(crate) hash: Hash,
    pub(crate) body: &'a [u8],
}

impl Whole<'_> {
    pub(crate) const fn len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

impl Header {
    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..64].copy_from_slice(self.prev.as_bytes());
        bytes
    }

    fn parse(bytes: &[u8; 64]) -> Option<Self> {
        let word = |at: usize| bytes[at..at + 8].try_into().expect("8 bytes of a header");
        let half = |at: usize| bytes[at..at + 4].try_into().expect("4 bytes of a header");
        let header = Self {
            version: u16::from_le_bytes([bytes[4], bytes[5]]),
            kind: u16::from_le_bytes([bytes[6], bytes[7]]),
            seq: u64::from_le_bytes(word(8)),
            synced: u64::from_le_bytes(word(16)),
            length: u32::from_le_bytes(half(24)),
            prev: Hash(bytes[32..64].try_into().expect("32 bytes of a header")),
        };
        (bytes[0..4] == MAGIC && header.length as usize <= BODY_BYTES_MAX).then_some(header)
    }

    /// The header with its hash, and that hash.
    pub(crate) fn seal(&self, body: &[u8]) -> ([u8; HEADER_BYTES], Hash) {
        let front = self.bytes();
        let hash = record_hash(&front, body);
        let mut bytes = [0; HEADER_BYTES];
        bytes[..64].copy_from_slice(&front);
        bytes[64..].copy_from_slice(hash.as_bytes());
        (bytes, hash)
    }
}

fn record_hash(front: &[u8; 64], body: &[u8]) -> Hash {
    Hash::of_parts("suanli 2026 log record", &[front, body])
}

/// The header that `bytes` begin with, and how many bytes its record takes, if that many are there.
/// The hash is not looked at.
pub(crate) fn candidate(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::parse(bytes.first_chunk::<64>()?)?;
    let record = bytes.get(..HEADER_BYTES + header.length as usize)?;
    Some((header, record))
}

/// The record that `bytes` begin with, if it is there whole.
pub(crate) fn whole(bytes: &[u8]) -> Option<Whole<'_>> {
    let (header, record) = candidate(bytes)?;
    let front = record.first_chunk::<64>()?;
    let (_, rest) = record.split_at(64);
    let (hash, body) = rest.split_at(HEADER_BYTES - 64);
    // Over the bytes as they lie there, so that what this version does not read is covered too.
    let found = record_hash(front, body);
    (found.as_bytes() == hash).then_some(Whole { header, hash: found, body })
}
