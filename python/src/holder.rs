//! Holding regions for others from a Python program.

use crate::buffer::Buffer;
use crate::error::Trouble;
use crate::guarded::{self, Door, Guards, Wish};
use crate::place::{Kind, key_at, seed};
use crate::wait::{runtime, wait};
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use suanli_base::NodeId;
use suanli_identity::{SecretKey, TICKET_ADDRESSES_MAX};
use suanli_link::Ended;
use suanli_link::holder::{self, Doorman, Guard, HolderLimits, Refusal, Upload, serve};
use suanli_link::shared::SharedListener;
use suanli_link::{LinkError, LinkLimits, Listener};
use suanli_rdpa::{Code, Hello, Limits, RegionName, Request, UplinkLimits};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// How long to wait when the system gives no more connections.
const BREATH: Duration = Duration::from_millis(100);
/// Connections at once on one address.
const CONNECTIONS_MAX: usize = 1024;

/// Who may come in.
#[derive(Clone)]
enum Admit {
    /// Who is in may do everything: read, write, accumulate, count.
    Listed(List),
    /// Who shows a grant may do what it says.
    Granted(Arc<Guard>),
}

impl Admit {
    fn door(&self) -> Door<List> {
        match self {
            Self::Listed(list) => Door::Listed(list.clone()),
            Self::Granted(guard) => Door::Granted(guard.door()),
        }
    }
}

#[derive(Clone)]
enum List {
    Anyone,
    These(Arc<BTreeSet<NodeId>>),
}

impl List {
    fn of(nodes: Option<Vec<String>>) -> Result<Self, Trouble> {
        let Some(nodes) = nodes else { return Ok(Self::Anyone) };
        let nodes = nodes.iter().map(|node| node.parse());
        Ok(Self::These(Arc::new(nodes.collect::<Result<_, _>>()?)))
    }
}

impl Doorman for List {
    fn hello(&mut self, peer: NodeId, _: &Hello) -> Result<(), Refusal> {
        match self {
            Self::These(nodes) if !nodes.contains(&peer) => {
                let text = format!("this holder does not admit node {}", peer.short());
                Err(Refusal::new(Code::Unauthorised, text))
            }
            _ => Ok(()),
        }
    }

    fn may(&mut self, _: &Request, _: u64) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Regions of this process, for any number of connections.
#[pyclass(frozen, module = "suanli._suanli")]
pub(crate) struct Holder {
    holder: Arc<holder::Holder>,
    key: SecretKey,
    /// The file of the key; what was revoked is kept beside it.
    path: PathBuf,
    guards: Guards,
    /// Where others reach this holder, for grants.
    addresses: Mutex<Vec<String>>,
    /// Where readers on this host find the versions.
    folder: Option<PathBuf>,
    listening: Mutex<Vec<Listening>>,
}

/// A task that takes connections on one address. It ends when this is dropped.
struct Listening {
    _stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    fn begin<F>(serving: F) -> Result<Self, Trouble>
    where
        F: for<'a> FnOnce(&'a mut JoinSet<()>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
        F: Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = runtime()?.spawn(until(stopped, serving));
        Ok(Self { _stop: stop, task })
    }
}

/// Lets connections come until told to end; then all of them are over when this is.
async fn until<F>(stop: oneshot::Receiver<()>, serving: F)
where
    F: for<'a> FnOnce(&'a mut JoinSet<()>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
{
    let mut connections = JoinSet::new();
    tokio::select! {
        _ = stop => {}
        () = serving(&mut connections) => {}
    }
    connections.shutdown().await;
}

async fn accept(
    serving: &mut JoinSet<()>,
    listener: Listener,
    holder: Arc<holder::Holder>,
    admit: Admit,
) {
    let listener = Arc::new(listener);
    loop {
        while serving.try_join_next().is_some() {}
        if serving.len() >= CONNECTIONS_MAX {
            serving.join_next().await;
        }
        let Ok(incoming) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (holder, door, listener) = (Arc::clone(&holder), admit.door(), Arc::clone(&listener));
        serving.spawn(async move {
            match incoming.handshake().await {
                Ok(link) => {
                    let (peer, remote) = (link.peer(), link.remote().clone());
                    let ended = serve(link, holder, door, Limits::reliable(), seed()).await;
                    let by_peer = matches!(
                        ended,
                        Ended::Violation(_) | Ended::Broken(LinkError::Frame { .. })
                    );
                    if by_peer && listener.is_news_of(&remote) {
                        warn(format!("node {} at {remote} is cut off: {ended}", peer.short()));
                    }
                }
                Err(error) if listener.is_news(&error) => warn(error.to_string()),
                // Told already, of the same address.
                Err(_) => {}
            }
        });
    }
}

/// Tells the program by Python's `logging`, as "suanli", from a thread that may wait for it.
fn warn(text: String) {
    let tell = move |py: Python<'_>| -> PyResult<()> {
        let logger = py.import("logging")?.call_method1("getLogger", ("suanli",))?;
        logger.call_method1("warning", ("%s", text))?;
        Ok(())
    };
    tokio::task::spawn_blocking(move || {
        // An interpreter that is going away, or a logger that fails, is no reason to stop serving.
        let _ = Python::try_attach(tell);
    });
}

async fn accept_shared(
    serving: &mut JoinSet<()>,
    listener: SharedListener,
    holder: Arc<holder::Holder>,
    admit: Admit,
) {
    loop {
        while serving.try_join_next().is_some() {}
        if serving.len() >= CONNECTIONS_MAX {
            serving.join_next().await;
        }
        match listener.accept().await {
            Ok(link) => {
                let (holder, door) = (Arc::clone(&holder), admit.door());
                serving.spawn(async move {
                    serve(link, holder, door, Limits::reliable(), seed()).await;
                });
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
        admit: Admit,
        open: bool,
    ) -> Result<(Listening, String), Trouble> {
        let (limits, holder) = (LinkLimits::default(), Arc::clone(&self.holder));
        if kind == Kind::Shared {
            let folder = self.folder.as_deref().ok_or(Trouble::NoFolder)?;
            let timeout = limits.handshake_timeout;
            let listener = SharedListener::bind(folder, &self.key, timeout).await?;
            let listening = Listening::begin(|serving| {
                Box::pin(accept_shared(serving, listener, holder, admit))
            })?;
            return Ok((listening, folder.display().to_string()));
        }
        let found = || Trouble::Address { found: address.to_owned() };
        let address: SocketAddr = address.parse().map_err(|_| found())?;
        if open && !address.ip().is_loopback() {
            return Err(Trouble::Open { address });
        }
        let listener = match kind {
            Kind::Tcp => Listener::bind_plain(address, &self.key, limits).await?,
            _ => Listener::bind(address, &self.key, limits).await?,
        };
        let bound = listener.local_addr()?.to_string();
        let listening =
            Listening::begin(|serving| Box::pin(accept(serving, listener, holder, admit)))?;
        Ok((listening, bound))
    }
}

#[pymethods]
impl Holder {
    #[new]
    #[pyo3(signature = (key, folder, bytes_per_second, bytes_per_day, minutes_east))]
    fn new(
        py: Python<'_>,
        key: PathBuf,
        folder: Option<PathBuf>,
        bytes_per_second: Option<u64>,
        bytes_per_day: Option<u64>,
        minutes_east: i32,
    ) -> PyResult<Self> {
        let path = key;
        let key = py.detach(|| key_at(&path)).map_err(|trouble| trouble.raise(py))?;
        let limits = HolderLimits::default();
        let holder = match &folder {
            None => holder::Holder::new(limits),
            Some(folder) => holder::Holder::share(limits, folder)
                .map_err(|error| Trouble::from(error).raise(py))?,
        };
        let upload = UplinkLimits {
            bytes_per_s: bytes_per_second.unwrap_or(u64::MAX),
            bytes_per_day: bytes_per_day.unwrap_or(u64::MAX),
            ..UplinkLimits::default()
        };
        if upload != UplinkLimits::default() {
            let upload = Upload::new(upload, minutes_east).expect("no part of the day contradicts");
            holder.limit_upload(Some(Arc::new(upload)));
        }
        let (guards, addresses) = (Guards::default(), Mutex::default());
        let listening = Mutex::default();
        Ok(Self { holder, key, path, guards, addresses, folder, listening })
    }

    /// The key by which others know this holder.
    #[getter]
    fn node(&self) -> String {
        self.key.node().to_string()
    }

    /// Listens; returns the address. Everybody may come when `admit` names nobody, but what each may
    /// do is what a grant says with `granted`.
    #[pyo3(signature = (address, link, admit, anyone, granted))]
    fn listen(
        &self,
        py: Python<'_>,
        address: &str,
        link: &str,
        admit: Option<Vec<String>>,
        anyone: bool,
        granted: bool,
    ) -> PyResult<String> {
        let work = async {
            let open = admit.is_none() && !anyone && !granted;
            let admit = match granted {
                true => Admit::Granted(self.guards.of(&self.key, &self.path)?),
                false => Admit::Listed(List::of(admit)?),
            };
            let kind = Kind::named(link)?;
            let (listening, address) = self.begin(address, kind, admit, open).await?;
            self.listening.lock().unwrap_or_else(PoisonError::into_inner).push(listening);
            if kind == Kind::Tls {
                let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
                known.push(address.clone());
                // As many as a grant has room for; the newest are the likeliest.
                let behind = known.len().saturating_sub(TICKET_ADDRESSES_MAX);
                known.drain(..behind);
            }
            Ok(address)
        };
        wait(py, work)
    }

    /// Signs a grant to regions of this holder.
    #[pyo3(signature = (to, regions, rights, seconds, bytes, bytes_per_second, depth, addresses))]
    #[allow(clippy::too_many_arguments, reason = "named in Python")]
    fn grant(
        &self,
        py: Python<'_>,
        to: &str,
        regions: &str,
        rights: &str,
        seconds: u64,
        bytes: Option<u64>,
        bytes_per_second: Option<u64>,
        depth: u8,
        addresses: Option<Vec<String>>,
    ) -> PyResult<String> {
        let known = || self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let addresses = addresses.unwrap_or_else(known);
        let wish = Wish { to, regions, rights, seconds, bytes, bytes_per_second, depth, addresses };
        let work = || guarded::issue(&self.key, &*self.guards.of(&self.key, &self.path)?, wish);
        py.detach(work).map_err(|trouble| trouble.raise(py))
    }

    /// Ends every grant to some regions that was given so far; returns the epoch now in force.
    fn revoke(&self, py: Python<'_>, regions: &str) -> PyResult<u64> {
        let work = || -> Result<u64, Trouble> {
            let guard = self.guards.of(&self.key, &self.path)?;
            let revoked = guard.revoke_all(guarded::prefix(regions)?);
            revoked.map_err(|refusal| Trouble::Revoke { text: refusal.text })
        };
        py.detach(work).map_err(|trouble| trouble.raise(py))
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

    /// Stops listening, and ends every connection; what was used of grants is kept then.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks: Vec<_> = listening.drain(..).map(|listening| listening.task).collect();
        drop(listening);
        let work = async {
            for task in tasks {
                // A task that panicked is over too.
                let _ = task.await;
            }
            Ok(())
        };
        wait(py, work)
    }
}
