//! What the pages tell a reader to type exists: every `suanli ...` in a README or in `docs` names a
//! command and flags that this binary knows.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The help of a command, if there is such a command.
fn help(command: &[&str]) -> Option<String> {
    let mut suanli = Command::new(env!("CARGO_BIN_EXE_suanli"));
    let out = suanli.args(command).arg("--help").output().expect("the binary starts");
    let usage = format!("Usage: suanli {}", command.join(" "));
    let text = String::from_utf8(out.stdout).expect("help is text");
    (out.status.success() && text.contains(&usage)).then_some(text)
}

/// What is typed in a page: lines of code blocks, and code within a line.
fn typed(page: &str) -> Vec<String> {
    let blocks = page.lines().filter_map(|line| line.strip_prefix("    "));
    let within = page.lines().filter(|line| !line.starts_with("    "));
    let within = within.flat_map(|line| line.split('`').skip(1).step_by(2));
    let all = blocks.chain(within).filter_map(|code| code.strip_prefix("suanli "));
    all.map(|code| code.split(" #").next().unwrap_or(code).trim().to_owned()).collect()
}

/// What is wrong with one typed line.
fn fault(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let inner = |c: char| c.is_ascii_lowercase() || c == '-';
    let name = |word: &&&str| word.chars().all(inner) && !word.starts_with('-');
    let names: Vec<&str> = words.iter().take(2).take_while(name).copied().collect();
    let found = (1..=names.len()).rev().find_map(|count| help(&names[..count]));
    let Some(help) = found else {
        return Some(format!("no such command: suanli {line}"));
    };
    let flags = words.iter().filter(|word| word.starts_with("--"));
    let unknown: Vec<_> = flags.filter(|flag| !help.contains(**flag)).collect();
    (!unknown.is_empty()).then(|| format!("suanli {line}: unknown {unknown:?}"))
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of the repository");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| pages(folder));
    let pages = files.iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    // The specification names formats, not what to type.
    let pages = pages.filter(|path| !path.parent().is_some_and(|parent| parent.ends_with("spec")));
    pages.cloned().chain(below).collect()
}

#[test]
fn every_command_in_the_pages_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let mut all = pages(&root.join("docs"));
    all.extend(["README.md", "README.zh.md", "ARCHITECTURE.md"].map(|page| root.join(page)));
    let mut lines = 0;
    let mut wrong = Vec::new();
    for page in all {
        let text = std::fs::read_to_string(&page).expect("a page");
        for line in typed(&text) {
            lines += 1;
            wrong.extend(fault(&line).map(|what| format!("{}: {what}", page.display())));
        }
    }
    assert!(lines > 50, "only {lines} typed lines found: does this test still see the pages?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_command_or_flag_is_seen() {
    assert!(fault("city init --name home").is_none());
    assert!(fault("cty init").is_some());
    assert!(fault("city init --nmae home").is_some());
    assert_eq!(typed("text `suanli jobs` and\n    suanli watch   # why\n"), ["watch", "jobs"]);
}
