//! A holder behind a gate: each right opens what it is for, bytes count both ways, a rate delays
//! instead of refusing, and what was revoked stays so.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use suanli_base::Time;
use suanli_identity::{Access, Bounds, Prefix, Rights, Role, SecretKey};
use suanli_link::holder::{Guard, Holder, HolderLimits, serve};
use suanli_link::reader::{ReadError, Reader, RemoteError, RemoteNode};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::{Code, Failure, GateBooks, GateLimits, Hello, Level, Limits, RegionName};

const CHUNK: u32 = 64 << 10;
const MIB: usize = 1 << 20;

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time(since.as_millis().try_into().unwrap())
}

/// Where books go, as a file would.
type Shelf = Arc<Mutex<GateBooks>>;

/// A holder of "job/1/theta" and cells "job/1/cells", behind a guard.
struct Held {
    address: String,
    guard: Arc<Guard>,
    holder: Arc<Holder>,
}

async fn held(shelf: &Shelf, public: &[&str]) -> Held {
    let holder = Holder::new(HolderLimits::default());
    holder.publish(&name("job/1/theta"), vec![7; 4 * MIB].into(), CHUNK).unwrap();
    holder.publish(&name("open/notes"), vec![8; CHUNK as usize].into(), CHUNK).unwrap();
    holder.add_cells(&name("job/1/cells"), 4).unwrap();
    let (books, to) = (shelf.lock().unwrap().clone(), Arc::clone(shelf));
    let keep = Box::new(move |books: &GateBooks| {
        *to.lock().unwrap() = books.clone();
        Ok(())
    });
    let public = public.iter().map(|prefix| Prefix::new(*prefix).unwrap()).collect();
    let guard = Guard::new(key(1).node(), GateLimits::default(), public, books, keep);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key(1), LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (serving, doors) = (Arc::clone(&holder), Arc::clone(&guard));
    tokio::spawn(async move {
        for seed in 1.. {
            let link = listener.accept().await.unwrap().handshake().await.unwrap();
            let (holder, door) = (Arc::clone(&serving), doors.door());
            tokio::spawn(serve(link, holder, door, Limits::reliable(), seed));
        }
    });
    Held { address, guard, holder }
}

impl Held {
    async fn hello(&self, as_whom: &SecretKey, grant: Vec<u8>) -> Result<RemoteNode, ReadError> {
        let patience = Duration::from_secs(10);
        let link = connect(&self.address, as_whom, key(1).node(), patience).await?;
        let reader = Reader::connect(link, Hello::new(Role::Watch, grant), 7).await?;
        Ok(RemoteNode::new(reader))
    }
}

fn bounds(prefix: &str, rights: &str) -> Bounds {
    Bounds {
        prefix: Prefix::new(prefix).unwrap(),
        rights: rights.parse::<Rights>().unwrap(),
        bytes_max: u64::MAX,
        bytes_per_s: u64::MAX,
        not_before: Time(0),
        not_after: Time(now().0 + 3_600_000),
        epoch: 0,
        depth: 0,
    }
}

fn grant(bounds: Bounds) -> Vec<u8> {
    Access::issue(&key(1), key(2).node(), bounds, 1).unwrap().to_bytes()
}

#[track_caller]
fn code<T>(result: Result<T, RemoteError>) -> Option<Code> {
    result.err().expect("expected a refusal").code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_opens_what_it_is_for_and_no_more() {
    let held = held(&Shelf::default(), &[]).await;
    let denied = Some(Code::Unauthorised);
    for has in ["read", "write", "write, commit", "accumulate", "cells", "subscribe"] {
        let guest = held.hello(&key(2), grant(bounds("job/1/", has))).await.unwrap();
        let has: Rights = has.parse().unwrap();
        let may = |rights: &str| rights.parse::<Rights>().unwrap().within(has);

        let opened = guest.open(name("job/1/theta")).await;
        assert_eq!(opened.is_ok(), may("read"), "{has}: read");
        let bytes = Bytes::from(vec![1; 100_000]);
        let written = guest.write(name("job/1/new"), bytes.clone(), CHUNK, 0).await;
        match may("write, commit") {
            true => assert_eq!(written.unwrap(), 1),
            false => assert_eq!(code(written), denied, "{has}: write and commit"),
        }
        let given = guest.accumulate(name("job/1/grad/me"), bytes, CHUNK).await;
        assert_eq!(given.is_ok(), may("accumulate"), "{has}: accumulate");
        let added = guest.fetch_add(name("job/1/cells"), 1, 5).await;
        assert_eq!(added.is_ok(), may("cells"), "{has}: cells");
        let told = guest.subscribe(name("job/1/theta")).await;
        assert_eq!(told.is_ok(), may("subscribe"), "{has}: subscribe");
        // Nobody has a right elsewhere, nor the one to revoke.
        assert_eq!(code(guest.open(name("open/notes")).await), denied);
        assert_eq!(code(guest.revoke("job/1/".to_owned(), 9).await), denied);
        guest.fence(Level::Placed).await.unwrap();
    }
    assert_eq!(held.holder.cell(&name("job/1/cells"), 1), Some(5), "only who may has added");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_count_both_ways_and_over_a_restart() {
    let shelf = Shelf::default();
    let first = held(&shelf, &[]).await;
    let rights = "read, write, commit";
    let limited = Bounds { bytes_max: 5 * MIB as u64, ..bounds("job/1/", rights) };
    let grant = grant(limited);
    let guest = first.hello(&key(2), grant.clone()).await.unwrap();
    let opened = guest.open(name("job/1/theta")).await.unwrap();
    guest.read_verified(opened, 0, vec![0; 2 * MIB]).await.unwrap();
    guest.write(name("job/1/a"), vec![1; 2 * MIB].into(), CHUNK, 0).await.unwrap();
    drop((guest, first));
    // They are kept when the connection has ended on the other side too.
    let used = || shelf.lock().unwrap().used.iter().map(|used| used.bytes).sum::<u64>();
    for _ in 0..1000 {
        if used() == 4 * MIB as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let then = held(&shelf, &[]).await;
    let guest = then.hello(&key(2), grant).await.unwrap();
    let opened = guest.open(name("job/1/theta")).await.unwrap();
    guest.read_verified(opened.clone(), 0, vec![0; MIB]).await.unwrap();
    let more = guest.read_verified(opened, 0, vec![0; CHUNK as usize]).await;
    assert_eq!(code(more), Some(Code::OverBudget));
    let more = guest.write(name("job/1/b"), vec![1; 10].into(), CHUNK, 0).await;
    assert_eq!(code(more), Some(Code::OverBudget));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_delays_what_is_written_and_the_fence_behind_it() {
    let held = held(&Shelf::default(), &[]).await;
    let limited = Bounds { bytes_per_s: MIB as u64, ..bounds("job/1/", "write, commit") };
    let guest = held.hello(&key(2), grant(limited)).await.unwrap();
    let begun = Instant::now();
    let write = guest.write(name("job/1/slow"), vec![1; 3 * MIB].into(), CHUNK, 0);
    assert_eq!(write.await.unwrap(), 1);
    guest.fence(Level::Placed).await.unwrap();
    // Three seconds' worth, of which one second's were there at the beginning.
    let took = begun.elapsed().as_millis();
    assert!((1_900..15_000).contains(&took), "{took} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_open_connections_and_notices_and_is_kept() {
    let shelf = Shelf::default();
    let held = held(&shelf, &[]).await;
    let bytes = grant(bounds("job/1/", "read, subscribe"));
    let guest = held.hello(&key(2), bytes.clone()).await.unwrap();
    let mut versions = guest.subscribe(name("job/1/theta")).await.unwrap();
    held.holder.publish(&name("job/1/theta"), vec![9; MIB].into(), CHUNK).unwrap();
    assert_eq!(versions.newer_than(1).await.unwrap(), 2);

    let operator = grant(bounds("job/1/", "revoke"));
    let operator = held.hello(&key(2), operator).await.unwrap();
    assert_eq!(operator.revoke("job/1/theta".to_owned(), 3).await.unwrap(), 3);
    assert_eq!(shelf.lock().unwrap().epochs.len(), 1, "kept before it was acknowledged");
    assert_eq!(code(guest.open(name("job/1/theta")).await), Some(Code::Unauthorised));
    held.holder.publish(&name("job/1/theta"), vec![10; MIB].into(), CHUNK).unwrap();
    // Whatever was told before this answer has arrived.
    guest.fence(Level::Placed).await.unwrap();
    let told = tokio::time::timeout(Duration::from_millis(300), versions.newer_than(2)).await;
    assert!(told.is_err(), "{told:?}");

    assert_eq!(held.guard.revoke_all(Prefix::all()).unwrap(), 4);
    let again = held.hello(&key(2), bytes).await;
    assert!(matches!(
        again,
        Err(ReadError::Failed(Failure::Refused { code: Code::Unauthorised, .. }))
    ));
    let epoch = held.guard.epoch();
    let new = grant(Bounds { epoch, ..bounds("job/1/", "read") });
    held.hello(&key(2), new).await.unwrap().open(name("job/1/theta")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_cannot_be_kept_is_not_acknowledged() {
    let keep = Box::new(|_: &GateBooks| Err(std::io::ErrorKind::StorageFull.into()));
    let books = GateBooks::default();
    let guard = Guard::new(key(1).node(), GateLimits::default(), Vec::new(), books, keep);
    let refusal = guard.revoke_all(Prefix::all()).unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable, "{}", refusal.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_needs_no_grant_and_the_owner_none_at_all() {
    let held = held(&Shelf::default(), &["open/"]).await;
    let guest = held.hello(&key(5), Vec::new()).await.unwrap();
    let opened = guest.open(name("open/notes")).await.unwrap();
    guest.read_verified(opened, 0, vec![0; CHUNK as usize]).await.unwrap();
    assert_eq!(code(guest.open(name("job/1/theta")).await), Some(Code::Unauthorised));
    let bytes = Bytes::from_static(b"x");
    let written = guest.write(name("open/notes"), bytes.clone(), CHUNK, 1).await;
    assert_eq!(code(written), Some(Code::Unauthorised));
    let owner = held.hello(&key(1), Vec::new()).await.unwrap();
    assert_eq!(owner.write(name("open/notes"), bytes, CHUNK, 1).await.unwrap(), 2);
}
