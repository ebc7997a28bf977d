//! The machines of a round: the worker of a family, the lease authority and reducer of a city,
//! and the pure mathematics of a merge.
//!
//! Not for: moving bytes, reading clocks, or running an engine. Machines hold ids, hashes and
//! counts; bulk work is emitted as jobs that the host runs with the pure functions of `params`
//! and [`merge`].
//!
//! Invariants: nothing is said to be decided before its entry is durable; no contribution counts
//! twice; a version never changes (DESIGN sections 4 and 5).

pub mod authority;
mod contribution;
mod head;
mod job;
pub mod merge;
mod message;
mod schedule;
pub mod state;
pub mod worker;

pub use authority::Authority;
pub use contribution::{CONTRIBUTION_FORMAT, Contribution, StateRoot};
pub use head::{Chain, HEAD_FORMAT, Head, HeadError, Merged};
pub use job::{
    DataSpec, Frozen, JOB_FORMAT, JobSpec, MOMENTUM_POINTS_MAX, Replicas, SPEC_BYTES_MAX,
    ShardSpec, SpecError, Training, outer_momentum_at,
};
pub use message::{
    Ask, HEADS_MAX, JobOutcome, MESSAGE_BYTES_MAX, Refusal, ToCity, ToMember, WaitReason,
};
pub use schedule::{Schedule, Shape};
pub use state::{CityState, Effect};
pub use worker::Worker;
