//! Who said it, and what they may do: keys, signatures under domain tags, grants, tickets among
//! them, and chains of them that open regions ([`Access`], `docs/spec/access.md`).
//!
//! Not for: transport security (the link does TLS with these same keys) or storage of keys (the
//! host does, with owner-only permissions).
//!
//! Invariants: a signature is over the exact bytes received, never over a re-encoding; every
//! signature is under a [`Domain`], so that bytes signed for one purpose mean nothing for another;
//! a [`SecretKey`] never prints; nobody hands on more than they hold.

mod access;
mod grant;
mod key;
mod rights;

pub use access::{
    ACCESS_BYTES_MAX, ACCESS_LINKS_MAX, Access, AccessError, AccessLine, Bound, Bounds, LineError,
    Link, LinkFault, Verified,
};
pub use grant::{Grant, GrantError, Role, TICKET_ADDRESSES_MAX, Ticket};
pub use key::{BadSignature, Domain, Kind, SecretKey, Signature, Signed, SignedError};
pub use rights::{BadPrefix, NoSuchRight, PREFIX_CHARS_MAX, Prefix, Right, Rights, UnknownRights};
