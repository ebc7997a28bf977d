//! What a family keeps on disk besides its key: verified heads, sealed private states, and the
//! payload that no city has acknowledged yet.
//!
//! Layout below the data folder: `chain/JOB`, `private/JOB.current`, `private/JOB.pending`,
//! `pending/payload`, `pending/statement`. A pending payload exists exactly while its statement
//! does: the statement is written last and removed first.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use suanli_base::{Hash, JobId, LeaseId};
use suanli_bus::merge::{hash_chunks, private_hash};
use suanli_bus::{Chain, Contribution};
use suanli_node::family::{Pending, Saved};
use suanli_rdpa::Shape;
use suanli_store::{Disk, DiskError, RealDisk, WriteError, write_atomic};

/// A family's disk.
#[derive(Clone)]
pub(super) struct Keep {
    disk: Arc<RealDisk>,
}

/// A replica's sealed private state (DESIGN 5.6).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PrivateState {
    /// The engine's sealed moments, step count first.
    pub sealed: Vec<u8>,
    /// The error feedback, f32 little-endian.
    pub residual: Vec<u8>,
}

/// What is kept of a contribution until it is acknowledged.
#[derive(Serialize, Deserialize)]
struct Statement {
    contribution: Contribution,
    shape: Shape,
}

/// The disk refused, or holds something that is not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{} does not hold what this program writes there; move it away, the work in it is lost", path.display())]
    Damaged { path: PathBuf },
}

impl PrivateState {
    pub(super) fn residual_f32(&self) -> Vec<f32> {
        let words = self.residual.chunks_exact(4);
        words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
    }

    /// The hash that leases and contributions name it by; zero for the fresh state.
    pub(super) fn hash(&self) -> Hash {
        if self.sealed.is_empty() {
            return Hash::ZERO;
        }
        let steps = self.sealed.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let residual = suanli_params::root(&hash_chunks(&self.residual_f32()));
        private_hash(&self.sealed, steps, residual)
    }
}

impl Keep {
    pub(super) fn open(folder: &Path) -> Result<Self, KeepError> {
        let disk = Arc::new(RealDisk::new(folder));
        for dir in ["chain", "private", "pending"] {
            disk.create_dir(dir)?;
        }
        Ok(Self { disk })
    }

    /// Everything known from before.
    pub(super) fn saved(&self) -> Result<Saved, KeepError> {
        let mut chains = Vec::new();
        for file in self.disk.list("chain")? {
            if !file.name.ends_with(suanli_store::PART) {
                chains.push(self.read::<Chain>(&format!("chain/{}", file.name))?);
            }
        }
        let statement = self.statement()?;
        let pending = statement.map(|s| Pending { contribution: s.contribution, shape: s.shape });
        Ok(Saved { chains, pending })
    }

    pub(super) fn save_chain(&self, chain: &Chain) -> Result<(), KeepError> {
        let bytes = postcard::to_stdvec(chain).expect("our own types always encode");
        write_atomic(&*self.disk, "chain", &chain.job.to_string(), &bytes)?;
        Ok(())
    }

    /// The current private state of a job; the fresh one when none is kept.
    pub(super) fn private(&self, job: JobId) -> Result<PrivateState, KeepError> {
        self.read_if_there(&format!("private/{job}.current")).map(Option::unwrap_or_default)
    }

    /// Makes a contribution outlive this process.
    pub(super) fn save_pending(
        &self,
        pending: &Pending,
        payload: &[u8],
        private: &PrivateState,
    ) -> Result<(), KeepError> {
        let job = pending.contribution.job;
        let private = postcard::to_stdvec(private).expect("our own types always encode");
        let (contribution, shape) = (pending.contribution.clone(), pending.shape);
        let statement = Statement { contribution, shape };
        let statement = postcard::to_stdvec(&statement).expect("our own types always encode");
        write_atomic(&*self.disk, "private", &format!("{job}.pending"), &private)?;
        write_atomic(&*self.disk, "pending", "payload", payload)?;
        write_atomic(&*self.disk, "pending", "statement", &statement)?;
        Ok(())
    }

    /// All of the pending payload.
    pub(super) fn payload(&self) -> Result<Vec<u8>, KeepError> {
        Ok(self.disk.read("pending/payload")?)
    }

    /// The city has the contribution: its private state is the current one. Done twice is fine.
    pub(super) fn promote(&self, lease: LeaseId) -> Result<Option<JobId>, KeepError> {
        let Some(statement) = self.statement()? else { return Ok(None) };
        if statement.contribution.lease != lease {
            return Ok(None);
        }
        let job = statement.contribution.job;
        let (from, to) = (format!("private/{job}.pending"), format!("private/{job}.current"));
        match self.disk.rename(&from, &to) {
            Ok(()) => self.disk.sync_dir("private")?,
            // A crash after the rename and before the statement went: it is promoted already.
            Err(DiskError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.drop_pending()?;
        Ok(Some(job))
    }

    /// The contribution is void.
    pub(super) fn discard(&self, lease: LeaseId) -> Result<(), KeepError> {
        let statement = self.statement()?;
        if statement.is_some_and(|statement| statement.contribution.lease == lease) {
            self.drop_pending()?;
        }
        Ok(())
    }

    fn drop_pending(&self) -> Result<(), KeepError> {
        for path in ["pending/statement", "pending/payload"] {
            match self.disk.remove(path) {
                Ok(()) | Err(DiskError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.disk.sync_dir("pending")?)
    }

    fn statement(&self) -> Result<Option<Statement>, KeepError> {
        self.read_if_there("pending/statement")
    }

    fn read_if_there<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, KeepError> {
        match self.read(path) {
            Ok(value) => Ok(Some(value)),
            Err(KeepError::Disk(DiskError::Missing { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, KeepError> {
        let bytes = self.disk.read(path)?;
        let damaged = || KeepError::Damaged { path: self.disk.place(path) };
        postcard::from_bytes(&bytes).map_err(|_| damaged())
    }
}
