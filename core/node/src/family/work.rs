//! What a family asks of its host, and what the host reports back.

use bytes::Bytes;
use suanli_base::{Hash, JobId, LeaseId, Round};
use suanli_bus::{Chain, Contribution, Frozen, JobSpec};
use suanli_log::LeaseRecord;
use suanli_rdpa::{Frame, Shape};

/// What goes into a family.
#[derive(Debug)]
pub enum Input {
    /// A link to the city is up; the city has proven its key.
    Linked {
        /// Decides handles and jitter.
        seed: u64,
    },
    /// The link is gone.
    LinkLost,
    /// A frame came.
    Frame(Frame),
    /// Bytes of a frame are coming that is not there yet: on a slow line the city is not silent.
    Arriving,
    /// Time went by.
    Tick,
    /// Work is done.
    Done(Done),
    /// The owner wants something.
    Owner(Owner),
    /// Bytes of bulk that the owner's limits let go on this day; without a word, any number.
    UplinkLeft(u64),
}

/// What an owner can want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The machine, now.
    Pause,
    /// To lend it again.
    Resume,
    /// Another limit of CPU share, 1 to 100: the city is told.
    Share(u8),
    /// To leave, with the work so far handed in.
    Leave,
}

/// What comes out of a family.
#[derive(Debug)]
pub enum Output {
    /// Do this and report back.
    Work(Work),
    /// Drop the link and dial again after a pause.
    Hangup {
        /// For the log.
        why: String,
    },
    /// The city does not admit this node, or is not to be trusted: tell the owner and stop.
    Refused {
        /// In words that say what to do.
        why: String,
    },
    /// The node has left; the process may end.
    Exit,
    /// Something an owner may want to read.
    Note(String),
}

/// What a downloaded region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The parameters of a version, whole.
    Theta(JobId, Round),
    /// The update that leads to a version.
    Update(JobId, Round),
    /// A shard of the data; chunks are kept as long as the host likes.
    Shard(JobId, u32),
    /// The packed bytes of a frozen model with this root; they come in order, more or less, and stay.
    Frozen(Hash),
}

/// Work for the host.
#[derive(Debug)]
pub enum Work {
    /// How much of a frozen model is kept here? Answer [`Done::Found`].
    Find {
        /// The job that wants it.
        job: JobId,
        /// What it is.
        frozen: Box<Frozen>,
    },
    /// Get ready for a job, whose frozen model is here if it has one: read its model, start an
    /// engine; answer [`Done::Loaded`].
    Load {
        /// The job.
        job: JobId,
        /// What was agreed on.
        spec: Box<JobSpec>,
    },
    /// Keep a verified chunk.
    Keep {
        /// Of what.
        target: Target,
        /// Offset in bytes.
        offset: u64,
        /// The chunk.
        bytes: Bytes,
        /// Length of the whole.
        total: u64,
    },
    /// The kept parameters are complete: use them; answer [`Done::Installed`] with their root.
    Install {
        /// The job.
        job: JobId,
        /// The version.
        version: Round,
    },
    /// The kept update is complete: `theta -= decode(update)`; answer [`Done::Installed`].
    Apply {
        /// The job.
        job: JobId,
        /// The version it leads to.
        version: Round,
    },
    /// Write the newest verified head to disk, synced: it is never gone back behind.
    SaveChain(Chain),
    /// Measure tokens a second on the job's model; answer [`Done::Measured`].
    Measure {
        /// The job.
        job: JobId,
    },
    /// Which stored samples do these positions mean? Answer [`Done::Located`].
    Locate {
        /// The lease.
        lease: LeaseId,
        /// Its job.
        job: JobId,
        /// First position.
        start: u64,
        /// How many.
        count: u64,
    },
    /// Train; answer [`Done::Progress`] now and then and [`Done::Trained`] at the end.
    Train {
        /// The lease.
        record: Box<LeaseRecord>,
        /// Steps done before.
        from: u32,
        /// The learning rate of each step of the lease.
        rates: Vec<f32>,
    },
    /// Stop the engine after its last complete step.
    StopTraining,
    /// Seal, pack and write the payload to disk, synced; answer [`Done::Packed`].
    Pack {
        /// The lease.
        record: Box<LeaseRecord>,
        /// Steps done.
        done: u32,
    },
    /// Read a chunk of the pending payload; answer [`Done::Pending`].
    ReadPending {
        /// The lease.
        lease: LeaseId,
        /// Which chunk.
        chunk: u32,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        length: u32,
    },
    /// The pending private state is the current one.
    Promote {
        /// The lease that made it.
        lease: LeaseId,
    },
    /// The pending private state and payload are void.
    Discard {
        /// The lease that made it.
        lease: LeaseId,
    },
}

/// A payload on disk that the city has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What is to be signed.
    pub contribution: Contribution,
    /// Length and chunk length of the payload.
    pub shape: Shape,
}

/// What the host did.
#[derive(Debug)]
pub enum Done {
    /// The first so many chunks of a packed frozen model are kept here. All of them: it was unpacked,
    /// and its root is right.
    Found {
        /// The job that wants it.
        job: JobId,
        /// Chunks from the first on.
        chunks: u32,
    },
    /// A job is ready, or why not.
    Loaded {
        /// The job.
        job: JobId,
        /// Hash of the current private state kept for it; zero for none.
        private: Result<Hash, String>,
    },
    /// Parameters are in place; their root, or nothing when it failed.
    Installed {
        /// The job.
        job: JobId,
        /// The version.
        version: Round,
        /// Merkle root of what is there now.
        root: Option<Hash>,
    },
    /// Tokens a second.
    Measured {
        /// The job.
        job: JobId,
        /// The rate, or nothing when the engine failed.
        rate: Option<u32>,
    },
    /// Where samples are stored: (first stored sample, count), in order.
    Located {
        /// The lease.
        lease: LeaseId,
        /// The stretches.
        ranges: Vec<(u64, u64)>,
    },
    /// The engine is on its way.
    Progress {
        /// The lease.
        lease: LeaseId,
        /// Steps done in all.
        done: u32,
        /// Tokens a second over the last steps.
        rate: u32,
    },
    /// The engine stopped; nothing when it died.
    Trained {
        /// The lease.
        lease: LeaseId,
        /// Steps done in all.
        done: Option<u32>,
    },
    /// The payload is on disk; nothing when it could not be made.
    Packed {
        /// The lease.
        lease: LeaseId,
        /// What to hand in.
        pending: Option<Box<Pending>>,
    },
    /// A chunk of the pending payload; nothing when it cannot be read.
    Pending {
        /// The lease.
        lease: LeaseId,
        /// Which chunk.
        chunk: u32,
        /// The bytes.
        bytes: Option<Bytes>,
    },
    /// The private state was promoted; its hash is the current one.
    Promoted {
        /// The current private state.
        private: Hash,
    },
}

/// What a family knows from before its start.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// The newest verified head of each job.
    pub chains: Vec<Chain>,
    /// A payload that no city has acknowledged.
    pub pending: Option<Pending>,
}
