//! Lanes over a QUIC connection: one bidirectional stream each, opened by the connecting side.
//!
//! Each stream begins with eight bytes: `SLQ`, version 1, the lane's number, how many bulk lanes
//! there are, two zeros. Lane 0 goes before all others in what is sent; those take turns of
//! [`TURN_BYTES`]. The library alone would put a packet of each in turn, and the receiver then holds
//! sixteen frames that are all not whole yet.

use super::settings;
use crate::counted::Counters;
use crate::lane::{Lane, LaneWrite, PIECES_MAX, drop_front};
use bytes::Bytes;
use iroh::endpoint::{
    Connection, ReadError, RecvStream, SendStream, VarInt, WeakConnectionHandle, WriteError,
};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const MAGIC: [u8; 4] = *b"SLQ\x01";
const PREAMBLE_BYTES: usize = 8;
/// Read by the layer above before a stranger's window becomes a peer's: a HELLO and more.
const LISTENED_BYTES: u64 = 16 << 10;
/// What a bulk lane sends before those that wait: a chunk, and no more than its window.
const TURN_BYTES: usize = 1 << 20;
/// The code of a stream that ends without goodbye.
const CUT: VarInt = VarInt::from_u32(1);

/// Opens a control lane and `bulk` lanes.
pub(super) async fn open(
    connection: &Connection,
    bulk: u8,
    lane_window_bytes: u32,
    counters: &Arc<Counters>,
) -> io::Result<Vec<Lane>> {
    let window = Window::open(connection, settings::window(bulk, lane_window_bytes));
    let turns = Arc::default();
    let mut lanes = Vec::with_capacity(usize::from(bulk) + 1);
    for number in 0..=bulk {
        let (mut send, receive) = connection.open_bi().await.map_err(io::Error::other)?;
        let turn = Turn::new(&send, number, &turns)?;
        let [a, b, c, d] = MAGIC;
        send.write_all(&[a, b, c, d, number, bulk, 0, 0]).await?;
        lanes.push(lane(send, receive, turn, counters, &window));
    }
    Ok(lanes)
}

/// Takes the lanes that the other side opens.
pub(super) async fn accept(
    connection: &Connection,
    lane_window_bytes: u32,
    counters: &Arc<Counters>,
) -> io::Result<Vec<Lane>> {
    let mut window = None;
    let turns = Arc::default();
    let mut lanes: Vec<Option<Lane>> = Vec::new();
    loop {
        let (send, mut receive) = connection.accept_bi().await.map_err(io::Error::other)?;
        let mut preamble = [0; PREAMBLE_BYTES];
        AsyncReadExt::read_exact(&mut receive, &mut preamble).await?;
        let [a, b, c, d, number, bulk, 0, 0] = preamble else { return Err(not_ours()) };
        let count = usize::from(bulk) + 1;
        if [a, b, c, d] != MAGIC || number > bulk || bulk > settings::LANES_MAX {
            return Err(not_ours());
        }
        if lanes.is_empty() {
            lanes.resize_with(count, || None);
        }
        let bytes = settings::window(bulk, lane_window_bytes);
        let window = window.get_or_insert_with(|| Window::closed(connection, bytes));
        let taken = lanes.get(usize::from(number)).is_none_or(Option::is_some);
        if count != lanes.len() || taken {
            return Err(not_ours());
        }
        let turn = Turn::new(&send, number, &turns)?;
        lanes[usize::from(number)] = Some(lane(send, receive, turn, counters, window));
        if lanes.iter().all(Option::is_some) {
            return Ok(lanes.into_iter().flatten().collect());
        }
    }
}

fn not_ours() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a stream that does not begin as a lane of ours")
}

fn lane(
    stream: SendStream,
    receive: RecvStream,
    turn: Option<Turn>,
    counters: &Arc<Counters>,
    window: &Arc<Window>,
) -> Lane {
    let reader = Reader { stream: receive, window: Arc::clone(window) };
    let writer = Writer { stream, turn, goodbye: None, counters: Arc::clone(counters) };
    Lane::new(reader, writer)
}

/// The window of a connection: small until the layer above has listened to what comes, so that a
/// stranger costs little.
struct Window {
    connection: WeakConnectionHandle,
    bytes: VarInt,
    read: AtomicU64,
}

impl Window {
    fn open(connection: &Connection, bytes: u32) -> Arc<Self> {
        let window = Self::closed(connection, bytes);
        window.read.store(LISTENED_BYTES, Ordering::Relaxed);
        connection.set_receive_window(window.bytes);
        window
    }

    fn closed(connection: &Connection, bytes: u32) -> Arc<Self> {
        let bytes = VarInt::from_u32(bytes);
        Arc::new(Self { connection: connection.weak_handle(), bytes, read: AtomicU64::new(0) })
    }

    fn read(&self, bytes: usize) {
        if self.read.load(Ordering::Relaxed) >= LISTENED_BYTES {
            return;
        }
        let before = self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        if before + bytes as u64 >= LISTENED_BYTES
            && let Some(connection) = self.connection.upgrade()
        {
            connection.set_receive_window(self.bytes);
        }
    }
}

/// The place of a bulk lane among the others of its connection. It is never so far behind that
/// another lane sends more than a turn before it.
struct Turn {
    /// The priority that was given last; lower ones wait.
    last: Arc<AtomicI32>,
    left: usize,
}

impl Turn {
    /// The control lane has no turns: it is always first.
    fn new(stream: &SendStream, number: u8, last: &Arc<AtomicI32>) -> io::Result<Option<Self>> {
        stream.set_priority(i32::from(number == 0)).map_err(io::Error::other)?;
        Ok((number > 0).then(|| Self { last: Arc::clone(last), left: 0 }))
    }

    /// Before bytes go out on the lane.
    fn begin(&mut self, stream: &SendStream) -> io::Result<()> {
        if self.left > 0 {
            return Ok(());
        }
        // Two thousand terabytes on, all lanes are in one place and send a packet each.
        let behind = |place: i32| Some(place.saturating_sub(1));
        let before = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, behind);
        let place = before.unwrap_or(i32::MIN).saturating_sub(1);
        self.left = TURN_BYTES;
        stream.set_priority(place).map_err(io::Error::other)
    }

    fn sent(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }
}

struct Reader {
    stream: RecvStream,
    window: Arc<Window>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(AsyncRead::poll_read(Pin::new(&mut self.stream), cx, buffer));
        self.window.read(buffer.filled().len() - before);
        Poll::Ready(result.map_err(reason))
    }
}

/// Why the connection ended, in the place of that it ended.
fn reason(error: io::Error) -> io::Error {
    let inner = error.get_ref();
    let read = inner.and_then(|inner| inner.downcast_ref::<ReadError>());
    let write = inner.and_then(|inner| inner.downcast_ref::<WriteError>());
    match (read, write) {
        (Some(ReadError::ConnectionLost(why)), _) | (_, Some(WriteError::ConnectionLost(why))) => {
            why.clone().into()
        }
        _ => error,
    }
}

/// Resets its stream when dropped; shut, it ends it and waits until the peer has it all.
struct Writer {
    stream: SendStream,
    turn: Option<Turn>,
    goodbye: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
    counters: Arc<Counters>,
}

impl LaneWrite for Writer {
    /// By reference: what is not acknowledged yet is part of the region it came from.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut pieces: [Bytes; PIECES_MAX] = std::array::from_fn(|_| Bytes::new());
        let mut count = 0;
        for (piece, bytes) in pieces.iter_mut().zip(queue.iter()) {
            *piece = bytes.clone();
            count += 1;
        }
        // Nothing is kept in this future between two calls.
        let mut rest = &mut pieces[..count];
        if let Some(turn) = &mut self.turn {
            turn.begin(&self.stream)?;
        }
        let taking = pin!(self.stream.write_many_chunks(&mut rest));
        let taken = ready!(taking.poll(cx)).map_err(|error| reason(error.into()))?;
        if let Some(turn) = &mut self.turn {
            turn.sent(taken);
        }
        drop_front(queue, taken);
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes).map_err(reason)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.goodbye.is_none() {
            self.stream.finish()?;
            let stopped = self.stream.stopped();
            self.goodbye = Some(Box::pin(async move {
                match stopped.await {
                    // Everything arrived, or the peer has closed its side and wants no more.
                    Ok(_) => Ok(()),
                    Err(error) => Err(io::Error::other(error)),
                }
            }));
        }
        let goodbye = self.goodbye.as_mut().expect("set just before");
        let done = ready!(goodbye.as_mut().poll(cx));
        self.counters.refresh();
        Poll::Ready(done)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.goodbye.is_none() {
            // Fails only for a connection that is gone.
            let _ = self.stream.reset(CUT);
        }
        self.counters.refresh();
    }
}
