//! Reading a region, or some of its chunks, from several sources at once.
//!
//! A source is a holder, or one of several lanes to it: whatever has a [`Session`] of its own. Each is
//! asked for about as much as it gives in two round trips, so who is faster does more, and nobody is
//! told its share. When every chunk is asked for, an idle source takes over a chunk of the one that
//! will need longest, and more while it is quicker: the first to arrive counts, the other READ is
//! cancelled.
//!
//! Sources that announce one root and other shapes do not all tell the truth: `shapes` says whom to believe.
//!
//! Not for: connections, nor judging holders: the caller learns whose fault a failure is. Invariants:
//! a chunk is handed over once; it is under way twice at most, and twice only at the end or when a
//! source is lost; who gave a wrong chunk is never asked again; work for an event grows with the
//! sources, not with the chunks.

mod pace;
mod plan;
mod shapes;

use super::{REOPENS_MAX, TransferError, is_bad_handle};
use crate::limits::READ_CHUNKS_MAX;
use crate::{
    Answer, ChunkSet, Event, Failure, Handle, Landing, Op, Place, Refused, RegionInfo, RegionName,
    RequestId, Session, Shape,
};
use bytes::Bytes;
use core::ops::Range;
use pace::Pace;
use plan::Plan;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Hash, Time};

/// One of the sources of a [`Gather`], by the caller's number. A new connection gets a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// What a [`Gather`] tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatherStep {
    /// What the region holds is known, by the word of this source. Comes again with another shape when
    /// that turns out to be a lie, or nobody is left who says so: then what [`Gather::have`] has stays
    /// where it is, all other memory is to be laid out anew.
    Opened(SourceId, Arc<RegionInfo>),
    /// A chunk has arrived and is verified.
    Chunk(SourceId, u32, Bytes),
    /// A chunk has landed in its place and is verified.
    Landed(SourceId, u32),
    /// Something is to be asked of this source, or cancelled: call [`Gather::tend`] with its session.
    Tend(SourceId),
    /// This source is no longer used, and nothing more of it may land; its session may be used. What it
    /// gave counts, what it owed is asked of others.
    SourceFailed(SourceId, TransferError),
    /// No source is left. Nothing is lost, go on with [`Gather::add`].
    Stalled,
    /// Every wanted chunk has been handed over.
    Done,
}

/// What a [`Gather`] has asked for, in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatherCount {
    /// Asked for in all: each wanted chunk once, and those below again.
    pub requested: u64,
    /// Asked for while under way at another source.
    pub doubled: u64,
    /// Under way at a source that was lost or failed, and nowhere else.
    pub returned: u64,
}

/// Reads chunks of a region from several sources, verified on arrival.
#[derive(Debug)]
pub struct Gather {
    region: RegionName,
    expected: Option<Hash>,
    only: Option<Range<u32>>,
    having: Option<(Shape, ChunkSet)>,
    opened: Option<(Arc<RegionInfo>, Plan)>,
    sources: BTreeMap<SourceId, Source>,
    /// They gave what they had not announced.
    liars: BTreeSet<SourceId>,
    count: GatherCount,
    finished: bool,
    steps: VecDeque<GatherStep>,
}

#[derive(Debug)]
struct Source {
    state: State,
    reads: BTreeMap<RequestId, Read>,
    /// What it was asked for and still owes, each with its READ.
    owes: BTreeMap<u32, RequestId>,
    /// Those of them that another may take over: under way here only, and not landing.
    alone: BTreeSet<u32>,
    /// READs of which everything has come from others.
    needless: BTreeSet<RequestId>,
    pace: Pace,
    /// It has taken over a chunk since it was last given one.
    helped: bool,
    reopens: u32,
    tend_told: bool,
}

#[derive(Debug)]
enum State {
    /// OPEN could not be asked yet.
    Wanting,
    Opening(RequestId),
    Reading(Handle),
    /// It announces another shape than the plan has.
    Doubted(Doubt),
}

/// What is asked of a source to learn whether its shape is the right one.
#[derive(Debug)]
struct Doubt {
    handle: Handle,
    info: Arc<RegionInfo>,
    /// The READ of the chunk that decides, when it could be asked.
    asked: Option<RequestId>,
}

#[derive(Debug)]
struct Read {
    owed: BTreeSet<u32>,
    /// When it was asked, until the first chunk has come.
    asked: Option<Time>,
}

impl Source {
    const fn new(now: Time) -> Self {
        Self {
            state: State::Wanting,
            reads: BTreeMap::new(),
            owes: BTreeMap::new(),
            alone: BTreeSet::new(),
            needless: BTreeSet::new(),
            pace: Pace::new(now),
            helped: false,
            reopens: 0,
            tend_told: false,
        }
    }

    fn has(&self, id: RequestId) -> bool {
        let alone = match &self.state {
            State::Opening(open) => *open == id,
            State::Doubted(doubt) => doubt.asked == Some(id),
            State::Wanting | State::Reading(_) => false,
        };
        alone || self.reads.contains_key(&id) || self.needless.contains(&id)
    }

    /// The chunk need not come from here any more. A READ of which all has come elsewhere is needless.
    fn forget(&mut self, chunk: u32) {
        self.alone.remove(&chunk);
        let Some(id) = self.owes.remove(&chunk) else { return };
        let Some(read) = self.reads.get_mut(&id) else { return };
        read.owed.remove(&chunk);
        if read.owed.is_empty() {
            self.reads.remove(&id);
            self.needless.insert(id);
        }
    }

    fn cancel_all(&mut self, session: &mut Session) {
        if let State::Opening(id) | State::Doubted(Doubt { asked: Some(id), .. }) = self.state {
            session.cancel(id);
        }
        let reads = core::mem::take(&mut self.reads).into_keys();
        for id in reads.chain(core::mem::take(&mut self.needless)) {
            session.cancel(id);
        }
    }
}

impl Gather {
    /// All of `region`; with `expected`, only of the content with this root, else of the content that
    /// the first source opens.
    #[must_use]
    pub const fn new(region: RegionName, expected: Option<Hash>) -> Self {
        Self {
            region,
            expected,
            only: None,
            having: None,
            opened: None,
            sources: BTreeMap::new(),
            liars: BTreeSet::new(),
            count: GatherCount { requested: 0, doubled: 0, returned: 0 },
            finished: false,
            steps: VecDeque::new(),
        }
    }

    /// Wants only the chunks of `range`.
    #[must_use]
    pub fn only(mut self, range: Range<u32>) -> Self {
        self.only = Some(range);
        self
    }

    /// Counts these chunks as arrived already: what is on disk and was verified, in its place by
    /// `shape`. Of use with an expected root only, for the chunks of which content would they be?
    #[must_use]
    pub fn having(mut self, shape: Shape, have: ChunkSet) -> Self {
        self.having = Some((shape, have));
        self
    }

    /// Begins with one more source. False, and nothing happens, when it is in use or gave a wrong
    /// chunk before.
    pub fn add(&mut self, now: Time, source: SourceId, session: &mut Session) -> bool {
        if self.liars.contains(&source) || self.sources.contains_key(&source) {
            return false;
        }
        self.sources.insert(source, Source::new(now));
        self.steps.retain(|step| *step != GatherStep::Stalled);
        self.tend(now, source, session);
        true
    }

    /// The connection to this source is gone; nothing more of it may be offered or landed.
    pub fn lost(&mut self, source: SourceId) {
        self.drop_source(source);
    }

    /// Lets go of a source that works, and cancels what is on its way from it.
    pub fn remove(&mut self, source: SourceId, session: &mut Session) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.cancel_all(session);
        }
        self.lost(source);
    }

    fn fail(&mut self, source: SourceId, session: &mut Session, error: TransferError) {
        if error.is_lie() {
            self.liars.insert(source);
        }
        if let Some(source) = self.sources.get_mut(&source) {
            source.cancel_all(session);
        }
        self.steps.push_back(GatherStep::SourceFailed(source, error));
        self.drop_source(source);
    }

    fn drop_source(&mut self, source: SourceId) {
        self.give_back(source);
        let was_used = self.sources.remove(&source).is_some();
        self.believe_another();
        if was_used && self.sources.is_empty() && !self.finished {
            self.steps.push_back(GatherStep::Stalled);
        }
    }

    /// What this source owes is to come from others.
    fn give_back(&mut self, source: SourceId) {
        let Some(from) = self.sources.get_mut(&source) else { return };
        from.alone.clear();
        let owed = core::mem::take(&mut from.owes);
        let Some((_, plan)) = &mut self.opened else { return };
        for chunk in owed.keys() {
            match plan.release(*chunk, source) {
                Some(other) => {
                    let other = self.sources.get_mut(&other).expect("carriers are sources");
                    other.alone.insert(*chunk);
                }
                None => self.count.returned += 1,
            }
        }
        if !owed.is_empty() {
            let others: Vec<SourceId> = self.sources.keys().copied().collect();
            others.into_iter().filter(|other| *other != source).for_each(|other| self.tell(other));
        }
    }

    fn tell(&mut self, source: SourceId) {
        let Some(told) = self.sources.get_mut(&source) else { return };
        if !core::mem::replace(&mut told.tend_told, true) {
            self.steps.push_back(GatherStep::Tend(source));
        }
    }

    /// Cancels and asks what there is to cancel and ask at this source. Without effect when nothing is.
    pub fn tend(&mut self, now: Time, source: SourceId, session: &mut Session) {
        let Some(tended) = self.sources.get_mut(&source) else { return };
        tended.tend_told = false;
        for id in core::mem::take(&mut tended.needless) {
            session.cancel(id);
        }
        match tended.state {
            State::Wanting if !self.finished => self.open(now, source, session),
            State::Wanting | State::Opening(_) => {}
            State::Reading(handle) => self.ask(now, source, session, handle),
            State::Doubted(_) => self.ask_to_decide(now, source, session),
        }
    }

    fn open(&mut self, now: Time, source: SourceId, session: &mut Session) {
        let asked = session.request(now, Op::Open { region: self.region.clone() });
        match (asked, self.sources.get_mut(&source)) {
            (Ok(id), Some(opening)) => opening.state = State::Opening(id),
            (Ok(_), None) | (Err(Refused::Full { .. }), _) => {}
            (Err(refused), _) => self.fail(source, session, refused.into()),
        }
    }

    /// Offers an event of the session of `source`; true when it was this gather's. Offer every event
    /// of a session before the next frame is handed to it.
    pub fn handle(
        &mut self,
        now: Time,
        source: SourceId,
        session: &mut Session,
        event: &Event,
    ) -> bool {
        let Some(from) = self.sources.get(&source) else { return false };
        let ours = match event {
            Event::Answered { id, answer } => {
                let ours = from.has(*id);
                self.answered(now, source, session, *id, answer);
                ours
            }
            Event::Chunk { id, chunk, .. } if from.is_doubted_by(*id) => {
                self.proven(source, *chunk);
                true
            }
            Event::Chunk { id, chunk, bytes, .. } if from.has(*id) => {
                if self.arrived(now, source, *id, *chunk) {
                    self.steps.push_back(GatherStep::Chunk(source, *chunk, bytes.clone()));
                }
                true
            }
            Event::Landed { id, place: Place::Chunk { chunk, .. } } if from.has(*id) => {
                if self.arrived(now, source, *id, *chunk) {
                    self.steps.push_back(GatherStep::Landed(source, *chunk));
                }
                true
            }
            Event::Failed { id, failure } if from.has(*id) => {
                self.failed(source, session, *id, failure);
                true
            }
            _ => false,
        };
        self.tend(now, source, session);
        self.finish();
        ours
    }

    fn answered(
        &mut self,
        now: Time,
        source: SourceId,
        session: &mut Session,
        id: RequestId,
        answer: &Answer,
    ) {
        let Some(from) = self.sources.get_mut(&source) else { return };
        match (&from.state, answer) {
            (State::Opening(open), Answer::Opened { handle, info }) if *open == id => {
                from.pace.begin(now);
                self.opened(source, session, *handle, info);
            }
            _ => {
                from.needless.remove(&id);
                // Its last chunk came before.
                assert!(
                    from.reads.remove(&id).is_none_or(|read| read.owed.is_empty()),
                    "a READ is done when all of it has come"
                );
            }
        }
    }

    fn opened(
        &mut self,
        source: SourceId,
        session: &mut Session,
        handle: Handle,
        info: &Arc<RegionInfo>,
    ) {
        let expected = *self.expected.get_or_insert(info.root);
        if expected != info.root {
            let (found, found_version) = (info.root, info.version);
            self.fail(
                source,
                session,
                TransferError::OtherContent { expected, found, found_version },
            );
            return;
        }
        if let Err(error) = self.believe_or_doubt(source, handle, info) {
            self.fail(source, session, error);
        }
    }

    /// A verified chunk has come; whether it is to be handed over.
    fn arrived(&mut self, now: Time, source: SourceId, id: RequestId, chunk: u32) -> bool {
        let Some((info, plan)) = &mut self.opened else { return false };
        let Some(from) = self.sources.get_mut(&source) else { return false };
        from.reopens = 0;
        let waited = from.reads.get_mut(&id).and_then(|read| read.asked.take());
        let len = info.shape.chunk_len(chunk).unwrap_or(0);
        from.pace.came(now, u64::from(len), waited.map(|asked| now.since(asked)));
        if let Some(read) = from.reads.get_mut(&id)
            && read.owed.remove(&chunk)
        {
            from.owes.remove(&chunk);
            from.alone.remove(&chunk);
        }
        if from.needless.contains(&id) {
            return false;
        }
        let Some(carriers) = plan.arrived(chunk) else { return false };
        if let Some(other) = carriers.beside(source) {
            self.sources.get_mut(&other).expect("carriers are sources").forget(chunk);
            self.tell(other);
        }
        true
    }

    fn failed(
        &mut self,
        source: SourceId,
        session: &mut Session,
        id: RequestId,
        failure: &Failure,
    ) {
        let Some(from) = self.sources.get_mut(&source) else { return };
        if from.needless.remove(&id) && !failure.is_lie() {
            return;
        }
        if !is_bad_handle(failure) || from.reopens >= REOPENS_MAX {
            self.fail(source, session, failure.clone().into());
            return;
        }
        from.reopens += 1;
        from.cancel_all(session);
        from.state = State::Wanting;
        self.give_back(source);
    }

    fn finish(&mut self) {
        let done = self.opened.as_ref().is_some_and(|(_, plan)| plan.is_done());
        if done && !core::mem::replace(&mut self.finished, true) {
            self.steps.push_back(GatherStep::Done);
        }
    }

    /// Asks a source for chunks nobody was asked for, as far as its window goes; when there are none
    /// and it is idle, for one of another's.
    fn ask(&mut self, now: Time, source: SourceId, session: &mut Session, handle: Handle) {
        while session.room() > 0 {
            let chunks = self.choose(now, source);
            if chunks.is_empty() {
                return;
            }
            self.count.requested += chunks.len() as u64;
            match session.request(now, Op::Read { handle, chunks: chunks.clone() }) {
                Ok(id) => {
                    let from = self.sources.get_mut(&source).expect("it has just chosen");
                    if from.owes.is_empty() {
                        from.pace.begin(now);
                    }
                    from.owes.extend(chunks.iter().map(|chunk| (*chunk, id)));
                    let owed = chunks.into_iter().collect();
                    from.reads.insert(id, Read { owed, asked: Some(now) });
                }
                Err(refused) => {
                    self.give_up_on(source, &chunks);
                    self.fail(source, session, refused.into());
                    return;
                }
            }
        }
    }

    /// What was chosen for a source could not be asked of it.
    fn give_up_on(&mut self, source: SourceId, chunks: &[u32]) {
        // As if it had been asked and lost: the books stay in one form.
        let from = self.sources.get_mut(&source).expect("it has just chosen");
        from.owes.extend(chunks.iter().map(|chunk| (*chunk, RequestId(0))));
    }

    fn choose(&mut self, now: Time, source: SourceId) -> Vec<u32> {
        let among = self.sources.len();
        let Some((info, plan)) = &mut self.opened else { return Vec::new() };
        let from = self.sources.get_mut(&source).expect("only a source chooses");
        let left = plan.unassigned();
        if left > 0 {
            let window = from.pace.window(info.shape.chunk_bytes);
            let room = window.saturating_sub(from.owes.len());
            // A quarter of a window at a time: few requests, and the pipe never runs dry. Towards the
            // end one by one, so that each can be cancelled alone.
            let batch = (window / 4).min(left / (2 * among)).clamp(1, READ_CHUNKS_MAX);
            if room < batch {
                return Vec::new();
            }
            let chunks: Vec<u32> = (0..batch).map_while(|_| plan.take(source)).collect();
            from.alone.extend(&chunks);
            from.helped = false;
            return chunks;
        }
        if !from.owes.is_empty() {
            return Vec::new();
        }
        self.take_over(now, source).into_iter().collect()
    }

    /// A chunk under way at the one that will need longest: its last, which would come latest. The
    /// first in any case, for who fell silent a moment ago looks as fast as ever; more only where that
    /// is quicker by far, so that equal lanes repeat at most one chunk each.
    fn take_over(&mut self, now: Time, source: SourceId) -> Option<u32> {
        let (info, plan) = self.opened.as_mut()?;
        let chunk_bytes = info.shape.chunk_bytes;
        let helper = self.sources.get_mut(&source)?;
        let own = helper.pace.time_for_one(now, chunk_bytes);
        let helped = core::mem::replace(&mut helper.helped, true);
        let need = |from: &Source| from.pace.time_for(now, from.owes.len(), chunk_bytes);
        let slowest = self
            .sources
            .values_mut()
            .filter(|from| !from.alone.is_empty())
            .filter(|from| !helped || need(from) / 4 > own)
            .max_by_key(|from| need(from))?;
        let chunk = slowest.alone.pop_last()?;
        plan.double(chunk, source);
        self.count.doubled += 1;
        Some(chunk)
    }

    /// Whether the payload that is announced may be written where the chunk belongs: this source alone
    /// was asked for it, and from now on nobody else will be. Otherwise hand the whole frame to
    /// [`Session::handle_frame`], and the chunk comes as bytes, if it is still wanted. What was claimed
    /// must land before any other event of the session is offered.
    pub fn claim(&mut self, source: SourceId, landing: &Landing) -> bool {
        let (Some(from), Place::Chunk { chunk, .. }) =
            (self.sources.get_mut(&source), landing.place)
        else {
            return false;
        };
        let Some((_, plan)) = &mut self.opened else { return false };
        if from.owes.get(&chunk) != Some(&landing.id) || !plan.claim(chunk, source) {
            return false;
        }
        from.alone.remove(&chunk);
        true
    }

    /// The next thing to tell the caller.
    pub fn poll(&mut self) -> Option<GatherStep> {
        self.steps.pop_front()
    }

    /// What has arrived and is in its place, once a source has opened the region.
    #[must_use]
    pub fn have(&self) -> Option<&ChunkSet> {
        self.opened.as_ref().map(|(_, plan)| plan.have())
    }

    /// What has been asked for.
    #[must_use]
    pub const fn count(&self) -> GatherCount {
        self.count
    }

    /// Whether this source is in use.
    #[must_use]
    pub fn uses(&self, source: SourceId) -> bool {
        self.sources.contains_key(&source)
    }

    /// How many chunks this source was asked for and has not given yet.
    #[must_use]
    pub fn owed_by(&self, source: SourceId) -> usize {
        self.sources.get(&source).map_or(0, |source| source.owes.len())
    }
}

#[cfg(test)]
mod tests;
