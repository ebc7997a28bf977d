//! Frames over lanes: one half reads from all of them, the other spreads what it is given.

use crate::lane::{LaneReader, LaneWriter};
use crate::{LinkError, Remote};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use suanli_base::NodeId;
use suanli_rdpa::{Decoder, Frame, HEADER_BYTES};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

/// Bytes that wait on a lane of a [`FrameWriter`] before it takes no more frames. What is in here
/// can no longer be overtaken within its lane: on 1 Mbit/s it is a second.
const WRITE_BUFFER_BYTES: usize = 128 << 10;
/// Payloads up to this are copied behind their header; longer ones are written from where they are.
const COPIED_BYTES_MAX: usize = 4 << 10;
const READ_BYTES: usize = 64 << 10;
/// How long a peer has to take our last bytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The half that reads frames.
pub struct FrameReader {
    lanes: Vec<Inbound>,
    /// The bulk lane that is looked at first, so that none waits for ever behind another.
    turn: usize,
    /// Bytes have come since [`FrameReader::is_arriving`] was asked.
    came: bool,
    blocks: Blocks,
    peer: NodeId,
    remote: Remote,
}

struct Inbound {
    half: LaneReader,
    decoder: Decoder,
    open: bool,
}

impl core::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FrameReader({} lanes from {})", self.lanes.len(), self.remote)
    }
}

impl FrameReader {
    /// The lanes, control first.
    pub(crate) fn new(lanes: Vec<LaneReader>, peer: NodeId, remote: Remote) -> Self {
        let inbound = |half| Inbound { half, decoder: Decoder::new(), open: true };
        let lanes = lanes.into_iter().map(inbound).collect();
        Self { lanes, turn: 0, came: false, blocks: Blocks::default(), peer, remote }
    }

    /// Whether bytes have come since this was asked last, of a frame that is not there yet.
    pub fn is_arriving(&mut self) -> bool {
        let within = self.lanes.iter().any(|lane| !lane.decoder.is_between_frames());
        core::mem::take(&mut self.came) && within
    }

    /// The next frame, of the control lane first; nothing when the peer closed cleanly. May be dropped
    /// and called anew.
    ///
    /// # Errors
    /// [`LinkError::Frame`] when the peer broke the protocol, [`LinkError::Lost`] when the connection
    /// ended in the middle.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, LinkError>> {
        let bulk = self.lanes.len() - 1;
        let mut open = false;
        for place in 0..self.lanes.len() {
            let number = if place == 0 { 0 } else { 1 + (self.turn + place) % bulk };
            match self.poll_lane(number, cx) {
                Poll::Ready(Ok(Some(frame))) => {
                    if number != 0 {
                        self.turn = number - 1;
                    }
                    return Poll::Ready(Ok(Some(frame)));
                }
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(Ok(None)) }
    }

    fn poll_lane(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, LinkError>> {
        let lane = &mut self.lanes[number];
        let lost = |source| LinkError::Lost { remote: self.remote.clone(), source };
        loop {
            match lane.decoder.next_frame() {
                Ok(Some(frame)) => {
                    self.blocks.note(frame.payload());
                    return Poll::Ready(Ok(Some(frame)));
                }
                Ok(None) if !lane.open => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(source) => {
                    let (peer, remote) = (self.peer, self.remote.clone());
                    return Poll::Ready(Err(LinkError::Frame { peer, remote, source }));
                }
            }
            let buffer = lane.decoder.buffer();
            self.blocks.make_room(buffer);
            match pin!(lane.half.read_buf(buffer)).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(source)) => return Poll::Ready(Err(lost(source))),
                Poll::Ready(Ok(0)) if lane.decoder.is_between_frames() => lane.open = false,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(lost(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => self.came = true,
            }
        }
    }
}

/// Memory of long payloads, taken again when nobody holds them any more: a frame of a megabyte then
/// costs neither fresh pages nor the copies of a buffer that grows. A first long frame grows with
/// the bytes that come, whatever its header claims.
#[derive(Default)]
struct Blocks {
    spent: VecDeque<Bytes>,
}

/// Blocks kept for later.
const BLOCKS_MAX: usize = 8;

impl Blocks {
    fn note(&mut self, payload: &Bytes) {
        if payload.len() >= READ_BYTES {
            if self.spent.len() == BLOCKS_MAX {
                self.spent.pop_front();
            }
            self.spent.push_back(payload.clone());
        }
    }

    /// Room for the next read. Within a frame the decoder has made it already.
    fn make_room(&mut self, buffer: &mut BytesMut) {
        let room = buffer.capacity() - buffer.len();
        let within = buffer.len() >= HEADER_BYTES;
        if room >= READ_BYTES || (within && room > 0) {
            return;
        }
        if !within && let Some(mut block) = self.free() {
            block.extend_from_slice(buffer);
            *buffer = block;
        } else if room < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
    }

    /// A block that nobody holds any more.
    fn free(&mut self) -> Option<BytesMut> {
        for _ in 0..self.spent.len() {
            match self.spent.pop_front()?.try_into_mut() {
                Ok(mut block) => {
                    block.clear();
                    // Back to the place of the header in front of it.
                    let _ = block.try_reclaim(block.capacity() + HEADER_BYTES);
                    return Some(block);
                }
                Err(held) => self.spent.push_back(held),
            }
        }
        None
    }
}

/// The half that writes frames, several at a time.
pub struct FrameWriter {
    lanes: Vec<Outbound>,
    remote: Remote,
}

struct Outbound {
    half: LaneWriter,
    /// Complete pieces, then `tail`, in the order of the wire.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    flushed: bool,
    shut: bool,
}

impl core::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FrameWriter({} lanes to {})", self.lanes.len(), self.remote)
    }
}

impl FrameWriter {
    /// The lanes, control first.
    pub(crate) fn new(lanes: Vec<LaneWriter>, remote: Remote) -> Self {
        Self { lanes: lanes.into_iter().map(Outbound::new).collect(), remote }
    }

    /// Puts a frame behind the others of its class. Ask [`FrameWriter::is_full`] first.
    pub fn push(&mut self, frame: &Frame) {
        let lane = match self.lanes.as_mut_slice() {
            [_, bulk @ ..] if frame.is_bulk() && !bulk.is_empty() => {
                bulk.iter_mut().min_by_key(|lane| lane.waiting).expect("not empty")
            }
            lanes => &mut lanes[0],
        };
        lane.push(frame);
    }

    /// Whether to write before pushing more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (control, bulk) = self.lanes.split_first().expect("a link has a lane");
        control.is_full() || (!bulk.is_empty() && bulk.iter().all(Outbound::is_full))
    }

    /// Whether everything pushed is with the system.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.flushed)
    }

    /// Writes some of what waits. May be dropped and called anew.
    ///
    /// # Errors
    /// [`LinkError::Lost`].
    pub async fn write_some(&mut self) -> Result<(), LinkError> {
        let Self { lanes, remote } = self;
        poll_fn(|cx| poll_any(lanes, |lane| lane.poll_write_some(cx)))
            .await
            .map_err(|source| LinkError::Lost { remote: remote.clone(), source })
    }

    /// Writes everything that waits.
    ///
    /// # Errors
    /// [`LinkError::Lost`].
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.is_idle() {
            self.write_some().await?;
        }
        Ok(())
    }

    /// Writes what waits and says goodbye, within a second.
    ///
    /// # Errors
    /// [`LinkError::Lost`]; the connection is gone either way.
    pub async fn close(mut self) -> Result<(), LinkError> {
        let remote = self.remote.clone();
        let work = async {
            self.flush().await?;
            poll_fn(|cx| poll_all(&mut self.lanes, |lane| lane.poll_shut(cx)))
                .await
                .map_err(|source| LinkError::Lost { remote: self.remote.clone(), source })
        };
        tokio::time::timeout(CLOSE_TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(LinkError::Lost { remote, source: io::ErrorKind::TimedOut.into() })
        })
    }
}

/// Ready when any lane got on, the control lane having gone first; or when none had to.
fn poll_any(
    lanes: &mut [Outbound],
    mut work: impl FnMut(&mut Outbound) -> Poll<io::Result<()>>,
) -> Poll<io::Result<()>> {
    let (mut done, mut pending) = (false, false);
    for lane in lanes.iter_mut().filter(|lane| !lane.flushed) {
        match work(lane) {
            Poll::Ready(result) => {
                result?;
                done = true;
            }
            Poll::Pending => pending = true,
        }
    }
    if pending && !done { Poll::Pending } else { Poll::Ready(Ok(())) }
}

/// Ready when every lane is.
fn poll_all(
    lanes: &mut [Outbound],
    mut work: impl FnMut(&mut Outbound) -> Poll<io::Result<()>>,
) -> Poll<io::Result<()>> {
    let mut pending = false;
    for lane in lanes {
        match work(lane) {
            Poll::Ready(result) => result?,
            Poll::Pending => pending = true,
        }
    }
    if pending { Poll::Pending } else { Poll::Ready(Ok(())) }
}

impl Outbound {
    fn new(half: LaneWriter) -> Self {
        let (pieces, tail) = (VecDeque::new(), BytesMut::new());
        Self { half, pieces, tail, waiting: 0, flushed: true, shut: false }
    }

    const fn is_full(&self) -> bool {
        self.waiting >= WRITE_BUFFER_BYTES
    }

    fn push(&mut self, frame: &Frame) {
        let payload = frame.payload();
        self.tail.extend_from_slice(&frame.header_bytes());
        if payload.len() <= COPIED_BYTES_MAX {
            self.tail.extend_from_slice(payload);
        } else {
            self.pieces.push_back(self.tail.split().freeze());
            self.pieces.push_back(payload.clone());
        }
        self.waiting += frame.wire_len();
        self.flushed = false;
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting == 0 {
            let flushed = Pin::new(&mut self.half).poll_flush(cx)?;
            self.flushed = flushed.is_ready();
            return flushed.map(Ok);
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        match self.half.poll_take(cx, &mut self.pieces)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(wrote) => {
                self.waiting -= wrote;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            let shut = Pin::new(&mut self.half).poll_shutdown(cx)?;
            self.shut = shut.is_ready();
        }
        if self.shut { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
