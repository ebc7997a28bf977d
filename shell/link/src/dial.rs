//! Reaching a node by whichever of its ways answers, and saying which it was and why.
//!
//! The first choice gets a head start; the other kind follows when that one has failed or is slow, and
//! who first has proven the key wins. Which is the first choice: TCP with TLS within one machine or
//! one network, and wherever the system's TCP keeps its rate under loss (BBR), since it costs half the
//! CPU of QUIC; else QUIC, which brings its own BBR. When nothing answers and we were told to, a node
//! of this network is looked for by its key.
//!
//! Not for: listening; moving a live link to another way (QUIC does so by itself, and
//! [`Counters::moved_to`](crate::Counters::moved_to) tells).
//!
//! Invariant: no way stands in for another silently: [`Report`] lists all that were tried.

use crate::{Link, LinkError, Way, tcp};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use suanli_base::{Fault, NodeId};
use suanli_identity::SecretKey;
use tokio::task::JoinSet;

#[cfg(feature = "iroh")]
mod by_quic;

/// How long the first choice has before the other kind is tried too.
const HEAD_START: Duration = Duration::from_millis(400);
/// How long all named ways have before the node is looked for on this network too.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Between two addresses of one kind.
const STAGGER: Duration = Duration::from_millis(100);

/// Which kind comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefer {
    /// What suits this machine and this address.
    #[default]
    Auto,
    /// TCP only.
    Tcp,
    /// QUIC only.
    Quic,
}

/// Why a way was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The owner asked for this kind.
    Asked,
    /// There was no other kind.
    Only,
    /// The node is on this machine or this network, where TCP costs least.
    Near,
    /// This system's TCP keeps its rate under loss (BBR), at half the CPU of QUIC.
    TcpHasBbr,
    /// This system's TCP slows down with every lost packet; QUIC brings its own BBR.
    TcpHasNoBbr,
    /// The first choice did not answer.
    OtherFailed,
    /// The first choice took longer.
    OtherSlow,
    /// No address answered; the node was found on this network by its key.
    FoundNearby,
}

impl Why {
    /// For programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Only => "only",
            Self::Near => "near",
            Self::TcpHasBbr => "tcp_has_bbr",
            Self::TcpHasNoBbr => "tcp_has_no_bbr",
            Self::OtherFailed => "other_failed",
            Self::OtherSlow => "other_slow",
            Self::FoundNearby => "found_nearby",
        }
    }
}

/// One way that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// The way, without a pass.
    pub way: String,
    /// How long the handshake took, or what went wrong. Nothing when another way had won meanwhile.
    pub outcome: Option<Result<Duration, LinkError>>,
}

/// What was tried, and what was taken.
#[derive(Debug)]
pub struct Report {
    /// Why this way.
    pub why: Why,
    /// From the first attempt to the proven key.
    pub took: Duration,
    /// In the order of their beginning.
    pub attempts: Vec<Attempt>,
}

/// A link, and how it came about.
#[derive(Debug)]
pub struct Dialled {
    /// The link.
    pub link: Link,
    /// How it came about.
    pub report: Report,
}

/// No way led to the node.
#[derive(Debug, thiserror::Error)]
#[error("{}", summary(.attempts))]
pub struct DialError {
    /// All that was tried; never empty of failures unless there was nothing to try.
    pub attempts: Vec<Attempt>,
}

impl DialError {
    /// Whose fault it is: of whoever answered with another key, else what the first way that failed
    /// says, and ours when there was none to try.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let first = self.attempts.iter().find_map(|attempt| match &attempt.outcome {
            Some(Err(error)) => Some(error),
            _ => None,
        });
        self.wrong_key().or(first).map_or(Fault::Ours, LinkError::fault)
    }

    /// Somebody answered who is not the node, and nobody who is.
    #[must_use]
    pub fn wrong_key(&self) -> Option<&LinkError> {
        let failed = self.attempts.iter().filter_map(|attempt| match &attempt.outcome {
            Some(Err(error)) => Some(error),
            _ => None,
        });
        failed.into_iter().find(|error| matches!(error, LinkError::WrongKey { .. }))
    }
}

fn summary(attempts: &[Attempt]) -> String {
    let failed: Vec<String> = attempts
        .iter()
        .filter_map(|attempt| match &attempt.outcome {
            Some(Err(error)) => Some(error.to_string()),
            _ => None,
        })
        .collect();
    match failed.as_slice() {
        [] => "there is no address to try; ask for a ticket that names one".to_owned(),
        [one] => one.clone(),
        many => format!("none of {} ways answered: {}", many.len(), many.join("; ")),
    }
}

/// Dials one node, again and again if need be.
#[derive(Debug)]
pub struct Dialer {
    key: SecretKey,
    expected: NodeId,
    tcp: Vec<String>,
    first: First,
    #[cfg(feature = "iroh")]
    quic: by_quic::ByQuic,
}

/// Which kinds are tried, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Tcp(Why),
    Quic(Why),
}

/// What one task brings.
struct Tried {
    at: usize,
    took: Duration,
    outcome: Result<Link, LinkError>,
}

impl Dialer {
    /// Dials `expected` as the node of `key`. With `lan` it is looked for on this network when no way
    /// answers.
    #[must_use]
    pub fn new(key: &SecretKey, expected: NodeId, ways: &[Way], prefer: Prefer, lan: bool) -> Self {
        let wants_tcp = prefer != Prefer::Quic;
        let tcp = ways.iter().filter_map(|way| match way {
            Way::Tcp(addr) if wants_tcp => Some(addr.clone()),
            _ => None,
        });
        let tcp: Vec<String> = tcp.collect();
        #[cfg(feature = "iroh")]
        let quic = by_quic::ByQuic::new(key, expected, ways, prefer != Prefer::Tcp, lan);
        #[cfg(feature = "iroh")]
        let has_quic = quic.has_ways();
        #[cfg(not(feature = "iroh"))]
        let has_quic = {
            let _ = lan;
            false
        };
        Self {
            key: key.clone(),
            expected,
            first: first(prefer, &tcp, has_quic, tcp::has_bbr()),
            tcp,
            #[cfg(feature = "iroh")]
            quic,
        }
    }

    /// Tries every way; each has `timeout` from its own beginning.
    ///
    /// # Errors
    /// [`DialError`] when none leads to the node.
    pub async fn dial(&self, timeout: Duration) -> Result<Dialled, DialError> {
        let begun = Instant::now();
        let mut race = Race::default();
        let (First::Tcp(first) | First::Quic(first)) = self.first;
        let tcp_first = matches!(self.first, First::Tcp(_));
        self.start(tcp_first, &mut race, timeout);
        let firsts = race.attempts.len();
        let mut won = race.first(Some(HEAD_START)).await;
        let mut other = Why::OtherSlow;
        if won.is_none() {
            if race.tasks.is_empty() {
                other = Why::OtherFailed;
            }
            self.start(!tcp_first, &mut race, timeout);
            won = race.first(Some(LOOK_AFTER)).await;
        }
        let named = race.attempts.len();
        if won.is_none() {
            self.look_nearby(&mut race, timeout);
            won = race.first(None).await;
        }
        let why = match &won {
            Some((at, _)) if *at >= named => Why::FoundNearby,
            Some((at, _)) if *at >= firsts && firsts > 0 => other,
            _ => first,
        };
        let attempts = race.attempts;
        match won {
            Some((_, link)) => {
                let report = Report { why, took: begun.elapsed(), attempts };
                Ok(Dialled { link, report })
            }
            None => Err(DialError { attempts }),
        }
    }

    /// Ends the links that go by QUIC, and tells the peers.
    pub async fn close(&self) {
        #[cfg(feature = "iroh")]
        self.quic.close().await;
    }

    /// Looks for the node on this network, if we were told to.
    #[cfg(feature = "lan")]
    fn look_nearby(&self, race: &mut Race, timeout: Duration) {
        if self.quic.looks_nearby() {
            race.attempts.push(Attempt { way: "this network".to_owned(), outcome: None });
            let (at, quic) = (race.attempts.len() - 1, self.quic.clone());
            race.start(at, Duration::ZERO, async move { quic.nearby(timeout).await });
        }
    }

    #[cfg(not(feature = "lan"))]
    #[allow(clippy::unused_self, reason = "with the feature it looks")]
    fn look_nearby(&self, _: &mut Race, _: Duration) {}

    fn start(&self, tcp: bool, race: &mut Race, timeout: Duration) {
        if !tcp {
            #[cfg(feature = "iroh")]
            if self.quic.has_ways() {
                race.attempts.push(Attempt { way: self.quic.words(), outcome: None });
                let at = race.attempts.len() - 1;
                let quic = self.quic.clone();
                race.start(at, Duration::ZERO, async move { quic.connect(timeout).await });
            }
            return;
        }
        for (turn, addr) in (0..).zip(&self.tcp) {
            race.attempts.push(Attempt { way: addr.clone(), outcome: None });
            let at = race.attempts.len() - 1;
            let (addr, key, expected) = (addr.clone(), self.key.clone(), self.expected);
            race.start(at, STAGGER * turn, async move {
                crate::connect(&addr, &key, expected, timeout).await
            });
        }
    }
}

/// The ways under trial.
#[derive(Default)]
struct Race {
    attempts: Vec<Attempt>,
    /// Ended when dropped.
    tasks: JoinSet<Tried>,
}

impl Race {
    fn start(
        &mut self,
        at: usize,
        wait: Duration,
        work: impl Future<Output = Result<Link, LinkError>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let begun = Instant::now();
            let outcome = work.await;
            Tried { at, took: begun.elapsed(), outcome }
        });
    }

    /// The first link, if one is made before all have failed or the time is up.
    async fn first(&mut self, within: Option<Duration>) -> Option<(usize, Link)> {
        let until = within.map(|within| tokio::time::Instant::now() + within);
        loop {
            let next = self.tasks.join_next();
            let tried = match until {
                Some(until) => tokio::time::timeout_at(until, next).await.ok()??,
                None => next.await?,
            };
            // A task that panicked is a defect, and has said so; the others may still get there.
            let Ok(Tried { at, took, outcome }) = tried else { continue };
            match outcome {
                Ok(link) => {
                    self.attempts[at].outcome = Some(Ok(took));
                    return Some((at, link));
                }
                Err(error) => self.attempts[at].outcome = Some(Err(error)),
            }
        }
    }
}

fn first(prefer: Prefer, tcp: &[String], has_quic: bool, tcp_has_bbr: bool) -> First {
    match prefer {
        Prefer::Tcp => First::Tcp(Why::Asked),
        Prefer::Quic => First::Quic(Why::Asked),
        Prefer::Auto if !has_quic => First::Tcp(Why::Only),
        Prefer::Auto if tcp.is_empty() => First::Quic(Why::Only),
        Prefer::Auto if tcp.iter().any(|addr| is_near(addr)) => First::Tcp(Why::Near),
        Prefer::Auto if tcp_has_bbr => First::Tcp(Why::TcpHasBbr),
        Prefer::Auto => First::Quic(Why::TcpHasNoBbr),
    }
}

/// Whether an address is one of this machine or of a network that is not routed (RFC 1918, RFC 3927,
/// RFC 4193, RFC 4291).
fn is_near(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => host == "localhost" || host.ends_with(".local"),
    }
}

/// The addresses that a `host:port` leads to.
#[cfg(feature = "iroh")]
async fn resolve(addr: &str) -> Result<Vec<std::net::SocketAddr>, LinkError> {
    use std::io;

    let unresolved = |source| LinkError::Resolve { addr: addr.to_owned(), source };
    let found: Vec<_> = tokio::net::lookup_host(addr).await.map_err(unresolved)?.collect();
    match found.is_empty() {
        true => Err(unresolved(io::ErrorKind::AddrNotAvailable.into())),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(of: &[&str]) -> Vec<String> {
        of.iter().map(|addr| (*addr).to_owned()).collect()
    }

    #[test]
    fn the_first_choice_follows_the_network_and_the_system() {
        let near = addrs(&["203.0.113.9:1", "192.168.1.4:1"]);
        let far = addrs(&["203.0.113.9:1"]);
        let cases = [
            (Prefer::Tcp, &far, true, false, First::Tcp(Why::Asked)),
            (Prefer::Quic, &far, true, true, First::Quic(Why::Asked)),
            (Prefer::Auto, &far, false, false, First::Tcp(Why::Only)),
            (Prefer::Auto, &Vec::new(), true, true, First::Quic(Why::Only)),
            (Prefer::Auto, &near, true, false, First::Tcp(Why::Near)),
            (Prefer::Auto, &far, true, true, First::Tcp(Why::TcpHasBbr)),
            (Prefer::Auto, &far, true, false, First::Quic(Why::TcpHasNoBbr)),
        ];
        for (prefer, tcp, quic, bbr, expected) in cases {
            assert_eq!(first(prefer, tcp, quic, bbr), expected);
        }
    }

    #[test]
    fn near_is_this_machine_and_networks_that_are_not_routed() {
        for addr in ["127.0.0.1:1", "[::1]:1", "10.1.2.3:1", "[fd00::1]:1", "nas.local:1"] {
            assert!(is_near(addr), "{addr}");
        }
        for addr in ["8.8.8.8:1", "city.example:1", "[2001:db8::1]:1"] {
            assert!(!is_near(addr), "{addr}");
        }
    }
}
