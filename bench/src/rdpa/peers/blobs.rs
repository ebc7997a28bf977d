//! iroh-blobs: a blob in a memory store, fetched into prepared memory without a store on the way,
//! which is the least work its interface allows.

use super::super::bulk::rate;
use super::super::place::two_sides;
use anyhow::{Context as _, Result, bail, ensure};
use bao_tree::io::BaoContentItem;
use bytes::Bytes;
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode, TransportAddr};
use iroh_blobs::get::fsm::{self, BlobContentNext, ConnectedNext};
use iroh_blobs::protocol::GetRequest;
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{ALPN, BlobsProtocol, Hash};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

pub(super) async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled);
    let builder = builder.clear_ip_transports().bind_addr((Ipv4Addr::LOCALHOST, 0))?;
    Ok(builder.bind().await?)
}

/// MB/s of one fetch of `bytes`, verified as they come.
pub(super) fn fetch(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let content = bytes.clone();
    let hash = Hash::new(bytes);
    two_sides(
        async move |ready| {
            let store = MemStore::new();
            store.add_bytes(content).await?;
            let endpoint = endpoint().await?;
            let address = *endpoint.bound_sockets().first().context("an address")?;
            let id = endpoint.id();
            let _router =
                Router::builder(endpoint).accept(ALPN, BlobsProtocol::new(&store, None)).spawn();
            let _ = ready.send(format!("{id} {address}"));
            // Until the other side is done.
            std::future::pending().await
        },
        async |address| {
            let (id, address) = address.split_once(' ').context("an id and an address")?;
            let address = TransportAddr::Ip(address.parse::<SocketAddr>()?);
            let endpoint = endpoint().await?;
            let holder = EndpointAddr::from_parts(id.parse()?, [address]);
            let connection = endpoint.connect(holder, ALPN).await?;
            let begun = Instant::now();
            let get = fsm::start(connection.clone(), GetRequest::blob(hash), Default::default());
            let ConnectedNext::StartRoot(root) = get.next().await?.next().await? else {
                bail!("iroh-blobs sends something else than the blob")
            };
            let (mut blob, _) = root.next().next().await?;
            while let BlobContentNext::More((next, item)) = blob.next().await {
                if let BaoContentItem::Leaf(leaf) = item? {
                    let at = usize::try_from(leaf.offset)?;
                    memory[at..at + leaf.data.len()].copy_from_slice(&leaf.data);
                }
                blob = next;
            }
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            connection.close(0_u8.into(), b"");
            endpoint.close().await;
            Ok(rate)
        },
    )
}
