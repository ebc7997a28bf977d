//! Stopping cleanly: one flag that signals, the control socket or a program raise, and that every
//! long loop waits for.

use tokio::sync::watch;

/// Who asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// A person pressed Ctrl-C (SIGINT).
    Interrupt,
    /// The system or a parent asked (SIGTERM, or its pipe closed).
    Terminate,
    /// Over the control socket.
    Control,
}

/// The side that raises the flag.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<Option<StopReason>>);

/// The side that waits for it. Clones wait for the same flag.
#[derive(Clone, Debug)]
pub struct Stop {
    flag: watch::Receiver<Option<StopReason>>,
    // Keeps the channel open, so that a stop nobody can raise any more waits for ever.
    _open: watch::Sender<Option<StopReason>>,
}

impl Stopper {
    /// A flag and the one that waits for it.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, flag) = watch::channel(None);
        (Self(sender.clone()), Stop { flag, _open: sender })
    }

    /// Raises the flag. The first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(reason);
            first
        });
    }
}

impl Stop {
    /// A flag that nobody raises.
    #[must_use]
    pub fn never() -> Self {
        Stopper::new().1
    }

    /// Whether it is raised, and by whom.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        *self.flag.borrow()
    }

    /// Waits until it is raised.
    pub async fn wait(&mut self) -> StopReason {
        match self.flag.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // The sender inside `self` keeps the channel open.
            _ => std::future::pending().await,
        }
    }
}

/// A flag that SIGINT and SIGTERM raise. A second signal while the first is being obeyed ends the
/// process at once with code 130: what was acknowledged is on disk by then.
///
/// # Errors
/// When the system refuses a signal handler.
///
/// # Panics
/// Outside a tokio runtime.
pub fn stop_on_signals() -> std::io::Result<(Stopper, Stop)> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (stopper, stop) = Stopper::new();
    let raise = stopper.clone();
    tokio::spawn(async move {
        let mut raised = false;
        loop {
            let reason = tokio::select! {
                Some(()) = interrupt.recv() => StopReason::Interrupt,
                Some(()) = terminate.recv() => StopReason::Terminate,
                else => return,
            };
            if raised {
                std::process::exit(130);
            }
            raised = true;
            raise.stop(reason);
        }
    });
    Ok((stopper, stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays_and_every_clone_hears_it() {
        let (stopper, mut stop) = Stopper::new();
        let mut other = stop.clone();
        assert_eq!(stop.reason(), None);
        stopper.stop(StopReason::Control);
        stopper.stop(StopReason::Interrupt);
        assert_eq!(stop.wait().await, StopReason::Control);
        assert_eq!(other.wait().await, StopReason::Control);
    }
}
