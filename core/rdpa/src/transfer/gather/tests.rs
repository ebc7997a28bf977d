//! What a well-behaved session on the other side never does. The network is in `tests/pair`.

use super::*;
use crate::{Frame, Hello, Limits, Opcode, PeerLimits, Reply, Request, Shape, Side, Welcome, body};
use suanli_identity::Role;

const NOW: Time = Time(1_000);

fn name() -> RegionName {
    RegionName::new("theta").unwrap()
}

/// Carries what `from` says to `to`; replies to OPEN are altered by `alter`.
fn carry(from: &mut Session, to: &mut Session, alter: impl Fn(RegionInfo) -> RegionInfo) {
    while let Some(frame) = from.poll_transmit(NOW) {
        let header = *frame.header();
        let is_open = header.opcode == Opcode::Open && header.direction == crate::Direction::Reply;
        let frame = if is_open {
            let info: RegionInfo = body::decode("an opened region", frame.payload()).unwrap();
            Frame::new(header, body::encode(&alter(info)))
        } else {
            frame
        };
        to.handle_frame(NOW, frame).unwrap();
    }
}

#[test]
fn a_chunk_of_another_length_than_announced_shows_a_liar_whatever_its_hash() {
    let content = [7; 2_500];
    let info = Arc::new(RegionInfo::of(1, &content, 1_000).unwrap());
    let mut client = Session::new(Side::Connecting, NOW, Limits::lossy(), 1);
    let mut server = Session::new(Side::Accepting, NOW, Limits::lossy(), 2);
    client.request(NOW, Op::Hello(Hello::new(Role::Join, vec![]))).unwrap();
    // The root does not cover the shape, so only a chunk can tell.
    let alter = |info: RegionInfo| {
        let shape = Shape { bytes: 2_400, ..info.shape };
        RegionInfo { shape, ..info }
    };
    let (source, mut gather) = (SourceId(3), Gather::new(name(), Some(info.root)));
    let mut steps = Vec::new();
    for _ in 0..20 {
        carry(&mut client, &mut server, |info| info);
        while let Some(event) = server.poll_event() {
            let Event::Request { token, request } = event else { continue };
            let reply = match request {
                Request::Hello(_) => {
                    let limits = PeerLimits { requests_max: 9, bulk_window_bytes: 9_999 };
                    Reply::Welcome(Welcome { version: 2, limits, time: NOW })
                }
                Request::Open { .. } => Reply::Opened(Arc::clone(&info)),
                Request::Read { chunk, .. } => {
                    let len = info.shape.chunk_len(chunk).unwrap();
                    Reply::Data(Bytes::copy_from_slice(&content[..len as usize]))
                }
                other => panic!("{other:?}"),
            };
            server.respond(NOW, token, reply);
        }
        carry(&mut server, &mut client, alter);
        while let Some(event) = client.poll_event() {
            if matches!(event, Event::Answered { answer: Answer::Welcome(_), .. }) {
                assert!(gather.add(NOW, source, &mut client));
            }
            gather.handle(NOW, source, &mut client, &event);
        }
        steps.extend(core::iter::from_fn(|| gather.poll()));
    }
    let error = Failure::WrongLength { chunk: 2, expected: 400, found: 500 };
    let error = TransferError::from(error);
    assert_eq!(error.fault(), suanli_base::Fault::Peer);
    let end = [GatherStep::SourceFailed(source, error), GatherStep::Stalled];
    assert_eq!(steps[steps.len() - 2..], end);
    assert!(!gather.add(NOW, source, &mut client));
    assert_eq!(gather.have().unwrap().count(), 2, "what fitted is kept");
}
