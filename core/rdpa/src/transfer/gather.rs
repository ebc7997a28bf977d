//! Reading a region from several sources at once: different holders, or several connections to one.
//!
//! Each source asks for more when it has room, so a faster one does more. When nothing is left to
//! ask for, an idle source takes over what the slowest one owes; whichever comes first counts. What
//! arrives is verified by its session, so a source that lies is dropped and what it gave before is
//! good. (The rule of rarest-first does not apply: every source has everything, or fails.)

use super::TransferError;
use crate::limits::READ_CHUNKS_MAX;
use crate::{
    Answer, ChunkSet, Event, Handle, Op, Place, Refused, RegionInfo, RegionName, RequestId, Session,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Duration, Hash, Time};

/// What a source may owe: as much as it gives in this time.
const AHEAD: Duration = Duration(250);
/// Chunks a source may owe whatever its rate: one on its way, one being asked for.
const OWED_MIN: usize = 2;
/// Chunks a source may owe at most.
const OWED_MAX: usize = 4 * READ_CHUNKS_MAX;
/// A rate is measured over at least this long.
const MEASURE: Duration = Duration(100);

/// A source, as the caller numbers them; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// What a [`Gather`] tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatherStep {
    /// What the region holds is known, from the first source that opened it.
    Opened(Arc<RegionInfo>),
    /// A chunk has arrived and is verified; each comes once.
    Chunk(SourceId, u32, Bytes),
    /// The same, in its place already.
    Landed(SourceId, u32),
    /// This source has something to do: call [`Gather::tend`] with its session.
    Tend(SourceId),
    /// A source failed and is not used any more; what it owed is asked of others.
    SourceFailed(SourceId, TransferError),
    /// No source is left; add one to go on.
    Stalled,
    /// Every chunk has been handed over.
    Done,
}

/// Reads a region from several sources.
#[derive(Debug)]
pub struct Gather {
    region: RegionName,
    expected: Option<Hash>,
    have: Option<ChunkSet>,
    info: Option<Arc<RegionInfo>>,
    /// Neither here nor owed by anybody.
    unasked: BTreeSet<u32>,
    /// How many sources owe a chunk: one, or two at the end.
    owed: BTreeMap<u32, u32>,
    sources: BTreeMap<SourceId, Source>,
    steps: VecDeque<GatherStep>,
    asked: u64,
    twice: u64,
    done: bool,
}

#[derive(Debug)]
struct Source {
    state: State,
    reads: BTreeMap<RequestId, BTreeSet<u32>>,
    /// No longer wanted; cancelled when its session is at hand.
    surplus: Vec<RequestId>,
    /// Bytes that came since `since`.
    came: u64,
    since: Time,
    bytes_per_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Wanting,
    Opening(RequestId),
    Reading(Handle),
}

impl Source {
    fn owes(&self) -> usize {
        self.reads.values().map(BTreeSet::len).sum()
    }

    fn room(&self, chunk_bytes: u32) -> usize {
        let ahead = self.bytes_per_s.saturating_mul(AHEAD.0) / 1000 / u64::from(chunk_bytes.max(1));
        let most = usize::try_from(ahead).unwrap_or(OWED_MAX).clamp(OWED_MIN, OWED_MAX);
        most.saturating_sub(self.owes())
    }

    fn count(&mut self, now: Time, bytes: u64) {
        self.came += bytes;
        let span = now.since(self.since);
        if span < MEASURE {
            return;
        }
        let rate = self.came.saturating_mul(1000) / span.0;
        // Half new, half known: a rate follows the line within a second.
        self.bytes_per_s = if self.bytes_per_s == 0 { rate } else { (self.bytes_per_s + rate) / 2 };
        (self.came, self.since) = (0, now);
    }

    /// How long what it owes will take, in arbitrary units that compare.
    fn burden(&self) -> u64 {
        (self.owes() as u64).saturating_mul(1 << 30) / self.bytes_per_s.max(1)
    }
}

impl Gather {
    /// All of `region`; with `expected`, only the content with this root.
    #[must_use]
    pub const fn new(region: RegionName, expected: Option<Hash>) -> Self {
        Self {
            region,
            expected,
            have: None,
            info: None,
            unasked: BTreeSet::new(),
            owed: BTreeMap::new(),
            sources: BTreeMap::new(),
            steps: VecDeque::new(),
            asked: 0,
            twice: 0,
            done: false,
        }
    }

    /// Counts these chunks as arrived already; of use with an expected root only.
    #[must_use]
    pub fn having(self, have: ChunkSet) -> Self {
        Self { have: Some(have), ..self }
    }

    /// Uses one more source. From now on its session's events are offered to [`Gather::handle`].
    pub fn add(&mut self, now: Time, id: SourceId, session: &mut Session) {
        let source = Source {
            state: State::Wanting,
            reads: BTreeMap::new(),
            surplus: Vec::new(),
            came: 0,
            since: now,
            bytes_per_s: 0,
        };
        self.sources.insert(id, source);
        self.steps.retain(|step| *step != GatherStep::Stalled);
        self.tend(now, id, session);
    }

    /// A source's connection is gone: what it owed is asked of others.
    pub fn lost(&mut self, id: SourceId) {
        let Some(source) = self.sources.remove(&id) else { return };
        for chunk in source.reads.into_values().flatten() {
            self.release(chunk);
        }
        self.wake();
    }

    fn release(&mut self, chunk: u32) {
        let here = self.have.as_ref().is_some_and(|have| have.contains(chunk));
        match self.owed.get_mut(&chunk) {
            Some(owing) if *owing > 1 => *owing -= 1,
            _ => {
                self.owed.remove(&chunk);
                if !here {
                    self.unasked.insert(chunk);
                }
            }
        }
    }

    /// Everybody with room may have something to do now.
    fn wake(&mut self) {
        if self.done {
            return;
        }
        if self.sources.is_empty() {
            self.steps.push_back(GatherStep::Stalled);
            return;
        }
        let idle = self.sources.iter().filter(|(_, source)| source.owes() == 0);
        self.steps.extend(idle.map(|(id, _)| GatherStep::Tend(*id)));
    }

    fn fail(&mut self, id: SourceId, session: &mut Session, error: TransferError) {
        if let Some(source) = self.sources.get(&id) {
            if let State::Opening(open) = source.state {
                session.cancel(open);
            }
            for read in source.reads.keys().chain(&source.surplus) {
                session.cancel(*read);
            }
        }
        self.steps.push_back(GatherStep::SourceFailed(id, error));
        self.lost(id);
    }

    /// Lets a source do what there is to do.
    pub fn tend(&mut self, now: Time, id: SourceId, session: &mut Session) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        for surplus in core::mem::take(&mut source.surplus) {
            session.cancel(surplus);
        }
        match source.state {
            State::Wanting if !self.done => {
                match session.request(now, Op::Open { region: self.region.clone() }) {
                    Ok(open) => source.state = State::Opening(open),
                    Err(Refused::Full { .. }) => {}
                    Err(refused) => self.fail(id, session, refused.into()),
                }
            }
            State::Reading(handle) if !self.done => self.ask(now, id, handle, session),
            _ => {}
        }
    }

    fn ask(&mut self, now: Time, id: SourceId, handle: Handle, session: &mut Session) {
        let chunk_bytes = self.info.as_ref().map_or(1, |info| info.shape.chunk_bytes);
        loop {
            let source = self.sources.get(&id).expect("looked at by the caller");
            let room = source.room(chunk_bytes);
            // Half of what it may owe at once: few requests, and it never runs dry.
            let batch = (room + source.owes()).div_ceil(2).min(READ_CHUNKS_MAX);
            let chunks: Vec<u32> = match self.unasked.is_empty() {
                false if room >= batch.min(self.unasked.len()) && room > 0 => {
                    self.unasked.iter().copied().take(batch.min(room)).collect()
                }
                true if source.owes() == 0 => self.of_the_slowest(id).into_iter().collect(),
                _ => return,
            };
            if chunks.is_empty() {
                return;
            }
            match session.request(now, Op::Read { handle, chunks: chunks.clone() }) {
                Ok(read) => self.owe(id, read, &chunks),
                Err(Refused::Full { .. }) => return,
                Err(refused) => return self.fail(id, session, refused.into()),
            }
        }
    }

    fn owe(&mut self, id: SourceId, read: RequestId, chunks: &[u32]) {
        self.asked += chunks.len() as u64;
        for chunk in chunks {
            let again = !self.unasked.remove(chunk);
            self.twice += u64::from(again);
            *self.owed.entry(*chunk).or_insert(0) += 1;
        }
        let source = self.sources.get_mut(&id).expect("it asked");
        source.reads.insert(read, chunks.iter().copied().collect());
    }

    /// A chunk that the source with most to do owes alone: the last it would come to.
    fn of_the_slowest(&self, but: SourceId) -> Option<u32> {
        let others = self.sources.iter().filter(|(id, source)| **id != but && source.owes() > 0);
        let mut others: Vec<&Source> = others.map(|(_, source)| source).collect();
        others.sort_by_key(|source| core::cmp::Reverse(source.burden()));
        let alone = |chunk: &u32| self.owed.get(chunk) == Some(&1);
        let last_of = |source: &Source| {
            source.reads.values().rev().flat_map(|chunks| chunks.iter().rev()).copied().find(alone)
        };
        others.into_iter().find_map(last_of)
    }

    /// Offers an event of a source's session; true when it was this transfer's.
    pub fn handle(
        &mut self,
        now: Time,
        id: SourceId,
        session: &mut Session,
        event: &Event,
    ) -> bool {
        let Some(source) = self.sources.get_mut(&id) else { return false };
        let ours = match event {
            Event::Answered { id: request, answer: Answer::Opened { handle, info } }
                if source.state == State::Opening(*request) =>
            {
                source.state = State::Reading(*handle);
                source.since = now;
                self.opened(id, session, info);
                true
            }
            Event::Answered { id: request, .. } => source.reads.remove(request).is_some(),
            Event::Chunk { id: request, chunk, bytes, .. } => {
                let step = GatherStep::Chunk(id, *chunk, bytes.clone());
                self.came(now, id, *request, *chunk, step)
            }
            Event::Landed { id: request, place: Place::Chunk { chunk, .. } } => {
                self.came(now, id, *request, *chunk, GatherStep::Landed(id, *chunk))
            }
            Event::Failed { id: request, failure } => {
                let ours =
                    source.state == State::Opening(*request) || source.reads.contains_key(request);
                if ours {
                    self.fail(id, session, failure.clone().into());
                }
                ours
            }
            _ => false,
        };
        self.tend(now, id, session);
        ours
    }

    fn opened(&mut self, id: SourceId, session: &mut Session, info: &Arc<RegionInfo>) {
        let expected = *self.expected.get_or_insert(info.root);
        if expected != info.root {
            let (found, found_version) = (info.root, info.version);
            let error = TransferError::OtherContent { expected, found, found_version };
            return self.fail(id, session, error);
        }
        if self.info.is_some() {
            return;
        }
        if self.have.as_ref().is_none_or(|have| have.bound() != info.chunk_count()) {
            self.have = Some(ChunkSet::empty(info.chunk_count()));
        }
        self.unasked = self.have.iter().flat_map(ChunkSet::missing).collect();
        self.info = Some(Arc::clone(info));
        self.steps.push_back(GatherStep::Opened(Arc::clone(info)));
        self.finish_if_whole();
    }

    fn came(
        &mut self,
        now: Time,
        id: SourceId,
        request: RequestId,
        chunk: u32,
        step: GatherStep,
    ) -> bool {
        let bytes = self.info.as_ref().and_then(|info| info.shape.chunk_len(chunk)).unwrap_or(0);
        let Some(source) = self.sources.get_mut(&id) else { return false };
        let Some(chunks) = source.reads.get_mut(&request) else { return false };
        chunks.remove(&chunk);
        source.count(now, bytes.into());
        let owing = self.owed.remove(&chunk).unwrap_or(1);
        let have = self.have.as_mut().expect("set when the region was opened");
        if have.insert(chunk) {
            self.steps.push_back(step);
        }
        if owing > 1 {
            self.drop_elsewhere(id, chunk);
        }
        self.finish_if_whole();
        true
    }

    /// The chunk is here: whoever else owes it need not send it, if its request was for that alone.
    fn drop_elsewhere(&mut self, id: SourceId, chunk: u32) {
        for (other, source) in self.sources.iter_mut().filter(|(other, _)| **other != id) {
            let mut empty = None;
            for (read, chunks) in &mut source.reads {
                if chunks.remove(&chunk) && chunks.is_empty() {
                    empty = Some(*read);
                }
            }
            if let Some(read) = empty {
                source.reads.remove(&read);
                source.surplus.push(read);
                self.steps.push_back(GatherStep::Tend(*other));
            }
        }
    }

    fn finish_if_whole(&mut self) {
        if !self.done && self.have.as_ref().is_some_and(ChunkSet::is_full) {
            self.done = true;
            self.steps.push_back(GatherStep::Done);
        }
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<GatherStep> {
        self.steps.pop_front()
    }

    /// What has arrived, once the region was opened.
    #[must_use]
    pub const fn have(&self) -> Option<&ChunkSet> {
        self.have.as_ref()
    }

    /// Chunks asked for in all, and those of them that somebody else owed already.
    #[must_use]
    pub const fn asked(&self) -> (u64, u64) {
        (self.asked, self.twice)
    }
}
