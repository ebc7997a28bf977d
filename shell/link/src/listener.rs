//! Taking connections, with a bound on how many may be strangers at once.

use crate::ahead::Ahead;
use crate::counted::Counted;
use crate::strangers::{Place, Strangers};
use crate::tcp::Socket;
use crate::{Link, LinkError, LinkLimits, Remote, key, plain};
use std::net::SocketAddr;
use std::sync::Arc;
use suanli_identity::SecretKey;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsStream};

/// Listens for peers.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    greeting: Greeting,
    strangers: Strangers,
}

/// How those who come prove who they are.
#[derive(Clone)]
enum Greeting {
    Tls(TlsAcceptor),
    Plain(Arc<SecretKey>),
}

impl core::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Tls(_) => "Tls",
            Self::Plain(_) => "Plain",
        })
    }
}

/// A connection whose handshake has not been done.
#[derive(Debug)]
pub struct Incoming {
    stream: TcpStream,
    remote: SocketAddr,
    greeting: Greeting,
    place: Place,
}

impl Listener {
    /// Listens on `addr` as the node of `key`, for TCP with TLS 1.3. Port 0 lets the system choose.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`] or [`LinkError::Bind`].
    pub async fn bind(
        addr: SocketAddr,
        key: &SecretKey,
        limits: LinkLimits,
    ) -> Result<Self, LinkError> {
        let greeting = Greeting::Tls(TlsAcceptor::from(key::accepting(key)));
        Self::bind_with(addr, greeting, limits).await
    }

    /// Listens on `addr` for TCP without encryption ([`connect_plain`](crate::connect_plain)): only
    /// where the operator trusts the network and says so.
    ///
    /// # Errors
    /// [`LinkError::PortInUse`] or [`LinkError::Bind`].
    pub async fn bind_plain(
        addr: SocketAddr,
        key: &SecretKey,
        limits: LinkLimits,
    ) -> Result<Self, LinkError> {
        Self::bind_with(addr, Greeting::Plain(Arc::new(key.clone())), limits).await
    }

    async fn bind_with(
        addr: SocketAddr,
        greeting: Greeting,
        limits: LinkLimits,
    ) -> Result<Self, LinkError> {
        let tcp =
            TcpListener::bind(addr).await.map_err(|source| LinkError::of_bind(addr, source))?;
        Ok(Self { tcp, greeting, strangers: Strangers::new(limits) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`LinkError::Listen`] when the system does not know.
    pub fn local_addr(&self) -> Result<SocketAddr, LinkError> {
        self.tcp.local_addr().map_err(|source| LinkError::Listen { source })
    }

    /// The next connection. Do its handshake in a task of its own. May be dropped and called anew.
    ///
    /// # Errors
    /// [`LinkError::Listen`] when the system gives no more connections (out of descriptors, for one):
    /// wait a moment before the next call.
    pub async fn accept(&self) -> Result<Incoming, LinkError> {
        let (stream, remote) =
            self.tcp.accept().await.map_err(|source| LinkError::Listen { source })?;
        let place = self.strangers.enter(remote.ip());
        Ok(Incoming { stream, remote, greeting: self.greeting.clone(), place })
    }

    /// Whether a failed handshake is worth a line in the log: the first from its address.
    #[must_use]
    pub fn is_news(&self, error: &LinkError) -> bool {
        self.strangers.is_news(error)
    }

    /// The same of what somebody there did after the handshake.
    #[must_use]
    pub fn is_news_of(&self, remote: &Remote) -> bool {
        self.strangers.is_first_of(remote)
    }
}

impl Incoming {
    /// Where it comes from.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Does the handshake. Whose key it is says [`Link::peer`]; what it may do, its HELLO.
    ///
    /// # Errors
    /// [`LinkError::Noise`], [`LinkError::Unproven`], [`LinkError::HandshakeTimeout`] or
    /// [`LinkError::Lost`]; the connection is dropped.
    pub async fn handshake(self) -> Result<Link, LinkError> {
        let Self { stream, remote, greeting, place } = self;
        let remote = Remote::from(remote);
        let lost = |source| LinkError::Lost { remote: remote.clone(), source };
        let socket = Socket::new(stream).map_err(lost)?;
        let greeted = async {
            match greeting {
                Greeting::Tls(acceptor) => greet(acceptor, socket, remote.clone()).await,
                Greeting::Plain(key) => plain::introduce(socket, &key, None, remote.clone()).await,
            }
        };
        place.hold(&remote, greeted).await
    }
}

async fn greet(acceptor: TlsAcceptor, socket: Socket, remote: Remote) -> Result<Link, LinkError> {
    let (stream, counters) = Counted::new(socket);
    match acceptor.accept(Ahead::new(stream)).await {
        Ok(stream) => Link::of_tls(TlsStream::from(stream), remote, counters),
        Err(source) => Err(LinkError::of_handshake(remote, source)),
    }
}
