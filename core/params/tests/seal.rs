//! Sealing of moments on whatever numbers there are.

use proptest::collection::vec;
use proptest::prelude::*;
use suanli_params::{BLOCK, CHUNK_ELEMENTS, SealError, seal_moments, sealed_len, unseal_moments};

/// Magnitudes from the smallest f32 to `10^high`.
fn magnitude(high: i32) -> impl Strategy<Value = f32> {
    let any = (-45_i32..high, 0.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
    let usual = (-14_i32..0, 0.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
    let edge = prop::sample::select(vec![
        0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        2.0_f32.powi(-60),
        2.0_f32.powi(-61),
        2.0_f32.powi(-120),
        127.0 * 2.0_f32.powi(-60),
    ]);
    prop_oneof![4 => usual, 2 => any, 1 => edge]
}

fn moments() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    let signed = (magnitude(18), any::<bool>()).prop_map(|(x, minus)| if minus { -x } else { x });
    vec((signed, magnitude(36)), 0..200).prop_map(|pairs| pairs.into_iter().unzip())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn sealing_twice_changes_nothing((mut m, mut v) in moments()) {
        let bytes = seal_moments(&mut m, &mut v).unwrap();
        prop_assert_eq!(bytes.len(), sealed_len(m.len()));
        let (mut m2, mut v2) = (vec![f32::NAN; m.len()], vec![f32::NAN; v.len()]);
        unseal_moments(&bytes, &mut m2, &mut v2).unwrap();
        prop_assert_eq!((bits(&m2), bits(&v2)), (bits(&m), bits(&v)));
        prop_assert_eq!(seal_moments(&mut m2, &mut v2).unwrap(), bytes);
        prop_assert_eq!((bits(&m2), bits(&v2)), (bits(&m), bits(&v)));
    }

    #[test]
    fn v_goes_up_by_at_most_a_step_and_never_falls_to_zero((m, v) in moments()) {
        let (mut m2, mut v2) = (m, v.clone());
        seal_moments(&mut m2, &mut v2).unwrap();
        for (v, v2) in v.chunks(BLOCK).zip(v2.chunks(BLOCK)) {
            let largest = v.iter().fold(0.0_f64, |largest, v| largest.max(f64::from(v.sqrt())));
            let step = (largest / 127.0 * (1.0 + 2.0_f64.powi(-15))).max(2.0_f64.powi(-60));
            for (v, v2) in v.iter().zip(v2) {
                prop_assert_eq!(*v == 0.0, *v2 == 0.0);
                let (before, after) = (f64::from(*v).sqrt(), f64::from(*v2).sqrt());
                prop_assert!(after >= before * (1.0 - 1e-7), "{} fell to {}", v, v2);
                prop_assert!(after <= (before + step) * (1.0 + 1e-7), "{} rose to {}", v, v2);
            }
        }
    }

    #[test]
    fn m_moves_by_at_most_half_a_step((m, v) in moments()) {
        let (mut m2, mut v2) = (m.clone(), v);
        seal_moments(&mut m2, &mut v2).unwrap();
        for (m, m2) in m.chunks(BLOCK).zip(m2.chunks(BLOCK)) {
            let largest = m.iter().fold(0.0_f64, |largest, m| largest.max(f64::from(m.abs())));
            let step = (largest / 127.0 * (1.0 + 2.0_f64.powi(-15))).max(2.0_f64.powi(-60));
            for (m, m2) in m.iter().zip(m2) {
                let error = (f64::from(*m) - f64::from(*m2)).abs();
                prop_assert!(error <= step / 2.0 * (1.0 + 1e-6), "{} became {}", m, m2);
            }
        }
    }

    #[test]
    fn bytes_that_are_taken_are_bytes_that_sealing_writes(
        (mut m, mut v) in moments(),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
    ) {
        prop_assume!(!m.is_empty());
        let mut bytes = seal_moments(&mut m, &mut v).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (mut m2, mut v2) = (vec![7.0; m.len()], vec![7.0; v.len()]);
        match unseal_moments(&bytes, &mut m2, &mut v2) {
            Ok(()) => prop_assert_eq!(seal_moments(&mut m2, &mut v2).unwrap(), bytes),
            Err(_) => prop_assert!(m2.iter().chain(&v2).all(|x| *x == 7.0), "touched"),
        }
    }
}

#[test]
fn chunks_sealed_apart_are_the_whole() {
    let len = CHUNK_ELEMENTS + 777;
    let value = |i: usize| ((i * 7919 % 10_007) as f32 - 5000.0) * 1e-7;
    let (mut m, mut v): (Vec<f32>, Vec<f32>) =
        (0..len).map(|i| (value(i), value(i + 1).powi(2))).unzip();
    let (mut m2, mut v2) = (m.clone(), v.clone());
    let whole = seal_moments(&mut m, &mut v).unwrap();
    let mut pieces = Vec::new();
    for (m2, v2) in m2.chunks_mut(CHUNK_ELEMENTS).zip(v2.chunks_mut(CHUNK_ELEMENTS)) {
        pieces.extend(seal_moments(m2, v2).unwrap());
    }
    assert_eq!(whole, pieces);
    assert_eq!((m, v), (m2, v2));
}

#[test]
fn moments_that_no_healthy_training_holds_are_refused_and_left_alone() {
    let refused = |m: f32, v: f32| {
        let (mut ms, mut vs) = (vec![1.0, m], vec![1.0, v]);
        let error = seal_moments(&mut ms, &mut vs).unwrap_err();
        assert_eq!((bits(&ms), bits(&vs)), (bits(&[1.0, m]), bits(&[1.0, v])));
        error
    };
    assert!(matches!(refused(f32::NAN, 1.0), SealError::First(_)));
    assert!(matches!(refused(1.0, f32::INFINITY), SealError::Second(_)));
    assert_eq!(refused(1.0, -1e-9), SealError::Negative { element: 1 });
    assert_eq!(refused(1e19, 1.0), SealError::TooLarge { block: 0 });
    assert_eq!(refused(1.0, f32::MAX), SealError::TooLarge { block: 0 });
    let lengths = seal_moments(&mut [1.0], &mut []);
    assert_eq!(lengths, Err(SealError::Lengths { m: 1, v: 0 }));
    let short = unseal_moments(&[0; 9], &mut [1.0], &mut [1.0]);
    assert_eq!(short, Err(SealError::Length { elements: 1, expected: 10, found: 9 }));
}
