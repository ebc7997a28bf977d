//! What a family's host does with each piece of work: the reference for the real one.
//!
//! Bulk work is done one piece after the other, so that a lease begins after the promotion that was
//! asked for before it. The pending payload, its contribution and the private state it makes are one
//! file, durable before the node hears of them; promoting writes the current state, then removes it.

use crate::context::{Context, Post, Stop};
use crate::disk::DiskError;
use crate::job::{floats_of, unpacked};
use crate::plant::Bug;
use crate::replica::{PendingFile, PrivateState, Replica};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use suanli_base::{CityId, Hash, JobId, LeaseId};
use suanli_bus::{Chain, Frozen};
use suanli_identity::SecretKey;
use suanli_log::LeaseRecord;
use suanli_node::family::{
    Done, FamilyNode, Input, Output, Owner, Pending, Saved, Setup, Target, Work,
};
use suanli_rdpa::Limits;

const FULL_RETRY_MS: u64 = 500;
const PENDING: &str = "pending";
/// A copy of some earlier private state.
const OLD_PRIVATE: &str = "copy-of-private";

/// Who a family is.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) key: SecretKey,
    pub(crate) city: CityId,
    pub(crate) ticket: Vec<u8>,
    pub(crate) limits: Limits,
    pub(crate) name: String,
    /// Tokens a second.
    pub(crate) speed: u64,
    /// What it hands in is made up.
    pub(crate) liar: bool,
}

/// A running family.
pub(crate) struct FamilyHost {
    pub(crate) node: FamilyNode,
    who: Family,
    replica: Option<Replica>,
    keep: BTreeMap<Target, Vec<u8>>,
    /// Bulk work in order.
    bulk: VecDeque<Work>,
    /// The timer of the bulk work under way.
    busy: Option<u64>,
    training: Option<Training>,
    chains_waiting: VecDeque<Chain>,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
}

struct Training {
    record: LeaseRecord,
    rates: Vec<f32>,
    done: u32,
    running: bool,
    stop: bool,
}

enum Task {
    Bulk,
    Step,
    Work(Work),
    Chains,
}

impl FamilyHost {
    /// Starts a family from what its disk holds.
    pub(crate) fn boot(cx: &mut Context<'_>, who: &Family) -> Result<Self, Stop> {
        let mut chains: Vec<Chain> = Vec::new();
        for name in cx.disk.list("chain/") {
            let bytes = cx.disk.read(&format!("chain/{name}")).unwrap_or_default();
            match postcard::from_bytes(bytes) {
                Ok(chain) => chains.push(chain),
                Err(error) => return Err(Stop::Broken(format!("a saved chain: {error}"))),
            }
        }
        let mut pending = match cx.disk.read(PENDING).map(postcard::from_bytes::<PendingFile>) {
            None => None,
            Some(Ok(file)) => Some(file),
            Some(Err(error)) => return Err(Stop::Broken(format!("a pending payload: {error}"))),
        };
        if cx.has(Bug::PendingForgotten) {
            pending = None;
        }
        cx.watch.family_boots(who.key.node(), &chains);
        let pending = pending.map(|file| pending_of(&file));
        let setup = Setup {
            key: who.key.clone(),
            city: who.city,
            ticket: who.ticket.clone(),
            name: who.name.clone(),
            share_percent: 100,
            memory_bytes: 1 << 30,
            limits: who.limits,
            saved: Saved { chains, pending },
        };
        Ok(Self {
            node: FamilyNode::new(setup, cx.now),
            who: who.clone(),
            replica: None,
            keep: BTreeMap::new(),
            bulk: VecDeque::new(),
            busy: None,
            training: None,
            chains_waiting: VecDeque::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
        })
    }

    /// Hands in one input.
    pub(crate) fn input(&mut self, cx: &mut Context<'_>, input: Input) -> Result<(), Stop> {
        self.node.handle(cx.now, input);
        self.drain(cx)
    }

    /// What the owner wants.
    pub(crate) fn owner(&mut self, cx: &mut Context<'_>, owner: Owner) -> Result<(), Stop> {
        self.input(cx, Input::Owner(owner))
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Work(work) => self.work(cx, work)?,
                Output::Hangup { .. } => cx.out.push(Post::Hangup),
                Output::Refused { why } => cx.out.push(Post::Refused(why)),
                Output::Exit => cx.out.push(Post::Exit),
                Output::Note(_) => {}
            }
        }
        while let Some(frame) = self.node.poll_transmit() {
            cx.out.push(Post::Send { conn: None, frame });
        }
        Ok(())
    }

    fn task(&mut self, cx: &mut Context<'_>, ms: u64, task: Task) {
        self.next_task += 1;
        self.tasks.insert(self.next_task, task);
        cx.later(ms, self.next_task);
    }

    /// Time is up for something that takes time.
    pub(crate) fn due(&mut self, cx: &mut Context<'_>, task: u64) -> Result<(), Stop> {
        match self.tasks.remove(&task) {
            None => Ok(()),
            Some(timed @ (Task::Bulk | Task::Step)) => {
                if self.busy == Some(task) {
                    self.busy = None;
                }
                if matches!(timed, Task::Step) { self.step(cx) } else { self.bulk_due(cx) }
            }
            Some(Task::Chains) => self.save_chains(cx),
            Some(Task::Work(work)) => self.light(cx, &work),
        }
    }

    fn done(&mut self, cx: &mut Context<'_>, done: Done) -> Result<(), Stop> {
        self.input(cx, Input::Done(done))
    }

    fn work(&mut self, cx: &mut Context<'_>, work: Work) -> Result<(), Stop> {
        match work {
            Work::Keep { target, offset, bytes, total } => self.keep(target, offset, &bytes, total),
            Work::SaveChain(chain) => {
                self.chains_waiting.push_back(chain);
                return self.save_chains(cx);
            }
            Work::StopTraining => {
                if let Some(training) = self.training.as_mut() {
                    training.stop = true;
                }
                // One that has not begun will not.
                let lease = self.bulk.iter().find_map(|work| match work {
                    Work::Train { record, from, .. } => Some((record.lease, *from)),
                    _ => None,
                });
                let running = self.training.as_ref().is_some_and(|training| training.running);
                if let (Some((lease, from)), false) = (lease, running) {
                    self.remove_train(lease);
                    let done = Done::Trained { lease, done: Some(from) };
                    return self.done(cx, done);
                }
            }
            Work::Locate { .. } | Work::ReadPending { .. } => {
                let ms = cx.random.below(4);
                self.task(cx, ms, Task::Work(work));
            }
            work => {
                self.bulk.push_back(work);
                self.begin(cx);
            }
        }
        Ok(())
    }

    /// Takes a lease out of the queue; if its time had begun, the next has it easier.
    fn remove_train(&mut self, lease: LeaseId) {
        self.bulk
            .retain(|work| !matches!(work, Work::Train { record, .. } if record.lease == lease));
    }

    /// Begins the next piece of bulk work unless one is under way.
    fn begin(&mut self, cx: &mut Context<'_>) {
        if self.busy.is_some() {
            return;
        }
        let ms = match self.bulk.front() {
            None => return,
            Some(Work::Load { .. }) => 20 + cx.random.below(200),
            Some(Work::Measure { .. }) => 50 + cx.random.below(200),
            Some(Work::Pack { .. }) => 5 + cx.random.below(80),
            Some(_) => 1 + cx.random.below(20),
        };
        self.task(cx, ms, Task::Bulk);
        self.busy = Some(self.next_task);
    }

    fn light(&mut self, cx: &mut Context<'_>, work: &Work) -> Result<(), Stop> {
        match work {
            Work::Locate { lease, start, count, .. } => {
                let ranges = self.replica.as_ref().map(|replica| replica.locate(*start, *count));
                let ranges = ranges.unwrap_or_default();
                self.done(cx, Done::Located { lease: *lease, ranges })
            }
            Work::ReadPending { lease, chunk, offset, length } => {
                let file = read_pending(cx);
                let file = file.filter(|file| file.contribution.lease == *lease);
                let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                let bytes = file.and_then(|file| {
                    let bytes = file.payload.get(start..start + *length as usize)?;
                    Some(Bytes::copy_from_slice(bytes))
                });
                self.done(cx, Done::Pending { lease: *lease, chunk: *chunk, bytes })
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, target: Target, offset: u64, bytes: &[u8], total: u64) {
        if let Target::Shard(job, shard) = target {
            if let Some(replica) = self.replica.as_mut().filter(|replica| replica.job() == job) {
                replica.keep_shard(shard, offset, bytes, total);
            }
            return;
        }
        let buffer = self.keep.entry(target).or_default();
        buffer.resize(usize::try_from(total).unwrap_or(0), 0);
        let start = usize::try_from(offset).unwrap_or(0);
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn save_chains(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        while let Some(chain) = self.chains_waiting.front() {
            let bytes = postcard::to_stdvec(chain).expect("our own types always encode");
            let path = format!("chain/{}", chain.job);
            let put = if cx.has(Bug::ChainUnsynced) {
                cx.disk.scribble(&path, &bytes);
                Ok(())
            } else {
                cx.disk.put(&path, &bytes)
            };
            match put {
                Ok(()) => {
                    cx.watch.head_seen(self.who.key.node(), chain);
                    self.chains_waiting.pop_front();
                }
                Err(DiskError::Full) => {
                    self.task(cx, FULL_RETRY_MS, Task::Chains);
                    return Ok(());
                }
                Err(_) => return Err(Stop::Crash),
            }
        }
        Ok(())
    }

    fn bulk_due(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let Some(work) = self.bulk.pop_front() else { return Ok(()) };
        let done = match work {
            Work::Find { job, frozen } => {
                let found = self.keep.get(&Target::Frozen(frozen.root));
                let whole = found.is_some_and(|packed| unpacked(&frozen, packed).is_some());
                // It is far shorter than a chunk.
                Done::Found { job, chunks: u32::from(whole) }
            }
            Work::Load { job, ref spec } => {
                let packed = |of: &Frozen| self.keep.get(&Target::Frozen(of.root));
                let frozen = spec.frozen.as_ref();
                let frozen = frozen.and_then(|of| unpacked(of, packed(of)?)).unwrap_or_default();
                let loaded = Replica::new(cx, job, (**spec).clone(), &frozen);
                let private = read_private(cx, job).map_or(Hash::ZERO, |private| private.hash);
                let loaded = loaded.map(|replica| self.replica = Some(replica));
                Done::Loaded { job, private: loaded.map(|()| private) }
            }
            Work::Install { job, version } => {
                let bytes = self.keep.remove(&Target::Theta(job, version)).unwrap_or_default();
                let replica = self.replica.as_mut().filter(|replica| replica.job() == job);
                let root = replica.and_then(|r| r.install(version, floats_of(&bytes)));
                Done::Installed { job, version, root }
            }
            Work::Apply { job, version } => {
                let bytes = self.keep.remove(&Target::Update(job, version)).unwrap_or_default();
                let replica = self.replica.as_mut().filter(|replica| replica.job() == job);
                let root = replica.and_then(|r| r.apply(cx, version, &bytes));
                Done::Installed { job, version, root }
            }
            Work::Measure { job } => {
                let rate = u32::try_from(self.who.speed * (900 + cx.random.below(200)) / 1000);
                Done::Measured { job, rate: rate.ok() }
            }
            Work::Train { record, from, rates } => {
                return self.train(cx, *record, from, rates);
            }
            Work::Pack { ref record, done } => match self.pack(cx, record, done)? {
                Ok(pending) => Done::Packed { lease: record.lease, pending },
                Err(DiskError::Full) => Done::Packed { lease: record.lease, pending: None },
                Err(_) => return Err(Stop::Crash),
            },
            Work::Promote { lease } => match promote(cx, &self.who, lease) {
                Ok(private) => Done::Promoted { private },
                Err(DiskError::Full) => {
                    self.bulk.push_front(work);
                    self.task(cx, FULL_RETRY_MS, Task::Bulk);
                    self.busy = Some(self.next_task);
                    return Ok(());
                }
                Err(_) => return Err(Stop::Crash),
            },
            Work::Discard { lease } => {
                if read_pending(cx).is_some_and(|file| file.contribution.lease == lease) {
                    cx.disk.remove(PENDING)?;
                }
                if self.training.as_ref().is_some_and(|t| t.record.lease == lease) {
                    self.training = None;
                }
                self.begin(cx);
                return Ok(());
            }
            _ => {
                self.begin(cx);
                return Ok(());
            }
        };
        self.begin(cx);
        self.done(cx, done)
    }

    fn pack(
        &mut self,
        cx: &mut Context<'_>,
        record: &LeaseRecord,
        done: u32,
    ) -> Result<Result<Option<Box<Pending>>, DiskError>, Stop> {
        let trained = self.training.take_if(|t| t.record.lease == record.lease);
        if trained.is_none_or(|training| training.done != done) {
            return Ok(Ok(None));
        }
        let Some(replica) = self.replica.as_mut() else { return Ok(Ok(None)) };
        let Some(mut file) = replica.pack(cx, record, done) else { return Ok(Ok(None)) };
        if self.who.liar {
            crate::faults::lie(cx, &mut file);
        }
        if cx.has(Bug::PromotedEarly) {
            let bytes = postcard::to_stdvec(&file.private).expect("our own types always encode");
            cx.disk.put(&format!("private/{}", record.job), &bytes)?;
        }
        let bytes = postcard::to_stdvec(&file).expect("our own types always encode");
        if cx.has(Bug::PendingUnsynced) {
            cx.disk.scribble(PENDING, &bytes);
            return Ok(Ok(Some(Box::new(pending_of(&file)))));
        }
        Ok(cx.disk.put(PENDING, &bytes).map(|()| Some(Box::new(pending_of(&file)))))
    }

    fn train(
        &mut self,
        cx: &mut Context<'_>,
        record: LeaseRecord,
        from: u32,
        rates: Vec<f32>,
    ) -> Result<(), Stop> {
        let lease = record.lease;
        let resumed = self.training.as_ref().is_some_and(|t| t.record.lease == lease);
        let Some(replica) = self.replica.as_mut() else {
            self.begin(cx);
            return self.done(cx, Done::Trained { lease, done: None });
        };
        if from == 0 {
            let private = read_private(cx, record.job);
            if let Err(why) = replica.begin(cx, &record, private.as_ref()) {
                cx.watch.lease_unusable(self.who.key.node(), lease, why);
                self.begin(cx);
                return self.done(cx, Done::Trained { lease, done: None });
            }
            if let Some((_, theta)) = &replica.held {
                cx.watch.training(self.who.key.node(), &record, theta);
            }
            let running = true;
            self.training = Some(Training { record, rates, done: 0, running, stop: false });
        } else {
            let Some(training) = self.training.as_mut().filter(|t| resumed && t.done == from)
            else {
                self.begin(cx);
                return self.done(cx, Done::Trained { lease, done: None });
            };
            (training.running, training.stop) = (true, false);
            if cx.has(Bug::StepRepeated) {
                let (step, record) = (from - 1, training.record.clone());
                let lr = training.rates.get(step as usize).copied().unwrap_or(0.0);
                replica.step(&record, step, lr);
            }
        }
        self.next_step(cx);
        Ok(())
    }

    fn next_step(&mut self, cx: &mut Context<'_>) {
        let Some(replica) = self.replica.as_ref() else { return };
        let ms = replica.tokens_a_step() * 1000 / self.who.speed.max(1);
        let ms = ms * (850 + cx.random.below(300)) / 1000;
        self.task(cx, ms.max(1), Task::Step);
        self.busy = Some(self.next_task);
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let (Some(training), Some(replica)) = (self.training.as_mut(), self.replica.as_mut())
        else {
            // The engine died.
            self.begin(cx);
            return Ok(());
        };
        let lease = training.record.lease;
        let lr = training.rates.get(training.done as usize).copied().unwrap_or(0.0);
        if !training.stop && training.done < training.record.steps {
            if !replica.step(&training.record, training.done, lr) {
                self.training = None;
                self.begin(cx);
                return self.done(cx, Done::Trained { lease, done: None });
            }
            training.done += 1;
        }
        let (done, all) = (training.done, training.record.steps);
        if training.stop || done >= all {
            training.running = false;
            self.begin(cx);
            return self.done(cx, Done::Trained { lease, done: Some(done) });
        }
        self.next_step(cx);
        let rate = u32::try_from(self.who.speed).unwrap_or(1);
        self.done(cx, Done::Progress { lease, done, rate })
    }

    /// The engine's process dies: parameters, moments and data are gone, the disk is not.
    pub(crate) fn engine_dies(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let Some(training) = self.training.take() else { return Ok(()) };
        let lease = training.record.lease;
        if training.running {
            if let Some(timer) = self.busy.take() {
                self.tasks.remove(&timer);
            }
            self.begin(cx);
            return self.done(cx, Done::Trained { lease, done: None });
        }
        Ok(())
    }

    /// The lease whose payload waits on disk for the city's answer.
    pub(crate) fn waiting(&self) -> Option<LeaseId> {
        self.node.handing_in()
    }

    /// What it is busy with: for reports.
    pub(crate) fn standing(&self) -> String {
        let done = self.training.as_ref().map(|training| training.done);
        format!(
            "{} pieces of work waiting, busy {}, steps {done:?}",
            self.bulk.len(),
            self.busy.is_some()
        )
    }

    /// The parameters held.
    pub(crate) fn held(&self) -> Option<(JobId, suanli_base::Round, &[f32])> {
        let replica = self.replica.as_ref()?;
        replica.held.as_ref().map(|(version, theta)| (replica.job(), *version, theta.as_slice()))
    }
}

fn pending_of(file: &PendingFile) -> Pending {
    Pending { contribution: file.contribution.clone(), shape: file.shape }
}

fn read_pending(cx: &Context<'_>) -> Option<PendingFile> {
    postcard::from_bytes(cx.disk.read(PENDING)?).ok()
}

fn read_private(cx: &Context<'_>, job: JobId) -> Option<PrivateState> {
    postcard::from_bytes(cx.disk.read(&format!("private/{job}"))?).ok()
}

/// The owner brings an old copy of the private state back, or loses it altogether. False when there
/// was none.
pub(crate) fn age_private(disk: &mut crate::disk::Disk) -> bool {
    let old = disk.read(OLD_PRIVATE).filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec);
    let kept = disk.list("private/");
    let Some(name) = kept.first() else { return false };
    let path = format!("private/{name}");
    match old {
        Some(old) => disk.put(&path, &old).is_ok(),
        None => disk.remove(&path).is_ok(),
    }
}

/// Makes the pending private state the current one; its hash.
fn promote(cx: &mut Context<'_>, who: &Family, lease: LeaseId) -> Result<Hash, DiskError> {
    let Some(file) = read_pending(cx).filter(|file| file.contribution.lease == lease) else {
        // Promoted before; a private state is of the one job there is.
        let kept = cx.disk.list("private/");
        let job = kept.first().and_then(|name| name.parse().ok());
        return Ok(job.and_then(|job| read_private(cx, job)).map_or(Hash::ZERO, |p| p.hash));
    };
    let job = file.contribution.job;
    if cx.has(Bug::PendingRemovedFirst) {
        cx.disk.remove(PENDING)?;
    }
    if cx.has(Bug::ResidualNotPromoted) {
        let mut private = file.private.clone();
        if let Some(before) = read_private(cx, job) {
            private.residual = before.residual;
        } else {
            private.residual.fill(0.0);
        }
        let bytes = postcard::to_stdvec(&private).expect("our own types always encode");
        cx.disk.put(&format!("private/{job}"), &bytes)?;
    } else {
        let bytes = postcard::to_stdvec(&file.private).expect("our own types always encode");
        cx.disk.put(&format!("private/{job}"), &bytes)?;
    }
    cx.watch.promoted(who.key.node(), lease);
    cx.disk.remove(PENDING)?;
    if cx.random.chance(300) && cx.disk.put(OLD_PRIVATE, &[]).is_ok() {
        // For a fault that brings it back.
        let bytes = postcard::to_stdvec(&file.private).expect("our own types always encode");
        cx.disk.put(OLD_PRIVATE, &bytes)?;
    }
    Ok(file.private.hash)
}
