//! What is done to the families on the way: one is killed, comes back, and one more joins. Pure:
//! progress and time go in, acts come out.

use std::time::Duration;

/// The family that is killed: the second, so that a fast one is lost, not the fastest.
pub(super) const VICTIM: usize = 1;

const KILL_AT: f64 = 0.33;
const JOIN_AT: f64 = 0.50;
/// Long enough to see that the others go on.
const AWAY: Duration = Duration::from_secs(8);

/// Something to do to a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Signal 9, no warning.
    Kill,
    /// Start the killed one again.
    Restart,
    /// Start one that was never there.
    Join,
}

/// What was done so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chaos {
    killed: Option<Duration>,
    back: bool,
    joined: bool,
}

impl Chaos {
    /// As far as an earlier run of the demo came.
    pub(super) const fn new(killed: bool, joined: bool) -> Self {
        Self { killed: if killed { Some(Duration::ZERO) } else { None }, back: killed, joined }
    }

    /// Nothing happens.
    pub(super) const fn none() -> Self {
        Self::new(true, true)
    }

    /// What is due when `progress` of the job is done, `now` after the start.
    pub(super) fn due(&mut self, progress: f64, now: Duration) -> Option<Act> {
        match self.killed {
            None if progress >= KILL_AT => {
                self.killed = Some(now);
                return Some(Act::Kill);
            }
            Some(at) if !self.back && now >= at + AWAY => {
                self.back = true;
                return Some(Act::Restart);
            }
            _ => {}
        }
        if progress >= JOIN_AT && !self.joined && self.back {
            self.joined = true;
            return Some(Act::Join);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_act_happens_once_and_in_order() {
        let mut chaos = Chaos::new(false, false);
        let at = Duration::from_secs;
        assert_eq!(chaos.due(0.1, at(10)), None);
        assert_eq!(chaos.due(0.4, at(20)), Some(Act::Kill));
        assert_eq!(chaos.due(0.6, at(21)), None);
        assert_eq!(chaos.due(0.6, at(28)), Some(Act::Restart));
        assert_eq!(chaos.due(0.6, at(28)), Some(Act::Join));
        assert_eq!(chaos.due(0.9, at(99)), None);
    }

    #[test]
    fn a_resumed_demo_does_not_repeat_what_was_done() {
        let mut chaos = Chaos::new(true, false);
        assert_eq!(chaos.due(0.9, Duration::ZERO), Some(Act::Join));
        assert_eq!(Chaos::none().due(1.0, Duration::MAX), None);
    }
}
