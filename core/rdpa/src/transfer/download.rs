//! Reading a region, or some of its chunks, from one holder after another.

use super::cut::carry_over;
use super::{DownloadStep, REOPENS_MAX, TransferError, is_bad_handle};
use crate::limits::READ_CHUNKS_MAX;
use crate::{
    Answer, ChunkSet, Event, Handle, Op, Refused, RegionInfo, RegionName, RequestId, Session, Shape,
};
use bytes::Bytes;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Hash, Time};

/// Chunks on their way at once, however short: each upload of one is a request of its own.
const WINDOW_CHUNKS_MAX: usize = 128;

/// How many chunks a window in bytes is; one always goes.
pub(super) fn chunks_within(window_bytes: u64, shape: Shape) -> usize {
    let longest = shape.bytes.min(u64::from(shape.chunk_bytes)).max(1);
    let chunks = usize::try_from(window_bytes / longest).unwrap_or(usize::MAX);
    chunks.clamp(1, WINDOW_CHUNKS_MAX)
}

/// Reads chunks of a region, verified on arrival; what has arrived is kept across holders.
#[derive(Debug)]
pub struct Download {
    region: RegionName,
    expected: Option<Hash>,
    window_bytes: u64,
    only: Option<Range<u32>>,
    have: Option<ChunkSet>,
    /// That of the last holder: by it `have` is in place.
    shape: Option<Shape>,
    state: State,
    reads: BTreeMap<RequestId, BTreeSet<u32>>,
    reopens: u32,
    steps: VecDeque<DownloadStep>,
}

#[derive(Debug)]
enum State {
    Stopped,
    /// OPEN could not be asked yet.
    Wanting,
    Opening(RequestId),
    Reading(Handle, Arc<RegionInfo>),
    Finished,
}

impl Download {
    /// A download of all of `region`; with `expected`, only of the content with this root.
    /// `window_bytes` bounds the chunks asked for and not arrived: as many as fill the path, however
    /// short they are.
    #[must_use]
    pub fn new(region: RegionName, expected: Option<Hash>, window_bytes: u64) -> Self {
        Self {
            region,
            expected,
            window_bytes,
            only: None,
            have: None,
            shape: None,
            state: State::Stopped,
            reads: BTreeMap::new(),
            reopens: 0,
            steps: VecDeque::new(),
        }
    }

    /// Wants only the chunks of `range`.
    #[must_use]
    pub fn only(mut self, range: Range<u32>) -> Self {
        self.only = Some(range);
        self
    }

    /// Counts these chunks as arrived already: what is on disk and was verified. Of use with an
    /// expected root only, for the chunks of which content would they be?
    #[must_use]
    pub fn having(mut self, have: ChunkSet) -> Self {
        self.have = Some(have);
        self
    }

    /// Begins, or goes on with another holder. From now on only events of `session` may be offered.
    pub fn start(&mut self, now: Time, session: &mut Session) {
        self.reads.clear();
        self.steps.clear();
        self.reopens = 0;
        self.open(now, session);
    }

    fn open(&mut self, now: Time, session: &mut Session) {
        self.state = State::Wanting;
        match session.request(now, Op::Open { region: self.region.clone() }) {
            Ok(id) => self.state = State::Opening(id),
            Err(Refused::Full { .. }) => {}
            Err(refused) => self.fail(session, refused.into()),
        }
    }

    fn fail(&mut self, session: &mut Session, error: TransferError) {
        self.stop(session);
        self.steps.push_back(DownloadStep::Failed(error));
    }

    /// Offers an event of the session in use; true when it was this download's.
    pub fn handle(&mut self, now: Time, session: &mut Session, event: &Event) -> bool {
        let ours = match event {
            Event::Answered { id, answer } => self.answered(session, *id, answer),
            Event::Chunk { id, chunk, bytes, .. } if self.reads.contains_key(id) => {
                self.arrived(*id, *chunk, bytes);
                true
            }
            Event::Failed { id, failure } => {
                let opening = matches!(self.state, State::Opening(open) if open == *id);
                let ours = opening || self.reads.contains_key(id);
                if ours && is_bad_handle(failure) && self.reopens < REOPENS_MAX {
                    self.reopens += 1;
                    self.stop(session);
                    self.open(now, session);
                } else if ours {
                    self.fail(session, failure.clone().into());
                }
                ours
            }
            _ => false,
        };
        match self.state {
            State::Wanting => self.open(now, session),
            State::Reading(..) => self.ask(now, session),
            _ => {}
        }
        ours
    }

    fn arrived(&mut self, id: RequestId, chunk: u32, bytes: &Bytes) {
        if let Some(chunks) = self.reads.get_mut(&id) {
            chunks.remove(&chunk);
        }
        self.reopens = 0;
        let have = self.have.as_mut().expect("set when the region was opened");
        if have.insert(chunk) {
            self.steps.push_back(DownloadStep::Chunk(chunk, bytes.clone()));
        }
    }

    fn answered(&mut self, session: &mut Session, id: RequestId, answer: &Answer) -> bool {
        match (&self.state, answer) {
            (State::Opening(open), Answer::Opened { handle, info }) if *open == id => {
                let (handle, info) = (*handle, Arc::clone(info));
                self.opened(session, handle, info);
                true
            }
            _ => self.reads.remove(&id).is_some(),
        }
    }

    fn opened(&mut self, session: &mut Session, handle: Handle, info: Arc<RegionInfo>) {
        let expected = *self.expected.get_or_insert(info.root);
        if expected != info.root {
            let (found, found_version) = (info.root, info.version);
            self.fail(session, TransferError::OtherContent { expected, found, found_version });
            return;
        }
        let count = info.chunk_count();
        let have = self.have.clone().filter(|have| have.bound() == count);
        let have = have.unwrap_or_else(|| ChunkSet::empty(count));
        let (expected, found) = (self.shape.unwrap_or(info.shape), info.shape);
        match carry_over(&have, expected, found) {
            Ok(have) => (self.have, self.shape) = (Some(have), Some(found)),
            Err(_) => {
                return self.fail(session, TransferError::OtherShape { expected, found });
            }
        }
        self.steps.push_back(DownloadStep::Opened(Arc::clone(&info)));
        self.state = State::Reading(handle, info);
    }

    fn ask(&mut self, now: Time, session: &mut Session) {
        let State::Reading(handle, info) = &self.state else { return };
        let (handle, count) = (*handle, info.chunk_count());
        let window = chunks_within(self.window_bytes, info.shape);
        let Range { start, end } = self.only.clone().unwrap_or(0..count);
        let have = self.have.as_ref().expect("set when the region was opened");
        let mut missing: VecDeque<u32> = (start..end.min(count))
            .filter(|chunk| !have.contains(*chunk))
            .filter(|chunk| !self.reads.values().any(|read| read.contains(chunk)))
            // What one window can take; a long list is not built at every chunk.
            .take(window)
            .collect();
        let mut in_flight: usize = self.reads.values().map(BTreeSet::len).sum();
        if missing.is_empty() && in_flight == 0 {
            self.reads.clear();
            self.state = State::Finished;
            self.steps.push_back(DownloadStep::Done);
            return;
        }
        // Half a window at a time: few requests, and the pipe never runs dry.
        let batch = window.div_ceil(2).min(READ_CHUNKS_MAX);
        while !missing.is_empty() {
            let room = window.saturating_sub(in_flight);
            let len = batch.min(missing.len());
            if room < len {
                return;
            }
            let chunks: Vec<u32> = missing.drain(..len).collect();
            match session.request(now, Op::Read { handle, chunks: chunks.clone() }) {
                Ok(id) => {
                    in_flight += chunks.len();
                    self.reads.insert(id, chunks.into_iter().collect());
                }
                Err(Refused::Full { .. }) => return,
                Err(refused) => return self.fail(session, refused.into()),
            }
        }
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<DownloadStep> {
        self.steps.pop_front()
    }

    /// What has arrived, once the region was opened.
    #[must_use]
    pub const fn have(&self) -> Option<&ChunkSet> {
        self.have.as_ref()
    }

    /// Cancels what is on its way; what has arrived stays.
    pub fn stop(&mut self, session: &mut Session) {
        if let State::Opening(id) = self.state {
            session.cancel(id);
        }
        for id in core::mem::take(&mut self.reads).into_keys() {
            session.cancel(id);
        }
        self.state = State::Stopped;
    }
}
