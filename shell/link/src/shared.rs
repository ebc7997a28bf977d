//! Two processes of one user on one host: a Unix socket carries the frames, and regions are read
//! from the same memory, without any frame at all.
//!
//! The holder's folder, owner-only, has the socket and one file for each version that is held, named
//! by its root; on `/dev/shm` those files are memory. A holder publishes into it with
//! [`Holder::share`](crate::holder::Holder::share); a reader maps a version with
//! [`Reader::map`](crate::reader::Reader::map) and reads it in place. A version that is dropped is
//! only unlinked: whoever mapped it keeps it. What is not there to be mapped (a version published by
//! its changes, or whose twin of the same content was dropped) is carried in frames as on any link.
//!
//! Invariants: the folder and the socket belong to one user, and so does whoever connects; both sides
//! prove their keys as on any link; a mapped version has the length that was announced.

use crate::counted::Counted;
use crate::lane::Lane;
use crate::{Link, LinkError, LinkKind, Remote, plain};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use suanli_base::{Hash, NodeId};
use suanli_identity::SecretKey;
use tokio::net::{UnixListener, UnixStream};

const SOCKET: &str = "rdpa.sock";

/// Makes the folder that a holder shares, for its owner alone.
///
/// # Errors
/// What the system says; `PermissionDenied` for a folder that is there and not ours alone.
pub fn folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::metadata(path)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if ours {
        return Ok(());
    }
    let text = format!("{} must belong to this user alone (mode 700)", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// The file of a version.
pub(crate) fn file_of(folder: &Path, root: Hash) -> PathBuf {
    folder.join(root.to_string())
}

/// Listens in a folder.
#[derive(Debug)]
pub struct SharedListener {
    unix: UnixListener,
    folder: PathBuf,
    key: SecretKey,
    timeout: Duration,
}

impl SharedListener {
    /// Listens in `folder`, which is made if need be. A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// [`LinkError::Local`].
    pub async fn bind(path: &Path, key: &SecretKey, timeout: Duration) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Local { path: path.to_owned(), source };
        folder(path).map_err(failed)?;
        let socket = path.join(SOCKET);
        if UnixStream::connect(&socket).await.is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let unix = UnixListener::bind(&socket).map_err(failed)?;
        Ok(Self { unix, folder: path.to_owned(), key: key.clone(), timeout })
    }

    /// The next connection, proven.
    ///
    /// # Errors
    /// [`LinkError::Listen`], or what is wrong with the one who came; then call again.
    pub async fn accept(&self) -> Result<Link, LinkError> {
        let (stream, _) =
            self.unix.accept().await.map_err(|source| LinkError::Listen { source })?;
        introduce(stream, &self.key, None, &self.folder, self.timeout).await
    }
}

impl Drop for SharedListener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(self.folder.join(SOCKET));
    }
}

/// Connects to the holder in `folder`; only the node `expected` will do.
///
/// # Errors
/// [`LinkError::Local`], [`LinkError::WrongKey`], [`LinkError::HandshakeTimeout`],
/// [`LinkError::Noise`] or [`LinkError::Unproven`].
pub async fn connect_shared(
    path: &Path,
    key: &SecretKey,
    expected: NodeId,
    timeout: Duration,
) -> Result<Link, LinkError> {
    let failed = |source| LinkError::Local { path: path.to_owned(), source };
    let stream = UnixStream::connect(path.join(SOCKET)).await.map_err(failed)?;
    introduce(stream, key, Some(expected), path, timeout).await
}

async fn introduce(
    stream: UnixStream,
    key: &SecretKey,
    expected: Option<NodeId>,
    folder: &Path,
    timeout: Duration,
) -> Result<Link, LinkError> {
    let failed = |source| LinkError::Local { path: folder.to_owned(), source };
    let peer = stream.peer_cred().map_err(failed)?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("a process of user {} is at the other end", peer.uid());
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
    }
    let remote = Remote::Local { pid: peer.pid().unwrap_or(0) };
    let (mut stream, counters) = Counted::new(stream);
    let work = plain::prove(&mut stream, key, expected, &remote);
    let late = || LinkError::HandshakeTimeout { remote: remote.clone(), after: timeout };
    let node = tokio::time::timeout(timeout, work).await.map_err(|_| late())??;
    let lanes = vec![Lane::of(stream)];
    Ok(Link::new(LinkKind::Shared, node, remote, counters, lanes).with_memory(folder))
}

/// A version of another process's region, in this one's address space.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl core::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps the version with this root and length; nothing when the holder does not share it.
#[allow(unsafe_code, reason = "a mapped file is memory that others may write")]
pub(crate) fn map(folder: &Path, root: Hash, bytes: u64) -> io::Result<Option<Mapped>> {
    let file = match std::fs::File::open(file_of(folder, root)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() != bytes {
        return Ok(None);
    }
    // SAFETY: the file is in a folder of this user alone, whose holder writes it before it is named
    // and never after; the bytes are plain numbers, any of which is a valid value.
    let map = unsafe { memmap2::MmapOptions::new().populate().map(&file) }?;
    Ok(Some(Mapped(map)))
}

/// Writes a version into the shared folder and returns it mapped: first under another name, so that
/// nobody finds half of it.
pub(crate) fn put(folder: &Path, root: Hash, bytes: &[u8]) -> io::Result<bytes::Bytes> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = file_of(folder, root);
    let part = folder.join(format!("{root}.part"));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&part)?.write_all(bytes)?;
    std::fs::rename(&part, &path)?;
    let mapped = map(folder, root, bytes.len() as u64)?;
    mapped.map(|mapped| bytes::Bytes::from_owner(mapped.0)).ok_or(io::ErrorKind::NotFound.into())
}
