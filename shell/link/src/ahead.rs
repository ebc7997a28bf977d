//! Reading a socket in large pieces for a library that asks for small ones.
//!
//! rustls asks its socket for 4 KiB when nothing of a record is there yet, and for what is missing of
//! one record otherwise: five reads for a record of 16 KiB, or one, depending on where the sender's
//! writes happen to end. On loopback that was the difference between 1.2 and 2.1 GB/s.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What is read at once on a link that carries little.
const LEAST_BYTES: usize = 4 << 10;
/// What is read at once at the most: two records. More is faster by a little, and lost whole with a cut
/// link, whose READs go on from the last run that was hashed.
const MOST_BYTES: usize = 32 << 10;
/// So many reads in a row that filled less than a quarter, and half of the memory goes.
const SMALL_READS: u32 = 64;

/// A stream that reads ahead, as far as its traffic makes worth while: a read that fills the memory
/// doubles it.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    stream: S,
    read: Vec<u8>,
    /// What of `read` was handed on.
    taken: usize,
    /// How much to read at once.
    size: usize,
    /// Reads in a row that filled less than a quarter.
    small: u32,
}

impl<S> Ahead<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, read: Vec::new(), taken: 0, size: LEAST_BYTES, small: 0 }
    }

    /// Learns from a read.
    const fn learn(&mut self, bytes: usize) {
        if bytes >= self.size {
            if self.size < MOST_BYTES {
                self.size *= 2;
            }
            self.small = 0;
        } else if bytes < self.size / 4 && self.size > LEAST_BYTES {
            self.small += 1;
            if self.small == SMALL_READS {
                self.size /= 2;
                self.small = 0;
            }
        } else {
            self.small = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// Reads more, all that was read before having been handed on.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read.clear();
        self.taken = 0;
        if self.read.capacity() != self.size {
            self.read = Vec::with_capacity(self.size);
        }
        let bytes = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        self.learn(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken == self.read.len() {
            ready!(self.poll_more(cx))?;
        }
        let ahead = &self.read[self.taken..];
        let bytes = ahead.len().min(buffer.remaining());
        buffer.put_slice(&ahead[..bytes]);
        self.taken += bytes;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn what_is_read_ahead_is_handed_on_in_order_and_ends_where_the_stream_ends() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..600_000_u32).map(|at| (at % 251) as u8).collect();
        theirs.write_all(&sent).await.unwrap();
        drop(theirs);
        let mut ahead = Ahead::new(ours);
        let mut read = Vec::new();
        for len in (1..).map(|turn| turn * 37 % 5_000 + 1) {
            let mut piece = vec![0; len];
            let bytes = ahead.read(&mut piece).await.unwrap();
            if bytes == 0 {
                break;
            }
            read.extend_from_slice(&piece[..bytes]);
        }
        assert_eq!(read, sent);
        assert_eq!(ahead.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
    }

    #[tokio::test]
    async fn memory_follows_the_traffic_both_ways() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let mut ahead = Ahead::new(ours);
        let mut piece = vec![0; MOST_BYTES];
        for _ in 0..16 {
            theirs.write_all(&vec![7; MOST_BYTES]).await.unwrap();
            ahead.read_exact(&mut piece).await.unwrap();
        }
        assert_eq!(ahead.read.capacity(), MOST_BYTES);
        for _ in 0..6 * SMALL_READS {
            theirs.write_all(&[7; 100]).await.unwrap();
            ahead.read_exact(&mut piece[..100]).await.unwrap();
        }
        assert_eq!(ahead.size, LEAST_BYTES);
        assert_eq!(ahead.read.capacity(), LEAST_BYTES);
    }
}
