//! Two sides of a measurement: the far one on a thread and runtime of its own, so that both have a
//! core and neither shares the other's scheduler.

use anyhow::{Context, Result};
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use suanli_base::Random;
use suanli_identity::{Role, SecretKey};
use suanli_link::holder::{Holder, HolderLimits, OpenDoor, serve};
use suanli_link::reader::Reader;
use suanli_link::{Link, LinkLimits, Listener, connect, connect_plain};
use suanli_rdpa::{Hello, Limits, RegionName};

/// The chunk of a region that is measured: what a tensor of some size has.
pub(super) const CHUNK_BYTES: u32 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `near` on this thread while `far` runs on another; `far` is dropped when `near` is done.
pub(super) fn two_sides<T, F>(
    far: impl FnOnce(tokio::sync::oneshot::Sender<String>) -> F + Send + 'static,
    near: impl AsyncFnOnce(String) -> Result<T>,
) -> Result<T>
where
    F: Future<Output = Result<()>>,
{
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (ready, address) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || -> Result<()> {
        runtime().context("a runtime for the far side")?.block_on(async {
            tokio::select! {
                ended = far(ready) => ended,
                _ = stopped => Ok(()),
            }
        })
    });
    let near = runtime().context("a runtime for the near side")?.block_on(async {
        let address = address.await.context("the far side did not begin")?;
        near(address).await
    });
    drop(stop);
    thread.join().map_err(|_| anyhow::anyhow!("the far side panicked"))??;
    near
}

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

pub(super) fn content(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Random::new(1).fill(&mut bytes);
    bytes.into()
}

pub(super) fn region() -> RegionName {
    RegionName::new("theta").expect("a name")
}

/// Which link is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Tls,
}

/// Listens with this kind of link.
pub(super) async fn listen(kind: Kind) -> Result<Listener> {
    let any = "127.0.0.1:0".parse().expect("an address");
    Ok(match kind {
        Kind::Tcp => Listener::bind_plain(any, &key(1), LinkLimits::default()).await?,
        Kind::Tls => Listener::bind(any, &key(1), LinkLimits::default()).await?,
    })
}

pub(super) async fn dial(kind: Kind, address: &str) -> Result<Link> {
    let expected = key(1).node();
    Ok(match kind {
        Kind::Tcp => connect_plain(address, &key(2), expected, PATIENCE).await?,
        Kind::Tls => connect(address, &key(2), expected, PATIENCE).await?,
    })
}

/// A holder of one region that serves whoever comes.
pub(super) async fn hold(
    kind: Kind,
    bytes: Bytes,
    ready: tokio::sync::oneshot::Sender<String>,
) -> Result<()> {
    let holder = Holder::new(HolderLimits::default());
    holder.publish(&region(), bytes, CHUNK_BYTES)?;
    let listener = listen(kind).await?;
    let _ = ready.send(listener.local_addr()?.to_string());
    for seed in 1.. {
        let link = listener.accept().await?.handshake().await?;
        tokio::spawn(serve(link, Arc::clone(&holder), OpenDoor, limits(), seed));
    }
    Ok(())
}

/// A hub's window: several chunks in hand.
pub(super) const fn limits() -> Limits {
    Limits { bulk_window_bytes: 32 << 20, ..Limits::reliable() }
}

pub(super) async fn reader(kind: Kind, address: &str) -> Result<Reader> {
    let hello = Hello::new(Role::Watch, Vec::new());
    Ok(Reader::with(dial(kind, address).await?, hello, limits(), 7).await?)
}
