//! Which lanes of a link have something to be read, when one task waits for them all.
//!
//! Each lane wakes by a waker of its own, which notes the lane and wakes the task. Asking all of
//! seventeen lanes whenever one had something took a twentieth of a reader's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

const WORD: usize = u64::BITS as usize;

/// The most lanes there are bells for.
pub(crate) const BELLS: usize = 2 * WORD;

/// The lanes that rang, a bit each.
#[derive(Debug, Default)]
struct Rung([AtomicU64; 2]);

impl Rung {
    fn ring(&self, lane: usize) {
        self.0[lane / WORD].fetch_or(1 << (lane % WORD), Ordering::Release);
    }
}

/// The waker of one lane.
struct Bell {
    lane: usize,
    rung: Arc<Rung>,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.ring(self.lane);
        self.task.wake_by_ref();
    }
}

/// The bells of all lanes, for the task that waits now.
#[derive(Debug)]
pub(crate) struct Bells {
    rung: Arc<Rung>,
    wakers: Arc<[Waker]>,
    task: Waker,
}

impl Bells {
    pub(crate) fn new(lanes: usize) -> Self {
        let rung = Arc::new(Rung::default());
        let task = Waker::noop().clone();
        Self { wakers: (0..lanes).map(|_| task.clone()).collect(), rung, task }
    }

    /// The task of `cx` waits from now on: a waker for each lane. All lanes of a task that did not
    /// wait before count as rung, for it is to be asked once what wakes it.
    pub(crate) fn wait(&mut self, cx: &Context<'_>) -> Arc<[Waker]> {
        if !self.task.will_wake(cx.waker()) {
            self.task = cx.waker().clone();
            let bell = |lane| Bell { lane, rung: Arc::clone(&self.rung), task: self.task.clone() };
            self.wakers =
                (0..self.wakers.len()).map(|lane| Waker::from(Arc::new(bell(lane)))).collect();
            (0..self.wakers.len()).for_each(|lane| self.rung.ring(lane));
        }
        Arc::clone(&self.wakers)
    }

    /// The lanes that rang, a bit each; they are silent again. Each is to be asked once before this is
    /// called again: a lane whose task has had its share of time rings in vain until the next turn.
    pub(crate) fn take(&self) -> u128 {
        let [low, high] = &self.rung.0;
        let [low, high] = [low, high].map(|word| word.swap(0, Ordering::AcqRel));
        u128::from(low) | u128::from(high) << WORD
    }

    /// As if the lane had rung, but nobody is woken.
    pub(crate) fn ring(&self, lane: usize) {
        self.rung.ring(lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn all(bells: &Bells) -> Vec<usize> {
        let rang = bells.take();
        (0..BELLS).filter(|lane| rang >> lane & 1 == 1).collect()
    }

    #[test]
    fn a_lane_that_rings_wakes_the_task_and_is_told_once() {
        let woken = Arc::new(Woken::default());
        let task = Waker::from(Arc::clone(&woken));
        let mut bells = Bells::new(65);
        let wakers = bells.wait(&Context::from_waker(&task));
        assert_eq!(all(&bells), (0..65).collect::<Vec<_>>(), "each is asked once");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        for lane in [64, 3, 3] {
            wakers[lane].wake_by_ref();
        }
        assert_eq!((all(&bells), woken.0.load(Ordering::Relaxed)), (vec![3, 64], 3));
        bells.wait(&Context::from_waker(&task));
        assert!(all(&bells).is_empty(), "the same task has asked them");
        bells.ring(7);
        assert_eq!((all(&bells), woken.0.load(Ordering::Relaxed)), (vec![7], 3));
    }

    #[test]
    fn another_task_asks_every_lane_and_is_the_one_that_is_woken() {
        let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut bells = Bells::new(2);
        let old = bells.wait(&Context::from_waker(&Waker::from(Arc::clone(&first))));
        assert_eq!(all(&bells), [0, 1]);
        let new = bells.wait(&Context::from_waker(&Waker::from(Arc::clone(&second))));
        assert_eq!(all(&bells), [0, 1]);
        new[1].wake_by_ref();
        assert_eq!((all(&bells), second.0.load(Ordering::Relaxed)), (vec![1], 1));
        // A lane that was asked by the first task only is known to the second as well.
        old[0].wake_by_ref();
        assert_eq!((all(&bells), first.0.load(Ordering::Relaxed)), (vec![0], 1));
    }
}
