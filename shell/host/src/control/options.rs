//! What a person may say when a city or a family starts.

use super::status::LinkStatus;
use super::stop::Stop;
use std::net::SocketAddr;
use std::path::PathBuf;
use suanli_base::{CityId, NodeId};
use suanli_identity::Ticket;
use suanli_link::RelayAddr;
use suanli_link::dial::Prefer;
use suanli_rdpa::UplinkLimits;
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
    /// How others reach it.
    pub doors: DoorOptions,
    /// How fast bulk goes to all members and guests together, by the hour, and how much a day.
    pub upload: UplinkLimits,
    /// The program that runs as the worker process, and its arguments; empty: this one's `worker`.
    pub worker: Vec<std::ffi::OsString>,
    /// Ends the loop cleanly.
    pub stop: Stop,
    /// Told once, when the city listens and its control socket answers.
    pub ready: Option<oneshot::Sender<CityReady>>,
}

/// How others reach a city.
#[derive(Clone, Debug)]
pub struct DoorOptions {
    /// Where to listen, for TCP and for UDP; loopback unless its operator said otherwise. Port 0: any
    /// free one, the same again after a restart when it is still free.
    pub listen: SocketAddr,
    /// Addresses to put into tickets, when not those it listens on: `host:port` for TCP and QUIC, or
    /// the ways one by one.
    pub advertise: Vec<String>,
    /// Whether QUIC is offered beside TCP.
    pub quic: bool,
    /// Where to run a relay of its own, for members that cannot be met straight.
    pub relay: Option<SocketAddr>,
    /// A relay run elsewhere, when it runs none: members meet the city there.
    pub via: Option<RelayAddr>,
    /// Whether machines of this network may find the city by its key (multicast DNS); nothing: unless
    /// it listens on loopback.
    pub lan: Option<bool>,
}

impl DoorOptions {
    /// Listens on `listen`, for TCP and for QUIC, without a relay.
    #[must_use]
    pub const fn on(listen: SocketAddr) -> Self {
        Self { listen, advertise: Vec::new(), quic: true, relay: None, via: None, lan: None }
    }
}

/// A city listens.
#[derive(Clone, Debug)]
pub struct CityReady {
    /// Its id.
    pub city: CityId,
    /// The ways to it, without the pass of a relay.
    pub addresses: Vec<String>,
    /// A join ticket, when one was issued at this start.
    pub ticket: Option<Ticket>,
}

/// What an owner allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Share of the CPU time of the engine's threads, 1 to 100.
    pub share_percent: u8,
    /// Threads of the engine; nothing: one for each core.
    pub threads: Option<u32>,
    /// How fast bulk goes up, by the hour, and how much a day.
    pub upload: UplinkLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self { share_percent: SHARE_PERCENT_MAX, threads: None, upload: UplinkLimits::default() }
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
    /// Which kind of link to try first.
    pub prefer: Prefer,
    /// A program of the owner's that trains in the worker's place, and its arguments; empty: none.
    pub trainer: Vec<std::ffi::OsString>,
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
    /// How it is connected.
    pub link: Option<LinkStatus>,
}
