//! A session: the state of one connection, the same on both sides, without I/O.

use crate::limits::Limits;
use crate::{
    Answer, Code, Frame, FrameError, Handle, Op, RegionName, Reply, Request, RequestId,
    ResponderToken,
};
use bytes::Bytes;
use suanli_base::{Duration, Fault, Hash, Time};

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
    /// Nothing has been heard for too long. Comes once until something is heard again.
    Silent {
        /// For how long.
        span: Duration,
    },
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
}

impl Failure {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Refused { code, .. } => code.fault(),
            Self::GaveUp { .. } => Fault::Weather,
            Self::WrongHash { .. } => Fault::Peer,
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
    /// The handle is unknown, or the chunk does not exist in what it stands for, has another length,
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
#[derive(Debug)]
pub struct Session {
    side: Side,
    limits: Limits,
}

impl Session {
    /// A fresh session that begins at `now`. `seed` decides handles and jitter: entropy in the shell, the
    /// simulation's in the simulator.
    #[must_use]
    pub fn new(side: Side, now: Time, limits: Limits, seed: u64) -> Self {
        let _ = (now, seed);
        Self { side, limits }
    }

    /// Which side this is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Whether HELLO was accepted (by us or by the peer).
    #[must_use]
    pub const fn is_welcome(&self) -> bool {
        let _ = self.limits;
        false
    }

    /// How many more requests would be taken now.
    #[must_use]
    pub fn room(&self) -> usize {
        0
    }

    /// Asks the peer. The answer comes as an event with this id.
    ///
    /// # Errors
    /// [`Refused`] when it cannot even be queued.
    pub fn request(&mut self, now: Time, op: Op) -> Result<RequestId, Refused> {
        let _ = (now, op);
        Err(Refused::NotWelcome)
    }

    /// Gives up one of our requests: no event comes for it any more, and the peer is told.
    pub fn cancel(&mut self, id: RequestId) {
        let _ = id;
    }

    /// Replies to a request of the peer. A reply to a request that was cancelled, or that was
    /// answered already, does nothing.
    ///
    /// # Panics
    /// When the reply is of the wrong kind for its request: a defect of ours.
    pub fn respond(&mut self, now: Time, token: ResponderToken, reply: Reply) {
        let _ = (now, token, reply);
    }

    /// Tells the peer of a new version of a region, if it subscribed to it. A newer version takes
    /// the place of one that has not been sent yet.
    pub fn notify(&mut self, now: Time, region: &RegionName, version: u64, immediate: &Bytes) {
        let _ = (now, region, version, immediate);
    }

    /// Takes back every handle the peer holds on a region.
    pub fn revoke(&mut self, region: &RegionName) {
        let _ = region;
    }

    /// Takes in a frame from the peer.
    ///
    /// # Errors
    /// [`Violation`] when the peer broke the protocol: close the connection.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) -> Result<(), Violation> {
        let _ = (now, frame);
        Ok(())
    }

    /// Does what is due at `now`: retries, heart-beats, giving up.
    pub fn handle_timeout(&mut self, now: Time) {
        let _ = now;
    }

    /// The next thing to tell the caller.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The next frame to send: control before bulk.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Frame> {
        let _ = now;
        None
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The round-trip time last measured by a heart-beat.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        None
    }
}
