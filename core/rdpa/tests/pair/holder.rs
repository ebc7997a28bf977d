//! A holder of regions: what a city does with requests, as plainly as possible.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use suanli_base::Time;
use suanli_rdpa::{
    ChunkSet, Code, Event, Level, PeerLimits, Placement, RegionInfo, RegionName, RegionStat, Reply,
    Request, ResponderToken, Session, StageInfo, Staging, Welcome, runs_of,
};

/// Regions with all their versions, staging areas, and every message that was handed over.
#[derive(Default)]
pub(crate) struct Holder {
    pub(crate) regions: BTreeMap<RegionName, Vec<(Arc<RegionInfo>, Vec<Bytes>)>>,
    pub(crate) stages: BTreeMap<RegionName, (StageInfo, Staging, BTreeMap<u32, Bytes>)>,
    pub(crate) sends: Vec<Bytes>,
    pub(crate) placed: u64,
    /// Chunks handed over for staging, duplicates too.
    pub(crate) stagings: u64,
    pub(crate) cancelled: BTreeSet<ResponderToken>,
    pub(crate) cells: BTreeMap<RegionName, Vec<u64>>,
    /// Fences that were asked, each with how many chunks were placed by then.
    pub(crate) fences: Vec<u64>,
    /// How often grants were revoked.
    pub(crate) revoked: u64,
    /// Denies having any staged chunk.
    pub(crate) hides: bool,
    /// Answers READs with wrong bytes.
    pub(crate) lies: bool,
    /// What it says in WELCOME that it takes at once; a little, unless it says so.
    pub(crate) window_bytes: Option<u64>,
}

pub(crate) fn cut(bytes: &[u8], chunk_bytes: u32) -> Vec<Bytes> {
    bytes.chunks(chunk_bytes as usize).map(Bytes::copy_from_slice).collect()
}

impl Holder {
    pub(crate) fn publish(&mut self, name: &RegionName, bytes: &[u8], chunk_bytes: u32) -> u64 {
        let versions = self.regions.entry(name.clone()).or_default();
        let version = versions.len() as u64 + 1;
        let info = RegionInfo::of(version, bytes, chunk_bytes).unwrap();
        versions.push((Arc::new(info), cut(bytes, chunk_bytes)));
        version
    }

    fn newest(&self, name: &RegionName) -> Option<&(Arc<RegionInfo>, Vec<Bytes>)> {
        self.regions.get(name).and_then(|versions| versions.last())
    }

    /// Answers one event of `session`, if it is a request.
    pub(crate) fn serve(&mut self, now: Time, session: &mut Session, event: Event) {
        match event {
            Event::Request { token, request } => {
                if let Request::Revoke { prefix, .. } = &request {
                    self.revoked += 1;
                    session.revoke(|region| region.as_str().starts_with(prefix));
                }
                let reply = self.reply(request);
                session.respond(now, token, reply);
            }
            Event::Cancelled { token } => {
                self.cancelled.insert(token);
            }
            other => panic!("a holder does not expect {other:?}"),
        }
    }

    pub(crate) fn reply(&mut self, request: Request) -> Reply {
        let error = |code| Reply::Error { code, text: "as a test".to_owned() };
        match request {
            Request::Hello(_) => {
                let (requests_max, bulk_window_bytes) =
                    self.window_bytes.map_or((64, 10_000), |bytes| (256, bytes));
                let limits = PeerLimits { requests_max, bulk_window_bytes };
                Reply::Welcome(Welcome { version: 2, limits, time: Time(0) })
            }
            Request::Open { region } => match self.newest(&region) {
                Some((info, _)) => Reply::Opened(Arc::clone(info)),
                None => error(Code::NoSuchRegion),
            },
            Request::ReadIfChanged { region, since } => match self.newest(&region) {
                Some((info, _)) if info.version == since => Reply::NotChanged,
                Some((info, _)) => Reply::Opened(Arc::clone(info)),
                None => error(Code::NoSuchRegion),
            },
            Request::Read { region, version, chunk } => {
                let versions = &self.regions[&region];
                match versions.iter().find(|(info, _)| info.version == version) {
                    Some((_, chunks)) if self.lies && chunk % 3 == 2 => {
                        Reply::Data(vec![0; chunks[chunk as usize].len()].into())
                    }
                    Some((_, chunks)) => Reply::Data(chunks[chunk as usize].clone()),
                    None => error(Code::VersionGone),
                }
            }
            Request::OpenStage { region, stage } => {
                let fresh =
                    || (stage, Staging::new(stage.shape, stage.root).unwrap(), BTreeMap::new());
                let (_, staging, _) = self.stages.entry(region).or_insert_with(fresh);
                let none = ChunkSet::empty(staging.placed().bound());
                Reply::StageOpened(if self.hides { none } else { staging.placed().clone() })
            }
            Request::Stage { region, chunk, hash, bytes, .. } => {
                let (_, staging, chunks) = self.stages.get_mut(&region).unwrap();
                self.stagings += 1;
                let placement = staging.place(chunk, hash).unwrap();
                if placement == Placement::Placed {
                    self.placed += 1;
                    chunks.insert(chunk, bytes);
                }
                Reply::Placed { placement, level: Level::Placed }
            }
            Request::Commit { region, expected, .. } => self.commit(&region, expected),
            Request::Send { bytes } => {
                self.sends.push(bytes);
                Reply::Delivered
            }
            Request::Subscribe { region } => {
                let version = self.newest(&region).map_or(0, |(info, _)| info.version);
                Reply::Subscribed { version }
            }
            Request::ReadRanges { region, version, spans, start, len } => {
                let versions = &self.regions[&region];
                let found = versions.iter().find(|(info, _)| info.version == version);
                let Some((_, chunks)) = found else { return error(Code::VersionGone) };
                let bytes = chunks.concat();
                let runs = runs_of(&spans, start, u64::from(len));
                let run = |(at, len)| &bytes[at as usize..][..len as usize];
                Reply::Data(runs.map(run).collect::<Vec<_>>().concat().into())
            }
            Request::OpenCells { region } => {
                let cells = self.cells.entry(region).or_insert_with(|| vec![0; 4]);
                Reply::CellsOpened { count: u32::try_from(cells.len()).unwrap() }
            }
            Request::Cas { region, cell, expected, new } => {
                let cell = &mut self.cells.get_mut(&region).unwrap()[cell as usize];
                let held = *cell;
                if held == expected {
                    *cell = new;
                }
                Reply::Cell { held }
            }
            Request::FetchAdd { region, cell, add } => {
                let cell = &mut self.cells.get_mut(&region).unwrap()[cell as usize];
                let held = *cell;
                *cell = held.wrapping_add(add);
                Reply::Cell { held }
            }
            Request::Fence { level } => {
                self.fences.push(self.placed);
                Reply::Fenced { level: level.unwrap() }
            }
            Request::Stat { region } => {
                let region = region.and_then(|region| {
                    let (info, _) = self.newest(&region)?;
                    let (version, shape, root) = (info.version, info.shape, info.root);
                    Some(RegionStat { version, oldest: 1, shape, root, pinned_bytes: 0 })
                });
                Reply::Stat { region }
            }
            Request::Revoke { epoch, .. } => Reply::Revoked { epoch },
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, region: &RegionName, expected: u64) -> Reply {
        let now = self.newest(region).map_or(0, |(info, _)| info.version);
        if now != expected {
            return Reply::Error { code: Code::Conflict, text: format!("version {now}") };
        }
        let Some((_, staging, chunks)) = self.stages.get(region) else {
            return Reply::Error { code: Code::NotComplete, text: String::new() };
        };
        match staging.complete(expected + 1) {
            Ok(info) => {
                let chunks = chunks.values().cloned().collect();
                self.regions.entry(region.clone()).or_default().push((Arc::new(info), chunks));
                Reply::Committed { version: expected + 1 }
            }
            Err(incomplete) => {
                Reply::Error { code: Code::NotComplete, text: incomplete.to_string() }
            }
        }
    }
}
