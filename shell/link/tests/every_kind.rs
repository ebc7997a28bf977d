//! What every kind of link must do, over real sockets on loopback. Each test is bounded in time.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use core::future::Future;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use suanli_base::{Fault, NodeId};
use suanli_identity::SecretKey;
use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions};
use suanli_link::shared::{SharedListener, connect_shared};
use suanli_link::{
    FrameReader, FrameWriter, Link, LinkError, LinkKind, LinkLimits, Listener, connect,
    connect_plain,
};
use suanli_rdpa::{Direction, Frame, Header, Opcode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on one thread, within 30 seconds.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// A city that listens, whatever it listens with.
enum City {
    Tcp(Listener),
    /// The endpoints of the city and of a family.
    Quic(Box<[QuicEndpoint; 2]>),
    /// The folder that two processes of one host share.
    Shared(Box<SharedListener>, tempfile::TempDir),
}

impl City {
    async fn bind(kind: LinkKind, limits: LinkLimits) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        match kind {
            LinkKind::Tcp => Self::Tcp(Listener::bind_plain(any, &key(1), limits).await.unwrap()),
            LinkKind::Tls => Self::Tcp(Listener::bind(any, &key(1), limits).await.unwrap()),
            LinkKind::Iroh => {
                let city = QuicOptions { limits, ..QuicOptions::on(any) };
                let city = QuicEndpoint::bind(&key(1), city).await.unwrap();
                let family = QuicEndpoint::bind(&key(2), QuicOptions::on(any)).await.unwrap();
                Self::Quic(Box::new([city, family]))
            }
            LinkKind::Shared => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("city");
                let timeout = limits.handshake_timeout;
                Self::Shared(
                    Box::new(SharedListener::bind(&path, &key(1), timeout).await.unwrap()),
                    folder,
                )
            }
            other => panic!("{other}"),
        }
    }

    async fn accept(&self) -> Result<Link, LinkError> {
        match self {
            Self::Tcp(listener) => listener.accept().await?.handshake().await,
            Self::Quic(ends) => ends[0].accept().await?.handshake().await,
            Self::Shared(listener, _) => listener.accept().await,
        }
    }

    /// Connects a family to this city.
    async fn connect(&self, kind: LinkKind, expected: NodeId) -> Result<Link, LinkError> {
        let family = key(2);
        match self {
            Self::Tcp(listener) => {
                let addr = listener.local_addr().unwrap().to_string();
                match kind {
                    LinkKind::Tcp => connect_plain(&addr, &family, expected, PATIENCE).await,
                    _ => connect(&addr, &family, expected, PATIENCE).await,
                }
            }
            Self::Quic(ends) => {
                let direct = ends[0].local_addrs();
                let addr = QuicAddr { node: expected, direct, relay: None };
                ends[1].connect(&addr, PATIENCE).await
            }
            Self::Shared(_, folder) => {
                connect_shared(&folder.path().join("city"), &family, expected, PATIENCE).await
            }
        }
    }

    /// Somebody who sends `noise` where a handshake is expected.
    async fn disturb(&self, noise: &[u8]) -> Vec<u8> {
        match self {
            Self::Tcp(listener) => {
                let mut stranger =
                    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                stranger.write_all(noise).await.unwrap();
                let mut answer = Vec::new();
                let read = stranger.read_to_end(&mut answer);
                // A reset is as good as an end.
                let _ = tokio::time::timeout(PATIENCE, read).await;
                answer
            }
            Self::Quic(ends) => {
                // What is no QUIC is not even a connection; nobody answers.
                let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                stranger.send_to(noise, ends[0].local_addrs()[0]).await.unwrap();
                Vec::new()
            }
            Self::Shared(_, folder) => {
                let path = folder.path().join("city/rdpa.sock");
                let mut stranger = tokio::net::UnixStream::connect(path).await.unwrap();
                stranger.write_all(noise).await.unwrap();
                let mut answer = Vec::new();
                let _ = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut answer)).await;
                answer
            }
        }
    }
}

/// A family and a city, connected. The city is kept: some kinds live in its endpoint.
async fn pair(kind: LinkKind) -> (Link, Link, City) {
    let city = City::bind(kind, LinkLimits::default()).await;
    let (client, server) = tokio::join!(city.connect(kind, key(1).node()), city.accept());
    (client.unwrap(), server.unwrap(), city)
}

fn frame(opcode: Opcode, number: u64, len: usize) -> Frame {
    let header = Header::new(opcode, Direction::Request, number);
    let fill = u8::try_from(number % 251).unwrap();
    Frame::new(header, Bytes::from(vec![fill; len]))
}

async fn send(writer: &mut FrameWriter, frames: &[Frame]) {
    for frame in frames {
        if writer.is_full() {
            writer.flush().await.unwrap();
        }
        writer.push(frame);
    }
    writer.flush().await.unwrap();
}

/// Takes as many frames as there are, in whatever order the lanes give them.
async fn receive(reader: &mut FrameReader, frames: &[Frame]) {
    let mut expected: BTreeMap<u64, &Frame> =
        frames.iter().map(|frame| (frame.header().request, frame)).collect();
    while !expected.is_empty() {
        let frame = reader.next().await.unwrap().unwrap();
        assert_eq!(expected.remove(&frame.header().request), Some(&frame));
    }
}

async fn frames_cross(kind: LinkKind) {
    let (client, server, _city) = pair(kind).await;
    assert_eq!((client.kind(), server.kind()), (kind, kind));
    assert_eq!((client.peer(), server.peer()), (key(1).node(), key(2).node()));
    let (up, down) = (client.counters(), server.counters());
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
        (client.split(), server.split());
    let sizes = [0, 1, 63, 64, 4096, 4097, 100_000, 4 << 20, 34_816, 7];
    let mut frames: Vec<Frame> =
        (0..).zip(sizes).map(|(number, len)| frame(Opcode::Accumulate, number, len)).collect();
    frames.extend((10..20).map(|number| frame(Opcode::Send, number, 50)));
    tokio::join!(send(&mut client_out, &frames), receive(&mut server_in, &frames));
    tokio::join!(send(&mut server_out, &frames), receive(&mut client_in, &frames));
    let payload: u64 = frames.iter().map(|frame| frame.wire_len() as u64).sum();
    for bytes in [up.up(), up.down()] {
        assert!(bytes >= payload && bytes < payload * 120 / 100, "{bytes} for {payload}");
    }
    client_out.close().await.unwrap();
    assert!(server_in.next().await.unwrap().is_none(), "a clean end");
    server_out.close().await.unwrap();
    assert!(client_in.next().await.unwrap().is_none());
    if matches!(kind, LinkKind::Tcp | LinkKind::Tls) {
        assert_eq!((up.up(), up.down()), (down.down(), down.up()), "both count the same socket");
    }
}

async fn the_reader_sets_the_pace(kind: LinkKind) {
    let (client, server, _city) = pair(kind).await;
    let (_keep, mut writer) = client.split();
    let (mut reader, _keep) = server.split();
    let frames: Vec<Frame> = (0..48).map(|number| frame(Opcode::Write, number, 1 << 20)).collect();
    let sending = send(&mut writer, &frames);
    let reading = async {
        let early = tokio::time::timeout(Duration::from_millis(300), core::future::pending::<()>());
        assert!(early.await.is_err());
        receive(&mut reader, &frames).await;
    };
    tokio::join!(sending, reading);
}

async fn a_wrong_key_is_named(kind: LinkKind) {
    let city = City::bind(kind, LinkLimits::default()).await;
    let other = key(9).node();
    let accepting = async {
        // The other side goes away at once; a kind that needs no answer may not even notice.
        let _ = tokio::time::timeout(Duration::from_secs(2), city.accept()).await;
    };
    let (client, ()) = tokio::join!(city.connect(kind, other), accepting);
    let error = client.unwrap_err();
    let LinkError::WrongKey { expected, found, .. } = error else { panic!("{error}") };
    // QUIC ends a handshake before it tells us whose key it was.
    let told = (kind != LinkKind::Iroh).then(|| key(1).node());
    assert_eq!((expected, found), (other, told));
    assert_eq!(error.fault(), Fault::Peer);
    let named = told.unwrap_or(other).to_string();
    assert!(error.to_string().contains(&named), "{error}");
}

async fn a_cut_within_a_frame_is_lost(kind: LinkKind) {
    let (client, server, _city) = pair(kind).await;
    let (mut reader, _keep) = server.split();
    let mut lanes = client.into_lanes();
    let bytes = frame(Opcode::Write, 3, 500).to_bytes();
    let last = lanes.last_mut().unwrap();
    last.writer.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    last.writer.flush().await.unwrap();
    drop(lanes);
    let error = reader.next().await.unwrap_err();
    assert!(matches!(error, LinkError::Lost { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Weather);
}

async fn a_dropped_link_is_lost_and_not_closed(kind: LinkKind) {
    let (client, server, _city) = pair(kind).await;
    let (mut reader, _keep) = client.split();
    drop(server);
    let error = reader.next().await.unwrap_err();
    assert!(matches!(error, LinkError::Lost { .. }), "{error}");
}

async fn noise_harms_nobody_else(kind: LinkKind) {
    let city = City::bind(kind, LinkLimits::default()).await;
    let other = match kind {
        LinkKind::Tcp | LinkKind::Shared => &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        _ => &b"SUANLI\x00\x01and so on"[..],
    };
    for noise in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", other] {
        let (answer, link) = tokio::join!(city.disturb(noise), city.accept());
        let error = link.unwrap_err();
        assert!(matches!(error, LinkError::Noise { .. }), "{error}");
        assert!(error.to_string().contains(&kind.to_string()), "{error}");
        assert!(answer.len() < 64, "a TLS alert at most");
    }
    let (client, server) = tokio::join!(city.connect(kind, key(1).node()), city.accept());
    assert!(client.is_ok() && server.is_ok());
}

async fn datagrams_of_noise_are_not_even_strangers(kind: LinkKind) {
    let limits = LinkLimits { handshakes_max: 1, ..LinkLimits::default() };
    let city = City::bind(kind, limits).await;
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 1200], &[0xc0; 1200], &[]] {
        city.disturb(noise).await;
    }
    let (client, server) = tokio::join!(city.connect(kind, key(1).node()), city.accept());
    assert!(client.is_ok() && server.is_ok());
}

async fn a_silent_stranger_is_thrown_out_in_time(kind: LinkKind) {
    let handshake_timeout = Duration::from_millis(100);
    let limits = LinkLimits { handshake_timeout, handshakes_max: 1, ..LinkLimits::default() };
    let city = City::bind(kind, limits).await;
    let (_, link) = tokio::join!(city.disturb(b""), city.accept());
    let error = link.unwrap_err();
    assert!(matches!(error, LinkError::HandshakeTimeout { .. }), "{error}");
    let (client, server) = tokio::join!(city.connect(kind, key(1).node()), city.accept());
    assert!(client.is_ok() && server.is_ok(), "its place is free again");
}

/// A link whose bulk lanes are stuck, because nobody reads, still carries a heart-beat.
async fn control_overtakes_bulk(kind: LinkKind) {
    let (client, server, _city) = pair(kind).await;
    let (_keep, mut writer) = client.split();
    let (mut reader, _keep) = server.split();
    let mut pushed = 0;
    let stuck = async {
        loop {
            while !writer.is_full() {
                writer.push(&frame(Opcode::Write, pushed, 1 << 20));
                pushed += 1;
            }
            writer.write_some().await.unwrap();
        }
    };
    // Long enough to fill every window between the two.
    assert!(tokio::time::timeout(Duration::from_secs(2), stuck).await.is_err());
    assert!(pushed > 4, "{pushed} MiB");
    writer.push(&frame(Opcode::Ping, 1000, 8));
    let reading = async {
        let mut before = 0;
        while reader.next().await.unwrap().unwrap().header().opcode != Opcode::Ping {
            before += 1;
        }
        before
    };
    let sending = async {
        writer.flush().await.unwrap();
        core::future::pending::<()>().await;
    };
    let before = tokio::select! {
        before = reading => before,
        () = sending => unreachable!(),
    };
    assert!(before <= 1, "{before} of {pushed} bulk frames came first");
}

macro_rules! suite {
    ($module:ident, $kind:expr, $($test:ident),+ $(,)?) => {
        mod $module {
            use suanli_link::LinkKind;
            $(
                #[test]
                fn $test() {
                    super::run(super::$test($kind));
                }
            )+
        }
    };
}

suite!(
    tls,
    LinkKind::Tls,
    frames_cross,
    the_reader_sets_the_pace,
    a_wrong_key_is_named,
    a_cut_within_a_frame_is_lost,
    a_dropped_link_is_lost_and_not_closed,
    noise_harms_nobody_else,
    a_silent_stranger_is_thrown_out_in_time,
);

suite!(
    plain,
    LinkKind::Tcp,
    frames_cross,
    the_reader_sets_the_pace,
    a_wrong_key_is_named,
    a_cut_within_a_frame_is_lost,
    a_dropped_link_is_lost_and_not_closed,
    noise_harms_nobody_else,
    a_silent_stranger_is_thrown_out_in_time,
);

suite!(
    shared,
    LinkKind::Shared,
    frames_cross,
    the_reader_sets_the_pace,
    a_wrong_key_is_named,
    a_cut_within_a_frame_is_lost,
    noise_harms_nobody_else,
    a_silent_stranger_is_thrown_out_in_time,
);

suite!(
    iroh,
    LinkKind::Iroh,
    frames_cross,
    the_reader_sets_the_pace,
    a_wrong_key_is_named,
    a_cut_within_a_frame_is_lost,
    a_dropped_link_is_lost_and_not_closed,
    datagrams_of_noise_are_not_even_strangers,
    control_overtakes_bulk,
);

/// Bytes of a plain introduction: magic, node id, nonce.
const HELLO_BYTES: usize = 72;

#[test]
fn a_key_that_is_shown_and_not_held_is_refused_by_both_sides() {
    run(async {
        // Towards the city: a stranger shows the family's id and signs with nothing.
        let city = City::bind(LinkKind::Tcp, LinkLimits::default()).await;
        let City::Tcp(listener) = &city else { panic!("TCP was asked for") };
        let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let shown = [&b"SUANLI\x00\x01"[..], key(2).node().as_bytes(), &[7; 32]].concat();
        assert_eq!(shown.len(), HELLO_BYTES);
        stranger.write_all(&shown).await.unwrap();
        let (_, link) = tokio::join!(stranger.write_all(&[1; 64]), city.accept());
        let error = link.unwrap_err();
        assert!(matches!(error, LinkError::Unproven { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Peer);
        // Towards the family: a false city answers with what the true one once said to another.
        let mut answer = [0; HELLO_BYTES + 64];
        stranger.read_exact(&mut answer).await.unwrap();
        let impostor = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = impostor.local_addr().unwrap().to_string();
        let lying = async {
            let (mut stream, _) = impostor.accept().await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream
        };
        let family = key(2);
        let (link, _stream) =
            tokio::join!(connect_plain(&addr, &family, key(1).node(), PATIENCE), lying);
        let error = link.unwrap_err();
        assert!(matches!(error, LinkError::Unproven { .. }), "{error}");
    });
}
