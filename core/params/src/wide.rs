//! The loops of the codecs, each compiled three times: for what every CPU of the architecture has,
//! for AVX2 and for AVX-512. One of them is chosen when it is first seen what the CPU has.
//!
//! All three are one text of IEEE operations, and no compiler of Rust contracts or reorders those:
//! they give the same bits, as the tests below hold them to. The judge of them all are the plain
//! functions of each codec, which go element by element.
#![allow(unsafe_code, reason = "functions compiled for instructions that were seen to exist")]

use crate::codec::{Codec, CodecError};
use crate::float::Half;
use crate::tile::{self, GROUPS, NotFinite, TILE};
use crate::{int4, int8, topk};

/// Which instructions the loops use. Only what the CPU has can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Wide {
    /// The widest that this CPU has. The standard library remembers what it saw.
    #[inline]
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("bmi2")
            {
                return Self(Set::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                return Self(Set::Avx2);
            }
        }
        Self(Set::Plain)
    }

    /// Every one that this CPU has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self(Set::Plain)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            all.push(Self(Set::Avx2));
        }
        if !all.contains(&Self::best()) {
            all.push(Self::best());
        }
        all
    }
}

macro_rules! loops {
    ($( fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? = $body:expr; )*) => {
        impl Wide {
            $(
                #[inline]
                pub(crate) fn $name(self, $($arg: $type),*) $(-> $ret)? {
                    match self.0 {
                        Set::Plain => ($body)($($arg),*),
                        #[cfg(target_arch = "x86_64")]
                        // SAFETY: the set is made only on a CPU that has its instructions.
                        Set::Avx2 => unsafe { avx2::$name($($arg),*) },
                        #[cfg(target_arch = "x86_64")]
                        // SAFETY: the set is made only on a CPU that has its instructions.
                        Set::Avx512 => unsafe { avx512::$name($($arg),*) },
                    }
                }
            )*
        }
        loops!(@set avx2, #[target_feature(enable = "avx2")],
            $( fn $name($($arg: $type),*) $(-> $ret)? = $body; )*);
        loops!(@set avx512, #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,bmi2")],
            $( fn $name($($arg: $type),*) $(-> $ret)? = $body; )*);
    };
    (@set $module:ident, #[$feature:meta],
        $( fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)? = $body:expr; )*) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::*;
            $(
                #[$feature]
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    ($body)($($arg),*)
                }
            )*
        }
    };
}

loops! {
    fn add_step(sum: &mut [f32; TILE], step: &[f32; TILE]) -> [f32; GROUPS] = tile::add_step;
    fn magnitudes(a: &[f32; TILE]) -> [f32; GROUPS] = topk::group_magnitudes;
    fn subtract(sum: &mut [f32; TILE], step: &[f32; TILE]) = tile::subtract;
    fn add_scaled(sum: &mut [f32; TILE], factor: f32, step: &[f32; TILE]) = tile::add_scaled;
    fn f32_largest(bytes: &[u8]) -> u32 = tile::f32_largest;
    fn encode_in_runs(codec: Codec, rest: &mut [f32; TILE], largest: &[f32; GROUPS], out: &mut [u8])
        = tile::encode_in_runs;
    fn encode_sum_in_runs(codec: Codec, sum: &mut [f32; TILE], step: &[f32; TILE], out: &mut [u8])
        -> Result<(), NotFinite> = tile::encode_sum_in_runs;
    fn int4_decode(bytes: &[u8], values: &mut [f32; TILE]) = int4::decode_tile;
    fn int4_validate(bytes: &[u8], elements: usize) -> Result<(), CodecError> = int4::validate;
    fn int8_decode(bytes: &[u8], values: &mut [f32; TILE]) = int8::decode_tile;
    fn int8_validate(bytes: &[u8]) -> Result<(), CodecError> = int8::validate;
    fn topk_encode(rest: &mut [f32; TILE], largest: &[f32; GROUPS], out: &mut [u8])
        = topk::encode_tile;
    fn topk_validate(bytes: &[u8], elements: usize) -> Result<(), CodecError> = topk::validate;
    fn half_decode(half: Half, bytes: &[u8], values: &mut [f32; TILE])
        = |half: Half, bytes, values: &mut [f32; TILE]| half.decode(bytes, values);
    fn half_validate(half: Half, bytes: &[u8]) -> Result<(), CodecError>
        = |half: Half, bytes| half.validate(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encoded_len;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const ALL: [Codec; 6] =
        [Codec::F32, Codec::Int4, Codec::Bf16, Codec::F16, Codec::Int8, Codec::TopK];

    /// Tiles of many spreads: alike, with equal magnitudes, with zeros, far beyond every scale.
    fn tile() -> impl Strategy<Value = Vec<f32>> {
        let usual = (-9_i32..0, -1.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
        let far = (-45_i32..38, -1.0_f32..1.0).prop_map(|(e, x)| x * 10_f32.powi(e));
        let few = prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, 0.5, 1e-8, 3e38]);
        let alike = (-1.0_f32..1.0).prop_map(|x| x * 1e-3);
        prop_oneof![
            vec(usual, TILE),
            vec(alike.clone(), TILE),
            vec(few.clone(), TILE),
            vec(prop_oneof![20 => Just(0.0), 1 => alike.clone()], TILE),
            vec(prop_oneof![far, few], TILE),
        ]
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn every_width_writes_the_bytes_of_the_judge_and_keeps_its_rest(values in tile()) {
            // -0 + 0 is +0: as a sum it cannot come.
            let values: Vec<f32> = values.iter().map(|value| value + 0.0).collect();
            let zero = [0.0; TILE];
            for (codec, wide) in ALL.iter().flat_map(|c| Wide::all().into_iter().map(|w| (*c, w))) {
                let mut judged = Vec::new();
                tile::encode_plain(codec, &values, &mut judged);
                prop_assert_eq!(judged.len(), encoded_len(codec, TILE));
                let mut worth = zero;
                tile::decode_plain(codec, &judged, &mut worth);
                let expected: Vec<f32> = values.iter().zip(&worth).map(|(a, b)| a - b).collect();

                let (mut rest, mut found) = (values.clone(), Vec::new());
                prop_assert_eq!(tile::encode_sum(wide, codec, &mut rest, &zero, &mut found), Ok(()));
                prop_assert!(judged == found, "{codec}, {wide:?}: other bytes");
                prop_assert!(rest == expected, "{codec}, {wide:?}: another residual");
                found.clear();
                tile::encode(wide, codec, &values, &mut found);
                prop_assert!(judged == found, "{codec}, {wide:?}: other bytes without residual");

                let mut decoded = [f32::NAN; TILE];
                prop_assert_eq!(tile::validate(wide, codec, &judged, TILE), Ok(()));
                tile::decode(wide, codec, &judged, &mut decoded);
                prop_assert_eq!(bits(&decoded), bits(&worth), "{}, {:?}", codec, wide);
            }
        }

        #[test]
        fn every_width_refuses_what_the_judge_refuses(
            values in tile(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            for codec in ALL {
                let mut bytes = Vec::new();
                tile::encode_plain(codec, &values, &mut bytes);
                for (at, byte) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                let answers: Vec<_> = Wide::all()
                    .into_iter()
                    .map(|wide| tile::validate(wide, codec, &bytes, TILE))
                    .collect();
                prop_assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
                if answers[0].is_ok() {
                    let mut worth = [0.0; TILE];
                    tile::decode_plain(codec, &bytes, &mut worth);
                    for wide in Wide::all() {
                        let mut decoded = [f32::NAN; TILE];
                        tile::decode(wide, codec, &bytes, &mut decoded);
                        prop_assert_eq!(bits(&decoded), bits(&worth), "{}, {:?}", codec, wide);
                    }
                }
            }
        }
    }
}
