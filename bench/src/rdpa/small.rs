//! READ of 4 KiB: one at a time, and many at once.

use super::median;
use super::place::{Kind, content, hold, reader, region, two_sides};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Result, ensure};
use bytes::Bytes;
use std::time::Instant;
use suanli_rdpa::{Event, Op, Span};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(super) const BYTES: usize = 4096;
pub(super) const REGION_BYTES: usize = 16 << 20;
pub(super) const OPS: usize = 20_000;
pub(super) const DEPTH: usize = 64;
const TURNS: usize = 5;

pub(super) fn tcp() -> RowSpec {
    RowSpec {
        name: "small.tcp",
        what: "p50 of a READ of 4 KiB over the TCP link, against a raw tokio ping-pong",
        run: latency,
    }
}

pub(super) fn tls() -> RowSpec {
    RowSpec { name: "small.tls", what: "READs of 4 KiB a second, 64 deep over TLS", run: depth }
}

fn latency(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let ops = if short { OPS / 10 } else { OPS };
    let (mut raw, mut read) = (Vec::new(), Vec::new());
    for _ in 0..if short { 1 } else { TURNS } {
        raw.push(ping_pong(ops)?);
        read.push(reads_one_by_one(ops)?);
    }
    let (raw, read) = (median(raw), median(read));
    let row = if short { Row::short } else { Row::new };
    let note = format!("{read:.1} us against {raw:.1} us");
    Ok(vec![row("small.tcp", read / raw, "x", Goal::AtMost(1.5)).note(note)])
}

fn depth(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let ops = if short { OPS } else { 10 * OPS };
    let mut rates = Vec::new();
    for _ in 0..if short { 1 } else { TURNS } {
        rates.push(reads_at_once(ops)?);
    }
    Ok(vec![Row::new("small.tls", median(rates), "ops/s", Goal::None)])
}

/// 4 KiB for 64 bytes, as a READ asks, without any protocol. Microseconds, median.
fn ping_pong(ops: usize) -> Result<f64> {
    two_sides(
        async move |ready| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = ready.send(listener.local_addr()?.to_string());
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (mut ask, answer) = ([0; 64], vec![1; BYTES]);
            while stream.read_exact(&mut ask).await.is_ok() {
                stream.write_all(&answer).await?;
            }
            Ok(())
        },
        async |address| {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (ask, mut answer) = ([0; 64], vec![0; BYTES]);
            let mut times = Vec::with_capacity(ops);
            for _ in 0..ops {
                let begun = Instant::now();
                stream.write_all(&ask).await?;
                stream.read_exact(&mut answer).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            Ok(median(times))
        },
    )
}

pub(super) fn place_of(op: usize) -> u64 {
    (op * 40_503 % (REGION_BYTES / BYTES) * BYTES) as u64
}

fn reads_one_by_one(ops: usize) -> Result<f64> {
    let bytes = content(REGION_BYTES);
    let held = bytes.clone();
    two_sides(
        move |ready| hold(Kind::Tcp, held, ready),
        async |address| {
            let mut reader = reader(Kind::Tcp, &address).await?;
            let opened = reader.open(region()).await?;
            let mut memory = vec![0; BYTES];
            let mut times = Vec::with_capacity(ops);
            for op in 0..ops {
                let at = place_of(op);
                let begun = Instant::now();
                reader.read_ranges(&opened, &[Span::run(at, BYTES as u64)], &mut memory).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e6);
                check(&bytes, at, &memory)?;
            }
            Ok(median(times))
        },
    )
}

fn check(bytes: &Bytes, at: u64, read: &[u8]) -> Result<()> {
    let at = usize::try_from(at)?;
    ensure!(bytes[at..at + BYTES] == *read, "other bytes were read");
    Ok(())
}

/// READs a second with [`DEPTH`] on their way.
pub(super) fn reads_at_once(ops: usize) -> Result<f64> {
    let bytes = content(REGION_BYTES);
    let held = bytes.clone();
    two_sides(
        move |ready| hold(Kind::Tls, held, ready),
        async |address| {
            let mut reader = reader(Kind::Tls, &address).await?;
            let handle = reader.open(region()).await?.handle;
            let begun = Instant::now();
            let (mut asked, mut done, mut read) = (0, 0, 0);
            while done < ops {
                while asked < ops && asked - done < DEPTH {
                    let spans = vec![Span::run(place_of(asked), BYTES as u64)];
                    reader.post(Op::ReadRanges { handle, spans })?;
                    asked += 1;
                }
                match reader.next(&mut ()).await? {
                    Event::Piece { bytes, .. } => read += bytes.len(),
                    Event::Answered { .. } => done += 1,
                    other => anyhow::bail!("{other:?}"),
                }
            }
            ensure!(read == ops * BYTES, "{read} bytes in {ops} READs");
            Ok(ops as f64 / begun.elapsed().as_secs_f64())
        },
    )
}
