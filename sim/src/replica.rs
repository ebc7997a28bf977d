//! A replica's bulk work: the engine, the parameters it holds, its sealed private state, its data.

use crate::checkers::Packing;
use crate::context::Context;
use crate::job::{Rows, engine, root_of};
use crate::plant::Bug;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use suanli_base::{Hash, JobId, Round, Tokens};
use suanli_bus::merge::{Packed, pack, private_hash};
use suanli_bus::{CONTRIBUTION_FORMAT, Contribution, JobSpec, StateRoot};
use suanli_engine::order::SampleOrder;
use suanli_engine::{Cancel, Engine, StepSettings};
use suanli_log::{LeaseRecord, Private};
use suanli_params::{BYTE_CHUNK, CHUNK_ELEMENTS, apply_update, encoded_len};
use suanli_rdpa::Shape;

/// The sealed state that the next lease may build on, as it lies on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrivateState {
    pub(crate) hash: Hash,
    sealed: Vec<u8>,
    pub(crate) residual: Vec<f32>,
}

/// What is on disk from packing until the city's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PendingFile {
    pub(crate) contribution: Contribution,
    pub(crate) shape: Shape,
    pub(crate) payload: Vec<u8>,
    pub(crate) private: PrivateState,
}

/// A shard of which some chunks are here.
#[derive(Debug, Default)]
struct Shard {
    bytes: Vec<u8>,
    chunks: BTreeMap<u64, ()>,
}

/// The engine of one job and what surrounds it.
pub(crate) struct Replica {
    job: JobId,
    spec: JobSpec,
    engine: Box<dyn Engine>,
    order: SampleOrder,
    shards: BTreeMap<u32, Shard>,
    /// The version held, with its parameters.
    pub(crate) held: Option<(Round, Vec<f32>)>,
    /// The private state the lease under way builds on.
    residual: Vec<f32>,
    before: Option<StateRoot>,
    /// The sealed moments it builds on; empty for fresh ones.
    sealed_before: Vec<u8>,
    order_ignored: bool,
}

impl Replica {
    /// Gets ready for a job.
    pub(crate) fn new(
        cx: &Context<'_>,
        job: JobId,
        spec: JobSpec,
        frozen: &[f32],
    ) -> Result<Self, String> {
        let order_ignored = cx.has(Bug::OrderIgnored);
        let engine = engine(&spec, frozen)?;
        let data = &spec.data;
        let order = SampleOrder::new(data.samples, u64::from(data.group), data.order_seed);
        let order = order.map_err(|error| error.to_string())?;
        let residual = vec![0.0; engine.space().len()];
        Ok(Self {
            job,
            spec,
            engine,
            order,
            shards: BTreeMap::new(),
            held: None,
            residual,
            before: None,
            sealed_before: Vec::new(),
            order_ignored,
        })
    }

    pub(crate) const fn job(&self) -> JobId {
        self.job
    }

    pub(crate) fn tokens_a_step(&self) -> u64 {
        self.spec.tokens_a_step()
    }

    /// Takes whole parameters; their root.
    pub(crate) fn install(&mut self, version: Round, theta: Vec<f32>) -> Option<Hash> {
        if theta.len() as u64 != self.spec.parameters {
            return None;
        }
        let root = root_of(&theta);
        self.held = Some((version, theta));
        Some(root)
    }

    /// Applies the update that leads to `version`; the root of what is there then.
    pub(crate) fn apply(
        &mut self,
        cx: &Context<'_>,
        version: Round,
        update: &[u8],
    ) -> Option<Hash> {
        let codec = self.spec.training.codec;
        let (held, theta) = self.held.as_mut()?;
        if held.next() != version {
            return None;
        }
        apply_update(theta, codec, update).ok()?;
        if cx.has(Bug::UpdateAppliedTwice) {
            apply_update(theta, codec, update).ok()?;
        }
        *held = version;
        Some(root_of(theta))
    }

    /// Keeps a verified chunk of a shard.
    pub(crate) fn keep_shard(&mut self, shard: u32, offset: u64, bytes: &[u8], total: u64) {
        let kept = self.shards.entry(shard).or_default();
        kept.bytes.resize(usize::try_from(total).unwrap_or(0), 0);
        let start = usize::try_from(offset).unwrap_or(0);
        kept.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        kept.chunks.insert(offset / BYTE_CHUNK as u64, ());
    }

    /// Where samples lie.
    pub(crate) fn locate(&self, start: u64, count: u64) -> Vec<(u64, u64)> {
        if self.order_ignored {
            let samples = self.order.samples();
            return (start..start + count).map(|position| (position % samples, 1)).collect();
        }
        let ranges = self.order.ranges(start, count).into_iter();
        ranges.map(|range| (range.start, range.end - range.start)).collect()
    }

    /// Begins a lease: base parameters, and the private state it names.
    pub(crate) fn begin(
        &mut self,
        cx: &Context<'_>,
        record: &LeaseRecord,
        private: Option<&PrivateState>,
    ) -> Result<(), &'static str> {
        let held = self.held.as_ref().filter(|(version, _)| *version == record.base);
        let Some((_, theta)) = held else { return Err("another version is held") };
        if root_of(theta) != record.base_root {
            return Err("the parameters held are not the base");
        }
        self.engine.write(0, theta);
        match (record.private, private) {
            (Private::Fresh, None) => self.fresh(),
            (Private::Fresh, Some(private)) => {
                self.fresh();
                if cx.has(Bug::MomentsNotReset) {
                    self.engine.unseal(&private.sealed).map_err(|_| "the state is damaged")?;
                }
                if cx.has(Bug::LostStateNotReset) {
                    self.residual.clone_from(&private.residual);
                }
            }
            (Private::Sealed(hash), Some(private)) if private.hash == hash => {
                self.residual.clone_from(&private.residual);
                self.engine.unseal(&private.sealed).map_err(|_| "the sealed state is damaged")?;
                self.sealed_before.clone_from(&private.sealed);
            }
            (Private::Sealed(_), _) => return Err("the private state named is not here"),
        }
        self.before = Some(self.state_root());
        Ok(())
    }

    fn fresh(&mut self) {
        self.sealed_before.clear();
        self.engine.reset_moments();
        self.residual.fill(0.0);
    }

    fn state_root(&self) -> StateRoot {
        let hash = self.engine.state_hash();
        StateRoot { root: hash.root, segments: hash.segments }
    }

    /// One step of a lease. False when the data is not here or the engine refuses.
    pub(crate) fn step(&mut self, record: &LeaseRecord, step: u32, lr: f32) -> bool {
        let batch = u64::from(record.batch_sequences);
        let first = record.start + u64::from(step) * batch;
        let mut rows = Rows::default();
        for (start, count) in self.locate(first, batch) {
            for sample in start..start + count {
                let Some(bytes) = self.sample(sample) else { return false };
                rows.push(bytes);
            }
        }
        let t = &self.spec.training;
        let settings = StepSettings {
            lr,
            beta1: t.beta1,
            beta2: t.beta2,
            eps: t.eps,
            weight_decay: t.weight_decay,
            clip: t.clip,
        };
        let length = self.spec.data.sample_tokens as usize - 1;
        self.engine.step(&rows.batch(length).into(), &settings, &Cancel::new()).is_ok()
    }

    fn sample(&self, stored: u64) -> Option<&[u8]> {
        let data = &self.spec.data;
        let width = u64::from(data.sample_tokens) * u64::from(data.token_bytes);
        let mut first = 0;
        for (index, shard) in (0_u32..).zip(&data.shards) {
            if stored < first + shard.samples {
                let (from, to) = ((stored - first) * width, (stored - first + 1) * width);
                let kept = self.shards.get(&index)?;
                let chunk = BYTE_CHUNK as u64;
                let mut touched = from / chunk..to.div_ceil(chunk);
                let here = touched.all(|chunk| kept.chunks.contains_key(&chunk));
                let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
                return kept.bytes.get(at(from)..at(to)).filter(|_| here);
            }
            first += shard.samples;
        }
        None
    }

    /// Packs the steps done on a lease.
    pub(crate) fn pack(
        &mut self,
        cx: &mut Context<'_>,
        record: &LeaseRecord,
        done: u32,
    ) -> Option<PendingFile> {
        let state_before = self.before?;
        let (_, theta) = self.held.as_ref().filter(|(version, _)| *version == record.base)?;
        let mut local = vec![0.0; self.engine.space().len()];
        self.engine.read(0, &mut local);
        let local = local.as_slice();
        let delta: Vec<f32> = theta.iter().zip(local).map(|(base, local)| base - local).collect();
        let residual_before = self.residual.clone();
        let mut residual = residual_before.clone();
        let packed = pack(self.spec.training.codec, theta, local, &mut residual).ok()?;
        if cx.has(Bug::ResidualDropped) {
            residual.fill(0.0);
        }
        let sealed = self.engine.seal();
        let state_after = self.state_root();
        let private_after =
            private_hash(&sealed, self.engine.optimizer_steps(), root_of(&residual));
        let can = self.engine.capabilities();
        let Packed { payload, delta_root, residual_before: before, .. } = &packed;
        let mut salt = [0; 16];
        cx.random.fill(&mut salt);
        let contribution = Contribution {
            format: CONTRIBUTION_FORMAT,
            job: self.job,
            lease: record.lease,
            base_root: record.base_root,
            start: record.start,
            samples: u64::from(done) * u64::from(record.batch_sequences),
            engine_build: can.build.into(),
            numeric_class: can.numeric_class.into(),
            steps: done,
            tokens: Tokens(u64::from(done) * self.tokens_a_step()),
            state_before,
            state_after,
            delta_root: *delta_root,
            residual_before: *before,
            residual_after: root_of(&residual),
            payload_root: packed.payload_root(),
            private_after,
            salt,
        };
        cx.watch.packed(Packing {
            record,
            contribution: &contribution,
            delta: &delta,
            before: &residual_before,
            after: &residual,
            payload,
            sealed_before: &self.sealed_before,
        });
        let private = PrivateState { hash: private_after, sealed, residual };
        let chunk = encoded_len(self.spec.training.codec, CHUNK_ELEMENTS.min(delta.len()));
        let chunk_bytes = u32::try_from(chunk).ok()?;
        let shape = Shape { bytes: packed.payload.len() as u64, chunk_bytes };
        Some(PendingFile { contribution, shape, payload: packed.payload, private })
    }
}
