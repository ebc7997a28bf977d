//! Where things lie when nobody says otherwise: the XDG base directories.

use crate::exit::{Class, Failure, Whose};
use std::path::{Path, PathBuf};

/// The base directories of this user.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    cache: Option<PathBuf>,
}

impl Folders {
    /// As the environment has them. A variable that is not an absolute path does not count (XDG
    /// base directory specification).
    pub(crate) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let absolute =
            |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let base = |name: &str, under: &str| {
            absolute(name)
                .or_else(|| home.as_ref().map(|home| home.join(under)))
                .map(|base| base.join("suanli"))
        };
        Self {
            data: base("XDG_DATA_HOME", ".local/share"),
            config: base("XDG_CONFIG_HOME", ".config"),
            cache: base("XDG_CACHE_HOME", ".cache"),
        }
    }

    /// A city's folder.
    pub(crate) fn city(&self) -> Result<PathBuf, Failure> {
        inside(self.data.as_deref(), "city", "XDG_DATA_HOME")
    }

    /// A family's folder.
    pub(crate) fn family(&self) -> Result<PathBuf, Failure> {
        inside(self.data.as_deref(), "family", "XDG_DATA_HOME")
    }

    /// The key with which jobs are signed.
    pub(crate) fn trainer_key(&self) -> Result<PathBuf, Failure> {
        inside(self.data.as_deref(), "trainer/trainer.key", "XDG_DATA_HOME")
    }

    /// The key of Python programs that name none.
    pub(crate) fn guest_key(&self) -> Result<PathBuf, Failure> {
        inside(self.data.as_deref(), "python/client.key", "XDG_DATA_HOME")
    }

    /// The key that a relay's pass is made of.
    pub(crate) fn relay_key(&self) -> Result<PathBuf, Failure> {
        inside(self.data.as_deref(), "relay/relay.key", "XDG_DATA_HOME")
    }

    /// What can be made again: prepared data.
    pub(crate) fn prepared(&self) -> Result<PathBuf, Failure> {
        inside(self.cache.as_deref(), "prepared", "XDG_CACHE_HOME")
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|folder| folder.join("config.toml"))
    }
}

fn inside(base: Option<&Path>, name: &str, variable: &str) -> Result<PathBuf, Failure> {
    base.map(|base| base.join(name)).ok_or_else(|| Failure {
        class: Class::Environment,
        what: format!("neither HOME nor {variable} names a folder"),
        whose: Whose::ThisMachine,
        next: "set HOME, or name the folder with --dir".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_variables_come_before_home_and_relative_ones_do_not_count() {
        let of = |pairs: &'static [(&str, &str)]| {
            Folders::of_environment(|name| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
            })
        };
        let city = |folders: Folders| folders.city().map_err(|failure| failure.class);
        assert_eq!(city(of(&[("HOME", "/h")])), Ok("/h/.local/share/suanli/city".into()));
        assert_eq!(
            city(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")])),
            Ok("/x/suanli/city".into())
        );
        assert_eq!(
            city(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "x")])),
            Ok("/h/.local/share/suanli/city".into())
        );
        assert_eq!(city(of(&[])), Err(Class::Environment));
    }
}
