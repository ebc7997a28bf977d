//! The half of a session that serves: the peer's requests, the memory of answers that makes a
//! duplicate harmless, the windows that bound what the peer can make us hold.

mod decode;

use super::grants::{Grants, Purpose};
use super::{Event, Failure, Out, Session, Side, Violation};
use crate::body;
use crate::limits::{CELLS_MAX, IMMEDIATE_BYTES_MAX, PIECE_BYTES, REQUEST_SPAN};
use crate::{
    Code, Direction, Frame, Header, Opcode, RegionName, Reply, Request, ResponderToken, Shape,
    Span, StageInfo, Stat,
};
use bytes::Bytes;
use decode::is_remembered;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Random, Time};

/// The chunk of a token that is not of a READ.
const NO_CHUNK: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Serving {
    /// The highest request id seen; ids [`REQUEST_SPAN`] below it are settled.
    newest: u64,
    records: BTreeMap<u64, Record>,
    /// Records that wait for our own side.
    open: usize,
    /// Bytes of staged chunks handed over and not yet replied to.
    staged_bytes: u64,
    /// Bytes of READs asked of our own side or queued for sending.
    read_bytes: u64,
    /// READs with chunks that have not been asked of our own side.
    reads: VecDeque<u64>,
    grants: Grants,
    /// HELLOs that our own side refused.
    hellos_refused: u32,
    /// Regions the peer subscribed to, with the NOTIFY on its way.
    subscribers: BTreeMap<RegionName, Option<u64>>,
}

#[derive(Debug)]
struct Record {
    opcode: Opcode,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Handed to our own side, or being read chunk by chunk.
    Open(Kind),
    /// Answered with this; a duplicate gets it again. Without a frame (cancelled) it gets nothing.
    Answered(Option<Frame>),
}

#[derive(Debug)]
enum Kind {
    Hello,
    /// OPEN or READ_IF_CHANGED.
    Open(RegionName),
    OpenStage(RegionName, StageInfo),
    Read(Reading),
    Stage(u64),
    Commit,
    Send,
    Subscribe(RegionName),
    OpenCells(RegionName),
    Cell,
    Fence,
    Stat,
    Revoke,
}

#[derive(Debug)]
struct Reading {
    region: RegionName,
    version: u64,
    /// Of the region; of a READ_RANGES that of its packed answer, cut into pieces.
    shape: Shape,
    /// Of a READ_RANGES.
    spans: Option<Arc<[Span]>>,
    waiting: VecDeque<u32>,
    asked: BTreeSet<u32>,
}

impl Reading {
    fn len(&self, chunk: u32) -> u64 {
        u64::from(self.shape.chunk_len(chunk).expect("chunks are checked when the READ comes"))
    }

    /// What our own side is asked for one chunk or piece.
    fn request(&self, chunk: u32) -> Request {
        let (region, version) = (self.region.clone(), self.version);
        match &self.spans {
            None => Request::Read { region, version, chunk },
            Some(spans) => {
                let start = u64::from(chunk) * u64::from(PIECE_BYTES);
                let len = self.shape.chunk_len(chunk).expect("as above");
                Request::ReadRanges { region, version, spans: Arc::clone(spans), start, len }
            }
        }
    }
}

/// A request is refused at once, without asking our own side.
struct Refusal(Code, &'static str);

/// A decoded request: how it is remembered, and what our own side is asked (READ asks later).
type Decoded = (Kind, Option<Request>);

impl Serving {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            newest: 0,
            records: BTreeMap::new(),
            open: 0,
            staged_bytes: 0,
            read_bytes: 0,
            reads: VecDeque::new(),
            grants: Grants::new(random),
            hellos_refused: 0,
            subscribers: BTreeMap::new(),
        }
    }

    /// Requests that are being served.
    pub(super) const fn open(&self) -> usize {
        self.open
    }

    /// Whether a request of this id was settled so long ago that nothing is remembered of it.
    const fn is_settled(&self, id: u64) -> bool {
        id == 0 || id.saturating_add(REQUEST_SPAN) <= self.newest
    }

    /// Moves the window up to `id` and forgets what falls out below.
    fn advance(&mut self, id: u64) {
        if id <= self.newest {
            return;
        }
        self.newest = id;
        let kept = self.records.split_off(&(id.saturating_sub(REQUEST_SPAN) + 1));
        for record in core::mem::replace(&mut self.records, kept).into_values() {
            if let State::Open(kind) = record.state {
                self.release(&kind);
            }
        }
    }

    /// What an open record held is free again (queued frames are counted until they are sent).
    fn release(&mut self, kind: &Kind) {
        self.open -= 1;
        match kind {
            Kind::Stage(bytes) => self.staged_bytes -= bytes,
            Kind::Read(reading) => {
                self.read_bytes -=
                    reading.asked.iter().map(|chunk| reading.len(*chunk)).sum::<u64>();
            }
            _ => {}
        }
    }

    pub(super) const fn sent_bulk(&mut self, bytes: usize) {
        self.read_bytes -= bytes as u64;
    }

    /// A NOTIFY of ours was answered, or will not be.
    pub(super) fn notify_settled(
        &mut self,
        region: &RegionName,
        id: u64,
        failure: Option<&Failure>,
    ) {
        if let Some(slot) = self.subscribers.get_mut(region)
            && *slot == Some(id)
        {
            *slot = None;
            if matches!(failure, Some(Failure::Refused { code: Code::NoSuchRegion, .. })) {
                self.subscribers.remove(region);
            }
        }
    }
}

fn reply_header(request: &Header) -> Header {
    Header::new(request.opcode, Direction::Reply, request.request)
}

impl Session {
    pub(super) fn handle_request(&mut self, now: Time, frame: &Frame) -> Result<(), Violation> {
        let header = *frame.header();
        let hello = header.opcode == Opcode::Hello;
        match self.side {
            Side::Connecting if hello => {
                return Err(Violation::Unexpected { what: "HELLO from the accepting side" });
            }
            // It overtook the WELCOME; it will come again.
            Side::Connecting if !self.welcome => return Ok(()),
            Side::Accepting if !self.welcome && !hello => {
                self.refuse(&header, Code::Unauthorised, "say HELLO first");
                return Ok(());
            }
            _ => {}
        }
        if self.serving.is_settled(header.request) {
            return Ok(());
        }
        match self.serving.records.get(&header.request) {
            Some(Record { state: State::Answered(None), .. }) => Ok(()),
            Some(record) if record.opcode != header.opcode => {
                Err(Violation::Unexpected { what: "one request id for two operations" })
            }
            Some(Record { state: State::Answered(Some(answer)), .. }) => {
                self.out.reply(answer.clone(), &self.limits);
                Ok(())
            }
            Some(Record { state: State::Open(Kind::Read(_)), .. }) => self.read_again(frame),
            Some(_) => Ok(()),
            None => self.serve(now, frame),
        }
    }

    fn serve(&mut self, _now: Time, frame: &Frame) -> Result<(), Violation> {
        let header = *frame.header();
        self.serving.advance(header.request);
        if header.opcode == Opcode::Notify {
            return self.take_notify(&header, frame.payload());
        }
        if self.serving.open >= self.limits.serving_max {
            self.refuse(&header, Code::Busy, "too many requests at once");
            return Ok(());
        }
        let (kind, request) = match self.serving.decode(frame, &self.limits, self.welcome)? {
            Ok(decoded) => decoded,
            Err(Refusal(code, text)) => {
                self.refuse(&header, code, text);
                return Ok(());
            }
        };
        self.serving.open += 1;
        self.tally.requests += 1;
        if let Kind::Stage(bytes) = kind {
            self.serving.staged_bytes += bytes;
        }
        let record = Record { opcode: header.opcode, state: State::Open(kind) };
        self.serving.records.insert(header.request, record);
        match request {
            Some(request) => {
                let token = ResponderToken { request: header.request, chunk: NO_CHUNK };
                self.events.push_back(Event::Request { token, request });
            }
            None => self.serving.reads.push_back(header.request),
        }
        Ok(())
    }

    fn refuse(&mut self, request: &Header, code: Code, text: &str) {
        let header = Header { status: Some(code), ..reply_header(request) };
        let header = Header { offset: request.offset, ..header };
        let frame = self.limits.frame(header, body::encode_text(text));
        self.out.reply(frame, &self.limits);
    }

    fn take_notify(&mut self, header: &Header, payload: &[u8]) -> Result<(), Violation> {
        let (region, immediate) = body::decode_notify(payload)?;
        let Some(told) = self.asking.subscribed.get_mut(&region) else {
            self.refuse(header, Code::NoSuchRegion, "not subscribed");
            return Ok(());
        };
        let version = header.version;
        if version > *told {
            *told = version;
            self.events.push_back(Event::Notified { region, version, immediate });
        }
        let answer = self.limits.frame(reply_header(header), Bytes::new());
        let state = State::Answered(Some(answer.clone()));
        self.serving.records.insert(header.request, Record { opcode: Opcode::Notify, state });
        self.out.reply(answer, &self.limits);
        Ok(())
    }

    /// A READ that is being served is asked again: what was sent and not asked for since is missing
    /// at the peer, what waits here is not.
    fn read_again(&mut self, frame: &Frame) -> Result<(), Violation> {
        let ranges = frame.header().opcode == Opcode::ReadRanges;
        let chunks = if ranges {
            body::decode_ranges(frame.payload())?.pieces
        } else {
            body::decode_chunks(frame.payload())?
        };
        let id = frame.header().request;
        let queued: BTreeSet<u64> = self.queued_chunks(id).collect();
        let Some(Record { state: State::Open(Kind::Read(reading)), .. }) =
            self.serving.records.get_mut(&id)
        else {
            return Ok(());
        };
        for chunk in chunks {
            let here = reading.waiting.contains(&chunk)
                || reading.asked.contains(&chunk)
                || queued.contains(&u64::from(chunk));
            if !here && reading.shape.chunk_len(chunk).is_some() {
                reading.waiting.push_back(chunk);
            }
        }
        if !reading.waiting.is_empty() && !self.serving.reads.contains(&id) {
            self.serving.reads.push_back(id);
        }
        Ok(())
    }

    fn queued_chunks(&self, request: u64) -> impl Iterator<Item = u64> + '_ {
        self.out.bulk.iter().filter_map(move |out| Some(out.chunk_of(request)?.header().offset))
    }

    /// The next chunk to ask of our own side, when the bulk window has room for it.
    pub(super) fn next_read(&mut self) -> Option<Event> {
        let serving = &mut self.serving;
        while let Some(id) = serving.reads.front().copied() {
            let next = match serving.records.get_mut(&id) {
                Some(Record { state: State::Open(Kind::Read(reading)), .. }) => {
                    reading.waiting.front().copied().map(|chunk| (chunk, reading))
                }
                _ => None,
            };
            let Some((chunk, reading)) = next else {
                serving.reads.pop_front();
                continue;
            };
            let bytes = reading.len(chunk);
            let held = serving.read_bytes;
            if held > 0 && held + bytes > self.limits.bulk_window_bytes {
                return None;
            }
            serving.read_bytes += bytes;
            reading.waiting.pop_front();
            reading.asked.insert(chunk);
            let token = ResponderToken { request: id, chunk };
            return Some(Event::Request { token, request: reading.request(chunk) });
        }
        None
    }

    /// Replies to a request of the peer. A reply to a request that was cancelled, or that was
    /// answered already, does nothing.
    ///
    /// # Panics
    /// When the reply is of the wrong kind for its request, or describes a region whose counts do
    /// not fit: a defect of ours.
    pub fn respond(&mut self, now: Time, token: ResponderToken, reply: Reply) {
        let _ = now;
        if token.chunk != NO_CHUNK {
            self.respond_read(token, reply);
            return;
        }
        let id = token.request;
        let Some(record) = self.serving.records.remove(&id) else { return };
        let opcode = record.opcode;
        let State::Open(kind) = record.state else {
            self.serving.records.insert(id, record);
            return;
        };
        self.serving.release(&kind);
        let answer = self.answer_frame(Header::new(opcode, Direction::Reply, id), kind, reply);
        if is_remembered(opcode) {
            let state = State::Answered(Some(answer.clone()));
            self.serving.records.insert(id, Record { opcode, state });
        }
        self.out.reply(answer, &self.limits);
    }

    fn answer_frame(&mut self, header: Header, kind: Kind, reply: Reply) -> Frame {
        let with_handle = |handle| Header { handle, ..header };
        let limits = self.limits;
        match (kind, reply) {
            (kind, Reply::Error { code, text }) => {
                self.serving.hellos_refused += u32::from(matches!(kind, Kind::Hello));
                limits.frame(Header { status: Some(code), ..header }, body::encode_text(&text))
            }
            (Kind::Hello, Reply::Welcome(welcome)) => {
                self.welcome = true;
                limits.frame(header, body::encode(&welcome))
            }
            // Whoever opens and never reads is not answered without end.
            (Kind::Open(_), Reply::Opened(info)) if !self.out.takes_opened(info.chunks.len()) => {
                let text = body::encode_text("too many opened regions wait to be sent");
                limits.frame(Header { status: Some(Code::Busy), ..header }, text)
            }
            (Kind::Open(region), Reply::Opened(info)) => {
                assert_eq!(
                    info.shape.chunk_count(),
                    info.chunks.len() as u64,
                    "a region of ours has one hash a chunk"
                );
                let (version, shape, root) = (info.version, info.shape, info.root);
                let purpose = Purpose::Read { version, shape, root };
                let handle = self.serving.grants.grant(region, purpose, self.limits.handles_max);
                limits.frame(Header { version, ..with_handle(handle) }, body::encode(&*info))
            }
            (Kind::Open(_), Reply::NotChanged) if header.opcode == Opcode::ReadIfChanged => {
                limits.frame(header, Bytes::new())
            }
            (Kind::OpenStage(region, stage), Reply::StageOpened(placed)) => {
                assert_eq!(
                    u64::from(placed.bound()),
                    stage.shape.chunk_count(),
                    "a staging area of ours has the announced count"
                );
                let purpose = Purpose::Stage(stage);
                let handle = self.serving.grants.grant(region, purpose, self.limits.handles_max);
                limits.frame(with_handle(handle), body::encode(&placed))
            }
            (Kind::Stage(_), Reply::Placed { placement, level }) => {
                limits.frame(Header { level: Some(level), ..header }, body::encode(&placement))
            }
            (Kind::Commit, Reply::Committed { version }) => {
                limits.frame(Header { version, ..header }, Bytes::new())
            }
            (Kind::Send, Reply::Delivered) => limits.frame(header, Bytes::new()),
            (Kind::Subscribe(region), Reply::Subscribed { version }) => {
                self.serving.subscribers.entry(region).or_insert(None);
                limits.frame(Header { version, ..header }, Bytes::new())
            }
            (Kind::OpenCells(region), Reply::CellsOpened { count }) => {
                assert!((1..=CELLS_MAX).contains(&count), "{count} cells");
                let purpose = Purpose::Cells(count);
                let handle = self.serving.grants.grant(region, purpose, self.limits.handles_max);
                limits.frame(with_handle(handle), body::encode(&count))
            }
            (Kind::Cell, Reply::Cell { held }) => limits.frame(header, body::encode(&held)),
            (Kind::Fence, Reply::Fenced { level }) => {
                limits.frame(Header { level: Some(level), ..header }, Bytes::new())
            }
            (Kind::Stat, Reply::Stat { region }) => {
                limits.frame(header, body::encode(&Stat { session: self.stat(), region }))
            }
            (Kind::Revoke, Reply::Revoked { epoch }) => {
                limits.frame(Header { version: epoch, ..header }, Bytes::new())
            }
            (kind, reply) => panic!("{reply:?} is no reply to {kind:?}"),
        }
    }

    fn respond_read(&mut self, token: ResponderToken, reply: Reply) {
        let (id, chunk) = (token.request, token.chunk);
        let Some(Record { state: State::Open(Kind::Read(reading)), .. }) =
            self.serving.records.get_mut(&id)
        else {
            return;
        };
        if !reading.asked.contains(&chunk) {
            return;
        }
        let expected = reading.len(chunk);
        let opcode = if reading.spans.is_some() { Opcode::ReadRanges } else { Opcode::Read };
        let header = Header::new(opcode, Direction::Reply, id);
        let header = Header { version: reading.version, offset: chunk.into(), ..header };
        match reply {
            Reply::Data(bytes) if bytes.len() as u64 == expected => {
                reading.asked.remove(&chunk);
                let done = reading.asked.is_empty() && reading.waiting.is_empty();
                self.out.bulk.push_back(Out::Frame(self.limits.frame(header, bytes)));
                if done {
                    self.close(id);
                }
            }
            Reply::Data(_) => {
                self.close(id);
                self.refuse(&header, Code::Unavailable, "the holder's copy is damaged");
            }
            Reply::Error { code, text } => {
                self.close(id);
                self.refuse(&header, code, &text);
            }
            other => panic!("{other:?} is no reply to a READ"),
        }
    }

    /// Forgets an open record.
    fn close(&mut self, id: u64) {
        if let Some(Record { state: State::Open(kind), .. }) = self.serving.records.remove(&id) {
            self.serving.release(&kind);
        }
    }

    pub(super) fn handle_cancel(&mut self, id: u64) {
        if !self.welcome || self.serving.is_settled(id) {
            return;
        }
        self.serving.advance(id);
        // Also when the request has not come yet, overtaken by its CANCEL.
        let gone = Record { opcode: Opcode::Cancel, state: State::Answered(None) };
        let Some(Record { state: State::Open(kind), .. }) = self.serving.records.insert(id, gone)
        else {
            return;
        };
        self.serving.release(&kind);
        match kind {
            Kind::Read(reading) => {
                self.drop_queued_chunks(id);
                for chunk in reading.asked {
                    let token = ResponderToken { request: id, chunk };
                    self.events.push_back(Event::Cancelled { token });
                }
            }
            _ => {
                let token = ResponderToken { request: id, chunk: NO_CHUNK };
                self.events.push_back(Event::Cancelled { token });
            }
        }
    }

    fn drop_queued_chunks(&mut self, request: u64) {
        let freed = &mut self.serving.read_bytes;
        self.out.bulk.retain(|out| match out.chunk_of(request) {
            Some(frame) => {
                *freed -= frame.payload().len() as u64;
                false
            }
            None => true,
        });
    }

    /// Tells the peer of a new version of a region, if it subscribed to it. A newer version takes
    /// the place of one that has not been acknowledged yet.
    ///
    /// # Panics
    /// When `immediate` is longer than [`IMMEDIATE_BYTES_MAX`]: a defect of ours.
    pub fn notify(&mut self, now: Time, region: &RegionName, version: u64, immediate: &Bytes) {
        assert!(immediate.len() <= IMMEDIATE_BYTES_MAX, "{} immediate bytes", immediate.len());
        let Some(superseded) = self.serving.subscribers.get(region).copied() else { return };
        let id = self.ask_notify(now, region, version, immediate, superseded);
        self.serving.subscribers.insert(region.clone(), Some(id));
    }

    /// Takes back every handle the peer holds on the regions that `is_over` names: the next use of
    /// one is answered BAD_HANDLE, and opening again asks our own side.
    pub fn revoke(&mut self, is_over: impl Fn(&RegionName) -> bool) {
        self.serving.grants.revoke(is_over);
    }
}
