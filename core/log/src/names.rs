//! What the files of a log are called: by the number of the first body they hold or follow.

const DIGITS: usize = 20;
const SEGMENT: &str = ".log";
const SNAPSHOT: &str = ".snapshot";

/// The name of the segment whose first body is `first_seq`.
#[must_use]
pub fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:0DIGITS$}{SEGMENT}")
}

/// The first body of the segment of this name; nothing if it is no segment's name.
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<u64> {
    number(name.strip_suffix(SEGMENT)?)
}

/// The name of the snapshot after which body `next_seq` comes.
#[must_use]
pub fn snapshot_name(next_seq: u64) -> String {
    format!("{next_seq:0DIGITS$}{SNAPSHOT}")
}

/// The body that comes after the snapshot of this name; nothing if it is no snapshot's name.
#[must_use]
pub fn parse_snapshot_name(name: &str) -> Option<u64> {
    number(name.strip_suffix(SNAPSHOT)?)
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_sort_as_their_numbers() {
        for seq in [0, 9, 10, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(seq)), Some(seq));
            assert_eq!(parse_snapshot_name(&snapshot_name(seq)), Some(seq));
        }
        assert!(segment_name(9) < segment_name(10));
        for other in ["1.log", "+0000000000000000001.log", "99999999999999999999.log", "x", ""] {
            assert_eq!(parse_segment_name(other), None);
        }
        assert_eq!(parse_segment_name(&snapshot_name(1)), None);
    }
}
