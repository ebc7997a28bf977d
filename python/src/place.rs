//! Where to connect and as whom: keys, tickets, addresses, kinds of links.

use crate::error::Trouble;
use pyo3::prelude::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use suanli_base::{NodeId, Time};
use suanli_identity::{AccessLine, Role, SecretKey, Ticket};
use suanli_link::dial::{Dialer, Prefer};
use suanli_link::reader::{Reader, RemoteNode, Source};
use suanli_link::shared::connect_shared;
use suanli_link::{Link, LinkError, Way, connect_plain};
use suanli_rdpa::Hello;
use suanli_store::{KeyError, create_key, load_key};

/// What a listener here takes connections by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tls,
    Tcp,
    Shared,
}

/// The ways to a node, and what carries a connection.
enum Reach {
    /// Whichever way answers, encrypted.
    Any(Box<Dialer>),
    /// TCP as it is.
    Plain(Vec<String>),
    /// A folder of this machine.
    Shared(PathBuf),
}

impl Kind {
    pub(crate) fn named(text: &str) -> Result<Self, Trouble> {
        match text {
            "tls" => Ok(Self::Tls),
            "tcp" => Ok(Self::Tcp),
            "shared" => Ok(Self::Shared),
            _ => Err(Trouble::Word {
                what: "a kind of link",
                found: text.to_owned(),
                expected: "tls, tcp, shared",
            }),
        }
    }
}

fn role_named(text: &str) -> Result<Role, Trouble> {
    let all = [Role::Join, Role::Train, Role::Operate, Role::Watch];
    all.into_iter().find(|role| role.to_string() == text).ok_or_else(|| Trouble::Word {
        what: "a role",
        found: text.to_owned(),
        expected: "watch, join, train, operate",
    })
}

/// The key in a file, drawn and kept there if there is none yet; nobody but its owner can read it.
pub(crate) fn key_at(path: &Path) -> Result<SecretKey, Trouble> {
    match load_key(path) {
        Err(KeyError::Missing { .. }) => match create_key(path) {
            // Another process was faster.
            Err(KeyError::Exists { .. }) => Ok(load_key(path)?),
            made => Ok(made?),
        },
        found => Ok(found?),
    }
}

/// The node whose key lies in a file; the key is made if there is none.
#[pyfunction]
pub(crate) fn node_of(py: Python<'_>, key: PathBuf) -> PyResult<String> {
    let key = py.detach(|| key_at(&key)).map_err(|trouble| trouble.raise(py))?;
    Ok(key.node().to_string())
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Numbers that differ from one connection to the next: the session needs no more of them.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// All that is needed to connect, and to connect again.
pub(crate) struct Recipe {
    reach: Reach,
    key: SecretKey,
    expected: NodeId,
    role: Role,
    /// The ticket or grant, as HELLO takes it.
    shown: Vec<u8>,
    timeout: Duration,
}

/// The same as a caller gives it.
pub(crate) struct Wish<'a> {
    pub(crate) address: Option<String>,
    pub(crate) key: &'a Path,
    pub(crate) expected: Option<&'a str>,
    pub(crate) ticket: Option<&'a str>,
    pub(crate) role: Option<&'a str>,
    pub(crate) link: &'a str,
    pub(crate) timeout: Duration,
}

/// What was pasted: a ticket of a city, or a grant to regions.
struct Shown {
    owner: NodeId,
    addresses: Vec<String>,
    bytes: Vec<u8>,
    role: Option<Role>,
    ticket: Option<Ticket>,
}

impl Shown {
    fn of(text: &str) -> Result<Self, Trouble> {
        if AccessLine::is_meant_by(text) {
            let AccessLine { access, addresses } = text.parse()?;
            let (owner, bytes) = (access.root(), access.to_bytes());
            return Ok(Self { owner, addresses, bytes, role: None, ticket: None });
        }
        let ticket: Ticket = text.parse()?;
        let (grant, bytes) = (ticket.grant(), ticket.to_bytes());
        let (owner, role) = (NodeId(grant.city.0), Some(grant.role));
        let addresses = grant.addresses.clone();
        Ok(Self { owner, addresses, bytes, role, ticket: Some(ticket) })
    }
}

impl Recipe {
    pub(crate) fn of(wish: &Wish<'_>) -> Result<Self, Trouble> {
        let role = wish.role.map(role_named).transpose()?;
        let shown = wish.ticket.map(Shown::of).transpose()?;
        let role = role.or(shown.as_ref().and_then(|shown| shown.role)).unwrap_or(Role::Watch);
        if let Some(Shown { ticket: Some(ticket), .. }) = &shown {
            ticket.check(now(), role)?;
        }
        let expected: Option<NodeId> = wish.expected.map(str::parse).transpose()?;
        let expected = expected.or(shown.as_ref().map(|shown| shown.owner));
        let expected = expected.ok_or_else(|| Trouble::Word {
            what: "who to expect",
            found: String::new(),
            expected: "expected=node id, ticket=\"suanli1...\" or \"suanligrant1...\"",
        })?;
        let (named, shown) =
            shown.map_or_else(Default::default, |shown| (shown.addresses, shown.bytes));
        let addresses = wish.address.clone().map_or(named, |address| vec![address]);
        if addresses.is_empty() {
            return Err(Trouble::NoAddress);
        }
        let key = key_at(wish.key)?;
        Ok(Self {
            reach: Reach::of(wish.link, addresses, &key, expected)?,
            key,
            expected,
            role,
            shown,
            timeout: wish.timeout,
        })
    }

    /// A connection that is not asked anything yet, and who it is expected to be.
    pub(crate) async fn source(&self) -> Result<Source, Trouble> {
        let link = self.link().await?;
        Ok(Source { link, hello: Hello::new(self.role, self.shown.clone()), seed: seed() })
    }

    /// Who is expected at the other end.
    pub(crate) fn expected(&self) -> NodeId {
        self.expected
    }

    async fn link(&self) -> Result<Link, Trouble> {
        let (key, expected, timeout) = (&self.key, self.expected, self.timeout);
        match &self.reach {
            Reach::Any(dialer) => Ok(dialer.dial(timeout).await?.link),
            Reach::Shared(folder) => Ok(connect_shared(folder, key, expected, timeout).await?),
            Reach::Plain(addresses) => {
                let mut last: Option<LinkError> = None;
                for address in addresses {
                    match connect_plain(address, key, expected, timeout).await {
                        Ok(link) => return Ok(link),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.map_or(Trouble::NoAddress, Trouble::Link))
            }
        }
    }

    /// Connects, by the first way at which the right node answers.
    pub(crate) async fn connect(&self) -> Result<RemoteNode, Trouble> {
        let link = self.link().await?;
        let hello = Hello::new(self.role, self.shown.clone());
        Ok(RemoteNode::new(Reader::connect(link, hello, seed()).await?))
    }

    /// Ends what connects by QUIC, and tells the peer.
    pub(crate) async fn close(&self) {
        if let Reach::Any(dialer) = &self.reach {
            dialer.close().await;
        }
    }
}

impl Reach {
    fn of(
        link: &str,
        addresses: Vec<String>,
        key: &SecretKey,
        expected: NodeId,
    ) -> Result<Self, Trouble> {
        let prefer = match link {
            "shared" => {
                let folder = addresses.into_iter().next().ok_or(Trouble::NoAddress)?;
                return Ok(Self::Shared(folder.into()));
            }
            "auto" | "tcp" => Prefer::Auto,
            "tls" => Prefer::Tcp,
            "quic" => Prefer::Quic,
            _ => {
                return Err(Trouble::Word {
                    what: "a kind of link",
                    found: link.to_owned(),
                    expected: "auto, tls, quic, tcp, shared",
                });
            }
        };
        let ways: Vec<Way> =
            addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        if link == "tcp" {
            let tcp = ways.into_iter().filter_map(|way| match way {
                Way::Tcp(address) => Some(address),
                Way::Quic(_) | Way::Relay(_) => None,
            });
            return Ok(Self::Plain(tcp.collect()));
        }
        let dialer = Dialer::new(key, expected, &ways, prefer, link == "auto");
        Ok(Self::Any(Box::new(dialer)))
    }
}
