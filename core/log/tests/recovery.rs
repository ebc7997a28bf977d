//! Recovery against a naive model: what was durable comes back, what was not may be cut, and
//! damage to what was durable is an error and never a cut.

use proptest::collection::vec;
use proptest::prelude::*;
use suanli_base::Hash;
use suanli_log::{
    BODY_BYTES_MAX, Chain, HEADER_BYTES, LogError, Recovery, SnapshotError, Tail, read_snapshot,
    recover, recover_segment, snapshot,
};

fn genesis() -> Chain {
    Chain::genesis(Hash::of(b"a log of the tests"))
}

fn bodies(recovery: &Recovery<'_>) -> Vec<Vec<u8>> {
    recovery.records.iter().map(|record| record.body.to_vec()).collect()
}

/// What the writer did.
#[derive(Clone, Debug)]
enum Op {
    Append(Vec<u8>),
    Sync,
    SyncAndMark,
}

/// The writer's bytes, and where each record ends: (end, bodies durable when it was written).
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    bodies: Vec<Vec<u8>>,
    /// Offset of each record, its length, and whether it is a body.
    records: Vec<(usize, usize, bool)>,
    durable_bytes: usize,
    durable_bodies: usize,
}

fn write(ops: &[Op]) -> Written {
    let mut chain = genesis();
    let mut written = Written::default();
    let put = |written: &mut Written, record: Vec<u8>, body| {
        written.records.push((written.bytes.len(), record.len(), body));
        written.bytes.extend(record);
    };
    for op in ops {
        match op {
            Op::Append(body) => {
                put(&mut written, chain.append(body), true);
                written.bodies.push(body.clone());
            }
            Op::Sync | Op::SyncAndMark => {
                chain.synced();
                written.durable_bytes = written.bytes.len();
                written.durable_bodies = written.bodies.len();
                if matches!(op, Op::SyncAndMark) {
                    put(&mut written, chain.mark(), false);
                }
            }
        }
    }
    written
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => vec(any::<u8>(), 0..60).prop_map(Op::Append),
        1 => Just(Op::Sync),
        1 => Just(Op::SyncAndMark),
    ];
    vec(op, 0..14)
}

fn small() -> Written {
    let body = |text: &str| Op::Append(text.as_bytes().to_vec());
    write(&[body("founded"), Op::SyncAndMark, body(""), body("joined"), Op::SyncAndMark])
}

proptest! {
    #[test]
    fn what_was_written_comes_back_and_the_chain_goes_on(ops in ops(), more in vec(any::<u8>(), 0..9)) {
        let mut written = write(&ops);
        let recovery = recover(&written.bytes, genesis()).unwrap();
        prop_assert_eq!(bodies(&recovery), written.bodies.clone());
        prop_assert_eq!((recovery.tail, recovery.valid_len), (Tail::Clean, written.bytes.len()));
        let mut chain = recovery.chain;
        written.bytes.extend(chain.append(&more));
        written.bodies.push(more);
        prop_assert_eq!(bodies(&recover(&written.bytes, genesis()).unwrap()), written.bodies);
    }

    #[test]
    fn a_crash_loses_only_what_was_not_durable(
        ops in ops(),
        pages in vec(any::<bool>(), 64),
        page in 1_usize..80,
        end in any::<prop::sample::Index>(),
    ) {
        // Of the bytes after the last sync, any pages may be lost, and any end.
        let written = write(&ops);
        let mut bytes = written.bytes.clone();
        for at in written.durable_bytes..bytes.len() {
            if !pages[(at / page) % pages.len()] {
                bytes[at] = 0;
            }
        }
        let cut = written.durable_bytes + end.index(bytes.len() - written.durable_bytes + 1);
        bytes.truncate(cut);
        let recovery = recover(&bytes, genesis()).unwrap();
        let found = bodies(&recovery);
        prop_assert!(found.len() >= written.durable_bodies, "lost what was durable");
        prop_assert_eq!(&found[..], &written.bodies[..found.len()], "not a prefix");
        let kept = recover(&bytes[..recovery.valid_len], genesis()).unwrap();
        prop_assert_eq!((kept.tail, bodies(&kept)), (Tail::Clean, found));
    }

    #[test]
    fn damage_that_a_later_record_gives_away_is_never_cut(
        ops in ops(),
        at in any::<prop::sample::Index>(),
        change in 1_u8..=255,
    ) {
        let written = write(&ops);
        prop_assume!(!written.bytes.is_empty());
        let at = at.index(written.bytes.len());
        let mut bytes = written.bytes.clone();
        bytes[at] ^= change;
        // The naive judge: which body is hit, and does a record written after its sync follow?
        let hit = written.records.iter().position(|(start, len, _)| (*start..start + len).contains(&at));
        let hit = hit.unwrap();
        let before = written.records[..hit].iter().filter(|record| record.2).count();
        let mut counts = Vec::new();
        let mut chain_durable = 0;
        let (mut seen, mut index) = (0, 0);
        for op in &ops {
            match op {
                Op::Append(_) => { counts.push(chain_durable); seen += 1; index += 1; }
                Op::Sync => chain_durable = seen,
                Op::SyncAndMark => { chain_durable = seen; counts.push(chain_durable); index += 1; }
            }
        }
        prop_assert_eq!(index, written.records.len());
        let given_away = counts[hit + 1..].iter().any(|count| *count > before);
        match recover(&bytes, genesis()) {
            Err(LogError::Damaged { segment: 0, offset, seq, .. }) => {
                prop_assert!(given_away);
                prop_assert_eq!((offset, seq), (written.records[hit].0, before as u64));
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(recovery) => {
                prop_assert!(!given_away, "damage was cut");
                let at = written.records[hit].0;
                prop_assert_eq!(recovery.tail, Tail::Torn { at, bytes: bytes.len() - at });
                prop_assert_eq!(bodies(&recovery), &written.bodies[..before]);
            }
        }
    }

    #[test]
    fn noise_is_no_log_and_does_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        let recovery = recover(&bytes, genesis()).unwrap();
        prop_assert!(recovery.records.is_empty());
        prop_assert_eq!(recovery.chain, genesis());
    }

    #[test]
    fn a_snapshot_reads_back_and_any_change_is_seen(
        state in vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        change in 1_u8..=255,
    ) {
        let mut chain = genesis();
        let _ = chain.append(b"x");
        let bytes = snapshot(&chain, &state);
        let read = read_snapshot(&bytes).unwrap();
        prop_assert_eq!((read.chain.next_seq(), read.chain.head()), (1, chain.head()));
        prop_assert_eq!(read.state, &state[..]);
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= change;
        prop_assert!(read_snapshot(&changed).is_err());
        prop_assert!(read_snapshot(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn a_log_cut_at_any_byte_gives_the_records_before_it() {
    let written = small();
    for cut in 0..=written.bytes.len() {
        let recovery = recover(&written.bytes[..cut], genesis()).unwrap();
        let whole = written.records.iter().filter(|(start, len, _)| start + len <= cut);
        let end = whole.clone().map(|(start, len, _)| start + len).max().unwrap_or(0);
        assert_eq!(recovery.records.len(), whole.filter(|record| record.2).count());
        let torn = Tail::Torn { at: end, bytes: cut - end };
        assert_eq!(recovery.tail, if cut == end { Tail::Clean } else { torn }, "cut at {cut}");
    }
}

#[test]
fn a_flip_of_any_bit_is_seen() {
    let written = small();
    let last_mark = written.bytes.len() - HEADER_BYTES;
    for bit in 0..written.bytes.len() * 8 {
        let mut bytes = written.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match recover(&bytes, genesis()) {
            Err(LogError::Damaged { .. }) => assert!(bit / 8 < last_mark),
            // Nothing follows the last mark, and nothing is lost with it.
            Ok(Recovery { tail: Tail::Torn { at, .. }, records, .. }) => {
                assert_eq!((at, records.len()), (last_mark, 3), "bit {bit}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_record_of_another_log_or_place_is_refused_by_name() {
    let mut other = Chain::genesis(Hash::of(b"another log"));
    let foreign = other.append(b"founded");
    let found = recover(&foreign, genesis()).unwrap_err();
    assert!(matches!(found, LogError::Forked { segment: 0, offset: 0, seq: 0, .. }), "{found}");
    let later = other.append(b"more");
    let found = recover(&later, genesis()).unwrap_err();
    assert_eq!(found, LogError::Order { segment: 0, offset: 0, expected: 0, found: 1 });
    let found = recover_segment(7, &[], genesis()).unwrap_err();
    assert_eq!(found, LogError::Gap { expected: 0, found: 7 });
}

#[test]
fn a_whole_record_of_a_newer_version_stops_and_is_not_cut() {
    // Built by hand: version 2, kind 9, with a hash that fits, as the format promises for ever.
    let mut bytes = genesis().append(b"body");
    bytes[4] = 2;
    bytes[6] = 9;
    let hash = Hash::of_parts("suanli 2026 log record", &[&bytes[..64], b"body"]);
    bytes[64..96].copy_from_slice(hash.as_bytes());
    let found = recover(&bytes, genesis()).unwrap_err();
    assert_eq!(found, LogError::Unknown { segment: 0, offset: 0, version: 2, kind: 9 });
}

#[test]
fn a_length_that_promises_too_much_allocates_nothing() {
    let mut bytes = genesis().append(b"body");
    bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(recover(&bytes, genesis()).unwrap().tail, Tail::Torn { at: 0, .. }));
    let most = vec![1; BODY_BYTES_MAX];
    let bytes = genesis().append(&most);
    assert_eq!(recover(&bytes, genesis()).unwrap().records[0].body, most);
}

#[test]
#[should_panic(expected = "is no log entry")]
fn a_body_that_is_too_long_is_a_defect_of_ours() {
    let _ = genesis().append(&vec![0; BODY_BYTES_MAX + 1]);
}

#[test]
fn a_snapshot_of_another_kind_or_version_is_named() {
    assert_eq!(read_snapshot(b"hello"), Err(SnapshotError::NotOne { found: 5 }));
    let mut bytes = snapshot(&genesis(), b"state");
    bytes[4] = 9;
    assert_eq!(read_snapshot(&bytes), Err(SnapshotError::Version { found: 9 }));
}
