//! What hostile peers try: each ends in a typed error or a closed connection, takes bounded memory,
//! and leaves the others alone.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suanli_base::Random;
use suanli_identity::{Role, SecretKey};
use suanli_link::Ended;
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::Reader;
use suanli_link::{Lane, Link, LinkError, LinkLimits, Listener, connect};
use suanli_rdpa::{
    Code, Direction, Frame, HEADER_BYTES, Header, Hello, Limits, Op, Opcode, RegionName,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

const CHUNK: u32 = 64 << 10;
const BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// A city with one region, on every loopback address; tells how each connection ended.
struct City {
    port: u16,
    ended: mpsc::UnboundedReceiver<Result<Ended, LinkError>>,
    news: mpsc::UnboundedReceiver<String>,
}

async fn city() -> City {
    let holder = Holder::new(HolderLimits::default());
    let mut bytes = vec![0; BYTES];
    Random::new(1).fill(&mut bytes);
    holder.publish(&name("theta"), bytes.into(), CHUNK).unwrap();
    let any = "0.0.0.0:0".parse().unwrap();
    let listener = Listener::bind(any, &key(1), LinkLimits::default()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, ended) = mpsc::unbounded_channel();
    let (log, news) = mpsc::unbounded_channel();
    let listener = Arc::new(listener);
    tokio::spawn(async move {
        for seed in 1.. {
            let incoming = listener.accept().await.unwrap();
            let (holder, tell, log) = (holder.clone(), tell.clone(), log.clone());
            let listener = listener.clone();
            tokio::spawn(async move {
                let how = match incoming.handshake().await {
                    Ok(link) => Ok(serve(link, holder, OpenDoor, Limits::reliable(), seed).await),
                    Err(error) => {
                        if listener.is_news(&error) {
                            log.send(error.to_string()).ok();
                        }
                        Err(error)
                    }
                };
                tell.send(how).ok();
            });
        }
    });
    City { port, ended, news }
}

impl City {
    async fn link(&self) -> Link {
        let address = format!("127.0.0.1:{}", self.port);
        connect(&address, &key(2), key(1).node(), PATIENCE).await.unwrap()
    }

    async fn member(&self) -> Reader {
        Reader::connect(self.link().await, Hello::new(Role::Watch, vec![]), 3).await.unwrap()
    }

    /// A lane whose owner has said HELLO and then does as it likes.
    async fn welcome_lane(&self) -> Lane {
        let mut lane = self.link().await.into_lanes().remove(0);
        lane.writer.write_all(&hello()).await.unwrap();
        lane.writer.flush().await.unwrap();
        read_frame(&mut lane).await;
        lane
    }

    async fn how_it_ended(&mut self) -> Result<Ended, LinkError> {
        tokio::time::timeout(PATIENCE, self.ended.recv()).await.unwrap().unwrap()
    }
}

/// As postcard writes it: versions 2 to 2, role watch, no ticket.
fn hello() -> Bytes {
    let body = Bytes::from_static(&[2, 2, 3, 0]);
    Frame::unhashed(Header::new(Opcode::Hello, Direction::Request, 1), body).to_bytes()
}

fn ask(opcode: Opcode, request: u64, handle: u64, payload: &[u8]) -> Bytes {
    let header = Header { handle, ..Header::new(opcode, Direction::Request, request) };
    Frame::unhashed(header, Bytes::copy_from_slice(payload)).to_bytes()
}

async fn read_frame(lane: &mut Lane) -> Frame {
    let mut bytes = vec![0; HEADER_BYTES];
    lane.reader.read_exact(&mut bytes).await.unwrap();
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    let mut payload = vec![0; len as usize];
    lane.reader.read_exact(&mut payload).await.unwrap();
    bytes.extend(payload);
    Frame::from_bytes(bytes.into()).unwrap()
}

/// Peak memory of this process in bytes, reset by `reset`.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_end_their_own_connection_and_no_other() {
    let mut city = city().await;
    let mut member = city.member().await;
    for (what, outcome, bytes) in hostile() {
        let mut lane = city.welcome_lane().await;
        lane.writer.write_all(&ask(Opcode::Open, 2, 0, b"\x05theta")).await.unwrap();
        lane.writer.flush().await.unwrap();
        let handle = read_frame(&mut lane).await.header().handle;
        lane.writer.write_all(&with_handle(bytes, handle)).await.unwrap();
        lane.writer.flush().await.unwrap();
        if let Some(code) = outcome {
            let answer = read_frame(&mut lane).await;
            let status = answer.header().status.map(Code::to_wire);
            assert_eq!((answer.header().request, status), (3, Some(code)), "{what}");
            continue;
        }
        let ended = city.how_it_ended().await.unwrap();
        let by_peer = matches!(ended, Ended::Violation(_) | Ended::Broken(LinkError::Frame { .. }));
        assert!(by_peer, "{what}: {ended}");
    }
    assert_eq!(member.open(name("theta")).await.unwrap().info.version, 1);
}

/// The frozen corpus: name, the code of the answer or nothing for an end, bytes.
fn hostile() -> impl Iterator<Item = (&'static str, Option<u16>, Vec<u8>)> {
    let text = include_str!("../../../docs/spec/vectors/rdpa-hostile.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, outcome, hex] = words[..] else { panic!("three words: {line}") };
        let outcome = (outcome != "close").then(|| outcome.parse().unwrap());
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name, outcome, (0..hex.len()).step_by(2).map(byte).collect())
    })
}

/// Puts a handle of this session where the corpus leaves room for it.
fn with_handle(mut bytes: Vec<u8>, handle: u64) -> Vec<u8> {
    if let Some(at) = bytes.windows(8).position(|word| word == [0xAB; 8]) {
        bytes[at..at + 8].copy_from_slice(&handle.to_le_bytes());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_of_another_session_or_nearly_ones_own_are_answered_with_a_code() {
    // The other session's handle was opened here and never shown: what a stranger to it is told was
    // not tested.
    let city = city().await;
    let mut others = [city.welcome_lane().await, city.welcome_lane().await];
    let mut handles = [0; 2];
    for (lane, handle) in others.iter_mut().zip(&mut handles) {
        lane.writer.write_all(&ask(Opcode::Open, 2, 0, b"\x05theta")).await.unwrap();
        lane.writer.flush().await.unwrap();
        *handle = read_frame(lane).await.header().handle;
    }
    let ([lane, _other], [own, other]) = (&mut others, handles);
    let mut request = 2;
    let mut code_of = async |handle| {
        request += 1;
        lane.writer.write_all(&ask(Opcode::Read, request, handle, &[1, 0])).await.unwrap();
        lane.writer.flush().await.unwrap();
        read_frame(lane).await.header().status
    };
    for handle in [other, own ^ 1, own ^ (1 << 40), own.swap_bytes(), 0] {
        assert_eq!(code_of(handle).await, Some(Code::BadHandle));
    }
    assert_eq!(code_of(own).await, None, "its own is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_for_everything_and_reads_nothing_costs_its_window() {
    let city = city().await;
    let before = peak_bytes();
    let mut lanes = Vec::new();
    for _ in 0..8 {
        let mut lane = city.welcome_lane().await;
        lane.writer.write_all(&ask(Opcode::Open, 2, 0, b"\x05theta")).await.unwrap();
        lane.writer.flush().await.unwrap();
        let handle = read_frame(&mut lane).await.header().handle;
        for request in 3..250 {
            let chunks: Vec<u8> = core::iter::once(64).chain(0..64).collect();
            lane.writer.write_all(&ask(Opcode::Read, request, handle, &chunks)).await.unwrap();
        }
        lane.writer.flush().await.unwrap();
        lanes.push(lane);
    }
    // Others are served meanwhile.
    let mut member = city.member().await;
    let opened = member.open(name("theta")).await.unwrap();
    let mut memory = vec![0; BYTES];
    member.read(&opened, &mut memory).await.unwrap();
    let grown = peak_bytes() - before;
    // The member's own 64 MiB, and far below the 8 x 247 x 4 MiB that were asked for.
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_length_costs_nothing_until_its_bytes_come() {
    let city = city().await;
    let before = peak_bytes();
    let mut lanes = Vec::new();
    for _ in 0..50 {
        let mut lane = city.welcome_lane().await;
        let mut header = ask(Opcode::Write, 2, 7, &[]).to_vec();
        header[12..16].copy_from_slice(&(4_u32 << 20).to_le_bytes());
        lane.writer.write_all(&header).await.unwrap();
        lane.writer.flush().await.unwrap();
        lanes.push(lane);
    }
    city.member().await.stat(None).await.unwrap();
    let grown = peak_bytes() - before;
    assert!(grown < 50 << 20, "{} MiB for 200 MiB that were only claimed", grown >> 20);
}

/// 10 000 with `-- --ignored`, a tenth of it by default.
async fn half_open(count: usize) {
    let mut city = city().await;
    let port = city.port;
    let mut strangers = Vec::new();
    let begun = Instant::now();
    for number in 0..count {
        let from = SocketAddr::from(([127, 0, 1, u8::try_from(number % 200).unwrap() + 1], 0));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(from).unwrap();
        strangers.push(socket.connect(([127, 0, 0, 1], port).into()).await.unwrap());
    }
    eprintln!("{count} half-open connections in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut member = city.member().await;
    assert_eq!(member.open(name("theta")).await.unwrap().info.version, 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut pushed_out = 0;
    while let Ok(ended) = city.ended.try_recv() {
        pushed_out += usize::from(matches!(ended, Err(LinkError::PushedOut { .. })));
    }
    assert!(pushed_out >= count - 128 - 5, "{pushed_out} of {count}");
    let mut lines = 0;
    while city.news.try_recv().is_ok() {
        lines += 1;
    }
    assert!(lines <= 200, "{lines} lines for 200 addresses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_in_beside_a_thousand_half_open_connections() {
    half_open(1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 20 000 descriptors"]
async fn a_member_gets_in_beside_ten_thousand_half_open_connections() {
    half_open(9_900).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_at_any_byte_gives_the_others_no_trouble() {
    // In each state, and over each kind of link: `cut.rs`.
    let mut city = city().await;
    // After so many bytes of its side of the conversation the family is gone.
    let open = ask(Opcode::Open, 2, 0, b"\x05theta");
    let subscribe = ask(Opcode::Subscribe, 3, 0, b"\x05theta");
    let all = [hello(), open, subscribe].concat();
    for cut in [0, 1, 63, 64, 66, 68, 100, 131, 132, 140, 200, all.len() - 1, all.len()] {
        let mut lane = city.link().await.into_lanes().remove(0);
        lane.writer.write_all(&all[..cut]).await.unwrap();
        lane.writer.flush().await.unwrap();
        drop(lane);
        let ended = city.how_it_ended().await.unwrap();
        let ours = matches!(ended, Ended::ByPeer | Ended::Broken(LinkError::Lost { .. }));
        assert!(ours, "cut at {cut}: {ended}");
    }
    let raw = TcpStream::connect(("127.0.0.1", city.port)).await.unwrap();
    drop(raw);
    assert!(city.how_it_ended().await.is_err());
    assert_eq!(city.member().await.open(name("theta")).await.unwrap().info.version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_before_hello_are_answered_unauthorised_and_reach_nobody() {
    let city = city().await;
    let mut lane = city.link().await.into_lanes().remove(0);
    lane.writer.write_all(&ask(Opcode::Open, 1, 0, b"\x05theta")).await.unwrap();
    lane.writer.flush().await.unwrap();
    let status = read_frame(&mut lane).await.header().status.unwrap();
    assert_eq!(status.to_string(), "not authorised");
    let mut late = city.member().await;
    let _ = late.ask(Op::Stat { region: None }).await.unwrap();
}
