//! The inner learning rate as a function of committed tokens (DESIGN 5.9), so that a fleet that
//! shrinks or grows keeps its place in the schedule.

use serde::{Deserialize, Serialize};
use suanli_base::Tokens;

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// Warm-up, stable, then a linear decay over the last `decay_share`.
    WarmupStableDecay,
    /// Warm-up, then half a cosine: for comparisons.
    Cosine,
    /// Warm-up, then level.
    Constant,
}

/// Numbers of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its course.
    pub shape: Shape,
    /// The highest rate.
    pub lr: f32,
    /// The last rate as a share of the highest.
    pub min_share: f32,
    /// The share of the whole run over which [`Shape::WarmupStableDecay`] falls at the end.
    pub decay_share: f32,
    /// Committed tokens until the highest rate.
    pub warmup: Tokens,
    /// Committed tokens of the whole run.
    pub total: Tokens,
}

impl Schedule {
    /// Whether the numbers make sense.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (0.0..=10.0).contains(&self.lr)
            && (0.0..=1.0).contains(&self.min_share)
            && (0.0..=1.0).contains(&self.decay_share)
            && self.warmup <= self.total
            && self.total.0 > 0
    }

    /// The rate when `tokens` are committed. Same bits on every machine: only +, -, x and / of f64.
    #[must_use]
    pub fn at(&self, tokens: u64) -> f32 {
        let (at, warm, total) = (tokens as f64, self.warmup.0 as f64, self.total.0 as f64);
        let (lr, low) = (f64::from(self.lr), f64::from(self.min_share));
        if at < warm {
            return (lr * at / warm) as f32;
        }
        let share = if total > warm { ((at - warm) / (total - warm)).min(1.0) } else { 1.0 };
        let factor = match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine => low + (1.0 - low) * 0.5 * (1.0 + cos_pi(share)),
            Shape::WarmupStableDecay => {
                let fall = f64::from(self.decay_share) * total;
                let gone = (at.min(total) - (total - fall)).max(0.0);
                1.0 - (1.0 - low) * if fall > 0.0 { gone / fall } else { 0.0 }
            }
        };
        (lr * factor) as f32
    }

    /// The rates of a lease's steps: the schedule stands at `start` before the first and moves on
    /// by `tokens_a_step` with each, so that a step is rated where it ends.
    #[must_use]
    pub fn rates(&self, start: Tokens, tokens_a_step: u64, steps: u32) -> Vec<f32> {
        let at = |step: u64| start.0.saturating_add(tokens_a_step.saturating_mul(step));
        (1..=u64::from(steps)).map(|step| self.at(at(step))).collect()
    }
}

/// cos(pi x) for x in [0, 1] from multiplications and additions alone: the Taylor series about the
/// nearer of 0 and 1/2, fourteen terms, error below 1e-14. The system's libm differs by machine.
fn cos_pi(x: f64) -> f64 {
    if x > 0.5 {
        return -cos_pi(1.0 - x);
    }
    let angle = core::f64::consts::PI * x;
    let square = angle * angle;
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..15_u32 {
        let k = f64::from(k);
        term = -term * square / ((2.0 * k - 1.0) * (2.0 * k));
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule {
        shape: Shape::Cosine,
        lr: 4e-3,
        min_share: 0.1,
        decay_share: 0.2,
        warmup: Tokens(100),
        total: Tokens(1100),
    };

    #[test]
    fn the_cosine_agrees_with_the_mathematical_one() {
        for i in 0..=1000 {
            let x = f64::from(i) / 1000.0;
            let exact = (core::f64::consts::PI * x).cos();
            assert!((cos_pi(x) - exact).abs() < 1e-13, "{x}");
        }
    }

    #[test]
    fn the_rate_rises_peaks_and_ends_at_its_share() {
        assert_eq!(COSINE.at(0), 0.0);
        assert_eq!(COSINE.at(50), 2e-3);
        assert_eq!(COSINE.at(100), 4e-3);
        assert!((COSINE.at(600) - 2.2e-3).abs() < 1e-9);
        assert!((COSINE.at(5000) - 4e-4).abs() < 1e-9);
    }

    #[test]
    fn warm_up_stable_decay_is_level_until_its_last_fifth() {
        let wsd = Schedule { shape: Shape::WarmupStableDecay, ..COSINE };
        assert_eq!(wsd.at(800), 4e-3);
        assert!((wsd.at(990) - 2.2e-3).abs() < 1e-6);
        assert!((wsd.at(1100) - 4e-4).abs() < 1e-9);
    }

    #[test]
    fn two_halves_of_a_lease_have_the_rates_of_the_whole() {
        let whole = COSINE.rates(Tokens(40), 20, 10);
        let (first, second) = (COSINE.rates(Tokens(40), 20, 4), COSINE.rates(Tokens(120), 20, 6));
        assert_eq!(whole, [first, second].concat());
    }
}
