//! The whole: a city of families trains a real model (the figures of the first release).

mod build;
pub mod quality;

use crate::RowSpec;

/// Every row, in the order in which they are measured.
pub fn rows() -> Vec<RowSpec> {
    vec![build::spec(), quality::spec()]
}
