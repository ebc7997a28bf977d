//! What two sides say to each other, as types: operations, requests, replies, answers.
//!
//! An [`Op`] is what our side asks for; at the peer it arrives as a [`Request`], is answered by a
//! [`Reply`], and comes back to us as an [`Answer`].

use crate::limits::PeerLimits;
use crate::{ChunkSet, Code, Placement, RegionInfo, RegionName, Shape, Span};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use suanli_base::{Hash, Time};
use suanli_identity::Role;

/// The first request on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version spoken.
    pub version_min: u8,
    /// Highest protocol version spoken.
    pub version_max: u8,
    /// What the bearer wants to be.
    pub role: Role,
    /// The ticket that allows it, as bytes; may be empty for a member that is known already.
    pub ticket: Vec<u8>,
}

impl Hello {
    /// A HELLO of the versions this code speaks.
    #[must_use]
    pub const fn new(role: Role, ticket: Vec<u8>) -> Self {
        let version = crate::limits::PROTOCOL_VERSION;
        Self { version_min: version, version_max: version, role, ticket }
    }
}

/// The answer to an accepted HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version both will speak.
    pub version: u8,
    /// What the accepting side bears.
    pub limits: PeerLimits,
    /// The accepting side's time, milliseconds since the Unix epoch: for showing clock offsets.
    pub time: Time,
}

/// How safe an effect is, or is to be, when the reply is given. Each holds what the one before holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u16)]
pub enum Level {
    /// It arrived whole and will be tried.
    Accepted = 1,
    /// It is in place: whoever looks finds it. It may be lost when the holder loses power.
    Placed = 2,
    /// It survives the loss of power of the holder.
    Durable = 3,
}

impl Level {
    pub(crate) const fn to_wire(self) -> u16 {
        self as u16
    }

    pub(crate) const fn from_wire(bits: u16) -> Option<Self> {
        match bits & 3 {
            1 => Some(Self::Accepted),
            2 => Some(Self::Placed),
            3 => Some(Self::Durable),
            _ => None,
        }
    }
}

/// What a holder tells about a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStat {
    /// The newest version.
    pub version: u64,
    /// The oldest version that can still be read by whoever has it open.
    pub oldest: u64,
    /// Length and chunk length of the newest.
    pub shape: Shape,
    /// Its root.
    pub root: Hash,
    /// Bytes that versions other than the newest keep from being freed.
    pub pinned_bytes: u64,
}

/// What a holder tells about this session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStat {
    /// Requests of the asking side that were taken in.
    pub requests: u64,
    /// Requests that are being served now.
    pub serving: u32,
    /// Payload bytes sent to the asking side.
    pub bytes_sent: u64,
    /// Payload bytes received from it.
    pub bytes_received: u64,
    /// The round trip that the holder last measured, in milliseconds.
    pub rtt_ms: Option<u64>,
}

/// The answer to STAT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// This session as the holder sees it; filled in by the session itself.
    pub session: SessionStat,
    /// The region, if one was named and there is one.
    pub region: Option<RegionStat>,
}

/// Why a staging area is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StageKind {
    /// To become the next version of the region by COMMIT.
    Write,
    /// As a contribution, kept compressed until the round closes; it needs no COMMIT.
    Accumulate,
}

/// What is announced when a staging area is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StageInfo {
    /// What it is for.
    pub kind: StageKind,
    /// Length and chunk length of what will come.
    pub shape: Shape,
    /// The root over the hashes of the chunks that will come.
    pub root: Hash,
}

/// An opened region, or staging area, of the peer. Valid in the session that gave it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub(crate) u64);

/// One of our requests in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One request of the peer that waits for our reply. Used once with
/// [`Session::respond`](crate::Session::respond).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResponderToken {
    pub(crate) request: u64,
    pub(crate) chunk: u32,
}

/// What our side can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Introduces ourselves; the only operation allowed before its answer.
    Hello(Hello),
    /// Opens the newest version of a region for reading.
    Open {
        /// The region.
        region: RegionName,
    },
    /// Opens a staging area; the answer says which chunks are in place already.
    OpenStage {
        /// The region.
        region: RegionName,
        /// What will come.
        stage: StageInfo,
    },
    /// Reads up to 64 chunks; each arrives as its own [`Event::Chunk`](crate::Event::Chunk).
    Read {
        /// From [`Answer::Opened`].
        handle: Handle,
        /// The chunks, without repetition.
        chunks: Vec<u32>,
    },
    /// Opens the region if it has another version than `since`.
    ReadIfChanged {
        /// The region.
        region: RegionName,
        /// The version we have.
        since: u64,
    },
    /// Stages one chunk into an area of [`StageKind::Write`].
    Write {
        /// From [`Answer::StageOpened`].
        handle: Handle,
        /// Which chunk.
        chunk: u32,
        /// Its bytes.
        bytes: Bytes,
        /// How safe it is to be when the answer comes.
        level: Level,
    },
    /// Stages one chunk of a contribution.
    Accumulate {
        /// From [`Answer::StageOpened`].
        handle: Handle,
        /// Which chunk.
        chunk: u32,
        /// Its bytes.
        bytes: Bytes,
        /// How safe it is to be when the answer comes.
        level: Level,
    },
    /// Publishes a complete staged set as the version after `expected`.
    Commit {
        /// From [`Answer::StageOpened`].
        handle: Handle,
        /// The version the region must have now.
        expected: u64,
    },
    /// Hands over a small message; answered when the peer has placed it.
    Send {
        /// At most [`SEND_BYTES_MAX`](crate::limits::SEND_BYTES_MAX).
        bytes: Bytes,
    },
    /// Asks to be notified of new versions of a region.
    Subscribe {
        /// The region.
        region: RegionName,
    },
    /// Reads byte ranges of an opened version, packed; each piece arrives as its own
    /// [`Event::Piece`](crate::Event::Piece). A piece is guarded by the link, not by the region's
    /// hashes: for a holder that is trusted. [`Op::Read`] is for one that is not.
    ReadRanges {
        /// From [`Answer::Opened`].
        handle: Handle,
        /// Which bytes; see [`check_spans`](crate::check_spans).
        spans: Vec<Span>,
    },
    /// Opens a region of 64-bit cells.
    OpenCells {
        /// The region.
        region: RegionName,
    },
    /// Puts `new` into a cell if it holds `expected`; answered with what it held.
    Cas {
        /// From [`Answer::CellsOpened`].
        handle: Handle,
        /// Which cell.
        cell: u32,
        /// What it must hold.
        expected: u64,
        /// What it then holds.
        new: u64,
    },
    /// Adds to a cell, wrapping around; answered with what it held.
    FetchAdd {
        /// From [`Answer::CellsOpened`].
        handle: Handle,
        /// Which cell.
        cell: u32,
        /// How much.
        add: u64,
    },
    /// Orders: it is sent when all requests before it are answered, and requests behind it are sent
    /// when it is answered. The answer says that all effects before it are as safe as `level`.
    Fence {
        /// How safe.
        level: Level,
    },
    /// Asks how the session fares, and of a region.
    Stat {
        /// Of which region, if any.
        region: Option<RegionName>,
    },
    /// Ends every grant below `epoch` on the regions that begin with `prefix`.
    Revoke {
        /// A region's name, or the beginning of several that ends with `/`; empty for all.
        prefix: String,
        /// Grants of a lower epoch end.
        epoch: u64,
    },
}

/// What the peer asks of us. READ comes chunk by chunk, each with its own token, as fast as the
/// bulk window lets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Reply [`Reply::Welcome`] or [`Reply::Error`].
    Hello(Hello),
    /// Reply [`Reply::Opened`] with the newest version.
    Open {
        /// The region.
        region: RegionName,
    },
    /// Reply [`Reply::StageOpened`].
    OpenStage {
        /// The region.
        region: RegionName,
        /// What will come; its bounds are checked.
        stage: StageInfo,
    },
    /// Reply [`Reply::Data`]. The chunk exists in the version that was opened.
    Read {
        /// The region.
        region: RegionName,
        /// The version that was opened.
        version: u64,
        /// Which chunk.
        chunk: u32,
    },
    /// Reply [`Reply::Opened`] or [`Reply::NotChanged`].
    ReadIfChanged {
        /// The region.
        region: RegionName,
        /// The version the peer has.
        since: u64,
    },
    /// WRITE or ACCUMULATE of one chunk, of the right length, with the hash of what arrived. Reply
    /// [`Reply::Placed`] when it is as safe as it should be.
    Stage {
        /// The region.
        region: RegionName,
        /// What was announced when the area was opened.
        stage: StageInfo,
        /// Which chunk.
        chunk: u32,
        /// The BLAKE3 hash of `bytes`.
        hash: Hash,
        /// The chunk.
        bytes: Bytes,
        /// How safe it is to be before the reply; nothing when the peer leaves that to us.
        level: Option<Level>,
    },
    /// Reply [`Reply::Committed`].
    Commit {
        /// The region.
        region: RegionName,
        /// What was announced when the area was opened.
        stage: StageInfo,
        /// The version the region must have now.
        expected: u64,
    },
    /// Reply [`Reply::Delivered`] when it is placed. It is handed over once per request.
    Send {
        /// The message.
        bytes: Bytes,
    },
    /// Reply [`Reply::Subscribed`]; from then on [`Session::notify`](crate::Session::notify) reaches
    /// the peer.
    Subscribe {
        /// The region.
        region: RegionName,
    },
    /// Reply [`Reply::Data`] with `len` bytes of the packed answer from `start` on; the spans were
    /// checked against the version that was opened. See [`runs_of`](crate::runs_of).
    ReadRanges {
        /// The region.
        region: RegionName,
        /// The version that was opened.
        version: u64,
        /// What is packed.
        spans: Arc<[Span]>,
        /// Where the piece begins in the packed answer.
        start: u64,
        /// Its length.
        len: u32,
    },
    /// Reply [`Reply::CellsOpened`].
    OpenCells {
        /// The region.
        region: RegionName,
    },
    /// Reply [`Reply::Cell`] with what the cell held. It is handed over once per request.
    Cas {
        /// The region.
        region: RegionName,
        /// Which cell; it exists.
        cell: u32,
        /// What it must hold.
        expected: u64,
        /// What it then holds.
        new: u64,
    },
    /// Reply [`Reply::Cell`] with what the cell held. It is handed over once per request.
    FetchAdd {
        /// The region.
        region: RegionName,
        /// Which cell; it exists.
        cell: u32,
        /// How much.
        add: u64,
    },
    /// Reply [`Reply::Fenced`] when all that was answered before is this safe.
    Fence {
        /// How safe; nothing when the peer leaves that to us.
        level: Option<Level>,
    },
    /// Reply [`Reply::Stat`].
    Stat {
        /// Of which region, if any.
        region: Option<RegionName>,
    },
    /// Reply [`Reply::Revoked`].
    Revoke {
        /// A region's name, or the beginning of several.
        prefix: String,
        /// Grants of a lower epoch end.
        epoch: u64,
    },
}

/// Our reply to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// To HELLO.
    Welcome(Welcome),
    /// To OPEN and READ_IF_CHANGED.
    Opened(Arc<RegionInfo>),
    /// To READ_IF_CHANGED: the version is the same.
    NotChanged,
    /// To the opening of a staging area: the chunks that are in place already.
    StageOpened(ChunkSet),
    /// To READ: the chunk.
    Data(Bytes),
    /// To WRITE and ACCUMULATE.
    Placed {
        /// What became of the chunk.
        placement: Placement,
        /// How safe it is.
        level: Level,
    },
    /// To COMMIT: the new version.
    Committed {
        /// The version published.
        version: u64,
    },
    /// To SEND.
    Delivered,
    /// To SUBSCRIBE: the version now.
    Subscribed {
        /// The version now; 0 for none yet.
        version: u64,
    },
    /// To OPEN_CELLS: how many there are.
    CellsOpened {
        /// 1 to [`CELLS_MAX`](crate::limits::CELLS_MAX).
        count: u32,
    },
    /// To CAS and FETCH_ADD: what the cell held.
    Cell {
        /// Before the operation.
        held: u64,
    },
    /// To FENCE.
    Fenced {
        /// How safe everything before is.
        level: Level,
    },
    /// To STAT: of the region; the session adds its own part.
    Stat {
        /// What is known of the region, if one was named and is here.
        region: Option<RegionStat>,
    },
    /// To REVOKE.
    Revoked {
        /// The epoch now in force.
        epoch: u64,
    },
    /// To anything: refused.
    Error {
        /// Why.
        code: Code,
        /// A short text for people; cut to 256 bytes.
        text: String,
    },
}

/// The peer's answer to one of our operations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// HELLO was accepted.
    Welcome(Welcome),
    /// The region is open for reading; its root matches its chunk hashes.
    Opened {
        /// For READ.
        handle: Handle,
        /// What it holds.
        info: Arc<RegionInfo>,
    },
    /// The region still has the version we know.
    NotChanged,
    /// The staging area is open.
    StageOpened {
        /// For WRITE, ACCUMULATE and COMMIT.
        handle: Handle,
        /// Chunks that need not be sent again.
        placed: ChunkSet,
    },
    /// Every chunk of a READ has been handed over.
    ReadDone,
    /// A staged chunk is in place, or was.
    Placed {
        /// What became of it.
        placement: Placement,
        /// How safe it is; nothing from a holder that does not tell.
        level: Option<Level>,
    },
    /// The staged set is now this version.
    Committed {
        /// The version published.
        version: u64,
    },
    /// A SEND is placed.
    Delivered,
    /// Notifications will come.
    Subscribed {
        /// The version now; 0 for none yet.
        version: u64,
    },
    /// The cells are open.
    CellsOpened {
        /// For CAS and FETCH_ADD.
        handle: Handle,
        /// How many there are.
        count: u32,
    },
    /// What a cell held before a CAS or FETCH_ADD.
    Cell {
        /// Before the operation.
        held: u64,
    },
    /// Everything before the FENCE is this safe.
    Fenced {
        /// How safe.
        level: Level,
    },
    /// How the session fares, and the region.
    Stat(Stat),
    /// Grants below this epoch have ended.
    Revoked {
        /// The epoch now in force.
        epoch: u64,
    },
}
