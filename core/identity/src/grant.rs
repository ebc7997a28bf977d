//! Grants: signed statements of what their bearer may do. A ticket is a grant one can paste.
//!
//! The text of a ticket is `suanli1` followed by base32 (RFC 4648, lower case, no padding) of the
//! signed grant and four bytes of its BLAKE3 hash, so that a typing error is told apart from a
//! forged ticket.

use crate::{Domain, Kind, SecretKey, Signed, SignedError};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use serde::{Deserialize, Serialize};
use suanli_base::{CityId, Hash, NodeId, TicketId, Time};

const PREFIX: &str = "suanli1";
const VERSION: u16 = 1;
const TEXT_CHARS_MAX: usize = 4096;
/// How many addresses a ticket may name.
pub const TICKET_ADDRESSES_MAX: usize = 8;
const ADDRESS_CHARS_MAX: usize = 255;

/// What the bearer may do. Each role is apart: joining gives no right to train or export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Lend a computinglet: read what a lease needs, hand in contributions.
    Join,
    /// Hand in jobs, read their parameters, export.
    Train,
    /// Everything the city's operator may do remotely.
    Operate,
    /// Read the state of jobs and rounds, nothing else.
    Watch,
}

impl core::fmt::Display for Role {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Join => "join",
            Self::Train => "train",
            Self::Operate => "operate",
            Self::Watch => "watch",
        })
    }
}

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The city it opens.
    pub city: CityId,
    /// What the bearer may do there.
    pub role: Role,
    /// When it stops to count (milliseconds since the Unix epoch).
    pub expires: Time,
    /// How many nodes may use it.
    pub uses: u32,
    /// Makes two grants of equal content differ.
    pub nonce: u64,
    /// Where the city listens, `host:port`, most likely first.
    pub addresses: Vec<String>,
}

/// A grant with the city's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    grant: Grant,
    signed: Signed,
}

/// A ticket was refused. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Not the text of a ticket at all.
    #[error(
        "this is not a ticket: expected text that begins with \"suanli1\", found {found:?}; copy the whole line that the city printed"
    )]
    NotATicket {
        /// The first characters found.
        found: String,
    },
    /// The checksum does not match: a character was lost or changed on the way.
    #[error(
        "the ticket has a typing error or was cut off ({chars} characters arrived, their checksum does not match); copy it again"
    )]
    Typo {
        /// How many characters arrived.
        chars: usize,
    },
    /// The checksum matches, the signature does not: somebody made this up.
    #[error("the ticket is not signed by the city it names: {0}")]
    Forged(#[from] SignedError),
    /// Signed by a key that is not the city's.
    #[error("the ticket names city {} but node {} signed it; ask the city's operator for a new one", city.short(), signer.short())]
    WrongCity {
        /// The city the grant names.
        city: CityId,
        /// Who signed.
        signer: NodeId,
    },
    /// Too old.
    #[error(
        "the ticket expired {ago_s} s ago; ask the city's operator for a new one (suanli city ticket)"
    )]
    Expired {
        /// For how many seconds it has been void.
        ago_s: u64,
    },
    /// Meant for something else.
    #[error(
        "this ticket is for the role \"{found}\", this needs \"{expected}\"; ask the city's operator for a ticket of that role (suanli city ticket --role {expected})"
    )]
    WrongRole {
        /// The role the action needs.
        expected: Role,
        /// The role the ticket gives.
        found: Role,
    },
    /// A field is out of its bounds.
    #[error("the ticket holds {found} {what}, at most {max} are allowed")]
    OutOfBounds {
        /// Which field.
        what: &'static str,
        /// What it holds.
        found: usize,
        /// The bound.
        max: usize,
    },
}

impl Ticket {
    /// Signs a grant with the city's key.
    ///
    /// # Errors
    /// [`GrantError::OutOfBounds`] for too many or too long addresses.
    ///
    /// # Panics
    /// When `key` is not the key of the city that `grant` names: a defect of the caller.
    pub fn issue(key: &SecretKey, grant: Grant) -> Result<Self, GrantError> {
        assert_eq!(CityId::from(key.node()), grant.city, "a city signs its own tickets");
        check_bounds(&grant)?;
        let signed = Signed::seal(key, &domain(grant.city), &grant);
        Ok(Self { grant, signed })
    }

    /// What the ticket says. It was signed by the city it names.
    #[must_use]
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The name of this ticket.
    #[must_use]
    pub fn id(&self) -> TicketId {
        TicketId(self.signed.hash().0)
    }

    /// The signed bytes, as they travel in HELLO.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.signed).expect("our own types always encode")
    }

    /// Reads what [`Ticket::to_bytes`] wrote and checks the signature.
    ///
    /// # Errors
    /// [`GrantError`] that says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GrantError> {
        let not_a_ticket = || GrantError::NotATicket { found: format!("{} bytes", bytes.len()) };
        if bytes.len() > TEXT_CHARS_MAX {
            return Err(not_a_ticket());
        }
        let (signed, rest): (Signed, _) =
            postcard::take_from_bytes(bytes).map_err(|_| not_a_ticket())?;
        if !rest.is_empty() {
            return Err(not_a_ticket());
        }
        let grant: Grant = signed.open(&domain(CityId::from(signed.signer)))?;
        if CityId::from(signed.signer) != grant.city {
            return Err(GrantError::WrongCity { city: grant.city, signer: signed.signer });
        }
        check_bounds(&grant)?;
        Ok(Self { grant, signed })
    }

    /// Checks expiry and role at the moment of use.
    ///
    /// # Errors
    /// [`GrantError::Expired`] or [`GrantError::WrongRole`].
    pub fn check(&self, now: Time, expected: Role) -> Result<(), GrantError> {
        if now >= self.grant.expires {
            return Err(GrantError::Expired { ago_s: now.since(self.grant.expires).0 / 1000 });
        }
        if self.grant.role != expected && self.grant.role != Role::Operate {
            return Err(GrantError::WrongRole { expected, found: self.grant.role });
        }
        Ok(())
    }
}

fn domain(city: CityId) -> Domain {
    Domain::lasting(Kind::Grant, VERSION, city)
}

fn check_bounds(grant: &Grant) -> Result<(), GrantError> {
    let found = grant.addresses.len();
    if found > TICKET_ADDRESSES_MAX {
        return Err(GrantError::OutOfBounds {
            what: "addresses",
            found,
            max: TICKET_ADDRESSES_MAX,
        });
    }
    let longest = grant.addresses.iter().map(String::len).max().unwrap_or(0);
    if longest > ADDRESS_CHARS_MAX {
        let max = ADDRESS_CHARS_MAX;
        return Err(GrantError::OutOfBounds {
            what: "characters in an address",
            found: longest,
            max,
        });
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = Hash::of_parts("suanli 2026 ticket checksum", &[bytes]);
    hash.0[..4].try_into().expect("four of 32 bytes")
}

impl core::fmt::Display for Ticket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut bytes = self.to_bytes();
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl core::str::FromStr for Ticket {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let text = text.trim();
        let chars = text.chars().count();
        let not_a_ticket =
            || GrantError::NotATicket { found: text.chars().take(12).collect::<String>() };
        let body = text.strip_prefix(PREFIX).ok_or_else(not_a_ticket)?;
        if body.len() > TEXT_CHARS_MAX {
            return Err(not_a_ticket());
        }
        let bytes =
            BASE32_NOPAD_NOCASE.decode(body.as_bytes()).map_err(|_| GrantError::Typo { chars })?;
        let (bytes, sum) = bytes.split_last_chunk::<4>().ok_or(GrantError::Typo { chars })?;
        if checksum(bytes) != *sum {
            return Err(GrantError::Typo { chars });
        }
        Self::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(role: Role, expires: u64) -> Ticket {
        let key = SecretKey::from_seed(&[1; 32]);
        let grant = Grant {
            city: key.node().into(),
            role,
            expires: Time(expires),
            uses: 3,
            nonce: 5,
            addresses: vec!["127.0.0.1:7000".into()],
        };
        Ticket::issue(&key, grant).unwrap()
    }

    #[test]
    fn a_ticket_reads_back_from_its_text_in_any_case() {
        let ticket = ticket(Role::Join, 10);
        assert_eq!(ticket.to_string().parse::<Ticket>(), Ok(ticket.clone()));
        let upper = format!("suanli1{}", ticket.to_string()[7..].to_ascii_uppercase());
        assert_eq!(upper.parse::<Ticket>(), Ok(ticket));
    }

    #[test]
    fn every_single_typing_error_is_called_one() {
        let text = ticket(Role::Join, 10).to_string();
        for at in 7..text.len() {
            let mut typo: Vec<u8> = text.clone().into_bytes();
            typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
            let typo = String::from_utf8(typo).unwrap();
            assert!(matches!(typo.parse::<Ticket>(), Err(GrantError::Typo { .. })), "at {at}");
        }
        assert!(matches!("hello".parse::<Ticket>(), Err(GrantError::NotATicket { .. })));
        assert!(matches!(text[..40].parse::<Ticket>(), Err(GrantError::Typo { .. })));
    }

    #[test]
    fn expiry_and_role_are_checked_at_use() {
        let join = ticket(Role::Join, 10_000);
        assert_eq!(join.check(Time(9_999), Role::Join), Ok(()));
        assert_eq!(join.check(Time(12_000), Role::Join), Err(GrantError::Expired { ago_s: 2 }));
        let wrong = GrantError::WrongRole { expected: Role::Train, found: Role::Join };
        assert_eq!(join.check(Time(0), Role::Train), Err(wrong));
        assert_eq!(ticket(Role::Operate, 10).check(Time(0), Role::Train), Ok(()));
    }
}
