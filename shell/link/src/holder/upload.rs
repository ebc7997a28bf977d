//! What the owner lets a holder send: a rate by the hour and bytes a day, of all connections together.
//!
//! It is asked before what may be large: the answers to READ and READ_RANGES, and those to OPEN that
//! carry more than a few hashes. Readers on the same host are not held back. What comes too fast waits;
//! what has to wait for another hour or day is refused, so that its reader goes elsewhere.

use super::door::Refusal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use suanli_base::Time;
use suanli_rdpa::{
    Code, DAY_MINUTES, LocalTime, Uplink, UplinkDay, UplinkError, UplinkLimits, Wait, WaitReason,
};

/// The time of the rates, which never goes back, and the owner's calendar.
type Clock = Box<dyn Fn() -> (Time, LocalTime) + Send + Sync>;

/// The owner's limits on what a holder sends, at work.
pub struct Upload {
    books: Mutex<Uplink>,
    clock: Clock,
}

impl core::fmt::Debug for Upload {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Upload")
    }
}

impl Upload {
    /// Limits whose days and hours are those of the machine's clock, so many minutes east of
    /// Greenwich. Nothing has gone today.
    ///
    /// # Errors
    /// [`UplinkError`] when the limits contradict themselves.
    pub fn new(limits: UplinkLimits, minutes_east: i32) -> Result<Self, UplinkError> {
        let begun = Instant::now();
        let clock = move || {
            let ms = begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let minutes = (since.as_secs() / 60).saturating_add_signed(minutes_east.into());
            (Time(ms), calendar(minutes))
        };
        Self::with_clock(limits, UplinkDay::default(), clock)
    }

    /// The same with another clock, and with what went on the last day known.
    ///
    /// # Errors
    /// [`UplinkError`] when the limits contradict themselves.
    pub fn with_clock(
        limits: UplinkLimits,
        today: UplinkDay,
        clock: impl Fn() -> (Time, LocalTime) + Send + Sync + 'static,
    ) -> Result<Self, UplinkError> {
        let (now, local) = clock();
        let books = Mutex::new(Uplink::new(limits, today, now, local)?);
        Ok(Self { books, clock: Box::new(clock) })
    }

    /// What went today: to be kept for the next start.
    #[must_use]
    pub fn today(&self) -> UplinkDay {
        self.books().today()
    }

    fn books(&self) -> MutexGuard<'_, Uplink> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether `bytes` may go now, and books them when `allowed` says yes too. Nothing else is
    /// asked meanwhile, so that no two connections take the same bytes.
    pub(super) fn take(
        &self,
        bytes: u64,
        allowed: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut books = self.books();
        let (now, local) = (self.clock)();
        books.may_send(now, local, bytes).map_err(|wait| refusal(now, &wait))?;
        allowed()?;
        books.sent(now, local, bytes);
        Ok(())
    }
}

fn refusal(now: Time, wait: &Wait) -> Refusal {
    let for_a_rate = matches!(wait.why, WaitReason::Rate { .. });
    let until = wait.until.filter(|_| for_a_rate);
    let after = until.map(|until| core::time::Duration::from_millis(until.since(now).0));
    Refusal { code: Code::Unavailable, text: wait.to_string(), after }
}

fn calendar(minutes: u64) -> LocalTime {
    let day = u64::from(DAY_MINUTES);
    let minute = u16::try_from(minutes % day).expect("less than a day");
    let day = u32::try_from(minutes / day).unwrap_or(u32::MAX);
    LocalTime { day, minute }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn what_comes_too_fast_waits_and_what_is_beyond_the_day_is_refused_until_the_next() {
        // A holder sends most of what is read, and nothing held it to its owner's limits.
        let minutes = Arc::new(AtomicU64::new(10));
        let at = Arc::clone(&minutes);
        let clock = move || {
            let minutes = at.load(Ordering::Relaxed);
            (Time(minutes * 60_000), calendar(minutes))
        };
        let bytes_per_day = 3_000_000;
        let limits =
            UplinkLimits { bytes_per_s: 100_000, bytes_per_day, ..UplinkLimits::default() };
        let upload = Upload::with_clock(limits, UplinkDay::default(), clock).unwrap();
        let ask = |bytes| upload.take(bytes, || Ok(()));
        let early = ask(2_000_000).unwrap_err();
        assert!(early.after.is_some_and(|after| after.as_millis() == 1_000), "{early:?}");
        minutes.store(11, Ordering::Relaxed);
        let refused = upload.take(2_000_000, || Err(Refusal::new(Code::Unauthorised, "no")));
        assert_eq!(refused.unwrap_err().code, Code::Unauthorised);
        assert_eq!(upload.today().used, 0, "what is refused otherwise is not booked");
        assert_eq!(ask(2_000_000), Ok(()));
        minutes.store(12, Ordering::Relaxed);
        let beyond = ask(1_500_000).unwrap_err();
        assert_eq!((beyond.code, beyond.after), (Code::Unavailable, None), "{}", beyond.text);
        assert_eq!(ask(1_000_000), Ok(()));
        minutes.store(u64::from(DAY_MINUTES) + 1, Ordering::Relaxed);
        assert_eq!(ask(1_500_000), Ok(()));
    }
}
