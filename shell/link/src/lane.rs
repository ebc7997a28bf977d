//! Lanes: the streams of bytes that a link is made of.
//!
//! Lane 0 carries control frames. Bulk frames go over the other lanes where there are any, so that a
//! megabyte is not between a heart-beat and its answer. Frames keep their order within a lane and
//! not across lanes; RDPA does without.

use tokio::io::{AsyncRead, AsyncWrite};

/// The half of a lane that is read.
pub type LaneReader = Box<dyn AsyncRead + Send + Unpin>;
/// The half of a lane that is written. Shutting it down says goodbye, and is done when the peer has
/// what was written, as far as the kind of link can know.
pub type LaneWriter = Box<dyn AsyncWrite + Send + Unpin>;

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
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer) }
    }

    /// A stream that both halves share.
    pub(crate) fn of(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self::new(reader, writer)
    }
}
