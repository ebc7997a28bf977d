//! A grant to regions as one line that can be pasted: `suanligrant1` and base32 (RFC 4648, lower case,
//! no padding). Format: `docs/spec/access.md`, section 3.

use super::{ACCESS_BYTES_MAX, Access, AccessError};
use crate::grant::TICKET_ADDRESSES_MAX;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use suanli_base::Hash;

const PREFIX: &str = "suanligrant1";
const CHECKSUM_BYTES: usize = 4;
const ADDRESS_CHARS_MAX: usize = 255;
/// Base32 of the longest chain, eight long addresses and the rest.
const TEXT_CHARS_MAX: usize = 16 << 10;

/// A grant, and where the regions are that it opens. The addresses are a hint that nobody signed: who
/// answers there has to prove the owner's key, or that of a mirror its reader asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLine {
    /// The grant.
    pub access: Access,
    /// Ways to a holder, most likely first; with the pass of a relay, if there is one.
    pub addresses: Vec<String>,
}

/// A text is no grant, or not a good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Something else.
    #[error(
        "this is not a grant: expected text that begins with \"{PREFIX}\", found {found:?}; copy the whole line"
    )]
    NotAGrant {
        /// The first characters found.
        found: String,
    },
    /// The checksum does not match: a character was lost or changed on the way.
    #[error(
        "the grant has a typing error or was cut off ({chars} characters arrived, their checksum does not match); copy it again"
    )]
    Typo {
        /// How many characters arrived.
        chars: usize,
    },
    /// A bound of the addresses.
    #[error(
        "a grant names at most {TICKET_ADDRESSES_MAX} addresses of at most {ADDRESS_CHARS_MAX} characters"
    )]
    Addresses,
    /// The text is whole, the grant in it is not good.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl AccessLine {
    /// A grant with the addresses of who holds the regions.
    ///
    /// # Errors
    /// [`LineError::Addresses`] for too many, or one that is too long.
    pub fn new(access: Access, addresses: Vec<String>) -> Result<Self, LineError> {
        let long = addresses.iter().any(|address| address.len() > ADDRESS_CHARS_MAX);
        match long || addresses.len() > TICKET_ADDRESSES_MAX {
            true => Err(LineError::Addresses),
            false => Ok(Self { access, addresses }),
        }
    }

    /// Whether a text means to be one of these (and not a ticket, say).
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Hash::of_parts("suanli 2026 grant checksum", &[bytes]);
    hash.0[..CHECKSUM_BYTES].try_into().expect("four of 32 bytes")
}

impl core::fmt::Display for AccessLine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let chain = self.access.to_bytes();
        let length = u16::try_from(chain.len()).expect("a chain has at most 4 KiB");
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(chain);
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).expect("an address has at most 255 bytes"));
            bytes.extend(address.as_bytes());
        }
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl core::str::FromStr for AccessLine {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let text = text.trim();
        let not_a_grant = || LineError::NotAGrant { found: text.chars().take(16).collect() };
        let body = text.strip_prefix(PREFIX).ok_or_else(not_a_grant)?;
        if body.len() > TEXT_CHARS_MAX {
            return Err(not_a_grant());
        }
        let typo = LineError::Typo { chars: text.chars().count() };
        let bytes = BASE32_NOPAD_NOCASE.decode(body.as_bytes()).map_err(|_| typo.clone())?;
        let (bytes, sum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| typo.clone())?;
        if checksum(bytes) != *sum {
            return Err(typo);
        }
        let (length, rest) = bytes.split_first_chunk::<2>().ok_or_else(not_a_grant)?;
        let length = usize::from(u16::from_le_bytes(*length)).min(ACCESS_BYTES_MAX + 1);
        let (chain, mut rest) = rest.split_at_checked(length).ok_or_else(not_a_grant)?;
        let access = Access::from_bytes(chain)?;
        let mut addresses = Vec::new();
        while let Some((length, behind)) = rest.split_first() {
            let (address, behind) =
                behind.split_at_checked(usize::from(*length)).ok_or_else(not_a_grant)?;
            if addresses.len() == TICKET_ADDRESSES_MAX {
                return Err(LineError::Addresses);
            }
            let address = core::str::from_utf8(address).map_err(|_| not_a_grant())?;
            addresses.push(address.to_owned());
            rest = behind;
        }
        Ok(Self { access, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bounds, Prefix, Right, Rights, SecretKey};
    use suanli_base::Time;

    fn line(addresses: &[&str]) -> AccessLine {
        let key = SecretKey::from_seed(&[1; 32]);
        let holder = SecretKey::from_seed(&[2; 32]).node();
        let bounds = Bounds {
            prefix: Prefix::new("job/1/").unwrap(),
            rights: Rights::of(&[Right::Read]),
            bytes_max: u64::MAX,
            bytes_per_s: u64::MAX,
            not_before: Time(1),
            not_after: Time(2),
            epoch: 0,
            depth: 0,
        };
        let access = Access::issue(&key, holder, bounds, 7).unwrap();
        AccessLine::new(access, addresses.iter().map(|a| (*a).to_owned()).collect()).unwrap()
    }

    #[test]
    fn a_line_comes_back_as_it_was_with_and_without_addresses() {
        let longest = "a".repeat(255);
        for addresses in [&[][..], &["10.0.0.7:7000"], &["a:1", "quic:b:2", &longest]] {
            let line = line(addresses);
            let text = line.to_string();
            assert!(AccessLine::is_meant_by(&text));
            assert_eq!(format!(" {text}\n").parse(), Ok(line.clone()));
            let upper = format!("{PREFIX}{}", text[PREFIX.len()..].to_ascii_uppercase());
            assert_eq!(upper.parse(), Ok(line));
        }
    }

    #[test]
    fn every_changed_character_and_every_cut_is_told() {
        let text = line(&["10.0.0.7:7000"]).to_string();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(matches!(changed.parse::<AccessLine>(), Err(LineError::Typo { .. })), "{at}");
            let cut = text[..at].parse::<AccessLine>();
            assert!(matches!(cut, Err(LineError::Typo { .. })), "{at}");
        }
    }

    #[test]
    fn a_good_checksum_over_anything_else_is_refused() {
        let sealed = |mut bytes: Vec<u8>| {
            bytes.extend(checksum(&bytes));
            format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
        };
        let chain = line(&[]).access.to_bytes();
        let mut good = u16::try_from(chain.len()).unwrap().to_le_bytes().to_vec();
        good.extend(&chain);
        let with = |more: &[u8]| [&good[..], more].concat();
        let nine = [1, b'a'].repeat(9);
        for bytes in [
            vec![],
            vec![0],
            vec![0, 0],
            vec![255; 40],
            with(&[3, b'a']),
            with(&[1, 255]),
            with(&nine),
        ] {
            assert!(sealed(bytes.clone()).parse::<AccessLine>().is_err(), "{bytes:?}");
        }
        assert!(sealed(good).parse::<AccessLine>().is_ok());
        for text in ["", "suanli1abc", "suanligrant", &"x".repeat(100_000)] {
            assert!(matches!(text.parse::<AccessLine>(), Err(LineError::NotAGrant { .. })));
        }
        let many = vec!["a:1".to_owned(); 9];
        assert_eq!(AccessLine::new(line(&[]).access, many), Err(LineError::Addresses));
    }
}
