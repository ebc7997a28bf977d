//! Reading a prompt and drawing what follows, token after token.
//!
//! A draw is defined on whole numbers: the odds of a token against the likeliest, in units of
//! 2^-40. Sums of those are exact in any order, so the cut of `top_p` is found without sorting the
//! vocabulary, and the outcome is that of the definition, which the tests keep.

use suanli_base::Random;

use crate::config::ModelConfig;
use crate::math;
use crate::traits::{Cancel, Sampling, StepError};

/// Most that a temperature may be: beyond, all tokens are equally likely anyway.
const TEMPERATURE_MAX: f32 = 1000.0;
/// Odds of 1 as a whole number. A vocabulary's sum stays below 2^61.
const ONE: f32 = (1_u64 << 40) as f32;
/// Bits of an odds' exponent and first digits: one above those of 1.
const BUCKETS: usize = bucket(1.0) + 1;
/// Room for so many tokens of one bucket; more are seldom, and make room as they come.
const EDGE: usize = 1024;

/// A model that reads a text and then has an opinion of what follows.
pub(crate) trait Reader {
    /// Reads on.
    fn read_on(&mut self, ids: &[u32], cancel: &Cancel) -> Result<(), StepError>;

    /// The logits after the last token.
    fn last_logits(&self) -> &[f32];

    /// The odds of every token against one with the logit `greatest`.
    fn odds(&self, greatest: f32, temperature: f32, out: &mut [f32]) {
        odds(self.last_logits(), greatest, temperature, out);
    }
}

/// Odds from 0 to 1; a logit that is no number has none.
#[inline(always)]
pub(crate) fn odds(logits: &[f32], greatest: f32, temperature: f32, out: &mut [f32]) {
    for (out, logit) in out.iter_mut().zip(logits) {
        let odd = math::exp((logit - greatest) / temperature);
        *out = if odd >= 0.0 { odd } else { 0.0 };
    }
}

/// Checks that a text has tokens, all of the vocabulary, and fits the context.
pub(crate) fn check_text(ids: &[u32], config: &ModelConfig) -> Result<(), StepError> {
    if ids.is_empty() {
        return Err(StepError::WrongLength { what: "prompt", expected: 1, found: 0 });
    }
    if ids.len() > config.context {
        return Err(StepError::TooLong { context: config.context, found: ids.len() });
    }
    match ids.iter().find(|id| **id as usize >= config.vocab) {
        Some(&found) => Err(StepError::UnknownToken { vocab: config.vocab, found }),
        None => Ok(()),
    }
}

/// Checks a prompt and how it is to be continued.
pub(crate) fn check_prompt(
    prompt: &[u32],
    settings: &Sampling,
    config: &ModelConfig,
) -> Result<(), StepError> {
    check_text(prompt, config)?;
    for (field, found, max) in
        [("temperature", settings.temperature, TEMPERATURE_MAX), ("top_p", settings.top_p, 1.0)]
    {
        if !(0.0..=max).contains(&found) {
            return Err(StepError::BadSetting { field, found, min: 0.0, max });
        }
    }
    Ok(())
}

/// Reads the prompt, then draws and reads token after token.
pub(crate) fn continue_text(
    prompt: &[u32],
    context: usize,
    settings: &Sampling,
    seed: u64,
    cancel: &Cancel,
    reader: &mut dyn Reader,
    emit: &mut dyn FnMut(u32) -> bool,
) -> Result<(), StepError> {
    let mut sampler = Sampler::new(settings, seed);
    for made in 0..settings.tokens_max {
        match made {
            0 => reader.read_on(prompt, cancel)?,
            _ => reader.read_on(&[sampler.last], cancel)?,
        }
        let id = sampler.draw(reader);
        if !emit(id) || prompt.len() + made >= context {
            break;
        }
    }
    Ok(())
}

/// Draws, with room that is kept from one token to the next.
pub(crate) struct Sampler {
    settings: Sampling,
    random: Random,
    last: u32,
    odds: Vec<f32>,
    masses: Vec<(u64, usize)>,
    edge: Vec<(f32, u32)>,
}

/// The last that is kept, of all in the order of odds and then ids.
#[derive(Clone, Copy)]
struct Cut {
    odd: f32,
    id: u32,
}

impl Cut {
    fn keeps(self, odd: f32, id: u32) -> bool {
        odd > self.odd || (odd == self.odd && id <= self.id)
    }
}

/// What the odds weigh.
fn mass(odd: f32) -> u64 {
    (odd * ONE) as u64
}

/// Where odds are sorted into: greater ones never lower.
const fn bucket(odd: f32) -> usize {
    (odd.to_bits() >> 20) as usize
}

impl Sampler {
    pub(crate) fn new(settings: &Sampling, seed: u64) -> Self {
        Self {
            settings: *settings,
            random: Random::new(seed).fork(0x6E4),
            last: 0,
            odds: Vec::new(),
            masses: Vec::new(),
            edge: Vec::with_capacity(EDGE),
        }
    }

    /// Draws one id. Temperature 0 takes the greatest logit, the lowest id among equals. Otherwise
    /// the likeliest ids are kept, the lowest first among equals: at most `top_k`, and no more
    /// than together reach `top_p` of all (Holtzman et al. 2020). Of these one is drawn.
    pub(crate) fn draw(&mut self, reader: &dyn Reader) -> u32 {
        let logits = reader.last_logits();
        let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
        let greatest = (0..logits.len()).fold(0, best);
        self.last = greatest as u32;
        let temperature = self.settings.temperature;
        if temperature > 0.0 && logits[greatest].is_finite() {
            self.odds.resize(logits.len(), 0.0);
            reader.odds(logits[greatest], temperature, &mut self.odds);
            let cut = self.cut();
            self.last = self.pick(cut);
        }
        self.last
    }

    fn cut(&mut self) -> Cut {
        let everything = Cut { odd: -1.0, id: 0 };
        let Sampling { top_p, top_k, .. } = self.settings;
        if top_p >= 1.0 && top_k == 0 {
            return everything;
        }
        self.masses.clear();
        self.masses.resize(BUCKETS, (0, 0));
        for odd in &self.odds {
            let sums = &mut self.masses[bucket(*odd)];
            *sums = (sums.0 + mass(*odd), sums.1 + 1);
        }
        let all: u64 = self.masses.iter().map(|sums| sums.0).sum();
        let share = (all as f64 * f64::from(top_p)) as u64;
        let wanted = if top_p >= 1.0 { u64::MAX } else { share };
        let most = if top_k == 0 { usize::MAX } else { top_k as usize };
        let enough = |reached: (u64, usize)| reached.0 >= wanted || reached.1 >= most;
        let mut reached = (0, 0);
        for (at, sums) in self.masses.iter().enumerate().rev().filter(|(_, sums)| sums.1 > 0) {
            let with = (reached.0 + sums.0, reached.1 + sums.1);
            if !enough(with) {
                reached = with;
                continue;
            }
            let ids = self.odds.iter().copied().zip(0..);
            self.edge.clear();
            self.edge.extend(ids.filter(|(odd, _)| bucket(*odd) == at));
            self.edge.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for (odd, id) in &self.edge {
                reached = (reached.0 + mass(*odd), reached.1 + 1);
                if enough(reached) {
                    return Cut { odd: *odd, id: *id };
                }
            }
        }
        everything
    }

    /// Draws from what is kept, in the order of ids.
    fn pick(&mut self, cut: Cut) -> u32 {
        let kept = || self.odds.iter().copied().zip(0..).filter(|(odd, id)| cut.keeps(*odd, *id));
        let mut left = self.random.below(kept().map(|(odd, _)| mass(odd)).sum());
        for (odd, id) in kept() {
            match left.checked_sub(mass(odd)) {
                Some(less) => left = less,
                None => return id,
            }
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Logits that nothing was read for.
    struct Fixed(Vec<f32>);

    impl Reader for Fixed {
        fn read_on(&mut self, _: &[u32], _: &Cancel) -> Result<(), StepError> {
            Ok(())
        }

        fn last_logits(&self) -> &[f32] {
            &self.0
        }
    }

    /// The definition: sort, keep, put back in the order of ids, draw.
    fn plain(logits: &[f32], settings: &Sampling, random: &mut Random) -> u32 {
        let mut greatest = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > logits[greatest] {
                greatest = id;
            }
        }
        if settings.temperature == 0.0 || !logits[greatest].is_finite() {
            return greatest as u32;
        }
        let mut list = vec![0.0; logits.len()];
        odds(logits, logits[greatest], settings.temperature, &mut list);
        let mut list: Vec<(f32, u32)> = list.into_iter().zip(0..).collect();
        list.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let all: u64 = list.iter().map(|(odd, _)| (odd * ONE) as u64).sum();
        let wanted = (all as f64 * f64::from(settings.top_p)) as u64;
        let (mut kept, mut reached) = (0, 0);
        while kept < list.len()
            && (kept == 0 || reached < wanted || settings.top_p >= 1.0)
            && (settings.top_k == 0 || kept < settings.top_k as usize)
        {
            reached += (list[kept].0 * ONE) as u64;
            kept += 1;
        }
        list.truncate(kept);
        list.sort_by_key(|(_, id)| *id);
        let mut left = random.below(reached);
        for (odd, id) in list {
            let mass = (odd * ONE) as u64;
            if left < mass {
                return id;
            }
            left -= mass;
        }
        greatest as u32
    }

    proptest! {
        #[test]
        fn a_draw_is_what_sorting_the_whole_vocabulary_would_draw(
            mut logits in prop::collection::vec(-12.0_f32..12.0, 1..300),
            steps in prop::option::of(1.0_f32..4.0),
            (temperature, top_p, top_k) in (0.0_f32..3.0, 0.0_f32..1.1, 0_u32..40),
            strange in prop::option::of((0_usize..300, 0_usize..3)),
            seed in any::<u64>(),
        ) {
            // Ties, so that the order among equals counts.
            if let Some(steps) = steps {
                logits.iter_mut().for_each(|logit| *logit = (*logit * steps).round() / steps);
            }
            if let Some((at, what)) = strange {
                let at = at % logits.len();
                logits[at] = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY][what];
            }
            let top_p = top_p.min(1.0);
            let settings = Sampling { temperature, top_p, top_k, tokens_max: 1 };
            let mut random = Random::new(seed).fork(0x6E4);
            let mut sampler = Sampler::new(&settings, seed);
            let reader = Fixed(logits);
            for _ in 0..20 {
                let expected = plain(&reader.0, &settings, &mut random);
                prop_assert_eq!(sampler.draw(&reader), expected);
            }
        }
    }

    fn counts(settings: Sampling) -> [u32; 4] {
        let reader = Fixed(vec![1.0, 3.0, 2.0, -5.0]);
        let mut sampler = Sampler::new(&settings, 3);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            seen[sampler.draw(&reader) as usize] += 1;
        }
        seen
    }

    #[test]
    fn temperature_zero_takes_the_greatest_and_top_p_and_top_k_cut_the_tail() {
        let base = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, tokens_max: 1 };
        assert_eq!(counts(Sampling { temperature: 0.0, ..base }), [0, 1000, 0, 0]);
        assert_eq!(counts(Sampling { top_p: 0.5, ..base }), [0, 1000, 0, 0]);
        assert_eq!(counts(Sampling { top_k: 1, ..base }), [0, 1000, 0, 0]);
        for cut in [Sampling { top_p: 0.8, ..base }, Sampling { top_k: 2, ..base }] {
            let cut = counts(cut);
            assert!(cut[0] == 0 && cut[3] == 0 && cut[2] > 200 && cut[1] > 650, "{cut:?}");
        }
        let all = counts(base);
        assert!(all[0] > 50 && all[1] > 600 && all[2] > 180, "{all:?}");
    }
}
