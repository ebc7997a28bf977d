//! Licences of what we depend on, read from `cargo metadata`.
//!
//! Not for: advisories. Their list lies outside this repository and CI reaches no such host.

use crate::tree;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Licences under which the binary may be given away with its own two.
const ACCEPTED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CDLA-Permissive-2.0",
];

/// Checks every package of the lock file.
pub(crate) fn run() -> Result<()> {
    let metadata = metadata()?;
    let packages = metadata.get("packages").and_then(|all| all.as_array());
    let packages = packages.context("cargo metadata lists no packages")?;
    let text = |package: &serde_json::Value, key: &str| {
        package.get(key).and_then(|value| value.as_str()).unwrap_or("").to_owned()
    };
    let wrong: Vec<String> = packages
        .iter()
        .filter(|package| !accepted(&text(package, "license")))
        .map(|package| {
            let (name, version) = (text(package, "name"), text(package, "version"));
            format!("{name} {version}: licence \"{}\"", text(package, "license"))
        })
        .collect();
    if !wrong.is_empty() {
        bail!(
            "licences that are not on the list of xtask/src/licences.rs:\n  {}",
            wrong.join("\n  ")
        );
    }
    println!("licences: {} packages, all accepted", packages.len());
    Ok(())
}

fn metadata() -> Result<serde_json::Value> {
    let out = Command::new(tree::cargo())
        .current_dir(tree::root())
        .args(["metadata", "--format-version", "1", "--locked"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata failed: is Cargo.lock up to date?");
    }
    serde_json::from_slice(&out.stdout).context("read what cargo metadata printed")
}

/// Whether an SPDX expression of ANDs and ORs, with brackets, can be met with accepted licences.
fn accepted(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at) && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut met = both(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at);
    }
    met
}

fn both(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let word = words.get(*at).copied().unwrap_or("");
    *at += 1;
    if word == "(" {
        let met = either(words, at);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or("");
        *at += 2;
        return ACCEPTED.contains(&format!("{word} WITH {exception}").as_str());
    }
    ACCEPTED.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_accepted_alternative_is_enough_but_every_joint_one_must_be() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "Apache-2.0 AND ISC",
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT MIT", "AGPL-3.0 OR GPL-3.0", "(MIT"] {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
