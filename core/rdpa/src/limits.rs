//! Every bound of the protocol in one place: those of the format, and those of a session.

use crate::{Frame, Header};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use suanli_base::Duration;

/// The format of a frame's header.
pub const FRAME_FORMAT: u8 = 1;
/// The version of the protocol this code speaks: 2 brought ranges, cells, levels, FENCE, STAT, REVOKE.
pub const PROTOCOL_VERSION: u8 = 2;
/// Payload bytes of a frame.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;
/// Length of a chunk: it travels in one frame.
pub const CHUNK_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// Chunks of a region: their hashes travel in one frame (3.2 MB of 4 MiB).
pub const CHUNKS_MAX: usize = 100_000;
/// Bytes of a HELLO, ticket included.
pub const HELLO_BYTES_MAX: u32 = 5 << 10;
/// Bytes of the ticket in a HELLO.
pub const TICKET_BYTES_MAX: usize = 4 << 10;
/// Bytes of a SEND.
pub const SEND_BYTES_MAX: u32 = 64 << 10;
/// Immediate bytes of a NOTIFY.
pub const IMMEDIATE_BYTES_MAX: usize = 1 << 10;
/// Chunks of one READ.
pub const READ_CHUNKS_MAX: usize = 64;
/// Spans of one READ_RANGES.
pub const SPANS_MAX: usize = 1024;
/// Runs of one READ_RANGES, all spans together: what gathering costs a holder is bounded.
pub const RUNS_MAX: u64 = 1 << 20;
/// Bytes that one READ_RANGES may ask for in all.
pub const RANGES_BYTES_MAX: u64 = 64 << 20;
/// The reply to READ_RANGES comes in pieces of this length, the last one shorter.
pub const PIECE_BYTES: u32 = 256 << 10;
/// Cells of a region of cells.
pub const CELLS_MAX: u32 = 1 << 20;
/// Bytes of a READ_RANGES request: its spans and the pieces that are missing, as postcard.
pub const RANGES_BODY_BYTES_MAX: u32 = 40 << 10;
/// Characters of a region's name.
pub const REGION_NAME_CHARS_MAX: usize = 160;
/// Bytes of the text of an error.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;
/// Bytes of any other control payload.
pub const CONTROL_BYTES_MAX: u32 = 4 << 10;
/// Bytes of replies that wait to be sent, of each class, those to READs apart: what 256 requests at
/// once may be answered with. Of opened regions one may go alone, whatever its length.
pub const REPLIES_BYTES_MAX: usize = 4 << 20;
/// HELLOs that the layer above refused on one connection, each for the price of several signatures;
/// one more ends it.
pub const HELLOS_REFUSED_MAX: u32 = 3;
/// How far request ids of one side may spread: an id this far behind the newest is settled. The
/// requester keeps new requests back so as not to pass it, the responder remembers as many answers.
pub const REQUEST_SPAN: u64 = 1024;

/// The bounds and waits of one session. What a peer needs to know travels in WELCOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unanswered requests of ours, waiting ones included.
    pub requests_max: usize,
    /// Unanswered requests of the peer; more are answered BUSY.
    pub serving_max: usize,
    /// Handles we have given out; the least recently granted is forgotten for a new one.
    pub handles_max: usize,
    /// Subscriptions of the peer.
    pub subscriptions_max: usize,
    /// Whether our frames carry the hash of their payload. A link that authenticates every byte (TLS,
    /// QUIC) guards against damage already, and chunks are held against the region's hashes anyway.
    pub frame_hashes: bool,
    /// Bulk bytes of ours on their way without an answer, and bulk bytes of the peer's READs that we
    /// have asked our own side for or hold for sending.
    pub bulk_window_bytes: u64,
    /// First wait for an answer of a control request before it is sent again; doubles each time.
    pub retry_first: Duration,
    /// The same for a request that carries or asks for bulk bytes.
    pub retry_bulk_first: Duration,
    /// First rest of a request that was answered BUSY, before it is sent again; doubles each time.
    pub rest_first: Duration,
    /// The longest wait between two attempts.
    pub retry_max: Duration,
    /// Without any answer for this long a request fails.
    pub give_up_after: Duration,
    /// A PING goes out this often.
    pub ping_every: Duration,
    /// With nothing heard for this long the peer counts as silent.
    pub silent_after: Duration,
    /// A peer that connected and has no accepted HELLO for this long counts as silent too.
    pub hello_within: Duration,
}

impl Limits {
    /// A frame of ours, hashed or not as this session does.
    pub(crate) fn frame(&self, header: Header, payload: Bytes) -> Frame {
        if self.frame_hashes {
            Frame::new(header, payload)
        } else {
            Frame::unhashed(header, payload)
        }
    }

    /// For a link that neither loses nor reorders (TCP): an answer that is late is being worked on,
    /// so waits are long and retries a safety net only.
    #[must_use]
    pub const fn reliable() -> Self {
        Self {
            requests_max: 256,
            serving_max: 256,
            handles_max: 1024,
            subscriptions_max: 256,
            frame_hashes: false,
            bulk_window_bytes: 4 << 20,
            retry_first: Duration(20_000),
            retry_bulk_first: Duration(60_000),
            rest_first: Duration(200),
            retry_max: Duration(120_000),
            give_up_after: Duration(300_000),
            ping_every: Duration(3_000),
            silent_after: Duration(15_000),
            hello_within: Duration(15_000),
        }
    }

    /// For a network of datagrams, real or simulated.
    #[must_use]
    pub const fn lossy() -> Self {
        Self {
            frame_hashes: true,
            retry_first: Duration(300),
            retry_bulk_first: Duration(800),
            retry_max: Duration(5_000),
            give_up_after: Duration(60_000),
            ping_every: Duration(1_000),
            silent_after: Duration(10_000),
            hello_within: Duration(30_000),
            ..Self::reliable()
        }
    }
}

/// What the accepting side tells in WELCOME of what it bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    /// Unanswered requests it serves at once.
    pub requests_max: u32,
    /// Unanswered bulk bytes it takes at once.
    pub bulk_window_bytes: u64,
}
