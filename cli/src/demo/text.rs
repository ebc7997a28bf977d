//! What the demo learns from when nobody names a text: Rust sources that cargo put on this machine
//! when it built this program. Sorted and capped, so that the same machine gives the same sample.

use crate::exit::{At as _, Failure};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of the sample, at most: about two epochs of a four-minute run on two cores.
const SAMPLE_BYTES_MAX: u64 = 4 << 20;
/// Larger files are tables, mostly.
const FILE_BYTES_MAX: u64 = 128 << 10;
/// Looked at, at most.
const FILES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 12;

/// A sample of Rust sources.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) text: String,
    pub(super) files: usize,
    pub(super) packages: usize,
}

/// The folder where cargo keeps what it downloads.
pub(super) fn cargo_home(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    variable("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// Collects the sample below cargo's home.
pub(super) fn collect(cargo_home: Option<&Path>) -> Result<Sample, Failure> {
    let none = |place: &str| {
        Failure::input(
            format!("found no Rust sources {place} to learn from"),
            "name a text to learn from: suanli demo --data FILE|FOLDER",
        )
    };
    let home = cargo_home.ok_or_else(|| none("(neither CARGO_HOME nor HOME is set)"))?;
    let packages = packages(&home.join("registry").join("src"));
    if packages.is_empty() {
        return Err(none(&format!("in {}", home.display())));
    }
    // Everyone gets the same share, so that the sample is not all of the letter a.
    let share = (SAMPLE_BYTES_MAX / packages.len() as u64).max(16 << 10);
    let mut sample = Sample { text: String::new(), files: 0, packages: 0 };
    for package in &packages {
        let room = share.min(SAMPLE_BYTES_MAX - sample.text.len() as u64);
        let taken = take(&mut sample, package, room)?;
        sample.packages += usize::from(taken);
    }
    if sample.text.is_empty() { Err(none(&format!("in {}", home.display()))) } else { Ok(sample) }
}

/// Every package's `src` folder, by the package's name; whose registry it came from does not count.
fn packages(registries: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = sorted(registries)
        .iter()
        .flat_map(|registry| sorted(registry))
        .map(|package| package.join("src"))
        .filter(|sources| sources.is_dir())
        .collect();
    found.sort_by_key(|sources| {
        sources.parent().and_then(Path::file_name).map(std::ffi::OsStr::to_os_string)
    });
    found.dedup_by_key(|sources| {
        sources.parent().and_then(Path::file_name).map(std::ffi::OsStr::to_os_string)
    });
    found
}

/// Takes whole files of a package until `room` is used up. Whether there was any.
fn take(sample: &mut Sample, package: &Path, room: u64) -> Result<bool, Failure> {
    let mut files = Vec::new();
    walk(package, 0, &mut files);
    let mut used = 0;
    for file in files {
        let Ok(size) = file.metadata().map(|meta| meta.len()) else { continue };
        if size == 0 || size > FILE_BYTES_MAX || used + size + 1 > room {
            continue;
        }
        // Not UTF-8: not for us.
        let bytes = fs::read(&file).at("read", &file)?;
        if let Ok(text) = String::from_utf8(bytes) {
            used += text.len() as u64 + 1;
            sample.text += &text;
            sample.text.push('\n');
            sample.files += 1;
        }
    }
    Ok(used > 0)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    for path in sorted(folder) {
        if files.len() >= FILES_MAX {
            return;
        }
        if path.is_dir() && depth < DEPTH_MAX && !path.is_symlink() {
            walk(&path, depth + 1, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
            files.push(path);
        }
    }
}

/// What is in a folder, by name; nothing when it cannot be read.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The beginning of a text's first longer line: what is continued before and after.
pub(super) fn prompt_of(path: &Path) -> String {
    use std::io::Read as _;
    const LOOK_BYTES: u64 = 16 << 10;
    let fallback = || "The ".to_owned();
    let mut file = path.to_path_buf();
    for _ in 0..DEPTH_MAX {
        if !file.is_dir() {
            break;
        }
        match sorted(&file).into_iter().next() {
            Some(first) => file = first,
            None => return fallback(),
        }
    }
    let mut bytes = Vec::new();
    let Ok(opened) = fs::File::open(&file) else { return fallback() };
    if opened.take(LOOK_BYTES).read_to_end(&mut bytes).is_err() {
        return fallback();
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|line| line.chars().count() >= 12);
    line.map_or_else(fallback, |line| line.chars().take(12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let registry = home.path().join("registry/src");
        for (path, text) in [
            ("two/zebra-1.0.0/src/lib.rs", "fn zebra() {}"),
            ("one/ant-1.0.0/src/lib.rs", "fn ant() {}"),
            ("one/ant-1.0.0/src/deep/er.rs", "fn deeper() {}"),
            ("one/ant-1.0.0/tests/no.rs", "fn no() {}"),
            ("one/ant-1.0.0/src/readme.md", "no"),
        ] {
            let path = registry.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        home
    }

    #[test]
    fn the_sample_is_sorted_by_package_and_holds_sources_only() {
        let home = home();
        fs::write(home.path().join("registry/src/one/ant-1.0.0/src/noise.rs"), [0xff, 0xfe])
            .unwrap();
        let sample = collect(Some(home.path())).unwrap();
        assert_eq!(sample.text, "fn deeper() {}\nfn ant() {}\nfn zebra() {}\n");
        assert_eq!((sample.files, sample.packages), (3, 2));
    }

    #[test]
    fn a_machine_without_sources_is_told_to_name_a_text() {
        let empty = tempfile::tempdir().unwrap();
        for home in [Some(empty.path()), None] {
            let failure = collect(home).unwrap_err();
            assert!(failure.next.contains("--data"), "{failure}");
        }
    }
}
