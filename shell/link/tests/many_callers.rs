//! One connection, many callers: buffers move in and out, the connection lives on by itself.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::{Fault, Random, Time};
use suanli_identity::{Role, SecretKey};
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::{Partial, ReadError, Reader, RemoteError, RemoteNode};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::{
    ChunkSet, Code, Event, Hello, Level, Limits, PeerLimits, RegionName, Reply, Request, Session,
    Side, Span, Welcome,
};
use tokio::task::JoinHandle;

const CHUNK: u32 = 64 << 10;

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Random::new(seed).fill(&mut bytes);
    bytes.into()
}

/// A holder on loopback for as many connections as come. Ending the task ends them all.
async fn listen(holder: Arc<Holder>, limits: Limits) -> (String, JoinHandle<()>) {
    let key = SecretKey::from_seed(&[1; 32]);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key, LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let mut serving = tokio::task::JoinSet::new();
        for seed in 1.. {
            let link = listener.accept().await.unwrap().handshake().await.unwrap();
            serving.spawn(serve(link, holder.clone(), OpenDoor, limits, seed));
        }
    });
    (address, task)
}

async fn node_at(address: &str, limits: Limits) -> RemoteNode {
    let (ours, theirs) = (SecretKey::from_seed(&[2; 32]), SecretKey::from_seed(&[1; 32]));
    let link = connect(address, &ours, theirs.node(), Duration::from_secs(10)).await.unwrap();
    let hello = Hello::new(Role::Watch, Vec::new());
    RemoteNode::new(Reader::with(link, hello, limits, 7).await.unwrap())
}

async fn place(bytes: &Bytes) -> (Arc<Holder>, RemoteNode, JoinHandle<()>) {
    let holder = Holder::new(HolderLimits::default());
    holder.publish(&name("theta"), bytes.clone(), CHUNK).unwrap();
    let (address, task) = listen(holder.clone(), Limits::reliable()).await;
    (holder, node_at(&address, Limits::reliable()).await, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_read_over_one_connection_and_each_gets_its_own() {
    let bytes = content(1, 3_000_001);
    let (_holder, node, _task) = place(&bytes).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8_u64 {
        let (node, bytes) = (node.clone(), bytes.clone());
        callers.spawn(async move {
            let opened = node.open(name("theta")).await.unwrap();
            let whole = Partial::new(&opened.info).unwrap();
            let whole = node.read(opened.clone(), whole).await.unwrap();
            assert!(whole.memory == bytes && whole.have.is_full());
            let start = caller * 1000;
            let part = node.read_verified(opened.clone(), start, vec![0; 200_000]).await.unwrap();
            let from = usize::try_from(start).unwrap();
            assert!(part == bytes[from..from + 200_000]);
            let spans = vec![Span { offset: start, len: 10, stride: 100, count: 50 }];
            let packed = node.read_spans(opened, spans, vec![0; 500]).await.unwrap();
            let expected: Vec<u8> =
                (0..50).flat_map(|run| bytes[from + run * 100..][..10].to_vec()).collect();
            assert!(packed == expected);
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_spans_than_one_request_holds_come_packed_all_the_same() {
    let bytes = content(2, 6_000_000);
    let (_holder, node, _task) = place(&bytes).await;
    let opened = node.open(name("theta")).await.unwrap();
    let spans: Vec<Span> = (0..3000).rev().map(|at| Span::run(at * 2000, 7)).collect();
    let packed = node.read_spans(opened.clone(), spans, vec![0; 21_000]).await.unwrap();
    let at = |run: usize| &bytes[(2999 - run) * 2000..][..7];
    assert!((0..3000).all(|run| packed[run * 7..run * 7 + 7] == *at(run)));
    let wrong = node.read_spans(opened, vec![Span::run(0, 10)], vec![0; 9]).await.unwrap_err();
    let RemoteError::Failed(wrong) = wrong else { panic!("{wrong}") };
    assert!(matches!(*wrong, ReadError::Memory { expected: 10, found: 9 }), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_of_the_newest_version_while_others_read() {
    let bytes = content(3, 1_000_000);
    let (holder, node, _task) = place(&bytes).await;
    let mut versions = node.subscribe(name("theta")).await.unwrap();
    let mut second = node.subscribe(name("theta")).await.unwrap();
    assert_eq!((versions.newest(), second.newest()), (1, 1));
    let written = node.write(name("theta"), content(4, 1_000_000), CHUNK, 1).await.unwrap();
    assert_eq!(written, 2);
    assert_eq!(versions.newer_than(1).await.unwrap(), 2);
    holder.publish(&name("theta"), bytes, CHUNK).unwrap();
    assert_eq!(versions.newer_than(2).await.unwrap(), 3);
    assert_eq!(second.newer_than(1).await.unwrap(), 3, "who is slow hears of the newest only");
    assert!(node.open_if_changed(name("theta"), 3).await.unwrap().is_none());
    let refused = node.write(name("theta"), content(5, 10), CHUNK, 1).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_over()), (Some(Code::Conflict), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_contributions_fence_and_stat_go_by_the_same_connection() {
    let (holder, node, _task) = place(&content(6, 100)).await;
    holder.add_cells(&name("counters"), 2).unwrap();
    assert_eq!(node.fetch_add(name("counters"), 1, 5).await.unwrap(), 0);
    assert_eq!(node.cas(name("counters"), 1, 5, 9).await.unwrap(), 5);
    assert_eq!(holder.cell(&name("counters"), 1), Some(9));
    let past = node.fetch_add(name("counters"), 2, 5).await.unwrap_err();
    assert_eq!((past.fault(), past.is_over()), (Fault::Ours, false), "{past}");
    assert_eq!(node.fetch_add(name("counters"), 0, 1).await.unwrap(), 0, "it goes on");
    let delta = content(7, 200_000);
    node.accumulate(name("lease/1"), delta.clone(), CHUNK).await.unwrap();
    let came = holder.take_contribution(&name("lease/1")).unwrap();
    assert!(came.concat() == delta);
    node.fence(Level::Placed).await.unwrap();
    let stat = node.stat(Some(name("theta"))).await.unwrap();
    assert_eq!(stat.region.unwrap().version, 1);
    assert!(stat.session.bytes_received >= 200_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_stops_its_command_and_the_next_one_goes_on() {
    let bytes = content(8, 8 << 20);
    let (_holder, node, _task) = place(&bytes).await;
    let opened = node.open(name("theta")).await.unwrap();
    for round in 0..20 {
        let whole = Partial::new(&opened.info).unwrap();
        let wait = Duration::from_micros(200 * round);
        let _ = tokio::time::timeout(wait, node.read(opened.clone(), whole)).await;
        let part = node.read_verified(opened.clone(), 0, vec![0; 4096]).await.unwrap();
        assert!(part == bytes[..4096], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_holder_goes_every_caller_learns_it_and_a_read_goes_on_elsewhere() {
    let bytes = content(9, 2_000_000);
    let (holder, node, task) = place(&bytes).await;
    let opened = node.open(name("theta")).await.unwrap();
    // Half of it is there from an earlier connection.
    let mut partial = Partial::new(&opened.info).unwrap();
    let half = opened.info.chunk_count() / 2;
    let end = half as usize * CHUNK as usize;
    partial.memory[..end].copy_from_slice(&bytes[..end]);
    (0..half).for_each(|chunk| assert!(partial.have.insert(chunk)));
    let mut versions = node.subscribe(name("theta")).await.unwrap();
    task.abort();
    let over = versions.newer_than(1).await.unwrap_err();
    assert!(over.is_over() && over.fault() == Fault::Weather, "{over}");
    let (error, partial_back) = node.read(opened, partial).await.unwrap_err();
    assert!(error.is_over() && error.to_string() == over.to_string(), "{error}");
    assert!(node.over().is_some() && partial_back.is_none());
    // The memory of a command that had its turn comes back; here it is made anew.
    let (address, _task) = listen(holder, Limits::reliable()).await;
    let node = node_at(&address, Limits::reliable()).await;
    let opened = node.open(name("theta")).await.unwrap();
    let mut have = ChunkSet::empty(opened.info.chunk_count());
    (0..half).for_each(|chunk| assert!(have.insert(chunk)));
    let mut memory = vec![0; bytes.len()];
    memory[..end].copy_from_slice(&bytes[..end]);
    let whole = node.read(opened, Partial { memory, have }).await.unwrap();
    assert!(whole.memory == bytes);
    let sent = node.stat(None).await.unwrap().session.bytes_sent;
    assert!(sent < (bytes.len() - end) as u64 + 64_000, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_kept_alive_past_the_time_of_silence() {
    let fast = Limits {
        ping_every: suanli_base::Duration(20),
        silent_after: suanli_base::Duration(200),
        ..Limits::reliable()
    };
    let holder = Holder::new(HolderLimits::default());
    let first = holder.publish(&name("theta"), content(1, 10), CHUNK).unwrap();
    let (address, _task) = listen(holder.clone(), fast).await;
    let node = node_at(&address, fast).await;
    let mut versions = node.subscribe(name("theta")).await.unwrap();
    let publishing = tokio::spawn(async move {
        // Three times the silence that ends a connection: the passing of time is what is tested.
        tokio::time::sleep(Duration::from_millis(600)).await;
        holder.publish(&name("theta"), content(2, 10), CHUNK).unwrap()
    });
    assert_eq!(versions.newer_than(first).await.unwrap(), 2);
    assert_eq!(publishing.await.unwrap(), 2);
}

/// A holder that answers every fence with "placed", whatever was asked.
async fn weak(listener: Listener) {
    let link = listener.accept().await.unwrap().handshake().await.unwrap();
    let (mut reader, mut writer) = link.split();
    let mut session = Session::new(Side::Accepting, Time(0), Limits::reliable(), 1);
    while let Ok(Some(frame)) = reader.next().await {
        session.handle_frame(Time(0), frame).unwrap();
        while let Some(event) = session.poll_event() {
            let Event::Request { token, request } = event else { continue };
            let reply = match request {
                Request::Hello(_) => {
                    let limits = PeerLimits { requests_max: 8, bulk_window_bytes: 1 << 20 };
                    Reply::Welcome(Welcome { version: 2, limits, time: Time(0) })
                }
                _ => Reply::Fenced { level: Level::Placed },
            };
            session.respond(Time(0), token, reply);
        }
        while let Some(frame) = session.poll_transmit(Time(0)) {
            writer.push(&frame);
        }
        writer.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_is_answered_with_less_than_was_asked_is_an_error() {
    // The level of the reply was dropped: a caller that asked for durable went on as if it were so.
    let key = SecretKey::from_seed(&[1; 32]);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key, LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(weak(listener));
    let node = node_at(&address, Limits::reliable()).await;
    node.fence(Level::Placed).await.unwrap();
    let weaker = node.fence(Level::Durable).await.unwrap_err();
    assert!(
        matches!(weaker, RemoteError::Weaker { asked: Level::Durable, given: Level::Placed }),
        "{weaker}"
    );
    assert_eq!((weaker.fault(), weaker.is_over()), (Fault::Peer, false));
    task.abort();
}
