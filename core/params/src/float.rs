//! 16-bit floats: bf16 and f16 by whole-number operations, so that a loop over them vectorises
//! alike on every machine. Also what block scales are made of.
//!
//! Rounding is to nearest, ties to even; a magnitude above the largest finite one becomes that one
//! (with error feedback the rest stays in the residual). -0 stays -0.

use crate::codec::CodecError;
use crate::tile::RUN;

/// The code of the largest finite f16, 65 504.
pub(crate) const F16_MAX: u32 = 0x7BFF;
/// The code of the largest finite bf16, about 3.39e38.
const BF16_MAX: u32 = 0x7F7F;
const MAGNITUDE: u32 = 0x7FFF_FFFF;
/// What f32's exponent field is ahead of f16's.
const BIAS: u32 = 112 << 23;
/// The smallest normal f16, 2^-14, in f32.
const F16_NORMAL: u32 = 113 << 23;
/// 2^-24, the step of the f16 below the normal ones.
const F16_STEP: f32 = f32::from_bits((127 - 24) << 23);

/// The f16 code nearest to a finite x >= 0; above [`F16_MAX`] when x is too large for f16.
#[inline(always)]
pub(crate) fn f16_code(x: f32) -> u32 {
    let bits = x.to_bits();
    let even = (bits >> 13) & 1;
    let normal = bits.wrapping_sub(BIAS).wrapping_add(0xFFF + even) >> 13;
    // The last place of numbers in 0.5..1 is 2^-24: the addition rounds as f16 does down there.
    let small = (x + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    if bits < F16_NORMAL { small } else { normal }
}

/// The number of an f16 code that is at most [`F16_MAX`]: finite, not negative.
#[inline(always)]
pub(crate) fn f16_value(code: u32) -> f32 {
    let small = code as i32 as f32 * F16_STEP;
    let normal = f32::from_bits((code << 13).wrapping_add(BIAS));
    if code < 0x400 { small } else { normal }
}

/// Which of the two 16-bit floats.
#[derive(Clone, Copy)]
pub(crate) enum Half {
    Bf16,
    F16,
}

impl Half {
    #[inline(always)]
    pub(crate) fn code(self, x: f32) -> u16 {
        let bits = x.to_bits();
        let (sign, magnitude) = ((bits >> 16) & 0x8000, bits & MAGNITUDE);
        let code = match self {
            Self::Bf16 => ((magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16).min(BF16_MAX),
            Self::F16 => f16_code(f32::from_bits(magnitude)).min(F16_MAX),
        };
        (code | sign) as u16
    }

    /// The number of a finite code.
    #[inline(always)]
    pub(crate) fn value(self, code: u16) -> f32 {
        let code = u32::from(code);
        match self {
            Self::Bf16 => f32::from_bits(code << 16),
            Self::F16 => {
                let sign = (code & 0x8000) << 16;
                f32::from_bits(f16_value(code & 0x7FFF).to_bits() | sign)
            }
        }
    }

    fn largest(self) -> u16 {
        (match self {
            Self::Bf16 => BF16_MAX,
            Self::F16 => F16_MAX,
        }) as u16
    }

    /// Writes the codes of `values`.
    #[inline(always)]
    pub(crate) fn encode(self, values: &[f32], out: &mut [u8]) {
        for (bytes, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *bytes = self.code(*value).to_le_bytes();
        }
    }

    /// Decodes bytes that [`Half::validate`] has passed.
    #[inline(always)]
    pub(crate) fn decode(self, bytes: &[u8], values: &mut [f32]) {
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = self.value(u16::from_le_bytes(*bytes));
        }
    }

    /// Writes the codes of a run and leaves in it what they lose.
    #[inline(always)]
    pub(crate) fn encode_run(self, rest: &mut [f32; RUN], out: &mut [u8]) {
        for (bytes, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(rest) {
            let code = self.code(*value);
            *bytes = code.to_le_bytes();
            *value -= self.value(code);
        }
    }

    /// Refuses infinite codes and those that are not numbers.
    #[inline(always)]
    pub(crate) fn validate(self, bytes: &[u8]) -> Result<(), CodecError> {
        let magnitude = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7FFF;
        let codes = bytes.as_chunks::<2>().0;
        if codes.iter().map(magnitude).fold(0, u16::max) <= self.largest() {
            return Ok(());
        }
        let element = codes.iter().position(|code| magnitude(code) > self.largest());
        let element = element.expect("the largest is among them");
        let bits = u16::from_le_bytes(codes[element]).into();
        Err(CodecError::NotFinite { element, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_code_is_worth_what_the_half_crate_says() {
        for code in 0..=u16::MAX {
            if f16::from_bits(code).is_finite() {
                let expected = f16::from_bits(code).to_f32().to_bits();
                assert_eq!(Half::F16.value(code).to_bits(), expected, "{code:#x}");
            }
            if bf16::from_bits(code).is_finite() {
                let expected = bf16::from_bits(code).to_f32().to_bits();
                assert_eq!(Half::Bf16.value(code).to_bits(), expected, "{code:#x}");
            }
        }
    }

    #[test]
    fn numbers_round_as_the_half_crate_rounds_them_but_never_to_infinity() {
        // Every 997th f32, and those round the middle between two codes.
        let all = (0..=u32::MAX / 997).map(|i| i * 997);
        let middles = (0..0x7C00_u32).flat_map(|code| {
            let bits = f16_value(code).to_bits() + 0x1000;
            [bits - 1, bits, bits + 1]
        });
        for bits in all.chain(middles) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                let (f, b) = (f16::from_f32(x), bf16::from_f32(x));
                let f = if f.is_finite() { f } else { f16::MAX.copysign(f) };
                let b = if b.is_finite() { b } else { bf16::MAX.copysign(b) };
                assert_eq!(Half::F16.code(x), f.to_bits(), "{bits:#x}");
                assert_eq!(Half::Bf16.code(x), b.to_bits(), "{bits:#x}");
            }
        }
    }
}
