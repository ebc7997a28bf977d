//! Frozen models as a family keeps them: `frozen/ROOT` is whole and verified, `frozen/ROOT.part`
//! the beginning of one on its way. Chunks were verified on arrival, so what a part holds needs no
//! second look until it is whole; then its root decides, for a crash may have torn it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use suanli_base::Hash;
use suanli_params::CHUNK_ELEMENTS;

/// Bytes of a chunk.
const CHUNK: u64 = 4 * CHUNK_ELEMENTS as u64;
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

    /// How many chunks are here, from the first on; the rest may come. All of them: the root was
    /// computed anew and is right.
    pub(super) fn find(&mut self, root: Hash, parameters: u64) -> io::Result<u32> {
        self.part = None;
        let total = parameters.saturating_mul(4);
        let all = u32::try_from(total.div_ceil(CHUNK)).unwrap_or(u32::MAX);
        let whole = self.path(root);
        if is_whole(&whole, root, total)? {
            return Ok(all);
        }
        let path = self.folder.join(format!("{root}.part"));
        if is_whole(&path, root, total)? {
            File::open(&path)?.sync_all()?;
            std::fs::rename(&path, &whole)?;
            File::open(&self.folder)?.sync_all()?;
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

fn is_whole(path: &Path, root: Hash, total: u64) -> io::Result<bool> {
    match path.metadata() {
        Ok(metadata) if metadata.len() == total => Ok(root_of(path)? == root),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The Merkle root over a file's chunks of parameters.
pub(crate) fn root_of(path: &Path) -> io::Result<Hash> {
    let file = File::open(path)?;
    let (mut chunks, mut chunk) = (Vec::new(), Vec::new());
    loop {
        chunk.clear();
        if (&file).take(CHUNK).read_to_end(&mut chunk)? == 0 {
            return Ok(suanli_params::root(&chunks));
        }
        chunks.push(Hash::of(&chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(parameters: usize) -> (Hash, Vec<Bytes>) {
        let bytes: Vec<u8> = (0..parameters).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let chunks: Vec<Bytes> = bytes.chunks(CHUNK as usize).map(Bytes::copy_from_slice).collect();
        let hashes: Vec<Hash> = chunks.iter().map(|chunk| Hash::of(chunk)).collect();
        (suanli_params::root(&hashes), chunks)
    }

    #[test]
    fn chunks_in_any_order_make_the_model_and_a_new_start_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let parameters = 3 * CHUNK_ELEMENTS + 5;
        let (root, chunks) = model(parameters);
        let parameters = parameters as u64;
        let mut frozen = Frozen::open(folder.path()).unwrap();
        assert_eq!(frozen.find(root, parameters).unwrap(), 0);
        frozen.keep(root, CHUNK, chunks[1].clone()).unwrap();
        frozen.keep(root, 0, chunks[0].clone()).unwrap();
        frozen.keep(root, 3 * CHUNK, chunks[3].clone()).unwrap();
        // A kill in the middle of a chunk.
        let mut frozen = Frozen::open(folder.path()).unwrap();
        let part = folder.path().join(format!("frozen/{root}.part"));
        OpenOptions::new().append(true).open(&part).unwrap().write_all(b"torn").unwrap();
        assert_eq!(frozen.find(root, parameters).unwrap(), 2);
        frozen.keep(root, 3 * CHUNK, chunks[3].clone()).unwrap();
        frozen.keep(root, 2 * CHUNK, chunks[2].clone()).unwrap();
        assert_eq!(frozen.find(root, parameters).unwrap(), 4);
        assert!(!part.exists());
        assert_eq!(root_of(&frozen.path(root)).unwrap(), root);
        assert_eq!(frozen.find(root, parameters).unwrap(), 4);
    }

    #[test]
    fn a_torn_or_altered_model_is_read_anew_and_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (root, chunks) = model(7);
        let mut frozen = Frozen::open(folder.path()).unwrap();
        frozen.find(root, 7).unwrap();
        frozen.keep(root, 0, Bytes::from(vec![0; 28])).unwrap();
        assert_eq!(frozen.find(root, 7).unwrap(), 0, "zeros that a crash left");
        frozen.keep(root, 0, chunks[0].clone()).unwrap();
        assert_eq!(frozen.find(root, 7).unwrap(), 1);
        std::fs::write(frozen.path(root), vec![1; 28]).unwrap();
        assert_eq!(frozen.find(root, 7).unwrap(), 0, "altered");

        let (other, chunks) = model(9);
        frozen.find(other, 9).unwrap();
        frozen.keep(other, 0, chunks[0].clone()).unwrap();
        assert_eq!(frozen.find(other, 9).unwrap(), 1);
        assert!(!frozen.path(root).exists());
    }
}
