//! What log and blobs do on the real disk.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use suanli_base::Hash;
use suanli_store::{Blobs, Disk as _, DiskError, LogFiles, LogFilesError, RealDisk, write_atomic};

fn name() -> Hash {
    Hash::of(b"a log on a real disk")
}

#[test]
fn a_log_lives_through_segments_snapshots_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    let mut log = LogFiles::create(disk.clone(), "city/log", name()).unwrap();
    log.set_segment_bytes(1000);
    for i in 0..30_u8 {
        log.append(&[vec![i; 50], vec![i; 10]]).unwrap();
    }
    log.snapshot(b"state after sixty").unwrap();
    log.append(&[b"last"]).unwrap();
    drop(log);
    let (log, recovered) = LogFiles::open(disk.clone(), "city/log", name()).unwrap();
    assert_eq!(recovered.state.as_deref(), Some(&b"state after sixty"[..]));
    assert_eq!(recovered.bodies, [b"last".to_vec()]);
    assert_eq!(log.chain().next_seq(), 61);
    let inspected = LogFiles::inspect(&*disk, "city/log", name()).unwrap();
    assert_eq!((inspected.first_seq, inspected.bodies.len()), (0, 61));
    assert_eq!((inspected.chain.head(), inspected.torn_bytes), (log.chain().head(), 0));
}

#[test]
fn files_and_folders_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    let blobs = Blobs::open(disk, "blobs").unwrap();
    let hash = blobs.put(b"private state").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(blobs.place(hash)), 0o600);
    assert_eq!(mode(folder.path().join("blobs")), 0o700);
}

#[test]
fn a_file_is_written_whole_over_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    disk.create_dir("state").unwrap();
    write_atomic(&disk, "state", "pending", b"first").unwrap();
    write_atomic(&disk, "state", "pending", b"second").unwrap();
    assert_eq!(disk.read("state/pending").unwrap(), b"second");
    assert_eq!(disk.list("state").unwrap().len(), 1);
}

#[test]
fn the_root_is_a_folder_like_others() {
    // `write_atomic` once joined an empty folder and a name to an absolute path, and wrote to the
    // root of the machine.
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    disk.create_dir("").unwrap();
    write_atomic(&*disk, "", "city.toml", b"name").unwrap();
    assert_eq!(std::fs::read(folder.path().join("city.toml")).unwrap(), b"name");
    let mut log = LogFiles::create(disk.clone(), "", name()).unwrap();
    log.append(&[b"one"]).unwrap();
    log.snapshot(b"state").unwrap();
    assert_eq!(LogFiles::open(disk, "", name()).unwrap().1.state.unwrap(), b"state");
}

#[test]
fn no_path_leads_out_of_the_root() {
    for path in ["/city.toml", "../city.toml", "log/../../city.toml"] {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        let written = std::panic::AssertUnwindSafe(|| disk.append(path, b"name"));
        assert!(std::panic::catch_unwind(written).is_err(), "{path}");
    }
}

#[test]
fn what_does_not_exist_is_not_made_by_asking() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    for error in [
        disk.read("none").unwrap_err(),
        disk.sync("none").unwrap_err(),
        disk.truncate("none", 0).unwrap_err(),
        disk.remove("none").unwrap_err(),
        disk.size("none").unwrap_err(),
        disk.list("none").unwrap_err(),
    ] {
        assert!(matches!(error, DiskError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("none"));
    }
    let opened = LogFiles::open(disk, "log", name());
    assert!(matches!(opened, Err(LogFilesError::Disk(DiskError::Missing { .. }))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_disk_without_room_says_how_much_it_needed() {
    // Every write to this device finds the disk full.
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let error = RealDisk::new("/dev").append("full", &[0; 4096]).unwrap_err();
    assert!(matches!(&error, DiskError::Full { path, needed: 4096 } if path == full), "{error}");
}
