//! Dialling a node by all its ways: which is taken, and what is said of it.

#![cfg(feature = "iroh")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::time::Duration;
use suanli_identity::SecretKey;
use suanli_link::dial::{Dialer, Prefer, Why};
use suanli_link::quic::{QuicEndpoint, QuicOptions};
use suanli_link::{Link, LinkKind, LinkLimits, Listener, Way};

const LIMIT: Duration = Duration::from_secs(5);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn way(text: &str) -> Way {
    text.parse().unwrap()
}

/// A node that listens by TCP, and the way to it. Its links are kept until the test ends.
async fn tcp_node(key: &SecretKey) -> Way {
    let listener = Listener::bind(any(), key, LinkLimits::default()).await.unwrap();
    let way = way(&listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        let mut links: Vec<Link> = Vec::new();
        loop {
            let incoming = listener.accept().await.unwrap();
            links.extend(incoming.handshake().await);
        }
    });
    way
}

/// The same by QUIC.
async fn quic_node(key: &SecretKey) -> Way {
    let endpoint = QuicEndpoint::bind(key, QuicOptions::on(any())).await.unwrap();
    let way = way(&format!("quic:{}", endpoint.local_addrs()[0]));
    tokio::spawn(async move {
        let mut links: Vec<Link> = Vec::new();
        while let Ok(stranger) = endpoint.accept().await {
            links.extend(stranger.handshake().await);
        }
    });
    way
}

/// A socket that takes connections and says nothing, and one that takes packets and says nothing.
async fn silent() -> (Way, Way, (tokio::net::TcpListener, tokio::net::UdpSocket)) {
    let tcp = tokio::net::TcpListener::bind(any()).await.unwrap();
    let udp = tokio::net::UdpSocket::bind(any()).await.unwrap();
    let ways = (
        way(&tcp.local_addr().unwrap().to_string()),
        way(&format!("quic:{}", udp.local_addr().unwrap())),
    );
    (ways.0, ways.1, (tcp, udp))
}

fn refused() -> Way {
    // Nobody listens on the port of a socket that is gone again.
    let gone = std::net::TcpListener::bind(any()).unwrap().local_addr().unwrap();
    way(&gone.to_string())
}

#[tokio::test]
async fn within_one_machine_tcp_is_taken_and_quic_not_even_tried() {
    let (ours, theirs) = (key(1), key(2));
    let ways = [quic_node(&theirs).await, tcp_node(&theirs).await];
    let dialer = Dialer::new(&ours, theirs.node(), &ways, Prefer::Auto, false);
    let dialled = dialer.dial(LIMIT).await.unwrap();
    assert_eq!((dialled.link.kind(), dialled.report.why), (LinkKind::Tls, Why::Near));
    assert_eq!(dialled.report.attempts.len(), 1);
    dialer.close().await;
}

#[tokio::test]
async fn the_kind_that_was_asked_for_is_the_only_one() {
    let (ours, theirs) = (key(1), key(2));
    let ways = [quic_node(&theirs).await, tcp_node(&theirs).await];
    for (prefer, kind) in [(Prefer::Quic, LinkKind::Iroh), (Prefer::Tcp, LinkKind::Tls)] {
        let dialer = Dialer::new(&ours, theirs.node(), &ways, prefer, false);
        let dialled = dialer.dial(LIMIT).await.unwrap();
        assert_eq!((dialled.link.kind(), dialled.report.why), (kind, Why::Asked));
        assert_eq!(dialled.link.peer(), theirs.node());
        dialer.close().await;
    }
    let dialer = Dialer::new(&ours, theirs.node(), &ways[..1], Prefer::Tcp, false);
    let error = dialer.dial(LIMIT).await.unwrap_err();
    assert!(error.attempts.is_empty() && error.to_string().contains("no address"), "{error}");
}

#[tokio::test]
async fn the_other_kind_takes_over_when_the_first_is_refused() {
    let (ours, theirs) = (key(1), key(2));
    let ways = [refused(), quic_node(&theirs).await];
    let dialer = Dialer::new(&ours, theirs.node(), &ways, Prefer::Auto, false);
    let dialled = dialer.dial(LIMIT).await.unwrap();
    assert_eq!((dialled.link.kind(), dialled.report.why), (LinkKind::Iroh, Why::OtherFailed));
    let attempts = &dialled.report.attempts;
    assert!(attempts[0].outcome.as_ref().unwrap().is_err() && attempts.len() == 2);
    dialer.close().await;
}

#[tokio::test]
async fn the_other_kind_takes_over_when_the_first_says_nothing() {
    let (ours, theirs) = (key(1), key(2));
    let (tcp, _, _held) = silent().await;
    let ways = [tcp, quic_node(&theirs).await];
    let dialer = Dialer::new(&ours, theirs.node(), &ways, Prefer::Auto, false);
    let dialled = dialer.dial(LIMIT).await.unwrap();
    assert_eq!((dialled.link.kind(), dialled.report.why), (LinkKind::Iroh, Why::OtherSlow));
    assert!(dialled.report.took < LIMIT, "{:?}", dialled.report.took);
    assert!(dialled.report.attempts[0].outcome.is_none(), "the silent one is still under way");
    dialer.close().await;
}

#[tokio::test]
async fn a_second_address_of_the_same_kind_is_tried_at_once() {
    let (ours, theirs) = (key(1), key(2));
    let (silent_tcp, _, _held) = silent().await;
    let ways = [silent_tcp, tcp_node(&theirs).await];
    let dialer = Dialer::new(&ours, theirs.node(), &ways, Prefer::Auto, false);
    let dialled = dialer.dial(LIMIT).await.unwrap();
    assert_eq!((dialled.link.kind(), dialled.report.why), (LinkKind::Tls, Why::Only));
}

#[tokio::test]
async fn another_node_at_the_address_is_told_apart_from_nobody() {
    let (ours, theirs, stranger) = (key(1), key(2), key(3));
    for other in [tcp_node(&stranger).await, quic_node(&stranger).await] {
        let dialer = Dialer::new(&ours, theirs.node(), &[other], Prefer::Auto, false);
        let error = dialer.dial(LIMIT).await.unwrap_err();
        assert!(error.wrong_key().is_some(), "{error}");
        dialer.close().await;
    }
    let (tcp, quic, _held) = silent().await;
    let dialer = Dialer::new(&ours, theirs.node(), &[tcp, quic], Prefer::Auto, false);
    let error = dialer.dial(Duration::from_millis(900)).await.unwrap_err();
    assert!(error.wrong_key().is_none() && error.attempts.len() == 2, "{error}");
    assert!(error.to_string().contains("none of 2 ways"), "{error}");
    dialer.close().await;
}

#[tokio::test]
async fn the_right_node_is_found_though_another_answers_first() {
    let (ours, theirs, stranger) = (key(1), key(2), key(3));
    let ways = [tcp_node(&stranger).await, tcp_node(&theirs).await];
    let dialer = Dialer::new(&ours, theirs.node(), &ways, Prefer::Auto, false);
    assert_eq!(dialer.dial(LIMIT).await.unwrap().link.peer(), theirs.node());
}
