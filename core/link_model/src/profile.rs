//! What a link is like: settings of both directions, their bounds, and presets.

use crate::clock::Span;

/// The slowest rate, in bits/s.
pub const BITS_PER_S_MIN: u64 = 1_000;
/// The fastest rate, in bits/s.
pub const BITS_PER_S_MAX: u64 = 100_000_000_000;
/// The longest delay and the longest jitter: ten seconds.
pub const SPAN_MAX: Span = Span(10_000_000_000);
/// The smallest queue, in bytes: one packet of the usual size.
pub const QUEUE_BYTES_MIN: u64 = 1_500;
/// The largest queue, in bytes.
pub const QUEUE_BYTES_MAX: u64 = 1 << 28;
const LOSS_PPM_MAX: u32 = 1_000_000;

/// Whether a packet may overtake another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Packets arrive in the order in which they were sent.
    #[default]
    Kept,
    /// Jitter may bring a later packet first.
    MayOvertake,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Bits that leave in a second.
    pub bits_per_s: u64,
    /// From the last bit's leaving to its arrival, at least.
    pub delay: Span,
    /// What may come on top of the delay, uniformly drawn for each packet.
    pub jitter: Span,
    /// Packets that the line loses, in parts per million.
    pub loss_ppm: u32,
    /// Bytes that may wait, the packet being sent included; what does not fit is dropped.
    pub queue_bytes: u64,
    /// Whether jitter may change the order.
    pub order: Order,
}

/// Both directions of a home's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// From the home.
    pub up: Direction,
    /// To the home.
    pub down: Direction,
}

/// A setting outside its bounds. The fault of who wrote it: name a value inside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Too slow or too fast.
    #[error("expected a rate of {BITS_PER_S_MIN} to {BITS_PER_S_MAX} bits/s, found {found}")]
    Rate {
        /// In bits/s.
        found: u64,
    },
    /// Too long a delay.
    #[error("expected a delay of at most {max} ns, found {found}", max = SPAN_MAX.0)]
    Delay {
        /// In nanoseconds.
        found: u64,
    },
    /// Too long a jitter.
    #[error("expected a jitter of at most {max} ns, found {found}", max = SPAN_MAX.0)]
    Jitter {
        /// In nanoseconds.
        found: u64,
    },
    /// More than everything lost.
    #[error("expected a loss of at most {LOSS_PPM_MAX} parts per million, found {found}")]
    Loss {
        /// In parts per million.
        found: u32,
    },
    /// Too small or too large a queue.
    #[error("expected a queue of {QUEUE_BYTES_MIN} to {QUEUE_BYTES_MAX} bytes, found {found}")]
    Queue {
        /// In bytes.
        found: u64,
    },
}

impl Direction {
    /// Whether every setting lies within its bounds.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<(), ProfileError> {
        if !(BITS_PER_S_MIN..=BITS_PER_S_MAX).contains(&self.bits_per_s) {
            return Err(ProfileError::Rate { found: self.bits_per_s });
        }
        if self.delay > SPAN_MAX {
            return Err(ProfileError::Delay { found: self.delay.0 });
        }
        if self.jitter > SPAN_MAX {
            return Err(ProfileError::Jitter { found: self.jitter.0 });
        }
        if self.loss_ppm > LOSS_PPM_MAX {
            return Err(ProfileError::Loss { found: self.loss_ppm });
        }
        if !(QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX).contains(&self.queue_bytes) {
            return Err(ProfileError::Queue { found: self.queue_bytes });
        }
        Ok(())
    }

    /// Bytes that this rate sends in `span`, rounded up.
    #[must_use]
    pub fn bytes_in(&self, span: Span) -> u64 {
        let bits = u128::from(self.bits_per_s) * u128::from(span.0);
        u64::try_from(bits.div_ceil(8_000_000_000)).unwrap_or(u64::MAX)
    }
}

impl Profile {
    /// Whether both directions lie within their bounds.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.up.check()?;
        self.down.check()
    }

    /// A packet's way there and another's back, with nothing waiting: both delays.
    #[must_use]
    pub const fn round_trip(&self) -> Span {
        Span(self.up.delay.0.saturating_add(self.down.delay.0))
    }

    /// The same link with each queue `thousandths` thousandths of its bandwidth-delay product (rate
    /// times round trip), within the bounds of a queue.
    #[must_use]
    pub fn with_queues_of_bdp(mut self, thousandths: u64) -> Self {
        let round_trip = self.round_trip();
        for direction in [&mut self.up, &mut self.down] {
            let bytes = u128::from(direction.bytes_in(round_trip)) * u128::from(thousandths) / 1000;
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            direction.queue_bytes = bytes.clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX);
        }
        self
    }
}

/// A link under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name, as the command line takes it.
    pub name: &'static str,
    /// Where its numbers come from.
    pub source: &'static str,
    /// The link.
    pub profile: Profile,
}

/// The links that have a name. Rates follow what such lines are sold or standardised as; delays,
/// jitter, loss and queues are chosen, not measured: replace them where a measurement is at hand.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "fibre-100",
        source: "rates: a common plan of 100 Mbit/s down, 30 up; the rest is chosen",
        profile: Profile {
            up: line(30, 15_000, 500, 0, 100),
            down: line(100, 15_000, 500, 0, 100),
        },
    },
    Preset {
        name: "fibre-1000",
        source: "rates: a symmetric 1 Gbit/s plan over GPON (ITU-T G.984); the rest is chosen",
        profile: Profile {
            up: line(1000, 15_000, 200, 0, 30),
            down: line(1000, 15_000, 200, 0, 30),
        },
    },
    Preset {
        name: "cable",
        source: "rates: a common DOCSIS 3.0 plan of 200 Mbit/s down, 20 up; the rest is chosen, with \
            the long uplink queue that RFC 8034 was written against",
        profile: Profile {
            up: line(20, 15_000, 4_000, 100, 250),
            down: line(200, 15_000, 2_000, 100, 100),
        },
    },
    Preset {
        name: "adsl",
        source: "rates: two thirds of the most that ADSL2+ allows (ITU-T G.992.5: 24 Mbit/s down) and \
            1 Mbit/s up; the rest is chosen, with the delay of interleaving",
        profile: Profile {
            up: line(1, 25_000, 2_000, 500, 500),
            down: line(16, 25_000, 2_000, 500, 200),
        },
    },
    Preset {
        name: "mobile",
        source: "rates: a middling LTE cell, 40 Mbit/s down, 10 up; the rest is chosen, with the \
            jitter of radio scheduling and a deep queue",
        profile: Profile {
            up: line(10, 25_000, 15_000, 1_000, 400),
            down: line(40, 25_000, 10_000, 1_000, 400),
        },
    },
];

/// The preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// A direction in the units that a table of presets is read in; the queue as what it takes to drain.
const fn line(
    mbit_per_s: u64,
    delay_us: u64,
    jitter_us: u64,
    loss_ppm: u32,
    queue_ms: u64,
) -> Direction {
    Direction {
        bits_per_s: mbit_per_s * 1_000_000,
        delay: Span::from_us(delay_us),
        jitter: Span::from_us(jitter_us),
        loss_ppm,
        queue_bytes: mbit_per_s * 125 * queue_ms,
        order: Order::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_lies_within_the_bounds_and_has_a_name_of_its_own() {
        for (index, preset) in PRESETS.iter().enumerate() {
            assert_eq!(preset.profile.check(), Ok(()), "{}", preset.name);
            assert!(PRESETS[..index].iter().all(|other| other.name != preset.name));
            assert!(preset.source.contains("chosen"), "{} says what was chosen", preset.name);
        }
        assert_eq!(preset("adsl").unwrap().profile.up.bits_per_s, 1_000_000);
        assert_eq!(preset("pigeon"), None);
    }

    #[test]
    fn a_queue_of_one_bdp_is_rate_times_round_trip() {
        let profile = preset("fibre-1000").unwrap().profile.with_queues_of_bdp(1000);
        assert_eq!(profile.up.queue_bytes, 3_750_000);
        let asymmetric = preset("fibre-100").unwrap().profile.with_queues_of_bdp(500);
        assert_eq!(asymmetric.up.queue_bytes, 56_250);
        assert_eq!(asymmetric.down.queue_bytes, 187_500);
    }

    #[test]
    fn a_setting_outside_its_bounds_is_named() {
        let good = PRESETS[0].profile.up;
        let span = Span(SPAN_MAX.0 + 1);
        for (bad, expected) in [
            (Direction { bits_per_s: 0, ..good }, ProfileError::Rate { found: 0 }),
            (Direction { delay: span, ..good }, ProfileError::Delay { found: span.0 }),
            (Direction { jitter: span, ..good }, ProfileError::Jitter { found: span.0 }),
            (Direction { loss_ppm: 1_000_001, ..good }, ProfileError::Loss { found: 1_000_001 }),
            (Direction { queue_bytes: 9, ..good }, ProfileError::Queue { found: 9 }),
        ] {
            assert_eq!(bad.check(), Err(expected));
            assert_eq!(Profile { up: good, down: bad }.check(), Err(expected));
        }
    }
}
