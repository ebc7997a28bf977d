//! Which files the data are: files, folders and patterns to a sorted list.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suanli_base::Hash;

use super::error::{DataError, io};

/// Most files of one job.
const FILES_MAX: usize = 1 << 20;
/// Folders are followed this deep; deeper ones are a loop or a mistake.
const DEPTH_MAX: usize = 64;
/// A zero byte this early makes a file binary, as git and grep have it.
const BINARY_PROBE_BYTES: u64 = 8192;
/// Larger Rust sources are tables more than text.
const RUST_BYTES: std::ops::RangeInclusive<u64> = 256..=64 << 10;
/// Crates that are bindings made by programs: no text anybody wrote.
const BINDINGS: &[&str] = &["windows", "winapi", "linux-raw-sys", "libc-", "web-sys", "js-sys"];

/// How a file's text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The file is one document.
    Text,
    /// Each line is a JSON object with one document.
    Jsonl,
    /// Each row is a document; the text is in one of the columns.
    Parquet,
}

impl SourceKind {
    /// How a file of that name is read.
    fn of(path: &Path) -> Self {
        let ends = |end: &str| path.extension().is_some_and(|it| it.eq_ignore_ascii_case(end));
        if ends("jsonl") {
            Self::Jsonl
        } else if ends("parquet") {
            Self::Parquet
        } else {
            Self::Text
        }
    }
}

/// One file of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// How it is read.
    pub kind: SourceKind,
}

/// What folders hold that is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Files and folders whose name begins with a dot.
    pub hidden: u64,
    /// Files with a zero byte near their beginning.
    pub binary: u64,
    /// Pipes, sockets, devices and links to folders.
    pub other: u64,
}

/// The files of the data, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Each file once.
    pub files: Vec<Source>,
    /// What was left out.
    pub skipped: Skipped,
}

/// Finds the files that `paths` name: a file as it is, a folder with all below it, and anything
/// else as a pattern (`*`, `?`, `[a-z]`, `**`). In folders, hidden and binary files are left out,
/// but not Parquet files, which are told by their ending.
///
/// # Errors
/// When a path cannot be read, a pattern matches nothing, or a folder has no text.
pub fn find(paths: &[PathBuf]) -> Result<Found, DataError> {
    let mut finder = Finder::default();
    for path in paths {
        match fs::metadata(path) {
            Ok(_) => finder.add(path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_pattern(path) => {
                finder.add_pattern(path)?;
            }
            Err(error) => return Err(io("read", path)(error)),
        }
    }
    Ok(finder.finish())
}

/// A sample of at most `cap_bytes` of the Rust sources that cargo keeps below `cargo_home` (by
/// default `$CARGO_HOME`, else `~/.cargo`): the demo's text. The draw is by hash, so equal
/// sources give an equal sample; generated and very large files are left out.
///
/// # Errors
/// When there are none, with the way out.
pub fn rust_sources(cargo_home: Option<&Path>, cap_bytes: u64) -> Result<Vec<PathBuf>, DataError> {
    let home = match cargo_home {
        Some(home) => home.to_owned(),
        None => std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
            .ok_or(DataError::NoHome)?,
    };
    let root = home.join("registry").join("src");
    let none = || DataError::NoRustSources { path: root.clone() };
    let mut drawn: BTreeMap<Hash, (PathBuf, u64)> = BTreeMap::new();
    for registry in entries(&root).map_err(|_| none())? {
        if registry.is_dir() {
            collect_rust(&registry, &registry, 0, &mut drawn)?;
        }
    }
    let mut taken = Vec::new();
    let mut left = cap_bytes;
    for (path, bytes) in drawn.into_values() {
        if bytes <= left && is_written_by_hand(&path) {
            left -= bytes;
            taken.push(path);
        }
        if left < *RUST_BYTES.start() {
            break;
        }
    }
    if taken.is_empty() {
        return Err(none());
    }
    taken.sort();
    Ok(taken)
}

#[derive(Default)]
struct Finder {
    /// By real path, so that two ways to a file give it once.
    files: BTreeMap<PathBuf, Source>,
    skipped: Skipped,
}

impl Finder {
    fn add(&mut self, path: &Path) -> Result<(), DataError> {
        let metadata = fs::metadata(path).map_err(io("read", path))?;
        if metadata.is_file() {
            return self.push(path);
        }
        if !metadata.is_dir() {
            return Err(DataError::NotAFile { path: path.to_owned() });
        }
        let (files, skipped) = (self.files.len(), self.skipped);
        let seen = self.walk(path, 0)?;
        if seen == 0 && self.files.len() == files {
            let hidden = self.skipped.hidden - skipped.hidden;
            let binary = self.skipped.binary - skipped.binary;
            return Err(DataError::NoTextInFolder { path: path.to_owned(), hidden, binary });
        }
        Ok(())
    }

    fn add_pattern(&mut self, path: &Path) -> Result<(), DataError> {
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            require_literal_separator: true,
            ..glob::MatchOptions::new()
        };
        let no_match = || DataError::NoMatch { path: path.to_owned() };
        let text = path.to_str().ok_or_else(no_match)?;
        let matches = glob::glob_with(text, options).map_err(|error| DataError::Pattern {
            path: path.to_owned(),
            at: error.pos,
            message: error.msg,
        })?;
        let mut any = false;
        for entry in matches {
            let entry = entry.map_err(|error| {
                let path = error.path().to_owned();
                io("read", &path)(error.into())
            })?;
            let metadata = fs::metadata(&entry).map_err(io("read", &entry))?;
            if metadata.is_dir() {
                any |= self.walk(&entry, 0)? > 0;
            } else {
                any |= self.add_found(&entry, metadata.is_file())?;
            }
        }
        if any { Ok(()) } else { Err(no_match()) }
    }

    /// Adds the texts below `folder` and says how many it saw.
    fn walk(&mut self, folder: &Path, depth: usize) -> Result<u64, DataError> {
        if depth > DEPTH_MAX {
            let advice = "is there a loop in the folders?";
            return Err(DataError::TooMany {
                what: "nested folders",
                max: DEPTH_MAX as u64,
                advice,
            });
        }
        let mut seen = 0;
        for path in entries(folder)? {
            if is_hidden(&path) {
                self.skipped.hidden += 1;
                continue;
            }
            let link = fs::symlink_metadata(&path).map_err(io("read", &path))?;
            // A link to nowhere is nobody's text.
            let Ok(metadata) = fs::metadata(&path) else {
                self.skipped.other += 1;
                continue;
            };
            if metadata.is_dir() && !link.is_symlink() {
                seen += self.walk(&path, depth + 1)?;
            } else {
                seen += u64::from(self.add_found(&path, metadata.is_file())?);
            }
        }
        Ok(seen)
    }

    fn add_found(&mut self, path: &Path, is_file: bool) -> Result<bool, DataError> {
        if !is_file {
            self.skipped.other += 1;
        } else if SourceKind::of(path) != SourceKind::Parquet && is_binary(path)? {
            self.skipped.binary += 1;
        } else {
            self.push(path)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn push(&mut self, path: &Path) -> Result<(), DataError> {
        if self.files.len() >= FILES_MAX {
            let advice = "name fewer folders, or join small files into .jsonl";
            return Err(DataError::TooMany { what: "files", max: FILES_MAX as u64, advice });
        }
        let kind = SourceKind::of(path);
        let real = fs::canonicalize(path).map_err(io("read", path))?;
        self.files.entry(real).or_insert(Source { path: path.to_owned(), kind });
        Ok(())
    }

    fn finish(self) -> Found {
        let mut files: Vec<Source> = self.files.into_values().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Found { files, skipped: self.skipped }
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let list = fs::read_dir(folder).map_err(io("list", folder))?;
    let mut paths = Vec::new();
    for entry in list {
        paths.push(entry.map_err(io("list", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_binary(path: &Path) -> Result<bool, DataError> {
    Ok(beginning(path, BINARY_PROBE_BYTES)?.contains(&0))
}

fn beginning(path: &Path, bytes: u64) -> Result<Vec<u8>, DataError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(io("open", path))?;
    file.take(bytes).read_to_end(&mut start).map_err(io("read", path))?;
    Ok(start)
}

fn collect_rust(
    root: &Path,
    folder: &Path,
    depth: usize,
    drawn: &mut BTreeMap<Hash, (PathBuf, u64)>,
) -> Result<(), DataError> {
    if depth > DEPTH_MAX || drawn.len() >= FILES_MAX {
        return Ok(());
    }
    for path in entries(folder)? {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_hidden(&path) || (depth == 0 && BINDINGS.iter().any(|b| name.starts_with(b))) {
            continue;
        }
        if metadata.is_dir() {
            collect_rust(root, &path, depth + 1, drawn)?;
        } else if name.ends_with(".rs") && RUST_BYTES.contains(&metadata.len()) {
            let inside = path.strip_prefix(root).unwrap_or(&path);
            let key = Hash::of(inside.as_os_str().as_encoded_bytes());
            drawn.insert(key, (path, metadata.len()));
        }
    }
    Ok(())
}

fn is_written_by_hand(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let Ok(text) = std::str::from_utf8(&bytes) else { return false };
    let head: String = text.lines().take(12).collect::<Vec<_>>().join("\n").to_lowercase();
    !["@generated", "generated by", "automatically generated", "auto-generated", "do not edit"]
        .iter()
        .any(|mark| head.contains(mark))
}
