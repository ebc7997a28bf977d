//! A session of RDPA against a peer that sends whatever it likes.
//!
//! The seeds are what a good peer sends in a whole conversation, recorded from two sessions. A case
//! is such a stream, changed; lengths and payload hashes are put right again, so that what is behind
//! the frame decoder is reached.

use crate::Target;
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{Hash, Time};
use suanli_identity::Role;
use suanli_rdpa::{
    Answer, ChunkSet, Event, Frame, HEADER_BYTES, Handle, Hello, Level, Limits, Op, Opcode,
    PeerLimits, Placement, RegionInfo, RegionName, Reply, Request, Session, Side, Span, StageInfo,
    StageKind, Welcome, runs_of,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("session-accepting", "a city's session bears any member", from_member, accepting),
    Target::new("session-connecting", "a member's session bears any city", from_city, connecting),
];

/// Frames of one case; more are left out.
const FRAMES_MAX: usize = 200;
const CHUNK: u32 = 64;

fn region() -> RegionName {
    RegionName::new("job/theta").expect("a good name")
}

fn content() -> Vec<u8> {
    (0..200_u8).collect()
}

fn info() -> RegionInfo {
    RegionInfo::of(3, &content(), CHUNK).expect("a small region")
}

fn stage() -> StageInfo {
    let info = info();
    StageInfo { kind: StageKind::Accumulate, shape: info.shape, root: info.root }
}

fn session(side: Side) -> Session {
    Session::new(side, Time(0), Limits::lossy(), 7)
}

/// What a careful responder says.
fn reply(request: &Request) -> Reply {
    let limits = PeerLimits { requests_max: 64, bulk_window_bytes: 1 << 20 };
    match request {
        Request::Hello(_) => Reply::Welcome(Welcome { version: 2, limits, time: Time(9) }),
        Request::Open { .. } | Request::ReadIfChanged { .. } => Reply::Opened(Arc::new(info())),
        Request::OpenStage { stage, .. } => {
            let count = u32::try_from(stage.shape.chunk_count()).expect("the session checks it");
            Reply::StageOpened(ChunkSet::empty(count))
        }
        Request::Read { chunk, .. } => {
            let content = content();
            let piece = content.chunks(CHUNK as usize).nth(*chunk as usize);
            Reply::Data(Bytes::copy_from_slice(piece.expect("the session checks the chunk")))
        }
        Request::Stage { hash, bytes, .. } => {
            assert_eq!(*hash, Hash::of(bytes), "a chunk came with another hash");
            Reply::Placed { placement: Placement::Placed, level: Level::Placed }
        }
        Request::Commit { expected, .. } => {
            Reply::Committed { version: expected.saturating_add(1) }
        }
        Request::Subscribe { .. } => Reply::Subscribed { version: 3 },
        Request::ReadRanges { spans, start, len, .. } => {
            let content = content();
            let runs = runs_of(spans, *start, u64::from(*len));
            let run = |(at, len): (u64, u64)| &content[at as usize..(at + len) as usize];
            Reply::Data(runs.map(run).collect::<Vec<_>>().concat().into())
        }
        Request::OpenCells { .. } => Reply::CellsOpened { count: 4 },
        Request::Cas { cell, expected, .. } => {
            assert!(*cell < 4, "the session checks the cell");
            Reply::Cell { held: *expected }
        }
        Request::FetchAdd { add, .. } => Reply::Cell { held: *add },
        Request::Fence { level } => Reply::Fenced { level: level.unwrap_or(Level::Durable) },
        Request::Stat { .. } => Reply::Stat { region: None },
        Request::Revoke { epoch, .. } => Reply::Revoked { epoch: *epoch },
        _ => Reply::Delivered,
    }
}

/// Takes all that a session has to say; returns its frames and the handles it was given.
fn drain(session: &mut Session, now: Time, handles: &mut Vec<Handle>) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let mut idle = true;
        while let Some(event) = session.poll_event() {
            idle = false;
            match event {
                Event::Request { token, request } => session.respond(now, token, reply(&request)),
                Event::Answered {
                    answer:
                        Answer::Opened { handle, .. }
                        | Answer::StageOpened { handle, .. }
                        | Answer::CellsOpened { handle, .. },
                    ..
                } => handles.push(handle),
                _ => {}
            }
        }
        while let Some(frame) = session.poll_transmit(now) {
            idle = false;
            frames.push(frame);
        }
        if idle {
            return frames;
        }
    }
}

/// What the member asks in the conversation, in steps that wait for the answers before.
fn ask(session: &mut Session, step: usize, now: Time, handles: &[Handle]) {
    let chunk = Bytes::from(content()).slice(64..128);
    let ops = match (step, handles) {
        (0, _) => vec![Op::Hello(Hello::new(Role::Join, vec![1, 2, 3]))],
        (1, _) => vec![
            Op::Open { region: region() },
            Op::Subscribe { region: region() },
            Op::Send { bytes: Bytes::from_static(b"a message") },
        ],
        (2, [read, ..]) => vec![
            Op::Read { handle: *read, chunks: vec![0, 2, 3] },
            Op::ReadIfChanged { region: region(), since: 2 },
            Op::OpenStage { region: region(), stage: stage() },
        ],
        // An opened region comes as bulk, behind the staging area that was asked for after it.
        (3, [_, stage, ..]) => vec![
            Op::Accumulate { handle: *stage, chunk: 1, bytes: chunk, level: Level::Placed },
            Op::Commit { handle: *stage, expected: 3 },
            Op::Fence { level: Level::Placed },
            Op::OpenCells { region: region() },
            Op::Stat { region: Some(region()) },
        ],
        (4, [read, .., cells]) => vec![
            Op::ReadRanges { handle: *read, spans: vec![Span::run(3, 9)] },
            Op::Cas { handle: *cells, cell: 3, expected: 1, new: 2 },
            Op::FetchAdd { handle: *cells, cell: 0, add: 5 },
            Op::Revoke { prefix: "a/".into(), epoch: 3 },
        ],
        _ => vec![],
    };
    for op in ops {
        let _ = session.request(now, op);
    }
}

/// Both directions of the conversation, each as one stream, in the order of sending.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let (mut member, mut city) = (session(Side::Connecting), session(Side::Accepting));
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut handles = Vec::new();
    for step in 0..6 {
        let now = Time(10 * step as u64);
        ask(&mut member, step, now, &handles);
        for _ in 0..4 {
            for frame in drain(&mut member, now, &mut handles) {
                up.extend_from_slice(&frame.to_bytes());
                city.handle_frame(now, frame).expect("a good peer");
            }
            for frame in drain(&mut city, now, &mut Vec::new()) {
                down.extend_from_slice(&frame.to_bytes());
                member.handle_frame(now, frame).expect("a good peer");
            }
        }
    }
    assert_eq!(handles.len(), 4, "a region twice, a stage and cells once each are opened");
    (up, down)
}

/// The good conversation, and the frozen corpus of hostile bytes, each behind its HELLO.
fn from_member() -> Vec<Vec<u8>> {
    let good = conversation().0;
    let hello = good[..HEADER_BYTES + usize::from(good[12])].to_vec();
    let corpus = include_str!("../../../docs/spec/vectors/rdpa-hostile.txt");
    let lines = corpus.lines().filter(|line| !line.starts_with('#'));
    let hostile = lines.map(|line| {
        let bytes = hex(line.rsplit(' ').next().expect("a line has a word"));
        [hello.as_slice(), &bytes].concat()
    });
    core::iter::once(good).chain(hostile).collect()
}

/// The good conversation, and each line of the frozen corpus of hostile holders behind its WELCOME.
fn from_city() -> Vec<Vec<u8>> {
    let good = conversation().1;
    let welcome = good[..HEADER_BYTES + usize::from(good[12])].to_vec();
    let corpus = include_str!("../../../docs/spec/vectors/rdpa-hostile-holder.txt");
    let lines = corpus.lines().filter(|line| !line.starts_with('#'));
    let hostile = lines.map(|line| {
        let first = line.split(' ').nth(1) == Some("1");
        let bytes = hex(line.rsplit(' ').next().expect("a line has a word"));
        if first { bytes } else { [welcome.as_slice(), &bytes].concat() }
    });
    core::iter::once(good).chain(hostile).collect()
}

/// Bytes written in hexadecimal, as the frozen files have them.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Cuts bytes into frames, with length and hash put right where the header claims too much.
pub(super) fn frames(input: &[u8]) -> Vec<Frame> {
    let (mut frames, mut rest) = (Vec::new(), input);
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        if frames.len() == FRAMES_MAX {
            break;
        }
        let mut bytes = header.to_vec();
        let claimed = u32::from_le_bytes(header[12..16].try_into().expect("four bytes"));
        let length = after.len().min(claimed as usize);
        let (payload, next) = after.split_at(length);
        bytes[..4].copy_from_slice(b"RDPA");
        bytes[4] = 1;
        bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
        let hashed = bytes[6] & 2 == 0;
        let hash =
            if hashed { *Hash::of(payload).0.first_chunk().expect("32 bytes") } else { [0; 16] };
        bytes[48..64].copy_from_slice(&hash);
        bytes.extend_from_slice(payload);
        frames.extend(Frame::from_bytes(bytes.into()));
        rest = next;
    }
    frames
}

fn accepting(input: &[u8]) {
    let mut city = session(Side::Accepting);
    for (count, frame) in frames(input).into_iter().enumerate() {
        let now = Time(10 * count as u64);
        let hello = city.is_welcome() || frame.header().opcode == Opcode::Hello;
        if city.handle_frame(now, frame).is_err() {
            return;
        }
        let answers = drain(&mut city, now, &mut Vec::new());
        assert!(
            hello || answers.iter().all(|frame| frame.header().status.is_some() || is_ping(frame))
        );
        city.handle_timeout(now);
    }
}

fn is_ping(frame: &Frame) -> bool {
    frame.header().opcode == Opcode::Ping
}

fn connecting(input: &[u8]) {
    let mut member = session(Side::Connecting);
    let mut handles = Vec::new();
    let mut step = 0;
    for (count, frame) in frames(input).into_iter().enumerate() {
        let now = Time(10 * count as u64);
        if count == 0 || member.is_welcome() {
            ask(&mut member, step, now, &handles);
            step += 1;
        }
        let _ = drain(&mut member, now, &mut handles);
        if member.handle_frame(now, frame).is_err() {
            return;
        }
        let _ = drain(&mut member, now, &mut handles);
        member.handle_timeout(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_conversation_reaches_every_verb() {
        let (up, down) = conversation();
        let count = |stream: &[u8], verb| {
            frames(stream).iter().filter(|frame| frame.header().opcode == verb).count()
        };
        for verb in [
            Opcode::Hello,
            Opcode::Open,
            Opcode::OpenStage,
            Opcode::Read,
            Opcode::ReadIfChanged,
            Opcode::Accumulate,
            Opcode::Commit,
            Opcode::Send,
            Opcode::Subscribe,
        ] {
            assert!(count(&up, verb) > 0 && count(&down, verb) > 0, "{verb:?}");
        }
        let mut city = session(Side::Accepting);
        for frame in frames(&up) {
            city.handle_frame(Time(0), frame).expect("replayed as it was");
            drain(&mut city, Time(0), &mut Vec::new());
        }
    }
}
