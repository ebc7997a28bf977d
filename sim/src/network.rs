//! Links between families and the city: what is sent may come late, twice, out of order or not at
//! all, and a link may end with one side, both or nobody noticing.

use std::collections::BTreeMap;
use suanli_base::Random;

/// What links are like in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// In order and complete until the link ends, as over TCP.
    Streams,
    /// Frames get lost, doubled and overtaken, in thousandths.
    Datagrams {
        /// Frames that never arrive.
        lost: u32,
        /// Frames that arrive twice.
        doubled: u32,
        /// Frames that are held up long enough to be overtaken.
        held_up: u32,
    },
}

/// One side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    City,
    Family,
}

/// A link as the network knows it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) family: usize,
    /// Which starts of the two nodes it connects.
    pub(crate) city_boot: u64,
    pub(crate) family_boot: u64,
    /// Whether that side still believes in it.
    pub(crate) city_up: bool,
    pub(crate) family_up: bool,
    /// Nothing arrives any more and nobody is told.
    silent: bool,
    delay: u64,
    /// When the newest frame to each side arrives, for streams.
    newest: [u64; 2],
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    random: Random,
    pub(crate) weather: Weather,
    links: BTreeMap<u64, Link>,
    next: u64,
}

impl Network {
    pub(crate) const fn new(random: Random, weather: Weather) -> Self {
        Self { random, weather, links: BTreeMap::new(), next: 1 }
    }

    /// A new link; its number is never used again.
    pub(crate) fn open(&mut self, family: usize, city_boot: u64, family_boot: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let link = Link {
            family,
            city_boot,
            family_boot,
            city_up: true,
            family_up: true,
            silent: false,
            delay: 1 + self.random.below(40),
            newest: [0, 0],
        };
        self.links.insert(id, link);
        id
    }

    pub(crate) fn link(&self, id: u64) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn link_mut(&mut self, id: u64) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    /// The links that some side believes in.
    pub(crate) fn links_of(&self, family: Option<usize>) -> Vec<u64> {
        let of = |link: &Link| family.is_none_or(|family| link.family == family);
        self.links.iter().filter(|(_, link)| of(link)).map(|(id, _)| *id).collect()
    }

    /// Forgets links that no side believes in.
    pub(crate) fn sweep(&mut self) {
        self.links.retain(|_, link| link.city_up || link.family_up);
    }

    /// From now on nothing gets through.
    pub(crate) fn silence(&mut self, id: u64) {
        if let Some(link) = self.links.get_mut(&id) {
            link.silent = true;
        }
    }

    /// When a frame sent now arrives: never, once or twice.
    pub(crate) fn arrivals(&mut self, now: u64, id: u64, to: Side) -> Vec<u64> {
        let random = &mut self.random;
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.silent) else {
            return vec![];
        };
        let at = now + link.delay + random.below(5);
        match self.weather {
            Weather::Streams => {
                let newest = &mut link.newest[usize::from(to == Side::City)];
                *newest = at.max(*newest);
                vec![*newest]
            }
            Weather::Datagrams { lost, doubled, held_up } => {
                if random.chance(lost) {
                    return vec![];
                }
                let held = if random.chance(held_up) { random.below(600) } else { 0 };
                let mut arrivals = vec![at + held];
                if random.chance(doubled) {
                    arrivals.push(at + random.below(1500));
                }
                arrivals
            }
        }
    }
}
