//! Serving one connection from a holder's memory.

use super::Holder;
use crate::Link;
use crate::endpoint::Endpoint;
use crate::pump::Ended;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{NodeId, Time};
use suanli_rdpa::limits::PROTOCOL_VERSION;
use suanli_rdpa::{
    Code, Event, Hello, Level, Limits, PeerLimits, RegionName, Reply, Request, ResponderToken,
    Session, Side, Span, StageKind, Welcome, runs_of,
};
use tokio::sync::broadcast::error::RecvError;

/// Decides who may do what. Asked at HELLO and at every request.
pub trait Doorman: Send {
    /// Whether a peer may come in.
    ///
    /// # Errors
    /// The code and words of the refusal.
    fn hello(&mut self, now: Time, peer: NodeId, hello: &Hello) -> Result<(), (Code, String)>;

    /// Whether it may do this now.
    ///
    /// # Errors
    /// The code and words of the refusal.
    fn may(&mut self, now: Time, request: &Request) -> Result<(), (Code, String)>;
}

/// Lets everybody do everything: for links whose other end is trusted with all that is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenDoor;

impl Doorman for OpenDoor {
    fn hello(&mut self, _: Time, _: NodeId, _: &Hello) -> Result<(), (Code, String)> {
        Ok(())
    }

    fn may(&mut self, _: Time, _: &Request) -> Result<(), (Code, String)> {
        Ok(())
    }
}

/// Serves `holder` to the peer of `link` until the link is over. `seed` is entropy.
pub async fn serve(
    link: Link,
    holder: Arc<Holder>,
    doorman: impl Doorman,
    limits: Limits,
    seed: u64,
) -> Ended {
    let session = Session::new(Side::Accepting, Time(0), limits, seed);
    let endpoint = Endpoint::new(link, session);
    let mut news = holder.news.subscribe();
    let mut connection = Connection {
        endpoint,
        holder,
        doorman,
        limits,
        pins: VecDeque::new(),
        subscribed: BTreeSet::new(),
    };
    let mut nowhere = ();
    loop {
        let event = tokio::select! {
            biased;
            event = connection.endpoint.next(&mut nowhere) => event,
            told = news.recv(), if !connection.subscribed.is_empty() => {
                connection.tell(told);
                continue;
            }
        };
        match event {
            Ok(Event::Request { token, request }) => connection.answer(token, request),
            Ok(_) => {}
            Err(ended) => return ended,
        }
    }
}

struct Connection<D> {
    endpoint: Endpoint,
    holder: Arc<Holder>,
    doorman: D,
    limits: Limits,
    /// Versions this peer has open, oldest first; as many as it may have handles.
    pins: VecDeque<(RegionName, u64)>,
    subscribed: BTreeSet<RegionName>,
}

impl<D> Drop for Connection<D> {
    fn drop(&mut self) {
        for (region, version) in self.pins.drain(..) {
            self.holder.unpin(&region, version);
        }
    }
}

impl<D: Doorman> Connection<D> {
    fn tell(&mut self, told: Result<(RegionName, u64), RecvError>) {
        let (now, session) = self.endpoint.at();
        match told {
            Ok((region, version)) => session.notify(now, &region, version, &Bytes::new()),
            // Too many for a slow peer: the newest of each is all it needs.
            Err(_) => {
                for region in &self.subscribed {
                    let Some(newest) = self.holder.newest(region) else { continue };
                    session.notify(now, region, newest.info.version, &Bytes::new());
                }
            }
        }
    }

    fn answer(&mut self, token: ResponderToken, request: Request) {
        let now = self.endpoint.now();
        let allowed = match &request {
            Request::Hello(hello) => self.doorman.hello(now, self.endpoint.peer(), hello),
            request => self.doorman.may(now, request),
        };
        let reply = match allowed {
            Ok(()) => self.reply(now, request),
            Err((code, text)) => Reply::Error { code, text },
        };
        self.endpoint.session().respond(now, token, reply);
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
                done(self.holder.open_stage(&region, stage).map(Reply::StageOpened))
            }
            Request::Stage { level: Some(Level::Durable), .. } => {
                error(Code::Unavailable, "this holder keeps what is staged in memory")
            }
            Request::Stage { region, chunk, hash, bytes, .. } => {
                let placed = self.holder.place(&region, chunk, hash, bytes);
                done(placed.map(|placement| Reply::Placed { placement, level: Level::Placed }))
            }
            Request::Commit { region, stage, expected } if stage.kind == StageKind::Write => {
                let committed = self.holder.commit(&region, expected);
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
            Request::Stat { region } => {
                Reply::Stat { region: region.and_then(|region| self.holder.stat(&region)) }
            }
            _ => error(Code::Unsupported, "not offered by this holder"),
        }
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

fn error(code: Code, text: &str) -> Reply {
    Reply::Error { code, text: text.to_owned() }
}

fn gone(region: &RegionName, version: u64) -> Reply {
    Reply::Error { code: Code::VersionGone, text: format!("{region} at {version}") }
}

fn done(result: Result<Reply, Code>) -> Reply {
    result.unwrap_or_else(|code| error(code, ""))
}
