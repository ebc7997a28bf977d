//! The fast engine: the mathematics of [`crate::Reference`] on fixed-order kernels.
//!
//! Every element of a product is one chain of fused multiply-adds over the inner dimension in
//! order, started from the element itself; tiles, vector width, blocks and threads never touch that
//! chain (research: engine, section 10). Row reductions run over 16 virtual lanes and a fixed
//! tree; sums over tokens go in token order. So one numeric class covers every CPU and thread count.
#![allow(unsafe_code, reason = "tasks change disjoint parts of one buffer")]

mod adapter;
mod attention;
mod back;
mod body;
mod buffers;
mod decode;
mod kernel;
#[cfg(test)]
mod kernel_tests;
mod measure;
mod pass;
mod pool;
mod tile;
mod vector;
mod weights;

use suanli_params::{Space, chunk_count, chunk_range, sum_of_squares};

use crate::config::{Activations, ModelConfig, Storage};
use crate::lora::Lora;
use crate::math::power64;
use crate::sampling::Reader;
use crate::state::{GRAD_NORM_MAX, Moments, State, state_hash};
use crate::task::{Batch, Factors, Task};
use crate::traits::{
    Cancel, Capabilities, Engine, Loss, Sampling, StateHash, StepError, StepReport, StepSettings,
};

pub use kernel::{KernelChoice, KernelError};
pub use measure::Matmul;

use adapter::Adapter;
use body::Adam;
use buffers::{Buffers, Way};
use decode::{Decoder, Model};
use kernel::{Kernels, Start};
use pass::{Input, Pass, Plan, groups};
use pool::{Parts, Pool};
use weights::Weights;

/// How to work. Bits depend on the storage alone.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads; 0 means 1.
    pub threads: usize,
    /// Which instructions.
    pub kernel: KernelChoice,
    /// What the way forward keeps.
    pub activations: Activations,
    /// How it and the matrices are held. This alone decides bits.
    pub storage: Storage,
}

impl Default for Settings {
    fn default() -> Self {
        let (kernel, activations) = (KernelChoice::Best, Activations::Kept);
        Self { threads: 1, kernel, activations, storage: Storage::F32 }
    }
}

/// A model on the CPU, with its optimiser.
pub struct Fast {
    space: Space,
    k: Kernels,
    plan: Plan,
    pool: Pool,
    /// The model; frozen when there are adapters.
    params: Vec<f32>,
    adapter: Option<Adapter>,
    grads: Vec<f32>,
    moments: Moments,
    weights: Weights,
    /// The gradient of each token's place in the embedding.
    slopes: Vec<f32>,
    buffers: Buffers,
    decoder: Decoder,
    squares: Vec<f64>,
}

impl Fast {
    /// A model of zeros: give it parameters through [`Fast::params_mut`]. `threads` 0 means 1.
    ///
    /// # Errors
    /// Sizes that cannot work, or a `SUANLI_KERNEL` that this CPU has not.
    pub fn new(config: ModelConfig, threads: usize) -> Result<Self, StepError> {
        Self::with(config, &Settings { threads, ..Settings::default() })
    }

    /// The same with more say.
    ///
    /// # Errors
    /// Sizes that cannot work, or a kernel that this CPU has not.
    pub fn with(config: ModelConfig, settings: &Settings) -> Result<Self, StepError> {
        config.check()?;
        let space = config.space();
        let len = space.len();
        Ok(Self {
            k: Kernels::choose(settings.kernel)?,
            pool: Pool::new(settings.threads.max(1)),
            params: vec![0.0; len],
            adapter: None,
            grads: Vec::new(),
            moments: Moments::new(len),
            weights: Weights::new(&config, settings.storage),
            slopes: Vec::new(),
            buffers: Buffers::default(),
            decoder: Decoder::default(),
            squares: vec![0.0; chunk_count(len)],
            plan: Plan::new(config, settings.activations, settings.storage),
            space,
        })
    }

    /// A frozen model `base` with adapters, which alone are trained; all zero until given.
    ///
    /// # Errors
    /// Sizes or adapters that cannot work, a `base` of the wrong length, or a kernel that this CPU
    /// has not.
    pub fn adapted(
        config: ModelConfig,
        lora: &Lora,
        base: &[f32],
        settings: &Settings,
    ) -> Result<Self, StepError> {
        lora.check()?;
        let mut engine = Self::with(config, settings)?;
        let (expected, found) = (engine.params.len(), base.len());
        if expected != found {
            return Err(StepError::WrongLength { what: "frozen parameters", expected, found });
        }
        engine.params.copy_from_slice(base);
        let adapter = Adapter::new(lora, &engine.plan.config);
        engine.space = lora.space(&engine.plan.config);
        engine.moments = Moments::new(adapter.params.len());
        engine.squares = vec![0.0; chunk_count(adapter.params.len())];
        engine.adapter = Some(adapter);
        Ok(engine)
    }

    /// The trainable parameters, one flat buffer in the order of [`Engine::space`].
    #[must_use]
    pub fn params(&self) -> &[f32] {
        self.adapter.as_ref().map_or(&self.params, |adapter| &adapter.params)
    }

    /// The same, to be overwritten.
    pub fn params_mut(&mut self) -> &mut [f32] {
        match &mut self.adapter {
            Some(adapter) => {
                adapter.spoil();
                &mut adapter.params
            }
            None => {
                self.weights.spoil();
                &mut self.params
            }
        }
    }

    /// The whole model's parameters with what adapters say merged in.
    #[must_use]
    pub fn merged(&self) -> Vec<f32> {
        let mut model = self.params.clone();
        if let Some(adapter) = &self.adapter {
            adapter.lora.merge(&self.plan.config, &adapter.params, &mut model);
        }
        model
    }

    /// Packs the matrices with what adapters say merged in, for generation.
    fn pack_merged(&mut self) -> Result<(), StepError> {
        if self.adapter.is_none() {
            return self.pack(&Cancel::new());
        }
        let merged = self.merged();
        self.weights.spoil();
        let packed = self.weights.pack(&merged, &mut self.pool, &Cancel::new());
        // The next batch needs the matrices as they are.
        self.weights.spoil();
        packed
    }

    /// Packs whatever the way forward needs and is not fresh.
    fn pack(&mut self, cancel: &Cancel) -> Result<(), StepError> {
        if let Some(adapter) = &mut self.adapter {
            adapter.pack(&mut self.pool);
        }
        self.weights.pack(&self.params, &mut self.pool, cancel)
    }

    /// Begins a new text: what [`Reader::read_on`] then reads goes on from nothing.
    fn begin(&mut self) -> Result<(), StepError> {
        self.pack_merged()?;
        self.decoder.start();
        Ok(())
    }

    /// Loss and gradient of `task` into `self.grads`.
    fn differentiate(&mut self, task: &Task<'_>, cancel: &Cancel) -> Result<Loss, StepError> {
        task.check(&self.plan.config)?;
        cancel.check()?;
        let Factors { weights: factors, total, loss: own } =
            task.objective.factors(&task.batch, || self.nats(&task.batch, cancel))?;
        let batch = Batch { weights: &factors, ..task.batch };
        if self.grads.is_empty() {
            self.grads = vec![0.0; self.params().len()];
        }
        self.pack(cancel)?;
        self.plan.reach(batch.length);
        let slopes = batch.tokens() * self.plan.config.hidden;
        if self.slopes.len() < slopes {
            self.slopes.resize(slopes, 0.0);
        }
        let Self { k, plan, weights, params, adapter, pool, buffers, grads, .. } = self;
        let adapter = adapter.as_ref().map(Adapter::view);
        let mut loss = Loss::default();
        for (first, batch) in groups(&batch, pool.threads()) {
            let start = if first == 0 { Start::Zero } else { Start::Here };
            let places = plan.config.hidden * first..plan.config.hidden * (first + batch.tokens());
            let (k, weight) = (*k, total);
            let input = Input { k, plan, weights, params, adapter, batch, weight, start, cancel };
            let pass = Pass::new(input, buffers, pool.threads(), Way::AndBack);
            pass.forward(pool)?;
            loss = pass.head(pool, loss, Some(grads))?;
            pass.backward(pool, grads, &mut self.slopes[places])?;
        }
        cancel.check()?;
        if adapter.is_none() {
            back::embedding_grads(k, &plan.config, batch.inputs, &self.slopes, grads, pool);
        }
        Ok(own.unwrap_or(loss))
    }

    /// The nats of every place of a batch.
    fn nats(&mut self, batch: &Batch<'_>, cancel: &Cancel) -> Result<Vec<f64>, StepError> {
        self.pack(cancel)?;
        self.plan.reach(batch.length);
        let Self { k, plan, weights, params, adapter, pool, buffers, .. } = self;
        let adapter = adapter.as_ref().map(Adapter::view);
        let mut nats = Vec::with_capacity(batch.tokens());
        for (_, batch) in groups(batch, pool.threads()) {
            let (weight, start) = (1.0, Start::Zero);
            let k = *k;
            let input = Input { k, plan, weights, params, adapter, batch, weight, start, cancel };
            let pass = Pass::new(input, buffers, pool.threads(), Way::Forward);
            pass.forward(pool)?;
            pass.head(pool, Loss::default(), None)?;
            nats.extend(pass.nats().iter().map(|nats| f64::from(*nats)));
        }
        Ok(nats)
    }

    fn grad_norm(&mut self) -> f64 {
        let (grads, squares) = (&self.grads, Parts::new(&mut self.squares));
        self.pool.run(chunk_count(grads.len()), &|_, index| {
            let sum = sum_of_squares(&grads[chunk_range(grads.len(), index)]);
            // SAFETY: each task has its own element.
            let square = unsafe { squares.part(index..index + 1) };
            square[0] = sum;
        });
        self.squares.iter().fold(0.0, |sum, square| sum + square).sqrt()
    }

    fn update(&mut self, settings: &StepSettings, grad_norm: f64) {
        let steps = self.moments.steps.saturating_add(1);
        let clip = f64::from(settings.clip);
        let adam = Adam {
            clip: if clip > 0.0 && grad_norm > clip { (clip / grad_norm) as f32 } else { 1.0 },
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            keep: 1.0,
            rate: (f64::from(settings.lr) / (1.0 - power64(f64::from(settings.beta1), steps)))
                as f32,
            lift: (1.0 / (1.0 - power64(f64::from(settings.beta2), steps)).sqrt()) as f32,
        };
        let keep = (1.0 - f64::from(settings.lr) * f64::from(settings.weight_decay)) as f32;
        let (k, grads, space) = (self.k, &self.grads, &self.space);
        let len = grads.len();
        let params = self.adapter.as_mut().map_or(&mut self.params, |adapter| &mut adapter.params);
        let buffers = [
            Parts::new(params),
            Parts::new(&mut self.moments.first),
            Parts::new(&mut self.moments.second),
        ];
        self.pool.run(chunk_count(len), &|_, index| {
            let chunk = chunk_range(len, index);
            let tensors = space.tensors();
            let first = tensors.partition_point(|tensor| tensor.range().end <= chunk.start);
            for tensor in tensors[first..].iter().take_while(|tensor| tensor.offset < chunk.end) {
                let range = tensor.offset.max(chunk.start)..tensor.range().end.min(chunk.end);
                let adam = Adam { keep: if tensor.shape.len() == 2 { keep } else { 1.0 }, ..adam };
                // SAFETY: each task has its own chunk.
                let part = |buffer: Parts<f32>| unsafe { buffer.part(range.clone()) };
                let [params, first, second] = buffers.map(part);
                k.adam(&adam, params, &grads[range], first, second);
            }
        });
        self.moments.steps = steps;
        match &mut self.adapter {
            Some(adapter) => adapter.spoil(),
            None => self.weights.spoil(),
        }
    }
}

impl Engine for Fast {
    fn config(&self) -> &ModelConfig {
        &self.plan.config
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            numeric_class: self.plan.storage.numeric_class(),
            kernel: self.k.name(),
            threads: self.pool.threads(),
            build: env!("CARGO_PKG_VERSION"),
        }
    }

    fn read(&self, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.params()[at..at + out.len()]);
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        self.params_mut()[at..at + values.len()].copy_from_slice(values);
    }

    fn reset_moments(&mut self) {
        self.moments.reset();
    }

    fn optimizer_steps(&self) -> u64 {
        self.moments.steps
    }

    fn seal(&mut self) -> Vec<u8> {
        self.moments.seal()
    }

    fn unseal(&mut self, sealed: &[u8]) -> Result<(), StepError> {
        self.moments.unseal(sealed)
    }

    fn export(&self) -> State {
        State { params: self.params().to_vec(), moments: self.moments.clone() }
    }

    fn import(&mut self, state: &State) -> Result<(), StepError> {
        state.check(self.params().len())?;
        self.params_mut().copy_from_slice(&state.params);
        self.moments.clone_from(&state.moments);
        Ok(())
    }

    fn step(
        &mut self,
        task: &Task<'_>,
        settings: &StepSettings,
        cancel: &Cancel,
    ) -> Result<StepReport, StepError> {
        settings.check()?;
        let loss = self.differentiate(task, cancel)?.mean() as f32;
        let norm = self.grad_norm();
        let grad_norm = norm as f32;
        if !(loss.is_finite() && norm < GRAD_NORM_MAX) {
            return Err(StepError::NotFinite { loss, grad_norm });
        }
        cancel.check()?;
        self.update(settings, norm);
        Ok(StepReport { loss, tokens: task.batch.tokens() as u64, grad_norm })
    }

    fn evaluate(&mut self, task: &Task<'_>, cancel: &Cancel) -> Result<Loss, StepError> {
        task.check(&self.plan.config)?;
        let nats = self.nats(&task.batch, cancel)?;
        Ok(task.objective.loss(&task.batch, &nats))
    }

    fn logprobs(&mut self, batch: &Batch<'_>, cancel: &Cancel) -> Result<Vec<f32>, StepError> {
        batch.check(&self.plan.config)?;
        Ok(self.nats(batch, cancel)?.into_iter().map(|nats| -nats as f32).collect())
    }

    fn gradient(
        &mut self,
        task: &Task<'_>,
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<Loss, StepError> {
        let (expected, found) = (self.params().len(), out.len());
        if expected != found {
            return Err(StepError::WrongLength { what: "gradient", expected, found });
        }
        let loss = self.differentiate(task, cancel)?;
        out.copy_from_slice(&self.grads);
        Ok(loss)
    }

    fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>, StepError> {
        let weights = vec![1.0; ids.len()];
        let batch =
            Batch { sequences: 1, length: ids.len(), inputs: ids, targets: ids, weights: &weights };
        batch.check(&self.plan.config)?;
        let cancel = Cancel::new();
        self.pack(&cancel)?;
        self.plan.reach(ids.len());
        let mut out = vec![0.0; ids.len() * self.plan.config.vocab];
        let Self { k, plan, weights, params, adapter, .. } = self;
        let adapter = adapter.as_ref().map(Adapter::view);
        let (weight, start, cancel) = (1.0, Start::Zero, &cancel);
        let k = *k;
        let input = Input { k, plan, weights, params, adapter, batch, weight, start, cancel };
        let pass = Pass::new(input, &mut self.buffers, self.pool.threads(), Way::Forward);
        pass.forward(&mut self.pool)?;
        pass.logits(&mut self.pool, &mut out)?;
        Ok(out)
    }

    fn state_hash(&self) -> StateHash {
        state_hash(self.params(), &self.moments)
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        settings: &Sampling,
        seed: u64,
        cancel: &Cancel,
        emit: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), StepError> {
        crate::sampling::check_prompt(prompt, settings, &self.plan.config)?;
        self.begin()?;
        let context = self.plan.config.context;
        crate::sampling::continue_text(prompt, context, settings, seed, cancel, self, emit)
    }
}

impl Reader for Fast {
    fn read_on(&mut self, ids: &[u32], cancel: &Cancel) -> Result<(), StepError> {
        self.plan.reach(self.decoder.reach(&self.plan, ids.len()));
        let Self { k, plan, pool, params, weights, decoder, .. } = self;
        decoder.read(&mut Model { k: *k, plan, weights, params, pool }, ids, cancel)
    }

    fn last_logits(&self) -> &[f32] {
        self.decoder.logits()
    }

    fn odds(&self, greatest: f32, temperature: f32, out: &mut [f32]) {
        self.k.odds(self.decoder.logits(), greatest, temperature, out);
    }
}
