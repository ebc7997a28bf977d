//! TCP sockets: reaching an address, and the settings that every socket of ours has.

use crate::LinkError;
use socket2::SockRef;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Bytes that may wait unsent in the system's buffer: enough to keep the network busy between two
/// wake-ups, few enough that a heart-beat is not behind megabytes. What is on its way is not counted.
const UNSENT_BYTES: u32 = 128 << 10;
/// Holds its rate under loss, where CUBIC fell to a tenth of the line (0.5% loss, 30 ms).
const CONGESTION: &[u8] = b"bbr";

/// Connects to `addr`, trying every address the name has.
pub(crate) async fn reach(addr: &str, timeout: Duration) -> Result<TcpStream, LinkError> {
    let unreachable = |source| LinkError::Unreachable { addr: addr.to_owned(), source };
    let stream = tokio::time::timeout(timeout, reach_any(addr))
        .await
        .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))?;
    tune(&stream).map_err(unreachable)?;
    Ok(stream)
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

/// Sends small frames at once and keeps the system's queue short.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        // A kernel without BBR, or one that keeps it for the administrator, keeps its own choice.
        let _ = socket.set_tcp_congestion(CONGESTION);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    Ok(())
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

/// Makes a connection that ends without a goodbye end with a reset, even when the process dies: on a
/// plain socket nothing else tells the one from the other.
pub(crate) fn reset_unless_closed(stream: &TcpStream, reset: bool) -> io::Result<()> {
    SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_send_at_once_and_queue_little() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let stream = reach(&addr, Duration::from_secs(10)).await.unwrap();
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
}
