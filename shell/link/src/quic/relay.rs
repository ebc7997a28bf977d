//! A relay: passes packets between nodes of a city that reach each other in no other way. The city
//! runs it, or anybody whose machine both can reach.
//!
//! Not for: the public. Who has the pass is let in; everybody else is turned away before anything is
//! passed on. The pass itself does not travel: a node shows a token that is good with its own key
//! alone, and proves the key. What passes is encrypted from member to member, so the relay sees who
//! talks to whom and how much, and nothing else; that is why plain HTTP will do to reach it.
//!
//! On the UDP port of the same number it tells whoever asks from which address the question came
//! (QUIC address discovery, draft-seemann-quic-address-discovery): with that, two nodes behind routers
//! find a straight way to each other. It proves a key that the pass gives, so nobody else's answer is
//! taken; who asks tells nothing of itself.
//!
//! Off unless an operator asks for it.

use crate::way::RelayPass;
use crate::{LinkError, key};
use iroh_relay::server::{
    Access, AccessControl, ClientRequest, QuicConfig, RelayConfig, Server, ServerConfig, SpawnError,
};
use std::net::SocketAddr;
use suanli_base::NodeId;

/// How often a free port is looked for that TCP and UDP both have.
const PORT_TRIES: usize = 8;

/// A running relay. It ends when dropped.
pub struct Relay {
    server: Server,
    addr: SocketAddr,
}

impl core::fmt::Debug for Relay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Relay({})", self.addr)
    }
}

struct Holders(RelayPass);

impl core::fmt::Debug for Holders {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Holders")
    }
}

impl AccessControl for Holders {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let node = NodeId(*request.endpoint_id().as_bytes());
        let token = request.auth_token();
        if token.is_some_and(|token| self.0.admits(node, &token)) {
            Access::Allow
        } else {
            Access::Deny {
                reason: Some("this relay wants the pass that a ticket holds".to_owned()),
            }
        }
    }
}

impl Relay {
    /// Listens on `addr` for those who have `pass`.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`] or [`LinkError::Bind`].
    pub async fn start(addr: SocketAddr, pass: RelayPass) -> Result<Self, LinkError> {
        let addr = free(addr)?;
        let mut tell = QuicConfig::new(addr);
        tell.server_config = Some(key::answering(&pass.key()));
        let mut relay = RelayConfig::new(addr);
        relay.access = std::sync::Arc::new(Holders(pass));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(tell);
        let server = Server::spawn(config).await.map_err(|error| refused(addr, error))?;
        let addr = server.http_addr().unwrap_or(addr);
        Ok(Self { server, addr })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What nodes reach it by, when `host` is the name or address under which they see this machine.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        match host.contains(':') && !host.starts_with('[') {
            true => format!("http://[{host}]:{}", self.addr.port()),
            false => format!("http://{host}:{}", self.addr.port()),
        }
    }

    /// Ends it; members notice at once.
    pub async fn close(self) {
        // It ends either way; how its tasks ended tells nobody anything.
        let _ = self.server.shutdown().await;
    }
}

/// A port that is free for TCP and for UDP, in place of port 0.
fn free(mut addr: SocketAddr) -> Result<SocketAddr, LinkError> {
    let asked = addr;
    for _ in 0..PORT_TRIES {
        if addr.port() != 0 {
            break;
        }
        let bound = |source| LinkError::of_bind(asked, source);
        let tcp = std::net::TcpListener::bind(asked).map_err(bound)?;
        let found = tcp.local_addr().map_err(bound)?;
        if std::net::UdpSocket::bind(found).is_ok() {
            addr = found;
        }
    }
    Ok(addr)
}

fn refused(addr: SocketAddr, error: SpawnError) -> LinkError {
    match error {
        SpawnError::BindTcpListener { source, .. } => LinkError::of_bind(addr, source),
        other => super::bind_error(addr, other),
    }
}
