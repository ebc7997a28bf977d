//! One session on one link, driven in place: no task, no channel and no copy between the socket and
//! whoever asks.
//!
//! What is waited for lands where [`Memory`] says, hashed piece by piece while it is in the cache;
//! everything else becomes a frame for the session. Control frames go before bulk; on a link with
//! several lanes they have a lane of their own. [`crate::reader`] and [`crate::holder`] build on this.
//!
//! Invariants: a payload of a stranger's length is never allocated before its bytes come; what lands
//! was asked for, has the length it must have, and matches its hash unless the caller trusts the
//! holder; a caller that stops waiting leaves the stream in step.

use crate::Ended;
use crate::bells::{BELLS, Bells};
use crate::lane::Lane;
use crate::{Link, LinkError, Remote};
use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use suanli_base::{Hash, NodeId, Time};
use suanli_rdpa::{Announced, Decoder, Event, Frame, HEADER_BYTES, Landing, Session};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};
use tokio::time::Sleep;

/// Bytes that wait for a lane before it is given more frames. What is in here can no longer be
/// overtaken by a heart-beat.
const OUT_BYTES: usize = 128 << 10;
/// A payload up to this is copied behind its header; a longer one is written from where it lies.
const COPY_BYTES: usize = 1 << 10;
const READ_BYTES: usize = 64 << 10;
/// Read in one turn before events are looked at.
const TURN_BYTES: usize = 1 << 20;

/// Where payloads land.
pub trait Memory {
    /// The place for a payload: exactly `landing.len` bytes, the same each time it is asked until the
    /// payload has landed. Without one the payload comes as an event with its bytes.
    fn place(&mut self, landing: &Landing) -> Option<&mut [u8]>;
}

/// No place of its own: every payload comes as an event.
impl Memory for () {
    fn place(&mut self, _: &Landing) -> Option<&mut [u8]> {
        None
    }
}

/// Whether what is read is held against the hashes of the opened region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Every chunk is hashed on arrival; a wrong one fails the READ.
    #[default]
    Verify,
    /// The holder and the link are trusted: nothing is hashed.
    Holder,
}

/// A session and the lanes it runs on.
#[derive(Debug)]
pub struct Endpoint {
    session: Session,
    lanes: Vec<Way>,
    /// Which of them have something to be read.
    bells: Bells,
    trust: Trust,
    clock: Instant,
    sleep: Pin<Box<Sleep>>,
    armed: Time,
    peer: NodeId,
    remote: Remote,
    memory: Option<Arc<Path>>,
    ended: bool,
}

/// One lane with what is under way on it.
struct Way {
    lane: Lane,
    decoder: Decoder,
    landing: Option<Arriving>,
    /// What came last was a payload that landed.
    landed: bool,
    out: VecDeque<Bytes>,
    /// Headers and small payloads, written behind `out`.
    tail: BytesMut,
    out_bytes: usize,
    unflushed: bool,
}

impl core::fmt::Debug for Way {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Way({} bytes to write)", self.out_bytes)
    }
}

/// What lands is hashed in runs of this length, which begin at multiples of it and are still in the
/// cache: BLAKE3 hashes sixteen blocks of 1 KiB at once where they are one subtree. Fed as the
/// records of TLS come, a header's length out of step, it took twice the time.
const HASH_BYTES: usize = 64 << 10;

/// A payload on its way to its place.
struct Arriving {
    landing: Landing,
    filled: usize,
    /// What of it the hasher has had.
    hashed: usize,
    hasher: Option<Box<blake3::Hasher>>,
    /// The place is gone: the rest is read and dropped.
    lost: bool,
}

impl Endpoint {
    /// `session` on `link`; the session's time begins at 0.
    #[must_use]
    pub fn new(link: Link, session: Session) -> Self {
        let (peer, remote) = (link.peer(), link.remote().clone());
        let memory = link.memory();
        let lanes = link.into_lanes();
        assert!((1..=BELLS).contains(&lanes.len()), "a link has 1 to {BELLS} lanes");
        Self {
            session,
            bells: Bells::new(lanes.len()),
            lanes: lanes.into_iter().map(Way::new).collect(),
            trust: Trust::Verify,
            clock: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
            armed: Time(0),
            peer,
            remote,
            memory,
            ended: false,
        }
    }

    /// Who is at the other end; proven by the link.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// The folder of the other end's memory, on the same host.
    pub(crate) fn memory(&self) -> Option<Arc<Path>> {
        self.memory.clone()
    }

    /// Where the other end is.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Changes whether what lands is hashed.
    pub const fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// Milliseconds since this endpoint began: the time of its session.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The session.
    pub const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The session and its time, for asking and answering.
    pub fn at(&mut self) -> (Time, &mut Session) {
        (self.now(), &mut self.session)
    }

    /// The next event. May be dropped and called anew; what was asked goes out while this waits.
    ///
    /// # Errors
    /// [`Ended`] when the link is over.
    pub async fn next(&mut self, memory: &mut (impl Memory + ?Sized)) -> Result<Event, Ended> {
        poll_fn(|cx| self.poll_next(cx, memory)).await
    }

    /// As [`Endpoint::next`], for use beside other things that are waited for.
    ///
    /// # Errors
    /// [`Ended`] when the link is over.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut (impl Memory + ?Sized),
    ) -> Poll<Result<Event, Ended>> {
        if self.ended {
            return Poll::Ready(Err(Ended::ByUs));
        }
        let result = ready!(self.poll_turns(cx, memory));
        self.ended = result.is_err();
        Poll::Ready(result)
    }

    fn poll_turns(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut (impl Memory + ?Sized),
    ) -> Poll<Result<Event, Ended>> {
        let wakers = self.bells.wait(cx);
        loop {
            if let Some(event) = self.session.poll_event() {
                return Poll::Ready(match event {
                    Event::Silent { .. } => Err(Ended::Silent),
                    event => Ok(event),
                });
            }
            self.poll_write(cx).map_err(|source| self.lost(source))?;
            let mut heard = false;
            let mut rang = self.bells.take();
            while rang != 0 {
                let lane = rang.trailing_zeros() as usize;
                rang &= rang - 1;
                let read = self.poll_read(lane, &mut Context::from_waker(&wakers[lane]), memory)?;
                heard |= read > 0;
                if read >= TURN_BYTES {
                    // There may be more.
                    self.bells.ring(lane);
                }
            }
            if heard {
                continue;
            }
            let due = self.poll_timer(cx);
            if !due {
                return Poll::Pending;
            }
        }
    }

    /// Does what is due; true when there may be something to say or tell.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.now();
        let Some(due) = self.session.poll_timeout() else { return false };
        if due <= now {
            self.session.handle_timeout(now);
            return true;
        }
        // A timer that goes off too early only looks again: it is set anew when it has gone off, or
        // when it would be late.
        if self.armed <= now || due < self.armed {
            self.armed = due;
            let at = self.clock + std::time::Duration::from_millis(due.0);
            self.sleep.as_mut().reset(at.into());
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            self.armed = Time(0);
            return true;
        }
        false
    }

    /// Gives the lanes what the session has to send, and writes what they take.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let now = self.now();
            let bulk = self.lanes.len() - 1;
            while self.lanes[0].out_bytes < OUT_BYTES
                && let Some(frame) = self.session.poll_control(now)
            {
                self.lanes[0].push(&frame);
            }
            // The emptiest bulk lane takes the next frame.
            let emptiest = (bulk.min(1)..=bulk).min_by_key(|index| self.lanes[*index].out_bytes);
            let emptiest = emptiest.expect("there is a lane");
            let mut pushed = false;
            if self.lanes[emptiest].out_bytes < OUT_BYTES
                && let Some(frame) = self.session.poll_bulk(now)
            {
                self.lanes[emptiest].push(&frame);
                pushed = true;
            }
            let full = self.lanes[emptiest].out_bytes >= OUT_BYTES;
            if pushed && !full {
                continue;
            }
            let mut wrote = false;
            for way in &mut self.lanes {
                wrote |= way.poll_write(cx)?;
            }
            // Room was made and there was more to send than fitted.
            if !(wrote && (full || pushed)) {
                return Ok(());
            }
        }
    }

    /// Reads what has come on a lane, about a turn's worth at the most; how many bytes it was.
    fn poll_read(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
        memory: &mut (impl Memory + ?Sized),
    ) -> Result<usize, Ended> {
        let mut turn = 0;
        while turn < TURN_BYTES {
            let way = &mut self.lanes[index];
            let read = match &mut way.landing {
                Some(arriving) => arriving.poll_read(&mut way.lane, cx, memory),
                None => read_some(way, cx),
            };
            let read = match read {
                Poll::Pending => break,
                Poll::Ready(Err(source)) => return Err(self.lost(source)),
                Poll::Ready(Ok(0)) => return Err(self.end_of_stream(index)),
                Poll::Ready(Ok(read)) => read,
            };
            turn += read;
            self.take(index, memory)?;
        }
        let way = &self.lanes[index];
        if turn > 0 && (way.landing.is_some() || !way.decoder.is_between_frames()) {
            let (now, session) = self.at();
            session.arriving(now);
        }
        Ok(turn)
    }

    fn end_of_stream(&self, index: usize) -> Ended {
        let way = &self.lanes[index];
        if way.landing.is_none() && way.decoder.is_between_frames() {
            return Ended::ByPeer;
        }
        self.lost(io::ErrorKind::UnexpectedEof.into())
    }

    fn lost(&self, source: io::Error) -> Ended {
        Ended::Broken(LinkError::Lost { remote: self.remote.clone(), source })
    }

    /// Hands over everything that has come whole on a lane.
    fn take(&mut self, index: usize, memory: &mut (impl Memory + ?Sized)) -> Result<(), Ended> {
        loop {
            let now = self.now();
            let way = &mut self.lanes[index];
            if let Some(arriving) = &way.landing {
                if arriving.filled < arriving.landing.len as usize {
                    return Ok(());
                }
                let arriving = way.landing.take().expect("looked at just before");
                way.landed = way.decoder.is_between_frames();
                if !arriving.lost {
                    let digest = arriving.hasher.map(|h| Hash(h.finalize().into()));
                    let landed = self.session.landed(now, &arriving.landing, digest);
                    landed.map_err(Ended::Violation)?;
                }
                continue;
            }
            if let Some(arriving) = begin(way, &self.session, self.trust, memory) {
                way.landing = Some(arriving);
                continue;
            }
            let frame = way.decoder.next_frame();
            let (peer, remote) = (self.peer, &self.remote);
            let foul =
                |source| Ended::Broken(LinkError::Frame { peer, remote: remote.clone(), source });
            match frame.map_err(foul)? {
                Some(frame) => {
                    self.session.handle_frame(now, frame).map_err(Ended::Violation)?;
                }
                None => return Ok(()),
            }
        }
    }

    /// Writes what waits and says goodbye, within a second; the link is over either way.
    pub async fn close(mut self) {
        if self.ended {
            return;
        }
        let now = self.now();
        while let Some(frame) = self.session.poll_control(now) {
            self.lanes[0].push(&frame);
        }
        let work = async {
            for way in &mut self.lanes {
                poll_fn(|cx| way.poll_close(cx)).await?;
            }
            io::Result::Ok(())
        };
        // A peer that is gone needs no goodbye.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), work).await;
    }
}

/// Reads what comes next on a lane into the decoder's buffer. Behind a payload that landed another
/// one is likely: then only its header is read here, and its payload spared a copy.
fn read_some(way: &mut Way, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let buffer = way.decoder.buffer();
    let missing = HEADER_BYTES.saturating_sub(buffer.len());
    if !way.landed || missing == 0 {
        way.landed = false;
        buffer.reserve(READ_BYTES);
        return pin!(way.lane.reader.read_buf(buffer)).poll(cx);
    }
    let mut header = [0; HEADER_BYTES];
    let mut read = ReadBuf::new(&mut header[..missing]);
    ready!(Pin::new(&mut way.lane.reader).poll_read(cx, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// Begins the landing of the payload behind the header that is next in the buffer, if it has a place.
fn begin(
    way: &mut Way,
    session: &Session,
    trust: Trust,
    memory: &mut (impl Memory + ?Sized),
) -> Option<Arriving> {
    let buffer = way.decoder.buffer();
    let announced = Announced::read(buffer.first_chunk::<HEADER_BYTES>()?).ok()?;
    let landing = session.landing(&announced)?;
    let place = memory.place(&landing)?;
    let buffer = way.decoder.buffer();
    buffer.advance(HEADER_BYTES);
    let verify = trust == Trust::Verify && landing.expected.is_some() || announced.hash.is_some();
    let hasher = verify.then(|| Box::new(blake3::Hasher::new()));
    let mut arriving = Arriving { landing, filled: 0, hashed: 0, hasher, lost: false };
    let here = buffer.len().min(place.len());
    place[..here].copy_from_slice(&buffer[..here]);
    arriving.came(place, here);
    buffer.advance(here);
    Some(arriving)
}

impl Arriving {
    /// So many bytes more are in place.
    fn came(&mut self, place: &[u8], bytes: usize) {
        self.filled += bytes;
        let whole = self.filled == self.landing.len as usize;
        let to = if whole { self.filled } else { self.filled / HASH_BYTES * HASH_BYTES };
        if let Some(hasher) = &mut self.hasher
            && to > self.hashed
        {
            hasher.update(&place[self.hashed..to]);
            self.hashed = to;
        }
    }

    fn poll_read(
        &mut self,
        lane: &mut Lane,
        cx: &mut Context<'_>,
        memory: &mut (impl Memory + ?Sized),
    ) -> Poll<io::Result<usize>> {
        let left = self.landing.len as usize - self.filled;
        let place = if self.lost { None } else { memory.place(&self.landing) };
        let Some(place) = place else {
            // Whoever asked stopped waiting: the stream must stay in step.
            self.lost = true;
            let mut void = [0; 16 << 10];
            let room = left.min(void.len());
            let mut read = ReadBuf::new(&mut void[..room]);
            ready!(Pin::new(&mut lane.reader).poll_read(cx, &mut read))?;
            self.filled += read.filled().len();
            return Poll::Ready(Ok(read.filled().len()));
        };
        let mut read = ReadBuf::new(&mut place[self.filled..]);
        ready!(Pin::new(&mut lane.reader).poll_read(cx, &mut read))?;
        let here = read.filled().len();
        self.came(place, here);
        Poll::Ready(Ok(here))
    }
}

impl Way {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            decoder: Decoder::new(),
            landing: None,
            landed: false,
            out: VecDeque::new(),
            tail: BytesMut::new(),
            out_bytes: 0,
            unflushed: false,
        }
    }

    fn push(&mut self, frame: &Frame) {
        self.out_bytes += frame.wire_len();
        self.tail.extend_from_slice(&frame.header_bytes());
        if frame.payload().len() <= COPY_BYTES {
            self.tail.extend_from_slice(frame.payload());
            return;
        }
        self.out.push_back(self.tail.split().freeze());
        self.out.push_back(frame.payload().clone());
    }

    /// Writes as much as the lane takes; true when it took something.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut wrote = false;
        while self.out_bytes > 0 {
            if !self.tail.is_empty() {
                self.out.push_back(self.tail.split().freeze());
            }
            match self.lane.writer.poll_take(cx, &mut self.out) {
                Poll::Pending => return Ok(wrote),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => self.out_bytes -= taken,
                Poll::Ready(Err(error)) => return Err(error),
            }
            wrote = true;
            self.unflushed = true;
        }
        if self.unflushed
            && let Poll::Ready(result) = Pin::new(&mut self.lane.writer).poll_flush(cx)
        {
            result?;
            self.unflushed = false;
        }
        Ok(wrote)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(cx)?;
        if self.out_bytes > 0 || self.unflushed {
            return Poll::Pending;
        }
        Pin::new(&mut self.lane.writer).poll_shutdown(cx)
    }
}
