//! One conversation frame by frame, as `docs/spec/vectors/rdpa.py` wrote it from the specification
//! alone: our asking side says what stands there and understands the answers, our serving side
//! understands the requests and answers what stands there.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use suanli_base::Time;
use suanli_identity::Role;
use suanli_rdpa::{
    Answer, ChunkSet, Code, Event, Failure, Frame, Handle, Header, Hello, Level, Limits, Op,
    Opcode, PeerLimits, Placement, RegionInfo, RegionName, RegionStat, Reply, Request, Session,
    Side, Span, StageInfo, StageKind, Welcome, runs_of,
};

const NOW: Time = Time(1_000);
const VECTORS: &str = include_str!("../../../docs/spec/vectors/rdpa-2.txt");

type Vectors = BTreeMap<&'static str, Frame>;

fn vectors() -> Vectors {
    let frame = |line: &'static str| {
        let (name, hex) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        (name, Frame::from_bytes(bytes.into()).unwrap())
    };
    VECTORS.lines().filter(|line| !line.starts_with('#')).map(frame).collect()
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn content() -> Vec<u8> {
    (0..1000_u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn info() -> RegionInfo {
    RegionInfo::of(9, &content(), 300).unwrap()
}

fn chunk(index: usize) -> Bytes {
    content().chunks(300).nth(index).unwrap().to_vec().into()
}

fn stage() -> StageInfo {
    StageInfo { kind: StageKind::Write, shape: info().shape, root: info().root }
}

/// What is asked, in the order of ids, with the names of request and answers.
fn asked(handles: [Handle; 3]) -> Vec<(Op, &'static str, &'static [&'static str])> {
    let [region, staged, cells] = handles;
    let theta = || name("job/ab/theta");
    let spans = vec![Span { offset: 10, len: 3, stride: 100, count: 4 }, Span::run(999, 1)];
    let write = Op::Write { handle: staged, chunk: 3, bytes: chunk(3), level: Level::Placed };
    vec![
        (Op::Hello(Hello::new(Role::Train, b"ticket".to_vec())), "hello", &["welcome"]),
        (Op::Open { region: theta() }, "open", &["opened"]),
        (Op::Read { handle: region, chunks: vec![3, 1] }, "read", &["chunk-1", "chunk-3"]),
        (Op::ReadRanges { handle: region, spans }, "ranges", &["piece"]),
        (Op::ReadIfChanged { region: theta(), since: 9 }, "if-changed", &["not-changed"]),
        (Op::OpenStage { region: name("up/1"), stage: stage() }, "open-stage", &["stage-opened"]),
        (write, "write", &["placed"]),
        (Op::Fence { level: Level::Placed }, "fence", &["fenced"]),
        (Op::Commit { handle: staged, expected: 9 }, "commit", &["not-complete"]),
        (Op::OpenCells { region: name("counters") }, "open-cells", &["cells-opened"]),
        (Op::Cas { handle: cells, cell: 7, expected: 5, new: 1 << 63 }, "cas", &["cas-held"]),
        (Op::FetchAdd { handle: cells, cell: 7, add: 300 }, "fetch-add", &["add-held"]),
        (Op::Subscribe { region: theta() }, "subscribe", &["subscribed"]),
        (Op::Stat { region: Some(theta()) }, "stat", &["stat-told"]),
        (Op::Revoke { prefix: "job/".into(), epoch: 4 }, "revoke", &["revoked"]),
    ]
}

/// An asking side that has had these answers, and all it was told.
fn asking(vectors: &Vectors, turns: usize) -> (Session, Vec<Event>) {
    let mut session = Session::new(Side::Connecting, NOW, Limits::reliable(), 1);
    let (mut handles, mut events) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        // Those not known yet are not used yet.
        let known = |at: usize| {
            let known: Option<&Handle> = handles.get(at).or(handles.last());
            known.copied().unwrap_or_else(|| some_handle(vectors))
        };
        let (op, request, replies) = asked([known(0), known(1), known(2)]).remove(turn);
        session.request(NOW, op).unwrap();
        let frame = session.poll_transmit(NOW).unwrap();
        assert_eq!(frame.to_bytes(), vectors[request].to_bytes(), "{request}");
        for reply in replies {
            session.handle_frame(NOW, vectors[reply].clone()).unwrap();
        }
        while let Some(event) = session.poll_event() {
            if let Event::Answered {
                answer:
                    Answer::Opened { handle, .. }
                    | Answer::StageOpened { handle, .. }
                    | Answer::CellsOpened { handle, .. },
                ..
            } = &event
            {
                handles.push(*handle);
            }
            events.push(event);
        }
    }
    (session, events)
}

/// Some handle, to stand for one that is not known yet.
fn some_handle(vectors: &Vectors) -> Handle {
    let mut session = Session::new(Side::Connecting, NOW, Limits::reliable(), 1);
    session.request(NOW, Op::Hello(Hello::new(Role::Train, Vec::new()))).unwrap();
    session.handle_frame(NOW, vectors["welcome"].clone()).unwrap();
    session.request(NOW, Op::Open { region: name("r") }).unwrap();
    session.handle_frame(NOW, vectors["opened"].clone()).unwrap();
    loop {
        if let Some(Event::Answered { answer: Answer::Opened { handle, .. }, .. }) =
            session.poll_event()
        {
            return handle;
        }
    }
}

#[test]
fn our_asking_side_says_and_understands_the_vectors() {
    let vectors = vectors();
    let (mut session, events) = asking(&vectors, 15);
    let pieces = events.iter().filter_map(|event| match event {
        Event::Chunk { bytes, .. } | Event::Piece { bytes, .. } => Some(bytes.len()),
        _ => None,
    });
    assert_eq!(pieces.collect::<Vec<_>>(), [300, 100, 13]);
    let held = events.iter().filter_map(|event| match event {
        Event::Answered { answer: Answer::Cell { held }, .. } => Some(*held),
        _ => None,
    });
    assert_eq!(held.collect::<Vec<_>>(), [5, 1 << 63]);
    let refused = events.iter().find_map(|event| match event {
        Event::Failed { failure: Failure::Refused { code, text }, .. } => Some((*code, &text[..])),
        _ => None,
    });
    assert_eq!(refused, Some((Code::NotComplete, "3 missing")));
    let told = events.iter().find_map(|event| match event {
        Event::Answered { answer: Answer::Stat(stat), .. } => Some(stat.clone()),
        _ => None,
    });
    let told = told.unwrap();
    assert_eq!((told.session.rtt_ms, told.region.unwrap().root), (Some(31), info().root));
    session.handle_frame(NOW, vectors["notify"].clone()).unwrap();
    let answer = session.poll_transmit(NOW).unwrap();
    assert_eq!(answer.to_bytes(), vectors["notified"].to_bytes());
    match session.poll_event() {
        Some(Event::Notified { version: 10, immediate, .. }) => assert_eq!(immediate, "now"),
        other => panic!("{other:?}"),
    }
}

/// A frame with another handle in its header.
fn with_handle(frame: &Frame, handle: u64) -> Frame {
    Frame::unhashed(Header { handle, ..*frame.header() }, frame.payload().clone())
}

fn reply_to(request: &Request) -> Reply {
    match request {
        Request::Hello(hello) => {
            assert_eq!((hello.role, &hello.ticket[..]), (Role::Train, &b"ticket"[..]));
            let limits = PeerLimits { requests_max: 64, bulk_window_bytes: 4 << 20 };
            Reply::Welcome(Welcome { version: 2, limits, time: Time(1_800_000_000_000) })
        }
        Request::Open { .. } => Reply::Opened(Arc::new(info())),
        Request::Read { chunk: index, version: 9, .. } => Reply::Data(chunk(*index as usize)),
        Request::ReadRanges { spans, start, len, .. } => {
            let content = content();
            let run = |(at, len): (u64, u64)| content[at as usize..(at + len) as usize].to_vec();
            Reply::Data(runs_of(spans, *start, u64::from(*len)).flat_map(run).collect())
        }
        Request::ReadIfChanged { since: 9, .. } => Reply::NotChanged,
        Request::OpenStage { stage: announced, .. } => {
            assert_eq!(*announced, stage());
            let mut placed = ChunkSet::empty(4);
            assert!(placed.insert(0) && placed.insert(2));
            Reply::StageOpened(placed)
        }
        Request::Stage { chunk: 3, level: Some(level), .. } => {
            Reply::Placed { placement: Placement::Placed, level: *level }
        }
        Request::Fence { level: Some(Level::Placed) } => Reply::Fenced { level: Level::Durable },
        Request::Commit { expected: 9, .. } => {
            Reply::Error { code: Code::NotComplete, text: "3 missing".into() }
        }
        Request::OpenCells { .. } => Reply::CellsOpened { count: 8 },
        Request::Cas { cell: 7, expected: 5, new, .. } if *new == 1 << 63 => {
            Reply::Cell { held: 5 }
        }
        Request::FetchAdd { cell: 7, add: 300, .. } => Reply::Cell { held: 1 << 63 },
        Request::Subscribe { .. } => Reply::Subscribed { version: 9 },
        Request::Stat { region: Some(_) } => {
            let (shape, root) = (info().shape, info().root);
            let stat = RegionStat { version: 10, oldest: 9, shape, root, pinned_bytes: 300 };
            Reply::Stat { region: Some(stat) }
        }
        Request::Revoke { prefix, epoch: 4 } if prefix == "job/" => Reply::Revoked { epoch: 4 },
        other => panic!("{other:?}"),
    }
}

/// All that a serving side has to say, its requests answered.
fn served(session: &mut Session) -> Vec<Frame> {
    let mut out = Vec::new();
    loop {
        if let Some(event) = session.poll_event() {
            let Event::Request { token, request } = event else { panic!("{event:?}") };
            session.respond(NOW, token, reply_to(&request));
        } else if let Some(frame) = session.poll_transmit(NOW) {
            out.push(frame);
        } else {
            return out;
        }
    }
}

#[test]
fn our_serving_side_understands_and_answers_the_vectors() {
    let vectors = vectors();
    let mut session = Session::new(Side::Accepting, NOW, Limits::reliable(), 1);
    let mut handles: Vec<u64> = Vec::new();
    let some = some_handle(&vectors);
    for (_, request, replies) in asked([some, some, some]) {
        let handle = match request {
            "read" | "ranges" => handles[0],
            "write" | "commit" => handles[1],
            "cas" | "fetch-add" => handles[2],
            _ => 0,
        };
        session.handle_frame(NOW, with_handle(&vectors[request], handle)).unwrap();
        let out = served(&mut session);
        assert_eq!(out.len(), replies.len(), "{request}");
        for (ours, reply) in out.iter().zip(replies) {
            let expected = &vectors[reply];
            if expected.header().handle != 0 {
                assert_ne!(ours.header().handle, 0);
                handles.push(ours.header().handle);
            }
            if expected.header().opcode == Opcode::Stat {
                // The counts are of this very session; what is said of the region is the same.
                let tail = |frame: &Frame| frame.payload()[frame.payload().len() - 40..].to_vec();
                assert_eq!(tail(ours), tail(expected));
                continue;
            }
            let ours = with_handle(ours, expected.header().handle);
            assert_eq!(ours.to_bytes(), expected.to_bytes(), "{reply}");
        }
    }
    session.notify(NOW, &name("job/ab/theta"), 10, &Bytes::from_static(b"now"));
    let notify = session.poll_transmit(NOW).unwrap();
    assert_eq!(notify.to_bytes(), vectors["notify"].to_bytes());
    session.handle_frame(NOW, vectors["notified"].clone()).unwrap();
    session.handle_frame(NOW, vectors["cancel"].clone()).unwrap();
    assert_eq!(session.poll_event(), None);
}
