//! Replays whole leases from public state and the private state opened: same bits, or somebody did
//! not do what was agreed (DESIGN 5.6). Plain code of its own, apart from the engine.

use crate::job::{Rows, TinyJob, engine};
use suanli_bus::merge::private_hash;
use suanli_bus::{Contribution, JobSpec};
use suanli_engine::order::SampleOrder;
use suanli_engine::{Cancel, Engine, StepSettings};
use suanli_log::LeaseRecord;

/// Replays leases of one job.
pub(crate) struct Audit {
    spec: JobSpec,
    /// All stored samples, one after the other.
    stored: Vec<u8>,
    engine: Box<dyn Engine>,
}

impl Audit {
    pub(crate) fn new(job: &TinyJob) -> Option<Self> {
        let shards = job.spec.data.shards.len();
        let stored = job.content[..shards].concat();
        let engine = engine(&job.spec, &job.frozen).ok()?;
        Some(Self { spec: job.spec.clone(), stored, engine })
    }

    /// Trains a lease again; says what differs.
    pub(crate) fn replay(
        &mut self,
        record: &LeaseRecord,
        theta: &[f32],
        sealed: &[u8],
        claimed: &Contribution,
        delta: &[f32],
    ) -> Result<(), &'static str> {
        let engine = &mut self.engine;
        engine.write(0, theta);
        engine.reset_moments();
        if !sealed.is_empty() {
            engine.unseal(sealed).map_err(|_| "the sealed state")?;
        }
        if engine.state_hash().root != claimed.state_before.root {
            return Err("the state before");
        }
        let (t, d) = (&self.spec.training, &self.spec.data);
        let order = SampleOrder::new(d.samples, d.group.into(), d.order_seed);
        let order = order.map_err(|_| "the order")?;
        let width = d.sample_tokens as usize * usize::from(d.token_bytes);
        let mut position = record.start;
        for step in 0..claimed.steps {
            let mut rows = Rows::default();
            for _ in 0..record.batch_sequences {
                let at = usize::try_from(order.stored(position)).unwrap_or(0) * width;
                rows.push(&self.stored[at..at + width]);
                position += 1;
            }
            let gone = record.schedule_tokens_a_step * u64::from(step + 1);
            let settings = StepSettings {
                lr: t.schedule.at(record.schedule_start.0 + gone),
                beta1: t.beta1,
                beta2: t.beta2,
                eps: t.eps,
                weight_decay: t.weight_decay,
                clip: t.clip,
            };
            let batch = rows.batch(d.sample_tokens as usize - 1);
            engine.step(&batch.into(), &settings, &Cancel::new()).map_err(|_| "a step")?;
        }
        let mut local = vec![0.0; theta.len()];
        engine.read(0, &mut local);
        let moved = theta.iter().zip(&local).map(|(base, local)| base - local);
        if !moved.zip(delta).all(|(mine, theirs)| mine.to_bits() == theirs.to_bits()) {
            return Err("the delta");
        }
        let after = engine.seal();
        if engine.state_hash().root != claimed.state_after.root {
            return Err("the state after");
        }
        let private = private_hash(&after, engine.optimizer_steps(), claimed.residual_after);
        if private == claimed.private_after { Ok(()) } else { Err("the private state") }
    }
}
