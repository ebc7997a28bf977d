//! How fast bytes may go: a token bucket, and what a household allows for its uplink.
//!
//! A [`Pace`] is a bucket in bytes that fills at a rate up to a burst. Bytes go while the bucket holds
//! as many, or is full: so a frame longer than the burst goes too, and the debt is waited for behind
//! it. Over any time t no more than `rate * t + burst + one frame` go. The level is kept in
//! thousandths of a byte, which at whole milliseconds and whole bytes a second is exact: however often
//! it is asked, nothing is rounded away and nothing gained.
//!
//! An [`Uplink`] is one household's wish: a rate by the hour, and bytes a day (DESIGN 4.7: the owner's
//! limits hold). It is asked for bulk frames only; control frames, heart-beats among them, go always.
//!
//! Not for: sharing out a link between peers, which is the congestion control's. No clock is read:
//! the time, the owner's local minute and day come as arguments.

use serde::{Deserialize, Serialize};
use suanli_base::{Duration, Time};

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;
/// Windows of an uplink's day.
pub const WINDOWS_MAX: usize = 48;
const MINUTE_MS: u64 = 60_000;
/// A burst is what goes in a second, but at least this, so that slow links do not stop and go.
const BURST_BYTES_MIN: u64 = 16 << 10;

/// A token bucket in bytes. A rate of [`u64::MAX`] is no bound at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    bytes_per_s: u64,
    burst: u64,
    /// Thousandths of a byte; below zero after a frame longer than the burst.
    level: i128,
    at: Time,
}

impl Pace {
    /// A full bucket. A burst of no byte counts as one of a single byte.
    #[must_use]
    pub fn new(bytes_per_s: u64, burst: u64, now: Time) -> Self {
        let burst = burst.max(1);
        Self { bytes_per_s, burst, level: milli(burst), at: now }
    }

    /// A full bucket that holds what goes in a second.
    #[must_use]
    pub fn per_second(bytes_per_s: u64, now: Time) -> Self {
        Self::new(bytes_per_s, burst_of(bytes_per_s), now)
    }

    /// Whether `bytes` may go now.
    ///
    /// # Errors
    /// When they may, if nothing else goes before; nothing when they never may (a rate of zero).
    pub fn may_take(&mut self, now: Time, bytes: u64) -> Result<(), Option<Time>> {
        self.settle(now);
        let missing = milli(bytes.min(self.burst)) - self.level;
        if self.bytes_per_s == u64::MAX || missing <= 0 {
            return Ok(());
        }
        if self.bytes_per_s == 0 {
            return Err(None);
        }
        let wait = missing.unsigned_abs().div_ceil(u128::from(self.bytes_per_s));
        let wait = Duration(u64::try_from(wait).unwrap_or(u64::MAX));
        Err(Some(self.at.after(wait)))
    }

    /// Books `bytes` that go now, allowed or not.
    pub fn take(&mut self, now: Time, bytes: u64) {
        self.settle(now);
        // The debt is bounded so that no sum overflows: 2^100 thousandths are never paid back.
        self.level = (self.level - milli(bytes)).max(-(1 << 100));
    }

    /// Goes on with another rate and burst. What was gained until now was gained at the old ones.
    pub fn set(&mut self, now: Time, bytes_per_s: u64, burst: u64) {
        self.settle(now);
        (self.bytes_per_s, self.burst) = (bytes_per_s, burst.max(1));
        self.level = self.level.min(milli(self.burst));
    }

    /// Whether the bucket is full: then it can be forgotten and made anew without a difference.
    pub fn is_full(&mut self, now: Time) -> bool {
        self.settle(now);
        self.bytes_per_s == u64::MAX || self.level == milli(self.burst)
    }

    /// The rate.
    #[must_use]
    pub const fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// A time that goes back gains nothing, and the same time is not gained twice.
    fn settle(&mut self, now: Time) {
        let gained = u128::from(now.since(self.at).0) * u128::from(self.bytes_per_s);
        let gained = i128::try_from(gained).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(gained).min(milli(self.burst));
        self.at = self.at.max(now);
    }
}

fn milli(bytes: u64) -> i128 {
    i128::from(bytes) * 1000
}

fn burst_of(bytes_per_s: u64) -> u64 {
    bytes_per_s.max(BURST_BYTES_MIN)
}

/// A part of the day with a rate of its own. One that ends before it begins goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its first minute, counted from local midnight.
    pub from_minute: u16,
    /// The minute with which it is over.
    pub to_minute: u16,
    /// What may go within; 0 for nothing.
    pub bytes_per_s: u64,
}

impl Window {
    const fn holds(&self, minute: u16) -> bool {
        if self.from_minute < self.to_minute {
            self.from_minute <= minute && minute < self.to_minute
        } else {
            self.from_minute <= minute || minute < self.to_minute
        }
    }
}

/// What a household allows for bulk upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkLimits {
    /// At minutes that no window names. [`u64::MAX`] for no bound.
    pub bytes_per_s: u64,
    /// Parts of the day that differ.
    pub windows: Vec<Window>,
    /// Bytes a day. [`u64::MAX`] for no bound.
    pub bytes_per_day: u64,
}

/// The owner's limits contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// Too many windows.
    #[error("{found} windows of the day, at most {WINDOWS_MAX} are kept; join some")]
    Windows {
        /// How many.
        found: usize,
    },
    /// A window of no length, or outside of the day.
    #[error(
        "window {index} goes from minute {from_minute} to {to_minute}; name two different minutes below {DAY_MINUTES}"
    )]
    Minutes {
        /// Which window.
        index: usize,
        /// Its first minute.
        from_minute: u16,
        /// The minute with which it ends.
        to_minute: u16,
    },
    /// Two windows name the same minute.
    #[error(
        "parts {} and {} of the day both hold {:02}:{:02}; let one end before the other begins",
        first + 1, second + 1, minute / 60, minute % 60
    )]
    Overlap {
        /// Which window.
        first: usize,
        /// And which other.
        second: usize,
        /// A minute in both.
        minute: u16,
    },
}

impl Default for UplinkLimits {
    /// No bound at all.
    fn default() -> Self {
        Self { bytes_per_s: u64::MAX, windows: Vec::new(), bytes_per_day: u64::MAX }
    }
}

impl UplinkLimits {
    /// Checks the windows.
    ///
    /// # Errors
    /// [`UplinkError`] that says what to change.
    pub fn check(&self) -> Result<(), UplinkError> {
        let found = self.windows.len();
        if found > WINDOWS_MAX {
            return Err(UplinkError::Windows { found });
        }
        for (index, window) in self.windows.iter().enumerate() {
            let Window { from_minute, to_minute, .. } = *window;
            if from_minute >= DAY_MINUTES || to_minute >= DAY_MINUTES || from_minute == to_minute {
                return Err(UplinkError::Minutes { index, from_minute, to_minute });
            }
        }
        for minute in 0..DAY_MINUTES {
            let mut holding = (0..found).filter(|index| self.windows[*index].holds(minute));
            if let (Some(first), Some(second)) = (holding.next(), holding.next()) {
                return Err(UplinkError::Overlap { first, second, minute });
            }
        }
        Ok(())
    }

    /// The rate at a local minute.
    #[must_use]
    pub fn rate_at(&self, minute: u16) -> u64 {
        let window = self.windows.iter().find(|window| window.holds(minute));
        window.map_or(self.bytes_per_s, |window| window.bytes_per_s)
    }

    /// Minutes from `minute` until something may go, if ever.
    fn minutes_closed(&self, minute: u16) -> Option<u16> {
        let open = |ahead: &u16| self.rate_at((minute + ahead) % DAY_MINUTES) > 0;
        (0..DAY_MINUTES).find(open)
    }
}

/// The owner's local calendar at the moment of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Days since some fixed day, in the owner's time zone.
    pub day: u32,
    /// Minutes since local midnight.
    pub minute: u16,
}

/// What survives a restart: what went on which day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkDay {
    /// The day.
    pub day: u32,
    /// Bulk bytes that went on it.
    pub used: u64,
}

/// Bulk bytes have to wait, by the owner's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner's limits hold these bytes back: {why}")]
pub struct Wait {
    /// When to ask again, never too early; nothing when no time helps.
    pub until: Option<Time>,
    /// Which limit.
    pub why: WaitReason,
}

/// Which of the owner's limits holds bytes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitReason {
    /// The rate of this part of the day.
    #[error("{bytes_per_s} bytes a second are allowed at this hour")]
    Rate {
        /// That rate.
        bytes_per_s: u64,
    },
    /// Nothing may go in this part of the day.
    #[error("no upload is allowed at this hour")]
    Hour,
    /// The bytes of the day are used up.
    #[error("{used} of {bytes_per_day} bytes of this day are used")]
    Day {
        /// What went.
        used: u64,
        /// What may.
        bytes_per_day: u64,
    },
    /// One frame is more than a whole day allows.
    #[error("{bytes} bytes at once, a whole day allows {bytes_per_day}; allow more, or send less")]
    MoreThanADay {
        /// What was to go.
        bytes: u64,
        /// What may.
        bytes_per_day: u64,
    },
}

/// The owner's limits on bulk upload at work. Asked before each bulk frame, told after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    limits: UplinkLimits,
    pace: Pace,
    today: UplinkDay,
}

impl Uplink {
    /// Begins with limits and with what went on the last day known.
    ///
    /// # Errors
    /// [`UplinkError`] when the limits contradict themselves.
    pub fn new(
        limits: UplinkLimits,
        today: UplinkDay,
        now: Time,
        local: LocalTime,
    ) -> Result<Self, UplinkError> {
        limits.check()?;
        let mut pace = Pace::per_second(limits.rate_at(local.minute), now);
        // A restart does not fill the bucket, or restarting would be a way around the rate.
        pace.take(now, pace.burst);
        Ok(Self { limits, pace, today })
    }

    /// Goes on with other limits; what went today counts on.
    ///
    /// # Errors
    /// [`UplinkError`] when they contradict themselves: then the old ones stay.
    pub fn set_limits(&mut self, limits: UplinkLimits) -> Result<(), UplinkError> {
        limits.check()?;
        self.limits = limits;
        Ok(())
    }

    /// Whether `bytes` of bulk may go now.
    ///
    /// # Errors
    /// [`Wait`]: until when, and why.
    pub fn may_send(&mut self, now: Time, local: LocalTime, bytes: u64) -> Result<(), Wait> {
        self.turn(now, local);
        let minute = local.minute % DAY_MINUTES;
        let in_minutes = |minutes: u16| now.after(Duration(u64::from(minutes) * MINUTE_MS));
        let UplinkDay { used, .. } = self.today;
        let bytes_per_day = self.limits.bytes_per_day;
        if bytes > bytes_per_day {
            let why = WaitReason::MoreThanADay { bytes, bytes_per_day };
            return Err(Wait { until: None, why });
        }
        if bytes > bytes_per_day.saturating_sub(used) {
            let until = Some(in_minutes(DAY_MINUTES - minute));
            return Err(Wait { until, why: WaitReason::Day { used, bytes_per_day } });
        }
        let bytes_per_s = self.pace.bytes_per_s();
        if bytes_per_s == 0 {
            let until = self.limits.minutes_closed(minute).map(in_minutes);
            return Err(Wait { until, why: WaitReason::Hour });
        }
        let why = WaitReason::Rate { bytes_per_s };
        self.pace.may_take(now, bytes).map_err(|until| Wait { until, why })
    }

    /// Bytes that may still go on this day, nothing while this part of the day allows nothing.
    pub fn left(&mut self, now: Time, local: LocalTime) -> u64 {
        self.turn(now, local);
        if self.pace.bytes_per_s() == 0 {
            return 0;
        }
        self.limits.bytes_per_day.saturating_sub(self.today.used)
    }

    /// Bytes a second that may go now.
    pub fn rate(&mut self, now: Time, local: LocalTime) -> u64 {
        self.turn(now, local);
        self.pace.bytes_per_s()
    }

    /// Books `bytes` of bulk that go now.
    pub fn sent(&mut self, now: Time, local: LocalTime, bytes: u64) {
        self.turn(now, local);
        self.pace.take(now, bytes);
        self.today.used = self.today.used.saturating_add(bytes);
    }

    /// What to keep for the next start.
    #[must_use]
    pub const fn today(&self) -> UplinkDay {
        self.today
    }

    /// Takes up the rate of the hour and the day. A new day begins with nothing used. A clock that was
    /// set back gives nothing back: what went keeps counting. One day back (a correction around
    /// midnight) the later day goes on; further back the earlier day's number is taken, so that a day
    /// far ahead that was never real does not hold for ever.
    fn turn(&mut self, now: Time, local: LocalTime) {
        let rate = self.limits.rate_at(local.minute % DAY_MINUTES);
        self.pace.set(now, rate, burst_of(rate));
        if local.day > self.today.day {
            self.today = UplinkDay { day: local.day, used: 0 };
        } else if local.day.saturating_add(1) < self.today.day {
            self.today.day = local.day;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32, minute: u16) -> LocalTime {
        LocalTime { day, minute }
    }

    fn limits() -> UplinkLimits {
        let window =
            |from_minute, to_minute, bytes_per_s| Window { from_minute, to_minute, bytes_per_s };
        UplinkLimits {
            bytes_per_s: 100_000,
            windows: vec![window(1320, 360, u64::MAX), window(1080, 1320, 0)],
            bytes_per_day: 1_000_000,
        }
    }

    fn uplink() -> Uplink {
        Uplink::new(limits(), UplinkDay::default(), Time(0), at(1, 600)).unwrap()
    }

    #[test]
    fn a_frame_longer_than_the_burst_goes_from_a_full_bucket_and_is_waited_for() {
        let mut pace = Pace::new(10, 100, Time(0));
        assert_eq!(pace.may_take(Time(0), 500), Ok(()));
        pace.take(Time(0), 500);
        // 400 bytes of debt and one byte to go, at 10 bytes a second.
        assert_eq!(pace.may_take(Time(0), 1), Err(Some(Time(40_100))));
        assert_eq!(pace.may_take(Time(40_099), 1), Err(Some(Time(40_100))));
        assert_eq!(pace.may_take(Time(40_100), 1), Ok(()));
    }

    #[test]
    fn a_rate_of_three_bytes_a_second_asked_every_millisecond_does_not_drift() {
        let mut pace = Pace::new(3, 1, Time(0));
        let mut gone = 0;
        for ms in 0..1_000_000 {
            if pace.may_take(Time(ms), 1).is_ok() {
                pace.take(Time(ms), 1);
                gone += 1;
            }
        }
        // A bucket of one byte overflows for part of a millisecond at each take: 334 ms a byte.
        assert_eq!(gone, 1 + 999_999 / 334);
        let mut wide = Pace::new(3, 1000, Time(0));
        wide.take(Time(0), 1000);
        (1..=100_000).for_each(|ms| assert!(!wide.is_full(Time(ms))));
        assert_eq!(wide.may_take(Time(100_000), 300), Ok(()));
        assert!(wide.may_take(Time(100_000), 301).is_err());
    }

    #[test]
    fn no_rate_waits_for_ever_and_no_bound_never() {
        let mut shut = Pace::new(0, 10, Time(0));
        shut.take(Time(0), 10);
        assert_eq!(shut.may_take(Time(u64::MAX), 1), Err(None));
        let mut free = Pace::new(u64::MAX, 10, Time(0));
        (0..100).for_each(|_| free.take(Time(0), u64::MAX));
        assert_eq!(free.may_take(Time(0), u64::MAX), Ok(()));
        // The end of time is no overflow.
        let mut slow = Pace::new(1, u64::MAX, Time(0));
        slow.take(Time(0), u64::MAX);
        assert_eq!(slow.may_take(Time(5), u64::MAX), Err(Some(Time(u64::MAX))));
    }

    #[test]
    fn the_hour_decides_about_the_rate() {
        let mut uplink = uplink();
        let rate = WaitReason::Rate { bytes_per_s: 100_000 };
        let wait = uplink.may_send(Time(0), at(1, 600), 50_000).unwrap_err();
        assert_eq!(wait, Wait { until: Some(Time(500)), why: rate });
        assert_eq!(uplink.may_send(Time(500), at(1, 600), 50_000), Ok(()));
        uplink.sent(Time(500), at(1, 600), 50_000);
        // Closed from 18:00 to 22:00, unbounded from then on.
        let hour = Wait { until: Some(Time(1000 + 239 * 60_000)), why: WaitReason::Hour };
        assert_eq!(uplink.may_send(Time(1000), at(1, 1081), 1), Err(hour));
        assert_eq!(uplink.may_send(Time(2000), at(1, 1320), 950_000), Ok(()));
        assert_eq!(uplink.may_send(Time(2000), at(1, 359), 950_000), Ok(()));
    }

    #[test]
    fn the_budget_of_a_day_survives_a_restart_and_a_clock_set_back() {
        let night = |day| at(day, 0);
        let mut uplink = uplink();
        uplink.sent(Time(0), night(5), 900_000);
        let mut again = Uplink::new(limits(), uplink.today(), Time(7), night(5)).unwrap();
        let why = WaitReason::Day { used: 900_000, bytes_per_day: 1_000_000 };
        let wait = Wait { until: Some(Time(7 + 86_400_000)), why };
        assert_eq!(again.may_send(Time(7), night(5), 100_001), Err(wait));
        assert_eq!(again.may_send(Time(7), night(4), 100_001), Err(wait), "the clock went back");
        assert_eq!(again.may_send(Time(7), night(4), 100_000), Ok(()));
        assert_eq!(again.may_send(Time(7), night(5), 100_001), Err(wait), "and came again");
        assert_eq!(again.may_send(Time(8), night(6), 1_000_000), Ok(()), "the next day begins");
        again.sent(Time(8), night(900), 1_000_000);
        let full = |uplink: &mut Uplink, day| uplink.may_send(Time(9), night(day), 1).is_err();
        assert!(full(&mut again, 7), "a day that was never real");
        assert!(!full(&mut again, 8), "holds until the next real one");
        let why = WaitReason::MoreThanADay { bytes: 1_000_001, bytes_per_day: 1_000_000 };
        let never = Err(Wait { until: None, why });
        assert_eq!(again.may_send(Time(8), night(6), 1_000_001), never);
    }

    #[test]
    fn limits_that_contradict_themselves_are_refused_and_the_old_ones_stay() {
        let with = |windows: &[(u16, u16)]| UplinkLimits {
            windows: windows
                .iter()
                .map(|&(from_minute, to_minute)| Window { from_minute, to_minute, bytes_per_s: 1 })
                .collect(),
            ..limits()
        };
        let refused = |windows: &[(u16, u16)]| with(windows).check().unwrap_err();
        let overlap = UplinkError::Overlap { first: 0, second: 1, minute: 0 };
        assert_eq!(refused(&[(1400, 10), (0, 5)]), overlap);
        assert!(matches!(refused(&[(0, 5), (7, 7)]), UplinkError::Minutes { index: 1, .. }));
        assert!(matches!(refused(&[(0, 1440)]), UplinkError::Minutes { index: 0, .. }));
        assert_eq!(refused(&[(0, 1); 49]), UplinkError::Windows { found: 49 });
        let mut uplink = uplink();
        assert!(uplink.set_limits(with(&[(7, 7)])).is_err());
        assert_eq!(uplink.limits, limits());
    }
}
