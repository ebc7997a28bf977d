//! Composes the machines into a family and a city.
//!
//! A node routes: frames to sessions, requests to the machines of `bus`, what they want to the
//! host, and what the host did back. It decides nothing itself, holds no parameters longer than a
//! frame lives, and knows no socket, disk or clock: `shell/host` and `sim` drive the same code.
//!
//! The contract with the host: hand in one input, then drain the outputs in order. After an
//! `Append` the next input must be `Durable`, once the bytes are synced; nothing that follows from
//! an entry leaves the node before.

pub mod city;
pub mod family;
mod name;
mod shape;

pub use name::{JobRegion, Name, region_of_lease, region_of_probe, region_of_upload};
