//! QUIC by iroh: links between homes, through their routers and, where that fails, by way of a relay
//! that the city itself runs.
//!
//! Not for: servers on one network, which have [`connect`](crate::connect) at half the cost.
//!
//! Invariants: a node's key is its key here too; nothing is asked of an outside service, no relay and
//! no directory but those a caller names; strangers have the same bounds as over TCP, and small
//! windows.

mod congestion;
#[cfg(feature = "lan")]
mod lan;
mod lanes;
#[cfg(feature = "relay")]
mod relay;
mod settings;
#[cfg(test)]
mod tests;

#[cfg(feature = "relay")]
pub use relay::Relay;
pub use settings::{Congestion, LANE_WINDOW_BYTES, LANES, LANES_MAX};

use crate::counted::{Counters, Metered};
use crate::strangers::{Place, Strangers};
use crate::way::RelayAddr;
use crate::{Link, LinkError, LinkKind, LinkLimits, RelayFault, Remote, key, key::ALPN};
use iroh::endpoint::{
    Accepting, ConnectError, ConnectWithOptsError, ConnectingError, Connection, ConnectionError,
    Incoming as QuicIncoming, IncomingAddr, RelayMode, presets,
};
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayUrl, TransportAddr};
use iroh_relay::RelayQuicConfig;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::SecretKey;

/// The alerts of TLS that a peer's wrong key and wrong protocol give, as codes of QUIC (RFC 9001
/// section 4.8: 0x100 and the alert).
const ALERT_UNKNOWN_CA: u64 = 0x100 + 48;
const ALERTS: core::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// How an endpoint is set up.
#[derive(Clone, Debug)]
pub struct QuicOptions {
    /// Where to listen: at most one address of each family. None at all where UDP does not pass: then
    /// everything goes by way of the relays.
    pub bind: Vec<SocketAddr>,
    /// Relays to use; none by default.
    pub relays: Vec<RelayAddr>,
    /// Whether others may connect to us.
    pub accepts: bool,
    /// Whether nodes of this network are looked for by their key, and, when others may connect to us,
    /// told where we are (multicast DNS).
    #[cfg(feature = "lan")]
    pub lan: bool,
    /// Bulk lanes of the links we make: a mebibyte on its way for each. 1 to [`LANES_MAX`].
    pub lanes: u8,
    /// How we find our rate.
    pub congestion: Congestion,
    /// Bounds for strangers.
    pub limits: LinkLimits,
}

impl QuicOptions {
    /// Listens on `addr`, without relays.
    #[must_use]
    pub fn on(addr: SocketAddr) -> Self {
        Self {
            bind: vec![addr],
            relays: Vec::new(),
            accepts: true,
            #[cfg(feature = "lan")]
            lan: false,
            lanes: LANES,
            congestion: Congestion::default(),
            limits: LinkLimits::default(),
        }
    }
}

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicAddr {
    /// Its key.
    pub node: NodeId,
    /// Its UDP addresses, as far as they are known.
    pub direct: Vec<SocketAddr>,
    /// The relay it listens at.
    pub relay: Option<String>,
}

/// Makes links and takes them, over one UDP socket.
#[derive(Debug)]
pub struct QuicEndpoint {
    endpoint: Endpoint,
    lanes: u8,
    lane_window_bytes: u32,
    relays: bool,
    strangers: Strangers,
}

/// A connection whose handshake has not been done.
#[derive(Debug)]
pub struct QuicStranger {
    accepting: Result<Accepting, ConnectionError>,
    remote: Remote,
    lane_window_bytes: u32,
    place: Place,
}

impl QuicEndpoint {
    /// Opens the sockets, as the node of `key`.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`], [`LinkError::Bind`] or [`LinkError::Relay`].
    ///
    /// # Panics
    /// When `options` has neither an address nor a relay, no bulk lanes, or more than there may be.
    pub async fn bind(key: &SecretKey, options: QuicOptions) -> Result<Self, LinkError> {
        Self::bind_with(key, options, LANE_WINDOW_BYTES).await
    }

    async fn bind_with(
        key: &SecretKey,
        options: QuicOptions,
        lane_window_bytes: u32,
    ) -> Result<Self, LinkError> {
        #[cfg(feature = "lan")]
        let lan = options.lan;
        let QuicOptions { bind, relays, accepts, lanes, congestion, limits, .. } = options;
        assert!((1..=LANES_MAX).contains(&lanes), "{lanes} bulk lanes, 1 to {LANES_MAX} may be");
        assert!(!bind.is_empty() || !relays.is_empty(), "an address to bind or a relay");
        let first = bind.first().copied().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
        let configs = relays.iter().map(|relay| relay_config(relay, key.node()));
        let configs = configs.collect::<Result<Vec<_>, _>>()?;
        let mode = match configs.is_empty() {
            true => RelayMode::Disabled,
            false => RelayMode::Custom(RelayMap::from_iter(configs)),
        };
        let alpns = if accepts { vec![ALPN.to_vec()] } else { Vec::new() };
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(iroh::SecretKey::from_bytes(&key.seed()))
            .alpns(alpns)
            .transport_config(settings::transport(lanes, lane_window_bytes, congestion))
            .max_tls_tickets(0)
            .relay_mode(mode)
            .clear_address_lookup()
            .clear_ip_transports();
        // The relays of members prove a key; others have certificates that everybody knows.
        if let Some(pass) = relays.iter().find_map(|relay| relay.pass.as_ref()) {
            let node = pass.key().node();
            let only = move |provider| Ok(key::only(node, provider));
            builder =
                builder.ca_tls_config(CaTlsConfig::custom_server_cert_verifier(Arc::new(only)));
        }
        for addr in bind {
            builder = builder
                .bind_addr(addr)
                .map_err(|error| LinkError::Bind { addr, source: io::Error::other(error) })?;
        }
        let endpoint = builder.bind().await.map_err(|error| bind_error(first, error))?;
        let strangers = Strangers::new(limits);
        let relays = !relays.is_empty();
        let made = Self { endpoint, lanes, lane_window_bytes, relays, strangers };
        #[cfg(feature = "lan")]
        if lan {
            made.begin_lan(accepts)?;
        }
        Ok(made)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// Where others of this network may reach it: as [`QuicEndpoint::local_addrs`], with the addresses
    /// of this machine in place of "any".
    #[must_use]
    pub fn reachable_addrs(&self) -> Vec<SocketAddr> {
        let mut addrs: Vec<SocketAddr> = self.endpoint.addr().ip_addrs().copied().collect();
        addrs.sort_by_key(|addr| (addr.is_ipv6(), *addr));
        addrs
    }

    /// Waits until a relay takes what is meant for us; false when none did in time.
    pub async fn relayed(&self, timeout: Duration) -> bool {
        self.relays && tokio::time::timeout(timeout, self.endpoint.online()).await.is_ok()
    }

    /// Connects to `addr`, by all its ways at once; what answers is the best of them. Only the node
    /// it names will do.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::WrongKey`], [`LinkError::Noise`], [`LinkError::Lost`]
    /// or [`LinkError::Relay`].
    pub async fn connect(&self, addr: &QuicAddr, timeout: Duration) -> Result<Link, LinkError> {
        let target = self.target(addr)?;
        let unreachable = |source| LinkError::Unreachable { addr: words(addr), source };
        let work = async {
            let connection = self
                .endpoint
                .connect(target, ALPN)
                .await
                .map_err(|error| connect_error(addr, error))?;
            let (remote, counters) = (remote_of(&connection), counters_of(&connection));
            let lanes = lanes::open(&connection, self.lanes, self.lane_window_bytes, &counters)
                .await
                .map_err(|source| LinkError::Lost { remote: remote.clone(), source })?;
            Ok(Link::new(LinkKind::Iroh, addr.node, remote, counters, lanes))
        };
        tokio::time::timeout(timeout, work)
            .await
            .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))
    }

    fn target(&self, addr: &QuicAddr) -> Result<EndpointAddr, LinkError> {
        let id = iroh::EndpointId::from_bytes(addr.node.as_bytes()).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, error);
            LinkError::Resolve { addr: addr.node.to_string(), source }
        })?;
        let mut target = EndpointAddr::new(id);
        for direct in &addr.direct {
            target = target.with_ip_addr(*direct);
        }
        if let Some(relay) = &addr.relay {
            if !self.relays {
                return Err(LinkError::Relay { relay: relay.clone(), why: RelayFault::Disabled });
            }
            target = target.with_relay_url(url(relay)?);
        }
        Ok(target)
    }

    /// The next connection. Do its handshake in a task of its own. May be dropped and called anew.
    ///
    /// # Errors
    /// [`LinkError::Listen`] when the endpoint was closed.
    pub async fn accept(&self) -> Result<QuicStranger, LinkError> {
        let Some(incoming) = self.endpoint.accept().await else {
            let source = io::ErrorKind::NotConnected.into();
            return Err(LinkError::Listen { source });
        };
        let (remote, ip) = origin(&incoming);
        let place = self.strangers.enter(ip);
        // What the first packet holds may be refused already: another protocol, for one.
        let accepting = incoming.accept();
        let lane_window_bytes = self.lane_window_bytes;
        Ok(QuicStranger { accepting, remote, lane_window_bytes, place })
    }

    /// Whether a failed handshake is worth a line in the log: the first from its address.
    #[must_use]
    pub fn is_news(&self, error: &LinkError) -> bool {
        self.strangers.is_news(error)
    }

    /// Ends every link, and tells the peers.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

impl QuicStranger {
    /// Where it comes from.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Does the handshake. Whose key it is says [`Link::peer`]; what it may do, its HELLO.
    ///
    /// # Errors
    /// [`LinkError::Noise`], [`LinkError::HandshakeTimeout`] or [`LinkError::Lost`]; the connection is
    /// dropped.
    pub async fn handshake(self) -> Result<Link, LinkError> {
        let Self { accepting, remote, lane_window_bytes, place } = self;
        let work = async {
            let accepting = accepting.map_err(|source| handshake_error(remote.clone(), source))?;
            let connection =
                accepting.await.map_err(|error| accept_error(remote.clone(), error))?;
            let peer = NodeId(*connection.remote_id().as_bytes());
            let counters = counters_of(&connection);
            let lanes = lanes::accept(&connection, lane_window_bytes, &counters)
                .await
                .map_err(|source| lanes_error(remote.clone(), source))?;
            Ok(Link::new(LinkKind::Iroh, peer, remote_of(&connection), counters, lanes))
        };
        place.hold(&remote, work).await
    }
}

/// A relay as the library has it. It asks for our token, never for the pass itself.
fn relay_config(relay: &RelayAddr, node: NodeId) -> Result<RelayConfig, LinkError> {
    // Ours tells us our address on the port of the same number.
    let tells = relay.pass.as_ref().and(relay.port()).map(RelayQuicConfig::new);
    let config = RelayConfig::new(url(&relay.url)?, tells);
    Ok(match &relay.pass {
        Some(pass) => config.with_auth_token(pass.token(node)),
        None => config,
    })
}

fn url(relay: &str) -> Result<RelayUrl, LinkError> {
    relay.parse().map_err(|_| LinkError::Relay { relay: relay.to_owned(), why: RelayFault::NoUrl })
}

fn words(addr: &QuicAddr) -> String {
    let direct = addr.direct.iter().map(ToString::to_string);
    let ways: Vec<String> = direct.chain(addr.relay.clone()).collect();
    format!("node {} at {}", addr.node.short(), ways.join(", "))
}

/// Who comes, and the address that its handshake counts for: those of all relays count as one.
fn origin(incoming: &QuicIncoming) -> (Remote, IpAddr) {
    match incoming.remote_addr() {
        IncomingAddr::Ip(addr) => (Remote::Ip(addr), addr.ip()),
        IncomingAddr::Relay { url, endpoint_id } => {
            let node = NodeId(*endpoint_id.as_bytes());
            let remote = Remote::Relay(format!("{url}, node {}", node.short()).into());
            (remote, Ipv4Addr::UNSPECIFIED.into())
        }
        other => (Remote::Relay(format!("{other:?}").into()), Ipv4Addr::UNSPECIFIED.into()),
    }
}

/// The way that is used now; it may change to a better one while the link lives.
fn remote_of(connection: &Connection) -> Remote {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
    match path.map(|path| path.remote_addr().clone()) {
        Some(TransportAddr::Ip(addr)) => Remote::Ip(addr),
        Some(TransportAddr::Relay(url)) => Remote::Relay(url.to_string().into()),
        other => Remote::Relay(format!("{other:?}").into()),
    }
}

fn counters_of(connection: &Connection) -> Arc<Counters> {
    let connection = connection.weak_handle();
    Arc::new(Counters::metered(Box::new(move || {
        let connection = connection.upgrade()?;
        let stats = connection.stats();
        let (up, down) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
        Some(Metered { up, down, remote: remote_of(&connection) })
    })))
}

fn bind_error(
    addr: SocketAddr,
    error: impl core::error::Error + Send + Sync + 'static,
) -> LinkError {
    let mut cause: Option<&(dyn core::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::AddrInUse
        {
            return LinkError::PortInUse { addr };
        }
        cause = error.source();
    }
    LinkError::Bind { addr, source: io::Error::other(error) }
}

fn connect_error(addr: &QuicAddr, error: ConnectError) -> LinkError {
    let remote = match (addr.direct.first(), &addr.relay) {
        (Some(direct), _) => Remote::Ip(*direct),
        (None, Some(relay)) => Remote::Relay(relay.as_str().into()),
        (None, None) => Remote::Relay("none".into()),
    };
    let source = match error {
        ConnectError::Connection { source, .. }
        | ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => source,
        ConnectError::Connect { source: ConnectWithOptsError::Noq { source, .. }, .. } => {
            return LinkError::Unreachable { addr: words(addr), source: io::Error::other(source) };
        }
        other => {
            return LinkError::Unreachable { addr: words(addr), source: io::Error::other(other) };
        }
    };
    match alert(&source) {
        Some(ALERT_UNKNOWN_CA) => LinkError::WrongKey { remote, expected: addr.node, found: None },
        Some(_) => LinkError::Noise { remote, kind: LinkKind::Iroh, source: source.into() },
        None if matches!(source, ConnectionError::TimedOut) => {
            LinkError::Unreachable { addr: words(addr), source: source.into() }
        }
        None => LinkError::Lost { remote, source: source.into() },
    }
}

fn accept_error(remote: Remote, error: ConnectingError) -> LinkError {
    match error {
        ConnectingError::ConnectionError { source, .. } => handshake_error(remote, source),
        other => LinkError::Noise { remote, kind: LinkKind::Iroh, source: io::Error::other(other) },
    }
}

fn handshake_error(remote: Remote, source: ConnectionError) -> LinkError {
    match alert(&source) {
        Some(_) => LinkError::Noise { remote, kind: LinkKind::Iroh, source: source.into() },
        None => LinkError::Lost { remote, source: source.into() },
    }
}

fn lanes_error(remote: Remote, source: io::Error) -> LinkError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            LinkError::Noise { remote, kind: LinkKind::Iroh, source }
        }
        _ => LinkError::Lost { remote, source },
    }
}

/// The alert of TLS that ended a connection, if one did.
fn alert(error: &ConnectionError) -> Option<u64> {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => return None,
    };
    ALERTS.contains(&code).then_some(code)
}
