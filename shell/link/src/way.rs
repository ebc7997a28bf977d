//! The ways to reach a node, as tickets and configuration write them.
//!
//! | text | way |
//! | --- | --- |
//! | `host:port` | TCP with TLS 1.3 |
//! | `quic:host:port` | QUIC by iroh, straight to a UDP port |
//! | `relay:http://host:port#PASS` | QUIC by iroh, by way of a relay; PASS opens it |
//!
//! Not for: trying them; see [`dial`](crate::dial).
//!
//! Invariant: what `Display` and `Debug` give never has the pass in it; [`Way::secret_text`] does.

use core::fmt;
use core::str::FromStr;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use suanli_base::NodeId;
use suanli_identity::SecretKey;
use zeroize::Zeroizing;

const PASS_BYTES: usize = 32;
const WAY_CHARS_MAX: usize = 255;
const PASS_CONTEXT: &str = "suanli 2026 relay pass";
const KEY_CONTEXT: &str = "suanli 2026 relay key";

/// One way to reach a node.
#[derive(Clone, PartialEq, Eq)]
pub enum Way {
    /// `host:port`: TCP with TLS 1.3.
    Tcp(String),
    /// `host:port`: QUIC, straight.
    Quic(String),
    /// QUIC by way of a relay.
    Relay(RelayAddr),
}

/// Where a relay is, and what opens it.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayAddr {
    /// `http://host:port` or `https://host`.
    pub url: String,
    /// What opens it. A relay of somebody else may need none.
    pub pass: Option<RelayPass>,
}

/// What opens a relay: the same secret for all whom its operator lets in. It does not travel:
/// each node shows a token that is good with its own key alone.
#[derive(Clone)]
pub struct RelayPass(Zeroizing<[u8; PASS_BYTES]>);

/// A text is no way to reach a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WayError {
    /// Neither of the three forms.
    #[error(
        "expected host:port, quic:host:port or relay:http://host:port#PASS, found {found:?}; write the address as one of these"
    )]
    Form {
        /// The beginning of what was found, without a pass.
        found: String,
    },
    /// Too long.
    #[error("an address has at most {WAY_CHARS_MAX} characters, found {found}")]
    Long {
        /// How many there are.
        found: usize,
    },
    /// The pass of a relay is not one.
    #[error(
        "the pass of the relay {url} is not one: copy the whole address that the relay printed"
    )]
    Pass {
        /// Which relay.
        url: String,
    },
}

impl Way {
    /// The text that another node needs; it holds the pass of a relay.
    #[must_use]
    pub fn secret_text(&self) -> String {
        match self {
            Self::Relay(RelayAddr { url, pass: Some(pass) }) => {
                format!("relay:{url}#{}", pass.secret_text().as_str())
            }
            other => other.to_string(),
        }
    }

    /// Whether only this machine can be reached by it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let (Self::Tcp(addr) | Self::Quic(addr)) = self else { return false };
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<core::net::IpAddr>();
        ip.map_or(host == "localhost", |ip| ip.is_loopback())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => f.write_str(addr),
            Self::Quic(addr) => write!(f, "quic:{addr}"),
            Self::Relay(relay) => write!(f, "relay:{}", relay.url),
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way({self})")
    }
}

impl RelayAddr {
    /// The port that the URL names.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let rest = self.url.split_once("://")?.1.trim_end_matches('/');
        rest.rsplit_once(':')?.1.parse().ok()
    }
}

impl fmt::Debug for RelayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayAddr({})", self.url)
    }
}

impl FromStr for Way {
    type Err = WayError;

    fn from_str(text: &str) -> Result<Self, WayError> {
        let text = text.trim();
        if text.len() > WAY_CHARS_MAX {
            return Err(WayError::Long { found: text.len() });
        }
        if let Some(relay) = text.strip_prefix("relay:") {
            return relay.parse().map(Self::Relay);
        }
        match text.strip_prefix("quic:") {
            Some(addr) => host_and_port(addr).map(Self::Quic),
            None => host_and_port(text).map(Self::Tcp),
        }
    }
}

impl FromStr for RelayAddr {
    type Err = WayError;

    fn from_str(text: &str) -> Result<Self, WayError> {
        let (url, pass) = match text.split_once('#') {
            Some((url, pass)) => (url, Some(pass)),
            None => (text, None),
        };
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let host = rest.map(|rest| rest.trim_end_matches('/')).filter(|host| !host.is_empty());
        let plain = |c: char| c.is_ascii_graphic() && !"@/?".contains(c);
        if !host.is_some_and(|host| host.chars().all(plain)) {
            return Err(WayError::Form { found: beginning(url) });
        }
        let url = url.trim_end_matches('/').to_owned();
        let pass = pass.map(|pass| RelayPass::from_secret_text(pass).ok_or(url.clone()));
        let pass = pass.transpose().map_err(|url| WayError::Pass { url })?;
        Ok(Self { url, pass })
    }
}

fn host_and_port(text: &str) -> Result<String, WayError> {
    let form = || WayError::Form { found: beginning(text) };
    let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bare {
        Some(ip) => ip.parse::<core::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
            !host.is_empty() && host.chars().all(plain)
        }
    };
    match host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0) {
        true => Ok(text.to_owned()),
        false => Err(form()),
    }
}

/// Enough of a text to find it again; a pass comes after a `#`.
fn beginning(text: &str) -> String {
    text.split('#').next().unwrap_or_default().chars().take(64).collect()
}

impl RelayPass {
    /// A pass of these bytes, which must be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; PASS_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads what [`RelayPass::secret_text`] wrote.
    #[must_use]
    pub fn from_secret_text(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE32_NOPAD_NOCASE.decode(text.as_bytes()).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// The pass as text.
    #[must_use]
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.0[..]).to_ascii_lowercase())
    }

    /// The key by which the relay's answers are told from those of others: of all who have the pass.
    #[must_use]
    pub fn key(&self) -> SecretKey {
        SecretKey::from_seed(&blake3::derive_key(KEY_CONTEXT, &self.0[..]))
    }

    /// What the node shows to the relay: useless without its key.
    #[must_use]
    pub fn token(&self, node: NodeId) -> String {
        let key = Zeroizing::new(blake3::derive_key(PASS_CONTEXT, &self.0[..]));
        let tag = blake3::keyed_hash(&key, node.as_bytes());
        BASE32_NOPAD.encode(tag.as_bytes()).to_ascii_lowercase()
    }

    /// Whether `token` is that of the node. Takes as long whatever is wrong with it.
    #[must_use]
    pub fn admits(&self, node: NodeId, token: &str) -> bool {
        let key = Zeroizing::new(blake3::derive_key(PASS_CONTEXT, &self.0[..]));
        let expected = blake3::keyed_hash(&key, node.as_bytes());
        let Ok(found) = BASE32_NOPAD_NOCASE.decode(token.as_bytes()) else { return false };
        let found: Result<[u8; 32], _> = found.try_into();
        // The hash type compares in constant time.
        found.is_ok_and(|found| expected == blake3::Hash::from_bytes(found))
    }
}

impl PartialEq for RelayPass {
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(*self.0) == blake3::Hash::from_bytes(*other.0)
    }
}

impl Eq for RelayPass {}

impl fmt::Debug for RelayPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayPass")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass() -> RelayPass {
        RelayPass::from_bytes(core::array::from_fn(|at| u8::try_from(at).unwrap()))
    }

    #[test]
    fn every_form_is_read_and_written_again() {
        for text in ["10.0.0.7:7843", "[2001:db8::1]:1", "city.example:65535", "quic:[::1]:9"] {
            let way: Way = text.parse().unwrap();
            assert_eq!(way.to_string(), text);
            assert_eq!(way.secret_text(), text);
        }
        let secret = format!("relay:http://10.0.0.7:80#{}", pass().secret_text().as_str());
        let way: Way = secret.parse().unwrap();
        assert_eq!(way.secret_text(), secret);
        assert!(matches!(&way, Way::Relay(relay) if relay.pass == Some(pass())));
        let open: Way = "relay:https://relay.example/".parse().unwrap();
        assert_eq!(open.secret_text(), "relay:https://relay.example");
    }

    #[test]
    fn what_is_shown_never_has_the_pass_in_it() {
        let secret = pass().secret_text();
        let way: Way = format!("relay:http://a:1#{}", secret.as_str()).parse().unwrap();
        for shown in [way.to_string(), format!("{way:?}"), format!("{:?}", pass())] {
            assert!(!shown.contains(secret.as_str()), "{shown}");
        }
        let cut = &secret[..secret.len() - 1];
        for text in [format!("relay:ftp://a#{cut}"), format!("relay:http://a:1#{cut}")] {
            let error = text.parse::<Way>().unwrap_err().to_string();
            assert!(!error.contains(cut), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}:1", "a".repeat(300));
        for text in [
            "",
            ":",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "ho st:1",
            "[::1:1",
            "::1:1",
            "quic:",
            "quic:host",
            "relay:",
            "relay:host:1",
            "relay:http://",
            "relay:http://a b",
            "relay:http://user@host",
            "relay:http://a:1#short",
            "a/b:1",
            &long,
        ] {
            assert!(text.parse::<Way>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        for text in ["127.0.0.1:1", "quic:127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(text.parse::<Way>().unwrap().is_loopback(), "{text}");
        }
        for text in ["10.0.0.1:1", "quic:[fe80::1]:1", "relay:http://127.0.0.1:1", "a:1"] {
            assert!(!text.parse::<Way>().unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn a_token_is_good_with_one_pass_and_one_node_alone() {
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let token = pass().token(one);
        assert!(pass().admits(one, &token));
        assert!(pass().admits(one, &token.to_ascii_uppercase()));
        assert!(!pass().admits(other, &token));
        assert!(!RelayPass::from_bytes([9; 32]).admits(one, &token));
        for bad in ["", "x", &token[1..], "é", pass().secret_text().as_str()] {
            assert!(!pass().admits(one, bad), "{bad}");
        }
    }
}
