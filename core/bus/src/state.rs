//! What a city knows for certain: the fold of its log. `apply` reads no clock and nothing but the
//! entry and the state, so that recovery and a later replicated log give the same result
//! (DESIGN 5.2). What to write next is decided elsewhere ([`crate::authority`]).

use crate::head::Head;
use crate::job::JobSpec;
use crate::merge::clips;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use suanli_base::{CityId, Hash, JobId, LeaseId, NodeId, Round, TicketId, Tokens};
use suanli_identity::{Role, Signed};
use suanli_log::{Entry, JobPhase, LeaseEnd, LeaseRecord, StateBlobs};

/// How many past versions keep their update readable.
pub const UPDATES_KEPT: usize = 8;
/// How many past versions keep their parameters readable.
pub const THETAS_KEPT: usize = 2;
/// How many returned stretches of data are remembered; beyond, the shortest is skipped.
pub const SPANS_MAX: usize = 64;
const LOSSES_MAX: usize = 1024;

/// The state of a city.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CityState {
    /// Its key; zero before the first entry.
    pub city: CityId,
    /// What people call it.
    pub name: String,
    /// Everyone who was ever admitted.
    pub members: BTreeMap<NodeId, Member>,
    /// How often each ticket was used.
    pub ticket_uses: BTreeMap<TicketId, u32>,
    /// All jobs.
    pub jobs: BTreeMap<JobId, Job>,
    /// Leases that may still be answered.
    pub leases: BTreeMap<LeaseId, LeaseRecord>,
    /// The next lease's id.
    pub next_lease: LeaseId,
}

/// One admitted node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The ticket it came with.
    pub ticket: TicketId,
    /// Whether it said farewell.
    pub left: bool,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What was agreed on.
    pub spec: JobSpec,
    /// Who handed it in.
    pub trainer: NodeId,
    /// Where it stands.
    pub phase: JobPhase,
    /// The published version.
    pub version: Round,
    /// Its signed head.
    pub head: Signed,
    /// Merkle root of its parameters.
    pub theta_root: Hash,
    /// Its blobs.
    pub state: StateBlobs,
    /// Committed tokens.
    pub tokens: Tokens,
    /// Tokens that the newest round committed.
    pub round_tokens: Tokens,
    /// Next sample position nobody has had.
    pub cursor: u64,
    /// Stretches that came back, to be leased again.
    pub returned: Vec<Span>,
    /// Samples given up.
    pub skipped: u64,
    /// Stored contributions waiting for a merge.
    pub accepted: BTreeMap<LeaseId, Accepted>,
    /// The leases being merged.
    pub closing: Option<Vec<LeaseId>>,
    /// Versions whose bytes are still kept, oldest first.
    pub recent: Vec<Recent>,
    /// Hash of each replica's newest sealed private state.
    pub private: BTreeMap<NodeId, Hash>,
    /// What each node has contributed.
    pub contributed: BTreeMap<NodeId, Contributed>,
    /// The held-out losses, thinned out when they grow too many.
    pub losses: Vec<LossPoint>,
}

/// A stretch of the job's sample sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First position.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// A stored contribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Whose.
    pub node: NodeId,
    /// The version it started from.
    pub base: Round,
    /// Blob of the signed contribution.
    pub contribution: Hash,
    /// Blob of the payload.
    pub payload: Hash,
    /// Merkle root over its chunks.
    pub payload_root: Hash,
    /// Tokens trained on.
    pub tokens: Tokens,
    /// Squared norm of the decoded payload.
    pub norm_squared: f64,
}

/// A version whose bytes are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// Which version.
    pub version: Round,
    /// Its signed head.
    pub head: Signed,
    /// Blob of its parameters, while kept.
    pub theta: Option<Hash>,
    /// Blob of the update that led to it; none for version 0.
    pub update: Option<Hash>,
}

/// What a node has contributed to a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contributed {
    /// Merged or waiting contributions.
    pub contributions: u64,
    /// Their steps.
    pub steps: u64,
    /// Their tokens.
    pub tokens: Tokens,
}

/// A measured held-out loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Of which version.
    pub version: Round,
    /// Committed tokens at that version.
    pub tokens: Tokens,
    /// Nats a token.
    pub loss: f32,
}

/// What has to happen because an entry became durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell a replica about its lease.
    Offer(LeaseRecord),
    /// Tell a replica that its contribution is stored.
    Accepted {
        /// Whom.
        node: NodeId,
        /// Which.
        lease: LeaseId,
    },
    /// Tell a replica that its lease ended.
    Revoked {
        /// Whom.
        node: NodeId,
        /// Which.
        lease: LeaseId,
    },
    /// Merge and report back.
    Merge(MergeOrder),
    /// A version is readable: tell everyone, measure its loss.
    Published {
        /// Which job.
        job: JobId,
        /// Which version.
        version: Round,
        /// Its signed head, to be kept for good.
        head: Signed,
    },
    /// A job reached its end.
    Finished {
        /// Which.
        job: JobId,
    },
    /// Nobody needs these blobs any more.
    Forget(Vec<Hash>),
}

/// What to merge, completely: a merge computed anew after a crash gives the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeOrder {
    /// Which job.
    pub job: JobId,
    /// The version to start from.
    pub round: Round,
    /// Its outer state.
    pub state: StateBlobs,
    /// The outer momentum of this round.
    pub outer_momentum: f32,
    /// The contributions in ascending lease id.
    pub items: Vec<MergeItem>,
}

/// One contribution to a merge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeItem {
    /// Its lease.
    pub lease: LeaseId,
    /// Blob of its payload.
    pub payload: Hash,
    /// Weight before normalising: tokens, divided by 1 + rounds late.
    pub weight: f32,
    /// Factor that clips it to the median norm.
    pub clip: f32,
}

/// An entry cannot follow this state: the log is damaged, or this program has a defect. The city
/// stops; it does not guess.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the city's log does not make sense: {what}; expected {expected}; keep the folder as it is and report this"
)]
pub struct Inconsistent {
    /// The entry at fault.
    pub what: &'static str,
    /// What should have held.
    pub expected: &'static str,
}

impl Default for CityState {
    fn default() -> Self {
        Self::new()
    }
}

impl CityState {
    /// The state before the first entry.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            city: CityId::ZERO,
            name: String::new(),
            members: BTreeMap::new(),
            ticket_uses: BTreeMap::new(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: LeaseId(1),
        }
    }

    /// Takes one durable entry and says what follows from it.
    ///
    /// # Errors
    /// [`Inconsistent`] when the entry cannot follow this state; the state is then not to be used.
    pub fn apply(&mut self, entry: &Entry) -> Result<Vec<Effect>, Inconsistent> {
        match entry {
            Entry::Founded { city, name, .. } => {
                require(self.city == CityId::ZERO, "founded", "to be the first entry")?;
                (self.city, self.name) = (*city, name.clone());
                Ok(vec![])
            }
            Entry::Joined { node, name, role, ticket, .. } => {
                let known = self.members.get(node).is_some_and(|m| m.ticket == *ticket);
                let member =
                    Member { name: name.clone(), role: *role, ticket: *ticket, left: false };
                self.members.insert(*node, member);
                if !known {
                    *self.ticket_uses.entry(*ticket).or_default() += 1;
                }
                Ok(vec![])
            }
            Entry::Left { node, .. } => {
                let member = self.members.get_mut(node);
                let member = member.ok_or(wrong("left", "a known member"))?;
                member.left = true;
                Ok(self.end_leases_of(*node))
            }
            Entry::JobAdded { job, spec, trainer, head, state, .. } => {
                self.add_job(*job, spec, *trainer, head, *state)
            }
            Entry::JobMoved { job, to, .. } => self.move_job(*job, *to),
            Entry::Leased(record) => self.lease(record),
            Entry::LeaseEnded { lease, reason, .. } => {
                let record = self.leases.remove(lease);
                let record = record.ok_or(wrong("lease ended", "an open lease"))?;
                self.give_back(&record, 0);
                let node = record.replica[0];
                Ok(match reason {
                    LeaseEnd::Declined | LeaseEnd::Superseded => vec![],
                    LeaseEnd::Stale | LeaseEnd::JobEnded => {
                        vec![Effect::Revoked { node, lease: *lease }]
                    }
                })
            }
            Entry::Accepted { .. } => self.accept(entry),
            Entry::Closing { job, round, leases, .. } => self.close(*job, *round, leases),
            Entry::Committed { job, head, state, update, .. } => {
                self.commit(*job, head, *state, *update)
            }
            Entry::Evaluated { job, round, loss, .. } => {
                let job = self.job_mut(*job, "evaluated")?;
                let tokens = if *round == job.version { job.tokens } else { job.tokens_at(*round) };
                job.losses.push(LossPoint { version: *round, tokens, loss: *loss });
                thin(&mut job.losses);
                Ok(vec![])
            }
            Entry::Skipped { job, start, count, .. } => {
                let job = self.job_mut(*job, "skipped")?;
                let span = Span { start: *start, count: *count };
                let before = job.returned.len();
                job.returned.retain(|s| *s != span);
                require(job.returned.len() < before, "skipped", "a returned stretch")?;
                job.skipped += count;
                Ok(vec![])
            }
            _ => Err(wrong("unknown entry", "a program that knows it")),
        }
    }

    /// What was under way when the log ended: to be done again after a restart.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Effect> {
        let merges = self.jobs.iter().filter_map(|(id, job)| {
            let leases = job.closing.as_ref()?;
            Some(Effect::Merge(job.merge_order(*id, leases)))
        });
        merges.collect()
    }

    /// Every blob that may not be deleted.
    #[must_use]
    pub fn blobs(&self) -> Vec<Hash> {
        let mut blobs: Vec<Hash> = self.jobs.values().flat_map(Job::blobs).collect();
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    /// The open lease of a node on a job, if any.
    #[must_use]
    pub fn lease_of(&self, node: NodeId) -> Option<&LeaseRecord> {
        self.leases.values().find(|record| record.replica.contains(&node))
    }

    fn job_mut(&mut self, job: JobId, what: &'static str) -> Result<&mut Job, Inconsistent> {
        self.jobs.get_mut(&job).ok_or(wrong(what, "a known job"))
    }

    fn add_job(
        &mut self,
        id: JobId,
        spec: &[u8],
        trainer: NodeId,
        signed: &Signed,
        state: StateBlobs,
    ) -> Result<Vec<Effect>, Inconsistent> {
        require(JobSpec::id_of(spec) == id, "job added", "the hash of its specification as id")?;
        require(!self.jobs.contains_key(&id), "job added", "a new job")?;
        let spec = JobSpec::from_bytes(spec).map_err(|_| wrong("job added", "a sound job"))?;
        let head = Head::open(signed, self.city, id);
        let head = head.map_err(|_| wrong("job added", "a head signed by this city"))?;
        let first = head.version == Round(0) && head.theta_root == spec.theta_root;
        require(first, "job added", "the head of version 0")?;
        let recent = Recent {
            version: Round(0),
            head: signed.clone(),
            theta: Some(state.theta),
            update: None,
        };
        let job = Job {
            theta_root: spec.theta_root,
            spec,
            trainer,
            phase: JobPhase::Running,
            version: Round(0),
            head: signed.clone(),
            state,
            tokens: Tokens(0),
            round_tokens: Tokens(0),
            cursor: 0,
            returned: Vec::new(),
            skipped: 0,
            accepted: BTreeMap::new(),
            closing: None,
            recent: vec![recent],
            private: BTreeMap::new(),
            contributed: BTreeMap::new(),
            losses: Vec::new(),
        };
        self.jobs.insert(id, job);
        Ok(vec![Effect::Published { job: id, version: Round(0), head: signed.clone() }])
    }

    fn move_job(&mut self, id: JobId, to: JobPhase) -> Result<Vec<Effect>, Inconsistent> {
        let job = self.job_mut(id, "job moved")?;
        let over = matches!(job.phase, JobPhase::Finished | JobPhase::Cancelled);
        require(!over, "job moved", "a job that has not ended")?;
        job.phase = to;
        if !matches!(to, JobPhase::Finished | JobPhase::Cancelled) {
            return Ok(vec![]);
        }
        let mut effects = self.end_job(id);
        effects.push(Effect::Finished { job: id });
        Ok(effects)
    }

    fn lease(&mut self, record: &LeaseRecord) -> Result<Vec<Effect>, Inconsistent> {
        require(record.lease == self.next_lease, "leased", "the next lease id")?;
        require(record.replica.len() == 1, "leased", "a replica of one node")?;
        let job = self.job_mut(record.job, "leased")?;
        require(job.version == record.base, "leased", "the published version as base")?;
        require(job.take(record.start, record.samples()), "leased", "free data")?;
        self.next_lease = record.lease.next();
        self.leases.insert(record.lease, record.clone());
        Ok(vec![Effect::Offer(record.clone())])
    }

    fn accept(&mut self, entry: &Entry) -> Result<Vec<Effect>, Inconsistent> {
        let Entry::Accepted {
            lease,
            contribution,
            payload,
            payload_root,
            steps,
            tokens,
            norm_squared,
            private,
            ..
        } = entry
        else {
            return Err(wrong("accepted", "an acceptance"));
        };
        let open = self.leases.get(lease).cloned();
        let record = open.ok_or(wrong("accepted", "an open lease"))?;
        require((1..=record.steps).contains(steps), "accepted", "a prefix of the lease's steps")?;
        self.leases.remove(lease);
        self.give_back(&record, *steps);
        let node = record.replica[0];
        let job = self.job_mut(record.job, "accepted")?;
        job.accepted.insert(
            *lease,
            Accepted {
                node,
                base: record.base,
                contribution: *contribution,
                payload: *payload,
                payload_root: *payload_root,
                tokens: *tokens,
                norm_squared: *norm_squared,
            },
        );
        job.private.insert(node, *private);
        let total = job.contributed.entry(node).or_default();
        total.contributions += 1;
        total.steps += u64::from(*steps);
        total.tokens += *tokens;
        Ok(vec![Effect::Accepted { node, lease: *lease }])
    }

    fn close(
        &mut self,
        id: JobId,
        round: Round,
        leases: &[LeaseId],
    ) -> Result<Vec<Effect>, Inconsistent> {
        let job = self.job_mut(id, "closing")?;
        require(job.version == round && job.closing.is_none(), "closing", "the open round")?;
        let sorted = leases.windows(2).all(|pair| pair[0] < pair[1]);
        let known = leases.iter().all(|lease| job.accepted.contains_key(lease));
        require(sorted && known && !leases.is_empty(), "closing", "accepted leases, ascending")?;
        job.closing = Some(leases.to_vec());
        Ok(vec![Effect::Merge(job.merge_order(id, leases))])
    }

    fn commit(
        &mut self,
        id: JobId,
        signed: &Signed,
        state: StateBlobs,
        update: Hash,
    ) -> Result<Vec<Effect>, Inconsistent> {
        let city = self.city;
        let job = self.job_mut(id, "committed")?;
        let head = Head::open(signed, city, id);
        let head = head.map_err(|_| wrong("committed", "a head signed by this city"))?;
        let follows = head.version == job.version.next() && head.before == job.head.hash();
        require(follows, "committed", "the head that follows")?;
        let leases = job.closing.take().ok_or(wrong("committed", "a closed round"))?;
        let mut forget = Vec::new();
        for lease in &leases {
            if let Some(accepted) = job.accepted.remove(lease) {
                forget.extend([accepted.contribution, accepted.payload]);
            }
        }
        forget.extend([job.state.momentum, job.state.residual]);
        job.round_tokens = Tokens(head.tokens.0.saturating_sub(job.tokens.0));
        job.tokens = head.tokens;
        job.version = head.version;
        job.head = signed.clone();
        job.theta_root = head.theta_root;
        job.state = state;
        job.recent.push(Recent {
            version: head.version,
            head: signed.clone(),
            theta: Some(state.theta),
            update: Some(update),
        });
        forget.extend(job.drop_old());
        let version = job.version;
        let done = job.spec.is_done(version.0, job.tokens);
        let mut effects = vec![Effect::Published { job: id, version, head: signed.clone() }];
        effects.extend(self.end_stale(id));
        if done {
            effects.extend(self.move_job(id, JobPhase::Finished)?);
        }
        let kept = self.blobs();
        forget.retain(|blob| kept.binary_search(blob).is_err());
        effects.push(Effect::Forget(forget));
        Ok(effects)
    }

    /// Ends the leases that are too many rounds behind; part of a commit, so that no entry is
    /// needed.
    fn end_stale(&mut self, id: JobId) -> Vec<Effect> {
        let Some(job) = self.jobs.get(&id) else { return vec![] };
        let (version, late) = (job.version.0, job.spec.replicas.staleness_max);
        self.end_where(|r| r.job == id && r.base.0.saturating_add(late) < version)
    }

    fn end_job(&mut self, id: JobId) -> Vec<Effect> {
        self.end_where(|record| record.job == id)
    }

    fn end_leases_of(&mut self, node: NodeId) -> Vec<Effect> {
        self.end_where(|record| record.replica.contains(&node))
    }

    fn end_where(&mut self, ends: impl Fn(&LeaseRecord) -> bool) -> Vec<Effect> {
        let ended: Vec<LeaseRecord> = self.leases.values().filter(|r| ends(r)).cloned().collect();
        for record in &ended {
            self.leases.remove(&record.lease);
            self.give_back(record, 0);
        }
        let revoked = |r: &LeaseRecord| Effect::Revoked { node: r.replica[0], lease: r.lease };
        ended.iter().map(revoked).collect()
    }

    /// Returns what a lease did not train on after `steps` steps.
    fn give_back(&mut self, record: &LeaseRecord, steps: u32) {
        let done = u64::from(steps) * u64::from(record.batch_sequences);
        let count = record.samples() - done;
        let Some(job) = self.jobs.get_mut(&record.job) else { return };
        if count > 0 {
            job.returned.push(Span { start: record.start + done, count });
        }
    }
}

impl Job {
    /// The weight and clip of each contribution to be merged (DESIGN 5.4).
    #[must_use]
    pub fn merge_order(&self, id: JobId, leases: &[LeaseId]) -> MergeOrder {
        let chosen = || leases.iter().filter_map(|id| Some((*id, self.accepted.get(id)?)));
        let norms: Vec<f64> = chosen().map(|(_, a)| a.norm_squared.sqrt()).collect();
        let items = chosen().zip(clips(&norms)).map(|((lease, accepted), clip)| {
            let late = self.version.0.saturating_sub(accepted.base.0);
            MergeItem {
                lease,
                payload: accepted.payload,
                weight: accepted.tokens.0 as f32 / (1 + late) as f32,
                clip,
            }
        });
        MergeOrder {
            job: id,
            round: self.version,
            state: self.state,
            outer_momentum: self.spec.training.outer_momentum_at(self.tokens),
            items: items.collect(),
        }
    }

    /// Committed tokens at a version that is still remembered; those of now otherwise.
    fn tokens_at(&self, version: Round) -> Tokens {
        let recent = self.recent.iter().find(|recent| recent.version == version);
        let head = recent.and_then(|r| postcard::from_bytes::<Head>(&r.head.bytes).ok());
        head.map_or(self.tokens, |head| head.tokens)
    }

    /// Takes a stretch out of what is free. False when it is not free.
    fn take(&mut self, start: u64, count: u64) -> bool {
        if start == self.cursor {
            self.cursor += count;
            return true;
        }
        let holds = |s: &Span| s.start == start && count <= s.count;
        let Some(at) = self.returned.iter().position(holds) else { return false };
        let span = &mut self.returned[at];
        (span.start, span.count) = (start + count, span.count - count);
        if span.count == 0 {
            self.returned.remove(at);
        }
        true
    }

    fn drop_old(&mut self) -> Vec<Hash> {
        let mut forget = Vec::new();
        let thetas = self.recent.len().saturating_sub(THETAS_KEPT);
        for recent in &mut self.recent[..thetas] {
            forget.extend(recent.theta.take());
        }
        let old = self.recent.len().saturating_sub(UPDATES_KEPT);
        forget.extend(self.recent.drain(..old).filter_map(|recent| recent.update));
        forget
    }

    fn blobs(&self) -> Vec<Hash> {
        let state = [self.state.theta, self.state.momentum, self.state.residual];
        let recent = self.recent.iter().flat_map(|r| [r.theta, r.update]).flatten();
        let accepted = self.accepted.values().flat_map(|a| [a.contribution, a.payload]);
        state.into_iter().chain(recent).chain(accepted).collect()
    }
}

/// Halves the density of the older half when there are too many points.
fn thin(losses: &mut Vec<LossPoint>) {
    if losses.len() <= LOSSES_MAX {
        return;
    }
    let half = losses.len() / 2;
    let mut index = 0;
    losses.retain(|_| {
        index += 1;
        index > half || index % 2 == 1
    });
}

fn wrong(what: &'static str, expected: &'static str) -> Inconsistent {
    Inconsistent { what, expected }
}

fn require(holds: bool, what: &'static str, expected: &'static str) -> Result<(), Inconsistent> {
    if holds { Ok(()) } else { Err(wrong(what, expected)) }
}
