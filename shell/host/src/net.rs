//! Links as a process's loop sees them: tasks that read and write frames, and one channel of
//! events. The loop never waits for a socket; what does not fit a link waits in its session.

use crate::control::{LinkStatus, Refusal, RefusalClass};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::SecretKey;
use suanli_link::dial::{DialError, Dialer, Report};
use suanli_link::quic::{QuicEndpoint, QuicStranger};
use suanli_link::{
    Counters, FrameReader, FrameWriter, Incoming, Link, LinkError, LinkKind, Listener, Remote,
};
use suanli_rdpa::Frame;
use suanli_store::{KeyError, create_key, load_key};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Frames between the loop and a link's writer: enough to keep a socket busy, few enough that a
/// heart-beat is not long behind bulk.
const FRAMES_WAITING_MAX: usize = 16;
/// How often a link is asked whether bytes of a frame have come: well within the time after which a
/// peer counts as silent.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long reaching a city may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// One link.
#[derive(Debug)]
pub(crate) struct Wire {
    link: u64,
    peer: NodeId,
    kind: LinkKind,
    remote: Remote,
    frames: mpsc::Sender<Frame>,
    counters: Arc<Counters>,
    reading: JoinHandle<()>,
    writing: Option<JoinHandle<()>>,
}

/// What happens to links.
#[derive(Debug)]
pub(crate) enum WireEvent {
    /// A link is up.
    Up { wire: Wire, how: Option<Report> },
    /// A link could not be made.
    Refused { why: Refusal },
    /// A frame came.
    Frame { link: u64, frame: Frame },
    /// Bytes of a frame are coming, and not yet all of it.
    Arriving { link: u64 },
    /// A link takes frames again.
    Room,
    /// A link is gone.
    Down { link: u64, why: Option<LinkError> },
}

impl Wire {
    pub(crate) const fn link(&self) -> u64 {
        self.link
    }

    pub(crate) const fn peer(&self) -> NodeId {
        self.peer
    }

    pub(crate) const fn kind(&self) -> LinkKind {
        self.kind
    }

    /// Where the other end is reached now.
    pub(crate) fn remote(&self) -> Remote {
        self.counters.moved_to().unwrap_or_else(|| self.remote.clone())
    }

    /// Socket bytes (sent, received).
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.counters.up(), self.counters.down())
    }

    pub(crate) fn has_room(&self) -> bool {
        self.frames.capacity() > 0
    }

    /// Sends a frame; ask [`Wire::has_room`] first.
    pub(crate) fn send(&self, frame: Frame) {
        // A writer that has ended reports it as `Down`.
        let _ = self.frames.try_send(frame);
    }

    /// Writes what waits and says goodbye.
    pub(crate) async fn close(mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(core::mem::replace(&mut self.frames, closed));
        if let Some(writing) = self.writing.take() {
            // A writer that panicked has written all it will.
            let _ = tokio::time::timeout(Duration::from_secs(2), writing).await;
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Where others come in.
pub(crate) enum Door {
    Tcp(Listener),
    Quic(Arc<QuicEndpoint>),
}

/// Somebody who has not proven a key.
enum Stranger {
    Tcp(Incoming),
    Quic(QuicStranger),
}

impl Door {
    async fn accept(&self) -> Result<Stranger, LinkError> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(Stranger::Tcp),
            Self::Quic(endpoint) => endpoint.accept().await.map(Stranger::Quic),
        }
    }

    fn is_news(&self, error: &LinkError) -> bool {
        match self {
            Self::Tcp(listener) => listener.is_news(error),
            Self::Quic(endpoint) => endpoint.is_news(error),
        }
    }
}

impl Stranger {
    async fn handshake(self) -> Result<Link, LinkError> {
        match self {
            Self::Tcp(incoming) => incoming.handshake().await,
            Self::Quic(stranger) => stranger.handshake().await,
        }
    }
}

/// Takes connections in at every door for as long as the loop listens to its events.
pub(crate) fn listen(doors: Vec<Arc<Door>>, events: &mpsc::Sender<WireEvent>) {
    let links = Arc::new(AtomicU64::new(0));
    for door in doors {
        tokio::spawn(take_in(door, Arc::clone(&links), events.clone()));
    }
}

async fn take_in(door: Arc<Door>, links: Arc<AtomicU64>, events: mpsc::Sender<WireEvent>) {
    while !events.is_closed() {
        let stranger = tokio::select! {
            stranger = door.accept() => stranger,
            () = events.closed() => return,
        };
        let Ok(stranger) = stranger else {
            // Out of descriptors, most likely: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (events, links, door) = (events.clone(), links.clone(), door.clone());
        tokio::spawn(async move {
            match stranger.handshake().await {
                Ok(link) => {
                    let number = links.fetch_add(1, Ordering::Relaxed) + 1;
                    announce(number, link, None, events).await;
                }
                Err(error) if door.is_news(&error) => {
                    let _ = events.send(WireEvent::Refused { why: refusal(&error) }).await;
                }
                Err(_) => {}
            }
        });
    }
}

/// Connects after a pause; the outcome is an event.
pub(crate) fn dial(
    number: u64,
    dialer: Arc<Dialer>,
    wait: Duration,
    events: mpsc::Sender<WireEvent>,
) {
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        match dialer.dial(DIAL_TIMEOUT).await {
            Ok(dialled) => announce(number, dialled.link, Some(dialled.report), events).await,
            Err(error) => {
                // The loop has ended; nobody waits for this any more.
                let _ = events.send(WireEvent::Refused { why: unreached(&error) }).await;
            }
        }
    });
}

/// Why no way led to a node. Somebody else's key there is for its owner to know; otherwise it may
/// answer later.
pub(crate) fn unreached(error: &DialError) -> Refusal {
    error.wrong_key().map_or_else(
        || Refusal::new(RefusalClass::Network, error.to_string(), ""),
        |wrong| Refusal::new(RefusalClass::Permission, wrong.to_string(), ""),
    )
}

/// A kind of link, for programs.
pub(crate) const fn kind_name(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Iroh => "quic",
        _ => "tcp",
    }
}

/// A link in words and numbers.
pub(crate) fn link_status(wire: &Wire, how: &Report) -> LinkStatus {
    let remote = wire.remote();
    LinkStatus {
        kind: kind_name(wire.kind()).to_owned(),
        remote: remote.to_string(),
        relayed: matches!(remote, Remote::Relay(_)),
        why: how.why.name().to_owned(),
        took_ms: how.took.as_millis().try_into().unwrap_or(u64::MAX),
    }
}

/// Hands a link to the loop, and begins to read only when the loop knows of it.
async fn announce(link: u64, wire: Link, how: Option<Report>, events: mpsc::Sender<WireEvent>) {
    let (peer, counters) = (wire.peer(), wire.counters());
    let (kind, remote) = (wire.kind(), wire.remote().clone());
    let (reader, writer) = wire.split();
    let (frames, frames_in) = mpsc::channel(FRAMES_WAITING_MAX);
    let (go, going) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn({
        let events = events.clone();
        async move {
            if going.await.is_ok() {
                read(link, reader, events).await;
            }
        }
    });
    let writing = Some(tokio::spawn(write(link, writer, frames_in, events.clone())));
    let wire = Wire { link, peer, kind, remote, frames, counters, reading, writing };
    if events.send(WireEvent::Up { wire, how }).await.is_ok() {
        // The reader may have been dropped with the wire already.
        let _ = go.send(());
    }
}

async fn read(link: u64, mut reader: FrameReader, events: mpsc::Sender<WireEvent>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let why = loop {
        let frame = tokio::select! {
            frame = reader.next() => frame,
            _ = look.tick() => {
                if reader.is_arriving() && events.send(WireEvent::Arriving { link }).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match frame {
            Ok(Some(frame)) => {
                if events.send(WireEvent::Frame { link, frame }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let _ = events.send(WireEvent::Down { link, why }).await;
}

async fn write(
    link: u64,
    mut writer: FrameWriter,
    mut frames: mpsc::Receiver<Frame>,
    events: mpsc::Sender<WireEvent>,
) {
    while let Some(frame) = frames.recv().await {
        let was_full = frames.len() + 1 >= FRAMES_WAITING_MAX;
        writer.push(&frame);
        while !writer.is_full() {
            let Ok(frame) = frames.try_recv() else { break };
            writer.push(&frame);
        }
        if was_full && events.send(WireEvent::Room).await.is_err() {
            return;
        }
        if let Err(error) = writer.flush().await {
            let _ = events.send(WireEvent::Down { link, why: Some(error) }).await;
            return;
        }
    }
    // The loop has let go of the link: a peer that is gone already is fine.
    let _ = writer.close().await;
}

fn refusal(error: &LinkError) -> Refusal {
    let class = match (error, error.fault()) {
        (LinkError::WrongKey { .. }, _) => RefusalClass::Permission,
        _ => RefusalClass::Network,
    };
    Refusal::new(class, error.to_string(), "")
}

/// The key in a file, made if there is none.
pub(crate) fn key_of(path: &Path) -> Result<SecretKey, Refusal> {
    let key = match load_key(path) {
        Err(KeyError::Missing { .. }) => create_key(path),
        key => key,
    };
    key.map_err(|error| {
        let class = match error {
            KeyError::Open { .. } | KeyError::FolderOpen { .. } => RefusalClass::Permission,
            KeyError::Malformed { .. } => RefusalClass::Corrupt,
            _ => RefusalClass::Environment,
        };
        Refusal::new(class, error.to_string(), "")
    })
}

/// 64 bits of the system's entropy.
///
/// # Panics
/// When the system has none, which leaves nothing safe to do.
pub(crate) fn entropy() -> u64 {
    let bytes = suanli_store::draw().expect("the system gives entropy");
    u64::from_le_bytes(*bytes.first_chunk().expect("32 bytes hold eight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use suanli_link::{LinkLimits, connect};
    use suanli_rdpa::{Direction, Header, Opcode};
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_frame_that_comes_piece_by_piece_is_told_of_before_it_is_there() {
        let [ours, theirs] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, &ours, LinkLimits::default()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (here, there) = tokio::join!(
            async { listener.accept().await.unwrap().handshake().await.unwrap() },
            async { connect(&address, &theirs, ours.node(), DIAL_TIMEOUT).await.unwrap() },
        );
        let (events, mut told) = mpsc::channel(4);
        announce(7, here, None, events).await;
        let Some(WireEvent::Up { wire: _wire, .. }) = told.recv().await else { panic!("no link") };
        let header = Header::new(Opcode::Send, Direction::Request, 1);
        let frame = Frame::new(header, vec![1; 20_000].into());
        let bytes = [&frame.header_bytes()[..], frame.payload()].concat();
        let (first, rest) = bytes.split_at(9_000);
        let mut lane = there.into_lanes().remove(0);
        lane.writer.write_all(first).await.unwrap();
        lane.writer.flush().await.unwrap();
        let next = tokio::time::timeout(2 * LOOK_EVERY, told.recv()).await.unwrap();
        assert!(matches!(next, Some(WireEvent::Arriving { link: 7 })), "{next:?}");
        lane.writer.write_all(rest).await.unwrap();
        lane.writer.flush().await.unwrap();
        let next = told.recv().await;
        assert!(matches!(next, Some(WireEvent::Frame { link: 7, .. })), "{next:?}");
    }
}
