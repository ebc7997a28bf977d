//! What can go wrong between a client and a node of the same machine.

use super::message::{NodeKind, Refusal};
use std::path::PathBuf;
use suanli_base::Fault;

/// A control socket could not be opened, or a call over it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No process answers in that folder.
    #[error(
        "nothing runs on {}: no process answers at its control socket", folder.display()
    )]
    NotRunning {
        /// The data folder.
        folder: PathBuf,
    },
    /// Another process has that folder.
    #[error("{} is in use: another process answers at its control socket", folder.display())]
    AlreadyRunning {
        /// The data folder.
        folder: PathBuf,
    },
    /// The folder belongs to another kind of node.
    #[error("expected a {expected} in {}, found a {found}", folder.display())]
    WrongKind {
        /// The data folder.
        folder: PathBuf,
        /// What the command needs.
        expected: NodeKind,
        /// What runs there.
        found: NodeKind,
    },
    /// A system call failed.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node speaks another version of these messages.
    #[error("the process speaks version {found} of the control messages, this program {expected}")]
    Version {
        /// Ours.
        expected: u16,
        /// Theirs.
        found: u16,
    },
    /// A line was longer than allowed.
    #[error("a control message may have {max} bytes, more arrived")]
    TooLong {
        /// The bound.
        max: usize,
    },
    /// A line was not what it should be.
    #[error("a control message does not parse: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A reply of the wrong sort: a defect of ours.
    #[error("expected {expected}, found another sort of reply")]
    Unexpected {
        /// What the client waits for.
        expected: &'static str,
    },
    /// The node ended before it answered.
    #[error("the process ended before it answered")]
    Closed,
    /// The node did not answer in time.
    #[error("the process did not answer within {after_s} s")]
    TimedOut {
        /// How long the client waited.
        after_s: u64,
    },
    /// The node answered no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ControlError {
    /// Whose fault it is. There is no stranger at this socket, so it is never the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::Closed | Self::TimedOut { .. } => Fault::Weather,
            _ => Fault::Ours,
        }
    }

    pub(super) fn io(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { attempt, path, source }
    }
}
