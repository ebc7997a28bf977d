//! Which files hold the weights: one `model.safetensors`, or several named by an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::WEIGHTS;
use super::error::{CheckpointError, damaged};
use super::folder::read_text;
use super::header::TensorFile;

/// The index of several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Most files of one checkpoint.
const FILES_MAX: usize = 1024;
/// Pickled weights, which only their own software should open: reading them can run code.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The headers of all files of weights in `folder`. No tensor is in two of them.
pub(super) fn open(folder: &Path) -> Result<Vec<TensorFile>, CheckpointError> {
    let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if whole.exists() || !index.exists() {
        let pickled = PICKLED.map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        if let Some(path) = pickled.filter(|_| !whole.exists()) {
            return Err(CheckpointError::Pickled { path });
        }
        return Ok(vec![TensorFile::open(&whole)?]);
    }
    let text = read_text(&index, INDEX_BYTES_MAX)?;
    let read: Index =
        serde_json::from_str(&text).map_err(|error| damaged(&index, error.to_string()))?;
    let names: BTreeSet<&str> = read.weight_map.values().map(String::as_str).collect();
    if names.is_empty() || names.len() > FILES_MAX {
        let found = names.len();
        return Err(damaged(&index, format!("expected 1 to {FILES_MAX} files, found {found}")));
    }
    let outside = |name: &&str| inside(folder, name).is_none();
    if let Some(name) = names.iter().find(|name| outside(name)) {
        let name: String = name.chars().take(60).collect();
        return Err(damaged(&index, format!("it names {name:?}, which is no file of the folder")));
    }
    let mut files = Vec::with_capacity(names.len());
    for (name, path) in names.iter().filter_map(|name| Some((name, inside(folder, name)?))) {
        let file = TensorFile::open(&path)?;
        check_against(&index, &read, name, &file)?;
        files.push(file);
    }
    Ok(files)
}

/// The path of a file that lies directly in `folder`.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(_)));
    let alone = components.next().is_none() && !name.contains(['/', '\\']);
    (plain && alone && name.ends_with(".safetensors")).then(|| folder.join(name))
}

/// Index and header must name the same tensors.
fn check_against(
    path: &Path,
    index: &Index,
    name: &str,
    file: &TensorFile,
) -> Result<(), CheckpointError> {
    let place = |tensor: &String| index.weight_map.get(tensor).map(String::as_str);
    if let Some(tensor) = file.tensors.keys().find(|tensor| place(tensor) != Some(name)) {
        let found = place(tensor).map_or("nothing about it", |_| "it in another file");
        return Err(file.wrong(tensor, format!("it where {INDEX} says"), found.to_owned()));
    }
    let here = index.weight_map.iter().filter(|(_, file)| *file == name);
    match here.map(|(tensor, _)| tensor).find(|tensor| !file.tensors.contains_key(*tensor)) {
        None => Ok(()),
        Some(tensor) => {
            let expected = format!("it in {name}, as {} says", path.display());
            Err(file.wrong(tensor, expected, "no such tensor".to_owned()))
        }
    }
}
