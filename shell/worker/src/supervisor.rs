//! The agent's side of a worker: starting it, talking to it, noticing its death, starting another.
//!
//! Nothing here waits on the runtime's threads: the socket is tokio's, the process is reaped by
//! tokio, starting one is a fork and an exec. Everything sent has a bound ([`SendError::Busy`]),
//! and cancelling and limits go around the queue, so that they act however much waits.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use suanli_engine::{Lora, ModelConfig, Storage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::memory::{Layout, MemoryError, Plain, Region, SharedMemory};
use crate::protocol::{
    self, EngineKind, Failure, FrameError, FromWorker, Moments, Ready, Reply, ShareOfCpu, Start,
    Theta, ToWorker, WORK_QUEUE_MAX, Work,
};

/// The one variable of the environment that a worker gets: which kernels to compute with.
const KERNEL_VARIABLE: &str = "SUANLI_KERNEL";

/// Events that wait for the agent. Progress beyond it is dropped (the end of a work holds the
/// totals); for anything else the worker waits.
const EVENTS_MAX: usize = 256;
/// How much of what a worker printed before it died is kept.
const LAST_WORDS_BYTES_MAX: usize = 4096;
/// How long a worker that closed its socket may take to end by itself before it is killed.
const END_GRACE: Duration = Duration::from_secs(1);
/// How long its last words are waited for when it is gone.
const WORDS_GRACE: Duration = Duration::from_millis(200);

/// What a worker is and how it is started.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Arguments that make the program call [`crate::child::main`].
    pub args: Vec<OsString>,
    /// Whether it is a program of the owner's own ([`crate::child::outside`]): it gets the
    /// environment of this process, and what it prints as errors is shown too.
    pub outside: bool,
    /// The model.
    pub model: ModelConfig,
    /// Which implementation of the engine.
    pub engine: EngineKind,
    /// How it holds matrices and activations: part of the numeric class.
    pub storage: Storage,
    /// Threads it computes on.
    pub threads: u16,
    /// The owner's limit at the beginning.
    pub share: ShareOfCpu,
    /// What the shared memory must hold.
    pub layout: Layout,
    /// What is trained instead of the model.
    pub adapters: Option<Adapters>,
}

/// Adapters, and the model beside which they are trained.
#[derive(Clone, Debug)]
pub struct Adapters {
    /// Which adapters.
    pub lora: Lora,
    /// The file of the model's parameters, f32 little-endian. The worker gets it open for reading;
    /// it opens no file itself.
    pub frozen: PathBuf,
}

impl WorkerSpec {
    /// The fast engine on one thread, without a limit, in memory of this layout.
    #[must_use]
    pub fn new(model: ModelConfig, layout: Layout) -> Self {
        let args = vec!["worker".into()];
        let engine = EngineKind::Fast;
        let storage = Storage::F32;
        Self {
            args,
            outside: false,
            model,
            engine,
            storage,
            threads: 1,
            share: ShareOfCpu::WHOLE,
            layout,
            adapters: None,
        }
    }
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Its memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The system did not start the program.
    #[error("cannot start the worker process {}: {source}", exe.display())]
    System {
        /// The program.
        exe: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The one before it has not died yet.
    #[error("the worker still lives: wait for `WorkerEvent::Died` before starting another")]
    Alive,
}

/// Work could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The worker has died; its death is among the events.
    #[error("the worker process has died: start another on the same memory")]
    Dead,
    /// As much as may wait does wait.
    #[error("{WORK_QUEUE_MAX} works wait for the worker already: ask again after the next reply")]
    Busy,
    /// The agent, or work that is still under way, has this region.
    #[error("{region} is in use: let go of it before handing it to the worker")]
    InUse {
        /// Which region.
        region: &'static str,
    },
    /// It does not fit in a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// [`Worker::call`] did not end with a reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The worker could not do it, and lives.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The worker died over it, or before.
    #[error("{0}")]
    Died(Death),
}

/// What the agent learns from its worker.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// About the work of this id. Unless the reply is partial, it was the last about it, and the
    /// regions it named are free.
    Reply {
        /// The id that [`WorkerHandle::send`] gave.
        id: u64,
        /// What the worker says.
        reply: Reply,
    },
    /// The process is gone and reaped, every region is free. Nothing follows until a respawn.
    Died(Death),
}

/// The end of a worker process.
#[derive(Clone, Debug)]
pub struct Death {
    /// How it was noticed.
    pub cause: DeathCause,
    /// What the system says about it, if it does.
    pub status: Option<ExitStatus>,
    /// The works that were not ended by a reply.
    pub lost: Vec<u64>,
    /// The end of what it printed to its error stream.
    pub last_words: String,
}

/// How a death was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeathCause {
    /// Its socket ended.
    Ended,
    /// It said something that it never says, and was killed for it.
    Broken(String),
    /// This side dropped its [`Worker`] and killed it.
    Dropped,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the worker process died")?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        if let DeathCause::Broken(what) = &self.cause {
            write!(f, ", killed for a message that makes no sense: {what}")?;
        }
        if !self.last_words.is_empty() {
            write!(f, "; its last words: {}", self.last_words.trim_end())?;
        }
        Ok(())
    }
}

/// A worker process and what it says. Dropping it kills the process.
pub struct Worker {
    handle: WorkerHandle,
    exe: PathBuf,
    spec: WorkerSpec,
    events: mpsc::Receiver<WorkerEvent>,
    /// Dropped with the worker; its other end then kills the process.
    _kill: oneshot::Sender<()>,
}

/// What a worker is told through; any number of them.
#[derive(Clone)]
pub struct WorkerHandle {
    inner: Arc<Inner>,
}

struct Inner {
    memory: SharedMemory,
    link: Mutex<Link>,
    orders: watch::Sender<Orders>,
}

/// What goes around the queue.
#[derive(Clone, Copy, PartialEq)]
struct Orders {
    share: ShareOfCpu,
    cancel_through: Option<u64>,
}

/// What is true of the present process.
struct Link {
    next_id: u64,
    process: Option<u32>,
    works: Option<mpsc::Sender<Vec<u8>>>,
    /// The works under way and the locks of the regions they have.
    lent: BTreeMap<u64, Vec<Lent>>,
}

/// A region's lock, of whatever kind.
type Lent = Box<dyn Any + Send>;

impl Worker {
    /// Starts `exe` as a worker. Its first event is the reply `Ready` (or `Failed`).
    ///
    /// # Errors
    /// When there is no memory for the layout, or the program cannot be started.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(exe: PathBuf, spec: WorkerSpec) -> Result<Self, SpawnError> {
        let memory = SharedMemory::create(spec.layout)?;
        let (orders, _) = watch::channel(Orders { share: spec.share, cancel_through: None });
        let link = Link { next_id: 0, process: None, works: None, lent: BTreeMap::new() };
        let inner = Arc::new(Inner { memory, link: Mutex::new(link), orders });
        let (events, kill) = launch(&inner, &exe, &spec)?;
        Ok(Self { handle: WorkerHandle { inner }, exe, spec, events, _kill: kill })
    }

    /// Starts another process after a death, on the same memory and with the present limit.
    ///
    /// # Errors
    /// When the one before still lives, or the system refuses.
    pub fn respawn(&mut self) -> Result<(), SpawnError> {
        if self.handle.inner.link().works.is_some() {
            return Err(SpawnError::Alive);
        }
        (self.events, self._kill) = launch(&self.handle.inner, &self.exe, &self.spec)?;
        Ok(())
    }

    /// The next event; `None` after a death, until a respawn.
    pub async fn event(&mut self) -> Option<WorkerEvent> {
        self.events.recv().await
    }

    /// Waits for the reply to the start of the process.
    ///
    /// # Errors
    /// When it refuses or dies.
    pub async fn ready(&mut self) -> Result<Ready, CallError> {
        match self.last_reply(&mut |_| {}).await? {
            Reply::Ready(ready) => Ok(ready),
            other => unreachable!("only Ready ends a start, found {other:?}"),
        }
    }

    /// Sends work and waits for its last reply; partial ones go to `partial`. For callers with
    /// one thing to do; others use [`WorkerHandle::send`] and [`Worker::event`].
    ///
    /// # Errors
    /// When it cannot be sent (also [`SendError::Busy`] while other work is under way), cannot be
    /// done, or kills the worker.
    pub async fn call(
        &mut self,
        work: Work,
        mut partial: impl FnMut(&Reply) + Send,
    ) -> Result<Reply, CallError> {
        if !self.handle.inner.link().lent.is_empty() {
            return Err(SendError::Busy.into());
        }
        self.handle.send(work)?;
        self.last_reply(&mut partial).await
    }

    async fn last_reply(
        &mut self,
        partial: &mut (dyn FnMut(&Reply) + Send),
    ) -> Result<Reply, CallError> {
        loop {
            match self.events.recv().await {
                Some(WorkerEvent::Reply { reply: Reply::Failed(failure), .. }) => {
                    return Err(failure.into());
                }
                Some(WorkerEvent::Reply { reply, .. }) if reply.is_partial() => partial(&reply),
                Some(WorkerEvent::Reply { reply, .. }) => return Ok(reply),
                Some(WorkerEvent::Died(death)) => return Err(CallError::Died(death)),
                None => return Err(SendError::Dead.into()),
            }
        }
    }

    /// What to tell the worker through.
    #[must_use]
    pub const fn handle(&self) -> &WorkerHandle {
        &self.handle
    }
}

impl WorkerHandle {
    /// Sends work to be done after what was sent before. Returns its id. The regions it names
    /// belong to the worker from now until the last reply to it.
    ///
    /// # Errors
    /// When the worker is dead or has enough to do, or a region is in use.
    pub fn send(&self, work: Work) -> Result<u64, SendError> {
        let mut link = self.inner.link();
        if link.lent.len() >= WORK_QUEUE_MAX {
            return Err(SendError::Busy);
        }
        let works = link.works.clone().ok_or(SendError::Dead)?;
        let lent = lend(&self.inner.memory, &work)?;
        let id = link.next_id;
        let frame = protocol::encode(&ToWorker::Work { id, work })?;
        match works.try_send(frame) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(SendError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(SendError::Dead),
        }
        link.next_id += 1;
        link.lent.insert(id, lent);
        Ok(id)
    }

    /// Ends all work up to and including this id at its last complete step. Each still gets its
    /// last reply.
    pub fn cancel(&self, through: u64) {
        self.inner.orders.send_modify(|orders| {
            orders.cancel_through = orders.cancel_through.max(Some(through));
        });
    }

    /// The owner's limit from now on, for later processes too. [`ShareOfCpu::PAUSED`] stops the
    /// worker within 50 ms at its last complete step; the next share above 0 lets it go on.
    pub fn set_share(&self, share: ShareOfCpu) {
        self.inner.orders.send_modify(|orders| orders.share = share);
    }

    /// The memory shared with the worker.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.inner.memory
    }

    /// The process id, while it lives.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.inner.link().process
    }
}

impl Inner {
    fn link(&self) -> MutexGuard<'_, Link> {
        // No change of a link panics halfway, so a poisoned lock still guards a whole one.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the locks of the regions that this work uses.
fn lend(memory: &SharedMemory, work: &Work) -> Result<Vec<Lent>, SendError> {
    let mut lent = Vec::new();
    let theta = |theta: Theta, lent: &mut Vec<Lent>| match theta {
        Theta::Base => read(memory.base(), "theta base", lent),
        Theta::Local => read(memory.local(), "theta local", lent),
        Theta::Keep => Ok(()),
    };
    match work {
        Work::Init { .. } => write(memory.base(), "theta base", &mut lent)?,
        Work::Seal => write(memory.moments(), "the sealed moments", &mut lent)?,
        Work::Train(train) => {
            // Theta local is written whatever is read, so its one lock is the writer's.
            if train.theta != Theta::Local {
                theta(train.theta, &mut lent)?;
            }
            write(memory.local(), "theta local", &mut lent)?;
            if let Moments::Import { .. } = train.moments {
                read(memory.moments(), "the sealed moments", &mut lent)?;
            }
            lend_tokens(memory, train.tokens.area, &mut lent)?;
        }
        Work::Evaluate(evaluate) => {
            theta(evaluate.theta, &mut lent)?;
            lend_tokens(memory, evaluate.tokens.area, &mut lent)?;
        }
        Work::Generate(generate) => theta(generate.theta, &mut lent)?,
        Work::Start(_) | Work::StateHash | Work::Stop => {}
    }
    Ok(lent)
}

/// An area that does not exist needs no lock: the worker refuses it.
fn lend_tokens(memory: &SharedMemory, area: u32, lent: &mut Vec<Lent>) -> Result<(), SendError> {
    let area = memory.tokens().get(area as usize);
    area.map_or(Ok(()), |area| read(area, "the area for tokens", lent))
}

fn read<T: Plain>(
    region: &Region<T>,
    name: &'static str,
    lent: &mut Vec<Lent>,
) -> Result<(), SendError> {
    let lock = Arc::clone(region).try_read_owned();
    lent.push(Box::new(lock.map_err(|_| SendError::InUse { region: name })?));
    Ok(())
}

fn write<T: Plain>(
    region: &Region<T>,
    name: &'static str,
    lent: &mut Vec<Lent>,
) -> Result<(), SendError> {
    let lock = Arc::clone(region).try_write_owned();
    lent.push(Box::new(lock.map_err(|_| SendError::InUse { region: name })?));
    Ok(())
}

/// What runs beside the task that reads.
struct Tasks {
    writing: JoinHandle<Result<(), FrameError>>,
    listening: JoinHandle<()>,
    words: LastWords,
}

type Ends = (mpsc::Receiver<WorkerEvent>, oneshot::Sender<()>);

/// Starts a process and the task that watches over it.
fn launch(inner: &Arc<Inner>, exe: &PathBuf, spec: &WorkerSpec) -> Result<Ends, SpawnError> {
    let system = |source| SpawnError::System { exe: exe.clone(), source };
    let (ours, theirs) = StdUnixStream::pair().map_err(system)?;
    ours.set_nonblocking(true).map_err(system)?;
    let frozen = spec.adapters.as_ref().map(|adapters| File::open(&adapters.frozen));
    let frozen = frozen.transpose().map_err(system)?;
    inner.memory.send(&ours, frozen.as_ref().map(File::as_fd)).map_err(system)?;
    let (mut reader, writer) = UnixStream::from_std(ours).map_err(system)?.into_split();
    let mut child = start_process(exe, spec, theirs).map_err(system)?;

    // Subscribed before the share is read, so that no change falls between.
    let mut orders = inner.orders.subscribe();
    let told = *orders.borrow_and_update();
    let (works, waiting) = mpsc::channel(WORK_QUEUE_MAX);
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let (kill, killed) = oneshot::channel();
    {
        let mut link = inner.link();
        link.process = child.id();
        link.works = Some(works);
    }
    let model_json = serde_json::to_string(&spec.model).expect("plain numbers are JSON");
    let adapters = spec.adapters.as_ref();
    let adapters_json = adapters
        .map(|adapters| serde_json::to_string(&adapters.lora).expect("plain numbers are JSON"));
    let start = Start {
        model_json,
        adapters_json,
        engine: spec.engine,
        storage: spec.storage,
        threads: spec.threads,
        share: told.share,
        layout: spec.layout,
    };
    let handle = WorkerHandle { inner: Arc::clone(inner) };
    handle.send(Work::Start(Box::new(start))).expect("the queue is new and empty");

    let words = LastWords::default();
    let tasks = Tasks {
        writing: tokio::spawn(write_frames(writer, waiting, orders, told)),
        listening: tokio::spawn(words.clone().listen(child.stderr.take(), spec.outside)),
        words,
    };
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let cause = tokio::select! {
            cause = read_frames(&mut reader, &inner, &sender) => cause,
            _ = killed => DeathCause::Dropped,
        };
        let death = bury(child, cause, &inner, tasks).await;
        // Nobody listens any more when the worker was dropped.
        let _ = sender.send(WorkerEvent::Died(death)).await;
    });
    Ok((events, kill))
}

/// The program, with nothing of the agent's but its end of the socket.
fn start_process(
    exe: &PathBuf,
    spec: &WorkerSpec,
    socket: StdUnixStream,
) -> std::io::Result<Child> {
    let mut command = Command::new(exe);
    command.args(&spec.args);
    if !spec.outside {
        command.env_clear();
    }
    if let Some(kernel) = std::env::var_os(KERNEL_VARIABLE) {
        command.env(KERNEL_VARIABLE, kernel);
    }
    command
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is the agent's to act on.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Puts works and orders on the socket until it ends.
async fn write_frames(
    mut socket: OwnedWriteHalf,
    mut works: mpsc::Receiver<Vec<u8>>,
    mut orders: watch::Receiver<Orders>,
    mut told: Orders,
) -> Result<(), FrameError> {
    loop {
        tokio::select! {
            biased;
            changed = orders.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = *orders.borrow_and_update();
                for order in news(told, now) {
                    socket.write_all(&protocol::encode(&order)?).await?;
                }
                told = now;
            }
            frame = works.recv() => match frame {
                Some(frame) => socket.write_all(&frame).await?,
                None => return Ok(()),
            },
        }
    }
}

fn news(told: Orders, now: Orders) -> impl Iterator<Item = ToWorker> {
    let cancel = now.cancel_through.filter(|_| now.cancel_through != told.cancel_through);
    let cancel = cancel.map(|through| ToWorker::Cancel { through });
    let share = (now.share != told.share).then_some(ToWorker::Share(now.share));
    cancel.into_iter().chain(share)
}

/// Hands on what the worker says until it ends or breaks the protocol.
async fn read_frames(
    socket: &mut OwnedReadHalf,
    inner: &Inner,
    events: &mpsc::Sender<WorkerEvent>,
) -> DeathCause {
    let mut buffer = BytesMut::with_capacity(1 << 14);
    loop {
        loop {
            match take_frame(&mut buffer) {
                Ok(Some(message)) => match accept(message, inner) {
                    Ok(event) => hand_on(event, events).await,
                    Err(broken) => return DeathCause::Broken(broken),
                },
                Ok(None) => break,
                Err(error) => return DeathCause::Broken(error.to_string()),
            }
        }
        // Bounded: a whole frame is at most 1 MiB and was taken above.
        buffer.reserve(1 << 12);
        match socket.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return DeathCause::Ended,
            Ok(_) => {}
        }
    }
}

/// One whole message from the front of the buffer, if there is one.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<FromWorker>, FrameError> {
    let Some(&prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = protocol::body_length(prefix)?;
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = protocol::decode(body)?;
    buffer.advance(4 + length);
    Ok(Some(message))
}

/// Checks a reply against what was asked and frees what its end frees.
fn accept(message: FromWorker, inner: &Inner) -> Result<WorkerEvent, String> {
    let FromWorker { id, reply } = message;
    let mut link = inner.link();
    if !link.lent.contains_key(&id) {
        return Err(format!("a reply about work {id}, which is not under way"));
    }
    if !reply.is_partial() {
        link.lent.remove(&id);
    }
    Ok(WorkerEvent::Reply { id, reply })
}

async fn hand_on(event: WorkerEvent, events: &mpsc::Sender<WorkerEvent>) {
    if let WorkerEvent::Reply { reply: Reply::Progress(_), .. } = event {
        // An agent that is behind does without; the totals come with the end.
        let _ = events.try_send(event);
    } else {
        // A receiver that is gone means a dropped worker: it is being killed.
        let _ = events.send(event).await;
    }
}

/// Makes sure that the process is gone, then frees everything it had.
async fn bury(mut child: Child, cause: DeathCause, inner: &Inner, tasks: Tasks) -> Death {
    tasks.writing.abort();
    let grace = if cause == DeathCause::Ended { END_GRACE } else { Duration::ZERO };
    let status = match tokio::time::timeout(grace, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            // It has a status already when this fails, and `wait` returns it.
            let _ = child.start_kill();
            child.wait().await.ok()
        }
    };
    // What it printed last may still be in the pipe. Should somebody else hold the other end, the
    // end of the pipe never comes.
    let mut listening = tasks.listening;
    let _ = tokio::time::timeout(WORDS_GRACE, &mut listening).await;
    listening.abort();
    let last_words = String::from_utf8_lossy(&tasks.words.kept()).into_owned();
    let mut link = inner.link();
    link.works = None;
    link.process = None;
    // Only now, when it can write no more, do its regions go back.
    let lost = std::mem::take(&mut link.lent).into_keys().collect();
    Death { cause, status, lost, last_words }
}

/// The end of what a process prints, kept while it prints.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<BytesMut>>);

impl LastWords {
    async fn listen(self, stderr: Option<ChildStderr>, show: bool) {
        let Some(mut stderr) = stderr else { return };
        let mut heard = BytesMut::with_capacity(512);
        while stderr.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {
            if show {
                // Nobody to show it to is no reason to stop listening.
                let _ = tokio::io::stderr().write_all(&heard).await;
            }
            let mut kept = self.kept();
            kept.extend_from_slice(&heard);
            let over = kept.len().saturating_sub(LAST_WORDS_BYTES_MAX);
            kept.advance(over);
            heard.clear();
        }
    }

    fn kept(&self) -> MutexGuard<'_, BytesMut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
