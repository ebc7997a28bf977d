//! The whole: a city of families trains a real model (the figures of the first release).

mod bounded;
mod build;
mod city;
mod clone;
mod export;
mod families;
mod join;
mod live;
pub mod quality;
mod sim;
mod wire;

use crate::RowSpec;

/// Every row, in the order in which they are measured.
pub fn rows() -> Vec<RowSpec> {
    vec![
        build::spec(),
        quality::spec(),
        wire::spec(),
        families::spec(),
        city::spec(),
        join::spec(),
        bounded::spec(),
        sim::spec(),
        export::spec(),
        clone::spec(),
    ]
}
