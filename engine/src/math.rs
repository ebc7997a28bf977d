//! Exponential, logarithm, sine and cosine of our own, from multiply-adds in a fixed order.
//!
//! The system's mathematical library is never asked: its last bits differ between systems. What is
//! used here (addition, multiplication, division, square root, fused multiply-add) is rounded
//! correctly on every machine by IEEE 754. Stated errors are tested against `std` below.

/// `e^x` with a relative error below 3e-7. Below -87.3 it stays at the least normal numbers, above
/// 88.37 at the greatest; not-a-number stays not-a-number. Branchless, so that loops vectorise.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes `expf` (Moshier 1992).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 x 2^23: adding it rounds to an integer in the low bits
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.37 { 88.37 } else { x };
    let shifted = x.mul_add(core::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are n in two's complement: n + 127 is the exponent of 2^n.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    p * power
}

/// `e^x` with a relative error below 1e-15 for `x` from -700 to 700; clamped there.
pub(crate) fn exp64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-700.0, 700.0);
    let n = (x * core::f64::consts::LOG2_E).round();
    let r = n.mul_add(-6.931_471_803_691_238e-1, x);
    let r = n.mul_add(-1.908_214_929_270_587_7e-10, r);
    let mut sum = 1.0;
    for divisor in (1..=14).rev() {
        sum = (sum * r / f64::from(divisor)) + 1.0;
    }
    let power = f64::from_bits(((n as i64 + 1023) as u64) << 52);
    sum * power
}

/// The natural logarithm of a positive normal number, with a relative error below 1e-15 away from
/// 1 (absolute 1e-16 near it); not a number for anything else.
pub(crate) fn ln64(x: f64) -> f64 {
    if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&x) {
        return f64::NAN;
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if m > core::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s, and |s| < 0.1716: eleven terms reach the last bit.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 23.0;
    for divisor in (0..11).rev().map(|i| f64::from(2 * i + 1)) {
        sum = square.mul_add(sum, 1.0 / divisor);
    }
    let e = exponent as f64;
    let low = e.mul_add(1.908_214_929_270_587_7e-10, 2.0 * s * sum);
    e.mul_add(6.931_471_803_691_238e-1, low)
}

/// Sine and cosine of `x`, absolute error below 1e-12 for `|x|` up to 1e6.
pub(crate) fn sin_cos64(x: f64) -> (f64, f64) {
    let n = (x * core::f64::consts::FRAC_2_PI).round();
    let r = n.mul_add(-core::f64::consts::FRAC_PI_2, x);
    let r = n.mul_add(-6.123_233_995_736_766e-17, r);
    let square = r * r;
    let (mut sine, mut cosine) = (1.0, 1.0);
    for i in (1..=9).rev().map(|i| f64::from(2 * i)) {
        sine = 1.0 - sine * square / (i * (i + 1.0));
        cosine = 1.0 - cosine * square / (i * (i - 1.0));
    }
    sine *= r;
    match n as i64 & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

/// `base^exponent` by repeated squaring.
pub(crate) fn power64(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_keeps_its_stated_error_and_its_ends() {
        let mut worst = 0.0_f64;
        for i in 0..2_000_000 {
            let x = -87.0 + i as f32 * (175.0 / 2_000_000.0);
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(f32::INFINITY) > 2e38);
    }

    #[test]
    fn wide_functions_keep_their_stated_errors() {
        let (mut worst_exp, mut worst_ln, mut worst_sin) = (0.0_f64, 0.0_f64, 0.0_f64);
        for i in 1..200_000 {
            let x = f64::from(i) * 0.0035 - 350.0;
            worst_exp = worst_exp.max((exp64(x) - x.exp()).abs() / x.exp());
            let y = f64::from(i) * 0.000_37;
            worst_ln = worst_ln.max((ln64(y) - y.ln()).abs() / y.ln().abs().max(0.1));
            let z = f64::from(i) * 4.99 - 499_000.0;
            let (sine, cosine) = sin_cos64(z);
            worst_sin = worst_sin.max((sine - z.sin()).abs()).max((cosine - z.cos()).abs());
        }
        assert!(worst_exp < 1e-15, "{worst_exp}");
        assert!(worst_ln < 1e-15, "{worst_ln}");
        assert!(worst_sin < 1e-12, "{worst_sin}");
        assert!(ln64(0.0).is_nan() && ln64(-1.0).is_nan() && ln64(f64::NAN).is_nan());
        assert!((power64(0.9, 37) - 0.9_f64.powi(37)).abs() < 1e-15);
    }
}
