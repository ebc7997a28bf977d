//! Identities: 32-byte hashes and keys, each its own type, and the small counters of a job.

use serde::{Deserialize, Serialize};

/// A text was not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "expected 64 hexadecimal digits, found {found} characters of which some are not hexadecimal or the count is wrong"
)]
pub struct ParseHashError {
    /// How many characters the text had.
    pub found: usize,
}

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// All zero bytes: "none" where a format has no room for an option.
            pub const ZERO: Self = Self([0; 32]);

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first ten hexadecimal digits: for logs and tables, never for identity.
            #[must_use]
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..5])
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl core::str::FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                let wrong = ParseHashError { found: text.chars().count() };
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| wrong)?;
                let found = ParseHashError { found: text.chars().count() };
                Ok(Self(bytes.try_into().map_err(|_| found)?))
            }
        }
    };
}

id32!(
    /// A BLAKE3 hash of some bytes.
    Hash
);
id32!(
    /// A node: its ed25519 public key.
    NodeId
);
id32!(
    /// A city: the ed25519 public key that signs its chain of rounds.
    CityId
);
id32!(
    /// A job: the hash of its canonical specification.
    JobId
);
id32!(
    /// A ticket: the hash of its signed bytes.
    TicketId
);

impl Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Hashes the concatenation of `parts`, each preceded by its length (8 bytes, little-endian),
    /// so that no two lists of parts give the same input, under a context string of ours.
    #[must_use]
    pub fn of_parts(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl From<NodeId> for CityId {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl From<CityId> for NodeId {
    fn from(city: CityId) -> Self {
        Self(city.0)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// When the counter is exhausted, which no real run reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a counter of this width is never exhausted"))
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// A round of a job, and the version of the parameters it starts from: round r turns version r
    /// into version r + 1.
    Round(u64)
);
counter!(
    /// A lease, unique within a city and never used twice. Merges go in ascending lease id.
    LeaseId(u64)
);
counter!(
    /// A fragment of the parameters with its own version. The first whole uses fragment 0 only.
    FragmentId(u32)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_what_it_prints() {
        let hash = Hash::of(b"suanli");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert!("abc".parse::<Hash>().is_err());
    }

    #[test]
    fn moving_a_boundary_between_parts_changes_the_hash() {
        assert_ne!(Hash::of_parts("t", &[b"ab", b"c"]), Hash::of_parts("t", &[b"a", b"bc"]));
    }
}
