//! What a row runs in: how much is asked, where its files go, and its partial results.

use crate::arguments::{Length, Start};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The surroundings of one row.
pub struct Session {
    length: Length,
    /// `target/bench/NAME`
    folder: PathBuf,
    row: String,
}

/// What `target/bench/NAME/ROW.json` holds.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    /// The commit it was measured at.
    commit: String,
    length: String,
    state: T,
}

impl Session {
    /// Opens the folder of a row; a fresh start forgets what was kept there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(bench: &str, row: &str, length: Length, start: Start) -> Result<Self> {
        Self::in_folder(target().join("bench").join(bench), row, length, start)
    }

    fn in_folder(folder: PathBuf, row: &str, length: Length, start: Start) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let session = Self { length, folder, row: row.into() };
        if start == Start::Fresh {
            session.forget()?;
            clear(&session.lasting())?;
        }
        Ok(session)
    }

    /// How much is asked.
    #[must_use]
    pub fn length(&self) -> Length {
        self.length
    }

    fn kept(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.row))
    }

    /// What an earlier run of this row kept with [`Session::keep`], if it measured the same commit
    /// at the same length. Results of two commits are never mixed.
    #[must_use]
    pub fn resume<T: DeserializeOwned>(&self) -> Option<T> {
        let text = std::fs::read(self.kept()).ok()?;
        let kept: Kept<T> = serde_json::from_slice(&text).ok()?;
        let same = kept.commit == commit() && kept.length == format!("{:?}", self.length);
        if !same {
            eprintln!(
                "{}: what is kept was measured at {}, starting afresh",
                self.row, kept.commit
            );
        }
        same.then_some(kept.state)
    }

    /// Keeps partial results, replacing the last ones in one step.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn keep<T: Serialize>(&self, state: &T) -> Result<()> {
        let kept = Kept { commit: commit(), length: format!("{:?}", self.length), state };
        let text = serde_json::to_vec_pretty(&kept).context("partial results as JSON")?;
        let (path, next) = (self.kept(), self.kept().with_extension("next"));
        std::fs::write(&next, text).with_context(|| format!("write {}", next.display()))?;
        std::fs::rename(&next, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Forgets partial results: the row is whole, or starts afresh.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self) -> Result<()> {
        match std::fs::remove_file(self.kept()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.kept().display()))
            }
            _ => Ok(()),
        }
    }

    /// A folder of this row that outlives the run: what it keeps for the next one. A fresh start
    /// empties it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = self.lasting();
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    fn lasting(&self) -> PathBuf {
        self.folder.join(&self.row)
    }

    /// A file or folder that all rows of the bench share and any may make.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn shared(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("shared");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder.join(name))
    }

    /// An empty folder for files of this row.
    ///
    /// # Errors
    /// When it cannot be made or cleared.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{}.scratch", self.row));
        clear(&folder)?;
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// The `suanli` binary of this tree, built for release.
    ///
    /// # Errors
    /// When the build fails.
    pub fn binary(&self) -> Result<PathBuf> {
        let arguments = ["build", "--quiet", "--release", "--locked", "--workspace"];
        run(cargo().args(arguments).args(["--bin", "suanli"]))?;
        Ok(target().join("release").join("suanli"))
    }
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
    }
    Ok(())
}

/// The root of the repository.
///
/// # Panics
/// Never: this crate lies in a folder of the repository.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("bench lies in a folder of the repository")
}

fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// Cargo, run in the root of the repository.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or does not end with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The commit of the tree, with a mark when files were changed since.
fn commit() -> String {
    let out = Command::new("git")
        .current_dir(root())
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output();
    let text = out.ok().filter(|out| out.status.success()).map(|out| out.stdout);
    text.map_or_else(|| "unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(folder: &Path, length: Length, start: Start) -> Session {
        Session::in_folder(folder.to_owned(), "row", length, start).unwrap()
    }

    #[test]
    fn partial_results_are_found_again_until_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let first = session(folder.path(), Length::Whole, Start::Resume);
        assert_eq!(first.resume::<Vec<u32>>(), None);
        first.keep(&vec![1, 2]).unwrap();
        first.keep(&vec![1, 2, 3]).unwrap();
        let second = session(folder.path(), Length::Whole, Start::Resume);
        assert_eq!(second.resume::<Vec<u32>>(), Some(vec![1, 2, 3]));
        std::fs::write(second.folder().unwrap().join("run"), "x").unwrap();
        let fresh = session(folder.path(), Length::Whole, Start::Fresh);
        assert_eq!(std::fs::read_dir(fresh.folder().unwrap()).unwrap().count(), 0);
        assert_eq!(fresh.resume::<Vec<u32>>(), None);
        fresh.forget().unwrap();
    }

    #[test]
    fn results_of_another_length_or_commit_are_not_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        session(folder.path(), Length::Short, Start::Resume).keep(&1).unwrap();
        assert_eq!(session(folder.path(), Length::Whole, Start::Resume).resume::<i32>(), None);
        let other = Kept { commit: "another".into(), length: "Whole".into(), state: 1 };
        let text = serde_json::to_vec(&other).unwrap();
        std::fs::write(folder.path().join("row.json"), text).unwrap();
        assert_eq!(session(folder.path(), Length::Whole, Start::Resume).resume::<i32>(), None);
    }

    #[test]
    fn scratch_is_empty_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let session = session(folder.path(), Length::Whole, Start::Resume);
        std::fs::write(session.scratch().unwrap().join("x"), "x").unwrap();
        assert_eq!(std::fs::read_dir(session.scratch().unwrap()).unwrap().count(), 0);
    }
}
