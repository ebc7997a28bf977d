//! The reading end: recovery as a fold over the bytes of a segment.
//!
//! What a crash may do to bytes that were not yet durable: lose them, tear them, keep later ones
//! and lose earlier ones. Such an end is cut and reported as [`Tail::Torn`]. Damage to what was
//! durable is never cut: it is an error. The two are told apart by the durable count that every
//! record carries: a damaged body followed, anywhere, by a whole record that counts it as durable
//! was acknowledged once.
//!
//! A whole record counts as proof only if its number and its count fit this place, so records of
//! another log inside a torn body do not; bodies are assumed not to hold records made for this very
//! place by somebody who wants this log to stop.

use suanli_base::{Fault, Hash};

use crate::chain::Chain;
use crate::record::{HEADER_BYTES, Kind, MAGIC, VERSION, Whole, candidate, whole};

/// One recovered body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub seq: u64,
    /// Where its header begins in the segment.
    pub offset: usize,
    /// The body.
    pub body: &'a [u8],
    /// The hash of the record: the chain's head after it.
    pub hash: Hash,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record.
    Clean,
    /// With the remains of a write that a crash interrupted before it was acknowledged.
    Torn {
        /// Where the remains begin.
        at: usize,
        /// How many bytes they are.
        bytes: usize,
    },
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery<'a> {
    /// The bodies, in order.
    pub records: Vec<Record<'a>>,
    /// Where the log goes on. Its durable count is what the records prove; whoever recovers makes
    /// the rest durable before saying so.
    pub chain: Chain,
    /// How many bytes of the segment stay; the file is cut to this length.
    pub valid_len: usize,
    /// How the segment ends.
    pub tail: Tail,
}

/// A log was refused. Nothing has been changed; what to do is a decision for its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A body that was durable does not match its hash, or is gone.
    #[error(
        "segment {segment}, byte {offset}: record {seq} is damaged, though the whole record at byte {witness} says that it was durable; restore this file from a copy"
    )]
    Damaged {
        /// Number of the segment's first body.
        segment: u64,
        /// Where the damage begins.
        offset: usize,
        /// The body expected there.
        seq: u64,
        /// Where the record lies that proves it.
        witness: usize,
    },
    /// A whole record continues another log than this one.
    #[error(
        "segment {segment}, byte {offset}: record {seq} continues {}, the log stands at {}; this file belongs to another log or another history", found.short(), expected.short()
    )]
    Forked {
        /// Number of the segment's first body.
        segment: u64,
        /// Where the record begins.
        offset: usize,
        /// Its number.
        seq: u64,
        /// The head it should continue.
        expected: Hash,
        /// The head it continues.
        found: Hash,
    },
    /// A whole record has another number than the one that comes next.
    #[error(
        "segment {segment}, byte {offset}: expected record {expected}, found record {found}; records are missing or repeated, restore the file from a copy"
    )]
    Order {
        /// Number of the segment's first body.
        segment: u64,
        /// Where the record begins.
        offset: usize,
        /// The number that comes next.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A whole record of a version or kind that this program does not know.
    #[error(
        "segment {segment}, byte {offset}: a record of version {version}, kind {kind}, which this program does not know; run the version that wrote it"
    )]
    Unknown {
        /// Number of the segment's first body.
        segment: u64,
        /// Where the record begins.
        offset: usize,
        /// Its version.
        version: u16,
        /// Its kind.
        kind: u16,
    },
    /// A segment does not begin where the one before it ends.
    #[error(
        "the log goes on with record {expected}, its next file begins with record {found}; restore the records between from a copy"
    )]
    Gap {
        /// The number that comes next.
        expected: u64,
        /// The number the file begins with.
        found: u64,
    },
}

impl LogError {
    /// Whose fault it is: this machine's, its disk or whoever touched its files.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Ours
    }
}

/// Reads a segment from where the log stands before it. Pure: the caller cuts the file to
/// `valid_len` and makes it durable before it appends.
///
/// # Errors
/// [`LogError`] when something durable is damaged, or the bytes continue another log.
pub fn recover(bytes: &[u8], start: Chain) -> Result<Recovery<'_>, LogError> {
    let segment = start.next_seq();
    let mut chain = start;
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(record) = whole(&bytes[at..]) else {
            return cut(bytes, at, segment, chain, records);
        };
        check(&record, at, segment, &chain)?;
        let Whole { header, hash, body } = record;
        if header.kind == Kind::Body as u16 {
            records.push(Record { seq: header.seq, offset: at, body, hash });
            chain.advance(hash, header.synced);
        } else {
            chain.saw_synced(header.synced);
        }
        at += record.len();
    }
    Ok(Recovery { records, chain, valid_len: at, tail: Tail::Clean })
}

/// Reads a segment by its name: as [`recover`], but its first body must be the next of the log.
///
/// # Errors
/// [`LogError::Gap`] when it is not, otherwise as [`recover`].
pub fn recover_segment(
    first_seq: u64,
    bytes: &[u8],
    start: Chain,
) -> Result<Recovery<'_>, LogError> {
    if first_seq != start.next_seq() {
        return Err(LogError::Gap { expected: start.next_seq(), found: first_seq });
    }
    recover(bytes, start)
}

/// A whole record must be the one that comes next.
fn check(record: &Whole<'_>, offset: usize, segment: u64, chain: &Chain) -> Result<(), LogError> {
    let header = &record.header;
    let mark = header.kind == Kind::Mark as u16 && record.body.is_empty();
    if header.version != VERSION || !(header.kind == Kind::Body as u16 || mark) {
        let (version, kind) = (header.version, header.kind);
        return Err(LogError::Unknown { segment, offset, version, kind });
    }
    if header.seq != chain.next_seq() {
        let (expected, found) = (chain.next_seq(), header.seq);
        return Err(LogError::Order { segment, offset, expected, found });
    }
    if header.prev != chain.head() {
        let (expected, found) = (chain.head(), header.prev);
        return Err(LogError::Forked { segment, offset, seq: header.seq, expected, found });
    }
    Ok(())
}

/// The bytes at `at` are no whole record: a torn end, unless something after them proves otherwise.
fn cut<'a>(
    bytes: &[u8],
    at: usize,
    segment: u64,
    chain: Chain,
    records: Vec<Record<'a>>,
) -> Result<Recovery<'a>, LogError> {
    let seq = chain.next_seq();
    if let Some(witness) = witness(bytes, at, seq) {
        return Err(LogError::Damaged { segment, offset: at, seq, witness });
    }
    let tail = Tail::Torn { at, bytes: bytes.len() - at };
    Ok(Recovery { records, chain, valid_len: at, tail })
}

/// Where after `at` a whole record lies that counts body `seq` as durable.
fn witness(bytes: &[u8], at: usize, seq: u64) -> Option<usize> {
    // No more bodies than this fit between the damage and the end of the segment.
    let seq_end = seq.saturating_add(((bytes.len() - at) / HEADER_BYTES + 1) as u64);
    let fits = |offset: &usize| {
        let Some((header, _)) = candidate(&bytes[*offset..]) else { return false };
        let counts = header.synced > seq && header.synced <= header.seq;
        counts && header.seq <= seq_end && whole(&bytes[*offset..]).is_some()
    };
    let starts = bytes.get(at + 1..)?.windows(MAGIC.len()).enumerate();
    let magics = starts.filter(|(_, window)| *window == MAGIC).map(|(index, _)| at + 1 + index);
    magics.into_iter().find(fits)
}
