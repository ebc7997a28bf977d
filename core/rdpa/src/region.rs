//! Regions: named, versioned runs of bytes cut into hashed chunks, and the bookkeeping of a staging
//! area. No bytes are held here, only names, hashes and bitmaps.

use crate::limits::{CHUNK_BYTES_MAX, CHUNKS_MAX, REGION_NAME_CHARS_MAX};
use serde::{Deserialize, Serialize};
use suanli_base::{Fault, Hash};

/// The name of a region: path-like text such as `job/<hex>/theta`.
///
/// One to 160 characters out of `a-z 0-9 - _ . /`; no segment is empty, `.` or `..`, so a name can
/// be a path below a folder without further thought.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionName(String);

/// A text is no region name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a region name of 1 to {REGION_NAME_CHARS_MAX} characters from a-z 0-9 - _ . / without empty, \".\" or \"..\" segments, found {found:?}"
)]
pub struct BadRegionName {
    /// The beginning of what was found.
    pub found: String,
}

impl RegionName {
    /// Checks and takes a text.
    ///
    /// # Errors
    /// [`BadRegionName`] when it breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, BadRegionName> {
        let text = text.into();
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/');
        let good = (1..=REGION_NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && text.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if good { Ok(Self(text)) } else { Err(BadRegionName { found: start_of(&text) }) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn start_of(text: &str) -> String {
    text.chars().take(32).collect()
}

impl core::fmt::Display for RegionName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RegionName {
    type Error = BadRegionName;
    fn try_from(text: String) -> Result<Self, BadRegionName> {
        Self::new(text)
    }
}

impl core::str::FromStr for RegionName {
    type Err = BadRegionName;
    fn from_str(text: &str) -> Result<Self, BadRegionName> {
        Self::new(text)
    }
}

impl From<RegionName> for String {
    fn from(name: RegionName) -> Self {
        name.0
    }
}

/// How a run of bytes is cut into chunks: all of `chunk_bytes` but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Length of the whole.
    pub bytes: u64,
    /// Length of each chunk but the last.
    pub chunk_bytes: u32,
}

impl Shape {
    /// How many chunks there are.
    #[must_use]
    pub const fn chunk_count(&self) -> u64 {
        if self.chunk_bytes == 0 { 0 } else { self.bytes.div_ceil(self.chunk_bytes as u64) }
    }

    /// The length of chunk `index`, if there is one.
    #[must_use]
    pub fn chunk_len(&self, index: u32) -> Option<u32> {
        let start = u64::from(index).checked_mul(u64::from(self.chunk_bytes))?;
        let left = self.bytes.checked_sub(start).filter(|left| *left > 0)?;
        Some(u32::try_from(left).map_or(self.chunk_bytes, |left| left.min(self.chunk_bytes)))
    }

    /// The chunks that the bytes `start..end` touch; empty when the range is. A byte range is always
    /// read as whole chunks, because only whole chunks can be verified.
    #[must_use]
    pub fn chunks_of(&self, start: u64, end: u64) -> core::ops::Range<u32> {
        let end = end.min(self.bytes);
        if start >= end || self.chunk_bytes == 0 {
            return 0..0;
        }
        let size = u64::from(self.chunk_bytes);
        let index = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        index(start / size)..index(end.div_ceil(size))
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`RegionError`] for an empty or oversized region or chunk.
    pub fn check(&self) -> Result<(), RegionError> {
        if self.chunk_bytes == 0 || self.chunk_bytes > CHUNK_BYTES_MAX {
            return Err(RegionError::ChunkBytes { found: self.chunk_bytes });
        }
        let found = self.chunk_count();
        if found == 0 || found > CHUNKS_MAX as u64 {
            return Err(RegionError::ChunkCount { found });
        }
        Ok(())
    }
}

/// What is known of a region at one version. A version is immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// The version described.
    pub version: u64,
    /// Length and chunk length.
    pub shape: Shape,
    /// The Merkle root over `chunks`.
    pub root: Hash,
    /// The hash of each chunk.
    pub chunks: Vec<Hash>,
}

/// A description of a region contradicts itself or exceeds a bound: the fault of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The chunk length is out of bounds.
    #[error("chunks of {found} bytes, expected 1 to {CHUNK_BYTES_MAX}")]
    ChunkBytes {
        /// The length found.
        found: u32,
    },
    /// The number of chunks is out of bounds.
    #[error("{found} chunks, expected 1 to {CHUNKS_MAX}")]
    ChunkCount {
        /// The count found.
        found: u64,
    },
    /// Not as many hashes as chunks.
    #[error("{found} chunk hashes for {expected} chunks")]
    HashCount {
        /// Chunks by length.
        expected: u64,
        /// Hashes given.
        found: usize,
    },
    /// The root is not that of the hashes.
    #[error("the root of the chunk hashes is {}, the region claims {}", computed.short(), claimed.short())]
    Root {
        /// What the hashes give.
        computed: Hash,
        /// What was claimed.
        claimed: Hash,
    },
}

impl RegionError {
    /// Whose fault it is: that of the maker of the description.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

impl RegionInfo {
    /// Describes a region from its chunk hashes, computing the root.
    ///
    /// # Errors
    /// [`RegionError`] when shape and hashes do not fit.
    pub fn new(version: u64, shape: Shape, chunks: Vec<Hash>) -> Result<Self, RegionError> {
        let info = Self { version, shape, root: suanli_params::root(&chunks), chunks };
        info.check_counts()?;
        Ok(info)
    }

    /// Cuts and hashes `bytes`: for tests and small regions.
    ///
    /// # Errors
    /// [`RegionError`] for empty bytes or a bad chunk length.
    pub fn of(version: u64, bytes: &[u8], chunk_bytes: u32) -> Result<Self, RegionError> {
        let shape = Shape { bytes: bytes.len() as u64, chunk_bytes };
        shape.check()?;
        let size = usize::try_from(chunk_bytes).expect("32 bits fit");
        Self::new(version, shape, bytes.chunks(size).map(Hash::of).collect())
    }

    /// Checks bounds, counts and the root.
    ///
    /// # Errors
    /// [`RegionError`] that says what does not fit.
    pub fn check(&self) -> Result<(), RegionError> {
        self.check_counts()?;
        let computed = suanli_params::root(&self.chunks);
        if computed != self.root {
            return Err(RegionError::Root { computed, claimed: self.root });
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), RegionError> {
        self.shape.check()?;
        let expected = self.shape.chunk_count();
        if expected != self.chunks.len() as u64 {
            return Err(RegionError::HashCount { expected, found: self.chunks.len() });
        }
        Ok(())
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunks.len()).expect("at most CHUNKS_MAX chunks")
    }
}

/// A set of chunk indices below a fixed count: what arrived, what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireChunkSet", into = "WireChunkSet")]
pub struct ChunkSet {
    len: u32,
    words: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireChunkSet {
    len: u32,
    words: Vec<u64>,
}

/// The words of a chunk set do not fit its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk set of {len} chunks in {words} words, or with bits past its end")]
pub struct BadChunkSet {
    len: u32,
    words: usize,
}

impl TryFrom<WireChunkSet> for ChunkSet {
    type Error = BadChunkSet;
    fn try_from(wire: WireChunkSet) -> Result<Self, BadChunkSet> {
        let WireChunkSet { len, words } = wire;
        let bad = BadChunkSet { len, words: words.len() };
        let past_end = match (len % 64, words.last()) {
            (0, _) | (_, None) => 0,
            (bits, Some(last)) => last >> bits,
        };
        let fits = len as usize <= CHUNKS_MAX && words.len() == (len as usize).div_ceil(64);
        if fits && past_end == 0 { Ok(Self { len, words }) } else { Err(bad) }
    }
}

impl From<ChunkSet> for WireChunkSet {
    fn from(set: ChunkSet) -> Self {
        Self { len: set.len, words: set.words }
    }
}

impl ChunkSet {
    /// The empty set below `len`.
    ///
    /// # Panics
    /// When `len` is above [`CHUNKS_MAX`]: a shape is checked before.
    #[must_use]
    pub fn empty(len: u32) -> Self {
        assert!(len as usize <= CHUNKS_MAX, "a checked shape has at most CHUNKS_MAX chunks");
        Self { len, words: vec![0; (len as usize).div_ceil(64)] }
    }

    /// The count it is a set below.
    #[must_use]
    pub const fn bound(&self) -> u32 {
        self.len
    }

    /// Whether `index` is in.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        index < self.len && self.words[index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Puts `index` in; false when it was there or does not exist.
    pub fn insert(&mut self, index: u32) -> bool {
        let new = index < self.len && !self.contains(index);
        if new {
            self.words[index as usize / 64] |= 1 << (index % 64);
        }
        new
    }

    /// Takes `index` out; false when it was not there.
    pub fn remove(&mut self, index: u32) -> bool {
        let there = self.contains(index);
        if there {
            self.words[index as usize / 64] &= !(1 << (index % 64));
        }
        there
    }

    /// How many are in.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether all are in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() == self.len
    }

    /// The indices not in, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        let in_word = |(at, word): (usize, &u64)| {
            let (first, word) = (at as u32 * 64, *word);
            // A full word is skipped at once.
            let bits = if word == u64::MAX { 0 } else { 64 };
            (0..bits).filter(move |bit| word >> bit & 1 == 0).map(move |bit| first + bit)
        };
        self.words.iter().enumerate().flat_map(in_word).take_while(|index| *index < self.len)
    }
}

/// What became of a staged chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// New, and in place.
    Placed,
    /// The same chunk with the same hash was there: nothing changed.
    Duplicate,
    /// Another content was there under this index: the first stays.
    Conflict,
}

/// The books of a staging area: which chunks have arrived and their hashes, never their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    shape: Shape,
    root: Hash,
    placed: ChunkSet,
    hashes: Vec<Hash>,
}

/// A chunk cannot be placed: there is none of that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk {index} of a staging area with {count} chunks")]
pub struct NoSuchChunk {
    /// The index asked for.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// A staging area cannot be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incomplete {
    /// Chunks have not arrived.
    #[error("{missing} of {count} chunks have not arrived")]
    Missing {
        /// How many are missing.
        missing: u32,
        /// How many there are in all.
        count: u32,
    },
    /// All arrived, but they are not what was announced.
    #[error("the chunks give root {}, announced was {}", computed.short(), announced.short())]
    Root {
        /// What arrived.
        computed: Hash,
        /// What was announced.
        announced: Hash,
    },
}

impl Staging {
    /// An empty area for a region of `shape` that was announced with `root`.
    ///
    /// # Errors
    /// [`RegionError`] when the shape is out of bounds.
    pub fn new(shape: Shape, root: Hash) -> Result<Self, RegionError> {
        shape.check()?;
        let count = u32::try_from(shape.chunk_count()).expect("at most CHUNKS_MAX chunks");
        let hashes = vec![Hash::ZERO; count as usize];
        Ok(Self { shape, root, placed: ChunkSet::empty(count), hashes })
    }

    /// Books chunk `index` with the hash of what arrived.
    ///
    /// # Errors
    /// [`NoSuchChunk`] past the end.
    pub fn place(&mut self, index: u32, hash: Hash) -> Result<Placement, NoSuchChunk> {
        let count = self.placed.bound();
        let slot = self.hashes.get_mut(index as usize).ok_or(NoSuchChunk { index, count })?;
        if self.placed.insert(index) {
            *slot = hash;
            return Ok(Placement::Placed);
        }
        Ok(if *slot == hash { Placement::Duplicate } else { Placement::Conflict })
    }

    /// Which chunks are in place.
    #[must_use]
    pub const fn placed(&self) -> &ChunkSet {
        &self.placed
    }

    /// Length and chunk length.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The root that was announced.
    #[must_use]
    pub const fn announced(&self) -> Hash {
        self.root
    }

    /// The description of the finished region as `version`, when everything is there and gives the
    /// announced root.
    ///
    /// # Errors
    /// [`Incomplete`] otherwise.
    ///
    /// # Panics
    /// Never: the shape was checked when the area was made.
    pub fn complete(&self, version: u64) -> Result<RegionInfo, Incomplete> {
        let count = self.placed.bound();
        let missing = count - self.placed.count();
        if missing > 0 {
            return Err(Incomplete::Missing { missing, count });
        }
        let info = RegionInfo::new(version, self.shape, self.hashes.clone())
            .expect("one hash a chunk of a checked shape");
        if info.root != self.root {
            return Err(Incomplete::Root { computed: info.root, announced: self.root });
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_name_is_a_relative_path_of_plain_characters() {
        for good in ["a", "job/00ff/theta", "x-1_2.bin", &"a".repeat(REGION_NAME_CHARS_MAX)] {
            assert!(RegionName::new(good).is_ok(), "{good}");
        }
        let long = "a".repeat(REGION_NAME_CHARS_MAX + 1);
        for bad in ["", "/", "a/", "/a", "a//b", "a/../b", ".", "A", "a b", "算", &long] {
            assert!(RegionName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_byte_of_a_shape_is_in_exactly_one_chunk() {
        for (bytes, chunk_bytes) in [(1, 1), (10, 3), (9, 3), (65_536, 65_536), (65_537, 65_536)] {
            let shape = Shape { bytes, chunk_bytes };
            let count = u32::try_from(shape.chunk_count()).unwrap();
            let sum: u64 = (0..count).map(|i| u64::from(shape.chunk_len(i).unwrap())).sum();
            assert_eq!((sum, shape.chunk_len(count)), (bytes, None), "{shape:?}");
            assert_eq!(shape.chunks_of(0, bytes), 0..count);
        }
        let shape = Shape { bytes: 10, chunk_bytes: 3 };
        assert_eq!(shape.chunks_of(2, 4), 0..2);
        assert_eq!(shape.chunks_of(3, 3), 0..0);
        assert_eq!(shape.chunks_of(9, 99), 3..4);
        assert!(Shape { bytes: u64::MAX, chunk_bytes: 1 }.check().is_err());
        assert!(Shape { bytes: 1, chunk_bytes: 0 }.check().is_err());
        assert!(Shape { bytes: 0, chunk_bytes: 1 }.check().is_err());
    }

    #[test]
    fn a_region_whose_root_or_count_is_wrong_is_refused() {
        let good = RegionInfo::of(3, &[7; 100], 33).unwrap();
        assert_eq!((good.check(), good.chunk_count()), (Ok(()), 4));
        let mut other_root = good.clone();
        other_root.root.0[0] ^= 1;
        assert!(matches!(other_root.check(), Err(RegionError::Root { .. })));
        let mut short = good.clone();
        short.chunks.pop();
        assert!(matches!(short.check(), Err(RegionError::HashCount { expected: 4, found: 3 })));
        let mut longer = good;
        longer.shape.bytes += 33;
        assert!(matches!(longer.check(), Err(RegionError::HashCount { .. })));
    }

    #[test]
    fn a_chunk_set_lists_what_is_missing_and_survives_the_wire() {
        let mut set = ChunkSet::empty(130);
        for index in (0..130).filter(|index| index % 3 != 0) {
            assert!(set.insert(index) && !set.insert(index));
        }
        assert!(!set.insert(130));
        let missing: Vec<u32> = set.missing().collect();
        assert_eq!(missing, (0..130).filter(|index| index % 3 == 0).collect::<Vec<_>>());
        let bytes = postcard::to_stdvec(&set).unwrap();
        assert_eq!(postcard::from_bytes::<ChunkSet>(&bytes), Ok(set.clone()));
        missing.into_iter().for_each(|index| assert!(set.insert(index)));
        assert!(set.is_full() && set.missing().next().is_none());
        assert!(set.remove(5) && !set.remove(5) && !set.is_full());
    }

    #[test]
    fn a_chunk_set_with_words_that_do_not_fit_its_count_is_refused() {
        for (len, words) in [(64, vec![]), (64, vec![0, 0]), (3, vec![8]), (u32::MAX, vec![0])] {
            let bytes = postcard::to_stdvec(&WireChunkSet { len, words }).unwrap();
            assert!(postcard::from_bytes::<ChunkSet>(&bytes).is_err(), "{len}");
        }
    }

    #[test]
    fn staging_keeps_the_first_content_and_completes_with_the_announced_root_only() {
        let info = RegionInfo::of(1, b"abcdefgh", 3).unwrap();
        let mut staging = Staging::new(info.shape, info.root).unwrap();
        assert_eq!(staging.place(1, info.chunks[1]), Ok(Placement::Placed));
        assert_eq!(staging.place(1, info.chunks[1]), Ok(Placement::Duplicate));
        assert_eq!(staging.place(1, info.chunks[0]), Ok(Placement::Conflict));
        assert_eq!(staging.place(3, info.chunks[0]), Err(NoSuchChunk { index: 3, count: 3 }));
        assert_eq!(staging.complete(2), Err(Incomplete::Missing { missing: 2, count: 3 }));
        staging.place(0, info.chunks[0]).unwrap();
        let mut other = staging.clone();
        staging.place(2, info.chunks[2]).unwrap();
        assert_eq!(staging.complete(1), Ok(info.clone()));
        other.place(2, info.chunks[0]).unwrap();
        assert!(matches!(other.complete(1), Err(Incomplete::Root { .. })));
    }
}
