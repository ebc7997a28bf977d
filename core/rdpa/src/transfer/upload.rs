//! Staging a contribution or a new version at a peer, from where it stopped.

use super::download::chunks_within;
use super::{REOPENS_MAX, TransferError, UploadStep, is_bad_handle};
use crate::{
    Answer, ChunkSet, Event, Handle, Level, Op, Placement, Refused, RegionName, RequestId, Session,
    StageInfo, StageKind,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use suanli_base::Time;

/// Stages a contribution (ACCUMULATE) or a new version (WRITE) at the peer, from where it stopped.
#[derive(Debug)]
pub struct Upload {
    region: RegionName,
    stage: StageInfo,
    window: usize,
    level: Level,
    state: State,
    placed: ChunkSet,
    /// Asked of the caller.
    wanted: BTreeSet<u32>,
    /// Given by the caller, not yet taken by the session.
    given: BTreeMap<u32, Bytes>,
    in_flight: BTreeMap<RequestId, u32>,
    reopens: u32,
    steps: VecDeque<UploadStep>,
}

#[derive(Debug)]
enum State {
    Stopped,
    /// OPEN_STAGE could not be asked yet.
    Wanting,
    Opening(RequestId),
    Staging(Handle),
    Finished(Handle),
}

impl Upload {
    /// An upload of what `stage` announces. `window_bytes` bounds the chunks asked of the caller or
    /// on their way: as many as fill the path, however short they are.
    ///
    /// # Panics
    /// When the announced shape is out of bounds: a defect of ours.
    #[must_use]
    pub fn new(region: RegionName, stage: StageInfo, window_bytes: u64) -> Self {
        assert_eq!(stage.shape.check(), Ok(()), "an upload announces a shape within bounds");
        let count = u32::try_from(stage.shape.chunk_count()).expect("checked just now");
        Self {
            region,
            stage,
            window: chunks_within(window_bytes, stage.shape),
            level: Level::Placed,
            state: State::Stopped,
            placed: ChunkSet::empty(count),
            wanted: BTreeSet::new(),
            given: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            reopens: 0,
            steps: VecDeque::new(),
        }
    }

    /// Asks for another level than placed for each chunk.
    #[must_use]
    pub const fn at(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Begins, or goes on in a new session. From now on only events of `session` may be offered.
    pub fn start(&mut self, now: Time, session: &mut Session) {
        self.in_flight.clear();
        self.reset();
        self.reopens = 0;
        self.open(now, session);
    }

    fn reset(&mut self) {
        self.wanted.clear();
        self.given.clear();
        self.steps.clear();
        self.state = State::Stopped;
    }

    fn open(&mut self, now: Time, session: &mut Session) {
        self.state = State::Wanting;
        let op = Op::OpenStage { region: self.region.clone(), stage: self.stage };
        match session.request(now, op) {
            Ok(id) => self.state = State::Opening(id),
            Err(Refused::Full { .. }) => {}
            Err(refused) => self.fail(session, refused.into()),
        }
    }

    fn fail(&mut self, session: &mut Session, error: TransferError) {
        self.stop(session);
        self.steps.push_back(UploadStep::Failed(error));
    }

    /// Gives a chunk that was asked for. One that was not, or no longer is, is dropped.
    pub fn provide(&mut self, now: Time, session: &mut Session, chunk: u32, bytes: Bytes) {
        if self.wanted.remove(&chunk) {
            self.given.insert(chunk, bytes);
            self.push(now, session);
        }
    }

    /// Offers an event of the session in use; true when it was this upload's.
    pub fn handle(&mut self, now: Time, session: &mut Session, event: &Event) -> bool {
        let ours = match event {
            Event::Answered { id, answer } => self.answered(session, *id, answer),
            Event::Failed { id, failure } => {
                let opening = matches!(self.state, State::Opening(open) if open == *id);
                let ours = opening || self.in_flight.contains_key(id);
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
            State::Staging(_) => self.push(now, session),
            _ => {}
        }
        ours
    }

    fn answered(&mut self, session: &mut Session, id: RequestId, answer: &Answer) -> bool {
        if let (State::Opening(open), Answer::StageOpened { handle, placed }) =
            (&self.state, answer)
            && *open == id
        {
            self.placed = placed.clone();
            self.state = State::Staging(*handle);
            return true;
        }
        let Some(chunk) = self.in_flight.remove(&id) else { return false };
        match answer {
            Answer::Placed { placement: Placement::Conflict, .. } => {
                self.fail(session, TransferError::Conflict { chunk });
            }
            _ => {
                self.reopens = 0;
                self.placed.insert(chunk);
            }
        }
        true
    }

    /// Hands given chunks to the session, asks the caller for more, sees the end.
    fn push(&mut self, now: Time, session: &mut Session) {
        let State::Staging(handle) = self.state else { return };
        while let Some((chunk, bytes)) = self.given.first_key_value() {
            let (chunk, bytes) = (*chunk, bytes.clone());
            let level = self.level;
            let op = match self.stage.kind {
                StageKind::Write => Op::Write { handle, chunk, bytes, level },
                StageKind::Accumulate => Op::Accumulate { handle, chunk, bytes, level },
            };
            match session.request(now, op) {
                Ok(id) => {
                    self.given.remove(&chunk);
                    self.in_flight.insert(id, chunk);
                }
                Err(Refused::Full { .. }) => break,
                Err(refused) => return self.fail(session, refused.into()),
            }
        }
        let under_way: BTreeSet<u32> = self.in_flight.values().copied().collect();
        let room = self.window - (under_way.len() + self.wanted.len() + self.given.len());
        let next: Vec<u32> = self
            .placed
            .missing()
            .filter(|chunk| {
                !under_way.contains(chunk)
                    && !self.wanted.contains(chunk)
                    && !self.given.contains_key(chunk)
            })
            .take(room)
            .collect();
        for chunk in next {
            self.wanted.insert(chunk);
            self.steps.push_back(UploadStep::NeedChunk(chunk));
        }
        if self.placed.is_full() {
            self.state = State::Finished(handle);
            self.steps.push_back(UploadStep::Done);
        }
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<UploadStep> {
        self.steps.pop_front()
    }

    /// The handle of the staging area, while it is open: for COMMIT.
    #[must_use]
    pub const fn handle_of_stage(&self) -> Option<Handle> {
        match self.state {
            State::Staging(handle) | State::Finished(handle) => Some(handle),
            _ => None,
        }
    }

    /// What is placed at the peer, as far as is known.
    #[must_use]
    pub const fn placed(&self) -> &ChunkSet {
        &self.placed
    }

    /// Cancels what is on its way.
    pub fn stop(&mut self, session: &mut Session) {
        if let State::Opening(id) = self.state {
            session.cancel(id);
        }
        for id in core::mem::take(&mut self.in_flight).into_keys() {
            session.cancel(id);
        }
        self.reset();
    }
}
