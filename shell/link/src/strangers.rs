//! Those who have connected and not yet said who they are: how many there may be, and who goes when
//! there are too many.
//!
//! Nobody waits outside because others hang around inside: a newcomer always gets a place, and the
//! one who has been longest in a handshake, of the address that has most of them, loses its own.
//! An attacker with many addresses then pushes out its own connections first.

use crate::{LinkError, Remote};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Bounds of whoever listens.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes at once; for one more, one that has lasted long is dropped.
    pub handshakes_max: usize,
    /// The same for those from one address.
    pub handshakes_per_address_max: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 128,
            handshakes_per_address_max: 64,
        }
    }
}

/// Addresses whose noise is remembered; past this nothing new is told.
const NOISY_MAX: usize = 1024;

/// Whose noise is told once: that of an address, or of a node behind a relay, which has none here.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Source {
    Ip(IpAddr),
    Relayed(Arc<str>),
}

/// Strangers of one listener; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Strangers {
    limits: LinkLimits,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By number, so oldest first; dropping the sender tells its handshake to stop.
    shaking: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    groups: HashMap<IpAddr, BTreeSet<u64>>,
    noisy: HashSet<Source>,
}

/// A place among the strangers, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    number: u64,
    group: IpAddr,
    pushed_out: oneshot::Receiver<()>,
}

impl Place {
    /// Does a handshake in this place, for as long as it may last and nobody else needs the place.
    pub(crate) async fn hold<T>(
        mut self,
        remote: &Remote,
        handshake: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let after = self.strangers.limits.handshake_timeout;
        tokio::select! {
            done = handshake => done,
            // The sender is never used, only dropped.
            _ = &mut self.pushed_out => Err(LinkError::PushedOut { remote: remote.clone() }),
            () = tokio::time::sleep(after) => {
                Err(LinkError::HandshakeTimeout { remote: remote.clone(), after })
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.inside().leave(self.number, self.group);
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, which one household has whole.
#[must_use]
pub fn group_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
        },
    }
}

impl Strangers {
    pub(crate) fn new(limits: LinkLimits) -> Self {
        Self { limits, inside: Arc::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one who comes from `ip`; somebody else may lose theirs.
    pub(crate) fn enter(&self, ip: IpAddr) -> Place {
        let LinkLimits { handshakes_max, handshakes_per_address_max, .. } = self.limits;
        let group = group_of(ip);
        let mut inside = self.inside();
        let here = inside.groups.get(&group).map_or(0, BTreeSet::len);
        if here >= handshakes_per_address_max {
            inside.push_out(group);
        } else if inside.shaking.len() >= handshakes_max
            && let Some(crowded) = inside.most_crowded()
        {
            inside.push_out(crowded);
        }
        inside.next += 1;
        let number = inside.next;
        let (stays, pushed_out) = oneshot::channel();
        inside.shaking.insert(number, (group, stays));
        inside.groups.entry(group).or_default().insert(number);
        drop(inside);
        Place { strangers: self.clone(), number, group, pushed_out }
    }

    /// Whether an error is worth a line in the log: the first of whoever is at fault.
    pub(crate) fn is_news(&self, error: &LinkError) -> bool {
        match error {
            LinkError::Noise { remote, .. }
            | LinkError::HandshakeTimeout { remote, .. }
            | LinkError::PushedOut { remote }
            | LinkError::Unproven { remote, .. }
            | LinkError::Frame { remote, .. }
            | LinkError::Lost { remote, .. } => self.is_first_of(remote),
            _ => true,
        }
    }

    /// Whether nothing was told yet of who is there; another process of this host is told of always.
    pub(crate) fn is_first_of(&self, remote: &Remote) -> bool {
        let source = match remote {
            Remote::Ip(addr) => Source::Ip(group_of(addr.ip())),
            Remote::Relay(node) => Source::Relayed(Arc::clone(node)),
            Remote::Local { .. } => return true,
        };
        let mut inside = self.inside();
        inside.noisy.len() < NOISY_MAX && inside.noisy.insert(source)
    }
}

impl Inside {
    fn leave(&mut self, number: u64, group: IpAddr) {
        self.shaking.remove(&number);
        if let Some(numbers) = self.groups.get_mut(&group) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// The address with most strangers; among equals the one whose oldest has been here longest.
    fn most_crowded(&self) -> Option<IpAddr> {
        let rank =
            |numbers: &BTreeSet<u64>| (numbers.len(), core::cmp::Reverse(numbers.first().copied()));
        let most = self.groups.iter().max_by_key(|(_, numbers)| rank(numbers));
        most.map(|(group, _)| *group)
    }

    fn push_out(&mut self, group: IpAddr) {
        let oldest = self.groups.get(&group).and_then(|numbers| numbers.first().copied());
        if let Some(oldest) = oldest {
            self.leave(oldest, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strangers(handshakes_max: usize, handshakes_per_address_max: usize) -> Strangers {
        let limits = LinkLimits::default();
        Strangers::new(LinkLimits { handshakes_max, handshakes_per_address_max, ..limits })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_pushed_out(place: &mut Place) -> bool {
        place.pushed_out.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn a_crowd_pushes_out_its_own_and_not_the_one_who_came_alone() {
        let strangers = strangers(8, 4);
        let mut member = strangers.enter(ip(1));
        let mut crowd: Vec<Place> =
            (0..30).map(|number| strangers.enter(ip(2 + number % 3))).collect();
        assert!(!is_pushed_out(&mut member));
        let left = crowd.iter_mut().filter_map(|place| (!is_pushed_out(place)).then_some(()));
        assert_eq!(left.count(), 7);
        assert_eq!(strangers.inside().shaking.len(), 8);
        drop(crowd);
        assert_eq!(strangers.inside().groups.len(), 1, "places are given back");
    }

    #[test]
    fn one_address_keeps_within_its_own_bound() {
        let strangers = strangers(100, 2);
        let mut first = strangers.enter(ip(1));
        let mut rest: Vec<Place> = (0..2).map(|_| strangers.enter(ip(1))).collect();
        assert!(is_pushed_out(&mut first));
        assert!(rest.iter_mut().all(|place| !is_pushed_out(place)));
    }

    #[test]
    fn one_household_is_one_address_in_ipv6_too() {
        let of = |text: &str| group_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn noise_is_news_once_an_address_and_once_a_node_behind_a_relay() {
        // Whoever came by a relay has no address here, and was news each time.
        let strangers = strangers(8, 4);
        let at = |last, port| Remote::Ip((ip(last), port).into());
        let relayed = |text: &str| Remote::Relay(text.into());
        for (remote, is_news) in [
            (at(1, 1), true),
            (at(1, 2), false),
            (at(2, 1), true),
            (relayed("https://relay, node a"), true),
            (relayed("https://relay, node b"), true),
            (relayed("https://relay, node a"), false),
        ] {
            let error = LinkError::PushedOut { remote };
            assert_eq!(strangers.is_news(&error), is_news, "{error}");
        }
    }
}
