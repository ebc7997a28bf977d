//! How fast a source gives, and how much it may therefore be asked for at once.
//!
//! Not for: choosing chunks. Invariant: a window is at least [`WINDOW_CHUNKS_MIN`] chunks, so that one
//! is always on its way while another is asked for.

use suanli_base::{Duration, Time};

/// A source is asked for at least what it gives in this time.
const AHEAD_MIN: Duration = Duration(250);
/// And at most for what it gives in this time, however far away it is.
const AHEAD_MAX: Duration = Duration(2_000);
/// The rate is taken over at least this long: time counts in whole milliseconds.
const SAMPLE: Duration = Duration(50);
/// A rate this old says less than the silence since.
const STALE: Duration = Duration(1_000);
/// The smallest window, and the one of a source not measured yet.
const WINDOW_CHUNKS_MIN: usize = 2;
/// Bytes asked of one source at once.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// Chunks asked of one source at once: what is kept about them is bounded too.
const WINDOW_CHUNKS_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: Option<u64>,
    /// Since when `bytes` have come; it had something to do all the while.
    since: Time,
    bytes: u64,
    /// The shortest wait from asking to the first chunk: the way there and back, and one chunk.
    nearest: Duration,
}

impl Pace {
    pub(super) const fn new(now: Time) -> Self {
        Self { bytes_per_s: None, since: now, bytes: 0, nearest: AHEAD_MAX }
    }

    /// It has something to do again: the idle time before does not count.
    pub(super) const fn begin(&mut self, now: Time) {
        (self.since, self.bytes) = (now, 0);
    }

    /// Bytes have come; `waited` says for how long the first of a READ was waited for.
    pub(super) fn came(&mut self, now: Time, bytes: u64, waited: Option<Duration>) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.nearest = waited.map_or(self.nearest, |waited| waited.min(self.nearest));
        let span = now.since(self.since);
        if span < SAMPLE {
            return;
        }
        let found = self.bytes.saturating_mul(1000) / span.0;
        // Up at once: a window that grew shows what the line bears. Down slowly: frames that were lost
        // and come late say little about it, and a window cut for them would never fill it again.
        self.bytes_per_s = Some(match self.bytes_per_s {
            None => found,
            Some(rate) if found > rate => found,
            Some(rate) => rate / 8 * 7 + found / 8,
        });
        self.begin(now);
    }

    /// How many chunks may be asked for and not arrived: what it gives within two round trips.
    pub(super) fn window(&self, chunk_bytes: u32) -> usize {
        let ahead = (2 * self.nearest.0).clamp(AHEAD_MIN.0, AHEAD_MAX.0);
        let bytes = self.bytes_per_s.unwrap_or(0).saturating_mul(ahead) / 1000;
        let chunks = bytes.min(WINDOW_BYTES_MAX) / u64::from(chunk_bytes.max(1));
        usize::try_from(chunks).unwrap_or(usize::MAX).clamp(WINDOW_CHUNKS_MIN, WINDOW_CHUNKS_MAX)
    }

    /// How long `chunks` chunks will take it, in milliseconds, as things look now.
    pub(super) fn time_for(&self, now: Time, chunks: usize, chunk_bytes: u32) -> u64 {
        let span = now.since(self.since);
        let known = self.bytes_per_s.unwrap_or(0);
        let rate =
            if span < STALE { known } else { known.min(self.bytes.saturating_mul(1000) / span.0) };
        let bytes = (chunks as u64).saturating_mul(u64::from(chunk_bytes));
        bytes.saturating_mul(1000) / rate.max(1)
    }

    /// How long a chunk asked for now will take, there and back.
    pub(super) fn time_for_one(&self, now: Time, chunk_bytes: u32) -> u64 {
        self.time_for(now, 1, chunk_bytes).saturating_add(self.nearest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window after ten seconds at `chunks_per_s`, the first chunk of each READ after `waited`.
    fn window_at(chunks_per_s: u64, waited: u64) -> usize {
        let mut pace = Pace::new(Time(0));
        for chunk in 1..=10 * chunks_per_s {
            let now = Time(chunk * 1000 / chunks_per_s);
            pace.came(now, 1_000, Some(Duration(waited)));
        }
        pace.window(1_000)
    }

    #[test]
    fn a_window_is_two_round_trips_of_what_comes_within_bounds() {
        assert_eq!(Pace::new(Time(0)).window(1_000), 2);
        assert_eq!(window_at(1, 900), 2);
        assert!((24..=26).contains(&window_at(100, 10)), "a quarter of a second at least");
        assert!((76..=84).contains(&window_at(100, 400)), "two round trips of 400 ms");
        assert!((190..=210).contains(&window_at(100, 30_000)), "two seconds at most");
        let mut fast = Pace::new(Time(0));
        fast.came(Time(100), u64::MAX, None);
        assert_eq!(fast.window(1), WINDOW_CHUNKS_MAX);
        assert_eq!(fast.window(4 << 20), 16);
    }

    #[test]
    fn who_fell_silent_is_slower_than_it_was() {
        let mut pace = Pace::new(Time(0));
        pace.came(Time(100), 10_000, None);
        assert_eq!(pace.time_for(Time(200), 10, 1_000), 100);
        assert!(pace.time_for(Time(5_000), 10, 1_000) > 1_000_000);
    }
}
