//! A bare copy over one stream of iroh as it comes: the library below our QUIC link.

use super::super::bulk::rate;
use super::super::place::two_sides;
use super::blobs::endpoint;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use iroh::{EndpointAddr, TransportAddr};
use std::net::SocketAddr;
use std::time::Instant;

const ALPN: &[u8] = b"bare";
const WRITE_BYTES: usize = 1 << 20;

/// MB/s of a copy of `bytes` into prepared memory: one byte asks, everything comes.
pub(super) fn copy(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let content = bytes.clone();
    two_sides(
        async move |ready| {
            let endpoint = endpoint().await?;
            endpoint.set_alpns(vec![ALPN.to_vec()]);
            let address = *endpoint.bound_sockets().first().context("an address")?;
            let _ = ready.send(format!("{} {address}", endpoint.id()));
            let connection = endpoint.accept().await.context("nobody came")?.await?;
            let (mut send, mut receive) = connection.accept_bi().await?;
            receive.read_exact(&mut [0]).await?;
            for piece in content.chunks(WRITE_BYTES) {
                send.write_all(piece).await?;
            }
            send.finish()?;
            // Until the other side is done.
            connection.closed().await;
            Ok(())
        },
        async |address| {
            let (id, address) = address.split_once(' ').context("an id and an address")?;
            let address = TransportAddr::Ip(address.parse::<SocketAddr>()?);
            let endpoint = endpoint().await?;
            let holder = EndpointAddr::from_parts(id.parse()?, [address]);
            let connection = endpoint.connect(holder, ALPN).await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            let begun = Instant::now();
            send.write_all(&[1]).await?;
            receive.read_exact(memory).await?;
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            connection.close(0_u8.into(), b"");
            endpoint.close().await;
            Ok(rate)
        },
    )
}
