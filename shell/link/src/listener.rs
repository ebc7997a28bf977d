//! Taking connections, with a bound on how many may be strangers at once.

use crate::counted::Counted;
use crate::{Link, LinkError, Remote, key, plain, tcp};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use suanli_identity::SecretKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{TlsAcceptor, TlsStream};

/// Addresses whose noise is remembered; past this nothing new is told.
const NOISY_MAX: usize = 1024;

/// Bounds of a [`Listener`].
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes at once; more wait in the system's queue.
    pub handshakes_max: usize,
    /// Handshakes at once from one address; more are dropped.
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

/// Strangers per address: those in a handshake, and those that were noise.
#[derive(Debug, Default)]
struct Strangers {
    shaking: HashMap<IpAddr, usize>,
    noisy: HashMap<IpAddr, u64>,
}

/// Listens for peers.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    greeting: Greeting,
    limits: LinkLimits,
    room: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
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
    timeout: Duration,
    place: Place,
}

/// A place among the strangers, given back when dropped.
#[derive(Debug)]
struct Place {
    _room: OwnedSemaphorePermit,
    strangers: Arc<Mutex<Strangers>>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = strangers.shaking.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                strangers.shaking.remove(&self.ip);
            }
        }
    }
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
        Ok(Self {
            tcp,
            greeting,
            limits,
            room: Arc::new(Semaphore::new(limits.handshakes_max)),
            strangers: Arc::default(),
        })
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
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn accept(&self) -> Result<Incoming, LinkError> {
        loop {
            let room = Arc::clone(&self.room);
            let permit = room.acquire_owned().await.expect("the semaphore is never closed");
            let (stream, remote) =
                self.tcp.accept().await.map_err(|source| LinkError::Listen { source })?;
            let ip = remote.ip();
            if !self.enter(ip) {
                // Dropped unread: one address does not take every place.
                continue;
            }
            let strangers = Arc::clone(&self.strangers);
            let place = Place { _room: permit, strangers, ip };
            let (greeting, timeout) = (self.greeting.clone(), self.limits.handshake_timeout);
            return Ok(Incoming { stream, remote, greeting, timeout, place });
        }
    }

    fn enter(&self, ip: IpAddr) -> bool {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = strangers.shaking.get(&ip).copied().unwrap_or(0);
        let room = count < self.limits.handshakes_per_address_max;
        if room {
            strangers.shaking.insert(ip, count + 1);
        }
        room
    }

    /// Whether a failed handshake is worth a line in the log: the first from its address.
    #[must_use]
    pub fn is_news(&self, error: &LinkError) -> bool {
        let ip = match error {
            LinkError::Noise { remote, .. }
            | LinkError::HandshakeTimeout { remote, .. }
            | LinkError::Unproven { remote, .. }
            | LinkError::Lost { remote, .. } => remote.ip(),
            _ => None,
        };
        let Some(ip) = ip else { return true };
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.noisy.len() >= NOISY_MAX && !strangers.noisy.contains_key(&ip) {
            return false;
        }
        let times = strangers.noisy.entry(ip).or_default();
        *times += 1;
        *times == 1
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
        let Self { stream, remote, greeting, timeout, place } = self;
        let remote = Remote::from(remote);
        tcp::tune(&stream).map_err(|source| LinkError::Lost { remote: remote.clone(), source })?;
        let done = match greeting {
            Greeting::Tls(acceptor) => {
                tokio::time::timeout(timeout, greet(acceptor, stream, remote.clone())).await
            }
            Greeting::Plain(key) => {
                let work = plain::introduce(stream, &key, None, remote.clone());
                tokio::time::timeout(timeout, work).await
            }
        };
        drop(place);
        done.unwrap_or(Err(LinkError::HandshakeTimeout { remote, after: timeout }))
    }
}

async fn greet(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    remote: Remote,
) -> Result<Link, LinkError> {
    let (stream, counters) = Counted::new(stream);
    match acceptor.accept(stream).await {
        Ok(stream) => Link::of_tls(TlsStream::from(stream), remote, counters),
        Err(source) => Err(LinkError::of_handshake(remote, source)),
    }
}
