//! What members write: contributions to their leases, content that trainers bring.

use super::stages::Refused;
use super::{CityNode, ConnId, Stage, Work, probe};
use crate::name::{JobRegion, Name};
use crate::shape;
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{Hash, JobId, NodeId};
use suanli_identity::Role;
use suanli_rdpa::{
    ChunkSet, Code, Level, Placement, RegionInfo, RegionName, Reply, ResponderToken, Shape,
    StageInfo, StageKind,
};

/// The most bytes of one piece of content that a trainer may bring.
const CONTENT_BYTES_MAX: u64 = 64 << 30;
const OTHER_LENGTH: &str = "this content is here, of another length";

impl CityNode {
    pub(super) fn open_stage(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        peer: NodeId,
        role: Role,
        region: &RegionName,
        info: StageInfo,
    ) {
        let reply = match (Name::parse(region), info.kind, role) {
            (Some(Name::Job(job, JobRegion::Lease(lease))), StageKind::Accumulate, Role::Join) => {
                let record = self.state.leases.get(&lease).filter(|r| r.job == job);
                let own = record.is_some_and(|r| r.replica.contains(&peer));
                if !own || self.settling.contains(&lease) {
                    // Nothing to send: the hand-in that follows gets the verdict.
                    full(info.shape)
                } else if self.contribution_shape(job) != Some(info.shape) {
                    error(Code::OutOfRange, "expected the size of one encoded update of this job")
                } else {
                    let stage = Stage::Lease(lease);
                    if self.stages.is_other(stage, peer, info.root) {
                        // What was packed anew takes the place of what was lost.
                        self.unstage(stage);
                    }
                    self.open_area(stage, peer, &info)
                }
            }
            (Some(Name::Upload(root)), StageKind::Write, Role::Train | Role::Operate) => {
                if root != info.root || info.shape.bytes > CONTENT_BYTES_MAX {
                    error(Code::OutOfRange, "expected content of at most 64 GiB, named by its root")
                } else if let Some(kept) = self.content.get(&root) {
                    match kept.shape.bytes == info.shape.bytes {
                        true => full(info.shape),
                        false => error(Code::Conflict, OTHER_LENGTH),
                    }
                } else {
                    self.open_area(Stage::Content { by: peer, root }, peer, &info)
                }
            }
            (Some(Name::Probe), StageKind::Write, _) if probe::fits(info.shape) => {
                Reply::StageOpened(ChunkSet::empty(chunks_of(info.shape)))
            }
            _ => error(Code::Unauthorised, &format!("the role \"{role}\" may not write {region}")),
        };
        self.respond(id, token, reply);
    }

    fn open_area(&mut self, stage: Stage, owner: NodeId, info: &StageInfo) -> Reply {
        if let Some(idle) = self.stages.in_the_way(self.now, stage) {
            self.unstage(idle);
        }
        match self.stages.open(self.now, stage, owner, info) {
            Ok(placed) => Reply::StageOpened(placed),
            Err(refused) => refusal(&refused),
        }
    }

    /// The shape of every contribution to a job.
    fn contribution_shape(&self, job: JobId) -> Option<Shape> {
        let spec = &self.state.jobs.get(&job)?.spec;
        shape::of_parameters(spec.training.codec, spec.parameters)
    }

    pub(super) fn stage(
        &mut self,
        peer: NodeId,
        region: &RegionName,
        info: &StageInfo,
        (chunk, hash): (u32, Hash),
        bytes: Bytes,
    ) -> Reply {
        let stage = match Name::parse(region) {
            Some(Name::Job(_, JobRegion::Lease(lease))) => Stage::Lease(lease),
            Some(Name::Upload(root)) => Stage::Content { by: peer, root },
            Some(Name::Probe) => return placed(Placement::Placed),
            _ => return error(Code::NoSuchRegion, region.as_str()),
        };
        match self.stages.place(self.now, stage, peer, info, (chunk, hash)) {
            Ok(Placement::Placed) => {
                let offset = u64::from(chunk) * u64::from(info.shape.chunk_bytes);
                self.work(Work::Stage { stage, offset, bytes, total: info.shape.bytes });
                placed(Placement::Placed)
            }
            Ok(placement) => placed(placement),
            Err(refused) => refusal(&refused),
        }
    }

    pub(super) fn unstage(&mut self, stage: Stage) {
        if self.stages.close(stage) {
            self.work(Work::Unstage(stage));
        }
    }

    /// What was staged for a lease goes with it, however it ended.
    pub(super) fn unstage_ended(&mut self) {
        let leases = &self.state.leases;
        for stage in self.stages.of_ended(|lease| leases.contains_key(&lease)) {
            self.unstage(stage);
        }
    }

    pub(super) fn commit_content(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        peer: NodeId,
        region: &RegionName,
        info: &StageInfo,
        expected: u64,
    ) {
        let Some(Name::Upload(root)) = Name::parse(region) else {
            return self.refuse(id, token, Code::Unauthorised, "only content is committed by hand");
        };
        if let Some(kept) = self.content.get(&root) {
            let reply = match kept.shape.bytes == info.shape.bytes {
                true => Reply::Committed { version: 1 },
                false => error(Code::Conflict, OTHER_LENGTH),
            };
            return self.respond(id, token, reply);
        }
        if expected != 0 {
            return self.refuse(id, token, Code::Conflict, "content has version 0");
        }
        let stage = Stage::Content { by: peer, root };
        let info = match self.stages.whole(stage, info) {
            Ok(info) => info,
            Err(refused) => return self.respond(id, token, refusal(&refused)),
        };
        let waiting = self.storing.entry(root).or_default();
        waiting.push((id, token));
        if waiting.len() == 1 {
            self.stages.storing(stage);
            self.work(Work::Store { by: peer, info });
        }
    }

    /// The host has made content permanent, or could not.
    pub(super) fn stored(&mut self, root: Hash, info: RegionInfo, stored: bool) {
        let waiting = self.storing.remove(&root).unwrap_or_default();
        if stored {
            self.content.insert(root, Arc::new(info));
        }
        for other in self.stages.stored(root) {
            if stored {
                self.unstage(other);
            }
        }
        for (conn, token) in waiting {
            let reply = if stored {
                Reply::Committed { version: 1 }
            } else {
                error(Code::Unavailable, "the city could not write it to its disk")
            };
            self.respond(conn, token, reply);
        }
    }
}

fn chunks_of(shape: Shape) -> u32 {
    u32::try_from(shape.chunk_count()).expect("the session checks every announced shape")
}

/// All of it is here.
fn full(shape: Shape) -> Reply {
    let count = chunks_of(shape);
    let mut all = ChunkSet::empty(count);
    (0..count).for_each(|index| {
        all.insert(index);
    });
    Reply::StageOpened(all)
}

const fn placed(placement: Placement) -> Reply {
    Reply::Placed { placement, level: Level::Placed }
}

fn error(code: Code, text: &str) -> Reply {
    Reply::Error { code, text: text.to_owned() }
}

fn refusal(refused: &Refused) -> Reply {
    error(refused.code(), &refused.to_string())
}
