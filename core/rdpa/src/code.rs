//! The codes with which a request is refused on the wire.

use serde::{Deserialize, Serialize};
use suanli_base::Fault;

/// Why a request was refused. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(u16)]
pub enum Code {
    /// The bearer may not do this, or said no accepted HELLO.
    Unauthorised = 1,
    /// No region of that name here.
    NoSuchRegion = 2,
    /// The region exists, that version of it no longer does.
    VersionGone = 3,
    /// The handle is not of this session, or was taken back: open again.
    BadHandle = 4,
    /// A chunk index past the end.
    OutOfRange = 5,
    /// The bytes are not those of the hash.
    HashMismatch = 6,
    /// More than a bound of the protocol or of the responder.
    TooLarge = 7,
    /// It came after the moment until which it counted.
    Late = 8,
    /// Too much at once: the same again later.
    Busy = 9,
    /// A COMMIT of a staged set with chunks missing.
    NotComplete = 10,
    /// The request makes no sense in this place.
    Protocol = 11,
    /// A COMMIT expected another version, or a staged chunk had another content.
    Conflict = 12,
    /// No protocol version in common.
    Version = 13,
    /// The responder cannot go on (full disk, shutting down): try elsewhere or later.
    Unavailable = 14,
    /// The responder does not offer this verb, or not on this region.
    Unsupported = 15,
    /// The grant's bytes are used up, or come faster than it allows.
    OverBudget = 16,
}

impl Code {
    const ALL: [Self; 16] = [
        Self::Unauthorised,
        Self::NoSuchRegion,
        Self::VersionGone,
        Self::BadHandle,
        Self::OutOfRange,
        Self::HashMismatch,
        Self::TooLarge,
        Self::Late,
        Self::Busy,
        Self::NotComplete,
        Self::Protocol,
        Self::Conflict,
        Self::Version,
        Self::Unavailable,
        Self::Unsupported,
        Self::OverBudget,
    ];

    /// The number on the wire; never 0.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The code of a number, if there is one.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.to_wire() == number)
    }

    /// Whose fault it is as seen by the side that asked.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::VersionGone | Self::BadHandle | Self::Late | Self::Busy | Self::Unavailable => {
                Fault::Weather
            }
            _ => Fault::Ours,
        }
    }
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unauthorised => "not authorised",
            Self::NoSuchRegion => "no such region",
            Self::VersionGone => "that version is gone",
            Self::BadHandle => "the handle is not valid in this session",
            Self::OutOfRange => "out of range",
            Self::HashMismatch => "the bytes do not match their hash",
            Self::TooLarge => "too large",
            Self::Late => "too late",
            Self::Busy => "busy",
            Self::NotComplete => "not complete",
            Self::Protocol => "against the protocol",
            Self::Conflict => "conflict",
            Self::Version => "no protocol version in common",
            Self::Unavailable => "not available now",
            Self::Unsupported => "not offered here",
            Self::OverBudget => "more than the grant allows",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_from_its_number_and_none_is_zero() {
        for code in Code::ALL {
            assert_eq!(Code::from_wire(code.to_wire()), Some(code));
        }
        assert_eq!(Code::from_wire(0), None);
        assert_eq!(Code::from_wire(17), None);
    }
}
