//! Seeded randomness: the same draws for the same seed on every machine. Not for keys.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014), chosen because a draw is a pure function
//! of (seed, counter): order and thread count cannot change it.

/// One round of the SplitMix64 finaliser: a good 64-bit mix of `x`.
#[must_use]
pub const fn mix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of draws from one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// An independent stream named by `label`: what one part draws never shifts another's draws.
    #[must_use]
    pub const fn fork(&self, label: u64) -> Self {
        Self { state: mix64(self.state ^ mix64(label ^ 0xA5A5_5A5A_0F0F_F0F0)) }
    }

    /// 64 uniform bits.
    pub const fn next_u64(&mut self) -> u64 {
        let out = mix64(self.state);
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        out
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// True `per_mille` times in a thousand.
    pub const fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille as u64
    }

    /// Uniform in [0, 1) with 24 bits, exact in f32.
    pub fn unit_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Fills `out` with uniform bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

/// A keyed permutation of `0..len`: the order in which an epoch visits its samples, computed for
/// any position without a table. Four Feistel rounds over the next even power of two, walking the
/// cycle until the value falls inside (Black and Rogaway 2002, "Ciphers with arbitrary finite
/// domains").
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// The permutation of `0..len` under `key`.
    #[must_use]
    pub const fn new(len: u64, key: u64) -> Self {
        let bits = if len <= 1 { 2 } else { 64 - (len - 1).leading_zeros() };
        let half_bits = if bits < 2 { 1 } else { bits.div_ceil(2) };
        Self { len, half_bits, key }
    }

    /// Where position `index` goes.
    ///
    /// # Panics
    /// When `index` is not below the length.
    #[must_use]
    pub const fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "a position inside the permutation");
        let mut value = self.feistel(index);
        while value >= self.len {
            value = self.feistel(value);
        }
        value
    }

    const fn feistel(&self, value: u64) -> u64 {
        let mask = if self.half_bits >= 32 { u32::MAX as u64 } else { (1 << self.half_bits) - 1 };
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        let mut round = 0;
        while round < 4 {
            let mixed = mix64(right ^ self.key.rotate_left(round * 16) ^ ((round as u64) << 56));
            (left, right) = (right, (left ^ mixed) & mask);
            round += 1;
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_draws_and_forks_differ() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        assert_ne!(Random::new(7).fork(1).next_u64(), Random::new(7).fork(2).next_u64());
    }

    #[test]
    fn a_permutation_visits_every_position_once() {
        for len in [1_u64, 2, 3, 5, 16, 17, 1000, 4097] {
            let permutation = Permutation::new(len, 42);
            let mut seen = vec![false; usize::try_from(len).unwrap()];
            for index in 0..len {
                let at = usize::try_from(permutation.at(index)).unwrap();
                assert!(!seen[at], "{at} twice in {len}");
                seen[at] = true;
            }
        }
    }
}
