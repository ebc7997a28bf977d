//! The header of a `.safetensors` file: which tensors it holds, and where.
//!
//! A header is believed only in so far as the file bears it out: its length, each tensor's bytes,
//! and that all of them laid end to end are the whole body.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{CheckpointError, damaged, io as io_error};

/// The header of our largest model is under 2 MiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
const LENGTH_BYTES: u64 = 8;

/// What a header says of a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Info {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (u64, u64),
}

/// A file of tensors whose header was read.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeMap<String, Info>,
    /// Where the first tensor begins.
    pub(super) body: u64,
    /// Bytes from there to the end.
    pub(super) body_bytes: u64,
}

impl TensorFile {
    /// Reads the header of the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut file = File::open(path).map_err(io_error("read", path))?;
        let file_bytes = file.metadata().map_err(io_error("read", path))?.len();
        let Some(after_length) = file_bytes.checked_sub(LENGTH_BYTES) else {
            let wrong = format!("expected a header, found {file_bytes} bytes in all");
            return Err(damaged(path, wrong));
        };
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(io_error("read", path))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX.min(after_length) {
            let wrong = format!(
                "it says its header has {length} bytes; {after_length} follow, and at most \
                 {HEADER_BYTES_MAX} are allowed"
            );
            return Err(damaged(path, wrong));
        }
        let mut text = vec![0; usize::try_from(length).expect("at most 16 MiB")];
        file.read_exact(&mut text).map_err(io_error("read", path))?;
        let bad = |error: serde_json::Error| damaged(path, format!("its header: {error}"));
        let values: BTreeMap<String, Value> = serde_json::from_slice(&text).map_err(bad)?;
        let mut tensors = BTreeMap::new();
        for (name, value) in values {
            if name != "__metadata__" {
                tensors.insert(name, serde_json::from_value(value).map_err(bad)?);
            }
        }
        let body_bytes = after_length - length;
        Ok(Self { path: path.to_owned(), tensors, body: LENGTH_BYTES + length, body_bytes })
    }

    /// Checks that the tensors laid end to end are the body.
    pub(super) fn check_layout(&self) -> Result<(), CheckpointError> {
        let mut ends: Vec<(u64, u64)> =
            self.tensors.values().map(|info| info.data_offsets).collect();
        ends.sort_unstable();
        let next = |at, &(start, end): &(u64, u64)| (start == at && end >= start).then_some(end);
        if ends.iter().try_fold(0, next) == Some(self.body_bytes) {
            return Ok(());
        }
        let wrong = "its tensors overlap, leave gaps, or are followed by more bytes";
        Err(damaged(&self.path, wrong))
    }

    /// Where tensor `name` lies, which must have this shape and numbers that can be read.
    pub(super) fn place(&self, name: &str, shape: &[usize]) -> Result<Place, CheckpointError> {
        let wrong = |expected: String, found: String| self.wrong(name, expected, found);
        let expected = || format!("F32, F16 or BF16 of shape {shape:?}");
        let Some(info) = self.tensors.get(name) else {
            return Err(wrong(expected(), "no such tensor".to_owned()));
        };
        let Some(number) = Number::named(&info.dtype).filter(|_| info.shape == shape) else {
            let dtype: String = info.dtype.chars().take(20).collect();
            let shape: Vec<usize> = info.shape.iter().copied().take(8).collect();
            return Err(wrong(expected(), format!("{dtype} of shape {shape:?}")));
        };
        let (start, end) = info.data_offsets;
        let elements: usize = shape.iter().product();
        let bytes = (number.bytes() * elements) as u64;
        if end.checked_sub(start) != Some(bytes) || end > self.body_bytes {
            let found = format!("bytes {start}..{end} of {}", self.body_bytes);
            return Err(wrong(format!("{bytes} bytes inside the file"), found));
        }
        Ok(Place { number, start: self.body + start })
    }

    pub(super) fn wrong(&self, tensor: &str, expected: String, found: String) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.path.clone(),
            tensor: tensor.chars().take(100).collect(),
            expected,
            found,
        }
    }
}

/// Where a tensor lies in its file, and how its numbers are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) number: Number,
    pub(super) start: u64,
}

/// How a number is written. Each widens to `f32` exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    fn named(dtype: &str) -> Option<Self> {
        match dtype {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Widens as many numbers as `out` holds.
    pub(super) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (value, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*word);
                }
            }
            Self::F16 => {
                for (value, word) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = half_to_f32(u16::from_le_bytes(*word));
                }
            }
            Self::Bf16 => {
                for (value, word) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
                }
            }
        }
    }
}

/// IEEE 754 binary16 as `f32`: the exponent is moved from its bias of 15 to 127 by a product of
/// powers of two, which is exact for subnormal numbers too.
fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7FFF) << 13;
    if bits & 0x7C00 == 0x7C00 {
        return f32::from_bits(sign | 0x7F80_0000 | rest & 0x007F_FFFF);
    }
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(rest) * TWO_TO_112;
    f32::from_bits(sign | magnitude.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_to_its_value() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                0 => fraction * 2_f64.powi(-24),
                _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
            };
            let expected = if bits >> 15 == 1 { -magnitude } else { magnitude };
            let found = f64::from(half_to_f32(bits));
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{bits:#x}: {found}");
            assert_eq!(found.is_sign_negative(), bits >> 15 == 1);
        }
    }

    #[test]
    fn numbers_widen_in_the_order_of_the_file() {
        let mut out = [0.0; 2];
        Number::F32.widen(&[0, 0, 128, 63, 0, 0, 0, 192], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        Number::Bf16.widen(&[128, 63, 0, 192], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        Number::F16.widen(&[0, 60, 0, 192], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }
}
