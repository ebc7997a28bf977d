//! The node's side: accepts, checks the caller, and turns lines into calls for the owning loop.

use super::error::ControlError;
use super::message::{
    Answer, ControlReply, ControlRequest, Greeting, NodeKind, REPLY_BYTES_MAX, REQUEST_BYTES_MAX,
    Refusal, RefusalClass, StatusEvent, VERSION,
};
use super::socket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

/// Callers served at the same time; one more is told to come back.
const CALLERS_MAX: usize = 32;
/// Calls that may wait for the loop.
const CALLS_WAITING_MAX: usize = 16;
/// Events kept for a slow watcher.
const EVENTS_KEPT_MAX: usize = 256;
/// Statuses come no faster than this.
const WATCH_INTERVAL_MS_MIN: u64 = 50;
/// A caller that neither reads nor writes this long while it should is dropped.
const STALL_S_MAX: u64 = 30;
/// How long the end of a process waits for answers that are being written.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// A request that waits for the loop's answer.
#[derive(Debug)]
pub struct ControlCall {
    /// What is asked.
    pub request: ControlRequest,
    reply: oneshot::Sender<Answer>,
}

impl ControlCall {
    /// Answers. A caller that hung up meanwhile is no error.
    pub fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }

    /// Takes the call apart, for a loop that answers later from elsewhere.
    #[must_use]
    pub fn into_parts(self) -> (ControlRequest, oneshot::Sender<Answer>) {
        (self.request, self.reply)
    }
}

/// The open socket of a node. Dropped: closed and removed.
#[derive(Debug)]
pub struct ControlServer {
    folder: PathBuf,
    events: broadcast::Sender<StatusEvent>,
    accepting: tokio::task::JoinHandle<()>,
    answering: Arc<Semaphore>,
}

impl ControlServer {
    /// Opens the socket in `folder`; calls come out of the receiver. The caller holds the folder's
    /// lock already.
    ///
    /// # Errors
    /// [`ControlError::AlreadyRunning`] when another process answers there, [`ControlError::Io`]
    /// when the system refuses.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        folder: &Path,
        kind: NodeKind,
    ) -> Result<(Self, mpsc::Receiver<ControlCall>), ControlError> {
        let listener = UnixListener::from_std(socket::bind(folder)?)
            .map_err(ControlError::io("open the control socket in", folder))?;
        let (calls, receiver) = mpsc::channel(CALLS_WAITING_MAX);
        let events = broadcast::channel(EVENTS_KEPT_MAX).0;
        let answering = Arc::new(Semaphore::new(CALLERS_MAX));
        let desk = Desk { kind, calls, events: events.clone(), answering: answering.clone() };
        let accepting = tokio::spawn(accept(listener, desk));
        Ok((Self { folder: folder.into(), events, accepting, answering }, receiver))
    }

    /// Waits until every answer given so far is written: whoever asked for the end of this process
    /// is to read that it ends. Not longer than a moment, whatever a caller does.
    pub async fn settle(&self) {
        let all = u32::try_from(CALLERS_MAX).unwrap_or(u32::MAX);
        // A caller that does not read its answer goes without.
        let _ = tokio::time::timeout(SETTLE_MAX, self.answering.acquire_many(all)).await;
    }

    /// Tells everyone who watches. Nobody watching is fine.
    pub fn publish(&self, event: StatusEvent) {
        let _ = self.events.send(event);
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(self.folder.join(socket::SOCKET_NAME));
    }
}

#[derive(Clone)]
struct Desk {
    kind: NodeKind,
    calls: mpsc::Sender<ControlCall>,
    events: broadcast::Sender<StatusEvent>,
    /// A permit is held from a request until its answer is written.
    answering: Arc<Semaphore>,
}

async fn accept(listener: UnixListener, desk: Desk) {
    let room = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let desk = desk.clone();
        tokio::spawn(async move {
            // A caller that misbehaves or hangs up ends its own task, nothing else.
            let _ = serve(stream, desk).await;
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, desk: Desk) -> Result<(), ControlError> {
    let owner = rustix::process::geteuid().as_raw();
    let caller = stream.peer_cred().map_err(ControlError::io("look at the caller of", "socket"))?;
    let (reader, mut writer) = stream.into_split();
    if caller.uid() != owner && caller.uid() != 0 {
        let refusal = Refusal::new(
            RefusalClass::Permission,
            format!("this socket belongs to user {owner}, you are user {}", caller.uid()),
            "run the command as its owner",
        );
        return write_line(&mut writer, &ControlReply::Refused(refusal)).await;
    }
    let greeting = Greeting { control: VERSION, kind: desk.kind, pid: std::process::id() };
    write_line(&mut writer, &greeting).await?;
    let mut reader = BufReader::new(reader);
    loop {
        let line = match read_line(&mut reader, REQUEST_BYTES_MAX).await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => {
                let refusal = Refusal::new(RefusalClass::Usage, error.to_string(), "");
                return write_line(&mut writer, &ControlReply::Refused(refusal)).await;
            }
        };
        match serde_json::from_slice(&line) {
            Ok(ControlRequest::Watch { interval_ms }) => {
                return watch(&desk, interval_ms, &mut reader, &mut writer).await;
            }
            Ok(request) => {
                let answering = desk.answering.acquire().await;
                let reply = desk.ask(request).await;
                write_line(&mut writer, &reply).await?;
                drop(answering);
            }
            Err(error) => {
                let refusal = Refusal::new(
                    RefusalClass::Usage,
                    format!("not a control request: {error}"),
                    "use the suanli command of the same version as the running process",
                );
                write_line(&mut writer, &ControlReply::Refused(refusal)).await?;
            }
        }
    }
}

impl Desk {
    async fn ask(&self, request: ControlRequest) -> ControlReply {
        let (reply, answer) = oneshot::channel();
        let ending = || {
            ControlReply::Refused(Refusal::new(
                RefusalClass::Environment,
                "the process is stopping",
                "start it again",
            ))
        };
        if self.calls.send(ControlCall { request, reply }).await.is_err() {
            return ending();
        }
        match answer.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => ControlReply::Refused(refusal),
            Err(_) => ending(),
        }
    }
}

async fn watch(
    desk: &Desk,
    interval_ms: u64,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), ControlError> {
    use broadcast::error::RecvError;
    let mut events = desk.events.subscribe();
    let every = Duration::from_millis(interval_ms.max(WATCH_INTERVAL_MS_MIN));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let reply = tokio::select! {
            _ = ticks.tick() => desk.ask(ControlRequest::Status).await,
            event = events.recv() => ControlReply::Event(match event {
                Ok(event) => event,
                Err(RecvError::Lagged(events)) => StatusEvent::Missed { events },
                Err(RecvError::Closed) => return Ok(()),
            }),
            // Whatever a watcher says, it says goodbye.
            _ = reader.fill_buf() => return Ok(()),
        };
        write_line(writer, &reply).await?;
        if matches!(reply, ControlReply::Refused(_)) {
            return Ok(());
        }
    }
}

/// Reads a line of at most `max` bytes; nothing at the end of the stream.
pub(super) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> Result<Option<Vec<u8>>, ControlError> {
    let mut line = Vec::new();
    loop {
        let buffer =
            reader.fill_buf().await.map_err(ControlError::io("read from", "the control socket"))?;
        if buffer.is_empty() {
            return if line.is_empty() { Ok(None) } else { Err(ControlError::Closed) };
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        if line.len() + taken > max {
            return Err(ControlError::TooLong { max });
        }
        line.extend_from_slice(&buffer[..taken]);
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

pub(super) async fn write_line(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &impl serde::Serialize,
) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(value)?;
    if line.len() > REPLY_BYTES_MAX {
        return Err(ControlError::TooLong { max: REPLY_BYTES_MAX });
    }
    line.push(b'\n');
    let stall = Duration::from_secs(STALL_S_MAX);
    match tokio::time::timeout(stall, writer.write_all(&line)).await {
        Ok(done) => done.map_err(ControlError::io("write to", "the control socket")),
        Err(_) => Err(ControlError::TimedOut { after_s: STALL_S_MAX }),
    }
}

#[cfg(test)]
mod tests;
