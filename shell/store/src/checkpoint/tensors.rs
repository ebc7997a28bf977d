//! Weights as `.safetensors`: a length, a JSON header, and the numbers as they lie in memory.
//!
//! Written and read by ourselves, because tensors in the order of the flat buffer make the body
//! one stream, and a file is then never held in memory next to its parameters. The `safetensors`
//! crate is the judge in the tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};
use suanli_engine::ModelConfig;
use suanli_params::{Space, Tensor};

use super::error::{CheckpointError, io as io_error};
use super::header::{Info, Place, TensorFile};
use super::shards;

/// The header's length is a multiple of this, so that the parameters are aligned.
const ALIGNMENT: usize = 8;
/// Elements that are converted at once.
const PIECE: usize = 1 << 16;
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Writes the header and `params`, which the caller has counted.
pub(super) fn write(out: &mut dyn Write, space: &Space, params: &[f32]) -> Result<(), WriteFault> {
    check_finite(space, params).map_err(WriteFault::Content)?;
    let header = header(space);
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

/// Reads the parameters from the files in `folder`, every tensor checked against `config`.
pub(super) fn read(folder: &Path, config: &ModelConfig) -> Result<Vec<f32>, CheckpointError> {
    let files = shards::open(folder)?;
    let places = places(&files, config)?;
    let mut params = vec![0.0_f32; config.parameters()];
    let mut bytes = vec![0_u8; 4 * PIECE];
    let mut open: Option<(usize, File)> = None;
    for (tensor, (index, place)) in config.space().tensors().iter().zip(&places) {
        let file = opened(&mut open, *index, &files[*index].path)?;
        let path = &files[*index].path;
        let out = &mut params[tensor.range()];
        read_tensor(file, path, tensor, *place, &mut bytes, out)?;
    }
    if config.tied
        && let Some(file) = files.iter().find(|file| file.tensors.contains_key(HEAD))
    {
        check_tied(file, config, &params[..config.vocab * config.hidden])?;
    }
    Ok(params)
}

/// Reads all tensors of `space` from one file, which holds nothing else.
pub(super) fn read_all(file: &TensorFile, space: &Space) -> Result<Vec<f32>, CheckpointError> {
    let mut params = vec![0.0_f32; space.len()];
    let mut bytes = vec![0_u8; 4 * PIECE];
    let places = space.tensors().iter().map(|tensor| file.place(&tensor.name, &tensor.shape));
    let places = places.collect::<Result<Vec<Place>, CheckpointError>>()?;
    if let Some(extra) = file.tensors.keys().find(|name| space.tensor(name).is_none()) {
        return Err(file.wrong(extra, "no such tensor".to_owned(), "one".to_owned()));
    }
    file.check_layout()?;
    let path = &file.path;
    let mut input = File::open(path).map_err(io_error("read", path))?;
    for (tensor, place) in space.tensors().iter().zip(places) {
        read_tensor(&mut input, path, tensor, place, &mut bytes, &mut params[tensor.range()])?;
    }
    Ok(params)
}

fn read_tensor(
    file: &mut File,
    path: &Path,
    tensor: &Tensor,
    place: Place,
    bytes: &mut [u8],
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    file.seek(SeekFrom::Start(place.start)).map_err(io_error("read", path))?;
    for (piece, first) in out.chunks_mut(PIECE).zip((0..).step_by(PIECE)) {
        fill(file, place, bytes, piece).map_err(io_error("read", path))?;
        check_piece(path, &tensor.name, first, piece)?;
    }
    Ok(())
}

/// The file with this index: the one that is open, or opened now.
fn opened<'a>(
    open: &'a mut Option<(usize, File)>,
    index: usize,
    path: &Path,
) -> Result<&'a mut File, CheckpointError> {
    if open.as_ref().is_none_or(|(other, _)| *other != index) {
        *open = Some((index, File::open(path).map_err(io_error("read", path))?));
    }
    let (_, file) = open.as_mut().expect("it was just opened");
    Ok(file)
}

fn fill(file: &mut File, place: Place, bytes: &mut [u8], out: &mut [f32]) -> io::Result<()> {
    let bytes = &mut bytes[..place.number.bytes() * out.len()];
    file.read_exact(bytes)?;
    place.number.widen(bytes, out);
    Ok(())
}

/// A head that is tied may be in the files too, when it is the embedding.
fn check_tied(
    file: &TensorFile,
    config: &ModelConfig,
    embedding: &[f32],
) -> Result<(), CheckpointError> {
    let place = file.place(HEAD, &[config.vocab, config.hidden])?;
    let mut input = File::open(&file.path).map_err(io_error("read", &file.path))?;
    input.seek(SeekFrom::Start(place.start)).map_err(io_error("read", &file.path))?;
    let (mut bytes, mut head) = (vec![0_u8; 4 * PIECE], vec![0.0_f32; PIECE]);
    for expected in embedding.chunks(PIECE) {
        let head = &mut head[..expected.len()];
        fill(&mut input, place, &mut bytes, head).map_err(io_error("read", &file.path))?;
        if head != expected {
            let expected = format!("the values of {EMBEDDING}, since the two are tied");
            return Err(file.wrong(HEAD, expected, "others".to_owned()));
        }
    }
    Ok(())
}

fn header(space: &Space) -> String {
    let mut tensors: BTreeMap<String, Value> = BTreeMap::new();
    for tensor in space.tensors() {
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

/// The file and place of each tensor of the model, in the model's order. Nothing else is in the
/// files but what is known to do no harm.
fn places(
    files: &[TensorFile],
    config: &ModelConfig,
) -> Result<Vec<(usize, Place)>, CheckpointError> {
    let space = config.space();
    let find = |name: &str| files.iter().position(|file| file.tensors.contains_key(name));
    let mut places = Vec::with_capacity(space.tensors().len());
    for tensor in space.tensors() {
        // Of one that is in none, the first file says what was expected.
        let index = find(&tensor.name).unwrap_or(0);
        places.push((index, files[index].place(&tensor.name, &tensor.shape)?));
    }
    for file in files {
        let extra = |name: &&String| space.tensor(name).is_none() && !is_harmless(name, config);
        if let Some(extra) = file.tensors.keys().find(extra) {
            return Err(file.wrong(extra, "no such tensor".to_owned(), "one".to_owned()));
        }
        file.check_layout()?;
    }
    Ok(places)
}

/// Whether a tensor beside the model's changes nothing: rotary frequencies that older software
/// stored with each layer and that follow from the config, and a head that is the embedding.
fn is_harmless(name: &str, config: &ModelConfig) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let of_layer = |(number, part): (&str, &str)| {
        part == "self_attn.rotary_emb.inv_freq" && number.parse::<usize>().is_ok()
    };
    name == "model.rotary_emb.inv_freq"
        || layer.is_some_and(of_layer)
        || (config.tied && name == HEAD)
}

fn check_piece(
    path: &Path,
    tensor: &str,
    first: usize,
    piece: &[f32],
) -> Result<(), CheckpointError> {
    let Some(at) = piece.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    Err(CheckpointError::WeightNotFinite {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        index: first + at,
        found: piece[at],
    })
}

fn check_finite(space: &Space, params: &[f32]) -> Result<(), CheckpointError> {
    let Some(at) = params.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let tensor = space.tensors().iter().find(|tensor| tensor.range().contains(&at));
    let tensor = tensor.expect("the tensors cover the flat buffer");
    let (index, found) = (at - tensor.range().start, params[at]);
    Err(CheckpointError::NotFinite { tensor: tensor.name.clone(), index, found })
}
