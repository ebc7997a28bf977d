//! Rotary angles (Su et al. 2021, in the half-split layout of Hugging Face), stretched or not.

use core::f64::consts::TAU;

use crate::config::{ModelConfig, RopeScaling};
use crate::math::{exp64, ln64, sin_cos64};

/// How fast each pair of a head turns: radians a token, `head_dim / 2` numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    frequencies: Vec<f64>,
}

impl Rotary {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let width = config.head_dim();
        let ln_theta = ln64(f64::from(config.rope_theta));
        let plain = (0..width / 2).map(|i| exp64(-ln_theta * (2 * i) as f64 / width as f64));
        let frequencies = match config.rope_scaling {
            None => plain.collect(),
            Some(scaling) => plain.map(|frequency| stretched(frequency, &scaling)).collect(),
        };
        Self { frequencies }
    }

    /// Pairs of a head.
    pub(crate) fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// Sine and cosine of each pair's angle at `position`.
    pub(crate) fn at(&self, position: usize) -> impl Iterator<Item = (f64, f64)> {
        self.frequencies.iter().map(move |frequency| sin_cos64(position as f64 * frequency))
    }
}

/// A frequency under `scaling`: for Llama 3 the rule of its reference, by wave length in tokens.
fn stretched(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequency / f64::from(factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
            // How many waves the original context held.
            let waves = original_context as f64 * frequency / TAU;
            let keep = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (keep + (1.0 - keep) / f64::from(factor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_keeps_short_waves_divides_long_ones_and_blends_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let config = ModelConfig {
            hidden: 128,
            heads: 1,
            kv_heads: 1,
            rope_theta: 500_000.0,
            rope_scaling: Some(scaling),
            ..ModelConfig::demo()
        };
        let (found, plain) =
            (Rotary::new(&config), Rotary::new(&ModelConfig { rope_scaling: None, ..config }));
        let ratio = |i: usize| plain.frequencies[i] / found.frequencies[i];
        assert_eq!((ratio(0), ratio(20)), (1.0, 1.0));
        assert!((ratio(63) - 8.0).abs() < 1e-12 && (ratio(40) - 8.0).abs() < 1e-12);
        // By the formula in its published reference code, computed by hand: i = 30 has a wave of
        // 2 pi 500000^(60/128) = 2944.5 tokens, so 2.782 waves and a share of 0.594 kept.
        let frequency = 500_000_f64.powf(-60.0 / 128.0);
        let keep = (8192.0 / (TAU / frequency) - 1.0) / 3.0;
        let expected = (1.0 - keep) * frequency / 8.0 + keep * frequency;
        assert!((found.frequencies[30] - expected).abs() < 1e-12 * expected);
        assert!(keep > 0.5 && keep < 0.7, "{keep}");
    }
}
