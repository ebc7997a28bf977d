//! The job's one global sequence of training samples (DESIGN 5.8).
//!
//! Preparation stores the samples already shuffled, so epoch 0 is the stored order itself and a
//! lease is one contiguous, chunk-verified range. A later epoch visits whole groups of samples in
//! a keyed permuted order and the samples inside a group as stored: other neighbours every epoch,
//! yet a lease is still a handful of contiguous ranges.
//!
//! Not for: who gets which range (`bus`), and the shuffle at preparation (`store::data`).
//!
//! Invariants: a pure function of (samples, group, seed, position); each epoch visits each sample
//! exactly once. A last group that is shorter than the rest stays last in every epoch, because
//! that keeps a position's place computable without a table.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use suanli_base::{Permutation, mix64};

/// Samples that stay together in every epoch, unless a job says otherwise.
pub const GROUP_SAMPLES: u64 = 64;

/// A sequence was asked for over nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// There are no samples to put in order.
    #[error("expected at least one training sample, found none: prepare the data again")]
    NoSamples,
    /// A group holds no samples.
    #[error("expected a group of at least one sample, found 0: set the group's size to 1 or more")]
    EmptyGroup,
}

/// Which stored sample stands at which position of the endless training sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct SampleOrder {
    samples: u64,
    group: u64,
    seed: u64,
}

/// The wire and disk form of [`SampleOrder`]: what is read passes [`SampleOrder::new`].
#[derive(Serialize, Deserialize)]
struct Fields {
    samples: u64,
    group: u64,
    seed: u64,
}

impl TryFrom<Fields> for SampleOrder {
    type Error = OrderError;

    fn try_from(fields: Fields) -> Result<Self, OrderError> {
        Self::new(fields.samples, fields.group, fields.seed)
    }
}

impl From<SampleOrder> for Fields {
    fn from(order: SampleOrder) -> Self {
        Self { samples: order.samples, group: order.group, seed: order.seed }
    }
}

impl SampleOrder {
    /// The sequence over `samples` stored samples in groups of `group`, later epochs keyed by
    /// `seed`.
    ///
    /// # Errors
    /// When there are no samples or a group is empty.
    pub const fn new(samples: u64, group: u64, seed: u64) -> Result<Self, OrderError> {
        if samples == 0 {
            return Err(OrderError::NoSamples);
        }
        if group == 0 {
            return Err(OrderError::EmptyGroup);
        }
        Ok(Self { samples, group, seed })
    }

    /// Samples an epoch visits.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples that stay together.
    #[must_use]
    pub const fn group(&self) -> u64 {
        self.group
    }

    /// What keys the later epochs.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The epoch that `position` falls in.
    #[must_use]
    pub const fn epoch(&self, position: u64) -> u64 {
        position / self.samples
    }

    /// The stored sample at `position`.
    #[must_use]
    pub const fn stored(&self, position: u64) -> u64 {
        self.run_at(position).start
    }

    /// The stored ranges that `count` positions from `start` visit, in order, neighbours merged.
    ///
    /// Positions past `u64::MAX` do not exist and are left out. The answer holds at most one range
    /// a visited group and one more an epoch: bound `count` before asking on a stranger's behalf.
    #[must_use]
    pub fn ranges(&self, start: u64, count: u64) -> Vec<Range<u64>> {
        let end = start.saturating_add(count);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut position = start;
        while position < end {
            let mut run = self.run_at(position);
            run.end = run.end.min(run.start.saturating_add(end - position));
            position += run.end - run.start;
            match ranges.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => ranges.push(run),
            }
        }
        ranges
    }

    /// The stored samples from `position` to the end of its contiguous run.
    const fn run_at(&self, position: u64) -> Range<u64> {
        let (epoch, within) = (position / self.samples, position % self.samples);
        if epoch == 0 {
            return within..self.samples;
        }
        let whole_groups = self.samples / self.group;
        let slot = within / self.group;
        if slot >= whole_groups {
            return within..self.samples;
        }
        let key = mix64(self.seed ^ mix64(epoch));
        let first = Permutation::new(whole_groups, key).at(slot) * self.group;
        first + within % self.group..first + self.group
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(samples: u64, group: u64, seed: u64) -> SampleOrder {
        SampleOrder::new(samples, group, seed).unwrap()
    }

    #[test]
    fn epoch_zero_is_the_stored_order_and_one_range() {
        let order = order(1000, 64, 9);
        assert!((0..1000).all(|p| order.stored(p) == p));
        assert_eq!(order.ranges(10, 700), vec![10..710]);
    }

    #[test]
    fn later_epochs_differ_from_each_other_and_between_seeds() {
        let visit = |seed, epoch: u64| -> Vec<u64> {
            let order = order(1000, 64, seed);
            (epoch * 1000..(epoch + 1) * 1000).map(|p| order.stored(p)).collect()
        };
        assert_ne!(visit(9, 0), visit(9, 1));
        assert_ne!(visit(9, 1), visit(9, 2));
        assert_ne!(visit(9, 1), visit(10, 1));
    }

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        // Members and auditors of different builds must agree: these numbers are frozen.
        let order = order(10, 2, 1);
        let seen: Vec<u64> = (0..30).map(|p| order.stored(p)).collect();
        assert_eq!(seen, FROZEN);
    }

    #[rustfmt::skip]
    const FROZEN: [u64; 30] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
        8, 9, 6, 7, 0, 1, 2, 3, 4, 5,
        6, 7, 8, 9, 2, 3, 0, 1, 4, 5,
    ];

    #[test]
    fn the_last_position_of_all_is_reached_without_overflow() {
        let order = order(10, 4, 1);
        assert_eq!(order.ranges(u64::MAX - 1, 100).iter().map(|r| r.end - r.start).sum::<u64>(), 1);
    }

    #[test]
    fn an_order_over_nothing_is_refused_also_when_read() {
        assert_eq!(SampleOrder::new(0, 64, 1), Err(OrderError::NoSamples));
        assert_eq!(SampleOrder::new(1, 0, 1), Err(OrderError::EmptyGroup));
        let text = r#"{"samples":0,"group":64,"seed":1}"#;
        assert!(serde_json::from_str::<SampleOrder>(text).is_err());
    }

    proptest! {
        #[test]
        fn each_epoch_visits_each_sample_once(
            samples in 1_u64..600, group in 1_u64..100, seed: u64, epoch in 0_u64..5,
        ) {
            let order = order(samples, group, seed);
            let mut seen: Vec<u64> =
                (epoch * samples..(epoch + 1) * samples).map(|p| order.stored(p)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn ranges_list_what_stored_says_one_by_one(
            samples in 1_u64..300, group in 1_u64..50, seed: u64,
            start in 0_u64..1000, count in 0_u64..700,
        ) {
            let order = order(samples, group, seed);
            let ranges = order.ranges(start, count);
            let listed: Vec<u64> = ranges.iter().cloned().flatten().collect();
            let expected: Vec<u64> = (start..start + count).map(|p| order.stored(p)).collect();
            prop_assert_eq!(listed, expected);
            for pair in ranges.windows(2) {
                prop_assert_ne!(pair[0].end, pair[1].start, "neighbours are merged");
            }
        }

        #[test]
        fn a_group_stays_together_in_every_epoch(
            groups in 2_u64..20, group in 2_u64..20, seed: u64, epoch in 1_u64..4,
        ) {
            let samples = groups * group;
            let order = order(samples, group, seed);
            for slot in 0..groups {
                let first = order.stored(epoch * samples + slot * group);
                prop_assert_eq!(first % group, 0);
                for k in 0..group {
                    prop_assert_eq!(order.stored(epoch * samples + slot * group + k), first + k);
                }
            }
        }
    }
}
