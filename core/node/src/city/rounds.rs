//! Entries and what follows from them: rounds, jobs, work for the host.

use super::{
    After, CityNode, Command, CommandId, Done, Output, ReplyTo, SNAPSHOT_EVERY, Served,
    SettleFault, Source, Stage, Submission, TENSORS_BYTES_MAX, Work, Writer,
};
use crate::name::{JobRegion, Name};
use crate::shape;
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{FragmentId, Hash, JobId, NodeId, Round, Tokens};
use suanli_bus::authority::Decision;
use suanli_bus::state::{Effect, Inconsistent};
use suanli_bus::{Authority, HEAD_FORMAT, Head, JobOutcome, JobSpec, Merged, Refusal, ToMember};
use suanli_log::{Entry, JobPhase, StateBlobs};
use suanli_params::Codec;
use suanli_rdpa::RegionInfo;

impl CityNode {
    pub(super) fn work(&mut self, work: Work) {
        self.outputs.push_back(Output::Work(work));
    }

    /// Hands entries to the host; they count once it says they are durable.
    pub(super) fn propose(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        debug_assert!(self.proposed.is_empty(), "one append at a time");
        let bytes = entries.iter().map(Entry::to_bytes).collect();
        self.proposed = entries;
        self.outputs.push_back(Output::Append(bytes));
    }

    pub(super) fn decide(&mut self, decision: Decision) {
        for (node, message) in &decision.answers {
            self.tell(*node, message);
        }
        self.propose(decision.entries);
    }

    /// What was proposed is durable: now it counts, and now it may be told.
    pub(super) fn durable(&mut self) -> Result<(), Inconsistent> {
        let entries = core::mem::take(&mut self.proposed);
        for entry in &entries {
            let effects = self.state.apply(entry)?;
            self.since_snapshot += 1;
            for effect in effects {
                self.effect(effect);
            }
        }
        self.unstage_ended();
        for after in core::mem::take(&mut self.after) {
            match after {
                After::Welcome { conn, token, role } => self.welcome(conn, token, role),
                After::Outcome { to, job } => self.outcome(to, job, JobOutcome::Done),
                After::Offered { job, theta_chunks } => self.offered(job, theta_chunks),
            }
        }
        if self.since_snapshot >= SNAPSHOT_EVERY {
            self.since_snapshot = 0;
            let bytes = postcard::to_stdvec(&self.state).expect("our own types always encode");
            self.outputs.push_back(Output::Snapshot(bytes));
        }
        self.read_on();
        self.evaluate_rounds();
        Ok(())
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Offer(record) => {
                let node = record.replica[0];
                self.tell(node, &ToMember::Offer(record));
            }
            Effect::Accepted { node, lease } => {
                self.tell(node, &ToMember::Accepted { lease });
            }
            Effect::Revoked { node, lease } => {
                self.tell(node, &ToMember::Revoked { lease });
            }
            Effect::Merge(order) => {
                if let Some(job) = self.state.jobs.get(&order.job) {
                    let spec = Box::new(job.spec.clone());
                    self.writing.insert(Writer::Merge(order.job));
                    self.work(Work::Merge { order, spec });
                }
            }
            Effect::Published { job, version, head } => {
                self.work(Work::KeepHead { job, version, head });
                self.authority.published();
                self.to_evaluate.insert(job, version);
                self.notify(job, version);
                self.evaluate_next();
            }
            Effect::Finished { job } => {
                self.outputs.push_back(Output::Note(format!("job {} has ended", job.short())));
            }
            Effect::Forget(blobs) => {
                if !blobs.is_empty() {
                    self.unneeded.push((self.writing.clone(), blobs));
                }
            }
        }
    }

    /// The work is done or given up: what it named counts from now on, or never.
    fn written(&mut self, writer: Writer) {
        self.writing.remove(&writer);
        for (writers, _) in &mut self.unneeded {
            writers.remove(&writer);
        }
    }

    /// Forgets what nobody needs once everything is done that was under way when that was found and
    /// may have written the same bytes again.
    pub(super) fn forget_unneeded(&mut self) {
        if !self.proposed.is_empty()
            || self.unneeded.iter().all(|(under_way, _)| !under_way.is_empty())
        {
            return;
        }
        let kept = self.state.blobs();
        let mut gone = Vec::new();
        self.unneeded.retain_mut(|(under_way, blobs)| {
            if under_way.is_empty() {
                gone.append(blobs);
            }
            !under_way.is_empty()
        });
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|blob| kept.binary_search(blob).is_err());
        if !gone.is_empty() {
            self.work(Work::Forget(gone));
        }
    }

    fn notify(&mut self, job: JobId, version: Round) {
        let region = Name::Job(job, JobRegion::Theta).region();
        let now = self.now;
        for conn in self.conns.values_mut() {
            let may = match &conn.guest {
                Some(guest) => guest.may_be_told(&mut self.gate, now, &region),
                None => conn.role.is_some(),
            };
            if !may {
                continue;
            }
            conn.session.notify(now, &region, version.0, &Bytes::new());
        }
    }

    /// Closes rounds that are ripe.
    pub(super) fn evaluate_rounds(&mut self) {
        if self.proposed.is_empty() {
            let decision = self.authority.tick(&self.state, self.now);
            self.decide(decision);
        }
    }

    fn evaluate_next(&mut self) {
        if self.evaluating.is_some() {
            return;
        }
        let Some((job, version)) = self.to_evaluate.pop_first() else { return };
        let Some(theta) = self.state.jobs.get(&job).map(|job| job.state.theta) else { return };
        self.evaluating = Some((job, version));
        self.work(Work::Evaluate { job, version, theta });
    }

    /// What a restart begins with: everything that was under way or is only in memory.
    pub(super) fn resume(&mut self) {
        let jobs: Vec<JobId> = self.state.jobs.keys().copied().collect();
        for id in jobs {
            let job = &self.state.jobs[&id];
            let updates = job.recent.iter().filter_map(|r| Some((r.version, r.update?))).collect();
            let (theta, codec) = (job.state.theta, job.spec.training.codec);
            let parameters = job.spec.parameters;
            let heads: Vec<_> =
                job.recent.iter().map(|recent| (recent.version, recent.head.clone())).collect();
            if job.losses.last().is_none_or(|point| point.version != job.version) {
                self.to_evaluate.insert(id, job.version);
            }
            self.offer_content(id);
            for (version, head) in heads {
                self.work(Work::KeepHead { job: id, version, head });
            }
            self.work(Work::Catalogue { job: id, theta, updates, codec, parameters });
        }
        for effect in self.state.unfinished() {
            self.effect(effect);
        }
        self.evaluate_next();
    }

    /// Makes a job's specification and data readable.
    fn offer_content(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let spec = &job.spec;
        let bytes = spec.to_bytes();
        let info = RegionInfo::of(1, &bytes, 1 << 20).expect("a specification is small, not empty");
        let mut offered = vec![(JobRegion::Spec, Arc::new(info), Source::Spec(id))];
        let shards = (0_u32..).zip(&spec.data.shards);
        let named = shards.map(|(index, shard)| (JobRegion::Shard(index), shard.root)).chain([
            (JobRegion::HeldOut, spec.data.held_out.root),
            (JobRegion::Tokenizer, spec.tokenizer),
        ]);
        let frozen = spec.frozen.iter().map(|frozen| (JobRegion::Frozen, frozen.packed_root));
        for (region, root) in named.chain(frozen) {
            if let Some(info) = self.content.get(&root) {
                offered.push((region, Arc::clone(info), Source::Content(root)));
            }
        }
        for (region, info, source) in offered {
            self.regions.insert(Name::Job(id, region).region(), Served { info, source });
        }
    }

    /// Makes the description of a job's tensors readable.
    pub(super) fn describe(&mut self, id: JobId, tensors: Bytes) {
        if !self.state.jobs.contains_key(&id) || tensors.len() > TENSORS_BYTES_MAX {
            return;
        }
        let Ok(info) = RegionInfo::of(1, &tensors, 1 << 20) else { return };
        self.tensors.insert(id, tensors);
        let served = Served { info: Arc::new(info), source: Source::Tensors(id) };
        self.regions.insert(Name::Job(id, JobRegion::Tensors).region(), served);
    }

    fn offer_theta(&mut self, id: JobId, version: Round, chunks: Vec<Hash>, theta: Hash) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let Some(info) = info_of(Codec::F32, job.spec.parameters, version, chunks) else { return };
        let name = Name::Job(id, JobRegion::Theta).region();
        let served = Served { info: Arc::new(info), source: Source::Blob(theta) };
        if let Some(before) = self.regions.insert(name.clone(), served) {
            let gone = |(region, v): &(_, u64)| *region == name && *v + 1 < version.0;
            self.older.retain(|key, _| !gone(key));
            self.older.insert((name, before.info.version), before);
        }
    }

    fn offer_update(&mut self, id: JobId, version: Round, chunks: Vec<Hash>, update: Hash) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let codec = job.spec.training.codec;
        let Some(info) = info_of(codec, job.spec.parameters, version, chunks) else { return };
        let served = Served { info: Arc::new(info), source: Source::Blob(update) };
        self.regions.insert(Name::Job(id, JobRegion::Update(version)).region(), served);
        let kept: Vec<Round> = job.recent.iter().map(|recent| recent.version).collect();
        self.regions.retain(|region, _| match Name::parse(region) {
            Some(Name::Job(job, JobRegion::Update(v))) if job == id => {
                v == version || kept.contains(&v)
            }
            _ => true,
        });
    }

    /// Takes in what the host did.
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Read { conn, token, bytes } => self.read_done(conn, token, bytes),
            Done::BooksKept => self.books_kept(),
            Done::Heads { conn, job, heads } => self.heads_read(conn, job, heads),
            Done::Stored { root, info, stored } => self.stored(root, info, stored),
            Done::Settled { node, lease, result } => {
                self.settling.remove(&lease);
                self.written(Writer::Settle(lease));
                match result {
                    Ok(settled) => {
                        if !self.state.leases.contains_key(&lease) {
                            // The lease ended meanwhile: nobody will ever name these.
                            let blobs = vec![settled.contribution_blob, settled.payload_blob];
                            self.unneeded.push((self.writing.clone(), blobs));
                        }
                        let decision = Authority::settled(&self.state, self.now, &settled);
                        self.decide(decision);
                    }
                    Err(fault) => {
                        self.unstage(Stage::Lease(lease));
                        let reason = match fault {
                            SettleFault::Payload => Refusal::BadPayload,
                            SettleFault::Disk => Refusal::Incomplete,
                        };
                        self.tell(node, &ToMember::Refused { lease, reason });
                    }
                }
            }
            Done::Merged { job, round, update, update_chunks, theta_chunks, state } => {
                self.written(Writer::Merge(job));
                self.merged(job, round, update, update_chunks, theta_chunks, state);
            }
            Done::Founded { job, state } => {
                self.written(Writer::Found(job));
                self.founded(job, state);
            }
            Done::Catalogued { job, theta_chunks, updates } => {
                let Some(known) = self.state.jobs.get(&job) else { return };
                let (version, theta) = (known.version, known.state.theta);
                // A round may have been committed since: its parameters are offered already.
                let current = suanli_params::root(&theta_chunks) == known.theta_root;
                let kept: Vec<Round> = known.recent.iter().map(|recent| recent.version).collect();
                for (version, blob, chunks) in updates {
                    if kept.contains(&version) {
                        self.offer_update(job, version, chunks, blob);
                    }
                }
                if current {
                    self.offer_theta(job, version, theta_chunks, theta);
                    self.notify(job, version);
                }
            }
            Done::Evaluated { job, version, loss } => {
                self.evaluating = None;
                if let Some(loss) = loss.filter(|_| self.state.jobs.contains_key(&job)) {
                    let time = self.now;
                    self.propose(vec![Entry::Evaluated { job, round: version, loss, time }]);
                }
                self.evaluate_next();
            }
        }
    }

    fn merged(
        &mut self,
        id: JobId,
        round: Round,
        update: Hash,
        update_chunks: Vec<Hash>,
        theta_chunks: Vec<Hash>,
        state: StateBlobs,
    ) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let Some(leases) = job.closing.as_ref().filter(|_| job.version == round) else { return };
        let order = job.merge_order(id, leases);
        let items = order.items.iter().filter_map(|item| {
            let accepted = job.accepted.get(&item.lease)?;
            Some(Merged {
                lease: item.lease,
                node: accepted.node,
                contribution: accepted.contribution,
                payload_root: accepted.payload_root,
                tokens: accepted.tokens,
                weight: item.weight,
                clip: item.clip,
            })
        });
        let merged: Vec<Merged> = items.collect();
        let tokens: Tokens = merged.iter().map(|merged| merged.tokens).sum();
        let version = round.next();
        let head = Head {
            format: HEAD_FORMAT,
            city: self.state.city,
            job: id,
            fragment: FragmentId(0),
            version,
            before: job.head.hash(),
            theta_root: suanli_params::root(&theta_chunks),
            update_root: suanli_params::root(&update_chunks),
            merged,
            tokens: job.tokens + tokens,
            time: self.now,
        };
        let head = head.sign(&self.key);
        let entry = Entry::Committed { job: id, head, state, update, time: self.now };
        // Offered before they are named by a published head: nobody can ask for them by then.
        self.offer_update(id, version, update_chunks, update);
        self.offer_theta(id, version, theta_chunks, state.theta);
        self.propose(vec![entry]);
    }

    /// A job is handed in.
    pub(super) fn submit(&mut self, bytes: Vec<u8>, trainer: NodeId, to: ReplyTo) {
        let id = JobSpec::id_of(&bytes);
        let spec = match JobSpec::from_bytes(&bytes) {
            Ok(spec) => spec,
            Err(error) => {
                return self.outcome(to, JobId::ZERO, JobOutcome::Refused(error.to_string()));
            }
        };
        if self.state.jobs.contains_key(&id) {
            return self.outcome(to, id, JobOutcome::Known);
        }
        if let Some(missing) = self.missing_content(&spec) {
            let text = format!("the {missing} is not stored in the city: write it first");
            return self.outcome(to, id, JobOutcome::Refused(text));
        }
        let submission = self.submitting.entry(id).or_insert_with(|| Submission {
            spec: bytes,
            trainer,
            to: Vec::new(),
        });
        submission.to.push(to);
        if submission.to.len() == 1 {
            self.writing.insert(Writer::Found(id));
            self.work(Work::Found { job: id, spec: Box::new(spec) });
        }
    }

    fn missing_content(&self, spec: &JobSpec) -> Option<String> {
        let holds = |root: &Hash, bytes: Option<u64>| {
            self.content.get(root).is_some_and(|i| bytes.is_none_or(|b| i.shape.bytes == b))
        };
        let (data, theta) = (&spec.data, spec.parameters * 4);
        let wrong = data.shards.iter().position(|shard| !holds(&shard.root, Some(shard.bytes)));
        if let Some(index) = wrong {
            return Some(format!("data shard {index}"));
        }
        let held_out = &data.held_out;
        let rules = [
            ("held-out shard", holds(&held_out.root, Some(held_out.bytes))),
            ("tokenizer", holds(&spec.tokenizer, None)),
            ("first parameters", holds(&spec.theta_root, Some(theta))),
            (
                "frozen model",
                spec.frozen
                    .as_ref()
                    .is_none_or(|frozen| holds(&frozen.packed_root, Some(frozen.packed_bytes))),
            ),
        ];
        rules.into_iter().find(|rule| !rule.1).map(|rule| rule.0.to_string())
    }

    fn founded(&mut self, id: JobId, state: Result<(StateBlobs, Vec<Hash>), String>) {
        let Some(submission) = self.submitting.remove(&id) else { return };
        let (state, theta_chunks) = match state {
            Ok(founded) => founded,
            Err(text) => {
                for to in submission.to {
                    self.outcome(to, id, JobOutcome::Refused(text.clone()));
                }
                return;
            }
        };
        let head = Head {
            format: HEAD_FORMAT,
            city: self.state.city,
            job: id,
            fragment: FragmentId(0),
            version: Round(0),
            before: Hash::ZERO,
            theta_root: suanli_params::root(&theta_chunks),
            update_root: Hash::ZERO,
            merged: Vec::new(),
            tokens: Tokens(0),
            time: self.now,
        };
        let entry = Entry::JobAdded {
            job: id,
            spec: submission.spec,
            trainer: submission.trainer,
            head: head.sign(&self.key),
            state,
            time: self.now,
        };
        for to in submission.to {
            self.after.push(After::Outcome { to, job: id });
        }
        self.after.push(After::Offered { job: id, theta_chunks });
        self.propose(vec![entry]);
    }

    pub(super) fn offered(&mut self, id: JobId, theta_chunks: Vec<Hash>) {
        let Some(theta) = self.state.jobs.get(&id).map(|job| job.state.theta) else { return };
        self.offer_content(id);
        self.offer_theta(id, Round(0), theta_chunks, theta);
    }

    pub(super) fn move_job(&mut self, id: JobId, to: JobPhase, may: bool, reply: ReplyTo) {
        let refused = |text: &str| JobOutcome::Refused(text.to_string());
        let outcome = match self.state.jobs.get(&id).map(|job| job.phase) {
            None => refused("no such job; see `suanli jobs`"),
            Some(_) if !may => refused("only its trainer or the operator may do that"),
            Some(JobPhase::Finished | JobPhase::Cancelled) => refused("the job has ended"),
            Some(phase) if phase == to => JobOutcome::Known,
            Some(_) if to == JobPhase::Finished => refused("a job finishes by itself"),
            Some(_) => {
                self.after.push(After::Outcome { to: reply, job: id });
                let time = self.now;
                return self.propose(vec![Entry::JobMoved { job: id, to, time }]);
            }
        };
        self.outcome(reply, id, outcome);
    }

    pub(super) fn outcome(&mut self, to: ReplyTo, job: JobId, outcome: JobOutcome) {
        match to {
            ReplyTo::Command(id) => self.outputs.push_back(Output::Reply { id, outcome, job }),
            ReplyTo::Conn(conn) => {
                if let Some(peer) = self.conns.get(&conn).map(|conn| conn.peer) {
                    self.tell(peer, &ToMember::Job { job, outcome });
                }
            }
        }
    }

    pub(super) fn command(&mut self, id: CommandId, command: Command) {
        let operator = NodeId::from(self.state.city);
        match command {
            Command::Submit { spec } => self.submit(spec, operator, ReplyTo::Command(id)),
            Command::Move { job, to } => self.move_job(job, to, true, ReplyTo::Command(id)),
            Command::Content(info) => {
                self.content.insert(info.root, Arc::new(info));
                self.outcome(ReplyTo::Command(id), JobId::ZERO, JobOutcome::Done);
            }
            Command::Revoke(prefix) => self.revoke_by_hand(id, prefix),
            Command::Stop => {
                self.authority.stop();
                self.outcome(ReplyTo::Command(id), JobId::ZERO, JobOutcome::Done);
            }
        }
    }
}

/// Describes parameters or an update by the hashes of its chunks.
fn info_of(codec: Codec, parameters: u64, version: Round, chunks: Vec<Hash>) -> Option<RegionInfo> {
    RegionInfo::new(version.0, shape::of_parameters(codec, parameters)?, chunks).ok()
}
