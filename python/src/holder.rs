//! Holding regions for others from a Python program.

use crate::buffer::Buffer;
use crate::error::Trouble;
use crate::place::{Kind, key_at, seed};
use crate::wait::{runtime, wait};
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use suanli_base::{NodeId, Time};
use suanli_identity::SecretKey;
use suanli_link::holder::{self, Doorman, HolderLimits, serve};
use suanli_link::shared::SharedListener;
use suanli_link::{LinkError, LinkLimits, Listener};
use suanli_rdpa::{Code, Hello, Limits, RegionName, Request};
use tokio::task::{JoinHandle, JoinSet};

/// How long to wait when the system gives no more connections.
const BREATH: Duration = Duration::from_millis(100);
/// Connections at once on one address.
const CONNECTIONS_MAX: usize = 1024;

/// Who may come in. Who is in may do everything: read, write, accumulate, count.
#[derive(Clone)]
enum Admit {
    Anyone,
    These(Arc<BTreeSet<NodeId>>),
}

impl Admit {
    fn of(nodes: Option<Vec<String>>) -> Result<Self, Trouble> {
        let Some(nodes) = nodes else { return Ok(Self::Anyone) };
        let nodes = nodes.iter().map(|node| node.parse());
        Ok(Self::These(Arc::new(nodes.collect::<Result<_, _>>()?)))
    }
}

impl Doorman for Admit {
    fn hello(&mut self, _: Time, peer: NodeId, _: &Hello) -> Result<(), (Code, String)> {
        match self {
            Self::These(nodes) if !nodes.contains(&peer) => {
                let text = format!("this holder does not admit node {}", peer.short());
                Err((Code::Unauthorised, text))
            }
            _ => Ok(()),
        }
    }

    fn may(&mut self, _: Time, _: &Request) -> Result<(), (Code, String)> {
        Ok(())
    }
}

/// Regions of this process, for any number of connections.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Holder {
    holder: Arc<holder::Holder>,
    key: SecretKey,
    /// Where readers on this host find the versions.
    folder: Option<PathBuf>,
    listening: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept(listener: Listener, holder: Arc<holder::Holder>, admit: Admit) {
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        if serving.len() >= CONNECTIONS_MAX {
            serving.join_next().await;
        }
        let Ok(incoming) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (holder, admit) = (Arc::clone(&holder), admit.clone());
        serving.spawn(async move {
            // A stranger that fails its handshake is nobody's trouble but its own.
            if let Ok(link) = incoming.handshake().await {
                serve(link, holder, admit, Limits::reliable(), seed()).await;
            }
        });
    }
}

async fn accept_shared(listener: SharedListener, holder: Arc<holder::Holder>, admit: Admit) {
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        if serving.len() >= CONNECTIONS_MAX {
            serving.join_next().await;
        }
        match listener.accept().await {
            Ok(link) => {
                let (holder, admit) = (Arc::clone(&holder), admit.clone());
                serving.spawn(serve(link, holder, admit, Limits::reliable(), seed()));
            }
            Err(LinkError::Listen { .. }) => tokio::time::sleep(BREATH).await,
            // Somebody who is not who it should be.
            Err(_) => {}
        }
    }
}

impl Holder {
    /// Begins to listen; the task that does, and the address.
    async fn begin(
        &self,
        address: &str,
        kind: Kind,
        admit: Option<Vec<String>>,
        anyone: bool,
    ) -> Result<(JoinHandle<()>, String), Trouble> {
        let (limits, holder) = (LinkLimits::default(), Arc::clone(&self.holder));
        if kind == Kind::Shared {
            let folder = self.folder.as_deref().ok_or(Trouble::NoFolder)?;
            let timeout = limits.handshake_timeout;
            let listener = SharedListener::bind(folder, &self.key, timeout).await?;
            let task = runtime()?.spawn(accept_shared(listener, holder, Admit::of(admit)?));
            return Ok((task, folder.display().to_string()));
        }
        let found = || Trouble::Address { found: address.to_owned() };
        let address: SocketAddr = address.parse().map_err(|_| found())?;
        if admit.is_none() && !anyone && !address.ip().is_loopback() {
            return Err(Trouble::Open { address });
        }
        let listener = match kind {
            Kind::Tcp => Listener::bind_plain(address, &self.key, limits).await?,
            _ => Listener::bind(address, &self.key, limits).await?,
        };
        let bound = listener.local_addr()?.to_string();
        Ok((runtime()?.spawn(accept(listener, holder, Admit::of(admit)?)), bound))
    }
}

#[pymethods]
impl Holder {
    #[new]
    #[pyo3(signature = (key, folder))]
    fn new(py: Python<'_>, key: PathBuf, folder: Option<PathBuf>) -> PyResult<Self> {
        let key = py.detach(|| key_at(&key)).map_err(|trouble| trouble.raise(py))?;
        let limits = HolderLimits::default();
        let holder = match &folder {
            None => holder::Holder::new(limits),
            Some(folder) => holder::Holder::share(limits, folder)
                .map_err(|error| Trouble::from(error).raise(py))?,
        };
        Ok(Self { holder, key, folder, listening: Mutex::default() })
    }

    /// The key by which others know this holder.
    #[getter]
    fn node(&self) -> String {
        self.key.node().to_string()
    }

    /// Listens; returns the address. Everybody may come when `admit` names nobody.
    #[pyo3(signature = (address, link, admit, anyone))]
    fn listen(
        &self,
        py: Python<'_>,
        address: &str,
        link: &str,
        admit: Option<Vec<String>>,
        anyone: bool,
    ) -> PyResult<String> {
        let work = async {
            let (task, address) = self.begin(address, Kind::named(link)?, admit, anyone).await?;
            self.listening.lock().unwrap_or_else(PoisonError::into_inner).push(task);
            Ok(address)
        };
        wait(py, work)
    }

    /// Publishes bytes as the next version of a region; returns the version.
    fn publish(
        &self,
        py: Python<'_>,
        name: &str,
        bytes: PyBackedBytes,
        chunk_bytes: u32,
    ) -> PyResult<u64> {
        let work = || -> Result<u64, Trouble> {
            let name = RegionName::new(name)?;
            Ok(self.holder.publish(&name, Bytes::from_owner(bytes), chunk_bytes)?)
        };
        py.detach(work).map_err(|trouble| trouble.raise(py))
    }

    /// Publishes a file as the next version of a region: mapped, not read in.
    fn publish_file(
        &self,
        py: Python<'_>,
        name: &str,
        path: PathBuf,
        chunk_bytes: u32,
    ) -> PyResult<u64> {
        let work = || -> Result<u64, Trouble> {
            Ok(self.holder.publish_file(&RegionName::new(name)?, &path, chunk_bytes)?)
        };
        py.detach(work).map_err(|trouble| trouble.raise(py))
    }

    /// The newest version of a region, 0 when there is none.
    fn version(&self, py: Python<'_>, name: &str) -> PyResult<u64> {
        let name = RegionName::new(name).map_err(|error| Trouble::from(error).raise(py))?;
        Ok(self.holder.newest(&name).map_or(0, |newest| newest.info.version))
    }

    /// The bytes of the newest version, which somebody else may have written.
    fn read(&self, py: Python<'_>, name: &str) -> PyResult<Option<Buffer>> {
        let name = RegionName::new(name).map_err(|error| Trouble::from(error).raise(py))?;
        let copied = py.detach(|| {
            let newest = self.holder.newest(&name)?;
            Some(newest.run(0, newest.info.shape.bytes).to_vec())
        });
        Ok(copied.map(Buffer::new))
    }

    /// Takes a region away.
    fn remove(&self, py: Python<'_>, name: &str) -> PyResult<bool> {
        let name = RegionName::new(name).map_err(|error| Trouble::from(error).raise(py))?;
        Ok(self.holder.remove(&name))
    }

    /// What was accumulated under a name, when it is whole; handed over once.
    fn contribution(&self, py: Python<'_>, name: &str) -> PyResult<Option<Py<PyAny>>> {
        let name = RegionName::new(name).map_err(|error| Trouble::from(error).raise(py))?;
        let Some(chunks) = self.holder.take_contribution(&name) else { return Ok(None) };
        let whole = py.detach(|| chunks.concat());
        Ok(Some(pyo3::types::PyBytes::new(py, &whole).into_any().unbind()))
    }

    /// Registers cells of 64 bits, all zero.
    fn add_cells(&self, py: Python<'_>, name: &str, count: u32) -> PyResult<()> {
        let work = || -> Result<(), Trouble> {
            Ok(self.holder.add_cells(&RegionName::new(name)?, count)?)
        };
        work().map_err(|trouble| trouble.raise(py))
    }

    /// What a cell holds.
    fn cell(&self, py: Python<'_>, name: &str, cell: u32) -> PyResult<Option<u64>> {
        let name = RegionName::new(name).map_err(|error| Trouble::from(error).raise(py))?;
        Ok(self.holder.cell(&name, cell))
    }

    /// Stops listening, and ends every connection.
    fn close(&self) {
        for task in self.listening.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}
