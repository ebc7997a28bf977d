//! What a city asks of its host, and what the host reports back.

use bytes::Bytes;
use core::net::IpAddr;
use suanli_base::{Hash, JobId, LeaseId, NodeId, Round};
use suanli_bus::state::MergeOrder;
use suanli_bus::{Contribution, JobOutcome, JobSpec};
use suanli_identity::{Prefix, Role, Signed};
use suanli_log::{JobPhase, StateBlobs};
use suanli_params::Codec;
use suanli_rdpa::{Frame, GateBooks, RegionInfo, ResponderToken};

/// One connection, as the host numbers them; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Something that waits for the outcome of a command of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// Where a region's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A blob, by the hash of all its bytes.
    Blob(Hash),
    /// Content that a trainer brought, by its Merkle root.
    Content(Hash),
    /// The specification of a job.
    Spec(JobId),
    /// What [`Input::Describe`] said of a job.
    Tensors(JobId),
    /// What measures a link.
    Probe,
}

/// Where staged chunks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The contribution to a lease.
    Lease(LeaseId),
    /// Content that a trainer brings. Each brings its own: what one does to it, no other feels.
    Content {
        /// Who.
        by: NodeId,
        /// Its root.
        root: Hash,
    },
}

/// What goes into a city.
#[derive(Debug)]
pub enum Input {
    /// A link is up; the peer has proven its key.
    Opened {
        /// Its number.
        conn: ConnId,
        /// Who.
        peer: NodeId,
        /// What counts as one address, where it has one.
        from: Option<IpAddr>,
        /// Decides handles and jitter.
        seed: u64,
    },
    /// A frame came.
    Frame {
        /// From where.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Bytes of a frame are coming that is not there yet: on a slow line the peer is not silent.
    Arriving {
        /// From where.
        conn: ConnId,
    },
    /// A link is gone.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// Time went by.
    Tick,
    /// What was to be appended is synced.
    Durable,
    /// A piece of work is done.
    Done(Done),
    /// The host, which knows models, says which tensors a job's parameters are: readable from now on
    /// beside them. At most [`TENSORS_BYTES_MAX`](super::TENSORS_BYTES_MAX); not kept over a restart.
    Describe {
        /// Of which job.
        job: JobId,
        /// A catalogue; this crate does not read it.
        tensors: bytes::Bytes,
    },
    /// The operator, on this machine.
    Command {
        /// Comes back with the outcome.
        id: CommandId,
        /// What.
        command: Command,
    },
}

/// What the operator can ask for.
#[derive(Debug)]
pub enum Command {
    /// Take in a job whose content is stored already.
    Submit {
        /// Canonical bytes of the specification.
        spec: Vec<u8>,
    },
    /// Halt, resume or end a job.
    Move {
        /// Which.
        job: JobId,
        /// To what.
        to: JobPhase,
    },
    /// End every grant to what a prefix means that was given so far; answered by
    /// [`Output::Revoked`].
    Revoke(Prefix),
    /// Content was stored by the operator's own hand.
    Content(RegionInfo),
    /// Grant no more leases; the host stops when the connections are closed.
    Stop,
}

/// What comes out of a city.
#[derive(Debug)]
pub enum Output {
    /// Append these entries, in order, and sync; then hand in [`Input::Durable`] before anything else.
    Append(Vec<Vec<u8>>),
    /// The log may be cut: this is the whole state after all appended entries.
    Snapshot(Vec<u8>),
    /// Do this, on whatever thread, and report back.
    Work(Work),
    /// A member's HELLO was accepted.
    Admitted {
        /// On which link.
        conn: ConnId,
        /// What it came for.
        role: Role,
    },
    /// Close a link once its frames are sent.
    Close {
        /// Which.
        conn: ConnId,
        /// For the log.
        why: String,
    },
    /// The outcome of a command.
    Reply {
        /// Which command.
        id: CommandId,
        /// What came of it.
        outcome: JobOutcome,
        /// The job it was about.
        job: JobId,
    },
    /// What came of [`Command::Revoke`]: the epoch now in force, or why not.
    Revoked {
        /// Which command.
        id: CommandId,
        /// What came of it.
        result: Result<u64, String>,
    },
    /// Something an operator may want to read.
    Note(String),
}

/// Work for the host.
#[derive(Debug)]
pub enum Work {
    /// Read a chunk, or runs of bytes, that a peer asked for.
    Read {
        /// Who asked.
        conn: ConnId,
        /// For the reply.
        token: ResponderToken,
        /// From where.
        source: Source,
        /// (Offset, length) in bytes, packed one behind the other in the reply.
        runs: Vec<(u64, u32)>,
        /// Length of all runs together.
        length: u32,
    },
    /// Keep a staged chunk.
    Stage {
        /// Where.
        stage: Stage,
        /// Offset in bytes.
        offset: u64,
        /// The chunk.
        bytes: Bytes,
        /// Length of the whole when complete.
        total: u64,
    },
    /// Throw staged chunks away.
    Unstage(Stage),
    /// Make staged content permanent and synced under its root; answer [`Done::Stored`].
    Store {
        /// Who brought it.
        by: NodeId,
        /// What it holds.
        info: RegionInfo,
    },
    /// Check a staged payload, then store it and the contribution as synced blobs; answer
    /// [`Done::Settled`].
    Settle(Box<Settle>),
    /// Merge; store the results as synced blobs; answer [`Done::Merged`].
    Merge {
        /// What.
        order: MergeOrder,
        /// The numbers.
        spec: Box<JobSpec>,
    },
    /// Make the blobs of version 0 from the stored first parameters; answer [`Done::Founded`].
    Found {
        /// The job.
        job: JobId,
        /// Its specification.
        spec: Box<JobSpec>,
    },
    /// Hash the chunks of kept blobs after a restart; answer [`Done::Catalogued`]. What a round
    /// committed meanwhile has let go is left out (no chunks for the parameters).
    Catalogue {
        /// The job.
        job: JobId,
        /// Its newest parameters.
        theta: Hash,
        /// Kept updates by version.
        updates: Vec<(Round, Hash)>,
        /// How updates are encoded.
        codec: Codec,
        /// How many parameters.
        parameters: u64,
    },
    /// Append a signed head to the job's chain file (synced; a head that is there already is fine).
    KeepHead {
        /// The job.
        job: JobId,
        /// Its version.
        version: Round,
        /// The head.
        head: Signed,
    },
    /// Read heads from the chain file; answer [`Done::Heads`].
    ReadHeads {
        /// Who asked.
        conn: ConnId,
        /// The job.
        job: JobId,
        /// The first version wanted.
        from: Round,
        /// How many at the most.
        count: usize,
    },
    /// Measure the held-out loss of a version; answer [`Done::Evaluated`].
    Evaluate {
        /// The job.
        job: JobId,
        /// The version.
        version: Round,
        /// Its parameters.
        theta: Hash,
    },
    /// Delete blobs nobody needs.
    Forget(Vec<Hash>),
    /// Keep what the gate must not forget, in place of what was kept before, synced; answer
    /// [`Done::BooksKept`]. The next run gets it by [`CityNode::keep_books`](super::CityNode::keep_books).
    KeepBooks(GateBooks),
}

/// A payload to be checked and stored.
#[derive(Debug)]
pub struct Settle {
    /// Who handed it in.
    pub node: NodeId,
    /// The lease.
    pub lease: LeaseId,
    /// The decoded contribution.
    pub contribution: Contribution,
    /// The signed bytes to keep.
    pub signed: Signed,
    /// How it is encoded.
    pub codec: Codec,
    /// How many parameters.
    pub parameters: u64,
}

/// What the host did.
#[derive(Debug)]
pub enum Done {
    /// A chunk was read; none when the bytes are gone or damaged.
    Read {
        /// Who asked.
        conn: ConnId,
        /// For the reply.
        token: ResponderToken,
        /// The chunk.
        bytes: Option<Bytes>,
    },
    /// Content is permanent, or could not be made so.
    Stored {
        /// Its root.
        root: Hash,
        /// What it holds.
        info: RegionInfo,
        /// Whether it is.
        stored: bool,
    },
    /// A payload was checked.
    Settled {
        /// Who handed it in.
        node: NodeId,
        /// The lease.
        lease: LeaseId,
        /// The outcome.
        result: Result<Box<suanli_bus::authority::Settled>, SettleFault>,
    },
    /// A merge is done and synced.
    Merged {
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
        /// Blob of the update.
        update: Hash,
        /// Hash of each of its chunks.
        update_chunks: Vec<Hash>,
        /// Hash of each chunk of the new parameters.
        theta_chunks: Vec<Hash>,
        /// The new outer state.
        state: StateBlobs,
    },
    /// Version 0 is stored.
    Founded {
        /// The job.
        job: JobId,
        /// Its blobs, or why not.
        state: Result<(StateBlobs, Vec<Hash>), String>,
    },
    /// Kept blobs were hashed.
    Catalogued {
        /// The job.
        job: JobId,
        /// Hash of each chunk of the newest parameters.
        theta_chunks: Vec<Hash>,
        /// Hash of each chunk of kept updates.
        updates: Vec<(Round, Hash, Vec<Hash>)>,
    },
    /// What the gate must not forget is synced.
    BooksKept,
    /// Heads were read.
    Heads {
        /// Who asked.
        conn: ConnId,
        /// The job.
        job: JobId,
        /// In ascending version.
        heads: Vec<Signed>,
    },
    /// A held-out loss was measured; none when it could not be.
    Evaluated {
        /// The job.
        job: JobId,
        /// The version.
        version: Round,
        /// Nats a token.
        loss: Option<f32>,
    },
}

/// Why a payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleFault {
    /// It does not decode: the peer's fault.
    Payload,
    /// It could not be stored: ours; the member may try again.
    Disk,
}
