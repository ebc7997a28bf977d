//! The volatile half of a city: who is here, how fast, and what to write next.
//!
//! `handle(now, input)` reads the durable state and proposes entries and answers; it decides
//! nothing that is not written down before anyone hears of it (DESIGN 5.2). All of it may be lost
//! at any moment: after a restart the members come back and are measured anew.

use crate::contribution::Contribution;
use crate::message::{Ask, Refusal, ToMember, WaitReason};
use crate::state::{CityState, Job, SPANS_MAX, Span};
use std::collections::BTreeMap;
use suanli_base::{Duration, FragmentId, Hash, JobId, LeaseId, NodeId, Time, Tokens};
use suanli_identity::{Role, Signed};
use suanli_log::{Entry, JobPhase, LeaseEnd, LeaseRecord, Private};

/// How long a member is told to wait when nothing better is known.
const RETRY: Duration = Duration(500);
/// A member that asks again this soon after a lease was granted has not heard of it: the same
/// lease is offered again. Later, what is left of the round asks for another.
const OFFER_AGAIN: Duration = Duration(15_000);
/// A replica hands in what it has when its lease has lasted this much longer than planned
/// (in thousandths), so that a slow one is late rather than lost.
const OVERTIME_PER_MILLE: u64 = 1250;
/// How much longer than planned a round lasts at the most (a multiple of its planned time).
const ROUND_PATIENCE: u64 = 4;
/// A lease never asks for more than this multiple of the mean steps.
const STEPS_SPREAD_MAX: u32 = 8;
/// Syncing and asking takes members up to this long however short a round is.
const SYNC_MS: u64 = 1000;
/// A member that joins when less than this share of a round is left waits for the next.
const LEAST_SHARE_PER_MILLE: u64 = 150;

/// One connected member. Fixed size; changed only by the functions of this module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Measured tokens a second; 0 when unknown.
    pub rate: u32,
    /// Memory lent.
    pub memory_bytes: u64,
    /// The owner paused it.
    pub paused: bool,
    /// It was told to wait for the next version.
    pub waiting: bool,
    /// It has asked since it connected.
    pub asked: bool,
    /// Steps reported for its open lease.
    pub steps: u32,
    /// When it was last heard of.
    pub seen: Time,
}

/// A payload that the host has checked and stored, with the contribution that names it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Who handed it in.
    pub node: NodeId,
    /// The decoded contribution; its signature is good and its bytes are stored.
    pub contribution: Contribution,
    /// Blob of the signed contribution.
    pub contribution_blob: Hash,
    /// Blob of the payload.
    pub payload_blob: Hash,
    /// Squared norm of the decoded payload.
    pub norm_squared: f64,
}

/// What the authority wants: entries to be made durable, in order, and answers that need none.
#[derive(Debug, Default)]
pub struct Decision {
    /// To be written, synced and applied in this order.
    pub entries: Vec<Entry>,
    /// To be sent whether or not anything is written.
    pub answers: Vec<(NodeId, ToMember)>,
}

impl Decision {
    fn answer(node: NodeId, message: ToMember) -> Self {
        Self { entries: vec![], answers: vec![(node, message)] }
    }

    fn wait(node: NodeId, why: WaitReason) -> Self {
        Self::answer(node, ToMember::Wait { why, retry_ms: RETRY.0 })
    }
}

/// When the open round of a job began, and when it reached its quorum.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    version: u64,
    opened: Option<Time>,
    quorum: Option<Time>,
}

/// The volatile half of a city.
#[derive(Debug, Default)]
pub struct Authority {
    live: BTreeMap<NodeId, Live>,
    pace: BTreeMap<JobId, Pace>,
    stopping: bool,
}

impl Authority {
    /// Who is connected.
    #[must_use]
    pub const fn live(&self) -> &BTreeMap<NodeId, Live> {
        &self.live
    }

    /// A member's connection is up.
    pub fn connected(&mut self, now: Time, node: NodeId) {
        self.live.insert(node, Live { seen: now, ..Live::default() });
    }

    /// A member's connection is gone. Its lease stays open: it may come back with its work.
    pub fn gone(&mut self, node: NodeId) {
        self.live.remove(&node);
    }

    /// No more leases: the city is stopping.
    pub const fn stop(&mut self) {
        self.stopping = true;
    }

    /// A sign of life with a measured rate (0 for none).
    pub fn beat(&mut self, now: Time, node: NodeId, steps: u32, rate: u32) {
        let Some(live) = self.live.get_mut(&node) else { return };
        (live.seen, live.steps) = (now, steps);
        if rate > 0 {
            live.rate = rate;
        }
    }

    /// The owner paused or resumed a member.
    pub fn paused(&mut self, node: NodeId, paused: bool) {
        if let Some(live) = self.live.get_mut(&node) {
            live.paused = paused;
        }
    }

    /// A member asks for work.
    pub fn ask(&mut self, state: &CityState, now: Time, node: NodeId, ask: &Ask) -> Decision {
        let Some(live) = self.live.get_mut(&node) else { return Decision::default() };
        let asked_before = core::mem::replace(&mut live.asked, true);
        (live.seen, live.waiting, live.paused) = (now, false, false);
        (live.memory_bytes, live.steps) = (ask.memory_bytes, 0);
        if ask.rate > 0 {
            live.rate = ask.rate;
        }
        if self.stopping {
            return Decision::wait(node, WaitReason::Stopping);
        }
        let open = state.lease_of(node);
        // Over another connection it may have crashed with half of the time gone: that is a new
        // request.
        let unheard = |record: &&LeaseRecord| asked_before && unheard(record, state, now, ask);
        if let Some(record) = open.filter(unheard) {
            return Decision::answer(node, ToMember::Offer(record.clone()));
        }
        let lost = open.map(|record| record.lease);
        let mut decision = match self.choose(state, node, ask) {
            None => Decision::wait(node, WaitReason::NoJob),
            Some((id, job)) => self.grant(state, now, node, ask, id, job, lost),
        };
        if let (Some(lease), false) = (lost, decision.entries.is_empty()) {
            let reason = LeaseEnd::Superseded;
            decision.entries.insert(0, Entry::LeaseEnded { lease, reason, time: now });
        }
        decision
    }

    /// The job a member already holds if it runs, else the running job with the fewest replicas.
    fn choose<'a>(
        &self,
        state: &'a CityState,
        _node: NodeId,
        ask: &Ask,
    ) -> Option<(JobId, &'a Job)> {
        let running = |job: &Job| job.phase == JobPhase::Running;
        let held = ask.have.and_then(|(id, _)| Some((id, state.jobs.get(&id)?)));
        if let Some(held) = held.filter(|(_, job)| running(job)) {
            return Some(held);
        }
        let at_work = |id: &JobId| state.leases.values().filter(|r| r.job == *id).count();
        let jobs = state.jobs.iter().filter(|(_, job)| running(job));
        jobs.min_by_key(|(id, _)| at_work(id)).map(|(id, job)| (*id, job))
    }

    #[expect(clippy::too_many_arguments, reason = "one decision over all that bears on it")]
    fn grant(
        &mut self,
        state: &CityState,
        now: Time,
        node: NodeId,
        ask: &Ask,
        id: JobId,
        job: &Job,
        lost: Option<LeaseId>,
    ) -> Decision {
        if ask.memory_bytes < job.spec.replica_memory_bytes {
            // Nothing will change soon: neither the model nor the machine.
            let (why, retry_ms) = (WaitReason::TooLittleMemory, 30_000);
            return Decision::answer(node, ToMember::Wait { why, retry_ms });
        }
        if job.closing.is_some() {
            return Decision::wait(node, WaitReason::Merging);
        }
        if ask.have != Some((id, job.version)) || ask.rate == 0 {
            return Decision::answer(node, ToMember::Prepare { job: id, version: job.version });
        }
        let handed_in = job.accepted.values().any(|a| a.node == node && a.base == job.version);
        let others = |r: &&LeaseRecord| r.job == id && Some(r.lease) != lost;
        let at_work = state.leases.values().filter(others).count();
        if handed_in {
            return self.wait_for_version(node, WaitReason::RoundOpen);
        }
        if at_work as u64 >= u64::from(job.spec.replicas.max) {
            return self.wait_for_version(node, WaitReason::Full);
        }
        let untouched = job.version.0 == 0 && job.accepted.is_empty() && at_work == 0;
        let ready = self.live.values().filter(|live| live.asked && !live.paused).count();
        if untouched && (ready as u64) < u64::from(job.spec.replicas.min) {
            return Decision::wait(node, WaitReason::TooFewMembers);
        }
        self.lease(state, now, node, ask, id, job)
    }

    fn wait_for_version(&mut self, node: NodeId, why: WaitReason) -> Decision {
        if let Some(live) = self.live.get_mut(&node) {
            live.waiting = true;
        }
        Decision::wait(node, why)
    }

    fn lease(
        &mut self,
        state: &CityState,
        now: Time,
        node: NodeId,
        ask: &Ask,
        id: JobId,
        job: &Job,
    ) -> Decision {
        let planned = self.planned_ms(job);
        let at_work = state.leases.values().any(|r| r.job == id && r.base == job.version);
        let pace = self.pace_of(id, job);
        let mut opened = *pace.opened.get_or_insert(now);
        // Nothing came of the round in all its time, or all its leases came back: whoever asks now
        // begins it anew, or nobody would ever be granted a lease again.
        let overdue = now.since(opened).0 * 1000 > planned * OVERTIME_PER_MILLE;
        if job.accepted.is_empty() && (overdue || !at_work) {
            (opened, *pace) = (now, Pace { opened: Some(now), quorum: None, ..*pace });
        }
        let gone = now.since(opened).0;
        // The members sync and ask within the first moments of a round; that is not lateness.
        let on_time = gone <= (planned / 8).max(SYNC_MS);
        let left = if on_time { planned } else { planned.saturating_sub(gone) };
        if left * 1000 < planned * LEAST_SHARE_PER_MILLE {
            return self.wait_for_version(node, WaitReason::RoundOpen);
        }
        let training = &job.spec.training;
        let per_step = job.spec.tokens_a_step();
        let fits = u64::from(ask.rate).saturating_mul(left) / 1000;
        let most = u64::from(training.inner_steps.saturating_mul(STEPS_SPREAD_MAX));
        let wanted = fits.saturating_add(per_step / 2) / per_step;
        let wanted = wanted.clamp(1, most) as u32;
        let Some((start, steps)) = place(job, wanted) else {
            return Decision::wait(node, WaitReason::NoJob);
        };
        let expected = if job.round_tokens.0 > 0 {
            job.round_tokens.0
        } else {
            u64::from(job.spec.replicas.expected) * u64::from(training.inner_steps) * per_step
        };
        let private = match job.private.get(&node) {
            Some(hash) if *hash == ask.private && *hash != Hash::ZERO => Private::Sealed(*hash),
            _ => Private::Fresh,
        };
        let record = LeaseRecord {
            lease: state.next_lease,
            job: id,
            fragment: FragmentId(0),
            replica: vec![node],
            base: job.version,
            base_root: job.theta_root,
            start,
            steps,
            batch_sequences: training.batch_sequences,
            schedule_start: job.tokens,
            schedule_tokens_a_step: (expected / u64::from(wanted)).max(1),
            private,
            duration_ms: (left * OVERTIME_PER_MILLE / 1000).max(1000),
            time: now,
        };
        Decision { entries: vec![Entry::Leased(record)], answers: vec![] }
    }

    /// How long a round of this job should last, in milliseconds: the mean replica's H steps.
    fn planned_ms(&self, job: &Job) -> u64 {
        let rates = || self.live.values().filter(|l| l.rate > 0 && !l.paused && l.asked);
        let count = rates().count() as u64;
        let sum: u64 = rates().map(|live| u64::from(live.rate)).sum();
        let tokens = u64::from(job.spec.training.inner_steps) * job.spec.tokens_a_step();
        tokens.saturating_mul(1000).saturating_mul(count.max(1)) / sum.max(1)
    }

    fn pace_of(&mut self, id: JobId, job: &Job) -> &mut Pace {
        let pace = self.pace.entry(id).or_default();
        if pace.version != job.version.0 {
            *pace = Pace { version: job.version.0, ..Pace::default() };
        }
        pace
    }

    /// A member gives its lease back untouched.
    #[must_use]
    pub fn decline(state: &CityState, now: Time, node: NodeId, lease: LeaseId) -> Decision {
        let own = state.leases.get(&lease).is_some_and(|r| r.replica.contains(&node));
        let reason = LeaseEnd::Declined;
        let entries =
            if own { vec![Entry::LeaseEnded { lease, reason, time: now }] } else { vec![] };
        Decision { entries, answers: vec![] }
    }

    /// Whether a contribution may be stored: to be asked before the payload is checked.
    ///
    /// # Errors
    /// The refusal to send; `Ok(None)` when it was accepted before and only the answer was lost.
    pub fn check_hand_in(
        state: &CityState,
        node: NodeId,
        lease: LeaseId,
        signed: &Signed,
    ) -> Result<Option<Contribution>, Refusal> {
        if signed.signer != node {
            return Err(Refusal::BadSignature);
        }
        let contribution = Contribution::open(signed, state.city);
        let contribution = contribution.map_err(|_| Refusal::BadSignature)?;
        if contribution.lease != lease {
            return Err(Refusal::Mismatch);
        }
        let Some(record) = state.leases.get(&lease) else {
            let job = state.jobs.get(&contribution.job);
            let stored = job.and_then(|job| job.private.get(&node));
            let again = stored == Some(&contribution.private_after);
            return if again { Ok(None) } else { Err(Refusal::NoLease) };
        };
        if !record.replica.contains(&node) {
            return Err(Refusal::NoLease);
        }
        let steps = contribution.steps;
        let samples = u64::from(steps) * u64::from(record.batch_sequences);
        let tokens = state.jobs.get(&record.job).map(|job| job.spec.tokens_a_step());
        let class = state.jobs.get(&record.job).map(|job| &job.spec.numeric_class);
        let matches = contribution.job == record.job
            && Some(&contribution.numeric_class) == class
            && contribution.base_root == record.base_root
            && contribution.start == record.start
            && contribution.samples == samples
            && (1..=record.steps).contains(&steps)
            && Some(contribution.tokens.0) == tokens.map(|t| t * u64::from(steps));
        if matches { Ok(Some(contribution)) } else { Err(Refusal::Mismatch) }
    }

    /// A contribution is checked, stored and synced.
    #[must_use]
    pub fn settled(state: &CityState, now: Time, settled: &Settled) -> Decision {
        let c = &settled.contribution;
        if !state.leases.contains_key(&c.lease) {
            let refused = ToMember::Refused { lease: c.lease, reason: Refusal::NoLease };
            return Decision::answer(settled.node, refused);
        }
        let entry = Entry::Accepted {
            lease: c.lease,
            contribution: settled.contribution_blob,
            payload: settled.payload_blob,
            payload_root: c.payload_root,
            steps: c.steps,
            tokens: c.tokens,
            norm_squared: settled.norm_squared,
            private: c.private_after,
            time: now,
        };
        Decision { entries: vec![entry], answers: vec![] }
    }

    /// Closes what is ripe, and skips data that came back in too many pieces.
    pub fn tick(&mut self, state: &CityState, now: Time) -> Decision {
        let mut decision = Decision::default();
        for (id, job) in &state.jobs {
            if job.phase != JobPhase::Running {
                continue;
            }
            if job.closing.is_none() && self.is_ripe(state, now, *id, job) {
                let leases = job.accepted.keys().copied().collect();
                let entry = Entry::Closing { job: *id, round: job.version, leases, time: now };
                decision.entries.push(entry);
            }
            if let Some(Span { start, count }) = shortest_of_too_many(job) {
                decision.entries.push(Entry::Skipped { job: *id, start, count, time: now });
            }
        }
        decision
    }

    /// Whether the open round should close: everyone has handed in, or the quorum is reached and
    /// its grace is over, or patience has run out.
    fn is_ripe(&mut self, state: &CityState, now: Time, id: JobId, job: &Job) -> bool {
        let accepted: Tokens = job.accepted.values().map(|a| a.tokens).sum();
        if accepted.0 == 0 {
            return false;
        }
        let planned = self.planned_ms(job);
        let awaited = self.awaited_tokens(state, id, job, planned);
        if awaited == 0 {
            return true;
        }
        let replicas = &job.spec.replicas;
        let all = accepted.0 + awaited;
        let quorum = accepted.0.saturating_mul(1000) >= all * u64::from(replicas.quorum_per_mille);
        let patience = planned * ROUND_PATIENCE + replicas.grace_ms;
        let pace = self.pace_of(id, job);
        let opened = *pace.opened.get_or_insert(now);
        if quorum {
            let reached = *pace.quorum.get_or_insert(now);
            return now.since(reached).0 >= replicas.grace_ms;
        }
        now.since(opened).0 >= patience
    }

    /// Tokens that members now here will likely still hand in for this round.
    fn awaited_tokens(&self, state: &CityState, id: JobId, job: &Job, planned_ms: u64) -> u64 {
        let mut awaited = 0_u64;
        for (node, live) in &self.live {
            let worker = state.members.get(node).is_some_and(|m| m.role == Role::Join && !m.left);
            let done = job.accepted.values().any(|a| a.node == *node && a.base == job.version);
            if !worker || live.paused || live.waiting || done {
                continue;
            }
            match state.lease_of(*node) {
                Some(r) if r.job == id && r.base == job.version => {
                    awaited += u64::from(r.steps) * job.spec.tokens_a_step();
                }
                // It has just been told of this version and will ask for its lease.
                None if live.rate > 0 => {
                    awaited += (u64::from(live.rate) * planned_ms / 1000).max(1);
                }
                _ => {}
            }
        }
        awaited
    }

    /// The moment after which [`Authority::tick`] should run again.
    #[must_use]
    pub fn next_tick(&self, now: Time) -> Time {
        now.after(Duration(100))
    }

    /// A version was published: whoever waited for it may ask again.
    pub fn published(&mut self) {
        for live in self.live.values_mut() {
            live.waiting = false;
        }
    }
}

/// Whether an open lease is what this request is to be answered with: granted a moment ago, for
/// the version and from the private state that the member still has.
fn unheard(record: &LeaseRecord, state: &CityState, now: Time, ask: &Ask) -> bool {
    let job = state.jobs.get(&record.job);
    let open = job.is_some_and(|job| job.phase == JobPhase::Running && job.closing.is_none());
    let same_private = match record.private {
        Private::Sealed(hash) => ask.private == hash,
        Private::Fresh => true,
    };
    let young = now.since(record.time).0 < OFFER_AGAIN.0;
    open && young && same_private && ask.have == Some((record.job, record.base))
}

/// Where a lease of about `wanted` steps finds its data: a returned stretch that is at least half
/// as long as wanted, else fresh data. A lease is one contiguous range.
fn place(job: &Job, wanted: u32) -> Option<(u64, u32)> {
    let batch = u64::from(job.spec.training.batch_sequences);
    let whole_steps = |span: &Span| u32::try_from(span.count / batch).unwrap_or(u32::MAX);
    let fits = |span: &&Span| whole_steps(span) >= wanted.div_ceil(2);
    if let Some(span) = job.returned.iter().filter(fits).min_by_key(|span| span.start) {
        return Some((span.start, wanted.min(whole_steps(span))));
    }
    job.cursor.checked_add(u64::from(wanted) * batch)?;
    Some((job.cursor, wanted))
}

fn shortest_of_too_many(job: &Job) -> Option<Span> {
    if job.returned.len() <= SPANS_MAX {
        return None;
    }
    job.returned.iter().min_by_key(|span| span.count).copied()
}
