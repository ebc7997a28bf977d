//! The emulated link against what it promises, with the kernel's own UDP and TCP.
//!
//! Needs root (or a user namespace) and a quiet machine, so these run only when asked:
//! `cargo test -p suanli-link --features emulator --test emulator -- --ignored --test-threads 1`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_tcp_congestion, tcp_congestion};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use suanli_link::emulator::{Emulator, EmulatorError, Report};
use suanli_link_model::{Direction, Order, Profile, Span};

/// Bytes of IP and UDP headers, which the model counts and a socket does not.
const UDP_HEADERS: usize = 28;
/// What fits into a packet of the usual size.
const PAYLOAD: usize = 1500 - UDP_HEADERS;

/// Both directions alike, 15 ms each, a queue of one bandwidth-delay product.
fn home(mbit_per_s: u64) -> Profile {
    let direction = Direction {
        bits_per_s: mbit_per_s * 1_000_000,
        delay: Span::from_ms(15),
        jitter: Span::ZERO,
        loss_ppm: 0,
        queue_bytes: 1500,
        order: Order::Kept,
    };
    Profile { up: direction, down: direction }.with_queues_of_bdp(1000)
}

fn with_loss(mut profile: Profile, loss_ppm: u32) -> Profile {
    profile.up.loss_ppm = loss_ppm;
    profile
}

fn start(profile: Profile) -> Emulator {
    Emulator::start(profile, 7).expect("root, or a user namespace, and /dev/net/tun")
}

/// A socket in the far side that gives up when nothing comes for half a second.
fn far_socket(emulator: &Emulator) -> (UdpSocket, SocketAddr) {
    let address = emulator.side_b().address();
    let socket = emulator.side_b().run_in(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // The receiver may have to wait for a processor.
    set_socket_recv_buffer_size(&socket, 4 << 20).unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

fn home_socket(emulator: &Emulator, to: SocketAddr) -> UdpSocket {
    let address = emulator.side_a().address();
    let socket = emulator.side_a().run_in(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket
}

/// Sends full packets at `mbit_per_s` for `span`; says how many.
fn blast(socket: &UdpSocket, mbit_per_s: u64, span: Duration) -> u64 {
    let (began, packet) = (Instant::now(), [7; PAYLOAD]);
    let mut sent = 0;
    while began.elapsed() < span {
        let due = began.elapsed().as_micros() * u128::from(mbit_per_s) / 12_000;
        while u128::from(sent) < due {
            socket.send(&packet).unwrap();
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    sent
}

struct Received {
    packets: u64,
    mbit_per_s: f64,
}

/// Receives full packets until none comes for half a second.
fn receive(socket: &UdpSocket) -> Received {
    let (mut packets, mut first, mut last) = (0, None, Instant::now());
    let mut packet = [0; 2048];
    while socket.recv(&mut packet).is_ok() {
        packets += 1;
        last = Instant::now();
        first.get_or_insert(last);
    }
    let span = last - first.unwrap_or(last);
    let bits = (packets - 1) as f64 * 12_000.0;
    Received { packets, mbit_per_s: bits / span.as_secs_f64() / 1e6 }
}

fn blast_and_receive(emulator: &Emulator, mbit_per_s: u64, span: Duration) -> (u64, Received) {
    let (far, at) = far_socket(emulator);
    let home = home_socket(emulator, at);
    let receiver = std::thread::spawn(move || receive(&far));
    let sent = blast(&home, mbit_per_s, span);
    (sent, receiver.join().unwrap())
}

/// No figure counts when the machine could not keep up.
fn check_kept_up(report: &Report) {
    println!("{report:?}");
    for direction in [report.up, report.down] {
        assert_eq!(direction.missed_packets, 0, "the machine is too busy for this measurement");
        assert_eq!(direction.refused_packets, 0);
    }
}

#[test]
#[ignore = "makes network namespaces"]
fn udp_beyond_the_rate_arrives_at_the_rate_and_the_queue_drops_the_rest() {
    for mbit_per_s in [10, 100, 300] {
        let emulator = start(home(mbit_per_s));
        let (sent, received) =
            blast_and_receive(&emulator, mbit_per_s * 3 / 2, Duration::from_millis(1500));
        let report = emulator.report().unwrap();
        println!("{mbit_per_s} Mbit/s nominal, {:.2} measured", received.mbit_per_s);
        check_kept_up(&report);
        let counts = report.up.counts;
        assert!((received.mbit_per_s / mbit_per_s as f64 - 1.0).abs() < 0.05);
        assert_eq!(counts.offered_packets, sent);
        assert_eq!(counts.delivered_packets, received.packets);
        assert_eq!(counts.dropped_by_queue, sent - received.packets);
        assert!(counts.dropped_by_queue > sent / 5, "{counts:?}");
        let queue = home(mbit_per_s).up.queue_bytes;
        assert!((queue - 1500..=queue).contains(&counts.queue_bytes_max), "{counts:?}");
    }
}

#[test]
#[ignore = "makes network namespaces"]
fn a_round_trip_takes_both_delays() {
    let emulator = start(home(100));
    let (far, at) = far_socket(&emulator);
    let home = home_socket(&emulator, at);
    home.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let echo = std::thread::spawn(move || {
        let mut packet = [0; 100];
        while let Ok((bytes, from)) = far.recv_from(&mut packet) {
            far.send_to(&packet[..bytes], from).unwrap();
        }
    });
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            let began = Instant::now();
            home.send(&[1; 64]).unwrap();
            home.recv(&mut [0; 100]).unwrap();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    echo.join().unwrap();
    times.sort_by(f64::total_cmp);
    println!(
        "round trip: least {:.3} ms, median {:.3}, most {:.3}",
        times[0], times[25], times[49]
    );
    check_kept_up(&emulator.report().unwrap());
    assert!(times[0] >= 30.0, "nothing arrives before its time");
    assert!(times[25] <= 30.0 * 1.05 + 1.0, "{}", times[25]);
}

#[test]
#[ignore = "makes network namespaces"]
fn the_line_loses_the_share_it_was_told() {
    let emulator = start(with_loss(home(200), 20_000));
    let (sent, received) = blast_and_receive(&emulator, 100, Duration::from_secs(2));
    let report = emulator.report().unwrap();
    check_kept_up(&report);
    let counts = report.up.counts;
    assert_eq!(sent, received.packets + counts.dropped_by_loss + counts.dropped_by_queue);
    let share = counts.dropped_by_loss as f64 / sent as f64;
    let deviation = (0.02 * 0.98 / sent as f64).sqrt();
    println!("loss 2 % nominal, {:.3} % of {sent} measured", share * 100.0);
    assert!((share - 0.02).abs() < 5.0 * deviation);
}

/// Sends for `span` over one TCP connection from the home; Mbit/s of what the far side has read,
/// from the second half of the span, when the start is over.
fn tcp_mbit_per_s(emulator: &Emulator, control: &str, span: Duration) -> f64 {
    let address = emulator.side_b().address();
    let bind = || TcpListener::bind((address, 0));
    let listener = emulator.side_b().run_in(bind).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let sender = emulator.side_a().clone();
    let control = control.to_owned();
    let sending = std::thread::spawn(move || {
        sender
            .run_in(|| {
                let mut stream = TcpStream::connect(at).unwrap();
                set_tcp_congestion(&stream, &control).unwrap();
                assert_eq!(tcp_congestion(&stream).unwrap(), control);
                let (began, block) = (Instant::now(), vec![7; 1 << 17]);
                // The reader closes when it has seen enough.
                while began.elapsed() < 2 * span && stream.write_all(&block).is_ok() {}
            })
            .unwrap();
    });
    let (mut stream, _) = listener.accept().unwrap();
    let (began, mut block) = (Instant::now(), vec![0; 1 << 18]);
    let (mut bytes, mut half) = (0_u64, None);
    loop {
        match stream.read(&mut block).unwrap() {
            0 => break,
            read => bytes += read as u64,
        }
        let now = began.elapsed();
        if now > span / 2 {
            half.get_or_insert((now, bytes));
        }
        if now > span {
            break;
        }
    }
    let (now, all) = (began.elapsed(), bytes);
    drop(stream);
    sending.join().unwrap();
    let (since, before) = half.unwrap();
    (all - before) as f64 * 8.0 / (now - since).as_secs_f64() / 1e6
}

fn check_tcp(mbit_per_s: u64, control: &str, share_min: f64) {
    let emulator = start(home(mbit_per_s));
    let measured = tcp_mbit_per_s(&emulator, control, Duration::from_secs(4));
    println!("{control} over {mbit_per_s} Mbit/s: {measured:.1}");
    println!("{:?}", emulator.report().unwrap());
    // 1448 of 1500 bytes are the stream's.
    let most = mbit_per_s as f64 * 1448.0 / 1500.0;
    assert!(measured <= most * 1.1, "no more than the rate, and what waited for the reader");
    assert!(measured >= most * share_min, "{measured} of {most}");
}

#[test]
#[ignore = "makes network namespaces"]
fn tcp_with_bbr_fills_100_mbit_per_s() {
    check_tcp(100, "bbr", 0.8);
}

#[test]
#[ignore = "makes network namespaces"]
fn tcp_with_cubic_fills_100_mbit_per_s() {
    check_tcp(100, "cubic", 0.8);
}

#[test]
#[ignore = "makes network namespaces"]
fn tcp_with_bbr_fills_1000_mbit_per_s() {
    check_tcp(1000, "bbr", 0.7);
}

#[test]
#[ignore = "makes network namespaces"]
fn tcp_with_cubic_fills_1000_mbit_per_s() {
    check_tcp(1000, "cubic", 0.7);
}

#[test]
#[ignore = "makes network namespaces"]
fn a_side_reaches_the_other_side_and_nothing_else() {
    let outside = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let outside = outside.local_addr().unwrap();
    let emulator = start(home(100));
    let reaches = |at: SocketAddr| {
        emulator
            .side_a()
            .run_in(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok())
            .unwrap()
    };
    let address = emulator.side_b().address();
    let far = emulator.side_b().run_in(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    assert!(reaches(far.local_addr().unwrap()));
    assert!(!reaches(outside), "another namespace's loopback is not this one's");
    assert!(TcpStream::connect_timeout(&outside, Duration::from_secs(1)).is_ok());
}

#[test]
#[ignore = "makes network namespaces"]
fn settings_are_of_one_side_and_names_that_are_none_are_refused() {
    let emulator = start(home(100));
    let read = |side: &suanli_link::emulator::Side| {
        let path = "/proc/sys/net/ipv4/tcp_congestion_control";
        side.run_in(|| std::fs::read_to_string(path)).unwrap().unwrap().trim().to_owned()
    };
    emulator.side_a().set_sysctl("net.ipv4.tcp_congestion_control", "reno").unwrap();
    assert_eq!(read(emulator.side_a()), "reno");
    let file = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    assert_eq!(read(emulator.side_b()), file.trim());
    for name in ["net.ipv4/../../kernel.hostname", "kernel.hostname", "net..x", "net.", ""] {
        let refused = emulator.side_a().set_sysctl(name, "1");
        assert!(matches!(refused, Err(EmulatorError::SysctlName { .. })), "{name}: {refused:?}");
    }
    let unknown = emulator.side_a().set_sysctl("net.ipv4.no_such_setting", "1");
    assert!(matches!(unknown, Err(EmulatorError::Sysctl { .. })), "{unknown:?}");
}

#[test]
#[ignore = "makes network namespaces"]
fn a_runtime_whose_threads_enter_a_side_speaks_from_there() {
    let emulator = start(home(100));
    let address = emulator.side_b().address();
    let far = emulator.side_b().run_in(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let at = far.local_addr().unwrap();
    let side = emulator.side_a().clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || side.enter().unwrap())
        .build()
        .unwrap();
    let connected = runtime.spawn(async move { tokio::net::TcpStream::connect(at).await.unwrap() });
    let (stream, from) = far.accept().unwrap();
    assert_eq!(from.ip(), emulator.side_a().address());
    assert_eq!(runtime.block_on(connected).unwrap().local_addr().unwrap(), from);
    drop(stream);
}

#[test]
fn a_profile_outside_its_bounds_makes_no_namespace() {
    let refused = Emulator::start(with_loss(home(100), 2_000_000), 1);
    assert!(matches!(refused, Err(EmulatorError::Profile(_))), "{refused:?}");
}
