//! One content under two shapes. The root covers the hashes of the chunks and not where they are cut,
//! so a holder may announce the right hashes under a wrong shape; a chunk that has its hash has its
//! length too, and shows which shape is a lie.

use crate::{ChunkSet, Shape};

/// The chunk by which it can be told which of two shapes of one content is right; none where they cut
/// it alike.
pub(super) fn deciding_chunk(one: Shape, other: Shape) -> Option<u32> {
    if one.chunk_len(0) != other.chunk_len(0) {
        return Some(0);
    }
    // All but the last are as long as the first.
    let last = u32::try_from(one.chunk_count().saturating_sub(1)).unwrap_or(u32::MAX);
    (one.bytes != other.bytes).then_some(last)
}

/// What of `have`, which was verified under the shape `from`, is verified and in its place under the
/// shape `to` as well.
///
/// # Errors
/// A chunk that is there and has another length under `to`, which is a lie then.
pub(super) fn carry_over(have: &ChunkSet, from: Shape, to: Shape) -> Result<ChunkSet, u32> {
    let mut kept = ChunkSet::empty(have.bound());
    for chunk in (0..have.bound()).filter(|chunk| have.contains(*chunk)) {
        if from.chunk_len(chunk) != to.chunk_len(chunk) {
            return Err(chunk);
        }
        if chunk == 0 || from.chunk_bytes == to.chunk_bytes {
            kept.insert(chunk);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_there_shows_which_shape_is_a_lie() {
        let shape = |bytes, chunk_bytes| Shape { bytes, chunk_bytes };
        let truth = shape(2_500, 1_000);
        assert_eq!(deciding_chunk(truth, truth), None);
        assert_eq!(deciding_chunk(truth, shape(2_400, 1_000)), Some(2));
        assert_eq!(deciding_chunk(truth, shape(2_500, 900)), Some(0));
        // One chunk, shorter than it might be.
        assert_eq!(deciding_chunk(shape(10, 10), shape(10, 4_000)), None);
        assert_eq!(deciding_chunk(shape(10, 10), shape(11, 4_000)), Some(0));
        let mut have = ChunkSet::empty(3);
        assert_eq!(carry_over(&have, truth, shape(2_500, 900)), Ok(have.clone()));
        have.insert(1);
        assert_eq!(carry_over(&have, truth, shape(2_400, 1_000)), Ok(have.clone()));
        assert_eq!(carry_over(&have, truth, shape(2_500, 900)), Err(1));
        have.insert(2);
        assert_eq!(carry_over(&have, truth, shape(2_400, 1_000)), Err(2));
        // The last one has the length, and would be elsewhere.
        let mut last = ChunkSet::empty(3);
        last.insert(2);
        assert_eq!(carry_over(&last, truth, shape(2_300, 900)), Ok(ChunkSet::empty(3)));
    }
}
