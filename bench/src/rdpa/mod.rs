//! RDPA against what carries bytes without it: bare sockets, other transports, other tools; each pair
//! in turns in one run on this machine.

mod bulk;
mod home;
mod place;
mod proof;
mod small;

use crate::RowSpec;

/// Every row, in the order in which they are measured.
pub fn rows() -> Vec<RowSpec> {
    vec![
        bulk::tcp(),
        bulk::tls(),
        bulk::shared(),
        small::tcp(),
        small::tls(),
        home::hundred(),
        home::gigabit(),
        home::fair(),
        home::heart(),
        proof::pair(),
        proof::fuzz(),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
