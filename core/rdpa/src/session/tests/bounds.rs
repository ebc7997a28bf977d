//! What a peer can make a session hold, and for how long.

use super::*;
use crate::ChunkSet;
use crate::limits::{HELLOS_REFUSED_MAX, REPLIES_BYTES_MAX};

fn raw_open(request: u64) -> Frame {
    raw(Opcode::Open, request, body::encode(&name("r")))
}

/// A region of so many chunks.
fn long(chunks: usize) -> Arc<RegionInfo> {
    let shape = Shape { bytes: chunks as u64, chunk_bytes: 1 };
    Arc::new(RegionInfo::new(1, shape, vec![Hash::of(b"x"); chunks]).unwrap())
}

fn serve(server: &mut Session, frame: Frame, reply: Reply) {
    server.handle_frame(START, frame).unwrap();
    let (token, _) = next_request(server);
    server.respond(START, token, reply);
}

#[test]
fn a_peer_that_opens_again_and_again_and_never_reads_is_told_busy() {
    // Only the number of replies was bounded: a thousand OPENs of 40 000 chunks by a peer that reads
    // nothing made 1.6 GB.
    let (_, mut server) = pair();
    let info = long(40_000);
    for request in 2..1_000 {
        serve(&mut server, raw_open(request), Reply::Opened(Arc::clone(&info)));
    }
    let (mut opened, mut busy, mut bytes) = (0, 0, 0);
    while let Some(frame) = server.poll_transmit(START) {
        bytes += frame.wire_len();
        match frame.header().status {
            None => opened += 1,
            Some(code) => busy += u32::from(code == Code::Busy),
        }
    }
    assert_eq!((opened, busy), (3, 995));
    assert!(bytes <= 2 * REPLIES_BYTES_MAX, "{bytes} bytes");
    // What was busy is served when what waited is sent; a single one goes whatever its length.
    serve(&mut server, raw_open(2), Reply::Opened(long(100_000)));
    let frame = server.poll_transmit(START).unwrap();
    assert_eq!((frame.header().request, frame.header().status), (2, None));
}

#[test]
fn control_replies_that_nobody_reads_are_bounded_in_bytes_too() {
    let (_, mut server) = pair();
    let mut placed = ChunkSet::empty(100_000);
    (0..100_000).for_each(|chunk| assert!(placed.insert(chunk)));
    let shape = Shape { bytes: 100_000, chunk_bytes: 1 };
    let stage = StageInfo { kind: StageKind::Write, shape, root: Hash::of(b"r") };
    let payload = body::encode(&(name("s"), stage));
    for request in 2..1_000 {
        let frame = raw(Opcode::OpenStage, request, payload.clone());
        serve(&mut server, frame, Reply::StageOpened(placed.clone()));
    }
    let frames = core::iter::from_fn(|| server.poll_transmit(START));
    let lengths: Vec<usize> = frames.map(|frame| frame.wire_len()).collect();
    let bytes: usize = lengths.iter().sum();
    assert!(bytes <= REPLIES_BYTES_MAX && lengths.len() >= 256, "{bytes} in {}", lengths.len());
    // The room is there again.
    let frame = raw(Opcode::OpenStage, 1_000, payload);
    serve(&mut server, frame, Reply::StageOpened(placed));
    assert_eq!(server.poll_transmit(START).unwrap().header().request, 1_000);
}

#[test]
fn a_heart_beat_is_answered_before_an_opened_region_goes_out() {
    // The hashes of a region may be megabytes, and went with control frames, before heart-beats.
    let (_, mut server) = pair();
    serve(&mut server, raw_open(2), Reply::Opened(long(40_000)));
    let since = Header::new(Opcode::ReadIfChanged, Direction::Request, 3);
    let since = Frame::new(Header { version: 1, ..since }, body::encode(&name("r")));
    serve(&mut server, since, Reply::NotChanged);
    server.handle_frame(START, raw(Opcode::Ping, 0, Bytes::new())).unwrap();
    let order: Vec<Opcode> = core::iter::from_fn(|| server.poll_transmit(START))
        .map(|frame| frame.header().opcode)
        .collect();
    assert_eq!(order, [Opcode::ReadIfChanged, Opcode::Ping, Opcode::Open]);
}

#[test]
fn a_cancelled_read_leaves_an_opened_region_of_the_same_id_in_the_queue() {
    // An answered OPEN is not remembered, so a peer may use its id for a READ while the answer still
    // waits; taking that for a chunk of the READ would give the window back what it never took.
    let (mut client, mut server) = pair();
    let (_, info) = region(2);
    let handle = open(&mut client, &mut server, &info);
    let handle = theirs(&client, handle);
    serve(&mut server, raw_open(9), Reply::Opened(Arc::clone(&info)));
    server.handle_frame(START, raw_read(9, handle, 0)).unwrap();
    server.handle_frame(START, raw(Opcode::Cancel, 9, Bytes::new())).unwrap();
    assert_eq!(server.poll_transmit(START).unwrap().header().opcode, Opcode::Open);
    assert_eq!(server.poll_transmit(START), None);
}

#[test]
fn a_stranger_has_three_hellos_refused_and_no_more() {
    // Each HELLO may cost several checks of signatures; failing ones were taken for 15 s on end.
    let mut server = Session::new(Side::Accepting, START, Limits::reliable(), 2);
    let payload = body::encode(&Hello::new(Role::Join, vec![1]));
    for request in 1..=u64::from(HELLOS_REFUSED_MAX) {
        let (code, text) = (Code::Unauthorised, "no".to_owned());
        let frame = raw(Opcode::Hello, request, payload.clone());
        serve(&mut server, frame.clone(), Reply::Error { code, text });
        assert_eq!(server.poll_transmit(START).unwrap().header().status, Some(code));
        // The same again is answered from memory.
        assert_eq!(status(&mut server, frame), Some(Some(code)));
        assert_eq!(server.poll_event(), None);
    }
    let more = server.handle_frame(START, raw(Opcode::Hello, 9, payload));
    assert!(matches!(more, Err(Violation::Unexpected { .. })), "{more:?}");
}

/// A client whose READ of two chunks was sent, on a link with long waits.
fn reading() -> (Session, Session, Vec<Bytes>, RequestId) {
    let (mut client, mut server) = pair_with(Limits::reliable());
    let (chunks, info) = region(4);
    let handle = open(&mut client, &mut server, &info);
    let id = client.request(START, Op::Read { handle, chunks: vec![0, 1] }).unwrap();
    client.request(START, Op::Read { handle, chunks: vec![2, 3] }).unwrap();
    carry(START, &mut client, &mut server);
    (client, server, chunks, id)
}

/// Lets so many milliseconds pass while bytes of one frame come each second; returns what was sent.
fn trickle(client: &mut Session, now: &mut Time, millis: u64) -> Vec<Opcode> {
    let (end, mut sent) = (now.after(Duration(millis)), Vec::new());
    while *now < end {
        *now = now.after(Duration(1_000));
        client.arriving(*now);
        client.handle_timeout(*now);
        sent.extend(core::iter::from_fn(|| client.poll_transmit(*now)).map(|f| f.header().opcode));
    }
    sent
}

#[test]
fn a_chunk_that_comes_slowly_is_waited_for_and_not_asked_for_twice() {
    // Only whole frames counted as heard: a chunk of 4 MiB below 2.2 Mbit/s was taken for silence
    // after 15 s, and the same chunk ended the next connection too. Below 0.6 Mbit/s its READ was
    // asked again after 60 s, so that everything came twice.
    let (mut client, mut server, chunks, _) = reading();
    let (mut now, mut tokens) = (START, Vec::new());
    while let Some(Event::Request { token, request: Request::Read { chunk, .. } }) =
        server.poll_event()
    {
        tokens.push((token, chunk));
    }
    for (token, chunk) in tokens {
        let sent = trickle(&mut client, &mut now, 200_000);
        let pings = sent.iter().filter(|opcode| **opcode == Opcode::Ping).count();
        assert!(sent.len() == pings && pings >= 60, "the other side hears us: {sent:?}");
        assert_eq!(client.poll_event(), None, "after {} ms", now.0);
        server.respond(now, token, Reply::Data(chunks[chunk as usize].clone()));
        while let Some(frame) = server.poll_transmit(now) {
            client.handle_frame(now, frame).unwrap();
        }
        assert!(matches!(client.poll_event(), Some(Event::Chunk { .. })));
        if let Some(event) = client.poll_event() {
            assert!(matches!(event, Event::Answered { .. }), "{event:?}");
        }
    }
}

#[test]
fn a_peer_that_sends_byte_by_byte_is_left_when_requests_are_given_up() {
    let (mut client, _server, _, first) = reading();
    let limits = Limits::reliable();
    let mut now = START;
    trickle(&mut client, &mut now, limits.give_up_after.0 - 1_000);
    assert_eq!(client.poll_event(), None);
    trickle(&mut client, &mut now, 1_000);
    let failed = client.poll_event();
    let given_up = matches!(&failed, Some(Event::Failed { id, failure: Failure::GaveUp { .. } }) if *id == first);
    assert!(given_up, "{failed:?}");
    let events: Vec<Event> = core::iter::from_fn(|| client.poll_event()).collect();
    let silent = |event: &Event| matches!(event, Event::Silent { .. });
    assert!(events.iter().any(silent), "{events:?}");
}
