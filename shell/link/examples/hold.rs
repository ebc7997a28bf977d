//! Holds a few regions on loopback over the TCP link, for another implementation to talk to.
//!
//! Prints one line: `ADDRESS NODE`. Regions: `theta` (1 000 000 bytes, byte i is i * 31 % 251, chunks
//! of 65 536), which gets a new version whenever a line comes on standard input (its byte 0 then
//! holds the version); cells `counters` (8). Everything else is the client's to write. Ends with its
//! standard input.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::sync::Arc;
use suanli_identity::SecretKey;
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::{LinkLimits, Listener};
use suanli_rdpa::{Limits, RegionName};

const BYTES: u32 = 1_000_000;
const CHUNK_BYTES: u32 = 65_536;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let key = SecretKey::from_seed(&[7; 32]);
    let holder = Holder::new(HolderLimits::default());
    let content: Vec<u8> = (0..BYTES).map(|i| (i * 31 % 251) as u8).collect();
    let theta = RegionName::new("theta")?;
    holder.publish(&theta, content.into(), CHUNK_BYTES)?;
    holder.add_cells(&RegionName::new("counters")?, 8)?;
    let listener =
        Listener::bind_plain("127.0.0.1:0".parse()?, &key, LinkLimits::default()).await?;
    println!("{} {}", listener.local_addr()?, key.node());
    tokio::spawn(accept(listener, Arc::clone(&holder)));
    tokio::task::spawn_blocking(move || -> Result<(), Error> {
        for line in std::io::stdin().lock().lines() {
            line?;
            let newest = holder.newest(&theta).ok_or("theta is there")?;
            let mut first = newest.chunk(0).ok_or("there is a first chunk")?.to_vec();
            first[0] = u8::try_from(newest.info.version + 1)?;
            holder.publish_changed(&theta, &BTreeMap::from([(0, Bytes::from(first))]))?;
        }
        Ok(())
    })
    .await?
}

async fn accept(listener: Listener, holder: Arc<Holder>) {
    for seed in 1.. {
        // Whoever does not know the protocol is no reason to stop.
        let Ok(incoming) = listener.accept().await else { continue };
        let holder = Arc::clone(&holder);
        tokio::spawn(async move {
            if let Ok(link) = incoming.handshake().await {
                serve(link, holder, OpenDoor, Limits::reliable(), seed).await;
            }
        });
    }
}
