//! A holder's side of grants: the guard of its regions, its books beside the key, what is issued.

use crate::error::Trouble;
use crate::place::now;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use suanli_base::{Duration, NodeId, Time};
use suanli_identity::{Access, AccessLine, Bounds, Prefix, SecretKey};
use suanli_link::holder::{Doorman, Guard, GuardDoor, KeepBooks, Refusal};
use suanli_rdpa::{Code, GateBooks, GateLimits, Hello, RegionName, Request};
use suanli_store::{Disk as _, RealDisk, write_atomic};

/// A grant begins so much before it is given: whose clock is a little behind is not turned away.
const CLOCKS_APART: Duration = Duration(60_000);

/// Made when grants are first asked for; one for a holder.
#[derive(Default)]
pub(crate) struct Guards(Mutex<Option<Arc<Guard>>>);

/// A grant as a caller asks for it.
pub(crate) struct Wish<'a> {
    pub(crate) to: &'a str,
    pub(crate) regions: &'a str,
    pub(crate) rights: &'a str,
    pub(crate) seconds: u64,
    pub(crate) bytes: Option<u64>,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) depth: u8,
    pub(crate) addresses: Vec<String>,
}

impl Guards {
    /// The guard of the regions of `key`, whose file is at `path`.
    pub(crate) fn of(&self, key: &SecretKey, path: &Path) -> Result<Arc<Guard>, Trouble> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = &*guard {
            return Ok(Arc::clone(guard));
        }
        let (books, keep) = kept_at(path)?;
        let (limits, public) = (GateLimits::default(), Vec::new());
        Ok(Arc::clone(guard.insert(Guard::new(key.node(), limits, public, books, keep))))
    }
}

/// The books beside a key, and how to keep them.
fn kept_at(key: &Path) -> Result<(GateBooks, KeepBooks), Trouble> {
    let mut name = key.file_name().unwrap_or_default().to_os_string();
    name.push(".grants");
    let (path, name) = (key.with_file_name(&name), name.to_string_lossy().into_owned());
    let failed = |why: String| Trouble::Books { path: path.clone(), why };
    let folder = key.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let disk = RealDisk::new(&folder);
    let books = if path.exists() {
        let bytes = disk.read(&name).map_err(|error| failed(error.to_string()))?;
        GateBooks::from_bytes(&bytes).ok_or_else(|| failed("it is damaged".to_owned()))?
    } else {
        GateBooks::default()
    };
    let keep = move |books: &GateBooks| {
        write_atomic(&disk, "", &name, &books.to_bytes()).map_err(std::io::Error::other)
    };
    Ok((books, Box::new(keep)))
}

/// Signs a grant to regions of `key`, good at the epoch now in force.
pub(crate) fn issue(key: &SecretKey, guard: &Guard, wish: Wish<'_>) -> Result<String, Trouble> {
    let now = now();
    let drawn = suanli_store::draw().map_err(|source| Trouble::Entropy { source })?;
    let bounds = Bounds {
        prefix: prefix(wish.regions)?,
        rights: wish.rights.parse()?,
        bytes_max: wish.bytes.unwrap_or(u64::MAX),
        bytes_per_s: wish.bytes_per_second.unwrap_or(u64::MAX),
        not_before: Time(now.0.saturating_sub(CLOCKS_APART.0)),
        not_after: now.after(Duration::from_s(wish.seconds)),
        epoch: guard.epoch(),
        depth: wish.depth,
    };
    let nonce = u64::from_le_bytes(*drawn.first_chunk().expect("32 bytes have eight"));
    let access = Access::issue(key, wish.to.parse::<NodeId>()?, bounds, nonce)?;
    Ok(AccessLine::new(access, wish.addresses)?.to_string())
}

/// `/` stands for all regions.
pub(crate) fn prefix(text: &str) -> Result<Prefix, Trouble> {
    if text == "/" { Ok(Prefix::all()) } else { Ok(Prefix::new(text)?) }
}

/// Who stands at a door.
pub(crate) enum Door<A> {
    /// Whoever is let in may do everything.
    Listed(A),
    /// Each may do what a grant says.
    Granted(GuardDoor),
}

impl<A: Doorman> Doorman for Door<A> {
    fn hello(&mut self, peer: NodeId, hello: &Hello) -> Result<(), Refusal> {
        match self {
            Self::Listed(door) => door.hello(peer, hello),
            Self::Granted(door) => door.hello(peer, hello),
        }
    }

    fn may(&mut self, request: &Request, read_bytes: u64) -> Result<(), Refusal> {
        match self {
            Self::Listed(door) => door.may(request, read_bytes),
            Self::Granted(door) => door.may(request, read_bytes),
        }
    }

    fn may_be_told(&mut self, region: &RegionName) -> bool {
        match self {
            Self::Listed(door) => door.may_be_told(region),
            Self::Granted(door) => door.may_be_told(region),
        }
    }

    fn revoke(&mut self, prefix: &str, epoch: u64) -> Result<u64, Refusal> {
        match self {
            Self::Listed(_) => {
                let text = "whoever is let in here may do everything: there is nothing to revoke";
                Err(Refusal::new(Code::Unsupported, text))
            }
            Self::Granted(door) => door.revoke(prefix, epoch),
        }
    }

    fn revocations(&self) -> Option<tokio::sync::watch::Receiver<()>> {
        match self {
            Self::Listed(door) => door.revocations(),
            Self::Granted(door) => door.revocations(),
        }
    }

    fn may_keep(&self, region: &RegionName) -> bool {
        match self {
            Self::Listed(door) => door.may_keep(region),
            Self::Granted(door) => door.may_keep(region),
        }
    }
}
