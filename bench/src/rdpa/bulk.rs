//! READ of a large region on loopback against a bare copy over the same kind of connection.

use super::median;
use super::place::{CHUNK_BYTES, Kind, content, hold, key, limits, reader, region, two_sides};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use suanli_identity::Role;
use suanli_link::endpoint::Trust;
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::Reader;
use suanli_link::shared::{SharedListener, connect_shared};
use suanli_link::tls as link_tls;
use suanli_rdpa::Hello;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(super) const BYTES: usize = 256 << 20;
pub(super) const BYTES_SHORT: usize = 32 << 20;
pub(super) const TURNS: usize = 7;
/// What the bare side writes in one call.
const WRITE_BYTES: usize = 1 << 20;

pub(super) fn tcp() -> RowSpec {
    RowSpec {
        name: "read.tcp",
        what: "READ 256 MiB on loopback over the TCP link, against a bare tokio TCP copy",
        run: |session| measure(session, Kind::Tcp),
    }
}

pub(super) fn tls() -> RowSpec {
    RowSpec {
        name: "read.tls",
        what: "the same over TLS against bare rustls; hashed on arrival too; shares of TCP",
        run: |session| measure(session, Kind::Tls),
    }
}

pub(super) fn shared() -> RowSpec {
    RowSpec {
        name: "read.shared",
        what: "READ 256 MiB from another process's memory on one host, against memcpy",
        run: measure_shared,
    }
}

/// MB/s of each way in each turn.
#[derive(Default)]
struct Rates {
    tcp: Vec<f64>,
    bare: Vec<f64>,
    read: Vec<f64>,
    verified: Vec<f64>,
}

fn measure(session: &mut Session, kind: Kind) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let bytes = content(if short { BYTES_SHORT } else { BYTES });
    let mut memory = vec![0_u8; bytes.len()];
    let mut rates = Rates::default();
    for _ in 0..if short { 2 } else { TURNS } {
        rates.tcp.push(bare_tcp(&bytes, &mut memory)?);
        if kind == Kind::Tls {
            rates.bare.push(bare_tls(&bytes, &mut memory)?);
        }
        rates.read.push(read(kind, Trust::Holder, &bytes, &mut memory)?);
        rates.verified.push(read(kind, Trust::Verify, &bytes, &mut memory)?);
    }
    let row = if short { Row::short } else { Row::new };
    let [tcp, read, verified] = [rates.tcp, rates.read, rates.verified].map(median);
    let (name, bare, goals) = match kind {
        Kind::Tcp => ("read.tcp", tcp, [Goal::AtLeast(0.90), Goal::None]),
        Kind::Tls => ("read.tls", median(rates.bare), [Goal::AtLeast(0.95), Goal::AtLeast(0.80)]),
    };
    let note = |rate: f64| {
        format!("{rate:.0} of {bare:.0} MB/s; {:.2} of bare TCP's {tcp:.0}", rate / tcp)
    };
    Ok(vec![
        row(name, read / bare, "of bare", goals[0]).note(note(read)),
        row(&format!("{name}.verified"), verified / bare, "of bare", goals[1]).note(note(verified)),
    ])
}

pub(super) fn rate(bytes: &Bytes, begun: Instant) -> f64 {
    bytes.len() as f64 / begun.elapsed().as_secs_f64() / 1e6
}

/// A bare tokio TCP copy into a prepared buffer: one byte asks, everything comes.
fn bare_tcp(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    let content = bytes.clone();
    two_sides(
        async move |ready| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = ready.send(listener.local_addr()?.to_string());
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            stream.read_u8().await?;
            for piece in content.chunks(WRITE_BYTES) {
                stream.write_all(piece).await?;
            }
            // Until the other side is done.
            let _ = stream.read_u8().await;
            Ok(())
        },
        async |address| {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let begun = Instant::now();
            stream.write_u8(1).await?;
            stream.read_exact(memory).await?;
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            Ok(rate)
        },
    )
}

/// The same over a bare stream of tokio-rustls, with the provider, ciphers and keys of a link.
fn bare_tls(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    let content = bytes.clone();
    two_sides(
        async move |ready| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = ready.send(listener.local_addr()?.to_string());
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let mut stream = TlsAcceptor::from(link_tls::accepting(&key(1))).accept(stream).await?;
            stream.read_u8().await?;
            for piece in content.chunks(WRITE_BYTES) {
                stream.write_all(piece).await?;
            }
            stream.flush().await?;
            // Until the other side is done.
            let _ = stream.read_u8().await;
            Ok(())
        },
        async |address| {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(link_tls::connecting(&key(2), key(1).node()));
            let mut stream = connector.connect(link_tls::server_name(), stream).await?;
            let begun = Instant::now();
            stream.write_u8(1).await?;
            stream.flush().await?;
            stream.read_exact(memory).await?;
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            Ok(rate)
        },
    )
}

/// MB/s of a READ of all of `bytes`.
pub(super) fn read(kind: Kind, trust: Trust, bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let content = bytes.clone();
    two_sides(
        move |ready| hold(kind, content, ready),
        async |address| {
            let mut reader = reader(kind, &address).await?;
            reader.trust(trust);
            let opened = reader.open(region()).await?;
            let begun = Instant::now();
            reader.read(&opened, memory).await?;
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            reader.close().await;
            Ok(rate)
        },
    )
}

fn measure_shared(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let bytes = content(if short { BYTES_SHORT } else { BYTES });
    let mut memory = vec![1_u8; bytes.len()];
    let folder = Path::new("/dev/shm").join(format!("suanli-bench-{}", std::process::id()));
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..if short { 2 } else { TURNS } {
        let begun = Instant::now();
        memory.copy_from_slice(&bytes);
        rates[0].push(rate(&bytes, begun));
        let [first, next] = read_shared(&folder, &bytes, &mut memory)?;
        rates[1].push(next);
        rates[2].push(first);
    }
    // Gone already is as good.
    let _ = std::fs::remove_dir_all(&folder);
    let row = if short { Row::short } else { Row::new };
    let [copy, read, first] = rates.map(median);
    let note = format!(
        "{read:.0} of {copy:.0} MB/s; with OPEN and the first touch of the mapping {first:.0}"
    );
    Ok(vec![row("read.shared", read / copy, "of memcpy", Goal::AtLeast(0.8)).note(note)])
}

/// MB/s of the first READ, mapping included, and of the next.
fn read_shared(folder: &Path, bytes: &Bytes, memory: &mut [u8]) -> Result<[f64; 2]> {
    let (content, place) = (bytes.clone(), folder.to_owned());
    let patience = std::time::Duration::from_secs(10);
    two_sides(
        async move |ready| {
            let holder = Holder::share(HolderLimits::default(), &place)?;
            holder.publish(&region(), content, CHUNK_BYTES)?;
            let listener = SharedListener::bind(&place, &key(1), patience).await?;
            let _ = ready.send(String::new());
            let link = listener.accept().await?;
            serve(link, holder, OpenDoor, limits(), 1).await;
            Ok(())
        },
        async |_| {
            let link = connect_shared(folder, &key(2), key(1).node(), patience).await?;
            let hello = Hello::new(Role::Watch, Vec::new());
            let mut reader = Reader::connect(link, hello, 7).await?;
            let begun = Instant::now();
            let opened = reader.open(region()).await?;
            let mapped = reader.map(&opened)?.context("the holder shares the region")?;
            memory.copy_from_slice(&mapped);
            let first = rate(bytes, begun);
            memory.fill(0);
            let begun = Instant::now();
            memory.copy_from_slice(&mapped);
            let next = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            reader.close().await;
            Ok([first, next])
        },
    )
}
