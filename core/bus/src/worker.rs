//! A family's side of the round, as a machine of fixed size: what to do next, never how.
//!
//! [`Worker`] is a plain record changed by [`step`], so that a simulator can hold very many of
//! them. The host does what an [`Action`] says and reports back with an [`Input`]; nothing here
//! holds a parameter.
//!
//! Two private states are kept by the host: the current one, and the pending one that a lease
//! made. A contribution that is accepted promotes the pending state, any other end discards it,
//! so that what the city knows by hash and what the replica holds never part.

use serde::{Deserialize, Serialize};
use suanli_base::{Duration, JobId, LeaseId, Round, Time};

/// How long an unanswered request waits before it is made again.
const PATIENCE: Duration = Duration(10_000);
/// How long a transfer of a contribution may take before it is begun anew: more than any of its
/// requests, which are repeated and given up by the session.
const UPLOAD_PATIENCE: Duration = Duration(600_000);
/// How long to wait after something failed.
const AFTER_FAILURE: Duration = Duration(1_000);
/// A sign of life with the steps done goes out this often while training.
const BEAT_EVERY: Duration = Duration(1_000);

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// No connection and nothing to do without one.
    Offline,
    /// Asked for work.
    Asking,
    /// Told to wait, or waiting after a failure.
    Waiting,
    /// Getting hold of a job's parameters.
    Preparing,
    /// The engine runs.
    Training,
    /// The owner paused in the middle of a lease; the engine stands still with its state.
    Held,
    /// Computing the payload and writing it to disk.
    Packing,
    /// The payload is on disk and on its way, or waits for a connection.
    HandingIn,
    /// The owner paused and nothing is held.
    Paused,
    /// Done for good.
    Gone,
}

/// The whole scheduling state of a family: at most 256 bytes (DESIGN 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What it is doing.
    pub phase: Phase,
    /// Whether the city is reachable.
    pub connected: bool,
    /// Whether the owner paused it.
    pub paused: bool,
    /// Whether it leaves once its work is handed in.
    pub leaving: bool,
    /// The job whose parameters it holds.
    pub job: Option<JobId>,
    /// The version it holds.
    pub version: Round,
    /// The newest version it heard of.
    pub newest: Round,
    /// The lease it works on.
    pub lease: Option<LeaseId>,
    /// The newest lease it took up: what is offered of older ones was overtaken on the way.
    pub newest_lease: LeaseId,
    /// Steps of that lease.
    pub steps: u32,
    /// Steps done.
    pub done: u32,
    /// When the phase ends by itself.
    until: Time,
    /// When the lease is to be handed in as it is.
    deadline: Time,
}

const _: () = assert!(size_of::<Worker>() <= 256);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time went by.
    Tick,
    /// The city is reachable and this node is admitted.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// The city wants this job held at this version.
    Prepare {
        /// Which job.
        job: JobId,
        /// Which version.
        version: Round,
    },
    /// The parameters are held, and the speed is measured.
    Prepared {
        /// Which job.
        job: JobId,
        /// Which version.
        version: Round,
    },
    /// They could not be had.
    PrepareFailed {
        /// Ask for work again after this long; `None` after a moment, as for what passes by itself.
        retry: Option<Duration>,
    },
    /// The city granted a lease.
    Offer {
        /// Its id.
        lease: LeaseId,
        /// Its job.
        job: JobId,
        /// The version it starts from.
        base: Round,
        /// Steps to do.
        steps: u32,
        /// To be handed in as it is after this long.
        duration: Duration,
    },
    /// Nothing to do now.
    Wait {
        /// Ask again after this long.
        retry: Duration,
    },
    /// A version was published.
    Published {
        /// Of which job.
        job: JobId,
        /// Which version.
        version: Round,
    },
    /// The engine did some steps.
    Progress {
        /// Steps of the lease done in all.
        done: u32,
    },
    /// The engine stopped, by itself or because it was told to.
    Trained {
        /// Which lease.
        lease: LeaseId,
        /// Steps of the lease done in all.
        done: u32,
    },
    /// The engine died or refused.
    TrainFailed,
    /// The payload is on disk.
    Packed {
        /// Which lease.
        lease: LeaseId,
    },
    /// It could not be made or kept.
    PackFailed,
    /// All chunks are placed at the city.
    Uploaded {
        /// Which lease.
        lease: LeaseId,
    },
    /// The transfer stopped.
    UploadFailed,
    /// The contribution is stored at the city.
    Accepted {
        /// Which lease.
        lease: LeaseId,
    },
    /// The city does not take it.
    Refused {
        /// Which lease.
        lease: LeaseId,
        /// Chunks were missing: send them again.
        incomplete: bool,
    },
    /// The city ended a lease.
    Revoked {
        /// Which.
        lease: LeaseId,
    },
    /// The owner wants the machine.
    Pause,
    /// The owner lends it again.
    Resume,
    /// The owner wants out, with the work so far handed in.
    Leave,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the city for work.
    Ask,
    /// Get hold of a job's parameters; measure the speed if that was not done.
    Prepare {
        /// Which job.
        job: JobId,
        /// Which version.
        version: Round,
    },
    /// Train the lease from this step on.
    Train {
        /// Which lease.
        lease: LeaseId,
        /// Steps done before.
        from: u32,
    },
    /// Stop the engine at its last complete step; it answers with `Trained`.
    StopTraining,
    /// Tell the city how far it is.
    Beat {
        /// Which lease.
        lease: LeaseId,
        /// Steps done.
        done: u32,
    },
    /// Make the payload of so many steps and write it to disk.
    Pack {
        /// Which lease.
        lease: LeaseId,
        /// Steps done.
        done: u32,
    },
    /// Bring the payload's chunks to the city.
    Upload {
        /// Which lease.
        lease: LeaseId,
    },
    /// Send the signed contribution.
    HandIn {
        /// Which lease.
        lease: LeaseId,
    },
    /// The pending private state is the current one now.
    Promote {
        /// Which lease made it.
        lease: LeaseId,
    },
    /// The pending private state is void.
    Discard {
        /// Which lease made it.
        lease: LeaseId,
    },
    /// Give the lease back untouched.
    Decline {
        /// Which.
        lease: LeaseId,
    },
    /// Tell the city whether it is waited for.
    TellPaused(bool),
    /// Tell the city that this node leaves for good.
    Farewell,
    /// Nothing more will happen.
    Exit,
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}

impl Worker {
    /// A worker that holds nothing and is not connected.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            phase: Phase::Offline,
            connected: false,
            paused: false,
            leaving: false,
            job: None,
            version: Round(0),
            newest: Round(0),
            lease: None,
            newest_lease: LeaseId(0),
            steps: 0,
            done: 0,
            until: Time(0),
            deadline: Time(u64::MAX),
        }
    }

    /// A worker that found a payload on disk which no city has acknowledged yet.
    #[must_use]
    pub const fn with_pending(lease: LeaseId, done: u32) -> Self {
        let mut worker = Self::new();
        worker.phase = Phase::HandingIn;
        (worker.lease, worker.steps, worker.done) = (Some(lease), done, done);
        worker
    }

    /// When [`Input::Tick`] is wanted next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        match self.phase {
            Phase::Training => Some(self.until.min(self.deadline)),
            Phase::Asking | Phase::Waiting | Phase::HandingIn if self.connected => Some(self.until),
            _ => None,
        }
    }
}

/// Takes one input and says what to do, in order.
pub fn step(w: &mut Worker, now: Time, input: Input, out: &mut Vec<Action>) {
    match input {
        Input::Tick => tick(w, now, out),
        Input::Connected => {
            w.connected = true;
            if w.paused {
                out.push(Action::TellPaused(true));
            }
            match (w.phase, w.lease) {
                (Phase::HandingIn, Some(lease)) => upload(w, now, lease, out),
                (Phase::Offline | Phase::Asking | Phase::Waiting | Phase::Preparing, _) => {
                    next(w, now, out);
                }
                _ => {}
            }
        }
        Input::Disconnected => {
            w.connected = false;
            if matches!(w.phase, Phase::Asking | Phase::Waiting | Phase::Preparing) {
                w.phase = Phase::Offline;
            }
        }
        Input::Prepare { job, version } => {
            if w.phase == Phase::Asking {
                prepare(w, job, version, out);
            }
        }
        Input::Prepared { job, version } => {
            (w.job, w.version) = (Some(job), version);
            w.newest = w.newest.max(version);
            if w.phase == Phase::Preparing {
                next(w, now, out);
            }
        }
        Input::PrepareFailed { retry } => {
            if w.phase == Phase::Preparing {
                w.job = None;
                wait(w, now, retry.unwrap_or(AFTER_FAILURE));
            }
        }
        Input::Offer { lease, job, base, steps, duration } => {
            offer(w, now, (lease, job, base, steps, duration), out);
        }
        Input::Wait { retry } => {
            if w.phase == Phase::Asking {
                wait(w, now, retry);
            }
        }
        Input::Published { job, version } => {
            if w.job == Some(job) && version > w.newest {
                w.newest = version;
                if matches!(w.phase, Phase::Asking | Phase::Waiting) {
                    prepare(w, job, version, out);
                }
            }
        }
        Input::Progress { done } => w.done = w.done.max(done),
        Input::Trained { lease, done } => trained(w, now, lease, done, out),
        Input::TrainFailed | Input::PackFailed => {
            if matches!(w.phase, Phase::Training | Phase::Held | Phase::Packing) {
                void(w, out);
                wait(w, now, AFTER_FAILURE);
                leave_if_asked(w, out);
            }
        }
        Input::Packed { lease } => {
            if w.phase == Phase::Packing && w.lease == Some(lease) {
                w.phase = Phase::HandingIn;
                w.until = now.after(PATIENCE);
                if w.connected {
                    upload(w, now, lease, out);
                }
            }
        }
        Input::Uploaded { lease } => {
            if w.phase == Phase::HandingIn && w.lease == Some(lease) {
                w.until = now.after(PATIENCE);
                out.push(Action::HandIn { lease });
            }
        }
        Input::UploadFailed => w.until = now.after(AFTER_FAILURE),
        Input::Accepted { lease } => settled(w, now, lease, Action::Promote { lease }, out),
        Input::Refused { lease, incomplete: true } => {
            if w.phase == Phase::HandingIn && w.lease == Some(lease) && w.connected {
                upload(w, now, lease, out);
            }
        }
        Input::Refused { lease, incomplete: false } => {
            settled(w, now, lease, Action::Discard { lease }, out);
        }
        Input::Revoked { lease } => revoked(w, now, lease, out),
        Input::Pause => pause(w, out),
        Input::Resume => resume(w, now, out),
        Input::Leave => {
            w.leaving = true;
            match w.phase {
                Phase::Training => out.push(Action::StopTraining),
                Phase::Held => pack(w, now, out),
                Phase::Packing | Phase::HandingIn => {}
                _ => leave_if_asked(w, out),
            }
        }
    }
}

fn tick(w: &mut Worker, now: Time, out: &mut Vec<Action>) {
    match (w.phase, w.lease) {
        (Phase::Training, Some(_)) if now >= w.deadline => {
            w.deadline = Time(u64::MAX);
            out.push(Action::StopTraining);
        }
        (Phase::Training, Some(lease)) if now >= w.until => {
            w.until = now.after(BEAT_EVERY);
            out.push(Action::Beat { lease, done: w.done });
        }
        (Phase::Asking | Phase::Waiting, _) if w.connected && now >= w.until => next(w, now, out),
        (Phase::HandingIn, Some(lease)) if w.connected && now >= w.until => {
            upload(w, now, lease, out);
        }
        _ => {}
    }
}

/// Asks for work, unless the owner wants something else or a newer version is known.
fn next(w: &mut Worker, now: Time, out: &mut Vec<Action>) {
    if w.leaving {
        leave_if_asked(w, out);
    } else if w.paused {
        w.phase = Phase::Paused;
    } else if !w.connected {
        w.phase = Phase::Offline;
    } else if let (Some(job), true) = (w.job, w.newest > w.version) {
        prepare(w, job, w.newest, out);
    } else {
        (w.phase, w.until) = (Phase::Asking, now.after(PATIENCE));
        out.push(Action::Ask);
    }
}

fn wait(w: &mut Worker, now: Time, span: Duration) {
    w.phase = if w.connected { Phase::Waiting } else { Phase::Offline };
    w.until = now.after(span);
}

fn prepare(w: &mut Worker, job: JobId, version: Round, out: &mut Vec<Action>) {
    w.phase = Phase::Preparing;
    w.newest = version;
    out.push(Action::Prepare { job, version });
}

fn offer(
    w: &mut Worker,
    now: Time,
    (lease, job, base, steps, duration): (LeaseId, JobId, Round, u32, Duration),
    out: &mut Vec<Action>,
) {
    if w.lease == Some(lease) {
        return;
    }
    let ready = matches!(w.phase, Phase::Asking | Phase::Waiting) && !w.paused && !w.leaving;
    let overtaken = lease <= w.newest_lease;
    if !ready || overtaken || w.job != Some(job) || w.version != base {
        out.push(Action::Decline { lease });
        return;
    }
    (w.phase, w.lease, w.steps, w.done) = (Phase::Training, Some(lease), steps, 0);
    w.newest_lease = lease;
    (w.until, w.deadline) = (now.after(BEAT_EVERY), now.after(duration));
    out.push(Action::Train { lease, from: 0 });
}

fn trained(w: &mut Worker, now: Time, lease: LeaseId, done: u32, out: &mut Vec<Action>) {
    if w.lease != Some(lease) || w.phase != Phase::Training {
        return;
    }
    w.done = done;
    if w.paused && !w.leaving && done < w.steps {
        w.phase = Phase::Held;
    } else {
        pack(w, now, out);
    }
}

fn pack(w: &mut Worker, now: Time, out: &mut Vec<Action>) {
    let Some(lease) = w.lease else { return };
    if w.done == 0 {
        void(w, out);
        next(w, now, out);
        return;
    }
    w.phase = Phase::Packing;
    out.push(Action::Pack { lease, done: w.done });
}

fn upload(w: &mut Worker, now: Time, lease: LeaseId, out: &mut Vec<Action>) {
    w.until = now.after(UPLOAD_PATIENCE);
    out.push(Action::Upload { lease });
}

/// Ends the lease without a contribution.
fn void(w: &mut Worker, out: &mut Vec<Action>) {
    if let Some(lease) = w.lease.take() {
        out.push(Action::Discard { lease });
        if w.connected {
            out.push(Action::Decline { lease });
        }
    }
    w.deadline = Time(u64::MAX);
}

fn settled(w: &mut Worker, now: Time, lease: LeaseId, action: Action, out: &mut Vec<Action>) {
    if w.phase != Phase::HandingIn || w.lease != Some(lease) {
        return;
    }
    w.lease = None;
    w.deadline = Time(u64::MAX);
    out.push(action);
    next(w, now, out);
}

fn revoked(w: &mut Worker, now: Time, lease: LeaseId, out: &mut Vec<Action>) {
    if w.lease != Some(lease) {
        return;
    }
    match w.phase {
        Phase::Training => {
            w.lease = None;
            out.extend([Action::StopTraining, Action::Discard { lease }]);
        }
        Phase::Held | Phase::HandingIn => {
            w.lease = None;
            out.push(Action::Discard { lease });
        }
        // The payload is being written: it will be refused in its turn.
        _ => return,
    }
    w.deadline = Time(u64::MAX);
    next(w, now, out);
}

fn pause(w: &mut Worker, out: &mut Vec<Action>) {
    if w.paused {
        return;
    }
    w.paused = true;
    if w.connected {
        out.push(Action::TellPaused(true));
    }
    match w.phase {
        Phase::Training => out.push(Action::StopTraining),
        Phase::Asking | Phase::Waiting | Phase::Offline => w.phase = Phase::Paused,
        _ => {}
    }
}

fn resume(w: &mut Worker, now: Time, out: &mut Vec<Action>) {
    if !w.paused {
        return;
    }
    w.paused = false;
    if w.connected {
        out.push(Action::TellPaused(false));
    }
    match (w.phase, w.lease) {
        (Phase::Held, Some(_)) if now >= w.deadline => pack(w, now, out),
        (Phase::Held, Some(lease)) => {
            (w.phase, w.until) = (Phase::Training, now.after(BEAT_EVERY));
            out.push(Action::Train { lease, from: w.done });
        }
        (Phase::Paused, _) => next(w, now, out),
        _ => {}
    }
}

fn leave_if_asked(w: &mut Worker, out: &mut Vec<Action>) {
    if !w.leaving || w.phase == Phase::Gone {
        return;
    }
    if w.connected {
        out.push(Action::Farewell);
    }
    w.phase = Phase::Gone;
    out.push(Action::Exit);
}
