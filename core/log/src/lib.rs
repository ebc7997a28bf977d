//! The city's record: entries, hash chain, framing, recovery as a fold.
//!
//! Not for: moving bytes to a disk (`shell/store` and the simulator do that).

mod entry;

pub use entry::{
    BadEntry, ENTRY_BYTES_MAX, Entry, JobPhase, LeaseEnd, LeaseRecord, NAME_CHARS_MAX, Private,
    StateBlobs,
};
