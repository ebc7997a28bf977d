//! What a replica signs when it hands in (DESIGN 5.7): enough to replay any of its steps later.

use serde::{Deserialize, Serialize};
use suanli_base::{CityId, Hash, JobId, LeaseId, Tokens};
use suanli_identity::{Domain, Kind, SecretKey, Signed, SignedError};

/// Format of [`Contribution`].
pub const CONTRIBUTION_FORMAT: u16 = 1;

/// A root over a replica's state, and the roots of its 16 equal segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRoot {
    /// Over the segments.
    pub root: Hash,
    /// Of each sixteenth.
    pub segments: [Hash; 16],
}

/// One replica's work on one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// [`CONTRIBUTION_FORMAT`].
    pub format: u16,
    /// Which job.
    pub job: JobId,
    /// Which lease.
    pub lease: LeaseId,
    /// Merkle root of the parameters it started from.
    pub base_root: Hash,
    /// First sample position.
    pub start: u64,
    /// Samples it trained on: a prefix of the lease's.
    pub samples: u64,
    /// Which program trained.
    pub engine_build: String,
    /// Which numeric class it belongs to: equal classes give equal bits.
    pub numeric_class: String,
    /// Steps done.
    pub steps: u32,
    /// Tokens of those steps.
    pub tokens: Tokens,
    /// Parameters and sealed moments before the first step.
    pub state_before: StateRoot,
    /// The same after the last, moments sealed.
    pub state_after: StateRoot,
    /// Merkle root of base minus result, before the codec.
    pub delta_root: Hash,
    /// Merkle root of the error feedback before.
    pub residual_before: Hash,
    /// The same after.
    pub residual_after: Hash,
    /// Merkle root over the payload's chunks.
    pub payload_root: Hash,
    /// Hash of the sealed private state (moments and residual) that the next lease may name.
    pub private_after: Hash,
    /// Makes the commitment unguessable until it is opened.
    pub salt: [u8; 16],
}

impl Contribution {
    /// Signs for one city.
    #[must_use]
    pub fn sign(&self, key: &SecretKey, city: CityId) -> Signed {
        Signed::seal(key, &domain(city), self)
    }

    /// Checks the signature and decodes.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn open(signed: &Signed, city: CityId) -> Result<Self, SignedError> {
        let contribution: Self = signed.open(&domain(city))?;
        if contribution.format != CONTRIBUTION_FORMAT {
            let (signer, found) = (signed.signer, signed.bytes.len());
            return Err(SignedError::Malformed { signer, kind: Kind::Contribution, found });
        }
        Ok(contribution)
    }
}

fn domain(city: CityId) -> Domain {
    Domain::lasting(Kind::Contribution, CONTRIBUTION_FORMAT, city)
}
