//! Single facts about sessions, without a network in between. The network is in `tests/pair.rs`.

mod bounds;
mod liars;

use super::*;
use crate::limits::{REQUEST_SPAN, SEND_BYTES_MAX};
use crate::{
    Hello, Level, Op, PeerLimits, RegionInfo, Reply, Shape, StageInfo, StageKind, Welcome, body,
};
use std::sync::Arc;
use suanli_identity::Role;

const START: Time = Time(1_000);

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn hello() -> Op {
    Op::Hello(Hello::new(Role::Join, vec![1, 2, 3]))
}

fn send(text: &'static str) -> Op {
    Op::Send { bytes: Bytes::from(text) }
}

/// Everything `from` has to send goes to `to`; returns how many frames.
fn carry(now: Time, from: &mut Session, to: &mut Session) -> usize {
    let mut count = 0;
    while let Some(frame) = from.poll_transmit(now) {
        to.handle_frame(now, frame).unwrap();
        count += 1;
    }
    count
}

fn next_request(session: &mut Session) -> (ResponderToken, Request) {
    match session.poll_event() {
        Some(Event::Request { token, request }) => (token, request),
        other => panic!("expected a request, found {other:?}"),
    }
}

fn next_answer(session: &mut Session) -> Answer {
    match session.poll_event() {
        Some(Event::Answered { answer, .. }) => answer,
        other => panic!("expected an answer, found {other:?}"),
    }
}

/// One operation, its one request, the reply, its answer.
fn exchange(client: &mut Session, server: &mut Session, op: Op, reply: Reply) -> Answer {
    client.request(START, op).unwrap();
    carry(START, client, server);
    let (token, _) = next_request(server);
    server.respond(START, token, reply);
    carry(START, server, client);
    next_answer(client)
}

/// A client and a server after HELLO and WELCOME.
fn pair_with(limits: Limits) -> (Session, Session) {
    let mut client = Session::new(Side::Connecting, START, limits, 1);
    let mut server = Session::new(Side::Accepting, START, limits, 2);
    let limits = PeerLimits { requests_max: 64, bulk_window_bytes: 1 << 20 };
    let reply = Reply::Welcome(Welcome { version: 2, limits, time: Time(5) });
    let answer = exchange(&mut client, &mut server, hello(), reply);
    assert!(matches!(answer, Answer::Welcome(_)));
    (client, server)
}

fn pair() -> (Session, Session) {
    pair_with(Limits::lossy())
}

fn region(chunks: usize) -> (Vec<Bytes>, Arc<RegionInfo>) {
    let bytes: Vec<u8> = (0..chunks * 10).map(|i| (i * 7 + i / 25) as u8).collect();
    let info = RegionInfo::of(4, &bytes, 10).unwrap();
    (bytes.chunks(10).map(Bytes::copy_from_slice).collect(), Arc::new(info))
}

fn open(client: &mut Session, server: &mut Session, info: &Arc<RegionInfo>) -> Handle {
    let op = Op::Open { region: name("r") };
    match exchange(client, server, op, Reply::Opened(Arc::clone(info))) {
        Answer::Opened { handle, .. } => handle,
        other => panic!("{other:?}"),
    }
}

/// Opens a staging area of `count` chunks of 1000 bytes.
fn open_stage(client: &mut Session, server: &mut Session, count: u32) -> Handle {
    let shape = Shape { bytes: u64::from(count) * 1000, chunk_bytes: 1000 };
    let stage = StageInfo { kind: StageKind::Accumulate, shape, root: Hash::of(b"r") };
    let op = Op::OpenStage { region: name("s"), stage };
    let reply = Reply::StageOpened(crate::ChunkSet::empty(count));
    match exchange(client, server, op, reply) {
        Answer::StageOpened { handle, .. } => handle,
        other => panic!("{other:?}"),
    }
}

fn accumulate(client: &mut Session, handle: Handle, chunk: u32) {
    let bytes = Bytes::from(vec![u8::try_from(chunk).unwrap(); 1000]);
    client.request(START, Op::Accumulate { handle, chunk, bytes, level: Level::Placed }).unwrap();
}

fn raw(opcode: Opcode, request: u64, payload: Bytes) -> Frame {
    Frame::new(Header::new(opcode, Direction::Request, request), payload)
}

fn raw_read(request: u64, handle: u64, chunk: u32) -> Frame {
    let header = Header::new(Opcode::Read, Direction::Request, request);
    Frame::new(Header { handle, ..header }, body::encode(&[chunk].as_slice()))
}

/// What the peer calls what this handle stands for.
fn theirs(session: &Session, handle: Handle) -> u64 {
    session.asking.opened.find(handle).unwrap().0
}

/// What the session replies at once to this frame.
fn status(session: &mut Session, frame: Frame) -> Option<Option<Code>> {
    session.handle_frame(START, frame).unwrap();
    session.poll_transmit(START).map(|reply| reply.header().status)
}

#[test]
fn nothing_but_hello_is_served_before_it_is_accepted() {
    let mut server = Session::new(Side::Accepting, START, Limits::lossy(), 2);
    let frames = [
        raw(Opcode::Send, 1, Bytes::from_static(b"x")),
        raw(Opcode::Open, 2, body::encode(&name("r"))),
        raw_read(3, 1, 0),
    ];
    for frame in frames {
        assert_eq!(status(&mut server, frame), Some(Some(Code::Unauthorised)));
    }
    assert_eq!(server.poll_event(), None);
    let mut client = Session::new(Side::Connecting, START, Limits::lossy(), 1);
    assert_eq!(client.request(START, send("x")), Err(Refused::NotWelcome));
}

#[test]
fn a_refused_hello_leaves_the_door_shut() {
    let mut client = Session::new(Side::Connecting, START, Limits::lossy(), 1);
    let mut server = Session::new(Side::Accepting, START, Limits::lossy(), 2);
    client.request(START, hello()).unwrap();
    carry(START, &mut client, &mut server);
    let (token, _) = next_request(&mut server);
    let (code, text) = (Code::Unauthorised, "the ticket expired".to_owned());
    server.respond(START, token, Reply::Error { code, text: text.clone() });
    carry(START, &mut server, &mut client);
    let failure = Failure::Refused { code, text };
    assert_eq!(client.poll_event(), Some(Event::Failed { id: RequestId(1), failure }));
    assert!(!client.is_welcome() && !server.is_welcome());
}

#[test]
fn a_hello_of_another_protocol_version_is_refused_without_asking() {
    let mut server = Session::new(Side::Accepting, START, Limits::lossy(), 2);
    let other = Hello { version_min: 7, version_max: 9, ..Hello::new(Role::Join, vec![]) };
    let frame = raw(Opcode::Hello, 1, body::encode(&other));
    assert_eq!(status(&mut server, frame), Some(Some(Code::Version)));
    assert_eq!(server.poll_event(), None);
}

#[test]
fn a_duplicate_send_is_acknowledged_again_and_not_handed_over_twice() {
    let (mut client, mut server) = pair();
    let id = client.request(START, send("once")).unwrap();
    let frame = client.poll_transmit(START).unwrap();
    server.handle_frame(START, frame.clone()).unwrap();
    server.handle_frame(START, frame.clone()).unwrap();
    let (token, _) = next_request(&mut server);
    assert_eq!(server.poll_event(), None);
    server.respond(START, token, Reply::Delivered);
    server.respond(START, token, Reply::Delivered);
    server.handle_frame(START, frame).unwrap();
    assert_eq!(server.poll_event(), None);
    assert_eq!(carry(START, &mut server, &mut client), 2);
    assert_eq!(client.poll_event(), Some(Event::Answered { id, answer: Answer::Delivered }));
    assert_eq!(client.poll_event(), None);
}

#[test]
fn a_very_late_duplicate_of_a_settled_request_is_ignored() {
    let (mut client, mut server) = pair();
    client.request(START, send("old")).unwrap();
    let late = client.poll_transmit(START).unwrap();
    server.handle_frame(START, late.clone()).unwrap();
    let (token, _) = next_request(&mut server);
    server.respond(START, token, Reply::Delivered);
    carry(START, &mut server, &mut client);
    let far = late.header().request + REQUEST_SPAN;
    server.handle_frame(START, raw(Opcode::Send, far, Bytes::new())).unwrap();
    let _ = next_request(&mut server);
    server.handle_frame(START, late).unwrap();
    assert_eq!(server.poll_event(), None);
}

#[test]
fn new_requests_wait_while_the_oldest_unanswered_is_a_span_behind() {
    let (mut client, mut server) = pair();
    client.request(START, send("stuck")).unwrap();
    client.poll_transmit(START).unwrap();
    let mut sent = 0;
    loop {
        client.request(START, send("")).unwrap();
        if carry(START, &mut client, &mut server) == 0 {
            break;
        }
        sent += 1;
        let (token, _) = next_request(&mut server);
        server.respond(START, token, Reply::Delivered);
        carry(START, &mut server, &mut client);
        next_answer(&mut client);
    }
    assert_eq!(sent, REQUEST_SPAN - 1);
}

#[test]
fn an_unanswered_request_is_sent_again_and_then_given_up() {
    let limits = Limits::lossy();
    let (mut client, _) = pair_with(limits);
    let id = client.request(START, send("hi")).unwrap();
    let (mut now, mut copies) = (START, 0);
    let failure = loop {
        while let Some(frame) = client.poll_transmit(now) {
            copies += u32::from(frame.header().opcode == Opcode::Send);
        }
        match client.poll_event() {
            Some(Event::Failed { id: failed, failure }) => {
                assert_eq!(failed, id);
                break failure;
            }
            Some(Event::Silent { .. }) | None => {}
            other => panic!("{other:?}"),
        }
        now = client.poll_timeout().unwrap().max(now);
        client.handle_timeout(now);
    };
    let Failure::GaveUp { attempts, span } = failure else { panic!("{failure:?}") };
    assert_eq!((attempts, failure.fault()), (copies, Fault::Weather));
    assert!(copies > 5 && span >= limits.give_up_after, "{copies} copies in {span:?}");
}

#[test]
fn silence_is_told_once_until_something_is_heard() {
    let limits = Limits::lossy();
    let (mut client, mut server) = pair_with(limits);
    let span = limits.silent_after;
    let later = START.after(span);
    client.handle_timeout(later);
    assert_eq!(client.poll_event(), Some(Event::Silent { span }));
    let later = later.after(span);
    client.handle_timeout(later);
    assert_eq!(client.poll_event(), None);
    // The PING reaches the server, its PONG ends the silence.
    carry(later, &mut client, &mut server);
    carry(later, &mut server, &mut client);
    assert!(client.rtt().is_some());
    client.handle_timeout(later.after(span));
    assert!(matches!(client.poll_event(), Some(Event::Silent { .. })));
}

#[test]
fn a_peer_that_pings_and_never_says_hello_counts_as_silent() {
    let limits = Limits::lossy();
    let mut server = Session::new(Side::Accepting, START, limits, 2);
    let end = START.after(limits.hello_within);
    let mut now = START;
    while now < end {
        now = now.after(Duration(500));
        server.handle_frame(now, raw(Opcode::Ping, 0, Bytes::new())).unwrap();
        server.handle_timeout(now);
        assert_eq!(server.poll_event().is_some(), now >= end, "at {} ms", now.0);
    }
    // Who was welcomed stays as long as it is heard.
    let (_, mut server) = pair_with(limits);
    server.handle_frame(now, raw(Opcode::Ping, 0, Bytes::new())).unwrap();
    server.handle_timeout(now);
    assert_eq!(server.poll_event(), None);
}

#[test]
fn a_peer_that_is_heard_is_not_pinged() {
    let limits = Limits::lossy();
    let (mut client, _) = pair_with(limits);
    let now = START.after(Duration(limits.ping_every.0 - 1));
    client.handle_timeout(now);
    assert!(client.poll_transmit(now).is_none());
    client.handle_timeout(now.after(Duration(1)));
    assert_eq!(client.poll_transmit(now).unwrap().header().opcode, Opcode::Ping);
}

#[test]
fn a_read_hands_over_each_chunk_once_and_ends() {
    let (mut client, mut server) = pair();
    let (chunks, info) = region(3);
    let handle = open(&mut client, &mut server, &info);
    let id = client.request(START, Op::Read { handle, chunks: vec![2, 0] }).unwrap();
    carry(START, &mut client, &mut server);
    for chunk in [0, 2] {
        let (token, request) = next_request(&mut server);
        assert_eq!(request, Request::Read { region: name("r"), version: 4, chunk });
        let bytes = chunks[chunk as usize].clone();
        server.respond(START, token, Reply::Data(bytes.clone()));
        let data = server.poll_transmit(START).unwrap();
        client.handle_frame(START, data.clone()).unwrap();
        client.handle_frame(START, data).unwrap();
        assert_eq!(client.poll_event(), Some(Event::Chunk { id, handle, chunk, bytes }));
    }
    assert_eq!(client.poll_event(), Some(Event::Answered { id, answer: Answer::ReadDone }));
    assert_eq!(client.poll_event(), None);
}

#[test]
fn a_retried_read_asks_for_what_is_missing_only() {
    let limits = Limits::lossy();
    let (mut client, mut server) = pair_with(limits);
    let (chunks, info) = region(3);
    let handle = open(&mut client, &mut server, &info);
    client.request(START, Op::Read { handle, chunks: vec![0, 1, 2] }).unwrap();
    carry(START, &mut client, &mut server);
    for (index, chunk) in chunks.into_iter().enumerate() {
        let (token, _) = next_request(&mut server);
        server.respond(START, token, Reply::Data(chunk));
        let data = server.poll_transmit(START).unwrap();
        if index == 1 {
            client.handle_frame(START, data).unwrap();
        }
    }
    let later = START.after(limits.retry_bulk_first).after(limits.retry_bulk_first);
    client.handle_timeout(later);
    let again: Vec<u32> = core::iter::from_fn(|| client.poll_transmit(later))
        .filter(|frame| frame.header().opcode == Opcode::Read)
        .flat_map(|frame| body::decode_chunks(frame.payload()).unwrap())
        .collect();
    assert_eq!(again, vec![0, 2]);
}

#[test]
fn a_chunk_with_another_hash_fails_the_read_as_the_peers_fault() {
    let (mut client, mut server) = pair();
    let (chunks, info) = region(2);
    let handle = open(&mut client, &mut server, &info);
    let id = client.request(START, Op::Read { handle, chunks: vec![0] }).unwrap();
    carry(START, &mut client, &mut server);
    let (token, _) = next_request(&mut server);
    server.respond(START, token, Reply::Data(chunks[1].clone()));
    carry(START, &mut server, &mut client);
    match client.poll_event() {
        Some(Event::Failed { id: failed, failure }) => {
            assert_eq!((failed, failure.fault()), (id, Fault::Peer));
            assert!(matches!(failure, Failure::WrongHash { chunk: 0, .. }));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.poll_event(), None);
}

#[test]
fn a_handle_of_another_session_or_one_taken_back_is_a_bad_handle() {
    let (mut client, mut server) = pair();
    let (_, info) = region(2);
    let handle = open(&mut client, &mut server, &info);
    let handle = theirs(&client, handle);
    let (_, mut other) = pair_with(Limits::lossy());
    let bad = Some(Some(Code::BadHandle));
    assert_eq!(status(&mut other, raw_read(9, handle, 0)), bad);
    assert_eq!(status(&mut server, raw_read(9, handle ^ 1, 0)), bad);
    assert_eq!(status(&mut server, raw_read(10, handle, 0)), None);
    server.revoke(|region| *region == name("r"));
    assert_eq!(status(&mut server, raw_read(11, handle, 0)), bad);
}

#[test]
fn a_read_past_the_end_is_out_of_range() {
    let (mut client, mut server) = pair();
    let (_, info) = region(2);
    let handle = open(&mut client, &mut server, &info);
    let refused = client.request(START, Op::Read { handle, chunks: vec![2] });
    assert_eq!(refused, Err(Refused::BadChunk { chunk: 2 }));
    assert_eq!(
        status(&mut server, raw_read(9, theirs(&client, handle), 2)),
        Some(Some(Code::OutOfRange))
    );
}

#[test]
fn reads_beyond_the_bulk_window_wait_until_what_was_read_is_sent() {
    let limits = Limits { bulk_window_bytes: 25, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    let (chunks, info) = region(8);
    let handle = open(&mut client, &mut server, &info);
    client.request(START, Op::Read { handle, chunks: (0..8).collect() }).unwrap();
    carry(START, &mut client, &mut server);
    let mut arrived = 0;
    while arrived < 8 {
        let mut held = Vec::new();
        while let Some(Event::Request { token, request: Request::Read { chunk, .. } }) =
            server.poll_event()
        {
            held.push((token, chunk));
        }
        assert!(!held.is_empty() && held.len() <= 2, "{held:?}");
        for (token, chunk) in held {
            server.respond(START, token, Reply::Data(chunks[chunk as usize].clone()));
        }
        assert_eq!(server.poll_event(), None);
        arrived += carry(START, &mut server, &mut client);
    }
}

#[test]
fn a_chunk_that_waits_to_be_sent_is_not_queued_twice_by_a_retry() {
    let (mut client, mut server) = pair();
    let (chunks, info) = region(3);
    let handle = open(&mut client, &mut server, &info);
    client.request(START, Op::Read { handle, chunks: vec![0, 1, 2] }).unwrap();
    let read = client.poll_transmit(START).unwrap();
    server.handle_frame(START, read.clone()).unwrap();
    let (token, _) = next_request(&mut server);
    server.respond(START, token, Reply::Data(chunks[0].clone()));
    // Chunk 0 waits in the queue, 1 is being fetched, 2 has not been asked for.
    let (_, second) = next_request(&mut server);
    assert!(matches!(second, Request::Read { chunk: 1, .. }));
    server.handle_frame(START, read).unwrap();
    assert!(matches!(next_request(&mut server).1, Request::Read { chunk: 2, .. }));
    assert_eq!(server.poll_event(), None);
    assert_eq!(carry(START, &mut server, &mut client), 1);
}

#[test]
fn a_cancelled_read_gives_its_room_in_the_bulk_window_back() {
    let limits = Limits { bulk_window_bytes: 20, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    let (chunks, info) = region(4);
    let handle = open(&mut client, &mut server, &info);
    let id = client.request(START, Op::Read { handle, chunks: vec![0, 1, 2] }).unwrap();
    carry(START, &mut client, &mut server);
    let (first, _) = next_request(&mut server);
    let (second, _) = next_request(&mut server);
    server.respond(START, first, Reply::Data(chunks[0].clone()));
    assert_eq!(server.poll_event(), None, "one queued and one asked fill the window");
    client.cancel(id);
    client.request(START, Op::Read { handle, chunks: vec![2, 3] }).unwrap();
    carry(START, &mut client, &mut server);
    assert_eq!(server.poll_event(), Some(Event::Cancelled { token: second }));
    server.respond(START, second, Reply::Data(chunks[1].clone()));
    assert!(server.poll_transmit(START).is_none(), "nothing of the cancelled READ is sent");
    assert!(matches!(next_request(&mut server).1, Request::Read { chunk: 2, .. }));
    assert!(matches!(next_request(&mut server).1, Request::Read { chunk: 3, .. }));
}

#[test]
fn busy_bulk_leaves_the_window_until_it_is_tried_again() {
    let limits = Limits { bulk_window_bytes: 1_000, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    let handle = open_stage(&mut client, &mut server, 2);
    (0..2).for_each(|chunk| accumulate(&mut client, handle, chunk));
    let first = client.poll_transmit(START).unwrap();
    assert!(client.poll_transmit(START).is_none(), "the window is full");
    let header = Header { direction: Direction::Reply, ..*first.header() };
    let busy = Frame::new(Header { status: Some(Code::Busy), ..header }, Bytes::new());
    client.handle_frame(START, busy.clone()).unwrap();
    client.handle_frame(START, busy).unwrap();
    assert_eq!(client.poll_transmit(START).unwrap().header().offset, 1);
    assert_eq!(client.poll_event(), None);
}

#[test]
fn what_was_busy_is_asked_again_soon_and_then_less_and_less_often() {
    let limits = Limits::reliable();
    let (mut client, mut server) = pair_with(limits);
    let handle = open_stage(&mut client, &mut server, 1);
    accumulate(&mut client, handle, 0);
    let (mut now, mut rests) = (START, Vec::new());
    let mut sent = client.poll_bulk(now).unwrap();
    for _ in 0..6 {
        let header = Header { direction: Direction::Reply, ..*sent.header() };
        let busy = Frame::new(Header { status: Some(Code::Busy), ..header }, Bytes::new());
        client.handle_frame(now, busy).unwrap();
        let asked = now;
        let mut again = None;
        while again.is_none() {
            now = now.after(Duration(1));
            client.handle_timeout(now);
            again = client.poll_bulk(now);
            assert!(now.since(asked) < limits.retry_bulk_first, "it is asked again");
        }
        rests.push(now.since(asked).0);
        sent = again.unwrap();
    }
    for (times, rest) in rests.iter().enumerate() {
        let least = 200 << times;
        assert!((least..=least + least / 4 + 1).contains(rest), "{rests:?}");
    }
}

#[test]
fn a_small_message_overtakes_bulk_that_waits() {
    let (mut client, mut server) = pair();
    let handle = open_stage(&mut client, &mut server, 4);
    (0..4).for_each(|chunk| accumulate(&mut client, handle, chunk));
    client.request(START, send("beat")).unwrap();
    assert_eq!(client.poll_transmit(START).unwrap().header().opcode, Opcode::Send);
    assert_eq!(client.poll_transmit(START).unwrap().header().opcode, Opcode::Accumulate);
}

#[test]
fn bulk_that_the_caller_holds_back_is_measured_and_not_given_up() {
    let (mut client, mut server) = pair();
    let handle = open_stage(&mut client, &mut server, 2);
    let give_up = client.limits.give_up_after;
    for chunk in 0..2 {
        accumulate(&mut client, handle, chunk);
    }
    let mut now = START;
    for _ in 0..10 {
        now = now.after(give_up).after(Duration(1));
        client.bulk_held(now);
        client.handle_timeout(now);
    }
    assert!(!matches!(client.poll_event(), Some(Event::Failed { .. })));
    for _ in 0..2 {
        let waiting = client.bulk_waiting().unwrap();
        assert_eq!(client.poll_bulk(now).unwrap().wire_len(), waiting);
    }
    assert_eq!((client.bulk_waiting(), client.poll_bulk(now)), (None, None));
    // What went and is not answered is given up as ever.
    client.bulk_held(now);
    client.handle_timeout(now.after(give_up).after(Duration(1)));
    let failed = core::iter::from_fn(|| client.poll_event())
        .filter(|event| matches!(event, Event::Failed { .. }));
    assert_eq!(failed.count(), 2);
}

#[test]
fn unanswered_bulk_never_exceeds_the_window() {
    let limits = Limits { bulk_window_bytes: 2_500, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    let handle = open_stage(&mut client, &mut server, 5);
    (0..5).for_each(|chunk| accumulate(&mut client, handle, chunk));
    assert_eq!(carry(START, &mut client, &mut server), 2);
    let (token, request) = next_request(&mut server);
    let Request::Stage { chunk: 0, hash, bytes, .. } = request else { panic!("{request:?}") };
    assert_eq!(hash, Hash::of(&bytes));
    server.respond(
        START,
        token,
        Reply::Placed { placement: crate::Placement::Placed, level: Level::Placed },
    );
    carry(START, &mut server, &mut client);
    assert_eq!(carry(START, &mut client, &mut server), 1);
}

#[test]
fn a_peer_that_ignores_the_window_is_told_busy() {
    let limits = Limits { bulk_window_bytes: 2_500, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    let handle = open_stage(&mut client, &mut server, 5);
    let handle = theirs(&client, handle);
    let mut stage = |chunk: u64, len: usize| {
        let header = Header::new(Opcode::Accumulate, Direction::Request, 10 + chunk);
        let header = Header { handle, offset: chunk, ..header };
        status(&mut server, Frame::new(header, vec![0; len].into()))
    };
    assert_eq!(stage(0, 999), Some(Some(Code::OutOfRange)));
    assert_eq!(stage(1, 1000), None);
    assert_eq!(stage(2, 1000), None);
    assert_eq!(stage(3, 1000), Some(Some(Code::Busy)));
    assert_eq!(stage(5, 1000), Some(Some(Code::OutOfRange)));
}

#[test]
fn more_requests_than_are_served_at_once_are_told_busy_and_come_again() {
    let limits = Limits { serving_max: 1, ..Limits::lossy() };
    let (mut client, mut server) = pair_with(limits);
    client.request(START, send("a")).unwrap();
    client.request(START, send("b")).unwrap();
    carry(START, &mut client, &mut server);
    let (token, _) = next_request(&mut server);
    assert_eq!(server.poll_event(), None);
    server.respond(START, token, Reply::Delivered);
    carry(START, &mut server, &mut client);
    assert_eq!(next_answer(&mut client), Answer::Delivered);
    assert_eq!(client.poll_event(), None);
    let later = START.after(Duration(1_000));
    client.handle_timeout(later);
    carry(later, &mut client, &mut server);
    assert!(matches!(next_request(&mut server).1, Request::Send { .. }));
}

#[test]
fn a_cancelled_request_ends_on_both_sides_even_when_its_cancel_comes_first() {
    let (mut client, mut server) = pair();
    let first = client.request(START, send("1")).unwrap();
    carry(START, &mut client, &mut server);
    let (token, _) = next_request(&mut server);
    client.cancel(first);
    carry(START, &mut client, &mut server);
    assert_eq!(server.poll_event(), Some(Event::Cancelled { token }));
    server.respond(START, token, Reply::Delivered);
    assert!(server.poll_transmit(START).is_none());
    let second = client.request(START, send("2")).unwrap();
    let overtaken = client.poll_transmit(START).unwrap();
    client.cancel(second);
    carry(START, &mut client, &mut server);
    server.handle_frame(START, overtaken).unwrap();
    assert_eq!((server.poll_event(), client.poll_event()), (None, None));
}

#[test]
fn a_newer_notification_takes_the_place_of_an_unsent_one() {
    let (mut client, mut server) = pair();
    let op = Op::Subscribe { region: name("r") };
    let answer = exchange(&mut client, &mut server, op, Reply::Subscribed { version: 3 });
    assert_eq!(answer, Answer::Subscribed { version: 3 });
    server.notify(START, &name("r"), 4, &Bytes::from_static(b"four"));
    server.notify(START, &name("r"), 5, &Bytes::from_static(b"five"));
    server.notify(START, &name("other"), 9, &Bytes::new());
    assert_eq!(carry(START, &mut server, &mut client), 1);
    let immediate = Bytes::from_static(b"five");
    let event = Event::Notified { region: name("r"), version: 5, immediate };
    assert_eq!((client.poll_event(), client.poll_event()), (Some(event), None));
    client.unsubscribe(&name("r"));
    carry(START, &mut client, &mut server);
    server.notify(START, &name("r"), 6, &Bytes::new());
    carry(START, &mut server, &mut client);
    carry(START, &mut client, &mut server);
    assert_eq!(client.poll_event(), None);
    server.notify(START, &name("r"), 7, &Bytes::new());
    assert_eq!(carry(START, &mut server, &mut client), 0, "the subscription ended");
}

#[test]
fn a_reply_of_another_kind_is_a_violation_and_one_to_nothing_is_ignored() {
    let (mut client, _) = pair();
    let id = client.request(START, send("")).unwrap();
    let reply =
        |request| Frame::new(Header::new(Opcode::Commit, Direction::Reply, request), Bytes::new());
    assert_eq!(client.handle_frame(START, reply(999)), Ok(()));
    assert_eq!(client.handle_frame(START, reply(id.0)).unwrap_err().fault(), Fault::Peer);
}

#[test]
fn a_region_whose_root_does_not_match_its_hashes_is_a_violation() {
    let (mut client, mut server) = pair();
    let mut lie = (*region(2).1).clone();
    lie.root = Hash::of(b"other");
    client.request(START, Op::Open { region: name("r") }).unwrap();
    carry(START, &mut client, &mut server);
    let (token, _) = next_request(&mut server);
    server.respond(START, token, Reply::Opened(Arc::new(lie)));
    let frame = server.poll_transmit(START).unwrap();
    assert!(matches!(client.handle_frame(START, frame), Err(Violation::Region(_))));
}

#[test]
fn our_own_session_refuses_what_the_protocol_does_not_allow() {
    let (mut client, mut server) = pair();
    let bytes = Bytes::from(vec![0; SEND_BYTES_MAX as usize + 1]);
    assert!(matches!(client.request(START, Op::Send { bytes }), Err(Refused::TooLarge { .. })));
    let handle = open_stage(&mut client, &mut server, 2);
    let bytes = Bytes::from_static(b"short");
    let refused =
        client.request(START, Op::Accumulate { handle, chunk: 0, bytes, level: Level::Placed });
    assert_eq!(refused, Err(Refused::BadChunk { chunk: 0 }));
    assert!(client.request(START, Op::Commit { handle: Handle(7), expected: 0 }).is_err());
    while client.room() > 0 {
        client.request(START, send("")).unwrap();
    }
    assert_eq!(client.request(START, send("")), Err(Refused::Full { max: 64 }));
}

#[test]
fn equal_seeds_and_inputs_give_equal_handles() {
    let run = || {
        let (mut client, mut server) = pair();
        let handle = open(&mut client, &mut server, &region(2).1);
        theirs(&client, handle)
    };
    assert_eq!(run(), run());
}
