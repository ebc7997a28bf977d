//! What went wrong, and the Python exception it becomes.

use pyo3::prelude::*;
use suanli_base::{Fault, Hash, ParseHashError};
use suanli_identity::{AccessError, BadPrefix, GrantError, LineError, NoSuchRight};
use suanli_link::dial::DialError;
use suanli_link::holder::HoldError;
use suanli_link::reader::{NoRoom, NotGathered, ReadError, RemoteError};
use suanli_link::{LinkError, WayError};
use suanli_params::{CodecError, FeedbackError};
use suanli_rdpa::{BadRegionName, Code, Failure};
use suanli_store::KeyError;

/// Everything that can go wrong on this side of the border.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Way(#[from] WayError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Gather(#[from] NotGathered),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Ticket(#[from] GrantError),
    #[error(transparent)]
    Grant(#[from] LineError),
    #[error(transparent)]
    Name(#[from] BadRegionName),
    #[error(transparent)]
    Node(#[from] ParseHashError),
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error("cannot start the threads that carry connections: {source}")]
    Runtime { source: std::io::Error },
    #[error("{found:?} is not {what}; expected one of {expected}")]
    Word { what: &'static str, found: String, expected: &'static str },
    #[error("{found} bytes are no {what} of {unit} bytes each")]
    Length { what: &'static str, found: usize, unit: usize },
    #[error(
        "{address} can be reached from other machines: say who may connect (admit=[node ids], or admit=\"anyone\")"
    )]
    Open { address: std::net::SocketAddr },
    #[error("{found:?} is no address to listen on; expected IP:port, such as 127.0.0.1:0")]
    Address { found: String },
    #[error("nobody was reached: the ticket names no address; give one")]
    NoAddress,
    #[error(
        "the region has another content now ({found}) than what was opened ({expected}); open it again"
    )]
    Moved { expected: Hash, found: Hash },
    #[error("this holder shares no folder; make it with suanli.Holder(shared=FOLDER)")]
    NoFolder,
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Prefix(#[from] BadPrefix),
    #[error(transparent)]
    Right(#[from] NoSuchRight),
    #[error("what was revoked and used cannot be read from {}: {why}; restore it from a copy, or begin with a new key", path.display())]
    Books { path: std::path::PathBuf, why: String },
    #[error("the system gives no entropy: {source}")]
    Entropy { source: std::io::Error },
    #[error("{text}")]
    Revoke { text: String },
    #[error("it was closed here; make a new one")]
    Closed,
}

impl Trouble {
    fn fault(&self) -> Fault {
        match self {
            Self::Link(error) => error.fault(),
            Self::Dial(error) => error.fault(),
            Self::Read(error) => error.fault(),
            Self::Remote(error) => error.fault(),
            Self::Hold(error) => error.fault(),
            Self::Moved { .. } | Self::NoRoom(_) | Self::Gather(_) => Fault::Weather,
            _ => Fault::Ours,
        }
    }

    /// The word of the code with which the holder refused.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Remote(error) => error.code(),
            Self::Read(ReadError::Failed(Failure::Refused { code, .. })) => Some(*code),
            Self::Moved { .. } => Some(Code::VersionGone),
            _ => None,
        }
    }

    /// Whether there is no connection, or no more.
    fn is_lost(&self) -> bool {
        match self {
            Self::Link(error) => {
                !matches!(error, LinkError::PortInUse { .. } | LinkError::Bind { .. })
            }
            Self::Read(ReadError::Ended { .. } | ReadError::Link(_)) => true,
            Self::Remote(error) => error.is_over(),
            Self::Dial(_) | Self::NoAddress | Self::Closed => true,
            _ => false,
        }
    }

    fn class(&self) -> &'static str {
        match (self.code(), self.is_lost()) {
            (Some(_), _) => "RefusedError",
            (None, true) => "ConnectionLost",
            (None, false) => "Error",
        }
    }

    /// The exception of `suanli` that says this.
    pub(crate) fn raise(&self, py: Python<'_>) -> PyErr {
        let fault = match self.fault() {
            Fault::Ours => "ours",
            Fault::Peer => "peer",
            Fault::Weather => "weather",
        };
        let code = self.code().map(|code| code.to_string());
        let made = py
            .import("suanli._errors")
            .and_then(|module| module.getattr(self.class()))
            .and_then(|class| class.call1((self.to_string(), fault, code)));
        match made {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }
}
