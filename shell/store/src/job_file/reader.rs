//! Reads typed values out of a TOML text, with the line of whatever is wrong.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{JOB_FILE_BYTES_MAX, JobFileError, MOMENTUM_POINTS_MAX};

type Keys = &'static [(&'static str, &'static [&'static str])];

/// A parsed text whose sections and keys are all known ones.
pub(super) struct Document<'a> {
    text: &'a str,
    table: DeTable<'a>,
}

/// One section of a document, which may be absent: then every key is.
pub(super) struct Section<'a> {
    text: &'a str,
    name: &'static str,
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str, keys: Keys) -> Result<Self, JobFileError> {
        if text.len() > JOB_FILE_BYTES_MAX {
            return Err(JobFileError::TooLong { found: text.len(), max: JOB_FILE_BYTES_MAX });
        }
        let table = DeTable::parse(text).map_err(|error| syntax(text, &error))?.into_inner();
        let document = Self { text, table };
        document.refuse_unknown(keys)?;
        Ok(document)
    }

    pub(super) fn section(&'a self, name: &'static str) -> Section<'a> {
        let table = self.table.get(name).and_then(|value| value.get_ref().as_table());
        Section { text: self.text, name, table }
    }

    fn refuse_unknown(&self, keys: Keys) -> Result<(), JobFileError> {
        for (name, value) in in_text_order(&self.table) {
            let line = line_of(self.text, name.span().start);
            let name: &str = name.get_ref();
            let Some((_, known)) = keys.iter().find(|(section, _)| *section == name) else {
                let sections: Vec<&str> = keys.iter().map(|(section, _)| *section).collect();
                let hint = home_of(name, keys).unwrap_or_else(|| nearest(name, &sections));
                let what = if value.get_ref().is_table() { "section" } else { "key" };
                return Err(JobFileError::Unknown { what, key: shown(name), line, hint });
            };
            let Some(table) = value.get_ref().as_table() else {
                return Err(JobFileError::WrongType {
                    key: shown(name),
                    line,
                    expected: format!("a section, [{name}]"),
                    found: describe(value.get_ref()),
                });
            };
            for (key, _) in in_text_order(table) {
                let line = line_of(self.text, key.span().start);
                let key: &str = key.get_ref();
                if !known.contains(&key) {
                    let hint = home_of(key, keys).unwrap_or_else(|| nearest(key, known));
                    let key = format!("{name}.{}", shown(key));
                    return Err(JobFileError::Unknown { what: "key", key, line, hint });
                }
            }
        }
        Ok(())
    }
}

impl<'a> Section<'a> {
    pub(super) fn size(
        &self,
        key: &str,
        range: RangeInclusive<usize>,
        fallback: usize,
    ) -> Result<usize, JobFileError> {
        Ok(self.integer(key, range)?.unwrap_or(fallback))
    }

    pub(super) fn small(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        fallback: u32,
    ) -> Result<u32, JobFileError> {
        Ok(self.integer(key, range)?.unwrap_or(fallback))
    }

    pub(super) fn count(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        fallback: u64,
    ) -> Result<u64, JobFileError> {
        Ok(self.integer(key, range)?.unwrap_or(fallback))
    }

    pub(super) fn count_if_any(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, JobFileError> {
        self.integer(key, range)
    }

    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        fallback: f64,
    ) -> Result<f64, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback) };
        let expected = || format!("a number from {:?} to {:?}", range.start(), range.end());
        match decimal(value.get_ref()) {
            None => Err(self.wrong_type(key, value, expected())),
            Some(number) if range.contains(&number) => Ok(number),
            Some(number) => Err(self.out_of_range(key, value, expected(), format!("{number:?}"))),
        }
    }

    /// One number, or several.
    pub(super) fn course(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        fallback: &[f64],
    ) -> Result<Vec<f64>, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback.to_vec()) };
        let (start, end) = (range.start(), range.end());
        let expected = || {
            format!(
                "a number or a list of at most {MOMENTUM_POINTS_MAX}, each from {start:?} to {end:?}"
            )
        };
        let found = match value.get_ref() {
            DeValue::Array(points) if (1..=MOMENTUM_POINTS_MAX).contains(&points.len()) => {
                points.iter().map(|point| decimal(point.get_ref())).collect()
            }
            DeValue::Array(_) => None,
            one => decimal(one).map(|number| vec![number]),
        };
        match found {
            None => Err(self.wrong_type(key, value, expected())),
            Some(points) if points.iter().all(|point| range.contains(point)) => Ok(points),
            Some(points) => Err(self.out_of_range(key, value, expected(), format!("{points:?}"))),
        }
    }

    pub(super) fn switch(&self, key: &str, fallback: bool) -> Result<bool, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback) };
        value
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.wrong_type(key, value, "true or false".to_owned()))
    }

    pub(super) fn text(&self, key: &str, fallback: &str) -> Result<String, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback.to_owned()) };
        let expected = || "a text in quotes that is not empty".to_owned();
        match value.get_ref().as_str() {
            None => Err(self.wrong_type(key, value, expected())),
            Some("") => Err(self.out_of_range(key, value, expected(), "an empty one".to_owned())),
            Some(text) => Ok(text.to_owned()),
        }
    }

    /// One of the named choices.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&'static str, T)],
        fallback: T,
    ) -> Result<T, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback) };
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        let expected = names.join(" or ");
        let Some(text) = value.get_ref().as_str() else {
            return Err(self.wrong_type(key, value, expected));
        };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(*choice),
            None => Err(self.out_of_range(key, value, expected, format!("{:?}", shown(text)))),
        }
    }

    /// A list of at least one text. Has no default.
    pub(super) fn texts(&self, key: &str, max: usize) -> Result<Vec<String>, JobFileError> {
        let expected =
            || format!("a list of 1 to {max} files, folders or patterns, as in [\"texts/*.txt\"]");
        let Some(value) = self.value(key) else {
            return Err(JobFileError::Missing { key: self.path(key), expected: expected() });
        };
        let Some(array) = value.get_ref().as_array() else {
            return Err(self.wrong_type(key, value, expected()));
        };
        if array.is_empty() || array.len() > max {
            let found = format!("{} of them", array.len());
            return Err(self.out_of_range(key, value, expected(), found));
        }
        let item = |item: &Spanned<DeValue<'_>>| match item.get_ref().as_str() {
            Some("") => Err(self.out_of_range(key, item, expected(), "an empty path".to_owned())),
            Some(text) => Ok(text.to_owned()),
            None => Err(self.wrong_type(key, item, expected())),
        };
        array.iter().map(item).collect()
    }

    /// Some of the named choices, each once; in the order of the names.
    pub(super) fn choices<T: Copy + PartialEq>(
        &self,
        key: &str,
        choices: &[(&'static str, T)],
        fallback: &[T],
    ) -> Result<Vec<T>, JobFileError> {
        let Some(value) = self.value(key) else { return Ok(fallback.to_vec()) };
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = || format!("a list of some of {}", names.join(", "));
        let Some(array) = value.get_ref().as_array() else {
            return Err(self.wrong_type(key, value, expected()));
        };
        let mut named = Vec::new();
        for item in array.iter() {
            let Some(text) = item.get_ref().as_str() else {
                return Err(self.wrong_type(key, item, expected()));
            };
            if !names.contains(&text) || named.contains(&text) {
                let found = format!("{:?}", shown(text));
                let twice = if named.contains(&text) { " twice" } else { "" };
                return Err(self.out_of_range(key, item, expected(), found + twice));
            }
            named.push(text);
        }
        if named.is_empty() {
            return Err(self.out_of_range(key, value, expected(), "none of them".to_owned()));
        }
        let chosen = choices.iter().filter(|(name, _)| named.contains(name));
        Ok(chosen.map(|(_, choice)| *choice).collect())
    }

    /// Whether the section is there, be it empty.
    pub(super) const fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// The error of a key elsewhere that this section cannot do without.
    pub(super) fn lacks(&self, key: &str, expected: &str) -> JobFileError {
        let expected = format!("{expected}, for there is a section [{}]", self.name);
        JobFileError::Missing { key: key.to_owned(), expected }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The error of two keys that are both there.
    pub(super) fn conflict(&self, key: &str, other: &str) -> JobFileError {
        self.conflict_with(key, &self.path(other))
    }

    /// The error of a key that excludes one of another section.
    pub(super) fn conflict_with(&self, key: &str, other: &str) -> JobFileError {
        let (key, line) = (self.path(key), self.line(key));
        JobFileError::Conflict { key, line, other: other.to_owned() }
    }

    /// The error of a checkpoint that cannot be gone on from.
    pub(super) fn not_usable(&self, key: &str, wrong: String) -> JobFileError {
        JobFileError::Checkpoint { key: self.path(key), line: self.line(key), wrong }
    }

    fn line(&self, key: &str) -> usize {
        self.value(key).map_or(0, |value| line_of(self.text, value.span().start))
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.and_then(|table| table.get(key))
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn integer<T>(&self, key: &str, range: RangeInclusive<T>) -> Result<Option<T>, JobFileError>
    where
        T: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        let Some(value) = self.value(key) else { return Ok(None) };
        let expected = || {
            if range.start() == range.end() {
                return format!("{}", range.start());
            }
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(self.wrong_type(key, value, expected()));
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.out_of_range(key, value, expected(), shown(&integer.to_string()))),
        }
    }

    fn wrong_type(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: String,
    ) -> JobFileError {
        JobFileError::WrongType {
            key: self.path(key),
            line: line_of(self.text, value.span().start),
            expected,
            found: describe(value.get_ref()),
        }
    }

    fn out_of_range(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: String,
        found: String,
    ) -> JobFileError {
        let line = line_of(self.text, value.span().start);
        JobFileError::OutOfRange { key: self.path(key), line, expected, found }
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> JobFileError {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = &text.as_bytes()[..at];
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    let message = error.message().to_owned();
    JobFileError::Syntax { line: line_of(text, at), column, message }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

type Entry<'t, 'a> = (&'t Spanned<Cow<'a, str>>, &'t Spanned<DeValue<'a>>);

fn in_text_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<Entry<'t, 'a>> {
    let mut entries: Vec<Entry<'t, 'a>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The section that a key belongs in, when it stands elsewhere.
fn home_of(key: &str, keys: Keys) -> Option<String> {
    let (section, _) = keys.iter().find(|(_, known)| known.contains(&key))?;
    Some(format!("it belongs under [{section}]"))
}

fn nearest(name: &str, known: &[&str]) -> String {
    let best = known.iter().map(|candidate| (edit_distance(name, candidate), candidate)).min();
    match best {
        Some((distance, candidate)) if distance <= 2.max(candidate.len() / 3) => {
            format!("did you mean `{candidate}`?")
        }
        _ => format!("known here are {}", known.join(", ")),
    }
}

/// Levenshtein's distance in characters; names longer than any of ours are cut.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn decimal(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
        _ => None,
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", shown(text)),
        DeValue::Integer(number) => format!("the whole number {}", shown(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", shown(number.as_str())),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// At most 60 characters of what somebody wrote: a message stays a line.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}
