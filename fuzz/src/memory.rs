//! The largest single allocation of this thread: how a decoder is caught that believes a length
//! before it has checked it.
#![allow(unsafe_code, reason = "an allocator can be watched only by being one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Forgets what this thread allocated so far.
pub(crate) fn begin() {
    LARGEST.set(0);
}

/// The largest allocation of this thread since [`begin`].
pub(crate) fn largest() -> usize {
    LARGEST.get()
}

fn note(bytes: usize) {
    // A thread that is ending has no such variable any more; it runs no check either.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

struct Watched;

#[global_allocator]
static WATCHED: Watched = Watched;

// SAFETY: every call is handed to the system's allocator with the very arguments it came with, so
// its guarantees are ours; `note` touches a thread-local number and never allocates.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as above; `pointer` came from `System`, since all our allocations do.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `System`, since all our allocations do.
        unsafe { System.dealloc(pointer, layout) }
    }
}
