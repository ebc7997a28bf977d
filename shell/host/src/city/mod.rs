//! A city's process: it holds the key, the log and the links, drives the node, and hands bulk
//! work to threads of its own.

mod books;
mod catalogue;
mod doors;
mod evaluate;
mod files;
mod operator;
mod status;
mod told;
mod traffic;
mod turns;

pub(crate) use files::Files;

use crate::clock::Clock;
use crate::control::{
    CityInit, CityOptions, CityReady, ControlCall, ControlServer, GrantOrder, NodeKind, Refusal,
    RefusalClass, Stop,
};
use crate::net::{self, Wire, WireEvent};
use crate::uplink::Uplink;
use doors::Doors;
use files::Bulk;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;
use suanli_base::{CityId, Duration, Fault, Hash, JobId, NodeId, Time};
use suanli_bus::CityState;
use suanli_identity::{Access, AccessLine, Bounds, Grant, Role, SecretKey, Ticket};
use suanli_link::group_of;
use suanli_log::Entry;
use suanli_node::city::{CityNode, CommandId, ConnId, Done, Input, Output, Source, Work};
use suanli_rdpa::Limits;
use suanli_store::{FolderLock, LogFiles, LogFilesError};
use tokio::sync::{mpsc, oneshot};
use told::{Told, Who};
use traffic::Ledger;

const FILE: &str = "city.toml";
/// A join ticket printed at a start: for so many nodes, for so long.
const TICKET_USES: u32 = 64;
const TICKET_LASTS_S: u64 = 7 * 24 * 3600;
/// A grant begins so much before it is given.
const CLOCKS_APART: Duration = Duration(60_000);

/// What a city remembers besides its log.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    name: String,
    /// The port of the last start, taken again when the operator names none.
    #[serde(default)]
    port: u16,
}

/// Makes a new city in an empty folder: its key, its name, the first entry of its log.
///
/// # Errors
/// [`Refusal`] when the folder holds something or the disk refuses.
pub fn init(folder: &Path, init: &CityInit) -> Result<CityId, Refusal> {
    use std::os::unix::fs::DirBuilderExt as _;
    if folder.join(FILE).exists() {
        let text = format!("{} holds a city already", folder.display());
        let next = "start it with `suanli city serve`, or choose another --dir";
        return Err(Refusal::new(RefusalClass::Environment, text, next));
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| environment(format!("cannot make {}: {error}", folder.display())))?;
    let _lock = FolderLock::take(folder).map_err(|error| environment(error.to_string()))?;
    let key = net::key_of(&folder.join("city.key"))?;
    let city = CityId::from(key.node());
    let files = Files::open(folder).map_err(|error| environment(error.to_string()))?;
    let name: String = init.name.chars().take(suanli_log::NAME_CHARS_MAX).collect();
    match LogFiles::create(files.disk, "log", Hash(city.0)) {
        Ok(mut log) => {
            let time = Clock::start().now();
            let founded = Entry::Founded { city, name: name.clone(), time };
            log.append(&[founded.to_bytes()]).map_err(|error| log_refusal(&error))?;
        }
        // An earlier attempt was interrupted after the log and before the last file.
        Err(LogFilesError::Exists { .. }) => {}
        Err(error) => return Err(log_refusal(&error)),
    }
    remember(folder, &Remembered { name, port: 0 })?;
    Ok(city)
}

/// Runs a city until it is stopped.
///
/// # Errors
/// [`Refusal`] with the class that the command's exit code comes from.
pub async fn serve(options: CityOptions) -> Result<(), Refusal> {
    let folder = options.folder.clone();
    let mut remembered = recall(&folder)?;
    let _lock = FolderLock::take(&folder).map_err(|error| environment(error.to_string()))?;
    let key = net::key_of(&folder.join("city.key"))?;
    let city = CityId::from(key.node());
    let files = Files::open(&folder).map_err(|error| environment(error.to_string()))?;
    let (log, state) = recover(&files, city)?;
    let wanted = state.blobs().into_iter().collect();
    files.blobs.keep_only(&wanted).map_err(|error| environment(error.to_string()))?;
    files.clear_staging().map_err(|error| environment(error.to_string()))?;
    let contents = files.contents().map_err(|error| environment(error.to_string()))?;
    let doors = Doors::open(&options.doors, &remembered, &folder, &key).await?;
    if remembered.port != doors.port {
        remembered.port = doors.port;
        remember(&folder, &remembered)?;
    }
    let (control, calls) = ControlServer::start(&folder, NodeKind::City)
        .map_err(|error| environment(error.to_string()))?;
    let clock = Clock::start();
    let mut node = CityNode::new(key.clone(), Limits::reliable(), state, contents, clock.now());
    node.keep_books(books::load(&files)?);
    let traffic = Ledger::open(&folder, node.state());
    let uplink = Uplink::of_node(&folder, options.upload, clock)?;
    let (done_out, done) = mpsc::unbounded_channel();
    let (wires, wire_events) = mpsc::channel(1024);
    net::listen(doors.all(), &wires);
    drop(wires);
    let program = crate::family::worker_program(&options.worker)?;
    let (orders, orders_in) = mpsc::unbounded_channel();
    let measuring =
        tokio::spawn(evaluate::run(files.clone(), program, orders_in, done_out.clone()));
    let mut process = Process {
        node,
        log,
        key,
        clock,
        files: files.clone(),
        bulk: bulk_thread(files.clone(), done_out.clone()),
        reads: read_thread(files, done_out.clone()),
        reports: done_out,
        orders,
        control,
        wires: BTreeMap::new(),
        looking_on: BTreeSet::new(),
        traffic,
        uplink,
        turn: ConnId(0),
        told: Told::default(),
        described: BTreeSet::new(),
        addresses: doors.for_tickets(),
        shown_addresses: doors.shown(),
        started: Instant::now(),
        name: remembered.name,
        commands: 0,
        waiting: BTreeMap::new(),
        ended: None,
    };
    let ticket = process.ticket(Role::Join, TICKET_LASTS_S, TICKET_USES);
    if let Some(ready) = options.ready {
        let addresses = doors.shown();
        // Whoever wanted to know has gone meanwhile.
        let _ = ready.send(CityReady { city, addresses, ticket: ticket.ok() });
    }
    let ended = process.serve(calls, done, wire_events, options.stop).await;
    let ended = ended.and_then(|()| books::keep(&process.files, &process.node.books()));
    process.control.settle().await;
    drop(process);
    doors.close().await;
    measuring.abort();
    let _ = measuring.await;
    ended
}

/// Folds the log.
fn recover(files: &Files, city: CityId) -> Result<(LogFiles, CityState), Refusal> {
    let opened = LogFiles::open(files.disk.clone(), "log", Hash(city.0));
    let (log, recovered) = opened.map_err(|error| log_refusal(&error))?;
    for mended in &recovered.mended {
        eprintln!("suanli: {mended}");
    }
    let state = fold(recovered.state.as_deref(), &recovered.bodies)?;
    Ok((log, state))
}

/// The state that a snapshot and the entries after it give.
pub(crate) fn fold(snapshot: Option<&[u8]>, bodies: &[Vec<u8>]) -> Result<CityState, Refusal> {
    let corrupt = |text: String| {
        Refusal::new(RefusalClass::Corrupt, text, "keep the folder as it is and report this")
    };
    let mut state = match snapshot {
        None => CityState::new(),
        Some(bytes) => postcard::from_bytes(bytes)
            .map_err(|_| corrupt("the log's snapshot does not decode".into()))?,
    };
    for body in bodies {
        let entry = Entry::from_bytes(body).map_err(|error| corrupt(error.to_string()))?;
        state.apply(&entry).map_err(|error| corrupt(error.to_string()))?;
    }
    Ok(state)
}

fn bulk_thread(files: Files, done: mpsc::UnboundedSender<Done>) -> mpsc::UnboundedSender<Work> {
    let (works, mut works_in) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut bulk = Bulk::new(files);
        while let Some(work) = works_in.blocking_recv() {
            match bulk.perform(work) {
                Ok(Some(report)) => {
                    if done.send(report).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    // What was acknowledged is on disk; going on could lose the next thing.
                    eprintln!("suanli: the city stops: {error}");
                    std::process::exit(i32::from(crate::EXIT_ENVIRONMENT));
                }
            }
        }
    });
    works
}

fn read_thread(files: Files, done: mpsc::UnboundedSender<Done>) -> mpsc::UnboundedSender<Work> {
    let (works, mut works_in) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Some(work) = works_in.blocking_recv() {
            let Work::Read { conn, token, source, runs, length } = work else { continue };
            let bytes = files.read(source, &runs, length).ok().map(bytes::Bytes::from);
            if done.send(Done::Read { conn, token, bytes }).is_err() {
                return;
            }
        }
    });
    works
}

struct Process {
    node: CityNode,
    log: LogFiles,
    key: SecretKey,
    clock: Clock,
    files: Files,
    bulk: mpsc::UnboundedSender<Work>,
    reads: mpsc::UnboundedSender<Work>,
    /// For work that this loop does itself.
    reports: mpsc::UnboundedSender<Done>,
    orders: mpsc::UnboundedSender<evaluate::Order>,
    control: ControlServer,
    wires: BTreeMap<ConnId, (NodeId, Wire)>,
    /// Those of members that only look on or measure: their bytes are no work's.
    looking_on: BTreeSet<ConnId>,
    traffic: Ledger,
    /// The operator's limits of upload.
    uplink: Uplink,
    /// The connection whose bulk goes first.
    turn: ConnId,
    told: Told,
    /// Jobs whose tensors the node was told of, or has none to be told of.
    described: BTreeSet<JobId>,
    /// The ways to this city, for tickets: with the pass of a relay.
    addresses: Vec<String>,
    /// The same, without it.
    shown_addresses: Vec<String>,
    started: Instant,
    name: String,
    commands: u64,
    waiting: BTreeMap<CommandId, oneshot::Sender<crate::control::Answer>>,
    ended: Option<Result<(), Refusal>>,
}

impl Process {
    async fn serve(
        &mut self,
        mut calls: mpsc::Receiver<ControlCall>,
        mut done: mpsc::UnboundedReceiver<Done>,
        mut wires: mpsc::Receiver<WireEvent>,
        mut stop: Stop,
    ) -> Result<(), Refusal> {
        self.drain()?;
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let clock = self.clock;
            let wake = self.node.poll_timeout();
            let wake = self.uplink.wake().map_or(wake, |held| held.min(wake));
            tokio::select! {
                event = wires.recv() => if let Some(event) = event { self.wire_event(event)?; },
                Some(done) = done.recv() => self.input(Input::Done(done))?,
                Some(call) = calls.recv() => self.call(call)?,
                () = clock.until(wake) => self.input(Input::Tick)?,
                _ = stop.wait() => self.ended = Some(Ok(())),
            }
        }
    }

    fn input(&mut self, input: Input) -> Result<(), Refusal> {
        self.tell_lost(&input);
        self.handle(input)?;
        self.drain()
    }

    fn handle(&mut self, input: Input) -> Result<(), Refusal> {
        let now = self.clock.now();
        self.node.handle(now, input).map_err(|error| {
            let next = "keep the folder as it is and report this";
            Refusal::new(RefusalClass::Corrupt, error.to_string(), next)
        })
    }

    fn drain(&mut self) -> Result<(), Refusal> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Append(bodies) => self.append(&bodies)?,
                Output::Snapshot(state) => {
                    if let Err(error) = self.log.snapshot(&state) {
                        if error.must_stop() {
                            return Err(log_refusal(&error));
                        }
                        eprintln!("suanli: no snapshot this time: {error}");
                    }
                }
                Output::Work(work) => self.work(work)?,
                Output::Close { conn, why } => {
                    self.tell_end(conn, &why);
                    self.hang_up(conn);
                }
                Output::Admitted { conn, role } => {
                    if role == Role::Watch {
                        self.looking_on.insert(conn);
                    }
                    self.tell_admitted(conn);
                }
                Output::Reply { id, outcome, job } => self.command_done(id, outcome, job),
                Output::Revoked { id, result } => self.revoke_done(id, result),
                Output::Note(note) => eprintln!("suanli: {note}"),
            }
        }
        self.describe()?;
        self.transmit();
        Ok(())
    }

    /// Tells the node which tensors the parameters of a new job are.
    fn describe(&mut self) -> Result<(), Refusal> {
        let jobs = &self.node.state().jobs;
        if jobs.len() == self.described.len() {
            return Ok(());
        }
        let new = jobs.iter().filter(|(id, _)| !self.described.contains(id));
        let new: Vec<_> = new.map(|(id, job)| (*id, catalogue::of_job(&job.spec))).collect();
        for (job, tensors) in new {
            self.described.insert(job);
            match tensors {
                Ok(tensors) => self.handle(Input::Describe { job, tensors })?,
                Err(why) => eprintln!("suanli: job {} has no catalogue: {why}", job.short()),
            }
        }
        Ok(())
    }

    /// Makes entries durable, then lets them count.
    fn append(&mut self, bodies: &[Vec<u8>]) -> Result<(), Refusal> {
        crate::fault::point("before-append");
        self.log.append(bodies).map_err(|error| log_refusal(&error))?;
        crate::fault::point("after-append");
        self.handle(Input::Durable)?;
        self.tell_watchers(bodies);
        Ok(())
    }

    fn work(&mut self, work: Work) -> Result<(), Refusal> {
        match work {
            Work::KeepBooks(books) => {
                books::keep(&self.files, &books)?;
                // Received by this very loop.
                let _ = self.reports.send(Done::BooksKept);
            }
            Work::Read { conn, source, length, .. } => {
                self.count_read(conn, source, length);
                // The threads end only with this loop.
                let _ = self.reads.send(work);
            }
            Work::Evaluate { job, version, theta } => {
                let Some(known) = self.node.state().jobs.get(&job) else { return Ok(()) };
                let spec = Box::new(known.spec.clone());
                let _ = self.orders.send(evaluate::Order { job, version, theta, spec });
            }
            work => {
                let _ = self.bulk.send(work);
            }
        }
        Ok(())
    }

    fn count_read(&mut self, conn: ConnId, source: Source, length: u32) {
        let Some((node, _)) = self.wires.get(&conn) else { return };
        let state = self.node.state();
        let theta = |blob: Hash| {
            let jobs = state.jobs.values();
            jobs.flat_map(|job| &job.recent).any(|recent| recent.theta == Some(blob))
        };
        if self.looking_on.contains(&conn) {
            return;
        }
        let traffic = self.traffic.of(state, *node);
        match source {
            Source::Content(_) => traffic.shards += u64::from(length),
            Source::Blob(blob) if theta(blob) => traffic.theta += u64::from(length),
            _ => {}
        }
    }

    fn hang_up(&mut self, conn: ConnId) {
        if let Some((node, wire)) = self.wires.remove(&conn) {
            let (sent, received) = wire.bytes();
            let state = self.node.state();
            let traffic = if self.looking_on.remove(&conn) {
                self.traffic.others()
            } else {
                self.traffic.of(state, node)
            };
            traffic.up += received;
            traffic.down += sent;
        }
    }

    /// Tells of the end of a connection, unless its peer's are told already.
    fn tell_end(&mut self, conn: ConnId, why: &str) {
        let Some((node, wire)) = self.wires.get(&conn) else { return };
        let who = if self.node.state().members.contains_key(node) {
            Who::Member(*node)
        } else {
            Who::Stranger(wire.remote().ip().map(group_of))
        };
        if let Some(line) = self.told.line(self.clock.now(), who, why) {
            eprintln!("suanli: {line}");
        }
    }

    fn wire_event(&mut self, event: WireEvent) -> Result<(), Refusal> {
        match event {
            WireEvent::Up { wire, .. } => {
                let (conn, peer) = (ConnId(wire.link()), wire.peer());
                let from = wire.remote().ip().map(group_of);
                self.wires.insert(conn, (peer, wire));
                self.input(Input::Opened { conn, peer, from, seed: net::entropy() })
            }
            WireEvent::Frame { link, frame } => {
                let conn = ConnId(link);
                if self.wires.contains_key(&conn) {
                    return self.input(Input::Frame { conn, frame });
                }
                Ok(())
            }
            WireEvent::Arriving { link } => self.input(Input::Arriving { conn: ConnId(link) }),
            WireEvent::Room => {
                self.transmit();
                Ok(())
            }
            WireEvent::Down { link, why } => {
                let conn = ConnId(link);
                // A link that was cut is the weather's, and ordinary.
                if let Some(error) = why.filter(|error| error.fault() == Fault::Peer) {
                    self.tell_end(conn, &error.to_string());
                }
                self.hang_up(conn);
                self.input(Input::Closed { conn })
            }
            WireEvent::Refused { why, .. } => {
                eprintln!("suanli: a connection was refused: {why}");
                Ok(())
            }
        }
    }

    /// Issues a ticket.
    fn ticket(&self, role: Role, lasts_s: u64, uses: u32) -> Result<Ticket, Refusal> {
        let expires = self.clock.now().after(Duration::from_s(lasts_s));
        let city = CityId::from(self.key.node());
        let (nonce, addresses) = (net::entropy(), self.addresses.clone());
        let grant = Grant { city, role, expires, uses, nonce, addresses };
        Ticket::issue(&self.key, grant)
            .map_err(|error| Refusal::new(RefusalClass::Usage, error.to_string(), ""))
    }

    /// Signs a grant to regions of this city, good at the epoch now in force.
    fn grant(&self, order: &GrantOrder) -> Result<AccessLine, Refusal> {
        let usage = |text: String| Refusal::new(RefusalClass::Usage, text, "");
        let now = self.clock.now();
        let bounds = Bounds {
            prefix: order.prefix.clone(),
            rights: order.rights,
            bytes_max: order.bytes_max,
            bytes_per_s: order.bytes_per_s,
            // Whose clock is a little behind is not turned away.
            not_before: Time(now.0.saturating_sub(CLOCKS_APART.0)),
            not_after: now.after(Duration::from_s(order.lasts_s)),
            epoch: self.node.epoch(),
            depth: order.depth,
        };
        let access = Access::issue(&self.key, order.to, bounds, net::entropy())
            .map_err(|error| usage(error.to_string()))?;
        AccessLine::new(access, self.addresses.clone()).map_err(|error| usage(error.to_string()))
    }
}

pub(crate) fn environment(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalClass::Environment, text, "")
}

fn log_refusal(error: &LogFilesError) -> Refusal {
    let class = match error.fault() {
        Fault::Weather => RefusalClass::Environment,
        _ => RefusalClass::Corrupt,
    };
    let next = match class {
        RefusalClass::Environment => {
            "free some room or mend the disk, then start it again: nothing acknowledged is lost"
        }
        _ => "keep the folder as it is; restore it from a copy, or start a new city elsewhere",
    };
    Refusal::new(class, error.to_string(), next)
}

fn recall(folder: &Path) -> Result<Remembered, Refusal> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let text = format!("{} holds no city ({error})", folder.display());
        Refusal::new(RefusalClass::Usage, text, "make one with `suanli city init`")
    })?;
    toml::from_str(&text).map_err(|error| {
        let text = format!("{} is not what this program writes there: {error}", path.display());
        Refusal::new(RefusalClass::Corrupt, text, "write back a line like: name = \"our city\"")
    })
}

fn remember(folder: &Path, what: &Remembered) -> Result<(), Refusal> {
    let text = toml::to_string(what).expect("a name and a number are TOML");
    let disk = suanli_store::RealDisk::new(folder);
    suanli_store::write_atomic(&disk, "", FILE, text.as_bytes())
        .map_err(|error| environment(error.to_string()))
}

/// The folder's city key, for programs that act for the operator on this machine.
///
/// # Errors
/// [`Refusal`] when there is none or others may read it.
pub fn operator_key(folder: &Path) -> Result<SecretKey, Refusal> {
    let path: PathBuf = folder.join("city.key");
    suanli_store::load_key(&path)
        .map_err(|error| Refusal::new(RefusalClass::Permission, error.to_string(), ""))
}
