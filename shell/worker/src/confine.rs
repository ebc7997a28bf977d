//! What the child gives up before it does anything: descriptors it was not meant to have, and its
//! place in the queue for the CPU.
#![allow(unsafe_code, reason = "closing descriptors that the parent left open")]

use std::fs::read_dir;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// How much the worker steps back for everything else on the machine.
const NICE: i32 = 10;

/// Closes every descriptor but 0, 1 and 2. Ours are all close-on-exec; but whoever started the
/// agent may have left it one that is not, and the process that runs the engine keeps nothing.
///
/// Called first thing in the process: nothing in it may have opened a descriptor yet.
pub(super) fn close_strays() {
    let listing = read_dir("/proc/self/fd").or_else(|_| read_dir("/dev/fd"));
    let Ok(listing) = listing else { return };
    let open: Vec<RawFd> = listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&number: &RawFd| number > 2)
        .collect();
    for number in open {
        // SAFETY: the process has just begun and this thread is the only one that opens files;
        // nobody in it owns a descriptor above 2. The listing's own was closed with it, and
        // `fcntl` on that number only answers that it is gone.
        let owned = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(owned).is_ok() {
            // SAFETY: as above; it is open, and ours to close.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

/// Lets everything else on the machine go first. Of no consequence when the system refuses.
pub(super) fn step_back() {
    let _ = rustix::process::nice(NICE);
}
