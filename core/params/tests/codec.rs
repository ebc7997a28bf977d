//! Codecs, feedback and updates on whatever numbers there are.

use half::f16;
use proptest::collection::vec;
use proptest::prelude::*;
use suanli_params::{
    BLOCK, CHUNK_ELEMENTS, Codec, CodecError, FeedbackError, INT4_LARGEST, UpdateError, accumulate,
    apply_update, chunk_count, chunk_range, decode, encode, encode_with_feedback, encoded_len,
    validate,
};

/// Every codec of fixed length.
const ALL: [Codec; 6] =
    [Codec::F32, Codec::Int4, Codec::Bf16, Codec::F16, Codec::Int8, Codec::TopK];

/// Finite numbers of all magnitudes, most of them where training lives, some of them special.
fn number() -> impl Strategy<Value = f32> {
    let magnitude = (-45_i32..38, -1.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
    let usual = (-9_i32..0, -1.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
    let edge = prop::sample::select(vec![
        0.0,
        -0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
        INT4_LARGEST,
        -INT4_LARGEST,
        2.0_f32.powi(-25),
        2.0_f32.powi(-24) * 7.0,
    ]);
    prop_oneof![6 => usual, 2 => magnitude, 1 => edge, 1 => Just(0.0)]
}

fn encoded(codec: Codec, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(codec, values, &mut bytes).expect("finite numbers");
    bytes
}

fn decoded(codec: Codec, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; elements];
    decode(codec, bytes, &mut values).expect("our own bytes");
    values
}

/// The scale that the format asks for, found by trying all there are.
fn smallest_scale(largest: f32) -> f32 {
    let scales = (0..=f16::MAX.to_bits()).map(|bits| f16::from_bits(bits).to_f32());
    scales.into_iter().find(|s| f64::from(*s) * 7.0 >= f64::from(largest)).unwrap_or(65_504.0)
}

proptest! {
    #[test]
    fn int4_is_within_half_a_scale_of_every_element(values in vec(number(), 0..200)) {
        let bytes = encoded(Codec::Int4, &values);
        prop_assert_eq!(bytes.len(), encoded_len(Codec::Int4, values.len()));
        let back = decoded(Codec::Int4, &bytes, values.len());
        for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            let largest = block.iter().fold(0.0_f32, |largest, a| largest.max(a.abs()));
            let half = f64::from(smallest_scale(largest)) / 2.0;
            for (a, b) in block.iter().zip(back) {
                let inside = a.clamp(-INT4_LARGEST, INT4_LARGEST);
                let error = (f64::from(inside) - f64::from(*b)).abs();
                // The quotient is rounded once before it is rounded to an integer.
                prop_assert!(error <= half * (1.0 + 1e-6), "{} became {}, scale / 2 {}", a, b, half);
            }
        }
    }

    #[test]
    fn f32_comes_back_to_the_bit(values in vec(number(), 0..200)) {
        let back = decoded(Codec::F32, &encoded(Codec::F32, &values), values.len());
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&back), bits(&values));
    }

    #[test]
    fn what_was_sent_and_the_residual_are_the_sum_of_the_steps(
        rounds in vec(vec(-1e3_f32..1e3, 100), 1..12),
        codec in prop::sample::select(ALL.to_vec()),
    ) {
        let mut residual = vec![0.0_f32; 100];
        let (mut sent, mut steps, mut bound) = (vec![0.0_f64; 100], vec![0.0; 100], vec![0.0; 100]);
        for delta in &rounds {
            for i in 0..100 {
                steps[i] += f64::from(delta[i]);
                // Half a last place of the one rounded addition.
                bound[i] += f64::from((residual[i] + delta[i]).abs()) * 2.0_f64.powi(-24) + 1e-45;
            }
            let mut bytes = Vec::new();
            encode_with_feedback(codec, delta, &mut residual, &mut bytes).unwrap();
            let now = decoded(codec, &bytes, 100);
            (0..100).for_each(|i| sent[i] += f64::from(now[i]));
        }
        for i in 0..100 {
            let error = (sent[i] + f64::from(residual[i]) - steps[i]).abs();
            prop_assert!(error <= bound[i] + 1e-9, "element {}: off by {}", i, error);
        }
    }

    #[test]
    fn the_residual_is_exactly_what_the_codec_lost(
        values in vec(-1e5_f32..1e5, 1..130),
        codec in prop::sample::select(vec![Codec::Int4, Codec::Int8, Codec::Bf16]),
    ) {
        let mut residual = vec![0.0; values.len()];
        let mut bytes = Vec::new();
        encode_with_feedback(codec, &values, &mut residual, &mut bytes).unwrap();
        prop_assert_eq!(&bytes, &encoded(codec, &values));
        let sent = decoded(codec, &bytes, values.len());
        for i in 0..values.len() {
            let exact = f64::from(values[i]) - f64::from(sent[i]);
            prop_assert_eq!(f64::from(residual[i]), exact);
        }
    }

    #[test]
    fn of_a_block_the_largest_travel_and_the_rest_stays(values in vec(number(), 1..300)) {
        let (mut residual, mut bytes) = (vec![0.0; values.len()], Vec::new());
        encode_with_feedback(Codec::TopK, &values, &mut residual, &mut bytes).unwrap();
        let sent = decoded(Codec::TopK, &bytes, values.len());
        let kept = values.len().div_ceil(64);
        prop_assert!(sent.iter().filter(|x| **x != 0.0).count() <= kept);
        let mut order: Vec<usize> = (0..values.len()).collect();
        // Stable: of equal magnitudes the earlier one goes.
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
        for at in &order[kept..] {
            prop_assert_eq!((sent[*at], residual[*at]), (0.0, values[*at]));
        }
        for at in &order[..kept] {
            prop_assert!(sent[*at] == 0.0 || sent[*at].signum() == values[*at].signum());
            // One subtraction, rounded once.
            let rest = (f64::from(values[*at]) - f64::from(sent[*at])) as f32;
            prop_assert_eq!(residual[*at], rest);
        }
        let mut levels: Vec<u32> = sent.iter().map(|x| x.abs().to_bits()).collect();
        levels.sort_unstable();
        levels.dedup();
        prop_assert!(levels.len() <= 3, "{levels:?}");
    }

    #[test]
    fn bytes_of_a_stranger_decode_to_finite_numbers_or_not_at_all(
        bytes in vec(any::<u8>(), 0..140),
        elements in 0_usize..140,
    ) {
        for codec in ALL {
            let mut values = vec![42.0_f32; elements];
            match decode(codec, &bytes, &mut values) {
                Ok(()) => {
                    prop_assert!(values.iter().all(|x| x.is_finite()));
                    prop_assert_eq!(bytes.len(), encoded_len(codec, elements));
                }
                Err(_) => prop_assert!(values.iter().all(|x| *x == 42.0), "touched"),
            }
        }
    }

    #[test]
    fn int4_takes_one_block_in_one_form_only(
        values in vec(-1.0_f32..1.0, 1..65),
        at in any::<prop::sample::Index>(),
        change in 1_u8..=255,
    ) {
        let good = encoded(Codec::Int4, &values);
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let mut back = vec![0.0; values.len()];
        if decode(Codec::Int4, &bytes, &mut back).is_ok() {
            prop_assert_ne!(back, decoded(Codec::Int4, &good, values.len()));
        }
    }
}

#[test]
fn chunks_done_apart_are_the_whole() {
    let len = 2 * CHUNK_ELEMENTS + 1001;
    let value = |i: usize| ((i * 7919 % 10_007) as f32 - 5000.0) * 1e-6;
    let delta: Vec<f32> = (0..len).map(value).collect();
    let start: Vec<f32> = (0..len).map(|i| value(i + 3) * 0.1).collect();
    for codec in ALL {
        let (mut whole, mut residual) = (Vec::new(), start.clone());
        encode_with_feedback(codec, &delta, &mut residual, &mut whole).unwrap();
        let mut theta = start.clone();
        apply_update(&mut theta, codec, &whole).unwrap();

        let (mut pieces, mut piece_residual, mut piece_theta) =
            (Vec::new(), start.clone(), start.clone());
        for index in (0..chunk_count(len)).rev() {
            let range = chunk_range(len, index);
            let mut bytes = Vec::new();
            let residual = &mut piece_residual[range.clone()];
            encode_with_feedback(codec, &delta[range.clone()], residual, &mut bytes).unwrap();
            apply_update(&mut piece_theta[range], codec, &bytes).unwrap();
            pieces.splice(0..0, bytes);
        }
        assert_eq!(whole, pieces);
        assert_eq!(residual, piece_residual);
        assert_eq!(theta, piece_theta);
    }
}

#[test]
fn an_update_is_subtracted_and_a_wrong_one_changes_nothing() {
    let mut theta = vec![1.0_f32, 2.0, 3.0];
    let bytes = encoded(Codec::F32, &[0.5, -1.0, 0.0]);
    apply_update(&mut theta, Codec::F32, &bytes).unwrap();
    assert_eq!(theta, [0.5, 3.0, 3.0]);
    let short = apply_update(&mut theta, Codec::F32, &bytes[..11]);
    assert!(matches!(short, Err(UpdateError::Codec(CodecError::Length { found: 11, .. }))));
    let mut far = vec![1.0, f32::MAX];
    let over = apply_update(&mut far, Codec::F32, &encoded(Codec::F32, &[0.5, -f32::MAX]));
    assert_eq!(over, Err(UpdateError::Overflow { element: 1 }));
    assert_eq!(far, [1.0, f32::MAX]);
    apply_update(&mut far, Codec::Int4, &encoded(Codec::Int4, &[0.0, -INT4_LARGEST])).unwrap();
    assert!(far[1].is_finite());
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for codec in ALL {
            let mut values = vec![1.0; 100];
            values[77] = bad;
            let mut out = vec![9];
            let error = encode(codec, &values, &mut out).unwrap_err();
            assert!(matches!(error, CodecError::NotFinite { element: 77, .. }), "{error}");
            assert!(error.to_string().contains("element 77"));
            let mut residual = vec![1.0; 100];
            let error = encode_with_feedback(codec, &values, &mut residual, &mut out).unwrap_err();
            assert!(matches!(
                error,
                FeedbackError::Codec(CodecError::NotFinite { element: 77, .. })
            ));
            assert_eq!((out, residual), (vec![9], vec![1.0; 100]));
        }
        let bytes: Vec<u8> = [0.0, bad].iter().flat_map(|x| x.to_le_bytes()).collect();
        let error = validate(Codec::F32, &bytes, 2).unwrap_err();
        assert!(matches!(error, CodecError::NotFinite { element: 1, .. }));
    }
}

#[test]
fn int4_refuses_each_form_that_no_encoder_writes() {
    let scale = |bits: u16| bits.to_le_bytes();
    let block = |bits: u16, byte: u8| {
        let [a, b] = scale(bits);
        vec![a, b, byte]
    };
    let check = |bytes: &[u8], elements| validate(Codec::Int4, bytes, elements);
    assert_eq!(check(&block(0x3C00, 0xF1), 2), Ok(()));
    assert_eq!(check(&block(0x3C00, 0x0F), 1), Ok(()));
    assert_eq!(check(&block(0, 0x88), 2), Ok(()));
    for (bits, what) in
        [(0x7C00, "infinite"), (0x7E00, "not a number"), (0x8000, "-0"), (0xBC00, "-1")]
    {
        let error = check(&block(bits, 0xF1), 2).unwrap_err();
        assert_eq!(error, CodecError::Scale { block: 0, bits }, "{what}");
    }
    for (bits, byte, elements, what) in [
        (0x3C00, 0x01, 2, "a high half of 0"),
        (0x3C00, 0x10, 2, "a low half of 0"),
        (0x3C00, 0x8F, 1, "an unused half that is not 0"),
        (0x3C00, 0x00, 1, "a low half of 0 in an odd end"),
        (0x3C00, 0x88, 2, "zeros under a scale"),
        (0x0000, 0x98, 2, "a step under scale 0"),
        (0x0000, 0x09, 1, "a step under scale 0 in an odd end"),
    ] {
        let error = check(&block(bits, byte), elements).unwrap_err();
        assert_eq!(error, CodecError::NotCanonical { block: 0 }, "{what}");
    }
}

#[test]
fn int8_refuses_each_form_that_no_encoder_writes() {
    let check = |bits: u16, qs: &[u8]| {
        let bytes = [&bits.to_le_bytes(), qs].concat();
        validate(Codec::Int8, &bytes, qs.len())
    };
    assert_eq!(check(0x3C00, &[1, 0x81, 127]), Ok(()));
    assert_eq!(check(0, &[0, 0]), Ok(()));
    for bits in [0x7C00, 0x7E00, 0x8000, 0xBC00] {
        assert_eq!(check(bits, &[1]), Err(CodecError::Scale { block: 0, bits }));
    }
    for (bits, q, what) in
        [(0x3C00, 0x80, "-128"), (0x3C00, 0, "zeros under a scale"), (0, 1, "a step under 0")]
    {
        assert_eq!(check(bits, &[q]), Err(CodecError::NotCanonical { block: 0 }), "{what}");
    }
}

#[test]
fn sixteen_bits_refuse_what_is_not_finite() {
    for (codec, largest) in [(Codec::Bf16, 0x7F7F_u16), (Codec::F16, 0x7BFF)] {
        for sign in [0, 0x8000] {
            let check = |code: u16| validate(codec, &[[0, 0], code.to_le_bytes()].concat(), 2);
            assert_eq!(check(largest | sign), Ok(()));
            for code in [largest + 1, largest + 2, 0x7FFF] {
                let bits = u32::from(code | sign);
                let error = CodecError::NotFinite { element: 1, bits };
                assert_eq!(check(code | sign), Err(error));
            }
        }
    }
}

/// A block of 130 elements keeps three: two levels, 6 bits of buckets, 18 of low parts, 6 of codes.
#[test]
fn topk_refuses_each_form_that_no_encoder_writes() {
    // Positions 3, 70 and 129: a 1 and a 0 each; 3, 6 and 1 in six bits; low, high with -, low.
    let good = [0x00, 0x38, 0x00, 0x3C, 0b01_0101, 0b1000_0011, 0b0001_0001, 0, 0b00_11_00];
    let check = |change: &dyn Fn(&mut [u8; 9])| {
        let mut bytes = good;
        change(&mut bytes);
        validate(Codec::TopK, &bytes, 130)
    };
    assert_eq!(check(&|_| ()), Ok(()));
    let mut expected = vec![0.0; 130];
    (expected[3], expected[70], expected[129]) = (0.5, -1.0, 0.5);
    assert_eq!(decoded(Codec::TopK, &good, 130), expected);

    type Change = fn(&mut [u8; 9]);
    let scale = |bits| CodecError::Scale { block: 0, bits };
    let scales: [(Change, u16); 3] =
        [(|b| b[1] = 0x7C, 0x7C00), (|b| b[3] = 0x7E, 0x7E00), (|b| b[1] = 0x80, 0x8000)];
    for (change, bits) in scales {
        assert_eq!(check(&change), Err(scale(bits)));
    }
    let positions: [(Change, &str); 6] = [
        (|b| b[4] = 0b00_0011, "two elements for three"),
        (|b| b[4] = 0b11_0101, "four elements for three"),
        (|b| (b[4], b[6]) = (0b00_1011, 0b0001_0000), "position 2 after 3"),
        (|b| b[4] = 0b10_0101, "an element beyond the last bucket"),
        (|b| b[6] = 0b0010_0001, "the last position is 130"),
        (|b| (b[4], b[5], b[6]) = (0b00_1011, 0b1100_0011, 0b0001_0000), "position 3 twice"),
    ];
    for (change, what) in positions {
        assert_eq!(check(&change), Err(CodecError::Positions { block: 0 }), "{what}");
    }
    let forms: [(Change, &str); 8] = [
        (|b| b[4] |= 0x40, "a bit beyond the buckets"),
        (|b| b[7] |= 0x04, "a bit beyond the low parts"),
        (|b| b[8] |= 0x40, "a bit beyond the codes"),
        (|b| b[8] = 0, "two levels, the higher unused"),
        (|b| b[8] = 0b01_01_01, "two levels, the lower unused"),
        (|b| b[1] = 0x3C, "one level, and an element of the higher"),
        (|b| b[1] = 0x40, "the lower level above the higher"),
        (|b| (b[1], b[8]) = (0, 0b10_11_00), "a sign under a level of 0"),
    ];
    for (change, what) in forms {
        assert_eq!(check(&change), Err(CodecError::NotCanonical { block: 0 }), "{what}");
    }
    assert_eq!(
        validate(Codec::TopK, &good[..8], 130),
        Err(CodecError::Length { codec: Codec::TopK, elements: 130, expected: 9, found: 8 })
    );
}

#[test]
fn accumulating_is_decoding_and_a_multiply_and_an_add() {
    let len = 2 * 4096 + 77;
    let values: Vec<f32> = (0..len).map(|i| ((i * 7919 % 10_007) as f32 - 5e3) * 1e-6).collect();
    for codec in ALL {
        let bytes = encoded(codec, &values);
        let mut sums: Vec<f32> = values.iter().rev().copied().collect();
        let mut expected = sums.clone();
        for (sum, value) in expected.iter_mut().zip(decoded(codec, &bytes, len)) {
            *sum += 0.3 * value;
        }
        accumulate(codec, &bytes, 0.3, &mut sums).unwrap();
        assert_eq!(sums, expected, "{codec}");
        let before = sums.clone();
        assert!(accumulate(codec, &bytes[1..], 0.3, &mut sums).is_err());
        assert_eq!(sums, before, "{codec}");
    }
}

#[test]
fn wire_ids_are_stable() {
    assert_eq!((Codec::F32.id(), Codec::Int4.id()), (1, 2));
    assert_eq!(Codec::from_id(2), Ok(Codec::Int4));
    assert_eq!(Codec::from_id(0), Err(CodecError::Unknown { id: 0 }));
    let ids: Vec<u8> = ALL.iter().map(|codec| codec.id()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(encoded_len(Codec::Int4, CHUNK_ELEMENTS), 34_816);
    assert_eq!(encoded_len(Codec::Int8, CHUNK_ELEMENTS), 67_584);
    assert_eq!(encoded_len(Codec::TopK, CHUNK_ELEMENTS), 1344);
}
