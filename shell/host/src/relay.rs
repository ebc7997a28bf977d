//! A relay's process: passes packets between a city and members that cannot be met straight. It sees
//! who talks to whom and how much, never what.
//!
//! Not for: anybody; who has the pass that [`Running::way`] carries is let in.

use crate::control::{Refusal, RefusalClass};
use crate::net;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use suanli_link::quic::Relay;
use suanli_link::{RelayAddr, RelayPass, Way};

/// A relay that runs until it is closed or dropped.
#[derive(Debug)]
pub struct Running {
    relay: Relay,
    way: Way,
}

/// Starts one on `listen`. Its pass is made of the key in the file `key`, which is made when there is
/// none. `host` is the name or address under which others reach this machine.
///
/// # Errors
/// [`Refusal`] when the key cannot be had or the port is taken.
pub async fn start(listen: SocketAddr, key: &Path, host: Option<&str>) -> Result<Running, Refusal> {
    let pass = RelayPass::from_bytes(*net::key_of(key)?.seed());
    let relay = Relay::start(listen, pass.clone())
        .await
        .map_err(|error| Refusal::new(RefusalClass::Environment, error.to_string(), ""))?;
    let own = || {
        let found = crate::network::addresses().into_iter().next();
        match listen.ip().is_unspecified() {
            true => found.unwrap_or_else(|| near(listen.ip())),
            false => listen.ip(),
        }
        .to_string()
    };
    let host = host.map_or_else(own, str::to_owned);
    let text = format!("relay:{}", relay.url(&host));
    let parsed = text.parse::<Way>().map_err(|error| {
        Refusal::new(RefusalClass::Usage, error.to_string(), "name a host or an address by --host")
    })?;
    let way = match parsed {
        Way::Relay(at) => Way::Relay(RelayAddr { pass: Some(pass), ..at }),
        other => other,
    };
    Ok(Running { relay, way })
}

/// How this machine reaches what listens on an address of its own.
pub(crate) const fn near(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.relay.local_addr()
    }

    /// What a city names it by; its text holds the pass.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
    }

    /// Ends it; members notice at once.
    pub async fn close(self) {
        self.relay.close().await;
    }
}
