//! A model of the path, and the rate and window that follow from it: BBR after its first draft
//! (Cardwell et al. 2016, "BBR: congestion-based congestion control"; delivery rates as in
//! draft-ietf-ccwg-bbr, section 4.1), with a rule of our own for losses.
//!
//! The sender paces at the largest delivery rate of the last rounds, and keeps about twice what the
//! path holds at that rate on its way. Single lost packets, which a home's radio or line has without
//! any queue being full, change neither. **Loss is taken for a full queue only when the delay says that
//! there is a queue**: when in one round something was lost *and* every packet took a quarter longer
//! than the shortest on this path. Then the window gives way, and grows back while nothing of the kind
//! happens; others on the line keep their share.
//!
//! Not for: retransmission, acknowledgements, the pacer (the QUIC library has them).
//!
//! Invariants: pure, given times; memory is bounded ([`HISTORY_MAX`]); the window is never below four
//! packets; a rate that was measured while there was nothing to send never lowers the estimate, nor
//! ends the start-up, and what such a trickle loses means nothing. The library's word for it is not
//! enough: where never much was on its way, there was not much to send.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// 4 ln 2: lets the rate double each round (draft-ietf-ccwg-bbr, BBRStartupPacingGain).
const STARTUP_GAIN: f64 = 2.773;
const DRAIN_GAIN: f64 = 0.5;
/// So much less than the path was seen to carry: a rate that is a little too high never drains.
const MARGIN: f64 = 0.99;
/// Asking for more, and giving the queue back, last so many round trips at most.
const PART_ROUNDS_MAX: u32 = 3;
/// One round of asking for more, one of giving the queue back, six of cruising.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const WINDOW_GAIN: f64 = 2.0;
const WINDOW_PACKETS_MIN: u64 = 4;
/// The rate is the largest of so many rounds.
const BANDWIDTH_ROUNDS: u64 = 10;
/// The path is full when so many rounds have not made it faster by a quarter.
const FULL_ROUNDS: u32 = 3;
const FULL_GROWTH: f64 = 1.25;
/// A start-up that loses so much of a round is over.
const STARTUP_LOSS: f64 = 0.15;
/// The shortest round trip is asked for anew after this.
const RTT_LASTS: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// What a full queue looks like: so much of a round lost, and every packet so much later.
const QUEUE_LOSS: f64 = 0.002;
const QUEUE_DELAY: f64 = 1.25;
/// A queue that stands for so many rounds is not ours: each cycle gives ours back.
const OTHERS_ROUNDS: u32 = 12;
/// What the rate gives way by then, at most once in a cycle.
const GIVE_WAY: f64 = 0.7;
/// Packets a round trip that it grows by in the first cycle without: a sum and no factor, so that those
/// who have less catch up. Twice as many in each further one, up to a quarter of the rate.
const GROW_PACKETS: u64 = 8;
const GROW_DOUBLINGS: u32 = 8;
const GROW_MOST: f64 = 0.25;
/// Sendings remembered; those that are older are taken for the oldest.
const HISTORY_MAX: usize = 16_384;
/// One burst is what goes in this time.
const QUANTUM: Duration = Duration::from_millis(1);
const QUANTUM_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Startup,
    Drain,
    /// Which part of the cycle, and since when.
    Cruise {
        part: usize,
        since: Instant,
    },
    /// Until when the window is kept small; then it is what it was.
    ProbeRtt {
        until: Option<Instant>,
        window: u64,
    },
}

/// What was known when packets were sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    limited: bool,
}

/// The largest rate of each of the last rounds.
#[derive(Clone, Debug, Default)]
struct Largest(VecDeque<(u64, f64)>);

impl Largest {
    fn put(&mut self, round: u64, value: f64) {
        while self.0.back().is_some_and(|(_, known)| *known <= value) {
            self.0.pop_back();
        }
        self.0.push_back((round, value));
        self.expire(round);
    }

    fn expire(&mut self, round: u64) {
        while self.0.len() > 1
            && self.0.front().is_some_and(|(at, _)| at + BANDWIDTH_ROUNDS < round)
        {
            self.0.pop_front();
        }
    }

    fn get(&self) -> f64 {
        self.0.front().map_or(0.0, |(_, value)| *value)
    }
}

/// The model, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    mss: u64,
    initial_window: u64,
    phase: Phase,
    window: u64,
    pacing_gain: f64,

    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    history: VecDeque<Sent>,
    in_flight: u64,
    /// The most on its way in this round, and in the one before.
    peak: [u64; 2],
    /// Delivered bytes at which a pause of the application is behind us.
    limited_until: u64,
    /// When the newest of the packets was sent that this batch acknowledges.
    newest: Option<Instant>,
    acked_now: u64,
    rtt_now: Option<Duration>,

    bandwidth: Largest,
    round: u64,
    round_ends: u64,
    full_rate: f64,
    full_rounds: u32,
    full: bool,

    rtt_min: Option<Duration>,
    rtt_min_at: Instant,
    /// The shortest of this round.
    rtt_round: Option<Duration>,
    lost_in_round: u64,
    delivered_in_round: u64,
    /// Bytes a second that are left to us, after a full queue.
    left: Option<f64>,
    /// Cycles since then without another.
    clean: u32,
    /// Whether a queue was full since the cycle began.
    queued: bool,
    /// Rounds in a row in which every packet was late, and the shortest round trip of the last.
    late_rounds: u32,
    late_rtt: Duration,

    /// Acknowledgements that come in lumps: how much more than the rate explains.
    lump: Largest,
    lump_since: Instant,
    lump_bytes: u64,
}

impl Bbr {
    pub(super) fn new(now: Instant, mss: u64, initial_window: u64) -> Self {
        Self {
            mss,
            initial_window,
            phase: Phase::Startup,
            window: initial_window,
            pacing_gain: STARTUP_GAIN,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            history: VecDeque::new(),
            in_flight: 0,
            peak: [0; 2],
            limited_until: 0,
            newest: None,
            acked_now: 0,
            rtt_now: None,
            bandwidth: Largest::default(),
            round: 0,
            round_ends: 0,
            full_rate: 0.0,
            full_rounds: 0,
            full: false,
            rtt_min: None,
            rtt_min_at: now,
            rtt_round: None,
            lost_in_round: 0,
            delivered_in_round: 0,
            left: None,
            clean: 0,
            queued: false,
            late_rounds: 0,
            late_rtt: Duration::ZERO,
            lump: Largest::default(),
            lump_since: now,
            lump_bytes: 0,
        }
    }

    pub(super) const fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
    }

    pub(super) const fn initial_window(&self) -> u64 {
        self.initial_window
    }

    /// Bytes that may be on their way.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Bytes a second; nothing before anything is known of the path, nor on one so short that a pacer
    /// would wait longer than the path takes: there the window alone says when.
    pub(super) fn pacing_rate(&self) -> Option<u64> {
        self.pace().filter(|_| self.rtt_min.is_some_and(|rtt| rtt >= QUANTUM))
    }

    fn pace(&self) -> Option<u64> {
        let rtt = self.rtt_min?.as_secs_f64().max(1e-6);
        let rate = match self.target_rate() {
            0.0 => as_f64(self.initial_window) / rtt,
            rate => rate,
        };
        // During the start-up never less than what the first window makes of the path.
        let floor = if self.full { 0.0 } else { as_f64(self.initial_window) / rtt };
        Some(as_u64((rate.max(floor) * self.pacing_gain * MARGIN).max(1.0)))
    }

    /// Bytes of one burst.
    pub(super) fn quantum(&self) -> u64 {
        let bytes = self.pace().map_or(0, |rate| as_u64(as_f64(rate) * QUANTUM.as_secs_f64()));
        bytes.clamp(2 * self.mss, QUANTUM_BYTES_MAX.max(2 * self.mss))
    }

    /// Bytes a second that the path was seen to carry.
    pub(super) fn rate(&self) -> f64 {
        self.bandwidth.get()
    }

    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        self.in_flight += bytes;
        self.peak[0] = self.peak[0].max(self.in_flight);
        // One record serves all that went at the same moment.
        if self.history.back().is_some_and(|last| last.at >= now) {
            return;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Sent {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            limited: self.limited_until > self.delivered,
        });
    }

    pub(super) fn acked(&mut self, now: Instant, sent_at: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_in_round += bytes;
        self.delivered_at = now;
        self.acked_now += bytes;
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if self.newest.is_none_or(|newest| newest <= sent_at) {
            self.newest = Some(sent_at);
        }
    }

    pub(super) const fn lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.lost_in_round += bytes;
    }

    /// Nothing has come through for long: only a trickle until something does.
    pub(super) fn collapse(&mut self) {
        self.window = WINDOW_PACKETS_MIN * self.mss;
    }

    /// A batch of acknowledgements is complete.
    pub(super) fn acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.in_flight = in_flight;
        let trickle = self.was_trickle();
        let new_round = self.take_sample(now, trickle);
        if app_limited {
            self.limited_until = self.delivered + in_flight.max(1);
        }
        self.take_rtt(now);
        if new_round {
            self.end_round(trickle);
        }
        self.advance(now, new_round);
        self.set_window();
        self.acked_now = 0;
        self.forget(now);
    }

    /// Measures the delivery rate; returns whether a round is over.
    fn take_sample(&mut self, now: Instant, trickle: bool) -> bool {
        let Some(sent_at) = self.newest.take() else { return false };
        let after = self.history.partition_point(|sent| sent.at <= sent_at);
        let Some(sent) = self.history.get(after.saturating_sub(1)).copied() else { return false };
        self.first_sent_at = sent_at;
        self.rtt_now = Some(now.saturating_duration_since(sent_at));
        let new_round = sent.delivered >= self.round_ends;
        if new_round {
            self.round += 1;
            self.round_ends = self.delivered;
        }
        let sending = sent.at.saturating_duration_since(sent.first_sent_at);
        let acking = now.saturating_duration_since(sent.delivered_at);
        let interval = sending.max(acking);
        let shortest = self.rtt_min.unwrap_or_default();
        // Compressed acknowledgements would make any rate.
        if !interval.is_zero() && interval >= shortest {
            let rate = as_f64(self.delivered - sent.delivered) / interval.as_secs_f64();
            let limited = sent.limited || trickle;
            if !limited || rate >= self.bandwidth.get() {
                self.bandwidth.put(self.round, rate);
            }
            if new_round && !limited {
                self.bandwidth.expire(self.round);
                self.look_for_the_end_of_growth();
            }
        }
        self.take_lump(now);
        new_round
    }

    /// Whether so little was on its way that it says nothing of the path: who has enough to send has
    /// the first window on its way in the start-up, and later what the path holds.
    fn was_trickle(&self) -> bool {
        let enough = if self.full { self.path_holds() } else { as_f64(self.initial_window) };
        as_f64(self.peak[0].max(self.peak[1])) < enough / 2.0
    }

    fn look_for_the_end_of_growth(&mut self) {
        if self.full {
            return;
        }
        let rate = self.bandwidth.get();
        if rate >= self.full_rate * FULL_GROWTH {
            (self.full_rate, self.full_rounds) = (rate, 0);
            return;
        }
        self.full_rounds += 1;
        self.full = self.full_rounds >= FULL_ROUNDS;
    }

    /// How much more is acknowledged at once than the rate explains.
    fn take_lump(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.lump_since).as_secs_f64();
        let expected = as_u64(self.bandwidth.get() * elapsed);
        if self.lump_bytes <= expected {
            (self.lump_since, self.lump_bytes) = (now, 0);
        }
        self.lump_bytes += self.acked_now;
        let expected = if self.lump_since == now { 0 } else { expected };
        let extra = self.lump_bytes.saturating_sub(expected).min(self.window);
        self.lump.put(self.round, as_f64(extra));
    }

    fn take_rtt(&mut self, now: Instant) {
        let Some(rtt) = self.rtt_now.take() else { return };
        let rtt = rtt.max(Duration::from_micros(1));
        self.rtt_round = Some(self.rtt_round.map_or(rtt, |known| known.min(rtt)));
        let expired = now.saturating_duration_since(self.rtt_min_at) > RTT_LASTS;
        // With so little on its way there is no queue of ours to be emptied first.
        let bare = expired && self.in_flight <= self.probe_window();
        if bare || self.rtt_min.is_none_or(|known| rtt <= known) {
            self.rtt_min = Some(rtt);
            self.rtt_min_at = now;
        } else if expired && self.full && !matches!(self.phase, Phase::ProbeRtt { .. }) {
            self.phase = Phase::ProbeRtt { until: None, window: self.window };
            self.pacing_gain = 1.0;
            // What is measured from now on counts, be it longer than what was.
            self.rtt_min = Some(rtt);
            self.rtt_min_at = now;
        }
    }

    /// What the losses of a round mean. Those of a trickle mean nothing: one packet is all of it.
    fn end_round(&mut self, trickle: bool) {
        let (lost, delivered) = (as_f64(self.lost_in_round), as_f64(self.delivered_in_round));
        let share = if trickle { 0.0 } else { lost / (lost + delivered).max(1.0) };
        if !self.full && share > STARTUP_LOSS {
            self.full = true;
        }
        let late = match (self.rtt_round, self.rtt_min) {
            (Some(round), Some(min)) => round.as_secs_f64() > min.as_secs_f64() * QUEUE_DELAY,
            _ => false,
        };
        self.late_rounds = if late { self.late_rounds + 1 } else { 0 };
        self.late_rtt = self.rtt_round.unwrap_or_default();
        let cruising = matches!(self.phase, Phase::Cruise { .. });
        if cruising && share > QUEUE_LOSS && late && !self.queued {
            self.left = Some(self.target_rate() * GIVE_WAY);
            self.queued = true;
            self.clean = 0;
        }
        self.lost_in_round = 0;
        self.delivered_in_round = 0;
        self.rtt_round = None;
        self.peak = [self.in_flight, self.peak[0]];
    }

    /// What we send at: what the path carries, or what of it is left to us.
    fn target_rate(&self) -> f64 {
        self.left.map_or(self.bandwidth.get(), |left| left.min(self.bandwidth.get()))
    }

    fn path_holds(&self) -> f64 {
        self.target_rate() * self.rtt_min.unwrap_or_default().as_secs_f64()
    }

    fn advance(&mut self, now: Instant, new_round: bool) {
        let in_flight = as_f64(self.in_flight);
        match self.phase {
            Phase::Startup => {
                if self.full {
                    self.phase = Phase::Drain;
                    self.pacing_gain = DRAIN_GAIN;
                }
            }
            Phase::Drain => {
                if in_flight <= self.path_holds() {
                    // What the start-up has lost says nothing of others.
                    self.lost_in_round = 0;
                    self.rtt_round = None;
                    self.queued = true;
                    self.cruise(now, 2);
                }
            }
            Phase::Cruise { part, since } => {
                let rtt = self.rtt_min.unwrap_or_default();
                let lasts = now.saturating_duration_since(since);
                let (over, long) = (lasts > rtt, lasts > rtt * PART_ROUNDS_MAX);
                let next = match part {
                    // Until the path is asked for that much more, or says no.
                    0 => {
                        let idle = self.limited_until > self.delivered;
                        let asked = in_flight >= CYCLE[0] * self.path_holds();
                        long || over && (asked || idle || self.lost_in_round > 0)
                    }
                    // Until the queue that this made is gone; what comes in lumps may look like one.
                    1 => {
                        let left = in_flight - self.path_holds();
                        long || left <= 0.0 || over && left <= self.lump.get()
                    }
                    _ => over,
                };
                if next {
                    self.cruise(now, (part + 1) % CYCLE.len());
                }
            }
            Phase::ProbeRtt { until: None, window } => {
                if in_flight <= as_f64(self.probe_window()) {
                    self.phase = Phase::ProbeRtt { until: Some(now + PROBE_RTT), window };
                }
            }
            Phase::ProbeRtt { until: Some(until), window } => {
                if now >= until && new_round {
                    self.rtt_min_at = now;
                    self.window = self.window.max(window);
                    self.cruise(now, 2);
                }
            }
        }
    }

    fn cruise(&mut self, now: Instant, part: usize) {
        if part == 0 {
            if !self.queued {
                let rtt = self.rtt_min.unwrap_or_default().as_secs_f64().max(1e-6);
                let packets = GROW_PACKETS << self.clean.min(GROW_DOUBLINGS);
                let step = as_f64(packets * self.mss) / rtt;
                let grown = self.left.map(|left| left + step.min(left * GROW_MOST));
                self.left = grown.filter(|left| *left < FULL_GROWTH * self.bandwidth.get());
                self.clean += 1;
            }
            self.queued = false;
        }
        // Some cycles are shorter, by what nobody steers: two senders do not stay in step.
        let part = if part == 2 {
            part + usize::from(self.delivered / self.mss % 4 > 1) * 2
        } else {
            part
        };
        self.phase = Phase::Cruise { part, since: now };
        self.pacing_gain = CYCLE[part];
    }

    fn probe_window(&self) -> u64 {
        as_u64(self.path_holds() / 2.0).max(WINDOW_PACKETS_MIN * self.mss)
    }

    fn set_window(&mut self) {
        // A queue that outlasts our giving back is of others: what waits in it is on its way too, or
        // they would squeeze us out of a long one.
        let waits = if self.late_rounds > OTHERS_ROUNDS { self.late_rtt } else { Duration::ZERO };
        let holds = self.path_holds().max(self.target_rate() * waits.as_secs_f64());
        let lumps = self.lump.get() + as_f64(3 * self.quantum());
        let target = as_u64(WINDOW_GAIN * holds + lumps);
        let grown = self.window + self.acked_now;
        self.window = if self.full {
            grown.min(target)
        } else if self.window < target || self.delivered < self.initial_window {
            grown
        } else {
            self.window
        };
        self.window = self.window.max(WINDOW_PACKETS_MIN * self.mss);
        if matches!(self.phase, Phase::ProbeRtt { .. }) {
            self.window = self.window.min(self.probe_window());
        }
    }

    /// What was sent so long ago is acknowledged or lost.
    fn forget(&mut self, now: Instant) {
        let rtt = self.rtt_min.unwrap_or(Duration::from_secs(1));
        let old = (rtt * 8).max(Duration::from_secs(2));
        while self.history.len() > 1
            && self.history.front().is_some_and(|sent| now.saturating_duration_since(sent.at) > old)
        {
            self.history.pop_front();
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "bytes on their way are far below 2^52")]
const fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and a rate or window is never negative"
)]
const fn as_u64(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
impl Bbr {
    pub(super) fn remembered(&self) -> usize {
        self.history.len()
    }
}
