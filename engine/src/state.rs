//! What an optimiser remembers between steps: its moments, how they are sealed, and the hash of
//! the whole state.

use core::ops::Range;

use suanli_base::Hash;
use suanli_params::{seal_moments, unseal_moments};

use crate::traits::{STATE_SEGMENTS, SealFault, StateHash, StepError};

/// Elements that are hashed at a time.
const PIECE: usize = 16_384;

/// A step whose gradient has this norm or more is refused: it is lost anyway, and below it the
/// moments stay within what can be sealed (2^60 in m and in the root of v).
pub(crate) const GRAD_NORM_MAX: f64 = 1e15;

/// Everything that a step depends on: parameters, both moments, and how many steps made them.
///
/// Canonical bytes: count of steps and count of parameters (`u64` each), then parameters, first
/// moments, second moments as `f32`, all little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(crate) params: Vec<f32>,
    pub(crate) moments: Moments,
}

const HEAD_BYTES: usize = 16;

impl State {
    /// These parameters, zero moments, no steps taken.
    #[must_use]
    pub fn new(params: Vec<f32>) -> Self {
        let moments = Moments::new(params.len());
        Self { params, moments }
    }

    /// The parameters, to be overwritten.
    pub fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// The first moments and the second.
    #[must_use]
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.moments.first, &self.moments.second)
    }

    /// Takes up what so many steps made of it.
    ///
    /// # Errors
    /// Buffers of another length, and moments that no steps leave behind; nothing has changed then.
    pub fn set(
        &mut self,
        params: Vec<f32>,
        moments: (Vec<f32>, Vec<f32>),
        steps: u64,
    ) -> Result<(), StepError> {
        let (first, second) = moments;
        let expected = self.params.len();
        for (what, found) in [("first moments", first.len()), ("second moments", second.len())] {
            if found != expected {
                return Err(StepError::WrongLength { what, expected, found });
            }
        }
        let next = Self { params, moments: Moments { first, second, steps } };
        next.check(expected)?;
        *self = next;
        Ok(())
    }

    /// Zero moments, no steps taken: [`crate::Engine::reset_moments`].
    pub fn reset_moments(&mut self) {
        self.moments.reset();
    }

    /// One more step was taken by whoever has the newer values, which [`State::set`] takes up.
    pub fn count_step(&mut self) {
        self.moments.steps = self.moments.steps.saturating_add(1);
    }

    /// As [`crate::Engine::seal`].
    pub fn seal(&mut self) -> Vec<u8> {
        self.moments.seal()
    }

    /// As [`crate::Engine::unseal`].
    ///
    /// # Errors
    /// As there.
    pub fn unseal(&mut self, sealed: &[u8]) -> Result<(), StepError> {
        self.moments.unseal(sealed)
    }

    /// The parameters, flat.
    #[must_use]
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// Optimiser steps since the moments were zero.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.moments.steps
    }

    /// As [`crate::Engine::state_hash`] gives it.
    #[must_use]
    pub fn hash(&self) -> StateHash {
        state_hash(&self.params, &self.moments)
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts = [&self.params, &self.moments.first, &self.moments.second];
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 12 * self.params.len());
        bytes.extend_from_slice(&self.moments.steps.to_le_bytes());
        bytes.extend_from_slice(&(self.params.len() as u64).to_le_bytes());
        for part in parts {
            bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// Reads the canonical bytes of a state of `parameters` parameters.
    ///
    /// # Errors
    /// [`StepError::BadState`] when they are not as many as that takes.
    pub fn from_bytes(bytes: &[u8], parameters: usize) -> Result<Self, StepError> {
        let wrong = |what, expected, found| StepError::BadState { what, expected, found };
        let expected = HEAD_BYTES.saturating_add(parameters.saturating_mul(12));
        let whole = || wrong("all bytes", expected, bytes.len());
        let (steps, rest) = bytes.split_first_chunk::<8>().ok_or_else(whole)?;
        let (count, values) = rest.split_first_chunk::<8>().ok_or_else(whole)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).unwrap_or(usize::MAX);
        if count != parameters {
            return Err(wrong("parameters", parameters.saturating_mul(4), count.saturating_mul(4)));
        }
        if bytes.len() != expected {
            return Err(whole());
        }
        let mut values = values.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        let mut take = || values.by_ref().take(parameters).collect::<Vec<f32>>();
        let (params, first, second) = (take(), take(), take());
        let moments = Moments { first, second, steps: u64::from_le_bytes(*steps) };
        Ok(Self { params, moments })
    }

    /// Checks that it is of a model of `parameters` parameters, with moments that can be sealed.
    pub(crate) fn check(&self, parameters: usize) -> Result<(), StepError> {
        let found = self.params.len();
        if found == parameters {
            return self.moments.check();
        }
        let bytes = |count: usize| 4 * count;
        let (expected, found) = (bytes(parameters), bytes(found));
        Err(StepError::BadState { what: "parameters", expected, found })
    }
}

/// AdamW's moments and how many steps made them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    pub(crate) steps: u64,
}

/// Most that a first moment and the root of a second may be: twice as much can be sealed.
const MOMENT_MAX: f32 = (1_u64 << 60) as f32;

impl Moments {
    /// Checks that they are what steps leave behind.
    fn check(&self) -> Result<(), StepError> {
        let first = self.first.iter().map(|m| (*m, -MOMENT_MAX..=MOMENT_MAX));
        let second = self.second.iter().map(|v| (*v, 0.0..=MOMENT_MAX * MOMENT_MAX));
        match first.chain(second).enumerate().find(|(_, (found, range))| !range.contains(found)) {
            Some((element, (found, _))) => Err(StepError::BadMoment { element, found }),
            None => Ok(()),
        }
    }

    pub(crate) fn new(parameters: usize) -> Self {
        Self { first: vec![0.0; parameters], second: vec![0.0; parameters], steps: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
        self.steps = 0;
    }

    pub(crate) fn seal(&mut self) -> Vec<u8> {
        let moments = seal_moments(&mut self.first, &mut self.second).expect(
            "steps refuse gradients of 1e15 and more, and unsealing takes only what sealing gives",
        );
        let mut sealed = Vec::with_capacity(8 + moments.len());
        sealed.extend_from_slice(&self.steps.to_le_bytes());
        sealed.extend_from_slice(&moments);
        sealed
    }

    pub(crate) fn unseal(&mut self, sealed: &[u8]) -> Result<(), StepError> {
        let outcome = match sealed.split_first_chunk::<8>() {
            None => Err(SealFault::NoCount),
            Some((steps, moments)) => {
                self.steps = u64::from_le_bytes(*steps);
                unseal_moments(moments, &mut self.first, &mut self.second)
                    .map_err(SealFault::Moments)
            }
        };
        outcome.map_err(|reason| {
            self.reset();
            let (parameters, found) = (self.first.len(), sealed.len());
            StepError::BadSeal { parameters, found, reason }
        })
    }
}

/// The hash of the whole state: 16 segments of equal length (the last ones shorter), each over its
/// part of the parameters, then of the first moments, then of the second.
pub(crate) fn state_hash(params: &[f32], moments: &Moments) -> StateHash {
    let mut bytes = Vec::with_capacity(4 * PIECE);
    let segments: [Hash; STATE_SEGMENTS] = core::array::from_fn(|index| {
        let range = segment(params.len(), index);
        let mut leaves = Vec::new();
        for buffer in [params, &moments.first, &moments.second] {
            for piece in buffer[range.clone()].chunks(PIECE) {
                bytes.clear();
                bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
                leaves.push(Hash::of(&bytes));
            }
        }
        let leaves: Vec<&[u8]> = leaves.iter().map(|leaf| leaf.0.as_slice()).collect();
        Hash::of_parts("suanli 2026 state segment", &leaves)
    });
    let (elements, steps) = (params.len() as u64, moments.steps);
    let (elements, steps) = (elements.to_le_bytes(), steps.to_le_bytes());
    let mut parts: Vec<&[u8]> = vec![&elements, &steps];
    parts.extend(segments.iter().map(|segment| segment.0.as_slice()));
    StateHash { root: Hash::of_parts("suanli 2026 state", &parts), segments }
}

fn segment(elements: usize, index: usize) -> Range<usize> {
    let width = elements.div_ceil(STATE_SEGMENTS);
    (index * width).min(elements)..((index + 1) * width).min(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_element_changes_the_root_and_its_own_segment_only() {
        let mut params = vec![0.5_f32; 1000];
        let mut moments = Moments::new(1000);
        let before = state_hash(&params, &moments);
        params[999] = 0.25;
        let after = state_hash(&params, &moments);
        assert_ne!(before.root, after.root);
        assert_eq!(before.segments[..15], after.segments[..15]);
        assert_ne!(before.segments[15], after.segments[15]);
        moments.second[0] = 1.0;
        assert_ne!(state_hash(&params, &moments).segments[0], after.segments[0]);
        moments.steps = 1;
        moments.second[0] = 0.0;
        assert_ne!(state_hash(&params, &moments).root, after.root);
    }

    #[test]
    fn a_state_comes_back_from_its_bytes_and_wrong_lengths_are_named() {
        let moments = Moments { first: vec![0.5, 1.0], second: vec![2.0, 3.0], steps: 7 };
        let state = State { params: vec![-1.0, f32::MIN_POSITIVE], moments };
        let bytes = state.to_bytes();
        assert_eq!(State::from_bytes(&bytes, 2).unwrap(), state);
        assert_eq!(State::from_bytes(&bytes, 2).unwrap().hash(), state.hash());
        for (bytes, parameters) in [(&bytes[..39], 2), (&bytes[..9], 2), (&bytes[..], 3), (&[], 0)]
        {
            let error = State::from_bytes(bytes, parameters).unwrap_err();
            assert!(matches!(error, StepError::BadState { .. }), "{error}");
        }
    }

    /// Fuzzing found it: a made-up state was taken up, and sealing it panicked.
    #[test]
    fn moments_that_no_training_leaves_behind_are_refused() {
        let of = |first: f32, second: f32| {
            let moments = Moments { first: vec![0.0, first], second: vec![second, 0.0], steps: 1 };
            State { params: vec![0.0; 2], moments }
        };
        assert_eq!(of(-1e18, 1e36).check(2), Ok(()));
        assert_eq!(of(-1e18, 1e36).moments.clone().seal().len(), 8 + 8 + 4);
        for (element, first, second) in [(1, f32::NAN, 0.0), (1, 1e19, 0.0), (2, 0.0, -1.0)] {
            let error = of(first, second).check(2).unwrap_err();
            assert!(matches!(error, StepError::BadMoment { element: at, .. } if at == element));
        }
        assert!(of(0.0, f32::INFINITY).check(2).is_err());
    }

    #[test]
    fn sealing_rounds_in_place_and_unsealing_gives_exactly_that_with_its_count() {
        let mut moments = Moments::new(200);
        for i in 0..200 {
            moments.first[i] = (i as f32 - 90.0) * 1.37e-4;
            moments.second[i] = (i as f32) * 3.1e-7;
        }
        moments.steps = 12;
        let sealed = moments.seal();
        let mut other = Moments::new(200);
        other.unseal(&sealed).unwrap();
        assert_eq!(
            (&other.first, &other.second, other.steps),
            (&moments.first, &moments.second, 12)
        );
        assert_eq!(other.seal(), sealed);
        assert!(other.unseal(&sealed[..sealed.len() - 1]).is_err());
        assert_eq!((other.steps, other.first[0]), (0, 0.0));
        assert!(matches!(
            other.unseal(&[1, 2]),
            Err(StepError::BadSeal { reason: SealFault::NoCount, .. })
        ));
    }
}
