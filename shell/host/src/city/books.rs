//! `grants`: what the city's gate must not forget over a restart (epochs in force, used bytes).
//!
//! Unlike a city's other side books it is not begun anew when it is damaged: that would undo
//! revocations.

use super::{Files, environment};
use crate::control::{Refusal, RefusalClass};
use suanli_rdpa::GateBooks;
use suanli_store::{Disk as _, write_atomic};

const FILE: &str = "grants";

/// What the last run kept; nothing for a city that never gave a grant.
pub(super) fn load(files: &Files) -> Result<GateBooks, Refusal> {
    let path = files.folder.join(FILE);
    if !path.exists() {
        return Ok(GateBooks::default());
    }
    let bytes = files.disk.read(FILE).map_err(|error| environment(error.to_string()))?;
    GateBooks::from_bytes(&bytes).ok_or_else(|| {
        let text = format!("{} does not hold what it should", path.display());
        let next = "restore it from a copy; without it, revoked grants would be good again, so \
                    remove it only if none was ever revoked";
        Refusal::new(RefusalClass::Corrupt, text, next)
    })
}

/// Keeps the books in place of those before, synced.
pub(super) fn keep(files: &Files, books: &GateBooks) -> Result<(), Refusal> {
    if *books == GateBooks::default() && !files.folder.join(FILE).exists() {
        return Ok(());
    }
    write_atomic(&*files.disk, "", FILE, &books.to_bytes())
        .map_err(|error| environment(error.to_string()))
}
