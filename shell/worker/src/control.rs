//! What acts on running work from outside: cancelling, pausing, the owner's share.
//!
//! The thread that reads the socket changes it at once; the thread that computes asks it between
//! steps, and the engine polls its flag within one. The flag is raised for a pause too: the step
//! under way is given up, the engine keeps the last complete one, and the same step is taken again
//! when the pause ends. A step is a pure function of state and batch, so nothing is lost but time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use suanli_engine::Cancel;

use crate::protocol::ShareOfCpu;

/// Whether the present work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    GoOn,
    /// It was cancelled.
    End,
}

struct State {
    share: ShareOfCpu,
    present: u64,
    cancelled_through: Option<u64>,
}

impl State {
    fn is_cancelled(&self) -> bool {
        self.cancelled_through.is_some_and(|through| self.present <= through)
    }
}

pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    flag: Cancel,
}

impl Control {
    pub(super) fn new() -> Self {
        let state = State { share: ShareOfCpu::WHOLE, present: 0, cancelled_through: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), flag: Cancel::new() }
    }

    /// The flag that the engine polls.
    pub(super) const fn flag(&self) -> &Cancel {
        &self.flag
    }

    /// The computing thread turns to this work.
    pub(super) fn begin(&self, id: u64) {
        self.change(|state| state.present = id);
    }

    /// Everything up to this id ends.
    pub(super) fn cancel(&self, through: u64) {
        self.change(|state| state.cancelled_through = state.cancelled_through.max(Some(through)));
    }

    /// The owner's limit from now on.
    pub(super) fn set_share(&self, share: ShareOfCpu) {
        self.change(|state| state.share = share);
    }

    /// Waits while paused, and until `since` is as long ago as computing for `busy` is worth at
    /// the owner's share.
    pub(super) fn rest(&self, since: Instant, busy: Duration) -> Verdict {
        let mut state = self.lock();
        loop {
            if state.is_cancelled() {
                return Verdict::End;
            }
            if state.share.is_paused() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let due = busy * 1000 / u32::from(state.share.per_mille());
            let Some(left) = due.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else {
                return Verdict::GoOn;
            };
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while paused.
    pub(super) fn go_on(&self) -> Verdict {
        self.rest(Instant::now(), Duration::ZERO)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        // Under the lock, so that the flag never contradicts the state.
        if state.share.is_paused() || state.is_cancelled() {
            self.flag.raise();
        } else {
            self.flag.lower();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves a whole state, so a poisoned lock still guards one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn cancelling_one_work_does_not_end_the_next() {
        let control = Control::new();
        control.begin(4);
        control.cancel(4);
        assert!(control.flag().is_raised());
        assert_eq!(control.go_on(), Verdict::End);
        control.begin(5);
        assert!(!control.flag().is_raised());
        assert_eq!(control.go_on(), Verdict::GoOn);
    }

    #[test]
    fn a_cancel_may_come_before_its_work_and_an_older_one_takes_nothing_back() {
        let control = Control::new();
        control.cancel(7);
        control.cancel(3);
        control.begin(7);
        assert_eq!(control.go_on(), Verdict::End);
    }

    #[test]
    fn a_pause_raises_the_flag_and_its_end_lets_the_waiting_thread_go_on() {
        let control = Arc::new(Control::new());
        control.begin(1);
        control.set_share(ShareOfCpu::PAUSED);
        assert!(control.flag().is_raised());
        let waiting = {
            let control = Arc::clone(&control);
            std::thread::spawn(move || control.go_on())
        };
        control.set_share(ShareOfCpu::WHOLE);
        assert_eq!(waiting.join().unwrap(), Verdict::GoOn);
        assert!(!control.flag().is_raised());
    }

    #[test]
    fn a_cancel_ends_a_pause_and_a_rest() {
        let control = Control::new();
        control.begin(1);
        control.set_share(ShareOfCpu::PAUSED);
        control.cancel(1);
        assert_eq!(control.go_on(), Verdict::End);
        control.set_share(ShareOfCpu::new(1).unwrap());
        assert_eq!(control.rest(Instant::now(), Duration::from_secs(3600)), Verdict::End);
    }

    #[test]
    fn a_quarter_of_the_cpu_makes_a_step_last_four_times_as_long() {
        let control = Control::new();
        control.begin(1);
        control.set_share(ShareOfCpu::new(250).unwrap());
        let start = Instant::now();
        assert_eq!(control.rest(start, Duration::from_millis(10)), Verdict::GoOn);
        assert!(start.elapsed() >= Duration::from_millis(40));
    }
}
