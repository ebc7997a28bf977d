//! What we have opened at the peer, by handles of our own.
//!
//! The peer numbers what it opens as it likes, and may be a liar. Its numbers stay in here: a caller
//! holds one of ours, which stands for one thing for as long as the session lasts and is never given
//! again, so that no holder can have a READ of one region held against the hashes of another.

use crate::limits::Limits;
use crate::{Handle, RegionInfo, StageInfo, Violation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Hashes of opened regions that are kept (32 MiB); the oldest opened go first.
const OPENED_HASHES_MAX: usize = 1 << 20;

/// What our handles stand for, within a budget.
#[derive(Debug)]
pub(in crate::session) struct Opened {
    last: u64,
    /// Each with the peer's number; the oldest has the lowest of ours.
    entries: BTreeMap<Handle, (u64, Holding)>,
    /// Ours for each of the peer's that is not forgotten.
    ours: BTreeMap<u64, Handle>,
    hashes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) enum Holding {
    Region(Arc<RegionInfo>),
    Stage(StageInfo),
    Cells(u32),
}

impl Holding {
    fn hashes(&self) -> usize {
        match self {
            Self::Region(info) => info.chunks.len(),
            Self::Stage(_) | Self::Cells(_) => 1,
        }
    }
}

impl Opened {
    pub(super) const fn new() -> Self {
        Self { last: 0, entries: BTreeMap::new(), ours: BTreeMap::new(), hashes: 0 }
    }

    /// Our handle for what the peer calls `theirs`: the same again when the same is opened again.
    pub(super) fn insert(
        &mut self,
        theirs: u64,
        holding: Holding,
        limits: &Limits,
    ) -> Result<Handle, Violation> {
        if theirs == 0 {
            return Err(Violation::Unexpected { what: "something opened without a handle" });
        }
        if let Some(handle) = self.ours.get(&theirs) {
            let same = self.entries.get(handle).is_some_and(|(_, known)| *known == holding);
            return if same { Ok(*handle) } else { Err(Violation::Alias { handle: theirs }) };
        }
        self.last += 1;
        let handle = Handle(self.last);
        self.hashes += holding.hashes();
        self.ours.insert(theirs, handle);
        self.entries.insert(handle, (theirs, holding));
        while self.entries.len() > 1
            && (self.entries.len() > limits.handles_max || self.hashes > OPENED_HASHES_MAX)
        {
            let (_, (theirs, gone)) = self.entries.pop_first().expect("more than one entry");
            self.ours.remove(&theirs);
            self.hashes -= gone.hashes();
        }
        Ok(handle)
    }

    /// What a handle stands for, with the peer's number for it.
    pub(in crate::session) fn find(&self, handle: Handle) -> Option<(u64, &Holding)> {
        self.entries.get(&handle).map(|(theirs, holding)| (*theirs, holding))
    }
}
