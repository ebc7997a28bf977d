//! The relay of a city: passes packets between members that reach each other in no other way.
//!
//! Not for: the public. Who is let in says the city, by key; everybody else is turned away before
//! anything is passed on. What passes is encrypted from member to member, so the relay sees who
//! talks to whom and how much, and nothing else; that is why plain HTTP will do to reach it.
//!
//! Off unless an operator asks for it.

use crate::LinkError;
use iroh_relay::server::{
    Access, AccessControl, ClientRequest, RelayConfig, Server, ServerConfig, SpawnError,
};
use std::io;
use std::net::SocketAddr;
use suanli_base::NodeId;

/// Whether the node of a key may use the relay.
pub type Admits = Box<dyn Fn(NodeId) -> bool + Send + Sync>;

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

struct Members(Admits);

impl core::fmt::Debug for Members {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Members")
    }
}

impl AccessControl for Members {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        if (self.0)(NodeId(*request.endpoint_id().as_bytes())) {
            Access::Allow
        } else {
            Access::Deny { reason: Some("this relay is for members of its city".to_owned()) }
        }
    }
}

impl Relay {
    /// Listens on `addr` for those whom `admits` lets in; it is asked once per connection, about a key
    /// that was proven, and must answer at once.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`] or [`LinkError::Bind`].
    pub async fn start(addr: SocketAddr, admits: Admits) -> Result<Self, LinkError> {
        let mut relay = RelayConfig::new(addr);
        relay.access = std::sync::Arc::new(Members(admits));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        let server = Server::spawn(config).await.map_err(|error| refused(addr, error))?;
        let addr = server.http_addr().unwrap_or(addr);
        Ok(Self { server, addr })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What members reach it by, when `host` is the name or address under which they see this machine.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        format!("http://{host}:{}", self.addr.port())
    }

    /// Ends it; members notice at once.
    pub async fn close(self) {
        // It ends either way; how its tasks ended tells nobody anything.
        let _ = self.server.shutdown().await;
    }
}

fn refused(addr: SocketAddr, error: SpawnError) -> LinkError {
    match error {
        SpawnError::BindTcpListener { source, .. } => LinkError::of_bind(addr, source),
        other => LinkError::Bind { addr, source: io::Error::other(other) },
    }
}
