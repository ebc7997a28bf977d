//! What family and city say to each other over RDPA's SEND: small, bounded, postcard.
//!
//! Every message may come twice or late; each is idempotent by the ids it carries.

use serde::{Deserialize, Serialize};
use suanli_base::{Hash, JobId, LeaseId, Round};
use suanli_identity::Signed;
use suanli_log::{JobPhase, LeaseRecord};

/// The most bytes a message may have: RDPA's bound for SEND.
pub const MESSAGE_BYTES_MAX: usize = 60 << 10;
/// The most heads in one answer.
pub const HEADS_MAX: usize = 32;

/// From a member to its city.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToCity {
    /// Work, please.
    Ask(Ask),
    /// Still at it.
    Beat {
        /// The lease worked on.
        lease: LeaseId,
        /// Steps done so far.
        steps: u32,
        /// Measured tokens a second, 0 when nothing was measured.
        rate: u32,
    },
    /// All chunks of the payload were accumulated; here is the signed contribution.
    HandIn {
        /// The lease it answers.
        lease: LeaseId,
        /// The signed [`crate::Contribution`].
        contribution: Signed,
    },
    /// The lease is given back untouched.
    Decline {
        /// Which.
        lease: LeaseId,
    },
    /// Which heads follow the one of this version? (Itself included when `from` is the newest.)
    Heads {
        /// Which job.
        job: JobId,
        /// First version wanted; `None` for the newest alone.
        from: Option<Round>,
    },
    /// The owner paused or resumed this machine: an idle member is not waited for.
    Paused {
        /// Whether it stands still.
        paused: bool,
    },
    /// What the owner says of this machine; shown, never decided by.
    Introduce {
        /// Its name; at most `NAME_CHARS_MAX` characters count.
        name: String,
        /// The owner's limit of CPU share, 1 to 100.
        share_percent: u8,
    },
    /// Gone for good.
    Farewell,
    /// A job whose regions were all written; needs the role "train".
    Submit {
        /// Canonical bytes of the specification.
        spec: Vec<u8>,
    },
    /// Halts, resumes or ends a job; needs to be its trainer or the operator.
    Move {
        /// Which job.
        job: JobId,
        /// To what.
        to: JobPhase,
    },
}

/// A request for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The job and version the member already holds, if any.
    pub have: Option<(JobId, Round)>,
    /// Hash of the sealed private state it keeps for that job; zero for none.
    pub private: Hash,
    /// Measured tokens a second, 0 when nothing was measured yet.
    pub rate: u32,
    /// Memory the owner lends, in bytes.
    pub memory_bytes: u64,
}

/// From a city to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToMember {
    /// Hold this job at this version, measure your speed on it, then ask again.
    Prepare {
        /// Which job.
        job: JobId,
        /// The version to hold.
        version: Round,
    },
    /// A lease.
    Offer(LeaseRecord),
    /// Nothing now.
    Wait {
        /// Why.
        why: WaitReason,
        /// Ask again after this many milliseconds, or when a version is published.
        retry_ms: u64,
    },
    /// The contribution is stored: it will not be lost.
    Accepted {
        /// Which lease.
        lease: LeaseId,
    },
    /// The contribution is not taken.
    Refused {
        /// Which lease.
        lease: LeaseId,
        /// Why.
        reason: Refusal,
    },
    /// Heads in ascending version.
    Heads {
        /// Which job.
        job: JobId,
        /// The newest version the city has.
        newest: Round,
        /// At most [`HEADS_MAX`].
        heads: Vec<Signed>,
    },
    /// The answer to a submission or a move.
    Job {
        /// Which job; zero when it could not be read.
        job: JobId,
        /// What came of it.
        outcome: JobOutcome,
    },
    /// The city ended a lease; training on is in vain.
    Revoked {
        /// Which.
        lease: LeaseId,
    },
}

/// What came of a submission or a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// It is done, and written down.
    Done,
    /// It was done before.
    Known,
    /// It is refused, in words that say what to do.
    Refused(String),
}

/// Why there is no work now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitReason {
    /// No job runs.
    NoJob,
    /// The job waits for more members.
    TooFewMembers,
    /// This member has handed in; the round is not closed yet.
    RoundOpen,
    /// The merge is running.
    Merging,
    /// All places are taken.
    Full,
    /// The model needs more memory than the owner lends.
    TooLittleMemory,
    /// The city is stopping.
    Stopping,
}

/// Why a contribution is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Refusal {
    /// No such lease, or it ended, or it is another replica's.
    NoLease,
    /// Chunks are missing: hand them in and send again.
    Incomplete,
    /// It does not match the lease.
    Mismatch,
    /// The payload does not decode or holds values that are not finite.
    BadPayload,
    /// The signature is not this node's.
    BadSignature,
}

macro_rules! coded {
    ($name:ident) => {
        impl $name {
            /// The bytes of this message.
            ///
            /// # Panics
            /// Never: our own types always encode.
            #[must_use]
            pub fn to_bytes(&self) -> Vec<u8> {
                postcard::to_stdvec(self).expect("our own types always encode")
            }

            /// Reads a whole message, or nothing when the bytes are none or too many.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                if bytes.len() > MESSAGE_BYTES_MAX {
                    return None;
                }
                match postcard::take_from_bytes(bytes) {
                    Ok((message, [])) => Some(message),
                    _ => None,
                }
            }
        }
    };
}

coded!(ToCity);
coded!(ToMember);
