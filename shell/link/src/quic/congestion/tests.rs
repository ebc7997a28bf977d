//! The model against a line under virtual time: a rate, a delay, a queue, losses by seed.

use super::bbr::Bbr;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use suanli_base::Random;

const MSS: u64 = 1_400;
const NS: u64 = 1_000_000_000;

/// One direction of a line; acknowledgements come back without a queue.
#[derive(Clone, Copy)]
struct Line {
    bytes_per_s: u64,
    round_trip: Duration,
    queue_bytes: u64,
    loss_ppm: u64,
}

/// 100 Mbit/s, 30 ms, with a queue of so many tenths of what the path holds.
fn home(queue_tenths: u64, loss_ppm: u64) -> Line {
    let bytes_per_s = 12_500_000;
    let queue_bytes = bytes_per_s * 30 / 1000 * queue_tenths / 10;
    Line { bytes_per_s, round_trip: Duration::from_millis(30), queue_bytes, loss_ppm }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send { flow: usize },
    Ack { flow: usize, packet: u64 },
}

/// CUBIC (RFC 9438) without slow-start refinements: the neighbour on the line.
struct Cubic {
    window: f64,
    threshold: f64,
    largest: f64,
    reduced: u64,
    begun: Option<Instant>,
}

impl Cubic {
    fn new() -> Self {
        Self { window: 10.0, threshold: f64::MAX, largest: 0.0, reduced: 0, begun: None }
    }

    fn acked(&mut self, now: Instant) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let t = (now - *self.begun.get_or_insert(now)).as_secs_f64();
        let k = ((self.largest - self.window_after()) / 0.4).max(0.0).cbrt();
        let target = 0.4 * (t - k).powi(3) + self.largest;
        // At least as fast as Reno, and never by more than half in a round trip.
        let step = ((target - self.window) / self.window).clamp(0.5 / self.window, 0.5);
        self.window += step;
    }

    fn window_after(&self) -> f64 {
        self.largest * 0.7
    }

    /// One reduction for all that went before it.
    fn lost(&mut self, now: Instant, packet: u64, next_packet: u64) {
        if packet < self.reduced {
            return;
        }
        self.reduced = next_packet;
        self.largest = self.window;
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
        self.begun = Some(now);
    }
}

enum Sender {
    Model(Box<Bbr>),
    Neighbour(Cubic),
}

impl Sender {
    fn window(&self) -> u64 {
        match self {
            Self::Model(model) => model.window(),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "packets")]
            Self::Neighbour(cubic) => cubic.window as u64 * MSS,
        }
    }

    fn pacing_rate(&self) -> Option<u64> {
        match self {
            Self::Model(model) => model.pacing_rate(),
            Self::Neighbour(_) => None,
        }
    }

    fn sent(&mut self, now: Instant) {
        if let Self::Model(model) = self {
            model.sent(now, MSS);
        }
    }

    fn lost(&mut self, now: Instant, packet: u64, next_packet: u64) {
        match self {
            Self::Model(model) => model.lost(MSS),
            Self::Neighbour(cubic) => cubic.lost(now, packet, next_packet),
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant) {
        match self {
            Self::Model(model) => model.acked(now, sent, MSS),
            Self::Neighbour(cubic) => cubic.acked(now),
        }
    }

    fn acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        if let Self::Model(model) = self {
            model.acks_end(now, in_flight, app_limited);
        }
    }
}

struct Flow {
    model: Sender,
    /// When each packet went that is neither acknowledged nor lost.
    out: BTreeMap<u64, u64>,
    next_packet: u64,
    next_send: u64,
    /// Whether a `Send` is among the events.
    waits: bool,
    /// Bytes that the application still has.
    wanted: u64,
    acked: u64,
    lost: u64,
    /// Sum of round trips, for their mean.
    round_trips: u64,
    acks: u64,
}

struct World {
    begun: Instant,
    now: u64,
    line: Line,
    free_at: u64,
    flows: Vec<Flow>,
    events: BTreeSet<(u64, u64, Event)>,
    serial: u64,
    random: Random,
    /// The model is never told that there was nothing to send.
    untold: bool,
}

impl World {
    fn new(line: Line, flows: usize, seed: u64) -> Self {
        let begun = Instant::now();
        let flow = |_| Flow {
            model: Sender::Model(Box::new(Bbr::new(begun, MSS, 32 * MSS))),
            out: BTreeMap::new(),
            next_packet: 0,
            next_send: 0,
            waits: false,
            wanted: 0,
            acked: 0,
            lost: 0,
            round_trips: 0,
            acks: 0,
        };
        let flows = (0..flows).map(flow).collect();
        let (events, random) = (BTreeSet::new(), Random::new(seed));
        Self { begun, now: 0, line, free_at: 0, flows, events, serial: 0, random, untold: false }
    }

    fn at(&self, ns: u64) -> Instant {
        self.begun + Duration::from_nanos(ns)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial, event));
    }

    fn want(&mut self, flow: usize, bytes: u64) {
        self.flows[flow].wanted += bytes;
        self.send(flow);
    }

    /// Runs until so much time went by, or all is acknowledged; returns the time it took.
    fn run(&mut self, span: Duration) -> Duration {
        let (begun, end) = (self.now, self.now + u64::try_from(span.as_nanos()).unwrap());
        while self.flows.iter().any(|flow| flow.wanted > 0 || !flow.out.is_empty()) {
            let Some((at, _, event)) = self.events.pop_first() else {
                self.time_out();
                continue;
            };
            if at > end {
                self.push(at, event);
                self.now = end;
                return span;
            }
            self.now = at;
            match event {
                Event::Send { flow } => {
                    self.flows[flow].waits = false;
                    self.send(flow);
                }
                Event::Ack { flow, packet } => self.acked(flow, packet),
            }
        }
        Duration::from_nanos(self.now - begun)
    }

    /// The last packets were lost: nothing comes that would tell.
    fn time_out(&mut self) {
        self.now += 3 * u64::try_from(self.line.round_trip.as_nanos()).unwrap();
        let now = self.at(self.now);
        for of in 0..self.flows.len() {
            let flow = &mut self.flows[of];
            let out = std::mem::take(&mut flow.out);
            for packet in out.keys() {
                flow.model.lost(now, *packet, flow.next_packet);
            }
            let late = out.len() as u64 * MSS;
            flow.lost += late;
            flow.wanted += late;
            self.send(of);
        }
    }

    fn idle(&mut self, span: Duration) {
        self.now += u64::try_from(span.as_nanos()).unwrap();
    }

    fn send(&mut self, of: usize) {
        loop {
            let now = self.at(self.now);
            let flow = &mut self.flows[of];
            let in_flight = flow.out.len() as u64 * MSS;
            if flow.wanted == 0 || in_flight + MSS > flow.model.window() {
                return;
            }
            if flow.next_send > self.now {
                let at = flow.next_send;
                if !std::mem::replace(&mut flow.waits, true) {
                    self.push(at, Event::Send { flow: of });
                }
                return;
            }
            let pause = flow.model.pacing_rate().map_or(0, |rate| MSS * NS / rate);
            flow.next_send = self.now + pause;
            flow.wanted = flow.wanted.saturating_sub(MSS);
            let packet = flow.next_packet;
            flow.next_packet += 1;
            flow.out.insert(packet, self.now);
            flow.model.sent(now);
            let backlog = self.free_at.saturating_sub(self.now);
            let waiting = u128::from(backlog) * u128::from(self.line.bytes_per_s);
            let waiting = u64::try_from(waiting / u128::from(NS)).unwrap();
            let lost = self.random.below(1_000_000) < self.line.loss_ppm;
            if lost || waiting + MSS > self.line.queue_bytes.max(MSS) {
                continue;
            }
            self.free_at = self.free_at.max(self.now) + MSS * NS / self.line.bytes_per_s;
            let back = self.free_at + u64::try_from(self.line.round_trip.as_nanos()).unwrap();
            self.push(back, Event::Ack { flow: of, packet });
        }
    }

    fn acked(&mut self, of: usize, packet: u64) {
        let now = self.at(self.now);
        let (begun, flow) = (self.begun, &mut self.flows[of]);
        let Some(sent) = flow.out.remove(&packet) else { return };
        let late: Vec<u64> = flow.out.range(..packet.saturating_sub(2)).map(|(p, _)| *p).collect();
        flow.model.acked(now, begun + Duration::from_nanos(sent));
        flow.acked += MSS;
        flow.acks += 1;
        flow.round_trips += self.now - sent;
        for packet in late {
            flow.out.remove(&packet);
            flow.model.lost(now, packet, flow.next_packet);
            flow.lost += MSS;
            flow.wanted += MSS;
        }
        let in_flight = flow.out.len() as u64 * MSS;
        flow.model.acks_end(now, in_flight, flow.wanted == 0 && !self.untold);
        self.send(of);
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares")]
fn share(bytes: u64, of: u64) -> f64 {
    bytes as f64 / of as f64
}

/// What of the line 64 MiB got, start-up included.
fn rate_of_64_mib(line: Line, seed: u64) -> f64 {
    let mut world = World::new(line, 1, seed);
    world.want(0, 64 << 20);
    let took = world.run(Duration::from_secs(600)).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "64 MiB")]
    let ideal = (64u64 << 20) as f64 / line.bytes_per_s as f64;
    ideal / took
}

#[test]
fn a_home_line_is_filled_whatever_it_loses() {
    for (queue_tenths, loss_ppm) in
        [(10, 0), (10, 5_000), (10, 10_000), (100, 0), (100, 5_000), (100, 10_000), (10, 20_000)]
    {
        for seed in 0..5 {
            let rate = rate_of_64_mib(home(queue_tenths, loss_ppm), seed);
            assert!(
                rate > 0.92,
                "{rate:.3} with {queue_tenths}/10 BDP, {loss_ppm} ppm, seed {seed}"
            );
        }
    }
}

#[test]
fn a_long_queue_is_not_filled_and_a_short_one_not_overrun() {
    let mut world = World::new(home(100, 0), 1, 1);
    world.want(0, 64 << 20);
    world.run(Duration::from_secs(60));
    let flow = &world.flows[0];
    let mean = Duration::from_nanos(flow.round_trips / flow.acks);
    assert!(mean < Duration::from_millis(45), "{mean:?}");

    let mut world = World::new(home(2, 0), 1, 1);
    world.want(0, 256 << 20);
    let took = world.run(Duration::from_secs(120)).as_secs_f64();
    let flow = &world.flows[0];
    let lost = share(flow.lost, flow.acked);
    assert!(lost < 0.05, "{lost:.3} lost");
    assert!(took < 30.0, "{took:.1} s for what could take 21.5");
}

#[test]
fn two_senders_share_a_line() {
    for queue_tenths in [5, 10, 20, 30, 100] {
        for seed in 0..3 {
            let mut world = World::new(home(queue_tenths, 100), 2, seed);
            world.want(0, 1 << 40);
            world.run(Duration::from_secs(5));
            let before = world.flows[0].acked;
            world.want(1, 1 << 40);
            world.run(Duration::from_secs(40));
            let (first, second) = (world.flows[0].acked - before, world.flows[1].acked);
            let share = share(second, first + second);
            let of = format!("{queue_tenths}/10 BDP, seed {seed}");
            assert!((0.35..0.65).contains(&share), "the second has {share:.2} with {of}");
        }
    }
}

#[test]
fn a_neighbour_with_cubic_keeps_its_share() {
    for queue_tenths in [5, 10, 20, 50, 100] {
        for seed in 0..3 {
            let mut world = World::new(home(queue_tenths, 0), 2, seed);
            world.flows[1].model = Sender::Neighbour(Cubic::new());
            world.want(seed as usize % 2, 1 << 40);
            world.run(Duration::from_secs(2));
            world.want(1 - seed as usize % 2, 1 << 40);
            world.run(Duration::from_secs(3));
            let before = [world.flows[0].acked, world.flows[1].acked];
            world.run(Duration::from_secs(20));
            let ours = world.flows[0].acked - before[0];
            let theirs = world.flows[1].acked - before[1];
            let of_line = |bytes| share(bytes, 20 * 12_500_000);
            let (ours, theirs) = (of_line(ours), of_line(theirs));
            let at_least = if queue_tenths < 10 { 0.15 } else { 0.3 };
            let of = format!("{theirs:.2} and {ours:.2} with {queue_tenths}/10 BDP, seed {seed}");
            assert!(theirs > at_least && ours > 0.15 && ours + theirs > 0.9, "{of}");
        }
    }
}

#[test]
fn quiet_times_are_not_taken_for_the_rate_of_the_path() {
    let mut world = World::new(home(10, 0), 1, 1);
    for _ in 0..40 {
        world.want(0, 200);
        world.run(Duration::from_secs(1));
        world.idle(Duration::from_secs(3));
    }
    world.want(0, 320 << 10);
    let took = world.run(Duration::from_secs(60));
    assert!(took < Duration::from_millis(250), "{took:?}");
    // And after a bulk that ended, not anew from nothing.
    world.want(0, 64 << 20);
    world.run(Duration::from_secs(60));
    for _ in 0..20 {
        world.want(0, 200);
        world.run(Duration::from_secs(1));
        world.idle(Duration::from_secs(3));
    }
    world.want(0, 1 << 20);
    let took = world.run(Duration::from_secs(60));
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_library_that_does_not_notice_quiet_times_does_no_harm() {
    let mut world = World::new(home(10, 0), 1, 1);
    world.untold = true;
    // Several of them are lost, and wait for others in the queue besides.
    let requests = |world: &mut World| {
        let home = world.line;
        world.line.loss_ppm = 200_000;
        for turn in 0..40 {
            world.line.round_trip = home.round_trip * (1 + turn % 2);
            world.want(0, 200);
            world.run(Duration::from_secs(1));
            world.idle(Duration::from_millis(25));
        }
        world.line = home;
    };
    requests(&mut world);
    world.want(0, 320 << 10);
    let took = world.run(Duration::from_secs(60));
    assert!(took < Duration::from_millis(250), "{took:?}");
    world.want(0, 64 << 20);
    world.run(Duration::from_secs(60));
    requests(&mut world);
    world.want(0, 1 << 20);
    let took = world.run(Duration::from_secs(60));
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_line_that_changes_is_followed() {
    let mut world = World::new(home(10, 0), 1, 1);
    world.want(0, 1 << 40);
    world.run(Duration::from_secs(5));
    world.line.bytes_per_s /= 10;
    world.run(Duration::from_secs(5));
    let before = world.flows[0].acked;
    world.run(Duration::from_secs(5));
    let slow = share(world.flows[0].acked - before, 5 * world.line.bytes_per_s);
    assert!(slow > 0.85, "{slow:.2} of the slower line");
    world.line.bytes_per_s *= 10;
    world.run(Duration::from_secs(5));
    let before = world.flows[0].acked;
    world.run(Duration::from_secs(5));
    let fast = share(world.flows[0].acked - before, 5 * world.line.bytes_per_s);
    assert!(fast > 0.85, "{fast:.2} of the faster line");
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    let begun = Instant::now();
    let mut model = Bbr::new(begun, MSS, 32 * MSS);
    for ns in 0..100_000 {
        model.sent(begun + Duration::from_nanos(ns), MSS);
    }
    assert!(model.remembered() <= 16_384);
    // An acknowledgement of something forgotten is no trouble.
    model.acked(begun + Duration::from_secs(1), begun, MSS);
    model.acks_end(begun + Duration::from_secs(1), 0, false);
    assert!(model.window() >= 4 * MSS);
}
