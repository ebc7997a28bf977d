//! A holder and readers that reach it over TLS on loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod holding;
mod staging;

use std::sync::Arc;
use std::time::Duration;
use suanli_identity::{Role, SecretKey};
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::{ReadError, Reader};
use suanli_link::{LinkLimits, Listener, connect};
use suanli_rdpa::{Code, Failure, Hello, Limits, RegionName};

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// A holder of nothing, and where it listens.
async fn place(limits: HolderLimits) -> (Arc<Holder>, String) {
    let holder = Holder::new(limits);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key(1), LinkLimits::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = Arc::clone(&holder);
    tokio::spawn(async move {
        for seed in 1.. {
            let link = listener.accept().await.unwrap().handshake().await.unwrap();
            tokio::spawn(serve(link, serving.clone(), OpenDoor, Limits::reliable(), seed));
        }
    });
    (holder, address)
}

async fn peer(address: &str, seed: u8) -> Reader {
    let link = connect(address, &key(seed), key(1).node(), Duration::from_secs(10)).await.unwrap();
    Reader::connect(link, Hello::new(Role::Watch, Vec::new()), 7).await.unwrap()
}

#[track_caller]
fn code<T>(result: Result<T, ReadError>) -> Code {
    match result.err().expect("expected a refusal") {
        ReadError::Failed(Failure::Refused { code, .. }) => code,
        other => panic!("{other}"),
    }
}
