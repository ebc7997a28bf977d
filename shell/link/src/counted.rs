//! Counting the bytes of a link: what really crosses the socket, encryption included.

use crate::Remote;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a library that owns its socket says of a link.
#[derive(Debug)]
pub(crate) struct Metered {
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// The way that is used now.
    pub(crate) remote: Remote,
}

/// Asks the library; nothing once the link is gone.
pub(crate) type Meter = Box<dyn Fn() -> Option<Metered> + Send + Sync>;

/// Bytes of one link, growing while it lives.
#[derive(Default)]
pub struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    meter: Option<Meter>,
}

impl core::fmt::Debug for Counters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Counters").field("up", &self.up()).field("down", &self.down()).finish()
    }
}

impl Counters {
    #[cfg(feature = "iroh")]
    pub(crate) fn metered(meter: Meter) -> Self {
        Self { meter: Some(meter), ..Self::default() }
    }

    /// Asks the meter; what it said last stays when the link is gone.
    pub(crate) fn refresh(&self) {
        if let Some(Metered { up, down, .. }) = self.meter.as_ref().and_then(|meter| meter()) {
            self.up.fetch_max(up, Ordering::Relaxed);
            self.down.fetch_max(down, Ordering::Relaxed);
        }
    }

    /// Where the other end is reached now, of a link that may have changed its way since it was made.
    #[must_use]
    pub fn moved_to(&self) -> Option<Remote> {
        Some(self.meter.as_ref()?()?.remote)
    }

    /// Bytes written to the socket.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.refresh();
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes read from the socket.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.refresh();
        self.down.load(Ordering::Relaxed)
    }
}

/// A stream that counts.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    counters: Arc<Counters>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S) -> (Self, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (Self { stream, counters: Arc::clone(&counters) }, counters)
    }

    pub(crate) const fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    fn wrote(&self, result: io::Result<usize>) -> io::Result<usize> {
        if let Ok(bytes) = &result {
            self.counters.up.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let bytes = buffer.filled().len() - before;
        self.counters.down.fetch_add(bytes as u64, Ordering::Relaxed);
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.wrote(result))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        Poll::Ready(self.wrote(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
