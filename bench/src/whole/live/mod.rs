//! A city and its families as separate processes of the released binary, on loopback, in a folder
//! of their own: what the rows measure that need real sockets, disks and signals.
//!
//! Invariants: only processes started here are ended, each by its own handle; every one of them
//! has a pipe from us as standard input and stops when that closes, so none outlives the row.

pub(super) mod chain;
pub(super) mod relay;

use crate::Session;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use suanli_host::control::{CityStatus, Client, ControlReply, ControlRequest, JobStatus};
use suanli_identity::Role;
use suanli_store::data::rust_sources;
use suanli_store::job_file::{JobFile, TrainingSection};

/// How long a node may take until its control socket answers.
const START: Duration = Duration::from_secs(30);
/// Between two looks at a status.
pub(super) const LOOK: Duration = Duration::from_millis(50);
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a log that an error shows.
const LOG_TAIL_BYTES: usize = 1500;
const TICKET_S: u64 = 24 * 3600;

/// The city, its families, and the folder they all live in.
pub(super) struct Live {
    binary: PathBuf,
    root: PathBuf,
    runtime: tokio::runtime::Runtime,
    city: Option<Child>,
    families: BTreeMap<String, Child>,
    ticket: Option<String>,
    /// Where families reach the city, when not where it listens.
    advertise: Option<String>,
    port: u16,
}

impl Live {
    /// A new city without job or families, not yet running.
    pub(super) fn found(session: &Session) -> Result<Self> {
        let root = session.scratch()?;
        fs::create_dir_all(root.join("logs")).context("make the folder of logs")?;
        fs::write(root.join("nodes.toml"), "").context("write an empty configuration")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let live = Self {
            binary: session.binary()?,
            root,
            runtime,
            city: None,
            families: BTreeMap::new(),
            ticket: None,
            advertise: None,
            port: free_port()?,
        };
        let folder = live.city_folder();
        live.run_to_end("init", &["city", "init", "--name", "bench", "--dir", path(&folder)?])?;
        Ok(live)
    }

    /// Where the city listens.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts another address into tickets.
    pub(super) fn advertise(&mut self, address: String) {
        self.advertise = Some(address);
    }

    pub(super) fn city_folder(&self) -> PathBuf {
        self.root.join("city")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// Starts the city and waits until it answers. A fault is `NAME:N` (`host::fault`): such a
    /// city may end before it answers, which is no error.
    pub(super) fn serve(&mut self, fault: Option<&str>) -> Result<()> {
        let (folder, address) = (self.city_folder(), self.address());
        let mut arguments =
            vec!["city", "serve", "--dir", path(&folder)?, "--listen", &address, "--stop-on-eof"];
        let advertise = self.advertise.clone();
        if let Some(advertise) = &advertise {
            arguments.extend(["--advertise", advertise]);
        }
        let mut command = self.command("city", &arguments)?;
        if let Some(fault) = fault {
            command.env("SUANLI_FAULT", fault);
        }
        self.city = Some(command.spawn().context("start the city")?);
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(status) = self.city_ended()? {
                match fault {
                    Some(_) => return Ok(()),
                    None => bail!("the city ended with {status}\n{}", self.tail("city")),
                }
            }
            if self.answers(&folder, self.city.as_ref().map(Child::id)) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        bail!("the city did not answer within {START:?}\n{}", self.tail("city"))
    }

    /// How the city ended, if it did; it counts as gone then.
    fn city_ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(city) = &mut self.city else { return Ok(None) };
        let status = city.try_wait().context("look after the city")?;
        if status.is_some() {
            self.city = None;
        }
        Ok(status)
    }

    /// Whether the city's process is there.
    pub(super) fn city_runs(&mut self) -> Result<bool> {
        self.city_ended()?;
        Ok(self.city.is_some())
    }

    /// Ends the city with signal 9.
    pub(super) fn kill_city(&mut self) -> Result<()> {
        match self.city.take() {
            Some(city) => end(city),
            None => Ok(()),
        }
    }

    pub(super) fn city_pid(&self) -> Option<u32> {
        self.city.as_ref().map(Child::id)
    }

    /// Prepares a job over this machine's Rust sources and hands it in.
    pub(super) fn submit(&self, session: &Session, change: impl Fn(&mut JobFile)) -> Result<()> {
        let text = session.shared("rust.txt")?;
        if !text.exists() {
            fs::write(&text, rust_text()?).with_context(|| format!("write {}", text.display()))?;
        }
        let mut job = JobFile::with_paths(vec![path(&text)?.to_owned()]);
        change(&mut job);
        let rounds = job.rounds_total();
        (job.training.outer_lr, job.training.outer_momentum) = TrainingSection::outer(rounds);
        let file = self.root.join("job.toml");
        fs::write(&file, job.to_toml()).context("write the job file")?;
        let (folder, prepared) = (self.city_folder(), session.shared("prepared")?);
        let arguments = [
            "train",
            path(&file)?,
            "--city",
            path(&folder)?,
            "--prepared",
            path(&prepared)?,
            "--yes",
        ];
        self.run_to_end("train", &arguments).map(|_| ())
    }

    /// Starts a family of one thread, or starts it again. Does not wait for it.
    pub(super) fn join(&mut self, name: &str, share_percent: u32) -> Result<()> {
        if self.ticket.is_none() {
            self.ticket = Some(self.new_ticket()?);
        }
        let ticket = self.ticket.clone().unwrap_or_default();
        let (folder, share) = (self.root.join(name), share_percent.to_string());
        let arguments = [
            "join",
            &ticket,
            "--dir",
            path(&folder)?,
            "--name",
            name,
            "--share",
            &share,
            "--threads",
            "1",
            "--stop-on-eof",
        ];
        let child = self.command(name, &arguments)?.spawn();
        self.families.insert(name.into(), child.context("start a family")?);
        Ok(())
    }

    /// Ends a family with signal 9.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        match self.families.remove(name) {
            Some(family) => end(family),
            None => bail!("no family {name} runs"),
        }
    }

    /// Families that run, as far as we know.
    pub(super) fn names(&self) -> Vec<String> {
        self.families.keys().cloned().collect()
    }

    /// An error when a family has ended by itself.
    pub(super) fn look_after(&mut self) -> Result<()> {
        for (name, family) in &mut self.families {
            if let Some(status) = family.try_wait().context("look after a family")? {
                let name = name.clone();
                bail!("{name} ended with {status}\n{}", self.tail(&name));
            }
        }
        Ok(())
    }

    pub(super) fn status(&self) -> Result<CityStatus> {
        let folder = self.city_folder();
        self.runtime.block_on(async {
            let mut client = Client::connect(&folder).await?;
            Ok(client.city_status().await?)
        })
    }

    /// The only job.
    pub(super) fn job(&self) -> Result<JobStatus> {
        self.status()?.jobs.pop().context("the city lists no job")
    }

    /// Looks at the job until `holds`, and gives what it saw then.
    pub(super) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&JobStatus) -> bool,
    ) -> Result<JobStatus> {
        let begun = Instant::now();
        loop {
            let job = self.job()?;
            if holds(&job) {
                return Ok(job);
            }
            self.look_after()?;
            if begun.elapsed() > limit {
                let (round, tokens) = (job.round, job.tokens);
                let tail = self.tail("city");
                bail!(
                    "{what}: not within {limit:?}; round {round}, {tokens} tokens, state {:?}\n{tail}",
                    job.state
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Writes the job's parameters as a Hugging Face folder.
    pub(super) fn export(&self, out: &Path) -> Result<()> {
        let folder = self.city_folder();
        let arguments = ["export", "--out", path(out)?, "--dir", path(&folder)?];
        self.run_to_end("export", &arguments).map(|_| ())
    }

    /// The city's own check of its record, on the folder as it lies.
    pub(super) fn verify(&self) -> Result<()> {
        let folder = self.city_folder();
        self.run_to_end("verify", &["log", "verify", path(&folder)?]).map(|_| ())
    }

    fn new_ticket(&self) -> Result<String> {
        let folder = self.city_folder();
        let request =
            ControlRequest::Ticket { role: Role::Join, expires_in_s: TICKET_S, uses: 1000 };
        self.runtime.block_on(async {
            match Client::connect(&folder).await?.call(&request).await? {
                ControlReply::Ticket { ticket } => Ok(ticket),
                other => Err(anyhow!("expected a ticket, found {other:?}")),
            }
        })
    }

    fn answers(&self, folder: &Path, pid: Option<u32>) -> bool {
        let found = self.runtime.block_on(Client::connect(folder));
        found.is_ok_and(|client| Some(client.pid()) == pid)
    }

    /// A command whose words go to a log, and that ends with our end of its standard input.
    fn command(&self, log: &str, arguments: &[&str]) -> Result<Command> {
        let path = self.log(log);
        let open = || OpenOptions::new().create(true).append(true).open(&path);
        let (out, errors) = (open().context("open a log")?, open().context("open a log")?);
        let mut command = self.bare();
        command.args(arguments).stdin(Stdio::piped()).stdout(out).stderr(errors);
        Ok(command)
    }

    /// What a person configured on this machine is not for the bench.
    fn bare(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SUANLI_") {
                command.env_remove(&name);
            }
        }
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            command.env(name, self.root.join("home"));
        }
        command.arg("--config").arg(self.root.join("nodes.toml")).args(["--lang", "en"]);
        command
    }

    fn run_to_end(&self, what: &str, arguments: &[&str]) -> Result<String> {
        let output = self.bare().args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("start suanli {what}"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("suanli {what} ended with {}: {}", output.status, errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The last lines of a node's log.
    pub(super) fn tail(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let families = std::mem::take(&mut self.families).into_values();
        for child in families.chain(self.city.take()) {
            // Nobody is left to be told.
            let _ = end(child);
        }
    }
}

fn end(mut child: Child) -> Result<()> {
    child.kill().context("end a process")?;
    child.wait().context("wait for a process's end")?;
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A port that nobody has now. Somebody may take it before the city does; the row fails then.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn rust_text() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for file in rust_sources(None, TEXT_BYTES_MAX)? {
        text.extend(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
        text.push(b'\n');
    }
    Ok(text)
}
