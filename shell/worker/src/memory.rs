//! The memory that agent and worker share: parameters, sealed moments, tokens.
//!
//! One anonymous file, mapped by both. The agent makes it, keeps it over the deaths of its workers
//! and hands it to each child through the socket (`SCM_RIGHTS`), so that no number of a file
//! descriptor travels and no other child of the agent ever holds it.
//!
//! Who may touch what is told by the command protocol, and here it is a lock per region: the
//! supervisor takes a region's lock in the child's name when it sends work that names the region,
//! and lets go at the work's last reply or when the child was reaped. Between these the agent can
//! read what the child reads and touch nothing that the child writes.
//!
//! A child that is not ours could still write everywhere at any time. It is ours: the same binary,
//! and no stranger's code runs in it. Sizes are sealed, so that it cannot take memory away.
#![allow(unsafe_code, reason = "slices over memory that two processes share")]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

/// The most parameters of one worker: far above what one machine trains, far below overflow.
pub const PARAMETERS_MAX: u64 = 1 << 40;
/// The most areas for tokens.
pub const TOKEN_AREAS_MAX: u32 = 16;
/// The most tokens of one area.
pub const AREA_TOKENS_MAX: u64 = 1 << 32;

/// Regions start at multiples of this: a cache line, and more than any element needs.
const ALIGNMENT: u64 = 64;

/// Where things lie: theta base, theta local, sealed moments, then the areas for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Parameters of the model.
    pub parameters: u64,
    /// Length of the sealed moments.
    pub moments_bytes: u64,
    /// Areas for tokens. Each is handed over by itself, so that the next lease's tokens are laid
    /// ready while the present one's are learnt.
    pub token_areas: u32,
    /// Tokens in each area.
    pub area_tokens: u64,
}

/// Tokens in one area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRange {
    /// Which area.
    pub area: u32,
    /// The first token in it.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// A layout that no memory can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a layout of at most 2^40 parameters, 16 areas and 2^32 tokens an area, found {found:?}: the model or the lease is too large for one worker"
)]
pub struct LayoutError {
    /// The layout.
    pub found: Layout,
}

/// Memory that cannot be had or is not what the layout says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The layout itself is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The memory is smaller than the layout.
    #[error(
        "expected {expected} bytes of shared memory for this layout, found {found}: agent and worker disagree, which is a defect"
    )]
    TooSmall {
        /// Bytes of the layout.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// No memory came through the socket.
    #[error(
        "expected the shared memory as the first thing on the socket, found none: `suanli worker` is started by the agent only, never by hand"
    )]
    NotSent,
    /// Agent and worker were not built together.
    #[error(
        "the family speaks version {found} of the worker's protocol, this program version {expected}: install both, the program suanli and what trains, in one version"
    )]
    OtherVersion {
        /// Ours.
        expected: u8,
        /// The agent's.
        found: u8,
    },
    /// The system refused.
    #[error(
        "the system refused {bytes} bytes of shared memory ({source}): free memory, or take a smaller model"
    )]
    System {
        /// Bytes asked for.
        bytes: u64,
        /// Its reason.
        source: std::io::Error,
    },
}

impl Layout {
    /// The layout for a model of `parameters` and these areas for tokens.
    #[must_use]
    pub const fn for_model(parameters: usize, token_areas: u32, area_tokens: u64) -> Self {
        // The engine puts its count of steps, 8 bytes, before the moments.
        let moments_bytes = 8 + suanli_params::sealed_len(parameters) as u64;
        Self { parameters: parameters as u64, moments_bytes, token_areas, area_tokens }
    }

    /// Where each region starts, in bytes, and at last the end of all.
    fn offsets(&self) -> Result<Offsets, LayoutError> {
        let impossible = self.parameters > PARAMETERS_MAX
            || self.moments_bytes > PARAMETERS_MAX * 8
            || self.token_areas > TOKEN_AREAS_MAX
            || self.area_tokens > AREA_TOKENS_MAX;
        if impossible {
            return Err(LayoutError { found: *self });
        }
        // No overflow: the bounds above keep the sum under 2^45.
        let after = |start: u64, bytes: u64| (start + bytes).next_multiple_of(ALIGNMENT);
        let local = after(0, self.parameters * 4);
        let moments = after(local, self.parameters * 4);
        let tokens = after(moments, self.moments_bytes);
        let area = after(0, self.area_tokens * 4);
        let end = tokens + area * u64::from(self.token_areas);
        Ok(Offsets { local, moments, tokens, area, end: end.max(ALIGNMENT) })
    }

    /// Bytes of shared memory this takes.
    ///
    /// # Errors
    /// When it is over a bound.
    pub fn bytes(&self) -> Result<u64, LayoutError> {
        self.offsets().map(|offsets| offsets.end)
    }

    /// The range as indices into its area, if it lies in one.
    #[must_use]
    pub fn resolve(&self, range: TokenRange) -> Option<(usize, std::ops::Range<usize>)> {
        let end = range.start.checked_add(range.len)?;
        if range.area >= self.token_areas || end > self.area_tokens {
            return None;
        }
        let index = |value: u64| usize::try_from(value).ok();
        Some((index(u64::from(range.area))?, index(range.start)?..index(end)?))
    }
}

struct Offsets {
    local: u64,
    moments: u64,
    tokens: u64,
    area: u64,
    end: u64,
}

mod sealed {
    /// Types for which every pattern of bits is a value.
    pub trait Plain: Copy + Send + Sync + 'static {}
    impl Plain for f32 {}
    impl Plain for u32 {}
    impl Plain for u8 {}
}
pub(super) use sealed::Plain;

/// A slice of the shared memory. Reached only through its [`Region`]'s lock.
pub struct Shared<T: Plain> {
    start: *mut T,
    len: usize,
    /// Keeps the mapping in place as long as any slice of it.
    _mapping: Arc<MmapRaw>,
    _element: PhantomData<T>,
}

// SAFETY: a `Shared` is a `&mut [T]` in all but lifetime: it covers its bytes alone (`slices` makes
// each once, disjoint), and T is Send + Sync. The mapping is not tied to a thread.
unsafe impl<T: Plain> Send for Shared<T> {}
// SAFETY: as above; through `&Shared` bytes are read only.
unsafe impl<T: Plain> Sync for Shared<T> {}

impl<T: Plain> Deref for Shared<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `slices` checked that start..start+len lies in the mapping, aligned; every bit
        // pattern is a T. Nobody writes meanwhile: in this process a writer needs `&mut self`; the
        // other process writes only what the command protocol has given it, and then its side of
        // this region's lock is held (see the module).
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other user in this process.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// One region and its lock. Chunk jobs take it on their own threads (`blocking_read`), the agent's
/// loop with `try_*` or `await`.
pub type Region<T> = Arc<RwLock<Shared<T>>>;

/// The mapping, and the regions in it.
pub struct SharedMemory {
    file: OwnedFd,
    layout: Layout,
    base: Region<f32>,
    local: Region<f32>,
    moments: Region<u8>,
    tokens: Vec<Region<u32>>,
}

impl SharedMemory {
    /// Makes memory for this layout, all zero.
    ///
    /// # Errors
    /// When the layout is impossible or the system has no memory.
    pub fn create(layout: Layout) -> Result<Self, MemoryError> {
        let bytes = layout.bytes()?;
        let file = anonymous_file(bytes).map_err(|source| MemoryError::System { bytes, source })?;
        Self::adopt(file, layout)
    }

    /// Maps memory that the other side made.
    ///
    /// # Errors
    /// When the layout is impossible or larger than the memory.
    pub fn adopt(file: OwnedFd, layout: Layout) -> Result<Self, MemoryError> {
        let bytes = layout.bytes()?;
        let system = |source| MemoryError::System { bytes, source };
        let file = File::from(file);
        let found = file.metadata().map_err(system)?.len();
        let len = usize::try_from(bytes).ok().filter(|_| found >= bytes);
        let len = len.ok_or(MemoryError::TooSmall { expected: bytes, found })?;
        let mapping = MmapOptions::new().len(len).map_raw(&file).map_err(system)?;
        Ok(Self::over(file.into(), layout, Arc::new(mapping))?)
    }

    fn over(file: OwnedFd, layout: Layout, mapping: Arc<MmapRaw>) -> Result<Self, LayoutError> {
        let at = layout.offsets()?;
        let tokens = (0..u64::from(layout.token_areas))
            .map(|area| region(&mapping, at.tokens + area * at.area, layout.area_tokens))
            .collect();
        Ok(Self {
            base: region(&mapping, 0, layout.parameters),
            local: region(&mapping, at.local, layout.parameters),
            moments: region(&mapping, at.moments, layout.moments_bytes),
            tokens,
            file,
            layout,
        })
    }

    /// Where things lie.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The published parameters. The agent writes them between works; the child writes them in
    /// `Init` and reads them otherwise.
    #[must_use]
    pub const fn base(&self) -> &Region<f32> {
        &self.base
    }

    /// The result of the last `Train`, written by the child.
    #[must_use]
    pub const fn local(&self) -> &Region<f32> {
        &self.local
    }

    /// The sealed moments: written by the child in `Seal`, read by it when `Train` imports them.
    #[must_use]
    pub const fn moments(&self) -> &Region<u8> {
        &self.moments
    }

    /// The areas for tokens, written by the agent. The number of a token may carry
    /// [`NO_LOSS`](crate::protocol::NO_LOSS).
    #[must_use]
    pub fn tokens(&self) -> &[Region<u32>] {
        &self.tokens
    }

    /// Puts the memory on the socket, for a child that is about to be started with the other end,
    /// and with it the file of the frozen model, if there is one.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn send(&self, socket: impl AsFd, frozen: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        self.send_as(VERSION, socket, frozen)
    }

    fn send_as(
        &self,
        version: u8,
        socket: impl AsFd,
        frozen: Option<BorrowedFd<'_>>,
    ) -> std::io::Result<()> {
        let files: Vec<BorrowedFd<'_>> = [self.file.as_fd()].into_iter().chain(frozen).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)), "room for two descriptors");
        let flags = SendFlags::empty();
        rustix::net::sendmsg(socket, &[IoSlice::new(&[version])], &mut control, flags)?;
        Ok(())
    }
}

/// Of what agent and worker say to each other: another number whenever a message changes. Both are
/// one program but where an owner's computes.
pub const VERSION: u8 = 1;

/// Takes the memory's file off the socket, and that of the frozen model if there is one: the very
/// first thing on it.
///
/// # Errors
/// When something else is there.
pub fn receive(socket: BorrowedFd<'_>) -> Result<(OwnedFd, Option<OwnedFd>), MemoryError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
        .map_err(|_| MemoryError::NotSent)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let mut files = files.flatten();
    let memory = files.next().ok_or(MemoryError::NotSent)?;
    if byte != [VERSION] {
        return Err(MemoryError::OtherVersion { expected: VERSION, found: byte[0] });
    }
    Ok((memory, files.next()))
}

/// A region of `len` elements at a byte offset.
fn region<T: Plain>(mapping: &Arc<MmapRaw>, offset: u64, len: u64) -> Region<T> {
    let index = |value| usize::try_from(value).expect("`adopt` mapped the whole layout");
    let (offset, len) = (index(offset), index(len));
    let end = len.checked_mul(size_of::<T>()).and_then(|bytes| offset.checked_add(bytes));
    assert!(end.is_some_and(|end| end <= mapping.len()), "a region lies in its mapping");
    // SAFETY: offset <= mapping.len() was just checked, so the pointer stays in the allocation.
    let start = unsafe { mapping.as_mut_ptr().add(offset) }.cast::<T>();
    assert!(start.is_aligned(), "a mapping starts at a page, a region at a multiple of 64");
    let mapping = Arc::clone(mapping);
    Arc::new(RwLock::new(Shared { start, len, _mapping: mapping, _element: PhantomData }))
}

#[cfg(target_os = "linux")]
fn anonymous_file(bytes: u64) -> std::io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("suanli-worker", flags)?;
    rustix::fs::ftruncate(&file, bytes)?;
    // A file that shrinks under a mapping kills its readers with SIGBUS. This one cannot.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
fn anonymous_file(bytes: u64) -> std::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let serial = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let serial = serial.map_or(0, |since| since.as_nanos());
    let name = format!("suanli-worker-{}-{serial}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlink(&path)?;
    rustix::fs::ftruncate(&file, bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const LAYOUT: Layout =
        Layout { parameters: 1001, moments_bytes: 77, token_areas: 3, area_tokens: 13 };

    #[test]
    fn what_one_side_writes_the_other_reads_and_no_region_touches_another() {
        let agent = SharedMemory::create(LAYOUT).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        agent.send(&ours, None).unwrap();
        let worker = SharedMemory::adopt(receive(theirs.as_fd()).unwrap().0, LAYOUT).unwrap();
        agent.base.try_write().unwrap().fill(1.5);
        agent.local.try_write().unwrap().fill(2.5);
        agent.moments.try_write().unwrap().fill(3);
        for (area, value) in agent.tokens.iter().zip(4..) {
            area.try_write().unwrap().fill(value);
        }
        assert!(worker.base.try_read().unwrap().iter().all(|&x| x == 1.5));
        assert!(worker.local.try_read().unwrap().iter().all(|&x| x == 2.5));
        assert!(worker.moments.try_read().unwrap().iter().all(|&x| x == 3));
        for (area, value) in worker.tokens.iter().zip(4..) {
            assert!(area.try_read().unwrap().iter().all(|&x| x == value));
        }
        assert_eq!(worker.base.try_read().unwrap().len(), 1001);
        assert_eq!(worker.tokens[2].try_read().unwrap().len(), 13);
    }

    #[test]
    fn a_layout_that_exceeds_the_memory_is_refused() {
        let small = SharedMemory::create(LAYOUT).unwrap();
        let larger = Layout { parameters: LAYOUT.parameters + 64, ..LAYOUT };
        let file = small.file.try_clone().unwrap();
        let refused = SharedMemory::adopt(file, larger);
        assert!(matches!(refused, Err(MemoryError::TooSmall { .. })));
    }

    #[test]
    fn an_impossible_layout_is_refused_without_overflow() {
        for found in [
            Layout { parameters: u64::MAX, ..LAYOUT },
            Layout { moments_bytes: u64::MAX, ..LAYOUT },
            Layout { token_areas: u32::MAX, ..LAYOUT },
            Layout { area_tokens: u64::MAX, ..LAYOUT },
        ] {
            assert_eq!(found.bytes(), Err(LayoutError { found }));
        }
    }

    #[test]
    fn a_range_outside_its_area_does_not_resolve() {
        let range = |area, start, len| LAYOUT.resolve(TokenRange { area, start, len });
        assert_eq!(range(2, 3, 10), Some((2, 3..13)));
        assert_eq!(range(2, 4, 10), None);
        assert_eq!(range(3, 0, 1), None);
        assert_eq!(range(0, u64::MAX, 2), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nobody_can_shrink_the_memory_under_the_other() {
        let memory = SharedMemory::create(LAYOUT).unwrap();
        assert!(rustix::fs::ftruncate(&memory.file, 0).is_err());
        assert!(rustix::fs::ftruncate(&memory.file, 1 << 30).is_err());
    }

    #[test]
    fn a_worker_of_another_version_says_so() {
        let agent = SharedMemory::create(LAYOUT).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        agent.send_as(VERSION + 1, &ours, None).unwrap();
        let error = receive(theirs.as_fd()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("version 2") && told.contains("version 1"), "{told}");
    }

    #[test]
    fn a_socket_without_memory_says_so() {
        use std::io::Write as _;
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"x").unwrap();
        assert!(matches!(receive(theirs.as_fd()), Err(MemoryError::NotSent)));
        drop(ours);
        assert!(matches!(receive(theirs.as_fd()), Err(MemoryError::NotSent)));
    }
}
