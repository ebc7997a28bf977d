//! A sender that had nothing to say for a while still knows, or finds out at once, what its path
//! carries.

#![cfg(feature = "iroh")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use suanli_identity::{Role, SecretKey};
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions};
use suanli_link::reader::Reader;
use suanli_rdpa::{Hello, Level, Limits, RegionName, StageKind};

const BYTES: usize = 4 << 20;
/// Loopback carries 4 MiB in 20 ms; found to be 2 s when heart-beats were taken for the path's rate.
const MOST: Duration = Duration::from_millis(700);

async fn endpoint(seed: u8) -> QuicEndpoint {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let key = SecretKey::from_seed(&[seed; 32]);
    QuicEndpoint::bind(&key, QuicOptions::on(any)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_is_quick_after_many_small_questions_both_ways() {
    let (theirs, ours) = (endpoint(1).await, endpoint(2).await);
    let node = SecretKey::from_seed(&[1; 32]).node();
    let addr = QuicAddr { node, direct: theirs.local_addrs(), relay: None };
    let holder = Holder::new(HolderLimits::default());
    let theta = RegionName::new("theta").unwrap();
    holder.publish(&theta, vec![1; BYTES].into(), 1 << 20).unwrap();
    let held = Arc::clone(&holder);
    let serving = tokio::spawn(async move {
        let link = theirs.accept().await.unwrap().handshake().await.unwrap();
        serve(link, held, OpenDoor, Limits::reliable(), 1).await;
    });
    let link = ours.connect(&addr, Duration::from_secs(5)).await.unwrap();
    let mut reader = Reader::connect(link, Hello::new(Role::Watch, vec![]), 3).await.unwrap();
    for _ in 0..50 {
        reader.stat(None).await.unwrap();
    }
    let opened = reader.open(theta).await.unwrap();
    let mut memory = vec![0; BYTES];
    let begun = Instant::now();
    reader.read(&opened, &mut memory).await.unwrap();
    let down = begun.elapsed();
    let begun = Instant::now();
    let name = RegionName::new("update").unwrap();
    let update = Bytes::from(vec![2; BYTES]);
    reader.stage(name, StageKind::Write, update, 1 << 20, Level::Placed).await.unwrap();
    let up = begun.elapsed();
    assert!(down < MOST && up < MOST, "{down:?} down, {up:?} up");
    serving.abort();
}
