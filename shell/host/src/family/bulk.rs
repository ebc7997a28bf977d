//! The bulk work of a family, in order, on a task of its own: bytes in and out of the shared
//! memory, the engine, the codec, the disk. What to do comes from the node; what was done goes
//! back to it.

use super::frozen::Frozen;
use super::keep::{Keep, PrivateState};
use crate::trainable::Trainable;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use suanli_base::{Hash, JobId, LeaseId, Random, Tokens};
use suanli_bus::merge::{hash_chunks, pack};
use suanli_bus::{CONTRIBUTION_FORMAT, Contribution, JobSpec, StateRoot};
use suanli_engine::NUMERIC_CLASS_ANY;
use suanli_engine::order::SampleOrder;
use suanli_log::{LeaseRecord, Private};
use suanli_node::family::{Done, Pending, Target, Work};
use suanli_params::{CHUNK_ELEMENTS, encoded_len};
use suanli_rdpa::Shape;
use suanli_worker::{
    AdamSettings, Moments, Ready, Reply, ShareOfCpu, Theta, TokenRange, Train, Work as EngineWork,
    Worker, WorkerEvent, WorkerHandle, WorkerSpec,
};
use tokio::sync::mpsc;

/// Steps that measure a machine's speed.
const MEASURE_STEPS: usize = 2;
/// A lease is at most this many times the job's inner steps (`bus::authority`).
const STEPS_SPREAD_MAX: u64 = 8;

/// What the loop and the bulk task share.
pub(super) struct Shared {
    /// The running worker, to be cancelled or throttled from the loop.
    handle: Mutex<Option<(WorkerHandle, Option<u64>)>>,
    /// The loop wants training to stop at the last complete step.
    stop: AtomicBool,
    /// The owner's limit, in thousandths.
    share: AtomicU32,
    /// Loss of the last step, as bits.
    loss: AtomicU32,
    /// Why the owner's trainer did not begin.
    trainer_failed: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(share_percent: u8) -> Self {
        Self {
            handle: Mutex::new(None),
            stop: AtomicBool::new(false),
            share: AtomicU32::new(u32::from(share_percent) * 10),
            loss: AtomicU32::new(f32::NAN.to_bits()),
            trainer_failed: Mutex::new(None),
        }
    }

    /// Why the owner's trainer did not begin, told once.
    pub(super) fn trainer_failed(&self) -> Option<String> {
        self.trainer_failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Option<(WorkerHandle, Option<u64>)>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Training may begin (again).
    pub(super) fn allow(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Stops what is training now, or what is about to.
    pub(super) fn halt(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some((handle, Some(id))) = &*self.link() {
            handle.cancel(*id);
        }
    }

    /// Sets the owner's limit; 0 stands still at once.
    pub(super) fn set_share(&self, per_mille: u16) {
        self.share.store(u32::from(per_mille), Ordering::SeqCst);
        if let Some((handle, _)) = &*self.link() {
            handle.set_share(share_of(per_mille));
        }
    }

    pub(super) fn worker_pid(&self) -> Option<u32> {
        self.link().as_ref().and_then(|(handle, _)| handle.process())
    }

    pub(super) fn loss(&self) -> Option<f64> {
        let loss = f32::from_bits(self.loss.load(Ordering::Relaxed));
        loss.is_finite().then_some(f64::from(loss))
    }
}

/// Whoever held it before left it whole: every change ends in a state on disk.
fn held<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn share_of(per_mille: u16) -> ShareOfCpu {
    ShareOfCpu::new(per_mille.min(1000)).unwrap_or(ShareOfCpu::WHOLE)
}

/// How the worker process is started.
#[derive(Clone)]
pub(super) struct Program {
    pub exe: PathBuf,
    pub args: Vec<OsString>,
    /// A program of the owner's, not ours.
    pub outside: bool,
    pub threads: u16,
}

/// The task's state.
pub(super) struct Bulk {
    keep: Keep,
    frozen: Arc<Mutex<Frozen>>,
    program: Program,
    shared: Arc<Shared>,
    done: mpsc::UnboundedSender<Done>,
    open: Option<Open>,
}

/// The job worked on.
struct Open {
    job: JobId,
    spec: JobSpec,
    vocab: u64,
    order: SampleOrder,
    worker: Worker,
    dead: bool,
    incoming: Vec<u8>,
    shards: BTreeMap<(u32, u64), Bytes>,
    private: PrivateState,
    before: Option<StateRoot>,
    build: String,
    class: String,
}

type Outcome<T> = Result<T, String>;

impl Bulk {
    pub(super) fn new(
        (keep, frozen): (Keep, Frozen),
        program: Program,
        shared: Arc<Shared>,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let frozen = Arc::new(Mutex::new(frozen));
        Self { keep, frozen, program, shared, done, open: None }
    }

    /// Works until the loop is gone.
    pub(super) async fn run(mut self, mut works: mpsc::UnboundedReceiver<Work>) {
        while let Some(work) = works.recv().await {
            self.perform(work).await;
        }
    }

    fn report(&self, done: Done) {
        // The loop has ended; nobody waits for this any more.
        let _ = self.done.send(done);
    }

    async fn perform(&mut self, work: Work) {
        match work {
            Work::Find { job, frozen } => {
                let chunks = self.find(frozen).await;
                self.report(Done::Found { job, chunks });
            }
            Work::Load { job, spec } => {
                let private = self.load(job, *spec).await;
                self.report(Done::Loaded { job, private });
            }
            Work::Keep { target, offset, bytes, total } => {
                self.keep_chunk(target, offset, bytes, total)
            }
            Work::Install { job, version } => {
                let root = self.install(job).await;
                self.report(Done::Installed { job, version, root });
            }
            Work::Apply { job, version } => {
                let root = self.apply(job).await;
                self.report(Done::Installed { job, version, root });
            }
            Work::SaveChain(chain) => {
                if let Err(error) = self.keep.save_chain(&chain) {
                    eprintln!("suanli: the newest head could not be kept: {error}");
                }
            }
            Work::Measure { job } => {
                let rate = self.measure(job).await.ok();
                self.report(Done::Measured { job, rate });
            }
            Work::Locate { lease, job, start, count } => {
                let ranges = self.locate(job, start, count);
                self.report(Done::Located { lease, ranges });
            }
            Work::Train { record, from, rates } => self.train(&record, from, &rates).await,
            // The loop has raised the flag already.
            Work::StopTraining => {}
            Work::Pack { record, done } => {
                let pending = self.pack(&record, done).await;
                if let Err(error) = &pending {
                    eprintln!("suanli: lease {} could not be packed: {error}", record.lease);
                }
                let pending = pending.ok().map(Box::new);
                self.report(Done::Packed { lease: record.lease, pending });
            }
            Work::ReadPending { lease, chunk, offset, length } => {
                let bytes = self.read_pending(offset, length);
                self.report(Done::Pending { lease, chunk, bytes });
            }
            Work::Promote { lease } => self.promote(lease),
            Work::Discard { lease } => {
                if let Err(error) = self.keep.discard(lease) {
                    eprintln!("suanli: a void payload could not be removed: {error}");
                }
            }
        }
    }

    /// Looks for a frozen model; to hash and to unpack it may take seconds.
    async fn find(&self, model: Box<suanli_bus::Frozen>) -> u32 {
        let frozen = Arc::clone(&self.frozen);
        let look = move || held(&frozen).find(&model).map_err(|error| error.to_string());
        let found = tokio::task::spawn_blocking(look).await;
        found.map_err(|error| error.to_string()).flatten().unwrap_or_else(|error| {
            eprintln!("suanli: the frozen model cannot be kept: {error}");
            0
        })
    }

    async fn load(&mut self, job: JobId, spec: JobSpec) -> Outcome<Hash> {
        self.open = None;
        *self.shared.link() = None;
        let any = spec.numeric_class == NUMERIC_CLASS_ANY;
        if self.program.outside && !any {
            let class = &spec.numeric_class;
            return Err(format!(
                "the job asks for equal bits ({class}), which a trainer of one's own cannot promise; \
                 join without --trainer, or ask for a job with engine = \"any\""
            ));
        }
        let trainable = Trainable::of(&spec)?;
        let (vocab, parameters) = (trainable.model.vocab, trainable.parameters());
        let training = &spec.training;
        let longest = u64::from(training.inner_steps) * STEPS_SPREAD_MAX;
        let words =
            longest * u64::from(training.batch_sequences) * u64::from(spec.data.sample_tokens);
        let frozen =
            || held(&self.frozen).path(spec.frozen.as_ref().map_or(Hash::ZERO, |f| f.root));
        let length = spec.data.sample_tokens as usize - 1;
        let mut worker_spec = trainable.worker(length, words, frozen);
        worker_spec.args.clone_from(&self.program.args);
        worker_spec.outside = self.program.outside;
        worker_spec.threads = self.program.threads;
        worker_spec.share = share_of(self.shared.share.load(Ordering::SeqCst) as u16);
        let (worker, ready) = match self.start(worker_spec).await {
            Ok(started) => started,
            Err(why) if self.program.outside => {
                // It would fail the next time too; whoever wrote it reads this.
                let why =
                    format!("the trainer {} did not begin: {why}", self.program.exe.display());
                *held(&self.shared.trainer_failed) = Some(why.clone());
                return Err(why);
            }
            Err(why) => return Err(why),
        };
        let data = &spec.data;
        let order = SampleOrder::new(data.samples, u64::from(data.group), data.order_seed)
            .map_err(|error| error.to_string())?;
        let private = self.keep.private(job).map_err(|error| error.to_string())?;
        let fits = private.sealed.is_empty() || private.residual.len() == parameters * 4;
        let private = if fits { private } else { PrivateState::default() };
        let hash = private.hash();
        *self.shared.link() = Some((worker.handle().clone(), None));
        self.open = Some(Open {
            job,
            spec,
            vocab: vocab as u64,
            order,
            worker,
            dead: false,
            incoming: Vec::new(),
            shards: BTreeMap::new(),
            private,
            before: None,
            build: ready.build,
            class: if any { NUMERIC_CLASS_ANY.into() } else { ready.numeric_class },
        });
        Ok(hash)
    }

    async fn start(&self, spec: WorkerSpec) -> Outcome<(Worker, Ready)> {
        let worker = Worker::spawn(self.program.exe.clone(), spec);
        let mut worker = worker.map_err(|error| error.to_string())?;
        let ready = worker.ready().await.map_err(|error| error.to_string())?;
        Ok((worker, ready))
    }

    fn keep_chunk(&mut self, target: Target, offset: u64, bytes: Bytes, total: u64) {
        if let Target::Frozen(root) = target {
            // What is not on disk is missing when it is looked for again.
            if let Err(error) = held(&self.frozen).keep(root, offset, bytes) {
                eprintln!("suanli: the frozen model cannot be kept: {error}");
            }
            return;
        }
        let Some(open) = self.open.as_mut() else { return };
        match target {
            Target::Theta(..) | Target::Update(..) => {
                let (Ok(start), Ok(total)) = (usize::try_from(offset), usize::try_from(total))
                else {
                    return;
                };
                open.incoming.resize(total, 0);
                if let Some(place) = open.incoming.get_mut(start..start + bytes.len()) {
                    place.copy_from_slice(&bytes);
                }
            }
            Target::Shard(_, shard) => {
                open.shards.insert((shard, offset), bytes);
            }
            Target::Frozen(_) => {}
        }
    }

    fn opened(&mut self, job: JobId) -> Outcome<&mut Open> {
        let open = self.open.as_mut().filter(|open| open.job == job);
        open.ok_or_else(|| "this job is not open".to_string())
    }

    async fn install(&mut self, job: JobId) -> Option<Hash> {
        let open = self.opened(job).ok()?;
        let incoming = core::mem::take(&mut open.incoming);
        let mut base = open.worker.handle().memory().base().clone().write_owned().await;
        if incoming.len() != base.len() * 4 {
            return None;
        }
        for (value, word) in base.iter_mut().zip(incoming.chunks_exact(4)) {
            *value = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        }
        Some(suanli_params::root(&hash_chunks(&base)))
    }

    async fn apply(&mut self, job: JobId) -> Option<Hash> {
        let open = self.opened(job).ok()?;
        let incoming = core::mem::take(&mut open.incoming);
        let codec = open.spec.training.codec;
        let mut base = open.worker.handle().memory().base().clone().write_owned().await;
        let mut at = 0;
        for index in 0..suanli_params::chunk_count(base.len()) {
            let range = suanli_params::chunk_range(base.len(), index);
            let bytes = incoming.get(at..at + encoded_len(codec, range.len()))?;
            suanli_params::apply_update(&mut base[range], codec, bytes).ok()?;
            at += bytes.len();
        }
        Some(suanli_params::root(&hash_chunks(&base)))
    }

    fn locate(&mut self, job: JobId, start: u64, count: u64) -> Vec<(u64, u64)> {
        let Ok(open) = self.opened(job) else { return vec![] };
        let ranges = open.order.ranges(start, count);
        ranges.into_iter().map(|range| (range.start, range.end - range.start)).collect()
    }

    async fn measure(&mut self, job: JobId) -> Outcome<u32> {
        self.revive().await?;
        let shared = Arc::clone(&self.shared);
        let open = self.opened(job)?;
        let batch = u64::from(open.spec.training.batch_sequences);
        let words = MEASURE_STEPS as u64 * batch * u64::from(open.spec.data.sample_tokens);
        {
            let mut area = open.worker.handle().memory().tokens()[0].clone().write_owned().await;
            let mut random = Random::new(words);
            for word in area.iter_mut().take(usize::try_from(words).unwrap_or(0)) {
                *word = random.below(open.vocab) as u32;
            }
        }
        let train = open.train_work(vec![0.0; MEASURE_STEPS], words, Moments::Fresh, Theta::Base);
        let reply = open.call(&shared, EngineWork::Train(Box::new(train)), |_| {}).await?;
        let Reply::Trained(trained) = reply else { return Err("the engine did not train".into()) };
        let micros = trained.elapsed_micros.max(1);
        let rate = trained.tokens.saturating_mul(1_000_000) / micros;
        Ok(u32::try_from(rate).unwrap_or(u32::MAX).max(1))
    }

    /// Starts the worker process again after a death.
    async fn revive(&mut self) -> Outcome<()> {
        let Some(open) = self.open.as_mut().filter(|open| open.dead) else { return Ok(()) };
        open.worker.respawn().map_err(|error| error.to_string())?;
        open.worker.ready().await.map_err(|error| error.to_string())?;
        open.dead = false;
        Ok(())
    }

    async fn train(&mut self, record: &LeaseRecord, from: u32, rates: &[f32]) {
        let lease = record.lease;
        let steps = match self.try_train(record, from, rates).await {
            Ok(steps) => Some(from + steps),
            Err(error) => {
                eprintln!("suanli: lease {lease} could not be trained: {error}");
                None
            }
        };
        self.report(Done::Trained { lease, done: steps });
    }

    async fn try_train(&mut self, record: &LeaseRecord, from: u32, rates: &[f32]) -> Outcome<u32> {
        self.revive().await?;
        let (shared, done) = (Arc::clone(&self.shared), self.done.clone());
        let open = self.opened(record.job)?;
        let (theta, moments) = if from > 0 {
            (Theta::Keep, Moments::Keep)
        } else {
            (Theta::Base, open.import(record.private).await?)
        };
        if from == 0 {
            let load = open.train_work(Vec::new(), 0, moments, theta);
            open.call(&shared, EngineWork::Train(Box::new(load)), |_| {}).await?;
            open.before = Some(open.state_root(&shared).await?);
        }
        let words = open.fill_tokens(record, from).await?;
        let rates = rates.get(from as usize..).unwrap_or_default().to_vec();
        let train = open.train_work(rates, words, Moments::Keep, Theta::Keep);
        let lease = record.lease;
        let mut pace = Pace::default();
        let progress = |reply: &Reply| {
            if let Reply::Progress(progress) = reply {
                shared.loss.store(progress.loss.to_bits(), Ordering::Relaxed);
                let rate = pace.rate(progress.tokens, progress.elapsed_micros);
                let _ = done.send(Done::Progress { lease, done: from + progress.steps_done, rate });
            }
        };
        match open.call(&shared, EngineWork::Train(Box::new(train)), progress).await? {
            Reply::Trained(trained) => Ok(trained.steps),
            _ => Err("the engine did not train".into()),
        }
    }

    async fn pack(&mut self, record: &LeaseRecord, steps: u32) -> Outcome<Pending> {
        let (shared, keep) = (Arc::clone(&self.shared), self.keep.clone());
        let open = self.opened(record.job)?;
        if open.dead {
            return Err("the engine died with its state".into());
        }
        let reply = open.call(&shared, EngineWork::Seal, |_| {}).await?;
        let Reply::Sealed(sealed) = reply else { return Err("the engine did not seal".into()) };
        let state_after = open.state_root(&shared).await?;
        let memory = open.worker.handle();
        let memory = memory.memory();
        let length = usize::try_from(sealed.bytes).map_err(|error| error.to_string())?;
        let sealed = memory.moments().read().await[..length].to_vec();
        let (base, local) = (memory.base().clone(), memory.local().clone());
        let mut residual = match record.private {
            Private::Sealed(_) => open.private.residual_f32(),
            _ => vec![0.0; base.read().await.len()],
        };
        let codec = open.spec.training.codec;
        let packing = tokio::task::spawn_blocking(move || {
            let (base, local) = (base.blocking_read(), local.blocking_read());
            pack(codec, &base, &local, &mut residual).map(|packed| (packed, residual))
        });
        let packed = packing.await.map_err(|error| error.to_string())?;
        let (packed, residual) = packed.map_err(|error| error.to_string())?;
        let private = PrivateState {
            sealed,
            residual: residual.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let parameters = residual.len();
        let chunk = encoded_len(codec, CHUNK_ELEMENTS.min(parameters));
        let mut salt = [0; 16];
        let drawn = suanli_store::draw().map_err(|error| error.to_string())?;
        salt.copy_from_slice(&drawn[..16]);
        let contribution = Contribution {
            format: CONTRIBUTION_FORMAT,
            job: record.job,
            lease: record.lease,
            base_root: record.base_root,
            start: record.start,
            samples: u64::from(steps) * u64::from(record.batch_sequences),
            engine_build: open.build.clone(),
            numeric_class: open.class.clone(),
            steps,
            tokens: Tokens(u64::from(steps) * open.spec.tokens_a_step()),
            state_before: open.before.ok_or("the lease was not trained here")?,
            state_after,
            delta_root: packed.delta_root,
            residual_before: packed.residual_before,
            residual_after: packed.residual_after,
            payload_root: packed.payload_root(),
            private_after: private.hash(),
            salt,
        };
        let shape = Shape {
            bytes: packed.payload.len() as u64,
            chunk_bytes: u32::try_from(chunk).map_err(|error| error.to_string())?,
        };
        let pending = Pending { contribution, shape };
        keep.save_pending(&pending, &packed.payload, &private)
            .map_err(|error| error.to_string())?;
        open.shards.clear();
        Ok(pending)
    }

    fn read_pending(&self, offset: u64, length: u32) -> Option<Bytes> {
        let payload = self.keep.payload().ok()?;
        let start = usize::try_from(offset).ok()?;
        let piece = payload.get(start..start.checked_add(length as usize)?)?;
        Some(Bytes::copy_from_slice(piece))
    }

    fn promote(&mut self, lease: LeaseId) {
        let job = match self.keep.promote(lease) {
            Ok(job) => job,
            Err(error) => {
                eprintln!("suanli: the sealed state could not be kept: {error}");
                return;
            }
        };
        let Some(open) = self.open.as_mut().filter(|open| Some(open.job) == job) else { return };
        if let Ok(private) = self.keep.private(open.job) {
            open.private = private;
            let private = open.private.hash();
            self.report(Done::Promoted { private });
        }
    }
}

impl Open {
    fn train_work(&self, lr: Vec<f32>, words: u64, moments: Moments, theta: Theta) -> Train {
        let training = &self.spec.training;
        Train {
            sequences: training.batch_sequences,
            length: self.spec.data.sample_tokens - 1,
            lr,
            adam: AdamSettings {
                beta1: training.beta1,
                beta2: training.beta2,
                eps: training.eps,
                weight_decay: training.weight_decay,
                clip: training.clip,
            },
            tokens: TokenRange { area: 0, start: 0, len: words },
            moments,
            theta,
        }
    }

    /// Puts the private state that a lease names where the engine reads it.
    async fn import(&mut self, private: Private) -> Outcome<Moments> {
        match private {
            Private::Fresh => {
                self.private = PrivateState::default();
                Ok(Moments::Fresh)
            }
            Private::Sealed(hash) if hash == self.private.hash() => {
                let mut moments =
                    self.worker.handle().memory().moments().clone().write_owned().await;
                let sealed = &self.private.sealed;
                moments
                    .get_mut(..sealed.len())
                    .ok_or("the sealed moments are too long")?
                    .copy_from_slice(sealed);
                Ok(Moments::Import { bytes: sealed.len() as u64 })
            }
            _ => Err("the lease names a private state that is not here".into()),
        }
    }

    async fn state_root(&mut self, shared: &Shared) -> Outcome<StateRoot> {
        match self.call(shared, EngineWork::StateHash, |_| {}).await? {
            Reply::StateHash(hashes) => {
                Ok(StateRoot { root: Hash(hashes.root), segments: hashes.segments.map(Hash) })
            }
            _ => Err("the engine did not hash its state".into()),
        }
    }

    /// Copies the samples of the lease's steps from `from` on into the shared memory.
    async fn fill_tokens(&mut self, record: &LeaseRecord, from: u32) -> Outcome<u64> {
        let skip = u64::from(from) * u64::from(record.batch_sequences);
        let ranges = self.order.ranges(record.start + skip, record.samples() - skip);
        let width = u64::from(self.spec.data.token_bytes);
        let sample_bytes = u64::from(self.spec.data.sample_tokens) * width;
        let mut words = Vec::new();
        for sample in ranges.into_iter().flatten() {
            let (shard, first) = self.shard_of(sample).ok_or("a sample beyond the data")?;
            let at = (sample - first) * sample_bytes;
            let bytes =
                self.shard_bytes(shard, at, sample_bytes).ok_or("a sample that was not read")?;
            match width {
                2 => words.extend(
                    bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
                ),
                _ => words.extend(
                    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                ),
            }
        }
        let mut area = self.worker.handle().memory().tokens()[0].clone().write_owned().await;
        let place = area.get_mut(..words.len()).ok_or("a lease longer than any may be")?;
        place.copy_from_slice(&words);
        Ok(words.len() as u64)
    }

    fn shard_of(&self, sample: u64) -> Option<(u32, u64)> {
        let mut first = 0;
        for (index, shard) in (0_u32..).zip(&self.spec.data.shards) {
            if sample < first + shard.samples {
                return Some((index, first));
            }
            first += shard.samples;
        }
        None
    }

    /// Bytes of a shard that may cross the chunks they came in.
    fn shard_bytes(&self, shard: u32, at: u64, length: u64) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(usize::try_from(length).ok()?);
        let mut at = at;
        let end = at + length;
        while at < end {
            let (&(_, start), chunk) = self.shards.range((shard, 0)..=(shard, at)).next_back()?;
            let skip = usize::try_from(at - start).ok()?;
            let piece = chunk.get(skip..).filter(|piece| !piece.is_empty())?;
            let take = piece.len().min(usize::try_from(end - at).ok()?);
            out.extend_from_slice(&piece[..take]);
            at += take as u64;
        }
        Some(out)
    }

    /// Has the engine do something, stoppable from the loop.
    async fn call(
        &mut self,
        shared: &Shared,
        work: EngineWork,
        mut partial: impl FnMut(&Reply),
    ) -> Outcome<Reply> {
        let stoppable =
            matches!(&work, EngineWork::Train(train) if train.lr.iter().any(|lr| *lr != 0.0));
        let id = self.worker.handle().send(work).map_err(|error| {
            self.dead = matches!(error, suanli_worker::SendError::Dead);
            error.to_string()
        })?;
        if stoppable {
            *shared.link() = Some((self.worker.handle().clone(), Some(id)));
            if shared.stop.load(Ordering::SeqCst) {
                self.worker.handle().cancel(id);
            }
        }
        let outcome = loop {
            match self.worker.event().await {
                Some(WorkerEvent::Reply { id: about, reply }) if about == id => match reply {
                    Reply::Failed(failure) => break Err(failure.to_string()),
                    reply if reply.is_partial() => partial(&reply),
                    reply => break Ok(reply),
                },
                Some(WorkerEvent::Reply { .. }) => {}
                Some(WorkerEvent::Died(death)) => {
                    self.dead = true;
                    break Err(format!(
                        "the worker process died ({:?}) {}",
                        death.cause, death.last_words
                    ));
                }
                None => {
                    self.dead = true;
                    break Err("the worker process is gone".into());
                }
            }
        };
        if stoppable {
            *shared.link() = Some((self.worker.handle().clone(), None));
        }
        outcome
    }
}

/// Tokens a second over the whole of a lease so far: other work of the machine, and of the other
/// members on it, comes and goes within a lease, and the next one is planned by this number.
#[derive(Default)]
struct Pace {
    micros: u64,
}

impl Pace {
    fn rate(&mut self, tokens: u64, step_micros: u64) -> u32 {
        self.micros += step_micros;
        let rate = tokens.saturating_mul(1_000_000) / self.micros.max(1);
        u32::try_from(rate).unwrap_or(u32::MAX)
    }
}
