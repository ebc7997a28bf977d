//! The calls to Linux that an emulated link is made of: namespaces, TUN devices, addresses.
//!
//! The numbers and layouts are those of `linux/if_tun.h`, `linux/sockios.h` and `linux/if.h`, the
//! same on every architecture with 64-bit addresses.
#![allow(unsafe_code, reason = "namespaces and network devices are made by unshare and ioctl")]

use super::error::EmulatorError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFTXQLEN: Opcode = 0x8943;

const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_UP: u16 = 0x0001;
const IFF_RUNNING: u16 = 0x0040;
const AF_INET: u16 = 2;

/// `struct ifreq`: a name of 16 bytes and a value of 24.
#[repr(C, align(8))]
struct Request([u8; 40]);

impl Request {
    fn new(device: &str, value: &[u8]) -> Self {
        assert!(device.len() < 16 && value.len() <= 24, "a name and a value of ours fit");
        let mut bytes = [0; 40];
        bytes[..device.len()].copy_from_slice(device.as_bytes());
        bytes[16..16 + value.len()].copy_from_slice(value);
        Self(bytes)
    }

    /// Hands the request to the kernel.
    fn ask<const CALL: Opcode>(mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: every CALL above takes a pointer to a `struct ifreq`, which is 40 bytes, and
        // writes at most as many back; the request outlives the call.
        unsafe { ioctl(fd, Updater::<CALL, Self>::new(&mut self)) }
    }
}

/// Whether this process runs as root, here or in its user namespace.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes this process root of a user namespace of its own, so that it may make network namespaces
/// without being root. Its files and rights outside stay those of its user. To be called before the
/// process starts any thread.
///
/// # Errors
/// When users may not make user namespaces here, or the process has several threads already.
pub fn enter_user_namespace() -> Result<(), EmulatorError> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: the table of file descriptors is not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|error| match error {
        Errno::INVAL => EmulatorError::SeveralThreads,
        other => EmulatorError::NotAllowed { source: other.into() },
    })?;
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|source| EmulatorError::NotAllowed { source })
    };
    write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
    // A group may be mapped by its own member only where the set of groups is fixed.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
}

/// Moves the calling thread into a new network namespace, and hands out what holds it.
pub(super) fn new_network() -> Result<OwnedFd, EmulatorError> {
    // SAFETY: the table of file descriptors is not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| EmulatorError::NotAllowed { source: error.into() })?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(EmulatorError::system("hold the network namespace"))
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter_network(held: BorrowedFd<'_>) -> Result<(), EmulatorError> {
    move_into_link_name_space(held, Some(LinkNameSpaceType::Network))
        .map_err(EmulatorError::system("enter the network namespace"))
}

/// Makes a TUN device in the calling thread's namespace; it goes with its descriptor.
pub(super) fn new_tun(device: &str) -> Result<OwnedFd, EmulatorError> {
    let no_tun = |error: Errno| EmulatorError::NoTun { source: error.into() };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tun = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(no_tun)?;
    let kind = (IFF_TUN | IFF_NO_PI).to_ne_bytes();
    Request::new(device, &kind).ask::<TUNSETIFF>(tun.as_fd()).map_err(no_tun)?;
    Ok(tun)
}

/// What a network device in the calling thread's namespace is set to.
pub(super) struct Device<'a> {
    pub(super) name: &'a str,
    pub(super) address: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    pub(super) mtu_bytes: u16,
    pub(super) queue_packets: u16,
}

impl Device<'_> {
    /// Sets all of it and brings the device up, and the loopback device with it.
    pub(super) fn bring_up(&self) -> Result<(), EmulatorError> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
            .map_err(EmulatorError::system("open a socket in the namespace"))?;
        let socket = socket.as_fd();
        let up = (IFF_UP | IFF_RUNNING).to_ne_bytes();
        let number = |value: u16| i32::from(value).to_ne_bytes();
        let set = || {
            Request::new("lo", &up).ask::<SIOCSIFFLAGS>(socket)?;
            Request::new(self.name, &number(self.mtu_bytes)).ask::<SIOCSIFMTU>(socket)?;
            Request::new(self.name, &internet(self.address)).ask::<SIOCSIFADDR>(socket)?;
            Request::new(self.name, &internet(self.mask)).ask::<SIOCSIFNETMASK>(socket)?;
            Request::new(self.name, &up).ask::<SIOCSIFFLAGS>(socket)
        };
        set().map_err(EmulatorError::system("set up the network device"))?;
        // Only root outside any user namespace may; others keep the 500 packets that the kernel
        // gives, and the count of missed packets tells when these were too few.
        let queue = Request::new(self.name, &number(self.queue_packets));
        let _ = queue.ask::<SIOCSIFTXQLEN>(socket);
        Ok(())
    }
}

/// `struct sockaddr_in`, without a port.
fn internet(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}
