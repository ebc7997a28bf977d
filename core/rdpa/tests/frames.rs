//! The format of frames: vectors that never change, and a decoder that survives any bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use proptest::prelude::*;
use suanli_rdpa::limits::PAYLOAD_BYTES_MAX;
use suanli_rdpa::{
    Code, Decoder, Direction, Frame, FrameError, HEADER_BYTES, Header, Level, Opcode,
};

const OPCODES: [Opcode; 20] = Opcode::ALL;

/// One vector: its file's name without `rdpa-` and `.hex`, its text, and the frame it stands for.
fn vectors() -> Vec<(&'static str, &'static str, Frame)> {
    let base = |opcode, direction| Header {
        handle: 0x0102_0304_0506_0708,
        version: 7,
        offset: 3,
        ..Header::new(opcode, direction, 0x1122_3344_5566_7788)
    };
    let plain = |opcode, direction, request| Header::new(opcode, direction, request);
    let refused = Header {
        status: Some(Code::VersionGone),
        offset: 3,
        ..plain(Opcode::Read, Direction::Reply, 9)
    };
    vec![
        (
            "accumulate",
            include_str!("../../../docs/spec/vectors/rdpa-accumulate.hex"),
            Frame::new(base(Opcode::Accumulate, Direction::Request), Bytes::from_static(b"int4")),
        ),
        (
            "data",
            include_str!("../../../docs/spec/vectors/rdpa-data.hex"),
            Frame::new(base(Opcode::Read, Direction::Reply), Bytes::from_static(b"theta")),
        ),
        (
            "send",
            include_str!("../../../docs/spec/vectors/rdpa-send.hex"),
            Frame::new(plain(Opcode::Send, Direction::Request, 5), Bytes::from_static(b"hello")),
        ),
        (
            "error",
            include_str!("../../../docs/spec/vectors/rdpa-error.hex"),
            Frame::new(refused, Bytes::from_static(b"gone")),
        ),
        (
            "ping",
            include_str!("../../../docs/spec/vectors/rdpa-ping.hex"),
            Frame::new(
                Header { offset: 1_700_000_000_000, ..plain(Opcode::Ping, Direction::Request, 0) },
                Bytes::new(),
            ),
        ),
    ]
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::bytes)
        .filter(u8::is_ascii_hexdigit)
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn frames_are_the_bytes_of_the_vectors_and_read_back() {
    for (name, text, frame) in vectors() {
        let bytes = from_hex(text);
        assert_eq!(frame.to_bytes(), bytes, "{name}");
        assert_eq!(Frame::from_bytes(bytes.into()), Ok(frame), "{name}");
    }
}

fn decode_all(decoder: &mut Decoder) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn each_wrong_field_has_its_own_error() {
    let frame = vectors().remove(3).2;
    let good = frame.to_bytes();
    let broken = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        Frame::from_bytes(bytes.into()).unwrap_err()
    };
    assert!(matches!(broken(0, b'H'), FrameError::Magic { .. }));
    assert!(matches!(broken(4, 2), FrameError::Version { found: 2 }));
    assert!(matches!(broken(5, 0), FrameError::Opcode { found: 0 }));
    assert!(matches!(broken(5, 21), FrameError::Opcode { found: 21 }));
    assert!(matches!(broken(6, 17), FrameError::Field { field: "flags", .. }));
    // Marked as without a hash, yet with one.
    assert!(matches!(broken(6, 3), FrameError::Field { field: "hash", .. }));
    assert!(matches!(broken(6, 0), FrameError::Field { field: "status", .. }));
    assert!(matches!(broken(8, 99), FrameError::Field { field: "status", .. }));
    assert!(matches!(broken(10, 1), FrameError::Field { field: "reserved", .. }));
    assert!(matches!(broken(12, 5), FrameError::Length { .. }));
    assert!(matches!(broken(15, 1), FrameError::TooLarge { .. }));
    assert!(matches!(broken(48, 0), FrameError::Hash { .. }));
    assert!(matches!(broken(64, 0), FrameError::Hash { .. }));
    let short = Frame::from_bytes(good.slice(..HEADER_BYTES - 1)).unwrap_err();
    assert_eq!(short, FrameError::Length { expected: HEADER_BYTES, found: HEADER_BYTES - 1 });
}

#[test]
fn a_claimed_length_is_refused_before_anything_is_allocated() {
    for opcode in OPCODES {
        for direction in [Direction::Request, Direction::Reply] {
            let max = opcode.payload_bytes_max(direction);
            assert!(max <= PAYLOAD_BYTES_MAX);
            let header = Frame::new(Header::new(opcode, direction, 1), Bytes::new()).header_bytes();
            let mut header = header.to_vec();
            header[12..16].copy_from_slice(&(max + 1).to_le_bytes());
            let mut decoder = Decoder::new();
            decoder.push(&header);
            let error = decoder.next_frame().unwrap_err();
            assert_eq!(error, FrameError::TooLarge { opcode, found: max + 1, max });
            assert!(decoder.buffer().capacity() < 4096);
        }
    }
}

#[test]
fn a_frame_that_is_only_claimed_costs_no_memory() {
    let frame = Frame::new(
        Header::new(Opcode::Write, Direction::Request, 1),
        vec![0; PAYLOAD_BYTES_MAX as usize].into(),
    );
    let mut decoder = Decoder::new();
    decoder.push(&frame.header_bytes());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer().capacity() < 200_000);
    for piece in frame.payload().chunks(100_000) {
        decoder.push(piece);
        if let Some(whole) = decoder.next_frame().unwrap() {
            assert_eq!(whole, frame);
            return;
        }
    }
    panic!("the frame did not come out");
}

#[test]
fn a_stream_that_failed_stays_failed() {
    let mut decoder = Decoder::new();
    decoder.push(&[b'G'; HEADER_BYTES]);
    let error = decoder.next_frame().unwrap_err();
    decoder.push(&vectors()[0].2.to_bytes());
    assert_eq!(decoder.next_frame(), Err(error));
    assert!(!decoder.is_between_frames());
}

prop_compose! {
    fn any_frame()(
        opcode in prop::sample::select(OPCODES.as_slice()),
        reply in any::<bool>(),
        code in prop::option::of(1_u16..=16),
        level in prop::sample::select(&[None, Some(Level::Accepted), Some(Level::Durable)][..]),
        hashed in any::<bool>(),
        numbers in any::<[u64; 4]>(),
        mut payload in prop::collection::vec(any::<u8>(), 0..300),
    ) -> Frame {
        let direction = if reply { Direction::Reply } else { Direction::Request };
        payload.truncate(opcode.payload_bytes_max(direction) as usize);
        let [request, handle, version, offset] = numbers;
        let status = code.filter(|_| reply).and_then(Code::from_wire);
        let header = Header { opcode, direction, status, level, request, handle, version, offset };
        if hashed {
            Frame::new(header, payload.into())
        } else {
            Frame::unhashed(header, payload.into())
        }
    }
}

proptest! {
    #[test]
    fn frames_cut_anywhere_come_out_as_they_went_in(
        frames in prop::collection::vec(any_frame(), 0..8),
        cuts in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.to_bytes()).collect();
        let mut decoder = Decoder::new();
        let (mut out, mut rest, mut turn) = (Vec::new(), &stream[..], 0);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(cuts[turn % cuts.len()].min(rest.len()));
            decoder.push(piece);
            out.extend(decode_all(&mut decoder).unwrap());
            (rest, turn) = (later, turn + 1);
        }
        prop_assert_eq!(out, frames);
        prop_assert!(decoder.is_between_frames());
    }

    #[test]
    fn any_bytes_give_frames_or_an_error_and_never_a_panic(
        start in any_frame(),
        noise in prop::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut decoder = Decoder::new();
        decoder.push(&noise);
        let _ = decode_all(&mut decoder);
        // A changed byte in a good frame: an error, or another frame of the same length, or one
        // that waits for more; a payload whose hash travels cannot change unseen.
        let hashed = start.header_bytes()[6] & 2 == 0;
        let mut bytes = start.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        if let Ok(frames) = decode_all(&mut decoder) {
            for frame in frames {
                prop_assert!(!hashed || at < HEADER_BYTES);
                prop_assert!(!hashed || frame.payload() == start.payload());
            }
        }
    }
}
