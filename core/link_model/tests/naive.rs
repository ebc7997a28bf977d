//! The link against a naive one that keeps a list of packets and looks at every one of them.

use proptest::prelude::*;
use std::collections::BTreeMap;
use suanli_link_model::{Cause, Direction, Link, Moment, Order, Pipe, Span, Verdict};

/// A packet as the naive link remembers it: when its first and its last bit leave, as fractions of
/// a nanosecond over the rate, and its bytes.
struct Sent {
    begins: u128,
    ends: u128,
}

/// Every packet ever sent, in a list. Without loss and jitter, whose draws are the link's own.
struct Naive {
    direction: Direction,
    sent: Vec<Sent>,
}

impl Naive {
    fn offer(&mut self, now: Moment, bytes: u32) -> Verdict {
        let rate = u128::from(self.direction.bits_per_s);
        let now = u128::from(now.0) * rate;
        // The bits of each packet that have not left, each bit being 10^9 units long.
        let waiting: u128 =
            self.sent.iter().map(|sent| sent.ends.saturating_sub(sent.begins.max(now))).sum();
        let waiting = waiting.div_ceil(8_000_000_000);
        if waiting > 0 && waiting + u128::from(bytes) > u128::from(self.direction.queue_bytes) {
            return Verdict::Dropped(Cause::Queue);
        }
        let idle_from = self.sent.last().map_or(0, |last| last.ends);
        let begins = idle_from.max(now);
        let ends = begins + u128::from(bytes) * 8_000_000_000;
        self.sent.push(Sent { begins, ends });
        let left = u64::try_from(ends.div_ceil(rate)).expect("a day has fewer nanoseconds");
        Verdict::Deliver { at: Moment(left).after(self.direction.delay) }
    }
}

fn direction() -> impl Strategy<Value = Direction> {
    (
        1_000_u64..2_000_000_000,
        0_u64..50_000_000,
        0_u64..5_000_000,
        0_u32..300_000,
        1_500_u64..60_000,
    )
        .prop_map(|(bits_per_s, delay, jitter, loss_ppm, queue_bytes)| Direction {
            bits_per_s,
            delay: Span(delay),
            jitter: Span(jitter),
            loss_ppm,
            queue_bytes,
            order: Order::Kept,
        })
}

/// Gaps between offers, in packets' times of this rate (in thousandths), and sizes.
fn offers() -> impl Strategy<Value = Vec<(u64, u32)>> {
    prop::collection::vec((0_u64..3_000, 1_u32..=1500), 1..200)
}

fn moments(direction: &Direction, offers: &[(u64, u32)]) -> Vec<(Moment, u32)> {
    let packet_ns = 12_000 * 1_000_000_000 / direction.bits_per_s;
    let mut now = Moment(0);
    let mut all = Vec::new();
    for (gap, bytes) in offers {
        now = now.after(Span(packet_ns * gap / 1000));
        all.push((now, *bytes));
    }
    all
}

proptest! {
    #[test]
    fn the_link_agrees_with_the_naive_one(direction in direction(), offers in offers()) {
        let direction = Direction { jitter: Span::ZERO, loss_ppm: 0, ..direction };
        let mut link = Link::new(direction, 1).unwrap();
        let mut naive = Naive { direction, sent: Vec::new() };
        for (now, bytes) in moments(&direction, &offers) {
            prop_assert_eq!(link.offer(now, bytes), naive.offer(now, bytes));
            prop_assert!(link.waiting_bytes(now) <= direction.queue_bytes);
        }
    }

    #[test]
    fn equal_seeds_give_equal_traces_and_every_packet_is_counted_once(
        direction in direction(), offers in offers(), seed: u64,
    ) {
        let mut links = [0; 2].map(|_| Link::new(direction, seed).unwrap());
        let mut delivered = 0;
        for (now, bytes) in moments(&direction, &offers) {
            let verdicts = links.each_mut().map(|link| link.offer(now, bytes));
            prop_assert_eq!(verdicts[0], verdicts[1]);
            delivered += u64::from(matches!(verdicts[0], Verdict::Deliver { .. }));
        }
        let counts = links[0].counts();
        prop_assert_eq!(counts, links[1].counts());
        prop_assert_eq!(counts.delivered_packets, delivered);
        let gone = counts.dropped_by_queue + counts.dropped_by_loss;
        prop_assert_eq!(counts.offered_packets, delivered + gone);
        prop_assert_eq!(counts.offered_packets, offers.len() as u64);
    }

    #[test]
    fn loss_and_jitter_change_neither_the_queue_nor_each_other(
        direction in direction(), offers in offers(), seed: u64,
    ) {
        let lossless = Direction { loss_ppm: 0, order: Order::MayOvertake, ..direction };
        let lossy = Direction { order: Order::MayOvertake, ..direction };
        let mut plain = Link::new(lossless, seed).unwrap();
        let mut other = Link::new(lossy, seed).unwrap();
        for (now, bytes) in moments(&direction, &offers) {
            match (plain.offer(now, bytes), other.offer(now, bytes)) {
                (_, Verdict::Dropped(Cause::Loss)) => {}
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }

    #[test]
    fn a_pipe_hands_out_what_its_link_let_through_at_its_time(
        direction in direction(), offers in offers(), seed: u64, overtake: bool,
    ) {
        let order = if overtake { Order::MayOvertake } else { Order::Kept };
        let direction = Direction { order, ..direction };
        let mut pipe = Pipe::new(Link::new(direction, seed).unwrap());
        let mut expected: BTreeMap<(Moment, usize), ()> = BTreeMap::new();
        let mut last = Moment(0);
        for (index, (now, bytes)) in moments(&direction, &offers).into_iter().enumerate() {
            if let Verdict::Deliver { at } = pipe.offer(now, bytes, index) {
                expected.insert((at, index), ());
            }
            last = now;
        }
        prop_assert_eq!(pipe.travelling(), expected.len());
        if let Some(first) = pipe.next_at() {
            prop_assert!(first.0 == 0 || pipe.arrived(Moment(first.0 - 1)).is_none());
        }
        let mut seen = Vec::new();
        while let Some(at) = pipe.next_at() {
            last = last.max(at);
            seen.push((at, pipe.arrived(last).unwrap()));
        }
        prop_assert_eq!(seen, expected.into_keys().collect::<Vec<_>>());
        prop_assert_eq!(pipe.arrived(Moment(u64::MAX)), None);
    }
}
