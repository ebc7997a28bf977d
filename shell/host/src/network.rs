//! What a network gives between this machine and a city, and what is in the way.
//!
//! Every way of a ticket is tried by itself; then the link is made as `join` makes it. A member is
//! also measured: round trips, and the rate each way by the city's probe region, for some seconds.
//!
//! Not for: mending anything; the findings say what to do.

use crate::control::{LinkStatus, Refusal, RefusalClass};
use crate::family::settings::{remembered, ways};
use crate::net;
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use suanli_base::CityId;
use suanli_identity::{Role, SecretKey, Ticket};
use suanli_link::dial::{Dialer, Prefer, Why};
use suanli_link::reader::{ReadError, Reader};
use suanli_link::{Link, LinkKind, Remote, Way, has_bbr};
use suanli_node::region_of_probe;
use suanli_rdpa::{Code, Failure, Hello, Level, StageKind};
use tokio::task::JoinSet;

/// How long one way may take to answer.
const TRY: Duration = Duration::from_secs(5);
/// How long each direction is measured.
const MEASURE: Duration = Duration::from_secs(3);
/// The most that is sent or read for it.
const MEASURE_BYTES_MAX: u64 = 64 << 20;
/// Round trips that are measured.
const ROUND_TRIPS: usize = 7;
/// A piece that is staged to measure the way up: 250 ms of a 10 Mbit/s uplink.
const UP_BYTES: usize = 320 << 10;

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// The ticket of a city. Without one, the city that `folder` joined.
    pub ticket: Option<Ticket>,
    /// A family's data folder, which holds its key and what it joined with.
    pub folder: PathBuf,
    /// Which kind of link `join` would try first.
    pub prefer: Prefer,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Network {
    /// What this machine has.
    pub machine: Machine,
    /// The city, if there is one to reach.
    pub city: Option<String>,
    /// Its ways, each tried by itself.
    pub ways: Vec<WayTried>,
    /// The link that `join` would take.
    pub link: Option<LinkStatus>,
    /// What that link does, where this machine is a member.
    pub measured: Option<Measured>,
    /// What is in the way.
    pub findings: Vec<Finding>,
}

/// What this machine has.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The addresses from which it speaks to others.
    pub addresses: Vec<IpAddr>,
    /// Whether a UDP socket can be opened.
    pub udp: bool,
    /// Whether others of its network can be asked by multicast.
    pub multicast: bool,
    /// What TCP uses against congestion.
    pub tcp_congestion: Option<String>,
    /// Whether TCP can use BBR.
    pub tcp_has_bbr: bool,
}

/// One way.
#[derive(Debug, Serialize)]
pub struct WayTried {
    /// The way, without the pass of a relay.
    pub way: String,
    /// Milliseconds to the proven key.
    pub took_ms: Option<f64>,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a link does.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Milliseconds there and back, the median.
    pub rtt_ms: f64,
    /// Bits a second from the city.
    pub down_bit_per_s: f64,
    /// Bits a second to the city.
    pub up_bit_per_s: f64,
}

/// Something that is in the way, or to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// No ticket was given and none is remembered: only this machine was looked at.
    NoCity,
    /// This machine has an address of no network but its own.
    NoNetwork,
    /// The system gives no UDP socket.
    NoUdp,
    /// Nothing answered.
    NothingAnswered,
    /// Somebody else's key answered.
    WrongKey {
        /// The way.
        way: String,
    },
    /// TCP gets there, QUIC does not: a firewall drops UDP, most likely.
    UdpBlocked,
    /// QUIC gets there, TCP does not.
    TcpBlocked,
    /// The ticket names only addresses of the city's own machine.
    OnlyItsMachine,
    /// Only a relay leads there.
    OnlyRelay,
    /// The kernel's TCP slows down with every lost packet.
    TcpWithoutBbr,
    /// The rate is measured for members only.
    NotAMember,
    /// The city refused.
    Refused {
        /// Its words.
        why: String,
    },
    /// The link ended while it was measured.
    Broke {
        /// How.
        why: String,
    },
}

/// Looks.
///
/// # Errors
/// [`Refusal`] when the folder's settings or its key cannot be read.
pub async fn look(options: NetworkOptions) -> Result<Network, Refusal> {
    let machine = machine();
    let mut findings = Vec::new();
    if machine.addresses.is_empty() {
        findings.push(Finding::NoNetwork);
    }
    if !machine.udp {
        findings.push(Finding::NoUdp);
    }
    let ticket = match options.ticket {
        Some(ticket) => Some(ticket),
        None => remembered(&options.folder)?,
    };
    let Some(ticket) = ticket else {
        findings.push(Finding::NoCity);
        let (ways, link, measured) = (Vec::new(), None, None);
        return Ok(Network { machine, city: None, ways, link, measured, findings });
    };
    let (key, joined) = key_of(&options.folder)?;
    let city = ticket.grant().city;
    let known = ways(&ticket);
    let dialer = Dialer::new(&key, city.into(), &known, options.prefer, true);
    let tried = try_each(&key, city, &known, &mut findings).await;
    judge(&known, &tried, machine.tcp_has_bbr, &mut findings);
    let dialled = dialer.dial(TRY).await;
    let (mut link, mut measured) = (None, None);
    if let Ok(dialled) = dialled {
        link = Some(status(&dialled.link, dialled.report.why, dialled.report.took));
        let counters = dialled.link.counters();
        match joined {
            false => findings.push(Finding::NotAMember),
            true => measured = measure(dialled.link, &mut findings).await,
        }
        // A link that began at a relay may have found a straight way meanwhile.
        if let (Some(link), Some(remote)) = (&mut link, counters.moved_to()) {
            link.relayed = matches!(remote, Remote::Relay(_));
            link.remote = remote.to_string();
        }
    } else {
        findings.retain(|finding| *finding != Finding::TcpWithoutBbr);
        findings.push(Finding::NothingAnswered);
    }
    if link.as_ref().is_some_and(|link| link.relayed) {
        findings.push(Finding::OnlyRelay);
    }
    dialer.close().await;
    let city = Some(CityId::to_string(&city));
    Ok(Network { machine, city, ways: tried, link, measured, findings })
}

/// The folder's key, or one for this time only.
fn key_of(folder: &std::path::Path) -> Result<(SecretKey, bool), Refusal> {
    let path = folder.join("node.key");
    if path.exists() {
        return Ok((net::key_of(&path)?, true));
    }
    let drawn = suanli_store::draw();
    let seed =
        drawn.map_err(|error| Refusal::new(RefusalClass::Environment, error.to_string(), ""))?;
    Ok((SecretKey::from_seed(&seed), false))
}

fn machine() -> Machine {
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    Machine {
        addresses: addresses(),
        udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok(),
        multicast: multicast(),
        tcp_congestion: congestion.ok().map(|name| name.trim().to_owned()),
        tcp_has_bbr: has_bbr(),
    }
}

/// The addresses from which this machine would speak to others. Nothing is sent for it: connecting a
/// UDP socket only asks the system for its route. The far ends are of RFC 5737 and RFC 3849.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let from = |ours: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((ours, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let v4 = from(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = from(Ipv6Addr::UNSPECIFIED.into(), far.into());
    v4.into_iter().chain(v6).filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).collect()
}

/// Whether the group of multicast DNS can be joined (RFC 6762).
fn multicast() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let group = Ipv4Addr::new(224, 0, 0, 251);
    socket.is_ok_and(|socket| socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).is_ok())
}

/// Tries every way by itself, all at once, in their order.
async fn try_each(
    key: &SecretKey,
    city: CityId,
    known: &[Way],
    findings: &mut Vec<Finding>,
) -> Vec<WayTried> {
    let mut running = JoinSet::new();
    for (at, way) in known.iter().cloned().enumerate() {
        let dialer = Dialer::new(key, city.into(), &[way], Prefer::Auto, false);
        running.spawn(async move {
            let dialled = dialer.dial(TRY).await.map(|dialled| dialled.report.took);
            dialer.close().await;
            (at, dialled)
        });
    }
    let mut done = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        // A task that panicked is a defect, and has said so.
        let Ok((at, dialled)) = ended else { continue };
        let way = known[at].to_string();
        let tried = match dialled {
            Ok(took) => WayTried { way, took_ms: Some(took.as_secs_f64() * 1e3), error: None },
            Err(error) => {
                if error.wrong_key().is_some() {
                    findings.push(Finding::WrongKey { way: way.clone() });
                }
                WayTried { way, took_ms: None, error: Some(error.to_string()) }
            }
        };
        done.insert(at, tried);
    }
    done.into_values().collect()
}

/// What the ways say together.
fn judge(known: &[Way], tried: &[WayTried], has_bbr: bool, findings: &mut Vec<Finding>) {
    let is_tcp = |tried: &WayTried| !tried.way.contains("quic:") && !tried.way.contains("relay:");
    let answered = |tcp: bool| {
        let mut of_kind = tried.iter().filter(|tried| is_tcp(tried) == tcp).peekable();
        of_kind.peek()?;
        Some(of_kind.any(|tried| tried.took_ms.is_some()))
    };
    match (answered(true), answered(false)) {
        (Some(true), Some(false)) => findings.push(Finding::UdpBlocked),
        (Some(false), Some(true)) => findings.push(Finding::TcpBlocked),
        _ => {}
    }
    let nobody = tried.iter().all(|tried| tried.took_ms.is_none());
    if nobody && !known.is_empty() && known.iter().all(Way::is_loopback) {
        findings.push(Finding::OnlyItsMachine);
    }
    let straight = |way: &Way| !way.is_loopback();
    if !has_bbr && answered(true) == Some(true) && known.iter().any(straight) {
        findings.push(Finding::TcpWithoutBbr);
    }
}

fn status(link: &Link, why: Why, took: Duration) -> LinkStatus {
    LinkStatus {
        kind: net::kind_name(link.kind()).to_owned(),
        remote: link.remote().to_string(),
        relayed: link.kind() == LinkKind::Iroh && matches!(link.remote(), Remote::Relay(_)),
        why: why.name().to_owned(),
        took_ms: took.as_millis().try_into().unwrap_or(u64::MAX),
    }
}

/// Measures as a member that only looks on: a lease that is under way is left alone.
async fn measure(link: Link, findings: &mut Vec<Finding>) -> Option<Measured> {
    let hello = Hello::new(Role::Watch, Vec::new());
    let work = async {
        let mut reader = Reader::connect(link, hello, net::entropy()).await?;
        let rtt_ms = round_trip(&mut reader).await?;
        let down_bit_per_s = rate_down(&mut reader).await?;
        let up_bit_per_s = rate_up(&mut reader).await?;
        reader.close().await;
        Ok(Measured { rtt_ms, down_bit_per_s, up_bit_per_s })
    };
    work.await.map_err(|error: ReadError| findings.push(finding_of(&error))).ok()
}

fn finding_of(error: &ReadError) -> Finding {
    match error {
        ReadError::Failed(Failure::Refused { code: Code::Unauthorised, .. }) => Finding::NotAMember,
        ReadError::Failed(failure) => Finding::Refused { why: failure.to_string() },
        other => Finding::Broke { why: other.to_string() },
    }
}

async fn round_trip(reader: &mut Reader) -> Result<f64, ReadError> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        reader.stat(None).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUND_TRIPS / 2])
}

/// The first pass is not counted: the rate is still being found.
async fn rate_down(reader: &mut Reader) -> Result<f64, ReadError> {
    let opened = reader.open(region_of_probe()).await?;
    let mut memory = vec![0; usize::try_from(opened.info.shape.bytes).unwrap_or(0)];
    let begun = Instant::now();
    reader.read(&opened, &mut memory).await?;
    if begun.elapsed() > MEASURE {
        return Ok(rate(memory.len() as u64, begun));
    }
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < MEASURE && bytes < MEASURE_BYTES_MAX {
        reader.read(&opened, &mut memory).await?;
        bytes += memory.len() as u64;
    }
    Ok(rate(bytes, begun))
}

/// Stages pieces that the city throws away, larger ones where the line is quick.
async fn rate_up(reader: &mut Reader) -> Result<f64, ReadError> {
    let mut piece = UP_BYTES;
    loop {
        let content: Bytes = (0..piece).map(|i| (i * i % 251) as u8).collect();
        let chunk = u32::try_from(piece.min(1 << 20)).expect("at most a mebibyte");
        let begun = Instant::now();
        let stage =
            reader.stage(region_of_probe(), StageKind::Write, content, chunk, Level::Placed);
        stage.await?;
        let slow = begun.elapsed() * 2 > MEASURE;
        if slow || piece >= 4 << 20 {
            return Ok(rate(piece as u64, begun));
        }
        piece = (piece * 4).min(4 << 20);
    }
}

fn rate(bytes: u64, begun: Instant) -> f64 {
    bytes as f64 * 8.0 / begun.elapsed().as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(way: &str, took_ms: Option<f64>) -> WayTried {
        let error = took_ms.is_none().then(|| "no answer".to_owned());
        WayTried { way: way.to_owned(), took_ms, error }
    }

    fn judged(known: &[&str], tried: &[WayTried], has_bbr: bool) -> Vec<Finding> {
        let known: Vec<Way> = known.iter().map(|way| way.parse().unwrap()).collect();
        let mut findings = Vec::new();
        judge(&known, tried, has_bbr, &mut findings);
        findings
    }

    #[test]
    fn what_answers_and_what_does_not_tells_what_is_blocked() {
        let known = ["203.0.113.9:7", "quic:203.0.113.9:7"];
        let ways = |tcp: bool, quic: bool| {
            vec![tried(known[0], tcp.then_some(9.0)), tried(known[1], quic.then_some(9.0))]
        };
        assert_eq!(judged(&known, &ways(true, false), true), [Finding::UdpBlocked]);
        assert_eq!(judged(&known, &ways(false, true), true), [Finding::TcpBlocked]);
        assert_eq!(judged(&known, &ways(true, true), true), []);
        assert_eq!(judged(&known, &ways(true, true), false), [Finding::TcpWithoutBbr]);
        assert_eq!(judged(&known, &ways(false, false), true), []);
    }

    #[test]
    fn a_ticket_of_loopback_addresses_is_told_apart() {
        let known = ["127.0.0.1:7"];
        assert_eq!(judged(&known, &[tried(known[0], None)], true), [Finding::OnlyItsMachine]);
        assert_eq!(judged(&known, &[tried(known[0], Some(0.1))], false), []);
    }
}
