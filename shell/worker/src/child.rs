//! The child's side: `suanli worker`, a hidden command that only the agent starts.
//!
//! Two threads. One reads the socket (descriptor 0) and never computes: it queues work and lets
//! control act at once. The other does the work and writes the replies. The end of the socket is
//! the end of the process, at once and in the middle of whatever it does; so no orphan outlives its
//! agent by more than a system call. (A death signal, `PR_SET_PDEATHSIG`, would come when the
//! *thread* that started the child ends, which in the agent is a pool's.)

use std::io::{self, Read, Stdin, Write};
use std::os::fd::AsFd;
use std::process::exit;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use suanli_engine::Engine;

use crate::confine;
use crate::control::Control;
use crate::desk::{self, Desk, Maker, Plan};
use crate::memory;
use crate::protocol::{
    self, Failure, FailureClass, FromWorker, Reply, ToWorker, WORK_QUEUE_MAX, Work,
};

/// It was asked to stop, or the agent is gone.
pub const EXIT_CLEAN: u8 = 0;
/// It was started by hand: there is no agent at the other end. The code of wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// The agent said something that is no message. The code of a defect of ours.
pub const EXIT_PROTOCOL: u8 = 1;

/// The whole life of a worker process. The caller ends the process with the code it returns.
///
/// Closes every descriptor of the process but 0, 1 and 2: call it before anything else is opened.
#[must_use]
pub fn main() -> u8 {
    confine::close_strays();
    live(Box::new(desk::build))
}

/// The same for a program of the owner's, which computes with an engine of its own instead of ours.
/// It keeps what it has opened, and is started by `suanli join --trainer`.
///
/// The process ends in the middle of whatever it does when the agent is gone.
#[must_use]
pub fn outside(make: impl FnMut(Plan) -> Result<Box<dyn Engine>, Failure>) -> u8 {
    live(Box::new(make))
}

fn live(make: Maker<'_>) -> u8 {
    confine::step_back();
    let (memory, frozen) = match memory::receive(io::stdin().as_fd()) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{error}");
            let other = matches!(error, memory::MemoryError::OtherVersion { .. });
            return if other { EXIT_PROTOCOL } else { EXIT_USAGE };
        }
    };
    let control = Arc::new(Control::new());
    let replies = Replies::default();
    let (queue, works) = sync_channel(WORK_QUEUE_MAX);
    let reader = {
        let (control, replies) = (Arc::clone(&control), replies.clone());
        std::thread::Builder::new()
            .name("worker-socket".to_owned())
            .spawn(move || exit(i32::from(listen(&queue, &control, &replies))))
    };
    if let Err(error) = reader {
        eprintln!("the system refused the worker its second thread: {error}");
        return EXIT_PROTOCOL;
    }
    let mut desk = Desk::new(make, memory, frozen, control, replies.clone());
    work_off(&works, &mut desk, &replies)
}

/// Does one work after the other until asked to stop.
fn work_off(works: &Receiver<(u64, Work)>, desk: &mut Desk<'_>, replies: &Replies) -> u8 {
    while let Ok((id, work)) = works.recv() {
        let stop = work == Work::Stop;
        let reply = desk.perform(id, work).unwrap_or_else(Reply::Failed);
        replies.send(id, reply);
        if stop {
            break;
        }
    }
    EXIT_CLEAN
}

/// Reads the socket until it ends. Returns the code to exit with.
fn listen(queue: &SyncSender<(u64, Work)>, control: &Control, replies: &Replies) -> u8 {
    let mut socket = Socket(io::stdin());
    loop {
        match protocol::read_frame(&mut socket) {
            Ok(Some(ToWorker::Cancel { through })) => control.cancel(through),
            Ok(Some(ToWorker::Share(share))) => control.set_share(share),
            Ok(Some(ToWorker::Work { id, work })) => match queue.try_send((id, work)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    let text = format!("{WORK_QUEUE_MAX} works wait already: ask later");
                    replies.send(id, Reply::Failed(Failure::new(FailureClass::Busy, text)));
                }
                Err(TrySendError::Disconnected(_)) => return EXIT_CLEAN,
            },
            Ok(None) | Err(protocol::FrameError::Socket(_)) => return EXIT_CLEAN,
            Err(error) => {
                eprintln!("{error}");
                return EXIT_PROTOCOL;
            }
        }
    }
}

/// The way back to the agent, whole frames at a time.
#[derive(Clone, Default)]
pub(super) struct Replies(Arc<Mutex<()>>);

impl Replies {
    /// Sends one reply. Ends the process when the agent is gone: nobody wants what it does then.
    pub(super) fn send(&self, id: u64, reply: Reply) {
        let frame = protocol::encode(&FromWorker { id, reply })
            .expect("every reply is far shorter than a frame: texts are cut");
        let _whole = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Socket(io::stdin()).write_all(&frame).is_err() {
            exit(i32::from(EXIT_CLEAN));
        }
    }
}

/// Descriptor 0 as what it is: a socket, unbuffered and both ways.
struct Socket(Stdin);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0.as_fd(), buffer)?)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0.as_fd(), buffer)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
