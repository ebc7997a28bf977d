//! What can go wrong between two sockets, and whose doing it is.

use crate::key::PinMismatch;
use crate::{LinkKind, Remote};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use suanli_base::{Fault, NodeId};
use suanli_identity::BadSignature;
use suanli_rdpa::FrameError;

/// A link could not be made or broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Another program listens there.
    #[error(
        "port {} on {} is in use by another program; stop that program or choose another port", addr.port(), addr.ip()
    )]
    PortInUse {
        /// Where we wanted to listen.
        addr: SocketAddr,
    },
    /// Listening there is not possible for another reason.
    #[error(
        "cannot listen on {addr} ({source}); choose an address of this machine and a port above 1023"
    )]
    Bind {
        /// Where we wanted to listen.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The listening socket broke.
    #[error("the listening socket does not take connections any more: {source}")]
    Listen {
        /// What the system says.
        source: io::Error,
    },
    /// The address does not lead to a machine.
    #[error("{addr:?} is not the address of a machine ({source}); expected host:port")]
    Resolve {
        /// The address as given.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// The folder of a shared-memory link cannot be used.
    #[error("{}: {source}; is the holder running, as the same user?", path.display())]
    Local {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody answers.
    #[error(
        "{addr} cannot be reached ({source}); is the other side running, and the address right?"
    )]
    Unreachable {
        /// The address as given.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody answers who is not who was expected.
    #[error(
        "{remote} is not the one expected: expected key {expected}, found {}; check the address, or ask for a new ticket if the other side changed its key", found.map_or_else(|| "another".to_owned(), |found| found.to_string())
    )]
    WrongKey {
        /// Where.
        remote: Remote,
        /// The key expected.
        expected: NodeId,
        /// The key found, where the kind of link tells.
        found: Option<NodeId>,
    },
    /// The handshake took too long.
    #[error("{remote} did not finish the handshake within {} ms", after.as_millis())]
    HandshakeTimeout {
        /// Who.
        remote: Remote,
        /// The time it had.
        after: Duration,
    },
    /// Bytes that are no handshake of ours: a port scan, a browser, another service.
    #[error("{remote} does not speak our protocol over {kind} ({source})")]
    Noise {
        /// Who.
        remote: Remote,
        /// What was expected to carry it.
        kind: LinkKind,
        /// What was wrong with it.
        source: io::Error,
    },
    /// Somebody shows a key and does not hold its secret.
    #[error("{remote} claims a key that it did not prove: {source}; somebody may be in between")]
    Unproven {
        /// Who.
        remote: Remote,
        /// The proof that is none.
        source: BadSignature,
    },
    /// It took long, and somebody else needed its place.
    #[error("{remote} had not said who it is when others came; dropped")]
    PushedOut {
        /// Who.
        remote: Remote,
    },
    /// A relay was to be used where none was set up.
    #[error(
        "{relay:?} cannot be used as a relay ({why}); expected http://host:port or https://host"
    )]
    Relay {
        /// The relay as given.
        relay: String,
        /// What is wrong with it.
        why: RelayFault,
    },
    /// Bytes inside the link that are no frame.
    #[error("node {} at {remote} broke the protocol: {source}", peer.short())]
    Frame {
        /// Who.
        peer: NodeId,
        /// Where.
        remote: Remote,
        /// What was wrong.
        source: FrameError,
    },
    /// The connection was lost.
    #[error("the connection to {remote} was lost: {source}")]
    Lost {
        /// To whom.
        remote: Remote,
        /// What the system says.
        source: io::Error,
    },
}

/// What is wrong with a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayFault {
    /// It is no address of a relay.
    #[error("it is no URL")]
    NoUrl,
    /// Our end was set up without relays.
    #[error("this end was set up to use none")]
    Disabled,
}

impl LinkError {
    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Local { .. }
            | Self::PortInUse { .. }
            | Self::Bind { .. }
            | Self::Resolve { .. }
            | Self::Relay { .. } => Fault::Ours,
            Self::WrongKey { .. }
            | Self::Noise { .. }
            | Self::Unproven { .. }
            | Self::Frame { .. } => Fault::Peer,
            Self::Listen { .. }
            | Self::Unreachable { .. }
            | Self::HandshakeTimeout { .. }
            | Self::PushedOut { .. }
            | Self::Lost { .. } => Fault::Weather,
        }
    }

    pub(crate) fn of_bind(addr: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { addr },
            _ => Self::Bind { addr, source },
        }
    }

    /// What a failed handshake means.
    pub(crate) fn of_handshake(remote: Remote, source: io::Error) -> Self {
        let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
                match other.0.downcast_ref::<PinMismatch>() {
                    Some(PinMismatch { expected, found }) => {
                        Self::WrongKey { remote, expected: *expected, found: Some(*found) }
                    }
                    None => Self::Noise { remote, kind: LinkKind::Tls, source },
                }
            }
            Some(_) => Self::Noise { remote, kind: LinkKind::Tls, source },
            None => Self::Lost { remote, source },
        }
    }
}
