//! A city: sessions with its members, the proposer and the durable state, and what its host does.

mod guests;
mod probe;
mod rounds;
mod serve;
mod stages;
mod work;
mod writes;

pub use work::{
    Command, CommandId, ConnId, Done, Input, Output, Settle, SettleFault, Source, Stage, Work,
};

use crate::name::Name;
use bytes::Bytes;
use core::cmp::Reverse;
use core::net::IpAddr;
use guests::Guest;
use stages::Stages;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use suanli_base::{Duration, Hash, JobId, LeaseId, NodeId, Round, Time};
use suanli_bus::state::{CityState, Inconsistent};
use suanli_bus::{Authority, ToMember};
use suanli_identity::{Role, SecretKey};
use suanli_log::{Entry, NAME_CHARS_MAX};
use suanli_rdpa::{
    Event, Frame, Gate, GateBooks, GateLimits, Limits, Op, RegionInfo, RegionName, Request,
    ResponderToken, Session, Side,
};

/// Entries after which the log is cut by a snapshot.
const SNAPSHOT_EVERY: u32 = 256;
/// Connections that are up at once; a further one takes the place of one that was not admitted.
const CONNECTIONS_MAX: usize = 4096;
/// Admitted connections of one node; one more ends its oldest.
const CONNECTIONS_PER_NODE_MAX: usize = 64;
/// Bytes of the description of a job's tensors; what is longer is not offered.
pub const TENSORS_BYTES_MAX: usize = 16 << 20;
const TICK_EVERY: Duration = Duration(100);

/// What a member says of itself: shown, never decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its name, without control characters, at most `NAME_CHARS_MAX` of them.
    pub name: String,
    /// The owner's limit of CPU share, 1 to 100.
    pub share_percent: Option<u8>,
}

/// A city without its disk, sockets and clock.
#[derive(Debug)]
pub struct CityNode {
    key: SecretKey,
    limits: Limits,
    now: Time,
    state: CityState,
    authority: Authority,
    conns: BTreeMap<ConnId, Conn>,
    told: BTreeMap<NodeId, Told>,
    regions: BTreeMap<RegionName, Served>,
    older: BTreeMap<(RegionName, u64), Served>,
    content: BTreeMap<Hash, Arc<RegionInfo>>,
    /// What the host says of each job's parameters.
    tensors: BTreeMap<JobId, Bytes>,
    stages: Stages,
    storing: BTreeMap<Hash, Vec<(ConnId, ResponderToken)>>,
    submitting: BTreeMap<JobId, Submission>,
    unread: BTreeSet<ConnId>,
    settling: BTreeSet<LeaseId>,
    /// Work under way that writes blobs.
    writing: BTreeSet<Writer>,
    /// Blobs nobody needs, each with the work that was under way when that was found.
    unneeded: Vec<(BTreeSet<Writer>, Vec<Hash>)>,
    gate: Gate,
    keeping: guests::Keeping,
    evaluating: Option<(JobId, Round)>,
    to_evaluate: BTreeMap<JobId, Round>,
    proposed: Vec<Entry>,
    after: Vec<After>,
    outputs: VecDeque<Output>,
    since_snapshot: u32,
    next_tick: Time,
}

#[derive(Debug)]
struct Conn {
    peer: NodeId,
    from: Option<IpAddr>,
    session: Session,
    /// Of a member, once it was admitted.
    role: Option<Role>,
    /// Of a guest, once it was admitted.
    guest: Option<Guest>,
}

impl Conn {
    const fn is_admitted(&self) -> bool {
        self.role.is_some() || self.guest.is_some()
    }
}

/// Work whose outcome may name a blob that another has let go: equal bytes are one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Writer {
    Settle(LeaseId),
    Merge(JobId),
    Found(JobId),
}

/// A region that can be read.
#[derive(Clone, Debug)]
struct Served {
    info: Arc<RegionInfo>,
    source: Source,
}

#[derive(Debug)]
struct Submission {
    spec: Vec<u8>,
    trainer: NodeId,
    to: Vec<ReplyTo>,
}

/// Who hears what came of a submission or a move.
#[derive(Clone, Copy, Debug)]
enum ReplyTo {
    Conn(ConnId),
    Command(CommandId),
}

/// What waits for the entries under way to be durable.
#[derive(Debug)]
enum After {
    Welcome { conn: ConnId, token: ResponderToken, role: Role },
    Outcome { to: ReplyTo, job: JobId },
    Offered { job: JobId, theta_chunks: Vec<Hash> },
}

impl CityNode {
    /// A city with the state that its log folded to and the content its disk holds.
    ///
    /// What was under way when the log ended begins again: see the first outputs.
    #[must_use]
    pub fn new(
        key: SecretKey,
        limits: Limits,
        state: CityState,
        content: Vec<RegionInfo>,
        now: Time,
    ) -> Self {
        let content = content.into_iter().map(|info| (info.root, Arc::new(info))).collect();
        let measured = Served { info: probe::info(), source: Source::Probe };
        let gate = Gate::new(key.node(), GateLimits::default(), Vec::new(), GateBooks::default());
        let mut node = Self {
            key,
            limits,
            now,
            state,
            authority: Authority::default(),
            conns: BTreeMap::new(),
            told: BTreeMap::new(),
            regions: BTreeMap::from([(Name::Probe.region(), measured)]),
            older: BTreeMap::new(),
            content,
            tensors: BTreeMap::new(),
            stages: Stages::default(),
            storing: BTreeMap::new(),
            submitting: BTreeMap::new(),
            unread: BTreeSet::new(),
            settling: BTreeSet::new(),
            writing: BTreeSet::new(),
            unneeded: Vec::new(),
            gate,
            keeping: guests::Keeping::default(),
            evaluating: None,
            to_evaluate: BTreeMap::new(),
            proposed: Vec::new(),
            after: Vec::new(),
            outputs: VecDeque::new(),
            since_snapshot: 0,
            next_tick: now,
        };
        node.resume();
        node
    }

    /// The durable state.
    #[must_use]
    pub const fn state(&self) -> &CityState {
        &self.state
    }

    /// The volatile half: who is connected and how fast.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What a member says of itself, since this city began to run.
    #[must_use]
    pub fn told_by(&self, node: NodeId) -> Option<&Told> {
        self.told.get(&node)
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`Inconsistent`] when an entry cannot follow the state: stop, do not go on.
    ///
    /// # Panics
    /// When anything but [`Input::Durable`] comes while an append is under way: a defect of the host.
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Inconsistent> {
        self.now = self.now.max(now);
        let durable = matches!(input, Input::Durable);
        assert!(
            self.proposed.is_empty() != durable,
            "durable answers an append, nothing else does"
        );
        match input {
            Input::Opened { conn, peer, from, seed } => self.open(conn, (peer, from), seed),
            Input::Frame { conn, frame } => self.frame(conn, frame),
            Input::Arriving { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.session.arriving(self.now);
                }
            }
            Input::Closed { conn } => self.closed(conn),
            Input::Tick => self.tick(),
            Input::Durable => self.durable()?,
            Input::Done(done) => self.done(done),
            Input::Describe { job, tensors } => self.describe(job, tensors),
            Input::Command { id, command } => self.command(id, command),
        }
        self.forget_unneeded();
        Ok(())
    }

    /// The next output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next frame for a connection.
    pub fn poll_transmit(&mut self, conn: ConnId) -> Option<Frame> {
        let now = self.now;
        self.conns.get_mut(&conn)?.session.poll_transmit(now)
    }

    /// The next control frame for a connection: for a host that holds bulk back by its operator's
    /// limits.
    pub fn poll_control(&mut self, conn: ConnId) -> Option<Frame> {
        let now = self.now;
        self.conns.get_mut(&conn)?.session.poll_control(now)
    }

    /// The length on the wire of the next bulk frame for a connection.
    pub fn bulk_waiting(&mut self, conn: ConnId) -> Option<usize> {
        self.conns.get_mut(&conn)?.session.bulk_waiting()
    }

    /// The next bulk frame for a connection.
    pub fn poll_bulk(&mut self, conn: ConnId) -> Option<Frame> {
        let now = self.now;
        self.conns.get_mut(&conn)?.session.poll_bulk(now)
    }

    /// The connections that are up.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, NodeId)> + '_ {
        self.conns.iter().map(|(id, conn)| (*id, conn.peer))
    }

    /// Whether a connection is that of a member whose HELLO was accepted.
    #[must_use]
    pub fn is_member(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|conn| conn.role.is_some())
    }

    /// When [`Input::Tick`] is wanted next.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        let sessions = self.conns.values().filter_map(|conn| conn.session.poll_timeout());
        let guests = self.conns.values().filter_map(|conn| conn.guest.as_ref()?.due());
        sessions.chain(guests).fold(self.next_tick, Time::min)
    }

    fn open(&mut self, conn: ConnId, (peer, from): (NodeId, Option<IpAddr>), seed: u64) {
        if self.conns.len() >= CONNECTIONS_MAX {
            let why = format!("{CONNECTIONS_MAX} connections are up, and others have come since");
            match self.first_to_go() {
                Some(stranger) => self.close(stranger, why),
                // All are admitted: they stay.
                None => return self.outputs.push_back(Output::Close { conn, why }),
            }
        }
        let session = Session::new(Side::Accepting, self.now, self.limits, seed);
        self.conns.insert(conn, Conn { peer, from, session, role: None, guest: None });
    }

    /// The connection that has been longest without an accepted HELLO, of the address that has most
    /// of them: a crowd pushes out its own.
    fn first_to_go(&self) -> Option<ConnId> {
        let mut crowds: BTreeMap<Option<IpAddr>, (usize, Reverse<ConnId>)> = BTreeMap::new();
        for (id, conn) in self.conns.iter().filter(|(_, conn)| !conn.is_admitted()) {
            // Oldest first: they are numbered as they come.
            crowds.entry(conn.from).or_insert((0, Reverse(*id))).0 += 1;
        }
        crowds.into_values().max().map(|(_, Reverse(oldest))| oldest)
    }

    /// A connection was admitted: nobody who was takes the places of all others.
    fn admitted(&mut self, id: ConnId) {
        let Some(peer) = self.conns.get(&id).map(|conn| conn.peer) else { return };
        let own = self.conns.iter().filter(|(_, conn)| conn.peer == peer && conn.is_admitted());
        let own: Vec<ConnId> = own.map(|(id, _)| *id).collect();
        if own.len() > CONNECTIONS_PER_NODE_MAX {
            let why = format!("this node has {CONNECTIONS_PER_NODE_MAX} newer connections");
            self.close(own[0], why);
        }
    }

    fn frame(&mut self, id: ConnId, frame: Frame) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Err(violation) = conn.session.handle_frame(self.now, frame) {
            let why = format!("node {} broke the protocol: {violation}", conn.peer.short());
            self.close(id, why);
            return;
        }
        self.events(id);
    }

    fn events(&mut self, id: ConnId) {
        // A decision stands on the durable state: what comes after a proposal waits for it.
        while self.proposed.is_empty() {
            let Some(event) = self.conns.get_mut(&id).and_then(|c| c.session.poll_event()) else {
                return;
            };
            match event {
                Event::Request { token, request } => self.request(id, token, request),
                Event::Cancelled { token } => self.cancelled(id, token),
                Event::Silent { span } => {
                    self.close(id, format!("nothing heard for {} ms", span.0));
                }
                _ => {}
            }
        }
        self.unread.insert(id);
    }

    /// Goes on with what waited for a proposal to become durable.
    fn read_on(&mut self) {
        while self.proposed.is_empty() {
            let Some(id) = self.unread.pop_first() else { return };
            self.events(id);
        }
    }

    fn request(&mut self, id: ConnId, token: ResponderToken, request: Request) {
        match request {
            Request::Hello(hello) => self.hello(id, token, &hello),
            Request::Send { bytes } => self.message(id, token, &bytes),
            request => self.serve(id, token, request),
        }
    }

    /// Closes a connection of our own accord.
    fn close(&mut self, conn: ConnId, why: String) {
        self.outputs.push_back(Output::Close { conn, why });
        self.closed(conn);
    }

    fn closed(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else { return };
        let still_here = self.conns.values().any(|c| c.peer == conn.peer && c.role.is_some());
        if !still_here {
            self.authority.gone(conn.peer);
        }
        self.evaluate_rounds();
    }

    fn tick(&mut self) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.session.handle_timeout(self.now);
            }
            self.serve_kept(id);
            self.events(id);
        }
        if self.now >= self.next_tick {
            self.next_tick = self.now.after(TICK_EVERY);
            self.keep_now_and_then();
            self.evaluate_rounds();
        }
    }

    /// Sends a message on every connection of a member.
    fn tell(&mut self, node: NodeId, message: &ToMember) {
        let bytes = bytes::Bytes::from(message.to_bytes());
        let now = self.now;
        for conn in self.conns.values_mut().filter(|c| c.peer == node && c.role.is_some()) {
            // A full queue means the member does not read: it will ask again when it does.
            let _ = conn.session.request(now, Op::Send { bytes: bytes.clone() });
        }
    }

    fn introduce(&mut self, node: NodeId, name: &str, share_percent: u8) {
        let name = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        let share_percent = Some(share_percent).filter(|share| (1..=100).contains(share));
        self.told.insert(node, Told { name, share_percent });
    }
}
