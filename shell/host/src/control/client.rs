//! The command's side: connects, asks, watches.

use super::error::ControlError;
use super::message::{ControlReply, ControlRequest, Greeting, NodeKind, REPLY_BYTES_MAX, VERSION};
use super::server::{read_line, write_line};
use super::socket::Address;
use super::status::{CityStatus, FamilyStatus, JobStatus};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How long a node may take for an ordinary answer.
const ANSWER_S_MAX: u64 = 15;
/// How long it may take to move files about.
const LONG_ANSWER_S_MAX: u64 = 600;

/// A connection to the node of a folder.
#[derive(Debug)]
pub struct Client {
    folder: PathBuf,
    greeting: Greeting,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the node that runs on `folder`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] when nobody does; [`ControlError::Version`] when it is of
    /// another version; others as the system has it.
    pub async fn connect(folder: &Path) -> Result<Self, ControlError> {
        let absent = || ControlError::NotRunning { folder: folder.into() };
        if !folder.exists() {
            return Err(absent());
        }
        let address = Address::of(folder)?;
        let stream =
            UnixStream::connect(&address.path).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => absent(),
                _ => ControlError::io("reach the control socket in", folder)(error),
            })?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let line = within(ANSWER_S_MAX, read_line(&mut reader, REPLY_BYTES_MAX)).await?;
        let line = line.ok_or(ControlError::Closed)?;
        let greeting = match serde_json::from_slice::<Greeting>(&line) {
            Ok(greeting) if greeting.control == VERSION => greeting,
            Ok(other) => {
                return Err(ControlError::Version { expected: VERSION, found: other.control });
            }
            Err(error) => {
                return Err(match serde_json::from_slice(&line) {
                    Ok(ControlReply::Refused(refusal)) => refusal.into(),
                    _ => error.into(),
                });
            }
        };
        Ok(Self { folder: folder.into(), greeting, reader, writer })
    }

    /// What runs there.
    #[must_use]
    pub const fn kind(&self) -> NodeKind {
        self.greeting.kind
    }

    /// The process that runs there.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.greeting.pid
    }

    /// Hands the connection on only when a node of `kind` answers.
    ///
    /// # Errors
    /// [`ControlError::WrongKind`] otherwise.
    pub fn expect_kind(self, expected: NodeKind) -> Result<Self, ControlError> {
        let found = self.kind();
        if found == expected {
            return Ok(self);
        }
        Err(ControlError::WrongKind { folder: self.folder, expected, found })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when the node says no; others when it does not answer.
    pub async fn call(&mut self, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let patience = match request {
            ControlRequest::Submit { .. } | ControlRequest::Export { .. } => LONG_ANSWER_S_MAX,
            _ => ANSWER_S_MAX,
        };
        write_line(&mut self.writer, request).await?;
        match within(patience, self.read()).await? {
            Some(ControlReply::Refused(refusal)) => Err(refusal.into()),
            Some(reply) => Ok(reply),
            None => Err(ControlError::Closed),
        }
    }

    /// A city's status.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn city_status(&mut self) -> Result<CityStatus, ControlError> {
        match self.call(&ControlRequest::Status).await? {
            ControlReply::City(status) => Ok(*status),
            _ => Err(ControlError::Unexpected { expected: "a city's status" }),
        }
    }

    /// A family's status.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn family_status(&mut self) -> Result<FamilyStatus, ControlError> {
        match self.call(&ControlRequest::Status).await? {
            ControlReply::Family(status) => Ok(*status),
            _ => Err(ControlError::Unexpected { expected: "a family's status" }),
        }
    }

    /// The jobs a node knows.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn jobs(&mut self) -> Result<Vec<JobStatus>, ControlError> {
        match self.call(&ControlRequest::Jobs).await? {
            ControlReply::Jobs { jobs } => Ok(jobs),
            _ => Err(ControlError::Unexpected { expected: "a list of jobs" }),
        }
    }

    /// Asks for something that is answered with "done".
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn order(&mut self, request: &ControlRequest) -> Result<(), ControlError> {
        match self.call(request).await? {
            ControlReply::Done => Ok(()),
            _ => Err(ControlError::Unexpected { expected: "\"done\"" }),
        }
    }

    /// Turns the connection into a stream of statuses, one every `interval_ms`, and events.
    ///
    /// # Errors
    /// When the node is gone.
    pub async fn watch(mut self, interval_ms: u64) -> Result<Watching, ControlError> {
        write_line(&mut self.writer, &ControlRequest::Watch { interval_ms }).await?;
        Ok(Watching { client: self })
    }

    async fn read(&mut self) -> Result<Option<ControlReply>, ControlError> {
        let line = read_line(&mut self.reader, REPLY_BYTES_MAX).await?;
        Ok(line.map(|line| serde_json::from_slice(&line)).transpose()?)
    }
}

/// A stream of statuses and events.
#[derive(Debug)]
pub struct Watching {
    client: Client,
}

impl Watching {
    /// What runs there.
    #[must_use]
    pub const fn kind(&self) -> NodeKind {
        self.client.kind()
    }

    /// The next status or event; nothing when the node stopped.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when the node says no; others as the system has it.
    pub async fn next(&mut self) -> Result<Option<ControlReply>, ControlError> {
        match self.client.read().await? {
            Some(ControlReply::Refused(refusal)) => Err(refusal.into()),
            other => Ok(other),
        }
    }
}

async fn within<T>(
    after_s: u64,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    tokio::time::timeout(Duration::from_secs(after_s), work)
        .await
        .unwrap_or(Err(ControlError::TimedOut { after_s }))
}
