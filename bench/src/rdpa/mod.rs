//! RDPA against what carries bytes without it: bare sockets, other transports, other tools; each pair
//! in turns in one run on this machine. Codecs and merges against the memory they work in.

mod bulk;
mod codec;
mod home;
mod joiner;
mod merge;
mod peers;
mod place;
mod proof;
mod resume;
mod small;

use crate::RowSpec;

/// Every row, in the order in which they are measured.
pub fn rows() -> Vec<RowSpec> {
    vec![
        bulk::tcp(),
        bulk::tls(),
        bulk::shared(),
        peers::quic(),
        peers::stream(),
        peers::ucx(),
        small::tcp(),
        small::tls(),
        peers::calls(),
        resume::spec(),
        codec::row(),
        merge::row(),
        home::hundred(),
        home::gigabit(),
        home::fair(),
        home::heart(),
        joiner::spec(),
        proof::pair(),
        proof::fuzz(),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The load of the last minute as the system tells it: what else was running.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").into()
}
