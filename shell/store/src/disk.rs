//! The few things that log and blobs ask of a disk, and the disk that does them.
//!
//! Not for: data shards and checkpoints, which are read and written as streams.
//!
//! There are two disks: [`RealDisk`], and [`FaultyDisk`](crate::FaultyDisk), which forgets in a
//! crash what was not synced. Paths are relative to the disk's root, with `/` between names;
//! the root itself is the empty path.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use suanli_base::Fault;

/// The end of the names of files that are still being written.
pub const PART: &str = ".part";

/// What was being done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// Writing to its end.
    Append,
    /// Making it durable.
    Sync,
    /// Cutting it.
    Truncate,
    /// Reading it.
    Read,
    /// Giving it another name.
    Rename,
    /// Removing it.
    Remove,
    /// Listing a folder.
    List,
    /// Making a folder.
    CreateDir,
    /// Making a folder's names durable.
    SyncDir,
}

/// A disk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// No room is left, or a quota is used up. Nothing acknowledged is lost.
    #[error("no room on the disk of {} for {needed} more bytes; free some and try again", path.display())]
    Full {
        /// The file that was to grow.
        path: PathBuf,
        /// Bytes it was to grow by.
        needed: u64,
    },
    /// There is no such file or folder.
    #[error("{} does not exist", path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{doing:?} of {} failed: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        doing: Doing,
        /// What the system said.
        source: std::io::Error,
    },
}

impl DiskError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Full { .. } => Fault::Weather,
            Self::Missing { .. } => Fault::Ours,
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::NotADirectory => Fault::Ours,
                _ => Fault::Weather,
            },
        }
    }

    pub(crate) fn new(path: PathBuf, doing: Doing, needed: u64, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path, needed },
            ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Io { path, doing, source },
        }
    }
}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name, without the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What log and blobs ask of a disk. Nothing is durable before its sync has returned, and a new
/// name not before its folder's.
pub trait Disk: Send + Sync {
    /// The path that a person would look at.
    fn place(&self, path: &str) -> PathBuf;

    /// Appends to a file, which is made if it does not exist. After an error any part of `bytes`
    /// may be there.
    ///
    /// # Errors
    /// [`DiskError`].
    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes a file's content durable. After an error nobody knows what is durable: the process
    /// must stop and recover; a second sync that succeeds says nothing about the first.
    ///
    /// # Errors
    /// [`DiskError`].
    fn sync(&self, path: &str) -> Result<(), DiskError>;

    /// Cuts a file to `len` bytes.
    ///
    /// # Errors
    /// [`DiskError`].
    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError>;

    /// The length of a file.
    ///
    /// # Errors
    /// [`DiskError`].
    fn size(&self, path: &str) -> Result<u64, DiskError>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`DiskError`].
    fn read(&self, path: &str) -> Result<Vec<u8>, DiskError>;

    /// Gives a file another name in the same folder; a file of that name goes.
    ///
    /// # Errors
    /// [`DiskError`].
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`DiskError`].
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// The files of a folder, by name.
    ///
    /// # Errors
    /// [`DiskError`].
    fn list(&self, dir: &str) -> Result<Vec<Listed>, DiskError>;

    /// Makes a folder, and those above it, durably. It may exist.
    ///
    /// # Errors
    /// [`DiskError`].
    fn create_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// [`DiskError`].
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;
}

/// The disk of this machine, below one folder. Files are made for their owner only.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Files that were appended to stay open until they are renamed or removed:
    /// Linux tells a failed write-back to whoever held the file open at the time.
    open: Mutex<BTreeMap<String, File>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Create {
    IfMissing,
    Never,
}

impl RealDisk {
    /// The disk below `root`, which exists.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), open: Mutex::new(BTreeMap::new()) }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path below the root. One that leads out of it is a defect of ours: joined as it is, an
    /// absolute one would replace the root.
    fn at(&self, path: &str) -> PathBuf {
        let mut names = Path::new(path).components();
        let inside = names.all(|name| matches!(name, Component::Normal(_)));
        assert!(inside, "{path} does not lie below {}", self.root.display());
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn io<T>(&self, path: &str, doing: Doing, result: std::io::Result<T>) -> Result<T, DiskError> {
        result.map_err(|source| DiskError::new(self.place(path), doing, 0, source))
    }

    /// The open file, opened now if need be.
    fn file(&self, path: &str, create: Create) -> std::io::Result<File> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(path) {
            return file.try_clone();
        }
        let mut options = OpenOptions::new();
        options.append(true).create(create == Create::IfMissing).mode(0o600);
        let file = options.open(self.at(path))?;
        let copy = file.try_clone()?;
        open.insert(path.to_owned(), file);
        Ok(copy)
    }

    fn forget(&self, path: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}

impl Disk for RealDisk {
    fn place(&self, path: &str) -> PathBuf {
        self.at(path)
    }

    fn size(&self, path: &str) -> Result<u64, DiskError> {
        let size = std::fs::metadata(self.at(path)).map(|metadata| metadata.len());
        self.io(path, Doing::Read, size)
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let result = self.file(path, Create::IfMissing).and_then(|mut file| file.write_all(bytes));
        let needed = bytes.len() as u64;
        result.map_err(|source| DiskError::new(self.place(path), Doing::Append, needed, source))
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        let result = self.file(path, Create::Never).and_then(|file| file.sync_data());
        self.io(path, Doing::Sync, result)
    }

    fn truncate(&self, path: &str, len: u64) -> Result<(), DiskError> {
        let result = self.file(path, Create::Never).and_then(|file| file.set_len(len));
        self.io(path, Doing::Truncate, result)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, DiskError> {
        let read = || {
            let mut file = File::open(self.at(path))?;
            let len = file.metadata()?.len();
            let mut bytes = Vec::new();
            let wanted = usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge)?;
            bytes.try_reserve_exact(wanted).map_err(|_| ErrorKind::OutOfMemory)?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        self.io(path, Doing::Read, read())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.forget(from);
        self.forget(to);
        let result = std::fs::rename(self.at(from), self.at(to));
        self.io(from, Doing::Rename, result)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.forget(path);
        self.io(path, Doing::Remove, std::fs::remove_file(self.at(path)))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>, DiskError> {
        let list = || {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(self.at(dir))? {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Removed by another thread since.
                    Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                // Names that are not text are none of ours.
                if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                    files.push(Listed { name, bytes: metadata.len() });
                }
            }
            files.sort();
            Ok(files)
        };
        self.io(dir, Doing::List, list())
    }

    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        let create = || {
            DirBuilder::new().recursive(true).mode(0o700).create(self.at(dir))?;
            let mut path = self.root.clone();
            File::open(&path)?.sync_all()?;
            for name in dir.split('/').filter(|name| !name.is_empty()) {
                path.push(name);
                File::open(&path)?.sync_all()?;
            }
            Ok(())
        };
        self.io(dir, Doing::CreateDir, create())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let result = File::open(self.at(dir)).and_then(|folder| folder.sync_all());
        self.io(dir, Doing::SyncDir, result)
    }
}

/// A file's path in a folder, which may be the root.
pub(crate) fn within(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Writes a whole file so that after a crash either all of it is there or what was before: into a
/// file whose name ends in [`PART`], synced, then renamed, then the folder synced. Not by two threads
/// at once under one name.
///
/// # Errors
/// [`WriteError::Unwritten`] when nothing came of it, [`WriteError::Unsynced`] when nobody knows.
pub fn write_atomic(
    disk: &dyn Disk,
    dir: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), WriteError> {
    let to = within(dir, name);
    write_through(disk, dir, &format!("{to}{PART}"), &to, bytes)
}

/// As [`write_atomic`], by way of a file that nobody else writes to.
pub(crate) fn write_through(
    disk: &dyn Disk,
    dir: &str,
    part: &str,
    to: &str,
    bytes: &[u8],
) -> Result<(), WriteError> {
    match disk.remove(part) {
        Ok(()) | Err(DiskError::Missing { .. }) => {}
        Err(error) => return Err(WriteError::Unwritten(error)),
    }
    if let Err(error) = disk.append(part, bytes) {
        // What cannot be removed now is removed at the next start.
        let _ = disk.remove(part);
        return Err(WriteError::Unwritten(error));
    }
    disk.sync(part).map_err(WriteError::Unsynced)?;
    disk.rename(part, to).map_err(WriteError::Unwritten)?;
    disk.sync_dir(dir).map_err(WriteError::Unsynced)
}

/// A file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is as it was before.
    #[error(transparent)]
    Unwritten(DiskError),
    /// A sync failed: what is durable is unknown, the process must stop and recover.
    #[error("{0}; what is on the disk is unknown now, stop this process and start it again")]
    Unsynced(DiskError),
}

/// Removes what writes that did not end left in a folder.
pub(crate) fn remove_parts(disk: &dyn Disk, dir: &str) -> Result<(), DiskError> {
    for file in disk.list(dir)?.iter().filter(|file| file.name.ends_with(PART)) {
        disk.remove(&within(dir, &file.name))?;
    }
    Ok(())
}
