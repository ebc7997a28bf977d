//! Grants to regions: a chain of one to four signed links, each narrower than the one before, that
//! says what one holder may do with which regions of one owner. Format and rules:
//! `docs/spec/access.md`.
//!
//! The owner signs the first link for somebody, who may sign the next one for somebody else, and so
//! on, without asking the owner. Nobody can hand on more than they hold: every link is held against
//! its parent in each of its dimensions. A chain is good for the node that the last link names only,
//! which the link layer proves by key, so a chain that was overheard or stored is of no use.
//!
//! Not for: deciding about an operation (time, epochs and budgets are the gate's, in `suanli-rdpa`),
//! or for admitting members (a [`Ticket`](crate::Ticket) does).
//!
//! Invariants: an [`Access`] has 1 to [`ACCESS_LINKS_MAX`] links whose signatures, parents and bounds
//! were checked, however it came to be; its bytes are those that were signed, never a re-encoding.
//! Source: attenuation as in macaroons (Birgisson et al. 2014) and biscuit, with public keys and
//! fixed predicates instead of a language.

use crate::{Domain, Kind, Prefix, Rights, SecretKey, Signature, Signed, SignedError};
use serde::{Deserialize, Serialize};
use suanli_base::{CityId, Fault, Hash, NodeId, Time};

/// Links of a chain.
pub const ACCESS_LINKS_MAX: usize = 4;
/// Bytes of a chain: what HELLO has room for.
pub const ACCESS_BYTES_MAX: usize = 4 << 10;
const MAGIC: [u8; 4] = *b"SLAC";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 6;
const SIGNATURE_BYTES: usize = 64;
const LINK_BYTES_MAX: usize = 512;

/// What one link allows. [`u64::MAX`] in a number of bytes stands for "without a bound".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// For which regions.
    pub prefix: Prefix,
    /// To do what.
    pub rights: Rights,
    /// Payload bytes in all, both ways together, over all connections.
    pub bytes_max: u64,
    /// Payload bytes a second, likewise.
    pub bytes_per_s: u64,
    /// From when on (milliseconds since the Unix epoch).
    pub not_before: Time,
    /// Until when: at this moment it is over.
    pub not_after: Time,
    /// It ends when the regions' epoch is raised above this.
    pub epoch: u64,
    /// How many more links may follow.
    pub depth: u8,
}

/// A dimension of [`Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Bound {
    /// The regions.
    Prefix,
    /// The rights.
    Rights,
    /// Bytes in all.
    Bytes,
    /// Bytes a second.
    Rate,
    /// The beginning.
    NotBefore,
    /// The end.
    NotAfter,
    /// The epoch.
    Epoch,
    /// How often it may be handed on.
    Depth,
}

impl core::fmt::Display for Bound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Prefix => "regions",
            Self::Rights => "rights",
            Self::Bytes => "bytes",
            Self::Rate => "bytes a second",
            Self::NotBefore => "an earlier beginning",
            Self::NotAfter => "a later end",
            Self::Epoch => "a later epoch",
            Self::Depth => "handing on",
        })
    }
}

impl Bounds {
    /// The first dimension in which these go beyond `parent`, if any.
    #[must_use]
    pub fn widens(&self, parent: &Self) -> Option<Bound> {
        let checks = [
            (Bound::Depth, self.depth < parent.depth),
            (Bound::Prefix, parent.prefix.covers(self.prefix.as_str())),
            (Bound::Rights, self.rights.within(parent.rights)),
            (Bound::Bytes, self.bytes_max <= parent.bytes_max),
            (Bound::Rate, self.bytes_per_s <= parent.bytes_per_s),
            (Bound::NotBefore, self.not_before >= parent.not_before),
            (Bound::NotAfter, self.not_after <= parent.not_after),
            (Bound::Epoch, self.epoch <= parent.epoch),
        ];
        checks.into_iter().find(|(_, narrow)| !narrow).map(|(bound, _)| bound)
    }

    /// What is wrong with these by themselves, if anything.
    fn fault(&self) -> Option<LinkFault> {
        if self.not_before >= self.not_after {
            let (not_before, not_after) = (self.not_before, self.not_after);
            return Some(LinkFault::NeverGood { not_before, not_after });
        }
        let max = ACCESS_LINKS_MAX - 1;
        let found = self.depth;
        (usize::from(found) > max).then_some(LinkFault::Depth { found, max })
    }
}

/// One link as it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The format of what follows: 1.
    format: u8,
    /// Whose regions these are.
    pub root: NodeId,
    /// Whom it is for, and who alone signs the next link.
    pub holder: NodeId,
    /// What it allows.
    pub bounds: Bounds,
    /// Makes two links of equal content differ, and so have budgets of their own.
    pub nonce: u64,
    /// The hash of the signed link before, zero in the first.
    pub parent: Hash,
}

/// What is wrong with one link, apart from its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkFault {
    /// The signed bytes are of another format.
    #[error("it is of format {found}, this version reads format {FORMAT}")]
    Format {
        /// The number found.
        found: u8,
    },
    /// It names another owner than the first link.
    #[error("it is for regions of {}, the chain began with those of {}", found.short(), expected.short())]
    OtherOwner {
        /// Whose the first link is for.
        expected: NodeId,
        /// Whose this one is for.
        found: NodeId,
    },
    /// It was made for another chain.
    #[error("it follows link {}, before it stands {}", found.short(), expected.short())]
    OtherParent {
        /// The link before it.
        expected: Hash,
        /// The link it was signed to follow.
        found: Hash,
    },
    /// It ends before it begins.
    #[error("it is good from {} ms to {} ms, which is never", not_before.0, not_after.0)]
    NeverGood {
        /// The beginning.
        not_before: Time,
        /// The end.
        not_after: Time,
    },
    /// It may be handed on more often than a chain is long.
    #[error("it may be handed on {found} times, at most {max} are allowed")]
    Depth {
        /// What it says.
        found: u8,
        /// The bound.
        max: usize,
    },
}

/// A grant was refused. Links are counted from 1, as people do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// More bytes than a chain can have.
    #[error("a grant of {found} bytes, at most {ACCESS_BYTES_MAX} are read")]
    TooLarge {
        /// How many came.
        found: usize,
    },
    /// Not a chain of links, or one that was cut off.
    #[error(
        "these {found} bytes are not a grant to regions (or not all of it); show what \"delegate\" or the owner gave, unchanged"
    )]
    NotAGrant {
        /// How many bytes came.
        found: usize,
    },
    /// None, or too many links.
    #[error("a grant of {found} links, expected 1 to {ACCESS_LINKS_MAX}")]
    Links {
        /// How many.
        found: usize,
    },
    /// A signature does not match, or what was signed does not decode.
    #[error("link {link} was not made by {}, who alone could: {error}", issuer.short())]
    Forged {
        /// Which link.
        link: usize,
        /// Who had to sign it.
        issuer: NodeId,
        /// What does not match.
        error: SignedError,
    },
    /// A link contradicts itself or its place.
    #[error("link {link}, signed by {}: {fault}", issuer.short())]
    Link {
        /// Which link.
        link: usize,
        /// Who signed it.
        issuer: NodeId,
        /// What is wrong with it.
        fault: LinkFault,
    },
    /// A link allows what its issuer does not hold.
    #[error(
        "link {link}, signed by {}, gives more {what} than its issuer holds; ask them for a narrower one", issuer.short()
    )]
    Widened {
        /// Which link.
        link: usize,
        /// Who signed it.
        issuer: NodeId,
        /// In which dimension.
        what: Bound,
    },
    /// A good chain, for another owner's regions.
    #[error(
        "the grant opens regions of {}, here are those of {}; show it there, or ask the owner here for one", found.short(), expected.short()
    )]
    OtherOwner {
        /// Whose regions are here.
        expected: NodeId,
        /// Whose it opens.
        found: NodeId,
    },
    /// A good chain, shown by somebody it is not for.
    #[error(
        "the grant is for {}, it was shown by {}; its holder can hand it on to you (delegate)", holder.short(), bearer.short()
    )]
    NotYours {
        /// Whom it is for.
        holder: NodeId,
        /// Who showed it.
        bearer: NodeId,
    },
}

impl AccessError {
    /// Whose fault it is: of whoever shows the grant, or signed it.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealed {
    link: Link,
    signed: Signed,
    id: Hash,
}

/// A chain of links whose signatures and narrowing were checked. Whom it serves where is checked by
/// [`Access::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    links: Vec<Sealed>,
}

/// An [`Access`] that opens the regions of the owner asked for, to the node that showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Access);

impl Access {
    /// Signs a first link: the owner's.
    ///
    /// # Errors
    /// [`AccessError::Link`] for bounds that are never good or too deep.
    pub fn issue(
        key: &SecretKey,
        holder: NodeId,
        bounds: Bounds,
        nonce: u64,
    ) -> Result<Self, AccessError> {
        let root = key.node();
        let link = Link { format: FORMAT, root, holder, bounds, nonce, parent: Hash::ZERO };
        Self { links: Vec::new() }.with(key, link)
    }

    /// Signs one more link: that of the present holder, for `holder`.
    ///
    /// # Errors
    /// [`AccessError::NotYours`] when `key` is not the present holder's, [`AccessError::Widened`] when
    /// `bounds` go beyond what is held (the depth has to go down by one at least).
    pub fn delegate(
        &self,
        key: &SecretKey,
        holder: NodeId,
        bounds: Bounds,
        nonce: u64,
    ) -> Result<Self, AccessError> {
        if key.node() != self.holder() {
            return Err(AccessError::NotYours { holder: self.holder(), bearer: key.node() });
        }
        let (root, parent) = (self.root(), self.last().id);
        self.clone().with(key, Link { format: FORMAT, root, holder, bounds, nonce, parent })
    }

    fn with(mut self, key: &SecretKey, link: Link) -> Result<Self, AccessError> {
        let signed = Signed::seal(key, &domain(link.root), &link);
        self.check_next(key.node(), &link)?;
        self.push(link, signed);
        Ok(self)
    }

    fn push(&mut self, link: Link, signed: Signed) {
        let id = signed.hash();
        self.links.push(Sealed { link, signed, id });
    }

    /// Reads what [`Access::to_bytes`] wrote and checks every signature and every narrowing.
    ///
    /// # Errors
    /// [`AccessError`] that says which link is wrong, and how.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AccessError> {
        let mut access = Self { links: Vec::new() };
        for (signature, bytes) in cut(bytes)? {
            let link = access.links.len() + 1;
            // The first link says itself who has to have signed it; all others are for that node.
            let (issuer, root) = match access.links.last() {
                Some(last) => (last.link.holder, last.link.root),
                None => claimed_root(bytes).map(|root| (root, root))?,
            };
            let signed = Signed { signer: issuer, signature, bytes: bytes.to_vec() };
            let opened = signed.open::<Link>(&domain(root));
            let next = opened.map_err(|error| AccessError::Forged { link, issuer, error })?;
            access.check_next(issuer, &next)?;
            access.push(next, signed);
        }
        Ok(access)
    }

    /// Whether these bytes mean to be a grant to regions (and not a ticket, say).
    #[must_use]
    pub fn is_meant_by(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// [`Access::from_bytes`], and that it opens regions of `root` to `bearer`, the node whose key the
    /// connection was made with.
    ///
    /// # Errors
    /// [`AccessError`]; [`AccessError::OtherOwner`] and [`AccessError::NotYours`] for a good chain in
    /// the wrong place or the wrong hands.
    pub fn verify(bytes: &[u8], root: NodeId, bearer: NodeId) -> Result<Verified, AccessError> {
        let access = Self::from_bytes(bytes)?;
        if access.root() != root {
            return Err(AccessError::OtherOwner { expected: root, found: access.root() });
        }
        if access.holder() != bearer {
            return Err(AccessError::NotYours { holder: access.holder(), bearer });
        }
        Ok(Verified(access))
    }

    /// Whether `link` may follow, given that `issuer` signed it.
    fn check_next(&self, issuer: NodeId, link: &Link) -> Result<(), AccessError> {
        let number = self.links.len() + 1;
        let first = (link.root, Hash::ZERO);
        let (root, parent) = self.links.last().map_or(first, |last| (last.link.root, last.id));
        let own = if link.format != FORMAT {
            Some(LinkFault::Format { found: link.format })
        } else if link.root != root {
            Some(LinkFault::OtherOwner { expected: root, found: link.root })
        } else if link.parent != parent {
            Some(LinkFault::OtherParent { expected: parent, found: link.parent })
        } else {
            link.bounds.fault()
        };
        if let Some(fault) = own {
            return Err(AccessError::Link { link: number, issuer, fault });
        }
        let widened = self.links.last().and_then(|last| link.bounds.widens(&last.link.bounds));
        widened.map_or(Ok(()), |what| Err(AccessError::Widened { link: number, issuer, what }))
    }

    /// The bytes, as they travel in HELLO.
    ///
    /// # Panics
    /// Never: a chain is at most four links of at most 512 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u8::try_from(self.links.len()).expect("at most four links");
        let mut out = MAGIC.to_vec();
        out.extend([FORMAT, count]);
        for Sealed { signed, .. } in &self.links {
            let len = u16::try_from(signed.bytes.len()).expect("a link has at most 512 bytes");
            out.extend(signed.signature.0);
            out.extend(len.to_le_bytes());
            out.extend(&signed.bytes);
        }
        out
    }

    fn last(&self) -> &Sealed {
        self.links.last().expect("a chain has a link")
    }

    /// Whose regions it opens.
    #[must_use]
    pub fn root(&self) -> NodeId {
        self.last().link.root
    }

    /// Whom it serves.
    #[must_use]
    pub fn holder(&self) -> NodeId {
        self.last().link.holder
    }

    /// What the holder may do: the bounds of the last link, which lie within all others.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.last().link.bounds
    }

    /// The links from the owner's on, each with its name: the hash of the signed link.
    pub fn links(&self) -> impl DoubleEndedIterator<Item = (Hash, &Link)> + ExactSizeIterator {
        self.links.iter().map(|sealed| (sealed.id, &sealed.link))
    }
}

impl Verified {
    /// The chain.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.0
    }

    /// The chain itself.
    #[must_use]
    pub fn into_access(self) -> Access {
        self.0
    }
}

fn domain(root: NodeId) -> Domain {
    Domain::lasting(Kind::Access, u16::from(FORMAT), CityId::from(root))
}

/// The owner that a first link names: the 32 bytes after its format.
fn claimed_root(link: &[u8]) -> Result<NodeId, AccessError> {
    let not_a_grant = AccessError::NotAGrant { found: link.len() };
    let root = link.get(1..).and_then(|rest| rest.first_chunk::<32>());
    root.map(|root| NodeId(*root)).ok_or(not_a_grant)
}

/// A link that nobody looked into yet: the signature, and what is said to be signed.
type Cut<'a> = (Signature, &'a [u8]);

/// Cuts a chain into signatures and signed bytes, within all bounds of length and count.
fn cut(bytes: &[u8]) -> Result<Vec<Cut<'_>>, AccessError> {
    let found = bytes.len();
    if found > ACCESS_BYTES_MAX {
        return Err(AccessError::TooLarge { found });
    }
    let not_a_grant = AccessError::NotAGrant { found };
    let (head, mut rest) =
        bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| not_a_grant.clone())?;
    if head[..4] != MAGIC || head[4] != FORMAT {
        return Err(not_a_grant);
    }
    let count = usize::from(head[5]);
    if !(1..=ACCESS_LINKS_MAX).contains(&count) {
        return Err(AccessError::Links { found: count });
    }
    let mut links = Vec::with_capacity(count);
    for _ in 0..count {
        let (link, behind) = cut_link(rest).ok_or_else(|| not_a_grant.clone())?;
        links.push(link);
        rest = behind;
    }
    if rest.is_empty() { Ok(links) } else { Err(not_a_grant) }
}

fn cut_link(bytes: &[u8]) -> Option<(Cut<'_>, &[u8])> {
    let (signature, rest) = bytes.split_first_chunk::<SIGNATURE_BYTES>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(*len));
    if len > LINK_BYTES_MAX {
        return None;
    }
    let (link, behind) = rest.split_at_checked(len)?;
    Some(((Signature(*signature), link), behind))
}

mod line;
#[cfg(test)]
mod tests;

pub use line::{AccessLine, LineError};
