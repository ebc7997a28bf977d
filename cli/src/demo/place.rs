//! The demo's folder: what lies where, and what is remembered between two runs.

use crate::exit::{At as _, Class, Failure, Whose};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The file that marks a folder as a demo's. Nothing is ever removed from a folder without it.
const RECORD_NAME: &str = "demo.json";
const RECORD_VERSION: u16 = 1;
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    demo: u16,
    /// Seed of the model and of the order of the data.
    pub(super) seed: u64,
    /// Families at the start.
    pub(super) families: u8,
    /// The job's id, once the city took it.
    pub(super) job: Option<String>,
    /// The text whose continuation is shown before and after.
    pub(super) prompt: String,
    /// What happened on the way, by committed tokens.
    pub(super) marks: Vec<Mark>,
    /// Seconds of training behind it.
    pub(super) trained_s: f64,
    /// Whether the job is complete and was reported.
    pub(super) finished: bool,
}

/// Something that happened on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Committed tokens when it happened.
    pub(super) tokens: u64,
    /// What.
    pub(super) kind: MarkKind,
    /// To whom.
    pub(super) family: String,
}

/// Kinds of marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MarkKind {
    /// Killed with signal 9.
    Killed,
    /// Started again after that.
    Back,
    /// Came for the first time, in mid-run.
    Joined,
}

impl Record {
    pub(super) fn new(seed: u64, families: u8) -> Self {
        Self {
            demo: RECORD_VERSION,
            seed,
            families,
            job: None,
            prompt: String::new(),
            marks: Vec::new(),
            trained_s: 0.0,
            finished: false,
        }
    }

    /// How many of a kind there were.
    pub(super) fn count(&self, kind: MarkKind) -> usize {
        self.marks.iter().filter(|mark| mark.kind == kind).count()
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
}

impl Place {
    /// The folder at `dir`, not yet touched.
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        Ok(Self { root: std::path::absolute(dir).at("name", dir)? })
    }

    /// What an earlier demo left there; nothing when there is no folder or it is empty.
    pub(super) fn earlier(&self) -> Result<Option<Record>, Failure> {
        let path = self.root.join(RECORD_NAME);
        if !self.root.exists() {
            return Ok(None);
        }
        if !self.root.is_dir() {
            let what = format!("{} is a file", self.root.display());
            return Err(Failure::input(what, "name a folder with --dir"));
        }
        if !path.exists() {
            if fs::read_dir(&self.root).at("look into", &self.root)?.next().is_none() {
                return Ok(None);
            }
            return Err(Failure::input(
                format!("{} is not empty and holds no demo", self.root.display()),
                "name another folder with --dir; a demo touches no folder that it did not make",
            ));
        }
        let size = path.metadata().at("look at", &path)?.len();
        let text = if size > RECORD_BYTES_MAX { String::new() } else { read(&path)? };
        match serde_json::from_str::<Record>(&text) {
            Ok(record) if record.demo == RECORD_VERSION => Ok(Some(record)),
            _ => Err(Failure {
                class: Class::Corrupt,
                what: format!("{} is damaged or of another version", path.display()),
                whose: Whose::ThisMachine,
                next: "begin anew with --fresh, or name another folder with --dir".into(),
            }),
        }
    }

    /// Whether there is a demo in the folder, in whatever state.
    pub(super) fn is_ours(&self) -> bool {
        self.root.join(RECORD_NAME).is_file()
    }

    /// Removes an earlier demo, and only a demo.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        if self.is_ours() {
            fs::remove_dir_all(&self.root).at("remove", &self.root)?;
        }
        Ok(())
    }

    /// Remembers. The file is replaced in one step.
    pub(super) fn remember(&self, record: &Record) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| Failure::ours(error.to_string()))?;
        self.write(RECORD_NAME, &text).map(|_| ())
    }

    /// Writes a file of the demo, whole or not at all; its path.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).at("make", folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).at("make a file in", folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).at("write", &path)?;
        let kept = file.persist(&path).map_err(|error| error.error);
        kept.at("write", &path)?;
        Ok(path)
    }

    pub(super) fn city(&self) -> PathBuf {
        self.root.join("city")
    }

    pub(super) fn family(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    pub(super) fn checkpoint_before(&self) -> PathBuf {
        self.root.join("checkpoint-before")
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoint")
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).at("read", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_demo_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "kept").unwrap();
        let place = Place::new(folder.path()).unwrap();
        assert_eq!(place.earlier().unwrap_err().class, Class::Input);
        place.clear().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("precious")).unwrap(), "kept");
    }

    #[test]
    fn what_is_remembered_comes_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(&folder.path().join("demo")).unwrap();
        assert_eq!(place.earlier().unwrap(), None);
        let mut record = Record::new(7, 4);
        record.marks.push(Mark { tokens: 9, kind: MarkKind::Killed, family: "family-2".into() });
        place.remember(&record).unwrap();
        assert_eq!(place.earlier().unwrap(), Some(record));
        fs::write(place.root.join(RECORD_NAME), "{\"demo\": 1").unwrap();
        assert_eq!(place.earlier().unwrap_err().class, Class::Corrupt);
        place.clear().unwrap();
        assert!(!place.root.exists());
    }
}
