//! How a running city or family is watched and steered from the same machine: an owner-only Unix
//! socket in its data folder, one JSON object a line.
//!
//! For: `suanli status`, `watch`, `pause` and their like, and for the demo, which is nothing but
//! such a client. Not for: other machines (they hold a ticket and speak RDPA), nor for anything
//! that needs a key: the socket gives no secret away, a ticket apart, which its owner may issue.
//!
//! Invariants: the folder is 0700 and the socket 0600, and a caller of another user is refused all
//! the same; lines are bounded before they are buffered; the loop that owns a node answers every
//! call in its own time, the socket's tasks never touch its state.

mod client;
mod error;
mod message;
mod options;
mod server;
mod socket;
mod status;
mod stop;

pub use client::{Client, Watching};
pub use error::ControlError;
pub use message::{
    Answer, ControlReply, ControlRequest, GrantOrder, Greeting, NodeKind, Refusal, RefusalClass,
    StatusEvent,
};
pub use options::{
    CityInit, CityOptions, CityReady, DoorOptions, FamilyNote, FamilyOptions, FamilyReady, Limits,
    SHARE_PERCENT_MAX,
};
pub use server::{ControlCall, ControlServer};
pub use socket::SOCKET_NAME;
pub use status::{
    CityStatus, ContributionStatus, FamilyState, FamilyStatus, JobState, JobStatus,
    LOSS_POINTS_MAX, LimitsStatus, LinkStatus, LossPoint, MemberState, MemberStatus, TrafficStatus,
    UploadStatus, thin_losses,
};
pub use stop::{Stop, StopReason, Stopper, stop_on_signals};
