//! Chunks: the pieces in which parameters are hashed, sent, merged and checked.

use core::ops::Range;

/// Elements of a chunk of parameters; the last one may be shorter. A multiple of the codecs' block,
/// so that the chunks of an encoded buffer are the encodings of its chunks.
pub const CHUNK_ELEMENTS: usize = 65_536;

/// How many chunks `len` elements make.
#[must_use]
pub const fn chunk_count(len: usize) -> usize {
    len.div_ceil(CHUNK_ELEMENTS)
}

/// The elements of chunk `index` of a buffer of `len`.
///
/// # Panics
/// When there is no such chunk.
#[must_use]
pub fn chunk_range(len: usize, index: usize) -> Range<usize> {
    assert!(index < chunk_count(len), "chunk {index} of a buffer of {len} elements");
    let start = index * CHUNK_ELEMENTS;
    start..len.min(start + CHUNK_ELEMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_buffer_once_and_in_order() {
        for len in [0, 1, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 200_000] {
            let mut next = 0;
            for index in 0..chunk_count(len) {
                let range = chunk_range(len, index);
                assert_eq!(range.start, next);
                assert!(!range.is_empty());
                next = range.end;
            }
            assert_eq!(next, len);
        }
    }

    #[test]
    #[should_panic(expected = "chunk 1 of a buffer")]
    fn a_chunk_beyond_the_end_is_a_defect_of_the_caller() {
        let _ = chunk_range(CHUNK_ELEMENTS, 1);
    }
}
