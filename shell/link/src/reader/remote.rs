//! A connection that many callers share: a task owns the [`Reader`], keeps it alive while nobody asks,
//! and does one command after the other.
//!
//! Not for: a caller that has the connection for itself and wants bytes in memory it only lends; that
//! is what [`Reader`] is for. Here buffers are moved in and come back, so nothing is copied either.
//!
//! Invariants: commands wait in a queue of [`COMMANDS_MAX`]; a caller that stops waiting stops its
//! command; what has arrived of a read comes back even when the link is over; once it is over, every
//! caller learns the same reason.

use super::{Opened, ReadError, Reader, in_requests};
use crate::Remote;
use crate::endpoint::Trust;
use crate::shared::Mapped;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use suanli_base::{Fault, NodeId};
use suanli_rdpa::limits::RANGES_BYTES_MAX;
use suanli_rdpa::{
    Answer, ChunkSet, Code, Event, Failure, Handle, Level, Op, RegionInfo, RegionName, Span,
    StageKind, Stat, Welcome,
};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that wait for the connection; a caller past this waits for a place.
pub const COMMANDS_MAX: usize = 64;

/// What was asked of a shared connection could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// This one command failed; the connection goes on.
    #[error(transparent)]
    Failed(Arc<ReadError>),
    /// The connection is over, for everybody.
    #[error(transparent)]
    Over(Arc<ReadError>),
    /// It was closed by our side.
    #[error("the connection was closed here; connect again")]
    Closed,
    /// The holder answered a fence with less than was asked, where it had to refuse.
    #[error(
        "asked for {asked:?}, the holder says {given:?}: what was written may be lost; ask for less, \
         or write elsewhere"
    )]
    Weaker {
        /// What was asked.
        asked: Level,
        /// What the holder says.
        given: Level,
    },
    /// A name stands for something other than cells.
    #[error("{region} has no cells: it is not what this command is for")]
    NoCells {
        /// The name.
        region: RegionName,
    },
}

impl RemoteError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Failed(error) | Self::Over(error) => error.fault(),
            Self::Weaker { .. } => Fault::Peer,
            Self::Closed | Self::NoCells { .. } => Fault::Ours,
        }
    }

    /// The code of a refusal, if the holder refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Failed(error) | Self::Over(error) => match &**error {
                ReadError::Failed(Failure::Refused { code, .. }) => Some(*code),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether nothing more comes from this connection.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Over(_) | Self::Closed)
    }
}

/// This machine has no room for a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room in memory for {bytes} bytes; read a part of the region, or read it on another machine"
)]
pub struct NoRoom {
    /// Bytes of the region.
    pub bytes: u64,
}

/// A read under way: the memory, and which of its chunks are in place.
#[derive(Debug)]
pub struct Partial {
    /// As long as the region.
    pub memory: Vec<u8>,
    /// The chunks that have arrived and matched their hashes.
    pub have: ChunkSet,
}

impl Partial {
    /// Nothing of this version has arrived.
    ///
    /// # Errors
    /// [`NoRoom`]: the length is the holder's word, so room is asked for before it is taken.
    pub fn new(info: &RegionInfo) -> Result<Self, NoRoom> {
        let have = ChunkSet::empty(info.chunk_count());
        zeros(info.shape.bytes).map(|memory| Self { memory, have })
    }
}

impl Partial {
    /// Takes over the chunks of `have` from another partial of the same content, in which they are in
    /// the same places.
    pub(super) fn take_over(&mut self, other: &Self, have: &ChunkSet, info: &RegionInfo) {
        for chunk in (0..have.bound()).filter(|chunk| have.contains(*chunk)) {
            let len = info.shape.chunk_len(chunk).unwrap_or(0) as usize;
            let at = u64::from(chunk) * u64::from(info.shape.chunk_bytes);
            let place = usize::try_from(at).ok().map(|at| at..at + len);
            let Some(place) = place.filter(|place| place.end <= other.memory.len()) else {
                continue;
            };
            self.memory[place.clone()].copy_from_slice(&other.memory[place]);
            self.have.insert(chunk);
        }
    }
}

/// Memory of this length, if there is room for it.
///
/// # Errors
/// [`NoRoom`].
pub fn zeros(bytes: u64) -> Result<Vec<u8>, NoRoom> {
    let len = usize::try_from(bytes).map_err(|_| NoRoom { bytes })?;
    // Fresh zeros cost nothing until they are written over; this only asks for room.
    Vec::<u8>::new().try_reserve_exact(len).map_err(|_| NoRoom { bytes })?;
    Ok(vec![0; len])
}

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Command = Box<dyn for<'a> FnOnce(&'a mut Desk) -> Work<'a, ()> + Send>;
type Reason = Arc<OnceLock<Arc<ReadError>>>;

/// A node at the other end of a connection, for any number of callers.
#[derive(Clone, Debug)]
pub struct RemoteNode {
    commands: mpsc::Sender<Command>,
    reason: Reason,
    welcome: Welcome,
    peer: NodeId,
    remote: Remote,
}

/// What the task works with.
struct Desk {
    reader: Reader,
    reason: Reason,
    watched: BTreeMap<RegionName, watch::Sender<u64>>,
    cells: BTreeMap<RegionName, Handle>,
}

impl Desk {
    /// Tells the caller, and remembers when the connection is over.
    fn told<T>(&self, result: Result<T, ReadError>) -> Result<T, RemoteError> {
        result.map_err(|error| match error {
            ReadError::Ended { .. } => {
                RemoteError::Over(Arc::clone(self.reason.get_or_init(|| Arc::new(error))))
            }
            error => RemoteError::Failed(Arc::new(error)),
        })
    }

    async fn ask(&mut self, op: Op) -> Result<Answer, RemoteError> {
        let answer = self.reader.ask(op).await;
        self.told(answer)
    }

    fn heard(&self, event: &Event) {
        if let Event::Notified { region, version, .. } = event
            && let Some(watched) = self.watched.get(region)
        {
            watched.send_if_modified(|known| {
                let newer = *version > *known;
                *known = (*known).max(*version);
                newer
            });
        }
    }

    async fn cells(&mut self, region: RegionName) -> Result<Handle, RemoteError> {
        if let Some(handle) = self.cells.get(&region) {
            return Ok(*handle);
        }
        match self.ask(Op::OpenCells { region: region.clone() }).await? {
            Answer::CellsOpened { handle, .. } => {
                self.cells.insert(region, handle);
                Ok(handle)
            }
            _ => Err(RemoteError::NoCells { region }),
        }
    }

    async fn change(
        &mut self,
        region: RegionName,
        op: impl FnOnce(Handle) -> Op + Send,
    ) -> Result<u64, RemoteError> {
        let handle = self.cells(region.clone()).await?;
        match self.ask(op(handle)).await {
            Ok(Answer::Cell { held }) => Ok(held),
            Ok(_) => Err(RemoteError::NoCells { region }),
            Err(error) => {
                // The handle may have been taken back: the next caller opens anew.
                self.cells.remove(&region);
                Err(error)
            }
        }
    }
}

async fn work(mut desk: Desk, mut commands: mpsc::Receiver<Command>) {
    let mut nowhere = ();
    while desk.reason.get().is_none() {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => command(&mut desk).await,
                None => return desk.reader.close().await,
            },
            event = desk.reader.next(&mut nowhere) => match desk.told(event) {
                Ok(event) => desk.heard(&event),
                Err(_) => return,
            },
        }
    }
}

impl RemoteNode {
    /// Hands the connection to a task of its own, on the runtime that is entered.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(mut reader: Reader) -> Self {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (reason, welcome) = (Reason::default(), *reader.welcome());
        let (peer, remote) = (reader.endpoint().peer(), reader.endpoint().remote().clone());
        let (watched, cells) = (BTreeMap::new(), BTreeMap::new());
        tokio::spawn(work(Desk { reader, reason: Arc::clone(&reason), watched, cells }, queue));
        Self { commands, reason, welcome, peer, remote }
    }

    /// What the holder said at the beginning.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Who is at the other end; proven by the link.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the other end is.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Why nothing more comes, if that is so.
    #[must_use]
    pub fn over(&self) -> Option<RemoteError> {
        match self.reason.get() {
            Some(reason) => Some(RemoteError::Over(Arc::clone(reason))),
            None => self.commands.is_closed().then_some(RemoteError::Closed),
        }
    }

    fn ended(&self) -> RemoteError {
        self.over().unwrap_or(RemoteError::Closed)
    }

    /// Has the task do something with the connection. Stops it when the caller stops waiting.
    async fn call<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut Desk) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let (mut tell, told) = oneshot::channel();
        let command: Command = Box::new(move |desk| {
            Box::pin(async move {
                let done = tokio::select! {
                    biased;
                    () = tell.closed() => return,
                    done = work(desk) => done,
                };
                // A caller that has just left wants nothing.
                let _ = tell.send(done);
            })
        });
        self.commands.send(command).await.map_err(|_| self.ended())?;
        told.await.map_err(|_| self.ended())
    }

    /// Says whether chunks are held against the region's hashes on arrival.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn trust(&self, trust: Trust) -> Result<(), RemoteError> {
        self.call(move |desk| Box::pin(async move { desk.reader.trust(trust) })).await
    }

    /// Opens the newest version of a region.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn open(&self, region: RegionName) -> Result<Opened, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let opened = desk.reader.open(region).await;
                desk.told(opened)
            })
        })
        .await?
    }

    /// Opens the region unless it still has the version `since`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn open_if_changed(
        &self,
        region: RegionName,
        since: u64,
    ) -> Result<Option<Opened>, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let opened = desk.reader.open_if_changed(region, since).await;
                desk.told(opened)
            })
        })
        .await?
    }

    /// Reads what `partial` lacks of a region, each chunk verified on arrival. It comes back in either
    /// case: after an error go on with it on another connection that has the same root. Nothing comes
    /// back when the connection was over before the command had its turn.
    ///
    /// # Errors
    /// [`RemoteError`], with what has arrived.
    pub async fn read(
        &self,
        opened: Opened,
        partial: Partial,
    ) -> Result<Partial, (RemoteError, Option<Partial>)> {
        match self
            .call(move |desk| {
                Box::pin(async move {
                    let Partial { mut memory, mut have } = partial;
                    let read = desk.reader.resume(&opened, &mut memory, &mut have).await;
                    (desk.told(read), Partial { memory, have })
                })
            })
            .await
        {
            Ok((Ok(()), partial)) => Ok(partial),
            Ok((Err(error), partial)) => Err((error, Some(partial))),
            Err(error) => Err((error, None)),
        }
    }

    /// The opened version in this process's own address space, when the holder is on this host and
    /// shares it ([`crate::shared`]). Nothing is carried then, and nothing hashed.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn map(&self, opened: Opened) -> Result<Option<Mapped>, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let mapped = desk.reader.map(&opened);
                desk.told(mapped)
            })
        })
        .await?
    }

    /// Reads byte ranges, packed one behind the other, into `memory`, which is as long as they are.
    /// Any number of spans: they are cut into requests here. The bytes are guarded by the link, not by
    /// the region's hashes: for a holder that is trusted.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn read_spans(
        &self,
        opened: Opened,
        spans: Vec<Span>,
        memory: Vec<u8>,
    ) -> Result<Vec<u8>, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let mut memory = memory;
                let read = read_spans(&mut desk.reader, &opened, &spans, &mut memory).await;
                desk.told(read).map(|()| memory)
            })
        })
        .await?
    }

    /// Reads bytes `start..start + memory.len()`, each of them verified: the chunks they touch are
    /// read whole.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn read_verified(
        &self,
        opened: Opened,
        start: u64,
        memory: Vec<u8>,
    ) -> Result<Vec<u8>, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let mut memory = memory;
                let mut at = start;
                for part in memory.chunks_mut(VERIFIED_BYTES) {
                    let read = desk.reader.read_verified(&opened, at, part).await;
                    desk.told(read)?;
                    at += part.len() as u64;
                }
                Ok(memory)
            })
        })
        .await?
    }

    /// Writes `bytes` as the version after `expected`; returns the new version.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn write(
        &self,
        region: RegionName,
        bytes: Bytes,
        chunk_bytes: u32,
        expected: u64,
    ) -> Result<u64, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let (kind, level) = (StageKind::Write, Level::Placed);
                let staged = desk.reader.stage(region, kind, bytes, chunk_bytes, level).await;
                let handle = desk.told(staged)?;
                let committed = desk.reader.commit(handle, expected).await;
                desk.told(committed)
            })
        })
        .await?
    }

    /// Stages `bytes` as a contribution; when this returns all of it is in place.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn accumulate(
        &self,
        region: RegionName,
        bytes: Bytes,
        chunk_bytes: u32,
    ) -> Result<(), RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let (kind, level) = (StageKind::Accumulate, Level::Placed);
                let staged = desk.reader.stage(region, kind, bytes, chunk_bytes, level).await;
                desk.told(staged).map(|_| ())
            })
        })
        .await?
    }

    /// Follows the versions of a region.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn subscribe(&self, region: RegionName) -> Result<Versions, RemoteError> {
        let versions = self
            .call(move |desk| {
                Box::pin(async move {
                    if let Some(watched) = desk.watched.get(&region) {
                        return Ok(watched.subscribe());
                    }
                    let answer = desk.ask(Op::Subscribe { region: region.clone() }).await?;
                    let version = match answer {
                        Answer::Subscribed { version } => version,
                        other => unreachable!("{other:?} is no answer to SUBSCRIBE"),
                    };
                    let (watched, versions) = watch::channel(version);
                    desk.watched.insert(region, watched);
                    Ok(versions)
                })
            })
            .await??;
        Ok(Versions { versions, reason: Arc::clone(&self.reason) })
    }

    /// Puts `new` into a cell if it holds `expected`; returns what it held.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn cas(
        &self,
        region: RegionName,
        cell: u32,
        expected: u64,
        new: u64,
    ) -> Result<u64, RemoteError> {
        let op = move |handle| Op::Cas { handle, cell, expected, new };
        self.call(move |desk| Box::pin(desk.change(region, op))).await?
    }

    /// Adds to a cell, wrapping around; returns what it held.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn fetch_add(
        &self,
        region: RegionName,
        cell: u32,
        add: u64,
    ) -> Result<u64, RemoteError> {
        let op = move |handle| Op::FetchAdd { handle, cell, add };
        self.call(move |desk| Box::pin(desk.change(region, op))).await?
    }

    /// How the session fares, and a region.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn stat(&self, region: Option<RegionName>) -> Result<Stat, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                let stat = desk.reader.stat(region).await;
                desk.told(stat)
            })
        })
        .await?
    }

    /// Ends every grant below `epoch` on the regions that `prefix` means; returns the epoch in force.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn revoke(&self, prefix: String, epoch: u64) -> Result<u64, RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                match desk.ask(Op::Revoke { prefix, epoch }).await? {
                    Answer::Revoked { epoch } => Ok(epoch),
                    other => unreachable!("{other:?} is no answer to REVOKE"),
                }
            })
        })
        .await?
    }

    /// Waits until everything before is as safe as `level`.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::Weaker`] when the holder answers with less than was asked.
    pub async fn fence(&self, level: Level) -> Result<(), RemoteError> {
        self.call(move |desk| {
            Box::pin(async move {
                match desk.ask(Op::Fence { level }).await? {
                    Answer::Fenced { level: given } if given < level => {
                        Err(RemoteError::Weaker { asked: level, given })
                    }
                    _ => Ok(()),
                }
            })
        })
        .await?
    }
}

/// Bytes of one verified read; within what one request may name.
#[allow(clippy::cast_possible_truncation, reason = "32 MiB")]
const VERIFIED_BYTES: usize = (RANGES_BYTES_MAX / 2) as usize;

async fn read_spans(
    reader: &mut Reader,
    opened: &Opened,
    spans: &[Span],
    memory: &mut [u8],
) -> Result<(), ReadError> {
    let bytes = |spans: &[Span]| {
        spans.iter().map(|span| span.bytes().unwrap_or(0)).fold(0, u64::saturating_add)
    };
    let (expected, found) = (bytes(spans), memory.len() as u64);
    if expected != found {
        return Err(ReadError::Memory { expected, found });
    }
    let mut rest = memory;
    for request in in_requests(spans) {
        let len = usize::try_from(bytes(&request)).expect("at most the memory's length");
        let (part, behind) = rest.split_at_mut(len);
        reader.read_ranges(opened, &request, part).await?;
        rest = behind;
    }
    Ok(())
}

/// The versions of a region as they are published. Who is slow hears of the newest only.
#[derive(Debug)]
pub struct Versions {
    versions: watch::Receiver<u64>,
    reason: Reason,
}

impl Versions {
    /// The newest version known, 0 when there is none yet.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.versions.borrow()
    }

    /// Waits until the region has a version above `known`.
    ///
    /// # Errors
    /// [`RemoteError`] when the connection is over.
    pub async fn newer_than(&mut self, known: u64) -> Result<u64, RemoteError> {
        match self.versions.wait_for(|version| *version > known).await {
            Ok(version) => Ok(*version),
            Err(_) => Err(self
                .reason
                .get()
                .map_or(RemoteError::Closed, |reason| RemoteError::Over(Arc::clone(reason)))),
        }
    }
}
