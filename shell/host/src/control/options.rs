//! What a person may say when a city or a family starts.

use super::stop::Stop;
use std::net::SocketAddr;
use std::path::PathBuf;
use suanli_base::{Bytes, CityId, NodeId};
use suanli_identity::Ticket;
use tokio::sync::{mpsc, oneshot};

/// A share of CPU time is a number from 1 to this.
pub const SHARE_PERCENT_MAX: u8 = 100;

/// What a new city is told.
#[derive(Clone, Debug, Default)]
pub struct CityInit {
    /// Its name, for people.
    pub name: String,
}

/// What `city serve` is told.
#[derive(Debug)]
pub struct CityOptions {
    /// The data folder that `city init` made.
    pub folder: PathBuf,
    /// Where to listen; loopback unless its operator said otherwise. Port 0: any free one, the
    /// same again after a restart when it is still free.
    pub listen: SocketAddr,
    /// Addresses to put into tickets, when not those it listens on.
    pub advertise: Vec<String>,
    /// The program that runs as the worker process, and its arguments; empty: this one's `worker`.
    pub worker: Vec<std::ffi::OsString>,
    /// Ends the loop cleanly.
    pub stop: Stop,
    /// Told once, when the city listens and its control socket answers.
    pub ready: Option<oneshot::Sender<CityReady>>,
}

/// A city listens.
#[derive(Clone, Debug)]
pub struct CityReady {
    /// Its id.
    pub city: CityId,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// A join ticket, when one was issued at this start.
    pub ticket: Option<Ticket>,
}

/// What an owner allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Share of the CPU time of the engine's threads, 1 to 100.
    pub share_percent: u8,
    /// Threads of the engine; nothing: one for each core.
    pub threads: Option<u32>,
    /// Bytes to send a day.
    pub upload_per_day: Option<Bytes>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { share_percent: SHARE_PERCENT_MAX, threads: None, upload_per_day: None }
    }
}

/// What `join` is told.
#[derive(Debug)]
pub struct FamilyOptions {
    /// The data folder; made when it is not there.
    pub folder: PathBuf,
    /// The ticket; a folder that joined before needs none.
    pub ticket: Option<Ticket>,
    /// Its name, for people; nothing: the one it joined with, or one made from its key.
    pub name: Option<String>,
    /// The owner's limits.
    pub limits: Limits,
    /// The program that runs as the worker process, and its arguments.
    pub worker: Vec<std::ffi::OsString>,
    /// Ends the loop cleanly.
    pub stop: Stop,
    /// Told once, when the family is connected.
    pub ready: Option<oneshot::Sender<FamilyReady>>,
    /// Told what its owner may want to read while it runs.
    pub notes: Option<mpsc::UnboundedSender<FamilyNote>>,
}

/// What the owner of a family may want to read while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FamilyNote {
    /// The city cannot be reached; attempts go on by themselves.
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What came of it.
        why: String,
    },
    /// The connection to the city is gone; attempts go on by themselves.
    Lost {
        /// The city, as [`FamilyReady`] names it.
        city: CityId,
    },
    /// Connected again after one of these.
    Again {
        /// The city.
        city: CityId,
    },
    /// Something else, in words.
    Other(String),
}

/// A family is connected to its city.
#[derive(Clone, Debug)]
pub struct FamilyReady {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The city.
    pub city: CityId,
}
