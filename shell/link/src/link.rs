//! A link: an authenticated, encrypted stream of frames between two nodes.

use crate::counted::{Counted, Counters};
use crate::{LinkError, key};
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::SecretKey;
use suanli_rdpa::{Decoder, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

/// Bytes that wait in a [`FrameWriter`] before it takes no more frames. What is in here can no longer
/// be overtaken by a heart-beat: on 1 Mbit/s it is a second.
const WRITE_BUFFER_BYTES: usize = 128 << 10;
const READ_BYTES: usize = 64 << 10;
/// How long a peer has to take our last bytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An authenticated connection.
#[derive(Debug)]
pub struct Link {
    stream: TlsStream<Counted>,
    peer: NodeId,
    remote: SocketAddr,
    counters: Arc<Counters>,
}

/// Connects to `addr` (`host:port`) as the node of `key`; only the node `expected` will do.
///
/// # Errors
/// [`LinkError::Resolve`], [`LinkError::Unreachable`], [`LinkError::WrongKey`],
/// [`LinkError::HandshakeTimeout`], [`LinkError::Noise`] or [`LinkError::Lost`].
pub async fn connect(
    addr: &str,
    key: &SecretKey,
    expected: NodeId,
    timeout: Duration,
) -> Result<Link, LinkError> {
    let stream = tokio::time::timeout(timeout, reach(addr)).await.unwrap_or_else(|_| {
        let source = io::Error::from(io::ErrorKind::TimedOut);
        Err(LinkError::Unreachable { addr: addr.to_owned(), source })
    })?;
    let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
    stream.set_nodelay(true).map_err(unreachable)?;
    let remote = stream.peer_addr().map_err(unreachable)?;
    let (stream, counters) = Counted::new(stream);
    let connector = TlsConnector::from(key::connecting(key, expected));
    let stream = tokio::time::timeout(timeout, connector.connect(key::server_name(), stream))
        .await
        .map_err(|_| LinkError::HandshakeTimeout { remote, after: timeout })?
        .map_err(|source| LinkError::of_handshake(remote, source))?;
    Link::new(TlsStream::from(stream), remote, counters)
}

/// Tries every address the name has.
async fn reach(addr: &str) -> Result<TcpStream, LinkError> {
    let unresolved = |source| LinkError::Resolve { addr: addr.to_owned(), source };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in tokio::net::lookup_host(addr).await.map_err(unresolved)? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(LinkError::Unreachable { addr: addr.to_owned(), source: last })
}

impl Link {
    pub(crate) fn new(
        stream: TlsStream<Counted>,
        remote: SocketAddr,
        counters: Arc<Counters>,
    ) -> Result<Self, LinkError> {
        let (_, tls) = stream.get_ref();
        let key = tls.peer_certificates().and_then(|keys| keys.first());
        let Some(peer) = key.and_then(key::node_of) else {
            let source = io::Error::new(io::ErrorKind::InvalidData, "no raw ed25519 key");
            return Err(LinkError::Noise { remote, source });
        };
        Ok(Self { stream, peer, remote, counters })
    }

    /// Who is there; proven by the handshake.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The bytes of the socket, both ways, handshake and TLS included.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The two halves.
    #[must_use]
    pub fn split(self) -> (FrameReader, FrameWriter) {
        let (peer, remote) = (self.peer, self.remote);
        let (read, write) = tokio::io::split(self.stream);
        let reader = FrameReader { half: read, decoder: Decoder::new(), peer, remote };
        let writer = FrameWriter { half: write, buffer: BytesMut::new(), flushed: true, remote };
        (reader, writer)
    }
}

/// The half that reads frames.
#[derive(Debug)]
pub struct FrameReader {
    half: ReadHalf<TlsStream<Counted>>,
    decoder: Decoder,
    peer: NodeId,
    remote: SocketAddr,
}

impl FrameReader {
    /// The next frame; nothing when the peer closed cleanly. May be dropped and called anew.
    ///
    /// # Errors
    /// [`LinkError::Frame`] when the peer broke the protocol, [`LinkError::Lost`] when the connection
    /// ended in the middle.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        let (peer, remote) = (self.peer, self.remote);
        loop {
            let frame = self.decoder.next_frame();
            if let Some(frame) =
                frame.map_err(|source| LinkError::Frame { peer, remote, source })?
            {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            let read = self.half.read_buf(buffer).await;
            if read.map_err(|source| LinkError::Lost { remote, source })? == 0 {
                if self.decoder.is_between_frames() {
                    return Ok(None);
                }
                let source = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(LinkError::Lost { remote, source });
            }
        }
    }
}

/// The half that writes frames, several at a time.
#[derive(Debug)]
pub struct FrameWriter {
    half: WriteHalf<TlsStream<Counted>>,
    buffer: BytesMut,
    flushed: bool,
    remote: SocketAddr,
}

impl FrameWriter {
    /// Puts a frame into the buffer. Ask [`FrameWriter::is_full`] first.
    pub fn push(&mut self, frame: &Frame) {
        self.buffer.reserve(frame.wire_len());
        self.buffer.extend_from_slice(&frame.header_bytes());
        self.buffer.extend_from_slice(frame.payload());
        self.flushed = false;
    }

    /// Whether to write before pushing more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= WRITE_BUFFER_BYTES
    }

    /// Whether everything pushed is with the system.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.flushed
    }

    /// Writes some of what waits. May be dropped and called anew.
    ///
    /// # Errors
    /// [`LinkError::Lost`].
    pub async fn write_some(&mut self) -> Result<(), LinkError> {
        let remote = self.remote;
        let lost = |source| LinkError::Lost { remote, source };
        if self.buffer.is_empty() {
            self.half.flush().await.map_err(lost)?;
            self.flushed = true;
            return Ok(());
        }
        match self.half.write_buf(&mut self.buffer).await {
            Ok(0) => Err(lost(io::ErrorKind::WriteZero.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }

    /// Writes everything that waits.
    ///
    /// # Errors
    /// [`LinkError::Lost`].
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.flushed {
            self.write_some().await?;
        }
        Ok(())
    }

    /// Writes what waits and says goodbye, within a second.
    ///
    /// # Errors
    /// [`LinkError::Lost`]; the connection is gone either way.
    pub async fn close(mut self) -> Result<(), LinkError> {
        let remote = self.remote;
        let work = async {
            self.flush().await?;
            self.half.shutdown().await.map_err(|source| LinkError::Lost { remote, source })
        };
        tokio::time::timeout(CLOSE_TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(LinkError::Lost { remote, source: io::ErrorKind::TimedOut.into() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkLimits, Listener};
    use suanli_base::Fault;

    #[tokio::test]
    async fn bytes_inside_the_link_that_are_no_frame_are_the_peers_fault() {
        let (city, family) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, &city, LinkLimits::default()).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (client, server) =
            tokio::join!(connect(&addr, &family, city.node(), Duration::from_secs(10)), async {
                listener.accept().await.unwrap().handshake().await
            },);
        let (mut reader, _keep) = client.unwrap().split();
        let (_keep, mut writer) = server.unwrap().split();
        writer.buffer.extend_from_slice(&[b'x'; 64]);
        writer.flushed = false;
        writer.flush().await.unwrap();
        let error = reader.next().await.unwrap_err();
        assert!(matches!(error, LinkError::Frame { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Peer);
    }
}
