//! Who said it, and what they may do: keys, signatures under domain tags, grants.
//!
//! Not for: transport security (the link does TLS with these same keys) or storage of keys (the
//! host does, with owner-only permissions).
//!
//! Invariants: a signature is over the exact bytes received, never over a re-encoding; every
//! signature is under a [`Domain`], so that bytes signed for one purpose mean nothing for another;
//! a [`SecretKey`] never prints.

mod grant;
mod key;

pub use grant::{Grant, GrantError, Role, TICKET_ADDRESSES_MAX, Ticket};
pub use key::{BadSignature, Domain, Kind, SecretKey, Signature, Signed, SignedError};
