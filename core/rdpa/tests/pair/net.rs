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
}

impl Network {
    pub(crate) fn new(weather: Weather, random: Random) -> Self {
        Self { weather, random, flying: BTreeMap::new(), count: 0, lost: 0, cut: false }
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
            let key = (now.after(Duration(delay)), self.count);
            self.flying.insert(key, (to, frame.to_bytes().to_vec()));
        }
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
