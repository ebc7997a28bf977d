//! Drawing the next token from logits.

use suanli_base::Random;

use crate::config::ModelConfig;
use crate::math;
use crate::traits::{Sampling, StepError};

/// Checks that `prompt` has tokens, all of the vocabulary, and leaves room in the context.
pub(crate) fn check_prompt(prompt: &[u32], config: &ModelConfig) -> Result<(), StepError> {
    if prompt.is_empty() {
        return Err(StepError::WrongLength { what: "prompt", expected: 1, found: 0 });
    }
    if prompt.len() > config.context {
        return Err(StepError::TooLong { context: config.context, found: prompt.len() });
    }
    match prompt.iter().find(|id| **id as usize >= config.vocab) {
        Some(&found) => Err(StepError::UnknownToken { vocab: config.vocab, found }),
        None => Ok(()),
    }
}

/// Feeds the prompt, then draws and feeds token after token; `feed` returns the logits after one.
pub(crate) fn continue_text(
    prompt: &[u32],
    context: usize,
    settings: &Sampling,
    seed: u64,
    feed: &mut dyn FnMut(u32) -> Vec<f32>,
    emit: &mut dyn FnMut(u32) -> bool,
) {
    let mut random = Random::new(seed).fork(0x6E4);
    let mut logits = Vec::new();
    prompt.iter().for_each(|id| logits = feed(*id));
    for made in 0..settings.tokens_max {
        let id = draw(&logits, settings, &mut random);
        if !emit(id) || prompt.len() + made >= context {
            return;
        }
        logits = feed(id);
    }
}

/// Draws one id. Temperature 0 takes the greatest logit, the lowest id among equals. With `top_p`
/// below 1 only the most likely ids that together reach it are drawn from (Holtzman et al. 2020).
pub(crate) fn draw(logits: &[f32], settings: &Sampling, random: &mut Random) -> u32 {
    let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
    let greatest = (0..logits.len()).fold(0, best);
    if !(settings.temperature > 0.0 && logits[greatest].is_finite()) {
        return greatest as u32;
    }
    let mut odds: Vec<(f32, u32)> = logits
        .iter()
        .zip(0..)
        .map(|(logit, id)| (math::exp((logit - logits[greatest]) / settings.temperature), id))
        .collect();
    odds.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let all: f64 = odds.iter().map(|(odd, _)| f64::from(*odd)).sum();
    let wanted = all * f64::from(settings.top_p.clamp(0.0, 1.0));
    let (mut kept, mut mass) = (0, 0.0);
    while kept < odds.len() && (kept == 0 || mass < wanted) {
        mass += f64::from(odds[kept].0);
        kept += 1;
    }
    let mut left = f64::from(random.unit_f32()) * mass;
    for (odd, id) in &odds[..kept] {
        left -= f64::from(*odd);
        if left < 0.0 {
            return *id;
        }
    }
    odds[kept - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(settings: Sampling) -> [u32; 4] {
        let logits = [1.0, 3.0, 2.0, -5.0];
        let mut random = Random::new(3);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            seen[draw(&logits, &settings, &mut random) as usize] += 1;
        }
        seen
    }

    #[test]
    fn temperature_zero_takes_the_greatest_and_top_p_cuts_the_tail() {
        let base = Sampling { temperature: 1.0, top_p: 1.0, tokens_max: 1 };
        assert_eq!(counts(Sampling { temperature: 0.0, ..base }), [0, 1000, 0, 0]);
        assert_eq!(counts(Sampling { top_p: 0.5, ..base }), [0, 1000, 0, 0]);
        let cut = counts(Sampling { top_p: 0.8, ..base });
        assert!(cut[0] == 0 && cut[3] == 0 && cut[2] > 200 && cut[1] > 650, "{cut:?}");
        let all = counts(base);
        assert!(all[0] > 50 && all[1] > 600 && all[2] > 180, "{all:?}");
    }
}
