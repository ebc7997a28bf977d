//! A city against peers that mean it well, and peers that do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod guests;
#[path = "../shared/paper.rs"]
mod paper;
mod rounds;
mod strangers;
mod town;
mod uploads;
