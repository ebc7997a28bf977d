//! Getting hold of what a lease needs: specification, chain of heads, parameters, data.
//!
//! Nothing is used that does not follow from a head the city signed: parameters and updates are
//! opened by the root the head names, and what an update leads to must hash to the head's root. Nor
//! is anything given room that is not as long as the job says, for a hash says nothing of a length.

use super::{FamilyNode, Loaded, Output, RETRY, Target, Work};
use crate::name::{JobRegion, Name};
use crate::shape;
use std::collections::BTreeMap;
use suanli_base::{Duration, Hash, JobId, LeaseId, Round, Time};
use suanli_bus::worker::{Input as Happened, Phase};
use suanli_bus::{Chain, Head, HeadError, JobSpec, SPEC_BYTES_MAX, ToCity};
use suanli_identity::Signed;
use suanli_params::Codec;
use suanli_rdpa::{Download, DownloadStep, Event, Failure, Shape, TransferError};

/// A member this many versions behind reads updates; beyond, the whole parameters.
const UPDATES_MAX: u64 = 4;
/// How long the city may take to say what the newest version is. What is read has the session's own
/// patience with a READ, however slow the city's line is.
const PATIENCE: Duration = Duration(30_000);

/// A sync under way.
#[derive(Debug)]
pub(super) struct Sync {
    job: JobId,
    stage: Stage,
    /// Verified heads not yet applied: version to (update root, parameters' root).
    ahead: BTreeMap<u64, (Hash, Hash)>,
    /// Of the region being read, once it is open.
    shape: Option<Shape>,
}

#[derive(Debug)]
enum Stage {
    Spec {
        download: Download,
        bytes: Vec<u8>,
    },
    /// The host looks for the frozen model; whether it was read already in this sync.
    Finding {
        spec: Box<JobSpec>,
        read: bool,
    },
    Frozen {
        spec: Box<JobSpec>,
        download: Download,
    },
    Loading,
    /// Asked for, and waited for until then.
    Heads(Time),
    Theta {
        version: Round,
        download: Download,
    },
    Update {
        version: Round,
        download: Download,
    },
    Installing {
        version: Round,
    },
    Measuring,
}

impl Stage {
    const fn download(&mut self) -> Option<&mut Download> {
        match self {
            Self::Spec { download, .. }
            | Self::Frozen { download, .. }
            | Self::Theta { download, .. }
            | Self::Update { download, .. } => Some(download),
            _ => None,
        }
    }
}

impl Sync {
    pub(super) const fn wake_at(&self) -> Option<Time> {
        match self.stage {
            Stage::Heads(until) => Some(until),
            _ => None,
        }
    }

    /// What is being read into the memory of the host.
    pub(super) fn into_reading(self) -> Option<(Target, Download)> {
        match self.stage {
            Stage::Theta { version, download } => {
                Some((Target::Theta(self.job, version), download))
            }
            Stage::Update { version, download } => {
                Some((Target::Update(self.job, version), download))
            }
            _ => None,
        }
    }
}

/// The data of a lease on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    lease: LeaseId,
    from: u32,
    /// Located but not yet arrived, one download at a time.
    wanted: Vec<(u32, core::ops::Range<u32>)>,
    now: Option<(u32, core::ops::Range<u32>, Download)>,
    located: bool,
    shape: Option<Shape>,
}

impl FamilyNode {
    /// Begins to get hold of a job's newest version.
    pub(super) fn prepare(&mut self, job: JobId, _version: Round) {
        let loaded = self.jobs.contains_key(&job);
        let stage = if loaded {
            Stage::Heads(self.now.after(PATIENCE))
        } else {
            let download = self.download(JobRegion::Spec, job, None);
            Stage::Spec { download, bytes: Vec::new() }
        };
        self.sync = Some(Sync { job, stage, ahead: BTreeMap::new(), shape: None });
        if loaded {
            self.ask_heads(job);
        } else {
            self.start_download();
        }
    }

    /// With as much on its way as the session lets through.
    fn download(&self, of: JobRegion, job: JobId, root: Option<Hash>) -> Download {
        Download::new(Name::Job(job, of).region(), root, self.limits.bulk_window_bytes)
    }

    fn ask_heads(&mut self, job: JobId) {
        let from = self.chains.get(&job).map(|chain| chain.version.next());
        self.send(&ToCity::Heads { job, from });
    }

    fn start_download(&mut self) {
        let now = self.now;
        let (Some(sync), Some(session)) = (self.sync.as_mut(), self.session.as_mut()) else {
            return;
        };
        if let Some(download) = sync.stage.download() {
            download.start(now, session);
        }
        self.download_steps();
    }

    pub(super) fn sync_tick(&mut self) {
        let now = self.now;
        let late = |sync: &Sync| sync.wake_at().is_some_and(|until| now >= until);
        if self.sync.as_ref().is_some_and(late) {
            self.sync_failed("the city did not say in time what its newest version is");
        }
    }

    fn sync_failed(&mut self, why: &str) {
        self.drop_sync();
        self.outputs.push_back(Output::Note(format!("could not get hold of the job: {why}")));
        self.happened(Happened::PrepareFailed { retry: None });
    }

    /// The job is not for this machine, as far as can be seen before it is fetched.
    fn sync_declined(&mut self, why: &str) {
        self.drop_sync();
        self.outputs.push_back(Output::Note(format!("the job is left to others: {why}")));
        self.happened(Happened::PrepareFailed { retry: Some(RETRY) });
    }

    fn drop_sync(&mut self) {
        if let (Some(mut sync), Some(session)) = (self.sync.take(), self.session.as_mut())
            && let Some(download) = sync.stage.download()
        {
            download.stop(session);
        }
    }

    /// Offers an event to whatever transfer is under way.
    pub(super) fn transfers(&mut self, event: &Event) {
        if self.upload_event(event) {
            return;
        }
        let now = self.now;
        if let (Some(sync), Some(session)) = (self.sync.as_mut(), self.session.as_mut()) {
            let download = sync.stage.download();
            if download.is_some_and(|download| download.handle(now, session, event)) {
                return self.download_steps();
            }
        }
        if let (Some(fetch), Some(session)) = (self.fetch.as_mut(), self.session.as_mut())
            && let Some((_, _, download)) = fetch.now.as_mut()
            && download.handle(now, session, event)
        {
            self.fetch_steps();
        }
    }

    fn download_steps(&mut self) {
        while let Some(sync) = self.sync.as_mut() {
            let job = sync.job;
            let (download, target) = match &mut sync.stage {
                Stage::Spec { download, .. } => (download, None),
                Stage::Frozen { spec, download } => {
                    let root = spec.frozen.as_ref().map_or(Hash::ZERO, |frozen| frozen.root);
                    (download, Some(Target::Frozen(root)))
                }
                Stage::Theta { version, download } => {
                    (download, Some(Target::Theta(job, *version)))
                }
                Stage::Update { version, download } => {
                    (download, Some(Target::Update(job, *version)))
                }
                _ => return,
            };
            let Some(step) = download.poll() else { return };
            match (step, target) {
                (DownloadStep::Opened(info), target) => {
                    sync.shape = Some(info.shape);
                    if let Err(why) = self.opened(info.shape, target) {
                        return self.sync_failed(&why);
                    }
                }
                (DownloadStep::Chunk(chunk, bytes), target) => {
                    let Some(shape) = sync.shape else { return };
                    let offset = u64::from(chunk) * u64::from(shape.chunk_bytes);
                    match (target, &mut sync.stage) {
                        (Some(target), _) => {
                            self.work(Work::Keep { target, offset, bytes, total: shape.bytes });
                        }
                        (None, Stage::Spec { bytes: spec, .. }) => place(spec, offset, &bytes),
                        _ => {}
                    }
                }
                (DownloadStep::Done, None) => self.spec_arrived(),
                (DownloadStep::Done, Some(target)) => self.region_arrived(target),
                (DownloadStep::Failed(TransferError::Request(Failure::GaveUp { span, .. })), _) => {
                    return self.sync_failed(&format!(
                        "nothing of it came for {} s: the line is full, or the city holds back \
                         what it sends (`suanli status` at the city shows its limits)",
                        span.0 / 1_000
                    ));
                }
                (DownloadStep::Failed(_), Some(Target::Update(_, version))) => {
                    // The update is no longer kept: read the whole instead.
                    self.read_theta(version);
                }
                (DownloadStep::Failed(error), _) => {
                    return self.sync_failed(&error.to_string());
                }
                _ => {}
            }
        }
    }

    /// Holds what the city announces against what the job implies, before anything is given room.
    fn opened(&mut self, shape: Shape, target: Option<Target>) -> Result<(), String> {
        let Some(sync) = self.sync.as_mut() else { return Ok(()) };
        let job = sync.job;
        let expected = match (&mut sync.stage, target) {
            (Stage::Spec { bytes, .. }, _) => {
                if shape.bytes > SPEC_BYTES_MAX as u64 {
                    return Err("its specification is too long".into());
                }
                // Opened again, it keeps what has arrived.
                bytes.resize(usize::try_from(shape.bytes).expect("bounded just now"), 0);
                return Ok(());
            }
            (Stage::Frozen { spec, .. }, _) => spec.frozen.as_ref().and_then(shape::of_frozen),
            (_, target) => self.jobs.get(&job).and_then(|loaded| {
                let spec = &loaded.spec;
                let whole = matches!(target, Some(Target::Theta(..)));
                let codec = if whole { Codec::F32 } else { spec.training.codec };
                shape::of_parameters(codec, spec.parameters)
            }),
        };
        shape::is_cut(shape, expected)
    }

    fn spec_arrived(&mut self) {
        let Some(sync) = self.sync.as_mut() else { return };
        let Stage::Spec { bytes, .. } = &sync.stage else { return };
        let job = sync.job;
        let spec = JobSpec::from_bytes(bytes).ok().filter(|_| JobSpec::id_of(bytes) == job);
        let Some(spec) = spec else {
            return self.sync_failed("what the city sent is not the specification of this job");
        };
        let frozen = spec.frozen.as_ref().map_or(0, |frozen| frozen.parameters);
        let needs = spec.parameters.saturating_add(frozen).saturating_mul(4);
        if needs > self.memory_bytes {
            return self.sync_declined("its model needs more memory than is lent here");
        }
        if let Some(why) = self.lacks_uplink_for(&spec) {
            return self.sync_declined(&why);
        }
        self.find_frozen(spec, false);
    }

    /// Has the host look for the frozen model, or load the job if it has none.
    fn find_frozen(&mut self, spec: JobSpec, read: bool) {
        let Some(sync) = self.sync.as_mut() else { return };
        let job = sync.job;
        let Some(frozen) = &spec.frozen else { return self.load(spec) };
        let frozen = Box::new(frozen.clone());
        sync.stage = Stage::Finding { spec: Box::new(spec), read };
        self.work(Work::Find { job, frozen });
    }

    /// The host has so many chunks of the frozen model: reads the rest.
    pub(super) fn found(&mut self, job: JobId, chunks: u32) {
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.job == job) else { return };
        let Stage::Finding { spec, read } = &sync.stage else { return };
        let (spec, read) = (spec.clone(), *read);
        let Some(frozen) = &spec.frozen else { return };
        let all = frozen.packed_chunks();
        if u64::from(chunks) == all {
            return self.load(*spec);
        }
        if read {
            return self.sync_failed("the frozen model could not be kept on this machine's disk");
        }
        let Ok(all) = u32::try_from(all) else {
            return self.sync_failed("its frozen model is too large");
        };
        let root = Some(frozen.packed_root);
        let download = self.download(JobRegion::Frozen, job, root).only(chunks.min(all)..all);
        let Some(sync) = self.sync.as_mut() else { return };
        sync.stage = Stage::Frozen { spec, download };
        self.start_download();
    }

    fn load(&mut self, spec: JobSpec) {
        let Some(sync) = self.sync.as_mut() else { return };
        let job = sync.job;
        sync.stage = Stage::Loading;
        self.cut = None;
        self.jobs.insert(
            job,
            Loaded { spec: spec.clone(), version: None, private: Hash::ZERO, rate: 0 },
        );
        self.work(Work::Load { job, spec: Box::new(spec) });
    }

    pub(super) fn loaded(&mut self, job: JobId, private: Result<Hash, String>) {
        match (private, self.jobs.get_mut(&job)) {
            (Ok(private), Some(loaded)) => loaded.private = private,
            (Err(why), _) => {
                self.jobs.remove(&job);
                return self.sync_declined(&why);
            }
            _ => return,
        }
        self.subscribe(job);
        let until = self.now.after(PATIENCE);
        if let Some(sync) = self.sync.as_mut().filter(|sync| sync.job == job) {
            sync.stage = Stage::Heads(until);
            self.ask_heads(job);
        }
    }

    /// Heads came: take each that follows, refuse a chain that is shorter or forked.
    pub(super) fn heads(&mut self, job: JobId, newest: Round, heads: &[Signed]) {
        let waiting =
            self.sync.as_ref().is_some_and(|s| s.job == job && matches!(s.stage, Stage::Heads(_)));
        if !waiting {
            return;
        }
        match self.advance(job, newest, heads) {
            Ok(true) => self.choose_source(job),
            Ok(false) => self.ask_heads(job),
            Err(error) => {
                self.sync = None;
                self.outputs.push_back(Output::Refused { why: error.to_string() });
            }
        }
    }

    /// Whether the chain now reaches the city's newest version.
    fn advance(&mut self, job: JobId, newest: Round, heads: &[Signed]) -> Result<bool, HeadError> {
        let before = self.chains.get(&job).copied();
        for signed in heads {
            let (version, known) = match self.chains.get_mut(&job) {
                None => {
                    let (chain, head) = Chain::begin(signed, self.city, job)?;
                    self.chains.insert(job, chain);
                    (head.version, (head.update_root, head.theta_root))
                }
                Some(chain) => {
                    let head = Head::open(signed, self.city, job)?;
                    if head.version == chain.version && signed.hash() == chain.hash {
                        continue;
                    }
                    let head = chain.advance(signed)?;
                    (head.version, (head.update_root, head.theta_root))
                }
            };
            if let Some(sync) = self.sync.as_mut() {
                sync.ahead.insert(version.0, known);
            }
        }
        let after = self.chains.get(&job).copied();
        if let Some(chain) = after.filter(|_| after != before) {
            self.work(Work::SaveChain(chain));
        }
        let Some(chain) = after else { return Ok(false) };
        if newest < chain.version {
            return Err(HeadError::Forked { expected: chain.version, found: newest });
        }
        Ok(newest == chain.version)
    }

    /// Decides between updates and the whole parameters.
    fn choose_source(&mut self, job: JobId) {
        let Some(chain) = self.chains.get(&job).copied() else { return };
        let Some(loaded) = self.jobs.get(&job) else { return };
        match loaded.version {
            Some(held) if held == chain.version => self.arrived(),
            Some(held) if held < chain.version && chain.version.0 - held.0 <= UPDATES_MAX => {
                self.read_update(held.next());
            }
            _ => self.read_theta(chain.version),
        }
    }

    fn read_update(&mut self, version: Round) {
        let Some(sync) = self.sync.as_mut() else { return };
        let Some((update_root, _)) = sync.ahead.get(&version.0).copied() else {
            return self.read_theta(version);
        };
        let job = sync.job;
        let download = self
            .cut_short(Target::Update(job, version))
            .unwrap_or_else(|| self.download(JobRegion::Update(version), job, Some(update_root)));
        let Some(sync) = self.sync.as_mut() else { return };
        sync.stage = Stage::Update { version, download };
        self.start_download();
    }

    fn read_theta(&mut self, _wanted: Round) {
        let Some(sync) = self.sync.as_mut() else { return };
        let Some(chain) = self.chains.get(&sync.job).copied() else { return };
        let job = sync.job;
        let download = self
            .cut_short(Target::Theta(job, chain.version))
            .unwrap_or_else(|| self.download(JobRegion::Theta, job, Some(chain.theta_root)));
        let Some(sync) = self.sync.as_mut() else { return };
        sync.stage = Stage::Theta { version: chain.version, download };
        self.start_download();
    }

    /// The download of this that a lost link cut short. Any other is over: the host has one place for
    /// what comes.
    fn cut_short(&mut self, target: Target) -> Option<Download> {
        self.cut.take().filter(|(of, _)| *of == target).map(|(_, download)| download)
    }

    fn region_arrived(&mut self, target: Target) {
        let Some(sync) = self.sync.as_mut() else { return };
        if let Stage::Frozen { spec, .. } = &sync.stage {
            let spec = (**spec).clone();
            return self.find_frozen(spec, true);
        }
        let (work, version) = match target {
            Target::Theta(job, version) => (Work::Install { job, version }, version),
            Target::Update(job, version) => (Work::Apply { job, version }, version),
            Target::Shard(..) | Target::Frozen(_) => return,
        };
        sync.stage = Stage::Installing { version };
        self.work(work);
    }

    pub(super) fn installed(&mut self, job: JobId, version: Round, root: Option<Hash>) {
        let chain = self.chains.get(&job).copied();
        let sync = self.sync.as_ref().filter(|sync| sync.job == job);
        let ahead = sync.and_then(|sync| sync.ahead.get(&version.0)).map(|known| known.1);
        let newest = chain.filter(|chain| chain.version == version).map(|chain| chain.theta_root);
        let good = root.is_some() && root == ahead.or(newest);
        if let Some(loaded) = self.jobs.get_mut(&job) {
            loaded.version = good.then_some(version);
        }
        let installing = self.sync.as_ref().is_some_and(|sync| {
            sync.job == job
                && matches!(sync.stage, Stage::Installing { version: v } if v == version)
        });
        if !installing {
            return;
        }
        if !good {
            return self.sync_failed("the parameters do not have the root that the city signed");
        }
        self.choose_source(job);
    }

    /// The parameters are here; the speed may still be unknown.
    fn arrived(&mut self) {
        let Some(sync) = self.sync.as_mut() else { return };
        let job = sync.job;
        if self.jobs.get(&job).is_some_and(|loaded| loaded.rate == 0) {
            sync.stage = Stage::Measuring;
            return self.work(Work::Measure { job });
        }
        self.prepared(job);
    }

    pub(super) fn measured(&mut self, job: JobId, rate: Option<u32>) {
        let measuring =
            self.sync.as_ref().is_some_and(|s| s.job == job && matches!(s.stage, Stage::Measuring));
        match (rate, self.jobs.get_mut(&job)) {
            (Some(rate), Some(loaded)) => loaded.rate = rate.max(1),
            _ if measuring => return self.sync_failed("the engine failed to run this model"),
            _ => return,
        }
        if measuring {
            self.prepared(job);
        }
    }

    fn prepared(&mut self, job: JobId) {
        self.sync = None;
        if let Some(version) = self.jobs.get(&job).and_then(|loaded| loaded.version) {
            self.happened(Happened::Prepared { job, version });
        }
    }

    /// Trains, once the data of the lease is here.
    pub(super) fn train(&mut self, lease: LeaseId, from: u32) {
        let Some(record) = self.lease.as_ref().filter(|r| r.lease == lease) else { return };
        if from > 0 {
            return self.run(lease, from);
        }
        let locate =
            Work::Locate { lease, job: record.job, start: record.start, count: record.samples() };
        self.fetch =
            Some(Fetch { lease, from, wanted: Vec::new(), now: None, located: false, shape: None });
        self.work(locate);
    }

    fn run(&mut self, lease: LeaseId, from: u32) {
        let Some(record) = self.lease.clone().filter(|r| r.lease == lease) else { return };
        let Some(loaded) = self.jobs.get(&record.job) else { return };
        let schedule = &loaded.spec.training.schedule;
        let rates =
            schedule.rates(record.schedule_start, record.schedule_tokens_a_step, record.steps);
        self.work(Work::Train { record: Box::new(record), from, rates });
    }

    pub(super) fn located(&mut self, lease: LeaseId, ranges: &[(u64, u64)]) {
        let Some(job) = self.lease.as_ref().map(|record| record.job) else { return };
        let Some(loaded) = self.jobs.get(&job) else { return };
        let wanted = chunks_of(&loaded.spec, ranges);
        let Some(fetch) = self.fetch.as_mut().filter(|f| f.lease == lease && !f.located) else {
            return;
        };
        (fetch.wanted, fetch.located) = (wanted, true);
        fetch.wanted.reverse();
        self.fetch_next();
    }

    /// Goes on with the data of a lease on a new link.
    pub(super) fn restart_fetch(&mut self) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.located) else { return };
        if let Some((shard, range, _)) = fetch.now.take() {
            fetch.wanted.push((shard, range));
        }
        self.fetch_next();
    }

    fn fetch_next(&mut self) {
        let now = self.now;
        let Some(job) = self.lease.as_ref().map(|record| record.job) else { return };
        let Some(fetch) = self.fetch.as_mut() else { return };
        let Some((shard, range)) = fetch.wanted.pop() else {
            let (lease, from) = (fetch.lease, fetch.from);
            self.fetch = None;
            return self.run(lease, from);
        };
        let root = self.jobs.get(&job).and_then(|l| l.spec.data.shards.get(shard as usize));
        let root = root.map(|shard| shard.root);
        let mut download = self.download(JobRegion::Shard(shard), job, root).only(range.clone());
        let Some(fetch) = self.fetch.as_mut() else { return };
        if let Some(session) = self.session.as_mut() {
            download.start(now, session);
        }
        fetch.now = Some((shard, range, download));
        self.fetch_steps();
    }

    fn fetch_steps(&mut self) {
        let Some(job) = self.lease.as_ref().map(|record| record.job) else { return };
        while let Some(fetch) = self.fetch.as_mut() {
            let Some((shard, _, download)) = fetch.now.as_mut() else { return };
            let shard = *shard;
            let Some(step) = download.poll() else { return };
            match step {
                DownloadStep::Opened(info) => {
                    fetch.shape = Some(info.shape);
                    let expected = self.jobs.get(&job).and_then(|loaded| {
                        Some(shape::of_bytes(loaded.spec.data.shards.get(shard as usize)?.bytes))
                    });
                    if let Err(why) = shape::is_cut(info.shape, expected) {
                        return self.fetch_failed(&why);
                    }
                }
                DownloadStep::Chunk(chunk, bytes) => {
                    let Some(shape) = fetch.shape else { return };
                    let offset = u64::from(chunk) * u64::from(shape.chunk_bytes);
                    let target = Target::Shard(job, shard);
                    self.work(Work::Keep { target, offset, bytes, total: shape.bytes });
                }
                DownloadStep::Done => {
                    fetch.now = None;
                    return self.fetch_next();
                }
                DownloadStep::Failed(error) => return self.fetch_failed(&error.to_string()),
                _ => {}
            }
        }
    }

    fn fetch_failed(&mut self, why: &str) {
        if let (Some(fetch), Some(session)) = (self.fetch.take(), self.session.as_mut())
            && let Some((_, _, mut download)) = fetch.now
        {
            download.stop(session);
        }
        let note = format!("could not read the data of the lease: {why}");
        self.outputs.push_back(Output::Note(note));
        if self.worker.phase == Phase::Training {
            self.happened(Happened::TrainFailed);
        }
    }
}

/// Puts a chunk in its place; a download hands over none that has no place in what it opened.
fn place(whole: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    if let Some(place) = whole.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// The chunks of each shard that hold these stretches of stored samples.
fn chunks_of(spec: &JobSpec, ranges: &[(u64, u64)]) -> Vec<(u32, core::ops::Range<u32>)> {
    let sample_bytes = u64::from(spec.data.sample_tokens) * u64::from(spec.data.token_bytes);
    let chunk = suanli_params::BYTE_CHUNK as u64;
    let mut wanted: Vec<(u32, core::ops::Range<u32>)> = Vec::new();
    for (start, count) in ranges {
        let (start, end) = (*start, start.saturating_add(*count));
        let mut first = 0;
        for (index, shard) in (0_u32..).zip(&spec.data.shards) {
            let (low, high) = (start.max(first), end.min(first + shard.samples));
            if low < high {
                let (from, to) = ((low - first) * sample_bytes, (high - first) * sample_bytes);
                let range = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
                wanted.push((index, range(from / chunk)..range(to.div_ceil(chunk))));
            }
            first += shard.samples;
        }
    }
    wanted
}
