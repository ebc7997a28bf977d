//! Holding regions: memory registered once, served to any number of connections without the
//! application having to answer.
//!
//! A region is a named series of versions, each a list of chunks over owned buffers or mapped files.
//! A version never changes; publishing is one switch, and a chunk that did not change is shared with
//! the version before. Old versions stay while somebody has them open, within a bound.
//!
//! Not for: a city, whose log decides what its regions hold (`core/node`).

mod cells;
mod door;
mod kept;
mod region;
mod serve;
mod stage;
mod upload;

pub use door::{Doorman, Guard, GuardDoor, KeepBooks, OpenDoor, Refusal};
pub use region::{HoldError, Snapshot};
pub use serve::serve;
pub use upload::Upload;

use bytes::Bytes;
use region::Region;
use stage::{SessionId, StageKey, Stages};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use suanli_rdpa::{ChunkSet, Code, Placement, RegionInfo, RegionName, RegionStat};
use tokio::sync::broadcast;

/// Publications that wait for a slow connection; it is told of the newest when it comes to it.
const NEWS_MAX: usize = 256;

/// Bounds of a [`Holder`].
#[derive(Clone, Copy, Debug)]
pub struct HolderLimits {
    /// Regions in all.
    pub regions_max: usize,
    /// Bytes that versions other than the newest may keep, for each region.
    pub pinned_bytes_max: u64,
    /// Staging areas at once, of all peers.
    pub stages_max: usize,
    /// Staging areas at once of one peer, on all of its connections: its share of the places.
    pub stages_per_peer_max: usize,
    /// Bytes of all staging areas together, as announced, with what their books take.
    pub staged_bytes_max: u64,
    /// The same for those of one peer.
    pub staged_bytes_per_peer_max: u64,
}

impl Default for HolderLimits {
    fn default() -> Self {
        Self {
            regions_max: 4096,
            pinned_bytes_max: 1 << 30,
            stages_max: 256,
            stages_per_peer_max: 16,
            staged_bytes_max: 4 << 30,
            staged_bytes_per_peer_max: 2 << 30,
        }
    }
}

/// Regions of this process, for any number of connections.
#[derive(Debug)]
pub struct Holder {
    state: Mutex<State>,
    /// Where versions are put for processes of this host to map.
    shared: Option<std::path::PathBuf>,
    news: broadcast::Sender<(RegionName, u64)>,
    limits: HolderLimits,
}

#[derive(Debug, Default)]
struct State {
    regions: BTreeMap<RegionName, Region>,
    cells: BTreeMap<RegionName, Vec<u64>>,
    stages: Stages,
    upload: Option<Arc<Upload>>,
    /// Connections so far.
    sessions: u64,
}

impl Holder {
    /// A holder of nothing.
    #[must_use]
    pub fn new(limits: HolderLimits) -> Arc<Self> {
        let (news, _) = broadcast::channel(NEWS_MAX);
        Arc::new(Self { state: Mutex::default(), shared: None, news, limits })
    }

    /// A holder of nothing that puts every version into `folder` too, for readers on this host to map
    /// ([`crate::shared`]). On `/dev/shm` that is memory.
    ///
    /// # Errors
    /// [`HoldError::Share`] when the folder cannot be made, or is not this user's alone.
    pub fn share(limits: HolderLimits, folder: &std::path::Path) -> Result<Arc<Self>, HoldError> {
        let failed = |source| HoldError::Share { path: folder.to_owned(), source };
        crate::shared::folder(folder).map_err(failed)?;
        let (news, _) = broadcast::channel(NEWS_MAX);
        let shared = Some(folder.to_owned());
        Ok(Arc::new(Self { state: Mutex::default(), shared, news, limits }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a buffer as version 1 of a new region, or as the next version of one. The bytes are
    /// hashed once, here.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn publish(
        &self,
        name: &RegionName,
        bytes: Bytes,
        chunk_bytes: u32,
    ) -> Result<u64, HoldError> {
        self.publish_as(name, None, |version| {
            let snapshot = Snapshot::of(version, bytes, chunk_bytes)?;
            self.shared.as_deref().map_or(Ok(snapshot.clone()), |folder| snapshot.shared(folder))
        })
    }

    /// Registers a file as the next version of a region. It is mapped, not read in: whoever owns it
    /// must not change it while anybody may read that version. To publish anew, write another file
    /// and rename it over the old one: those who read the old version keep it. A file that is
    /// changed in place gives readers chunks of a wrong hash, which they refuse; one that is cut
    /// short ends this process with SIGBUS, as the system does for all mapped files.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn publish_file(
        &self,
        name: &RegionName,
        path: &std::path::Path,
        chunk_bytes: u32,
    ) -> Result<u64, HoldError> {
        self.publish(name, region::map(path)?, chunk_bytes)
    }

    /// Publishes the version after the newest with some chunks changed; the others are shared.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn publish_changed(
        &self,
        name: &RegionName,
        changed: &BTreeMap<u32, Bytes>,
    ) -> Result<u64, HoldError> {
        let newest = self.newest(name).ok_or(HoldError::NoSuchRegion)?;
        let expected = Some(newest.info.version);
        self.publish_as(name, expected, |version| newest.with(version, changed))
    }

    fn publish_as(
        &self,
        name: &RegionName,
        expected: Option<u64>,
        make: impl FnOnce(u64) -> Result<Snapshot, HoldError>,
    ) -> Result<u64, HoldError> {
        // Hashing takes a while, so it is done outside of the lock.
        let found = self.newest(name).map_or(0, |newest| newest.info.version);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(HoldError::Moved { expected, found });
        }
        let snapshot = Arc::new(make(found + 1)?);
        self.switch(name, found, snapshot)
    }

    fn switch(
        &self,
        name: &RegionName,
        expected: u64,
        snapshot: Arc<Snapshot>,
    ) -> Result<u64, HoldError> {
        let version = snapshot.info.version;
        let mut state = self.state();
        let room = state.regions.len() < self.limits.regions_max;
        match state.regions.get_mut(name) {
            Some(region) => {
                let found = region.newest().info.version;
                if found != expected {
                    return Err(HoldError::Moved { expected, found });
                }
                region.publish(snapshot);
            }
            None if expected != 0 => return Err(HoldError::Moved { expected, found: 0 }),
            None if !room => return Err(HoldError::Full { max: self.limits.regions_max }),
            None => {
                let region = Region::new(snapshot, self.limits.pinned_bytes_max);
                state.regions.insert(name.clone(), region);
            }
        }
        drop(state);
        // Nobody may be connected.
        let _ = self.news.send((name.clone(), version));
        Ok(version)
    }

    /// The newest version of a region.
    #[must_use]
    pub fn newest(&self, name: &RegionName) -> Option<Arc<Snapshot>> {
        self.state().regions.get(name).map(|region| Arc::clone(region.newest()))
    }

    /// Takes a region away; who has it open gets VERSION_GONE.
    pub fn remove(&self, name: &RegionName) -> bool {
        self.state().regions.remove(name).is_some()
    }

    /// The newest version, kept for reading until [`Holder::unpin`].
    fn pin(&self, name: &RegionName) -> Option<Arc<RegionInfo>> {
        self.state().regions.get_mut(name).map(Region::pin)
    }

    fn unpin(&self, name: &RegionName, version: u64) {
        if let Some(region) = self.state().regions.get_mut(name) {
            region.unpin(version);
        }
    }

    fn version(&self, name: &RegionName, version: u64) -> Option<Arc<Snapshot>> {
        self.state().regions.get(name)?.version(version)
    }

    fn stat(&self, name: &RegionName) -> Option<RegionStat> {
        self.state().regions.get(name).map(Region::stat)
    }

    /// Holds what is sent to other machines to the owner's limits from now on, on all connections
    /// together; without any when there is none.
    pub fn limit_upload(&self, upload: Option<Arc<Upload>>) {
        self.state().upload = upload;
    }

    fn upload(&self) -> Option<Arc<Upload>> {
        self.state().upload.clone()
    }

    /// A new connection.
    fn enter(&self) -> SessionId {
        let mut state = self.state();
        state.sessions += 1;
        SessionId(state.sessions)
    }

    /// The names of the staging areas that a connection has open.
    fn staging_in(&self, session: SessionId) -> Vec<RegionName> {
        self.state().stages.open_in(session)
    }

    /// A connection gives up the staging areas that `is_over` names.
    fn leave(&self, session: SessionId, is_over: impl Fn(&RegionName) -> bool) {
        self.state().stages.leave(session, is_over);
    }

    fn open_stage(&self, key: StageKey, session: SessionId) -> Result<ChunkSet, Code> {
        self.state().stages.open(key, session, &self.limits, Instant::now())
    }

    fn place(
        &self,
        key: &StageKey,
        chunk: u32,
        hash: suanli_base::Hash,
        bytes: &[u8],
    ) -> Result<Placement, Code> {
        // What arrives lies in a buffer that holds more; what is kept is what is accounted.
        let bytes = Bytes::copy_from_slice(bytes);
        self.state().stages.place(key, chunk, hash, bytes, Instant::now())
    }

    /// Publishes what was staged, if it is whole and the region is at `expected`.
    fn commit(&self, key: &StageKey, expected: u64) -> Result<u64, Code> {
        // Nothing comes after the last version there can be.
        let version = expected.checked_add(1).ok_or(Code::Conflict)?;
        let snapshot = self.state().stages.snapshot(key, version)?;
        let version =
            self.switch(&key.name, expected, Arc::new(snapshot)).map_err(|error| error.code())?;
        self.state().stages.remove(key);
        Ok(version)
    }

    /// What was accumulated under a name, when it is whole; it is handed over once. When several
    /// peers did, the next call hands over the next one's.
    #[must_use]
    pub fn take_contribution(&self, name: &RegionName) -> Option<Vec<Bytes>> {
        self.state().stages.take_contribution(name)
    }

    /// How many staging areas there are, and how many bytes they hold.
    #[must_use]
    pub fn staged(&self) -> (usize, u64) {
        self.state().stages.held()
    }
}
