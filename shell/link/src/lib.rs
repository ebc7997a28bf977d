//! What carries RDPA between two nodes: TCP with TLS 1.3 and raw ed25519 keys on both sides, and the
//! other kinds of link that [`LinkKind`] lists.
//!
//! Not for: deciding who may do what (HELLO does, in the session), or which address to listen on and
//! which kind to choose (the caller does; loopback and TLS unless its operator says otherwise).
//!
//! Invariants: a [`Link`] has proven the key of its peer; the connecting side gets the key it expects
//! or nothing; no resumption, no 0-RTT; strangers have a bound in number and in time; what is read
//! is bounded by one frame per lane; one kind of link never stands in for another unasked. TLS with
//! raw public keys: RFC 8446, RFC 7250, RFC 8410.

mod ahead;
mod bells;
mod counted;
pub mod dial;
#[cfg(all(feature = "emulator", target_os = "linux"))]
pub mod emulator;
mod ended;
pub mod endpoint;
mod error;
mod frames;
pub mod holder;
mod key;
mod lane;
mod link;
mod listener;
mod plain;
#[cfg(feature = "iroh")]
pub mod quic;
pub mod reader;
mod remote;
pub mod shared;
mod strangers;
mod tcp;
mod way;

pub use counted::Counters;
pub use ended::Ended;
pub use error::{LinkError, RelayFault};
pub use frames::{FrameReader, FrameWriter};
pub use lane::{Lane, LaneReader, LaneWriter};
pub use link::{Link, connect};
pub use listener::{Incoming, Listener};
pub use plain::connect_plain;
pub use remote::{LinkKind, Remote};
pub use strangers::{LinkLimits, group_of};
pub use tcp::has_bbr;

pub use way::{RelayAddr, RelayPass, Way, WayError};

/// The TLS of a link without the link, for whoever measures it or speaks something else with the same
/// keys.
pub mod tls {
    pub use crate::key::{accepting, connecting, server_name};
}
