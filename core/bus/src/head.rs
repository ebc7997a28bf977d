//! The city's chain of rounds: one signed head a version, each naming the one before.
//!
//! A member keeps the newest head it has verified and accepts nothing that does not follow from
//! it (DESIGN 4.5): a shorter or forked chain is refused whoever signed it.

use serde::{Deserialize, Serialize};
use suanli_base::{CityId, FragmentId, Hash, JobId, LeaseId, NodeId, Round, Time, Tokens};
use suanli_identity::{Domain, Kind, SecretKey, Signed, SignedError};

/// Format of [`Head`].
pub const HEAD_FORMAT: u16 = 1;

/// What a city says of one version of a job's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// [`HEAD_FORMAT`].
    pub format: u16,
    /// Whose chain.
    pub city: CityId,
    /// Which job.
    pub job: JobId,
    /// Which fragment; only 0 now.
    pub fragment: FragmentId,
    /// The version this head publishes.
    pub version: Round,
    /// Hash of the signed head before; zero at version 0.
    pub before: Hash,
    /// Merkle root of the parameters at this version.
    pub theta_root: Hash,
    /// Merkle root of the update that led here; zero at version 0.
    pub update_root: Hash,
    /// What was merged, in merge order.
    pub merged: Vec<Merged>,
    /// All tokens committed so far.
    pub tokens: Tokens,
    /// When (the city's clock; nothing is decided by it).
    pub time: Time,
}

/// One contribution in a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Its lease.
    pub lease: LeaseId,
    /// Whose.
    pub node: NodeId,
    /// Hash of the signed contribution.
    pub contribution: Hash,
    /// Merkle root over its payload.
    pub payload_root: Hash,
    /// Tokens it was trained on.
    pub tokens: Tokens,
    /// Its weight before normalising.
    pub weight: f32,
    /// The factor that clips it to the median norm.
    pub clip: f32,
}

/// A head was refused: the fault of the city that signed it, or of whoever sent it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The signature or the encoding.
    #[error("head refused: {0}")]
    Signed(#[from] SignedError),
    /// Signed by another key than the city's.
    #[error("head refused: expected the signature of city {}, found one of {}; this is another city", expected.short(), found.short())]
    WrongCity {
        /// The city whose chain this is.
        expected: CityId,
        /// Who signed.
        found: NodeId,
    },
    /// For another job, fragment or format.
    #[error("head refused: it is for another job, fragment or format than asked for")]
    WrongSubject,
    /// It does not follow from the newest verified head.
    #[error(
        "head refused: version {found} does not follow from the verified version {expected}: the chain is forked or shorter than what this node saw; keep away from this city and tell its operator"
    )]
    Forked {
        /// The newest version this node verified.
        expected: Round,
        /// What came.
        found: Round,
    },
}

impl Head {
    /// Signs with the city's key.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> Signed {
        Signed::seal(key, &domain(self.city), self)
    }

    /// Opens one head on its own: signature, city, job, format. Whether it follows from what is
    /// known is [`Chain::advance`]'s question.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn open(signed: &Signed, city: CityId, job: JobId) -> Result<Self, HeadError> {
        if CityId::from(signed.signer) != city {
            return Err(HeadError::WrongCity { expected: city, found: signed.signer });
        }
        let head: Self = signed.open(&domain(city))?;
        let ours = head.format == HEAD_FORMAT && head.fragment == FragmentId(0);
        if head.city != city || head.job != job || !ours {
            return Err(HeadError::WrongSubject);
        }
        Ok(head)
    }
}

fn domain(city: CityId) -> Domain {
    Domain::lasting(Kind::Round, HEAD_FORMAT, city)
}

/// The newest verified head of one job, as a member keeps it on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Whose chain.
    pub city: CityId,
    /// Which job.
    pub job: JobId,
    /// The newest verified version.
    pub version: Round,
    /// Hash of its signed head.
    pub hash: Hash,
    /// Merkle root of its parameters.
    pub theta_root: Hash,
}

impl Chain {
    /// Trusts a first head because the city whose key came with the ticket signed it.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn begin(signed: &Signed, city: CityId, job: JobId) -> Result<(Self, Head), HeadError> {
        let head = Head::open(signed, city, job)?;
        if head.version == Round(0) && head.before != Hash::ZERO {
            return Err(HeadError::WrongSubject);
        }
        let chain = Self {
            city,
            job,
            version: head.version,
            hash: signed.hash(),
            theta_root: head.theta_root,
        };
        Ok((chain, head))
    }

    /// Takes the next head.
    ///
    /// # Errors
    /// [`HeadError::Forked`] when it does not name this one as the one before it.
    pub fn advance(&mut self, signed: &Signed) -> Result<Head, HeadError> {
        let head = Head::open(signed, self.city, self.job)?;
        if head.version != self.version.next() || head.before != self.hash {
            return Err(HeadError::Forked { expected: self.version, found: head.version });
        }
        (self.version, self.hash, self.theta_root) = (head.version, signed.hash(), head.theta_root);
        Ok(head)
    }
}
