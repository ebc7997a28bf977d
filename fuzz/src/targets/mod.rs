//! The decoders, one file a crate.

mod engine;
mod identity;
mod log;
mod params;
mod rdpa;

use crate::Target;

/// Every target.
#[must_use]
pub fn all() -> Vec<Target> {
    [identity::TARGETS, params::TARGETS, log::TARGETS, rdpa::TARGETS, engine::TARGETS].concat()
}
