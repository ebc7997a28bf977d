//! What kind of link there is, and where its other end is: words for people and for reports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// How bytes cross. Chosen when a link is made, reported, and never changed behind the caller's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// TCP, keys proven at the start, nothing encrypted: for networks that the operator trusts.
    Tcp,
    /// TCP with TLS 1.3.
    Tls,
    /// QUIC by iroh: direct UDP, through home routers, or by way of a relay.
    Iroh,
    /// A Unix socket and shared memory between two processes of one host.
    Shared,
}

impl core::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP without encryption",
            Self::Tls => "TCP with TLS 1.3",
            Self::Iroh => "QUIC (iroh)",
            Self::Shared => "shared memory",
        })
    }
}

/// Where the other end of a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remote {
    /// An address of a network.
    Ip(SocketAddr),
    /// Behind this relay, and not reached directly so far.
    Relay(Arc<str>),
    /// Another process of this host.
    Local {
        /// Its number.
        pid: i32,
    },
}

impl Remote {
    /// The address of the machine, if it is known.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Relay(_) | Self::Local { .. } => None,
        }
    }
}

impl From<SocketAddr> for Remote {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

impl core::fmt::Display for Remote {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Relay(relay) => write!(f, "relay {relay}"),
            Self::Local { pid } => write!(f, "process {pid} of this host"),
        }
    }
}
