//! A holder and a reader over real links: bytes land in place, versions stay whole, cells count.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::Random;
use suanli_identity::{Role, SecretKey};
use suanli_link::endpoint::Trust;
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::{ReadError, Reader};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::{
    Answer, ChunkSet, Code, Event, Failure, Hello, Level, Limits, Op, RegionName, Span, StageKind,
};

const CHUNK: u32 = 64 << 10;

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Random::new(seed).fill(&mut bytes);
    bytes.into()
}

fn holder_of(bytes: &Bytes) -> Arc<Holder> {
    let holder = Holder::new(HolderLimits::default());
    holder.publish(&name("theta"), bytes.clone(), CHUNK).unwrap();
    holder
}

/// Serves `holder` on loopback for as many connections as come; returns how to reach it.
async fn serve_on_loopback(holder: Arc<Holder>) -> (String, SecretKey) {
    serve_with(holder, Limits::reliable()).await
}

async fn serve_with(holder: Arc<Holder>, limits: Limits) -> (String, SecretKey) {
    let key = SecretKey::from_seed(&[1; 32]);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key, LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for seed in 1.. {
            let link = listener.accept().await.unwrap().handshake().await.unwrap();
            tokio::spawn(serve(link, holder.clone(), OpenDoor, limits, seed));
        }
    });
    (address, key)
}

async fn reader_of(place: &(String, SecretKey)) -> Reader {
    let key = SecretKey::from_seed(&[2; 32]);
    let link = connect(&place.0, &key, place.1.node(), Duration::from_secs(10)).await.unwrap();
    Reader::connect(link, Hello::new(Role::Watch, Vec::new()), 7).await.unwrap()
}

#[cfg(feature = "iroh")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_read_over_the_many_lanes_of_quic() {
    use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions};
    let options = QuicOptions::on("127.0.0.1:0".parse().unwrap());
    let bind = async |seed| {
        QuicEndpoint::bind(&SecretKey::from_seed(&[seed; 32]), options.clone()).await.unwrap()
    };
    let (city, family) = (bind(1).await, bind(2).await);
    let node = SecretKey::from_seed(&[1; 32]).node();
    let addr = QuicAddr { node, direct: city.local_addrs(), relay: None };
    let bytes = content(1, 20_000_001);
    let holder = holder_of(&bytes);
    tokio::spawn(async move {
        let link = city.accept().await.unwrap().handshake().await.unwrap();
        serve(link, holder, OpenDoor, Limits::reliable(), 1).await;
    });
    let work = async {
        let link = family.connect(&addr, Duration::from_secs(10)).await.unwrap();
        let hello = Hello::new(Role::Watch, Vec::new());
        let mut reader = Reader::connect(link, hello, 7).await.unwrap();
        let opened = reader.open(name("theta")).await.unwrap();
        reader.trust(Trust::Verify);
        let mut memory = vec![0; bytes.len()];
        reader.read(&opened, &mut memory).await.unwrap();
        assert!(memory == bytes);
    };
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_read_whole_in_place_and_verified() {
    let bytes = content(1, 5_000_001);
    let place = serve_on_loopback(holder_of(&bytes)).await;
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    for trust in [Trust::Verify, Trust::Holder] {
        reader.trust(trust);
        let mut memory = vec![0; bytes.len()];
        reader.read(&opened, &mut memory).await.unwrap();
        assert!(memory == bytes, "{trust:?}");
    }
    let short = reader.read(&opened, &mut [0; 10]).await.unwrap_err();
    assert!(matches!(short, ReadError::Memory { expected: 5_000_001, found: 10 }), "{short}");
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_many_small_chunks_is_read_by_whatever_few_requests_are_allowed() {
    // 64 chunks a READ and 256 READs at once are 16 384 chunks: the next READ was refused by the
    // reader's own session, and a WELCOME that allows one request did the same at the second.
    let bytes = content(3, 20_000);
    for serving_max in [256, 1] {
        let holder = Holder::new(HolderLimits::default());
        holder.publish(&name("theta"), bytes.clone(), 1).unwrap();
        let limits = Limits { serving_max, ..Limits::reliable() };
        let place = serve_with(holder, limits).await;
        let mut reader = reader_of(&place).await;
        let opened = reader.open(name("theta")).await.unwrap();
        let mut memory = vec![0; bytes.len()];
        reader.read(&opened, &mut memory).await.unwrap();
        assert!(memory == bytes);
        let mut memory = vec![0; bytes.len() - 2];
        reader.read_verified(&opened, 1, &mut memory).await.unwrap();
        assert!(memory == bytes[1..bytes.len() - 1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_strides_come_packed() {
    let bytes = content(2, 3_000_000);
    let place = serve_on_loopback(holder_of(&bytes)).await;
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    // A column block of a matrix of rows of 3 000 bytes, and a run over several chunks.
    let spans = [Span { offset: 100, len: 200, stride: 3_000, count: 999 }, Span::run(7, 700_001)];
    let mut memory = vec![0; 200 * 999 + 700_001];
    reader.read_ranges(&opened, &spans, &mut memory).await.unwrap();
    let mut expected: Vec<u8> = Vec::new();
    (0..999).for_each(|row| expected.extend(&bytes[100 + row * 3_000..][..200]));
    expected.extend(&bytes[7..700_008]);
    assert!(memory == expected);
    let mut slice = vec![0; 100_000];
    reader.read_verified(&opened, 65_000, &mut slice).await.unwrap();
    assert!(slice == bytes[65_000..165_000]);
    let past = [Span::run(2_999_999, 2)];
    let error = reader.read_ranges(&opened, &past, &mut [0; 2]).await.unwrap_err();
    assert!(matches!(error, ReadError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_open_stays_whole_while_others_are_published() {
    let old = content(3, 1_000_000);
    let holder = holder_of(&old);
    let place = serve_on_loopback(holder.clone()).await;
    let mut reader = reader_of(&place).await;
    let first = reader.open(name("theta")).await.unwrap();
    let changed = BTreeMap::from([(3, content(4, CHUNK as usize))]);
    assert_eq!(holder.publish_changed(&name("theta"), &changed).unwrap(), 2);
    let second = reader.open(name("theta")).await.unwrap();
    assert_eq!((first.info.version, second.info.version), (1, 2));
    let (mut before, mut after) = (vec![0; old.len()], vec![0; old.len()]);
    reader.read(&first, &mut before).await.unwrap();
    reader.read(&second, &mut after).await.unwrap();
    assert!(before == old);
    let from = 3 * CHUNK as usize;
    assert!(after[from..from + CHUNK as usize] == changed[&3]);
    assert!(
        after[..from] == old[..from]
            && after[from + CHUNK as usize..] == old[from + CHUNK as usize..]
    );
    // Only the chunk that changed is kept for the old version.
    let stat = reader.stat(Some(name("theta"))).await.unwrap().region.unwrap();
    assert_eq!((stat.version, stat.oldest, stat.pinned_bytes), (2, 1, u64::from(CHUNK)));
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_too_much_is_gone_and_says_so() {
    let limits = HolderLimits { pinned_bytes_max: 150_000, ..HolderLimits::default() };
    let holder = Holder::new(limits);
    holder.publish(&name("r"), content(1, 100_000), CHUNK).unwrap();
    let place = serve_on_loopback(holder.clone()).await;
    let mut reader = reader_of(&place).await;
    let first = reader.open(name("r")).await.unwrap();
    holder.publish(&name("r"), content(2, 100_000), CHUNK).unwrap();
    let second = reader.open(name("r")).await.unwrap();
    holder.publish(&name("r"), content(3, 100_000), CHUNK).unwrap();
    let mut memory = vec![0; 100_000];
    let gone = reader.read(&first, &mut memory).await.unwrap_err();
    let is_gone =
        matches!(&gone, ReadError::Failed(Failure::Refused { code: Code::VersionGone, .. }));
    assert!(is_gone, "{gone}");
    reader.read(&second, &mut memory).await.unwrap();
    assert!(memory == content(2, 100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_becomes_a_version_and_subscribers_hear_of_it() {
    let holder = holder_of(&content(1, 1000));
    let place = serve_on_loopback(holder.clone()).await;
    let (mut writer, mut watcher) = (reader_of(&place).await, reader_of(&place).await);
    let subscribed = watcher.ask(Op::Subscribe { region: name("theta") }).await.unwrap();
    assert_eq!(subscribed, Answer::Subscribed { version: 1 });
    let bytes = content(9, 500_000);
    let kind = StageKind::Write;
    let handle =
        writer.stage(name("theta"), kind, bytes.clone(), CHUNK, Level::Placed).await.unwrap();
    let conflict = writer.commit(handle, 7).await.unwrap_err();
    assert!(matches!(conflict, ReadError::Failed(Failure::Refused { code: Code::Conflict, .. })));
    assert_eq!(writer.commit(handle, 1).await.unwrap(), 2);
    let event = watcher.next(&mut ()).await.unwrap();
    assert!(matches!(event, Event::Notified { version: 2, .. }), "{event:?}");
    let opened = watcher.open_if_changed(name("theta"), 1).await.unwrap().unwrap();
    let mut memory = vec![0; bytes.len()];
    watcher.read(&opened, &mut memory).await.unwrap();
    assert!(memory == bytes);
    assert!(watcher.open_if_changed(name("theta"), 2).await.unwrap().is_none());
    let refused =
        writer.stage(name("theta"), kind, bytes, CHUNK, Level::Durable).await.unwrap_err();
    let code = Code::Unavailable;
    assert!(matches!(&refused, ReadError::Failed(Failure::Refused { code: c, .. }) if *c == code));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_count_what_many_add() {
    let holder = holder_of(&content(1, 10));
    holder.add_cells(&name("counters"), 3).unwrap();
    let place = serve_on_loopback(holder.clone()).await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut reader = reader_of(&place).await;
        tasks.push(tokio::spawn(async move {
            let answer = reader.ask(Op::OpenCells { region: name("counters") }).await.unwrap();
            let Answer::CellsOpened { handle, count: 3 } = answer else { panic!("{answer:?}") };
            for _ in 0..50 {
                reader.ask(Op::FetchAdd { handle, cell: 1, add: 2 }).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(holder.cell(&name("counters"), 1), Some(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stops_waiting_leaves_the_connection_usable() {
    let bytes = content(5, 8 << 20);
    let place = serve_on_loopback(holder_of(&bytes)).await;
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    for round in 0..20 {
        let mut memory = vec![0; bytes.len()];
        let wait = Duration::from_micros(200 * round);
        let _ = tokio::time::timeout(wait, reader.read(&opened, &mut memory)).await;
        let mut slice = vec![0; 4096];
        reader.read_ranges(&opened, &[Span::run(round * 4096, 4096)], &mut slice).await.unwrap();
        let from = usize::try_from(round).unwrap() * 4096;
        assert!(slice == bytes[from..from + 4096], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_only_the_rest_is_read() {
    let bytes = content(6, 20 << 20);
    let holder = holder_of(&bytes);
    let place = serve_on_loopback(holder).await;
    let mut memory = vec![0; bytes.len()];
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    let mut have = ChunkSet::empty(opened.info.chunk_count());
    let wait = Duration::from_millis(8);
    let cut = tokio::time::timeout(wait, reader.resume(&opened, &mut memory, &mut have)).await;
    drop(reader);
    let before = have.count();
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    reader.resume(&opened, &mut memory, &mut have).await.unwrap();
    assert!(memory == bytes && have.is_full());
    let sent = reader.stat(None).await.unwrap().session.bytes_sent;
    let rest = (bytes.len() as u64).saturating_sub(u64::from(before) * u64::from(CHUNK));
    assert!(cut.is_ok() || sent <= rest + 64_000, "{sent} bytes for {rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_lies_is_found_out_on_arrival() {
    // The same name and length with another content, described by the first one's hashes: served
    // through a holder whose region is switched under the reader by removing and publishing anew.
    let (truth, lie) = (content(7, 300_000), content(8, 300_000));
    let holder = holder_of(&truth);
    let place = serve_on_loopback(holder.clone()).await;
    let mut reader = reader_of(&place).await;
    let opened = reader.open(name("theta")).await.unwrap();
    holder.remove(&name("theta"));
    holder.publish(&name("theta"), lie, CHUNK).unwrap();
    let mut memory = vec![0; truth.len()];
    let error = reader.read(&opened, &mut memory).await.unwrap_err();
    assert!(matches!(&error, ReadError::Failed(Failure::WrongHash { .. })), "{error}");
}
