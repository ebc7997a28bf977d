//! The configuration file: what flags and variables did not say. An unknown key is an error that
//! names the nearest one, because a setting that is silently ignored is worse than none.

use crate::arguments::LinkChoice;
use crate::exit::{Class, Failure, Whose};
use crate::language::Language;
use crate::nearest::nearest;
use crate::upload_settings::{UploadAt, UploadRate};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The most bytes a configuration file may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys of the file: sections with theirs, then those outside a section.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "city",
        &[
            "dir",
            "listen",
            "advertise",
            "name",
            "quic",
            "relay",
            "via",
            "lan",
            "upload",
            "upload_at",
            "upload_per_day_mib",
        ],
    ),
    (
        "join",
        &["dir", "name", "share", "threads", "upload", "upload_at", "upload_per_day_mib", "link"],
    ),
    ("demo", &["dir", "families", "minutes"]),
];
const PLAIN: &[&str] = &["lang"];

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) lang: Option<Language>,
    pub(crate) city: CityConfig,
    pub(crate) join: JoinConfig,
    pub(crate) demo: DemoConfig,
}

/// Section `city`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct CityConfig {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Vec<String>,
    pub(crate) name: Option<String>,
    pub(crate) quic: Option<bool>,
    pub(crate) relay: Option<SocketAddr>,
    pub(crate) via: Option<String>,
    pub(crate) lan: Option<bool>,
    #[serde(flatten)]
    pub(crate) upload: UploadConfig,
}

/// How much a node may send: in the sections `city` and `join`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct UploadConfig {
    pub(crate) upload: Option<UploadRate>,
    pub(crate) upload_at: Vec<UploadAt>,
    pub(crate) upload_per_day_mib: Option<u64>,
}

/// Section `join`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct JoinConfig {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) share: Option<u8>,
    pub(crate) threads: Option<u32>,
    #[serde(flatten)]
    pub(crate) upload: UploadConfig,
    pub(crate) link: Option<LinkChoice>,
}

/// Section `demo`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct DemoConfig {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) families: Option<u8>,
    pub(crate) minutes: Option<f64>,
}

/// Reads the file that was named, or the one at the usual place if it is there.
pub(crate) fn load(named: Option<&Path>, usual: Option<&Path>) -> Result<Config, Failure> {
    let path = match (named, usual) {
        (Some(path), _) => path,
        (None, Some(path)) if path.exists() => path,
        (None, _) => return Ok(Config::default()),
    };
    let wrong = |what: String| Failure {
        class: Class::Usage,
        what: format!("the configuration file {}: {what}", path.display()),
        whose: Whose::Yours,
        next: format!("correct {}, or name another with --config", path.display()),
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(format!("has {size} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse(&text).map_err(wrong)
}

fn parse(text: &str) -> Result<Config, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    for (key, value) in &table {
        let section = SECTIONS.iter().find(|section| section.0 == key);
        match (section, value) {
            (Some((name, keys)), toml::Value::Table(inner)) => {
                for key in inner.keys() {
                    known(key, keys.iter().copied(), &format!(" in [{name}]"))?;
                }
            }
            (Some((name, _)), _) => return Err(format!("{name} is a section: write [{name}]")),
            (None, _) => {
                let names = SECTIONS.iter().map(|section| section.0);
                known(key, PLAIN.iter().copied().chain(names), "")?;
            }
        }
    }
    let config: Config = table.try_into().map_err(|error| error.to_string())?;
    check(&config)?;
    Ok(config)
}

fn known<'a>(
    key: &str,
    keys: impl Iterator<Item = &'a str> + Clone,
    place: &str,
) -> Result<(), String> {
    if keys.clone().any(|known| known == key) {
        return Ok(());
    }
    let hint = match nearest(key, keys.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known are: {}", keys.collect::<Vec<_>>().join(", ")),
    };
    Err(format!("unknown key \"{key}\"{place}; {hint}"))
}

/// The bounds that flags have in `arguments`.
fn check(config: &Config) -> Result<(), String> {
    let bound = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
        Some(value) if !(low..=high).contains(&value) => {
            Err(format!("{name} is {value}; it must be from {low} to {high}"))
        }
        _ => Ok(()),
    };
    bound("join.share", config.join.share.map(f64::from), 1.0, 100.0)?;
    bound("join.threads", config.join.threads.map(f64::from), 1.0, 1024.0)?;
    for (name, upload) in [("city", &config.city.upload), ("join", &config.join.upload)] {
        let mib = upload.upload_per_day_mib.map(|mib| mib as f64);
        bound(&format!("{name}.upload_per_day_mib"), mib, 1.0, (1_u64 << 30) as f64)?;
    }
    bound("demo.families", config.demo.families.map(f64::from), 1.0, 32.0)?;
    bound("demo.minutes", config.demo.minutes, 0.1, 10_080.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = parse("[join]\nshrae = 40\n").unwrap_err();
        assert!(error.contains("\"shrae\" in [join]") && error.contains("\"share\""), "{error}");
        let error = parse("[jion]\nshare = 40\n").unwrap_err();
        assert!(error.contains("\"join\""), "{error}");
        let error = parse("join = 3\n").unwrap_err();
        assert!(error.contains("[join]"), "{error}");
    }

    #[test]
    fn every_known_key_is_one_that_is_read() {
        let text = "lang = 'zh'\n[city]\ndir = 'a'\nlisten = '127.0.0.1:7'\nadvertise = ['b:1']\n\
            name = 'c'\nquic = true\nrelay = '127.0.0.1:8'\nvia = 'relay:http://h:1'\nlan = false\n\
            upload = '20mbit'\nupload_at = ['18:00-23:00=1mbit']\nupload_per_day_mib = 9\n[join]\ndir = 'd'\nname = 'e'\nshare = 5\nthreads = 6\n\
            upload = '5mbit'\nupload_at = ['18:00-23:00=1mbit']\nupload_per_day_mib = 7\nlink = 'quic'\n[demo]\ndir = 'f'\nfamilies = 8\nminutes = 9.5\n";
        let config = parse(text).unwrap();
        assert_eq!(config.lang, Some(Language::Chinese));
        assert_eq!(config.city.upload.upload_per_day_mib, Some(9));
        assert_eq!(config.join.upload.upload_per_day_mib, Some(7));
        assert_eq!(config.demo.minutes, Some(9.5));
        let count = PLAIN.len() + SECTIONS.iter().map(|section| section.1.len()).sum::<usize>();
        assert_eq!(text.matches(" = ").count(), count, "a key without a line in this test");
    }

    #[test]
    fn numbers_keep_their_bounds() {
        assert!(parse("[join]\nshare = 0\n").unwrap_err().contains("from 1 to 100"));
        assert!(parse("[join]\nshare = 300\n").is_err());
        assert!(parse("[demo]\nminutes = nan\n").is_err());
        assert!(parse("[city]\nupload_per_day_mib = 0\n").unwrap_err().contains("city.upload"));
    }
}
