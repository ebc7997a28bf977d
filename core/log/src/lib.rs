//! The city's record: entries, hash chain, framing, recovery as a fold.
//!
//! Not for: moving bytes to a disk (`shell/store` and the simulator do that).

mod chain;
mod entry;
mod names;
mod record;
mod recover;
mod snapshot;

pub use chain::Chain;
pub use entry::{
    BadEntry, ENTRY_BYTES_MAX, Entry, JobPhase, LeaseEnd, LeaseRecord, NAME_CHARS_MAX, Private,
    StateBlobs,
};
pub use names::{parse_segment_name, parse_snapshot_name, segment_name, snapshot_name};
pub use record::{BODY_BYTES_MAX, HEADER_BYTES};
pub use recover::{LogError, Record, Recovery, Tail, recover, recover_segment};
pub use snapshot::{STATE_BYTES_MAX, Snapshot, SnapshotError, read_snapshot, snapshot};
