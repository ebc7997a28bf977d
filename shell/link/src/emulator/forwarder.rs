//! One direction: a thread that moves packets from one device to the other at the model's times.

use super::error::EmulatorError;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use suanli_link_model::{Counts, Moment, Pipe, Span};

/// A packet is at most this large; the devices' MTU is smaller.
const PACKET_BYTES_MAX: usize = 2048;

/// Packets read in one turn, so that those that are due do not wait for long.
const TURN_PACKETS: usize = 32;

/// Buffers kept for later packets.
const SPARE_MAX: usize = 4096;

/// The threads' niceness.
const PRIORITY: i32 = -15;

/// What a direction has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionReport {
    /// What the model decided.
    pub counts: Counts,
    /// Packets that the sending side's device dropped before the model saw them, for want of
    /// processor time: above zero, the figures are not the model's.
    pub missed_packets: u64,
    /// Packets that the receiving side's device did not take.
    pub refused_packets: u64,
    /// The longest that a packet was handed over behind its time.
    pub late_max: Span,
}

/// The thread of one direction; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    report: Arc<Mutex<DirectionReport>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    pub(super) fn start(
        name: &str,
        pipe: Pipe<Vec<u8>>,
        from: &Arc<OwnedFd>,
        to: &Arc<OwnedFd>,
    ) -> Result<Self, EmulatorError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(EmulatorError::system("make an event"))?;
        let (stop, report) = (Arc::new(stop), Arc::default());
        let direction = Running {
            from: Arc::clone(from),
            to: Arc::clone(to),
            stop: Arc::clone(&stop),
            published: Arc::clone(&report),
            pipe,
            spare: Vec::new(),
            report: DirectionReport::default(),
            began: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || direction.run())
            .map_err(EmulatorError::system("start a thread"))?;
        Ok(Self { report, stop, thread: Some(thread) })
    }

    pub(super) fn report(&self) -> DirectionReport {
        *locked(&self.report)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // An event that was never raised takes a one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The report is whole at every moment, whatever became of who held it.
fn locked(report: &Mutex<DirectionReport>) -> MutexGuard<'_, DirectionReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the kernel to wake the calling thread at its time. It may refuse; then `late_max` tells.
fn be_punctual() {
    // Else it may wake a thread 50 us late, four packets at 1 Gbit/s.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    // What runs in the sides would else take its turn first, for milliseconds. Root's right only.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
}

/// What the thread owns.
struct Running {
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    published: Arc<Mutex<DirectionReport>>,
    pipe: Pipe<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    report: DirectionReport,
    began: Instant,
}

impl Running {
    fn run(mut self) {
        be_punctual();
        loop {
            self.hand_over();
            let read = self.take_in();
            self.report.counts = self.pipe.counts();
            *locked(&self.published) = self.report;
            if read < TURN_PACKETS && !self.wait() {
                return;
            }
        }
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Writes the packets that have arrived.
    fn hand_over(&mut self) {
        let mut now = self.now();
        while let Some(at) = self.pipe.next_at() {
            if at > now {
                now = self.now();
            }
            let Some(packet) = self.pipe.arrived(now) else { return };
            self.report.late_max = self.report.late_max.max(now.since(at));
            if rustix::io::write(&self.to, &packet).is_err() {
                self.report.refused_packets += 1;
            }
            self.keep(packet);
        }
    }

    /// Offers the packets that wait in the device to the model; says how many.
    fn take_in(&mut self) -> usize {
        for taken in 0..TURN_PACKETS {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(PACKET_BYTES_MAX, 0);
            let Ok(bytes) = rustix::io::read(&self.from, &mut packet) else {
                self.keep(packet);
                return taken;
            };
            packet.truncate(bytes);
            let now = self.now();
            self.pipe.offer(now, u32::try_from(bytes).unwrap_or(u32::MAX), packet);
        }
        TURN_PACKETS
    }

    fn keep(&mut self, packet: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(packet);
        }
    }

    /// Waits for a packet from the device or the time of the next arrival; false at the end.
    fn wait(&self) -> bool {
        let left = self.pipe.next_at().map(|at| at.since(self.now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.0 / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (left.0 % 1_000_000_000).try_into().unwrap_or(0),
        });
        let mut waited = [
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waited, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => waited[0].revents().is_empty(),
            Err(_) => false,
        }
    }
}
