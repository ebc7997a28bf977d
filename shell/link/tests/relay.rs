//! The relay of a city, on loopback. Each test is bounded in time.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use suanli_identity::SecretKey;
use suanli_link::quic::{QuicAddr, QuicEndpoint, QuicOptions, Relay};
use suanli_link::{Link, LinkError, LinkKind, RelayAddr, RelayPass, Remote};
use suanli_rdpa::{Direction, Frame, Header, Opcode};

const PATIENCE: Duration = Duration::from_secs(20);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn pass() -> RelayPass {
    RelayPass::from_bytes([7; 32])
}

async fn relay() -> (Relay, String) {
    let relay = Relay::start(any(), pass()).await.unwrap();
    let url = relay.url("127.0.0.1");
    (relay, url)
}

/// An endpoint that has no UDP socket: the relay is its only way.
async fn behind(url: &str, seed: u8, pass: Option<RelayPass>) -> QuicEndpoint {
    let relay = RelayAddr { url: url.to_owned(), pass };
    let options = QuicOptions { bind: vec![], relays: vec![relay], ..QuicOptions::on(any()) };
    QuicEndpoint::bind(&key(seed), options).await.unwrap()
}

async fn join(family: &QuicEndpoint, city: &QuicEndpoint, addr: &QuicAddr) -> (Link, Link) {
    let both = async {
        tokio::join!(family.connect(addr, PATIENCE), async {
            city.accept().await?.handshake().await
        })
    };
    let (one, other) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    (one.unwrap(), other.unwrap())
}

fn frame(number: u64, len: usize) -> Frame {
    let header = Header::new(Opcode::Write, Direction::Request, number);
    Frame::new(header, Bytes::from(vec![7; len]))
}

#[tokio::test]
async fn members_that_reach_each_other_in_no_other_way_do_so_by_the_relay() {
    let (_relay, url) = relay().await;
    let (city, family) = (behind(&url, 1, Some(pass())).await, behind(&url, 2, Some(pass())).await);
    assert!(city.relayed(PATIENCE).await);
    let addr = QuicAddr { node: key(1).node(), direct: vec![], relay: Some(url.clone()) };
    let (one, other) = join(&family, &city, &addr).await;
    assert_eq!(
        (one.kind(), one.peer(), other.peer()),
        (LinkKind::Iroh, key(1).node(), key(2).node())
    );
    for link in [&one, &other] {
        assert!(matches!(link.remote(), Remote::Relay(_)), "{}", link.remote());
        assert!(link.remote().to_string().contains(&url), "{}", link.remote());
    }
    let ((_keep, mut writer), (mut reader, _keep_too)) = (one.split(), other.split());
    let sizes = [0, 5000, 1 << 20, 3 << 20];
    let sending = async {
        for (number, len) in (0..).zip(sizes) {
            writer.push(&frame(number, len));
            writer.flush().await.unwrap();
        }
    };
    let receiving = async {
        let mut bytes = 0;
        for _ in sizes {
            bytes += reader.next().await.unwrap().unwrap().payload().len();
        }
        assert_eq!(bytes, sizes.iter().sum::<usize>());
    };
    let both = async { tokio::join!(sending, receiving) };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
}

#[tokio::test]
async fn who_has_not_the_pass_is_turned_away_by_the_relay() {
    let (_relay, url) = relay().await;
    let city = behind(&url, 1, Some(pass())).await;
    assert!(city.relayed(PATIENCE).await);
    for wrong in [None, Some(RelayPass::from_bytes([8; 32]))] {
        let stranger = behind(&url, 9, wrong).await;
        assert!(!stranger.relayed(Duration::from_secs(2)).await);
        let addr = QuicAddr { node: key(1).node(), direct: vec![], relay: Some(url.clone()) };
        let error = stranger.connect(&addr, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_relay_whose_port_is_in_use_says_so() {
    let (relay, _) = relay().await;
    let again = Relay::start(relay.local_addr(), pass()).await.unwrap_err();
    assert!(matches!(again, LinkError::PortInUse { .. }), "{again}");
    relay.close().await;
}
