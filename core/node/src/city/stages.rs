//! The books of a city's staging areas: which chunks of what have arrived, and who brings them.
//!
//! Not for: bytes, which the host keeps, and names of regions.
//!
//! Invariant: an area has one announcement from its beginning to its end, shape and root; whoever
//! comes with another one is told so, for chunks of one cut have no place in another.

use super::Stage;
use std::collections::BTreeMap;
use suanli_base::{Hash, NodeId};
use suanli_rdpa::{
    ChunkSet, Code, Incomplete, NoSuchChunk, Placement, RegionError, RegionInfo, Shape, StageInfo,
    Staging,
};

/// Staging areas open at once.
const STAGES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Stages {
    areas: BTreeMap<Stage, Area>,
}

#[derive(Debug)]
struct Area {
    owner: NodeId,
    books: Staging,
    /// The host is making it permanent.
    storing: bool,
}

impl Area {
    fn holds(&self, info: &StageInfo) -> Result<(), Refused> {
        let (expected, found) = (self.books.shape(), info.shape);
        if self.books.announced() != info.root || expected != found {
            return Err(Refused::Conflict { expected, found });
        }
        Ok(())
    }
}

/// What a peer wants of a staging area cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("not open here, or no longer; open it again")]
    Late,
    #[error(
        "staged here are {} bytes in chunks of {}, you announce {} bytes in chunks of {}; go on with \
         what you announced first",
        expected.bytes, expected.chunk_bytes, found.bytes, found.chunk_bytes
    )]
    Conflict { expected: Shape, found: Shape },
    #[error("{STAGES_MAX} staging areas are open; come again later")]
    Full,
    #[error(transparent)]
    Shape(#[from] RegionError),
    #[error(transparent)]
    Chunk(#[from] NoSuchChunk),
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

impl Refused {
    pub(super) const fn code(&self) -> Code {
        match self {
            Self::Late => Code::Late,
            Self::Conflict { .. } => Code::Conflict,
            Self::Full => Code::Busy,
            Self::Shape(_) | Self::Chunk(_) => Code::OutOfRange,
            Self::Incomplete(_) => Code::NotComplete,
        }
    }
}

impl Stages {
    /// Opens an area, or goes on with it: which chunks are in place. A contribution that another
    /// one of its lease takes the place of is to be taken away with [`Stages::close`] before.
    pub(super) fn open(
        &mut self,
        stage: Stage,
        owner: NodeId,
        info: &StageInfo,
    ) -> Result<ChunkSet, Refused> {
        if let Some(area) = self.areas.get(&stage) {
            area.holds(info)?;
            return Ok(area.books.placed().clone());
        }
        let books = Staging::new(info.shape, info.root)?;
        if self.areas.len() >= STAGES_MAX {
            return Err(Refused::Full);
        }
        let placed = books.placed().clone();
        self.areas.insert(stage, Area { owner, books, storing: false });
        Ok(placed)
    }

    /// Whether another contribution than this is staged for the lease.
    pub(super) fn is_other(&self, stage: Stage, owner: NodeId, root: Hash) -> bool {
        let area = self.areas.get(&stage);
        area.is_some_and(|area| area.owner != owner || area.books.announced() != root)
    }

    /// Books a chunk.
    pub(super) fn place(
        &mut self,
        stage: Stage,
        owner: NodeId,
        info: &StageInfo,
        (chunk, hash): (u32, Hash),
    ) -> Result<Placement, Refused> {
        let area = self.areas.get_mut(&stage).filter(|area| area.owner == owner);
        let area = area.ok_or(Refused::Late)?;
        area.holds(info)?;
        Ok(area.books.place(chunk, hash)?)
    }

    /// What has arrived, if it is whole and what was announced.
    pub(super) fn complete(&self, stage: Stage) -> Result<RegionInfo, Refused> {
        let area = self.areas.get(&stage).ok_or(Refused::Late)?;
        Ok(area.books.complete(1)?)
    }

    /// The same, and it is what `info` announces.
    pub(super) fn whole(&self, stage: Stage, info: &StageInfo) -> Result<RegionInfo, Refused> {
        self.areas.get(&stage).ok_or(Refused::Late)?.holds(info)?;
        self.complete(stage)
    }

    /// The host begins to make it permanent.
    pub(super) fn storing(&mut self, stage: Stage) {
        if let Some(area) = self.areas.get_mut(&stage) {
            area.storing = true;
        }
    }

    /// Forgets an area; whether there was one.
    pub(super) fn close(&mut self, stage: Stage) -> bool {
        self.areas.remove(&stage).is_some()
    }

    /// The host is done with content of this root: the area it came from is over. What others have
    /// staged of it is given back: of no use any more, if it is stored now.
    pub(super) fn stored(&mut self, root: Hash) -> Vec<Stage> {
        let of_root =
            |stage: &Stage| matches!(stage, Stage::Content { root: other, .. } if *other == root);
        self.areas.retain(|stage, area| !(of_root(stage) && area.storing));
        self.areas.keys().filter(|stage| of_root(stage)).copied().collect()
    }
}
