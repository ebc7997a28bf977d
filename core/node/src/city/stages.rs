//! The books of a city's staging areas: which chunks of what have arrived, and who brings them.
//!
//! Not for: bytes, which the host keeps, and names of regions.
//!
//! Invariant: an area has one announcement from its beginning to its end, shape and root; whoever
//! comes with another one is told so, for chunks of one cut have no place in another. Uploads and
//! contributions have places of their own: no trainer keeps a contribution out.

use super::Stage;
use std::collections::BTreeMap;
use suanli_base::{Duration, Hash, LeaseId, NodeId, Time};
use suanli_rdpa::{
    ChunkSet, Code, Incomplete, NoSuchChunk, Placement, RegionError, RegionInfo, Shape, StageInfo,
    Staging,
};

/// Contributions staged at once, one a lease.
const CONTRIBUTIONS_MAX: usize = 4096;
/// Pieces of content on their way at once; the books of one take up to 3.2 MB.
const UPLOADS_MAX: usize = 64;
/// The same of one trainer.
const UPLOADS_PER_TRAINER_MAX: usize = 8;
/// An upload that nobody has touched for this long gives way to one that finds no place.
const UPLOAD_IDLE_AFTER: Duration = Duration(10 * 60_000);

#[derive(Debug, Default)]
pub(super) struct Stages {
    areas: BTreeMap<Stage, Area>,
}

#[derive(Debug)]
struct Area {
    owner: NodeId,
    books: Staging,
    touched: Time,
    /// The host is making it permanent.
    storing: bool,
}

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Contributions,
    Uploads,
    UploadsOf(NodeId),
}

impl Bound {
    const fn max(self) -> usize {
        match self {
            Self::Contributions => CONTRIBUTIONS_MAX,
            Self::Uploads => UPLOADS_MAX,
            Self::UploadsOf(_) => UPLOADS_PER_TRAINER_MAX,
        }
    }

    fn counts(self, stage: &Stage) -> bool {
        match (self, stage) {
            (Self::Contributions, Stage::Lease(_)) | (Self::Uploads, Stage::Content { .. }) => true,
            (Self::UploadsOf(one), Stage::Content { by, .. }) => one == *by,
            _ => false,
        }
    }
}

impl core::fmt::Display for Bound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Contributions => "contributions",
            Self::Uploads => "uploads",
            Self::UploadsOf(_) => "uploads of yours",
        })
    }
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
    #[error("{max} {bound} are on their way; come again when one of them is done")]
    Full { bound: Bound, max: usize },
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
            Self::Full { .. } => Code::Busy,
            Self::Shape(_) | Self::Chunk(_) => Code::OutOfRange,
            Self::Incomplete(_) => Code::NotComplete,
        }
    }
}

impl Stages {
    /// Opens an area, or goes on with it: which chunks are in place. A contribution that another
    /// one of its lease takes the place of is to be taken away with [`Stages::close`] before, and
    /// what [`Stages::in_the_way`] names too.
    pub(super) fn open(
        &mut self,
        now: Time,
        stage: Stage,
        owner: NodeId,
        info: &StageInfo,
    ) -> Result<ChunkSet, Refused> {
        if let Some(area) = self.areas.get_mut(&stage) {
            area.holds(info)?;
            area.touched = now;
            return Ok(area.books.placed().clone());
        }
        let books = Staging::new(info.shape, info.root)?;
        if let Some(bound) = self.full(stage) {
            return Err(Refused::Full { bound, max: bound.max() });
        }
        let placed = books.placed().clone();
        self.areas.insert(stage, Area { owner, books, touched: now, storing: false });
        Ok(placed)
    }

    /// The bound that leaves no place for a new area, if one does.
    fn full(&self, stage: Stage) -> Option<Bound> {
        let bounds = match stage {
            Stage::Lease(_) => [Bound::Contributions; 2],
            Stage::Content { by, .. } => [Bound::UploadsOf(by), Bound::Uploads],
        };
        let held = |bound: Bound| self.areas.keys().filter(|at| bound.counts(at)).count();
        bounds.into_iter().find(|bound| held(*bound) >= bound.max())
    }

    /// The upload that makes place for a new area: the one untouched for longest of those that the
    /// full bound counts, if that is long enough.
    pub(super) fn in_the_way(&self, now: Time, stage: Stage) -> Option<Stage> {
        let bound = self.full(stage).filter(|_| !self.areas.contains_key(&stage))?;
        let idle = |at: &Stage, area: &Area| {
            let long = now.since(area.touched) >= UPLOAD_IDLE_AFTER;
            matches!(at, Stage::Content { .. }) && long && !area.storing && bound.counts(at)
        };
        let areas = self.areas.iter().filter(|(at, area)| idle(at, area));
        areas.min_by_key(|(_, area)| area.touched).map(|(at, _)| *at)
    }

    /// Whether another contribution than this is staged for the lease.
    pub(super) fn is_other(&self, stage: Stage, owner: NodeId, root: Hash) -> bool {
        let area = self.areas.get(&stage);
        area.is_some_and(|area| area.owner != owner || area.books.announced() != root)
    }

    /// Books a chunk.
    pub(super) fn place(
        &mut self,
        now: Time,
        stage: Stage,
        owner: NodeId,
        info: &StageInfo,
        (chunk, hash): (u32, Hash),
    ) -> Result<Placement, Refused> {
        let area = self.areas.get_mut(&stage).filter(|area| area.owner == owner);
        let area = area.ok_or(Refused::Late)?;
        area.holds(info)?;
        area.touched = now;
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

    /// The contributions to leases that are over.
    pub(super) fn of_ended(&self, is_open: impl Fn(LeaseId) -> bool) -> Vec<Stage> {
        let ended = |stage: &&Stage| matches!(stage, Stage::Lease(lease) if !is_open(*lease));
        self.areas.keys().filter(ended).copied().collect()
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
