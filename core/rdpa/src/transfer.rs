//! Moving whole regions through a session: windowed, verified, resumable with another holder.
//!
//! Both machines are driven alike: `start` with a session, offer every event of that session to
//! `handle`, and after each drain `poll`. They hold ids and bitmaps; bytes pass through.

mod cut;
mod download;
mod gather;
mod upload;

pub use download::Download;
pub use gather::{Gather, GatherCount, GatherStep, SourceId};
pub use upload::Upload;

use crate::{Code, Failure, RegionInfo, Shape};
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{Fault, Hash};

/// How often in a row a transfer opens anew because its handle was forgotten.
const REOPENS_MAX: u32 = 3;

/// What a [`Download`] tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadStep {
    /// The region is open (again): what it holds is known. With another shape than before, only what
    /// [`Download::have`] has stays where it is.
    Opened(Arc<RegionInfo>),
    /// A chunk has arrived and is verified.
    Chunk(u32, Bytes),
    /// Every wanted chunk has been handed over.
    Done,
    /// This holder failed; nothing is lost, go on with [`Download::start`] and another session, or
    /// the same one later.
    Failed(TransferError),
}

/// What an [`Upload`] tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UploadStep {
    /// Give the bytes of this chunk to [`Upload::provide`].
    NeedChunk(u32),
    /// Every chunk is placed at the peer.
    Done,
    /// The transfer stopped; [`Upload::start`] goes on from what is placed.
    Failed(TransferError),
}

/// Why a transfer stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A request of it failed.
    #[error(transparent)]
    Request(#[from] Failure),
    /// The holder opened another content than expected.
    #[error("the holder has root {} at version {found_version}, expected {}", found.short(), expected.short())]
    OtherContent {
        /// The root expected.
        expected: Hash,
        /// The root the holder announced.
        found: Hash,
        /// The version the holder announced.
        found_version: u64,
    },
    /// The holder announced a shape under which a chunk that has arrived, and has the hash that both
    /// announce, would have another length than it has.
    #[error(
        "the holder announced {} bytes in chunks of {}, a chunk shows that they are {} in chunks of {}",
        found.bytes, found.chunk_bytes, expected.bytes, expected.chunk_bytes
    )]
    OtherShape {
        /// The shape that the chunk has shown.
        expected: Shape,
        /// The shape this holder announced.
        found: Shape,
    },
    /// The peer already holds another content for a chunk.
    #[error("the peer holds another content for chunk {chunk}")]
    Conflict {
        /// Which chunk.
        chunk: u32,
    },
    /// Our own session takes no more.
    #[error(transparent)]
    Refused(#[from] crate::Refused),
}

impl TransferError {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Request(failure) => failure.fault(),
            Self::OtherContent { .. } => Fault::Weather,
            Self::OtherShape { .. } => Fault::Peer,
            Self::Conflict { .. } | Self::Refused(_) => Fault::Ours,
        }
    }
}

impl TransferError {
    /// Whether the peer gave something other than it had announced: it is not to be asked again.
    #[must_use]
    pub const fn is_lie(&self) -> bool {
        match self {
            Self::Request(failure) => failure.is_lie(),
            Self::OtherShape { .. } => true,
            _ => false,
        }
    }
}

/// The peer forgot the handle (its table is bounded): opening again helps.
fn is_bad_handle(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { code: Code::BadHandle, .. })
}
