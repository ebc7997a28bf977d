//! Crashes at every disk operation, on a disk that forgets what was not synced: every acknowledged
//! record and blob is there after every restart, and nothing that was never written.
//!
//! Deterministic by seed. A failure names its seed; with `SUANLI_SEED=N` each test runs that
//! seed alone.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use suanli_base::{Hash, Random};
use suanli_store::{
    BlobError, Blobs, Disk as _, Faults, FaultyDisk, LogFiles, LogFilesError, Mended, Restart,
};

const DIR: &str = "log";
const BLOBS: &str = "blobs";

fn name() -> Hash {
    Hash::of(b"the log of the crash tests")
}

/// What must be true of the log: acknowledged bodies, and those that a failed append left open.
#[derive(Default)]
struct Model {
    acknowledged: Vec<Vec<u8>>,
    /// A batch that got no answer, or the answer that nobody knows: any prefix may be there.
    open: Vec<Vec<u8>>,
}

impl Model {
    /// Takes what recovery found for the truth, if it may be.
    fn recovered(&mut self, found: Vec<Vec<u8>>) {
        let known = self.acknowledged.len();
        assert!(found.len() >= known, "{} acknowledged, {} found", known, found.len());
        assert_eq!(found[..known], self.acknowledged, "an acknowledged record changed");
        let more = &found[known..];
        assert!(more.len() <= self.open.len(), "records that nobody wrote");
        assert_eq!(more, &self.open[..more.len()], "a record that nobody wrote");
        self.acknowledged = found;
        self.open.clear();
    }
}

/// The state that snapshots hold: all bodies, each with its length.
fn state(bodies: &[Vec<u8>]) -> Vec<u8> {
    bodies.iter().flat_map(|body| [&[body.len() as u8], &body[..]].concat()).collect()
}

fn bodies(mut state: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some((len, rest)) = state.split_first() {
        let (body, rest) = rest.split_at(usize::from(*len));
        bodies.push(body.to_vec());
        state = rest;
    }
    bodies
}

fn draw_batch(random: &mut Random) -> Vec<Vec<u8>> {
    let body = |random: &mut Random| {
        let mut body = vec![0; random.below(120) as usize];
        random.fill(&mut body);
        body
    };
    (0..=random.below(3)).map(|_| body(random)).collect()
}

/// Opens the log, or makes it; `None` when the machine stopped meanwhile.
fn open(disk: &FaultyDisk, model: &mut Model) -> Option<LogFiles> {
    let opened = match LogFiles::open(Arc::new(disk.clone()), DIR, name()) {
        Err(LogFilesError::Disk(suanli_store::DiskError::Missing { .. })) => {
            assert!(model.acknowledged.is_empty(), "the log is gone");
            let made = LogFiles::create(Arc::new(disk.clone()), DIR, name());
            made.map(|log| (log, suanli_store::Recovered::default()))
        }
        opened => opened,
    };
    match opened {
        Ok((mut log, recovered)) => {
            let mut found = recovered.state.as_deref().map(bodies).unwrap_or_default();
            found.extend(recovered.bodies);
            model.recovered(found);
            log.set_segment_bytes(700);
            Some(log)
        }
        Err(LogFilesError::Disk(_) | LogFilesError::Unsynced(_)) => None,
        Err(error) => panic!("what a crash leaves must open: {error}"),
    }
}

/// Some appends and snapshots, until the machine stops or the work is done.
fn work(log: &mut LogFiles, model: &mut Model, random: &mut Random) {
    for _ in 0..1 + random.below(12) {
        if random.chance(200) {
            match log.snapshot(&state(&model.acknowledged)) {
                Ok(()) => {}
                Err(error) if error.must_stop() => return,
                Err(_) => {}
            }
            continue;
        }
        let batch = draw_batch(random);
        match log.append(&batch) {
            Ok(()) => model.acknowledged.extend(batch),
            Err(error) if error.must_stop() => {
                model.open = batch;
                let next = log.append(&[b"more"]).expect_err("poisoned");
                assert!(matches!(next, LogFilesError::Poisoned { .. }), "{next}");
                assert!(matches!(log.snapshot(b""), Err(LogFilesError::Poisoned { .. })));
                return;
            }
            // Refused and taken back: it must not be there after any crash.
            Err(LogFilesError::Disk(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A life of several processes on one disk.
fn life(seed: u64, mut faults: impl FnMut(u32, &mut Random) -> Faults) {
    let mut random = Random::new(seed);
    let disk = FaultyDisk::new(seed ^ 0xD15C);
    let mut model = Model::default();
    for process in 0..6 {
        disk.set(faults(process, &mut random));
        if let Some(mut log) = open(&disk, &mut model) {
            work(&mut log, &mut model, &mut random);
        }
        disk.restart(if random.chance(300) { Restart::Process } else { Restart::Power });
    }
    let log = open(&disk, &mut model).expect("no faults are set");
    assert_eq!(log.chain().next_seq(), model.acknowledged.len() as u64);
    let inspected = LogFiles::inspect(&disk, DIR, name()).expect("an opened log is whole");
    assert_eq!(inspected.chain.head(), log.chain().head());
    let first = inspected.first_seq as usize;
    assert_eq!(inspected.bodies, model.acknowledged[first..]);
}

fn crash_somewhere(random: &mut Random) -> Faults {
    Faults { crash_at: Some(1 + random.below(60)), ..Faults::default() }
}

/// Says which seed failed before the panic goes on. `SUANLI_SEED` replays one.
fn each_seed(seeds: core::ops::Range<u64>, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let asked = std::env::var("SUANLI_SEED").ok();
    let asked = asked.map(|seed| seed.parse::<u64>().expect("SUANLI_SEED is a number"));
    for seed in asked.map_or(seeds, |seed| seed..seed + 1) {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!(
                "seed {seed} failed: SUANLI_SEED={seed} cargo test -p suanli-store --test crash"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn acknowledged_records_survive_any_crash() {
    each_seed(0..3000, |seed| life(seed, |_, random| crash_somewhere(random)));
}

#[test]
fn acknowledged_records_survive_failing_syncs_and_a_full_disk() {
    each_seed(0..1500, |seed| {
        life(seed, |_, random| Faults {
            crash_at: random.chance(500).then(|| 1 + random.below(80)),
            failing_syncs_per_mille: 60,
            capacity: random.chance(500).then(|| random.below(9000)),
        });
    });
}

#[test]
fn acknowledged_records_survive_a_crash_at_every_operation_of_a_life() {
    for seed in 0..25 {
        for crash_at in 1..120 {
            let at_first = |process, _: &mut Random| Faults {
                crash_at: (process % 2 == 0).then_some(crash_at),
                ..Faults::default()
            };
            life(seed, at_first);
        }
    }
}

#[test]
fn equal_seeds_give_equal_disks() {
    let end = |seed| {
        let disk = FaultyDisk::new(seed);
        let mut model = Model::default();
        let mut random = Random::new(seed);
        disk.set(Faults { crash_at: Some(40), ..Faults::default() });
        if let Some(mut log) = open(&disk, &mut model) {
            work(&mut log, &mut model, &mut random);
        }
        disk.restart(Restart::Power);
        let files = disk.list(DIR).unwrap_or_default();
        files
            .into_iter()
            .map(|file| (disk.read(&format!("{DIR}/{}", file.name)).unwrap(), file))
            .collect::<Vec<_>>()
    };
    assert_eq!(end(7), end(7));
    assert_ne!(end(7), end(8));
}

#[test]
fn blobs_that_were_put_are_there_and_whole_after_any_crash() {
    each_seed(0..1500, |seed| {
        let mut random = Random::new(seed);
        let disk = FaultyDisk::new(seed ^ 0xB10B);
        let mut put: BTreeMap<Hash, Vec<u8>> = BTreeMap::new();
        for _ in 0..5 {
            disk.set(Faults {
                crash_at: Some(1 + random.below(50)),
                failing_syncs_per_mille: if random.chance(200) { 100 } else { 0 },
                capacity: random.chance(300).then(|| random.below(3000)),
            });
            if let Ok(blobs) = Blobs::open(Arc::new(disk.clone()), BLOBS) {
                put_some(&blobs, &mut put, &mut random);
            }
            disk.restart(if random.chance(300) { Restart::Process } else { Restart::Power });
            check_blobs(&disk, &put);
        }
    });
}

fn put_some(blobs: &Blobs, put: &mut BTreeMap<Hash, Vec<u8>>, random: &mut Random) {
    for _ in 0..random.below(10) {
        // Few values, so that some are put again after a crash in the middle.
        let bytes = vec![random.below(12) as u8; 150 + random.below(2) as usize];
        let before = put.contains_key(&Hash::of(&bytes));
        match blobs.put(&bytes) {
            Ok(hash) => {
                put.insert(hash, bytes);
            }
            Err(BlobError::Damaged { .. }) => panic!("a blob was damaged without bit rot"),
            Err(error) if error.must_stop() => {
                let next = blobs.put(b"more").expect_err("poisoned");
                assert!(matches!(next, BlobError::Poisoned { .. }));
                return;
            }
            Err(_) => {}
        }
        if !before && random.chance(100) {
            let gone = *put.keys().next().unwrap_or(&Hash::ZERO);
            // Whatever the disk says to that: it may be gone.
            let _ = blobs.delete(gone);
            put.remove(&gone);
        }
    }
}

fn check_blobs(disk: &FaultyDisk, put: &BTreeMap<Hash, Vec<u8>>) {
    let blobs = Blobs::open(Arc::new(disk.clone()), BLOBS).expect("no faults are set");
    for (hash, bytes) in put {
        assert_eq!(&blobs.get(*hash).expect("a blob that was put"), bytes);
    }
    for (hash, _) in blobs.list().unwrap() {
        blobs.get(hash).expect("every blob that is listed is whole");
    }
    assert!(disk.list(BLOBS).unwrap().iter().all(|file| !file.name.ends_with(".part")));
}

/// An open log of three acknowledged bodies and a snapshot after the first.
fn three_bodies(disk: &FaultyDisk) -> LogFiles {
    let mut log = LogFiles::create(Arc::new(disk.clone()), DIR, name()).unwrap();
    log.append(&[b"one"]).unwrap();
    log.snapshot(b"state after one").unwrap();
    log.append(&[b"two"]).unwrap();
    log.append(&[b"three"]).unwrap();
    log
}

fn reopen(disk: &FaultyDisk) -> Result<(LogFiles, suanli_store::Recovered), LogFilesError> {
    LogFiles::open(Arc::new(disk.clone()), DIR, name())
}

fn everything(disk: &FaultyDisk) -> Vec<(String, Vec<u8>)> {
    let files = disk.list(DIR).unwrap();
    files
        .iter()
        .map(|f| (f.name.clone(), disk.read(&format!("{DIR}/{}", f.name)).unwrap()))
        .collect()
}

#[test]
fn a_flipped_bit_in_what_was_acknowledged_stops_the_start_and_changes_nothing() {
    let disk = FaultyDisk::new(1);
    drop(three_bodies(&disk));
    let segment = format!("{DIR}/{}", suanli_log::segment_name(1));
    let len = disk.read(&segment).unwrap().len();
    let mark = suanli_log::HEADER_BYTES;
    for at in 0..len - mark {
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 4;
        disk.damage(&segment, flip);
        let before = everything(&disk);
        let error = reopen(&disk).unwrap_err();
        assert!(matches!(error, LogFilesError::Log { .. }), "byte {at}: {error}");
        assert_eq!(everything(&disk), before);
        disk.damage(&segment, flip);
    }
    let (_, recovered) = reopen(&disk).unwrap();
    assert_eq!(recovered.state.as_deref(), Some(&b"state after one"[..]));
    assert_eq!(recovered.bodies, [b"two".to_vec(), b"three".to_vec()]);
    assert_eq!(recovered.mended, []);
}

#[test]
fn a_torn_end_is_cut_reported_and_kept_aside() {
    let disk = FaultyDisk::new(1);
    drop(three_bodies(&disk));
    let segment = format!("{DIR}/{}", suanli_log::segment_name(1));
    disk.damage(&segment, |bytes| bytes.extend(b"SLog and then the power went"));
    let (mut log, recovered) = reopen(&disk).unwrap();
    assert_eq!(recovered.bodies.len(), 2);
    let [Mended::Torn { bytes: 28, kept: Some(kept), .. }] = &recovered.mended[..] else {
        panic!("{:?}", recovered.mended);
    };
    assert_eq!(disk.read(kept.to_str().unwrap()).unwrap(), b"SLog and then the power went");
    log.append(&[b"four"]).unwrap();
    assert_eq!(reopen(&disk).unwrap().1.bodies.len(), 3);
}

#[test]
fn a_damaged_snapshot_is_put_aside_and_the_one_before_gives_the_same() {
    let disk = FaultyDisk::new(1);
    let mut log = three_bodies(&disk);
    log.snapshot(b"state after three").unwrap();
    log.append(&[b"four"]).unwrap();
    let last = format!("{DIR}/{}", suanli_log::snapshot_name(3));
    disk.damage(&last, |bytes| bytes[90] ^= 1);
    let (_, recovered) = reopen(&disk).unwrap();
    assert_eq!(recovered.state.as_deref(), Some(&b"state after one"[..]));
    assert_eq!(recovered.bodies, [&b"two"[..], b"three", b"four"]);
    assert!(matches!(recovered.mended[..], [Mended::Snapshot { .. }]));
    disk.damage(&format!("{DIR}/{}", suanli_log::snapshot_name(1)), |bytes| bytes[90] ^= 1);
    let error = reopen(&disk).unwrap_err();
    assert!(matches!(error, LogFilesError::Snapshot { .. }), "{error}");
    assert!(error.to_string().contains("00000000000000000001.snapshot"), "{error}");
}

#[test]
fn before_the_second_snapshot_the_log_itself_makes_up_for_a_damaged_one() {
    let disk = FaultyDisk::new(1);
    drop(three_bodies(&disk));
    disk.damage(&format!("{DIR}/{}", suanli_log::snapshot_name(1)), |bytes| bytes.truncate(20));
    let (_, recovered) = reopen(&disk).unwrap();
    assert_eq!((recovered.state, recovered.bodies.len()), (None, 3));
    disk.remove(&format!("{DIR}/{}", suanli_log::segment_name(0))).unwrap();
    assert!(matches!(reopen(&disk), Err(LogFilesError::Log { .. })));
}

#[test]
fn snapshots_bound_the_files() {
    let disk = FaultyDisk::new(1);
    let mut log = LogFiles::create(Arc::new(disk.clone()), DIR, name()).unwrap();
    log.set_segment_bytes(500);
    let mut most = 0;
    for round in 0..200 {
        log.append(&[vec![round as u8; 100]]).unwrap();
        if round % 10 == 9 {
            log.snapshot(b"state").unwrap();
        }
        if round >= 20 {
            most = most.max(log.bytes().unwrap());
        }
    }
    assert!(most < 35 * (100 + 2 * 96), "{most} bytes");
    assert!(disk.list(DIR).unwrap().len() < 20);
}

#[test]
fn a_full_disk_refuses_by_name_and_the_log_goes_on_when_there_is_room() {
    let disk = FaultyDisk::new(1);
    let mut log = three_bodies(&disk);
    disk.set(Faults { capacity: Some(1200), ..Faults::default() });
    let error = log.append(&[vec![7; 1000]]).unwrap_err();
    assert!(!error.must_stop());
    assert_eq!(error.fault(), suanli_base::Fault::Weather);
    let text = error.to_string();
    assert!(text.contains("1096 more bytes") && text.contains(DIR), "{text}");
    disk.set(Faults::default());
    log.append(&[b"four"]).unwrap();
    let blobs = Blobs::open(Arc::new(disk.clone()), BLOBS).unwrap();
    disk.set(Faults { capacity: Some(1200), ..Faults::default() });
    let error = blobs.put(&[7; 1000]).unwrap_err();
    assert!(!error.must_stop());
    assert!(error.to_string().contains("1000 more bytes"), "{error}");
    disk.set(Faults::default());
    blobs.put(&[7; 1000]).unwrap();
    assert_eq!(blobs.total_bytes().unwrap(), 1000);
    assert_eq!(reopen(&disk).unwrap().1.bodies.len(), 3);
}

#[test]
fn a_log_is_made_once_and_never_taken_for_another() {
    let disk = FaultyDisk::new(1);
    let missing = reopen(&disk).unwrap_err();
    assert!(matches!(missing, LogFilesError::Disk(suanli_store::DiskError::Missing { .. })));
    drop(three_bodies(&disk));
    let again = LogFiles::create(Arc::new(disk.clone()), DIR, name());
    assert!(matches!(again, Err(LogFilesError::Exists { .. })));
    disk.remove(&format!("{DIR}/{}", suanli_log::snapshot_name(1))).unwrap();
    let before = everything(&disk);
    let other = LogFiles::open(Arc::new(disk.clone()), DIR, Hash::of(b"another"));
    assert!(matches!(other, Err(LogFilesError::Log { .. })), "{other:?}");
    assert_eq!(everything(&disk), before);
}

#[test]
fn a_damaged_blob_is_named_put_aside_and_can_be_put_again() {
    let disk = FaultyDisk::new(1);
    let blobs = Blobs::open(Arc::new(disk.clone()), BLOBS).unwrap();
    let hash = blobs.put(b"payload").unwrap();
    let path = format!("{BLOBS}/{hash}");
    disk.damage(&path, |bytes| bytes[0] ^= 1);
    let error = blobs.get(hash).unwrap_err();
    let BlobError::Damaged { path: aside, .. } = &error else { panic!("{error}") };
    assert_eq!(disk.read(aside.to_str().unwrap()).unwrap(), b"qayload");
    assert!(error.to_string().contains(&hash.to_string()), "names the file: {error}");
    assert!(matches!(blobs.get(hash), Err(BlobError::Missing { .. })));
    assert_eq!(blobs.put(b"payload").unwrap(), hash);
    assert_eq!(blobs.get(hash).unwrap(), b"payload");
    // A damaged one that is put again is mended on the way.
    disk.damage(&path, Vec::clear);
    blobs.put(b"payload").unwrap();
    assert_eq!(blobs.get(hash).unwrap(), b"payload");
}

#[test]
fn blobs_nobody_wants_go_and_the_rest_stays() {
    let disk = FaultyDisk::new(1);
    let blobs = Blobs::open(Arc::new(disk.clone()), BLOBS).unwrap();
    let kept = blobs.put(b"kept").unwrap();
    let gone = blobs.put(b"nobody wants this").unwrap();
    assert_eq!(blobs.keep_only(&[kept].into()).unwrap(), 17);
    assert!(blobs.has(kept).unwrap() && !blobs.has(gone).unwrap());
    assert_eq!(blobs.list().unwrap(), [(kept, 4)]);
    blobs.delete(gone).unwrap();
}

#[test]
fn files_that_a_crash_brought_back_are_removed_at_the_next_start() {
    let disk = FaultyDisk::new(1);
    let mut log = three_bodies(&disk);
    log.snapshot(b"state after three").unwrap();
    let path = |name| format!("{DIR}/{name}");
    disk.append(&path(suanli_log::segment_name(0)), b"old").unwrap();
    disk.append(&path(suanli_log::snapshot_name(0)), b"old").unwrap();
    disk.append(&path("00000000000000000009.snapshot.part".to_owned()), b"half").unwrap();
    drop(reopen(&disk).unwrap());
    let names: Vec<_> = disk.list(DIR).unwrap().into_iter().map(|file| file.name).collect();
    let kept = [1, 3].map(suanli_log::snapshot_name);
    assert_eq!(names, [suanli_log::segment_name(1), kept[0].clone(), kept[1].clone()]);
}

#[test]
fn a_snapshot_named_by_a_process_that_died_is_durable_before_older_files_go() {
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed);
        let mut log = three_bodies(&disk);
        log.snapshot(b"state after three").unwrap();
        log.append(&[b"four"]).unwrap();
        // Killed between the name of the snapshot and its sync: four operations before, see
        // `write_atomic`.
        disk.set(Faults { crash_at: Some(5), ..Faults::default() });
        log.snapshot(b"state after four").unwrap_err();
        disk.restart(Restart::Process);
        assert!(disk.read(&format!("{DIR}/{}", suanli_log::snapshot_name(4))).is_ok());
        assert_eq!(reopen(&disk).unwrap().1.state.as_deref(), Some(&b"state after four"[..]));
        disk.restart(Restart::Power);
        let (log, recovered) = reopen(&disk).unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert_eq!(recovered.state.as_deref(), Some(&b"state after four"[..]), "seed {seed}");
        assert_eq!(log.chain().next_seq(), 4);
    }
}

#[test]
fn what_recovery_made_durable_is_guarded_like_what_was_acknowledged() {
    let disk = FaultyDisk::new(1);
    drop(three_bodies(&disk));
    let segment = format!("{DIR}/{}", suanli_log::segment_name(1));
    // A kill after the write and before the mark: nothing proves the last body.
    let len = disk.read(&segment).unwrap().len() - suanli_log::HEADER_BYTES;
    disk.damage(&segment, |bytes| bytes.truncate(len));
    assert_eq!(reopen(&disk).unwrap().1.bodies.len(), 2);
    disk.damage(&segment, |bytes| bytes[len - 1] ^= 1);
    assert!(matches!(reopen(&disk), Err(LogFilesError::Log { .. })));
    disk.damage(&segment, |bytes| bytes[len - 1] ^= 1);
    // Starting again and again adds nothing.
    let bytes = reopen(&disk).unwrap().0.bytes().unwrap();
    assert_eq!(reopen(&disk).unwrap().0.bytes().unwrap(), bytes);
}
