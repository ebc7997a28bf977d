//! Serving one connection from a holder's memory.

use super::Holder;
use super::door::{Doorman, Refusal};
use super::kept::{Full, Kept};
use super::stage::{SessionId, StageKey};
use crate::Ended;
use crate::endpoint::Endpoint;
use crate::{Link, LinkKind};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::Time;
use suanli_rdpa::limits::{CONTROL_BYTES_MAX, PROTOCOL_VERSION};
use suanli_rdpa::{
    Code, Event, HEADER_BYTES, Level, Limits, PeerLimits, RegionName, Reply, Request,
    ResponderToken, Session, Side, Span, StageInfo, StageKind, Welcome, runs_of,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Of each chunk, in the answer to OPEN.
const HASH_BYTES: u64 = 32;

/// Serves `holder` to the peer of `link` until the link is over. `seed` is entropy.
pub async fn serve(
    link: Link,
    holder: Arc<Holder>,
    doorman: impl Doorman,
    limits: Limits,
    seed: u64,
) -> Ended {
    let session = Session::new(Side::Accepting, Time(0), limits, seed);
    // What stays on this host takes nothing of the line to the others.
    let goes_away = link.kind() != LinkKind::Shared;
    let endpoint = Endpoint::new(link, session);
    let mut news = holder.news.subscribe();
    let mut revocations = doorman.revocations();
    let mut connection = Connection {
        endpoint,
        goes_away,
        session: holder.enter(),
        holder,
        doorman,
        limits,
        pins: VecDeque::new(),
        subscribed: BTreeSet::new(),
        kept: Kept::new(&limits),
        again: Instant::now(),
    };
    let mut nowhere = ();
    loop {
        let event = tokio::select! {
            biased;
            // Before all else: whoever was revoked must not put it off by asking without end.
            () = changed(&mut revocations) => {
                connection.take_back();
                continue;
            }
            event = connection.endpoint.next(&mut nowhere) => event,
            told = news.recv(), if !connection.subscribed.is_empty() => {
                connection.tell(told);
                continue;
            }
            () = sleep_until(connection.again), if !connection.kept.is_empty() => {
                connection.go_on();
                continue;
            }
        };
        match event {
            Ok(Event::Request { token, request }) => connection.answer(token, request),
            Ok(Event::Cancelled { token }) => connection.kept.cancel(token),
            Ok(_) => {}
            Err(ended) => return ended,
        }
    }
}

async fn changed(revocations: &mut Option<watch::Receiver<()>>) {
    if let Some(revocations) = revocations
        && revocations.changed().await.is_ok()
    {
        return;
    }
    // Nothing is ever revoked, or no longer.
    std::future::pending().await
}

struct Connection<D> {
    endpoint: Endpoint,
    goes_away: bool,
    session: SessionId,
    holder: Arc<Holder>,
    doorman: D,
    limits: Limits,
    /// Versions this peer has open, oldest first; as many as it may have handles.
    pins: VecDeque<(RegionName, u64)>,
    subscribed: BTreeSet<RegionName>,
    /// What waits for a rate; until when.
    kept: Kept,
    again: Instant,
}

impl<D> Drop for Connection<D> {
    fn drop(&mut self) {
        for (region, version) in self.pins.drain(..) {
            self.holder.unpin(&region, version);
        }
        self.holder.leave(self.session, |_| true);
    }
}

impl<D: Doorman> Connection<D> {
    fn tell(&mut self, told: Result<(RegionName, u64), RecvError>) {
        let (now, session) = self.endpoint.at();
        match told {
            Ok((region, version)) => {
                if self.subscribed.contains(&region) && self.doorman.may_be_told(&region) {
                    session.notify(now, &region, version, &Bytes::new());
                }
            }
            // Too many for a slow peer: the newest of each is all it needs.
            Err(_) => {
                for region in &self.subscribed {
                    let Some(newest) = self.holder.newest(region) else { continue };
                    if !self.doorman.may_be_told(region) {
                        continue;
                    }
                    session.notify(now, region, newest.info.version, &Bytes::new());
                }
            }
        }
    }

    /// Takes back what was opened under a grant that was ended: handles, pins, places in staging
    /// areas. What was placed stays, and gives way to others when there is need of room.
    fn take_back(&mut self) {
        let doorman = &self.doorman;
        self.endpoint.session().revoke(|region| !doorman.may_keep(region));
        let holder = &self.holder;
        self.pins.retain(|(region, version)| {
            let keeps = doorman.may_keep(region);
            if !keeps {
                holder.unpin(region, *version);
            }
            keeps
        });
        // The doorman is not asked while the holder's state is locked.
        let mut over = holder.staging_in(self.session);
        over.retain(|region| !doorman.may_keep(region));
        holder.leave(self.session, |region| over.contains(region));
    }

    fn answer(&mut self, token: ResponderToken, request: Request) {
        let waits = !self.kept.is_empty() && waits_its_turn(&request);
        let waiting = if waits { Some(request) } else { self.answer_now(token, request) };
        let Some(request) = waiting else { return };
        if let Err(Full) = self.kept.push(token, request) {
            let (now, session) = self.endpoint.at();
            session.respond(now, token, error(Code::Busy, "too much waits for the rate"));
        }
    }

    /// What waited for a rate is served as far as the rate allows now.
    fn go_on(&mut self) {
        while let Some((token, request)) = self.kept.pop() {
            if let Some(request) = self.answer_now(token, request) {
                self.kept.put_back(token, request);
                return;
            }
        }
    }

    /// Answers, unless a rate is in the way: then the request comes back, and `again` says for how
    /// long it waits.
    fn answer_now(&mut self, token: ResponderToken, request: Request) -> Option<Request> {
        let now = self.endpoint.now();
        let allowed = match &request {
            Request::Hello(hello) => self.doorman.hello(self.endpoint.peer(), hello),
            request => self.allowed(request),
        };
        let reply = match allowed {
            Ok(()) => self.reply(now, request),
            Err(Refusal { after: Some(after), .. }) if may_wait(&request) => {
                self.again = Instant::now() + after;
                return Some(request);
            }
            Err(refusal) => refused(refusal),
        };
        self.endpoint.session().respond(now, token, reply);
        None
    }

    /// Asks the doorman and, for what goes up to another machine, the owner's limits.
    fn allowed(&mut self, request: &Request) -> Result<(), Refusal> {
        let read_bytes = self.read_bytes(request);
        let upload = self.holder.upload().filter(|_| self.goes_away);
        let bytes = upload.as_ref().map_or(0, |_| self.upload_bytes(request, read_bytes));
        match upload.filter(|_| bytes > 0) {
            None => self.doorman.may(request, read_bytes),
            Some(upload) => upload.take(bytes, || self.doorman.may(request, read_bytes)),
        }
    }

    /// How long the chunk is that a READ asks for.
    fn read_bytes(&self, request: &Request) -> u64 {
        let Request::Read { region, version, chunk } = request else { return 0 };
        let shape = self.holder.version(region, *version).map(|snapshot| snapshot.info.shape);
        shape.and_then(|shape| shape.chunk_len(*chunk)).map_or(0, u64::from)
    }

    /// How long the frame is that answers, if it is bulk or may be as long.
    fn upload_bytes(&self, request: &Request, read_bytes: u64) -> u64 {
        let payload = match request {
            Request::Read { .. } => read_bytes,
            Request::ReadRanges { len, .. } => u64::from(*len),
            Request::Open { region } => self.open_bytes(region, 0),
            Request::ReadIfChanged { region, since } => self.open_bytes(region, *since),
            _ => 0,
        };
        if payload > 0 { payload + HEADER_BYTES as u64 } else { 0 }
    }

    /// How long the description of the newest version is, when it is not that of `since`, and longer
    /// than what other answers hold.
    fn open_bytes(&self, region: &RegionName, since: u64) -> u64 {
        let newest = self.holder.newest(region).filter(|newest| newest.info.version != since);
        let hashes = newest.map_or(0, |newest| newest.info.chunks.len() as u64 * HASH_BYTES);
        if hashes > u64::from(CONTROL_BYTES_MAX) { hashes } else { 0 }
    }

    fn reply(&mut self, now: Time, request: Request) -> Reply {
        match request {
            Request::Hello(_) => Reply::Welcome(self.welcome(now)),
            Request::Open { region } => self.open(region),
            Request::ReadIfChanged { region, since } => match self.holder.newest(&region) {
                Some(newest) if newest.info.version == since => Reply::NotChanged,
                _ => self.open(region),
            },
            Request::Read { region, version, chunk } => {
                let snapshot = self.holder.version(&region, version);
                let bytes = snapshot.and_then(|snapshot| snapshot.chunk(chunk));
                bytes.map_or_else(|| gone(&region, version), Reply::Data)
            }
            Request::ReadRanges { region, version, spans, start, len } => {
                self.read_ranges(&region, version, &spans, start, len)
            }
            Request::OpenStage { region, stage } => {
                let opened = self.holder.open_stage(self.stage(region, stage), self.session);
                done(opened.map(Reply::StageOpened))
            }
            Request::Stage { level: Some(Level::Durable), .. } => {
                error(Code::Unavailable, "this holder keeps what is staged in memory")
            }
            Request::Stage { region, stage, chunk, hash, bytes, .. } => {
                let placed = self.holder.place(&self.stage(region, stage), chunk, hash, &bytes);
                done(placed.map(|placement| Reply::Placed { placement, level: Level::Placed }))
            }
            Request::Commit { region, stage, expected } if stage.kind == StageKind::Write => {
                let committed = self.holder.commit(&self.stage(region, stage), expected);
                done(committed.map(|version| Reply::Committed { version }))
            }
            Request::Subscribe { region } => {
                let newest = self.holder.newest(&region);
                self.subscribed.insert(region);
                Reply::Subscribed { version: newest.map_or(0, |newest| newest.info.version) }
            }
            Request::OpenCells { region } => match self.holder.cell_count(&region) {
                Some(count) => Reply::CellsOpened { count },
                None => error(Code::NoSuchRegion, region.as_str()),
            },
            Request::Cas { region, cell, expected, new } => {
                let swap = |held| if held == expected { new } else { held };
                done(self.holder.change(&region, cell, swap).map(|held| Reply::Cell { held }))
            }
            Request::FetchAdd { region, cell, add } => {
                let sum = |held: u64| held.wrapping_add(add);
                done(self.holder.change(&region, cell, sum).map(|held| Reply::Cell { held }))
            }
            Request::Fence { level: Some(Level::Durable) } => {
                error(Code::Unavailable, "this holder keeps nothing on disk")
            }
            Request::Fence { .. } => Reply::Fenced { level: Level::Placed },
            Request::Revoke { prefix, epoch } => match self.doorman.revoke(&prefix, epoch) {
                Ok(epoch) => Reply::Revoked { epoch },
                Err(refusal) => refused(refusal),
            },
            Request::Stat { region } => {
                Reply::Stat { region: region.and_then(|region| self.holder.stat(&region)) }
            }
            _ => error(Code::Unsupported, "not offered by this holder"),
        }
    }

    /// The staging area that this peer means.
    const fn stage(&self, name: RegionName, info: StageInfo) -> StageKey {
        StageKey { name, peer: self.endpoint.peer(), info }
    }

    fn welcome(&self, now: Time) -> Welcome {
        let limits = PeerLimits {
            requests_max: u32::try_from(self.limits.serving_max).unwrap_or(u32::MAX),
            bulk_window_bytes: self.limits.bulk_window_bytes,
        };
        let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ms = epoch.map_or(now.0, |since| since.as_millis().try_into().unwrap_or(u64::MAX));
        Welcome { version: PROTOCOL_VERSION, limits, time: Time(ms) }
    }

    fn open(&mut self, region: RegionName) -> Reply {
        let Some(info) = self.holder.pin(&region) else {
            return error(Code::NoSuchRegion, region.as_str());
        };
        let pin = (region, info.version);
        if self.pins.contains(&pin) {
            self.holder.unpin(&pin.0, pin.1);
        } else {
            self.pins.push_back(pin);
        }
        if self.pins.len() > self.limits.handles_max
            && let Some((region, version)) = self.pins.pop_front()
        {
            self.holder.unpin(&region, version);
        }
        Reply::Opened(info)
    }

    fn read_ranges(
        &self,
        region: &RegionName,
        version: u64,
        spans: &[Span],
        start: u64,
        len: u32,
    ) -> Reply {
        let Some(snapshot) = self.holder.version(region, version) else {
            return gone(region, version);
        };
        let mut runs = runs_of(spans, start, u64::from(len));
        if let (Some((at, len)), None) = (runs.next(), runs.next()) {
            return Reply::Data(snapshot.run(at, len));
        }
        let mut packed = Vec::with_capacity(len as usize);
        for (at, len) in runs_of(spans, start, u64::from(len)) {
            snapshot.copy_run(at, len, &mut packed);
        }
        Reply::Data(packed.into())
    }
}

/// Whether a rate applies to it.
const fn moves_bytes(request: &Request) -> bool {
    matches!(request, Request::Read { .. } | Request::ReadRanges { .. } | Request::Stage { .. })
}

/// Whether it is kept until it may be answered.
const fn may_wait(request: &Request) -> bool {
    moves_bytes(request) || matches!(request, Request::Open { .. } | Request::ReadIfChanged { .. })
}

/// Whether it comes after what waits: what moves bytes, and what says that bytes are there.
const fn waits_its_turn(request: &Request) -> bool {
    moves_bytes(request) || matches!(request, Request::Fence { .. } | Request::Commit { .. })
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Error { code: refusal.code, text: refusal.text }
}

fn error(code: Code, text: &str) -> Reply {
    Reply::Error { code, text: text.to_owned() }
}

fn gone(region: &RegionName, version: u64) -> Reply {
    Reply::Error { code: Code::VersionGone, text: format!("{region} at {version}") }
}

fn done(result: Result<Reply, Code>) -> Reply {
    result.unwrap_or_else(|code| error(code, ""))
}
