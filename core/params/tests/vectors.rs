//! The frozen vectors of `docs/spec/vectors/params.txt`, made by an independent implementation.

use suanli_base::Hash;
use suanli_params::{
    Codec, Packing, accumulate, apply_update, decode, encode, encode_with_feedback, root,
    seal_moments, unpack, unseal_moments, validate,
};

const VECTORS: &str = include_str!("../../../docs/spec/vectors/params.txt");

fn cases(kind: &str) -> Vec<Vec<Vec<u8>>> {
    let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    let cases: Vec<_> = fields
        .filter(|fields| fields[0] == kind)
        .map(|fields| fields[1..].iter().map(|field| from_hex(field)).collect())
        .collect();
    assert!(cases.len() >= 7, "the file of vectors has lost its {kind} lines");
    cases
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = if text == "-" { "" } else { text };
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + hex_digit(*digit))).collect()
}

fn hex_digit(digit: u8) -> u8 {
    let value = char::from(digit).to_digit(16).expect("the vectors are hexadecimal");
    u8::try_from(value).expect("a hexadecimal digit is below 16")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks(4);
    words.map(|word| f32::from_be_bytes(word.try_into().expect("whole words"))).collect()
}

/// The frozen corpus of bytes that no encoder makes.
#[test]
fn hostile_bytes_are_refused_and_change_nothing() {
    let lines = VECTORS.lines().filter_map(|line| line.strip_prefix("hostile "));
    let mut count = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, kind, elements, hex] = words[..] else { panic!("four words: {line}") };
        let bytes = from_hex(hex);
        let mut values = vec![7.0; elements.parse().unwrap()];
        let packing = [("packed-f32", Packing::F32), ("packed-bf16", Packing::Bf16)];
        if let Some((_, packing)) = packing.into_iter().find(|(name, _)| *name == kind) {
            assert!(unpack(packing, &bytes, &mut values).is_err(), "{line}");
        } else {
            let mut all = (0..=u8::MAX).filter_map(|id| Codec::from_id(id).ok());
            let codec = all.find(|codec| codec.to_string() == kind).unwrap();
            assert!(decode(codec, &bytes, &mut values).is_err(), "{line}");
            assert!(validate(codec, &bytes, values.len()).is_err(), "{line}");
            assert!(accumulate(codec, &bytes, 1.0, &mut values).is_err(), "{line}");
            assert!(apply_update(&mut values, codec, &bytes).is_err(), "{line}");
        }
        assert!(values.iter().all(|value| *value == 7.0), "{line}");
        count += 1;
    }
    assert!(count > 30, "{count} lines");
}

#[test]
fn int4_writes_the_bytes_of_the_vectors() {
    for case in cases("int4") {
        let values = floats(&case[0]);
        let mut bytes = Vec::new();
        encode(Codec::Int4, &values, &mut bytes).unwrap();
        assert_eq!(bytes, case[1], "{values:?}");
        decode(Codec::Int4, &case[1], &mut vec![0.0; values.len()]).unwrap();
    }
}

#[test]
fn every_other_codec_writes_the_bytes_of_its_vectors() {
    for codec in [Codec::Bf16, Codec::F16, Codec::Int8, Codec::TopK] {
        for case in cases(&codec.to_string()) {
            let values = floats(&case[0]);
            let mut bytes = Vec::new();
            encode(codec, &values, &mut bytes).unwrap();
            assert_eq!(bytes, case[1], "{codec}: {values:?}");
            let mut decoded = vec![f32::NAN; values.len()];
            decode(codec, &case[1], &mut decoded).unwrap();
            let mut residual = vec![0.0; values.len()];
            let mut again = Vec::new();
            encode_with_feedback(codec, &values, &mut residual, &mut again).unwrap();
            assert_eq!(again.len(), bytes.len(), "{codec}");
            for ((value, decoded), rest) in values.iter().zip(&decoded).zip(&residual) {
                assert_eq!(*rest, value - decoded, "{codec}: {values:?}");
            }
        }
    }
}

#[test]
fn packed_vectors_come_back_to_the_bit() {
    for (packing, name) in [(Packing::F32, "packed-f32"), (Packing::Bf16, "packed-bf16")] {
        for case in cases(name) {
            let expected = floats(&case[0]);
            let mut values = vec![f32::NAN; expected.len()];
            unpack(packing, &case[1], &mut values).unwrap();
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&values), bits(&expected), "{name}");
        }
    }
}

#[test]
fn sealing_writes_the_bytes_of_the_vectors() {
    for case in cases("seal") {
        let (mut m, mut v) = (floats(&case[0]), floats(&case[1]));
        let asked = format!("{m:?} {v:?}");
        assert_eq!(seal_moments(&mut m, &mut v).unwrap(), case[2], "{asked}");
        let (mut m2, mut v2) = (vec![1.0; m.len()], vec![1.0; v.len()]);
        unseal_moments(&case[2], &mut m2, &mut v2).unwrap();
        assert_eq!((m2, v2), (m, v), "{asked}");
    }
}

#[test]
fn roots_are_those_of_the_vectors() {
    for case in cases("root") {
        let hash = |bytes: &[u8]| Hash(bytes.try_into().expect("32 bytes"));
        let chunks: Vec<Hash> = case[0].chunks(32).map(hash).collect();
        assert_eq!(root(&chunks), hash(&case[1]), "{} chunks", chunks.len());
    }
}
