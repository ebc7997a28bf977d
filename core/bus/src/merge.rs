//! The mathematics of a round, chunk by chunk: what a replica packs, and what a city makes of it.
//!
//! Host f32 with plain multiplications and additions in a fixed order (DESIGN 4.2, 5.4, 5.5):
//! contributions in ascending lease id, one chain an element, normalised once at the end; then
//! Nesterov, then the codec with its residual, and `theta -= decode(update)` for everyone. Chunks
//! are independent, so a host may give them to as many threads as it likes.

use suanli_base::Hash;
use suanli_params::{
    CHUNK_ELEMENTS, Codec, CodecError, FeedbackError, UpdateError, accumulate, apply_update,
    chunk_count, chunk_range, decode, encode_with_feedback, encoded_len, root,
};

/// One contribution as the merge reads it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// All chunks of its payload in order.
    pub payload: &'a [u8],
    /// Weight before normalising.
    pub weight: f32,
    /// Factor that clips it to the median norm.
    pub clip: f32,
}

/// The outer optimiser's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Learning rate.
    pub lr: f32,
    /// Nesterov momentum.
    pub momentum: f32,
    /// How updates travel.
    pub codec: Codec,
}

/// The outer state of a job, all of it or one chunk of it.
#[derive(Debug)]
pub struct OuterState<'a> {
    /// Parameters.
    pub theta: &'a mut [f32],
    /// Momentum.
    pub momentum: &'a mut [f32],
    /// What earlier updates left untold.
    pub residual: &'a mut [f32],
}

/// A merge could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A stored payload does not decode: it was checked before it was accepted, so a disk lied.
    #[error("a stored payload no longer decodes: {0}; the disk is damaged")]
    Payload(#[from] CodecError),
    /// The step left the finite numbers.
    #[error("the outer step cannot be encoded: {0}; lower the learning rates")]
    Step(#[from] FeedbackError),
    /// The new parameters left the finite numbers.
    #[error("the update cannot be applied: {0}; lower the learning rates")]
    Update(#[from] UpdateError),
    /// Sizes differ.
    #[error("expected payloads and states of {expected} parameters, found one of {found}")]
    Size {
        /// Parameters of the model.
        expected: usize,
        /// Found.
        found: usize,
    },
}

/// What a merge gives besides the new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// All chunks of the update in order.
    pub bytes: Vec<u8>,
    /// Hash of each chunk of the update.
    pub update_chunks: Vec<Hash>,
    /// Hash of each chunk of the new parameters.
    pub theta_chunks: Vec<Hash>,
}

impl Update {
    /// Merkle root of the update.
    #[must_use]
    pub fn update_root(&self) -> Hash {
        root(&self.update_chunks)
    }

    /// Merkle root of the new parameters.
    #[must_use]
    pub fn theta_root(&self) -> Hash {
        root(&self.theta_chunks)
    }
}

/// Merges `parts` into the state, which becomes the next version, and gives the update.
///
/// # Errors
/// [`MergeError`]; the state is then not to be used.
pub fn merge(
    parts: &[Part<'_>],
    outer: &Outer,
    state: OuterState<'_>,
) -> Result<Update, MergeError> {
    let OuterState { theta, momentum, residual } = state;
    let expected = theta.len();
    for found in [momentum.len(), residual.len()] {
        if found != expected {
            return Err(MergeError::Size { expected, found });
        }
    }
    let bytes = payload_len(outer.codec, expected);
    if let Some(part) = parts.iter().find(|part| part.payload.len() != bytes) {
        return Err(MergeError::Size { expected: bytes, found: part.payload.len() });
    }
    let mut update = Update {
        bytes: Vec::with_capacity(bytes),
        update_chunks: Vec::new(),
        theta_chunks: Vec::new(),
    };
    let mut step = vec![0.0; CHUNK_ELEMENTS.min(expected)];
    for index in 0..chunk_count(expected) {
        let range = chunk_range(expected, index);
        let at = update.bytes.len();
        let step = &mut step[..range.len()];
        weighted_mean(parts, outer.codec, index, step)?;
        nesterov(step, &mut momentum[range.clone()], outer);
        encode_with_feedback(outer.codec, step, &mut residual[range.clone()], &mut update.bytes)?;
        let encoded = &update.bytes[at..];
        apply_update(&mut theta[range.clone()], outer.codec, encoded)?;
        update.update_chunks.push(Hash::of(encoded));
        update.theta_chunks.push(hash_f32(&theta[range]));
    }
    Ok(update)
}

/// What each contribution is clipped by: those above the median norm are brought down to it
/// (DESIGN 5.4). `norms` are the square roots of what [`check_payload`] gives.
#[must_use]
pub fn clips(norms: &[f64]) -> Vec<f32> {
    let mut sorted = norms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    };
    let clip = |norm: &f64| if *norm > median { (median / norm) as f32 } else { 1.0 };
    norms.iter().map(clip).collect()
}

/// `out` becomes sum(weight x clip x decoded) / sum(weight) of one chunk.
fn weighted_mean(
    parts: &[Part<'_>],
    codec: Codec,
    chunk: usize,
    out: &mut [f32],
) -> Result<(), MergeError> {
    weighted_sum(parts, codec, chunk, out)?;
    let weights = parts.iter().fold(0.0_f32, |sum, part| sum + part.weight);
    if weights > 0.0 {
        out.iter_mut().for_each(|sum| *sum /= weights);
    }
    Ok(())
}

/// `sums` becomes sum(weight x clip x decoded) over the chunks from `first` on, as many as it has
/// elements: in the order of `parts`, one multiplication and one addition an element. Chunks done
/// apart, on whatever threads, give the same bits.
///
/// # Errors
/// [`MergeError::Payload`] or [`MergeError::Size`]; the sums are then not to be used.
pub fn weighted_sum(
    parts: &[Part<'_>],
    codec: Codec,
    first: usize,
    sums: &mut [f32],
) -> Result<(), MergeError> {
    for (sums, chunk) in sums.chunks_mut(CHUNK_ELEMENTS).zip(first..) {
        sums.fill(0.0);
        let at = chunk * encoded_len(codec, CHUNK_ELEMENTS);
        let end = at + encoded_len(codec, sums.len());
        for part in parts {
            let Some(bytes) = part.payload.get(at..end) else {
                return Err(MergeError::Size { expected: end, found: part.payload.len() });
            };
            accumulate(codec, bytes, part.weight * part.clip, sums)?;
        }
    }
    Ok(())
}

/// m := mu m + g; step := lr (g + mu m) (Sutskever et al. 2013, as DiLoCo uses it).
fn nesterov(step: &mut [f32], momentum: &mut [f32], outer: &Outer) {
    for (g, m) in step.iter_mut().zip(momentum) {
        *m = outer.momentum * *m + *g;
        *g = outer.lr * (*g + outer.momentum * *m);
    }
}

/// What a replica hands in, and what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// All chunks of the payload in order.
    pub payload: Vec<u8>,
    /// Hash of each chunk of the payload.
    pub payload_chunks: Vec<Hash>,
    /// Merkle root of base minus local, before the codec.
    pub delta_root: Hash,
    /// Merkle root of the residual before.
    pub residual_before: Hash,
    /// Merkle root of the residual after.
    pub residual_after: Hash,
}

impl Packed {
    /// Merkle root over the payload's chunks.
    #[must_use]
    pub fn payload_root(&self) -> Hash {
        root(&self.payload_chunks)
    }
}

/// Packs base minus local through the error feedback; `residual` becomes what is left untold.
///
/// # Errors
/// [`FeedbackError`] for a difference that is not finite: the run has diverged on this replica.
pub fn pack(
    codec: Codec,
    base: &[f32],
    local: &[f32],
    residual: &mut [f32],
) -> Result<Packed, FeedbackError> {
    let total = base.len();
    let mut payload = Vec::with_capacity(payload_len(codec, total));
    let (mut chunks, mut deltas) = (Vec::new(), Vec::new());
    let residual_before = root(&hash_chunks(residual));
    for index in 0..chunk_count(total) {
        let range = chunk_range(total, index);
        let pairs = base[range.clone()].iter().zip(&local[range.clone()]);
        let delta: Vec<f32> = pairs.map(|(base, local)| base - local).collect();
        let at = payload.len();
        encode_with_feedback(codec, &delta, &mut residual[range], &mut payload)?;
        chunks.push(Hash::of(&payload[at..]));
        deltas.push(hash_f32(&delta));
    }
    Ok(Packed {
        payload,
        payload_chunks: chunks,
        delta_root: root(&deltas),
        residual_before,
        residual_after: root(&hash_chunks(residual)),
    })
}

/// Checks a stranger's payload and gives the squared norm of what it decodes to.
///
/// # Errors
/// [`CodecError`]: the peer's fault.
pub fn check_payload(codec: Codec, payload: &[u8], parameters: usize) -> Result<f64, CodecError> {
    let expected = payload_len(codec, parameters);
    if payload.len() != expected {
        return Err(CodecError::Length {
            codec,
            elements: parameters,
            expected,
            found: payload.len(),
        });
    }
    let mut decoded = vec![0.0; CHUNK_ELEMENTS.min(parameters)];
    let (mut at, mut sum) = (0, 0.0);
    for index in 0..chunk_count(parameters) {
        let elements = chunk_range(parameters, index).len();
        let bytes = encoded_len(codec, elements);
        decode(codec, &payload[at..at + bytes], &mut decoded[..elements])?;
        sum += suanli_params::sum_of_squares(&decoded[..elements]);
        at += bytes;
    }
    Ok(sum)
}

/// Bytes of a payload or update over all chunks.
#[must_use]
pub fn payload_len(codec: Codec, parameters: usize) -> usize {
    let whole = parameters / CHUNK_ELEMENTS;
    let rest = parameters % CHUNK_ELEMENTS;
    whole * encoded_len(codec, CHUNK_ELEMENTS) + if rest > 0 { encoded_len(codec, rest) } else { 0 }
}

/// Hash of each chunk of a buffer of parameters, as its bytes travel.
#[must_use]
pub fn hash_chunks(values: &[f32]) -> Vec<Hash> {
    values.chunks(CHUNK_ELEMENTS).map(hash_f32).collect()
}

fn hash_f32(values: &[f32]) -> Hash {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Hash::of(&bytes)
}

/// The hash that names a replica's sealed private state: moments with their step count, and
/// residual.
#[must_use]
pub fn private_hash(sealed_moments: &[u8], optimizer_steps: u64, residual_root: Hash) -> Hash {
    Hash::of_parts(
        "suanli 2026 private state",
        &[sealed_moments, &optimizer_steps.to_le_bytes(), residual_root.as_bytes()],
    )
}
