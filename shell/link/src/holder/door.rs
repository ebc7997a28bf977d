//! Who may do what with what is held: asked at HELLO and at every request.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use suanli_base::{NodeId, Time};
use suanli_identity::{Prefix, Right};
use suanli_rdpa::{Code, Denied, Gate, GateBooks, GateLimits, Hello, Pass, RegionName, Request};
use tokio::sync::watch;

/// How often used bytes are kept: what moved within this before a crash is forgotten.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// A request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What goes over the wire.
    pub code: Code,
    /// Why, and what to do.
    pub text: String,
    /// After how long the same would be allowed; nothing when no time helps. The holder keeps what
    /// moves bytes until then instead of answering.
    pub after: Option<Duration>,
}

impl Refusal {
    /// A refusal that no time mends.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), after: None }
    }
}

/// Decides who may do what, for one connection.
pub trait Doorman: Send {
    /// Whether a peer may come in.
    ///
    /// # Errors
    /// The refusal.
    fn hello(&mut self, peer: NodeId, hello: &Hello) -> Result<(), Refusal>;

    /// Whether it may do this now. `read_bytes` is the length of the chunk that a READ asks for.
    ///
    /// # Errors
    /// The refusal.
    fn may(&mut self, request: &Request, read_bytes: u64) -> Result<(), Refusal>;

    /// Whether it may be told of a new version now.
    fn may_be_told(&mut self, _region: &RegionName) -> bool {
        true
    }

    /// Carries a REVOKE out that was allowed, durably; returns the epoch now in force.
    ///
    /// # Errors
    /// The refusal.
    fn revoke(&mut self, _prefix: &str, _epoch: u64) -> Result<u64, Refusal> {
        Err(Refusal::new(Code::Unsupported, "this holder has no epochs"))
    }

    /// What changes whenever grants were ended; nothing where none can be.
    fn revocations(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// Whether it may keep what it has opened of a region, asked after each of these changes.
    fn may_keep(&self, _region: &RegionName) -> bool {
        true
    }
}

/// Lets everybody do everything: for links whose other end is trusted with all that is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenDoor;

impl Doorman for OpenDoor {
    fn hello(&mut self, _: NodeId, _: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn may(&mut self, _: &Request, _: u64) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Where a guard keeps what it must not forget over a restart.
pub type KeepBooks = Box<dyn FnMut(&GateBooks) -> io::Result<()> + Send>;

/// The gate of a holder of one owner's regions, for all of its connections (`docs/spec/access.md`).
///
/// Invariants: a revocation is kept before it is acknowledged; used bytes are kept once a second while
/// bytes move, and when a connection ends, so that a crash forgets a second of them; every connection
/// learns of a revocation, and takes back what was opened under what it ended.
pub struct Guard {
    state: Mutex<State>,
    revoked: watch::Sender<()>,
}

struct State {
    gate: Gate,
    keep: KeepBooks,
    changed: bool,
    kept: Instant,
}

impl core::fmt::Debug for Guard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Guard")
    }
}

impl Guard {
    /// A guard of the regions of `owner`, which goes on with `books`. Regions below `public` can be
    /// read by anybody.
    #[must_use]
    pub fn new(
        owner: NodeId,
        limits: GateLimits,
        public: Vec<Prefix>,
        books: GateBooks,
        keep: KeepBooks,
    ) -> Arc<Self> {
        let gate = Gate::new(owner, limits, public, books);
        let state = State { gate, keep, changed: false, kept: Instant::now() };
        Arc::new(Self { state: Mutex::new(state), revoked: watch::Sender::new(()) })
    }

    /// The doorman of one connection.
    #[must_use]
    pub fn door(self: &Arc<Self>) -> GuardDoor {
        GuardDoor { guard: Arc::clone(self), pass: None }
    }

    /// The epoch that a new grant needs to be good on all regions.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.state().gate.newest_epoch()
    }

    /// Ends every grant to what `prefix` means that was given so far; returns the epoch now in force.
    ///
    /// # Errors
    /// What the gate says, or why it could not be kept: then it holds until the holder ends.
    pub fn revoke_all(&self, prefix: Prefix) -> Result<u64, Refusal> {
        self.revoke(|gate| {
            let epoch = gate.newest_epoch().saturating_add(1);
            gate.revoke(prefix, epoch)
        })
    }

    fn revoke(&self, by: impl FnOnce(&mut Gate) -> Result<u64, Denied>) -> Result<u64, Refusal> {
        let mut state = self.state();
        let epoch = by(&mut state.gate).map_err(|denied| refusal(now(), &denied))?;
        self.revoked.send_replace(());
        state.keep_now()?;
        Ok(epoch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep_now(&mut self) -> Result<(), Refusal> {
        (self.keep)(&self.gate.books()).map_err(|error| {
            Refusal::new(Code::Unavailable, format!("the holder cannot keep it: {error}"))
        })?;
        self.changed = false;
        self.kept = Instant::now();
        Ok(())
    }

    /// Keeps used bytes, now and then.
    fn used(&mut self) {
        self.changed = true;
        if self.kept.elapsed() >= KEEP_EVERY {
            // A disk that is full now may have room the next time; until then the books in memory
            // count.
            let _ = self.keep_now();
            self.kept = Instant::now();
        }
    }
}

/// The doorman of one connection, who asks the [`Guard`].
#[derive(Debug)]
pub struct GuardDoor {
    guard: Arc<Guard>,
    pass: Option<Pass>,
}

impl Drop for GuardDoor {
    fn drop(&mut self) {
        let mut state = self.guard.state();
        if state.changed {
            // As above: a disk that refuses is tried again later.
            let _ = state.keep_now();
        }
    }
}

impl Doorman for GuardDoor {
    fn hello(&mut self, peer: NodeId, hello: &Hello) -> Result<(), Refusal> {
        let now = now();
        let pass = self.guard.state().gate.admit(now, peer, &hello.ticket);
        self.pass = Some(pass.map_err(|denied| refusal(now, &denied))?);
        Ok(())
    }

    fn may(&mut self, request: &Request, read_bytes: u64) -> Result<(), Refusal> {
        let now = now();
        let pass = self.pass.as_ref().ok_or_else(no_hello)?;
        let mut state = self.guard.state();
        let checked = state.gate.check_request(now, pass, request, read_bytes);
        checked.map_err(|denied| refusal(now, &denied))?;
        if pass.grant().is_some() {
            state.used();
        }
        Ok(())
    }

    fn may_be_told(&mut self, region: &RegionName) -> bool {
        let Some(pass) = &self.pass else { return false };
        let mut state = self.guard.state();
        state.gate.check(now(), pass, Right::Subscribe, region, 0).is_ok()
    }

    fn revoke(&mut self, prefix: &str, epoch: u64) -> Result<u64, Refusal> {
        let pass = self.pass.as_ref().ok_or_else(no_hello)?;
        self.guard.revoke(|gate| gate.serve_revoke(now(), pass, prefix, epoch))
    }

    fn revocations(&self) -> Option<watch::Receiver<()>> {
        Some(self.guard.revoked.subscribe())
    }

    fn may_keep(&self, region: &RegionName) -> bool {
        let pass = self.pass.as_ref();
        pass.is_some_and(|pass| self.guard.state().gate.may_keep(now(), pass, region))
    }
}

fn no_hello() -> Refusal {
    Refusal::new(Code::Unauthorised, "say HELLO first")
}

fn refusal(now: Time, denied: &Denied) -> Refusal {
    let after = denied.again.map(|again| Duration::from_millis(again.since(now).0));
    Refusal { code: denied.code, text: denied.why.to_string(), after }
}

/// Milliseconds since the Unix epoch: grants are dated so.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
