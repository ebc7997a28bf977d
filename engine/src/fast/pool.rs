//! A few threads that wait for work between the parts of a step.
//!
//! Which thread does which task is left to chance; what a task computes does not depend on it.
#![allow(unsafe_code, reason = "a borrowed closure crosses threads; `run` outlives its use")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of busy waiting, some tens of microseconds: most gaps inside a step are shorter.
const SPINS: u32 = 2_000;
/// After these, turns of letting others run before a thread goes to sleep: on a machine that has
/// other work, waiting must not take it away.
const YIELDS: u32 = 300;

type Task = dyn Fn(usize, usize) + Sync;

struct Shared {
    /// Epoch in the high 32 bits, tasks not yet taken in the low.
    state: AtomicU64,
    done: AtomicUsize,
    failed: AtomicBool,
    stop: AtomicBool,
    job: UnsafeCell<Option<(*const Task, usize)>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written by `run` only while no task can be taken, and read only by who has taken
// one; the pointer in it is used only until `done` has counted that task, which `run` waits for.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The threads; dropped, they end.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them.
    pub(super) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let threads = (1..threads)
            .filter_map(|worker| {
                let shared = Arc::clone(&shared);
                // A thread that cannot start costs speed only: results do not depend on the count.
                std::thread::Builder::new()
                    .name(format!("engine-{worker}"))
                    .spawn(move || shared.serve(worker))
                    .ok()
            })
            .collect();
        Self { shared, threads }
    }

    /// How many threads work.
    pub(super) fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `task(worker, index)` once for every index below `tasks`, on any thread, and returns
    /// when all are done. Workers are below [`Pool::threads`] and never run two tasks at a time.
    ///
    /// # Panics
    /// When a task did.
    pub(super) fn run(&mut self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if self.threads.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(|index| task(0, index));
        }
        let tasks_word = u32::try_from(tasks).expect("tasks are rows or tensors of one step");
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function returns after the last use.
        let erased: *const Task =
            unsafe { std::mem::transmute(task as *const (dyn Fn(_, _) + Sync)) };
        shared.done.store(0, Ordering::Relaxed);
        // SAFETY: the low half of `state` is 0: no task can be taken, so nobody reads `job`.
        unsafe { *shared.job.get() = Some((erased, tasks)) };
        let epoch = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.store(epoch << 32 | u64::from(tasks_word), Ordering::SeqCst);
        if *shared.sleepers.lock().expect("no thread panics while it holds this lock") > 0 {
            shared.wake.notify_all();
        }
        shared.work(0);
        let mut spins = 0;
        while shared.done.load(Ordering::Acquire) < tasks {
            spins = SPINS.min(spins) + 1;
            wait(spins);
        }
        assert!(!shared.failed.load(Ordering::Relaxed), "a task of the engine panicked");
    }
}

/// Turn `spins` of waiting.
fn wait(spins: u32) {
    if spins <= SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

impl Shared {
    /// Takes and does tasks until there are none.
    fn work(&self, worker: usize) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let left = state as u32 as usize;
            if left == 0 {
                return;
            }
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            if self.state.compare_exchange_weak(state, state - 1, order.0, order.1).is_err() {
                continue;
            }
            // SAFETY: this thread has taken a task that is not counted as done: `run` waits.
            let (task, tasks) = unsafe { (*self.job.get()).expect("a taken task has a job") };
            // SAFETY: as above, the closure is alive.
            let task = unsafe { &*task };
            if catch_unwind(AssertUnwindSafe(|| task(worker, tasks - left))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn serve(&self, worker: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.state.load(Ordering::Relaxed) as u32 != 0 {
                self.work(worker);
                spins = 0;
            } else if spins < SPINS + YIELDS {
                spins += 1;
                wait(spins);
            } else {
                self.sleep();
                spins = 0;
            }
        }
    }

    fn sleep(&self) {
        let mut sleepers = self.sleepers.lock().expect("no thread panics while it holds this lock");
        *sleepers += 1;
        while self.state.load(Ordering::SeqCst) as u32 == 0 && !self.stop.load(Ordering::Relaxed) {
            sleepers = self.wake.wait(sleepers).expect("no thread panics while it holds this lock");
        }
        *sleepers -= 1;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Taken so that a thread about to sleep has either seen `stop` or hears the call.
        drop(self.shared.sleepers.lock());
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has already been reported by `run`.
            let _ = thread.join();
        }
    }
}

/// A buffer of which several tasks change different parts.
#[derive(Clone, Copy)]
pub(super) struct Parts<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `part` makes its callers promise that parts in use at the same time do not overlap.
unsafe impl<T: Send> Sync for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<T> {}

impl<T> Parts<T> {
    /// Elements of all of it.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Over all of `buffer`.
    pub(super) const fn new(buffer: &mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// A part to change.
    ///
    /// # Safety
    /// The buffer must be alive, and nobody else may use these elements meanwhile.
    #[allow(clippy::mut_from_ref, reason = "that is the purpose; see the contract")]
    pub(super) unsafe fn part<'a>(&self, range: core::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part inside its buffer");
        // SAFETY: inside the buffer as just checked; the rest is the caller's contract.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A part to read.
    ///
    /// # Safety
    /// The buffer must be alive, and nobody may change these elements meanwhile.
    pub(super) unsafe fn read<'a>(&self, range: core::ops::Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part inside its buffer");
        // SAFETY: inside the buffer as just checked; the rest is the caller's contract.
        unsafe { core::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// The address of element `index`, for the kernels.
    pub(super) fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "an address inside its buffer");
        self.start.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads);
            for round in 0..300 {
                let tasks = round % 17;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|worker, index| {
                    assert!(worker < threads);
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    #[should_panic(expected = "a task of the engine panicked")]
    fn a_panic_in_a_task_reaches_the_caller() {
        let mut pool = Pool::new(2);
        pool.run(8, &|_, index| assert!(index != 3));
    }
}
