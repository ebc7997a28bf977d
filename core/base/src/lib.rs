//! What every other crate speaks in: ids, units, time, seeded randomness, bounded queues.
//!
//! Not for: anything with a policy. Nothing here reads a clock, draws entropy or does I/O.
//!
//! Invariants: a hash is 32 bytes of BLAKE3; time is integer milliseconds handed in by the caller;
//! equal seeds give equal draws on every machine; a queue never grows past its bound.

mod id;
mod queue;
mod random;
mod time;
mod unit;

pub use id::{CityId, FragmentId, Hash, JobId, LeaseId, NodeId, ParseHashError, Round, TicketId};
pub use queue::{Bounded, Full};
pub use random::{Permutation, Random, mix64};
pub use time::{Duration, Time};
pub use unit::{Bytes, Tokens};

/// Whose fault an error is. Only [`Fault::Peer`] may ever become evidence against somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A defect or a wrong setting on this machine, by its operator or by this program.
    Ours,
    /// The other side broke the protocol or a promise it signed.
    Peer,
    /// Loss, a full disk, a time-out: nobody's doing, try again or elsewhere.
    Weather,
}
