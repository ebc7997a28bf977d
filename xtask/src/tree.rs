//! The repository as files: its root, what belongs to it, and the manifests of its crates.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in a folder of the repository").to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that started us.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// Every file of the repository relative to its root: what git tracks or would track; without git,
/// all there is but build outputs.
pub(crate) fn files() -> Result<Vec<String>> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let mut files = match listed {
        Ok(out) if out.status.success() => {
            let text = String::from_utf8(out.stdout).context("file names in UTF-8")?;
            text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        _ => walk(&root())?,
    };
    files.retain(|name: &String| root().join(name).is_file());
    files.sort();
    Ok(files)
}

fn walk(folder: &Path) -> Result<Vec<String>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(folder).expect("found below it").to_string_lossy();
            match (path.is_dir(), name.as_ref()) {
                (true, "target" | ".git" | "out") => {}
                (true, _) => open.push(path),
                (false, _) => found.push(name.into_owned()),
            }
        }
    }
    Ok(found)
}

/// Reads a file of the repository as text; bytes that are no UTF-8 are replaced.
pub(crate) fn read(name: &str) -> Result<String> {
    let bytes = std::fs::read(root().join(name)).with_context(|| format!("read {name}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A `Cargo.toml` of the workspace.
pub(crate) struct Manifest {
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    /// Its contents.
    pub(crate) toml: toml::Table,
}

impl Manifest {
    /// The name of the package, as other manifests call it.
    pub(crate) fn name(&self) -> Option<&str> {
        self.toml.get("package")?.get("name")?.as_str()
    }
}

/// The members of the workspace, as its root names them.
pub(crate) fn members() -> Result<Vec<String>> {
    let table: toml::Table = read("Cargo.toml")?.parse().context("parse Cargo.toml")?;
    let members = table.get("workspace").and_then(|part| part.get("members"));
    let members = members.and_then(toml::Value::as_array).context("Cargo.toml names no members")?;
    Ok(members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

/// Every manifest of the tree but the root's.
pub(crate) fn manifests() -> Result<Vec<Manifest>> {
    let names = files()?;
    let manifests = names.iter().filter_map(|name| Some((name, name.strip_suffix("/Cargo.toml")?)));
    manifests
        .map(|(name, folder)| {
            let toml = read(name)?.parse().with_context(|| format!("parse {name}"))?;
            Ok(Manifest { folder: folder.to_owned(), toml })
        })
        .collect()
}
