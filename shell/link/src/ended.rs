//! Why nothing more comes.

use crate::LinkError;
use suanli_rdpa::Violation;

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// Our side closed it; the peer was told.
    #[error("closed by this side")]
    ByUs,
    /// The peer closed cleanly.
    #[error("closed by the other side")]
    ByPeer,
    /// The peer sent what it must not.
    #[error("the other side broke the protocol: {0}")]
    Violation(Violation),
    /// Nothing was heard for the session's `silent_after`.
    #[error("nothing was heard for too long")]
    Silent,
    /// The connection broke.
    #[error(transparent)]
    Broken(LinkError),
}
