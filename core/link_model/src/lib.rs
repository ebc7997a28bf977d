//! A network link as a pure function: what becomes of a packet that is offered at a moment.
//!
//! A [`Link`] is one direction: a drop-tail queue counted in bytes, a sender of a fixed rate, random
//! loss, a delay and its jitter, in that order, as a home router and the line behind it have them. A
//! [`Pipe`] is a link that also holds what travels in it. A [`Profile`] is both directions.
//!
//! Not for: moving packets (the emulator in `shell/link` does), and several flows with queues of
//! their own (there is one queue a direction, as in most home routers).
//!
//! Invariants: equal settings, seeds and offers give equal verdicts; time comes in as an argument,
//! in nanoseconds, and never runs back; the rate is met exactly over any span (no rounding adds up);
//! what waits never exceeds the queue; packets keep their order unless the profile lets them overtake.

mod clock;
mod link;
mod pipe;
mod profile;

pub use clock::{Moment, Span};
pub use link::{Cause, Counts, Link, Verdict};
pub use pipe::Pipe;
pub use profile::{
    BITS_PER_S_MAX, BITS_PER_S_MIN, Direction, Order, PRESETS, Preset, Profile, ProfileError,
    QUEUE_BYTES_MAX, QUEUE_BYTES_MIN, SPAN_MAX, preset,
};
