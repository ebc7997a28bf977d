//! Handles we have given out: random, never given twice, of this session only.

use crate::{RegionName, Shape, StageInfo};
use std::collections::{BTreeMap, VecDeque};
use suanli_base::{Hash, Random};

/// What a handle stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading one version.
    Read { version: u64, shape: Shape, root: Hash },
    /// Staging.
    Stage(StageInfo),
    /// So many 64-bit cells.
    Cells(u32),
}

/// The table of handles. 48 bits are random, the low 16 count the grants, so that a handle that was
/// taken back does not come to stand for something else.
#[derive(Debug)]
pub(super) struct Grants {
    entries: BTreeMap<u64, (RegionName, Purpose)>,
    order: VecDeque<u64>,
    generation: u16,
    random: Random,
}

impl Grants {
    pub(super) const fn new(random: Random) -> Self {
        Self { entries: BTreeMap::new(), order: VecDeque::new(), generation: 0, random }
    }

    /// A handle for this purpose: the one given before for the very same, or a new one. The oldest
    /// makes room.
    pub(super) fn grant(&mut self, region: RegionName, purpose: Purpose, max: usize) -> u64 {
        let same = |(r, p): &(RegionName, Purpose)| *r == region && *p == purpose;
        if let Some((handle, _)) = self.entries.iter().find(|(_, entry)| same(entry)) {
            return *handle;
        }
        while self.order.len() >= max.max(1) {
            let oldest = self.order.pop_front().expect("at least one entry");
            self.entries.remove(&oldest);
        }
        let handle = self.draw();
        self.entries.insert(handle, (region, purpose));
        self.order.push_back(handle);
        handle
    }

    fn draw(&mut self) -> u64 {
        loop {
            self.generation = self.generation.wrapping_add(1);
            let handle = self.random.next_u64() & !0xFFFF | u64::from(self.generation);
            // 0 means "no handle" in a header.
            if handle != 0 && !self.entries.contains_key(&handle) {
                return handle;
            }
        }
    }

    pub(super) fn find(&self, handle: u64) -> Option<&(RegionName, Purpose)> {
        self.entries.get(&handle)
    }

    pub(super) fn revoke(&mut self, is_over: impl Fn(&RegionName) -> bool) {
        self.entries.retain(|_, (name, _)| !is_over(name));
        let entries = &self.entries;
        self.order.retain(|handle| entries.contains_key(handle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(version: u64) -> Purpose {
        Purpose::Read { version, shape: Shape { bytes: 1, chunk_bytes: 1 }, root: Hash::ZERO }
    }

    #[test]
    fn the_same_purpose_has_the_same_handle_until_it_is_taken_back() {
        let mut grants = Grants::new(Random::new(1));
        let name = RegionName::new("a/b").unwrap();
        let first = grants.grant(name.clone(), purpose(1), 2);
        assert_eq!(grants.grant(name.clone(), purpose(1), 2), first);
        grants.revoke(|region| *region == name);
        assert!(grants.find(first).is_none());
        assert_ne!(grants.grant(name, purpose(1), 2), first);
    }

    #[test]
    fn the_oldest_handle_makes_room_for_a_new_one() {
        let mut grants = Grants::new(Random::new(1));
        let name = RegionName::new("a").unwrap();
        let handles: Vec<u64> =
            (0..3).map(|version| grants.grant(name.clone(), purpose(version), 2)).collect();
        assert!(grants.find(handles[0]).is_none());
        assert!(grants.find(handles[1]).is_some() && grants.find(handles[2]).is_some());
    }
}
