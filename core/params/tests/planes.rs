//! Lossless packing, and what a stranger may send for it.

use proptest::collection::vec;
use proptest::prelude::*;
use suanli_params::{
    CHUNK_ELEMENTS, Codec, CodecError, PackError, Packing, decode, encode, pack, packed_chunk_len,
    unpack,
};

fn packed(packing: Packing, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(packing, values, &mut bytes).expect("finite numbers");
    assert!(bytes.len() <= packing.len_max(values.len()));
    bytes
}

/// Bell-shaped, as weights are.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| (draw() + draw() + draw() + draw()) * 0.02).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn every_finite_number_comes_back(words in vec(any::<u32>(), 0..300), alike in any::<bool>()) {
        let word = |word: u32| f32::from_bits(if alike { word >> 12 } else { word });
        let values: Vec<f32> = words.into_iter().map(word).filter(|x| x.is_finite()).collect();
        let mut back = vec![f32::NAN; values.len()];
        unpack(Packing::F32, &packed(Packing::F32, &values), &mut back).unwrap();
        prop_assert_eq!(bits(&back), bits(&values));

        let (mut plain, mut rounded) = (Vec::new(), vec![0.0; values.len()]);
        encode(Codec::Bf16, &values, &mut plain).unwrap();
        decode(Codec::Bf16, &plain, &mut rounded).unwrap();
        unpack(Packing::Bf16, &packed(Packing::Bf16, &values), &mut back).unwrap();
        prop_assert_eq!(bits(&back), bits(&rounded));
    }

    #[test]
    fn changed_bytes_unpack_to_finite_numbers_or_not_at_all(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in 0_usize..20,
    ) {
        let values = weights(700);
        for packing in [Packing::F32, Packing::Bf16] {
            let mut bytes = packed(packing, &values);
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(bytes.len() - cut / 4);
            let mut back = vec![42.0_f32; values.len()];
            match unpack(packing, &bytes, &mut back) {
                Ok(()) => prop_assert!(back.iter().all(|x| x.is_finite())),
                Err(_) => prop_assert!(back.iter().all(|x| *x == 42.0), "touched"),
            }
        }
    }
}

#[test]
fn weights_shrink_and_chunks_packed_apart_are_the_whole() {
    let values = weights(2 * CHUNK_ELEMENTS + 1001);
    for (packing, bytes, share) in [(Packing::F32, 4, 0.90), (Packing::Bf16, 2, 0.75)] {
        let whole = packed(packing, &values);
        assert!((whole.len() as f64) < share * (bytes * values.len()) as f64, "{}", whole.len());
        let pieces = values.chunks(CHUNK_ELEMENTS).flat_map(|chunk| packed(packing, chunk));
        assert!(whole == pieces.collect::<Vec<u8>>());
        let mut back = vec![0.0; values.len()];
        unpack(packing, &whole, &mut back).unwrap();
        assert!(packing == Packing::Bf16 || back == values);
    }
}

#[test]
fn numbers_of_16_bits_in_f32_pack_to_less_than_half_and_the_end_of_a_chunk_is_found() {
    let values = weights(2 * CHUNK_ELEMENTS + 1001);
    let mut halves = vec![0.0; values.len()];
    unpack(Packing::Bf16, &packed(Packing::Bf16, &values), &mut halves).unwrap();
    let whole = packed(Packing::F32, &halves);
    assert!((whole.len() as f64) < 0.45 * (4 * halves.len()) as f64, "{}", whole.len());
    let mut rest = &whole[..];
    for chunk in halves.chunks(CHUNK_ELEMENTS) {
        let length = packed_chunk_len(Packing::F32, chunk.len(), rest).unwrap().unwrap();
        for short in [0, 3, 4, length / 2, length - 1] {
            let answer = packed_chunk_len(Packing::F32, chunk.len(), &rest[..short]);
            assert_eq!(answer, Ok(None));
        }
        let mut back = vec![0.0; chunk.len()];
        unpack(Packing::F32, &rest[..length], &mut back).unwrap();
        assert!(back == chunk);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    let long = packed_chunk_len(Packing::F32, 5, &[6, 0, 0, 0]);
    let refused = PackError::Long { chunk: 0, plane: 0, length: 6, elements: 5 };
    assert_eq!(long, Err(refused));
}

/// One chunk of bf16: a low plane of zeros as it is, and a high plane as given.
fn with_high_plane(elements: usize, plane: &[u8]) -> Vec<u8> {
    let mut bytes = (elements as u32).to_le_bytes().to_vec();
    bytes.resize(4 + elements, 0);
    bytes.extend((plane.len() as u32).to_le_bytes());
    bytes.extend(plane);
    bytes
}

/// A zstd frame of a byte repeated, made by hand (RFC 8878, 3.1.1).
fn repeated(byte: u8, times: u32, last: bool) -> Vec<u8> {
    let block = (times << 3 | 1 << 1 | u32::from(last)).to_le_bytes();
    [&[0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38][..], &block[..3], &[byte]].concat()
}

#[test]
fn a_plane_is_one_block_of_exactly_its_elements_or_refused() {
    let check = |plane: &[u8]| {
        let mut values = vec![42.0; 1000];
        let answer = unpack(Packing::Bf16, &with_high_plane(1000, plane), &mut values);
        assert!(answer.is_ok() || values.iter().all(|value| *value == 42.0));
        answer.map(|()| values[999])
    };
    // 0x7F in the high plane and 0 in the low: turned back by a bit, the exponent of 1.
    assert_eq!(check(&repeated(0x7F, 1000, true)), Ok(1.0));
    let refused = Err(PackError::Plane { chunk: 0, plane: 1, elements: 1000 });
    let good = repeated(0x7F, 1000, true);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let twice = [&good[..], &good].concat();
    let mut many = repeated(0x7F, 1 << 17, false);
    (0..200).for_each(|_| many.extend([2, 0, 0x10, 0x7F]));
    let cases = [
        (vec![], "nothing"),
        (repeated(0x7F, 999, true), "one too few"),
        (repeated(0x7F, 1001, true), "one too many"),
        (repeated(0x7F, 1 << 17, true), "128 KiB out of ten bytes"),
        (repeated(0x7F, 1000, false), "no last block"),
        (many, "a block after a block, each swelling"),
        (twice, "two frames"),
        (changed(4, 0x20), "a header that says its size"),
        (changed(4, 0x04), "a sum at the end"),
        (changed(4, 0x01), "a dictionary"),
        (changed(5, 0x40), "a window of 256 KiB"),
        (changed(5, 0xF8), "a window of terabytes"),
        (changed(0, 0x50), "a frame to skip"),
        (good[..9].to_vec(), "cut off"),
    ];
    for (plane, what) in cases {
        assert_eq!(check(&plane), refused, "{what}");
    }
}

/// Sequences without bits of their own: 5 bytes of tables for thousands of long matches.
#[test]
fn a_compressed_block_that_swells_is_refused() {
    for (sequences, offset) in [(0x7F_u8, 0_u8), (0x7F, 1), (0xFE, 0)] {
        // One raw literal; all three tables of sequences repeat one code: match length 52.
        let mut block = vec![0x08, 0xAA, sequences, 0b0101_0100, 1, offset, 52];
        block.extend([0xFF; 300]);
        let header = ((block.len() as u32) << 3 | 2 << 1 | 1).to_le_bytes();
        let frame = [&[0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38][..], &header[..3], &block].concat();
        let mut values = vec![42.0; 1000];
        let answer = unpack(Packing::Bf16, &with_high_plane(1000, &frame), &mut values);
        assert_eq!(answer, Err(PackError::Plane { chunk: 0, plane: 1, elements: 1000 }));
    }
}

#[test]
fn lengths_that_lie_and_numbers_that_are_none_are_refused() {
    let good = packed(Packing::F32, &[1.0, 2.0]);
    let mut values = [42.0; 2];
    let mut check = |bytes: &[u8]| unpack(Packing::F32, bytes, &mut values).unwrap_err();
    let length = |found| PackError::Length { elements: 2, found };
    assert_eq!(check(&good[..good.len() - 1]), length(good.len() - 1));
    assert_eq!(check(&[&good[..], &[0]].concat()), length(good.len() + 1));
    assert_eq!(check(&good[..3]), length(3));
    let mut long = good.clone();
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = PackError::Long { chunk: 0, plane: 0, length: u32::MAX, elements: 2 };
    assert_eq!(check(&long), error);
    let mut infinite = good.clone();
    let end = infinite.len();
    infinite[end - 1] = 0xFF;
    let error = CodecError::NotFinite { element: 1, bits: f32::INFINITY.to_bits() };
    assert_eq!(check(&infinite), PackError::Number(error));
    assert!(pack(Packing::F32, &[f32::NAN], &mut Vec::new()).is_err());
    assert_eq!(values, [42.0; 2]);
}

#[test]
fn packings_share_the_space_of_codec_ids_and_are_no_codecs() {
    for packing in [Packing::F32, Packing::Bf16] {
        assert_eq!(Packing::from_id(packing.id()), Ok(packing));
        assert_eq!(Codec::from_id(packing.id()), Err(CodecError::Unknown { id: packing.id() }));
    }
    assert_eq!((Packing::F32.id(), Packing::Bf16.id()), (7, 8));
    assert_eq!(Packing::from_id(6), Err(PackError::Unknown { id: 6 }));
}
