//! The bodies of control frames: postcard, nothing left over, counts checked after a length that the
//! frame has bounded already.

use crate::limits::{ERROR_TEXT_BYTES_MAX, IMMEDIATE_BYTES_MAX, READ_CHUNKS_MAX, SPANS_MAX};
use crate::{RegionName, Span, Violation};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The body of NOTIFY; the version is in the header.
#[derive(Serialize, Deserialize)]
pub(crate) struct NotifyBody {
    pub(crate) region: RegionName,
    pub(crate) immediate: Vec<u8>,
}

/// The body of READ_RANGES: what to pack, and which pieces of the answer are wanted; none for all.
#[derive(Serialize, Deserialize)]
pub(crate) struct RangesBody {
    pub(crate) spans: Vec<Span>,
    pub(crate) pieces: Vec<u32>,
}

pub(crate) fn decode_ranges(bytes: &[u8]) -> Result<RangesBody, Violation> {
    let body: RangesBody = decode("READ_RANGES", bytes)?;
    if body.spans.len() <= SPANS_MAX && body.pieces.is_sorted_by(|a, b| a < b) {
        Ok(body)
    } else {
        Err(Violation::Body { what: "READ_RANGES" })
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("our own types always encode").into()
}

pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, Violation> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Violation::Body { what }),
    }
}

/// The chunks of a READ: one to 64, ascending, so none twice.
pub(crate) fn decode_chunks(bytes: &[u8]) -> Result<Vec<u32>, Violation> {
    let chunks: Vec<u32> = decode("READ", bytes)?;
    let count_fits = (1..=READ_CHUNKS_MAX).contains(&chunks.len());
    if count_fits && chunks.is_sorted_by(|a, b| a < b) {
        Ok(chunks)
    } else {
        Err(Violation::Body { what: "READ" })
    }
}

pub(crate) fn decode_notify(bytes: &[u8]) -> Result<(RegionName, Bytes), Violation> {
    let body: NotifyBody = decode("NOTIFY", bytes)?;
    if body.immediate.len() > IMMEDIATE_BYTES_MAX {
        return Err(Violation::Body { what: "NOTIFY" });
    }
    Ok((body.region, body.immediate.into()))
}

/// A text for the wire: cut at a character to what an error may carry.
pub(crate) fn encode_text(text: &str) -> Bytes {
    let end = text.floor_char_boundary(ERROR_TEXT_BYTES_MAX.min(text.len()));
    Bytes::copy_from_slice(&text.as_bytes()[..end])
}

/// A text from the wire, harmless for a terminal: no control characters, bounded.
pub(crate) fn decode_text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(ERROR_TEXT_BYTES_MAX)];
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_loses_escape_codes() {
        let long = "算".repeat(200);
        let wire = encode_text(&long);
        assert_eq!(wire.len(), 255);
        assert_eq!(decode_text(&wire), "算".repeat(85));
        assert_eq!(decode_text(b"a\x1b[31mb\n"), "a[31mb");
    }

    #[test]
    fn bytes_left_over_are_refused() {
        assert!(decode::<u32>("x", &[1, 0]).is_err());
        assert_eq!(decode::<u32>("x", &[1]), Ok(1));
    }

    #[test]
    fn a_read_names_between_one_and_64_chunks_once_each() {
        let check = |chunks: &[u32]| decode_chunks(&encode(&chunks)).is_ok();
        assert!(check(&[0, 5, 9]));
        assert!(!check(&[]));
        assert!(!check(&[5, 5]));
        assert!(!check(&[5, 4]));
        assert!(check(&(0..64).collect::<Vec<_>>()));
        assert!(!check(&(0..65).collect::<Vec<_>>()));
    }
}
