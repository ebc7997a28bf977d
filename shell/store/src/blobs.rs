//! Blobs by hash: payloads that the log names, each a file called by the BLAKE3 of its bytes.
//!
//! Not for: what may be read chunk by chunk while it comes (that is a region's business), or what
//! has a name of its own.
//!
//! Invariants: when [`Blobs::put`] has returned, the blob survives a kill -9 and a power cut; what
//! [`Blobs::get`] returns has the hash asked for; a file that does not is put aside, never used and
//! never deleted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use suanli_base::{Fault, Hash};

use crate::disk::{Disk, DiskError, PART, WriteError, remove_parts, within, write_through};

/// What the name of a file that did not hold what it should ends in.
const DAMAGED: &str = ".damaged";

/// A blob could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The disk said no; all blobs are as they were.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A sync failed.
    #[error("{0}; what is durable is unknown now, stop this process and start it again")]
    Unsynced(DiskError),
    /// A sync had failed before.
    #[error("the blobs in {} take nothing more since a sync failed; stop this process and start it again", dir.display())]
    Poisoned {
        /// Their folder.
        dir: PathBuf,
    },
    /// There is no such blob.
    #[error("blob {hash} is not here")]
    Missing {
        /// Its hash.
        hash: Hash,
    },
    /// The file did not hold what its name says. It has been put aside.
    #[error("blob {} is damaged (its bytes have hash {}); it was put aside as {}, fetch it again or restore it from a copy", hash.short(), found.short(), path.display())]
    Damaged {
        /// Its hash.
        hash: Hash,
        /// The hash of what the file held.
        found: Hash,
        /// Where the file lies now.
        path: PathBuf,
    },
}

impl BlobError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Disk(error) | Self::Unsynced(error) => error.fault(),
            Self::Poisoned { .. } | Self::Damaged { .. } => Fault::Weather,
            Self::Missing { .. } => Fault::Ours,
        }
    }

    /// Whether the process has to stop and recover.
    #[must_use]
    pub const fn must_stop(&self) -> bool {
        matches!(self, Self::Unsynced(_) | Self::Poisoned { .. })
    }
}

/// The blobs in one folder of a disk. May be shared by threads.
pub struct Blobs {
    disk: Arc<dyn Disk>,
    dir: String,
    /// Numbers the files being written, so that two threads never write to one.
    writes: AtomicU64,
    poisoned: AtomicBool,
}

impl core::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Blobs").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Blobs {
    /// The blobs in folder `dir` of the disk, which is made if it does not exist. Writes that did
    /// not end are removed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> Result<Self, DiskError> {
        disk.create_dir(dir)?;
        remove_parts(&*disk, dir)?;
        let (writes, poisoned) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { disk, dir: dir.to_owned(), writes, poisoned })
    }

    /// Makes `bytes` durable under their hash. Putting what is there costs a read and no write.
    ///
    /// # Errors
    /// [`BlobError`]. Unless [`must_stop`](BlobError::must_stop), another attempt may be made.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, BlobError> {
        self.check_poison()?;
        let hash = Hash::of(bytes);
        match self.get(hash) {
            // Its name may not be durable yet: a process may have been killed before it was.
            Ok(_) => {
                self.disk.sync_dir(&self.dir).map_err(|error| self.poison(error))?;
                return Ok(hash);
            }
            Err(BlobError::Missing { .. } | BlobError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let to = self.path(hash);
        let part = format!("{to}.{}{PART}", self.writes.fetch_add(1, Ordering::Relaxed));
        match write_through(&*self.disk, &self.dir, &part, &to, bytes) {
            Ok(()) => Ok(hash),
            Err(WriteError::Unwritten(error)) => Err(error.into()),
            Err(WriteError::Unsynced(error)) => Err(self.poison(error)),
        }
    }

    /// The bytes of a blob, checked.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Damaged`], or what the disk says.
    pub fn get(&self, hash: Hash) -> Result<Vec<u8>, BlobError> {
        let path = self.path(hash);
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(DiskError::Missing { .. }) => return Err(BlobError::Missing { hash }),
            Err(error) => return Err(error.into()),
        };
        let found = Hash::of(&bytes);
        if found == hash {
            return Ok(bytes);
        }
        let aside = format!("{path}{DAMAGED}");
        self.disk.rename(&path, &aside)?;
        Err(BlobError::Damaged { hash, found, path: self.disk.place(&aside) })
    }

    /// Whether a blob of this hash is there; its bytes are not looked at.
    ///
    /// # Errors
    /// What the disk says.
    pub fn has(&self, hash: Hash) -> Result<bool, DiskError> {
        match self.disk.size(&self.path(hash)) {
            Ok(_) => Ok(true),
            Err(DiskError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob; one that is not there is removed already.
    ///
    /// # Errors
    /// What the disk says.
    pub fn delete(&self, hash: Hash) -> Result<(), DiskError> {
        match self.disk.remove(&self.path(hash)) {
            Ok(()) | Err(DiskError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all blobs but `wanted`; how many bytes that frees. Files put aside as damaged stay.
    ///
    /// # Errors
    /// What the disk says; some may be removed then.
    pub fn keep_only(&self, wanted: &BTreeSet<Hash>) -> Result<u64, DiskError> {
        let mut freed = 0;
        for (hash, bytes) in self.list()? {
            if !wanted.contains(&hash) {
                self.delete(hash)?;
                freed += bytes;
            }
        }
        Ok(freed)
    }

    /// All blobs and their lengths, by hash.
    ///
    /// # Errors
    /// What the disk says.
    pub fn list(&self) -> Result<Vec<(Hash, u64)>, DiskError> {
        let files = self.disk.list(&self.dir)?;
        // A name in capitals would read as a hash, but is not what we write.
        let named = |name: &str| name.parse::<Hash>().ok().filter(|hash| hash.to_string() == name);
        Ok(files.iter().filter_map(|file| Some((named(&file.name)?, file.bytes))).collect())
    }

    /// Bytes of all files in the folder, those put aside among them.
    ///
    /// # Errors
    /// What the disk says.
    pub fn total_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.disk.list(&self.dir)?.iter().map(|file| file.bytes).sum())
    }

    /// Where the file of a blob lies, for whoever maps it into memory and checks it by its chunks.
    #[must_use]
    pub fn place(&self, hash: Hash) -> PathBuf {
        self.disk.place(&self.path(hash))
    }

    fn path(&self, hash: Hash) -> String {
        within(&self.dir, &hash.to_string())
    }

    fn check_poison(&self) -> Result<(), BlobError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(BlobError::Poisoned { dir: self.disk.place(&self.dir) });
        }
        Ok(())
    }

    fn poison(&self, error: DiskError) -> BlobError {
        self.poisoned.store(true, Ordering::Release);
        BlobError::Unsynced(error)
    }
}
