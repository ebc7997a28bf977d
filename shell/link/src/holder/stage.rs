//! Staging areas: where chunks arrive before they become a version or a contribution.
//!
//! An area is what was announced (name, kind, shape, root) and by whom: another announcement, and
//! another peer, is another area, so nobody writes into or wipes what somebody else has begun, and
//! the chunks of an area have the lengths that were accounted. The same peer with the same
//! announcement finds its area again, in another session too.
//!
//! Bounds: areas and bytes, in all and of each peer. At a bound areas give way: first those that no
//! session has open, then those that nobody has touched for [`IDLE`], the longest untouched first.
//! What finds no room then is told BUSY. A contribution that is whole never gives way: it was
//! acknowledged, and waits for the application.

use super::{HolderLimits, Snapshot};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use suanli_base::{Hash, NodeId};
use suanli_rdpa::{ChunkSet, Code, Placement, RegionName, Shape, StageInfo, StageKind, Staging};

/// An area that a session has open gives way when it was not touched for this long: a request is
/// given up after as much, so nobody is waiting for it.
const IDLE: Duration = Duration::from_secs(300);
/// What a chunk costs beside its bytes: its hash and its place in the table.
const CHUNK_BOOKS_BYTES: u64 = 128;

/// What an area is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StageKey {
    pub(super) name: RegionName,
    pub(super) peer: NodeId,
    pub(super) info: StageInfo,
}

/// A connection of this holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(pub(super) u64);

/// All areas of a holder.
#[derive(Debug, Default)]
pub(super) struct Stages(BTreeMap<StageKey, Staged>);

#[derive(Debug)]
struct Staged {
    books: Staging,
    chunks: BTreeMap<u32, Bytes>,
    /// All is there, and what was announced.
    whole: bool,
    /// Sessions that have opened it.
    open_in: BTreeSet<SessionId>,
    touched: Instant,
}

/// What areas cost together.
#[derive(Clone, Copy, Default)]
struct Cost {
    areas: usize,
    bytes: u64,
}

impl Cost {
    /// What is accounted for an area, whatever has arrived of it.
    const fn of(shape: Shape) -> Self {
        let books = shape.chunk_count().saturating_mul(CHUNK_BOOKS_BYTES);
        Self { areas: 1, bytes: shape.bytes.saturating_add(books) }
    }

    const fn plus(self, other: Self) -> Self {
        Self { areas: self.areas + other.areas, bytes: self.bytes.saturating_add(other.bytes) }
    }

    const fn within(self, areas: usize, bytes: u64) -> bool {
        self.areas <= areas && self.bytes <= bytes
    }
}

impl Stages {
    /// Opens an area for a session, or finds the one that is there; which chunks are in place.
    pub(super) fn open(
        &mut self,
        key: StageKey,
        session: SessionId,
        limits: &HolderLimits,
        now: Instant,
    ) -> Result<ChunkSet, Code> {
        if !self.0.contains_key(&key) {
            let books = Staging::new(key.info.shape, key.info.root).map_err(|_| Code::TooLarge)?;
            self.make_room(&key, limits, now)?;
            let (chunks, open_in) = (BTreeMap::new(), BTreeSet::new());
            let new = Staged { books, chunks, whole: false, open_in, touched: now };
            self.0.insert(key.clone(), new);
        }
        let staged = self.0.get_mut(&key).expect("it was there or was made just now");
        staged.touched = now;
        staged.open_in.insert(session);
        Ok(staged.books.placed().clone())
    }

    /// Lets areas give way until there is room for one more, or says that there is none.
    fn make_room(
        &mut self,
        key: &StageKey,
        limits: &HolderLimits,
        now: Instant,
    ) -> Result<(), Code> {
        let new = Cost::of(key.info.shape);
        let most = limits.staged_bytes_max.min(limits.staged_bytes_per_peer_max);
        if new.bytes > most {
            return Err(Code::TooLarge);
        }
        loop {
            let of_peer = self.cost(|other| other.peer == key.peer).plus(new);
            let of_all = self.cost(|_| true).plus(new);
            let fair = of_peer.within(limits.stages_per_peer_max, limits.staged_bytes_per_peer_max);
            if fair && of_all.within(limits.stages_max, limits.staged_bytes_max) {
                return Ok(());
            }
            // A peer that has its share makes room among its own.
            let gone = self.next_to_go(|other| fair || other.peer == key.peer, now);
            self.0.remove(&gone.ok_or(Code::Busy)?);
        }
    }

    fn cost(&self, counts: impl Fn(&StageKey) -> bool) -> Cost {
        let counted = self.0.keys().filter(|key| counts(key));
        counted.fold(Cost::default(), |sum, key| sum.plus(Cost::of(key.info.shape)))
    }

    fn next_to_go(&self, may_go: impl Fn(&StageKey) -> bool, now: Instant) -> Option<StageKey> {
        let left = |(key, staged): &(&StageKey, &Staged)| {
            let promised = staged.whole && key.info.kind == StageKind::Accumulate;
            let idle = now.saturating_duration_since(staged.touched) >= IDLE;
            may_go(key) && !promised && (staged.open_in.is_empty() || idle)
        };
        let rank =
            |(_, staged): &(&StageKey, &Staged)| (!staged.open_in.is_empty(), staged.touched);
        self.0.iter().filter(left).min_by_key(rank).map(|(key, _)| key.clone())
    }

    /// Puts a chunk into its place.
    pub(super) fn place(
        &mut self,
        key: &StageKey,
        chunk: u32,
        hash: Hash,
        bytes: Bytes,
        now: Instant,
    ) -> Result<Placement, Code> {
        let staged = self.0.get_mut(key).ok_or(Code::BadHandle)?;
        if key.info.shape.chunk_len(chunk).map(|len| len as usize) != Some(bytes.len()) {
            return Err(Code::OutOfRange);
        }
        staged.touched = now;
        let placement = staged.books.place(chunk, hash).map_err(|_| Code::OutOfRange)?;
        if placement == Placement::Placed {
            staged.chunks.insert(chunk, bytes);
            let full = staged.books.placed().is_full();
            staged.whole = full && staged.books.complete(1).is_ok();
        }
        Ok(placement)
    }

    /// What was staged, as a version.
    pub(super) fn snapshot(&self, key: &StageKey, version: u64) -> Result<Snapshot, Code> {
        let staged = self.0.get(key).ok_or(Code::BadHandle)?;
        let info = staged.books.complete(version).map_err(|_| Code::NotComplete)?;
        let chunks = staged.chunks.values().cloned().collect();
        Snapshot::of_chunks(version, info.shape, info.chunks, chunks).map_err(|_| Code::NotComplete)
    }

    pub(super) fn remove(&mut self, key: &StageKey) {
        self.0.remove(key);
    }

    /// A whole contribution under a name, of the peer that comes first.
    pub(super) fn take_contribution(&mut self, name: &RegionName) -> Option<Vec<Bytes>> {
        let meant = |(key, staged): &(&StageKey, &Staged)| {
            key.name == *name && key.info.kind == StageKind::Accumulate && staged.whole
        };
        let key = self.0.iter().find(meant)?.0.clone();
        let staged = self.0.remove(&key)?;
        Some(staged.chunks.into_values().collect())
    }

    /// The names of the areas that a session has open.
    pub(super) fn open_in(&self, session: SessionId) -> Vec<RegionName> {
        let open = self.0.iter().filter(|(_, staged)| staged.open_in.contains(&session));
        open.map(|(key, _)| key.name.clone()).collect()
    }

    /// A session no longer has the areas open that `is_over` names. What it had begun stays for the
    /// next session of its peer, as long as there is room.
    pub(super) fn leave(&mut self, session: SessionId, is_over: impl Fn(&RegionName) -> bool) {
        for (key, staged) in &mut self.0 {
            if is_over(&key.name) {
                staged.open_in.remove(&session);
            }
        }
    }

    /// Areas, and bytes that they hold.
    pub(super) fn held(&self) -> (usize, u64) {
        let bytes_of =
            |staged: &Staged| staged.chunks.values().map(|c| c.len() as u64).sum::<u64>();
        (self.0.len(), self.0.values().map(bytes_of).sum())
    }
}

#[cfg(test)]
mod tests;
