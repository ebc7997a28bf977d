//! Which chunks have arrived, which are under way at whom, and which nobody was asked for.
//!
//! Not for: sessions and rates. Invariants: a chunk is under way at two sources at most; each chunk
//! arrives once; every step costs the logarithm of the chunks under way, never a walk over all.

use super::SourceId;
use crate::ChunkSet;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Plan {
    have: ChunkSet,
    /// Wanted and not arrived.
    left: u32,
    /// From here to the end nobody was ever asked.
    next: u32,
    end: u32,
    /// Asked for once and given back.
    returned: BTreeSet<u32>,
    under_way: BTreeMap<u32, Carriers>,
}

/// Who was asked for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carriers {
    pub(super) first: SourceId,
    pub(super) second: Option<SourceId>,
    /// It is being written to its place right now: nobody else may.
    landing: bool,
}

impl Carriers {
    /// The other one, where there are two.
    pub(super) fn beside(&self, source: SourceId) -> Option<SourceId> {
        if self.first == source { self.second } else { Some(self.first) }
    }
}

impl Plan {
    /// What of `wanted` is not in `have`.
    pub(super) fn new(have: ChunkSet, wanted: Range<u32>) -> Self {
        let (next, end) = (wanted.start, wanted.end.min(have.bound()));
        let missing = (next..end).filter(|chunk| !have.contains(*chunk)).count();
        let left = u32::try_from(missing).expect("no more than there are indices");
        let (returned, under_way) = (BTreeSet::new(), BTreeMap::new());
        Self { have, left, next, end, returned, under_way }
    }

    pub(super) const fn have(&self) -> &ChunkSet {
        &self.have
    }

    pub(super) const fn is_done(&self) -> bool {
        self.left == 0
    }

    /// How many wanted chunks nobody is asked for at the moment.
    pub(super) fn unassigned(&self) -> usize {
        self.left as usize - self.under_way.len()
    }

    /// Gives a chunk that nobody is asked for to `source`: what came back first, then in order.
    pub(super) fn take(&mut self, source: SourceId) -> Option<u32> {
        let chunk = self.returned.pop_first().or_else(|| self.advance())?;
        let carriers = Carriers { first: source, second: None, landing: false };
        self.under_way.insert(chunk, carriers);
        Some(chunk)
    }

    fn advance(&mut self) -> Option<u32> {
        while self.next < self.end {
            self.next += 1;
            if !self.have.contains(self.next - 1) {
                return Some(self.next - 1);
            }
        }
        None
    }

    /// Asks `source` too for a chunk that is under way elsewhere.
    pub(super) fn double(&mut self, chunk: u32, source: SourceId) {
        let carriers = self.under_way.get_mut(&chunk).expect("a chunk under way is doubled");
        assert!(carriers.second.is_none() && !carriers.landing, "twice under way at most");
        carriers.second = Some(source);
    }

    /// A chunk has come; none when it is not waited for, else who was asked for it.
    pub(super) fn arrived(&mut self, chunk: u32) -> Option<Carriers> {
        let carriers = self.under_way.remove(&chunk)?;
        assert!(self.have.insert(chunk), "what has arrived is not under way");
        self.left -= 1;
        Some(carriers)
    }

    /// `source` will not bring the chunk. Returns who else was asked for it; with nobody else it
    /// waits to be given to another.
    pub(super) fn release(&mut self, chunk: u32, source: SourceId) -> Option<SourceId> {
        let carriers = self.under_way.get_mut(&chunk)?;
        match carriers.beside(source) {
            Some(other) => {
                *carriers = Carriers { first: other, second: None, landing: false };
                Some(other)
            }
            None => {
                self.under_way.remove(&chunk);
                self.returned.insert(chunk);
                None
            }
        }
    }

    /// Whether `source` alone is to bring the chunk; from then on it is left to it.
    pub(super) fn claim(&mut self, chunk: u32, source: SourceId) -> bool {
        let Some(carriers) = self.under_way.get_mut(&chunk) else { return false };
        let alone = carriers.first == source && carriers.second.is_none() && !carriers.landing;
        carriers.landing |= alone;
        alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = SourceId(1);
    const B: SourceId = SourceId(2);

    #[test]
    fn what_is_there_is_skipped_and_what_came_back_goes_first() {
        let mut have = ChunkSet::empty(8);
        have.insert(3);
        let mut plan = Plan::new(have, 2..20);
        assert_eq!(plan.unassigned(), 5);
        assert_eq!((plan.take(A), plan.take(A), plan.take(B)), (Some(2), Some(4), Some(5)));
        assert_eq!(plan.release(4, A), None);
        assert_eq!(plan.unassigned(), 3);
        assert_eq!((plan.take(B), plan.take(B)), (Some(4), Some(6)));
        assert_eq!((plan.take(B), plan.take(B)), (Some(7), None));
        for chunk in [2, 4, 5, 6, 7] {
            assert!(!plan.is_done() && plan.arrived(chunk).is_some());
            assert_eq!(plan.arrived(chunk), None);
        }
        assert!(plan.is_done());
    }

    #[test]
    fn a_chunk_asked_of_two_waits_for_the_other_when_one_is_lost() {
        let mut plan = Plan::new(ChunkSet::empty(1), 0..1);
        plan.take(A);
        plan.double(0, B);
        assert!(!plan.claim(0, A) && !plan.claim(0, B), "two would write to one place");
        assert_eq!(plan.release(0, A), Some(B));
        assert!(!plan.claim(0, A) && plan.claim(0, B) && !plan.claim(0, B));
        assert_eq!(plan.arrived(0).unwrap().beside(B), None);
    }
}
