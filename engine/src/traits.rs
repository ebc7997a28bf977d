//! What every engine offers: a step, an evaluation, state in and out, generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use suanli_base::Hash;
use suanli_params::{SealError, Space};

use crate::config::{ConfigError, ModelConfig};
use crate::fast::KernelError;
use crate::state::State;
use crate::task::{Batch, Task};

/// How many segments a state hash has, so that a difference can be narrowed down.
pub const STATE_SEGMENTS: usize = 16;

/// The numbers of one AdamW step (Loshchilov and Hutter 2019, decay decoupled, matrices only).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Largest norm of the gradient; 0 means any.
    pub clip: f32,
}

impl Default for StepSettings {
    /// The numbers of the measurements of this project: 0.9, 0.95, 1e-8, decay 0.1, clip 1.
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

impl StepSettings {
    /// Checks that every number is one AdamW can work with.
    ///
    /// # Errors
    /// The first number that is not.
    pub fn check(&self) -> Result<(), StepError> {
        let limits = [
            ("lr", self.lr, 0.0, 10.0),
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999),
            ("eps", self.eps, 1e-20, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("clip", self.clip, 0.0, 1e9),
        ];
        for (field, found, min, max) in limits {
            if !(min..=max).contains(&found) {
                return Err(StepError::BadSetting { field, found, min, max });
            }
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Weighted mean loss before the step, in nats a token.
    pub loss: f32,
    /// Tokens read.
    pub tokens: u64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
}

/// A loss over some tokens, in a form that adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of weight times nats.
    pub sum: f64,
    /// Sum of weights.
    pub weight: f64,
}

impl Loss {
    /// Nats a token, weighted; 0 when nothing counted.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, weight: self.weight + other.weight }
    }
}

/// Why an engine did not do what was asked. Its state is as before the call.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The owner or the lease asked to stop: an ordinary event.
    #[error("stopped on request; the state is that of the last complete step")]
    Cancelled,
    /// The sizes of the model cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel asked for is not there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A buffer has another length than the batch or the model says.
    #[error("{what}: expected {expected} elements (at least 1), found {found}")]
    WrongLength {
        /// Which buffer.
        what: &'static str,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A sequence is longer than the model's context.
    #[error("a sequence of {found} tokens does not fit the context of {context}: shorten it")]
    TooLong {
        /// The longest allowed.
        context: usize,
        /// What was given.
        found: usize,
    },
    /// A token id is outside the vocabulary: wrong tokenizer or corrupt data.
    #[error(
        "token {found} is outside the vocabulary of {vocab}: was this data made with another tokenizer?"
    )]
    UnknownToken {
        /// Size of the vocabulary.
        vocab: usize,
        /// The id found.
        found: u32,
    },
    /// A loss weight is negative or not finite.
    #[error("a loss weight is {found}; it must be finite and not negative")]
    BadWeight {
        /// What was given.
        found: f32,
    },
    /// All loss weights are zero: there is nothing to learn from.
    #[error("every loss weight of the batch is 0: leave such a batch out")]
    NoWeight,
    /// A number of the step cannot work.
    #[error("{field} is {found}; it must be a number from {min} to {max}")]
    BadSetting {
        /// Which number.
        field: &'static str,
        /// What it is.
        found: f32,
        /// The least it may be.
        min: f32,
        /// The most it may be.
        max: f32,
    },
    /// The program that computes in the engine's place says that it cannot go on.
    #[error("the program that trains here: {said}")]
    Outside {
        /// What it says.
        said: String,
    },
    /// Only a part of the model was asked for: engines of today take the whole.
    #[error(
        "layers {first} to {end} were asked for alone; this engine works on all {layers} layers at once"
    )]
    NotWhole {
        /// Layers of the model.
        layers: usize,
        /// The first asked for.
        first: usize,
        /// The first not asked for.
        end: usize,
    },
    /// A state of other sizes than the model's.
    #[error("{what} of a state: expected {expected} bytes for this model, found {found}")]
    BadState {
        /// Which part of it.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A moment of a state that no training leaves behind: damaged, or made up.
    #[error(
        "element {element} of the moments of a state is {found}; first moments must be within \
         +-2^60, second ones from 0 to 2^120: take a sound copy"
    )]
    BadMoment {
        /// Which, over the first moments and then the second.
        element: usize,
        /// What it is.
        found: f32,
    },
    /// The loss or the gradient is not finite; the step was not taken.
    #[error(
        "the loss is {loss} and the norm of the gradient {grad_norm}: the step was not taken; lower the learning rate"
    )]
    NotFinite {
        /// The loss found.
        loss: f32,
        /// The norm found.
        grad_norm: f32,
    },
    /// Sealed moments do not fit this model or are damaged.
    #[error(
        "sealed moments of {found} bytes do not fit a model of {parameters} parameters, or are damaged: {reason}"
    )]
    BadSeal {
        /// Parameters of this model.
        parameters: usize,
        /// Bytes given.
        found: usize,
        /// What the decoder saw.
        reason: SealFault,
    },
}

/// What is wrong with sealed moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealFault {
    /// Not even the count of steps fits.
    #[error("the count of steps is missing")]
    NoCount,
    /// The moments do not decode.
    #[error(transparent)]
    Moments(#[from] SealError),
}

/// Stops a step from another thread. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, for the next step.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Err(Cancelled)` when a stop was asked for.
    ///
    /// # Errors
    /// [`StepError::Cancelled`].
    pub fn check(&self) -> Result<(), StepError> {
        if self.is_raised() { Err(StepError::Cancelled) } else { Ok(()) }
    }
}

/// What an engine is. Two engines of one numeric class give the same bits from the same input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The definition of the arithmetic, whatever the instruction set or thread count.
    pub numeric_class: &'static str,
    /// Which instructions carry it out here.
    pub kernel: &'static str,
    /// Threads it works with.
    pub threads: usize,
    /// Version of this program.
    pub build: &'static str,
}

/// The hash of parameters, moments and step count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// Over the segments and the step count.
    pub root: Hash,
    /// Over equal contiguous parts of the buffers.
    pub segments: [Hash; STATE_SEGMENTS],
}

/// How to draw the next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Draws from the most likely tokens that together have this probability; 1 means all.
    pub top_p: f32,
    /// Draws from at most so many of the most likely tokens; 0 means all.
    pub top_k: u32,
    /// Most tokens to make.
    pub tokens_max: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_p: 0.95, top_k: 0, tokens_max: 256 }
    }
}

/// A model with its optimiser: all that the rest of the system sees of it.
///
/// Parameters go in and out by range, so that they may live on a device; [`Engine::space`] says
/// which range has which name.
pub trait Engine: Send {
    /// The sizes.
    fn config(&self) -> &ModelConfig;

    /// The trainable tensors and their places in the flat buffer of parameters.
    fn space(&self) -> &Space;

    /// What this engine is.
    fn capabilities(&self) -> Capabilities;

    /// Copies the parameters from `at` on into `out`.
    ///
    /// # Panics
    /// When they are fewer.
    fn read(&self, at: usize, out: &mut [f32]);

    /// Overwrites the parameters from `at` on.
    ///
    /// # Panics
    /// When they are fewer.
    fn write(&mut self, at: usize, values: &[f32]);

    /// Zero moments, no steps taken.
    fn reset_moments(&mut self);

    /// Optimiser steps since the moments were zero.
    fn optimizer_steps(&self) -> u64;

    /// Rounds the moments in place to their sealed form and returns it: the count of steps (8
    /// bytes, little-endian), then the moments.
    fn seal(&mut self) -> Vec<u8>;

    /// Takes up sealed moments and their count of steps, exactly as [`Engine::seal`] left them.
    ///
    /// # Errors
    /// [`StepError::BadSeal`]; the moments are then zero.
    fn unseal(&mut self, sealed: &[u8]) -> Result<(), StepError>;

    /// Everything that a step depends on, exactly: parameters, moments, count of steps.
    fn export(&self) -> State;

    /// Takes up what [`Engine::export`] gave, here or on another engine of the numeric class.
    ///
    /// # Errors
    /// A state of another model; nothing has changed then.
    fn import(&mut self, state: &State) -> Result<(), StepError>;

    /// The hash of parameters, moments and step count as they are now.
    fn state_hash(&self) -> StateHash;

    /// One step of AdamW on the loss of `task`.
    ///
    /// # Errors
    /// A task or setting that does not fit, a raised `cancel`, or numbers that are not finite;
    /// the state is then that of the last complete step.
    fn step(
        &mut self,
        task: &Task<'_>,
        settings: &StepSettings,
        cancel: &Cancel,
    ) -> Result<StepReport, StepError>;

    /// The step that follows `from`, whatever this engine did before, and the hash of the state
    /// after it: what an auditor compares.
    ///
    /// # Errors
    /// As for [`Engine::import`] and [`Engine::step`].
    fn replay(
        &mut self,
        from: &State,
        task: &Task<'_>,
        settings: &StepSettings,
        cancel: &Cancel,
    ) -> Result<(StepReport, StateHash), StepError> {
        self.import(from)?;
        let report = self.step(task, settings, cancel)?;
        Ok((report, self.state_hash()))
    }

    /// The loss of `task`; nothing is learned.
    ///
    /// # Errors
    /// As for [`Engine::step`].
    fn evaluate(&mut self, task: &Task<'_>, cancel: &Cancel) -> Result<Loss, StepError>;

    /// The log-probability of each target of `batch`, in nats, whatever its weight.
    ///
    /// # Errors
    /// As for [`Engine::step`].
    fn logprobs(&mut self, batch: &Batch<'_>, cancel: &Cancel) -> Result<Vec<f32>, StepError>;

    /// The gradient of the loss of `task`, flat, into `out`; nothing is learned.
    ///
    /// # Errors
    /// As for [`Engine::step`], and an `out` of the wrong length.
    fn gradient(
        &mut self,
        task: &Task<'_>,
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<Loss, StepError>;

    /// The logits at every place of one sequence, row after row.
    ///
    /// # Errors
    /// Ids that do not fit the model.
    fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>, StepError>;

    /// Continues `prompt`, handing each token to `emit` until it says `false`, the context is
    /// full, or `settings.tokens_max` were made. Equal seeds give equal texts.
    ///
    /// # Errors
    /// A prompt that does not fit the model, settings that are no temperature or probability, or a
    /// raised `cancel`, which ends the reading of a long prompt too.
    fn generate(
        &mut self,
        prompt: &[u32],
        settings: &Sampling,
        seed: u64,
        cancel: &Cancel,
        emit: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), StepError>;
}
