//! What a node says of itself. A city counts since its folder was made, a family since its process
//! began; nothing here is an estimate except `tokens_per_s`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How many points of a loss curve a status carries at most; [`thin_losses`] keeps to it.
pub const LOSS_POINTS_MAX: usize = 2048;

/// What a city is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CityStatus {
    /// The city's id, 64 hexadecimal digits.
    pub city: String,
    /// The name its operator gave it.
    pub name: String,
    /// The ways to it, without the pass of a relay.
    pub addresses: Vec<String>,
    /// Its data folder.
    pub folder: PathBuf,
    /// Its process.
    pub pid: u32,
    /// Seconds since this process took over the folder.
    pub uptime_s: u64,
    /// Entries in its log.
    pub log_entries: u64,
    /// Every member that ever joined and did not leave, by name.
    pub members: Vec<MemberStatus>,
    /// Every job, oldest first.
    pub jobs: Vec<JobStatus>,
    /// The limits of what it sends.
    pub upload: UploadStatus,
}

/// The limits that an operator set to what a node sends, and how far they are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus {
    /// Bytes of bulk it may send a day.
    pub bytes_per_day: Option<u64>,
    /// Bytes of bulk a second it may send at this hour.
    pub bytes_per_s: Option<u64>,
    /// Bytes of bulk it sent today.
    pub today_bytes: u64,
    /// Why bulk is held back now, for more than a moment.
    pub held: Option<String>,
}

/// One family as its city sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// The node's id, 64 hexadecimal digits.
    pub node: String,
    /// The name it joined with.
    pub name: String,
    /// What it is doing.
    pub state: MemberState,
    /// Measured speed over its last leases.
    pub tokens_per_s: f64,
    /// Tokens in its committed contributions.
    pub tokens: u64,
    /// Contributions the city accepted.
    pub contributions: u64,
    /// The owner's limit of CPU share, if it told.
    pub share_percent: Option<u8>,
    /// Socket bytes from this member to the city.
    pub bytes_up: u64,
    /// Socket bytes from the city to this member.
    pub bytes_down: u64,
    /// Milliseconds since the city last heard from it.
    pub last_seen_ms: u64,
}

/// What a member is doing, for its city.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberState {
    /// No connection.
    #[default]
    Away,
    /// Connected, without a lease.
    Idle,
    /// Holds a lease.
    Working,
    /// Its owner paused it.
    Paused,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// Nobody works on it yet.
    #[default]
    Waiting,
    /// Rounds go on.
    Running,
    /// Its trainer or the operator halted it.
    Paused,
    /// Its rounds or tokens are complete.
    Done,
    /// Its trainer or the operator ended it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// One job as its city sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// The job's id, 64 hexadecimal digits.
    pub id: String,
    /// The name in its job file.
    pub name: String,
    /// What it is doing.
    pub state: JobState,
    /// Committed rounds, which is the version of its parameters.
    pub round: u64,
    /// Rounds it is to have, when its file says rounds.
    pub rounds: Option<u64>,
    /// Committed tokens.
    pub tokens: u64,
    /// Tokens it is to have, when its file says tokens.
    pub tokens_target: Option<u64>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Committed tokens a second over the last rounds.
    pub tokens_per_s: f64,
    /// Held-out loss by committed tokens, oldest first, at most [`LOSS_POINTS_MAX`].
    pub losses: Vec<LossPoint>,
    /// What went over sockets.
    pub traffic: TrafficStatus,
    /// What each member put in, most tokens first.
    pub contributions: Vec<ContributionStatus>,
}

impl JobStatus {
    /// How much of it is done, 0 to 1, by rounds or by tokens, whichever is further.
    #[must_use]
    pub fn progress(&self) -> f64 {
        let part = |done: u64, of: Option<u64>| match of {
            Some(of) if of > 0 => done as f64 / of as f64,
            _ => 0.0,
        };
        let far = part(self.round, self.rounds).max(part(self.tokens, self.tokens_target));
        if self.state == JobState::Done { 1.0 } else { far.min(1.0) }
    }
}

/// A measured held-out loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossPoint {
    /// The version of the parameters it was measured on.
    pub round: u64,
    /// Committed tokens at that version.
    pub tokens: u64,
    /// Mean loss, nats a token.
    pub loss: f64,
}

/// Socket bytes of one job, all members, control, framing and retries counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficStatus {
    /// From members to the city.
    pub bytes_up: u64,
    /// From the city to members, first downloads and data shards included.
    pub bytes_down: u64,
    /// Of `bytes_down`: parameters read by members that had none.
    pub bytes_first_download: u64,
    /// Of `bytes_down`: data shards.
    pub bytes_shards: u64,
    /// What data parallel would have moved for the same steps: 8 bytes x parameters x steps.
    pub bytes_data_parallel: u64,
}

impl TrafficStatus {
    /// Bytes that training itself needed: without first downloads and data shards.
    #[must_use]
    pub const fn training(&self) -> u64 {
        let aside = self.bytes_first_download.saturating_add(self.bytes_shards);
        self.bytes_up.saturating_add(self.bytes_down).saturating_sub(aside)
    }

    /// How many times fewer bytes than data parallel; nothing while either is zero.
    #[must_use]
    pub fn times_fewer(&self) -> Option<f64> {
        let (ours, theirs) = (self.training(), self.bytes_data_parallel);
        (ours > 0 && theirs > 0).then(|| theirs as f64 / ours as f64)
    }
}

/// What one member put into one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContributionStatus {
    /// The node's id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Accepted contributions.
    pub contributions: u64,
    /// Steps in them.
    pub steps: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Socket bytes from this member.
    pub bytes_up: u64,
    /// Socket bytes to this member.
    pub bytes_down: u64,
}

/// What a family is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FamilyStatus {
    /// The node's id, 64 hexadecimal digits.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub folder: PathBuf,
    /// The agent's process.
    pub pid: u32,
    /// The worker process, while there is one.
    pub worker_pid: Option<u32>,
    /// The city it belongs to.
    pub city: String,
    /// Where it reaches that city.
    pub address: String,
    /// How it is connected, while it is.
    pub link: Option<LinkStatus>,
    /// What it is doing.
    pub state: FamilyState,
    /// Why it is in that state, in a few words, when there is something to say.
    pub reason: Option<String>,
    /// The job it works on.
    pub job: Option<String>,
    /// That job's name.
    pub job_name: Option<String>,
    /// The round it works in.
    pub round: u64,
    /// Complete steps of the present lease.
    pub step: u64,
    /// Steps the present lease asks for.
    pub steps: u64,
    /// Loss of the last step on this family's own data.
    pub loss: Option<f64>,
    /// Measured speed.
    pub tokens_per_s: f64,
    /// Contributions the city accepted.
    pub contributions: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Socket bytes to the city.
    pub bytes_up: u64,
    /// Socket bytes from the city.
    pub bytes_down: u64,
    /// The owner's limits.
    pub limits: LimitsStatus,
}

/// How a family is connected to its city.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// `tcp` or `quic`.
    pub kind: String,
    /// Where the city is reached now: an address, or a relay.
    pub remote: String,
    /// Whether it goes by way of a relay.
    pub relayed: bool,
    /// Why this kind: the name of a [`suanli_link::dial::Why`].
    pub why: String,
    /// Milliseconds from the first attempt to the proven key.
    pub took_ms: u64,
}

/// What a family is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FamilyState {
    /// Looks for its city.
    #[default]
    Connecting,
    /// Connected, without a lease.
    Idle,
    /// Reads parameters, updates or data.
    Fetching,
    /// Takes steps.
    Training,
    /// Hands a contribution in.
    HandingIn,
    /// Its owner paused it, or a limit did; `reason` says which.
    Paused,
    /// Is on its way out.
    Leaving,
}

/// The limits an owner set, and how far they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsStatus {
    /// Share of the CPU time of its threads, 1 to 100.
    pub share_percent: u8,
    /// Threads of the engine.
    pub threads: u32,
    /// Bytes of bulk it may send a day.
    pub upload_bytes_per_day: Option<u64>,
    /// Bytes of bulk a second it may send at this hour.
    pub upload_bytes_per_s: Option<u64>,
    /// Bytes of bulk it sent today.
    pub uploaded_today_bytes: u64,
}

/// Drops points evenly until at most [`LOSS_POINTS_MAX`] are left, the first and the last kept.
pub fn thin_losses(losses: &mut Vec<LossPoint>) {
    while losses.len() > LOSS_POINTS_MAX {
        let last = losses.len() - 1;
        let mut at = 0;
        losses.retain(|_| {
            let keep = at % 2 == 0 || at == last;
            at += 1;
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_both_ends_and_its_bound() {
        let mut losses: Vec<_> =
            (0..10_001).map(|round| LossPoint { round, ..LossPoint::default() }).collect();
        thin_losses(&mut losses);
        assert!(losses.len() <= LOSS_POINTS_MAX && losses.len() > LOSS_POINTS_MAX / 4);
        assert_eq!((losses[0].round, losses.last().unwrap().round), (0, 10_000));
    }

    #[test]
    fn bytes_against_data_parallel_leave_first_downloads_and_shards_out() {
        let traffic = TrafficStatus {
            bytes_up: 60,
            bytes_down: 140,
            bytes_first_download: 80,
            bytes_shards: 20,
            bytes_data_parallel: 20_000,
        };
        assert_eq!(traffic.training(), 100);
        assert_eq!(traffic.times_fewer(), Some(200.0));
        assert_eq!(TrafficStatus::default().times_fewer(), None);
    }

    #[test]
    fn progress_is_the_further_of_rounds_and_tokens() {
        let job = JobStatus {
            round: 5,
            rounds: Some(10),
            tokens: 3,
            tokens_target: Some(4),
            ..JobStatus::default()
        };
        assert_eq!(job.progress(), 0.75);
        assert_eq!(JobStatus::default().progress(), 0.0);
    }
}
