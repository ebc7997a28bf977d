//! A family's agent: it holds the key and the link, drives the node, and hands bulk work to a
//! task of its own with the engine in a child process.

mod bulk;
pub(crate) mod frozen;
mod keep;
pub(crate) mod settings;

use crate::clock::Clock;
use crate::control::{
    Answer, ControlCall, ControlReply, ControlRequest, ControlServer, FamilyNote, FamilyOptions,
    FamilyReady, FamilyState, FamilyStatus, LimitsStatus, LinkStatus, NodeKind, Refusal,
    RefusalClass, Stop,
};
use crate::net::{self, Wire, WireEvent};
use crate::uplink::Uplink;
use bulk::{Bulk, Program, Shared};
use frozen::Frozen;
use keep::Keep;
use settings::Settings;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suanli_bus::worker::Phase;
use suanli_identity::SecretKey;
use suanli_link::dial::{Dialer, Report};
use suanli_node::family::{Done, FamilyNode, Input, Output, Owner, Setup, Work};
use suanli_rdpa::Limits;
use suanli_store::FolderLock;
use tokio::sync::{mpsc, oneshot};

/// How long after a lost link the next attempt waits: this at first, doubled up to the most.
const REDIAL_FIRST: Duration = Duration::from_millis(200);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for work that is nearly handed in.
const FAREWELL_MAX: Duration = Duration::from_secs(20);

/// Runs a family until its owner stops it or it has left its city.
///
/// # Errors
/// [`Refusal`] with the class that the command's exit code comes from.
pub async fn run(options: FamilyOptions) -> Result<(), Refusal> {
    let environment = |error: &dyn core::fmt::Display| {
        Refusal::new(RefusalClass::Environment, error.to_string(), "")
    };
    std::fs::create_dir_all(&options.folder).map_err(|e| environment(&e))?;
    let _lock = FolderLock::take(&options.folder).map_err(|e| environment(&e))?;
    let settings = Settings::merge(&options)?;
    let key = net::key_of(&options.folder.join("node.key"))?;
    let (control, calls) =
        ControlServer::start(&options.folder, NodeKind::Family).map_err(|e| environment(&e))?;
    let keep = Keep::open(&options.folder).map_err(|e| environment(&e))?;
    let frozen = Frozen::open(&options.folder).map_err(|e| environment(&e))?;
    let saved = keep.saved().map_err(|error| match error {
        keep::KeepError::Damaged { .. } => {
            Refusal::new(RefusalClass::Corrupt, error.to_string(), "")
        }
        error => environment(&error),
    })?;
    let clock = Clock::start();
    let uplink = Uplink::of_node(&options.folder, options.limits.upload.clone(), clock)?;
    let setup = Setup {
        key: key.clone(),
        city: settings.city,
        ticket: settings.ticket.clone(),
        name: settings.name.clone(),
        share_percent: options.limits.share_percent,
        memory_bytes: memory_lent(),
        limits: Limits::reliable(),
        saved,
    };
    let node = FamilyNode::new(setup, clock.now());
    let shared = Arc::new(Shared::new(options.limits.share_percent));
    let threads = options.limits.threads.unwrap_or_else(cores);
    let program = program(&options, threads)?;
    let (done_out, done) = mpsc::unbounded_channel();
    let (works, works_in) = mpsc::unbounded_channel();
    let bulk = Bulk::new((keep, frozen), program, Arc::clone(&shared), done_out);
    let bulk = tokio::spawn(bulk.run(works_in));
    let (wire_out, wire_events) = mpsc::channel(256);
    let dialer =
        Arc::new(Dialer::new(&key, settings.city.into(), &settings.ways, options.prefer, true));
    let mut agent = Agent {
        node,
        key,
        dialer: Arc::clone(&dialer),
        clock,
        settings,
        folder: options.folder,
        limits: LimitsStatus {
            share_percent: options.limits.share_percent,
            threads,
            ..LimitsStatus::default()
        },
        uplink,
        uplink_left: u64::MAX,
        shared,
        works,
        control,
        wire: None,
        how: None,
        wire_out,
        links: 0,
        redial: REDIAL_FIRST,
        dialling: false,
        contributions: 0,
        tokens: 0,
        packed_tokens: 0,
        bytes_before: (0, 0),
        leaving: None,
        reason: None,
        ready: options.ready,
        notes: options.notes,
        away: false,
        ended: None,
    };
    let ended = agent.serve(calls, done, wire_events, options.stop).await;
    drop(agent);
    dialer.close().await;
    // The channel is closed: the task ends, and with it the worker process.
    bulk.abort();
    let _ = bulk.await;
    ended
}

/// The machine's cores.
fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Half of this machine's memory.
fn memory_lent() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    // Where the system does not say: what the smallest machine of today has.
    kib.map_or(2 << 30, |kib| kib * 512)
}

/// The program of the worker process: ours, unless told otherwise.
pub(crate) fn worker_program(
    command: &[std::ffi::OsString],
) -> Result<(PathBuf, Vec<std::ffi::OsString>), Refusal> {
    match command.split_first() {
        Some((exe, args)) => Ok((PathBuf::from(exe), args.to_vec())),
        None => {
            let exe = std::env::current_exe().map_err(|error| {
                Refusal::new(
                    RefusalClass::Environment,
                    format!("where is this program? {error}"),
                    "",
                )
            })?;
            Ok((exe, vec!["worker".into()]))
        }
    }
}

fn program(options: &FamilyOptions, threads: u32) -> Result<Program, Refusal> {
    let outside = !options.trainer.is_empty();
    let command = if outside { &options.trainer } else { &options.worker };
    let (exe, args) = worker_program(command)?;
    Ok(Program { exe, args, outside, threads: u16::try_from(threads).unwrap_or(u16::MAX) })
}

struct Agent {
    node: FamilyNode,
    key: SecretKey,
    dialer: Arc<Dialer>,
    clock: Clock,
    settings: Settings,
    folder: PathBuf,
    limits: LimitsStatus,
    uplink: Uplink,
    /// What the node was told of it last.
    uplink_left: u64,
    shared: Arc<Shared>,
    works: mpsc::UnboundedSender<Work>,
    /// Open for as long as this lives.
    control: ControlServer,
    wire: Option<Wire>,
    /// How the present link came about.
    how: Option<Report>,
    wire_out: mpsc::Sender<WireEvent>,
    links: u64,
    redial: Duration,
    dialling: bool,
    contributions: u64,
    tokens: u64,
    packed_tokens: u64,
    bytes_before: (u64, u64),
    leaving: Option<Instant>,
    reason: Option<String>,
    ready: Option<oneshot::Sender<FamilyReady>>,
    notes: Option<mpsc::UnboundedSender<FamilyNote>>,
    /// The owner was told that there is no connection.
    away: bool,
    ended: Option<Result<(), Refusal>>,
}

impl Agent {
    async fn serve(
        &mut self,
        mut calls: mpsc::Receiver<ControlCall>,
        mut done: mpsc::UnboundedReceiver<Done>,
        mut wire: mpsc::Receiver<WireEvent>,
        mut stop: Stop,
    ) -> Result<(), Refusal> {
        let mut stopping = false;
        self.dial(Duration::ZERO);
        loop {
            self.drain();
            if let Some(ended) = self.ended.take() {
                self.flush().await;
                return ended;
            }
            if self.leaving.is_some_and(|since| since.elapsed() > FAREWELL_MAX) {
                self.flush().await;
                return Ok(());
            }
            let wake = [self.node.poll_timeout(), self.uplink.wake()].into_iter().flatten().min();
            let clock = self.clock;
            let timer = async move {
                match wake {
                    Some(time) => clock.until(time).await,
                    None => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            };
            tokio::select! {
                event = wire.recv() => if let Some(event) = event { self.wire_event(event) },
                Some(done) = done.recv() => {
                    self.input(Input::Done(done));
                    if let Some(why) = self.shared.trainer_failed() {
                        let next = "mend what --trainer starts, then: suanli join --trainer COMMAND";
                        self.ended = Some(Err(Refusal::new(RefusalClass::Environment, why, next)));
                    }
                }
                Some(call) = calls.recv() => self.call(call),
                () = timer => self.input(Input::Tick),
                _ = stop.wait(), if !stopping => {
                    // What is packed is on disk and handed in at the next start; the lease of a
                    // machine that is only switched off goes to others.
                    stopping = true;
                    self.ended = Some(Ok(()));
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        if let Input::Done(Done::Packed { pending: Some(pending), .. }) = &input {
            self.packed_tokens = pending.contribution.tokens.0;
        }
        let left = self.uplink.left();
        if core::mem::replace(&mut self.uplink_left, left) != left {
            self.node.handle(self.clock.now(), Input::UplinkLeft(left));
        }
        self.node.handle(self.clock.now(), input);
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Work(work) => self.work(work),
                Output::Hangup { why } => {
                    self.reason = Some(why);
                    self.unplug();
                    self.dial(self.redial);
                }
                Output::Refused { why } => {
                    let next = "ask the city's operator for a new ticket, then: suanli join TICKET";
                    self.ended = Some(Err(Refusal::new(RefusalClass::Permission, why, next)));
                }
                Output::Exit => self.ended = Some(Ok(())),
                Output::Note(note) => {
                    // What comes of every new attempt is told once.
                    if self.reason.as_ref() != Some(&note) {
                        self.note(FamilyNote::Other(note.clone()));
                    }
                    self.reason = Some(note);
                }
            }
        }
        self.transmit();
        if self.node.is_admitted() {
            self.redial = REDIAL_FIRST;
            if core::mem::take(&mut self.away) {
                self.note(FamilyNote::Again { city: self.settings.city });
            }
            if let Some(ready) = self.ready.take() {
                let node = self.key.node();
                let (name, city) = (self.settings.name.clone(), self.settings.city);
                // Whoever wanted to know has gone meanwhile.
                let link = self.link_status();
                let _ = ready.send(FamilyReady { node, name, city, link });
            }
        }
    }

    fn work(&mut self, work: Work) {
        match &work {
            Work::Train { .. } => {
                // Whatever kept it from working does so no more.
                self.reason = None;
                self.shared.allow();
            }
            Work::StopTraining => return self.shared.halt(),
            Work::Promote { .. } => {
                self.contributions += 1;
                self.tokens += core::mem::take(&mut self.packed_tokens);
            }
            _ => {}
        }
        // The bulk task ends only with this loop.
        let _ = self.works.send(work);
    }

    fn note(&self, note: FamilyNote) {
        if let Some(notes) = &self.notes {
            // Whoever wanted to know has gone meanwhile.
            let _ = notes.send(note);
        }
    }

    fn transmit(&mut self) {
        let Some(wire) = self.wire.as_ref() else { return self.uplink.idle() };
        while wire.has_room() {
            if let Some(frame) = self.node.poll_control() {
                wire.send(frame);
                continue;
            }
            let Some(bytes) = self.node.bulk_waiting() else { return self.uplink.idle() };
            if !self.uplink.may_send(bytes as u64) {
                return self.node.bulk_held();
            }
            let Some(frame) = self.node.poll_bulk() else { return };
            self.uplink.sent(bytes as u64);
            wire.send(frame);
        }
    }

    /// Lets the last frames out before the process ends.
    async fn flush(&mut self) {
        self.transmit();
        if let Some(wire) = self.wire.take() {
            wire.close().await;
        }
        self.control.settle().await;
    }

    fn dial(&mut self, after: Duration) {
        if self.dialling {
            return;
        }
        self.dialling = true;
        self.links += 1;
        net::dial(self.links, Arc::clone(&self.dialer), after, self.wire_out.clone());
    }

    /// Where the city is looked for.
    fn address(&self) -> String {
        self.settings.ways.first().map(ToString::to_string).unwrap_or_default()
    }

    fn link_status(&self) -> Option<LinkStatus> {
        Some(net::link_status(self.wire.as_ref()?, self.how.as_ref()?))
    }

    fn unplug(&mut self) {
        if let Some(wire) = self.wire.take() {
            let (up, down) = wire.bytes();
            self.bytes_before.0 += up;
            self.bytes_before.1 += down;
        }
    }

    fn wire_event(&mut self, event: WireEvent) {
        match event {
            WireEvent::Up { wire, how } => {
                self.dialling = false;
                self.wire = Some(wire);
                self.how = how;
                self.reason = None;
                self.input(Input::Linked { seed: net::entropy() });
            }
            WireEvent::Refused { why, .. } => {
                self.dialling = false;
                self.reason = Some(why.message.clone());
                if why.class == RefusalClass::Permission {
                    self.ended = Some(Err(why));
                    return;
                }
                if !core::mem::replace(&mut self.away, true) {
                    let address = self.address();
                    self.note(FamilyNote::Unreachable { address, why: why.message });
                }
                self.redial = (self.redial * 2).min(REDIAL_MAX);
                self.dial(self.redial);
            }
            WireEvent::Frame { link, frame } => {
                if self.wire.as_ref().is_some_and(|wire| wire.link() == link) {
                    self.input(Input::Frame(frame));
                }
            }
            WireEvent::Arriving { link } => {
                if self.wire.as_ref().is_some_and(|wire| wire.link() == link) {
                    self.input(Input::Arriving);
                }
            }
            WireEvent::Room => {}
            WireEvent::Down { link, why } => {
                if self.wire.as_ref().is_some_and(|wire| wire.link() == link) {
                    self.unplug();
                    self.reason = why.map(|error| error.to_string());
                    if !core::mem::replace(&mut self.away, true) {
                        self.note(FamilyNote::Lost { city: self.settings.city });
                    }
                    self.input(Input::LinkLost);
                    self.dial(self.redial);
                }
            }
        }
    }

    fn call(&mut self, call: ControlCall) {
        let answer: Answer = match &call.request {
            ControlRequest::Status => Ok(ControlReply::Family(Box::new(self.status()))),
            ControlRequest::Pause => {
                self.input(Input::Owner(Owner::Pause));
                Ok(ControlReply::Done)
            }
            ControlRequest::Resume => {
                self.input(Input::Owner(Owner::Resume));
                Ok(ControlReply::Done)
            }
            ControlRequest::Leave => {
                self.leaving = Some(Instant::now());
                self.input(Input::Owner(Owner::Leave));
                Ok(ControlReply::Done)
            }
            ControlRequest::SetShare { percent } if (1..=100).contains(percent) => {
                self.limits.share_percent = *percent;
                self.shared.set_share(u16::from(*percent) * 10);
                self.input(Input::Owner(Owner::Share(*percent)));
                Ok(ControlReply::Done)
            }
            ControlRequest::SetShare { percent } => {
                let text = format!("a share is 1 to 100 percent, found {percent}");
                Err(Refusal::new(RefusalClass::Usage, text, "choose one in that range"))
            }
            ControlRequest::Stop => {
                self.ended = Some(Ok(()));
                Ok(ControlReply::Done)
            }
            _ => Err(Refusal::not_here(NodeKind::Family)),
        };
        call.answer(answer);
    }

    fn status(&self) -> FamilyStatus {
        let worker = self.node.worker();
        let lease = self.node.lease();
        let state = match worker.phase {
            _ if worker.leaving => FamilyState::Leaving,
            _ if worker.paused || self.node.lacks_uplink() => FamilyState::Paused,
            _ if !self.node.is_admitted() && worker.phase != Phase::Training => {
                FamilyState::Connecting
            }
            Phase::Offline => FamilyState::Connecting,
            Phase::Preparing => FamilyState::Fetching,
            Phase::Training => FamilyState::Training,
            Phase::Packing | Phase::HandingIn => FamilyState::HandingIn,
            Phase::Held | Phase::Paused => FamilyState::Paused,
            _ => FamilyState::Idle,
        };
        let spec = worker.job.and_then(|job| self.node.spec(job));
        let (up, down) = self.wire.as_ref().map_or((0, 0), Wire::bytes);
        let upload = self.uplink.status();
        let limits = LimitsStatus {
            upload_bytes_per_day: upload.bytes_per_day,
            upload_bytes_per_s: upload.bytes_per_s,
            uploaded_today_bytes: upload.today_bytes,
            ..self.limits
        };
        FamilyStatus {
            node: self.key.node().to_string(),
            name: self.settings.name.clone(),
            folder: self.folder.clone(),
            pid: std::process::id(),
            worker_pid: self.shared.worker_pid(),
            city: self.settings.city.to_string(),
            address: self.address(),
            link: self.link_status(),
            state,
            reason: self.reason.clone().or(upload.held),
            job: worker.job.map(|job| job.to_string()),
            job_name: spec.map(|spec| spec.name.clone()),
            round: lease.map_or(worker.version.0, |lease| lease.base.0),
            step: u64::from(worker.done),
            steps: u64::from(worker.steps),
            loss: self.shared.loss(),
            tokens_per_s: f64::from(self.node.measured_rate()),
            contributions: self.contributions,
            tokens: self.tokens,
            bytes_up: self.bytes_before.0 + up,
            bytes_down: self.bytes_before.1 + down,
            limits,
        }
    }
}
