//! A home's link on one machine: two network namespaces of our own, and between them every packet
//! goes through [`suanli_link_model`]. For tests, measurements and `suanli emulate-link`; Linux only.
//!
//! Each side has a TUN device, and a thread for each direction reads packets from one, offers them
//! to the model, and writes those that arrive to the other at their time. The bytes that the model
//! counts are those of IP packets. What runs in a side uses the kernel's own TCP and UDP.
//!
//! Not for: links between machines, more than two sides, or exact repetition: equal seeds give equal
//! draws, but the kernel decides when a packet is offered.
//!
//! Invariants: only namespaces made here are touched; they have no name and no process of ours in
//! them, so that they go with the last thread, process and descriptor that holds them; nothing but
//! the other side is reachable from a side. Needs the right to make network namespaces
//! (`CAP_SYS_ADMIN`, or [`enter_user_namespace`]) and `/dev/net/tun`.

mod error;
mod forwarder;
mod side;
mod system;

pub use error::EmulatorError;
pub use forwarder::DirectionReport;
pub use side::Side;
pub use system::{enter_user_namespace, is_root};

use forwarder::Forwarder;
use std::net::Ipv4Addr;
use suanli_base::mix64;
use suanli_link_model::{Link, Pipe, Profile};

/// The home's address.
pub const HOME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The far side's address.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The size of packets in both sides, in bytes.
pub const MTU_BYTES: u16 = 1500;

/// What both directions have carried so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// From the home.
    pub up: DirectionReport,
    /// To the home.
    pub down: DirectionReport,
}

/// A running link between two namespaces; it stops when dropped.
#[derive(Debug)]
pub struct Emulator {
    home: Side,
    far: Side,
    up: Forwarder,
    down: Forwarder,
}

impl Emulator {
    /// Makes both sides and the link between them; both directions draw from `seed`.
    ///
    /// # Errors
    /// When the profile lies outside its bounds, this process may not make namespaces or TUN
    /// devices, or the system lacks something for it.
    pub fn start(profile: Profile, seed: u64) -> Result<Self, EmulatorError> {
        let up = Pipe::new(Link::new(profile.up, seed)?);
        let down = Pipe::new(Link::new(profile.down, mix64(seed))?);
        let (home, home_tun) = Side::make(HOME)?;
        let (far, far_tun) = Side::make(FAR)?;
        Ok(Self {
            up: Forwarder::start("link-up", up, &home_tun, &far_tun)?,
            down: Forwarder::start("link-down", down, &far_tun, &home_tun)?,
            home,
            far,
        })
    }

    /// The home: its packets go up.
    #[must_use]
    pub const fn side_a(&self) -> &Side {
        &self.home
    }

    /// The far side.
    #[must_use]
    pub const fn side_b(&self) -> &Side {
        &self.far
    }

    /// What has been carried so far.
    ///
    /// # Errors
    /// When a side does not tell what its device dropped.
    pub fn report(&self) -> Result<Report, EmulatorError> {
        let (mut up, mut down) = (self.up.report(), self.down.report());
        up.missed_packets = self.home.missed_packets()?;
        down.missed_packets = self.far.missed_packets()?;
        Ok(Report { up, down })
    }
}
