//! What a holder holds and sends: mapped files, and the owner's limits on what goes up.

use super::{code, name, peer, place};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use suanli_base::Random;
use suanli_link::holder::{HoldError, Holder, HolderLimits, Upload};
use suanli_link::reader::ReadError;
use suanli_rdpa::{Code, Failure, Span, UplinkLimits};

const CHUNK: u32 = 64 << 10;

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random::new(seed).fill(&mut bytes);
    bytes
}

/// Puts a file in place of another one, as an owner should: readers of the old one keep it.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapped_file_is_read_whole_and_in_part_while_the_next_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theta.bin");
    let (old, new) = (content(1, 1_000_001), content(2, 700_000));
    std::fs::write(&path, &old).unwrap();
    let (holder, address) = place(HolderLimits::default()).await;
    assert_eq!(holder.publish_file(&name("theta"), &path, CHUNK).unwrap(), 1);
    let mut reader = peer(&address, 2).await;
    let first = reader.open(name("theta")).await.unwrap();
    replace(&path, &new);
    assert_eq!(holder.publish_file(&name("theta"), &path, CHUNK).unwrap(), 2);
    let second = reader.open(name("theta")).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    for (opened, bytes) in [(first, &old), (second, &new)] {
        let mut whole = vec![0; bytes.len()];
        reader.read(&opened, &mut whole).await.unwrap();
        assert!(whole == *bytes);
        let spans = [Span { offset: 5, len: 3, stride: 100_000, count: 6 }];
        let mut parts = [0; 18];
        reader.read_ranges(&opened, &spans, &mut parts).await.unwrap();
        let expected: Vec<u8> =
            (0..6).flat_map(|run| bytes[5 + run * 100_000..][..3].to_vec()).collect();
        assert_eq!(parts[..], expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapped_file_that_is_changed_in_place_is_found_out_by_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theta.bin");
    std::fs::write(&path, content(1, 300_000)).unwrap();
    let (holder, address) = place(HolderLimits::default()).await;
    holder.publish_file(&name("theta"), &path, CHUNK).unwrap();
    let mut reader = peer(&address, 2).await;
    let opened = reader.open(name("theta")).await.unwrap();
    // Against the rule, but of the same length.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &content(2, 300_000), 0).unwrap();
    let error = reader.read(&opened, &mut vec![0; 300_000]).await.unwrap_err();
    assert!(matches!(&error, ReadError::Failed(Failure::WrongHash { .. })), "{error}");
}

#[test]
fn a_file_that_is_not_there_or_empty_is_no_region() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theta.bin");
    let holder = Holder::new(HolderLimits::default());
    let error = holder.publish_file(&name("theta"), &path, CHUNK).unwrap_err();
    assert!(matches!(error, HoldError::Map { .. }), "{error}");
    std::fs::write(&path, b"").unwrap();
    let error = holder.publish_file(&name("theta"), &path, CHUNK).unwrap_err();
    assert!(matches!(error, HoldError::Region(_)), "{error}");
    assert!(holder.newest(&name("theta")).is_none());
}

/// Set in the process that is to die of it.
const TRUNCATE: &str = "SUANLI_TEST_TRUNCATE";

#[test]
fn a_mapped_file_that_is_cut_short_ends_the_holder_as_documented() {
    // Whoever shortens a mapped file takes memory away from the process; the page of `publish_file`
    // says so. Should this ever fail, the page is to be changed.
    if std::env::var_os(TRUNCATE).is_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theta.bin");
        std::fs::write(&path, content(1, 300_000)).unwrap();
        let holder = Holder::new(HolderLimits::default());
        holder.publish_file(&name("theta"), &path, CHUNK).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        let newest = holder.newest(&name("theta")).unwrap();
        panic!("read {} bytes of what is gone", newest.run(0, 300_000).len());
    }
    let me = std::env::current_exe().unwrap();
    let this = "holding::a_mapped_file_that_is_cut_short_ends_the_holder_as_documented";
    let child = std::process::Command::new(me).args([this, "--exact"]).env(TRUNCATE, "1").output();
    let signal = std::os::unix::process::ExitStatusExt::signal(&child.unwrap().status);
    // SIGBUS: 7 on Linux, 10 elsewhere.
    assert!(matches!(signal, Some(7 | 10)), "{signal:?}");
}

fn upload(bytes_per_s: u64, bytes_per_day: u64) -> Option<Arc<Upload>> {
    let limits = UplinkLimits { bytes_per_s, bytes_per_day, ..UplinkLimits::default() };
    Some(Arc::new(Upload::new(limits, 0).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_readers_together_get_what_the_owner_lets_go_up() {
    // The owner's rate held for uploads of a family, and not for a holder, which sends most of what
    // is read.
    let (holder, address) = place(HolderLimits::default()).await;
    let bytes = content(1, 1 << 20);
    holder.publish(&name("theta"), bytes.clone().into(), CHUNK).unwrap();
    holder.limit_upload(upload(1 << 20, u64::MAX));
    let begun = Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut reader = peer(&address, 2).await;
        readers.spawn(async move {
            let opened = reader.open(name("theta")).await.unwrap();
            let mut memory = vec![0; 1 << 20];
            reader.read(&opened, &mut memory).await.unwrap();
            let mut part = vec![0; 1 << 19];
            reader.read_ranges(&opened, &[Span::run(1, 1 << 19)], &mut part).await.unwrap();
            (memory, part)
        });
    }
    while let Some(read) = readers.join_next().await {
        let (memory, part) = read.unwrap();
        assert!(memory == bytes && part == bytes[1..=1 << 19]);
    }
    // Three MiB at one a second, and nothing was saved up before.
    let took = begun.elapsed().as_millis();
    assert!((2_800..20_000).contains(&took), "{took} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bytes_of_a_day_readers_are_sent_elsewhere() {
    let (holder, address) = place(HolderLimits::default()).await;
    holder.publish(&name("theta"), content(1, 1 << 20).into(), CHUNK).unwrap();
    holder.publish(&name("many"), content(1, 200_000).into(), 10).unwrap();
    let mut reader = peer(&address, 2).await;
    let opened = reader.open(name("theta")).await.unwrap();
    holder.limit_upload(upload(u64::MAX, 500_000));
    let read = reader.read(&opened, &mut vec![0; 1 << 20]).await;
    assert_eq!(code(read), Code::Unavailable);
    assert_eq!(code(reader.open(name("many")).await), Code::Unavailable, "20 000 hashes");
    // What is small goes on, and so does everything without a limit.
    reader.open(name("theta")).await.unwrap();
    holder.limit_upload(None);
    reader.read(&opened, &mut vec![0; 1 << 20]).await.unwrap();
}
