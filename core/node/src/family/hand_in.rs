//! Bringing a packed contribution to the city: upload of its chunks, then the signed statement.

use super::{FamilyNode, Pending, Work};
use crate::name::region_of_lease;
use bytes::Bytes;
use suanli_base::{CityId, Hash, JobId, LeaseId};
use suanli_bus::worker::Input as Happened;
use suanli_identity::{SecretKey, Signed};
use suanli_rdpa::{Event, StageInfo, StageKind, Upload, UploadStep};

/// A payload on its way.
#[derive(Debug)]
pub(super) struct HandIn {
    pending: Pending,
    signed: Signed,
    upload: Option<Upload>,
}

impl HandIn {
    pub(super) fn new(pending: Pending, key: &SecretKey, city: CityId) -> Self {
        let signed = pending.contribution.sign(key, city);
        Self { pending, signed, upload: None }
    }

    pub(super) const fn lease(&self) -> LeaseId {
        self.pending.contribution.lease
    }

    pub(super) const fn job(&self) -> JobId {
        self.pending.contribution.job
    }

    pub(super) const fn private_after(&self) -> Hash {
        self.pending.contribution.private_after
    }

    pub(super) const fn signed(&self) -> &Signed {
        &self.signed
    }
}

impl FamilyNode {
    /// Begins the upload anew; the city says what it has.
    pub(super) fn upload(&mut self, lease: LeaseId) {
        let now = self.now;
        let (Some(hand_in), Some(session)) = (self.hand_in.as_mut(), self.session.as_mut()) else {
            return;
        };
        if hand_in.lease() != lease {
            return;
        }
        if let Some(mut before) = hand_in.upload.take() {
            before.stop(session);
        }
        let contribution = &hand_in.pending.contribution;
        let stage = StageInfo {
            kind: StageKind::Accumulate,
            shape: hand_in.pending.shape,
            root: contribution.payload_root,
        };
        let region = region_of_lease(contribution.job, lease);
        let mut upload = Upload::new(region, stage, self.limits.bulk_window_bytes);
        upload.start(now, session);
        hand_in.upload = Some(upload);
        self.upload_steps();
    }

    /// Offers an event to the upload.
    pub(super) fn upload_event(&mut self, event: &Event) -> bool {
        let now = self.now;
        let (Some(hand_in), Some(session)) = (self.hand_in.as_mut(), self.session.as_mut()) else {
            return false;
        };
        let Some(upload) = hand_in.upload.as_mut() else { return false };
        let taken = upload.handle(now, session, event);
        if taken {
            self.upload_steps();
        }
        taken
    }

    pub(super) fn pending_read(&mut self, lease: LeaseId, chunk: u32, bytes: Option<Bytes>) {
        let now = self.now;
        let (Some(hand_in), Some(session)) = (self.hand_in.as_mut(), self.session.as_mut()) else {
            return;
        };
        if hand_in.lease() != lease {
            return;
        }
        match (bytes, hand_in.upload.as_mut()) {
            (Some(bytes), Some(upload)) => {
                upload.provide(now, session, chunk, bytes);
                self.upload_steps();
            }
            // Our own payload cannot be read back: the lease is void, the city leases it anew.
            (None, _) => self.happened(Happened::Refused { lease, incomplete: false }),
            _ => {}
        }
    }

    fn upload_steps(&mut self) {
        while let Some(hand_in) = self.hand_in.as_mut() {
            let (lease, shape) = (hand_in.lease(), hand_in.pending.shape);
            let Some(next) = hand_in.upload.as_mut().and_then(Upload::poll) else { return };
            match next {
                UploadStep::NeedChunk(chunk) => {
                    let length = shape.chunk_len(chunk).unwrap_or(0);
                    let offset = u64::from(chunk) * u64::from(shape.chunk_bytes);
                    self.work(Work::ReadPending { lease, chunk, offset, length });
                }
                UploadStep::Done => {
                    hand_in.upload = None;
                    self.happened(Happened::Uploaded { lease });
                }
                UploadStep::Failed(_) => {
                    hand_in.upload = None;
                    self.happened(Happened::UploadFailed);
                }
                _ => {}
            }
        }
    }
}
