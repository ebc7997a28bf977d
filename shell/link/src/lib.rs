//! What carries RDPA: TCP with TLS 1.3 and raw ed25519 keys on both sides.
//!
//! Not for: deciding who may do what (HELLO does, in the session), or which address to listen on (the
//! caller does; loopback unless its operator says otherwise).
//!
//! Invariants: a [`Link`] has proven the key of its peer; the connecting side gets the key it expects
//! or nothing; no resumption, no 0-RTT; strangers have a bound in number and in time; what is read
//! is bounded by one frame. TLS with raw public keys: RFC 8446, RFC 7250, RFC 8410.

mod counted;
mod error;
mod key;
mod link;
mod listener;
pub mod pump;

pub use counted::Counters;
pub use error::LinkError;
pub use link::{FrameReader, FrameWriter, Link, connect};
pub use listener::{Incoming, LinkLimits, Listener};
