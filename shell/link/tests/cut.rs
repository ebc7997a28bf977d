//! A link cut in each state of a conversation, over each kind of link: the holder ends its side with a
//! typed error, keeps what was placed and nothing else, and serves the next one.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use suanli_base::{Random, Time};
use suanli_identity::{Access, Bounds, Prefix, Role, SecretKey};
use suanli_link::Ended;
use suanli_link::holder::{Guard, Holder, HolderLimits, serve};
use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions};
use suanli_link::reader::Reader;
use suanli_link::shared::{SharedListener, connect_shared};
use suanli_link::{Lane, Link, LinkError, LinkKind, LinkLimits, Listener, connect, connect_plain};
use suanli_rdpa::{
    Answer, Direction, Frame, GateBooks, GateLimits, HEADER_BYTES, Header, Hello, Level, Limits,
    Op, Opcode, RegionInfo, RegionName, StageInfo, StageKind,
};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK: u32 = 256 << 10;
/// More than a socket's buffers and the bulk window hold.
const THETA_CHUNKS: u8 = 64;
/// What is staged: two chunks.
const STAGED_BYTES: usize = 2 * CHUNK as usize;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Random::new(seed).fill(&mut bytes);
    bytes.into()
}

/// What happens until the cut.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The family says it.
    Say(Verb),
    /// The family says all of it but the last byte.
    Half(Verb),
    /// The family waits for the answer to what it said last, and takes its handle.
    Hear,
    /// Somebody publishes the next version of theta.
    Publish,
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    /// With a grant of everything.
    Hello,
    /// With a grant of a byte a second.
    SlowHello,
    Open,
    /// Of every chunk.
    Read,
    /// Of the whole region, but for every other byte.
    ReadRanges,
    OpenStage,
    /// Of one chunk of what is staged.
    Write(u32),
    Commit,
    Fence,
    Subscribe,
}

use Step::{Half, Hear, Publish, Say};

const WELCOME: [Step; 2] = [Say(Verb::Hello), Hear];
const OPENED: [Step; 4] = [Say(Verb::Open), Hear, Publish, Publish];
const STAGING: [Step; 2] = [Say(Verb::OpenStage), Hear];
const WRITTEN: [Step; 2] = [Say(Verb::Write(0)), Hear];

/// Each state: what leads to it, and how many chunks are in place afterwards if an area was opened.
fn states() -> Vec<(Vec<Step>, Option<u32>)> {
    let after = |before: &[&[Step]], then: &[Step]| [&before.concat(), then].concat();
    let (opened, staging) = ([&WELCOME[..], &OPENED], [&WELCOME[..], &STAGING]);
    let written = [&WELCOME[..], &STAGING, &WRITTEN];
    let slow = [&[Say(Verb::SlowHello), Hear][..], &STAGING, &WRITTEN];
    vec![
        (vec![], None),
        (vec![Half(Verb::Hello)], None),
        (vec![Say(Verb::Hello)], None),
        (WELCOME.to_vec(), None),
        (after(&[&WELCOME], &[Half(Verb::Open)]), None),
        (after(&[&WELCOME], &[Say(Verb::Open)]), None),
        (after(&opened, &[]), None),
        (after(&opened, &[Half(Verb::Read)]), None),
        (after(&opened, &[Say(Verb::Read)]), None),
        (after(&opened, &[Say(Verb::ReadRanges)]), None),
        (after(&[&WELCOME], &[Half(Verb::OpenStage)]), None),
        (after(&staging, &[]), Some(0)),
        (after(&staging, &[Half(Verb::Write(0))]), Some(0)),
        (after(&written, &[]), Some(1)),
        (after(&written, &[Half(Verb::Write(1))]), Some(1)),
        (after(&written, &[Say(Verb::Write(1)), Hear, Half(Verb::Commit)]), Some(2)),
        (after(&written, &[Say(Verb::Commit), Hear]), Some(1)),
        (after(&written, &[Say(Verb::Write(1)), Hear, Say(Verb::Commit), Hear]), None),
        (after(&written, &[Half(Verb::Fence)]), Some(1)),
        (after(&written, &[Say(Verb::Fence)]), Some(1)),
        (after(&[&WELCOME], &[Half(Verb::Subscribe)]), None),
        (after(&[&WELCOME], &[Say(Verb::Subscribe), Hear, Publish]), None),
        (after(&slow, &[Say(Verb::Write(1))]), Some(1)),
        (after(&slow, &[Say(Verb::Write(1)), Say(Verb::Fence)]), Some(1)),
        (after(&slow, &[Say(Verb::Write(1)), Say(Verb::Commit)]), Some(1)),
    ]
}

/// The family's end, driven by hand.
struct Family {
    lanes: Vec<Lane>,
    request: u64,
    handle: u64,
}

impl Family {
    async fn say(&mut self, verb: Verb, but_bytes: usize) {
        self.request += 1;
        let frame = self.frame(verb);
        // Bulk goes by its own lane where there is one.
        let bulk = frame.is_bulk();
        let bytes = frame.to_bytes();
        let lane = if bulk { self.lanes.last_mut() } else { self.lanes.first_mut() }.unwrap();
        lane.writer.write_all(&bytes[..bytes.len() - but_bytes]).await.unwrap();
        lane.writer.flush().await.unwrap();
    }

    async fn hear(&mut self) {
        let mut bytes = [0; HEADER_BYTES];
        loop {
            let (lane, first) = self.first_byte().await;
            let reader = &mut self.lanes[lane].reader;
            bytes[0] = first;
            reader.read_exact(&mut bytes[1..]).await.unwrap();
            let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
            let mut payload = vec![0; len as usize];
            reader.read_exact(&mut payload).await.unwrap();
            let frame = Frame::from_bytes([&bytes[..], &payload].concat().into()).unwrap();
            let Header { request, direction, handle, .. } = *frame.header();
            if (request, direction) == (self.request, Direction::Reply) {
                self.handle = if handle == 0 { self.handle } else { handle };
                return;
            }
        }
    }

    /// The first byte of a frame, on whichever lane one comes.
    async fn first_byte(&mut self) -> (usize, u8) {
        poll_fn(|cx| {
            for (number, lane) in self.lanes.iter_mut().enumerate() {
                let mut byte = [0];
                let mut read = ReadBuf::new(&mut byte);
                if Pin::new(&mut lane.reader).poll_read(cx, &mut read).is_ready() {
                    assert_eq!(read.filled().len(), 1, "the holder ended lane {number}");
                    return Poll::Ready((number, byte[0]));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn frame(&self, verb: Verb) -> Frame {
        let text = |name: &str| [&leb128(name.len()), name.as_bytes()].concat();
        let (opcode, payload) = match verb {
            Verb::Hello => (Opcode::Hello, hello(u64::MAX)),
            Verb::SlowHello => (Opcode::Hello, hello(1)),
            Verb::Open => (Opcode::Open, text("theta")),
            Verb::Read => {
                (Opcode::Read, core::iter::once(THETA_CHUNKS).chain(0..THETA_CHUNKS).collect())
            }
            Verb::ReadRanges => {
                let span = [leb128(0), leb128(1 << 15), leb128(1 << 16), leb128(200)].concat();
                (Opcode::ReadRanges, [&[1][..], &span, &[0]].concat())
            }
            Verb::OpenStage => {
                let StageInfo { shape, root, .. } = announced();
                let bytes = leb128(usize::try_from(shape.bytes).unwrap());
                let chunk_bytes = leb128(shape.chunk_bytes as usize);
                let body = [text("new"), vec![0], bytes, chunk_bytes, root.0.to_vec()];
                (Opcode::OpenStage, body.concat())
            }
            Verb::Write(chunk) => {
                let from = chunk as usize * CHUNK as usize;
                (Opcode::Write, staged()[from..from + CHUNK as usize].to_vec())
            }
            Verb::Commit => (Opcode::Commit, Vec::new()),
            Verb::Fence => (Opcode::Fence, Vec::new()),
            Verb::Subscribe => (Opcode::Subscribe, text("theta")),
        };
        let header = Header::new(opcode, Direction::Request, self.request);
        let header = match verb {
            Verb::Read | Verb::ReadRanges | Verb::Commit => {
                Header { handle: self.handle, ..header }
            }
            Verb::Write(chunk) => Header { handle: self.handle, offset: chunk.into(), ..header },
            Verb::Fence => Header { level: Some(Level::Placed), ..header },
            _ => header,
        };
        Frame::unhashed(header, payload.into())
    }
}

/// As postcard writes it: versions 2 to 2, role watch, a grant.
fn hello(bytes_per_s: u64) -> Vec<u8> {
    let grant = grant(bytes_per_s);
    [&[2, 2, 3][..], &leb128(grant.len()), &grant].concat()
}

fn grant(bytes_per_s: u64) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let bounds = Bounds {
        prefix: Prefix::all(),
        rights: "read, write, commit, subscribe".parse().unwrap(),
        bytes_max: u64::MAX,
        bytes_per_s,
        not_before: Time(0),
        not_after: Time(u64::try_from(since.as_millis()).unwrap() + 3_600_000),
        epoch: 0,
        depth: 0,
    };
    Access::issue(&key(1), key(2).node(), bounds, 1).unwrap().to_bytes()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn staged() -> Bytes {
    content(9, STAGED_BYTES)
}

fn announced() -> StageInfo {
    let info = RegionInfo::of(1, &staged(), CHUNK).unwrap();
    StageInfo { kind: StageKind::Write, shape: info.shape, root: info.root }
}

/// A city that listens, whatever it listens with.
enum City {
    Tcp(Listener),
    Quic(Box<[QuicEndpoint; 2]>),
    Shared(Box<SharedListener>, tempfile::TempDir),
}

impl City {
    async fn bind(kind: LinkKind) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let limits = LinkLimits::default();
        match kind {
            LinkKind::Tcp => Self::Tcp(Listener::bind_plain(any, &key(1), limits).await.unwrap()),
            LinkKind::Tls => Self::Tcp(Listener::bind(any, &key(1), limits).await.unwrap()),
            LinkKind::Iroh => {
                let bind = async |seed| {
                    QuicEndpoint::bind(&key(seed), QuicOptions::on(any)).await.unwrap()
                };
                Self::Quic(Box::new([bind(1).await, bind(2).await]))
            }
            _ => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("city");
                let listener = SharedListener::bind(&path, &key(1), PATIENCE).await.unwrap();
                Self::Shared(Box::new(listener), folder)
            }
        }
    }

    async fn accept(&self) -> Link {
        match self {
            Self::Tcp(listener) => listener.accept().await.unwrap().handshake().await,
            Self::Quic(ends) => ends[0].accept().await.unwrap().handshake().await,
            Self::Shared(listener, _) => listener.accept().await,
        }
        .unwrap()
    }

    async fn connect(&self, kind: LinkKind) -> Link {
        let (family, city) = (key(2), key(1).node());
        match self {
            Self::Tcp(listener) => {
                let addr = listener.local_addr().unwrap().to_string();
                match kind {
                    LinkKind::Tcp => connect_plain(&addr, &family, city, PATIENCE).await,
                    _ => connect(&addr, &family, city, PATIENCE).await,
                }
            }
            Self::Quic(ends) => {
                let direct = ends[0].local_addrs();
                ends[1].connect(&QuicAddr { node: city, direct, relay: None }, PATIENCE).await
            }
            Self::Shared(_, folder) => {
                connect_shared(&folder.path().join("city"), &family, city, PATIENCE).await
            }
        }
        .unwrap()
    }

    /// A family's end, and how the holder's will end.
    async fn pair(&self, kind: LinkKind, held: &Held) -> (Link, tokio::task::JoinHandle<Ended>) {
        let (family, city) = tokio::join!(self.connect(kind), self.accept());
        let (holder, door) = (Arc::clone(&held.holder), held.guard.door());
        (family, tokio::spawn(serve(city, holder, door, Limits::reliable(), 1)))
    }
}

/// A holder of theta, behind a guard.
struct Held {
    holder: Arc<Holder>,
    guard: Arc<Guard>,
}

impl Held {
    fn new() -> Self {
        let (limits, books) = (GateLimits::default(), GateBooks::default());
        let keep = Box::new(|_: &GateBooks| Ok(()));
        let guard = Guard::new(key(1).node(), limits, Vec::new(), books, keep);
        let held = Self { holder: Holder::new(HolderLimits::default()), guard };
        held.publish();
        held
    }

    fn publish(&self) -> u64 {
        let seed = self.holder.newest(&name("theta")).map_or(0, |newest| newest.info.version) + 1;
        let bytes = content(seed, usize::from(THETA_CHUNKS) * CHUNK as usize);
        self.holder.publish(&name("theta"), bytes, CHUNK).unwrap()
    }
}

async fn cut(kind: LinkKind, city: &City, steps: &[Step]) -> Held {
    let held = Held::new();
    let (link, serving) = city.pair(kind, &held).await;
    let mut family = Family { lanes: link.into_lanes(), request: 0, handle: 0 };
    for step in steps {
        match step {
            Say(verb) => family.say(*verb, 0).await,
            Half(verb) => family.say(*verb, 1).await,
            Hear => family.hear().await,
            Publish => drop(held.publish()),
        }
    }
    drop(family);
    let ended = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    let weather = matches!(ended, Ended::ByPeer | Ended::Broken(LinkError::Lost { .. }));
    assert!(weather, "{kind}, {steps:?}: {ended}");
    held
}

async fn a_cut_in_any_state_leaves_what_was_placed_and_nothing_else(kind: LinkKind) {
    // A link was cut holder-side by byte offset, over TLS alone, and its WRITE had a handle that was
    // never given: no staging area was ever cut.
    let city = City::bind(kind).await;
    for (steps, placed) in states() {
        let held = cut(kind, &city, &steps).await;
        let areas = usize::from(placed.is_some());
        let bytes = u64::from(placed.unwrap_or(0)) * u64::from(CHUNK);
        assert_eq!(held.holder.staged(), (areas, bytes), "{kind}, {steps:?}");

        // Another reader gets its bytes, finds no pin, and goes on with what was staged.
        let (link, serving) = city.pair(kind, &held).await;
        let hello = Hello::new(Role::Watch, grant(u64::MAX));
        let mut other = Reader::connect(link, hello, 7).await.unwrap();
        let stat = other.stat(Some(name("theta"))).await.unwrap().region.unwrap();
        assert_eq!((stat.oldest, stat.pinned_bytes), (stat.version, 0), "{kind}, {steps:?}");
        let opened = other.open(name("theta")).await.unwrap();
        let mut memory = vec![0; usize::from(THETA_CHUNKS) * CHUNK as usize];
        other.read(&opened, &mut memory).await.unwrap();
        let stage = announced();
        let answer = other.ask(Op::OpenStage { region: name("new"), stage }).await.unwrap();
        let Answer::StageOpened { placed: found, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(found.count(), placed.unwrap_or(0), "{kind}, {steps:?}");
        let level = Level::Placed;
        let staging = other.stage(name("new"), StageKind::Write, staged(), CHUNK, level);
        let handle = staging.await.unwrap();
        let before = held.holder.newest(&name("new")).map_or(0, |newest| newest.info.version);
        assert_eq!(other.commit(handle, before).await.unwrap(), before + 1);
        other.close().await;
        serving.await.unwrap();
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(4 * PATIENCE, test).await.expect("in time") });
}

macro_rules! over {
    ($module:ident, $kind:ident) => {
        mod $module {
            #[test]
            fn a_cut_in_any_state_leaves_what_was_placed_and_nothing_else() {
                let kind = suanli_link::LinkKind::$kind;
                super::run(super::a_cut_in_any_state_leaves_what_was_placed_and_nothing_else(kind));
            }
        }
    };
}

over!(tls, Tls);
over!(plain, Tcp);
over!(shared, Shared);
over!(iroh, Iroh);
