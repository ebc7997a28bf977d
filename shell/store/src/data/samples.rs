//! Samples inside shards: where they lie, and their tokens.

use std::ops::Range;

/// The shape of the samples in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLayout {
    /// Tokens of a sample: context + 1.
    pub sample_tokens: u32,
    /// Bytes of a token: 2 or 4, little-endian.
    pub token_bytes: u8,
    /// Ids are below this.
    pub vocab: u32,
}

/// Some samples of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPiece {
    /// Which shard.
    pub shard: usize,
    /// Its samples, counted from its own first.
    pub samples: Range<u64>,
}

/// Samples that are not there, or shard bytes that are no samples: whoever made or sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A layout nothing can have.
    #[error(
        "expected tokens of 2 or 4 bytes and samples of at least 2 tokens, found {token_bytes} \
             and {sample_tokens}: the job's data description is wrong"
    )]
    Layout {
        /// Bytes of a token.
        token_bytes: u8,
        /// Tokens of a sample.
        sample_tokens: u32,
    },
    /// Samples past the end.
    #[error(
        "expected samples below {count}, found {start}..{end}: the lease and the data do not \
             belong together"
    )]
    Outside {
        /// How many there are.
        count: u64,
        /// The first asked for.
        start: u64,
        /// The first not asked for.
        end: u64,
    },
    /// Bytes that are not a whole number of samples.
    #[error(
        "expected whole samples of {sample_bytes} bytes, found {found} bytes: read the shard \
             again"
    )]
    Partial {
        /// Bytes of a sample.
        sample_bytes: u64,
        /// Bytes given.
        found: u64,
    },
    /// A token outside the vocabulary.
    #[error(
        "expected tokens below {vocab}, found {found} at place {at}: the shard was made with \
             another tokenizer, or is damaged"
    )]
    Token {
        /// How many ids there are.
        vocab: u32,
        /// The id found.
        found: u32,
        /// Which token of those read.
        at: usize,
    },
}

impl SampleLayout {
    /// Bytes of a sample.
    ///
    /// # Errors
    /// When the layout is impossible.
    pub const fn sample_bytes(&self) -> Result<u64, SampleError> {
        if !matches!(self.token_bytes, 2 | 4) || self.sample_tokens < 2 {
            let Self { token_bytes, sample_tokens, .. } = *self;
            return Err(SampleError::Layout { token_bytes, sample_tokens });
        }
        Ok(self.sample_tokens as u64 * self.token_bytes as u64)
    }

    /// The bytes that `samples` take in a shard of `count` samples.
    ///
    /// # Errors
    /// When the shard has no such samples.
    pub const fn byte_range(
        &self,
        samples: &Range<u64>,
        count: u64,
    ) -> Result<Range<u64>, SampleError> {
        let bytes = match self.sample_bytes() {
            Ok(bytes) => bytes,
            Err(error) => return Err(error),
        };
        let Range { start, end } = *samples;
        let outside = SampleError::Outside { count, start, end };
        if start > end || end > count {
            return Err(outside);
        }
        match (start.checked_mul(bytes), end.checked_mul(bytes)) {
            (Some(start), Some(end)) => Ok(start..end),
            _ => Err(outside),
        }
    }

    /// The tokens of whole samples, one after another.
    ///
    /// # Errors
    /// When `bytes` are not whole samples or a token is outside the vocabulary.
    pub fn tokens(&self, bytes: &[u8]) -> Result<Vec<u32>, SampleError> {
        let (sample_bytes, found) = (self.sample_bytes()?, bytes.len() as u64);
        if found % sample_bytes != 0 {
            return Err(SampleError::Partial { sample_bytes, found });
        }
        let tokens: Vec<u32> = if self.token_bytes == 2 {
            let (pairs, _) = bytes.as_chunks::<2>();
            pairs.iter().map(|&pair| u32::from(u16::from_le_bytes(pair))).collect()
        } else {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        match tokens.iter().position(|&token| token >= self.vocab) {
            Some(at) => Err(SampleError::Token { vocab: self.vocab, found: tokens[at], at }),
            None => Ok(tokens),
        }
    }

    /// The tokens of some samples of a shard whose bytes are all at hand.
    ///
    /// # Errors
    /// When the shard has no such samples, or is damaged.
    pub fn read(&self, shard: &[u8], samples: &Range<u64>) -> Result<Vec<u32>, SampleError> {
        let count = shard.len() as u64 / self.sample_bytes()?;
        let range = self.byte_range(samples, count)?;
        let place = |at| usize::try_from(at).expect("inside bytes that are in memory");
        self.tokens(&shard[place(range.start)..place(range.end)])
    }
}

/// The shards, of so many samples each, that hold the stored `samples`.
///
/// # Errors
/// When there are fewer samples than asked for.
pub fn locate(
    shard_samples: impl IntoIterator<Item = u64>,
    samples: &Range<u64>,
) -> Result<Vec<ShardPiece>, SampleError> {
    let Range { start, end } = *samples;
    let (mut pieces, mut first) = (Vec::new(), 0_u64);
    for (shard, count) in shard_samples.into_iter().enumerate() {
        let past = first.saturating_add(count);
        let (from, to) = (start.max(first), end.min(past));
        if from < to {
            pieces.push(ShardPiece { shard, samples: from - first..to - first });
        }
        first = past;
    }
    if start > end || end > first {
        return Err(SampleError::Outside { count: first, start, end });
    }
    Ok(pieces)
}
