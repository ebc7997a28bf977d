//! What a city writes down. An entry holds all that `apply` reads: ids, hashes, counts and the
//! time; never parameter bytes, which are blobs named by hash.
//!
//! Encoding: postcard, variants and fields only ever appended. Who may write what, and what each
//! does to the state, is `bus::state`.

use serde::{Deserialize, Serialize};
use suanli_base::{
    CityId, FragmentId, Hash, JobId, LeaseId, NodeId, Round, TicketId, Time, Tokens,
};
use suanli_identity::{Role, Signed};

/// The most bytes one encoded entry may have.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// The most characters of a name a stranger chose.
pub const NAME_CHARS_MAX: usize = 64;

/// One decided fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Entry {
    /// The first entry of every log.
    Founded {
        /// The city's key, which signs every round.
        city: CityId,
        /// What people call it.
        name: String,
        /// When.
        time: Time,
    },
    /// A node was admitted.
    Joined {
        /// Its key.
        node: NodeId,
        /// What its owner calls it.
        name: String,
        /// What it may do.
        role: Role,
        /// The ticket it used, which counts as used once for this node.
        ticket: TicketId,
        /// When.
        time: Time,
    },
    /// A node said farewell; it needs no ticket to come back.
    Left {
        /// Its key.
        node: NodeId,
        /// When.
        time: Time,
    },
    /// A job was handed in and everything its specification names is stored and synced.
    JobAdded {
        /// Hash of `spec`.
        job: JobId,
        /// The canonical bytes of `bus::JobSpec`.
        spec: Vec<u8>,
        /// Who handed it in.
        trainer: NodeId,
        /// The signed head of version 0, which names the first parameters.
        head: Signed,
        /// The first parameters and zero momentum and residual, as blobs.
        state: StateBlobs,
        /// When.
        time: Time,
    },
    /// A job was halted, set going again, or ended.
    JobMoved {
        /// Which job.
        job: JobId,
        /// To what.
        to: JobPhase,
        /// When.
        time: Time,
    },
    /// A replica may train.
    Leased(LeaseRecord),
    /// A lease ended without a contribution; what it had of the data goes back.
    LeaseEnded {
        /// Which lease.
        lease: LeaseId,
        /// Why.
        reason: LeaseEnd,
        /// When.
        time: Time,
    },
    /// A contribution is stored and synced: from here on it may not be lost.
    Accepted {
        /// The lease it answers.
        lease: LeaseId,
        /// Blob of the signed contribution.
        contribution: Hash,
        /// Blob of the payload (all its chunks in order).
        payload: Hash,
        /// Merkle root over the payload's chunks.
        payload_root: Hash,
        /// Steps done, a prefix of the lease's.
        steps: u32,
        /// Tokens of those steps.
        tokens: Tokens,
        /// Sum of the squares of the decoded payload, for the clip to the median norm.
        norm_squared: f64,
        /// Hash of the replica's sealed private state after these steps.
        private: Hash,
        /// When.
        time: Time,
    },
    /// A round is closed: these leases and no others are merged, in this order.
    Closing {
        /// Which job.
        job: JobId,
        /// Which round (the version being turned into the next).
        round: Round,
        /// Ascending.
        leases: Vec<LeaseId>,
        /// When.
        time: Time,
    },
    /// A merge is done, its results are stored and synced, and the next version is published.
    Committed {
        /// Which job.
        job: JobId,
        /// The signed `bus::Head`.
        head: Signed,
        /// The parameters, momentum and residual after the round, as blobs.
        state: StateBlobs,
        /// Blob of the update (all its chunks in order).
        update: Hash,
        /// When.
        time: Time,
    },
    /// A held-out loss was measured.
    Evaluated {
        /// Which job.
        job: JobId,
        /// Of which version.
        round: Round,
        /// Mean over the held-out tokens, in nats a token.
        loss: f32,
        /// When.
        time: Time,
    },
    /// A stretch of the data is given up.
    Skipped {
        /// Which job.
        job: JobId,
        /// First sample position.
        start: u64,
        /// How many samples.
        count: u64,
        /// When.
        time: Time,
    },
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobPhase {
    /// Leases are granted.
    Running,
    /// The trainer or the operator halted it.
    Paused,
    /// All its rounds are committed.
    Finished,
    /// Given up for good.
    Cancelled,
}

/// Why a lease ended without a contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LeaseEnd {
    /// The replica gave it back.
    Declined,
    /// The same replica asked anew, so it has lost this one.
    Superseded,
    /// Too many rounds went by.
    Stale,
    /// The job ended.
    JobEnded,
}

/// What of a replica's private state a lease builds on (DESIGN 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Private {
    /// Zero moments and zero residual.
    Fresh,
    /// The sealed state with this hash.
    Sealed(Hash),
}

/// A granted lease, as signed contributions refer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Never used twice in a city.
    pub lease: LeaseId,
    /// Which job.
    pub job: JobId,
    /// Which fragment; only 0 now.
    pub fragment: FragmentId,
    /// The nodes of the replica; one now.
    pub replica: Vec<NodeId>,
    /// The version to start from.
    pub base: Round,
    /// Merkle root of that version's parameters.
    pub base_root: Hash,
    /// First sample position in the job's global sequence.
    pub start: u64,
    /// Steps to do.
    pub steps: u32,
    /// Sequences a step.
    pub batch_sequences: u32,
    /// Committed tokens of the job at the base: where the learning-rate schedule stands.
    pub schedule_start: Tokens,
    /// By how many committed tokens the schedule moves on with each step.
    pub schedule_tokens_a_step: u64,
    /// What private state to build on.
    pub private: Private,
    /// The replica hands in what it has when this many milliseconds have gone by.
    pub duration_ms: u64,
    /// When it was granted.
    pub time: Time,
}

impl LeaseRecord {
    /// How many samples the whole lease covers.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.steps as u64 * self.batch_sequences as u64
    }
}

/// The blobs of a job's outer state at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBlobs {
    /// Parameters, f32 little-endian.
    pub theta: Hash,
    /// Outer momentum, f32 little-endian.
    pub momentum: Hash,
    /// What the last update left untold, f32 little-endian.
    pub residual: Hash,
}

/// An entry could not be read: the log is damaged or newer than this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an entry of at most {ENTRY_BYTES_MAX} bytes, found {found} bytes that are none; the log is damaged or was written by a newer suanli"
)]
pub struct BadEntry {
    /// How many bytes came.
    pub found: usize,
}

impl Entry {
    /// The bytes of this entry.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("our own types always encode")
    }

    /// Reads what [`Entry::to_bytes`] wrote, all of it.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadEntry> {
        let bad = BadEntry { found: bytes.len() };
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(bad);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((entry, [])) => Ok(entry),
            _ => Err(bad),
        }
    }
}
