//! One region from several holders at once: fast and slow, dying and lying ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::{Hash, NodeId, Random, Time};
use suanli_identity::{Role, SecretKey};
use suanli_link::endpoint::Endpoint;
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::{Source, gather};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::limits::PROTOCOL_VERSION;
use suanli_rdpa::{
    Event, Hello, Limits, PeerLimits, RegionInfo, RegionName, Reply, Request, Session, Side,
    Welcome,
};

const CHUNK: u32 = 64 << 10;

fn theta() -> RegionName {
    RegionName::new("theta").unwrap()
}

fn content(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Random::new(1).fill(&mut bytes);
    bytes.into()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// What a holder on loopback does with its connections.
#[derive(Clone, Copy)]
enum Manner {
    Honest,
    /// Answers so many READs of a chunk, then is gone.
    Dies(usize),
    /// Announces the true hashes and gives other bytes.
    Lies,
    /// Announces the true hashes under a shape with a byte less, and gives the last chunk so.
    Shortens,
}

/// Holds `bytes` in one of these manners; returns a source that reads from it.
async fn source(seed: u8, bytes: &Bytes, manner: Manner) -> Source {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key(seed), LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let bytes = bytes.clone();
    tokio::spawn(async move {
        let link = listener.accept().await.unwrap().handshake().await.unwrap();
        match manner {
            Manner::Honest => {
                let holder = Holder::new(HolderLimits::default());
                holder.publish(&theta(), bytes, CHUNK).unwrap();
                serve(link, holder, OpenDoor, Limits::reliable(), 1).await;
            }
            Manner::Dies(after) => by_hand(link, &bytes, after, manner).await,
            Manner::Lies | Manner::Shortens => by_hand(link, &bytes, usize::MAX, manner).await,
        }
    });
    let patience = Duration::from_secs(10);
    let link = connect(&address, &key(100), key(seed).node(), patience).await.unwrap();
    Source { link, hello: Hello::new(Role::Watch, Vec::new()), seed: u64::from(seed) }
}

/// A holder that is no good.
async fn by_hand(link: suanli_link::Link, bytes: &Bytes, reads: usize, manner: Manner) {
    let mut info = RegionInfo::of(1, bytes, CHUNK).unwrap();
    info.shape.bytes -= u64::from(matches!(manner, Manner::Shortens));
    let info = Arc::new(info);
    let session = Session::new(Side::Accepting, Time(0), Limits::reliable(), 1);
    let mut endpoint = Endpoint::new(link, session);
    let mut left = reads;
    while let Ok(event) = endpoint.next(&mut ()).await {
        let Event::Request { token, request } = event else { continue };
        let reply = match request {
            Request::Hello(_) => Reply::Welcome(Welcome {
                version: PROTOCOL_VERSION,
                limits: PeerLimits { requests_max: 64, bulk_window_bytes: 4 << 20 },
                time: Time(1),
            }),
            Request::Open { .. } => Reply::Opened(Arc::clone(&info)),
            Request::Read { chunk, .. } => {
                if left == 0 {
                    return;
                }
                left -= 1;
                let at = chunk as usize * CHUNK as usize;
                let len = info.shape.chunk_len(chunk).unwrap() as usize;
                let mut chunk = bytes[at..at + len].to_vec();
                if matches!(manner, Manner::Lies) {
                    chunk[0] ^= 1;
                }
                Reply::Data(chunk.into())
            }
            other => panic!("{other:?} was not to be asked"),
        };
        let (now, session) = endpoint.at();
        session.respond(now, token, reply);
    }
}

fn node(seed: u8) -> NodeId {
    key(seed).node()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_holders_give_one_region_and_each_its_part() {
    let bytes = content(20_000_001);
    let mut sources = Vec::new();
    for seed in 1..=4 {
        sources.push(source(seed, &bytes, Manner::Honest).await);
    }
    let gathered = gather(sources, theta(), None, None).await.unwrap();
    assert!(gathered.memory == bytes);
    assert!(gathered.dropped.is_empty(), "{:?}", gathered.dropped);
    assert_eq!(gathered.from.values().sum::<u64>(), bytes.len() as u64);
    assert!(gathered.from.len() >= 2, "{:?}", gathered.from);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_and_one_that_dies_are_dropped_and_nothing_of_a_lie_stays() {
    let bytes = content(10_000_001);
    let root = RegionInfo::of(1, &bytes, CHUNK).unwrap().root;
    let other = content(10_000_000);
    let sources = vec![
        source(1, &bytes, Manner::Lies).await,
        source(2, &bytes, Manner::Dies(3)).await,
        source(3, &bytes, Manner::Honest).await,
        source(4, &other, Manner::Honest).await,
    ];
    let gathered = gather(sources, theta(), Some(root), None).await.unwrap();
    assert!(gathered.memory == bytes);
    let mut dropped: Vec<_> = gathered.dropped.iter().map(|dropped| dropped.node).collect();
    dropped.sort();
    let mut expected = vec![node(1), node(2), node(4)];
    expected.sort();
    assert_eq!(dropped, expected, "{:?}", gathered.dropped);
    assert!(!gathered.from.contains_key(&node(1)), "a lie was taken");
    assert!(!gathered.from.contains_key(&node(4)), "another content was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_the_last_holder_died_is_not_asked_for_again() {
    let bytes = content(100 * CHUNK as usize);
    let dying =
        vec![source(1, &bytes, Manner::Dies(20)).await, source(2, &bytes, Manner::Dies(30)).await];
    let failed = gather(dying, theta(), None, None).await.unwrap_err();
    assert_eq!(failed.dropped.len(), 2, "{failed}");
    let have = failed.partial.as_ref().unwrap().1.have.count();
    assert!((1..=50).contains(&have), "{have}");

    let rest = vec![source(3, &bytes, Manner::Honest).await];
    let gathered = gather(rest, theta(), None, failed.partial).await.unwrap();
    assert!(gathered.memory == bytes);
    assert_eq!(gathered.count.requested, u64::from(100 - have));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_about_the_shape_neither_ends_a_gather_nor_costs_what_has_arrived() {
    // The one who opened first was believed: the honest were dropped for their other shape, and a
    // resumed partial was thrown away when a liar announced another one.
    let bytes = content(100 * CHUNK as usize - 7);
    let root = Some(RegionInfo::of(1, &bytes, CHUNK).unwrap().root);
    let liar = vec![source(1, &bytes, Manner::Shortens).await];
    let failed = gather(liar, theta(), root, None).await.unwrap_err();
    let have = failed.partial.as_ref().unwrap().1.have.count();
    assert_eq!(have, 99, "all but the chunk that shows the lie: {failed}");

    // The memory has the liar's shape. An honest holder goes on with it, and a liar beside it is found out.
    let next =
        vec![source(2, &bytes, Manner::Shortens).await, source(3, &bytes, Manner::Honest).await];
    let gathered = gather(next, theta(), root, failed.partial).await.unwrap();
    assert!(gathered.memory == bytes);
    assert!(gathered.dropped.iter().all(|dropped| dropped.node == node(2)), "{gathered:?}");

    // What is there shows the truth: the liar is dropped at once, and the partial stays.
    let dying = vec![source(4, &bytes, Manner::Dies(30)).await];
    let failed = gather(dying, theta(), root, None).await.unwrap_err();
    let (info, mut partial) = failed.partial.unwrap();
    let last = info.chunk_count() - 1;
    let at = last as usize * CHUNK as usize;
    partial.memory[at..].copy_from_slice(&bytes[at..]);
    partial.have.insert(last);
    let have = partial.have.count();
    let liar = vec![source(5, &bytes, Manner::Shortens).await];
    let failed = gather(liar, theta(), root, Some((info, partial))).await.unwrap_err();
    assert_eq!(failed.partial.as_ref().unwrap().1.have.count(), have, "{failed}");
    let honest = vec![source(6, &bytes, Manner::Honest).await];
    let gathered = gather(honest, theta(), root, failed.partial).await.unwrap();
    assert!(gathered.memory == bytes);
    assert_eq!(gathered.count.requested, u64::from(100 - have));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_holder_at_all_is_told_with_the_reasons() {
    let failed = gather(Vec::new(), theta(), None, None).await.unwrap_err();
    assert!(failed.to_string().contains("none was given"), "{failed}");
    let bytes = content(100_000);
    let sources = vec![source(1, &bytes, Manner::Honest).await];
    let wrong = Some(Hash([7; 32]));
    let failed = gather(sources, theta(), wrong, None).await.unwrap_err();
    assert!(failed.partial.is_none());
    assert!(failed.to_string().contains("root"), "{failed}");
}
