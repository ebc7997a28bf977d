//! A session: the state of one connection, the same on both sides, without I/O.

mod asking;
mod grants;
mod serving;

use crate::limits::{Limits, REPLIES_BYTES_MAX};
use crate::{
    Announced, Answer, Code, Direction, Frame, FrameError, Handle, Header, Opcode, RegionName,
    Request, RequestId, ResponderToken, SessionStat,
};
use asking::Asking;
use bytes::Bytes;
use serving::Serving;
use std::collections::VecDeque;
use suanli_base::{Duration, Fault, Hash, Random, Time};

/// Which side of the connection a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It connected, and says HELLO.
    Connecting,
    /// It accepted, and waits for HELLO.
    Accepting,
}

/// What a session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer answered one of our requests; nothing more comes for it.
    Answered {
        /// Which.
        id: RequestId,
        /// With what.
        answer: Answer,
    },
    /// A chunk of a READ has arrived and matches its hash.
    Chunk {
        /// Which READ.
        id: RequestId,
        /// Of which opened region.
        handle: Handle,
        /// Which chunk.
        chunk: u32,
        /// The chunk.
        bytes: Bytes,
    },
    /// A piece of a READ_RANGES has arrived.
    Piece {
        /// Which READ_RANGES.
        id: RequestId,
        /// Of which opened region.
        handle: Handle,
        /// Where it begins in the packed answer.
        start: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// A chunk or piece has landed where the caller let it, see [`Session::landing`].
    Landed {
        /// Of which READ.
        id: RequestId,
        /// Which part of it.
        place: Place,
    },
    /// One of our requests failed; nothing more comes for it.
    Failed {
        /// Which.
        id: RequestId,
        /// Why.
        failure: Failure,
    },
    /// A region that we subscribed to has a new version.
    Notified {
        /// The region.
        region: RegionName,
        /// Its version; it only rises.
        version: u64,
        /// What the peer sent along.
        immediate: Bytes,
    },
    /// The peer asks; answer with [`Session::respond`].
    Request {
        /// For the reply.
        token: ResponderToken,
        /// What it asks.
        request: Request,
    },
    /// The peer no longer wants the reply to this request; replying does nothing.
    Cancelled {
        /// The request's token.
        token: ResponderToken,
    },
    /// Nothing has been heard for too long, or nothing worth staying for: no HELLO that was
    /// accepted. Comes once until something is heard again. Close the connection.
    Silent {
        /// For how long.
        span: Duration,
    },
}

impl Event {
    /// The request of ours that it tells of.
    const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Answered { id, .. }
            | Self::Chunk { id, .. }
            | Self::Piece { id, .. }
            | Self::Landed { id, .. }
            | Self::Failed { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Which part of the answer to a READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A chunk of a READ.
    Chunk {
        /// Of which opened region.
        handle: Handle,
        /// Which.
        chunk: u32,
    },
    /// A piece of a READ_RANGES.
    Piece {
        /// Of which opened region.
        handle: Handle,
        /// Where it begins in the packed answer.
        start: u64,
    },
}

/// A payload that is waited for and may go straight to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    /// Of which READ.
    pub id: RequestId,
    /// Which part of it.
    pub place: Place,
    /// Its length in bytes.
    pub len: u32,
    /// The hash it must have by the opened region; none for pieces.
    pub expected: Option<Hash>,
    announced: Announced,
}

/// Why a request of ours failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The peer refused it.
    #[error("the peer refused: {code}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Why.
        code: Code,
        /// Its words; made harmless for a terminal.
        text: String,
    },
    /// No answer in spite of all attempts.
    #[error("no answer after {attempts} attempts in {} ms", span.0)]
    GaveUp {
        /// How often it was sent.
        attempts: u32,
        /// For how long.
        span: Duration,
    },
    /// The peer sent a chunk that is not what it had announced.
    #[error("chunk {chunk} has hash {}, expected {}", found.short(), expected.short())]
    WrongHash {
        /// Which chunk.
        chunk: u32,
        /// As opened.
        expected: Hash,
        /// As it arrived.
        found: Hash,
    },
    /// The peer sent a chunk of another length than the shape it had announced gives it.
    #[error("chunk {chunk} has {found} bytes, its holder had announced {expected}")]
    WrongLength {
        /// Which chunk.
        chunk: u32,
        /// By the shape.
        expected: u32,
        /// As it arrived.
        found: usize,
    },
}

impl Failure {
    /// Whether the peer gave something other than it had announced: it is not to be asked again.
    #[must_use]
    pub const fn is_lie(&self) -> bool {
        matches!(self, Self::WrongHash { .. } | Self::WrongLength { .. })
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Refused { code, .. } => code.fault(),
            Self::GaveUp { .. } => Fault::Weather,
            Self::WrongHash { .. } | Self::WrongLength { .. } => Fault::Peer,
        }
    }
}

/// A request was not taken by our own session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many unanswered requests: wait for answers.
    #[error("{max} requests wait for an answer already")]
    Full {
        /// The bound.
        max: usize,
    },
    /// HELLO has not been accepted yet.
    #[error("HELLO has not been accepted yet")]
    NotWelcome,
    /// More bytes or chunks than the protocol allows.
    #[error("{found} {what}, at most {max} are allowed")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// The spans of a READ_RANGES do not fit the opened region.
    #[error(transparent)]
    Spans(#[from] crate::SpanError),
    /// The handle is unknown, or the chunk or cell does not exist in what it stands for, has another length,
    /// or is named twice.
    #[error("the handle is not open, or chunk {chunk} does not fit it")]
    BadChunk {
        /// The chunk; 0 when the handle is unknown.
        chunk: u32,
    },
}

/// The peer broke the protocol: close the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The body of a frame does not decode, or exceeds a bound.
    #[error("the body of {what} does not decode")]
    Body {
        /// Of what.
        what: &'static str,
    },
    /// A frame that this side never gets.
    #[error("{what} does not belong here")]
    Unexpected {
        /// What came.
        what: &'static str,
    },
    /// One handle for two things.
    #[error("handle {handle:016x} stands for something else already")]
    Alias {
        /// The peer's handle.
        handle: u64,
    },
    /// WELCOME names a version that HELLO had not offered.
    #[error("WELCOME in version {found}, {min} to {max} were offered")]
    Version {
        /// The version named.
        found: u8,
        /// The lowest offered.
        min: u8,
        /// The highest offered.
        max: u8,
    },
    /// A region described by the peer contradicts itself.
    #[error("the peer described a region that contradicts itself: {0}")]
    Region(#[from] crate::RegionError),
}

impl Violation {
    /// Whose fault it is: the peer's, always.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// One connection's state. See the crate's page for how it is driven.
///
/// After each input drain [`Session::poll_event`] and [`Session::poll_transmit`] until both are
/// empty: sending a chunk makes room in the bulk window, and room lets the next READ come as an
/// event.
#[derive(Debug)]
pub struct Session {
    side: Side,
    limits: Limits,
    welcome: bool,
    events: VecDeque<Event>,
    out: Outbox,
    asking: Asking,
    serving: Serving,
    pulse: Pulse,
    /// Payload bytes and requests, for STAT.
    tally: SessionStat,
}

/// Frames on their way out. Requests are queued by id, so that a cancelled or answered one vanishes.
#[derive(Debug, Default)]
struct Outbox {
    control: VecDeque<Out>,
    bulk: VecDeque<Out>,
    /// Bytes of the frames in `control` that are no requests of ours.
    control_bytes: usize,
    /// Bytes of opened regions in `bulk`.
    opened_bytes: usize,
}

#[derive(Debug)]
enum Out {
    /// The current frame of one of our requests.
    Ask(u64),
    /// A reply or a heart-beat.
    Frame(Frame),
}

impl Out {
    /// The chunk or piece of this READ that waits here.
    fn chunk_of(&self, request: u64) -> Option<&Frame> {
        match self {
            Self::Frame(frame) if frame.header().request == request && !is_opened(frame) => {
                Some(frame)
            }
            _ => None,
        }
    }
}

/// Whether a bulk frame of ours is an opened region, and not a chunk or piece.
const fn is_opened(frame: &Frame) -> bool {
    matches!(frame.header().opcode, Opcode::Open | Opcode::ReadIfChanged)
}

impl Outbox {
    fn queue_of(&mut self, frame: &Frame) -> &mut VecDeque<Out> {
        if frame.is_bulk() { &mut self.bulk } else { &mut self.control }
    }

    /// Replies past the bounds are dropped: the peer will ask again.
    fn reply(&mut self, frame: Frame, limits: &Limits) {
        if frame.is_bulk() {
            self.opened_bytes += frame.wire_len();
            self.bulk.push_back(Out::Frame(frame));
            return;
        }
        let bound = 2 * (limits.requests_max + limits.serving_max) + limits.subscriptions_max;
        let bytes = self.control_bytes + frame.wire_len();
        if self.control.len() < bound && bytes <= REPLIES_BYTES_MAX {
            self.control_bytes = bytes;
            self.control.push_back(Out::Frame(frame));
        }
    }

    /// Whether one more opened region with so many chunks may wait to be sent.
    fn takes_opened(&self, chunks: usize) -> bool {
        let bytes = chunks.saturating_mul(size_of::<Hash>());
        self.opened_bytes == 0 || self.opened_bytes.saturating_add(bytes) <= REPLIES_BYTES_MAX
    }
}

/// When we heard, and when we ask whether the peer is there.
#[derive(Debug)]
struct Pulse {
    began: Time,
    /// A whole frame.
    heard: Time,
    /// Some bytes of one.
    arriving: Time,
    pinged: Time,
    silent_told: bool,
    rtt: Option<Duration>,
}

impl Session {
    /// A fresh session that begins at `now`. `seed` decides handles and jitter: entropy in the
    /// shell, the simulation's in the simulator.
    #[must_use]
    pub fn new(side: Side, now: Time, limits: Limits, seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            side,
            limits,
            welcome: false,
            events: VecDeque::new(),
            out: Outbox::default(),
            asking: Asking::new(random.fork(1)),
            serving: Serving::new(random.fork(2)),
            pulse: Pulse {
                began: now,
                heard: now,
                arriving: now,
                pinged: now,
                silent_told: false,
                rtt: None,
            },
            tally: SessionStat::default(),
        }
    }

    /// Which side this is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Whether HELLO was accepted (by us or by the peer).
    #[must_use]
    pub const fn is_welcome(&self) -> bool {
        self.welcome
    }

    /// Takes in a frame from the peer.
    ///
    /// # Errors
    /// [`Violation`] when the peer broke the protocol: close the connection.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) -> Result<(), Violation> {
        self.hear(now, frame.payload().len());
        match (frame.header().opcode, frame.header().direction) {
            (Opcode::Ping, Direction::Request) => self.pong(&frame),
            (Opcode::Ping, Direction::Reply) => {
                self.pulse.rtt = Some(now.since(Time(frame.header().offset)));
            }
            (_, Direction::Reply) => return self.handle_reply(now, &frame),
            (Opcode::Cancel, Direction::Request) => self.handle_cancel(frame.header().request),
            (_, Direction::Request) => return self.handle_request(now, &frame),
        }
        Ok(())
    }

    /// Tells that bytes of a frame have come, and not yet all of it: of use on a link that keeps the
    /// order of bytes, where a long frame on a slow line keeps everything behind it waiting. The peer
    /// is not silent then, and what it is giving is not asked for again.
    pub fn arriving(&mut self, now: Time) {
        self.pulse.arriving = self.pulse.arriving.max(now);
        self.pulse.silent_told = false;
    }

    fn hear(&mut self, now: Time, payload_bytes: usize) {
        self.pulse.heard = self.pulse.heard.max(now);
        self.pulse.silent_told = false;
        self.tally.bytes_received += payload_bytes as u64;
    }

    fn pong(&mut self, ping: &Frame) {
        let header = Header { direction: Direction::Reply, ..*ping.header() };
        let header = Header { status: None, handle: 0, version: 0, ..header };
        self.out.reply(self.limits.frame(header, Bytes::new()), &self.limits);
    }

    /// Does what is due at `now`: retries, heart-beats, giving up.
    pub fn handle_timeout(&mut self, now: Time) {
        self.retry_due(now);
        if now >= self.next_ping() {
            self.pulse.pinged = now;
            let mut header = Header::new(Opcode::Ping, Direction::Request, 0);
            header.offset = now.0;
            // One that still waits to be sent is enough.
            let waits = matches!(self.out.control.front(), Some(Out::Frame(frame))
                if frame.header().opcode == Opcode::Ping);
            if !waits {
                let ping = self.limits.frame(header, Bytes::new());
                self.out.control_bytes += ping.wire_len();
                self.out.control.push_front(Out::Frame(ping));
            }
        }
        if now >= self.silent_at() && !self.pulse.silent_told {
            let span = now.since(self.pulse.heard);
            self.pulse.silent_told = true;
            self.events.push_back(Event::Silent { span });
        }
    }

    fn silent_at(&self) -> Time {
        // A frame that comes byte by byte is waited for as long as an answer is, and no longer.
        let frame_by = self.pulse.heard.after(self.limits.give_up_after);
        let heard = self.pulse.heard.max(self.pulse.arriving);
        let silent = heard.after(self.limits.silent_after).min(frame_by);
        let stranger = self.side == Side::Accepting && !self.welcome;
        let hello = self.pulse.began.after(self.limits.hello_within);
        if stranger { silent.min(hello) } else { silent }
    }

    /// Whoever is heard all the time is not asked.
    fn next_ping(&self) -> Time {
        self.pulse.heard.max(self.pulse.pinged).after(self.limits.ping_every)
    }

    /// The next thing to tell the caller.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.next_read())
    }

    /// The next frame to send: control before bulk.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Frame> {
        self.poll_control(now).or_else(|| self.poll_bulk(now))
    }

    /// The next control frame to send: for a caller that sends them on a lane of their own, or holds
    /// bulk back.
    pub fn poll_control(&mut self, now: Time) -> Option<Frame> {
        let frame = self.next_control(now)?;
        self.tally.bytes_sent += frame.payload().len() as u64;
        Some(frame)
    }

    /// The next bulk frame to send.
    pub fn poll_bulk(&mut self, now: Time) -> Option<Frame> {
        let frame = self.next_bulk(now)?;
        self.tally.bytes_sent += frame.payload().len() as u64;
        Some(frame)
    }

    /// The length on the wire of the frame that [`Session::poll_bulk`] gives next: for a caller that
    /// counts what bulk goes out ([`crate::Uplink`]).
    pub fn bulk_waiting(&mut self) -> Option<usize> {
        let at = self.find_bulk()?;
        match self.out.bulk.get(at)? {
            Out::Frame(frame) => Some(frame.wire_len()),
            Out::Ask(id) => self.asking.wire_len(*id),
        }
    }

    /// Tells that the caller holds bulk back: what waits to be sent is not given up for it.
    pub fn bulk_held(&mut self, now: Time) {
        self.asking.bulk_held(now);
    }

    /// How the session fares, as told in the answer to STAT.
    #[must_use]
    pub fn stat(&self) -> SessionStat {
        let serving = u32::try_from(self.serving.open()).unwrap_or(u32::MAX);
        SessionStat { serving, rtt_ms: self.pulse.rtt.map(|rtt| rtt.0), ..self.tally }
    }

    fn next_control(&mut self, now: Time) -> Option<Frame> {
        let mut at = 0;
        while let Some(out) = self.out.control.get(at) {
            let ready = match out {
                Out::Frame(_) => true,
                Out::Ask(id) => self.asking.may_go(*id),
            };
            if !ready {
                at += 1;
                continue;
            }
            match self.out.control.remove(at)? {
                Out::Frame(frame) => {
                    self.out.control_bytes -= frame.wire_len();
                    return Some(frame);
                }
                Out::Ask(id) => match self.asking.sent(id, now, &self.limits) {
                    Some(frame) => return Some(frame),
                    None => continue,
                },
            }
        }
        None
    }

    /// Where the next bulk frame is in its queue. What was settled meanwhile is dropped.
    fn find_bulk(&mut self) -> Option<usize> {
        let mut at = 0;
        while let Some(out) = self.out.bulk.get(at) {
            match out {
                Out::Frame(_) => return Some(at),
                Out::Ask(id) if !self.asking.is_queued(*id) => drop(self.out.bulk.remove(at)),
                Out::Ask(id) => {
                    if self.asking.may_go(*id) && self.asking.bulk_fits(*id, &self.limits) {
                        return Some(at);
                    }
                    at += 1;
                }
            }
        }
        None
    }

    fn next_bulk(&mut self, now: Time) -> Option<Frame> {
        let at = self.find_bulk()?;
        match self.out.bulk.remove(at)? {
            Out::Frame(frame) if is_opened(&frame) => {
                self.out.opened_bytes -= frame.wire_len();
                Some(frame)
            }
            Out::Frame(frame) => {
                self.serving.sent_bulk(frame.payload().len());
                Some(frame)
            }
            Out::Ask(id) => self.asking.sent(id, now, &self.limits),
        }
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let pulse = if self.pulse.silent_told { None } else { Some(self.silent_at()) };
        [Some(self.next_ping()), pulse, self.asking.next_due(&self.limits)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The round-trip time last measured by a heart-beat.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.pulse.rtt
    }
}

#[cfg(test)]
mod tests;
