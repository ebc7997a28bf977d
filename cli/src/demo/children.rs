//! The demo's nodes: separate processes of this program. Each has a pipe to us as its standard
//! input and stops when that closes, so none outlives the demo, however the demo ends.

use crate::exit::{At as _, Class, Failure, Whose};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use suanli_host::control::{Client, ControlRequest};
use suanli_store::FolderLock;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a node may take to open its control socket.
const START_S_MAX: u64 = 60;
/// How long it may take to stop once asked.
const STOP_S_MAX: u64 = 15;
/// How long after a signal that it cannot overhear.
const TERMINATE_S_MAX: u64 = 5;
/// How long an earlier process may take to leave its folder.
const LEAVE_S_MAX: u64 = 40;
/// Bytes of a log that an error shows.
const LOG_TAIL_BYTES: u64 = 2000;

/// Starts commands of this program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    exe: PathBuf,
    /// An empty file: what a person configured is not for the demo's nodes.
    config: PathBuf,
    language: &'static str,
}

impl Program {
    pub(super) fn new(config: PathBuf, language: &'static str) -> Result<Self, Failure> {
        let exe = std::env::current_exe().at("find", "this program")?;
        Ok(Self { exe, config, language })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        for (name, _) in std::env::vars_os() {
            // All but what chooses the kernels: that is for tests of this very machine.
            let text = name.to_string_lossy();
            if text.starts_with("SUANLI_") && text != "SUANLI_KERNEL" {
                command.env_remove(&name);
            }
        }
        command.args(arguments).arg("--config").arg(&self.config);
        command.args(["--lang", self.language]);
        // Ctrl-C is for the demo, which stops its nodes in order.
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs a command to its end and hands back what it printed.
    pub(super) async fn run(&self, arguments: &[&str], log: &Path) -> Result<String, Failure> {
        let errors = open_log(log)?;
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .output()
            .await
            .at("start", &self.exe)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(ended(&arguments[..2.min(arguments.len())].join(" "), output.status, log))
    }

    /// Starts a node and waits until it answers on its control socket.
    pub(super) async fn start(&self, node: Node, arguments: &[&str]) -> Result<Running, Failure> {
        wait_until_free(&node.folder).await;
        let log = open_log(&node.log)?;
        let again = log.try_clone().at("open", &node.log)?;
        let mut command = self.command(arguments);
        if let Some(ticket) = &node.ticket {
            command.env("SUANLI_TICKET", ticket);
        }
        let child = command
            .arg("--stop-on-eof")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(again)
            .spawn()
            .at("start", &self.exe)?;
        let mut running = Running { node, child };
        running.wait_until_it_answers().await?;
        Ok(running)
    }
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) log: PathBuf,
    pub(super) ticket: Option<String>,
}

/// A node's process.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) node: Node,
    child: Child,
}

impl Running {
    async fn wait_until_it_answers(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(START_S_MAX);
        loop {
            if let Some(status) = self.child.try_wait().at("look after", &self.node.folder)? {
                return Err(ended(&self.node.name, status, &self.node.log));
            }
            // The socket of a killed predecessor does not answer with this process's id.
            if let Ok(client) = Client::connect(&self.node.folder).await
                && Some(client.pid()) == self.child.id()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure {
                    class: Class::Environment,
                    what: format!(
                        "{} did not answer within {START_S_MAX} s\n{}",
                        self.node.name,
                        tail(&self.node.log)
                    ),
                    whose: Whose::ThisMachine,
                    next: format!("look into {}", self.node.log.display()),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Why a node that should run does not.
    pub(super) fn failure(&self, status: ExitStatus) -> Failure {
        ended(&self.node.name, status, &self.node.log)
    }

    /// Signal 9, by its process id.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().await.at("kill", &self.node.name)
    }

    /// Asks it to stop, then insists.
    pub(super) async fn stop(mut self) {
        if let Ok(mut client) = Client::connect(&self.node.folder).await {
            let _ = client.order(&ControlRequest::Stop).await;
        }
        if timeout(Duration::from_secs(STOP_S_MAX), self.child.wait()).await.is_ok() {
            return;
        }
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if timeout(Duration::from_secs(TERMINATE_S_MAX), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Waits while an earlier process on the folder takes its leave: of a demo that was killed, its
/// nodes stop by themselves, after they handed in what they had.
async fn wait_until_free(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(LEAVE_S_MAX);
    while folder.exists() && FolderLock::take(folder).is_err() && Instant::now() < deadline {
        sleep(Duration::from_millis(200)).await;
    }
}

fn open_log(path: &Path) -> Result<File, Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).at("make", folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path).at("open", path)
}

/// A child's end as our own: its class is the one its exit code says.
fn ended(name: &str, status: ExitStatus, log: &Path) -> Failure {
    let (class, whose) = match status.code() {
        Some(2) => (Class::Usage, Whose::Ours),
        Some(3) => (Class::Input, Whose::Yours),
        Some(4) => (Class::Permission, Whose::Yours),
        Some(5) => (Class::Network, Whose::Nobody),
        Some(6) => (Class::Environment, Whose::ThisMachine),
        Some(7) => (Class::Corrupt, Whose::ThisMachine),
        _ => (Class::Unknown, Whose::Ours),
    };
    Failure {
        class,
        what: format!("{name} ended unexpectedly ({status})\n{}", tail(log)),
        whose,
        next: format!("look into {}", log.display()),
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let size = file.metadata().map_or(0, |meta| meta.len());
        let _ = file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)));
        let _ = file.take(LOG_TAIL_BYTES).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..]
        .iter()
        .map(|line| format!("    {}", crate::show::printable(line)))
        .collect::<Vec<_>>()
        .join("\n")
}
