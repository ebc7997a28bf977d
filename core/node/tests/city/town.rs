//! A city with any number of peers, driven by hand: frames arrive at once and in order, what the
//! city wants of its host is done when the test says so.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::IpAddr;
use suanli_base::{CityId, Hash, NodeId, Time};
use suanli_bus::CityState;
use suanli_identity::{Grant, Role, SecretKey, Ticket};
use suanli_log::Entry;
use suanli_node::city::{CityNode, ConnId, Done, Input, Output, Work};
use suanli_rdpa::{
    Answer, Code, Event, Failure, Handle, Hello, Level, Limits, Op, RegionInfo, RegionName,
    RequestId, Session, Side, StageInfo, StageKind,
};

pub(crate) struct Town {
    pub(crate) city: CityNode,
    key: SecretKey,
    pub(crate) now: Time,
    peers: BTreeMap<ConnId, Session>,
    /// Work the city asked for, in order.
    pub(crate) work: Vec<Work>,
    /// Connections that the city closed, and why.
    pub(crate) closed: Vec<(ConnId, String)>,
    next: u64,
}

/// The key of a node of a test.
pub(crate) fn key(number: u64) -> SecretKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(&seed)
}

impl Town {
    pub(crate) fn new() -> Self {
        Self::founded(|_, _| {})
    }

    /// With whatever its log holds beyond the first entry.
    pub(crate) fn founded(more: impl FnOnce(&mut CityState, Time)) -> Self {
        let (key, now) = (key(0), Time(1_000_000));
        let city = CityId::from(key.node());
        let mut state = CityState::new();
        state.apply(&Entry::Founded { city, name: "town".into(), time: now }).unwrap();
        more(&mut state, now);
        let city = CityNode::new(key.clone(), Limits::reliable(), state, Vec::new(), now);
        let (peers, work, closed) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut town = Self { city, key, now, peers, work, closed, next: 0 };
        town.settle();
        town
    }

    /// A connection from an address that has said nothing.
    pub(crate) fn connect(&mut self, peer: NodeId, from: u32) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        let session = Session::new(Side::Connecting, self.now, Limits::reliable(), self.next);
        self.peers.insert(conn, session);
        let from = Some(IpAddr::from(from.to_be_bytes()));
        self.input(Input::Opened { conn, peer, from, seed: self.next });
        conn
    }

    /// A connection of node `number`, admitted by a ticket.
    pub(crate) fn member(&mut self, number: u64, role: Role) -> ConnId {
        let conn = self.connect(key(number).node(), 1);
        let (city, expires) = (CityId::from(self.key.node()), Time(u64::MAX));
        let grant = Grant { city, role, expires, uses: 9, nonce: number, addresses: Vec::new() };
        let ticket = Ticket::issue(&self.key, grant).unwrap();
        let hello = Op::Hello(Hello::new(role, ticket.to_bytes()));
        assert!(matches!(self.ask(conn, hello), Ok(Answer::Welcome(_))));
        conn
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.city.handle(self.now, input).unwrap();
        self.settle();
    }

    /// The host did what was asked.
    pub(crate) fn done(&mut self, done: Done) {
        self.input(Input::Done(done));
        self.exchange();
    }

    /// Time goes by in which nobody says anything: connections do not outlast it.
    pub(crate) fn later(&mut self, ms: u64) {
        self.now = Time(self.now.0 + ms);
        self.input(Input::Tick);
        self.exchange();
    }

    fn settle(&mut self) {
        while let Some(output) = self.city.poll_output() {
            match output {
                Output::Append(_) => self.city.handle(self.now, Input::Durable).unwrap(),
                Output::Work(work) => self.work.push(work),
                Output::Close { conn, why } => {
                    self.peers.remove(&conn);
                    self.closed.push((conn, why));
                }
                _ => {}
            }
        }
    }

    /// Carries frames until nobody has any.
    pub(crate) fn exchange(&mut self) {
        loop {
            let mut quiet = true;
            let conns: Vec<ConnId> = self.peers.keys().copied().collect();
            for conn in conns {
                while let Some(frame) =
                    self.peers.get_mut(&conn).and_then(|peer| peer.poll_transmit(self.now))
                {
                    quiet = false;
                    self.input(Input::Frame { conn, frame });
                }
                while let Some(frame) = self.city.poll_transmit(conn) {
                    quiet = false;
                    if let Some(peer) = self.peers.get_mut(&conn) {
                        peer.handle_frame(self.now, frame).unwrap();
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Asks without waiting.
    pub(crate) fn send(&mut self, conn: ConnId, op: Op) -> RequestId {
        let id = self.peers.get_mut(&conn).unwrap().request(self.now, op).unwrap();
        self.exchange();
        id
    }

    pub(crate) fn cancel(&mut self, conn: ConnId, id: RequestId) {
        self.peers.get_mut(&conn).unwrap().cancel(id);
        self.exchange();
    }

    /// What became of a request: nothing when it is not answered.
    pub(crate) fn outcome(&mut self, conn: ConnId, id: RequestId) -> Option<Result<Answer, Code>> {
        let session = self.peers.get_mut(&conn)?;
        while let Some(event) = session.poll_event() {
            match event {
                Event::Answered { id: about, answer } if about == id => return Some(Ok(answer)),
                Event::Failed { id: about, failure: Failure::Refused { code, .. } }
                    if about == id =>
                {
                    return Some(Err(code));
                }
                _ => {}
            }
        }
        None
    }

    /// Asks, and has the answer.
    pub(crate) fn ask(&mut self, conn: ConnId, op: Op) -> Result<Answer, Code> {
        let id = self.send(conn, op);
        self.outcome(conn, id).expect("it is answered at once")
    }

    /// Opens the staging area of content with this announcement.
    pub(crate) fn open_upload(
        &mut self,
        conn: ConnId,
        info: &RegionInfo,
    ) -> Result<(Handle, u32), Code> {
        let region = upload(info.root);
        let stage = StageInfo { kind: StageKind::Write, shape: info.shape, root: info.root };
        match self.ask(conn, Op::OpenStage { region, stage })? {
            Answer::StageOpened { handle, placed } => Ok((handle, placed.count())),
            other => panic!("expected a staging area, found {other:?}"),
        }
    }

    pub(crate) fn write(
        &mut self,
        conn: ConnId,
        handle: Handle,
        chunk: u32,
        bytes: &[u8],
    ) -> Result<Answer, Code> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.ask(conn, Op::Write { handle, chunk, bytes, level: Level::Placed })
    }
}

/// Where content with this root is brought.
pub(crate) fn upload(root: Hash) -> RegionName {
    suanli_node::region_of_upload(root)
}
