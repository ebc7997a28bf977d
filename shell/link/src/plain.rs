//! TCP without encryption, for networks that the operator trusts: both sides prove their keys once,
//! at the start, and nothing is protected afterwards.
//!
//! Who can change packets on the way can read and forge everything; who cannot, cannot pass for
//! another node. Nothing here is ever chosen by itself: a caller asks for it by name.
//!
//! Hello of the connecting side: magic, its node id, a nonce. Answer: magic, node id, nonce,
//! signature. Then the connecting side's signature. Each signs both ids and both nonces and which
//! side it is, under the domain of links of the accepting node, so that no signature serves twice.

use crate::counted::Counted;
use crate::lane::Lane;
use crate::tcp::Socket;
use crate::{Link, LinkError, LinkKind, Remote, tcp};
use std::io;
use std::time::Duration;
use suanli_base::{CityId, NodeId};
use suanli_identity::{Domain, Kind, SecretKey, Signature};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Begins both introductions; its last byte is the version.
const MAGIC: [u8; 8] = *b"SUANLI\x00\x01";
const VERSION: u16 = 1;
/// Magic, node id, nonce.
const HELLO_BYTES: usize = 72;
const SIGNATURE_BYTES: usize = 64;

/// Connects to `addr` (`host:port`) by TCP without encryption; only the node `expected` will do.
/// For networks that the operator trusts.
///
/// # Errors
/// As [`connect`](crate::connect), and [`LinkError::Unproven`].
pub async fn connect_plain(
    addr: &str,
    key: &SecretKey,
    expected: NodeId,
    timeout: Duration,
) -> Result<Link, LinkError> {
    let stream = tcp::reach(addr, timeout).await?;
    let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
    let remote = Remote::from(stream.peer_addr().map_err(unreachable)?);
    let work = introduce(stream, key, Some(expected), remote.clone());
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(LinkError::HandshakeTimeout { remote, after: timeout }))
}

/// What both sides have said once the hellos are exchanged.
struct Said {
    connecting: Hello,
    accepting: Hello,
}

#[derive(Clone, Copy)]
struct Hello {
    node: NodeId,
    nonce: [u8; 32],
}

/// Which side signs.
#[derive(Clone, Copy)]
enum Signer {
    Connecting = 0,
    Accepting = 1,
}

impl Hello {
    fn new(key: &SecretKey) -> io::Result<Self> {
        let mut nonce = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut nonce).map_err(|_| io::Error::other("the system gives no entropy"))?;
        Ok(Self { node: key.node(), nonce })
    }

    fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..40].copy_from_slice(self.node.as_bytes());
        bytes[40..].copy_from_slice(&self.nonce);
        bytes
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut magic = [0; 8];
        stream.read_exact(&mut magic).await?;
        if magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no introduction of ours"));
        }
        let (mut node, mut nonce) = ([0; 32], [0; 32]);
        stream.read_exact(&mut node).await?;
        stream.read_exact(&mut nonce).await?;
        Ok(Self { node: NodeId(node), nonce })
    }
}

impl Said {
    fn domain(&self) -> Domain {
        Domain::lasting(Kind::Link, VERSION, CityId::from(self.accepting.node))
    }

    fn bytes(&self, signer: Signer) -> Vec<u8> {
        let mut bytes = vec![signer as u8];
        for hello in [&self.connecting, &self.accepting] {
            bytes.extend_from_slice(hello.node.as_bytes());
            bytes.extend_from_slice(&hello.nonce);
        }
        bytes
    }

    fn sign(&self, key: &SecretKey, signer: Signer) -> Signature {
        key.sign(&self.domain(), &self.bytes(signer))
    }

    /// Reads the other side's signature and checks it.
    async fn check(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        signer: Signer,
        remote: &Remote,
    ) -> Result<(), LinkError> {
        let mut signature = [0; SIGNATURE_BYTES];
        stream.read_exact(&mut signature).await.map_err(|source| noise(remote, source))?;
        let node = match signer {
            Signer::Connecting => self.connecting.node,
            Signer::Accepting => self.accepting.node,
        };
        Signature(signature)
            .verify(node, &self.domain(), &self.bytes(signer))
            .map_err(|source| LinkError::Unproven { remote: remote.clone(), source })
    }
}

fn noise(remote: &Remote, source: io::Error) -> LinkError {
    let kind = match remote {
        Remote::Local { .. } => LinkKind::Shared,
        _ => LinkKind::Tcp,
    };
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            LinkError::Noise { remote: remote.clone(), kind, source }
        }
        _ => LinkError::Lost { remote: remote.clone(), source },
    }
}

/// Both sides of the introduction; the side that expects somebody is the connecting one.
pub(crate) async fn introduce(
    socket: Socket,
    key: &SecretKey,
    expected: Option<NodeId>,
    remote: Remote,
) -> Result<Link, LinkError> {
    let (mut stream, counters) = Counted::new(socket);
    let peer = prove(&mut stream, key, expected, &remote).await?;
    let lost = |source| LinkError::Lost { remote: remote.clone(), source };
    stream.stream_mut().reset_unless_shut().map_err(lost)?;
    let lane = Lane::of(stream);
    Ok(Link::new(LinkKind::Tcp, peer, remote, counters, vec![lane]))
}

/// Proves our key over a stream and checks the other side's; returns who is there.
pub(crate) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: &SecretKey,
    expected: Option<NodeId>,
    remote: &Remote,
) -> Result<NodeId, LinkError> {
    let own = Hello::new(key).map_err(|source| noise(remote, source))?;
    match expected {
        Some(expected) => ask(stream, key, own, expected, remote).await,
        None => answer(stream, key, own, remote).await,
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: &SecretKey,
    own: Hello,
    expected: NodeId,
    remote: &Remote,
) -> Result<NodeId, LinkError> {
    stream.write_all(&own.to_bytes()).await.map_err(|source| noise(remote, source))?;
    let accepting = Hello::read(stream).await.map_err(|source| noise(remote, source))?;
    if accepting.node != expected {
        let found = Some(accepting.node);
        return Err(LinkError::WrongKey { remote: remote.clone(), expected, found });
    }
    let said = Said { connecting: own, accepting };
    said.check(stream, Signer::Accepting, remote).await?;
    let signature = said.sign(key, Signer::Connecting);
    stream.write_all(&signature.0).await.map_err(|source| noise(remote, source))?;
    Ok(accepting.node)
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: &SecretKey,
    own: Hello,
    remote: &Remote,
) -> Result<NodeId, LinkError> {
    let connecting = Hello::read(stream).await.map_err(|source| noise(remote, source))?;
    let said = Said { connecting, accepting: own };
    let signature = said.sign(key, Signer::Accepting);
    let reply = [&own.to_bytes()[..], &signature.0].concat();
    stream.write_all(&reply).await.map_err(|source| noise(remote, source))?;
    said.check(stream, Signer::Connecting, remote).await?;
    Ok(connecting.node)
}
