//! The writing end: bodies in, framed bytes out.

use suanli_base::Hash;

use crate::record::{BODY_BYTES_MAX, HEADER_BYTES, Header, Kind, VERSION};

/// Where a log ends: the number of the next body and the hash of the last.
///
/// Whoever writes the bytes tells the chain when they are durable ([`Chain::synced`]). Every record
/// carries that count, so that recovery can tell a write that a crash interrupted from damage to
/// what had been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    next_seq: u64,
    head: Hash,
    synced: u64,
}

impl Chain {
    /// The empty log called `name`. Logs of different names never fit each other.
    #[must_use]
    pub fn genesis(name: Hash) -> Self {
        let head = Hash::of_parts("suanli 2026 log genesis", &[name.as_bytes()]);
        Self { next_seq: 0, head, synced: 0 }
    }

    /// A log that goes on after a durable point.
    #[must_use]
    pub const fn at(next_seq: u64, head: Hash) -> Self {
        Self { next_seq, head, synced: next_seq }
    }

    /// The number that the next body gets; the first is 0.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The hash of the last body's record, or the genesis.
    #[must_use]
    pub const fn head(&self) -> Hash {
        self.head
    }

    /// How many bodies are known to be durable.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.synced
    }

    /// Frames `body` as the next record.
    ///
    /// # Panics
    /// When `body` is longer than [`BODY_BYTES_MAX`]: payloads that large belong into blobs.
    #[must_use]
    pub fn append(&mut self, body: &[u8]) -> Vec<u8> {
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes is no log entry", body.len());
        let length = u32::try_from(body.len()).expect("a body is at most 4 MiB");
        let (header, hash) = self.header(Kind::Body, length).seal(body);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(body);
        self.next_seq = self.next_seq.checked_add(1).expect("no log holds 2^64 bodies");
        self.head = hash;
        bytes
    }

    /// Says that all bodies appended so far are durable.
    pub const fn synced(&mut self) {
        self.synced = self.next_seq;
    }

    /// A record without a body that only carries the durable count. Written after a sync, and not
    /// itself synced, it lets recovery see damage to the very last bodies too.
    #[must_use]
    pub fn mark(&self) -> Vec<u8> {
        self.header(Kind::Mark, 0).seal(&[]).0.to_vec()
    }

    pub(crate) fn advance(&mut self, hash: Hash, synced: u64) {
        self.next_seq += 1;
        self.head = hash;
        self.saw_synced(synced);
    }

    pub(crate) fn saw_synced(&mut self, synced: u64) {
        self.synced = self.synced.max(synced.min(self.next_seq));
    }

    const fn header(&self, kind: Kind, length: u32) -> Header {
        Header {
            version: VERSION,
            kind: kind as u16,
            seq: self.next_seq,
            synced: self.synced,
            length,
            prev: self.head,
        }
    }
}
