//! The books of which versions of a region are kept, and for whom.
//!
//! A version is a list of chunks, each a serial number of the holder's and a length. Publishing copies
//! on write: a chunk that did not change keeps its serial number and stands in both versions, so an old
//! version costs only the chunks that the newest no longer has. Readers pin what they have open; a
//! version that nobody has pinned goes when it is no longer among the newest few.
//!
//! What old versions may cost is bounded, in bytes of distinct chunks and in their number (each costs
//! a list). At a bound old versions without a pin go first, oldest first, then pinned ones, oldest
//! first; their readers are answered [`Code::VersionGone`](crate::Code::VersionGone) and open again.
//! The newest version never goes.
//!
//! Not for: the bytes of chunks (the holder frees those it is told of).
//!
//! Invariants: a chunk is told to be freed once, when the last version with it goes; the bytes of old
//! versions are those of their distinct chunks that the newest does not have; after each change both
//! bounds hold. Source: `docs/spec/rdpa.md`, section 7.

use std::collections::BTreeMap;
use std::sync::Arc;
use suanli_base::Fault;

/// A stored chunk. The same serial number is the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkRef {
    /// Given by the holder, never to other bytes.
    pub serial: u64,
    /// Its length.
    pub bytes: u32,
}

/// What old versions may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionLimits {
    /// So many of the newest versions are kept without a pin; at least 1.
    pub keep_newest: usize,
    /// Bytes of chunks that only old versions have.
    pub pinned_bytes_max: u64,
    /// Versions in all, the newest among them; at least 1.
    pub versions_max: usize,
}

impl Default for VersionLimits {
    fn default() -> Self {
        Self { keep_newest: 1, pinned_bytes_max: 1 << 30, versions_max: 64 }
    }
}

/// What went: versions that can no longer be read, and chunks whose bytes can be freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Versions, in the order in which they went.
    pub versions: Vec<DroppedVersion>,
    /// Serial numbers of chunks that no version has any longer, ascending.
    pub chunks: Vec<u64>,
}

/// A version that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedVersion {
    /// Which.
    pub version: u64,
    /// By how many readers it was pinned: they are answered VERSION_GONE.
    pub pins: u32,
}

/// The books were asked for something that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionsError {
    /// Versions only rise.
    #[error("version {found} is to be published, the newest is {newest}; versions only rise")]
    NotNewer {
        /// The version to be published.
        found: u64,
        /// The newest.
        newest: u64,
    },
    /// One serial number with two lengths.
    #[error("chunk {serial} has {expected} bytes, it is now said to have {found}")]
    ChunkBytes {
        /// Which chunk.
        serial: u64,
        /// What is in the books.
        expected: u32,
        /// What was said.
        found: u32,
    },
    /// The version is not kept, or never was.
    #[error("version {version} is not kept; open the newest")]
    Gone {
        /// Which version.
        version: u64,
    },
    /// An unpin without a pin.
    #[error("version {version} is kept, but not pinned by anybody")]
    NotPinned {
        /// Which version.
        version: u64,
    },
}

impl VersionsError {
    /// Whose fault it is: a version that is gone is nobody's, the rest are defects of the holder.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Gone { .. } => Fault::Weather,
            _ => Fault::Ours,
        }
    }
}

#[derive(Clone, Debug)]
struct Kept {
    chunks: Arc<[ChunkRef]>,
    pins: u32,
}

/// One stored chunk: in how many kept versions, and whether the newest is one of them.
#[derive(Clone, Copy, Debug)]
struct Stored {
    bytes: u32,
    versions: u32,
    in_newest: bool,
}

/// Which versions of one region are kept.
#[derive(Clone, Debug)]
pub struct Versions {
    limits: VersionLimits,
    kept: BTreeMap<u64, Kept>,
    stored: BTreeMap<u64, Stored>,
    old_bytes: u64,
}

impl Versions {
    /// The books of a region without a version.
    #[must_use]
    pub const fn new(limits: VersionLimits) -> Self {
        Self { limits, kept: BTreeMap::new(), stored: BTreeMap::new(), old_bytes: 0 }
    }

    /// Makes `version` the newest, and lets go what is no longer kept.
    ///
    /// # Errors
    /// [`VersionsError::NotNewer`] and [`VersionsError::ChunkBytes`]: then nothing has changed.
    pub fn publish(
        &mut self,
        version: u64,
        chunks: Arc<[ChunkRef]>,
    ) -> Result<Dropped, VersionsError> {
        if let Some(newest) = self.newest().filter(|newest| version <= *newest) {
            return Err(VersionsError::NotNewer { found: version, newest });
        }
        let distinct = self.distinct_checked(&chunks)?;
        self.retire_newest();
        for (serial, bytes) in distinct {
            let new = Stored { bytes, versions: 0, in_newest: false };
            let stored = self.stored.entry(serial).or_insert(new);
            if stored.versions > 0 {
                self.old_bytes -= u64::from(bytes);
            }
            stored.versions += 1;
            stored.in_newest = true;
        }
        self.kept.insert(version, Kept { chunks, pins: 0 });
        Ok(self.let_go())
    }

    /// Keeps `version` readable until as many unpins, within the bounds.
    ///
    /// # Errors
    /// [`VersionsError::Gone`].
    pub fn pin(&mut self, version: u64) -> Result<(), VersionsError> {
        let kept = self.kept.get_mut(&version).ok_or(VersionsError::Gone { version })?;
        kept.pins = kept.pins.saturating_add(1);
        Ok(())
    }

    /// Takes one pin back. Of a version that went in spite of its pins there is nothing to take back.
    ///
    /// # Errors
    /// [`VersionsError::NotPinned`] when the version is kept without a pin: a defect of the caller.
    pub fn unpin(&mut self, version: u64) -> Result<Dropped, VersionsError> {
        let Some(kept) = self.kept.get_mut(&version) else { return Ok(Dropped::default()) };
        kept.pins = kept.pins.checked_sub(1).ok_or(VersionsError::NotPinned { version })?;
        Ok(self.let_go())
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.kept.last_key_value().map(|(version, _)| *version)
    }

    /// The oldest version that can still be read.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.kept.first_key_value().map(|(version, _)| *version)
    }

    /// The chunks of a version, if it is kept.
    #[must_use]
    pub fn chunks(&self, version: u64) -> Option<&Arc<[ChunkRef]>> {
        self.kept.get(&version).map(|kept| &kept.chunks)
    }

    /// Bytes of distinct chunks that only versions other than the newest have.
    #[must_use]
    pub const fn old_bytes(&self) -> u64 {
        self.old_bytes
    }

    /// The chunks of a list without repetition, each of the one length it has here and there.
    fn distinct_checked(&self, chunks: &[ChunkRef]) -> Result<BTreeMap<u64, u32>, VersionsError> {
        let mut distinct = BTreeMap::new();
        for ChunkRef { serial, bytes } in chunks.iter().copied() {
            let known = self.stored.get(&serial).map(|stored| stored.bytes);
            let expected = known.unwrap_or(*distinct.entry(serial).or_insert(bytes));
            distinct.insert(serial, expected);
            if expected != bytes {
                return Err(VersionsError::ChunkBytes { serial, expected, found: bytes });
            }
        }
        Ok(distinct)
    }

    /// What was the newest is now an old version: all of its chunks are old ones.
    fn retire_newest(&mut self) {
        let Some((_, newest)) = self.kept.last_key_value() else { return };
        for chunk in newest.chunks.iter() {
            let stored = self.stored.get_mut(&chunk.serial).expect("kept chunks are in the books");
            if core::mem::take(&mut stored.in_newest) {
                self.old_bytes += u64::from(stored.bytes);
            }
        }
    }

    fn let_go(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        while let Some(version) = self.next_to_go() {
            self.drop_version(version, &mut dropped);
        }
        dropped.chunks.sort_unstable();
        dropped
    }

    /// The next version that is not to be kept, if any; never the newest.
    fn next_to_go(&self) -> Option<u64> {
        let newest = self.newest()?;
        let keep = self.limits.keep_newest.max(1);
        let old = || self.kept.iter().filter(move |(version, _)| **version != newest);
        let unpinned = |(_, kept): &(&u64, &Kept)| kept.pins == 0;
        let behind = self.kept.len().saturating_sub(keep);
        let surplus = self.kept.iter().take(behind).find(unpinned);
        let over = self.old_bytes > self.limits.pinned_bytes_max
            || self.kept.len() > self.limits.versions_max.max(1);
        let at_bound = || old().find(unpinned).or_else(|| old().next()).filter(|_| over);
        surplus.or_else(at_bound).map(|(version, _)| *version)
    }

    fn drop_version(&mut self, version: u64, dropped: &mut Dropped) {
        let kept = self.kept.remove(&version).expect("it was found among the kept");
        let mut serials: Vec<u64> = kept.chunks.iter().map(|chunk| chunk.serial).collect();
        serials.sort_unstable();
        serials.dedup();
        for serial in serials {
            let stored = self.stored.get_mut(&serial).expect("kept chunks are in the books");
            stored.versions -= 1;
            if stored.versions == 0 {
                // The newest is kept, so no chunk of it comes here.
                self.old_bytes -= u64::from(stored.bytes);
                self.stored.remove(&serial);
                dropped.chunks.push(serial);
            }
        }
        dropped.versions.push(DroppedVersion { version, pins: kept.pins });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(serials: &[u64]) -> Arc<[ChunkRef]> {
        serials.iter().map(|serial| ChunkRef { serial: *serial, bytes: 10 }).collect()
    }

    fn books(pinned_bytes_max: u64) -> Versions {
        Versions::new(VersionLimits { pinned_bytes_max, ..VersionLimits::default() })
    }

    fn gone(version: u64, pins: u32) -> DroppedVersion {
        DroppedVersion { version, pins }
    }

    #[test]
    fn an_unpinned_old_version_goes_at_once_and_shared_chunks_stay() {
        let mut books = books(1000);
        assert_eq!(books.publish(1, list(&[1, 2, 3])), Ok(Dropped::default()));
        let dropped = books.publish(2, list(&[1, 4, 3])).unwrap();
        assert_eq!(dropped, Dropped { versions: vec![gone(1, 0)], chunks: vec![2] });
        assert_eq!((books.oldest(), books.old_bytes()), (Some(2), 0));
        assert_eq!(books.pin(1), Err(VersionsError::Gone { version: 1 }));
    }

    #[test]
    fn a_pinned_version_costs_only_what_changed_and_goes_with_its_last_pin() {
        let mut books = books(1000);
        books.publish(1, list(&[1, 2, 3])).unwrap();
        books.pin(1).unwrap();
        books.pin(1).unwrap();
        assert_eq!(books.publish(2, list(&[1, 4, 3])), Ok(Dropped::default()));
        assert_eq!(books.old_bytes(), 10);
        assert_eq!(books.unpin(1), Ok(Dropped::default()));
        let last = Dropped { versions: vec![gone(1, 0)], chunks: vec![2] };
        assert_eq!(books.unpin(1), Ok(last));
        assert_eq!(books.unpin(2), Err(VersionsError::NotPinned { version: 2 }));
    }

    #[test]
    fn above_the_bound_the_oldest_pinned_version_goes_and_its_readers_are_told() {
        let mut books = books(20);
        for version in 1..=3 {
            books.publish(version, list(&[version, 99])).unwrap();
            books.pin(version).unwrap();
        }
        assert_eq!(books.old_bytes(), 20);
        let dropped = books.publish(4, list(&[4, 99])).unwrap();
        assert_eq!(dropped, Dropped { versions: vec![gone(1, 1)], chunks: vec![1] });
        assert_eq!(books.unpin(1), Ok(Dropped::default()), "its reader closes later");
        assert_eq!(books.chunks(1), None);
    }

    #[test]
    fn lists_are_bounded_too() {
        let limits = VersionLimits { versions_max: 3, ..VersionLimits::default() };
        let mut books = Versions::new(limits);
        for version in 1..=10 {
            books.publish(version, list(&[1])).unwrap();
            books.pin(version).unwrap();
        }
        assert_eq!((books.oldest(), books.old_bytes()), (Some(8), 0));
    }

    #[test]
    fn a_chunk_has_one_length_and_versions_rise() {
        let mut books = books(0);
        books.publish(5, list(&[1])).unwrap();
        let lower = VersionsError::NotNewer { found: 5, newest: 5 };
        assert_eq!(books.publish(5, list(&[1])), Err(lower));
        let other = [ChunkRef { serial: 1, bytes: 11 }].into();
        let error = VersionsError::ChunkBytes { serial: 1, expected: 10, found: 11 };
        assert_eq!(books.publish(6, other), Err(error));
        let twice = [ChunkRef { serial: 7, bytes: 1 }, ChunkRef { serial: 7, bytes: 2 }].into();
        let error = VersionsError::ChunkBytes { serial: 7, expected: 1, found: 2 };
        assert_eq!(books.publish(6, twice), Err(error));
        assert_eq!((books.newest(), books.stored.len()), (Some(5), 1), "nothing has changed");
    }
}
