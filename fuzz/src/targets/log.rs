//! The city's record: entries, framed records in a chain, snapshots.

use crate::Target;
use suanli_base::{CityId, Hash, JobId, LeaseId, NodeId, Round, Time};
use suanli_log::{Chain, Entry, Tail, read_snapshot, recover, snapshot};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("log-entry", "an entry reads back as it was, or is refused", entries, entry),
    Target::new(
        "log-records",
        "what recovery keeps is a clean log with the same records",
        logs,
        log,
    ),
    Target::new("log-snapshot", "a snapshot is exactly what was written", snapshots, read),
];

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
        Entry::Left { node: NodeId([4; 32]), time: Time(8) },
    ];
    all.iter().map(Entry::to_bytes).collect()
}

fn entry(input: &[u8]) {
    if let Ok(entry) = Entry::from_bytes(input) {
        let again = entry.to_bytes();
        let second = Entry::from_bytes(&again).expect("our own bytes").to_bytes();
        assert_eq!(second, again);
    }
}

fn start() -> Chain {
    Chain::genesis(Hash::of(b"a log of the fuzz targets"))
}

fn logs() -> Vec<Vec<u8>> {
    let mut chain = start();
    let mut bytes = Vec::new();
    let mut seeds = Vec::new();
    for (count, entry) in entries().iter().enumerate() {
        bytes.extend(chain.append(entry));
        if count % 2 == 1 {
            chain.synced();
            bytes.extend(chain.mark());
        }
        seeds.push(bytes.clone());
    }
    seeds
}

fn log(input: &[u8]) {
    let Ok(found) = recover(input, start()) else { return };
    assert!(found.valid_len <= input.len());
    let again = recover(&input[..found.valid_len], start()).expect("what recovery kept is a log");
    assert_eq!((again.tail, again.chain), (Tail::Clean, found.chain));
    assert_eq!(again.records, found.records);
    // What was kept is what the writer wrote: every body again gives every record's hash again.
    let mut chain = start();
    for record in &found.records {
        assert_eq!(record.seq, chain.next_seq());
        let _ = record.body.len();
        chain = Chain::at(record.seq + 1, record.hash);
    }
    assert_eq!(chain.head(), found.chain.head());
}

fn snapshots() -> Vec<Vec<u8>> {
    vec![snapshot(&start(), b""), snapshot(&Chain::at(7, Hash::of(b"x")), b"some state")]
}

fn read(input: &[u8]) {
    if let Ok(found) = read_snapshot(input) {
        assert_eq!(snapshot(&found.chain, found.state), input);
    }
}
