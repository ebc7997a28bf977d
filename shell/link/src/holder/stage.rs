//! Staging areas: where chunks arrive before they become a version or a contribution.

use super::{HolderLimits, Snapshot, State};
use bytes::Bytes;
use std::collections::BTreeMap;
use suanli_base::Hash;
use suanli_rdpa::{ChunkSet, Code, Placement, RegionName, StageInfo, Staging};

#[derive(Debug)]
pub(super) struct Staged {
    info: StageInfo,
    books: Staging,
    chunks: BTreeMap<u32, Bytes>,
}

impl State {
    pub(super) fn open_stage(
        &mut self,
        name: &RegionName,
        info: StageInfo,
        limits: &HolderLimits,
    ) -> Result<ChunkSet, Code> {
        match self.stages.get(name) {
            Some(staged) if staged.info == info => return Ok(staged.books.placed().clone()),
            // Another content under the same name: the last who opened it is meant.
            Some(_) => {
                self.stages.remove(name);
            }
            None => {}
        }
        let held: u64 = self.stages.values().map(|staged| staged.info.shape.bytes).sum();
        if self.stages.len() >= limits.stages_max {
            return Err(Code::Busy);
        }
        if held.saturating_add(info.shape.bytes) > limits.staged_bytes_max {
            return Err(Code::TooLarge);
        }
        let books = Staging::new(info.shape, info.root).map_err(|_| Code::TooLarge)?;
        let placed = books.placed().clone();
        self.stages.insert(name.clone(), Staged { info, books, chunks: BTreeMap::new() });
        Ok(placed)
    }
}

impl Staged {
    pub(super) fn place(
        &mut self,
        chunk: u32,
        hash: Hash,
        bytes: Bytes,
    ) -> Result<Placement, Code> {
        let placement = self.books.place(chunk, hash).map_err(|_| Code::OutOfRange)?;
        if placement == Placement::Placed {
            self.chunks.insert(chunk, bytes);
        }
        Ok(placement)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.books.complete(1).is_ok()
    }

    pub(super) fn snapshot(&self, version: u64) -> Result<Snapshot, Code> {
        let info = self.books.complete(version).map_err(|_| Code::NotComplete)?;
        let chunks = self.chunks.values().cloned().collect();
        Snapshot::of_chunks(version, info.shape, info.chunks, chunks).map_err(|_| Code::NotComplete)
    }

    pub(super) fn into_chunks(self) -> Vec<Bytes> {
        self.chunks.into_values().collect()
    }
}
