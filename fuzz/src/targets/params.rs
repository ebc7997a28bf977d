//! Codecs and sealed moments. The first byte of an input says how many elements are expected.

use crate::Target;
use suanli_base::{Hash, Random};
use suanli_params::{
    Codec, Packing, accumulate, apply_update, decode, encode, encoded_len, pack, path, root,
    seal_moments, unpack, unseal_moments, verify_path,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "codec-f32",
        "what decodes is finite and encodes to the same bytes",
        f32s,
        f32_codec,
    ),
    Target::new("codec-int4", "what decodes is finite; a used scale has one encoding", int4s, int4),
    Target::new("codec-bf16", "what decodes is finite and encodes to the same bytes", bf16s, bf16),
    Target::new("codec-f16", "what decodes is finite and encodes to the same bytes", f16s, f16),
    Target::new("codec-int8", "what decodes is finite; a used scale has one encoding", int8s, int8),
    Target::new(
        "codec-topk",
        "what decodes is finite, of a few magnitudes and few enough",
        topks,
        topk,
    ),
    Target {
        allocation: packed_allocation,
        ..Target::new("packing", "what unpacks is finite and packs again", packings, packing)
    },
    Target::new("merkle-path", "only a leaf's own path shows that it is there", paths, path_of),
    Target::new("sealed-moments", "what unseals is sound and seals to itself", sealed, unseal),
];

fn numbers(len: usize) -> Vec<f32> {
    let mut random = Random::new(len as u64);
    (0..len).map(|_| (random.unit_f32() - 0.5) * 0.01).collect()
}

fn encodings(codec: Codec) -> Vec<Vec<u8>> {
    let seed = |len: u8| {
        let mut out = vec![len];
        encode(codec, &numbers(len.into()), &mut out).expect("finite numbers");
        out
    };
    [0, 1, 63, 64, 65, 200].map(seed).to_vec()
}

fn f32s() -> Vec<Vec<u8>> {
    encodings(Codec::F32)
}

fn int4s() -> Vec<Vec<u8>> {
    encodings(Codec::Int4)
}

fn bf16s() -> Vec<Vec<u8>> {
    encodings(Codec::Bf16)
}

fn f16s() -> Vec<Vec<u8>> {
    encodings(Codec::F16)
}

fn int8s() -> Vec<Vec<u8>> {
    encodings(Codec::Int8)
}

/// Lengths are in 64s: up to four blocks of 4096.
fn topks() -> Vec<Vec<u8>> {
    let seed = |len: u8| {
        let mut out = vec![len];
        encode(Codec::TopK, &numbers(64 * usize::from(len)), &mut out).expect("finite numbers");
        out
    };
    [0, 1, 3, 64, 65, 200].map(seed).to_vec()
}

fn bf16(input: &[u8]) {
    check(Codec::Bf16, input);
}

fn f16(input: &[u8]) {
    check(Codec::F16, input);
}

fn int8(input: &[u8]) {
    check(Codec::Int8, input);
}

fn topk(input: &[u8]) {
    let Some((&groups, bytes)) = input.split_first() else { return };
    let mut values = vec![7.0_f32; 64 * usize::from(groups)];
    if decode(Codec::TopK, bytes, &mut values).is_err() {
        assert!(values.iter().all(|value| *value == 7.0), "a refused payload left a trace");
        return;
    }
    for block in values.chunks(4096) {
        let sent: Vec<u32> =
            block.iter().filter(|v| **v != 0.0).map(|v| v.abs().to_bits()).collect();
        assert!(sent.len() <= block.len() / 64, "more than were kept");
        assert!(block.iter().all(|value| value.is_finite()));
        assert!(block.iter().all(|value| value.to_bits() != 1 << 31), "a sign on a zero");
        let levels: std::collections::BTreeSet<u32> = sent.into_iter().collect();
        assert!(levels.len() <= 2, "{levels:?}");
    }
    let mut sums = vec![0.0; values.len()];
    accumulate(Codec::TopK, bytes, 1.0, &mut sums).expect("it decodes");
    assert_eq!(sums, values, "a sum of one is not what decodes");
}

/// zstd's window, and its list of sequences, which a block may say are 98 047.
fn packed_allocation(_: usize) -> usize {
    4 << 20
}

/// The first byte is the packing and the elements in 64s.
fn packings() -> Vec<Vec<u8>> {
    let seed = |first: u8| {
        let mut out = vec![first];
        let values = numbers(64 * usize::from(first / 2));
        pack(packing_of(first), &values, &mut out).expect("finite numbers");
        out
    };
    [0, 2, 3, 128, 129, 255].map(seed).to_vec()
}

fn packing_of(first: u8) -> Packing {
    if first.is_multiple_of(2) { Packing::F32 } else { Packing::Bf16 }
}

fn packing(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let packing = packing_of(first);
    let mut values = vec![7.0_f32; 64 * usize::from(first / 2)];
    if unpack(packing, bytes, &mut values).is_err() {
        assert!(values.iter().all(|value| *value == 7.0), "a refused packing left a trace");
        return;
    }
    assert!(values.iter().all(|value| value.is_finite()));
    let (mut again, mut back) = (Vec::new(), vec![7.0; values.len()]);
    pack(packing, &values, &mut again).expect("what was unpacked is finite");
    unpack(packing, &again, &mut back).expect("our own bytes");
    assert_eq!(back, values, "packed again, other numbers");
}

fn f32_codec(input: &[u8]) {
    check(Codec::F32, input);
}

fn int4(input: &[u8]) {
    check(Codec::Int4, input);
}

fn check(codec: Codec, input: &[u8]) {
    let Some((&elements, bytes)) = input.split_first() else { return };
    let _ = Codec::from_id(elements);
    let mut values = vec![7.0_f32; elements.into()];
    let mut theta = values.clone();
    let applied = apply_update(&mut theta, codec, bytes).is_ok();
    match decode(codec, bytes, &mut values) {
        Ok(()) => {
            assert!(applied, "decodes, but is no update");
            assert_eq!(bytes.len(), encoded_len(codec, values.len()));
            assert!(values.iter().all(|value| value.is_finite()));
            let mut again = Vec::new();
            encode(codec, &values, &mut again).expect("what was decoded is finite");
            let bound = match codec {
                Codec::Int4 => uses_its_scale(bytes),
                Codec::Int8 => uses_its_bytes(bytes),
                _ => true,
            };
            if bound {
                assert_eq!(again, bytes, "another encoding of the same numbers was accepted");
            }
        }
        Err(_) => {
            assert!(values.iter().all(|value| *value == 7.0), "a refused payload left a trace");
            assert!(theta.iter().all(|value| *value == 7.0), "a refused update left a trace");
        }
    }
}

/// Whether an element of every int4 block is 7 times its scale, as encoders leave it: only then are
/// the numbers bound to these bytes.
fn uses_its_scale(bytes: &[u8]) -> bool {
    let full = |half: u8| half == 1 || half == 15;
    bytes.chunks(34).all(|block| {
        let mut pairs = block.iter().skip(2);
        block[..2] == [0, 0] || pairs.any(|pair| full(pair & 15) || full(pair >> 4))
    })
}

/// The same of every int8 block.
fn uses_its_bytes(bytes: &[u8]) -> bool {
    let full = |q: &u8| *q == 127 || *q == 0x81;
    bytes.chunks(66).all(|block| block[..2] == [0, 0] || block.iter().skip(2).any(full))
}

fn sealed() -> Vec<Vec<u8>> {
    let seed = |len: u8| {
        let mut m = numbers(len.into());
        let mut v: Vec<f32> = m.iter().map(|value| value * value).collect();
        let mut out = vec![len];
        out.extend(seal_moments(&mut m, &mut v).expect("finite, and not negative"));
        out
    };
    [0, 1, 64, 65, 150].map(seed).to_vec()
}

fn unseal(input: &[u8]) {
    let Some((&elements, bytes)) = input.split_first() else { return };
    let (mut m, mut v) = (vec![7.0_f32; elements.into()], vec![7.0_f32; elements.into()]);
    if unseal_moments(bytes, &mut m, &mut v).is_err() {
        assert!(m.iter().chain(&v).all(|value| *value == 7.0), "a refused seal left a trace");
        return;
    }
    assert!(m.iter().chain(&v).all(|value| value.is_finite()));
    assert!(v.iter().all(|value| *value >= 0.0));
    let (m_before, v_before) = (m.clone(), v.clone());
    let again = seal_moments(&mut m, &mut v).expect("what was unsealed is sound");
    assert_eq!((&m, &v), (&m_before, &v_before), "sealing twice moved a moment");
    assert_eq!(again, bytes, "another seal of the same moments was accepted");
}

fn leaves(count: u8) -> Vec<Hash> {
    (0..count).map(|leaf| Hash::of(&[leaf])).collect()
}

/// How many leaves, which of them, its hash, the siblings.
fn paths() -> Vec<Vec<u8>> {
    let seed = |(count, index): (u8, u8)| {
        let leaves = leaves(count);
        let siblings = path(&leaves, index.into()).expect("it is there");
        let mut out = vec![count, index];
        out.extend(leaves[usize::from(index)].0);
        out.extend(siblings.iter().flat_map(|hash| hash.0));
        out
    };
    [(1, 0), (2, 1), (3, 2), (7, 4), (8, 0), (200, 199)].map(seed).to_vec()
}

fn path_of(input: &[u8]) {
    let Some(([count, index], rest)) = input.split_first_chunk() else { return };
    let Some((chunk, rest)) = rest.split_first_chunk::<32>() else { return };
    let (siblings, _) = rest.as_chunks::<32>();
    let (leaves, siblings) =
        (leaves(*count), siblings.iter().copied().map(Hash).collect::<Vec<_>>());
    let (chunk, index) = (Hash(*chunk), usize::from(*index));
    let shown = verify_path(root(&leaves), leaves.len(), index, chunk, &siblings).is_ok();
    let right = leaves.get(index) == Some(&chunk) && path(&leaves, index) == Ok(siblings);
    assert_eq!(shown, right);
}
