//! A holder behind a gate: each right opens what it is for, bytes count both ways, a rate delays
//! instead of refusing, and what was revoked stays so.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use suanli_base::Time;
use suanli_identity::{Access, Bounds, Prefix, Rights, Role, SecretKey};
use suanli_link::Lane;
use suanli_link::holder::{Guard, Holder, HolderLimits, serve};
use suanli_link::reader::{ReadError, Reader, RemoteError, RemoteNode};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::{
    Code, Direction, Failure, Frame, GateBooks, GateLimits, HEADER_BYTES, Header, Hello, Level,
    Limits, Opcode, RegionInfo, RegionName,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

/// One lane, driven by hand.
struct Raw(Lane);

impl Raw {
    async fn hello(held: &Held, as_whom: &SecretKey, grant: Vec<u8>) -> Self {
        let patience = Duration::from_secs(10);
        let link = connect(&held.address, as_whom, key(1).node(), patience).await.unwrap();
        let mut raw = Self(link.into_lanes().remove(0));
        // Versions 2 to 2, role watch, the grant: as postcard writes it.
        let hello = [&[2, 2, 3][..], &leb128(grant.len()), &grant].concat();
        raw.send(Header::new(Opcode::Hello, Direction::Request, 1), &hello).await;
        assert_eq!(raw.answer().await.header().status, None);
        raw
    }

    async fn send(&mut self, header: Header, payload: &[u8]) {
        let frame = Frame::unhashed(header, Bytes::copy_from_slice(payload)).to_bytes();
        self.0.writer.write_all(&frame).await.unwrap();
        self.0.writer.flush().await.unwrap();
    }

    async fn answer(&mut self) -> Frame {
        let mut bytes = vec![0; HEADER_BYTES];
        self.0.reader.read_exact(&mut bytes).await.unwrap();
        let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
        let mut payload = vec![0; len as usize];
        self.0.reader.read_exact(&mut payload).await.unwrap();
        bytes.extend(payload);
        Frame::from_bytes(bytes.into()).unwrap()
    }

    async fn answer_to(&mut self, request: u64) -> Frame {
        loop {
            let frame = self.answer().await;
            if frame.header().request == request {
                return frame;
            }
        }
    }
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push((number % 128) as u8 | 128);
        number /= 128;
    }
    bytes.push(number as u8);
    bytes
}

/// Peak memory of this process in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_rate_and_is_no_longer_wanted_is_forgotten() {
    // A WRITE that waited for its rate stayed with the holder when it was cancelled, or left behind
    // by 1 024 requests, while the session counted its window free: 4 MiB more each time.
    let held = held(&Shelf::default(), &[]).await;
    let limited = Bounds { bytes_per_s: 1, ..bounds("job/1/", "write") };
    let grant = grant(limited);
    let chunk = vec![7; 4 * MIB];
    let info = RegionInfo::of(0, &chunk, 4 * MIB as u32).unwrap();
    // A name, kind write, length and chunk length, root.
    let length = leb128(chunk.len());
    let body = [&b"\x07job/1/x\x00"[..], &length, &length, &info.root.0].concat();
    let before = peak_bytes();
    for step in [1, 1025] {
        let mut raw = Raw::hello(&held, &key(2), grant.clone()).await;
        let ask = |opcode, request| Header::new(opcode, Direction::Request, request);
        raw.send(ask(Opcode::OpenStage, 2), &body).await;
        let handle = raw.answer_to(2).await.header().handle;
        for count in 1..=50 {
            let write = ask(Opcode::Write, 2 + count * step);
            raw.send(Header { handle, ..write }, &chunk).await;
            if step == 1 {
                raw.send(ask(Opcode::Cancel, write.request), &[]).await;
            }
        }
        // STAT waits for nothing: when it is answered, all before it was taken in.
        raw.send(ask(Opcode::Stat, 3 + 50 * step), &[0]).await;
        raw.answer_to(3 + 50 * step).await;
    }
    let grown = peak_bytes() - before;
    assert!(grown < 100 << 20, "{} MiB kept of 400 that were sent", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_takes_back_handles_and_with_them_pins() {
    // Each operation of a revoked guest was refused, but its handles stayed, and with them its pins,
    // until it chose to disconnect.
    let held = held(&Shelf::default(), &[]).await;
    let theta = name("job/1/theta");
    let guest = held.hello(&key(2), grant(bounds("job/1/", "read"))).await.unwrap();
    let opened = guest.open(theta.clone()).await.unwrap();
    held.holder.publish(&theta, vec![9; MIB].into(), CHUNK).unwrap();
    let owner = held.hello(&key(1), Vec::new()).await.unwrap();
    let kept = owner.open(theta.clone()).await.unwrap();
    let oldest = async || owner.stat(Some(theta.clone())).await.unwrap().region.unwrap().oldest;
    assert_eq!(oldest().await, 1, "the guest has version 1 open");
    held.guard.revoke_all(Prefix::new("job/1/").unwrap()).unwrap();
    // Its connection learns of it when it comes to it; each question gives it time.
    for _ in 0..10_000 {
        if oldest().await == 2 {
            break;
        }
    }
    assert_eq!(oldest().await, 2, "though the guest is still connected");
    let read = guest.read_verified(opened, 0, vec![0; 10]).await;
    assert_eq!(code(read), Some(Code::BadHandle));
    assert_eq!(code(guest.open(theta).await), Some(Code::Unauthorised));
    owner.read_verified(kept, 0, vec![0; 10]).await.unwrap();
}
