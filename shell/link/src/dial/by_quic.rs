//! The ways that go by QUIC: one endpoint, made when it is first needed, for all of them together.

use super::resolve;
use crate::quic::{QuicAddr, QuicEndpoint, QuicOptions};
use crate::{Link, LinkError, RelayAddr, Way};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::SecretKey;
use tokio::sync::Mutex;

/// How to reach one node by QUIC.
#[derive(Clone, Debug)]
pub(super) struct ByQuic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: SecretKey,
    expected: NodeId,
    direct: Vec<String>,
    relays: Vec<RelayAddr>,
    /// Every way is within this machine: so is the socket.
    loopback: bool,
    lan: bool,
    endpoint: Mutex<Option<Arc<QuicEndpoint>>>,
}

impl ByQuic {
    pub(super) fn new(
        key: &SecretKey,
        expected: NodeId,
        ways: &[Way],
        wanted: bool,
        lan: bool,
    ) -> Self {
        let (mut direct, mut relays) = (Vec::new(), Vec::new());
        let quic = ways.iter().filter(|_| wanted);
        for way in quic.clone() {
            match way {
                Way::Quic(addr) => direct.push(addr.clone()),
                Way::Relay(relay) => relays.push(relay.clone()),
                Way::Tcp(_) => {}
            }
        }
        let inner = Inner {
            key: key.clone(),
            expected,
            direct,
            relays,
            loopback: !ways.is_empty() && ways.iter().all(Way::is_loopback),
            lan: lan && wanted,
            endpoint: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    pub(super) fn has_ways(&self) -> bool {
        !self.0.direct.is_empty() || !self.0.relays.is_empty()
    }

    #[cfg(feature = "lan")]
    pub(super) fn looks_nearby(&self) -> bool {
        self.0.lan && !self.0.loopback
    }

    pub(super) fn words(&self) -> String {
        let direct = self.0.direct.iter().map(|addr| Way::Quic(addr.clone()).to_string());
        let relays = self.0.relays.iter().map(|relay| Way::Relay(relay.clone()).to_string());
        direct.chain(relays).collect::<Vec<_>>().join(" or ")
    }

    pub(super) async fn connect(&self, timeout: Duration) -> Result<Link, LinkError> {
        let (mut direct, mut unresolved) = (Vec::new(), None);
        for addr in &self.0.direct {
            match resolve(addr).await {
                Ok(found) => direct.extend(found),
                Err(error) => unresolved = Some(error),
            }
        }
        let relay = self.0.relays.first().map(|relay| relay.url.clone());
        if let (true, None, Some(error)) = (direct.is_empty(), &relay, unresolved) {
            return Err(error);
        }
        let addr = QuicAddr { node: self.0.expected, direct, relay };
        self.endpoint(false).await?.connect(&addr, timeout).await
    }

    /// Looks for the node on this network, by its key.
    #[cfg(feature = "lan")]
    pub(super) async fn nearby(&self, timeout: Duration) -> Result<Link, LinkError> {
        let endpoint = self.endpoint(true).await?;
        let addr = QuicAddr { node: self.0.expected, direct: Vec::new(), relay: None };
        let link = endpoint.connect(&addr, timeout).await;
        endpoint.look_no_more();
        link
    }

    /// The endpoint of all links, or one more that looks around.
    async fn endpoint(&self, lan: bool) -> Result<Arc<QuicEndpoint>, LinkError> {
        let mut held = self.0.endpoint.lock().await;
        if let Some(endpoint) = &*held {
            #[cfg(feature = "lan")]
            if lan {
                endpoint.look_around()?;
            }
            return Ok(Arc::clone(endpoint));
        }
        let any: [SocketAddr; 2] = match self.0.loopback {
            true => [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()],
            false => [(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()],
        };
        let options = QuicOptions {
            bind: any.to_vec(),
            relays: self.0.relays.clone(),
            accepts: false,
            #[cfg(feature = "lan")]
            lan,
            ..QuicOptions::on(any[0])
        };
        let made = match QuicEndpoint::bind(&self.0.key, options.clone()).await {
            // Many a machine has no IPv6.
            Err(LinkError::Bind { .. }) => {
                let bind = vec![any[0]];
                QuicEndpoint::bind(&self.0.key, QuicOptions { bind, ..options }).await
            }
            made => made,
        };
        let made = Arc::new(made?);
        *held = Some(Arc::clone(&made));
        Ok(made)
    }

    pub(super) async fn close(&self) {
        if let Some(endpoint) = self.0.endpoint.lock().await.take() {
            endpoint.close().await;
        }
    }
}
