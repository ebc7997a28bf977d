//! A bare copy over one stream of quinn, with windows that never hold it up.

use super::super::bulk::rate;
use super::super::place::two_sides;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

const WINDOW_BYTES: u32 = 32 << 20;
const SOCKET_BYTES: usize = 7 << 20;
const WRITE_BYTES: usize = 1 << 20;

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.stream_receive_window(WINDOW_BYTES.into());
    config.receive_window(WINDOW_BYTES.into());
    config.send_window(WINDOW_BYTES.into());
    Arc::new(config)
}

/// A socket with the buffers that iroh gives to its own.
fn socket() -> Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // As much as the system allows.
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>()?.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint> {
    let config = EndpointConfig::default();
    Ok(Endpoint::new(config, server, socket()?, Arc::new(TokioRuntime))?)
}

/// MB/s of a copy of `bytes` into prepared memory: one byte asks, everything comes.
pub(super) fn copy(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let own = rcgen::generate_simple_self_signed(["peer".into()]).context("a certificate")?;
    let certificate: CertificateDer<'static> = own.cert.der().clone();
    let secret = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let (content, shown) = (bytes.clone(), certificate.clone());
    two_sides(
        async move |ready| {
            let tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![shown], secret.into())?;
            let crypto = QuicServerConfig::try_from(tls)?;
            let mut config = ServerConfig::with_crypto(Arc::new(crypto));
            config.transport_config(transport());
            let endpoint = endpoint(Some(config))?;
            let _ = ready.send(endpoint.local_addr()?.to_string());
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
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate)?;
            let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
            config.transport_config(transport());
            let endpoint = endpoint(None)?;
            let connection = endpoint.connect_with(config, address.parse()?, "peer")?.await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            let begun = Instant::now();
            send.write_all(&[1]).await?;
            receive.read_exact(memory).await?;
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            connection.close(0_u8.into(), b"");
            endpoint.wait_idle().await;
            Ok(rate)
        },
    )
}
