//! What every command has at hand: how to speak, and what was set where.

use crate::arguments::{Folder, Global};
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::folders::Folders;
use crate::language::Language;
use std::path::PathBuf;
use suanli_host::control::{Client, ControlError, NodeKind};

/// What every command has at hand.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) language: Language,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    pub(crate) config: Config,
    pub(crate) folders: Folders,
}

impl Context {
    /// Puts flags, variables and the configuration file together.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).ok();
        let folders = Folders::of_environment(variable);
        let config = config::load(global.config.as_deref(), folders.config_file().as_deref())?;
        let language =
            global.lang.or(config.lang).unwrap_or_else(|| Language::of_environment(variable));
        Ok(Self {
            language,
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            config,
            folders,
        })
    }

    /// Says something to a person; programs and those who want quiet are spared.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            println!("{}", text.as_ref());
        }
    }

    /// Gives the answer itself: as JSON to a program, as text to a person.
    pub(crate) fn answer(
        &self,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        use std::io::Write as _;
        let text = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::ours(error.to_string()))?
        } else {
            text().trim_end().to_owned()
        };
        match writeln!(std::io::stdout(), "{text}") {
            // Whoever read it has seen enough, as `head` does.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::io("write to", "standard output".as_ref(), &error)),
            Ok(()) => Ok(()),
        }
    }

    /// A city's data folder.
    pub(crate) fn city_folder(&self, folder: &Folder) -> Result<PathBuf, Failure> {
        match folder.dir.as_ref().or(self.config.city.dir.as_ref()) {
            Some(dir) => Ok(dir.clone()),
            None => self.folders.city(),
        }
    }

    /// A family's data folder.
    pub(crate) fn family_folder(&self, folder: &Folder) -> Result<PathBuf, Failure> {
        match folder.dir.as_ref().or(self.config.join.dir.as_ref()) {
            Some(dir) => Ok(dir.clone()),
            None => self.folders.family(),
        }
    }

    /// Connects to a node of `kind`, in the folder that was named or its usual one.
    pub(crate) async fn node(&self, folder: &Folder, kind: NodeKind) -> Result<Client, Failure> {
        let folder = match kind {
            NodeKind::City => self.city_folder(folder)?,
            NodeKind::Family => self.family_folder(folder)?,
        };
        Ok(Client::connect(&folder).await?.expect_kind(kind)?)
    }

    /// Connects to whatever runs in the folder that was named, or to all that runs in the usual
    /// ones.
    pub(crate) async fn nodes(&self, folder: &Folder) -> Result<Vec<Client>, Failure> {
        if let Some(dir) = &folder.dir {
            return Ok(vec![Client::connect(dir).await?]);
        }
        let mut found = Vec::new();
        for usual in [self.city_folder(folder)?, self.family_folder(folder)?] {
            match Client::connect(&usual).await {
                Ok(client) => found.push(client),
                Err(ControlError::NotRunning { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(found)
    }
}

/// Runs asynchronous work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start", "the asynchronous runtime".as_ref(), &error))?;
    let result = runtime.block_on(work);
    // A thread that still waits for standard input must not hold the end up.
    runtime.shutdown_background();
    result
}
