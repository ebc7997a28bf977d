//! The city's record: single entries.

use crate::Target;
use suanli_base::{CityId, Hash, JobId, LeaseId, NodeId, Round, Time};
use suanli_log::Entry;

pub(crate) const TARGETS: &[Target] =
    &[Target::new("log-entry", "an entry reads back as it was, or is refused", entries, entry)];

fn entries() -> Vec<Vec<u8>> {
    let all = [
        Entry::Founded { city: CityId([1; 32]), name: "a city".into(), time: Time(5) },
        Entry::Closing {
            job: JobId([2; 32]),
            round: Round(3),
            leases: vec![LeaseId(4), LeaseId(9)],
            time: Time(6),
        },
        Entry::Evaluated { job: JobId([2; 32]), round: Round(3), loss: 1.5, time: Time(7) },
    ];
    let mut bytes: Vec<Vec<u8>> = all.iter().map(Entry::to_bytes).collect();
    let node = Entry::Left { node: NodeId([4; 32]), time: Time(8) };
    bytes.push(node.to_bytes());
    bytes.push(Hash::ZERO.0.to_vec());
    bytes
}

fn entry(input: &[u8]) {
    if let Ok(entry) = Entry::from_bytes(input) {
        let again = entry.to_bytes();
        let second = Entry::from_bytes(&again).expect("our own bytes").to_bytes();
        assert_eq!(second, again);
    }
}
