//! `model.safetensors`: a length, a JSON header, and the parameters as they lie in memory.
//!
//! Written and read by ourselves, because tensors in the order of the flat buffer make the body
//! one stream, and a file is then never held in memory next to its parameters. The `safetensors`
//! crate is the judge in the tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use suanli_engine::ModelConfig;

use super::error::{CheckpointError, damaged, io as io_error};

/// Our largest model's header is under 2 MiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
const LENGTH_BYTES: u64 = 8;
/// The header's length is a multiple of this, so that the parameters are aligned.
const ALIGNMENT: usize = 8;
/// Elements that are converted at once.
const PIECE: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Writes the header and `params`, which the caller has counted.
pub(super) fn write(
    out: &mut dyn Write,
    config: &ModelConfig,
    params: &[f32],
) -> Result<(), WriteFault> {
    check_finite(config, params).map_err(WriteFault::Content)?;
    let header = header(config);
    let put = |out: &mut dyn Write, bytes: &[u8]| out.write_all(bytes).map_err(WriteFault::Io);
    put(out, &(header.len() as u64).to_le_bytes())?;
    put(out, header.as_bytes())?;
    let mut bytes = Vec::with_capacity(4 * PIECE);
    for piece in params.chunks(PIECE) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        put(out, &bytes)?;
    }
    Ok(())
}

/// Why writing stopped.
pub(super) enum WriteFault {
    /// The parameters are not fit to be written.
    Content(CheckpointError),
    /// The system refused.
    Io(io::Error),
}

/// Reads the parameters, every tensor checked against `config`.
pub(super) fn read(path: &Path, config: &ModelConfig) -> Result<Vec<f32>, CheckpointError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let file_bytes = file.metadata().map_err(io_error("read", path))?.len();
    let mut file = BufReader::with_capacity(4 * PIECE, file);
    let (infos, body) = read_header(&mut file, file_bytes, path)?;
    let place = check_infos(&infos, file_bytes - body, config, path)?;
    let mut params = vec![0.0_f32; config.parameters()];
    let mut bytes = vec![0_u8; 4 * PIECE];
    for (tensor, start) in config.space().tensors().iter().zip(place) {
        let from = SeekFrom::Start(body + start);
        file.seek(from).map_err(io_error("read", path))?;
        for piece in params[tensor.range()].chunks_mut(PIECE) {
            let bytes = &mut bytes[..4 * piece.len()];
            file.read_exact(bytes).map_err(io_error("read", path))?;
            let (words, _) = bytes.as_chunks::<4>();
            for (value, word) in piece.iter_mut().zip(words) {
                *value = f32::from_le_bytes(*word);
            }
        }
    }
    check_finite(config, &params)?;
    Ok(params)
}

fn header(config: &ModelConfig) -> String {
    let mut tensors: BTreeMap<String, Value> = BTreeMap::new();
    for tensor in config.space().tensors() {
        let range = tensor.range();
        let info = Info {
            dtype: "F32".to_owned(),
            shape: tensor.shape.clone(),
            data_offsets: (4 * range.start as u64, 4 * range.end as u64),
        };
        tensors.insert(tensor.name.clone(), json!(info));
    }
    tensors.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut text = serde_json::to_string(&tensors).expect("our own types always encode");
    let padded = text.len().next_multiple_of(ALIGNMENT);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text
}

/// The header's tensors, and where the body begins.
fn read_header(
    file: &mut impl Read,
    file_bytes: u64,
    path: &Path,
) -> Result<(BTreeMap<String, Info>, u64), CheckpointError> {
    let Some(after_length) = file_bytes.checked_sub(LENGTH_BYTES) else {
        return Err(damaged(path, format!("expected a header, found {file_bytes} bytes in all")));
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
    let mut infos = BTreeMap::new();
    for (name, value) in values {
        if name != "__metadata__" {
            infos.insert(name, serde_json::from_value(value).map_err(bad)?);
        }
    }
    Ok((infos, LENGTH_BYTES + length))
}

/// Where each tensor of the model starts in the body, in the model's order.
fn check_infos(
    infos: &BTreeMap<String, Info>,
    body_bytes: u64,
    config: &ModelConfig,
    path: &Path,
) -> Result<Vec<u64>, CheckpointError> {
    let wrong = |tensor: &str, expected: String, found: String| CheckpointError::Tensor {
        path: path.to_owned(),
        tensor: tensor.chars().take(100).collect(),
        expected,
        found,
    };
    let space = config.space();
    let mut starts = Vec::with_capacity(space.tensors().len());
    for tensor in space.tensors() {
        let name = &tensor.name;
        let expected = format!("F32 of shape {:?}", tensor.shape);
        let Some(info) = infos.get(name) else {
            return Err(wrong(name, expected, "no such tensor".to_owned()));
        };
        if info.dtype != "F32" || info.shape != tensor.shape {
            let dtype: String = info.dtype.chars().take(20).collect();
            let shape: Vec<usize> = info.shape.iter().copied().take(8).collect();
            return Err(wrong(name, expected, format!("{dtype} of shape {shape:?}")));
        }
        let (start, end) = info.data_offsets;
        let bytes = 4 * tensor.range().len() as u64;
        if end.checked_sub(start) != Some(bytes) || end > body_bytes {
            let found = format!("bytes {start}..{end} of {body_bytes}");
            return Err(wrong(name, format!("{bytes} bytes inside the file"), found));
        }
        starts.push(start);
    }
    if let Some(extra) = infos.keys().find(|name| space.tensor(name).is_none()) {
        return Err(wrong(extra, "no such tensor".to_owned(), "one".to_owned()));
    }
    // All have their length: laid end to end they must fill the body.
    let mut ends: Vec<(u64, u64)> = infos.values().map(|info| info.data_offsets).collect();
    ends.sort_unstable();
    let filled = ends.iter().try_fold(0, |at, &(start, end)| (start == at).then_some(end));
    if filled != Some(body_bytes) {
        return Err(damaged(
            path,
            "its tensors overlap, leave gaps, or are followed by more bytes",
        ));
    }
    Ok(starts)
}

fn check_finite(config: &ModelConfig, params: &[f32]) -> Result<(), CheckpointError> {
    let Some(at) = params.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let space = config.space();
    let tensor = space.tensors().iter().find(|tensor| tensor.range().contains(&at));
    let tensor = tensor.expect("the tensors cover the flat buffer");
    let (index, found) = (at - tensor.range().start, params[at]);
    Err(CheckpointError::NotFinite { tensor: tensor.name.clone(), index, found })
}
