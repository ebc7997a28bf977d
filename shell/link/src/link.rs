//! A link: what carries frames between two nodes, whatever it is made of.

use crate::ahead::Ahead;
use crate::counted::{Counted, Counters};
use crate::lane::Lane;
use crate::tcp::Socket;
use crate::{FrameReader, FrameWriter, LinkError, LinkKind, Remote, key, tcp};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::SecretKey;
use tokio_rustls::{TlsConnector, TlsStream};

/// An authenticated connection of one or more [lanes](Lane).
#[derive(Debug)]
pub struct Link {
    kind: LinkKind,
    peer: NodeId,
    remote: Remote,
    counters: Arc<Counters>,
    lanes: Vec<Lane>,
    /// Where the memory of the other end lies, if it is on this host.
    memory: Option<Arc<Path>>,
}

/// Connects to `addr` (`host:port`) as the node of `key`, by TCP with TLS 1.3; only the node
/// `expected` will do.
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
    let stream = tcp::reach(addr, timeout).await?;
    let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
    let remote = Remote::from(stream.peer_addr().map_err(unreachable)?);
    let (stream, counters) = Counted::new(stream);
    let connector = TlsConnector::from(key::connecting(key, expected));
    let done =
        tokio::time::timeout(timeout, connector.connect(key::server_name(), Ahead::new(stream)))
            .await;
    match done {
        Ok(Ok(stream)) => Link::of_tls(TlsStream::from(stream), remote, counters),
        Ok(Err(source)) => Err(LinkError::of_handshake(remote, source)),
        Err(_) => Err(LinkError::HandshakeTimeout { remote, after: timeout }),
    }
}

impl Link {
    /// The first of `lanes` carries control frames.
    pub(crate) fn new(
        kind: LinkKind,
        peer: NodeId,
        remote: Remote,
        counters: Arc<Counters>,
        lanes: Vec<Lane>,
    ) -> Self {
        assert!(!lanes.is_empty(), "a link has a lane for control frames");
        Self { kind, peer, remote, counters, lanes, memory: None }
    }

    pub(crate) fn with_memory(self, folder: &Path) -> Self {
        Self { memory: Some(folder.into()), ..self }
    }

    /// The folder of regions that can be mapped instead of carried; see [`crate::shared`].
    pub(crate) fn memory(&self) -> Option<Arc<Path>> {
        self.memory.clone()
    }

    pub(crate) fn of_tls(
        stream: TlsStream<Ahead<Counted<Socket>>>,
        remote: Remote,
        counters: Arc<Counters>,
    ) -> Result<Self, LinkError> {
        let (_, tls) = stream.get_ref();
        let key = tls.peer_certificates().and_then(|keys| keys.first());
        let Some(peer) = key.and_then(key::node_of) else {
            let source = io::Error::new(io::ErrorKind::InvalidData, "no raw ed25519 key");
            return Err(LinkError::Noise { remote, kind: LinkKind::Tls, source });
        };
        Ok(Self::new(LinkKind::Tls, peer, remote, counters, vec![Lane::of(stream)]))
    }

    /// What it is made of.
    #[must_use]
    pub const fn kind(&self) -> LinkKind {
        self.kind
    }

    /// Who is there; proven by the handshake.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The bytes of the socket, both ways, handshake and encryption included.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The two halves, which carry frames.
    #[must_use]
    pub fn split(self) -> (FrameReader, FrameWriter) {
        let (readers, writers) =
            self.lanes.into_iter().map(|lane| (lane.reader, lane.writer)).unzip();
        let reader = FrameReader::new(readers, self.peer, self.remote.clone());
        (reader, FrameWriter::new(writers, self.remote))
    }

    /// The lanes themselves, control first, for whoever frames what goes over them.
    #[must_use]
    pub fn into_lanes(self) -> Vec<Lane> {
        self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use suanli_base::Fault;
    use suanli_rdpa::{Direction, Frame, Header, Opcode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    /// A link of `lanes` pipes in memory, each of which holds `bytes`, and the other ends.
    fn piped(lanes: usize, bytes: usize) -> (Link, Vec<DuplexStream>) {
        let pipes = (0..lanes).map(|_| tokio::io::duplex(bytes));
        let (ours, theirs): (Vec<_>, Vec<_>) = pipes.unzip();
        let lanes = ours.into_iter().map(Lane::of).collect();
        let peer = SecretKey::from_seed(&[1; 32]).node();
        let remote = Remote::Local { pid: 1 };
        (Link::new(LinkKind::Shared, peer, remote, Arc::default(), lanes), theirs)
    }

    fn frame(opcode: Opcode, number: u64, len: usize) -> Frame {
        let header = Header::new(opcode, Direction::Request, number);
        let fill = u8::try_from(number % 251).unwrap();
        Frame::new(header, Bytes::from(vec![fill; len]))
    }

    #[tokio::test]
    async fn bytes_inside_the_link_that_are_no_frame_are_the_peers_fault() {
        for lane in 0..3 {
            let (link, mut theirs) = piped(3, 1024);
            let (mut reader, _keep) = link.split();
            theirs[lane].write_all(&[b'x'; 64]).await.unwrap();
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, LinkError::Frame { .. }), "{error}");
            assert_eq!(error.fault(), Fault::Peer);
        }
    }

    #[tokio::test]
    async fn control_frames_pass_while_every_bulk_lane_is_stuck() {
        let (link, mut theirs) = piped(3, 64 << 10);
        let (_keep, mut writer) = link.split();
        while !writer.is_full() {
            writer.push(&frame(Opcode::Write, 1, 100_000));
        }
        let ping = frame(Opcode::Ping, 7, 0);
        writer.push(&ping);
        let mut came = [0; 64];
        let control = &mut theirs[0];
        let writing = async {
            loop {
                writer.write_some().await.unwrap();
            }
        };
        tokio::select! {
            () = writing => {}
            read = control.read_exact(&mut came) => { read.unwrap(); }
        }
        assert_eq!(came, ping.header_bytes());
    }

    #[tokio::test]
    async fn a_waiting_control_frame_is_read_before_bulk_and_no_bulk_lane_is_forgotten() {
        let (link, mut theirs) = piped(3, 1 << 20);
        let (mut reader, _keep) = link.split();
        for number in 0..4 {
            for lane in [1, 2] {
                let bulk = frame(Opcode::Write, number * 10 + lane as u64, 1000).to_bytes();
                theirs[lane].write_all(&bulk).await.unwrap();
            }
        }
        theirs[0].write_all(&frame(Opcode::Ping, 7, 8).to_bytes()).await.unwrap();
        let mut order = Vec::new();
        for _ in 0..9 {
            order.push(reader.next().await.unwrap().unwrap().header().request);
        }
        assert_eq!(order[0], 7);
        let last_of_each = (1..=2).map(|lane| order.iter().position(|n| *n == 30 + lane).unwrap());
        assert!(last_of_each.min().unwrap() >= 7, "they take turns: {order:?}");
        drop(theirs);
        assert!(reader.next().await.unwrap().is_none(), "all lanes ended between frames");
    }

    #[tokio::test]
    async fn a_lane_cut_within_a_frame_is_lost_whatever_the_others_do() {
        for lane in 0..2 {
            let (link, mut theirs) = piped(2, 1 << 20);
            let (mut reader, _keep) = link.split();
            let bytes = frame(Opcode::Write, 3, 500).to_bytes();
            theirs[lane].write_all(&bytes[..bytes.len() - 1]).await.unwrap();
            drop(theirs);
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, LinkError::Lost { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_link_of_one_lane_carries_both_classes_in_the_order_they_were_pushed() {
        let (link, mut theirs) = piped(1, 1 << 20);
        let (_keep, mut writer) = link.split();
        let sizes = [0, 1, 4096, 4097, 70_000, 5];
        let frames: Vec<Frame> =
            (0..).zip(sizes).map(|(number, len)| frame(Opcode::Write, number, len)).collect();
        let mut expected = Vec::new();
        for frame in &frames {
            writer.push(frame);
            expected.extend_from_slice(&frame.to_bytes());
        }
        writer.close().await.unwrap();
        let mut came = Vec::new();
        theirs[0].read_to_end(&mut came).await.unwrap();
        assert!(came == expected);
    }

    #[tokio::test]
    async fn long_payloads_use_the_memory_of_those_that_were_let_go() {
        let (link, mut theirs) = piped(1, 1 << 20);
        let (mut reader, _keep) = link.split();
        let bytes = frame(Opcode::Write, 3, 300_000).to_bytes();
        let mut places = std::collections::BTreeSet::new();
        let mut held = Vec::new();
        for turn in 0..40 {
            theirs[0].write_all(&bytes).await.unwrap();
            let frame = reader.next().await.unwrap().unwrap();
            assert_eq!(frame.to_bytes(), bytes);
            places.insert(frame.payload().as_ptr() as usize);
            if turn == 5 {
                // What somebody still holds is never written over.
                held.push(frame);
            }
        }
        assert!(places.len() < 12, "{} places for 40 payloads", places.len());
        assert_eq!(held[0].to_bytes(), bytes);
    }
}
