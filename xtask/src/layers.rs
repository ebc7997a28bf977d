//! The layers: which crate may use which. One table, checked against every manifest of the
//! workspace (normal, build and dev-dependencies, on every target) and against both READMEs.

use crate::tree::{self, Manifest};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// Some crates of one layer that follow the same rule: they use lower layers only.
struct Group {
    layer: u8,
    /// Where the crates live, relative to the root.
    folders: &'static [&'static str],
    /// Crates of the same layer that these may use all the same.
    beside: &'static [&'static str],
    /// Lower crates (or whole folders, with a `/` at the end) that these may not use.
    never: &'static [&'static str],
    /// The rule in words, for the README.
    may_use: &'static str,
    /// The same for README.zh.md.
    may_use_zh: &'static str,
}

/// DESIGN section 3. What stands here and not in the tree is planned, not written.
const TABLE: &[Group] = &[
    Group {
        layer: 0,
        folders: &["core/base"],
        beside: &[],
        never: &[],
        may_use: "-",
        may_use_zh: "-",
    },
    Group {
        layer: 1,
        folders: &["core/identity", "core/params", "core/link_model"],
        beside: &[],
        never: &[],
        may_use: "0",
        may_use_zh: "0",
    },
    Group {
        layer: 2,
        folders: &["core/log", "core/rdpa", "engine"],
        beside: &[],
        never: &[],
        may_use: "0-1",
        may_use_zh: "0-1",
    },
    Group {
        layer: 3,
        folders: &["core/bus", "core/market", "core/ledger"],
        beside: &[],
        never: &["engine"],
        may_use: "0-2, not each other, not engine",
        may_use_zh: "0-2，彼此不用，也不用 engine",
    },
    Group {
        layer: 4,
        folders: &["core/audit", "core/feedback"],
        beside: &[],
        never: &[],
        may_use: "0-3 (of engine: its reference)",
        may_use_zh: "0-3（engine 只用参考实现）",
    },
    Group {
        layer: 5,
        folders: &["core/node"],
        beside: &[],
        never: &["engine"],
        may_use: "core",
        may_use_zh: "core",
    },
    Group {
        layer: 6,
        folders: &["shell/link", "shell/store", "shell/worker", "shell/sandbox"],
        beside: &[],
        never: &[],
        may_use: "core, engine",
        may_use_zh: "core、engine",
    },
    Group {
        layer: 7,
        folders: &["shell/host", "shell/web"],
        beside: &["shell/host"],
        never: &[],
        may_use: "0-6; web uses host",
        may_use_zh: "0-6；web 可用 host",
    },
    Group {
        layer: 7,
        folders: &["sim"],
        beside: &[],
        never: &["shell/"],
        may_use: "core and engine, never shell",
        may_use_zh: "core 与 engine，绝不用 shell",
    },
    Group {
        layer: 8,
        folders: &["cli", "python", "tests", "bench", "fuzz", "xtask"],
        beside: &["cli"],
        never: &[],
        may_use: "all",
        may_use_zh: "全部",
    },
];

/// What the core may not even depend on (DESIGN section 3): it would bring clocks, sockets, files,
/// threads, entropy or unordered maps.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "rustls",
    "rustix",
    "libc",
    "memmap2",
    "tempfile",
    "rayon",
    "crossbeam",
    "rand",
    "getrandom",
    "fastrand",
    "hashbrown",
    "indexmap",
    "chrono",
    "parking_lot",
    "anyhow",
];

/// Whether the READMEs are checked or brought up to date.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Fail when they differ.
    Check,
    /// Write the table into them.
    Write,
}

/// Checks the whole workspace.
pub(crate) fn run(table: Table) -> Result<()> {
    let manifests = tree::manifests()?;
    let mut wrong = violations(&manifests);
    wrong.extend(members(&manifests)?);
    for (file, language) in [("README.md", Language::English), ("README.zh.md", Language::Chinese)]
    {
        wrong.extend(readme(file, language, table)?);
    }
    if !wrong.is_empty() {
        bail!("the layers do not hold:\n  {}", wrong.join("\n  "));
    }
    println!("layers: {} crates, each uses lower layers only", manifests.len());
    Ok(())
}

fn group(folder: &str) -> Option<&'static Group> {
    TABLE.iter().find(|group| group.folders.contains(&folder))
}

/// Why `user` may not use `used`, if so.
fn refusal(user: &str, used: &str) -> Option<String> {
    let (Some(above), Some(below)) = (group(user), group(used)) else { return None };
    let banned =
        above.never.iter().any(|no| used == *no || no.ends_with('/') && used.starts_with(no));
    let lower = below.layer < above.layer || above.beside.contains(&used);
    let rule = match (banned, lower) {
        (false, true) => return None,
        (true, _) => "that one is named as forbidden",
        (false, false) => "only lower layers are allowed",
    };
    let (a, b) = (above.layer, below.layer);
    Some(format!(
        "{user} (layer {a}) uses {used} (layer {b}): {rule}; it may use {}",
        above.may_use
    ))
}

fn violations(manifests: &[Manifest]) -> Vec<String> {
    let named = manifests.iter().filter_map(|each| Some((each.name()?, each.folder.as_str())));
    let folders: BTreeMap<&str, &str> = named.collect();
    let mut wrong = Vec::new();
    for manifest in manifests {
        let user = manifest.folder.as_str();
        if group(user).is_none() {
            wrong
                .push(format!("{user} is in no layer; add it to the table in xtask/src/layers.rs"));
        }
        for dependency in dependencies(&manifest.toml) {
            match folders.get(dependency.as_str()) {
                Some(used) => wrong.extend(refusal(user, used)),
                None if user.starts_with("core/") && NOT_IN_CORE.contains(&dependency.as_str()) => {
                    wrong.push(format!(
                        "{user} depends on {dependency}, which the core may not touch"
                    ));
                }
                None => {}
            }
        }
    }
    wrong
}

/// The packages that a manifest depends on, of every kind and for every target.
fn dependencies(toml: &toml::Table) -> Vec<String> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = toml.get("target").and_then(toml::Value::as_table);
    let targets =
        targets.into_iter().flat_map(|all| all.values()).filter_map(toml::Value::as_table);
    let tables = std::iter::once(toml).chain(targets);
    let lists =
        tables.flat_map(|table| KINDS.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    let entries = lists.flat_map(|list| list.iter());
    entries
        .map(|(key, value)| {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            renamed.unwrap_or(key).to_owned()
        })
        .collect()
}

/// Every manifest is a member, and takes the lints of the workspace.
fn members(manifests: &[Manifest]) -> Result<Vec<String>> {
    let members = tree::members()?;
    let mut wrong = Vec::new();
    for Manifest { folder, toml } in manifests {
        if !members.contains(folder) {
            wrong.push(format!("{folder} is no member of the workspace; add it in Cargo.toml"));
        }
        let lints = toml.get("lints").and_then(|part| part.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            wrong.push(format!(
                "{folder} does not take the lints of the workspace ([lints] workspace = true)"
            ));
        }
    }
    Ok(wrong)
}

#[derive(Clone, Copy)]
enum Language {
    English,
    Chinese,
}

const BEGIN: &str = "<!-- layers: written by `cargo xtask layers --write` -->";
const END: &str = "<!-- /layers -->";

/// The table as both READMEs show it. What is not written yet stands in italics.
fn markdown(language: Language, exists: impl Fn(&str) -> bool) -> String {
    let mut text = match language {
        Language::English => "| layer | crates | may use |\n| --- | --- | --- |\n".to_owned(),
        Language::Chinese => "| 层 | crate | 可以使用 |\n| --- | --- | --- |\n".to_owned(),
    };
    for group in TABLE {
        let names = group.folders.iter().map(|folder| {
            let name = folder.rsplit('/').next().unwrap_or(folder);
            if exists(folder) { name.to_owned() } else { format!("*{name}*") }
        });
        let names = names.collect::<Vec<_>>().join(", ");
        let may_use = match language {
            Language::English => group.may_use,
            Language::Chinese => group.may_use_zh,
        };
        text += &format!("| {} | {names} | {may_use} |\n", group.layer);
    }
    text
}

fn readme(file: &str, language: Language, table: Table) -> Result<Option<String>> {
    let exists = |folder: &str| tree::root().join(folder).join("Cargo.toml").is_file();
    let expected = markdown(language, exists);
    let text = tree::read(file)?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{file} lacks {BEGIN}"))?;
    let (found, after) = rest.split_once(END).with_context(|| format!("{file} lacks {END}"))?;
    if found.trim() == expected.trim() {
        return Ok(None);
    }
    if table == Table::Check {
        let what = "shows another table than xtask/src/layers.rs; run cargo xtask layers --write";
        return Ok(Some(format!("{file} {what}")));
    }
    let written = format!("{before}{BEGIN}\n{expected}{END}{after}");
    std::fs::write(tree::root().join(file), written).with_context(|| format!("write {file}"))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(folder: &str, text: &str) -> Manifest {
        Manifest { folder: folder.into(), toml: text.parse().unwrap() }
    }

    fn package(folder: &str, rest: &str) -> Manifest {
        let name = folder.rsplit('/').next().unwrap();
        manifest(folder, &format!("package.name = \"suanli-{name}\"\n{rest}"))
    }

    #[test]
    fn arrows_go_down_only() {
        assert_eq!(refusal("core/node", "core/bus"), None);
        assert_eq!(refusal("sim", "engine"), None);
        assert_eq!(refusal("shell/web", "shell/host"), None);
        assert_eq!(refusal("bench", "cli"), None);
        for (user, used) in [
            ("core/base", "core/identity"),
            ("core/bus", "core/market"),
            ("core/market", "core/bus"),
            ("core/ledger", "engine"),
            ("core/node", "engine"),
            ("core/log", "core/rdpa"),
            ("shell/host", "shell/web"),
            ("shell/link", "shell/store"),
            ("sim", "shell/host"),
            ("sim", "shell/link"),
            ("cli", "bench"),
        ] {
            let said = refusal(user, used).unwrap_or_default();
            assert!(said.contains(user) && said.contains(used), "{user} -> {used}: {said}");
        }
    }

    #[test]
    fn every_kind_of_dependency_is_seen_under_its_true_name() {
        let bus = package("core/bus", "");
        for text in [
            "[dependencies]\nsuanli-bus.workspace = true",
            "[dev-dependencies]\nsuanli-bus = { path = \"x\" }",
            "[build-dependencies]\nsuanli-bus = \"1\"",
            "[target.'cfg(unix)'.dependencies]\nsuanli-bus = \"1\"",
            "[dependencies]\nharmless = { package = \"suanli-bus\", path = \"x\" }",
        ] {
            let wrong = violations(&[
                package("core/rdpa", text),
                manifest("core/bus", "package.name = \"suanli-bus\""),
            ]);
            assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
        }
        assert_eq!(violations(&[package("core/rdpa", ""), bus]), Vec::<String>::new());
    }

    #[test]
    fn the_core_takes_no_runtime_and_a_stranger_needs_a_layer() {
        let wrong = violations(&[package("core/bus", "[dependencies]\ntokio = \"1\"")]);
        assert!(wrong[0].contains("tokio"), "{wrong:?}");
        let wrong = violations(&[package("extra", "")]);
        assert!(wrong[0].contains("no layer"), "{wrong:?}");
    }

    #[test]
    fn a_planned_crate_stands_in_italics() {
        let text = markdown(Language::English, |folder| folder != "core/market");
        assert!(text.contains("| 3 | bus, *market*, ledger | 0-2, not each other"), "{text}");
    }
}
