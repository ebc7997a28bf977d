//! Counts the bytes between families and city from outside: a listener that hands every byte on.
//! What the nodes say of their own sockets is not asked.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes on the way, and both counts.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

/// A relay to one address. Its threads end with their connections, the listening one with us.
#[derive(Debug)]
pub(in crate::whole) struct Relay {
    address: String,
    counts: Arc<Counts>,
}

impl Relay {
    /// Listens on loopback and hands on to `target`.
    pub(in crate::whole) fn start(target: String) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for the relay")?;
        let address = listener.local_addr()?.to_string();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A city that does not run refuses; so do we, by closing.
                if let Ok(far) = TcpStream::connect(&target) {
                    connect(near, far, &shared);
                }
            }
        });
        Ok(Self { address, counts })
    }

    /// Where it listens.
    pub(in crate::whole) fn address(&self) -> String {
        self.address.clone()
    }

    /// Bytes so far, towards the target and back.
    pub(in crate::whole) fn bytes(&self) -> (u64, u64) {
        (self.counts.up.load(Ordering::SeqCst), self.counts.down.load(Ordering::SeqCst))
    }
}

fn connect(near: TcpStream, far: TcpStream, counts: &Arc<Counts>) {
    let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { return };
    for stream in [&near, &far] {
        // Slower without it, not wrong.
        let _ = stream.set_nodelay(true);
    }
    let (up, down) = (Arc::clone(counts), Arc::clone(counts));
    std::thread::spawn(move || pump(near, far, &up.up));
    std::thread::spawn(move || pump(far_again, near_again, &down.down));
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes) = from.read(&mut buffer) {
        // Counted before they are handed on: whoever has received them finds them counted.
        count.fetch_add(bytes as u64, Ordering::SeqCst);
        if bytes == 0 || to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    // Either side may have closed already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_handed_on_and_counted() {
        let target = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let relay = Relay::start(target.local_addr().unwrap().to_string()).unwrap();
        let mut near = TcpStream::connect(relay.address()).unwrap();
        let (mut far, _) = target.accept().unwrap();
        near.write_all(&[1; 1000]).unwrap();
        let mut received = [0; 1000];
        far.read_exact(&mut received).unwrap();
        assert_eq!(received, [1; 1000]);
        far.write_all(&[2; 30]).unwrap();
        drop(far);
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [2; 30]);
        assert_eq!(relay.bytes(), (1000, 30));
    }
}
