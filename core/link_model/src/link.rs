//! One direction of a link: queue, rate, loss, delay, jitter.

use crate::clock::{Moment, Span};
use crate::profile::{Direction, Order, ProfileError};
use suanli_base::Random;

/// One bit, in the unit that the sender's work is counted in: a link of `r` bits/s works off `r` of
/// them in a nanosecond. So no packet's time is ever rounded before it is asked for.
const BIT: u128 = 1_000_000_000;

/// A share of one, in parts per million.
const MILLION: u64 = 1_000_000;

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The queue was full.
    Queue,
    /// The line lost it, after it had taken its time on it.
    Loss,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When its last bit is there.
        at: Moment,
    },
    /// It does not.
    Dropped(Cause),
}

/// What a link has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets offered.
    pub offered_packets: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Packets that arrive, those on their way included.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets that found the queue full.
    pub dropped_by_queue: u64,
    /// Packets that the line lost.
    pub dropped_by_loss: u64,
    /// The most bytes that ever waited, the packet being sent included.
    pub queue_bytes_max: u64,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    direction: Direction,
    loss: Random,
    jitter: Random,
    /// When the sender is idle again, in [`BIT`]s at this rate.
    free_at: u128,
    /// When the last packet that was let through arrives.
    last_at: Moment,
    counts: Counts,
}

impl Link {
    /// A link that is idle and draws from `seed`.
    ///
    /// # Errors
    /// When the direction lies outside its bounds.
    pub fn new(direction: Direction, seed: u64) -> Result<Self, ProfileError> {
        direction.check()?;
        let seeds = Random::new(seed);
        Ok(Self {
            direction,
            loss: seeds.fork(1),
            jitter: seeds.fork(2),
            free_at: 0,
            last_at: Moment(0),
            counts: Counts::default(),
        })
    }

    /// Its settings.
    #[must_use]
    pub const fn direction(&self) -> &Direction {
        &self.direction
    }

    /// What it has seen so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many bytes wait or are being sent at `now`; a byte begun counts whole.
    #[must_use]
    pub fn waiting_bytes(&self, now: Moment) -> u64 {
        let work = self.free_at.saturating_sub(self.work_until(now));
        u64::try_from(work.div_ceil(8 * BIT)).unwrap_or(u64::MAX)
    }

    /// Offers a packet of `bytes` at `now`, which is no earlier than any offer before.
    ///
    /// The queue takes it when it fits beside what waits; an idle sender takes a packet of any size.
    /// A lost packet takes its time on the line all the same.
    pub fn offer(&mut self, now: Moment, bytes: u32) -> Verdict {
        self.counts.offered_packets += 1;
        self.counts.offered_bytes += u64::from(bytes);
        let waiting = self.waiting_bytes(now);
        let filled = waiting.saturating_add(u64::from(bytes));
        if waiting > 0 && filled > self.direction.queue_bytes {
            self.counts.dropped_by_queue += 1;
            return Verdict::Dropped(Cause::Queue);
        }
        self.counts.queue_bytes_max = self.counts.queue_bytes_max.max(filled);
        let sent = self.send(now, bytes);
        // Both are drawn for every packet on the line, so that one setting never shifts the other.
        let lost = self.loss.below(MILLION) < u64::from(self.direction.loss_ppm);
        let jitter = Span(self.jitter.below(self.direction.jitter.0.saturating_add(1)));
        if lost {
            self.counts.dropped_by_loss += 1;
            return Verdict::Dropped(Cause::Loss);
        }
        self.counts.delivered_packets += 1;
        self.counts.delivered_bytes += u64::from(bytes);
        Verdict::Deliver { at: self.arrival(sent.after(self.direction.delay).after(jitter)) }
    }

    /// The sender's work from the beginning of time to `now`.
    fn work_until(&self, now: Moment) -> u128 {
        u128::from(now.0) * u128::from(self.direction.bits_per_s)
    }

    /// Puts a packet on the line behind those that wait; says when its last bit has left.
    fn send(&mut self, now: Moment, bytes: u32) -> Moment {
        self.free_at = self.free_at.max(self.work_until(now)) + u128::from(bytes) * 8 * BIT;
        let ns = self.free_at.div_ceil(u128::from(self.direction.bits_per_s));
        Moment(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn arrival(&mut self, at: Moment) -> Moment {
        let at = match self.direction.order {
            Order::Kept => at.max(self.last_at),
            Order::MayOvertake => at,
        };
        self.last_at = self.last_at.max(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction() -> Direction {
        Direction {
            bits_per_s: 1_000_000_000,
            delay: Span::from_ms(15),
            jitter: Span::ZERO,
            loss_ppm: 0,
            queue_bytes: 4500,
            order: Order::Kept,
        }
    }

    fn link(direction: Direction) -> Link {
        Link::new(direction, 7).unwrap()
    }

    #[test]
    fn a_packet_takes_its_time_on_the_line_and_then_the_delay() {
        let mut link = link(direction());
        let at = |us| Verdict::Deliver { at: Moment(0).after(Span::from_us(us)) };
        assert_eq!(link.offer(Moment(0), 1500), at(15_012));
        assert_eq!(link.offer(Moment(0), 1500), at(15_024), "behind the first");
        assert_eq!(link.offer(Moment(1_000_000), 1500), at(16_012), "idle again");
    }

    #[test]
    fn a_full_queue_drops_and_takes_again_once_a_packet_has_left() {
        let mut link = link(direction());
        for _ in 0..3 {
            assert!(matches!(link.offer(Moment(0), 1500), Verdict::Deliver { .. }));
        }
        assert_eq!(link.offer(Moment(0), 1500), Verdict::Dropped(Cause::Queue));
        assert_eq!(link.offer(Moment(11_999), 1500), Verdict::Dropped(Cause::Queue));
        assert!(matches!(link.offer(Moment(12_000), 1500), Verdict::Deliver { .. }));
        assert_eq!(link.counts().queue_bytes_max, 4500);
        assert_eq!(link.counts().dropped_by_queue, 2);
    }

    #[test]
    fn an_idle_link_takes_a_packet_larger_than_its_queue() {
        let mut link = link(direction());
        assert!(matches!(link.offer(Moment(0), 60_000), Verdict::Deliver { .. }));
        assert_eq!(link.offer(Moment(0), 1), Verdict::Dropped(Cause::Queue));
    }

    #[test]
    fn a_rate_that_divides_nothing_is_met_exactly_over_a_million_packets() {
        let mut link = link(Direction { bits_per_s: 7_000_003, delay: Span::ZERO, ..direction() });
        let (mut now, mut last) = (Moment(0), Moment(0));
        for _ in 0..1_000_000 {
            match link.offer(now, 1500) {
                Verdict::Deliver { at } => last = at,
                Verdict::Dropped(cause) => panic!("dropped by {cause:?}"),
            }
            now = last;
        }
        // Each packet waits for the whole nanosecond in which the one before it ends.
        let exact = 1_000_000_u128 * 1500 * 8 * BIT / 7_000_003;
        assert!(u128::from(last.0).abs_diff(exact) <= 1_000_000, "{} {exact}", last.0);
    }

    #[test]
    fn the_line_loses_the_share_it_was_told_and_lost_packets_took_their_time() {
        let mut link = link(Direction { loss_ppm: 20_000, queue_bytes: 1 << 27, ..direction() });
        for _ in 0..50_000 {
            link.offer(Moment(0), 1500);
        }
        let lost = link.counts().dropped_by_loss;
        // 1000 expected; five standard deviations are 157.
        assert!((843..=1157).contains(&lost), "{lost}");
        assert_eq!(link.waiting_bytes(Moment(0)), 50_000 * 1500);
    }

    #[test]
    fn jitter_overtakes_only_where_the_profile_says_so() {
        let overtaken = |order| {
            let jitter = Span::from_ms(5);
            let mut link = link(Direction { jitter, order, queue_bytes: 1 << 20, ..direction() });
            let arrivals = (0..500).filter_map(|k| match link.offer(Moment(k * 12_000), 1500) {
                Verdict::Deliver { at } => Some(at),
                Verdict::Dropped(_) => None,
            });
            let arrivals: Vec<Moment> = arrivals.collect();
            assert_eq!(arrivals.len(), 500);
            arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count()
        };
        assert_eq!(overtaken(Order::Kept), 0);
        assert!(overtaken(Order::MayOvertake) > 100);
    }
}
