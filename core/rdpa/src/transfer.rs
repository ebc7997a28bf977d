//! Moving whole regions through a session: windowed, verified, resumable with another holder.

use crate::{ChunkSet, Event, Failure, RegionInfo, RegionName, Session, StageInfo};
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{Hash, Time};

/// What a [`Download`] tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadStep {
    /// The region is open (again): what it holds is known.
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

/// Reads chunks of a region, verified on arrival; what has arrived is kept across holders.
#[derive(Debug)]
pub struct Download {
    region: RegionName,
    expected: Option<Hash>,
}

impl Download {
    /// A download of all of `region`; with `expected`, only of the content with this root.
    /// `window` bounds the chunks asked for and not arrived.
    #[must_use]
    pub fn new(region: RegionName, expected: Option<Hash>, window: usize) -> Self {
        let _ = window;
        Self { region, expected }
    }

    /// Wants only the chunks of `range` (not before the start).
    #[must_use]
    pub fn only(self, range: core::ops::Range<u32>) -> Self {
        let _ = range;
        self
    }

    /// Counts these chunks as arrived already: what is on disk and was verified.
    #[must_use]
    pub fn having(self, have: ChunkSet) -> Self {
        let _ = have;
        self
    }

    /// Begins, or goes on with another holder.
    pub fn start(&mut self, now: Time, session: &mut Session) {
        let _ = (now, session, &self.region, &self.expected);
    }

    /// Offers an event of the session in use; true when it was this download's.
    pub fn handle(&mut self, now: Time, session: &mut Session, event: &Event) -> bool {
        let _ = (now, session, event);
        false
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<DownloadStep> {
        None
    }

    /// What has arrived, once the region was opened.
    #[must_use]
    pub fn have(&self) -> Option<&ChunkSet> {
        None
    }

    /// Cancels what is on its way; what has arrived stays.
    pub fn stop(&mut self, session: &mut Session) {
        let _ = session;
    }
}

/// Stages a contribution (ACCUMULATE) or a new version (WRITE) at the peer, from where it stopped.
#[derive(Debug)]
pub struct Upload {
    region: RegionName,
    stage: StageInfo,
}

impl Upload {
    /// An upload of what `stage` announces. `window` bounds the chunks asked of the caller or on
    /// their way.
    #[must_use]
    pub fn new(region: RegionName, stage: StageInfo, window: usize) -> Self {
        let _ = window;
        Self { region, stage }
    }

    /// Begins, or goes on in a new session.
    pub fn start(&mut self, now: Time, session: &mut Session) {
        let _ = (now, session, &self.region, &self.stage);
    }

    /// Gives a chunk that was asked for.
    pub fn provide(&mut self, now: Time, session: &mut Session, chunk: u32, bytes: Bytes) {
        let _ = (now, session, chunk, bytes);
    }

    /// Offers an event of the session in use; true when it was this upload's.
    pub fn handle(&mut self, now: Time, session: &mut Session, event: &Event) -> bool {
        let _ = (now, session, event);
        false
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<UploadStep> {
        None
    }

    /// Cancels what is on its way.
    pub fn stop(&mut self, session: &mut Session) {
        let _ = session;
    }
}
