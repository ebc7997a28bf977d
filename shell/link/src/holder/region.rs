//! One region: its newest version, and older ones that somebody still reads.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use suanli_base::{Fault, Hash};
use suanli_rdpa::{
    ChunkRef, Code, RegionError, RegionInfo, RegionStat, Shape, VersionLimits, Versions,
};

/// Regions cannot be held as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The bytes cannot be cut into chunks of this length.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A changed chunk has another length than the one it takes the place of, or none is there.
    #[error("chunk {chunk} has {found} bytes, expected {expected}")]
    Chunk {
        /// Which.
        chunk: u32,
        /// Bytes of the chunk it takes the place of.
        expected: u32,
        /// Bytes given.
        found: usize,
    },
    /// There is no region of that name.
    #[error("no region of that name is held here")]
    NoSuchRegion,
    /// Somebody else has published meanwhile.
    #[error("the region is at version {found}, expected {expected}: read it again")]
    Moved {
        /// The version it was to have.
        expected: u64,
        /// The version it has.
        found: u64,
    },
    /// No more regions.
    #[error("{max} regions are held already; take one away first")]
    Full {
        /// The bound.
        max: usize,
    },
    /// A version could not be put where processes of this host find it.
    #[error("cannot share regions in {}: {source}", path.display())]
    Share {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file could not be mapped.
    #[error("cannot map {}: {source}", path.display())]
    Map {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl HoldError {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Moved { .. } | Self::Map { .. } | Self::Share { .. } => Fault::Weather,
            _ => Fault::Ours,
        }
    }

    pub(super) const fn code(&self) -> Code {
        match self {
            Self::Moved { .. } => Code::Conflict,
            Self::NoSuchRegion => Code::NoSuchRegion,
            Self::Full { .. } => Code::Unavailable,
            _ => Code::OutOfRange,
        }
    }
}

/// A version with its bytes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it holds.
    pub info: Arc<RegionInfo>,
    chunks: Vec<Bytes>,
    /// The file it is shared by.
    _file: Option<Arc<SharedFile>>,
}

/// A file that is unlinked when nobody here needs it.
#[derive(Debug)]
struct SharedFile(PathBuf);

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Snapshot {
    pub(super) fn of(version: u64, bytes: Bytes, chunk_bytes: u32) -> Result<Self, HoldError> {
        let info = RegionInfo::of(version, &bytes, chunk_bytes)?;
        let size = chunk_bytes as usize;
        let slice = |at: usize| bytes.slice(at..(at + size).min(bytes.len()));
        let chunks = (0..bytes.len()).step_by(size).map(slice).collect();
        Ok(Self { info: Arc::new(info), chunks, _file: None })
    }

    /// The same version over memory that other processes of this host can map. Its file goes with the
    /// last use of it here.
    pub(super) fn shared(&self, folder: &Path) -> Result<Self, HoldError> {
        let failed = |source| HoldError::Share { path: folder.to_owned(), source };
        let whole = self.run(0, self.info.shape.bytes);
        let root = self.info.root;
        let bytes = crate::shared::put(folder, root, &whole).map_err(failed)?;
        let size = self.info.shape.chunk_bytes as usize;
        let slice = |at: usize| bytes.slice(at..(at + size).min(bytes.len()));
        let chunks = (0..bytes.len()).step_by(size).map(slice).collect();
        let file = Some(Arc::new(SharedFile(crate::shared::file_of(folder, root))));
        Ok(Self { info: Arc::clone(&self.info), chunks, _file: file })
    }

    pub(super) fn of_chunks(
        version: u64,
        shape: Shape,
        hashes: Vec<Hash>,
        chunks: Vec<Bytes>,
    ) -> Result<Self, HoldError> {
        let info = Arc::new(RegionInfo::new(version, shape, hashes)?);
        Ok(Self { info, chunks, _file: None })
    }

    pub(super) fn with(
        &self,
        version: u64,
        changed: &BTreeMap<u32, Bytes>,
    ) -> Result<Self, HoldError> {
        let (mut hashes, mut chunks) = (self.info.chunks.clone(), self.chunks.clone());
        for (chunk, bytes) in changed {
            let expected = self.info.shape.chunk_len(*chunk).unwrap_or(0);
            if expected as usize != bytes.len() || expected == 0 {
                return Err(HoldError::Chunk { chunk: *chunk, expected, found: bytes.len() });
            }
            hashes[*chunk as usize] = Hash::of(bytes);
            chunks[*chunk as usize] = bytes.clone();
        }
        Self::of_chunks(version, self.info.shape, hashes, chunks)
    }

    /// A chunk, without a copy.
    #[must_use]
    pub fn chunk(&self, index: u32) -> Option<Bytes> {
        self.chunks.get(index as usize).cloned()
    }

    /// Bytes `start..start + len`: without a copy when they lie in one chunk.
    ///
    /// # Panics
    /// When they lie outside of the region: the caller checks.
    #[must_use]
    pub fn run(&self, start: u64, len: u64) -> Bytes {
        let size = u64::from(self.info.shape.chunk_bytes);
        let to_usize = |n: u64| usize::try_from(n).expect("within a region in memory");
        let (first, at) = (to_usize(start / size), to_usize(start % size));
        let chunk = &self.chunks[first];
        if at + to_usize(len) <= chunk.len() {
            return chunk.slice(at..at + to_usize(len));
        }
        let mut out = Vec::with_capacity(to_usize(len));
        self.copy_run(start, len, &mut out);
        out.into()
    }

    /// Appends bytes `start..start + len`.
    pub(super) fn copy_run(&self, start: u64, len: u64, out: &mut Vec<u8>) {
        let size = u64::from(self.info.shape.chunk_bytes);
        let to_usize = |n: u64| usize::try_from(n).expect("within a region in memory");
        let (mut chunk, mut at) = (to_usize(start / size), to_usize(start % size));
        let mut left = to_usize(len);
        while left > 0 {
            let here = &self.chunks[chunk][at..];
            let take = here.len().min(left);
            out.extend_from_slice(&here[..take]);
            (chunk, at, left) = (chunk + 1, 0, left - take);
        }
    }
}

/// Maps a file read-only. Its owner must not change it: then readers would see wrong hashes.
#[allow(unsafe_code, reason = "a mapped file is memory that others may write")]
pub(super) fn map(path: &Path) -> Result<Bytes, HoldError> {
    let failed = |source| HoldError::Map { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    // SAFETY: the bytes are only ever copied out or hashed, never taken for valid values of a type;
    // a file that shrinks ends the process with SIGBUS, which the page of `publish_file` rules out.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    Ok(Bytes::from_owner(map))
}

/// A region's versions: which are kept is decided by the books.
#[derive(Debug)]
pub(super) struct Region {
    books: Versions,
    kept: BTreeMap<u64, Arc<Snapshot>>,
    newest: Arc<Snapshot>,
    /// What the books know the chunks of the newest by.
    chunks: Arc<[ChunkRef]>,
    next_serial: u64,
}

impl Region {
    pub(super) fn new(first: Arc<Snapshot>, pinned_bytes_max: u64) -> Self {
        let limits = VersionLimits { pinned_bytes_max, ..VersionLimits::default() };
        let mut region = Self {
            books: Versions::new(limits),
            kept: BTreeMap::new(),
            newest: Arc::clone(&first),
            chunks: Arc::default(),
            next_serial: 0,
        };
        region.publish(first);
        region
    }

    pub(super) const fn newest(&self) -> &Arc<Snapshot> {
        &self.newest
    }

    pub(super) fn version(&self, version: u64) -> Option<Arc<Snapshot>> {
        self.kept.get(&version).map(Arc::clone)
    }

    /// Makes a snapshot of a higher version the newest. What goes for it is answered VERSION_GONE.
    pub(super) fn publish(&mut self, snapshot: Arc<Snapshot>) {
        let version = snapshot.info.version;
        self.chunks = self.chunks_of(&snapshot);
        self.newest = Arc::clone(&snapshot);
        self.kept.insert(version, snapshot);
        let dropped = self.books.publish(version, Arc::clone(&self.chunks));
        self.let_go(&dropped.expect("versions rise, and a chunk has one length"));
    }

    pub(super) fn pin(&mut self) -> Arc<RegionInfo> {
        let info = Arc::clone(&self.newest.info);
        self.books.pin(info.version).expect("the newest is kept");
        info
    }

    pub(super) fn unpin(&mut self, version: u64) {
        // Of a region that was taken away and made anew somebody may have pinned another version 1.
        if let Ok(dropped) = self.books.unpin(version) {
            self.let_go(&dropped);
        }
    }

    pub(super) fn stat(&self) -> RegionStat {
        let RegionInfo { version, shape, root, .. } = *self.newest.info;
        let oldest = self.books.oldest().unwrap_or(version);
        RegionStat { version, oldest, shape, root, pinned_bytes: self.books.old_bytes() }
    }

    fn let_go(&mut self, dropped: &suanli_rdpa::Dropped) {
        for dropped in &dropped.versions {
            self.kept.remove(&dropped.version);
        }
    }

    /// The chunks of a snapshot: one that lies in the same memory as that of the newest is the same.
    fn chunks_of(&mut self, snapshot: &Snapshot) -> Arc<[ChunkRef]> {
        let known = self.newest.chunks.iter().zip(self.chunks.iter());
        let known: BTreeMap<*const u8, ChunkRef> =
            known.map(|(chunk, known)| (chunk.as_ptr(), *known)).collect();
        let chunk_of = |chunk: &Bytes| {
            let bytes = u32::try_from(chunk.len()).expect("a chunk has at most 4 MiB");
            let same = known.get(&chunk.as_ptr()).filter(|known| known.bytes == bytes);
            same.copied().unwrap_or_else(|| {
                self.next_serial += 1;
                ChunkRef { serial: self.next_serial, bytes }
            })
        };
        snapshot.chunks.iter().map(chunk_of).collect()
    }
}
