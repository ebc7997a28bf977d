//! The log as files: opened with recovery, appended in synced batches, bounded by snapshots.
//!
//! Formats, names and what recovery cuts: `core/log` and `docs/spec/log.md`. Not for: what the
//! bodies mean.
//!
//! Invariants: when [`LogFiles::append`] has returned, its bodies survive a kill -9 and a power
//! cut; after a sync that failed every call is refused; opening changes nothing until all that is
//! there has been read and found good.

use std::path::PathBuf;
use std::sync::Arc;

use suanli_base::{Fault, Hash};
use suanli_log::{
    Chain, LogError, SnapshotError, parse_segment_name, parse_snapshot_name, read_snapshot,
    recover_segment, segment_name, snapshot, snapshot_name,
};

use crate::disk::{Disk, DiskError, WriteError, remove_parts, within, write_atomic};

/// A segment that has grown past this is followed by a new one.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// The most bytes of a batch.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Snapshots that are kept: should the last be damaged by the disk, the one before and the bodies
/// since give the same state.
const SNAPSHOTS_KEPT: usize = 2;
/// Where the bytes that recovery cut last are kept for a person to look at.
const TORN: &str = "torn";
/// What the name of a snapshot that cannot be read ends in.
const DAMAGED: &str = ".damaged";

/// The log could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogFilesError {
    /// The disk said no; the log is as it was.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A sync failed.
    #[error("{0}; what is durable is unknown now, stop this process and start it again")]
    Unsynced(DiskError),
    /// A sync had failed before.
    #[error("the log in {} takes nothing more since a sync failed; stop this process and start it again", dir.display())]
    Poisoned {
        /// The log's folder.
        dir: PathBuf,
    },
    /// There is a log already.
    #[error("{} holds a log already; take another folder, or start from this log", dir.display())]
    Exists {
        /// The log's folder.
        dir: PathBuf,
    },
    /// What was durable is damaged, or the files are of another log.
    #[error("the log in {} cannot be read: {source}", dir.display())]
    Log {
        /// The log's folder.
        dir: PathBuf,
        /// What is wrong.
        source: LogError,
    },
    /// No snapshot can be read, and the bodies before the last are gone.
    #[error("the snapshot {} cannot be read, and the records before it are gone: {source}; restore it from a copy", path.display())]
    Snapshot {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong.
        source: SnapshotError,
    },
}

impl LogFilesError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Disk(error) | Self::Unsynced(error) => error.fault(),
            Self::Poisoned { .. } => Fault::Weather,
            Self::Exists { .. } | Self::Log { .. } | Self::Snapshot { .. } => Fault::Ours,
        }
    }

    /// Whether the process has to stop and recover.
    #[must_use]
    pub const fn must_stop(&self) -> bool {
        matches!(self, Self::Unsynced(_) | Self::Poisoned { .. })
    }
}

/// Something that opening found and mended, worth a line to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mended {
    /// The end of a write that a crash interrupted before it was acknowledged.
    Torn {
        /// The segment.
        path: PathBuf,
        /// Where it was cut.
        at: u64,
        /// How many bytes went.
        bytes: u64,
        /// Where they are kept until the next time, if there was room.
        kept: Option<PathBuf>,
    },
    /// A snapshot that could not be read; the one before it was used.
    Snapshot {
        /// Where it lies now.
        path: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
}

impl core::fmt::Display for Mended {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Torn { path, at, bytes, kept } => {
                write!(
                    f,
                    "{} ended in {bytes} bytes of a write that was interrupted and never acknowledged; cut at byte {at}",
                    path.display()
                )?;
                kept.iter().try_for_each(|kept| write!(f, ", kept in {}", kept.display()))
            }
            Self::Snapshot { path, source } => write!(
                f,
                "a snapshot could not be read ({source}), the one before it was used; it lies in {}",
                path.display()
            ),
        }
    }
}

/// What an opened log holds: fold the bodies over the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The state of the last snapshot, if there is one.
    pub state: Option<Vec<u8>>,
    /// The bodies since, in order.
    pub bodies: Vec<Vec<u8>>,
    /// What was mended on the way.
    pub mended: Vec<Mended>,
}

/// What the files of a log hold: see [`LogFiles::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The state that `bodies` continue, if those before it are gone.
    pub state: Option<Vec<u8>>,
    /// The number of the first of `bodies`.
    pub first_seq: u64,
    /// The bodies, in order.
    pub bodies: Vec<Vec<u8>>,
    /// Where the log stands after them.
    pub chain: Chain,
    /// Snapshots that cannot be read.
    pub damaged: Vec<(u64, SnapshotError)>,
    /// Bytes at the end of a write that was interrupted, or is going on.
    pub torn_bytes: u64,
}

/// An open log. One at a time per folder: see [`FolderLock`](crate::FolderLock).
pub struct LogFiles {
    disk: Arc<dyn Disk>,
    dir: String,
    chain: Chain,
    segment: Segment,
    segment_bytes: u64,
    poisoned: bool,
}

/// The segment being written.
#[derive(Clone, Debug)]
struct Segment {
    first_seq: u64,
    bytes: u64,
    /// Whether its name is durable.
    named: bool,
}

impl core::fmt::Debug for LogFiles {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut debug = f.debug_struct("LogFiles");
        debug.field("dir", &self.dir).field("chain", &self.chain).field("segment", &self.segment);
        debug.finish_non_exhaustive()
    }
}

impl LogFiles {
    /// Makes an empty log called `name` in folder `dir` of the disk.
    ///
    /// # Errors
    /// [`LogFilesError::Exists`] when a log is there, or what the disk says.
    pub fn create(disk: Arc<dyn Disk>, dir: &str, name: Hash) -> Result<Self, LogFilesError> {
        disk.create_dir(dir)?;
        if !Found::list(&*disk, dir)?.is_empty() {
            return Err(LogFilesError::Exists { dir: disk.place(dir) });
        }
        Ok(Self::new(disk, dir, Chain::genesis(name)))
    }

    /// Opens the log called `name` in folder `dir` of the disk and recovers what it holds.
    ///
    /// # Errors
    /// [`LogFilesError`] when there is no such folder or something durable is damaged; nothing has
    /// been changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        name: Hash,
    ) -> Result<(Self, Recovered), LogFilesError> {
        let read = Read::since(&*disk, dir, name, Since::LastSnapshot)?;
        let mut log = Self::new(disk, dir, read.chain);
        let mut mended = Vec::new();
        log.mend(&read, &mut mended)?;
        Ok((log, Recovered { state: read.state, bodies: read.bodies, mended }))
    }

    /// Reads all that the files still hold and checks every record, without changing anything; also
    /// while a process is writing to them.
    ///
    /// # Errors
    /// [`LogFilesError`] as [`LogFiles::open`], and when a snapshot does not lie on the chain.
    pub fn inspect(disk: &dyn Disk, dir: &str, name: Hash) -> Result<Inspected, LogFilesError> {
        let read = Read::since(disk, dir, name, Since::OldestKept)?;
        let torn_bytes = read.last.map_or(0, |last| last.torn.len() as u64);
        let first_seq = read.chain.next_seq() - read.bodies.len() as u64;
        let Read { chain, state, bodies, damaged, .. } = read;
        Ok(Inspected { state, first_seq, bodies, chain, damaged, torn_bytes })
    }

    /// Lets segments end at another size: for tests.
    pub const fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// Where the log stands.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Appends `bodies` in order and makes them durable with one sync.
    ///
    /// # Errors
    /// [`LogFilesError`]. Unless [`must_stop`](LogFilesError::must_stop), none of the bodies is in
    /// the log and another attempt may be made.
    ///
    /// # Panics
    /// When the bodies together are longer than [`BATCH_BYTES_MAX`].
    pub fn append(&mut self, bodies: &[impl AsRef<[u8]>]) -> Result<(), LogFilesError> {
        self.check_poison()?;
        if bodies.is_empty() {
            return Ok(());
        }
        let mut chain = self.chain;
        let mut bytes = Vec::new();
        bodies.iter().for_each(|body| bytes.extend_from_slice(&chain.append(body.as_ref())));
        assert!(bytes.len() <= BATCH_BYTES_MAX, "a batch of {} bytes", bytes.len());
        self.write(&bytes)?;
        self.sync()?;
        chain.synced();
        self.chain = chain;
        self.mark();
        if self.segment.bytes >= self.segment_bytes {
            self.next_segment();
        }
        Ok(())
    }

    /// Writes the state after all bodies so far, and drops the files that it makes unnecessary.
    ///
    /// # Errors
    /// [`LogFilesError`]. Unless [`must_stop`](LogFilesError::must_stop), the log goes on without
    /// this snapshot.
    pub fn snapshot(&mut self, state: &[u8]) -> Result<(), LogFilesError> {
        self.check_poison()?;
        let bytes = snapshot(&self.chain, state);
        let name = snapshot_name(self.chain.next_seq());
        match write_atomic(&*self.disk, &self.dir, &name, &bytes) {
            Ok(()) => {}
            Err(WriteError::Unwritten(error)) => return Err(error.into()),
            Err(WriteError::Unsynced(error)) => return Err(self.poison(error)),
        }
        if self.segment.first_seq != self.chain.next_seq() {
            self.next_segment();
        }
        self.drop_old()?;
        Ok(())
    }

    /// Bytes of all files of the log.
    ///
    /// # Errors
    /// What the disk says.
    pub fn bytes(&self) -> Result<u64, DiskError> {
        Ok(self.disk.list(&self.dir)?.iter().map(|file| file.bytes).sum())
    }

    fn new(disk: Arc<dyn Disk>, dir: &str, chain: Chain) -> Self {
        let segment = Segment { first_seq: chain.next_seq(), bytes: 0, named: false };
        let (dir, segment_bytes) = (dir.to_owned(), SEGMENT_BYTES);
        Self { disk, dir, chain, segment, segment_bytes, poisoned: false }
    }

    fn check_poison(&self) -> Result<(), LogFilesError> {
        if self.poisoned {
            return Err(LogFilesError::Poisoned { dir: self.disk.place(&self.dir) });
        }
        Ok(())
    }

    fn poison(&mut self, error: DiskError) -> LogFilesError {
        self.poisoned = true;
        LogFilesError::Unsynced(error)
    }

    fn path(&self, name: &str) -> String {
        within(&self.dir, name)
    }

    fn segment_path(&self) -> String {
        self.path(&segment_name(self.segment.first_seq))
    }

    /// Appends to the segment, or leaves it as it was.
    fn write(&mut self, bytes: &[u8]) -> Result<(), LogFilesError> {
        let path = self.segment_path();
        let Err(error) = self.disk.append(&path, bytes) else {
            self.segment.bytes += bytes.len() as u64;
            return Ok(());
        };
        // Synced, so that no crash brings back what the caller is told is not there.
        let taken_back = self.disk.truncate(&path, self.segment.bytes);
        match taken_back.and_then(|()| self.disk.sync(&path)) {
            Ok(()) => Err(error.into()),
            // The file was never made, so nothing has to go.
            Err(DiskError::Missing { .. }) if self.segment.bytes == 0 => Err(error.into()),
            Err(_) => Err(self.poison(error)),
        }
    }

    fn sync(&mut self) -> Result<(), LogFilesError> {
        let synced = self.disk.sync(&self.segment_path());
        synced.map_err(|error| self.poison(error))?;
        if !self.segment.named {
            let synced = self.disk.sync_dir(&self.dir);
            synced.map_err(|error| self.poison(error))?;
            self.segment.named = true;
        }
        Ok(())
    }

    /// Writes the durable count behind what was synced. Not a promise, so a disk that has no room
    /// for it is none of the caller's troubles; one that cannot even take it back poisons the log.
    fn mark(&mut self) {
        let _ = self.write(&self.chain.mark());
    }

    fn next_segment(&mut self) {
        self.segment = Segment { first_seq: self.chain.next_seq(), bytes: 0, named: false };
    }

    /// Removes what the snapshots that are kept make unnecessary.
    fn drop_old(&self) -> Result<(), DiskError> {
        let found = Found::list(&*self.disk, &self.dir)?;
        let oldest = found.oldest_kept();
        let snapshots = found.snapshots.iter().filter(|seq| **seq < oldest);
        let segments = found.segments.iter().filter(|seq| **seq < oldest);
        let names = snapshots.map(|seq| snapshot_name(*seq));
        for name in names.chain(segments.map(|seq| segment_name(*seq))) {
            self.disk.remove(&self.path(&name))?;
        }
        Ok(())
    }

    /// Everything has been read and found good: cuts what a crash left, and makes the rest durable.
    fn mend(&mut self, read: &Read, mended: &mut Vec<Mended>) -> Result<(), LogFilesError> {
        for (seq, source) in &read.damaged {
            let from = self.path(&snapshot_name(*seq));
            let to = format!("{from}{DAMAGED}");
            self.disk.rename(&from, &to)?;
            mended.push(Mended::Snapshot { path: self.disk.place(&to), source: *source });
        }
        remove_parts(&*self.disk, &self.dir)?;
        if let Some(last) = &read.last {
            let bytes = last.valid.len() as u64;
            self.segment = Segment { first_seq: last.first_seq, bytes, named: true };
            if !last.torn.is_empty() {
                mended.push(self.keep_torn(last)?);
            }
            self.rewrite(last)?;
        }
        // The snapshot that was read may have been named by a process that was killed before this.
        self.disk.sync_dir(&self.dir).map_err(|error| self.poison(error))?;
        self.drop_old()?;
        Ok(())
    }

    /// Writes the segment anew without what was torn. What was read may be in the system's memory
    /// only, and if the process before died of a failed sync, no further sync writes it out.
    fn rewrite(&mut self, last: &LastSegment) -> Result<(), LogFilesError> {
        let name = segment_name(last.first_seq);
        match write_atomic(&*self.disk, &self.dir, &name, &last.valid) {
            Ok(()) => {}
            Err(WriteError::Unwritten(error)) => return Err(error.into()),
            Err(WriteError::Unsynced(error)) => return Err(self.poison(error)),
        }
        let proven = self.chain.durable() == self.chain.next_seq();
        self.chain.synced();
        if !proven {
            self.mark();
        }
        Ok(())
    }

    /// Keeps what was torn for a person to look at, if there is room.
    fn keep_torn(&mut self, last: &LastSegment) -> Result<Mended, LogFilesError> {
        let kept = match write_atomic(&*self.disk, &self.dir, TORN, &last.torn) {
            Ok(()) => Some(self.disk.place(&self.path(TORN))),
            Err(WriteError::Unwritten(_)) => None,
            Err(WriteError::Unsynced(error)) => return Err(self.poison(error)),
        };
        let path = self.disk.place(&self.segment_path());
        let (at, bytes) = (last.valid.len() as u64, last.torn.len() as u64);
        Ok(Mended::Torn { path, at, bytes, kept })
    }
}

/// The files of a log, in ascending order.
struct Found {
    segments: Vec<u64>,
    snapshots: Vec<u64>,
}

impl Found {
    fn list(disk: &dyn Disk, dir: &str) -> Result<Self, DiskError> {
        let files = disk.list(dir)?;
        let names = || files.iter().map(|file| file.name.as_str());
        let mut segments: Vec<u64> = names().filter_map(parse_segment_name).collect();
        let mut snapshots: Vec<u64> = names().filter_map(parse_snapshot_name).collect();
        segments.sort_unstable();
        snapshots.sort_unstable();
        Ok(Self { segments, snapshots })
    }

    /// The number before which files are unnecessary. A crash may bring back some of those that
    /// were removed, but not all of them, so nobody reads them.
    fn oldest_kept(&self) -> u64 {
        self.snapshots.iter().rev().nth(SNAPSHOTS_KEPT - 1).copied().unwrap_or(0)
    }

    const fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots.is_empty()
    }
}

/// The segment that the log goes on in.
struct LastSegment {
    first_seq: u64,
    valid: Vec<u8>,
    torn: Vec<u8>,
}

/// From where to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    LastSnapshot,
    OldestKept,
}

/// What the files hold, read without changing anything.
struct Read {
    chain: Chain,
    state: Option<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
    damaged: Vec<(u64, SnapshotError)>,
    last: Option<LastSegment>,
}

impl Read {
    fn since(disk: &dyn Disk, dir: &str, name: Hash, since: Since) -> Result<Self, LogFilesError> {
        let found = Found::list(disk, dir)?;
        let mut read = Self::base(disk, dir, name, &found, since)?;
        let start = read.chain.next_seq();
        for first_seq in found.segments.iter().copied().filter(|seq| *seq >= start) {
            if since == Since::OldestKept {
                read.check_snapshot(disk, dir, &found)?;
            }
            let bytes = disk.read(&within(dir, &segment_name(first_seq)))?;
            let recovery = recover_segment(first_seq, &bytes, read.chain)
                .map_err(|source| LogFilesError::Log { dir: disk.place(dir), source })?;
            read.chain = recovery.chain;
            read.bodies.extend(recovery.records.iter().map(|record| record.body.to_vec()));
            let valid_len = recovery.valid_len;
            let mut valid = bytes;
            let torn = valid.split_off(valid_len);
            read.last = Some(LastSegment { first_seq, valid, torn });
        }
        if since == Since::OldestKept {
            read.check_snapshot(disk, dir, &found)?;
        }
        Ok(read)
    }

    /// Where reading begins: a snapshot that can be read, or the genesis.
    fn base(
        disk: &dyn Disk,
        dir: &str,
        name: Hash,
        found: &Found,
        since: Since,
    ) -> Result<Self, LogFilesError> {
        let (state, damaged) = (None, Vec::new());
        let chain = Chain::genesis(name);
        let mut read = Self { chain, state, bodies: Vec::new(), damaged, last: None };
        let from_genesis = found.segments.first() == Some(&0);
        let mut order = found.snapshots.clone();
        match since {
            Since::LastSnapshot => order.reverse(),
            Since::OldestKept if found.oldest_kept() == 0 && from_genesis => return Ok(read),
            Since::OldestKept => order.retain(|seq| *seq >= found.oldest_kept()),
        }
        for seq in order {
            let bytes = disk.read(&snapshot_path(dir, seq))?;
            match read_snapshot(&bytes) {
                Ok(snapshot) => {
                    check_place(disk, dir, seq, &snapshot.chain)?;
                    (read.chain, read.state) = (snapshot.chain, Some(snapshot.state.to_vec()));
                    return Ok(read);
                }
                Err(source) => read.damaged.push((seq, source)),
            }
        }
        match read.damaged.first() {
            Some((seq, source)) if !from_genesis => {
                let path = disk.place(&snapshot_path(dir, *seq));
                Err(LogFilesError::Snapshot { path, source: *source })
            }
            _ => Ok(read),
        }
    }

    /// A snapshot of where reading stands must be of this chain.
    fn check_snapshot(
        &mut self,
        disk: &dyn Disk,
        dir: &str,
        found: &Found,
    ) -> Result<(), LogFilesError> {
        let seq = self.chain.next_seq();
        if !found.snapshots.contains(&seq) {
            return Ok(());
        }
        match read_snapshot(&disk.read(&snapshot_path(dir, seq))?) {
            Ok(snapshot) => {
                check_place(disk, dir, seq, &snapshot.chain)?;
                let (expected, found) = (self.chain.head(), snapshot.chain.head());
                if expected != found {
                    let source = LogError::Forked { segment: seq, offset: 0, seq, expected, found };
                    return Err(LogFilesError::Log { dir: disk.place(dir), source });
                }
            }
            Err(source) => self.damaged.push((seq, source)),
        }
        Ok(())
    }
}

fn snapshot_path(dir: &str, seq: u64) -> String {
    within(dir, &snapshot_name(seq))
}

/// A snapshot must hold the number that its name says.
fn check_place(disk: &dyn Disk, dir: &str, seq: u64, chain: &Chain) -> Result<(), LogFilesError> {
    let found = chain.next_seq();
    if found == seq {
        return Ok(());
    }
    let source = LogError::Gap { expected: seq, found };
    Err(LogFilesError::Log { dir: disk.place(dir), source })
}
