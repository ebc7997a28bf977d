//! Reading and changing another node's regions: one connection, used by one caller at a time, with
//! nothing between the socket and the caller's memory.

mod remote;
mod several;
pub use remote::{COMMANDS_MAX, NoRoom, Partial, RemoteError, RemoteNode, Versions, zeros};
pub use several::{Dropped, Gathered, NotGathered, Source, gather};

use crate::Ended;
use crate::endpoint::{Endpoint, Memory, Trust};
use crate::shared::Mapped;
use crate::{Link, LinkError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Fault, Time};
use suanli_rdpa::limits::{PIECE_BYTES, RANGES_BYTES_MAX, READ_CHUNKS_MAX, RUNS_MAX, SPANS_MAX};
use suanli_rdpa::{
    Answer, ChunkSet, Event, Failure, Handle, Hello, Landing, Level, Limits, Op, Place, Placement,
    Refused, RegionError, RegionInfo, RegionName, RequestId, Session, Side, Span, StageInfo,
    StageKind, Stat, Welcome, check_spans,
};

/// Bytes asked for and not yet arrived, in one bulk read: what 1 Gbit/s holds in 250 ms.
const WINDOW_BYTES: u64 = 32 << 20;

/// What was asked could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The link is over.
    #[error("the link to {remote} is over: {ended}; connect again, what has arrived is kept")]
    Ended {
        /// To whom.
        remote: crate::Remote,
        /// How.
        ended: Box<Ended>,
    },
    /// The holder refused, or did not answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// What was asked makes no sense for what is open.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The memory given does not fit what is read.
    #[error("{expected} bytes are read, the memory given has {found}")]
    Memory {
        /// What is read.
        expected: u64,
        /// What was given.
        found: u64,
    },
    /// The bytes to stage cannot be cut into chunks of this length.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The holder has another content for a chunk of this staging area.
    #[error("the holder has another content for chunk {chunk}: stage it under another name")]
    Conflict {
        /// Which chunk.
        chunk: u32,
    },
    /// A version on this host cannot be mapped.
    #[error("cannot map the region: {source}")]
    Map {
        /// What the system says.
        source: std::io::Error,
    },
    /// The link could not be made.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl ReadError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Ended { ended, .. } => match &**ended {
                Ended::Violation(violation) => violation.fault(),
                Ended::Broken(error) => error.fault(),
                Ended::ByUs | Ended::ByPeer | Ended::Silent => Fault::Weather,
            },
            Self::Map { .. } => Fault::Weather,
            Self::Failed(failure) => failure.fault(),
            Self::Refused(_) | Self::Memory { .. } | Self::Region(_) | Self::Conflict { .. } => {
                Fault::Ours
            }
            Self::Link(error) => error.fault(),
        }
    }
}

/// A region opened at one version.
#[derive(Clone, Debug)]
pub struct Opened {
    /// For what is asked of it.
    pub handle: Handle,
    /// What it holds.
    pub info: Arc<RegionInfo>,
}

/// The asking side of a connection.
#[derive(Debug)]
pub struct Reader {
    endpoint: Endpoint,
    welcome: Welcome,
    /// Events of requests other than the ones that were waited for.
    aside: VecDeque<Event>,
    /// Requests of the method that runs, or of one whose caller stopped waiting.
    own: BTreeSet<RequestId>,
}

/// A caller's memory as the place of what is read.
struct Target<'a> {
    memory: &'a mut [u8],
    /// Of each request, where its first byte belongs; of a READ that of chunk 0.
    bases: BTreeMap<RequestId, u64>,
    chunk_bytes: u64,
    /// Byte of the region at which the memory begins.
    begin: u64,
}

impl Target<'_> {
    fn at(&self, id: RequestId, place: Place) -> Option<usize> {
        let base = *self.bases.get(&id)?;
        let at = match place {
            Place::Chunk { chunk, .. } => {
                (u64::from(chunk) * self.chunk_bytes).checked_sub(self.begin)?
            }
            Place::Piece { start, .. } => base + start,
        };
        usize::try_from(at).ok()
    }

    fn put(&mut self, id: RequestId, place: Place, bytes: &[u8]) {
        let at = self.at(id, place).expect("only what was asked comes");
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Target<'_> {
    fn place(&mut self, landing: &Landing) -> Option<&mut [u8]> {
        let at = self.at(landing.id, landing.place)?;
        self.memory.get_mut(at..at + landing.len as usize)
    }
}

impl Reader {
    /// Says HELLO on a link and waits for the welcome. `seed` is entropy.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn connect(link: Link, hello: Hello, seed: u64) -> Result<Self, ReadError> {
        Self::with(
            link,
            hello,
            Limits { bulk_window_bytes: WINDOW_BYTES, ..Limits::reliable() },
            seed,
        )
        .await
    }

    /// As [`Reader::connect`], with other limits.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn with(
        link: Link,
        hello: Hello,
        limits: Limits,
        seed: u64,
    ) -> Result<Self, ReadError> {
        let session = Session::new(Side::Connecting, Time(0), limits, seed);
        let mut endpoint = Endpoint::new(link, session);
        let (now, session) = endpoint.at();
        let wanted = session.request(now, Op::Hello(hello))?;
        loop {
            match next(&mut endpoint, &mut ()).await? {
                Event::Answered { id, answer: Answer::Welcome(welcome) } if id == wanted => {
                    let (aside, own) = (VecDeque::new(), BTreeSet::new());
                    return Ok(Self { endpoint, welcome, aside, own });
                }
                Event::Failed { failure, .. } => return Err(failure.into()),
                _ => {}
            }
        }
    }

    /// What the holder said at the beginning.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The connection, for what has no method of its own here.
    pub const fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// Says whether chunks are held against the region's hashes on arrival.
    pub const fn trust(&mut self, trust: Trust) {
        self.endpoint.set_trust(trust);
    }

    /// Asks, without waiting; the answer comes from [`Reader::next`].
    ///
    /// # Errors
    /// [`Refused`] by our own session: full, or senseless.
    pub fn post(&mut self, op: Op) -> Result<RequestId, Refused> {
        let (now, session) = self.endpoint.at();
        session.request(now, op)
    }

    /// The next event, of whatever was asked; payloads land in `memory`.
    ///
    /// # Errors
    /// [`ReadError::Ended`].
    pub async fn next(&mut self, memory: &mut impl Memory) -> Result<Event, ReadError> {
        match self.aside.pop_front() {
            Some(event) => Ok(event),
            None => next(&mut self.endpoint, memory).await,
        }
    }

    /// Asks for the method that runs: forgotten when its caller stops waiting.
    fn post_own(&mut self, op: Op) -> Result<RequestId, Refused> {
        let id = self.post(op)?;
        self.own.insert(id);
        Ok(id)
    }

    /// Whether one more request would be taken. While there is none, what was asked is waited for.
    fn has_room(&mut self) -> bool {
        self.endpoint.session().room() > 0
    }

    /// Gives up what an earlier method asked and did not wait for.
    fn forget(&mut self) {
        for id in core::mem::take(&mut self.own) {
            self.endpoint.session().cancel(id);
        }
    }

    /// A notification, or an event of what the caller posted: kept for [`Reader::next`].
    fn keep(&mut self, event: Event) {
        let id = match &event {
            Event::Notified { region: new, .. } => {
                let older =
                    |e: &Event| matches!(e, Event::Notified { region, .. } if region == new);
                self.aside.retain(|event| !older(event));
                None
            }
            Event::Answered { id, .. }
            | Event::Failed { id, .. }
            | Event::Chunk { id, .. }
            | Event::Piece { id, .. }
            | Event::Landed { id, .. } => Some(id),
            _ => None,
        };
        if id.is_none_or(|id| !self.own.contains(id)) {
            self.aside.push_back(event);
        }
    }

    /// Asks and waits for the answer. Other events wait for [`Reader::next`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn ask(&mut self, op: Op) -> Result<Answer, ReadError> {
        self.forget();
        let wanted = self.post_own(op)?;
        loop {
            match next(&mut self.endpoint, &mut ()).await? {
                Event::Answered { id, answer } if id == wanted => {
                    self.own.clear();
                    return Ok(answer);
                }
                Event::Failed { id, failure } if id == wanted => {
                    self.own.clear();
                    return Err(failure.into());
                }
                other => self.keep(other),
            }
        }
    }

    /// Opens the newest version of a region.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn open(&mut self, region: RegionName) -> Result<Opened, ReadError> {
        match self.ask(Op::Open { region }).await? {
            Answer::Opened { handle, info } => Ok(Opened { handle, info }),
            other => unreachable!("{other:?} is no answer to OPEN"),
        }
    }

    /// Opens the region unless it still has the version `since`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn open_if_changed(
        &mut self,
        region: RegionName,
        since: u64,
    ) -> Result<Option<Opened>, ReadError> {
        match self.ask(Op::ReadIfChanged { region, since }).await? {
            Answer::Opened { handle, info } => Ok(Some(Opened { handle, info })),
            Answer::NotChanged => Ok(None),
            other => unreachable!("{other:?} is no answer to READ_IF_CHANGED"),
        }
    }

    /// Reads a whole region into `memory`, chunk by chunk as they come.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&mut self, opened: &Opened, memory: &mut [u8]) -> Result<(), ReadError> {
        let mut have = ChunkSet::empty(opened.info.chunk_count());
        self.resume(opened, memory, &mut have).await
    }

    /// Reads what `have` lacks of a region into `memory`, which holds the rest already. After an error
    /// `have` says what has arrived: go on with it on another connection, or with another holder of
    /// the same root.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn resume(
        &mut self,
        opened: &Opened,
        memory: &mut [u8],
        have: &mut ChunkSet,
    ) -> Result<(), ReadError> {
        let shape = opened.info.shape;
        let (expected, found) = (shape.bytes, memory.len() as u64);
        if expected != found {
            return Err(ReadError::Memory { expected, found });
        }
        self.forget();
        let chunk_bytes = u64::from(shape.chunk_bytes);
        let batch = (WINDOW_BYTES / 8 / chunk_bytes).clamp(1, READ_CHUNKS_MAX as u64);
        let mut missing: VecDeque<u32> = have.missing().collect();
        let mut target = Target { memory, bases: BTreeMap::new(), chunk_bytes, begin: 0 };
        let (mut in_flight, mut left) = (0, missing.len());
        let window = (WINDOW_BYTES / chunk_bytes).max(1);
        while left > 0 {
            while !missing.is_empty() && self.has_room() && in_flight + batch <= window.max(batch) {
                let len = missing.len().min(usize::try_from(batch).expect("at most 64"));
                let chunks: Vec<u32> = missing.drain(..len).collect();
                in_flight += len as u64;
                let id = self.post_own(Op::Read { handle: opened.handle, chunks })?;
                target.bases.insert(id, 0);
            }
            let (id, chunk, bytes) = match next(&mut self.endpoint, &mut target).await? {
                Event::Landed { id, place: Place::Chunk { chunk, .. } } => (id, chunk, None),
                Event::Chunk { id, chunk, bytes, .. } => (id, chunk, Some(bytes)),
                Event::Failed { id, failure } if target.bases.contains_key(&id) => {
                    self.forget();
                    return Err(failure.into());
                }
                other => {
                    self.keep(other);
                    continue;
                }
            };
            if !target.bases.contains_key(&id) {
                continue;
            }
            if let Some(bytes) = bytes {
                target.put(id, Place::Chunk { handle: opened.handle, chunk }, &bytes);
            }
            if have.insert(chunk) {
                left -= 1;
                in_flight -= 1;
            }
        }
        Ok(())
    }

    /// The opened version in this process's own address space, when the holder is on this host and
    /// shares it ([`crate::shared`]); then nothing is carried at all.
    ///
    /// # Errors
    /// [`ReadError::Map`] when it is there and cannot be mapped.
    pub fn map(&self, opened: &Opened) -> Result<Option<Mapped>, ReadError> {
        let Some(folder) = self.endpoint.memory() else { return Ok(None) };
        let (root, bytes) = (opened.info.root, opened.info.shape.bytes);
        crate::shared::map(&folder, root, bytes).map_err(|source| ReadError::Map { source })
    }

    /// Reads byte ranges of an opened version, packed one behind the other, into `memory`. The bytes
    /// are guarded by the link, not by the region's hashes: for a holder that is trusted.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_ranges(
        &mut self,
        opened: &Opened,
        spans: &[Span],
        memory: &mut [u8],
    ) -> Result<(), ReadError> {
        let total = check_spans(spans, opened.info.shape.bytes).map_err(Refused::from)?;
        let found = memory.len() as u64;
        if total != found {
            return Err(ReadError::Memory { expected: total, found });
        }
        self.forget();
        let id = self.post_own(Op::ReadRanges { handle: opened.handle, spans: spans.to_vec() })?;
        let bases = BTreeMap::from([(id, 0)]);
        let mut target = Target { memory, bases, chunk_bytes: 0, begin: 0 };
        loop {
            match next(&mut self.endpoint, &mut target).await? {
                Event::Piece { id: of, handle, start, bytes } if of == id => {
                    target.put(id, Place::Piece { handle, start }, &bytes);
                }
                Event::Landed { id: of, .. } if of == id => {}
                Event::Answered { id: of, .. } if of == id => return Ok(()),
                Event::Failed { id: of, failure } if of == id => return Err(failure.into()),
                other => self.keep(other),
            }
        }
    }

    /// Reads bytes `start..start + memory.len()` of a region so that each is verified: the chunks they
    /// touch are read whole.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_verified(
        &mut self,
        opened: &Opened,
        start: u64,
        memory: &mut [u8],
    ) -> Result<(), ReadError> {
        let shape = opened.info.shape;
        let end = start.saturating_add(memory.len() as u64);
        check_spans(&[Span::run(start, memory.len() as u64)], shape.bytes)
            .map_err(Refused::from)?;
        let chunks = shape.chunks_of(start, end);
        let chunk_bytes = u64::from(shape.chunk_bytes);
        let begin = u64::from(chunks.start) * chunk_bytes;
        let len = (u64::from(chunks.end) * chunk_bytes).min(shape.bytes) - begin;
        let mut whole = vec![0; usize::try_from(len).expect("within what spans may hold")];
        let mut target = Target { memory: &mut whole, bases: BTreeMap::new(), chunk_bytes, begin };
        let all: Vec<u32> = chunks.collect();
        self.forget();
        let mut left = all.len();
        let mut waiting = all.chunks(READ_CHUNKS_MAX);
        while left > 0 {
            while self.has_room()
                && let Some(chunks) = waiting.next()
            {
                let op = Op::Read { handle: opened.handle, chunks: chunks.to_vec() };
                target.bases.insert(self.post_own(op)?, 0);
            }
            match next(&mut self.endpoint, &mut target).await? {
                Event::Chunk { id, handle, chunk, bytes } if target.bases.contains_key(&id) => {
                    target.put(id, Place::Chunk { handle, chunk }, &bytes);
                    left -= 1;
                }
                Event::Landed { id, .. } if target.bases.contains_key(&id) => left -= 1,
                Event::Failed { id, failure } if target.bases.contains_key(&id) => {
                    return Err(failure.into());
                }
                other => self.keep(other),
            }
        }
        let from = usize::try_from(start - begin).expect("within a chunk");
        memory.copy_from_slice(&whole[from..from + memory.len()]);
        Ok(())
    }

    /// Stages `bytes` as the next version of a region (or as a contribution), chunk by chunk. Returns
    /// the handle, for COMMIT. What the holder has already is not sent.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn stage(
        &mut self,
        region: RegionName,
        kind: StageKind,
        bytes: Bytes,
        chunk_bytes: u32,
        level: Level,
    ) -> Result<Handle, ReadError> {
        let info = RegionInfo::of(0, &bytes, chunk_bytes)?;
        let stage = StageInfo { kind, shape: info.shape, root: info.root };
        let Answer::StageOpened { handle, placed } =
            self.ask(Op::OpenStage { region, stage }).await?
        else {
            unreachable!("another answer to OPEN_STAGE")
        };
        let mut missing: Vec<u32> = placed.missing().collect();
        missing.reverse();
        let mut waiting = BTreeMap::new();
        while !missing.is_empty() || !waiting.is_empty() {
            while let Some(chunk) = missing.last().copied() {
                let start = chunk as usize * chunk_bytes as usize;
                let end = (start + chunk_bytes as usize).min(bytes.len());
                let bytes = bytes.slice(start..end);
                let op = match kind {
                    StageKind::Write => Op::Write { handle, chunk, bytes, level },
                    StageKind::Accumulate => Op::Accumulate { handle, chunk, bytes, level },
                };
                match self.post_own(op) {
                    Ok(id) => waiting.insert(id, chunk),
                    Err(Refused::Full { .. }) => break,
                    Err(refused) => return Err(refused.into()),
                };
                missing.pop();
            }
            match next(&mut self.endpoint, &mut ()).await? {
                Event::Answered { id, answer } if waiting.contains_key(&id) => {
                    let chunk = waiting.remove(&id).expect("looked at just before");
                    if let Answer::Placed { placement: Placement::Conflict, .. } = answer {
                        self.forget();
                        return Err(ReadError::Conflict { chunk });
                    }
                }
                Event::Failed { id, failure } if waiting.contains_key(&id) => {
                    return Err(failure.into());
                }
                other => self.keep(other),
            }
        }
        Ok(handle)
    }

    /// Publishes what was staged as the version after `expected`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn commit(&mut self, handle: Handle, expected: u64) -> Result<u64, ReadError> {
        match self.ask(Op::Commit { handle, expected }).await? {
            Answer::Committed { version } => Ok(version),
            other => unreachable!("{other:?} is no answer to COMMIT"),
        }
    }

    /// How the session fares, and a region.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn stat(&mut self, region: Option<RegionName>) -> Result<Stat, ReadError> {
        match self.ask(Op::Stat { region }).await? {
            Answer::Stat(stat) => Ok(stat),
            other => unreachable!("{other:?} is no answer to STAT"),
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.endpoint.close().await;
    }
}

async fn next(
    endpoint: &mut Endpoint,
    memory: &mut (impl Memory + ?Sized),
) -> Result<Event, ReadError> {
    match endpoint.next(memory).await {
        Ok(event) => Ok(event),
        Err(ended) => {
            let (remote, ended) = (endpoint.remote().clone(), Box::new(ended));
            Err(ReadError::Ended { remote, ended })
        }
    }
}

/// Cuts spans so that each request stays within what one may ask; a caller with more asks in several.
#[must_use]
pub fn in_requests(spans: &[Span]) -> Vec<Vec<Span>> {
    let most = RANGES_BYTES_MAX - u64::from(PIECE_BYTES);
    let (mut requests, mut current, mut bytes, mut runs) = (Vec::new(), Vec::new(), 0, 0);
    for span in spans.iter().flat_map(|span| cut(*span, most)) {
        let (len, count) = (span.len * u64::from(span.count), u64::from(span.count));
        let full = bytes + len > most || runs + count > RUNS_MAX || current.len() == SPANS_MAX;
        if !current.is_empty() && full {
            requests.push(core::mem::take(&mut current));
            (bytes, runs) = (0, 0);
        }
        bytes += len;
        runs += count;
        current.push(span);
    }
    if !current.is_empty() {
        requests.push(current);
    }
    requests
}

/// One span as several of at most `most` bytes each, in order.
fn cut(span: Span, most: u64) -> Vec<Span> {
    let Span { offset, len, stride, count } = span;
    if len == 0 || count == 0 {
        return vec![span];
    }
    let mut out = Vec::new();
    if len >= most {
        for run in 0..u64::from(count) {
            let mut at = 0;
            while at < len {
                let piece = most.min(len - at);
                out.push(Span::run(offset + run * stride + at, piece));
                at += piece;
            }
        }
        return out;
    }
    let runs = u32::try_from((most / len).min(RUNS_MAX)).unwrap_or(u32::MAX);
    let mut first = 0;
    while first < count {
        let here = runs.min(count - first);
        out.push(Span { offset: offset + u64::from(first) * stride, len, stride, count: here });
        first += here;
    }
    out
}
