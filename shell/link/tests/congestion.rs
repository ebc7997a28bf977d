//! What the two ways of finding a rate give over an emulated home's link: the measurement behind the
//! default of [`Congestion`].
//!
//! Needs root (or a user namespace) and a quiet machine:
//! `cargo test -p suanli-link --features emulator --test congestion -- --ignored --nocapture`.
#![cfg(all(target_os = "linux", feature = "iroh"))]
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use suanli_identity::SecretKey;
use suanli_link::emulator::{Emulator, Side};
use suanli_link::quic::{Congestion, QuicAddr, QuicEndpoint, QuicOptions};
use suanli_link_model::{Direction, Order, Profile, Span};
use suanli_rdpa::{Direction as Way, Frame, Header, Opcode};

const CHUNKS: u64 = 16;
const PATIENCE: Duration = Duration::from_secs(90);

/// 100 Mbit/s, 30 ms there and back, a queue of one bandwidth-delay product.
fn home(loss_ppm: u32) -> Profile {
    let direction = Direction {
        bits_per_s: 100_000_000,
        delay: Span::from_ms(15),
        jitter: Span::ZERO,
        loss_ppm,
        queue_bytes: 1500,
        order: Order::Kept,
    };
    let down = Direction { loss_ppm: 0, ..direction };
    Profile { up: direction, down }.with_queues_of_bdp(1000)
}

fn options(side: &Side, congestion: Congestion) -> QuicOptions {
    QuicOptions { congestion, ..QuicOptions::on((side.address(), 0).into()) }
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

/// Mbit/s of chunks that arrive.
fn upload(loss_ppm: u32, congestion: Congestion) -> f64 {
    let emulator = Emulator::start(home(loss_ppm), 7).expect("root, or a user namespace");
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    let (city, family) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let node = city.node();
    let (near, far) = (emulator.side_a(), emulator.side_b());
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            far.enter().unwrap();
            on_one_thread(async {
                let end = QuicEndpoint::bind(&city, options(far, congestion)).await.unwrap();
                tell.send(end.local_addrs()[0]).unwrap();
                let link = end.accept().await.unwrap().handshake().await.unwrap();
                let (mut reader, _keep) = link.split();
                let start = Instant::now();
                let mut bytes = 0;
                for _ in 0..CHUNKS {
                    let frame = reader.next().await.unwrap().unwrap();
                    bytes += frame.payload().len();
                }
                let rate = bytes as f64 * 8e-6 / start.elapsed().as_secs_f64();
                end.close().await;
                rate
            })
        });
        let addr = QuicAddr { node, direct: vec![told.recv().unwrap()], relay: None };
        scope.spawn(move || {
            near.enter().unwrap();
            on_one_thread(async {
                let end = QuicEndpoint::bind(&family, options(near, congestion)).await.unwrap();
                let link = end.connect(&addr, PATIENCE).await.unwrap();
                let (mut reader, mut writer) = link.split();
                let chunk = Bytes::from(vec![7; 1 << 20]);
                for number in 0..CHUNKS {
                    while writer.is_full() {
                        writer.write_some().await.unwrap();
                    }
                    let header = Header::new(Opcode::Write, Way::Request, number);
                    writer.push(&Frame::new(header, chunk.clone()));
                }
                writer.flush().await.unwrap();
                // Until the other side has it all and goes.
                let _ = reader.next().await;
            });
        });
        receiving.join().unwrap()
    })
}

#[test]
#[ignore = "needs root and a quiet machine"]
fn bbr_holds_its_rate_where_cubic_does_not() {
    for loss_ppm in [0, 1000, 5000] {
        let [bbr, cubic] = [Congestion::Bbr, Congestion::Cubic].map(|way| {
            let rate = upload(loss_ppm, way);
            println!("loss {loss_ppm} ppm, {way:?}: {rate:.1} Mbit/s");
            rate
        });
        assert!(loss_ppm < 5000 || bbr > 2.0 * cubic, "BBR {bbr:.1}, CUBIC {cubic:.1}");
    }
}
