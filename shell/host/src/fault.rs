//! Named points at which a process ends at once when told so: how crash tests reach the moments
//! that a kill from outside hardly ever meets.
//!
//! `SUANLI_FAULT=NAME:N` ends the process (as kill -9 would) when it passes point NAME for the
//! N-th time. Without the variable a point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes the point called `name`.
pub(crate) fn point(name: &str) {
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("SUANLI_FAULT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_string(), count.parse().ok()?))
    });
    if let Some((wanted, count)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        eprintln!("suanli: fault point {name} reached for the {count}. time: ending at once");
        std::process::abort();
    }
}
