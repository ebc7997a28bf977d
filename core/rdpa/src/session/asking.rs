//! The half of a session that asks: our requests, their retries and their answers.

mod arriving;
mod opened;
mod prepare;

use super::{Event, Failure, Out, Refused, Session, Side, Violation};
use crate::body;
use crate::limits::{CELLS_MAX, Limits, PeerLimits, REQUEST_SPAN};
use crate::{
    Answer, ChunkSet, Code, Direction, Frame, Handle, Header, Op, Opcode, Placement, RegionInfo,
    RegionName, RequestId, Span, StageInfo, Stat, Welcome,
};
use bytes::Bytes;
use core::ops::RangeInclusive;
use opened::{Holding, Opened};
use prepare::bounded;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use suanli_base::{Duration, Random, Time};

#[derive(Debug)]
pub(super) struct Asking {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// NOTIFYs among the pending; they do not count against `requests_max`.
    notifies: usize,
    /// FENCEs among the pending.
    fences: BTreeSet<u64>,
    bulk_in_flight: u64,
    /// When a chunk or piece came, of whatever READ: the others are behind it.
    chunk_came: Time,
    peer: Option<PeerLimits>,
    pub(super) opened: Opened,
    /// Regions we subscribed to, with the newest version told of.
    pub(super) subscribed: BTreeMap<RegionName, u64>,
    random: Random,
}

#[derive(Debug)]
struct Pending {
    kind: Kind,
    frame: Frame,
    /// When it was asked, or last made progress.
    since: Time,
    attempts: u32,
    wait: Duration,
    /// How long it rests when the peer is busy the next time.
    rest: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Sent {
        again: Time,
        bulk: u64,
    },
    /// The peer was busy.
    Resting {
        again: Time,
    },
}

#[derive(Debug)]
enum Kind {
    /// With the versions that were offered.
    Hello(RangeInclusive<u8>),
    Open,
    ReadIfChanged,
    OpenStage(StageInfo),
    Read {
        handle: Handle,
        info: Arc<RegionInfo>,
        missing: BTreeSet<u32>,
    },
    Ranges {
        handle: Handle,
        spans: Vec<Span>,
        total: u64,
        missing: BTreeSet<u32>,
    },
    Stage,
    Commit,
    Send,
    Subscribe(RegionName),
    Notify(RegionName),
    OpenCells,
    Cell,
    Fence,
    Stat,
    Revoke,
}

impl Kind {
    const fn is_bulk(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Ranges { .. }
                | Self::Stage
                | Self::Open
                | Self::ReadIfChanged
                | Self::Fence
        )
    }

    const fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Ranges { .. })
    }

    /// The body that asks for the rest, where some of the answer has come.
    fn body_of_rest(&self) -> Option<Bytes> {
        match self {
            Self::Read { missing, .. } => Some(body::encode(missing)),
            Self::Ranges { spans, missing, .. } => {
                let (spans, pieces) = (spans.clone(), missing.iter().copied().collect());
                Some(body::encode(&body::RangesBody { spans, pieces }))
            }
            _ => None,
        }
    }
}

impl Asking {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            next: 1,
            pending: BTreeMap::new(),
            notifies: 0,
            fences: BTreeSet::new(),
            bulk_in_flight: 0,
            chunk_came: Time(0),
            peer: None,
            opened: Opened::new(),
            subscribed: BTreeMap::new(),
            random,
        }
    }

    fn requests_max(&self, limits: &Limits) -> usize {
        let theirs = self.peer.map_or(usize::MAX, |peer| peer.requests_max as usize);
        limits.requests_max.min(theirs)
    }

    /// Whether a queued request may be sent: a new one not too far ahead of the oldest unanswered,
    /// whose answer the peer must still remember; none past a FENCE, and a FENCE not before all that
    /// was asked before it is answered. One that is gone may, and turns out empty.
    pub(super) fn may_go(&self, id: u64) -> bool {
        let oldest = self.pending.first_key_value().map_or(id, |(oldest, _)| *oldest);
        if id >= oldest.saturating_add(REQUEST_SPAN) {
            return false;
        }
        match self.fences.first() {
            None => true,
            Some(fence) if id < *fence || self.is_notify(id) => true,
            Some(fence) => {
                let all_answered =
                    self.pending.range(..id).all(|(before, _)| self.is_notify(*before));
                id == *fence && all_answered
            }
        }
    }

    /// NOTIFYs are the holder's half of a session and stand outside of its own order.
    fn is_notify(&self, id: u64) -> bool {
        self.pending.get(&id).is_some_and(|pending| matches!(pending.kind, Kind::Notify(_)))
    }

    /// Whether its payload fits the bulk window; alone, anything does.
    pub(super) fn bulk_fits(&self, id: u64, limits: &Limits) -> bool {
        let Some(pending) = self.pending.get(&id) else { return true };
        let theirs = self.peer.map_or(u64::MAX, |peer| peer.bulk_window_bytes);
        let window = limits.bulk_window_bytes.min(theirs);
        let len = pending.frame.payload().len() as u64;
        self.bulk_in_flight == 0 || self.bulk_in_flight.saturating_add(len) <= window
    }

    pub(super) fn is_queued(&self, id: u64) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.state == State::Queued)
    }

    pub(super) fn wire_len(&self, id: u64) -> Option<usize> {
        self.pending.get(&id).map(|pending| pending.frame.wire_len())
    }

    /// What waits behind others of its class waits as if asked just now.
    pub(super) fn bulk_held(&mut self, now: Time) {
        for pending in self.pending.values_mut() {
            if pending.state == State::Queued && pending.frame.is_bulk() {
                pending.since = now;
            }
        }
    }

    /// The frame of a request that goes out now.
    pub(super) fn sent(&mut self, id: u64, now: Time, limits: &Limits) -> Option<Frame> {
        let pending = self.pending.get_mut(&id)?;
        if pending.state != State::Queued {
            return None;
        }
        let bulk = if pending.frame.is_bulk() { pending.frame.payload().len() as u64 } else { 0 };
        let jitter = Duration(self.random.below(pending.wait.0 / 4 + 1));
        pending.state = State::Sent { again: now.after(pending.wait).after(jitter), bulk };
        pending.attempts += 1;
        pending.wait = Duration(pending.wait.0.saturating_mul(2).min(limits.retry_max.0));
        self.bulk_in_flight += bulk;
        Some(pending.frame.clone())
    }

    /// Since when nothing has come of what this request waits for.
    fn waiting_since(&self, pending: &Pending) -> Time {
        let chunk = if pending.kind.is_read() { self.chunk_came } else { Time(0) };
        pending.since.max(chunk)
    }

    pub(super) fn next_due(&self, limits: &Limits) -> Option<Time> {
        let due = |pending: &Pending| {
            let end = self.waiting_since(pending).after(limits.give_up_after);
            match pending.state {
                State::Queued => end,
                State::Sent { again, .. } | State::Resting { again } => again.min(end),
            }
        };
        self.pending.values().map(due).min()
    }

    fn add(&mut self, now: Time, kind: Kind, frame: Frame, limits: &Limits) -> u64 {
        let id = frame.header().request;
        assert_eq!(id, self.next, "requests are numbered in order");
        self.next += 1;
        let wait = if kind.is_bulk() { limits.retry_bulk_first } else { limits.retry_first };
        let (rest, state) = (limits.rest_first, State::Queued);
        let pending = Pending { kind, frame, since: now, attempts: 0, wait, rest, state };
        self.pending.insert(id, pending);
        id
    }
}

impl Session {
    /// Forgets a request of ours, in the queues too.
    fn settle(&mut self, id: u64) -> Option<Pending> {
        let pending = self.asking.pending.remove(&id)?;
        match pending.kind {
            Kind::Notify(_) => self.asking.notifies -= 1,
            Kind::Fence => {
                self.asking.fences.remove(&id);
            }
            _ => {}
        }
        match pending.state {
            State::Sent { bulk, .. } => self.asking.bulk_in_flight -= bulk,
            State::Resting { .. } => {}
            State::Queued => {
                let queue = self.out.queue_of(&pending.frame);
                queue.retain(|out| !matches!(out, Out::Ask(queued) if *queued == id));
            }
        }
        Some(pending)
    }

    /// How many more requests would be taken now.
    #[must_use]
    pub fn room(&self) -> usize {
        let ours = self.asking.pending.len() - self.asking.notifies;
        self.asking.requests_max(&self.limits).saturating_sub(ours)
    }

    /// Asks the peer. The answer comes as an event with this id.
    ///
    /// # Errors
    /// [`Refused`] when it cannot even be queued.
    pub fn request(&mut self, now: Time, op: Op) -> Result<RequestId, Refused> {
        let is_hello = matches!(op, Op::Hello(_));
        if is_hello && (self.side == Side::Accepting || self.welcome) || !is_hello && !self.welcome
        {
            return Err(Refused::NotWelcome);
        }
        if self.room() == 0 {
            return Err(Refused::Full { max: self.asking.requests_max(&self.limits) });
        }
        if let Op::Subscribe { region } = &op {
            let max = self.limits.subscriptions_max;
            if !self.asking.subscribed.contains_key(region) {
                bounded("subscriptions", self.asking.subscribed.len() + 1, max)?;
            }
            // From now on: the first notification may overtake the answer.
            self.asking.subscribed.entry(region.clone()).or_insert(0);
        }
        let (kind, frame) = self.asking.prepare(op, &self.limits)?;
        if matches!(kind, Kind::Fence) {
            self.asking.fences.insert(self.asking.next);
        }
        let queue = self.out.queue_of(&frame);
        queue.push_back(Out::Ask(self.asking.next));
        let id = self.asking.add(now, kind, frame, &self.limits);
        Ok(RequestId(id))
    }

    /// Gives up one of our requests: no event comes for it any more, and the peer is told.
    pub fn cancel(&mut self, id: RequestId) {
        // Nor one that waits to be told.
        self.events.retain(|event| event.request() != Some(id));
        let Some(pending) = self.settle(id.0) else { return };
        if pending.attempts > 0 {
            let header = Header::new(Opcode::Cancel, Direction::Request, id.0);
            self.out.reply(self.limits.frame(header, Bytes::new()), &self.limits);
        }
    }

    /// Stops notifications of a region; the peer learns it at the next one.
    pub fn unsubscribe(&mut self, region: &RegionName) {
        self.asking.subscribed.remove(region);
    }

    /// Queues a NOTIFY; at most one per subscription is on its way.
    pub(super) fn ask_notify(
        &mut self,
        now: Time,
        region: &RegionName,
        version: u64,
        immediate: &Bytes,
        superseded: Option<u64>,
    ) -> u64 {
        if let Some(id) = superseded {
            self.settle(id);
        }
        let notify = body::NotifyBody { region: region.clone(), immediate: immediate.to_vec() };
        let header = Header { version, ..self.asking.header(Opcode::Notify) };
        let frame = self.limits.frame(header, body::encode(&notify));
        let id = self.asking.add(now, Kind::Notify(region.clone()), frame, &self.limits);
        self.asking.notifies += 1;
        self.out.control.push_back(Out::Ask(id));
        id
    }

    pub(super) fn retry_due(&mut self, now: Time) {
        self.give_up_overdue(now);
        // A chunk that is coming, however slowly, would come twice if it was asked for again.
        let coming = self.pulse.arriving.after(self.limits.retry_bulk_first);
        for (id, pending) in &mut self.asking.pending {
            let bulk = match &mut pending.state {
                State::Sent { again, .. } if *again > now => continue,
                State::Sent { again, .. } if pending.kind.is_read() && coming > now => {
                    *again = coming;
                    continue;
                }
                State::Sent { bulk, .. } => *bulk,
                State::Resting { again } if *again <= now => 0,
                State::Resting { .. } | State::Queued => continue,
            };
            self.asking.bulk_in_flight -= bulk;
            pending.state = State::Queued;
            if let Some(body) = pending.kind.body_of_rest() {
                pending.frame = self.limits.frame(*pending.frame.header(), body);
            }
            self.out.queue_of(&pending.frame).push_back(Out::Ask(*id));
        }
    }

    fn give_up_overdue(&mut self, now: Time) {
        let asking = &self.asking;
        let waited = asking.pending.iter().map(|(id, p)| (*id, now.since(asking.waiting_since(p))));
        let overdue: Vec<_> =
            waited.filter(|(_, span)| *span >= self.limits.give_up_after).collect();
        for (id, span) in overdue {
            let pending = self.settle(id).expect("listed just now");
            let attempts = pending.attempts;
            self.fail(id, pending.kind, Failure::GaveUp { attempts, span });
        }
    }

    fn fail(&mut self, id: u64, kind: Kind, failure: Failure) {
        match kind {
            Kind::Notify(region) => self.serving.notify_settled(&region, id, Some(&failure)),
            kind => {
                if let Kind::Subscribe(region) = kind {
                    self.asking.subscribed.remove(&region);
                }
                self.events.push_back(Event::Failed { id: RequestId(id), failure });
            }
        }
    }

    pub(super) fn handle_reply(&mut self, now: Time, frame: &Frame) -> Result<(), Violation> {
        let header = *frame.header();
        let Some(pending) = self.asking.pending.get_mut(&header.request) else {
            // Answered before, cancelled or given up: a duplicate or a latecomer.
            return Ok(());
        };
        if pending.frame.header().opcode != header.opcode {
            return Err(Violation::Unexpected { what: "a reply to another kind of request" });
        }
        if header.status == Some(Code::Busy) {
            if let State::Sent { bulk, .. } = pending.state {
                self.asking.bulk_in_flight -= bulk;
                let jitter = Duration(self.asking.random.below(pending.rest.0 / 4 + 1));
                let again = now.after(pending.rest).after(jitter);
                pending.state = State::Resting { again };
                let longest = self.limits.retry_max.0;
                pending.rest = Duration(pending.rest.0.saturating_mul(2).min(longest));
            }
            return Ok(());
        }
        if let Some(code) = header.status {
            let text = body::decode_text(frame.payload());
            let pending = self.settle(header.request).expect("found just now");
            self.fail(header.request, pending.kind, Failure::Refused { code, text });
            return Ok(());
        }
        if pending.kind.is_read() {
            return self.handle_data(now, frame);
        }
        let pending = self.settle(header.request).expect("found just now");
        if let Some(answer) = self.answer(pending.kind, frame)? {
            self.events.push_back(Event::Answered { id: RequestId(header.request), answer });
        }
        Ok(())
    }

    fn answer(&mut self, kind: Kind, frame: &Frame) -> Result<Option<Answer>, Violation> {
        let (header, payload) = (frame.header(), frame.payload());
        let theirs = header.handle;
        Ok(Some(match kind {
            Kind::Hello(offered) => {
                let welcome: Welcome = body::decode("WELCOME", payload)?;
                check_welcome(&welcome, &offered)?;
                self.welcome = true;
                self.asking.peer = Some(welcome.limits);
                Answer::Welcome(welcome)
            }
            Kind::ReadIfChanged if header.handle == 0 && payload.is_empty() => Answer::NotChanged,
            Kind::Open | Kind::ReadIfChanged => {
                let info: RegionInfo = body::decode("an opened region", payload)?;
                info.check()?;
                let info = Arc::new(info);
                let holding = Holding::Region(Arc::clone(&info));
                let handle = self.asking.opened.insert(theirs, holding, &self.limits)?;
                Answer::Opened { handle, info }
            }
            Kind::OpenStage(stage) => {
                let placed: ChunkSet = body::decode("an opened staging area", payload)?;
                if u64::from(placed.bound()) != stage.shape.chunk_count() {
                    return Err(Violation::Body { what: "an opened staging area" });
                }
                let holding = Holding::Stage(stage);
                let handle = self.asking.opened.insert(theirs, holding, &self.limits)?;
                Answer::StageOpened { handle, placed }
            }
            Kind::Stage => {
                let placement: Placement = body::decode("a placement", payload)?;
                Answer::Placed { placement, level: header.level }
            }
            Kind::Commit => Answer::Committed { version: header.version },
            Kind::Send => Answer::Delivered,
            Kind::Subscribe(region) => {
                if let Some(told) = self.asking.subscribed.get_mut(&region) {
                    *told = header.version.max(*told);
                }
                Answer::Subscribed { version: header.version }
            }
            Kind::Notify(region) => {
                self.serving.notify_settled(&region, header.request, None);
                return Ok(None);
            }
            Kind::OpenCells => {
                let count: u32 = body::decode("opened cells", payload)?;
                if !(1..=CELLS_MAX).contains(&count) {
                    return Err(Violation::Body { what: "opened cells" });
                }
                let holding = Holding::Cells(count);
                let handle = self.asking.opened.insert(theirs, holding, &self.limits)?;
                Answer::CellsOpened { handle, count }
            }
            Kind::Cell => Answer::Cell { held: body::decode("a cell", payload)? },
            Kind::Fence => match header.level {
                Some(level) => Answer::Fenced { level },
                None => return Err(Violation::Body { what: "FENCE" }),
            },
            Kind::Stat => {
                let stat: Stat = body::decode("STAT", payload)?;
                Answer::Stat(stat)
            }
            Kind::Revoke => Answer::Revoked { epoch: header.version },
            Kind::Read { .. } | Kind::Ranges { .. } => {
                unreachable!("READs are answered by handle_data")
            }
        }))
    }
}

/// A version that HELLO did not offer is a language we do not speak, and with no request allowed
/// whoever asks would wait for ever. The other limits only bound what we send: a window of nothing
/// lets one payload go at a time.
fn check_welcome(welcome: &Welcome, offered: &RangeInclusive<u8>) -> Result<(), Violation> {
    if !offered.contains(&welcome.version) {
        let (found, min, max) = (welcome.version, *offered.start(), *offered.end());
        return Err(Violation::Version { found, min, max });
    }
    if welcome.limits.requests_max == 0 {
        return Err(Violation::Unexpected { what: "a WELCOME that allows no requests" });
    }
    Ok(())
}
