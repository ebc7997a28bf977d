//! Frames: a fixed header of 64 bytes, little-endian, and a payload of at most 4 MiB.
//!
//! Layout in `docs/spec/rdpa.md`, frozen by `docs/spec/vectors/rdpa-*.hex`. The header may hold the
//! first 16 bytes of the payload's BLAKE3 hash; a frame that was received with it is known to match
//! it, and keeps the whole hash, so that nobody hashes a chunk twice.

use crate::limits::{
    CONTROL_BYTES_MAX, FRAME_FORMAT, HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX, RANGES_BODY_BYTES_MAX,
    SEND_BYTES_MAX,
};
use crate::{Code, Level};
use bytes::{Buf as _, Bytes, BytesMut};
use suanli_base::{Fault, Hash};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header.
pub const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"RDPA";
const GROWTH_BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 4 << 10;
const FLAG_REPLY: u16 = 1;
const FLAG_UNHASHED: u16 = 2;
const LEVEL_SHIFT: u32 = 2;
const FLAGS_KNOWN: u16 = 0b1111;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireHeader {
    magic: [u8; 4],
    version: u8,
    opcode: u8,
    flags: U16,
    status: U16,
    reserved: U16,
    length: U32,
    request: U64,
    handle: U64,
    region_version: U64,
    offset: U64,
    hash: [u8; 16],
}

const _: () = assert!(size_of::<WireHeader>() == HEADER_BYTES);

/// What a frame is about. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Opcode {
    /// Introduction; its reply is WELCOME.
    Hello = 1,
    /// Name to handle, version, shape, hashes.
    Open = 2,
    /// Opens a staging area; its reply holds the chunks in place.
    OpenStage = 3,
    /// Chunks of a region; each reply is a DATA frame.
    Read = 4,
    /// OPEN unless the version is known.
    ReadIfChanged = 5,
    /// One chunk into a staging area.
    Write = 6,
    /// Publishes a staged set.
    Commit = 7,
    /// One chunk of a contribution.
    Accumulate = 8,
    /// A small message.
    Send = 9,
    /// Asks for notifications.
    Subscribe = 10,
    /// A version of a region was published.
    Notify = 11,
    /// A request is no longer wanted; never answered.
    Cancel = 12,
    /// Are you there; its reply is PONG.
    Ping = 13,
    /// Bytes of a region as ranges; each reply is a piece.
    ReadRanges = 14,
    /// Name to the handle of a region of 64-bit cells.
    OpenCells = 15,
    /// Compare and swap of one cell.
    Cas = 16,
    /// Add to one cell.
    FetchAdd = 17,
    /// Answered when everything asked before is done and as safe as wished.
    Fence = 18,
    /// What the responder has and how the session fares.
    Stat = 19,
    /// Ends the grants below an epoch.
    Revoke = 20,
}

impl Opcode {
    /// Every opcode, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Hello,
        Self::Open,
        Self::OpenStage,
        Self::Read,
        Self::ReadIfChanged,
        Self::Write,
        Self::Commit,
        Self::Accumulate,
        Self::Send,
        Self::Subscribe,
        Self::Notify,
        Self::Cancel,
        Self::Ping,
        Self::ReadRanges,
        Self::OpenCells,
        Self::Cas,
        Self::FetchAdd,
        Self::Fence,
        Self::Stat,
        Self::Revoke,
    ];

    fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| *opcode as u8 == number)
    }

    /// The longest payload of a request or reply of this kind.
    #[must_use]
    pub const fn payload_bytes_max(self, direction: Direction) -> u32 {
        match (self, direction) {
            (Self::Hello, Direction::Request) => HELLO_BYTES_MAX,
            (Self::Write | Self::Accumulate, Direction::Request)
            | (
                Self::Open | Self::Read | Self::ReadIfChanged | Self::ReadRanges,
                Direction::Reply,
            ) => PAYLOAD_BYTES_MAX,
            (Self::ReadRanges, Direction::Request) => RANGES_BODY_BYTES_MAX,
            (Self::Send, Direction::Request) => SEND_BYTES_MAX,
            // A bitmap of CHUNKS_MAX chunks as variable-length integers.
            (Self::OpenStage, Direction::Reply) => 32 << 10,
            (Self::Cancel, Direction::Request) => 0,
            (Self::Ping, _) => 64,
            _ => CONTROL_BYTES_MAX,
        }
    }
}

/// Whether a frame asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It asks.
    Request,
    /// It answers.
    Reply,
}

/// The header of a frame, without what the payload decides (length, hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is about.
    pub opcode: Opcode,
    /// Whether it asks or answers.
    pub direction: Direction,
    /// In replies: why it was refused, if it was.
    pub status: Option<Code>,
    /// In requests how safe the effect is to be before the reply, in replies how safe it is.
    pub level: Option<Level>,
    /// The request, numbered by the side that asks.
    pub request: u64,
    /// The handle of the region, 0 where there is none.
    pub handle: u64,
    /// The version of the region, 0 where there is none.
    pub version: u64,
    /// The chunk, 0 where there is none.
    pub offset: u64,
}

impl Header {
    /// A header with zeros but for what is given.
    #[must_use]
    pub const fn new(opcode: Opcode, direction: Direction, request: u64) -> Self {
        let (status, level) = (None, None);
        Self { opcode, direction, status, level, request, handle: 0, version: 0, offset: 0 }
    }
}

/// One frame whose payload is known to match its header, if that holds a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    header: Header,
    payload: Bytes,
    digest: Option<Hash>,
}

/// What a header says before its payload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The header.
    pub header: Header,
    /// Length of the payload; within the bound of its kind.
    pub payload_bytes: usize,
    /// The beginning of the payload's hash, if the sender gave it.
    pub hash: Option<[u8; 16]>,
}

impl Announced {
    /// Reads a header. Every field but the payload's own content is checked here, before anything is
    /// allocated.
    ///
    /// # Errors
    /// [`FrameError`] that says what is wrong.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        read_header(bytes)
    }

    /// Makes the frame of this header and the payload that came after it.
    ///
    /// # Errors
    /// [`FrameError::Hash`] when the payload is another one.
    pub fn frame(self, payload: Bytes) -> Result<Frame, FrameError> {
        checked(self, payload)
    }

    /// Whether a payload with this digest is the announced one.
    ///
    /// # Errors
    /// [`FrameError::Hash`] when it is not.
    pub fn check(&self, digest: &Hash) -> Result<(), FrameError> {
        let Header { opcode, request, .. } = self.header;
        match self.hash {
            Some(hash) if truncated(digest) != hash => Err(FrameError::Hash { opcode, request }),
            _ => Ok(()),
        }
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", self.header, self.payload.len())
    }
}

/// Bytes are no frame of ours: the fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first four bytes are wrong: another protocol or a stream out of step.
    #[error(
        "expected a frame that begins with \"RDPA\", found bytes {found:02x?}; is this another service?"
    )]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
    /// Another version of the format.
    #[error("expected frame format {FRAME_FORMAT}, found {found}; one side needs an update")]
    Version {
        /// The version found.
        found: u8,
    },
    /// An unknown operation.
    #[error("unknown operation {found}")]
    Opcode {
        /// The number found.
        found: u8,
    },
    /// A flag, status or reserved field has a value without meaning.
    #[error("the field \"{field}\" holds {found}, which means nothing here")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u16,
    },
    /// The payload is longer than its kind may be.
    #[error("{opcode:?} with {found} payload bytes, at most {max} are allowed")]
    TooLarge {
        /// The kind of frame.
        opcode: Opcode,
        /// The length it claims.
        found: u32,
        /// The bound.
        max: u32,
    },
    /// The payload is not that of the header.
    #[error("the payload of {opcode:?} {request} does not match the hash in its header")]
    Hash {
        /// The kind of frame.
        opcode: Opcode,
        /// Its request.
        request: u64,
    },
    /// A single frame was expected, the bytes are fewer or more.
    #[error("a frame of {expected} bytes in {found} bytes")]
    Length {
        /// What the header says, or the header's own length.
        expected: usize,
        /// What there is.
        found: usize,
    },
}

impl FrameError {
    /// Whose fault it is: the peer's, always.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

impl Frame {
    /// A frame to send, with the hash of its payload.
    ///
    /// # Panics
    /// When the payload is longer than its kind may be: the caller checks first.
    #[must_use]
    pub fn new(header: Header, payload: Bytes) -> Self {
        let digest = Hash::of(&payload);
        Self::with_digest(header, payload, digest)
    }

    /// A frame to send without the hash of its payload.
    ///
    /// # Panics
    /// When the payload is longer than its kind may be: the caller checks first.
    #[must_use]
    pub fn unhashed(header: Header, payload: Bytes) -> Self {
        Self { digest: None, ..Self::with_digest(header, payload, Hash::ZERO) }
    }

    /// A frame to send whose payload's hash is known already.
    ///
    /// # Panics
    /// When the payload is longer than its kind may be: the caller checks first.
    #[must_use]
    pub fn with_digest(header: Header, payload: Bytes, digest: Hash) -> Self {
        let max = header.opcode.payload_bytes_max(header.direction) as usize;
        assert!(payload.len() <= max, "{:?}: {} of {max} bytes", header.opcode, payload.len());
        Self { header, payload, digest: Some(digest) }
    }

    /// What it is about.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The payload.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The BLAKE3 hash of the payload; computed now when it did not travel.
    #[must_use]
    pub fn digest(&self) -> Hash {
        self.digest.unwrap_or_else(|| Hash::of(&self.payload))
    }

    /// Header and payload together, in bytes on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Whether it goes in the bulk class, behind control frames.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        let header = &self.header;
        let bulky = match (header.opcode, header.direction) {
            (Opcode::Write | Opcode::Accumulate, Direction::Request)
            | (Opcode::Read | Opcode::ReadRanges, Direction::Reply) => true,
            // The hashes of an opened region may be megabytes; "not changed" is nothing.
            (Opcode::Open | Opcode::ReadIfChanged, Direction::Reply) => !self.payload.is_empty(),
            _ => false,
        };
        bulky && header.status.is_none()
    }

    /// The 64 bytes of the header; the payload follows them on the wire as it is.
    ///
    /// # Panics
    /// Never: a payload fits 32 bits.
    #[must_use]
    pub fn header_bytes(&self) -> [u8; HEADER_BYTES] {
        let header = &self.header;
        let reply = if header.direction == Direction::Reply { FLAG_REPLY } else { 0 };
        let unhashed = if self.digest.is_none() { FLAG_UNHASHED } else { 0 };
        let level = header.level.map_or(0, Level::to_wire) << LEVEL_SHIFT;
        let flags = reply | unhashed | level;
        let wire = WireHeader {
            magic: MAGIC,
            version: FRAME_FORMAT,
            opcode: header.opcode as u8,
            flags: flags.into(),
            status: header.status.map_or(0, Code::to_wire).into(),
            reserved: 0.into(),
            length: u32::try_from(self.payload.len()).expect("a payload is at most 4 MiB").into(),
            request: header.request.into(),
            handle: header.handle.into(),
            region_version: header.version.into(),
            offset: header.offset.into(),
            hash: self.digest.as_ref().map_or([0; 16], truncated),
        };
        zerocopy::transmute!(wire)
    }

    /// The whole frame as bytes, copied together.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.wire_len());
        out.extend_from_slice(&self.header_bytes());
        out.extend_from_slice(&self.payload);
        out.freeze()
    }

    /// Reads bytes that are exactly one frame.
    ///
    /// # Errors
    /// [`FrameError`] that says what is wrong.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, FrameError> {
        let found = bytes.len();
        let short = FrameError::Length { expected: HEADER_BYTES, found };
        let announced = read_header(bytes.first_chunk().ok_or(short)?)?;
        let expected = HEADER_BYTES + announced.payload_bytes;
        if found != expected {
            return Err(FrameError::Length { expected, found });
        }
        checked(announced, bytes.slice(HEADER_BYTES..))
    }
}

fn truncated(digest: &Hash) -> [u8; 16] {
    digest.0[..16].try_into().expect("16 of 32 bytes")
}

fn checked(announced: Announced, payload: Bytes) -> Result<Frame, FrameError> {
    let header = announced.header;
    let digest = announced.hash.map(|_| Hash::of(&payload));
    if let Some(digest) = &digest {
        announced.check(digest)?;
    }
    Ok(Frame { header, payload, digest })
}

fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<Announced, FrameError> {
    let wire: WireHeader = zerocopy::transmute!(*bytes);
    if wire.magic != MAGIC {
        return Err(FrameError::Magic { found: wire.magic });
    }
    if wire.version != FRAME_FORMAT {
        return Err(FrameError::Version { found: wire.version });
    }
    let opcode = Opcode::from_wire(wire.opcode).ok_or(FrameError::Opcode { found: wire.opcode })?;
    let flags = wire.flags.get();
    if flags & !FLAGS_KNOWN != 0 {
        return Err(FrameError::Field { field: "flags", found: flags });
    }
    let direction = if flags & FLAG_REPLY == 0 { Direction::Request } else { Direction::Reply };
    let status = match (wire.status.get(), direction) {
        (0, _) => None,
        (found, Direction::Request) => return Err(FrameError::Field { field: "status", found }),
        (found, Direction::Reply) => {
            Some(Code::from_wire(found).ok_or(FrameError::Field { field: "status", found })?)
        }
    };
    if wire.reserved.get() != 0 {
        return Err(FrameError::Field { field: "reserved", found: wire.reserved.get() });
    }
    let hash = match (flags & FLAG_UNHASHED == 0, wire.hash) {
        (true, hash) => Some(hash),
        (false, hash) if hash == [0; 16] => None,
        (false, hash) => {
            let found = u16::from_le_bytes([hash[0], hash[1]]);
            return Err(FrameError::Field { field: "hash", found });
        }
    };
    let (found, max) = (wire.length.get(), opcode.payload_bytes_max(direction));
    if found > max {
        return Err(FrameError::TooLarge { opcode, found, max });
    }
    let header = Header {
        opcode,
        direction,
        status,
        level: Level::from_wire(flags >> LEVEL_SHIFT),
        request: wire.request.get(),
        handle: wire.handle.get(),
        version: wire.region_version.get(),
        offset: wire.offset.get(),
    };
    let payload_bytes = usize::try_from(found).expect("at most 4 MiB");
    Ok(Announced { header, payload_bytes, hash })
}

/// Cuts a stream of bytes into frames. It holds at most one frame that is not complete, plus what
/// the caller read beyond it. After an error the stream is lost and stays so.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    failed: Option<FrameError>,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The buffer that a reader may append to directly, to spare a copy.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether the stream stands between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty() && self.failed.is_none()
    }

    /// The next complete frame, or nothing until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`]; the same again at every later call.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.cut().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = BytesMut::new();
        })
    }

    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk() else { return Ok(None) };
        let announced = read_header(bytes)?;
        let length = announced.payload_bytes;
        let whole = HEADER_BYTES + length;
        if self.buffer.len() < whole {
            // Memory follows the bytes that have really come: at most doubling, never the length that
            // a header merely claims.
            let missing = whole - self.buffer.len();
            self.buffer.reserve(missing.min(self.buffer.len().max(GROWTH_BYTES)));
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(whole);
        frame.advance(HEADER_BYTES);
        // A small payload is copied out, so that it does not keep a whole read buffer alive.
        let small = length <= SMALL_BYTES;
        let payload = if small { Bytes::copy_from_slice(&frame) } else { frame.freeze() };
        checked(announced, payload).map(Some)
    }
}
