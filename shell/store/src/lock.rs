//! One process per data folder.
//!
//! The lock is the system's (flock) and goes with the process, however it ends; the file that
//! carries it stays and holds the number of the last process that had it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The file in the data folder.
const NAME: &str = "lock";

/// A data folder is not ours to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process uses it.
    #[error("another suanli uses {}{}; stop it, or take another folder", folder.display(), pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, if it said so.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("{} cannot be locked: {source}; take a folder on a local disk that you may write to", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A data folder that this process alone uses, until this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes `folder`, which exists.
    ///
    /// # Errors
    /// [`LockError::InUse`] when another process has it.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = read_pid(&mut file);
                return Err(LockError::InUse { folder: folder.to_owned(), pid });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        // For the message to others only: on a full disk the lock is good without it.
        let _ = write();
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_free_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(error, LockError::InUse { pid: Some(found), .. } if found == pid));
        let text = error.to_string();
        assert!(text.contains("another suanli") && text.contains(&pid.to_string()), "{text}");
        drop(lock);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = FolderLock::take(&folder.path().join("none")).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }));
        assert!(error.to_string().contains("none"));
    }
}
