//! The same work done by other tools, in turns with ours. Those of crates come with the feature
//! `peers`, which `cargo xtask bench` turns on outside its short form.

#[cfg(feature = "peers")]
mod blobs;
#[cfg(feature = "peers")]
mod iroh;
mod nixl;
#[cfg(feature = "peers")]
mod quinn;
#[cfg(feature = "peers")]
mod tonic;

use super::bulk::{self, BYTES, BYTES_SHORT, TURNS};
use super::median;
use super::place::{Kind, content};
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::Result;
use nixl::Nixl;
use suanli_link::endpoint::Trust;
#[cfg(feature = "peers")]
use {
    super::place::{CHUNK_BYTES, key, limits, region, two_sides},
    anyhow::{Context as _, ensure},
    bytes::Bytes,
    std::net::Ipv4Addr,
    std::time::{Duration, Instant},
    suanli_identity::Role,
    suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve},
    suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions},
    suanli_link::reader::Reader,
    suanli_rdpa::Hello,
};

#[cfg(feature = "peers")]
const PATIENCE: Duration = Duration::from_secs(10);

const QUINN: (&str, Goal) = ("read.quic", Goal::AtLeast(0.90));
const LIBRARY: (&str, Goal) = ("read.quic.library", Goal::None);
const BLOBS: (&str, Goal) = ("read.quic.verified", Goal::AtLeast(1.5));
const BLOBS_TLS: (&str, Goal) = ("read.blobs", Goal::AtLeast(1.5));
const TONIC: (&str, Goal) = ("read.tonic", Goal::AtLeast(1.2));
const CALLS: (&str, Goal) = ("small.tonic", Goal::AtLeast(6.0));
const NIXL: (&str, Goal) = ("read.nixl", Goal::AtLeast(0.9));

pub(super) fn quic() -> RowSpec {
    RowSpec {
        name: QUINN.0,
        what: "READ 256 MiB on loopback over the iroh link, against bare quinn and against \
               one stream of iroh; hashed on arrival, over iroh and over TLS, against iroh-blobs",
        run: measure_quic,
    }
}

pub(super) fn stream() -> RowSpec {
    RowSpec {
        name: TONIC.0,
        what: "READ 256 MiB on loopback over TLS, against a stream of tonic's without encryption",
        run: measure_stream,
    }
}

pub(super) fn calls() -> RowSpec {
    RowSpec {
        name: CALLS.0,
        what: "READs of 4 KiB, 64 deep over TLS, against tonic's unary calls without encryption",
        run: measure_calls,
    }
}

pub(super) fn ucx() -> RowSpec {
    RowSpec {
        name: NIXL.0,
        what: "READ 256 MiB on loopback over the TCP link, against NIXL's UCX over TCP",
        run: measure_nixl,
    }
}

fn size(session: &Session) -> (usize, usize) {
    if session.length() == Length::Short { (BYTES_SHORT, 1) } else { (BYTES, TURNS) }
}

fn ratio(session: &Session, of: (&str, Goal), ours: f64, theirs: f64, unit: &str) -> Row {
    let (name, goal) = of;
    let row = if session.length() == Length::Short { Row::short } else { Row::new };
    row(name, ours / theirs, "x", goal).note(format!("{ours:.0} against {theirs:.0} {unit}"))
}

fn measure_nixl(session: &mut Session) -> Result<Vec<Row>> {
    let (len, turns) = size(session);
    let mut nixl = match Nixl::start(len)? {
        Ok(nixl) => nixl,
        Err(why) => return Ok(vec![Row::not_measured(NIXL.0, NIXL.1, why)]),
    };
    let bytes = content(len);
    let mut memory = vec![0; len];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        theirs.push(nixl.turn()?);
        ours.push(bulk::read(Kind::Tcp, Trust::Holder, &bytes, &mut memory)?);
    }
    let row = ratio(session, NIXL, median(ours), median(theirs), "MB/s");
    Ok(vec![row.note(format!("NIXL {}", nixl.version))])
}

/// MB/s of a READ of all of `bytes` over the iroh link.
#[cfg(feature = "peers")]
fn read_quic(trust: Trust, bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let content = bytes.clone();
    let any = || QuicOptions::on((Ipv4Addr::LOCALHOST, 0).into());
    two_sides(
        async move |ready| {
            let holder = Holder::new(HolderLimits::default());
            holder.publish(&region(), content, CHUNK_BYTES)?;
            let endpoint = QuicEndpoint::bind(&key(1), any()).await?;
            let address = *endpoint.local_addrs().first().context("an address")?;
            let _ = ready.send(address.to_string());
            let link = endpoint.accept().await?.handshake().await?;
            serve(link, holder, OpenDoor, limits(), 1).await;
            Ok(())
        },
        async |address| {
            let endpoint = QuicEndpoint::bind(&key(2), any()).await?;
            let direct = vec![address.parse()?];
            let addr = QuicAddr { node: key(1).node(), direct, relay: None };
            let link = endpoint.connect(&addr, PATIENCE).await?;
            let hello = Hello::new(Role::Watch, Vec::new());
            let mut reader = Reader::with(link, hello, limits(), 7).await?;
            reader.trust(trust);
            let opened = reader.open(region()).await?;
            let begun = Instant::now();
            reader.read(&opened, memory).await?;
            let rate = bulk::rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "other bytes arrived");
            reader.close().await;
            endpoint.close().await;
            Ok(rate)
        },
    )
}

#[cfg(feature = "peers")]
fn measure_quic(session: &mut Session) -> Result<Vec<Row>> {
    let (len, turns) = size(session);
    let bytes = content(len);
    let mut memory = vec![0; len];
    let mut rates = [const { Vec::new() }; 6];
    for _ in 0..turns {
        rates[0].push(quinn::copy(&bytes, &mut memory)?);
        rates[1].push(read_quic(Trust::Holder, &bytes, &mut memory)?);
        rates[2].push(blobs::fetch(&bytes, &mut memory)?);
        rates[3].push(read_quic(Trust::Verify, &bytes, &mut memory)?);
        rates[4].push(bulk::read(Kind::Tls, Trust::Verify, &bytes, &mut memory)?);
        rates[5].push(iroh::copy(&bytes, &mut memory)?);
    }
    let [bare, read, blobs, verified, tls, library] = rates.map(median);
    Ok(vec![
        ratio(session, QUINN, read, bare, "MB/s"),
        ratio(session, LIBRARY, read, library, "MB/s"),
        ratio(session, BLOBS, verified, blobs, "MB/s"),
        ratio(session, BLOBS_TLS, tls, blobs, "MB/s"),
    ])
}

#[cfg(feature = "peers")]
fn measure_stream(session: &mut Session) -> Result<Vec<Row>> {
    let (len, turns) = size(session);
    let bytes = content(len);
    let mut memory = vec![0; len];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        theirs.push(tonic::copy(&bytes, &mut memory)?);
        ours.push(bulk::read(Kind::Tls, Trust::Holder, &bytes, &mut memory)?);
    }
    Ok(vec![ratio(session, TONIC, median(ours), median(theirs), "MB/s")])
}

#[cfg(feature = "peers")]
fn measure_calls(session: &mut Session) -> Result<Vec<Row>> {
    use super::small::{BYTES, DEPTH, OPS, REGION_BYTES, place_of, reads_at_once};
    let short = session.length() == Length::Short;
    let (ops, turns) = if short { (OPS / 2, 1) } else { (5 * OPS, 5) };
    let bytes = content(REGION_BYTES);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        theirs.push(tonic::calls(&bytes, BYTES, DEPTH, ops, place_of)?);
        ours.push(reads_at_once(ops)?);
    }
    Ok(vec![ratio(session, CALLS, median(ours), median(theirs), "ops/s")])
}

#[cfg(not(feature = "peers"))]
fn without(rows: &[(&str, Goal)]) -> Result<Vec<Row>> {
    let why = "needs the feature `peers` of suanli-bench, which `cargo xtask bench rdpa` turns on";
    Ok(rows.iter().map(|(name, goal)| Row::not_measured(name, *goal, why)).collect())
}

#[cfg(not(feature = "peers"))]
fn measure_quic(_: &mut Session) -> Result<Vec<Row>> {
    without(&[QUINN, LIBRARY, BLOBS, BLOBS_TLS])
}

#[cfg(not(feature = "peers"))]
fn measure_stream(_: &mut Session) -> Result<Vec<Row>> {
    without(&[TONIC])
}

#[cfg(not(feature = "peers"))]
fn measure_calls(_: &mut Session) -> Result<Vec<Row>> {
    without(&[CALLS])
}
