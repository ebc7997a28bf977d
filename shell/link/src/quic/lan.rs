//! Finding nodes of this network by their key: multicast DNS (RFC 6762), under the service name
//! `_suanli._udp.local`.
//!
//! Not for: trusting what is found. An address that somebody made up leads to a handshake that fails;
//! it can keep a node from being found, as anybody on the same network can, and nothing else.

use super::QuicEndpoint;
use crate::LinkError;
use iroh_mdns_address_lookup::MdnsAddressLookup;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

const SERVICE: &str = "suanli";
/// Between two questions of who only wants to be found: it answers those of others at once.
const SELDOM: Duration = Duration::from_secs(10);

impl QuicEndpoint {
    /// Begins to look for nodes of this network, without telling where we are.
    ///
    /// # Errors
    /// [`LinkError::Bind`] when this machine has no network with multicast.
    pub fn look_around(&self) -> Result<(), LinkError> {
        self.begin_lan(false)
    }

    /// Ends it.
    pub fn look_no_more(&self) {
        if let Ok(lookups) = self.endpoint.address_lookup() {
            lookups.clear();
        }
    }

    pub(super) fn begin_lan(&self, advertise: bool) -> Result<(), LinkError> {
        let mut builder = MdnsAddressLookup::builder().service_name(SERVICE).advertise(advertise);
        if advertise {
            builder = builder.discovery_cadence(SELDOM);
        }
        let refused = |error: &dyn core::fmt::Display| LinkError::Bind {
            addr: (Ipv4Addr::new(224, 0, 0, 251), 5353).into(),
            source: io::Error::other(error.to_string()),
        };
        let lookup = builder.build(self.endpoint.id()).map_err(|error| refused(&error))?;
        let lookups = self.endpoint.address_lookup().map_err(|error| refused(&error))?;
        lookups.clear();
        lookups.add(lookup);
        Ok(())
    }
}
