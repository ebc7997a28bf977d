//! TCP sockets: reaching an address, and the settings that every socket of ours has.

use crate::LinkError;
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that may wait unsent in the system's buffer, at the least: enough to keep the network busy
/// between two wake-ups, few enough that a heart-beat is not behind megabytes. What is on its way is
/// not counted.
const UNSENT_BYTES: u32 = 128 << 10;
/// At the most: on loopback 128 KiB give 3.2 GB/s, 512 KiB 3.9, 2 MiB 4.8, without a bound 4.9.
const UNSENT_BYTES_MAX: u32 = 2 << 20;
/// What may wait unsent of a fast line, in time at the rate it takes: what a heart-beat waits for it.
const UNSENT_TIME: Duration = Duration::from_millis(2);
/// Over how long the rate is taken.
const RATE_TIME: Duration = Duration::from_millis(5);
/// Holds its rate under loss, where CUBIC fell to a tenth of the line (0.5% loss, 30 ms).
const CONGESTION: &[u8] = b"bbr";

/// Connects to `addr`, trying every address the name has.
pub(crate) async fn reach(addr: &str, timeout: Duration) -> Result<Socket, LinkError> {
    let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
    let stream = tokio::time::timeout(timeout, reach_any(addr))
        .await
        .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))?;
    Socket::new(stream).map_err(unreachable)
}

async fn reach_any(addr: &str) -> Result<TcpStream, LinkError> {
    let unresolved = |source| LinkError::Resolve { addr: addr.to_owned(), source };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in tokio::net::lookup_host(addr).await.map_err(unresolved)? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(LinkError::Unreachable { addr: addr.to_owned(), source: last })
}

/// A connection that sends small frames at once and keeps the system's queue as short as its rate
/// allows.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// Bytes that may wait unsent now.
    unsent: u32,
    /// What was taken since when.
    taken: u64,
    since: Instant,
    /// Whether it resets until it is shut.
    resets: bool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        {
            let socket = SockRef::from(&stream);
            // A kernel without BBR, or one that keeps it for the administrator, keeps its own choice.
            let _ = socket.set_tcp_congestion(CONGESTION);
            socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        }
        Ok(Self { stream, unsent: UNSENT_BYTES, taken: 0, since: Instant::now(), resets: false })
    }

    pub(crate) fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.peer_addr()
    }

    /// Makes the connection end with a reset unless it is shut, even when the process dies: on a socket
    /// without TLS nothing else tells the one from the other.
    pub(crate) fn reset_unless_shut(&mut self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        self.resets = true;
        Ok(())
    }

    /// Sizes what may wait unsent to the rate at which the line takes.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        let now = Instant::now();
        let elapsed = now.duration_since(self.since);
        if elapsed < RATE_TIME {
            return;
        }
        let unsent = unsent_at(self.taken, elapsed);
        (self.taken, self.since) = (0, now);
        if unsent / 2 >= self.unsent || unsent <= self.unsent / 2 {
            self.unsent = unsent;
            // It was set before on this socket. Should the system refuse now, the old bound stays.
            #[cfg(target_os = "linux")]
            let _ = SockRef::from(&self.stream).set_tcp_notsent_lowat(unsent);
        }
    }
}

/// What may wait unsent on a line that took `bytes` in `elapsed`.
fn unsent_at(bytes: u64, elapsed: Duration) -> u32 {
    let bytes = u128::from(bytes) * UNSENT_TIME.as_micros() / elapsed.as_micros().max(1);
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    bytes.clamp(UNSENT_BYTES, UNSENT_BYTES_MAX)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.took(taken);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.took(taken);
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.resets {
            SockRef::from(&self.stream).set_linger(None)?;
            self.resets = false;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether sockets of this process keep their rate under loss: the system has BBR and lets us choose it.
#[must_use]
pub fn has_bbr() -> bool {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
    };
    let bbr = |names: &str| names.split_whitespace().any(|name| name.as_bytes() == CONGESTION);
    bbr(&read("tcp_allowed_congestion_control")) || bbr(&read("tcp_congestion_control"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_send_at_once_and_queue_little() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let Socket { stream, .. } = reach(&addr, Duration::from_secs(10)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
            let offered =
                std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
            if offered.is_ok_and(|names| names.split_whitespace().any(|name| name == "bbr")) {
                assert!(socket.tcp_congestion().unwrap().starts_with(CONGESTION));
            }
        }
    }

    #[test]
    fn what_may_wait_unsent_is_two_milliseconds_of_a_fast_line_and_little_of_a_slow_one() {
        let at = |bits_per_s: u64| unsent_at(bits_per_s / 8 / 100, Duration::from_millis(10));
        assert_eq!(at(1_000_000), UNSENT_BYTES);
        assert_eq!(at(400_000_000), UNSENT_BYTES);
        assert_eq!(at(1_000_000_000), 250_000);
        assert_eq!(at(4_000_000_000), 1_000_000);
        assert_eq!(at(40_000_000_000), UNSENT_BYTES_MAX);
        assert_eq!(unsent_at(u64::MAX, Duration::ZERO), UNSENT_BYTES_MAX);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_that_was_fast_and_is_slow_again_lets_little_wait() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let mut socket = reach(&addr, Duration::from_secs(10)).await.unwrap();
        let lowat = |socket: &Socket| SockRef::from(&socket.stream).tcp_notsent_lowat().unwrap();
        let before = |socket: &mut Socket, time| socket.since = Instant::now() - time;
        before(&mut socket, 2 * RATE_TIME);
        socket.took(100 << 20);
        assert_eq!(lowat(&socket), UNSENT_BYTES_MAX);
        before(&mut socket, 2 * RATE_TIME);
        socket.took(1000);
        assert_eq!(lowat(&socket), UNSENT_BYTES);
    }
}
