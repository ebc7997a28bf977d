//! The command line: `NAME [--short] [--fresh] [--row ROW] [--json FILE]` or `--list`.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// How much is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// What the goal is stated for.
    #[default]
    Whole,
    /// As little as still shows a breakage: what CI runs. Rows that need hours are left out by
    /// returning no row.
    Short,
}

/// Where a long row begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Where the last run stopped.
    #[default]
    Resume,
    /// At the beginning.
    Fresh,
}

/// What the user asked for.
#[derive(Debug, Default)]
pub struct Arguments {
    /// The bench.
    pub name: Option<String>,
    /// Only this row.
    pub row: Option<String>,
    /// Where the rows are written as JSON.
    pub json: Option<PathBuf>,
    /// How much is measured.
    pub length: Length,
    /// Where a long row begins.
    pub start: Start,
    /// Name the rows and measure nothing.
    pub list: bool,
}

impl Arguments {
    /// Reads the arguments.
    ///
    /// # Errors
    /// For an unknown one, or one without its value.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut found = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => found.length = Length::Short,
                "--fresh" => found.start = Start::Fresh,
                "--list" => found.list = true,
                "--row" => found.row = Some(words.next().context("--row needs a name")?),
                "--json" => found.json = Some(words.next().context("--json needs a file")?.into()),
                name if found.name.is_none() && !name.starts_with('-') => {
                    found.name = Some(word);
                }
                _ => bail!("unknown argument \"{word}\""),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_in_any_order() {
        let found = parse("--row build whole --short --json x.json").unwrap();
        assert_eq!((found.name.as_deref(), found.row.as_deref()), (Some("whole"), Some("build")));
        assert_eq!((found.length, found.start), (Length::Short, Start::Resume));
        assert_eq!(found.json, Some("x.json".into()));
    }

    #[test]
    fn what_is_unknown_or_cut_off_is_refused() {
        for line in ["whole --shrot", "whole --row", "whole other", "--json"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
