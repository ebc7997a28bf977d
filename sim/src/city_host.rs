//! What a city's host does with each piece of work: the reference for the real one.
//!
//! Staged chunks stay in memory; everything a log entry names is synced before the node hears that
//! it is done; blobs are checked against their hash when read; a full disk is waited out, a failed
//! sync stops the process.

use crate::city_log::{CityLog, keep_head, parse_heads};
use crate::context::{Context, Post, Stop};
use crate::disk::DiskError;
use crate::job::{Rows, TinyJob, bytes_of, content_info, engine, floats_of, unpacked};
use crate::plant::Bug;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use suanli_base::{CityId, Hash, JobId, LeaseId, NodeId, Round};
use suanli_bus::authority::Settled;
use suanli_bus::merge::{Outer, OuterState, Part, check_payload, hash_chunks, merge, payload_len};
use suanli_bus::state::MergeOrder;
use suanli_bus::{Frozen, JobOutcome, JobSpec};
use suanli_engine::Cancel;
use suanli_identity::{SecretKey, Signed};
use suanli_log::{Entry, StateBlobs};
use suanli_node::city::{
    CityNode, Command, CommandId, Done, Input, Output, Settle, SettleFault, Source, Stage, Work,
};
use suanli_params::{CHUNK_ELEMENTS, Codec, encoded_len};
use suanli_rdpa::{GateBooks, Limits};

/// How long a full disk is waited for before the next try.
const FULL_RETRY_MS: u64 = 500;
/// What the gate of grants must not forget.
const BOOKS: &str = "grants";

/// A running city.
pub(crate) struct CityHost {
    pub(crate) node: CityNode,
    log: CityLog,
    /// Framed bytes on their way to the disk.
    appending: Option<Appending>,
    inbox: VecDeque<Input>,
    stages: BTreeMap<Stage, Vec<u8>>,
    heads_waiting: VecDeque<(JobId, Round, Signed)>,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
}

struct Appending {
    bodies: Vec<Vec<u8>>,
    framed: Vec<u8>,
}

enum Task {
    Append,
    Sync,
    Work(Work),
    Heads,
}

impl CityHost {
    /// Starts a city from what its disk holds.
    pub(crate) fn boot(
        cx: &mut Context<'_>,
        key: &SecretKey,
        limits: Limits,
        job: &TinyJob,
    ) -> Result<Self, Stop> {
        let city = CityId::from(key.node());
        let mut found = CityLog::recover(cx, city)?;
        if found.log.next_seq() == 0 {
            let entry = Entry::Founded { city, name: "city".into(), time: cx.now };
            let body = entry.to_bytes();
            let framed = found.log.frame(std::slice::from_ref(&body));
            cx.watch.proposed(0, std::slice::from_ref(&body));
            match found.log.append(cx.disk, &framed) {
                Ok(()) => found.log.sync(cx.disk)?,
                Err(_) => return Err(Stop::Crash),
            }
            found.state.apply(&entry).map_err(|error| Stop::Broken(error.to_string()))?;
            found.tail.push(body);
        }
        cx.watch.recovered(&found.state, found.first, &found.tail);
        let mut kept = found.state.blobs();
        if cx.has(Bug::GarbageTooEager) {
            let waiting = found.state.jobs.values().flat_map(|job| job.accepted.values());
            let waiting: Vec<Hash> = waiting.map(|accepted| accepted.payload).collect();
            kept.retain(|blob| !waiting.contains(blob));
        }
        collect_garbage(cx, &kept)?;
        let mut content = Vec::new();
        for name in cx.disk.list("content/") {
            let bytes = cx.disk.read(&format!("content/{name}")).unwrap_or_default();
            content.push(content_info(bytes));
        }
        let fresh = found.state.jobs.is_empty();
        let mut node = CityNode::new(key.clone(), limits, found.state, content, cx.now);
        if let Some(bytes) = cx.disk.read(BOOKS) {
            let books = GateBooks::from_bytes(bytes);
            node.keep_books(books.ok_or_else(|| Stop::Broken("the books of grants".into()))?);
        }
        let mut host = Self {
            node,
            log: found.log,
            appending: None,
            inbox: VecDeque::new(),
            stages: BTreeMap::new(),
            heads_waiting: VecDeque::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
        };
        host.drain(cx)?;
        if fresh {
            host.submit(cx, job)?;
        }
        Ok(host)
    }

    /// The operator brings a job by hand.
    fn submit(&mut self, cx: &mut Context<'_>, job: &TinyJob) -> Result<(), Stop> {
        for (index, bytes) in (0..).zip(&job.content) {
            let info = content_info(bytes);
            cx.disk.put(&format!("content/{}", info.root), bytes)?;
            let command = Command::Content(info);
            self.input(cx, Input::Command { id: CommandId(index), command })?;
        }
        let command = Command::Submit { spec: job.spec.to_bytes() };
        self.input(cx, Input::Command { id: CommandId(100), command })
    }

    /// Hands in one input, after those that wait for an append.
    pub(crate) fn input(&mut self, cx: &mut Context<'_>, input: Input) -> Result<(), Stop> {
        self.inbox.push_back(input);
        while self.appending.is_none() {
            let Some(input) = self.inbox.pop_front() else { return Ok(()) };
            self.handle(cx, input)?;
        }
        Ok(())
    }

    fn handle(&mut self, cx: &mut Context<'_>, input: Input) -> Result<(), Stop> {
        let outcome = self.node.handle(cx.now, input);
        outcome.map_err(|error| Stop::Broken(error.to_string()))?;
        self.drain(cx)
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Append(bodies) => self.append(cx, bodies)?,
                Output::Snapshot(state) => self.log.snapshot(cx, &state)?,
                Output::Work(work) => self.work(cx, work)?,
                Output::Close { conn, .. } => cx.out.push(Post::Close(conn)),
                Output::Reply { outcome: JobOutcome::Refused(why), .. } => {
                    cx.watch.violation(format!("the city refused its operator's job: {why}"));
                }
                Output::Reply { .. }
                | Output::Revoked { .. }
                | Output::Admitted { .. }
                | Output::Note(_) => {}
            }
        }
        let conns: Vec<_> = self.node.connections().map(|(conn, _)| conn).collect();
        for conn in conns {
            while let Some(frame) = self.node.poll_transmit(conn) {
                cx.out.push(Post::Send { conn: Some(conn), frame });
            }
        }
        Ok(())
    }

    fn task(&mut self, cx: &mut Context<'_>, ms: u64, task: Task) {
        self.next_task += 1;
        self.tasks.insert(self.next_task, task);
        cx.later(ms, self.next_task);
    }

    /// Time is up for something that takes time.
    pub(crate) fn due(&mut self, cx: &mut Context<'_>, task: u64) -> Result<(), Stop> {
        match self.tasks.remove(&task) {
            None => Ok(()),
            Some(Task::Append) => self.try_append(cx),
            Some(Task::Sync) => self.synced(cx),
            Some(Task::Heads) => self.keep_heads(cx),
            Some(Task::Work(work)) => self.perform(cx, work),
        }
    }

    fn append(&mut self, cx: &mut Context<'_>, bodies: Vec<Vec<u8>>) -> Result<(), Stop> {
        cx.watch.proposed(self.log.next_seq(), &bodies);
        let written = if cx.has(Bug::BatchCutShort) { bodies.len().min(1) } else { bodies.len() };
        let framed = self.log.frame(&bodies[..written]);
        self.appending = Some(Appending { bodies, framed });
        self.try_append(cx)
    }

    fn try_append(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let Some(appending) = &self.appending else { return Ok(()) };
        match self.log.append(cx.disk, &appending.framed) {
            Ok(()) => {
                let ms = 1 + cx.random.below(12);
                self.task(cx, ms, Task::Sync);
                if cx.has(Bug::AckBeforeSync) { self.durable(cx) } else { Ok(()) }
            }
            Err(DiskError::Full) if cx.has(Bug::FullDiskIgnored) => self.durable(cx),
            Err(DiskError::Full) => {
                self.task(cx, FULL_RETRY_MS, Task::Append);
                Ok(())
            }
            Err(_) => Err(Stop::Crash),
        }
    }

    fn synced(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        match self.log.sync(cx.disk) {
            Err(DiskError::SyncFailed) if cx.has(Bug::FailedSyncRetried) => {
                self.task(cx, 5, Task::Sync);
                Ok(())
            }
            Err(_) => Err(Stop::Crash),
            Ok(()) if self.appending.is_none() => Ok(()),
            Ok(()) => self.durable(cx),
        }
    }

    fn durable(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if let Some(appending) = self.appending.take() {
            cx.watch.durable(&appending.bodies);
        }
        self.handle(cx, Input::Durable)?;
        while self.appending.is_none() {
            let Some(input) = self.inbox.pop_front() else { return Ok(()) };
            self.handle(cx, input)?;
        }
        Ok(())
    }

    /// Begins a piece of work: what is memory alone at once, the rest takes its time.
    fn work(&mut self, cx: &mut Context<'_>, work: Work) -> Result<(), Stop> {
        let ms = match &work {
            Work::Stage { .. } | Work::Unstage(_) | Work::KeepHead { .. } | Work::Forget(_) => {
                return self.at_once(cx, work);
            }
            Work::Read { .. } | Work::ReadHeads { .. } => 1 + cx.random.below(5),
            Work::Settle(_) | Work::Store { .. } => 3 + cx.random.below(60),
            Work::Merge { .. } | Work::Catalogue { .. } | Work::Found { .. } => {
                10 + cx.random.below(150)
            }
            Work::KeepBooks(_) => 1 + cx.random.below(12),
            Work::Evaluate { .. } => 10 + cx.random.below(400),
        };
        self.task(cx, ms, Task::Work(work));
        Ok(())
    }

    fn at_once(&mut self, cx: &mut Context<'_>, work: Work) -> Result<(), Stop> {
        match work {
            Work::Stage { stage, offset, bytes, total } => {
                let (total, offset) = (to_usize(total), to_usize(offset));
                let buffer = self.stages.entry(stage).or_default();
                buffer.resize(total, 0);
                buffer[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            Work::Unstage(stage) if !cx.has(Bug::UnstageForgotten) => {
                self.stages.remove(&stage);
            }
            Work::KeepHead { job, version, head } => {
                if !(cx.has(Bug::HeadNotKept) && version.0 % 4 == 3) {
                    self.heads_waiting.push_back((job, version, head));
                }
                return self.keep_heads(cx);
            }
            Work::Forget(blobs) => {
                for blob in blobs {
                    cx.disk.remove(&blob_path(blob))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn keep_heads(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        while let Some((job, version, head)) = self.heads_waiting.front() {
            match keep_head(cx.disk, &format!("heads/{job}"), *version, head) {
                Ok(()) => self.heads_waiting.pop_front(),
                Err(DiskError::Full) => {
                    self.task(cx, FULL_RETRY_MS, Task::Heads);
                    return Ok(());
                }
                Err(_) => return Err(Stop::Crash),
            };
        }
        Ok(())
    }

    /// The work takes place; a full disk puts it off where the node has no word for failure.
    fn perform(&mut self, cx: &mut Context<'_>, work: Work) -> Result<(), Stop> {
        let outcome = match &work {
            Work::Read { conn, token, source, runs, .. } => {
                let bytes = self.read(cx, *source, runs);
                Ok(Done::Read { conn: *conn, token: *token, bytes })
            }
            Work::Store { by, info } => self.store(cx, *by, info.clone()),
            Work::Settle(settle) => self.settle(cx, settle),
            Work::Merge { order, spec } => merge_round(cx, order, spec),
            Work::Found { job, spec } => found(cx, *job, spec),
            Work::Catalogue { job, theta, updates, codec, parameters } => {
                Ok(catalogue(cx, *job, *theta, updates, *codec, *parameters))
            }
            Work::ReadHeads { conn, job, from, count } => {
                let bytes = cx.disk.read(&format!("heads/{job}")).unwrap_or_default();
                let heads = parse_heads(bytes).0.into_iter().filter(|(v, _)| v >= from);
                let heads = heads.map(|(_, head)| head).take(*count).collect();
                Ok(Done::Heads { conn: *conn, job: *job, heads })
            }
            Work::Evaluate { job, version, theta } => {
                let loss = self.evaluate(cx, *job, *theta);
                Ok(Done::Evaluated { job: *job, version: *version, loss })
            }
            Work::KeepBooks(books) => cx
                .disk
                .put(BOOKS, &books.to_bytes())
                .map(|()| Done::BooksKept)
                .map_err(Trouble::Disk),
            _ => return Ok(()),
        };
        match outcome {
            Ok(done) => self.input(cx, Input::Done(done)),
            Err(Trouble::Disk(DiskError::Full)) => {
                self.task(cx, FULL_RETRY_MS, Task::Work(work));
                Ok(())
            }
            Err(Trouble::Disk(_)) => Err(Stop::Crash),
            Err(Trouble::Broken(text)) => Err(Stop::Broken(text)),
        }
    }

    fn read(&self, cx: &Context<'_>, source: Source, runs: &[(u64, u32)]) -> Option<Bytes> {
        let path = match source {
            Source::Blob(blob) => blob_path(blob),
            Source::Content(root) => format!("content/{root}"),
            // The simulated host knows no models and describes none.
            Source::Tensors(_) | Source::Probe => return None,
            Source::Spec(job) => {
                let spec = &self.node.state().jobs.get(&job)?.spec;
                return Some(Bytes::from(spec.to_bytes()));
            }
        };
        let bytes = cx.disk.read(&path)?;
        let run = |(offset, length): &(u64, u32)| {
            bytes.get(to_usize(*offset)..to_usize(*offset) + *length as usize)
        };
        let packed: Option<Vec<&[u8]>> = runs.iter().map(run).collect();
        Some(packed?.concat().into())
    }

    fn store(
        &mut self,
        cx: &mut Context<'_>,
        by: NodeId,
        info: suanli_rdpa::RegionInfo,
    ) -> Result<Done, Trouble> {
        let root = info.root;
        let bytes = self.stages.remove(&Stage::Content { by, root }).unwrap_or_default();
        let stored = content_info(&bytes).root == root
            && match cx.disk.put(&format!("content/{root}"), &bytes) {
                Ok(()) => true,
                Err(DiskError::Full) => false,
                Err(error) => return Err(error.into()),
            };
        Ok(Done::Stored { root, info, stored })
    }

    fn settle(&mut self, cx: &mut Context<'_>, settle: &Settle) -> Result<Done, Trouble> {
        let (node, lease) = (settle.node, settle.lease);
        let mut stage = Stage::Lease(lease);
        if let (true, Some((first, _))) = (cx.has(Bug::StagesMixedUp), self.stages.iter().next()) {
            stage = *first;
        }
        let payload = self.stages.get(&stage).cloned().unwrap_or_default();
        let failed = |fault| Done::Settled { node, lease, result: Err(fault) };
        let checked = check_payload(settle.codec, &payload, to_usize(settle.parameters));
        let norm_squared = match checked {
            Ok(norm_squared) => norm_squared,
            Err(_) if cx.has(Bug::PayloadUnchecked) => 1.0,
            Err(_) => return Ok(failed(SettleFault::Payload)),
        };
        let signed = postcard::to_stdvec(&settle.signed).expect("our own types always encode");
        for bytes in [&payload, &signed] {
            let stored = if cx.has(Bug::BlobUnsynced) {
                cx.disk.scribble(&blob_path(Hash::of(bytes)), bytes);
                Ok(())
            } else {
                cx.disk.put(&blob_path(Hash::of(bytes)), bytes)
            };
            match stored {
                Ok(()) => {}
                Err(DiskError::Full) => return Ok(failed(SettleFault::Disk)),
                Err(error) => return Err(error.into()),
            }
        }
        let settled = Settled {
            node,
            contribution: settle.contribution.clone(),
            contribution_blob: Hash::of(&signed),
            payload_blob: Hash::of(&payload),
            norm_squared,
        };
        Ok(Done::Settled { node, lease, result: Ok(Box::new(settled)) })
    }

    fn evaluate(&self, cx: &Context<'_>, job: JobId, theta: Hash) -> Option<f32> {
        let spec = &self.node.state().jobs.get(&job)?.spec;
        let theta = floats_of(cx.disk.read(&blob_path(theta))?);
        let frozen = spec.frozen.as_ref().and_then(|frozen| frozen_model(cx, frozen));
        let mut engine = engine(spec, &frozen.unwrap_or_default()).ok()?;
        engine.write(0, &theta);
        let held_out = cx.disk.read(&format!("content/{}", spec.data.held_out.root))?;
        let sample = spec.data.sample_tokens as usize;
        let mut rows = Rows::default();
        held_out.chunks_exact(sample * 2).for_each(|bytes| rows.push(bytes));
        let loss = engine.evaluate(&rows.batch(sample - 1).into(), &Cancel::new()).ok()?;
        Some(loss.mean() as f32)
    }

    /// How many leases have staged chunks in memory.
    pub(crate) fn staged(&self) -> Vec<LeaseId> {
        let leases = self.stages.keys().filter_map(|stage| match stage {
            Stage::Lease(lease) => Some(*lease),
            Stage::Content { .. } => None,
        });
        leases.collect()
    }
}

/// Why a piece of work did not come about.
enum Trouble {
    Disk(DiskError),
    Broken(String),
}

impl From<DiskError> for Trouble {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

fn blob_path(blob: Hash) -> String {
    format!("blob/{blob}")
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a simulated model fits memory")
}

/// Blobs that no entry names were being written when the process ended.
fn collect_garbage(cx: &mut Context<'_>, kept: &[Hash]) -> Result<(), Stop> {
    for name in cx.disk.list("blob/") {
        let named = name.parse().is_ok_and(|blob: Hash| kept.binary_search(&blob).is_ok());
        if !named {
            cx.disk.remove(&format!("blob/{name}"))?;
        }
    }
    Ok(())
}

fn blob(cx: &Context<'_>, hash: Hash) -> Result<Vec<u8>, Trouble> {
    let missing = || Trouble::Broken(format!("blob {} is gone", hash.short()));
    let bytes = cx.disk.read(&blob_path(hash)).ok_or_else(missing)?;
    if Hash::of(bytes) != hash {
        return Err(Trouble::Broken(format!("blob {} is damaged", hash.short())));
    }
    Ok(bytes.to_vec())
}

fn put_blob(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Hash, Trouble> {
    let hash = Hash::of(bytes);
    if cx.has(Bug::MergeUnsynced) {
        cx.disk.scribble(&blob_path(hash), bytes);
    } else {
        cx.disk.put(&blob_path(hash), bytes)?;
    }
    Ok(hash)
}

fn merge_round(cx: &mut Context<'_>, order: &MergeOrder, spec: &JobSpec) -> Result<Done, Trouble> {
    let mut items = order.items.clone();
    if cx.has(Bug::MergeInAnyOrder) {
        items.sort_by_key(|item| item.payload);
    }
    if cx.has(Bug::CountedTwice) && order.round.0 % 3 == 2 {
        items.extend_from_within(..1);
    }
    let payloads: Vec<Vec<u8>> =
        items.iter().map(|item| blob(cx, item.payload)).collect::<Result<_, _>>()?;
    let parts: Vec<Part<'_>> = (items.iter().zip(&payloads))
        .map(|(item, payload)| Part {
            payload,
            weight: if cx.has(Bug::WeightsIgnored) { 1.0 } else { item.weight },
            clip: if cx.has(Bug::ClipForgotten) { 1.0 } else { item.clip },
        })
        .collect();
    let mut theta = floats_of(&blob(cx, order.state.theta)?);
    let mut momentum = floats_of(&blob(cx, order.state.momentum)?);
    let mut residual = floats_of(&blob(cx, order.state.residual)?);
    if cx.has(Bug::CityResidualDropped) {
        residual.fill(0.0);
    }
    let training = &spec.training;
    let outer =
        Outer { lr: training.outer_lr, momentum: order.outer_momentum, codec: training.codec };
    let state = OuterState { theta: &mut theta, momentum: &mut momentum, residual: &mut residual };
    let update =
        merge(&parts, &outer, state).map_err(|error| Trouble::Broken(error.to_string()))?;
    let blobs = StateBlobs {
        theta: put_blob(cx, &bytes_of(&theta))?,
        momentum: put_blob(cx, &bytes_of(&momentum))?,
        residual: put_blob(cx, &bytes_of(&residual))?,
    };
    Ok(Done::Merged {
        job: order.job,
        round: order.round,
        update: put_blob(cx, &update.bytes)?,
        update_chunks: update.update_chunks,
        theta_chunks: update.theta_chunks,
        state: blobs,
    })
}

fn found(cx: &mut Context<'_>, job: JobId, spec: &JobSpec) -> Result<Done, Trouble> {
    let bytes = cx.disk.read(&format!("content/{}", spec.theta_root)).unwrap_or_default().to_vec();
    let theta = floats_of(&bytes);
    let chunks = hash_chunks(&theta);
    let named = suanli_params::root(&chunks) == spec.theta_root;
    if !named || theta.len() as u64 != spec.parameters {
        let state = Err("the first parameters are damaged".into());
        return Ok(Done::Founded { job, state });
    }
    if spec.frozen.as_ref().is_some_and(|frozen| frozen_model(cx, frozen).is_none()) {
        let state = Err("the frozen model is damaged".into());
        return Ok(Done::Founded { job, state });
    }
    let zeros = bytes_of(&vec![0.0; theta.len()]);
    let zero = put_blob(cx, &zeros)?;
    let blobs = StateBlobs { theta: put_blob(cx, &bytes)?, momentum: zero, residual: zero };
    Ok(Done::Founded { job, state: Ok((blobs, chunks)) })
}

/// The model beside which adapters are trained.
fn frozen_model(cx: &Context<'_>, frozen: &Frozen) -> Option<Vec<f32>> {
    unpacked(frozen, cx.disk.read(&format!("content/{}", frozen.packed_root))?)
}

fn catalogue(
    cx: &Context<'_>,
    job: JobId,
    theta: Hash,
    updates: &[(Round, Hash)],
    codec: Codec,
    parameters: u64,
) -> Done {
    // A round committed meanwhile may have let the oldest go: what is gone is left out.
    let theta_chunks = blob(cx, theta).map(|bytes| hash_chunks(&floats_of(&bytes)));
    let theta_chunks = theta_chunks.unwrap_or_default();
    let parameters = to_usize(parameters);
    let chunk = encoded_len(codec, CHUNK_ELEMENTS.min(parameters));
    let mut hashed = Vec::new();
    for (version, hash) in updates {
        let Ok(bytes) = blob(cx, *hash) else { continue };
        debug_assert_eq!(bytes.len(), payload_len(codec, parameters));
        hashed.push((*version, *hash, bytes.chunks(chunk).map(Hash::of).collect()));
    }
    Done::Catalogued { job, theta_chunks, updates: hashed }
}
