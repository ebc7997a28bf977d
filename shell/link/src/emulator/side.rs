//! One side of the link: a network namespace with one device.

use super::error::EmulatorError;
use super::system::{Device, enter_network, new_network, new_tun};
use super::{FAR, HOME, MTU_BYTES};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::{Child, Command};
use std::sync::Arc;

const DEVICE: &str = "home0";
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// Packets that the device holds until the forwarder reads them: 100 ms of full ones at 1 Gbit/s, so
/// that nothing is dropped outside the model while the forwarder waits for a processor.
const DEVICE_PACKETS: u16 = 8192;

/// The longest name and value of a setting, in bytes.
const SYSCTL_BYTES_MAX: usize = 256;

/// Buffers of TCP: 4 KiB, 128 KiB, 64 MiB at most. The usual 4 MiB would bind before the link does:
/// 1 Gbit/s times 30 ms is 3.75 MB, and the kernel counts its own overhead in.
const TCP_BUFFERS: &str = "4096 131072 67108864";

/// One side of the link; clones are the same side.
#[derive(Clone, Debug)]
pub struct Side {
    address: Ipv4Addr,
    network: Arc<OwnedFd>,
}

impl Side {
    /// Makes a namespace with a device of that address.
    pub(super) fn make(address: Ipv4Addr) -> Result<(Self, Arc<OwnedFd>), EmulatorError> {
        on_a_thread(move || {
            let network = Arc::new(new_network()?);
            let tun = Arc::new(new_tun(DEVICE)?);
            // Its solicitations of routers would be packets that nobody sent.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
            let (mtu_bytes, queue_packets) = (MTU_BYTES, DEVICE_PACKETS);
            Device { name: DEVICE, address, mask: MASK, mtu_bytes, queue_packets }.bring_up()?;
            write_sysctl("net.ipv4.tcp_rmem", TCP_BUFFERS)?;
            write_sysctl("net.ipv4.tcp_wmem", TCP_BUFFERS)?;
            Ok((Self { address, network }, tun))
        })?
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The other side's address.
    #[must_use]
    pub fn other_address(&self) -> Ipv4Addr {
        if self.address == HOME { FAR } else { HOME }
    }

    /// Moves the calling thread into this side for good, as a runtime's `on_thread_start` does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn enter(&self) -> Result<(), EmulatorError> {
        enter_network(self.network.as_fd())
    }

    /// Runs `work` on a thread of its own in this side, and waits for it. Sockets that it opens and
    /// threads and processes that it starts are of this side, also after it ends.
    ///
    /// # Errors
    /// When no thread can be started or the system refuses.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, EmulatorError> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Starts a process in this side.
    ///
    /// # Errors
    /// When there is no such program, or the system refuses.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, EmulatorError> {
        self.run_in(|| command.spawn())?.map_err(EmulatorError::system("start the program"))
    }

    /// Sets a setting of this namespace, such as `net.ipv4.tcp_congestion_control`.
    ///
    /// # Errors
    /// When the name is none, or the system refuses: some settings exist for the whole machine only.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), EmulatorError> {
        let known = name.starts_with("net.")
            && name.len() <= SYSCTL_BYTES_MAX
            && value.len() <= SYSCTL_BYTES_MAX
            && name.split('.').all(|part| !part.is_empty() && part.bytes().all(is_plain));
        if !known {
            let name = name.chars().take(SYSCTL_BYTES_MAX).collect();
            return Err(EmulatorError::SysctlName { name });
        }
        self.run_in(|| write_sysctl(name, value))?
    }

    /// Packets that the device dropped before the forwarder read them.
    pub(super) fn missed_packets(&self) -> Result<u64, EmulatorError> {
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let table = self.run_in(read)?.map_err(EmulatorError::system("read /proc/net/dev"))?;
        Ok(dropped_on_sending(&table, DEVICE).unwrap_or(0))
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Sets a setting of the calling thread's namespace.
fn write_sysctl(name: &str, value: &str) -> Result<(), EmulatorError> {
    fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).map_err(|source| {
        EmulatorError::Sysctl { name: name.to_owned(), value: value.to_owned(), source }
    })
}

/// The fourth number of a device's sending half in `/proc/net/dev`, which has 8 of receiving first.
fn dropped_on_sending(table: &str, device: &str) -> Option<u64> {
    let of = |line: &str| line.trim().strip_prefix(device)?.strip_prefix(':').map(str::to_owned);
    table.lines().find_map(of)?.split_whitespace().nth(11)?.parse().ok()
}

/// Runs `work` on a thread of its own: a namespace is a thread's, and the caller stays in his.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, EmulatorError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("link-side".into())
            .spawn_scoped(scope, work)
            .map_err(EmulatorError::system("start a thread"))?;
        thread.join().map_or_else(|panic| resume_unwind(panic), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_dropped_is_found_in_the_kernels_table() {
        let table = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs\n\
            \x20   lo:       1       2    0    0    0     0          0         0        1       2    0    0 0 0 0 0\n\
            \x20home0: 1500 1 0 0 0 0 0 0 3000 2 0 42 0 0 0 0\n";
        assert_eq!(dropped_on_sending(table, "home0"), Some(42));
        assert_eq!(dropped_on_sending(table, "lo"), Some(0));
        assert_eq!(dropped_on_sending(table, "home1"), None);
        assert_eq!(dropped_on_sending("home0: 1 2", "home0"), None);
    }
}
