//! The words of the tree: what no file of this repository says, how every crate begins, and whether
//! its pages' links lead somewhere.

use crate::tree;
use anyhow::{Result, bail};

/// Lines from which a file is listed as too long for one subject (STYLE section 3).
const LONG_LINES: usize = 700;

/// Package registries, in two halves so that this file passes its own check.
const REGISTRIES: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("registry.npmjs", ".org"),
    ("npmjs", ".com"),
    ("deb.debian", ".org"),
];

/// Folders that exist on one machine only.
const MACHINE_FOLDERS: &[&str] = &["work", "farm", "root", "home", "Users"];

/// Marks of what is not finished, in two halves for the same reason.
const STUBS: &[(&str, &str)] = &[
    ("todo", "!("),
    ("unimplemented", "!("),
    ("FIX", "ME"),
    ("TO", "DO"),
    ("XX", "X"),
    ("#[igno", "re]"),
];

/// Files that name registries by their nature.
const EXEMPT: &[&str] = &["Cargo.lock"];

/// Checks the whole tree.
pub(crate) fn run() -> Result<()> {
    let files = tree::files()?;
    let (mut wrong, mut long) = (Vec::new(), Vec::new());
    for name in files.iter().filter(|name| !EXEMPT.contains(&name.as_str())) {
        let text = tree::read(name)?;
        wrong.extend(faults(name, &text));
        let lines = text.lines().count();
        if name.ends_with(".rs") && lines > LONG_LINES && !name.contains("tests") {
            long.push(format!("{lines} {name}"));
        }
    }
    if !long.is_empty() {
        println!(
            "words: files over {LONG_LINES} lines (one subject each?):\n  {}",
            long.join("\n  ")
        );
    }
    if !wrong.is_empty() {
        bail!("words that do not belong here:\n  {}", wrong.join("\n  "));
    }
    println!("words: {} files read, nothing out of place", files.len());
    Ok(())
}

fn faults(name: &str, text: &str) -> Vec<String> {
    let source = [".rs", ".py", ".js", ".sol", ".sh"].iter().any(|end| name.ends_with(end));
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let at = |what: String| format!("{name}:{number}: {what}");
        let registry = REGISTRIES.iter().map(|(a, b)| format!("{a}{b}"));
        wrong.extend(
            registry
                .filter(|host| line.contains(host))
                .map(|host| at(format!("names the registry host {host}"))),
        );
        let folders = MACHINE_FOLDERS.iter().filter(|folder| names_folder(line, folder));
        wrong.extend(folders.map(|folder| at(format!("a path of one machine (/{folder}/)"))));
        let stubs = STUBS.iter().map(|(a, b)| format!("{a}{b}"));
        wrong.extend(
            stubs
                .filter(|mark| source && line.contains(mark))
                .map(|mark| at(format!("unfinished: {mark}"))),
        );
    }
    wrong.extend(broken_links(name, text));
    let opens = text.trim_start().starts_with("//!");
    if (name.ends_with("src/lib.rs") || name.ends_with("src/main.rs")) && !opens {
        wrong.push(format!("{name}: does not open with what the crate is for (//!)"));
    }
    wrong
}

/// Relative links of a page that lead nowhere.
fn broken_links(name: &str, text: &str) -> Vec<String> {
    if !name.ends_with(".md") {
        return Vec::new();
    }
    let folder = tree::root().join(name).parent().expect("a file lies in a folder").to_owned();
    let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let files = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
    let lost = files.filter(|link| {
        let path = link.split('#').next().unwrap_or(link);
        !folder.join(path).exists()
    });
    lost.map(|link| format!("{name}: links to {link}, which is not there")).collect()
}

/// Whether `line` holds `/folder/` as the beginning of an absolute path.
fn names_folder(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_.~-/})".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_word_is_found() {
        let registry = ["https://crates", ".io/x"].concat();
        let path = ["see /ho", "me/someone/x"].concat();
        let stub = ["to", "do!()"].concat();
        for (name, text) in [("a.md", &registry), ("a.md", &path), ("a.rs", &stub)] {
            assert_eq!(faults(name, text).len(), 1, "{text}");
        }
        assert_eq!(faults("x/src/lib.rs", "pub fn a() {}").len(), 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "[a](README.md) [b](https://example.org/x) [c](#here) [d](README.md#x)";
        assert!(broken_links("top.md", text).is_empty());
        assert_eq!(broken_links("docs/page.md", "[a](../nowhere.md)").len(), 1);
    }

    #[test]
    fn a_path_below_another_folder_is_no_machine_path() {
        assert!(faults("a.md", &["target/wo", "rk/x and ~/ho", "me/y"].concat()).is_empty());
        assert!(faults("x/src/lib.rs", "//! What it is for.\npub fn a() {}").is_empty());
    }
}
