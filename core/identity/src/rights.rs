//! What a grant opens: rights, and the regions they are for.

use serde::{Deserialize, Serialize};

/// Characters of a prefix: as many as of a region's name (`docs/spec/rdpa.md`, section 2).
pub const PREFIX_CHARS_MAX: usize = 160;

/// One thing that one may do with a region. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Right {
    /// Open and read versions, ask how the region fares.
    Read = 0,
    /// Stage the chunks of a next version.
    Write = 1,
    /// Stage contributions.
    Accumulate = 2,
    /// Publish what was staged.
    Commit = 3,
    /// Open cells and change them.
    Cells = 4,
    /// Be notified of new versions.
    Subscribe = 5,
    /// End the grants of others.
    Revoke = 6,
}

impl Right {
    /// Every right, in the order of the format's bits.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Write,
        Self::Accumulate,
        Self::Commit,
        Self::Cells,
        Self::Subscribe,
        Self::Revoke,
    ];

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl core::fmt::Display for Right {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Accumulate => "accumulate",
            Self::Commit => "commit",
            Self::Cells => "cells",
            Self::Subscribe => "subscribe",
            Self::Revoke => "revoke",
        })
    }
}

/// A word names no right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no right; expected some of read, write, accumulate, commit, cells, subscribe, revoke, with commas between them"
)]
pub struct NoSuchRight {
    /// The word.
    pub found: String,
}

/// A set of rights. Bits without a meaning are refused when read, so that a right of a later format
/// is never taken for granted by a holder that does not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Rights(u16);

/// A set of rights has bits that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rights {found:#06x} have bits above {known:#06x}, which this version does not know")]
pub struct UnknownRights {
    /// What was found.
    pub found: u16,
    /// All that is known.
    pub known: u16,
}

impl Rights {
    /// Every right there is.
    pub const ALL: Self = Self(0x7F);
    /// No right.
    pub const NONE: Self = Self(0);

    /// Just these.
    #[must_use]
    pub fn of(rights: &[Right]) -> Self {
        Self(rights.iter().fold(0, |bits, right| bits | right.bit()))
    }

    /// Whether `right` is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether all of these are among `other`.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl TryFrom<u16> for Rights {
    type Error = UnknownRights;
    fn try_from(found: u16) -> Result<Self, UnknownRights> {
        let known = Self::ALL.0;
        if found & !known == 0 { Ok(Self(found)) } else { Err(UnknownRights { found, known }) }
    }
}

impl From<Rights> for u16 {
    fn from(rights: Rights) -> Self {
        rights.0
    }
}

impl core::str::FromStr for Rights {
    type Err = NoSuchRight;

    /// Reads words with commas between them: `read,subscribe`.
    fn from_str(text: &str) -> Result<Self, NoSuchRight> {
        let right = |word: &str| {
            let found = Right::ALL.into_iter().find(|right| right.to_string() == word);
            found.ok_or_else(|| NoSuchRight { found: word.to_owned() })
        };
        let rights = text.split(',').map(|word| right(word.trim()));
        Ok(Self::of(&rights.collect::<Result<Vec<_>, _>>()?))
    }
}

impl core::fmt::Display for Rights {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut names = Right::ALL.iter().filter(|right| self.has(**right)).peekable();
        if names.peek().is_none() {
            return f.write_str("nothing");
        }
        while let Some(name) = names.next() {
            write!(f, "{name}{}", if names.peek().is_some() { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Which regions are meant: those below a folder (`job/17/`), one by its whole name (`job/17/theta`),
/// or all of them (empty). A prefix ends at the border of a segment, so `job/1/` never means `job/17/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

/// A text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the name of a region, the beginning of several that ends with \"/\", or nothing for all, in at most {PREFIX_CHARS_MAX} characters from a-z 0-9 - _ . / without empty, \".\" or \"..\" segments, found {found:?}"
)]
pub struct BadPrefix {
    /// The beginning of what was found.
    pub found: String,
}

impl Prefix {
    /// All regions.
    #[must_use]
    pub const fn all() -> Self {
        Self(String::new())
    }

    /// Checks and takes a text.
    ///
    /// # Errors
    /// [`BadPrefix`] when it breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, BadPrefix> {
        let text = text.into();
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/');
        let segments = text.strip_suffix('/').unwrap_or(&text);
        let good = text.len() <= PREFIX_CHARS_MAX
            && text.bytes().all(allowed)
            && segments.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if good || text.is_empty() {
            return Ok(Self(text));
        }
        Err(BadPrefix { found: text.chars().take(32).collect() })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether everything that `name`, the text of a region's name or of a prefix, means is meant by
    /// this prefix too.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        if self.0.is_empty() || self.0.ends_with('/') {
            return name.starts_with(&self.0);
        }
        self.0 == name
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.0.is_empty() { f.write_str("every region") } else { f.write_str(&self.0) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = BadPrefix;
    fn try_from(text: String) -> Result<Self, BadPrefix> {
        Self::new(text)
    }
}

impl core::str::FromStr for Prefix {
    type Err = BadPrefix;
    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        Self::new(text)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.0
    }
}

impl core::borrow::Borrow<str> for Prefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).unwrap()
    }

    #[test]
    fn a_prefix_is_nothing_a_folder_or_a_name() {
        for good in ["", "a", "a/", "job/17/theta", "job/17/", ".a/b_c-d.e"] {
            assert_eq!(prefix(good).as_str(), good);
        }
        let long = "a".repeat(PREFIX_CHARS_MAX + 1);
        for bad in ["/", "//", "a//", "/a", "a/../b", "..", "./", "A", "a b", "a\0", long.as_str()]
        {
            assert!(Prefix::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_ends_at_the_border_of_a_segment() {
        assert!(prefix("job/1/").covers("job/1/theta"));
        assert!(!prefix("job/1/").covers("job/17/theta"));
        assert!(!prefix("job/1/").covers("job/1"));
        assert!(prefix("job/1").covers("job/1"));
        assert!(!prefix("job/1").covers("job/1/theta") && !prefix("job/1").covers("job/17"));
        assert!(prefix("").covers("anything/at/all") && prefix("").covers(""));
        assert!(!prefix("job/").covers(""));
    }

    #[test]
    fn rights_are_read_as_they_are_written() {
        for rights in [Rights::ALL, Rights::of(&[Right::Read, Right::Subscribe])] {
            assert_eq!(rights.to_string().parse(), Ok(rights));
        }
        for text in ["", "read,", "Read", "all", "read subscribe"] {
            assert!(text.parse::<Rights>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_right_of_a_later_format_is_refused() {
        assert_eq!(Rights::try_from(0x7F), Ok(Rights::ALL));
        let unknown = UnknownRights { found: 0x81, known: 0x7F };
        assert_eq!(Rights::try_from(0x81), Err(unknown));
        let all = Right::ALL.iter().all(|right| Rights::ALL.has(*right));
        assert!(all && Rights::of(&Right::ALL) == Rights::ALL);
        assert_eq!(Rights::of(&[Right::Commit, Right::Read]).to_string(), "read, commit");
    }
}
