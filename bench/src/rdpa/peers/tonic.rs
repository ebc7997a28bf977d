//! gRPC by tonic without encryption: a stream of 1 MiB messages, and unary calls.

use super::super::bulk::rate;
use super::super::place::two_sides;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::http::{self, uri::PathAndQuery};
use tonic::codegen::tokio_stream;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

const WINDOW_BYTES: u32 = 32 << 20;
const MESSAGE_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(uint64, tag = "2")]
    len: u64,
}

/// Bytes of what is held; decoding shares the received buffer.
#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

/// What a generated server is, written out: it needs no compiler of schemes.
#[derive(Clone)]
struct Held(Bytes);

impl NamedService for Held {
    const NAME: &'static str = "bench.Held";
}

struct Range(Bytes);

impl Range {
    fn of(&self, ask: &Ask) -> Result<Bytes, Status> {
        let at = usize::try_from(ask.at).unwrap_or(usize::MAX);
        let end = at.saturating_add(usize::try_from(ask.len).unwrap_or(usize::MAX));
        if end > self.0.len() {
            return Err(Status::out_of_range("more than is held"));
        }
        Ok(self.0.slice(at..end))
    }
}

impl tonic::server::UnaryService<Ask> for Range {
    type Response = Piece;
    type Future = Ready<Result<Response<Piece>, Status>>;

    fn call(&mut self, ask: Request<Ask>) -> Self::Future {
        ready(self.of(ask.get_ref()).map(|bytes| Response::new(Piece { bytes })))
    }
}

type Pieces = Pin<Box<dyn tokio_stream::Stream<Item = Result<Piece, Status>> + Send>>;

impl tonic::server::ServerStreamingService<Ask> for Range {
    type Response = Piece;
    type ResponseStream = Pieces;
    type Future = Ready<Result<Response<Pieces>, Status>>;

    fn call(&mut self, ask: Request<Ask>) -> Self::Future {
        ready(self.of(ask.get_ref()).map(|bytes| {
            let pieces = (0..bytes.len()).step_by(MESSAGE_BYTES).map(move |at| {
                let end = bytes.len().min(at + MESSAGE_BYTES);
                Ok(Piece { bytes: bytes.slice(at..end) })
            });
            Response::new(Box::pin(tokio_stream::iter(pieces)) as Pieces)
        }))
    }
}

impl Service<http::Request<Body>> for Held {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let range = Range(self.0.clone());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                "/bench.Held/All" => grpc.server_streaming(range, request).await,
                _ => grpc.unary(range, request).await,
            })
        })
    }
}

async fn hold(bytes: Bytes, ready: tokio::sync::oneshot::Sender<String>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _ = ready.send(format!("http://{}", listener.local_addr()?));
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(Held(bytes))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

async fn dial(address: String) -> Result<tonic::client::Grpc<Channel>> {
    let channel = Channel::from_shared(address)?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect()
        .await?;
    Ok(tonic::client::Grpc::new(channel).max_decoding_message_size(2 * MESSAGE_BYTES))
}

/// MB/s of all of `bytes` in one stream of messages, each copied to its place.
pub(super) fn copy(bytes: &Bytes, memory: &mut [u8]) -> Result<f64> {
    memory.fill(0);
    let held = bytes.clone();
    two_sides(
        move |ready| hold(held, ready),
        async |address| {
            let mut client = dial(address).await?;
            let begun = Instant::now();
            client.ready().await?;
            let ask = Request::new(Ask { at: 0, len: bytes.len() as u64 });
            let path = PathAndQuery::from_static("/bench.Held/All");
            let codec = ProstCodec::<Ask, Piece>::default();
            let mut pieces = client.server_streaming(ask, path, codec).await?.into_inner();
            let mut at = 0;
            while let Some(piece) = pieces.message().await? {
                memory[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
                at += piece.bytes.len();
            }
            let rate = rate(bytes, begun);
            ensure!(memory[..] == bytes[..], "the copy is another one");
            Ok(rate)
        },
    )
}

/// Unary calls for `len` bytes a second, `depth` on their way over one connection.
pub(super) fn calls(
    bytes: &Bytes,
    len: usize,
    depth: usize,
    ops: usize,
    place: fn(usize) -> u64,
) -> Result<f64> {
    let (held, expected) = (bytes.clone(), Arc::new(bytes.clone()));
    two_sides(
        move |ready| hold(held, ready),
        async |address| {
            let client = dial(address).await?;
            let mut tasks = tokio::task::JoinSet::new();
            let begun = Instant::now();
            for first in 0..depth {
                let (mut client, expected) = (client.clone(), Arc::clone(&expected));
                tasks.spawn(async move {
                    for op in (first..ops).step_by(depth) {
                        client.ready().await?;
                        let ask = Request::new(Ask { at: place(op), len: len as u64 });
                        let path = PathAndQuery::from_static("/bench.Held/One");
                        let codec = ProstCodec::<Ask, Piece>::default();
                        let piece = client.unary(ask, path, codec).await?.into_inner();
                        let at = usize::try_from(place(op))?;
                        // As in our own row, what came is not compared byte by byte in the turn.
                        ensure!(piece.bytes.len() == len && at < expected.len(), "another length");
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.context("a call")??;
            }
            Ok(ops as f64 / begun.elapsed().as_secs_f64())
        },
    )
}
