//! What the sockets of members counted, kept across restarts in `traffic.json`.
//!
//! Written at every committed round and not synced: nothing is decided by it. A crash forgets the
//! bytes since the last round, so the steps they are held against are forgotten with them.
//!
//! Invariant: a book for each member in the log, and one for all others together: guests, whoever
//! came with a key and nothing else, and members while they only look on or measure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use suanli_base::{JobId, NodeId};
use suanli_bus::CityState;
use suanli_bus::state::Job;

const FILE: &str = "traffic.json";

/// Socket bytes of one member, as it sees them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Traffic {
    pub up: u64,
    pub down: u64,
    /// Of `down`: whole parameters.
    pub theta: u64,
    /// Of `down`: data.
    pub shards: u64,
}

/// The books of all members, open connections apart.
pub(super) struct Ledger {
    path: PathBuf,
    nodes: BTreeMap<NodeId, Traffic>,
    others: Traffic,
    /// Steps whose bytes are in the books, and those the state held when the books were opened.
    steps: BTreeMap<JobId, (u64, u64)>,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    nodes: BTreeMap<String, Traffic>,
    #[serde(default)]
    others: Traffic,
    steps: BTreeMap<String, u64>,
}

impl Ledger {
    /// Opens the books; unreadable ones begin anew, because nothing depends on them.
    pub(super) fn open(folder: &Path, state: &CityState) -> Self {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let file: File = serde_json::from_str(&text).unwrap_or_default();
        let nodes = file.nodes.iter().filter_map(|(node, t)| Some((node.parse().ok()?, *t)));
        let nodes = nodes.filter(|(node, _)| state.members.contains_key(node));
        let steps = state.jobs.iter().map(|(id, job)| {
            let saved = file.steps.get(&id.to_string()).copied().unwrap_or(0);
            (*id, (saved, steps_of(job)))
        });
        let (nodes, steps) = (nodes.collect(), steps.collect());
        Self { path, nodes, others: file.others, steps }
    }

    /// The book that a node's bytes go into.
    pub(super) fn of(&mut self, state: &CityState, node: NodeId) -> &mut Traffic {
        if state.members.contains_key(&node) {
            self.nodes.entry(node).or_default()
        } else {
            &mut self.others
        }
    }

    /// The book of all who do no work.
    pub(super) const fn others(&mut self) -> &mut Traffic {
        &mut self.others
    }

    pub(super) fn known(&self, node: NodeId) -> Traffic {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// Steps of a job whose bytes are counted.
    pub(super) fn counted_steps(&self, id: JobId, job: &Job) -> u64 {
        let (saved, at_open) = self.steps.get(&id).copied().unwrap_or_default();
        saved + steps_of(job).saturating_sub(at_open)
    }

    /// Writes the books with `nodes`, open connections included.
    pub(super) fn save(&self, nodes: &BTreeMap<NodeId, Traffic>, state: &CityState) {
        let steps = state.jobs.iter();
        let file = File {
            nodes: nodes.iter().map(|(node, traffic)| (node.to_string(), *traffic)).collect(),
            others: self.others,
            steps: steps.map(|(id, job)| (id.to_string(), self.counted_steps(*id, job))).collect(),
        };
        let part = self.path.with_extension("json.part");
        let text = serde_json::to_string(&file).unwrap_or_default();
        // Numbers for people: a full disk says so elsewhere.
        let _ = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &self.path));
    }
}

fn steps_of(job: &Job) -> u64 {
    job.contributed.values().map(|done| done.steps).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use suanli_base::{CityId, TicketId, Time};
    use suanli_identity::{Role, SecretKey};
    use suanli_log::Entry;

    #[test]
    fn strangers_have_one_book_together_and_a_member_one_of_its_own() {
        // Every key that ever finished a handshake had a book, kept in memory, written at every
        // round and shown among the members: a stranger grew them by a new key at a time.
        let node = |seed: u8| SecretKey::from_seed(&[seed; 32]).node();
        let (city, time) = (CityId::from(node(0)), Time(1));
        let mut state = CityState::new();
        state.apply(&Entry::Founded { city, name: "city".into(), time }).unwrap();
        let (ticket, name) = (TicketId([1; 32]), "member".to_owned());
        let joined = Entry::Joined { node: node(1), name, role: Role::Join, ticket, time };
        state.apply(&joined).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path(), &state);
        for seed in 1..=200 {
            ledger.of(&state, node(seed)).up += 10;
        }
        assert_eq!((ledger.nodes().count(), ledger.known(node(1)).up), (1, 10));
        assert_eq!((ledger.others.up, ledger.known(node(2)).up), (1990, 0));
        let books = |ledger: &Ledger| ledger.nodes().map(|n| (n, ledger.known(n))).collect();
        ledger.save(&books(&ledger), &state);
        let again = Ledger::open(folder.path(), &state);
        assert_eq!((again.known(node(1)).up, again.others.up), (10, 1990));
        // What an earlier version kept of strangers is forgotten.
        let mut all: BTreeMap<NodeId, Traffic> = books(&again);
        all.insert(node(2), Traffic::default());
        again.save(&all, &state);
        assert_eq!(Ledger::open(folder.path(), &state).nodes().count(), 1);
    }
}
