//! What goes over the control socket: a greeting from the node, then one reply a request.

use super::status::{CityStatus, FamilyStatus, JobStatus};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use suanli_base::NodeId;
use suanli_identity::{Prefix, Rights, Role};

/// Version of these messages. A client of another version is told so, not misunderstood.
pub(super) const VERSION: u16 = 1;
/// Bytes of a request line, at most.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of a reply line, at most: a status of a thousand members with its curve fits.
pub(super) const REPLY_BYTES_MAX: usize = 4 << 20;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A citylet.
    City,
    /// A familylet.
    Family,
}

impl core::fmt::Display for NodeKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::City => "city",
            Self::Family => "family",
        })
    }
}

/// The first line a node sends to whoever connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Version of the messages that follow.
    pub control: u16,
    /// What answers.
    pub kind: NodeKind,
    /// The process that answers.
    pub pid: u32,
}

/// A grant to regions that is to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantOrder {
    /// Whom it is for.
    pub to: NodeId,
    /// Which regions.
    pub prefix: Prefix,
    /// What may be done with them.
    pub rights: Rights,
    /// Payload bytes in all; [`u64::MAX`] for no bound.
    pub bytes_max: u64,
    /// Payload bytes a second; [`u64::MAX`] for no bound.
    pub bytes_per_s: u64,
    /// For how long.
    pub lasts_s: u64,
    /// How often it may be handed on, narrower each time; at most 3.
    pub depth: u8,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlRequest {
    /// How are you? City and family.
    Status,
    /// Which jobs are there? City; a family answers with what it works on.
    Jobs,
    /// A status every `interval_ms` and every event, until the client hangs up. The server helper
    /// answers this itself, with [`ControlRequest::Status`] calls: a loop never sees it.
    Watch {
        /// Milliseconds between two statuses.
        interval_ms: u64,
    },
    /// Zero use within a second, until [`ControlRequest::Resume`]. Family.
    Pause,
    /// Go on. Family.
    Resume,
    /// Hand in or give up the lease, say goodbye to the city and stop. Family.
    Leave,
    /// Sets the owner's limit of CPU share. Family.
    SetShare {
        /// 1 to 100.
        percent: u8,
    },
    /// Issues a ticket. City.
    Ticket {
        /// What its bearer may do.
        role: Role,
        /// For how long.
        expires_in_s: u64,
        /// How many nodes may use it.
        uses: u32,
    },
    /// Signs a grant to regions. City.
    Grant(GrantOrder),
    /// Ends every grant to what a prefix means that was given so far. City.
    Revoke {
        /// Which regions.
        prefix: Prefix,
    },
    /// Takes in a job that was prepared in a folder on this machine. City.
    Submit {
        /// The folder of the prepared job: its specification and its data shards.
        folder: PathBuf,
    },
    /// Ends a job before its time; what was committed stays. City.
    Cancel {
        /// The job's id, a unique beginning of it, or its name.
        job: String,
    },
    /// Writes the last committed parameters as a Hugging Face folder. City.
    Export {
        /// The job's id, a unique beginning of it, or its name.
        job: String,
        /// Where to; must not exist or be empty.
        dir: PathBuf,
        /// Only the adapters, in PEFT's layout, of a job that trains such.
        adapters: bool,
    },
    /// Stops cleanly: everything acknowledged is on disk, the next start goes on from there.
    Stop,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlReply {
    /// Done.
    Done,
    /// A city's status.
    City(Box<CityStatus>),
    /// A family's status.
    Family(Box<FamilyStatus>),
    /// The jobs.
    Jobs {
        /// Oldest first.
        jobs: Vec<JobStatus>,
    },
    /// The ticket that was asked for.
    Ticket {
        /// Its text.
        ticket: String,
    },
    /// The grant that was asked for.
    Grant {
        /// Its text.
        grant: String,
    },
    /// Earlier grants are over, durably.
    Revoked {
        /// Grants below this epoch are.
        epoch: u64,
    },
    /// The job was taken in, durably.
    Submitted {
        /// Its id.
        job: String,
    },
    /// The checkpoint is written.
    Exported {
        /// Where it lies.
        dir: PathBuf,
        /// The version of the parameters in it.
        round: u64,
        /// Committed tokens at that version.
        tokens: u64,
    },
    /// Something happened. Only after [`ControlRequest::Watch`].
    Event(StatusEvent),
    /// It was not done.
    Refused(Refusal),
}

/// What a loop hands back for a call.
pub type Answer = Result<ControlReply, Refusal>;

/// Why a request was not done. The class decides the exit code of the command that asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which kind of reason.
    pub class: RefusalClass,
    /// What was expected, what was found.
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default)]
    pub next: String,
}

impl Refusal {
    /// A refusal of `class`.
    #[must_use]
    pub fn new(class: RefusalClass, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { class, message: message.into(), next: next.into() }
    }

    /// The refusal of a request that this kind of node does not know.
    #[must_use]
    pub fn not_here(kind: NodeKind) -> Self {
        Self::new(
            RefusalClass::Usage,
            format!("a {kind} does not do this"),
            "name another data folder with --dir",
        )
    }
}

/// Kinds of refusals, as the command line's exit codes have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalClass {
    /// A defect of ours.
    Internal,
    /// Not a request for this node, or a number out of its bounds.
    Usage,
    /// The job, its data or its name.
    Input,
    /// Identity, ticket or permission.
    Permission,
    /// The network or the other side of it.
    Network,
    /// Disk, ports, locks of this machine.
    Environment,
    /// What lies on disk is not what was written.
    Corrupt,
}

/// Something that happened, as those who watch are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StatusEvent {
    /// A member came or came back.
    MemberConnected {
        /// Its id.
        node: String,
        /// Its name.
        name: String,
    },
    /// A member's connection is gone.
    MemberLost {
        /// Its id.
        node: String,
        /// Its name.
        name: String,
    },
    /// A contribution is durable and acknowledged.
    ContributionAccepted {
        /// The job.
        job: String,
        /// The round.
        round: u64,
        /// Who made it.
        name: String,
        /// Tokens in it.
        tokens: u64,
    },
    /// A round is committed.
    RoundCommitted {
        /// The job.
        job: String,
        /// The round that ended.
        round: u64,
        /// Contributions in it.
        contributions: u64,
        /// Committed tokens after it.
        tokens: u64,
    },
    /// A held-out loss was measured.
    LossMeasured {
        /// The job.
        job: String,
        /// The version it was measured on.
        round: u64,
        /// Committed tokens at that version.
        tokens: u64,
        /// Nats a token.
        loss: f64,
    },
    /// A job is over.
    JobOver {
        /// The job.
        job: String,
    },
    /// The node's worker process died and another takes over.
    WorkerRestarted {
        /// Why, as far as known.
        reason: String,
    },
    /// The watcher read too slowly and missed events; statuses are complete all the same.
    Missed {
        /// How many.
        events: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    #[test]
    fn every_message_reads_back_from_its_line() {
        let requests = [
            ControlRequest::Status,
            ControlRequest::Watch { interval_ms: 500 },
            ControlRequest::Ticket { role: Role::Join, expires_in_s: 60, uses: 4 },
            ControlRequest::Revoke { prefix: Prefix::new("job/1/").unwrap() },
            ControlRequest::Grant(GrantOrder {
                to: NodeId([7; 32]),
                prefix: Prefix::all(),
                rights: "read,subscribe".parse().unwrap(),
                bytes_max: u64::MAX,
                bytes_per_s: 1,
                lasts_s: 60,
                depth: 2,
            }),
            ControlRequest::Submit { folder: "/a b/\u{7b97}".into() },
        ];
        for request in requests {
            assert_eq!(back(&request), request);
        }
        let replies = [
            ControlReply::Done,
            ControlReply::City(Box::default()),
            ControlReply::Family(Box::default()),
            ControlReply::Jobs { jobs: vec![JobStatus::default()] },
            ControlReply::Event(StatusEvent::Missed { events: 3 }),
            ControlReply::Refused(Refusal::not_here(NodeKind::City)),
        ];
        for reply in replies {
            assert_eq!(back(&reply), reply);
        }
    }

    #[test]
    fn a_status_of_a_later_version_with_more_fields_still_reads() {
        let text = r#"{"is":"family","name":"attic","watts":90}"#;
        let reply: ControlReply = serde_json::from_str(text).unwrap();
        assert!(matches!(reply, ControlReply::Family(status) if status.name == "attic"));
    }
}
