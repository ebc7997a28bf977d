//! A disk in memory that fails as real ones do, deterministically by its seed: for crash tests.
//!
//! What was not synced may, in a power cut, be lost, torn, or kept in another order than it was
//! written: any pages of a file's unsynced writes, and any of a folder's unsynced names. When only
//! the process is killed all can still be read, but the next power cut may take it. A sync can fail.
//! Of a file's writes then any part is durable and the rest never will be, though reads show them
//! until the power cut and a second sync succeeds: that is what Linux does (Rebello et al. 2020,
//! "Can applications recover from fsync failures?"). Room can run out in the middle of a write.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use suanli_base::Random;

use crate::disk::{Disk, DiskError, Doing, Listed};

/// Bytes that are kept or lost together. Small, so that tests with small records see torn ones.
const PAGE: usize = 64;

/// When and how this disk fails next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The operation, counted from now, in the middle of which the machine stops.
    pub crash_at: Option<u64>,
    /// How many of a thousand syncs fail.
    pub failing_syncs_per_mille: u32,
    /// How many bytes the files may have together.
    pub capacity: Option<u64>,
}

/// What the machine comes back from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The process was killed. All that it wrote can be read, and is as little durable as before.
    Process,
    /// The power went.
    Power,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    faults: Faults,
    operations: u64,
    stopped: bool,
    inodes: Vec<Inode>,
    folders: BTreeMap<String, Folder>,
}

/// A file's content: as reads see it, and what is durable with the writes since.
#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    since: Vec<Write>,
}

#[derive(Debug)]
enum Write {
    At(usize, Vec<u8>),
    Truncate(usize),
}

/// A folder's names, likewise.
#[derive(Debug, Default)]
struct Folder {
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    since: Vec<Naming>,
}

#[derive(Clone, Debug)]
enum Naming {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

impl FaultyDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            faults: Faults::default(),
            operations: 0,
            stopped: false,
            inodes: Vec::new(),
            folders: BTreeMap::new(),
        })))
    }

    /// Sets the faults to come, and counts operations from here.
    pub fn set(&self, faults: Faults) {
        let mut state = self.state();
        (state.faults, state.operations) = (faults, 0);
    }

    /// Operations since the faults were set.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The machine comes back, with no faults to come.
    pub fn restart(&self, restart: Restart) {
        let mut state = self.state();
        let State { random, inodes, folders, .. } = &mut *state;
        if restart == Restart::Power {
            for inode in inodes.iter_mut() {
                inode.lose(random);
                inode.now.clone_from(&inode.durable);
            }
            for folder in folders.values_mut() {
                folder.lose(random);
                folder.now.clone_from(&folder.durable);
            }
        }
        (state.faults, state.operations, state.stopped) = (Faults::default(), 0, false);
    }

    /// Changes the bytes of a file behind everybody's back: bit rot. Nothing if there is no such.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(inode) = state.inode(path) {
            let inode = &mut state.inodes[inode];
            change(&mut inode.now);
            inode.durable.clone_from(&inode.now);
            inode.since.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation. `Ok(true)` when the machine stops in the middle of it.
    fn begin(&self, path: &str, doing: Doing) -> Result<(MutexGuard<'_, State>, bool), DiskError> {
        let mut state = self.state();
        if state.stopped {
            return Err(stopped(path, doing));
        }
        state.operations += 1;
        let now = state.faults.crash_at == Some(state.operations);
        state.stopped = now;
        Ok((state, now))
    }
}

fn stopped(path: &str, doing: Doing) -> DiskError {
    let source = std::io::Error::other("the machine has stopped");
    DiskError::Io { path: path.into(), doing, source }
}

fn missing(path: &str) -> DiskError {
    DiskError::Missing { path: path.into() }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Inode {
    fn write(&mut self, write: Write) {
        write.apply(&mut self.now);
        self.since.push(write);
    }

    /// Makes some of the writes durable and forgets the rest: half the time an end of them,
    /// otherwise any pages.
    fn lose(&mut self, random: &mut Random) {
        let in_order = random.chance(500);
        for write in core::mem::take(&mut self.since) {
            let last = in_order && random.chance(300);
            match write {
                Write::At(at, bytes) if last => {
                    let some = random.below(bytes.len() as u64 + 1) as usize;
                    Write::At(at, bytes[..some].to_vec()).apply(&mut self.durable);
                }
                Write::At(at, bytes) if !in_order => {
                    keep_pages(&mut self.durable, at, &bytes, random);
                }
                Write::Truncate(_) if last || (!in_order && random.chance(500)) => {}
                write => write.apply(&mut self.durable),
            }
            if last {
                break;
            }
        }
    }
}

/// Writes some of the pages that `bytes` touch; a hole reads as what was there, or as zeros.
fn keep_pages(durable: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut Random) {
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes.len().min(from + PAGE - (at + from) % PAGE);
        if random.chance(600) {
            Write::At(at + from, bytes[from..to].to_vec()).apply(durable);
        }
        from = to;
    }
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::At(at, more) => {
                bytes.resize(bytes.len().max(at + more.len()), 0);
                bytes[*at..at + more.len()].copy_from_slice(more);
            }
            Self::Truncate(len) => bytes.truncate(*len),
        }
    }
}

impl Folder {
    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.since.push(naming);
    }

    fn lose(&mut self, random: &mut Random) {
        let in_order = random.chance(500);
        for naming in core::mem::take(&mut self.since) {
            let lost = random.chance(400);
            if lost && in_order {
                break;
            }
            if !lost {
                naming.apply(&mut self.durable);
            }
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl State {
    fn inode(&self, path: &str) -> Option<usize> {
        let (dir, name) = split(path);
        self.folders.get(dir)?.now.get(name).copied()
    }

    fn folder(&mut self, path: &str) -> Result<(&mut Folder, String), DiskError> {
        let (dir, name) = split(path);
        let folder = self.folders.get_mut(dir).ok_or_else(|| missing(path))?;
        Ok((folder, name.to_owned()))
    }

    fn used(&self) -> u64 {
        let inodes = self.folders.values().flat_map(|folder| folder.now.values());
        inodes.map(|inode| self.inodes[*inode].now.len() as u64).sum()
    }
}

impl Disk for FaultyDisk {
    fn place(&self, path: &str) -> PathBuf {
        path.into()
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(path, Doing::Append)?;
        let inode = match state.inode(path) {
            Some(inode) => inode,
            None => {
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                let (folder, name) = state.folder(path)?;
                folder.name(Naming::Link(name, inode));
                inode
            }
        };
        let room = state.faults.capacity.map(|capacity| capacity.saturating_sub(state.used()));
        let mut written = room.unwrap_or(u64::MAX).min(bytes.len() as u64) as usize;
        if stops {
            written = state.random.below(written as u64 + 1) as usize;
        }
        let at = state.inodes[inode].now.len();
        state.inodes[inode].write(Write::At(at, bytes[..written].to_vec()));
        if stops {
            return Err(stopped(path, Doing::Append));
        }
        if written < bytes.len() {
            return Err(DiskError::Full { path: path.into(), needed: bytes.len() as u64 });
        }
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(path, Doing::Sync)?;
        let inode = state.inode(path).ok_or_else(|| missing(path))?;
        if stops {
            return Err(stopped(path, Doing::Sync));
        }
        let State { random, inodes, faults, .. } = &mut *state;
        if random.chance(faults.failing_syncs_per_mille) {
            inodes[inode].lose(random);
            let source = std::io::Error::other("the disk failed");
            return Err(DiskError::Io { path: path.into(), doing: Doing::Sync, source });
        }
        let inode = &mut inodes[inode];
        // A write that a failed sync lost stays lost: only what came since is added.
        for write in core::mem::take(&mut inode.since) {
            write.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(path, Doing::Truncate)?;
        let inode = state.inode(path).ok_or_else(|| missing(path))?;
        if !stops || state.random.chance(500) {
            state.inodes[inode].write(Write::Truncate(len as usize));
        }
        if stops { Err(stopped(path, Doing::Truncate)) } else { Ok(()) }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, DiskError> {
        let (state, stops) = self.begin(path, Doing::Read)?;
        if stops {
            return Err(stopped(path, Doing::Read));
        }
        let inode = state.inode(path).ok_or_else(|| missing(path))?;
        Ok(state.inodes[inode].now.clone())
    }

    fn size(&self, path: &str) -> Result<u64, DiskError> {
        self.read(path).map(|bytes| bytes.len() as u64)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(from, Doing::Rename)?;
        assert_eq!(split(from).0, split(to).0, "a rename stays in its folder");
        let inode = state.inode(from).ok_or_else(|| missing(from))?;
        if !stops || state.random.chance(500) {
            let (folder, name) = state.folder(from)?;
            folder.name(Naming::Rename(name, split(to).1.to_owned(), inode));
        }
        if stops { Err(stopped(from, Doing::Rename)) } else { Ok(()) }
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(path, Doing::Remove)?;
        state.inode(path).ok_or_else(|| missing(path))?;
        if !stops || state.random.chance(500) {
            let (folder, name) = state.folder(path)?;
            folder.name(Naming::Unlink(name));
        }
        if stops { Err(stopped(path, Doing::Remove)) } else { Ok(()) }
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>, DiskError> {
        let (state, stops) = self.begin(dir, Doing::List)?;
        if stops {
            return Err(stopped(dir, Doing::List));
        }
        let folder = state.folders.get(dir).ok_or_else(|| missing(dir))?;
        let listed = |(name, inode): (&String, &usize)| Listed {
            name: name.clone(),
            bytes: state.inodes[*inode].now.len() as u64,
        };
        Ok(folder.now.iter().map(listed).collect())
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(dir, Doing::CreateDir)?;
        if stops {
            return Err(stopped(dir, Doing::CreateDir));
        }
        state.folders.entry(dir.to_owned()).or_default();
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let (mut state, stops) = self.begin(dir, Doing::SyncDir)?;
        if stops {
            return Err(stopped(dir, Doing::SyncDir));
        }
        let State { random, folders, faults, .. } = &mut *state;
        let folder = folders.get_mut(dir).ok_or_else(|| missing(dir))?;
        if random.chance(faults.failing_syncs_per_mille) {
            // Names are in the file system's journal, which stops as a whole: they stay unsynced.
            let source = std::io::Error::other("the disk failed");
            return Err(DiskError::Io { path: dir.into(), doing: Doing::SyncDir, source });
        }
        for naming in core::mem::take(&mut folder.since) {
            naming.apply(&mut folder.durable);
        }
        Ok(())
    }
}
