//! A folder that appears whole or not at all, and what is in it by hash.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suanli_base::Hash;
use tempfile::TempDir;

use super::Overwrite;
use super::error::{CheckpointError, damaged, io as io_error};
use super::tensors::WriteFault;

/// The file that shows that a folder is ours.
const MARK: &str = "suanli.json";
const MARK_BYTES_MAX: u64 = 1 << 16;
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// BLAKE3 of every other file, as 64 hexadecimal digits.
    blake3: BTreeMap<String, String>,
}

/// A checkpoint that is being written next to its place.
pub(super) struct Draft {
    target: PathBuf,
    overwrite: Overwrite,
    work: TempDir,
    hashes: BTreeMap<String, String>,
}

impl Draft {
    /// Begins one; looks first whether its place may be taken.
    pub(super) fn beside(target: &Path, overwrite: Overwrite) -> Result<Self, CheckpointError> {
        // A name of dots only has no parent to write beside: give it its real one.
        let target = std::path::absolute(target).map_err(io_error("find", target))?;
        may_take(&target, overwrite)?;
        let (Some(parent), Some(_)) = (target.parent(), target.file_name()) else {
            return Err(CheckpointError::NotOurs { path: target });
        };
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        let work = tempfile::Builder::new().prefix(".checkpoint-").tempdir_in(parent);
        let work = work.map_err(io_error("create a folder in", parent))?;
        Ok(Self { target, overwrite, work, hashes: BTreeMap::new() })
    }

    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.stream(name, |out| out.write_all(bytes).map_err(WriteFault::Io))
    }

    pub(super) fn stream(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), WriteFault>,
    ) -> Result<(), CheckpointError> {
        let path = self.work.path().join(name);
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        let mut out = Hashed { file: BufWriter::new(file), hasher: blake3::Hasher::new() };
        fill(&mut out).map_err(|fault| match fault {
            WriteFault::Content(error) => error,
            WriteFault::Io(error) => io_error("write", &path)(error),
        })?;
        out.file.flush().map_err(io_error("write", &path))?;
        out.file.get_ref().sync_all().map_err(io_error("sync", &path))?;
        let hash = Hash(*out.hasher.finalize().as_bytes());
        self.hashes.insert(name.to_owned(), hash.to_string());
        Ok(())
    }

    /// Puts it in its place; says where a foreign folder went.
    pub(super) fn publish(mut self) -> Result<Option<PathBuf>, CheckpointError> {
        let mark = Mark { format: FORMAT, blake3: std::mem::take(&mut self.hashes) };
        let text = serde_json::to_string_pretty(&mark).expect("our own types always encode");
        self.write(MARK, text.as_bytes())?;
        open_to_others(self.work.path())?;
        let aside = self.make_room()?;
        if let Err(error) = fs::rename(self.work.path(), &self.target) {
            if let Some(aside) = &aside {
                // What was there goes back; when even that fails the first error says where to look.
                let _ = fs::rename(&aside.path, &self.target);
            }
            return Err(io_error("create", &self.target)(error));
        }
        if let Some(parent) = self.target.parent() {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(io_error("sync", parent))?;
        }
        match aside {
            Some(Aside { path, ours: true }) => {
                fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
                Ok(None)
            }
            Some(Aside { path, ours: false }) => Ok(Some(path)),
            None => Ok(None),
        }
    }

    /// Moves what is in the place aside.
    fn make_room(&self) -> Result<Option<Aside>, CheckpointError> {
        may_take(&self.target, self.overwrite)?;
        if !self.target.exists() {
            return Ok(None);
        }
        let ours = is_ours(&self.target) || is_empty(&self.target);
        let name = self.target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = |n: &u32| !self.target.with_file_name(format!("{name}.before-{n}")).exists();
        let Some(n) = (1..1000).find(free) else {
            return Err(CheckpointError::NotOurs { path: self.target.clone() });
        };
        let path = self.target.with_file_name(format!("{name}.before-{n}"));
        fs::rename(&self.target, &path).map_err(io_error("move", &self.target))?;
        Ok(Some(Aside { path, ours }))
    }
}

struct Aside {
    path: PathBuf,
    ours: bool,
}

struct Hashed {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Compares every file with the hash that the mark names; without a mark there is nothing to do.
pub(super) fn check_hashes(folder: &Path) -> Result<(), CheckpointError> {
    let path = folder.join(MARK);
    if !path.exists() {
        return Ok(());
    }
    let text = read_text(&path, MARK_BYTES_MAX)?;
    let mark: Mark =
        serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
    if mark.format != FORMAT {
        return Err(damaged(&path, format!("expected format {FORMAT}, found {}", mark.format)));
    }
    for (name, expected) in mark.blake3 {
        if Path::new(&name).components().count() != 1 || name == ".." {
            return Err(damaged(&path, "it names a file outside the folder"));
        }
        let path = folder.join(&name);
        let mut file = File::open(&path).map_err(io_error("read", &path))?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut file, &mut hasher).map_err(io_error("read", &path))?;
        let found = Hash(*hasher.finalize().as_bytes()).to_string();
        if found != expected && name != super::CARD {
            return Err(damaged(&path, format!("its hash is not the one in {MARK}")));
        }
    }
    Ok(())
}

pub(super) fn read_text(path: &Path, max: u64) -> Result<String, CheckpointError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > max {
        return Err(damaged(path, format!("expected at most {max} bytes, found more")));
    }
    String::from_utf8(bytes).map_err(|_| damaged(path, "it is not UTF-8"))
}

fn may_take(target: &Path, overwrite: Overwrite) -> Result<(), CheckpointError> {
    let path = target.to_owned();
    match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("look at", target)(error)),
        Ok(metadata) if !metadata.is_dir() => Err(CheckpointError::NotAFolder { path }),
        Ok(_) if overwrite == Overwrite::AnyFolder => Ok(()),
        Ok(_) if is_ours(target) || is_empty(target) => Ok(()),
        Ok(_) => Err(CheckpointError::NotOurs { path }),
    }
}

/// Whether a folder has our mark, and nothing in it that we did not write.
fn is_ours(folder: &Path) -> bool {
    let Ok(text) = read_text(&folder.join(MARK), MARK_BYTES_MAX) else { return false };
    let Ok(mark) = serde_json::from_str::<Mark>(&text) else { return false };
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.into_iter().all(|entry| {
        let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
        name.is_ok_and(|name| name == MARK || mark.blake3.contains_key(&name))
    })
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// A temporary folder is its maker's alone; a checkpoint is read by other software too.
#[cfg(unix)]
fn open_to_others(folder: &Path) -> Result<(), CheckpointError> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder, permissions).map_err(io_error("open to others", folder))
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Result<(), CheckpointError> {
    Ok(())
}
