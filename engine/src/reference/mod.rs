//! The plain engine: slow, exact, the judge of the fast one.
//!
//! Generic over the width of its numbers. Its parameters and moments are `f32` like those of every
//! engine; `Reference<f64>` does everything in between in `f64`.

mod float;
mod model;

use suanli_params::Space;

use crate::config::ModelConfig;
use crate::lora::Lora;
use crate::math::{ln64, power64};
use crate::sampling::Reader;
use crate::state::{Moments, State, state_hash};
use crate::task::{Batch, Factors, Task};
use crate::traits::{
    Cancel, Capabilities, Engine, Loss, Sampling, StateHash, StepError, StepReport, StepSettings,
};

pub use float::Float;

use model::Model;

/// A model in plain loops, with its optimiser.
pub struct Reference<T: Float = f32> {
    space: Space,
    model: Model<T>,
    params: Vec<f32>,
    /// The adapters that `params` then are, and the frozen model.
    adapted: Option<(Lora, Vec<f32>)>,
    moments: Moments,
}

impl<T: Float> Reference<T> {
    /// A model of zeros: give it parameters through [`Reference::params_mut`].
    ///
    /// # Errors
    /// Sizes that cannot work.
    pub fn new(config: ModelConfig) -> Result<Self, StepError> {
        config.check()?;
        let space = config.space();
        let len = space.len();
        let (params, moments) = (vec![0.0; len], Moments::new(len));
        Ok(Self { space, model: Model::new(config), params, adapted: None, moments })
    }

    /// A frozen model `base` with adapters, which alone are trained; all zero until given.
    ///
    /// # Errors
    /// Sizes or adapters that cannot work, or a `base` of the wrong length.
    pub fn adapted(config: ModelConfig, lora: &Lora, base: &[f32]) -> Result<Self, StepError> {
        lora.check()?;
        let mut engine = Self::new(config)?;
        let (expected, found) = (engine.params.len(), base.len());
        if expected != found {
            return Err(StepError::WrongLength { what: "frozen parameters", expected, found });
        }
        engine.space = lora.space(&engine.model.config);
        engine.params = vec![0.0; lora.parameters(&engine.model.config)];
        engine.moments = Moments::new(engine.params.len());
        engine.adapted = Some((lora.clone(), base.to_vec()));
        Ok(engine)
    }

    /// The model with what adapters say in it: `W + alpha / rank * B A`, plainly.
    fn whole(&self, params: &[T]) -> Vec<T> {
        let Some((lora, base)) = &self.adapted else { return params.to_vec() };
        let mut model: Vec<T> = base.iter().map(|value| T::of(f64::from(*value))).collect();
        let (rank, scale) = (lora.rank, T::of(f64::from(lora.scale())));
        for slot in lora.slots(&self.model.config).iter().flatten() {
            for o in 0..slot.outputs {
                for i in 0..slot.inputs {
                    let each = (0..rank).map(|r| {
                        params[slot.b + o * rank + r] * params[slot.a + r * slot.inputs + i]
                    });
                    let sum = each.fold(T::ZERO, |sum, term| sum + term);
                    let w = &mut model[slot.weight + o * slot.inputs + i];
                    *w += scale * sum;
                }
            }
        }
        model
    }

    /// The gradients of adapters from those of the whole model: `dB = s dW A^T`, `dA = s B^T dW`.
    fn project(&self, params: &[T], whole: &[T], grads: &mut [T]) {
        let Some((lora, _)) = &self.adapted else {
            return grads.iter_mut().zip(whole).for_each(|(grad, whole)| *grad += *whole);
        };
        let (rank, scale) = (lora.rank, T::of(f64::from(lora.scale())));
        for slot in lora.slots(&self.model.config).iter().flatten() {
            for o in 0..slot.outputs {
                for i in 0..slot.inputs {
                    let dw = whole[slot.weight + o * slot.inputs + i] * scale;
                    for r in 0..rank {
                        let (a, b) = (slot.a + r * slot.inputs + i, slot.b + o * rank + r);
                        grads[b] += dw * params[a];
                        grads[a] += dw * params[b];
                    }
                }
            }
        }
    }

    fn wide_params(&self) -> Vec<T> {
        self.params.iter().map(|value| T::of(f64::from(*value))).collect()
    }

    /// The trainable parameters, one flat buffer in the order of [`Engine::space`].
    #[must_use]
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// The same, to be overwritten.
    pub fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// The loss of `task` under any parameters, and its gradient when asked for.
    ///
    /// # Errors
    /// As for [`Engine::step`].
    pub fn differentiate(
        &self,
        params: &[T],
        task: &Task<'_>,
        grads: Option<&mut [T]>,
        cancel: &Cancel,
    ) -> Result<Loss, StepError> {
        task.check(&self.model.config)?;
        let batch = &task.batch;
        let model = self.whole(params);
        let Some(grads) = grads else {
            let nats = self.nats(&model, batch, None, cancel)?;
            return Ok(task.objective.loss(batch, &nats));
        };
        let factors = task.objective.factors(batch, || self.nats(&model, batch, None, cancel))?;
        let mut whole = vec![T::ZERO; model.len()];
        let nats = self.nats(&model, batch, Some((&factors, &mut whole)), cancel)?;
        self.project(params, &whole, grads);
        Ok(task.objective.loss(batch, &nats))
    }

    /// The nats of every place; with `back` also adds the gradient of their sum by these factors.
    fn nats(
        &self,
        params: &[T],
        batch: &Batch<'_>,
        mut back: Option<(&Factors<'_>, &mut [T])>,
        cancel: &Cancel,
    ) -> Result<Vec<f64>, StepError> {
        let go_on = || !cancel.is_raised();
        let mut nats = Vec::with_capacity(batch.tokens());
        for sequence in 0..batch.sequences {
            let range = sequence * batch.length..(sequence + 1) * batch.length;
            let ids = &batch.inputs[range.clone()];
            let mut trace = self.model.forward(params, ids, &go_on).ok_or(StepError::Cancelled)?;
            let mut logits = core::mem::take(&mut trace.logits);
            let rows = logits.chunks_mut(self.model.config.vocab);
            for ((row, target), place) in rows.zip(&batch.targets[range.clone()]).zip(range) {
                let factor = back
                    .as_ref()
                    .map_or(0.0, |(factors, _)| f64::from(factors.weights[place]) / factors.total);
                nats.push(cross_entropy(row, *target as usize, factor));
            }
            if let Some((_, grads)) = &mut back {
                (self.model.backward(params, ids, &trace, &logits, grads, &go_on))
                    .ok_or(StepError::Cancelled)?;
            }
        }
        Ok(nats)
    }

    fn update(&mut self, grads: &[T], settings: &StepSettings, norm: f64) {
        let s = settings;
        let (beta1, beta2) = (f64::from(s.beta1), f64::from(s.beta2));
        self.moments.steps = self.moments.steps.saturating_add(1);
        let correct1 = T::of(1.0 - power64(beta1, self.moments.steps));
        let correct2 = T::of(1.0 - power64(beta2, self.moments.steps));
        let clip = f64::from(s.clip);
        let clip = T::of(if clip > 0.0 && norm > clip { clip / norm } else { 1.0 });
        let of = |value: f32| T::of(f64::from(value));
        for tensor in self.space.tensors() {
            let decay = if tensor.shape.len() == 2 { s.weight_decay } else { 0.0 };
            let keep = T::ONE - of(s.lr) * of(decay);
            for i in tensor.range() {
                let grad = grads[i] * clip;
                let (m, v) = (of(self.moments.first[i]), of(self.moments.second[i]));
                let m = m * of(s.beta1) + grad * (T::ONE - of(s.beta1));
                let v = v * of(s.beta2) + grad * grad * (T::ONE - of(s.beta2));
                let below = (v / correct2).root() + of(s.eps);
                let next = of(self.params[i]) * keep - of(s.lr) * (m / correct1) / below;
                self.moments.first[i] = m.wide() as f32;
                self.moments.second[i] = v.wide() as f32;
                self.params[i] = next.wide() as f32;
            }
        }
    }
}

/// Nats at one place; the row becomes `factor * (probability - 1 at the target)`.
fn cross_entropy<T: Float>(row: &mut [T], target: usize, factor: f64) -> f64 {
    let greatest = row.iter().fold(row[0], |a, b| if *b > a { *b } else { a });
    let said = row[target];
    let mut sum = T::ZERO;
    for x in row.iter_mut() {
        *x = (*x - greatest).exp();
        sum += *x;
    }
    for x in row.iter_mut() {
        *x = *x / sum * T::of(factor);
    }
    row[target] = row[target] - T::of(factor);
    ln64(sum.wide()) + (greatest - said).wide()
}

impl<T: Float> Engine for Reference<T> {
    fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            numeric_class: T::CLASS,
            kernel: "plain",
            threads: 1,
            build: env!("CARGO_PKG_VERSION"),
        }
    }

    fn read(&self, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.params[at..at + out.len()]);
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        self.params[at..at + values.len()].copy_from_slice(values);
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
        State { params: self.params.clone(), moments: self.moments.clone() }
    }

    fn import(&mut self, state: &State) -> Result<(), StepError> {
        state.check(self.params.len())?;
        self.params.copy_from_slice(&state.params);
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
        cancel.check()?;
        let mut grads = vec![T::ZERO; self.params.len()];
        let params = self.wide_params();
        let loss = self.differentiate(&params, task, Some(&mut grads), cancel)?.mean() as f32;
        let norm = grads.iter().map(|grad| grad.wide() * grad.wide()).sum::<f64>().sqrt();
        let grad_norm = norm as f32;
        if !(loss.is_finite() && norm < crate::state::GRAD_NORM_MAX) {
            return Err(StepError::NotFinite { loss, grad_norm });
        }
        self.update(&grads, settings, norm);
        Ok(StepReport { loss, tokens: task.batch.tokens() as u64, grad_norm })
    }

    fn evaluate(&mut self, task: &Task<'_>, cancel: &Cancel) -> Result<Loss, StepError> {
        let params = self.wide_params();
        self.differentiate(&params, task, None, cancel)
    }

    fn logprobs(&mut self, batch: &Batch<'_>, cancel: &Cancel) -> Result<Vec<f32>, StepError> {
        batch.check(&self.model.config)?;
        let nats = self.nats(&self.whole(&self.wide_params()), batch, None, cancel)?;
        Ok(nats.into_iter().map(|nats| -nats as f32).collect())
    }

    fn gradient(
        &mut self,
        task: &Task<'_>,
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<Loss, StepError> {
        let (expected, found) = (self.params.len(), out.len());
        if expected != found {
            return Err(StepError::WrongLength { what: "gradient", expected, found });
        }
        let mut grads = vec![T::ZERO; found];
        let params = self.wide_params();
        let loss = self.differentiate(&params, task, Some(&mut grads), cancel)?;
        for (out, grad) in out.iter_mut().zip(grads) {
            *out = grad.wide() as f32;
        }
        Ok(loss)
    }

    fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>, StepError> {
        crate::sampling::check_text(ids, &self.model.config)?;
        let params = self.whole(&self.wide_params());
        let trace = self.model.forward(&params, ids, &|| true).ok_or(StepError::Cancelled)?;
        Ok(trace.logits.iter().map(|logit| logit.wide() as f32).collect())
    }

    fn state_hash(&self) -> StateHash {
        state_hash(&self.params, &self.moments)
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        settings: &Sampling,
        seed: u64,
        cancel: &Cancel,
        emit: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), StepError> {
        let config = self.model.config.clone();
        crate::sampling::check_prompt(prompt, settings, &config)?;
        let (params, ids, logits) = (self.whole(&self.wide_params()), Vec::new(), Vec::new());
        let mut reader = Rereader { model: &self.model, params, ids, logits };
        let reader = &mut reader;
        crate::sampling::continue_text(prompt, config.context, settings, seed, cancel, reader, emit)
    }
}

/// No cache: every token reads the whole text again.
struct Rereader<'a, T: Float> {
    model: &'a Model<T>,
    params: Vec<T>,
    ids: Vec<u32>,
    logits: Vec<f32>,
}

impl<T: Float> Reader for Rereader<'_, T> {
    fn read_on(&mut self, ids: &[u32], cancel: &Cancel) -> Result<(), StepError> {
        self.ids.extend(ids);
        let trace = self.model.forward(&self.params, &self.ids, &|| !cancel.is_raised());
        let logits = trace.ok_or(StepError::Cancelled)?.logits;
        let last = logits.len().saturating_sub(self.model.config.vocab);
        self.logits = logits[last..].iter().map(|logit| logit.wide() as f32).collect();
        Ok(())
    }

    fn last_logits(&self) -> &[f32] {
        &self.logits
    }
}
