//! The home link: QUIC by iroh through an emulated line, between two network namespaces of this
//! machine.

use super::median;
use super::place::{CHUNK_BYTES, content, key, limits, region};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suanli_identity::Role;
use suanli_link::emulator::{Emulator, Side};
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions};
use suanli_link::reader::Reader;
use suanli_link_model::{Direction, Order, Profile, Span};
use suanli_rdpa::{
    Answer, Event, Hello, Level, Limits, Op, RegionInfo, RegionName, StageInfo, StageKind,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const MBIT: u64 = 1_000_000;
const RTT_MS: u64 = 30;
const PATIENCE: Duration = Duration::from_secs(20);
/// Smaller ones than in a data centre: at 10 Mbit/s this is 52 ms of the line.
const HOME_CHUNK_BYTES: u32 = 64 << 10;

pub(super) fn hundred() -> RowSpec {
    RowSpec {
        name: "home",
        what: "READ over iroh, 100 Mbit/s, 30 ms, queues of 1 and 10 BDP, by loss: share of the line",
        run: measure_hundred,
    }
}

pub(super) fn gigabit() -> RowSpec {
    RowSpec {
        name: "home.gigabit",
        what: "READ of 1 GiB over iroh, 1 Gbit/s, 30 ms: share of the line",
        run: measure_gigabit,
    }
}

pub(super) fn fair() -> RowSpec {
    RowSpec {
        name: "home.fair",
        what: "what a READ over iroh leaves to one flow of TCP CUBIC: share of the line",
        run: measure_fair,
    }
}

pub(super) fn heart() -> RowSpec {
    RowSpec {
        name: "heart",
        what: "round trip of a control request while a 10 Mbit/s uplink is full, p99 by queue",
        run: measure_heart,
    }
}

fn profile(bits_per_s: u64, queue_thousandths: u64, loss_ppm: u32) -> Profile {
    let direction = Direction {
        bits_per_s,
        delay: Span::from_ms(RTT_MS / 2),
        jitter: Span::ZERO,
        loss_ppm,
        queue_bytes: 1 << 20,
        order: Order::Kept,
    };
    Profile { up: direction, down: direction }.with_queues_of_bdp(queue_thousandths)
}

/// A line, or why there is none on this machine.
pub(super) fn line(profile: Profile, seed: u64) -> Result<Arc<Emulator>, String> {
    Emulator::start(profile, seed)
        .map(Arc::new)
        .map_err(|error| format!("needs two network namespaces: {error}"))
}

/// Runs `work` on a thread and runtime in this side.
pub(super) fn run_in<T: Send>(
    side: &Side,
    work: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    side.run_in(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("a runtime")?.block_on(work())
    })?
}

/// Runs `far` in the far side until `home` is done in the home.
fn both<T: Send>(
    emulator: &Emulator,
    far: impl AsyncFnOnce(oneshot::Sender<SocketAddr>) -> Result<()> + Send,
    home: impl AsyncFnOnce(SocketAddr) -> Result<T> + Send,
) -> Result<T> {
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            run_in(emulator.side_b(), async || {
                tokio::select! {
                    ended = far(ready) => ended,
                    _ = stopped => Ok(()),
                }
            })
        });
        let done = run_in(emulator.side_a(), async || {
            let address = address.await.context("the far side did not begin")?;
            home(address).await
        });
        drop(stop);
        let served = serving.join().map_err(|_| anyhow::anyhow!("the far side panicked"))?;
        done.and_then(|value| served.map(|()| value))
    })
}

pub(super) async fn endpoint(side: &Side, seed: u8) -> Result<QuicEndpoint> {
    let address = SocketAddr::new(side.address().into(), 0);
    Ok(QuicEndpoint::bind(&key(seed), QuicOptions::on(address)).await?)
}

/// Holds `bytes` in the far side.
pub(super) async fn hold(
    side: &Side,
    bytes: Option<Bytes>,
    limits: Limits,
    ready: oneshot::Sender<SocketAddr>,
) -> Result<()> {
    let holder = Holder::new(HolderLimits::default());
    if let Some(bytes) = bytes {
        holder.publish(&region(), bytes, CHUNK_BYTES)?;
    }
    let endpoint = endpoint(side, 1).await?;
    let _ = ready.send(*endpoint.local_addrs().first().context("an address")?);
    for seed in 1.. {
        let link = endpoint.accept().await?.handshake().await?;
        tokio::spawn(serve(link, Arc::clone(&holder), OpenDoor, limits, seed));
    }
    Ok(())
}

/// A reader in the home; the endpoint must live as long.
async fn reader(
    side: &Side,
    address: SocketAddr,
    limits: Limits,
) -> Result<(QuicEndpoint, Reader)> {
    let endpoint = endpoint(side, 2).await?;
    let addr = QuicAddr { node: key(1).node(), direct: vec![address], relay: None };
    let link = endpoint.connect(&addr, PATIENCE).await?;
    let hello = Hello::new(Role::Watch, Vec::new());
    let reader = Reader::with(link, hello, limits, 7).await?;
    Ok((endpoint, reader))
}

/// Megabits a second of a READ of all of `bytes`.
fn read_rate(emulator: &Emulator, bytes: &Bytes) -> Result<f64> {
    let held = bytes.clone();
    both(
        emulator,
        async |ready| hold(emulator.side_b(), Some(held), limits(), ready).await,
        async |address| {
            let (endpoint, mut reader) = reader(emulator.side_a(), address, limits()).await?;
            let mut memory = vec![0; bytes.len()];
            let opened = reader.open(region()).await?;
            let begun = Instant::now();
            reader.read(&opened, &mut memory).await?;
            let rate = bytes.len() as f64 * 8.0 / begun.elapsed().as_secs_f64() / MBIT as f64;
            ensure!(memory[..] == bytes[..], "other bytes arrived");
            reader.close().await;
            endpoint.close().await;
            Ok(rate)
        },
    )
}

const QUEUES: [(u64, &str); 2] = [(1_000, "1 BDP"), (10_000, "10 BDP")];
const LOSSES: [(u32, &str, f64); 3] = [(0, "0", 0.90), (5_000, "0.5", 0.85), (10_000, "1", 0.75)];

fn measure_hundred(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let bytes = content(if short { 4 << 20 } else { 64 << 20 });
    let row = if short { Row::short } else { Row::new };
    let mut rows = Vec::new();
    for (loss_ppm, loss, goal) in LOSSES {
        for (queue, words) in QUEUES {
            let name = format!("home.{loss}%.{}", words.replace(' ', "").to_lowercase());
            let goal = Goal::AtLeast(goal);
            let mut rates = Vec::new();
            for seed in 0..if short { 1 } else { 3 } {
                let emulator = match line(profile(100 * MBIT, queue, loss_ppm), seed) {
                    Ok(emulator) => emulator,
                    Err(why) => return Ok(vec![Row::not_measured(&name, goal, why)]),
                };
                rates.push(read_rate(&emulator, &bytes)?);
            }
            let rate = median(rates);
            let note = format!("{rate:.1} Mbit/s of payload, {} MiB", bytes.len() >> 20);
            rows.push(row(&name, rate / 100.0, "of line", goal).note(note));
            if short {
                return Ok(rows);
            }
        }
    }
    Ok(rows)
}

fn measure_gigabit(session: &mut Session) -> Result<Vec<Row>> {
    let (name, goal) = ("home.gigabit", Goal::AtLeast(0.80));
    if session.length() == Length::Short {
        return Ok(vec![Row::not_measured(name, goal, "in the long form only")]);
    }
    let bytes = content(1 << 30);
    let mut rates = Vec::new();
    for seed in 0..3 {
        let emulator = match line(profile(1000 * MBIT, 1_000, 0), seed) {
            Ok(emulator) => emulator,
            Err(why) => return Ok(vec![Row::not_measured(name, goal, why)]),
        };
        rates.push(read_rate(&emulator, &bytes)?);
    }
    let note = format!("{rates:.0?} Mbit/s of payload, queue of 1 BDP");
    Ok(vec![Row::new(name, median(rates) / 1000.0, "of line", goal).note(note)])
}

fn measure_fair(session: &mut Session) -> Result<Vec<Row>> {
    let goal = Goal::AtLeast(0.30);
    let mut rows = Vec::new();
    if session.length() == Length::Short {
        return Ok(vec![Row::not_measured("home.fair", goal, "in the long form only")]);
    }
    for (queue, words) in QUEUES {
        let name = format!("home.fair.{}", words.replace(' ', "").to_lowercase());
        let mut shares = Vec::new();
        for seed in 0..3 {
            let emulator = match line(profile(100 * MBIT, queue, 0), seed) {
                Ok(emulator) => emulator,
                Err(why) => return Ok(vec![Row::not_measured(&name, goal, why)]),
            };
            shares.push(beside_cubic(&emulator)?);
        }
        let note = format!("of 20 s beside a READ, three runs: {shares:.2?}");
        rows.push(Row::new(&name, median(shares), "of line", goal).note(note));
    }
    Ok(rows)
}

/// The share of the line that a flow of TCP gets in the seconds 5 to 25 while we read.
fn beside_cubic(emulator: &Emulator) -> Result<f64> {
    let bytes = content(512 << 20);
    let port = 7_777;
    both(
        emulator,
        async |ready| {
            let side = emulator.side_b();
            let listener = TcpListener::bind((side.address(), port)).await?;
            let source = async move {
                let (mut stream, _) = listener.accept().await?;
                // What most of the internet's flows do; the system's default may be another.
                socket2::SockRef::from(&stream).set_tcp_congestion(b"cubic")?;
                let block = vec![1; 256 << 10];
                while stream.write_all(&block).await.is_ok() {}
                anyhow::Ok(())
            };
            tokio::spawn(source);
            hold(side, Some(bytes), limits(), ready).await
        },
        async |address| {
            let side = emulator.side_a();
            let (_endpoint, mut reader) = reader(side, address, limits()).await?;
            let opened = reader.open(region()).await?;
            let len = usize::try_from(opened.info.shape.bytes)?;
            let mut memory = vec![0; len];
            let other = async {
                let mut stream = TcpStream::connect((side.other_address(), port)).await?;
                let (mut block, mut counted) = (vec![0; 256 << 10], 0);
                let begun = Instant::now();
                loop {
                    let read = stream.read(&mut block).await?;
                    let at = begun.elapsed().as_secs();
                    counted += if at >= 5 { read } else { 0 };
                    if at >= 25 {
                        return anyhow::Ok(counted);
                    }
                }
            };
            tokio::select! {
                counted = other => Ok(counted? as f64 * 8.0 / 20.0 / (100.0 * MBIT as f64)),
                done = reader.read(&opened, &mut memory) => {
                    done?;
                    bail!("the READ ended before the other flow was measured")
                }
            }
        },
    )
}

fn measure_heart(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let row = if short { Row::short } else { Row::new };
    let goal = Goal::AtMost(2.0 * RTT_MS as f64);
    let mut rows = Vec::new();
    for (queue, words) in QUEUES {
        let name = format!("heart.{}", words.replace(' ', "").to_lowercase());
        let emulator = match line(profile(10 * MBIT, queue, 0), 1) {
            Ok(emulator) => emulator,
            Err(why) => return Ok(vec![Row::not_measured(&name, goal, why)]),
        };
        let seconds = if short { 4 } else { 30 };
        let Beats { mut delays_ms, lost, rate } = beats(&emulator, seconds)?;
        delays_ms.sort_by(f64::total_cmp);
        let at = |share: f64| delays_ms[((delays_ms.len() - 1) as f64 * share) as usize];
        let note = format!(
            "p50 {:.1}, most {:.1} of {} beats; uplink at {rate:.1} Mbit/s",
            at(0.5),
            at(1.0),
            delays_ms.len()
        );
        rows.push(row(&name, at(0.99), "ms", goal).note(note));
        rows.push(row(&format!("{name}.lost"), lost as f64, "beats", Goal::Exactly(0.0)));
    }
    Ok(rows)
}

struct Beats {
    delays_ms: Vec<f64>,
    lost: usize,
    rate: f64,
}

/// The home stages chunks as fast as the line takes them, and asks for STAT every 100 ms; the first
/// two seconds, in which the rate is found, are not counted.
fn beats(emulator: &Emulator, seconds: u64) -> Result<Beats> {
    let limits = Limits { bulk_window_bytes: 4 << 20, ..Limits::reliable() };
    both(
        emulator,
        async |ready| hold(emulator.side_b(), None, limits, ready).await,
        async |address| {
            let (_endpoint, mut reader) = reader(emulator.side_a(), address, limits).await?;
            let bytes = content(512 << 20);
            let info = RegionInfo::of(0, &bytes, HOME_CHUNK_BYTES)?;
            let stage = StageInfo { kind: StageKind::Write, shape: info.shape, root: info.root };
            let op = Op::OpenStage { region: RegionName::new("up")?, stage };
            let Answer::StageOpened { handle, .. } = reader.ask(op).await? else {
                bail!("another answer to OPEN_STAGE")
            };
            let (mut chunk, mut in_flight, mut placed) = (0_u32, 0, 0_u64);
            let (mut asked, mut delays_ms) = (BTreeMap::new(), Vec::new());
            let begun = Instant::now();
            let (from, until) = (Duration::from_secs(2), Duration::from_secs(2 + seconds));
            let mut nowhere = ();
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                while in_flight < 48 {
                    let at = chunk as usize * HOME_CHUNK_BYTES as usize;
                    let bytes = bytes.slice(at..at + HOME_CHUNK_BYTES as usize);
                    reader.post(Op::Write { handle, chunk, bytes, level: Level::Placed })?;
                    (chunk, in_flight) = (chunk + 1, in_flight + 1);
                }
                let now = begun.elapsed();
                let all_back = asked.is_empty();
                if now > until && (all_back || now > until + Duration::from_secs(5)) {
                    break;
                }
                tokio::select! {
                    event = reader.next(&mut nowhere) => match event? {
                        Event::Answered { id, answer: Answer::Stat(_) } => {
                            let sent: Instant = asked.remove(&id).context("a beat of ours")?;
                            if sent.duration_since(begun) > from {
                                delays_ms.push(sent.elapsed().as_secs_f64() * 1e3);
                            }
                        }
                        Event::Answered { .. } => {
                            in_flight -= 1;
                            placed += u64::from(now > from) * u64::from(HOME_CHUNK_BYTES);
                        }
                        other => bail!("{other:?}"),
                    },
                    _ = tick.tick(), if now < until => {
                        asked.insert(reader.post(Op::Stat { region: None })?, Instant::now());
                    }
                }
            }
            let span = begun.elapsed().saturating_sub(from).as_secs_f64();
            let rate = placed as f64 * 8.0 / span / MBIT as f64;
            Ok(Beats { delays_ms, lost: asked.len(), rate })
        },
    )
}
