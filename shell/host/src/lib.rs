//! The processes of Suanli: the agent of a family, and a city; the process that computes is `suanli-worker`.
//!
//! Not for: deciding anything (`core/node` does), nor for talking to people (`cli` does).
//!
//! Invariants: the agent holds keys and links, the worker process neither; a running node is
//! steered through an owner-only Unix socket; what was acknowledged is on disk before the
//! acknowledgement leaves; a disk that fails to sync stops the process.

pub mod city;
mod clock;
pub mod control;
pub mod family;
mod fault;
pub mod job;
mod net;
pub mod network;
mod packed;
pub mod relay;
mod trainable;
pub mod trainer;
mod uplink;

/// The exit code of a process that a disk or another part of this machine stops in the middle.
pub(crate) const EXIT_ENVIRONMENT: u8 = 6;
