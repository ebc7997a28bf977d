//! The real disk, and a real kill -9 in the middle of appends.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use suanli_base::Hash;
use suanli_store::{Blobs, FolderLock, LockError, LogFiles, RealDisk};

const FOLDER: &str = "SUANLI_TEST_KILL_FOLDER";

fn name() -> Hash {
    Hash::of(b"the log of the kill test")
}

fn body(seq: u64) -> Vec<u8> {
    let mut body = vec![seq as u8; 40 + (seq % 300) as usize];
    body[..8].copy_from_slice(&seq.to_le_bytes());
    body
}

/// Not a test of its own: the child that the next one kills. It appends for ever and says after
/// each append how many bodies it has been promised.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let _lock = FolderLock::take(folder).unwrap();
    let disk = Arc::new(RealDisk::new(folder));
    let (mut log, recovered) = LogFiles::open(disk.clone(), "log", name()).unwrap();
    log.set_segment_bytes(20_000);
    let blobs = Blobs::open(disk, "blobs").unwrap();
    let mut next = recovered.state.map_or(0, |state| state.len() as u64);
    next += recovered.bodies.len() as u64;
    let mut out = std::io::stdout();
    loop {
        let batch: Vec<Vec<u8>> = (next..next + 1 + next % 3).map(body).collect();
        // The payload first, then the record that names it.
        blobs.put(&next.to_le_bytes()).unwrap();
        log.append(&batch).unwrap();
        next += batch.len() as u64;
        writeln!(out, "promised {next}").unwrap();
        if next % 50 < 3 {
            log.snapshot(&vec![1; next as usize]).unwrap();
        }
    }
}

/// Starts the child, kills it after `lines` promises; the last promise that came.
fn run_and_kill(folder: &Path, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let promises = out.lines().map_while(Result::ok);
    let mut promises = promises.filter_map(|line| line.strip_prefix("promised ")?.parse().ok());
    let early = promises.by_ref().take(lines).last().expect("the child made a promise");
    // SIGKILL, while it goes on writing.
    child.kill().unwrap();
    let last = promises.last().unwrap_or(early);
    child.wait().unwrap();
    last
}

#[test]
fn a_killed_process_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    drop(LogFiles::create(disk.clone(), "log", name()).unwrap());
    let mut before = 0;
    for kill in 0..8 {
        let promised = run_and_kill(folder.path(), 3 + kill * 7);
        assert!(promised > before);
        let (log, recovered) = LogFiles::open(disk.clone(), "log", name()).unwrap();
        let start = recovered.state.map_or(0, |state| state.len() as u64);
        let end = log.chain().next_seq();
        assert!(end >= promised, "promised {promised}, found {end}");
        assert!(end <= promised + 3, "promised {promised}, found {end}");
        assert_eq!(recovered.bodies, (start..end).map(body).collect::<Vec<_>>());
        assert!(recovered.mended.len() <= 1, "{:?}", recovered.mended);
        let blobs = Blobs::open(disk.clone(), "blobs").unwrap();
        for (hash, _) in blobs.list().unwrap() {
            blobs.get(hash).unwrap();
        }
        before = end;
    }
}

#[test]
fn a_folder_in_use_by_another_process_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()));
    drop(LogFiles::create(disk, "log", name()).unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    out.lines().map_while(Result::ok).find(|line| line.starts_with("promised"));
    let error = FolderLock::take(folder.path()).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        matches!(error, LockError::InUse { pid: Some(pid), .. } if pid == child.id()),
        "{error}"
    );
    FolderLock::take(folder.path()).expect("the lock goes with the process");
}
