//! A connection as Python has it: blocking, shared by threads, and made anew when it was lost.

use crate::buffer::Buffer;
use crate::error::Trouble;
use crate::place::{Recipe, Wish};
use crate::wait::wait;
use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyDict;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use suanli_base::Fault;
use suanli_link::reader::{self, Partial, RemoteError, RemoteNode, zeros};
use suanli_rdpa::{Level, RegionInfo, RegionName, Span, Stat};

/// How often one read is taken up again on a new connection.
const RECONNECTS_MAX: u32 = 3;

/// A node at the other end of a connection.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Node {
    recipe: Recipe,
    /// The connection, with its number; none when it was closed here.
    current: Mutex<Option<(u64, RemoteNode)>>,
}

/// A region opened at one version.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Opened {
    name: RegionName,
    info: Arc<RegionInfo>,
    /// The handle, and the number of the connection that gave it.
    opened: Mutex<(u64, reader::Opened)>,
}

/// The versions of a region, as they are published.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Versions {
    versions: tokio::sync::Mutex<reader::Versions>,
}

/// Bytes, how many each node gave, and which nodes were dropped with why.
type Collected = (Buffer, BTreeMap<String, u64>, Vec<(String, String)>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds(timeout: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout)
        .map_err(|error| PyValueError::new_err(format!("timeout of {timeout} s: {error}")))
}

impl Node {
    fn remote(&self) -> Result<(u64, RemoteNode), Trouble> {
        lock(&self.current).clone().ok_or(Trouble::Closed)
    }

    /// A connection that lives, made anew when the last one is over.
    async fn alive(&self) -> Result<(u64, RemoteNode), Trouble> {
        let (number, remote) = self.remote()?;
        if remote.over().is_none() {
            return Ok((number, remote));
        }
        let made = self.recipe.connect().await?;
        let mut current = lock(&self.current);
        match &*current {
            None => Err(Trouble::Closed),
            // Another thread was faster.
            Some((newer, remote)) if *newer != number => Ok((*newer, remote.clone())),
            Some(_) => {
                *current = Some((number + 1, made.clone()));
                Ok((number + 1, made))
            }
        }
    }

    /// The connection and a handle of it for what was opened, perhaps on an earlier one.
    async fn at(&self, opened: &Opened) -> Result<(RemoteNode, reader::Opened), Trouble> {
        let (number, remote) = self.alive().await?;
        let known = lock(&opened.opened).clone();
        if known.0 == number {
            return Ok((remote, known.1));
        }
        let again = remote.open(opened.name.clone()).await?;
        if again.info.root != opened.info.root {
            let (expected, found) = (opened.info.root, again.info.root);
            return Err(Trouble::Moved { expected, found });
        }
        *lock(&opened.opened) = (number, again.clone());
        Ok((remote, again))
    }

    /// Reads a region whole; what has arrived is kept when the connection is lost.
    async fn read_whole(&self, opened: &Opened) -> Result<Vec<u8>, Trouble> {
        let mut partial = Partial::new(&opened.info)?;
        let mut left = RECONNECTS_MAX;
        loop {
            let (remote, handle) = self.at(opened).await?;
            match remote.read(handle, partial).await {
                Ok(whole) => return Ok(whole.memory),
                Err((error, kept)) => {
                    let weather = error.is_over() && error.fault() == Fault::Weather;
                    if left == 0 || !weather {
                        return Err(error.into());
                    }
                    left -= 1;
                    partial = match kept {
                        Some(kept) => kept,
                        None => Partial::new(&opened.info)?,
                    };
                }
            }
        }
    }

    async fn open_new(&self, name: RegionName) -> Result<Opened, Trouble> {
        let (number, remote) = self.alive().await?;
        let opened = remote.open(name.clone()).await?;
        Ok(Opened { name, info: Arc::clone(&opened.info), opened: Mutex::new((number, opened)) })
    }

    async fn open_changed(&self, name: RegionName, since: u64) -> Result<Option<Opened>, Trouble> {
        let (number, remote) = self.alive().await?;
        let opened = remote.open_if_changed(name.clone(), since).await?;
        Ok(opened.map(|opened| {
            let info = Arc::clone(&opened.info);
            Opened { name, info, opened: Mutex::new((number, opened)) }
        }))
    }
}

fn level_named(text: &str) -> Result<Level, Trouble> {
    match text {
        "accepted" => Ok(Level::Accepted),
        "placed" => Ok(Level::Placed),
        "durable" => Ok(Level::Durable),
        _ => Err(Trouble::Word {
            what: "a level",
            found: text.to_owned(),
            expected: "accepted, placed, durable",
        }),
    }
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (address, key, expected, ticket, role, link, timeout))]
    #[allow(clippy::too_many_arguments, reason = "named in Python")]
    fn new(
        py: Python<'_>,
        address: Option<String>,
        key: PathBuf,
        expected: Option<&str>,
        ticket: Option<&str>,
        role: Option<&str>,
        link: &str,
        timeout: f64,
    ) -> PyResult<Self> {
        let timeout = seconds(timeout)?;
        let wish = Wish { address, key: &key, expected, ticket, role, link, timeout };
        let recipe = Recipe::of(&wish).map_err(|trouble| trouble.raise(py))?;
        let remote = wait(py, recipe.connect())?;
        Ok(Self { recipe, current: Mutex::new(Some((0, remote))) })
    }

    /// The key of the other end, proven by the link.
    #[getter]
    fn peer(&self, py: Python<'_>) -> PyResult<String> {
        let (_, remote) = self.remote().map_err(|trouble| trouble.raise(py))?;
        Ok(remote.peer().to_string())
    }

    /// Where the other end is.
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<String> {
        let (_, remote) = self.remote().map_err(|trouble| trouble.raise(py))?;
        Ok(remote.remote().to_string())
    }

    fn open(&self, py: Python<'_>, name: &str) -> PyResult<Opened> {
        wait(py, async { self.open_new(RegionName::new(name)?).await })
    }

    fn open_if_changed(&self, py: Python<'_>, name: &str, since: u64) -> PyResult<Option<Opened>> {
        wait(py, async { self.open_changed(RegionName::new(name)?, since).await })
    }

    /// All of it, verified.
    fn read(&self, py: Python<'_>, opened: &Opened) -> PyResult<Buffer> {
        wait(py, self.read_whole(opened)).map(Buffer::new)
    }

    /// All of it, verified, from this node and others at once: the bytes, who gave how many, and who
    /// was dropped with why.
    fn gather(
        &self,
        py: Python<'_>,
        opened: &Opened,
        others: Vec<Py<Self>>,
    ) -> PyResult<Collected> {
        let work = async {
            let mut sources = Vec::new();
            let mut dropped = Vec::new();
            for node in std::iter::once(self).chain(others.iter().map(Py::get)) {
                match node.recipe.source().await {
                    Ok(source) => sources.push(source),
                    Err(why) => dropped.push((node.recipe.expected().to_string(), why.to_string())),
                }
            }
            let (name, root) = (opened.name.clone(), opened.info.root);
            let gathered = reader::gather(sources, name, Some(root), None).await?;
            let told = |gone: reader::Dropped| (gone.node.to_string(), gone.why);
            dropped.extend(gathered.dropped.into_iter().map(told));
            let from = gathered.from.into_iter().map(|(node, bytes)| (node.to_string(), bytes));
            Ok((gathered.memory, from.collect(), dropped))
        };
        let (memory, from, dropped) = wait(py, work)?;
        Ok((Buffer::new(memory), from, dropped))
    }

    /// The region in this process's address space, over a shared link whose holder has it so.
    fn map(&self, py: Python<'_>, opened: &Opened) -> PyResult<Option<Buffer>> {
        let work = async {
            let (remote, handle) = self.at(opened).await?;
            Ok(remote.map(handle).await?)
        };
        Ok(wait(py, work)?.map(Buffer::mapped))
    }

    /// Bytes start..start + len, verified.
    fn read_range(
        &self,
        py: Python<'_>,
        opened: &Opened,
        start: u64,
        len: u64,
    ) -> PyResult<Buffer> {
        let work = async {
            let (remote, handle) = self.at(opened).await?;
            Ok(remote.read_verified(handle, start, zeros(len)?).await?)
        };
        wait(py, work).map(Buffer::new)
    }

    /// Spans of (offset, length of a run, stride, runs), packed.
    fn read_spans(
        &self,
        py: Python<'_>,
        opened: &Opened,
        spans: Vec<(u64, u64, u64, u32)>,
    ) -> PyResult<Buffer> {
        let spans: Vec<Span> = spans
            .into_iter()
            .map(|(offset, len, stride, count)| Span { offset, len, stride, count })
            .collect();
        let bytes = spans.iter().map(|span| span.bytes().unwrap_or(0));
        let total = bytes.fold(0, u64::saturating_add);
        let work = async {
            let (remote, handle) = self.at(opened).await?;
            Ok(remote.read_spans(handle, spans, zeros(total)?).await?)
        };
        wait(py, work).map(Buffer::new)
    }

    /// Writes the version after `expected`.
    fn write(
        &self,
        py: Python<'_>,
        name: &str,
        bytes: PyBackedBytes,
        expected: u64,
        chunk_bytes: u32,
    ) -> PyResult<u64> {
        let work = async {
            let (_, remote) = self.alive().await?;
            let bytes = Bytes::from_owner(bytes);
            Ok(remote.write(RegionName::new(name)?, bytes, chunk_bytes, expected).await?)
        };
        wait(py, work)
    }

    /// Stages a contribution.
    fn accumulate(
        &self,
        py: Python<'_>,
        name: &str,
        bytes: PyBackedBytes,
        chunk_bytes: u32,
    ) -> PyResult<()> {
        let work = async {
            let (_, remote) = self.alive().await?;
            let bytes = Bytes::from_owner(bytes);
            Ok(remote.accumulate(RegionName::new(name)?, bytes, chunk_bytes).await?)
        };
        wait(py, work)
    }

    fn subscribe(&self, py: Python<'_>, name: &str) -> PyResult<Versions> {
        let work = async {
            let (_, remote) = self.alive().await?;
            let versions = remote.subscribe(RegionName::new(name)?).await?;
            Ok(Versions { versions: tokio::sync::Mutex::new(versions) })
        };
        wait(py, work)
    }

    fn cas(&self, py: Python<'_>, name: &str, cell: u32, expected: u64, new: u64) -> PyResult<u64> {
        let work = async {
            let (_, remote) = self.alive().await?;
            Ok(remote.cas(RegionName::new(name)?, cell, expected, new).await?)
        };
        wait(py, work)
    }

    fn fetch_add(&self, py: Python<'_>, name: &str, cell: u32, add: u64) -> PyResult<u64> {
        let work = async {
            let (_, remote) = self.alive().await?;
            Ok(remote.fetch_add(RegionName::new(name)?, cell, add).await?)
        };
        wait(py, work)
    }

    fn fence(&self, py: Python<'_>, level: &str) -> PyResult<()> {
        let work = async {
            let level = level_named(level)?;
            let (_, remote) = self.alive().await?;
            Ok(remote.fence(level).await?)
        };
        wait(py, work)
    }

    /// The session and a region, as the holder sees them.
    fn stat<'py>(&self, py: Python<'py>, name: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
        let work = async {
            let region = name.map(RegionName::new).transpose()?;
            let (_, remote) = self.alive().await?;
            Ok(remote.stat(region).await?)
        };
        let Stat { session, region } = wait(py, work)?;
        let out = PyDict::new(py);
        out.set_item("requests", session.requests)?;
        out.set_item("serving", session.serving)?;
        out.set_item("bytes_sent", session.bytes_sent)?;
        out.set_item("bytes_received", session.bytes_received)?;
        out.set_item("rtt_ms", session.rtt_ms)?;
        if let Some(region) = region {
            let about = PyDict::new(py);
            about.set_item("version", region.version)?;
            about.set_item("oldest", region.oldest)?;
            about.set_item("nbytes", region.shape.bytes)?;
            about.set_item("chunk_bytes", region.shape.chunk_bytes)?;
            about.set_item("root", region.root.to_string())?;
            about.set_item("pinned_bytes", region.pinned_bytes)?;
            out.set_item("region", about)?;
        }
        Ok(out)
    }

    /// Says goodbye. Whoever reads gets an error.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        // The task says goodbye when nobody can ask it any more.
        *lock(&self.current) = None;
        let work = async {
            self.recipe.close().await;
            Ok(())
        };
        wait(py, work)
    }
}

#[pymethods]
impl Opened {
    #[getter]
    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[getter]
    fn version(&self) -> u64 {
        self.info.version
    }

    #[getter]
    fn nbytes(&self) -> u64 {
        self.info.shape.bytes
    }

    #[getter]
    fn chunk_bytes(&self) -> u32 {
        self.info.shape.chunk_bytes
    }

    /// The Merkle root of its chunks.
    #[getter]
    fn root(&self) -> String {
        self.info.root.to_string()
    }
}

#[pymethods]
impl Versions {
    /// The first version above `known`, or nothing within `timeout` seconds.
    #[pyo3(signature = (known, timeout))]
    fn newer_than(
        &self,
        py: Python<'_>,
        known: u64,
        timeout: Option<f64>,
    ) -> PyResult<Option<u64>> {
        let timeout = timeout.map(seconds).transpose()?;
        let work = async {
            let mut versions = self.versions.lock().await;
            let newer = versions.newer_than(known);
            let newer: Result<u64, RemoteError> = match timeout {
                None => newer.await,
                Some(timeout) => match tokio::time::timeout(timeout, newer).await {
                    Ok(newer) => newer,
                    Err(_) => return Ok(None),
                },
            };
            Ok(Some(newer?))
        };
        wait(py, work)
    }
}
