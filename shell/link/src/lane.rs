//! Lanes: the streams of bytes that a link is made of.
//!
//! Lane 0 carries control frames. Bulk frames go over the other lanes where there are any, so that a
//! megabyte is not between a heart-beat and its answer. Frames keep their order within a lane and
//! not across lanes; RDPA does without.

use bytes::{Buf as _, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};

/// How many pieces go out in one call.
pub(crate) const PIECES_MAX: usize = 64;

/// The half of a lane that is read.
pub type LaneReader = Box<dyn AsyncRead + Send + Unpin>;
/// The half of a lane that is written. Shutting it down says goodbye, and is done when the peer has
/// what was written, as far as the kind of link can know.
pub type LaneWriter = Box<dyn LaneWrite>;

/// What writes a lane. A link that can keep bytes by reference takes them without a copy.
pub trait LaneWrite: AsyncWrite + Send + Unpin {
    /// Takes bytes from the front of a queue, which is not empty. Returns how many it took.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let taken = ready!(Pin::new(self).poll_write_vectored(cx, &slices[..count]))?;
        drop_front(queue, taken);
        Poll::Ready(Ok(taken))
    }
}

/// Removes so many bytes from the front.
pub(crate) fn drop_front(queue: &mut VecDeque<Bytes>, mut bytes: usize) {
    while let Some(front) = queue.front_mut() {
        if bytes < front.len() {
            front.advance(bytes);
            return;
        }
        bytes -= front.len();
        queue.pop_front();
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> LaneWrite for WriteHalf<S> {}

/// One stream of bytes both ways.
pub struct Lane {
    /// What comes.
    pub reader: LaneReader,
    /// What goes.
    pub writer: LaneWriter,
}

impl core::fmt::Debug for Lane {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Lane")
    }
}

impl Lane {
    pub(crate) fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl LaneWrite + 'static,
    ) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer) }
    }

    /// A stream that both halves share.
    pub(crate) fn of(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self::new(reader, writer)
    }
}
