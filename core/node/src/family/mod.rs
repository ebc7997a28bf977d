//! A family: its session with the city, the worker machine, and what its host does.

mod hand_in;
mod sync;
mod work;

pub use work::{Done, Input, Output, Owner, Pending, Saved, Target, Work};

use crate::name::{JobRegion, Name};
use bytes::Bytes;
use hand_in::HandIn;
use std::collections::{BTreeMap, VecDeque};
use suanli_base::{Duration, Hash, JobId, LeaseId, NodeId, Round, Time};
use suanli_bus::merge::payload_len;
use suanli_bus::worker::{Action, Input as Happened, Phase, Worker, step};
use suanli_bus::{Ask, Chain, JobSpec, ToCity, ToMember, WaitReason};
use suanli_identity::{Role, SecretKey};
use suanli_log::LeaseRecord;
use suanli_rdpa::{
    Answer, Code, Download, Event, Failure, Frame, Hello, Limits, Op, Reply, Request, RequestId,
    Session, Side,
};
use sync::Sync;

/// How long it is before what this machine lends is looked at again.
const RETRY: Duration = Duration(30_000);

/// What a family is started with.
#[derive(Debug)]
pub struct Setup {
    /// Its key.
    pub key: SecretKey,
    /// The city's key.
    pub city: suanli_base::CityId,
    /// The ticket, as bytes; empty for a member that was admitted before.
    pub ticket: Vec<u8>,
    /// What the owner calls this machine.
    pub name: String,
    /// The owner's limit of CPU share, 1 to 100.
    pub share_percent: u8,
    /// Memory lent.
    pub memory_bytes: u64,
    /// Bounds of the session.
    pub limits: Limits,
    /// What is known from before.
    pub saved: Saved,
}

/// A family without its disk, socket, clock and engine.
#[derive(Debug)]
pub struct FamilyNode {
    key: SecretKey,
    city: suanli_base::CityId,
    ticket: Vec<u8>,
    name: String,
    share_percent: u8,
    memory_bytes: u64,
    limits: Limits,
    now: Time,
    session: Option<Session>,
    hello: Option<RequestId>,
    admitted: bool,
    worker: Worker,
    chains: BTreeMap<JobId, Chain>,
    jobs: BTreeMap<JobId, Loaded>,
    sync: Option<Sync>,
    /// What was being read when the link was lost, with the chunks of it that the host has.
    cut: Option<(Target, Download)>,
    lease: Option<LeaseRecord>,
    fetch: Option<sync::Fetch>,
    hand_in: Option<HandIn>,
    uplink_left: u64,
    /// What a contribution takes, to a job that was left to others for it.
    declined_bytes: u64,
    outputs: VecDeque<Output>,
}

/// A job the host is ready for.
#[derive(Debug)]
struct Loaded {
    spec: JobSpec,
    version: Option<Round>,
    private: Hash,
    rate: u32,
}

impl FamilyNode {
    /// A family that is not linked yet.
    #[must_use]
    pub fn new(setup: Setup, now: Time) -> Self {
        let chains = setup.saved.chains.iter().map(|chain| (chain.job, *chain)).collect();
        let pending = setup.saved.pending;
        let worker = pending.as_ref().map_or_else(Worker::new, |pending| {
            Worker::with_pending(pending.contribution.lease, pending.contribution.steps)
        });
        let city = setup.city;
        let hand_in = pending.map(|pending| HandIn::new(pending, &setup.key, city));
        Self {
            key: setup.key,
            city,
            ticket: setup.ticket,
            name: setup.name,
            share_percent: setup.share_percent,
            memory_bytes: setup.memory_bytes,
            limits: setup.limits,
            now,
            session: None,
            hello: None,
            admitted: false,
            worker,
            chains,
            jobs: BTreeMap::new(),
            sync: None,
            cut: None,
            lease: None,
            fetch: None,
            hand_in,
            uplink_left: u64::MAX,
            declined_bytes: 0,
            outputs: VecDeque::new(),
        }
    }

    /// What the worker is doing.
    #[must_use]
    pub const fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The lease it works on.
    #[must_use]
    pub const fn lease(&self) -> Option<&LeaseRecord> {
        self.lease.as_ref()
    }

    /// The specification of a loaded job.
    #[must_use]
    pub fn spec(&self, job: JobId) -> Option<&JobSpec> {
        self.jobs.get(&job).map(|job| &job.spec)
    }

    /// The newest verified head of a job.
    #[must_use]
    pub fn chain(&self, job: JobId) -> Option<&Chain> {
        self.chains.get(&job)
    }

    /// Whether the city has admitted this node on the present link.
    #[must_use]
    pub const fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Linked { seed } => self.linked(seed),
            Input::LinkLost => self.link_lost(),
            Input::Frame(frame) => self.frame(frame),
            Input::Arriving => {
                if let Some(session) = self.session.as_mut() {
                    session.arriving(now);
                }
            }
            Input::Tick => self.tick(),
            Input::Done(done) => self.done(done),
            Input::UplinkLeft(bytes) => self.uplink_left = bytes,
            Input::Owner(Owner::Pause) => self.happened(Happened::Pause),
            Input::Owner(Owner::Resume) => self.happened(Happened::Resume),
            Input::Owner(Owner::Leave) => self.happened(Happened::Leave),
            Input::Owner(Owner::Share(percent)) => {
                self.share_percent = percent;
                if self.admitted {
                    self.introduce();
                }
            }
        }
    }

    /// The next output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next frame for the city.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        let now = self.now;
        self.session.as_mut()?.poll_transmit(now)
    }

    /// The next control frame for the city: for a host that holds bulk back by its owner's limits.
    pub fn poll_control(&mut self) -> Option<Frame> {
        let now = self.now;
        self.session.as_mut()?.poll_control(now)
    }

    /// The length on the wire of the next bulk frame.
    pub fn bulk_waiting(&mut self) -> Option<usize> {
        self.session.as_mut()?.bulk_waiting()
    }

    /// The next bulk frame for the city.
    pub fn poll_bulk(&mut self) -> Option<Frame> {
        let now = self.now;
        self.session.as_mut()?.poll_bulk(now)
    }

    /// Bulk is held back: what waits is not given up for it.
    pub fn bulk_held(&mut self) {
        let now = self.now;
        if let Some(session) = self.session.as_mut() {
            session.bulk_held(now);
        }
    }

    /// Whether it rests because the limits of upload leave too little for a contribution.
    #[must_use]
    pub fn lacks_uplink(&self) -> bool {
        let needs = self.spec_at_hand().map_or(self.declined_bytes, contribution_bytes);
        self.worker.phase == Phase::Waiting && needs > self.uplink_left
    }

    /// When [`Input::Tick`] is wanted next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let session = self.session.as_ref().and_then(Session::poll_timeout);
        let sync = self.sync.as_ref().and_then(Sync::wake_at);
        [session, self.worker.wake_at(), sync].into_iter().flatten().min()
    }

    fn linked(&mut self, seed: u64) {
        self.link_lost();
        let mut session = Session::new(Side::Connecting, self.now, self.limits, seed);
        let hello = Hello::new(Role::Join, self.ticket.clone());
        self.hello = session.request(self.now, Op::Hello(hello)).ok();
        self.session = Some(session);
    }

    fn link_lost(&mut self) {
        (self.session, self.hello, self.admitted) = (None, None, false);
        if let Some(cut) = self.sync.take().and_then(Sync::into_reading) {
            self.cut = Some(cut);
        }
        self.happened(Happened::Disconnected);
    }

    fn hangup(&mut self, why: String) {
        self.link_lost();
        self.outputs.push_back(Output::Hangup { why });
    }

    fn frame(&mut self, frame: Frame) {
        let now = self.now;
        let Some(session) = self.session.as_mut() else { return };
        if let Err(violation) = session.handle_frame(now, frame) {
            return self.hangup(format!("the city broke the protocol: {violation}"));
        }
        self.events();
    }

    fn tick(&mut self) {
        let now = self.now;
        if let Some(session) = self.session.as_mut() {
            session.handle_timeout(now);
        }
        self.events();
        self.sync_tick();
        self.happened(Happened::Tick);
    }

    fn events(&mut self) {
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            match event {
                Event::Request { token, request: Request::Send { bytes } } => {
                    let now = self.now;
                    if let Some(session) = self.session.as_mut() {
                        session.respond(now, token, Reply::Delivered);
                    }
                    self.message(&bytes);
                }
                Event::Request { token, .. } => {
                    let now = self.now;
                    let text = "a family serves no regions".to_string();
                    if let Some(session) = self.session.as_mut() {
                        session.respond(
                            now,
                            token,
                            Reply::Error { code: Code::NoSuchRegion, text },
                        );
                    }
                }
                Event::Notified { region, version, .. } => {
                    if let Some(Name::Job(job, JobRegion::Theta)) = Name::parse(&region) {
                        self.happened(Happened::Published { job, version: Round(version) });
                    }
                }
                Event::Silent { span } => {
                    return self.hangup(format!("nothing heard from the city for {} ms", span.0));
                }
                Event::Answered { id, answer: Answer::Welcome(_) } if self.hello == Some(id) => {
                    self.welcomed();
                }
                Event::Failed { id, failure } if self.hello == Some(id) => match failure {
                    Failure::Refused { code: Code::Unauthorised, text } => {
                        self.outputs.push_back(Output::Refused { why: text });
                    }
                    failure => return self.hangup(failure.to_string()),
                },
                event => self.transfers(&event),
            }
        }
    }

    fn introduce(&mut self) {
        let (name, share_percent) = (self.name.clone(), self.share_percent);
        self.send(&ToCity::Introduce { name, share_percent });
    }

    fn welcomed(&mut self) {
        self.admitted = true;
        self.introduce();
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for job in jobs {
            self.subscribe(job);
        }
        self.restart_fetch();
        self.happened(Happened::Connected);
    }

    fn subscribe(&mut self, job: JobId) {
        let (now, region) = (self.now, Name::Job(job, JobRegion::Theta).region());
        if let Some(session) = self.session.as_mut() {
            // Refused only by a full queue; then the next link subscribes again.
            let _ = session.request(now, Op::Subscribe { region });
        }
    }

    fn send(&mut self, message: &ToCity) {
        let now = self.now;
        if let Some(session) = self.session.as_mut().filter(|_| self.admitted) {
            // A full queue means the city does not read; the worker's patience runs out in time.
            let _ = session.request(now, Op::Send { bytes: Bytes::from(message.to_bytes()) });
        }
    }

    fn message(&mut self, bytes: &[u8]) {
        let Some(message) = ToMember::from_bytes(bytes) else {
            return self.hangup("the city sent a message of another version".into());
        };
        match message {
            ToMember::Prepare { job, version } => self.happened(Happened::Prepare { job, version }),
            ToMember::Offer(record) => self.offered(record),
            ToMember::Wait { why, retry_ms } => {
                if why == WaitReason::TooLittleMemory {
                    let lent = self.memory_bytes >> 20;
                    let note =
                        format!("the job's model needs more memory than the {lent} MiB lent here");
                    self.outputs.push_back(Output::Note(note));
                }
                self.happened(Happened::Wait { retry: Duration(retry_ms.min(60_000)) });
            }
            ToMember::Accepted { lease } => self.happened(Happened::Accepted { lease }),
            ToMember::Refused { lease, reason } => {
                let incomplete = reason == suanli_bus::Refusal::Incomplete;
                if !incomplete {
                    let note = format!("lease {lease} was refused: {reason:?}");
                    self.outputs.push_back(Output::Note(note));
                }
                self.happened(Happened::Refused { lease, incomplete });
            }
            ToMember::Heads { job, newest, heads } => self.heads(job, newest, &heads),
            ToMember::Revoked { lease } => self.happened(Happened::Revoked { lease }),
            ToMember::Job { .. } => {}
        }
    }

    fn offered(&mut self, record: LeaseRecord) {
        let me = self.key.node();
        let base = self.chains.get(&record.job);
        let sound =
            record.replica == [me] && base.is_some_and(|c| c.theta_root == record.base_root);
        let busy = self.lease.as_ref().is_some_and(|known| known.lease != record.lease)
            && self.worker.lease.is_some();
        if !sound || busy {
            return self.send(&ToCity::Decline { lease: record.lease });
        }
        let (lease, job, base, steps) = (record.lease, record.job, record.base, record.steps);
        let duration = Duration(record.duration_ms);
        self.lease = Some(record);
        self.happened(Happened::Offer { lease, job, base, steps, duration });
    }

    /// Tells the worker, and does what it says.
    fn happened(&mut self, input: Happened) {
        let mut actions = Vec::new();
        step(&mut self.worker, self.now, input, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask => self.ask(),
            Action::Prepare { job, version } => self.prepare(job, version),
            Action::Train { lease, from } => self.train(lease, from),
            Action::StopTraining => {
                if self.fetch.take().is_some() {
                    let (lease, done) = (self.lease.as_ref().map(|r| r.lease), self.worker.done);
                    if let Some(lease) = lease {
                        self.happened(Happened::Trained { lease, done });
                    }
                } else {
                    self.work(Work::StopTraining);
                }
            }
            Action::Beat { lease, done } => {
                let rate = self.measured_rate();
                self.send(&ToCity::Beat { lease, steps: done, rate });
            }
            Action::Pack { lease, done } => {
                if let Some(record) = self.lease.clone().filter(|r| r.lease == lease) {
                    self.work(Work::Pack { record: Box::new(record), done });
                }
            }
            Action::Upload { lease } => self.upload(lease),
            Action::HandIn { lease } => {
                let signed = self.hand_in.as_ref().filter(|h| h.lease() == lease);
                if let Some(contribution) = signed.map(|h| h.signed().clone()) {
                    self.send(&ToCity::HandIn { lease, contribution });
                }
            }
            Action::Promote { lease } => {
                // Known at once: the next request names it, whenever the host is done promoting.
                if let Some(hand_in) = self.hand_in.take()
                    && let Some(loaded) = self.jobs.get_mut(&hand_in.job())
                {
                    loaded.private = hand_in.private_after();
                }
                self.lease = None;
                self.work(Work::Promote { lease });
            }
            Action::Discard { lease } => {
                self.hand_in = None;
                self.fetch = None;
                self.lease = None;
                self.work(Work::Discard { lease });
            }
            Action::Decline { lease } => self.send(&ToCity::Decline { lease }),
            Action::TellPaused(paused) => self.send(&ToCity::Paused { paused }),
            Action::Farewell => self.send(&ToCity::Farewell),
            Action::Exit => self.outputs.push_back(Output::Exit),
        }
    }

    fn ask(&mut self) {
        let why = self.spec_at_hand().cloned().and_then(|spec| self.lacks_uplink_for(&spec));
        if let Some(why) = why {
            // What could not be handed in is not begun.
            self.outputs.push_back(Output::Note(format!("no work is asked for: {why}")));
            return self.happened(Happened::Wait { retry: RETRY });
        }
        let have = self.worker.job.map(|job| (job, self.worker.version));
        let loaded = self.worker.job.and_then(|job| self.jobs.get(&job));
        let ask = Ask {
            have,
            private: loaded.map_or(Hash::ZERO, |job| job.private),
            rate: loaded.map_or(0, |job| job.rate),
            memory_bytes: self.memory_bytes,
        };
        self.send(&ToCity::Ask(ask));
    }

    fn spec_at_hand(&self) -> Option<&JobSpec> {
        Some(&self.jobs.get(&self.worker.job?)?.spec)
    }

    /// Why what a lease on this job ends in could not be handed in now, if so.
    fn lacks_uplink_for(&mut self, spec: &JobSpec) -> Option<String> {
        let (needs, left) = (contribution_bytes(spec), self.uplink_left);
        self.declined_bytes = if needs > left { needs } else { 0 };
        let (needs_kib, left_kib) = (needs.div_ceil(1 << 10), left >> 10);
        (needs > left).then(|| {
            format!(
                "a contribution is {needs_kib} KiB, and the limits of upload leave {left_kib} KiB \
                 now"
            )
        })
    }

    /// Tokens a second as last measured on the job worked on; 0 for never.
    #[must_use]
    pub fn measured_rate(&self) -> u32 {
        let loaded = self.worker.job.and_then(|job| self.jobs.get(&job));
        loaded.map_or(0, |job| job.rate)
    }

    fn work(&mut self, work: Work) {
        self.outputs.push_back(Output::Work(work));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Found { job, chunks } => self.found(job, chunks),
            Done::Loaded { job, private } => self.loaded(job, private),
            Done::Installed { job, version, root } => self.installed(job, version, root),
            Done::Measured { job, rate } => self.measured(job, rate),
            Done::Located { lease, ranges } => self.located(lease, &ranges),
            Done::Progress { lease, done, rate } => {
                if self.worker.lease == Some(lease) && self.worker.phase == Phase::Training {
                    if let Some(job) = self.worker.job.and_then(|job| self.jobs.get_mut(&job)) {
                        job.rate = rate.max(1);
                    }
                    self.happened(Happened::Progress { done });
                }
            }
            Done::Trained { lease, done: Some(done) } => {
                self.happened(Happened::Trained { lease, done });
            }
            Done::Trained { lease, done: None } => {
                if self.worker.lease == Some(lease) {
                    self.happened(Happened::TrainFailed);
                }
            }
            Done::Packed { lease, pending: Some(pending) } => {
                if self.worker.lease == Some(lease) {
                    self.hand_in = Some(HandIn::new(*pending, &self.key, self.city));
                    self.happened(Happened::Packed { lease });
                }
            }
            Done::Packed { lease, pending: None } => {
                if self.worker.lease == Some(lease) {
                    self.happened(Happened::PackFailed);
                }
            }
            Done::Pending { lease, chunk, bytes } => self.pending_read(lease, chunk, bytes),
            Done::Promoted { private } => {
                if let Some(job) = self.worker.job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.private = private;
                }
            }
        }
    }

    /// The city's key as a node.
    #[must_use]
    pub fn city(&self) -> NodeId {
        self.city.into()
    }

    /// The lease whose payload waits for the city's answer.
    #[must_use]
    pub fn handing_in(&self) -> Option<LeaseId> {
        self.hand_in.as_ref().map(HandIn::lease)
    }
}

/// What a lease on such a job ends in, as it goes up.
fn contribution_bytes(spec: &JobSpec) -> u64 {
    let parameters = usize::try_from(spec.parameters);
    parameters.map_or(u64::MAX, |parameters| payload_len(spec.training.codec, parameters) as u64)
}
