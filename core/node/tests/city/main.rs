//! A city against peers that mean it well, and peers that do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod guests;
mod strangers;
mod town;
mod uploads;
