//! A trainer's side: hands a prepared job to a city it holds a ticket for.

use crate::clock::Clock;
use crate::control::{Refusal, RefusalClass};
use crate::job::Prepared;
use crate::net;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use suanli_base::JobId;
use suanli_bus::{JobOutcome, ToCity, ToMember};
use suanli_identity::{Role, Ticket};
use suanli_link::dial::{Dialer, Prefer};
use suanli_link::{FrameReader, FrameWriter};
use suanli_node::region_of_upload;
use suanli_rdpa::{
    Answer, Event, Hello, Limits, Op, RegionInfo, Reply, Request, RequestId, Session, Side,
    StageInfo, StageKind, Upload, UploadStep,
};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes what the job names to the city, then hands the job in.
///
/// # Errors
/// [`Refusal`] with the class that the command's exit code comes from.
pub async fn submit(
    ticket: &Ticket,
    key: &Path,
    prepared: &Prepared,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<JobId, Refusal> {
    let mut client = Client::connect(ticket, key).await?;
    let total: u64 = prepared.contents.iter().map(|(_, info)| info.shape.bytes).sum();
    let mut before = 0;
    for (path, info) in &prepared.contents {
        client.write(path, info, &mut |done| progress(before + done, total)).await?;
        before += info.shape.bytes;
        progress(before, total);
    }
    let job = client.hand_in(&prepared.spec).await;
    client.dialer.close().await;
    job
}

struct Client {
    session: Session,
    reader: FrameReader,
    writer: FrameWriter,
    clock: Clock,
    /// Holds the socket of a link by QUIC.
    dialer: Dialer,
}

impl Client {
    async fn connect(ticket: &Ticket, key: &Path) -> Result<Self, Refusal> {
        let key = net::key_of(key)?;
        let grant = ticket.grant();
        let ways = crate::family::settings::ways(ticket);
        let dialer = Dialer::new(&key, grant.city.into(), &ways, Prefer::Auto, true);
        let dialled = dialer.dial(DIAL_TIMEOUT).await;
        let link = dialled.map_err(|error| net::unreached(&error))?.link;
        let clock = Clock::start();
        let session =
            Session::new(Side::Connecting, clock.now(), Limits::reliable(), net::entropy());
        let (reader, writer) = link.split();
        let mut client = Self { session, reader, writer, clock, dialer };
        client.hello(ticket).await?;
        Ok(client)
    }

    async fn hello(&mut self, ticket: &Ticket) -> Result<(), Refusal> {
        let hello = Op::Hello(Hello::new(Role::Train, ticket.to_bytes()));
        let id = self.ask(hello)?;
        match self.answer(id).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.class == RefusalClass::Network => Err(refusal),
            Err(refusal) => Err(Refusal::new(RefusalClass::Permission, refusal.message, "")),
        }
    }

    fn ask(&mut self, op: Op) -> Result<RequestId, Refusal> {
        let now = self.clock.now();
        self.session
            .request(now, op)
            .map_err(|error| Refusal::new(RefusalClass::Internal, error.to_string(), ""))
    }

    /// The next event: frames go out and in meanwhile.
    async fn event(&mut self) -> Result<Event, Refusal> {
        loop {
            while let Some(frame) = self.session.poll_transmit(self.clock.now()) {
                self.writer.push(&frame);
                if self.writer.is_full() {
                    self.writer.flush().await.map_err(|error| network(error.to_string()))?;
                }
            }
            self.writer.flush().await.map_err(|error| network(error.to_string()))?;
            if let Some(event) = self.session.poll_event() {
                return Ok(event);
            }
            let (clock, wake) = (self.clock, self.session.poll_timeout());
            let timer = async move {
                match wake {
                    Some(time) => clock.until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = self.reader.next() => {
                    let frame = frame.map_err(|error| network(error.to_string()))?;
                    let frame = frame.ok_or_else(|| network("the city closed the connection"))?;
                    self.session
                        .handle_frame(self.clock.now(), frame)
                        .map_err(|error| network(format!("the city broke the protocol: {error}")))?;
                }
                () = timer => self.session.handle_timeout(self.clock.now()),
            }
        }
    }

    async fn answer(&mut self, wanted: RequestId) -> Result<Answer, Refusal> {
        loop {
            match self.event().await? {
                Event::Answered { id, answer } if id == wanted => return Ok(answer),
                Event::Failed { id, failure } if id == wanted => {
                    return Err(Refusal::new(RefusalClass::Input, failure.to_string(), ""));
                }
                Event::Silent { span } => {
                    return Err(network(format!("nothing heard for {} ms", span.0)));
                }
                _ => {}
            }
        }
    }

    async fn write(
        &mut self,
        path: &Path,
        info: &RegionInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Refusal> {
        let bytes = std::fs::read(path).map_err(|error| {
            Refusal::new(RefusalClass::Environment, format!("{}: {error}", path.display()), "")
        })?;
        let bytes = Bytes::from(bytes);
        let stage = StageInfo { kind: StageKind::Write, shape: info.shape, root: info.root };
        let region = region_of_upload(info.root);
        let mut upload = Upload::new(region.clone(), stage, Limits::reliable().bulk_window_bytes);
        upload.start(self.clock.now(), &mut self.session);
        let mut sent = BTreeMap::new();
        'upload: loop {
            while let Some(step) = upload.poll() {
                match step {
                    UploadStep::NeedChunk(chunk) => {
                        let start = chunk as usize * info.shape.chunk_bytes as usize;
                        let length = info.shape.chunk_len(chunk).unwrap_or(0) as usize;
                        let piece = bytes.slice(start..(start + length).min(bytes.len()));
                        sent.insert(chunk, length as u64);
                        progress(sent.values().sum());
                        upload.provide(self.clock.now(), &mut self.session, chunk, piece);
                    }
                    UploadStep::Done => break 'upload,
                    UploadStep::Failed(error) => {
                        return Err(Refusal::new(RefusalClass::Network, error.to_string(), ""));
                    }
                    _ => {}
                }
            }
            let event = self.event().await?;
            upload.handle(self.clock.now(), &mut self.session, &event);
        }
        let opened = self.ask(Op::OpenStage { region, stage })?;
        let Answer::StageOpened { handle, .. } = self.answer(opened).await? else {
            return Err(network("the city answered something else"));
        };
        let commit = self.ask(Op::Commit { handle, expected: 0 })?;
        self.answer(commit).await.map(|_| ())
    }

    async fn hand_in(&mut self, spec: &[u8]) -> Result<JobId, Refusal> {
        let message = ToCity::Submit { spec: spec.to_vec() };
        self.ask(Op::Send { bytes: Bytes::from(message.to_bytes()) })?;
        loop {
            let Event::Request { token, request: Request::Send { bytes } } = self.event().await?
            else {
                continue;
            };
            self.session.respond(self.clock.now(), token, Reply::Delivered);
            if let Some(ToMember::Job { job, outcome }) = ToMember::from_bytes(&bytes) {
                return match outcome {
                    JobOutcome::Done | JobOutcome::Known => Ok(job),
                    JobOutcome::Refused(why) => Err(Refusal::new(RefusalClass::Input, why, "")),
                };
            }
        }
    }
}

fn network(text: impl Into<String>) -> Refusal {
    let next = "is the city running, and does this machine reach it?";
    Refusal::new(RefusalClass::Network, text, next)
}
