//! RDPA, remote direct parameter access: named, versioned, hashed regions that a peer opens, reads,
//! stages into and is notified of. Specification: `docs/spec/rdpa.md`.
//!
//! Not for: sockets (the link carries frames), authorisation inside a session (the caller answers
//! HELLO and decides every request), storage (the caller holds the bytes).
//!
//! Beside the protocol stand the decisions of a holder, which it may use or not: who may do what
//! ([`Gate`], `docs/spec/access.md`), how fast bytes may go ([`Pace`], [`Uplink`]), and which versions
//! are kept ([`Versions`]). A session knows nothing of them.
//!
//! A [`Session`] is driven by its caller: hand it frames with [`Session::handle_frame`] and call
//! [`Session::handle_timeout`] when [`Session::poll_timeout`] says; after each, drain
//! [`Session::poll_event`] and [`Session::poll_transmit`]. It works over a network that loses,
//! duplicates, reorders and delays frames.
//!
//! Invariants: nothing but HELLO is served before the caller accepted it; a chunk handed over matches
//! its hash, a region handed over its root; a SEND is handed over at most once; every queue has a
//! bound; a handle is of one session; equal seeds and inputs give equal outputs.

mod body;
mod code;
mod frame;
mod gate;
pub mod limits;
mod message;
mod pace;
mod region;
mod session;
mod span;
mod transfer;
mod versions;

pub use code::Code;
pub use frame::{Announced, Decoder, Direction, Frame, FrameError, HEADER_BYTES, Header, Opcode};
pub use gate::{Denied, DenyReason, Gate, GateBooks, GateLimits, Need, Pass, UsedBytes, right_of};
pub use limits::{Limits, PeerLimits};
pub use message::{
    Answer, Handle, Hello, Level, Op, RegionStat, Reply, Request, RequestId, ResponderToken,
    SessionStat, StageInfo, StageKind, Stat, Welcome,
};
pub use pace::{
    DAY_MINUTES, LocalTime, Pace, Uplink, UplinkDay, UplinkError, UplinkLimits, WINDOWS_MAX, Wait,
    WaitReason, Window,
};
pub use region::{
    BadChunkSet, BadRegionName, ChunkSet, Incomplete, NoSuchChunk, Placement, RegionError,
    RegionInfo, RegionName, Shape, Staging,
};
pub use session::{Event, Failure, Landing, Place, Refused, Session, Side, Violation};
pub use span::{Span, SpanError, check_spans, piece_count, piece_of, runs_of};
pub use transfer::{
    Download, DownloadStep, Gather, GatherCount, GatherStep, SourceId, TransferError, Upload,
    UploadStep,
};
pub use versions::{ChunkRef, Dropped, DroppedVersion, VersionLimits, Versions, VersionsError};
