//! The books of versions against a model that recounts everything from sets after each step.

use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use suanli_rdpa::{ChunkRef, VersionLimits, Versions, VersionsError};

fn chunk_bytes(serial: u64) -> u32 {
    [0, 1, 5, 17][serial as usize % 4]
}

/// Every kept version with its chunks and pins, nothing else.
#[derive(Clone, Default)]
struct Model {
    kept: BTreeMap<u64, (BTreeSet<u64>, u32)>,
}

impl Model {
    fn newest(&self) -> Option<u64> {
        self.kept.keys().max().copied()
    }

    fn all_chunks(&self) -> BTreeSet<u64> {
        self.kept.values().flat_map(|(chunks, _)| chunks.iter().copied()).collect()
    }

    fn old_bytes(&self) -> u64 {
        let Some(newest) = self.newest() else { return 0 };
        let only_old: BTreeSet<u64> =
            self.all_chunks().difference(&self.kept[&newest].0).copied().collect();
        only_old.iter().map(|serial| u64::from(chunk_bytes(*serial))).sum()
    }

    /// Lets go what the limits do not allow; returns the versions in order.
    fn let_go(&mut self, limits: VersionLimits) -> Vec<u64> {
        let mut gone = Vec::new();
        let Some(newest) = self.newest() else { return gone };
        let among_newest: BTreeSet<u64> =
            self.kept.keys().rev().take(limits.keep_newest).copied().collect();
        let no_reader = |model: &Self, v: &u64| model.kept[v].1 == 0;
        let versions: Vec<u64> = self.kept.keys().copied().collect();
        for version in &versions {
            if no_reader(self, version) && !among_newest.contains(version) {
                self.kept.remove(version);
                gone.push(*version);
            }
        }
        let old = versions.iter().filter(|v| **v != newest);
        let (free, pinned): (Vec<u64>, Vec<u64>) =
            old.filter(|v| self.kept.contains_key(v)).partition(|v| no_reader(self, v));
        for version in free.into_iter().chain(pinned) {
            if self.old_bytes() > limits.pinned_bytes_max || self.kept.len() > limits.versions_max {
                self.kept.remove(&version);
                gone.push(version);
            }
        }
        gone
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Version so far above the newest, with these chunks.
    Publish(u64, Vec<u64>),
    Pin(u64),
    Unpin(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let publish = (0..3_u64, vec(0..24_u64, 0..6)).prop_map(|(by, list)| Step::Publish(by, list));
    // Versions counted back from the newest.
    let pin = (0..6_u64).prop_map(Step::Pin);
    let unpin = (0..8_u64).prop_map(Step::Unpin);
    vec(prop_oneof![3 => publish, 3 => pin, 2 => unpin], 0..60)
}

fn limits() -> impl Strategy<Value = VersionLimits> {
    (1..4_usize, 0..60_u64, 1..6_usize).prop_map(|(keep_newest, pinned_bytes_max, versions_max)| {
        VersionLimits { keep_newest, pinned_bytes_max, versions_max }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_books_say_what_sets_say(limits in limits(), steps in steps()) {
        let mut books = Versions::new(limits);
        let mut model = Model::default();
        for step in steps {
            let before = model.all_chunks();
            let newest = model.newest();
            let done = match &step {
                Step::Publish(by, serials) => {
                    let version = newest.unwrap_or(0) + by;
                    let list = serials.iter().map(|serial| {
                        ChunkRef { serial: *serial, bytes: chunk_bytes(*serial) }
                    });
                    let done = books.publish(version, list.collect());
                    let rises = newest.is_none_or(|newest| version > newest);
                    prop_assert_eq!(done.is_ok(), rises);
                    if rises {
                        model.kept.insert(version, (serials.iter().copied().collect(), 0));
                    }
                    done
                }
                Step::Pin(back) => {
                    let version = newest.unwrap_or(0).saturating_sub(*back);
                    let pinned = model.kept.get_mut(&version).map(|(_, pins)| *pins += 1);
                    let expected = pinned.ok_or(VersionsError::Gone { version });
                    prop_assert_eq!(books.pin(version), expected);
                    continue;
                }
                Step::Unpin(back) => {
                    let version = newest.unwrap_or(0).saturating_sub(*back);
                    let done = books.unpin(version);
                    let pins = model.kept.get_mut(&version).map(|(_, pins)| pins);
                    if pins.as_ref().is_some_and(|pins| **pins == 0) {
                        prop_assert_eq!(done, Err(VersionsError::NotPinned { version }));
                        continue;
                    }
                    if let Some(pins) = pins {
                        *pins -= 1;
                    }
                    done
                }
            };
            let Ok(dropped) = done else { continue };
            let mut pins = model.kept.clone();
            let gone = model.let_go(limits);
            let told: Vec<u64> = dropped.versions.iter().map(|gone| gone.version).collect();
            prop_assert_eq!(&told, &gone);
            for gone in &dropped.versions {
                prop_assert_eq!(pins.remove(&gone.version).map(|(_, pins)| pins), Some(gone.pins));
            }
            let mut ever = before;
            if let Step::Publish(_, serials) = &step {
                ever.extend(serials);
            }
            let freed: Vec<u64> = ever.difference(&model.all_chunks()).copied().collect();
            prop_assert_eq!(dropped.chunks, freed);
            prop_assert_eq!(books.old_bytes(), model.old_bytes());
            prop_assert_eq!(books.newest(), model.newest());
            prop_assert_eq!(books.oldest(), model.kept.keys().min().copied());
            prop_assert!(books.old_bytes() <= limits.pinned_bytes_max);
        }
    }
}
