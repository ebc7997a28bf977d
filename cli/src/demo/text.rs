//! What the demo learns from when nobody names a text: Rust sources that cargo put on this machine
//! when it built this program, copied into the demo's folder so that a resumed demo finds them.

use crate::exit::{At as _, Failure};
use std::fs;
use std::path::Path;
use suanli_store::data::rust_sources;

/// Bytes of the sample, at most: about two epochs of a four-minute run on two cores.
const SAMPLE_BYTES_MAX: u64 = 4 << 20;
/// What is looked at for a prompt.
const LOOK_BYTES: u64 = 16 << 10;
const PROMPT_CHARS: usize = 12;
const DEPTH_MAX: usize = 12;

/// A sample of Rust sources.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) text: String,
    pub(super) files: usize,
}

/// Collects the sample below cargo's home.
pub(super) fn collect(cargo_home: Option<&Path>) -> Result<Sample, Failure> {
    let paths = rust_sources(cargo_home, SAMPLE_BYTES_MAX)?;
    let mut sample = Sample { text: String::new(), files: 0 };
    for path in &paths {
        let bytes = fs::read(path).at("read", path)?;
        // Not UTF-8: not for us.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        sample.text += &text;
        sample.text.push('\n');
        sample.files += 1;
    }
    Ok(sample)
}

/// The beginning of a text's first longer line: what is continued before and after.
pub(super) fn prompt_of(path: &Path) -> String {
    use std::io::Read as _;
    let fallback = || "The ".to_owned();
    let mut file = path.to_path_buf();
    for _ in 0..DEPTH_MAX {
        if !file.is_dir() {
            break;
        }
        let mut inside: Vec<_> =
            fs::read_dir(&file).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        inside.sort();
        match inside.into_iter().next() {
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
    let long = |line: &&str| line.chars().count() >= PROMPT_CHARS;
    let line = text.lines().map(str::trim).find(long);
    line.map_or_else(fallback, |line| line.chars().take(PROMPT_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_sources_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let sources = home.path().join("registry/src/one/ant-1.0.0/src");
        fs::create_dir_all(&sources).unwrap();
        let body = "/// Says how many.\nfn ant() -> u32 {\n    41 + 1\n}\n".repeat(40);
        fs::write(sources.join("lib.rs"), &body).unwrap();
        let sample = collect(Some(home.path())).unwrap();
        assert_eq!((sample.text, sample.files), (body + "\n", 1));
    }

    #[test]
    fn a_machine_without_sources_is_told_to_name_a_text() {
        let empty = tempfile::tempdir().unwrap();
        let failure = collect(Some(empty.path())).unwrap_err();
        assert!(failure.to_string().contains("--data"), "{failure}");
    }

    #[test]
    fn the_prompt_begins_a_line_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(prompt_of(folder.path()), "The ");
        fs::write(folder.path().join("a.txt"), "short\n  Once upon a time there was\n").unwrap();
        assert_eq!(prompt_of(folder.path()), "Once upon a ");
    }
}
