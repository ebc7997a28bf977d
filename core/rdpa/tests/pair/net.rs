//! A network under virtual time that loses, duplicates, reorders and delays frames by seed.

use std::collections::BTreeMap;
use suanli_base::{Duration, Random, Time};
use suanli_rdpa::{Decoder, Frame};

/// How hostile the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Frames lost, in a thousand.
    pub(crate) loss: u32,
    /// Frames that come twice, in a thousand.
    pub(crate) duplication: u32,
    /// Delay of a frame: from `delay.0` to `delay.1` milliseconds; frames overtake each other.
    pub(crate) delay: (u64, u64),
}

/// Frames on their way, each to the side with this index.
pub(crate) struct Network {
    weather: Weather,
    random: Random,
    flying: BTreeMap<(Time, u64), (usize, Vec<u8>)>,
    count: u64,
    pub(crate) lost: u64,
    /// While set nothing arrives.
    pub(crate) cut: bool,
    /// Bytes a second towards each side; 0 for no limit. Microseconds at which each way is free.
    pub(crate) bytes_per_s: u64,
    free_us: [u64; 2],
}

impl Network {
    pub(crate) fn new(weather: Weather, random: Random) -> Self {
        Self {
            weather,
            random,
            flying: BTreeMap::new(),
            count: 0,
            lost: 0,
            cut: false,
            bytes_per_s: 0,
            free_us: [0; 2],
        }
    }

    pub(crate) fn send(&mut self, now: Time, to: usize, frame: &Frame) {
        let copies = 1 + usize::from(self.random.chance(self.weather.duplication));
        for _ in 0..copies {
            if self.cut || self.random.chance(self.weather.loss) {
                self.lost += 1;
                continue;
            }
            let (low, high) = self.weather.delay;
            let delay = low + self.random.below(high - low + 1);
            self.count += 1;
            let sent = self.sent_at(now, to, frame.wire_len() as u64);
            let key = (sent.after(Duration(delay)), self.count);
            self.flying.insert(key, (to, frame.to_bytes().to_vec()));
        }
    }

    /// When the last byte has left, one frame behind the other.
    fn sent_at(&mut self, now: Time, to: usize, bytes: u64) -> Time {
        if self.bytes_per_s == 0 {
            return now;
        }
        let begun = self.free_us[to].max(now.0 * 1000);
        self.free_us[to] = begun + bytes * 1_000_000 / self.bytes_per_s;
        Time(self.free_us[to].div_ceil(1000))
    }

    pub(crate) fn next_at(&self) -> Option<Time> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// The frame that arrives at `now`, if one does. It went over the wire as bytes.
    pub(crate) fn arrive(&mut self, now: Time) -> Option<(usize, Frame)> {
        let key = *self.flying.first_key_value().filter(|((at, _), _)| *at <= now)?.0;
        let (to, bytes) = self.flying.remove(&key).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        Some((to, decoder.next_frame().unwrap().unwrap()))
    }
}
