//! What an engine is asked to do with some sequences: the tokens, the loss, the part of the model.

use core::ops::Range;
use std::borrow::Cow;

use crate::config::ModelConfig;
use crate::math::{exp64, ln64};
use crate::traits::{Loss, StepError};

/// Some sequences of equal length, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// How many sequences.
    pub sequences: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// What the model reads.
    pub inputs: &'a [u32],
    /// What it should say next at each place.
    pub targets: &'a [u32],
    /// What each place counts in the loss; 0 leaves it out.
    pub weights: &'a [f32],
}

impl Batch<'_> {
    /// How many tokens it holds.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.inputs.len()
    }

    /// Checks the batch against the model, so that what follows may index freely.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, config: &ModelConfig) -> Result<(), StepError> {
        let expected = self.sequences.checked_mul(self.length).unwrap_or(0);
        for (what, found) in [
            ("inputs", self.inputs.len()),
            ("targets", self.targets.len()),
            ("weights", self.weights.len()),
        ] {
            if found != expected || expected == 0 {
                return Err(StepError::WrongLength { what, expected, found });
            }
        }
        if self.length > config.context {
            return Err(StepError::TooLong { context: config.context, found: self.length });
        }
        for &id in self.inputs.iter().chain(self.targets) {
            if id as usize >= config.vocab {
                return Err(StepError::UnknownToken { vocab: config.vocab, found: id });
            }
        }
        let bad = |&&weight: &&f32| !(weight.is_finite() && weight >= 0.0);
        if let Some(&found) = self.weights.iter().find(bad) {
            return Err(StepError::BadWeight { found });
        }
        if self.weights.iter().all(|&weight| weight == 0.0) {
            return Err(StepError::NoWeight);
        }
        Ok(())
    }
}

/// Two answers to one question, of which the first was preferred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Log-probability of the preferred answer under the reference model: the weighted sum of
    /// [`crate::Engine::logprobs`] over its sequence.
    pub chosen: f64,
    /// The same for the other answer.
    pub rejected: f64,
    /// What the pair counts.
    pub weight: f32,
}

/// What is made small. Adding one means adding it here, and nowhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective<'a> {
    /// The weighted mean of the nats of each target.
    #[default]
    NextToken,
    /// Direct preference optimisation (Rafailov et al. 2023, equation 7). Sequences come in pairs,
    /// preferred and other; weights say which places belong to the answers.
    Preference {
        /// How far the model may move from the reference: small is far.
        beta: f32,
        /// One for each two sequences.
        pairs: &'a [Pair],
    },
}

/// The stream of a batch where a part of the model begins: rows of `hidden` in, their slope out.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What the part reads: `[tokens, hidden]`.
    pub stream: &'a [f32],
    /// Takes the gradient of that.
    pub slope: &'a mut [f32],
}

/// The stream where a part ends: rows of `hidden` out, their slope in.
#[derive(Debug)]
pub struct Exit<'a> {
    /// Takes what the part gives: `[tokens, hidden]`.
    pub stream: &'a mut [f32],
    /// The gradient of that.
    pub slope: &'a [f32],
}

/// Some consecutive layers. With no entry the part begins with the embedding, with no exit it ends
/// with the loss. Engines of today take the whole only: [`StepError::NotWhole`].
#[derive(Debug)]
pub struct Part<'a> {
    /// Which layers.
    pub layers: Range<usize>,
    /// Where the stream comes in.
    pub entry: Option<Entry<'a>>,
    /// Where it goes out.
    pub exit: Option<Exit<'a>>,
}

/// All that a step works on.
#[derive(Debug)]
pub struct Task<'a> {
    /// The tokens.
    pub batch: Batch<'a>,
    /// What is made small.
    pub objective: Objective<'a>,
    /// Which part of the model; nothing means all of it.
    pub part: Option<Part<'a>>,
}

impl<'a> From<Batch<'a>> for Task<'a> {
    /// The next token, by the whole model.
    fn from(batch: Batch<'a>) -> Self {
        Self { batch, objective: Objective::NextToken, part: None }
    }
}

impl Task<'_> {
    /// Checks the task against the model.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, config: &ModelConfig) -> Result<(), StepError> {
        self.batch.check(config)?;
        if let Some(part) = &self.part
            && (part.layers != (0..config.layers) || part.entry.is_some() || part.exit.is_some())
        {
            let (first, end) = (part.layers.start, part.layers.end);
            return Err(StepError::NotWhole { layers: config.layers, first, end });
        }
        let Objective::Preference { beta, pairs } = self.objective else { return Ok(()) };
        if !(beta > 0.0 && beta.is_finite()) {
            let (field, found) = ("beta", beta);
            return Err(StepError::BadSetting { field, found, min: f32::MIN_POSITIVE, max: 1e6 });
        }
        if 2 * pairs.len() != self.batch.sequences {
            let (expected, found) = (self.batch.sequences / 2, pairs.len());
            return Err(StepError::WrongLength { what: "pairs", expected, found });
        }
        for pair in pairs {
            let good = |value: f64| value.is_finite();
            if !(good(pair.chosen) && good(pair.rejected) && pair.weight >= 0.0) {
                return Err(StepError::BadWeight { found: pair.weight });
            }
        }
        if !pairs.iter().any(|pair| pair.weight > 0.0 && pair.weight.is_finite()) {
            return Err(StepError::NoWeight);
        }
        Ok(())
    }
}

/// The gradient of every objective is that of a sum of nats, each with a factor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factors<'a> {
    /// What each place's nats are multiplied with; may be negative.
    pub(crate) weights: Cow<'a, [f32]>,
    /// What all are divided by.
    pub(crate) total: f64,
    /// The loss, where it is not the weighted mean of the nats.
    pub(crate) loss: Option<Loss>,
}

impl Objective<'_> {
    /// The factors of each place; `nats` gives the nats of every place when the objective asks.
    pub(crate) fn factors<'a, E>(
        &self,
        batch: &Batch<'a>,
        nats: impl FnOnce() -> Result<Vec<f64>, E>,
    ) -> Result<Factors<'a>, E> {
        match *self {
            Self::NextToken => {
                let total = batch.weights.iter().map(|weight| f64::from(*weight)).sum();
                Ok(Factors { weights: Cow::Borrowed(batch.weights), total, loss: None })
            }
            Self::Preference { beta, pairs } => {
                Ok(preference(f64::from(beta), pairs, batch, &nats()?))
            }
        }
    }
}

impl Objective<'_> {
    /// The loss, given the nats of every place.
    pub(crate) fn loss(&self, batch: &Batch<'_>, nats: &[f64]) -> Loss {
        match *self {
            Self::NextToken => {
                let places = nats.iter().zip(batch.weights);
                places.fold(Loss::default(), |total, (nats, weight)| {
                    let weight = f64::from(*weight);
                    total.plus(Loss { sum: *nats * weight, weight })
                })
            }
            Self::Preference { beta, pairs } => {
                preference(f64::from(beta), pairs, batch, nats).loss.unwrap_or_default()
            }
        }
    }
}

fn preference(beta: f64, pairs: &[Pair], batch: &Batch<'_>, nats: &[f64]) -> Factors<'static> {
    let mut weights = batch.weights.to_vec();
    let total: f64 = pairs.iter().map(|pair| f64::from(pair.weight)).sum();
    let said = |sequence: usize| {
        let range = sequence * batch.length..(sequence + 1) * batch.length;
        let places = nats[range.clone()].iter().zip(&batch.weights[range]);
        -places.fold(0.0, |sum, (nats, weight)| sum + *nats * f64::from(*weight))
    };
    let mut loss = Loss { sum: 0.0, weight: total };
    for (index, pair) in pairs.iter().enumerate() {
        let moved = (said(2 * index) - pair.chosen) - (said(2 * index + 1) - pair.rejected);
        let margin = (beta * moved).clamp(-700.0, 700.0);
        // -ln sigmoid(margin), without overflow on either side.
        let nats = ln64(1.0 + exp64(-margin.abs())) + (-margin).max(0.0);
        let weight = f64::from(pair.weight);
        loss.sum += weight * nats;
        let pull = (weight * beta / (1.0 + exp64(margin))) as f32;
        let places = weights[2 * index * batch.length..].chunks_mut(batch.length);
        for (sequence, turn) in places.zip([pull, -pull]) {
            sequence.iter_mut().for_each(|place| *place *= turn);
        }
    }
    Factors { weights: Cow::Owned(weights), total, loss: Some(loss) }
}
