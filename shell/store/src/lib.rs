//! Appends, syncs and reads: the log, blobs by hash, data shards, checkpoints in Hugging Face layout.

pub mod checkpoint;
pub mod data;
pub mod job_file;

mod blobs;
mod disk;
mod faulty;
mod keys;
mod lock;
mod log_files;

pub use blobs::{BlobError, Blobs};
pub use disk::{Disk, DiskError, Doing, Listed, PART, RealDisk, WriteError, write_atomic};
pub use faulty::{Faults, FaultyDisk, Restart};
pub use keys::{KeyError, create_key, draw, load_key};
pub use lock::{FolderLock, LockError};
pub use log_files::{
    BATCH_BYTES_MAX, Inspected, LogFiles, LogFilesError, Mended, Recovered, SEGMENT_BYTES,
};
