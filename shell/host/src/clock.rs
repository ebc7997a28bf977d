//! The clock that nodes are driven by: the system's at the start, then the monotonic one, so that
//! a step of the system's clock never reaches a machine.

use std::time::{Instant, SystemTime, UNIX_EPOCH};
use suanli_base::Time;

/// Milliseconds since the Unix epoch that never go back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begin: Instant,
    epoch_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { begin: Instant::now(), epoch_ms }
    }

    pub(crate) fn now(&self) -> Time {
        let elapsed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Time(self.epoch_ms.saturating_add(elapsed))
    }

    /// Sleeps until `time`.
    pub(crate) async fn until(&self, time: Time) {
        tokio::time::sleep(std::time::Duration::from_millis(time.since(self.now()).0)).await;
    }
}
