//! TCP with TLS on loopback, and sessions over it: real sockets, each test bounded in time. What every kind
//! of link must do stands in `every_kind.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use core::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use suanli_base::{Fault, Time};
use suanli_identity::{Role, SecretKey};
use suanli_link::endpoint::Endpoint;
use suanli_link::{Ended, Link, LinkError, LinkLimits, Listener, connect};
use suanli_rdpa::{
    Answer, Direction, Event, Frame, Header, Hello, Limits, Op, Opcode, PeerLimits, Reply, Request,
    Session, Side, Welcome,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on one thread, within 20 seconds.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn listen(limits: LinkLimits) -> (Listener, String) {
    let listener = Listener::bind(loopback(), &key(1), limits).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

/// A family and a city, connected.
async fn pair() -> (Link, Link) {
    let (listener, addr) = listen(LinkLimits::default()).await;
    let family = key(2);
    let (client, server) = tokio::join!(connect(&addr, &family, key(1).node(), PATIENCE), async {
        listener.accept().await.unwrap().handshake().await
    },);
    (client.unwrap(), server.unwrap())
}

fn frame(number: u64, len: usize) -> Frame {
    let header = Header::new(Opcode::Accumulate, Direction::Request, number);
    let fill = u8::try_from(number % 251).unwrap();
    Frame::new(header, Bytes::from(vec![fill; len]))
}

#[test]
fn a_wrong_city_key_is_named_and_nothing_is_said_to_it() {
    run(async {
        let (listener, addr) = listen(LinkLimits::default()).await;
        let (family, other) = (key(2), key(9).node());
        let (client, server) = tokio::join!(connect(&addr, &family, other, PATIENCE), async {
            listener.accept().await.unwrap().handshake().await
        },);
        let error = client.unwrap_err();
        let LinkError::WrongKey { expected, found, .. } = error else { panic!("{error}") };
        assert_eq!((expected, found), (other, Some(key(1).node())));
        assert_eq!(error.fault(), Fault::Peer);
        assert!(error.to_string().contains(&key(1).node().to_string()), "{error}");
        assert!(server.is_err());
    });
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    run(async {
        let (_listener, addr) = listen(LinkLimits::default()).await;
        let addr: SocketAddr = addr.parse().unwrap();
        let error = Listener::bind(addr, &key(1), LinkLimits::default()).await.unwrap_err();
        assert!(matches!(error, LinkError::PortInUse { addr: found } if found == addr));
        let text = error.to_string();
        assert!(text.contains(&addr.port().to_string()) && text.contains("choose another port"));
    });
}

#[test]
fn an_address_where_nobody_listens_is_unreachable_and_a_bad_one_is_not_resolved() {
    run(async {
        let (listener, addr) = listen(LinkLimits::default()).await;
        drop(listener);
        let error = connect(&addr, &key(2), key(1).node(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Weather);
        let error = connect("no port here", &key(2), key(1).node(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, LinkError::Resolve { .. }), "{error}");
    });
}

#[test]
fn noise_is_dropped_told_once_and_harms_nobody_else() {
    run(async {
        let (listener, addr) = listen(LinkLimits::default()).await;
        for times in 0..3 {
            let mut stranger = TcpStream::connect(&addr).await.unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let error = listener.accept().await.unwrap().handshake().await.unwrap_err();
            assert!(matches!(error, LinkError::Noise { .. }), "{error}");
            assert_eq!(listener.is_news(&error), times == 0);
            let mut rest = Vec::new();
            // A TLS alert at most, then the end.
            let _ = stranger.read_to_end(&mut rest).await;
            assert!(rest.len() < 64);
        }
        let family = key(2);
        let (client, server) =
            tokio::join!(connect(&addr, &family, key(1).node(), PATIENCE), async {
                listener.accept().await.unwrap().handshake().await
            },);
        assert!(client.is_ok() && server.is_ok());
    });
}

#[test]
fn a_stranger_that_says_nothing_loses_its_place_to_the_next() {
    run(async {
        let limits = LinkLimits { handshakes_max: 1, ..LinkLimits::default() };
        let (listener, addr) = listen(limits).await;
        let _silent = TcpStream::connect(&addr).await.unwrap();
        let shaking = tokio::spawn(listener.accept().await.unwrap().handshake());
        let _next = TcpStream::connect(&addr).await.unwrap();
        let next = listener.accept().await.unwrap();
        let error = shaking.await.unwrap().unwrap_err();
        assert!(matches!(error, LinkError::PushedOut { .. }), "{error}");
        drop(next);
    });
}

#[test]
fn one_address_does_not_take_every_place() {
    run(async {
        let limits = LinkLimits { handshakes_per_address_max: 2, ..LinkLimits::default() };
        let (listener, addr) = listen(limits).await;
        let mut streams = Vec::new();
        let mut shaking = Vec::new();
        for _ in 0..3 {
            streams.push(TcpStream::connect(&addr).await.unwrap());
            shaking.push(tokio::spawn(listener.accept().await.unwrap().handshake()));
        }
        let error = shaking.remove(0).await.unwrap().unwrap_err();
        assert!(matches!(error, LinkError::PushedOut { .. }), "the oldest goes: {error}");
        assert_eq!(streams[0].read(&mut [0; 8]).await.unwrap_or(0), 0);
        assert!(shaking.iter().all(|still| !still.is_finished()));
    });
}

/// A city that welcomes everybody and takes every message, until the connection ends.
async fn serve(link: Link) -> Ended {
    let session = Session::new(Side::Accepting, Time(0), Limits::reliable(), 1);
    let mut endpoint = Endpoint::new(link, session);
    loop {
        let event = match endpoint.next(&mut ()).await {
            Ok(event) => event,
            Err(ended) => return ended,
        };
        let Event::Request { token, request } = event else { panic!("{event:?}") };
        let (now, session) = endpoint.at();
        let reply = match request {
            Request::Hello(_) => {
                let limits = PeerLimits { requests_max: 64, bulk_window_bytes: 1 << 20 };
                Reply::Welcome(Welcome { version: 2, limits, time: now })
            }
            Request::Send { .. } => Reply::Delivered,
            other => panic!("{other:?}"),
        };
        session.respond(now, token, reply);
    }
}

#[test]
fn two_sessions_exchange_messages_and_end_cleanly() {
    run(async {
        let (client, server) = pair().await;
        let city = tokio::spawn(serve(server));
        let session = Session::new(Side::Connecting, Time(0), Limits::reliable(), 2);
        let mut family = Endpoint::new(client, session);
        let (now, session) = family.at();
        session.request(now, Op::Hello(Hello::new(Role::Join, vec![]))).unwrap();
        let first = family.next(&mut ()).await.unwrap();
        assert!(matches!(first, Event::Answered { answer: Answer::Welcome(_), .. }), "{first:?}");
        let (now, session) = family.at();
        for _ in 0..20 {
            session.request(now, Op::Send { bytes: Bytes::from_static(b"x") }).unwrap();
        }
        for _ in 0..20 {
            let event = family.next(&mut ()).await.unwrap();
            assert!(matches!(event, Event::Answered { answer: Answer::Delivered, .. }));
        }
        family.close().await;
        assert!(matches!(city.await.unwrap(), Ended::ByPeer));
    });
}

#[test]
fn a_session_ends_when_its_peer_falls_silent() {
    run(async {
        let (client, server) = pair().await;
        let limits = Limits {
            silent_after: suanli_base::Duration(200),
            ping_every: suanli_base::Duration(50),
            ..Limits::reliable()
        };
        let session = Session::new(Side::Connecting, Time(0), limits, 2);
        let ended = Endpoint::new(client, session).next(&mut ()).await.unwrap_err();
        assert!(matches!(ended, Ended::Silent), "{ended:?}");
        drop(server);
    });
}

#[test]
fn frames_come_whole_and_in_order_while_the_reader_sets_the_pace() {
    run(async {
        let (client, server) = pair().await;
        let (mut answers, mut writer) = client.split();
        let (mut reader, mut answering) = server.split();
        let count = 300;
        let sender = tokio::spawn(async move {
            for number in 0..count {
                writer.push(&frame(number, 20_000));
                if writer.is_full() {
                    writer.flush().await.unwrap();
                }
            }
            writer.close().await.unwrap();
        });
        answering.push(&frame(7, 10));
        answering.flush().await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(frame(7, 10)));
        for number in 0..count {
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(reader.next().await.unwrap(), Some(frame(number, 20_000)));
        }
        assert_eq!(reader.next().await.unwrap(), None);
        sender.await.unwrap();
    });
}
