//! The decoders, one file a crate.

mod bus;
mod engine;
mod files;
mod host;
mod identity;
mod log;
mod params;
mod rdpa;
mod reader;
mod session;
mod store;

use crate::Target;

/// Every target.
#[must_use]
pub fn all() -> Vec<Target> {
    let crates = [
        identity::TARGETS,
        params::TARGETS,
        log::TARGETS,
        rdpa::TARGETS,
        session::TARGETS,
        reader::TARGETS,
        engine::TARGETS,
        bus::TARGETS,
        store::TARGETS,
        host::TARGETS,
        files::TARGETS,
    ];
    crates.concat()
}
