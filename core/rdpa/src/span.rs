//! Byte ranges of a region, several and strided, packed one behind the other into one answer.
//!
//! A slice of a tensor that is not contiguous (the columns of a shard, say) is `count` runs of `len`
//! bytes, `stride` apart. Writing that as one span instead of one entry a run keeps a request small
//! however finely a tensor is cut.

use crate::limits::{PIECE_BYTES, RANGES_BYTES_MAX, RUNS_MAX, SPANS_MAX};
use serde::{Deserialize, Serialize};

/// `count` runs of `len` bytes, the first at `offset`, each `stride` bytes behind the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Where the first run begins, in bytes of the region.
    pub offset: u64,
    /// Length of each run in bytes.
    pub len: u64,
    /// From the beginning of one run to that of the next; without meaning for a single one.
    pub stride: u64,
    /// How many runs.
    pub count: u32,
}

impl Span {
    /// One contiguous run.
    #[must_use]
    pub const fn run(offset: u64, len: u64) -> Self {
        Self { offset, len, stride: 0, count: 1 }
    }

    /// Bytes of all runs together; nothing when there are none or the sum overflows.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.len.checked_mul(u64::from(self.count)).filter(|bytes| *bytes > 0)
    }

    /// One past the last byte touched; nothing on overflow.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        let last = u64::from(self.count.checked_sub(1)?).checked_mul(self.stride)?;
        self.offset.checked_add(last)?.checked_add(self.len)
    }
}

/// Spans that cannot be read: the fault of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpanError {
    /// None, or too many.
    #[error("{found} spans, expected 1 to {SPANS_MAX}")]
    Count {
        /// How many.
        found: usize,
    },
    /// A span of no byte, or one that wraps around.
    #[error("span {index} has no bytes, or wraps around")]
    Empty {
        /// Which.
        index: usize,
    },
    /// A span ends behind the region.
    #[error("span {index} ends at byte {end}, the region has {bytes}")]
    PastEnd {
        /// Which.
        index: usize,
        /// Where it ends.
        end: u64,
        /// Length of the region.
        bytes: u64,
    },
    /// More runs than one answer is gathered from.
    #[error(
        "{found} runs in one READ_RANGES, at most {RUNS_MAX}; ask in several, or for longer runs"
    )]
    Runs {
        /// How many.
        found: u64,
    },
    /// All together are more than one answer may hold.
    #[error("{found} bytes in one READ_RANGES, at most {RANGES_BYTES_MAX}; ask in several")]
    TooLarge {
        /// How many.
        found: u64,
    },
}

/// Checks spans against a region of `bytes` bytes; returns the length of the packed answer.
///
/// # Errors
/// [`SpanError`] that says what does not fit.
pub fn check_spans(spans: &[Span], bytes: u64) -> Result<u64, SpanError> {
    if spans.is_empty() || spans.len() > SPANS_MAX {
        return Err(SpanError::Count { found: spans.len() });
    }
    let (mut total, mut runs) = (0_u64, 0_u64);
    for (index, span) in spans.iter().enumerate() {
        let len = span.bytes().ok_or(SpanError::Empty { index })?;
        let end = span.end().ok_or(SpanError::Empty { index })?;
        if end > bytes {
            return Err(SpanError::PastEnd { index, end, bytes });
        }
        runs += u64::from(span.count);
        if runs > RUNS_MAX {
            return Err(SpanError::Runs { found: runs });
        }
        total = total.saturating_add(len);
        if total > RANGES_BYTES_MAX {
            return Err(SpanError::TooLarge { found: total });
        }
    }
    Ok(total)
}

/// The runs of the region that make up `len` bytes of the packed answer from `start` on, as
/// (offset in the region, length). The spans have been checked.
pub fn runs_of(spans: &[Span], start: u64, len: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let end = start + len;
    let mut before = 0_u64;
    spans.iter().flat_map(move |span| {
        let base = before;
        before += span.len * u64::from(span.count);
        // Skips straight to the first run that is wanted.
        let first = start.saturating_sub(base) / span.len;
        let past = end.saturating_sub(base).div_ceil(span.len).min(u64::from(span.count));
        (first..past).map(move |run| {
            let at = base + run * span.len;
            let (from, to) = (start.max(at), end.min(at + span.len));
            (span.offset + run * span.stride + (from - at), to - from)
        })
    })
}

/// How many pieces an answer of `total` bytes comes in.
#[must_use]
pub fn piece_count(total: u64) -> u32 {
    u32::try_from(total.div_ceil(u64::from(PIECE_BYTES))).expect("at most RANGES_BYTES_MAX bytes")
}

/// Where piece `index` of an answer of `total` bytes begins, and its length.
#[must_use]
pub fn piece_of(total: u64, index: u32) -> Option<(u64, u32)> {
    let start = u64::from(index) * u64::from(PIECE_BYTES);
    let left = total.checked_sub(start).filter(|left| *left > 0)?;
    Some((start, u32::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(region: &[u8], spans: &[Span]) -> Vec<u8> {
        let mut packed = Vec::new();
        for span in spans {
            for run in 0..u64::from(span.count) {
                for at in 0..span.len {
                    packed.push(region[(span.offset + run * span.stride + at) as usize]);
                }
            }
        }
        packed
    }

    proptest! {
        #[test]
        fn any_window_of_the_packed_answer_is_what_packing_byte_by_byte_gives(
            raw in prop::collection::vec((0_u64..500, 1_u64..40, 0_u64..60, 1_u32..8), 1..6),
            from in 0_u64..2000, len in 0_u64..2000,
        ) {
            let region: Vec<u8> = (0..2000_u32).map(|i| (i * 31 % 251) as u8).collect();
            let spans: Vec<Span> = raw
                .into_iter()
                .map(|(offset, len, stride, count)| Span { offset, len, stride, count })
                .collect();
            let total = check_spans(&spans, 2000).unwrap();
            let packed = naive(&region, &spans);
            prop_assert_eq!(packed.len() as u64, total);
            let from = from.min(total);
            let len = len.min(total - from);
            let mut out = Vec::new();
            for (at, len) in runs_of(&spans, from, len) {
                out.extend_from_slice(&region[at as usize..(at + len) as usize]);
            }
            prop_assert_eq!(&out, &packed[from as usize..(from + len) as usize]);
        }
    }

    #[test]
    fn hostile_spans_are_refused_without_arithmetic_going_wrong() {
        let check = |span| check_spans(&[span], 1000);
        let odd = |offset, len, stride, count| Span { offset, len, stride, count };
        assert!(matches!(check_spans(&[], 10), Err(SpanError::Count { found: 0 })));
        assert!(matches!(check(odd(0, 0, 1, 1)), Err(SpanError::Empty { .. })));
        assert!(matches!(check(odd(0, 1, 1, 0)), Err(SpanError::Empty { .. })));
        assert!(matches!(check(odd(u64::MAX, 1, 0, 1)), Err(SpanError::Empty { .. })));
        assert!(matches!(check(odd(0, u64::MAX, 0, 2)), Err(SpanError::Empty { .. })));
        assert!(matches!(check(odd(0, 1, u64::MAX, 3)), Err(SpanError::Empty { .. })));
        assert!(matches!(check(odd(999, 2, 0, 1)), Err(SpanError::PastEnd { end: 1001, .. })));
        // The same byte a million times costs nothing to ask and much to answer.
        let swells = odd(0, 1000, 0, u32::MAX);
        assert!(matches!(check(swells), Err(SpanError::Runs { .. })));
        let swells = odd(0, 1000, 0, 1 << 20);
        assert!(matches!(check(swells), Err(SpanError::TooLarge { .. })));
        assert_eq!(check(odd(0, 10, 100, 10)), Ok(100));
    }

    #[test]
    fn an_answer_is_cut_into_pieces_without_gap_or_overlap() {
        let total = 3 * u64::from(PIECE_BYTES) + 5;
        assert_eq!(piece_count(total), 4);
        assert_eq!(piece_of(total, 3), Some((3 * u64::from(PIECE_BYTES), 5)));
        assert_eq!(piece_of(total, 4), None);
        assert_eq!(piece_of(1, 0), Some((0, 1)));
    }
}
