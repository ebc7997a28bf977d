//! What a holder may say to a reader that a good one never says: replies made by hand.

use super::*;

/// The frame of a reply, as any holder could send it.
fn reply(opcode: Opcode, request: u64, handle: u64, offset: u64, payload: Bytes) -> Frame {
    let header = Header::new(opcode, Direction::Reply, request);
    Frame::new(Header { handle, offset, ..header }, payload)
}

/// Asks, and has the session take this as the answer.
fn answered(
    client: &mut Session,
    op: Op,
    opcode: Opcode,
    handle: u64,
    payload: Bytes,
) -> Result<Option<Event>, Violation> {
    let RequestId(id) = client.request(START, op).unwrap();
    while client.poll_transmit(START).is_some() {}
    client.handle_frame(START, reply(opcode, id, handle, 0, payload))?;
    Ok(client.poll_event())
}

fn opened_as(
    client: &mut Session,
    region: &str,
    handle: u64,
    info: &RegionInfo,
) -> Result<Handle, Violation> {
    let op = Op::Open { region: name(region) };
    match answered(client, op, Opcode::Open, handle, body::encode(info))? {
        Some(Event::Answered { answer: Answer::Opened { handle, .. }, .. }) => Ok(handle),
        other => panic!("{other:?}"),
    }
}

fn region_of(version: u64, seed: u8) -> RegionInfo {
    RegionInfo::of(version, &[seed; 30], 10).unwrap()
}

#[test]
fn a_chunk_of_another_length_than_its_shape_gives_it_fails_the_read_whatever_its_hash() {
    // The root does not cover the shape. A holder announced 10 bytes with the hash of a chunk of
    // 4 MiB: the chunk was handed over as verified, and the reader wrote it past the end of 10 bytes;
    // of a chunk that was too short the rest of the memory stayed as it was, and counted as read.
    for len in [0, 3, 9, 11, 1_000] {
        let (mut client, _) = pair();
        let chunk = Bytes::from(vec![7; len]);
        let shape = Shape { bytes: 10, chunk_bytes: 10 };
        let info = RegionInfo::new(1, shape, vec![Hash::of(&chunk)]).unwrap();
        let handle = opened_as(&mut client, "r", 5, &info).unwrap();
        let id = client.request(START, Op::Read { handle, chunks: vec![0] }).unwrap();
        let header = *reply(Opcode::Read, id.0, 0, 0, chunk.clone()).header();
        let announced = Announced { header, payload_bytes: len, hash: None };
        assert_eq!(client.landing(&announced), None, "{len} bytes have no place");
        client.handle_frame(START, reply(Opcode::Read, id.0, 0, 0, chunk)).unwrap();
        let failure = Failure::WrongLength { chunk: 0, expected: 10, found: len };
        assert!(failure.is_lie() && failure.fault() == Fault::Peer);
        assert_eq!(client.poll_event(), Some(Event::Failed { id, failure }));
        assert_eq!(client.poll_event(), None);
    }
}

#[test]
fn a_handle_of_one_region_is_not_taken_for_another() {
    // A holder answered the OPEN of a second region with the handle of the first: READs of the first
    // were held against the hashes of the second, and wrong bytes came as verified.
    let (mut client, _) = pair();
    let first = region_of(4, 1);
    let handle = opened_as(&mut client, "a", 77, &first).unwrap();
    assert_eq!(opened_as(&mut client, "a", 77, &first), Ok(handle), "the same opened again");
    let alias = Violation::Alias { handle: 77 };
    let mut others = vec![region_of(4, 2), region_of(5, 1)];
    others.push(RegionInfo { shape: Shape { bytes: 29, ..first.shape }, ..first.clone() });
    for other in others {
        let (mut client, _) = pair();
        opened_as(&mut client, "a", 77, &first).unwrap();
        assert_eq!(opened_as(&mut client, "b", 77, &other), Err(alias.clone()), "{other:?}");
    }
    let op = Op::OpenCells { region: name("cells") };
    let cells = answered(&mut client, op, Opcode::OpenCells, 77, body::encode(&3_u32));
    assert_eq!(cells, Err(alias));
    let nothing = opened_as(&mut client, "b", 0, &region_of(1, 2));
    assert!(matches!(nothing, Err(Violation::Unexpected { .. })), "{nothing:?}");
}

#[test]
fn a_handle_that_we_forgot_never_stands_for_anything_again() {
    // The holder may give the number of a forgotten handle again, to the same or to another region:
    // whoever still has the old handle must not read the new region by it.
    let (mut client, _) = pair_with(Limits { handles_max: 1, ..Limits::lossy() });
    let first = opened_as(&mut client, "a", 77, &region_of(4, 1)).unwrap();
    opened_as(&mut client, "b", 78, &region_of(4, 2)).unwrap();
    let third = opened_as(&mut client, "c", 77, &region_of(4, 3)).unwrap();
    let mut read = |handle| client.request(START, Op::Read { handle, chunks: vec![0] });
    assert_eq!(read(first), Err(Refused::BadChunk { chunk: 0 }));
    assert!(read(third).is_ok());
}

#[test]
fn a_welcome_outside_of_what_hello_offered_is_a_violation() {
    // Neither was looked at: with version 9 the session went on in a language nobody had offered,
    // and with no request allowed a transfer waited for ever.
    let said = |version, requests_max| {
        let mut client = Session::new(Side::Connecting, START, Limits::lossy(), 1);
        let limits = PeerLimits { requests_max, bulk_window_bytes: 0 };
        let welcome = Welcome { version, limits, time: Time(u64::MAX) };
        let told = answered(&mut client, hello(), Opcode::Hello, 0, body::encode(&welcome));
        (told.map(|event| event.is_some()), client.is_welcome())
    };
    assert_eq!(said(2, 1), (Ok(true), true));
    for found in [0, 1, 3, 9, 255] {
        let violation = Violation::Version { found, min: 2, max: 2 };
        assert_eq!(said(found, 64), (Err(violation), false));
    }
    let nothing = said(2, 0);
    assert!(matches!(nothing, (Err(Violation::Unexpected { .. }), false)), "{nothing:?}");
}
