//! Frames: alone, and cut from a stream that comes in pieces.

use crate::Target;
use bytes::Bytes;
use suanli_base::{Hash, Time};
use suanli_identity::Prefix;
use suanli_rdpa::limits::PAYLOAD_BYTES_MAX;
use suanli_rdpa::{Decoder, Direction, Frame, GateBooks, Header, Opcode, RegionName, UsedBytes};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("frame", "bytes are exactly one frame, or are refused", frames, frame),
    Target {
        // A header that is sound in itself reserves its one frame, doubled by the buffer's growth.
        allocation: |len| 2 * (PAYLOAD_BYTES_MAX as usize) + (64 << 10) + 64 * len,
        ..Target::new("frame-stream", "pieces give the frames of the whole", streams, stream)
    },
    Target::new("gate-books", "books read back as they were, or not at all", books, book),
    Target::new("region-name", "a name reads back as it was, or is refused", names, name),
];

fn some_frames() -> Vec<Frame> {
    let frame = |opcode, direction, payload: &[u8]| {
        let header = Header { handle: 7, version: 3, ..Header::new(opcode, direction, 5) };
        Frame::new(header, Bytes::copy_from_slice(payload))
    };
    vec![
        frame(Opcode::Ping, Direction::Request, b""),
        frame(Opcode::Send, Direction::Request, b"a small message"),
        frame(Opcode::Read, Direction::Reply, &[9; 700]),
        frame(Opcode::Open, Direction::Request, b"job/theta"),
    ]
}

fn frames() -> Vec<Vec<u8>> {
    some_frames().iter().map(|frame| frame.to_bytes().to_vec()).collect()
}

fn streams() -> Vec<Vec<u8>> {
    vec![frames().concat(), frames()[1..].concat()]
}

fn frame(input: &[u8]) {
    if let Ok(frame) = Frame::from_bytes(Bytes::copy_from_slice(input)) {
        assert_eq!(frame.to_bytes(), input, "another encoding of the same frame was accepted");
        let header = frame.header();
        let max = header.opcode.payload_bytes_max(header.direction) as usize;
        assert!(frame.payload().len() <= max);
    }
}

fn stream(input: &[u8]) {
    let whole = decode(input, input.len().max(1));
    for piece in [1, 63, 100] {
        assert_eq!(decode(input, piece), whole, "cut into pieces of {piece}");
    }
}

/// The frames before the first error, and whether there was one.
fn decode(input: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for part in input.chunks(piece) {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

/// The line that names the format, and the hash.
const BOOKS_HEAD: &[u8] = b"suanli grants 1\n";

/// What is behind the hash.
fn books() -> Vec<Vec<u8>> {
    let prefix = Prefix::new("job/1/").expect("a good prefix");
    let (first, link) = (Hash([1; 32]), Hash([2; 32]));
    let used = UsedBytes { first, link, bytes: 1 << 40, not_after: Time(u64::MAX) };
    let full = GateBooks { epochs: vec![(prefix, 7)], used: vec![used; 3] };
    [GateBooks::default(), full].map(|b| b.to_bytes()[BOOKS_HEAD.len() + 32..].to_vec()).to_vec()
}

/// The hash is put right, so that the decoder behind it is reached.
fn book(input: &[u8]) {
    assert_eq!(GateBooks::from_bytes(input), None, "no head and no hash");
    let bytes = [BOOKS_HEAD, &Hash::of(input).0, input].concat();
    if let Some(books) = GateBooks::from_bytes(&bytes) {
        assert_eq!(GateBooks::from_bytes(&books.to_bytes()), Some(books));
    }
}

fn names() -> Vec<Vec<u8>> {
    vec![b"job/0123abcd/theta".to_vec(), b"a".to_vec()]
}

fn name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(name) = RegionName::new(text) {
        assert_eq!(name.as_str(), text);
    }
}
