//! Frozen models as a family keeps them: `frozen/ROOT` is whole and verified, `frozen/ROOT.part`
//! the beginning of one on its way, packed as it travels. Chunks were verified on arrival, so what a
//! part holds needs no second look until it is whole; then its root decides, for a crash may have
//! torn it, and it is unpacked.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use suanli_base::Hash;
use suanli_bus::Frozen as Model;

use crate::packed::{root_of, root_of_chunks, unpack_file};

/// Bytes of a chunk.
const CHUNK: u64 = Model::PACKED_CHUNK as u64;
/// Chunks that came before their turn, at most: more than a download has on its way.
const EARLY_MAX: usize = 64;

/// The folder of frozen models, and the one on its way.
pub(super) struct Frozen {
    folder: PathBuf,
    part: Option<Part>,
}

/// A model on its way: all bytes up to `at` are in the file.
struct Part {
    root: Hash,
    file: File,
    at: u64,
    early: BTreeMap<u64, Bytes>,
}

impl Frozen {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join("frozen");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, part: None })
    }

    /// Where a model lies once it is whole.
    pub(super) fn path(&self, root: Hash) -> PathBuf {
        self.folder.join(root.to_string())
    }

    /// How many packed chunks are here, from the first on; the rest may come. All of them: it is
    /// unpacked, and its root was computed anew and is right.
    pub(super) fn find(&mut self, model: &Model) -> io::Result<u32> {
        self.part = None;
        let (root, total) = (model.root, model.packed_bytes);
        let all = u32::try_from(model.packed_chunks()).unwrap_or(u32::MAX);
        let whole = self.path(root);
        if has_length(&whole, model.parameters.saturating_mul(4))? && root_of(&whole)? == root {
            return Ok(all);
        }
        let path = self.folder.join(format!("{root}.part"));
        if has_length(&path, total)?
            && root_of_chunks(&path, Model::PACKED_CHUNK)? == model.packed_root
            && self.unpack(&path, model)?
        {
            self.remove_others(&whole);
            return Ok(all);
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let found = file.metadata()?.len();
        // A whole one with another root was torn by a crash: from the beginning.
        let at = if found < total { found / CHUNK * CHUNK } else { 0 };
        file.set_len(at)?;
        self.part = Some(Part { root, file, at, early: BTreeMap::new() });
        Ok(u32::try_from(at / CHUNK).unwrap_or(0))
    }

    /// Unpacks a model that is here whole; not so when it is another one than its packing says.
    fn unpack(&self, part: &Path, model: &Model) -> io::Result<bool> {
        let made = self.folder.join(format!("{}.unpacked", model.root));
        match unpack_file(part, &made, model.parameters) {
            Ok(root) if root == model.root => {
                std::fs::rename(&made, self.path(model.root))?;
                File::open(&self.folder)?.sync_all()?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes in a chunk; one that nobody waits for is dropped.
    pub(super) fn keep(&mut self, root: Hash, offset: u64, bytes: Bytes) -> io::Result<()> {
        let Some(part) = self.part.as_mut().filter(|part| part.root == root) else { return Ok(()) };
        if offset >= part.at && part.early.len() < EARLY_MAX {
            part.early.insert(offset, bytes);
        }
        while let Some(bytes) = part.early.remove(&part.at) {
            part.file.write_all(&bytes)?;
            part.at += bytes.len() as u64;
        }
        Ok(())
    }

    /// One job at a time is worked on, and these files are large: only its model stays.
    fn remove_others(&self, keep: &Path) {
        let Ok(files) = self.folder.read_dir() else { return };
        for path in files.flatten().map(|file| file.path()).filter(|path| path != keep) {
            if let Err(error) = std::fs::remove_file(&path) {
                eprintln!("suanli: {} stays on disk: {error}", path.display());
            }
        }
    }
}

fn has_length(path: &Path, total: u64) -> io::Result<bool> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len() == total),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{describe, pack_model};

    /// A model of `chunks` packed chunks: numbers drawn, which no packing shortens by much.
    fn model(chunks: u64, seed: u64) -> (Model, Vec<Bytes>) {
        let mut random = suanli_base::Random::new(seed);
        // Numbers whose every bit is drawn do not pack: as many chunks as their bytes fill.
        let parameters = usize::try_from(chunks * CHUNK).unwrap() / 4 - 30_000;
        let mut number = || random.below(0x7F00_0000) as u32 | (random.below(2) as u32) << 31;
        let params: Vec<f32> = (0..parameters).map(|_| f32::from_bits(number())).collect();
        let packed = pack_model(&params).unwrap();
        let model = describe("m".into(), &params, &packed, String::new());
        assert_eq!(model.packed_chunks(), chunks);
        (model, packed.chunks(Model::PACKED_CHUNK).map(Bytes::copy_from_slice).collect())
    }

    #[test]
    fn chunks_in_any_order_make_the_model_and_a_new_start_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (model, chunks) = model(4, 1);
        let root = model.root;
        let mut frozen = Frozen::open(folder.path()).unwrap();
        assert_eq!(frozen.find(&model).unwrap(), 0);
        frozen.keep(root, CHUNK, chunks[1].clone()).unwrap();
        frozen.keep(root, 0, chunks[0].clone()).unwrap();
        frozen.keep(root, 3 * CHUNK, chunks[3].clone()).unwrap();
        // A kill in the middle of a chunk.
        let mut frozen = Frozen::open(folder.path()).unwrap();
        let part = folder.path().join(format!("frozen/{root}.part"));
        OpenOptions::new().append(true).open(&part).unwrap().write_all(b"torn").unwrap();
        assert_eq!(frozen.find(&model).unwrap(), 2);
        frozen.keep(root, 3 * CHUNK, chunks[3].clone()).unwrap();
        frozen.keep(root, 2 * CHUNK, chunks[2].clone()).unwrap();
        assert_eq!(frozen.find(&model).unwrap(), 4);
        let names = || std::fs::read_dir(folder.path().join("frozen")).unwrap();
        let names: Vec<_> = names().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, [std::ffi::OsString::from(root.to_string())]);
        assert_eq!(root_of(&frozen.path(root)).unwrap(), root);
        assert_eq!(frozen.find(&model).unwrap(), 4);
    }

    #[test]
    fn a_torn_or_altered_model_is_read_anew_and_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (one, chunks) = model(1, 2);
        let mut frozen = Frozen::open(folder.path()).unwrap();
        frozen.find(&one).unwrap();
        let zeros = vec![0; chunks[0].len()];
        frozen.keep(one.root, 0, zeros.into()).unwrap();
        assert_eq!(frozen.find(&one).unwrap(), 0, "zeros that a crash left");
        frozen.keep(one.root, 0, chunks[0].clone()).unwrap();
        assert_eq!(frozen.find(&one).unwrap(), 1);
        let altered = vec![1; usize::try_from(4 * one.parameters).unwrap()];
        std::fs::write(frozen.path(one.root), altered).unwrap();
        assert_eq!(frozen.find(&one).unwrap(), 0, "altered");

        let (other, chunks) = model(1, 3);
        frozen.find(&other).unwrap();
        frozen.keep(other.root, 0, chunks[0].clone()).unwrap();
        assert_eq!(frozen.find(&other).unwrap(), 1);
        assert!(!frozen.path(one.root).exists());
    }

    #[test]
    fn a_packing_of_another_model_than_it_says_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (mut model, chunks) = model(1, 4);
        model.root = Hash([9; 32]);
        let mut frozen = Frozen::open(folder.path()).unwrap();
        frozen.find(&model).unwrap();
        frozen.keep(model.root, 0, chunks[0].clone()).unwrap();
        assert_eq!(frozen.find(&model).unwrap(), 0);
        assert!(!frozen.path(model.root).exists());
    }
}
