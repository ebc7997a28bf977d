//! The doors of a city: where it listens, the relay that it runs or uses, and the ways to it that its
//! tickets name.
//!
//! TCP and QUIC listen on the same address, and on the same port where it is free. A relay is for
//! cities that nobody can reach straight: then members meet the city there.
//!
//! Not for: who may come in, which the node decides at HELLO.
//!
//! Invariant: what is shown ([`Doors::shown`]) never has the pass of a relay in it; only tickets do.

use super::{Remembered, environment};
use crate::control::{DoorOptions, Refusal, RefusalClass};
use crate::net::{self, Door};
use crate::relay::near;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use suanli_identity::{SecretKey, TICKET_ADDRESSES_MAX};
use suanli_link::quic::{QuicEndpoint, QuicOptions, Relay};
use suanli_link::{LinkError, LinkLimits, Listener, RelayAddr, RelayPass, Way};

/// The key that the pass of this city's relay is made of.
const RELAY_KEY: &str = "relay.key";
/// Addresses of this machine that tickets name, at most.
const OWN_ADDRESSES_MAX: usize = 3;
/// How long a relay may take to let us in before the operator is told.
const RELAY_WITHIN: Duration = Duration::from_secs(10);

/// What listens for a city.
pub(super) struct Doors {
    tcp: Arc<Door>,
    quic: Option<Arc<QuicEndpoint>>,
    relay: Option<Relay>,
    /// The port of TCP, which the next start takes again.
    pub port: u16,
    ways: Vec<Way>,
}

impl Doors {
    /// Opens them.
    pub(super) async fn open(
        options: &DoorOptions,
        remembered: &Remembered,
        folder: &Path,
        key: &SecretKey,
    ) -> Result<Self, Refusal> {
        let advertised = advertised(&options.advertise)?;
        let tcp = listen(options.listen, remembered.port, key).await?;
        let address = tcp.local_addr().map_err(|error| environment(error.to_string()))?;
        let relay = match options.relay {
            Some(addr) => Some(own_relay(addr, folder).await?),
            None => None,
        };
        let meets_at = match (&relay, &options.via) {
            (Some((relay, pass)), _) => Some(RelayAddr {
                url: relay.url(&near(relay.local_addr().ip()).to_string()),
                pass: Some(pass.clone()),
            }),
            (None, via) => via.clone(),
        };
        let quic = match options.quic {
            true => open_quic(options, address, meets_at.as_ref(), key).await,
            false => None,
        };
        let hosts = hosts(&advertised, address, quic.as_deref());
        let mut ways = ways(advertised, &hosts, address, quic.as_deref());
        if quic.is_some() {
            ways.truncate(TICKET_ADDRESSES_MAX - 1);
            let relayed = meets_at.as_ref().map(|at| {
                let told = relay.as_ref().and_then(|(relay, pass)| {
                    let host = hosts.first()?;
                    Some(RelayAddr { url: relay.url(host), pass: Some(pass.clone()) })
                });
                Way::Relay(told.unwrap_or_else(|| at.clone()))
            });
            ways.extend(relayed.filter(|way| !ways.contains(way)));
        }
        ways.truncate(TICKET_ADDRESSES_MAX);
        if let (Some(quic), Some(at)) = (&quic, &meets_at) {
            watch_relay(Arc::clone(quic), at.url.clone());
        }
        let tcp = Arc::new(Door::Tcp(tcp));
        let relay = relay.map(|(relay, _)| relay);
        Ok(Self { tcp, quic, relay, port: address.port(), ways })
    }

    /// All that take connections in.
    pub(super) fn all(&self) -> Vec<Arc<Door>> {
        let quic = self.quic.as_ref().map(|quic| Arc::new(Door::Quic(Arc::clone(quic))));
        core::iter::once(Arc::clone(&self.tcp)).chain(quic).collect()
    }

    /// What tickets name; with the pass of a relay.
    pub(super) fn for_tickets(&self) -> Vec<String> {
        self.ways.iter().map(Way::secret_text).collect()
    }

    /// What people and programs are shown.
    pub(super) fn shown(&self) -> Vec<String> {
        self.ways.iter().map(Way::to_string).collect()
    }

    /// Ends the links by QUIC and the relay, and tells the peers.
    pub(super) async fn close(self) {
        if let Some(quic) = self.quic {
            quic.close().await;
        }
        if let Some(relay) = self.relay {
            relay.close().await;
        }
    }
}

fn advertised(texts: &[String]) -> Result<Vec<Way>, Refusal> {
    let ways = texts.iter().map(|text| text.parse::<Way>());
    ways.collect::<Result<_, _>>().map_err(|error| {
        let next = "correct --advertise, or advertise in the configuration file";
        Refusal::new(RefusalClass::Usage, error.to_string(), next)
    })
}

/// The port of the last start when none is asked for and it is free, else any.
async fn listen(wanted: SocketAddr, last: u16, key: &SecretKey) -> Result<Listener, Refusal> {
    if wanted.port() == 0 && last != 0 {
        let again = SocketAddr::new(wanted.ip(), last);
        if let Ok(listener) = Listener::bind(again, key, LinkLimits::default()).await {
            return Ok(listener);
        }
    }
    let listener = Listener::bind(wanted, key, LinkLimits::default()).await;
    listener.map_err(|error| environment(error.to_string()))
}

async fn own_relay(addr: SocketAddr, folder: &Path) -> Result<(Relay, RelayPass), Refusal> {
    let pass = RelayPass::from_bytes(*net::key_of(&folder.join(RELAY_KEY))?.seed());
    let relay = Relay::start(addr, pass.clone()).await;
    Ok((relay.map_err(|error| environment(error.to_string()))?, pass))
}

/// A city without UDP is a city still; its operator is told.
async fn open_quic(
    options: &DoorOptions,
    tcp: SocketAddr,
    relay: Option<&RelayAddr>,
    key: &SecretKey,
) -> Option<Arc<QuicEndpoint>> {
    let lan = options.lan.unwrap_or(!tcp.ip().is_loopback());
    let at = |port| QuicOptions {
        relays: relay.cloned().into_iter().collect(),
        lan,
        ..QuicOptions::on(SocketAddr::new(tcp.ip(), port))
    };
    let mut made = QuicEndpoint::bind(key, at(tcp.port())).await;
    if options.listen.port() == 0 && matches!(made, Err(LinkError::PortInUse { .. })) {
        made = QuicEndpoint::bind(key, at(0)).await;
    }
    match made {
        Ok(quic) => Some(Arc::new(quic)),
        Err(error) => {
            eprintln!("suanli: members can reach this city by TCP only: {error}");
            None
        }
    }
}

fn watch_relay(quic: Arc<QuicEndpoint>, url: String) {
    tokio::spawn(async move {
        if !quic.relayed(RELAY_WITHIN).await {
            eprintln!(
                "suanli: the relay {url} has not let this city in after {} s: is its address right, \
                 and its pass? Members reach the city in other ways only; it keeps trying",
                RELAY_WITHIN.as_secs()
            );
        }
    });
}

/// The hosts under which others reach this machine: as advertised, else its own addresses.
fn hosts(advertised: &[Way], tcp: SocketAddr, quic: Option<&QuicEndpoint>) -> Vec<String> {
    let host = |addr: &str| {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    };
    let mut hosts: Vec<String> = advertised
        .iter()
        .filter_map(|way| match way {
            Way::Tcp(addr) | Way::Quic(addr) => Some(host(addr)),
            Way::Relay(_) => None,
        })
        .collect();
    if hosts.is_empty() {
        let mut ips = match (tcp.ip().is_unspecified(), quic) {
            (false, _) => vec![tcp.ip()],
            (true, Some(quic)) => quic.reachable_addrs().iter().map(SocketAddr::ip).collect(),
            (true, None) => Vec::new(),
        };
        ips.retain(|ip| !tcp.ip().is_unspecified() || !ip.is_loopback());
        if ips.is_empty() {
            ips = crate::network::addresses();
            ips.retain(|ip| ip.is_ipv4() || tcp.is_ipv6());
        }
        // A machine without any network can still be reached by itself.
        if ips.is_empty() {
            ips.push(near(tcp.ip()));
        }
        hosts = ips.iter().map(IpAddr::to_string).collect();
    }
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts.truncate(OWN_ADDRESSES_MAX);
    hosts
}

/// What is advertised, else every host; `host:port` stands for TCP and, where it is open, QUIC.
fn ways(
    advertised: Vec<Way>,
    hosts: &[String],
    tcp: SocketAddr,
    quic: Option<&QuicEndpoint>,
) -> Vec<Way> {
    let quic_port = quic.and_then(|quic| quic.local_addrs().first().map(SocketAddr::port));
    let joined = |host: &str, port: u16| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    if advertised.is_empty() {
        let tcp = hosts.iter().map(|host| Way::Tcp(joined(host, tcp.port())));
        let quic = hosts.iter().filter_map(|host| Some(Way::Quic(joined(host, quic_port?))));
        return tcp.chain(quic).collect();
    }
    // Whoever names the ways one by one is not told others.
    let plain = advertised.iter().all(|way| matches!(way, Way::Tcp(_)));
    let also = |way: &Way| match way {
        Way::Tcp(addr) if plain && quic_port == Some(tcp.port()) => Some(Way::Quic(addr.clone())),
        _ => None,
    };
    let quic: Vec<Way> = advertised.iter().filter_map(also).collect();
    advertised.into_iter().chain(quic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ways: &[Way]) -> Vec<String> {
        ways.iter().map(Way::to_string).collect()
    }

    #[test]
    fn hosts_are_those_advertised_else_those_of_the_machine() {
        let tcp = "0.0.0.0:7000".parse().unwrap();
        let named = advertised(&["city.example:9".into(), "quic:[2001:db8::1]:9".into()]).unwrap();
        assert_eq!(hosts(&named, tcp, None), ["city.example", "2001:db8::1"]);
        let own = hosts(&[], tcp, None);
        assert!(!own.is_empty() && !own.contains(&"0.0.0.0".to_owned()), "{own:?}");
        assert_eq!(hosts(&[], "127.0.0.1:7000".parse().unwrap(), None), ["127.0.0.1"]);
    }

    #[test]
    fn without_quic_only_tcp_is_named() {
        let tcp = "127.0.0.1:7000".parse().unwrap();
        let hosts = ["127.0.0.1".to_owned(), "fd00::1".to_owned()];
        assert_eq!(
            texts(&ways(Vec::new(), &hosts, tcp, None)),
            ["127.0.0.1:7000", "[fd00::1]:7000"]
        );
    }

    #[tokio::test]
    async fn a_plain_address_stands_for_tcp_and_quic_and_a_kind_for_itself() {
        let key = SecretKey::from_seed(&[9; 32]);
        let quic = QuicEndpoint::bind(&key, QuicOptions::on("127.0.0.1:0".parse().unwrap()));
        let quic = quic.await.unwrap();
        let at = quic.local_addrs()[0];
        let plain = advertised(&["city.example:9".into()]).unwrap();
        let both = ways(plain, &[], at, Some(&quic));
        assert_eq!(texts(&both), ["city.example:9", "quic:city.example:9"]);
        let kind = advertised(&["quic:city.example:9".into()]).unwrap();
        assert_eq!(texts(&ways(kind, &[], at, Some(&quic))), ["quic:city.example:9"]);
        quic.close().await;
    }

    #[test]
    fn an_address_that_is_none_is_refused_before_anything_listens() {
        let refused = advertised(&["nonsense".into()]).unwrap_err();
        assert_eq!(refused.class, RefusalClass::Usage);
    }
}
