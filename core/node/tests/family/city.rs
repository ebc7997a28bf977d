//! A city that says what the test wants it to say, frame by frame.

use crate::paper::spec;
use bytes::Bytes;
use suanli_base::{CityId, Duration, FragmentId, Hash, JobId, Round, Time, Tokens};
use suanli_bus::{HEAD_FORMAT, Head, JobSpec, ToCity, ToMember};
use suanli_identity::SecretKey;
use suanli_node::family::{Done, FamilyNode, Input, Output, Saved, Setup, Work};
use suanli_rdpa::{
    Code, Direction, Event, Frame, Header, Limits, Op, Opcode, PeerLimits, RegionInfo, Reply,
    Request, ResponderToken, Session, Side, Welcome,
};

pub(crate) struct City {
    key: SecretKey,
    spec: JobSpec,
    family: FamilyNode,
    session: Session,
    now: Time,
    /// The OPEN that waits for its answer.
    opening: Option<ResponderToken>,
    /// The request ids of READs, oldest first, each with what it asks for.
    reads: Vec<(u64, Vec<u32>)>,
    outputs: Vec<Output>,
    /// The newest head: version and hash.
    head: Option<(Round, Hash)>,
    /// The family asked for work.
    asked: bool,
}

impl City {
    /// With a family that lends so much memory, admitted.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        Self::with_job(memory_bytes, spec())
    }

    pub(crate) fn with_job(memory_bytes: u64, spec: JobSpec) -> Self {
        let (key, now) = (SecretKey::from_seed(&[1; 32]), Time(1_000_000));
        let setup = Setup {
            key: SecretKey::from_seed(&[2; 32]),
            city: CityId::from(key.node()),
            ticket: Vec::new(),
            name: "family".into(),
            share_percent: 100,
            memory_bytes,
            limits: Limits::reliable(),
            saved: Saved::default(),
        };
        let family = FamilyNode::new(setup, now);
        let session = Session::new(Side::Accepting, now, Limits::reliable(), 1);
        let (opening, reads, outputs) = (None, Vec::new(), Vec::new());
        let (head, asked) = (None, false);
        let mut city =
            Self { key, spec, family, session, now, opening, reads, outputs, head, asked };
        city.family.handle(now, Input::Linked { seed: 2 });
        city.exchange();
        assert!(city.family.is_admitted());
        city
    }

    pub(crate) fn job(&self) -> JobId {
        JobSpec::id_of(&self.spec.to_bytes())
    }

    fn exchange(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.family.poll_output() {
                self.outputs.push(output);
            }
            while let Some(frame) = self.family.poll_transmit() {
                quiet = false;
                let header = *frame.header();
                if header.opcode == Opcode::Read && header.direction == Direction::Request {
                    // Answered frame by frame: this session would not say what is not so.
                    let chunks = postcard::from_bytes(frame.payload()).unwrap();
                    self.reads.push((header.request, chunks));
                } else {
                    self.session.handle_frame(self.now, frame).unwrap();
                }
            }
            while let Some(event) = self.session.poll_event() {
                self.event(event);
            }
            while let Some(frame) = self.session.poll_transmit(self.now) {
                quiet = false;
                self.family.handle(self.now, Input::Frame(frame));
            }
            if quiet {
                return;
            }
        }
    }

    fn event(&mut self, event: Event) {
        let Event::Request { token, request } = event else { return };
        let reply = match request {
            Request::Hello(_) => {
                let limits = PeerLimits { requests_max: 256, bulk_window_bytes: 4 << 20 };
                Reply::Welcome(Welcome { version: 2, limits, time: self.now })
            }
            Request::Open { .. } => {
                self.opening = Some(token);
                return;
            }
            Request::Subscribe { .. } => Reply::Subscribed { version: 0 },
            Request::Send { bytes } => {
                self.asked |= matches!(ToCity::from_bytes(&bytes), Some(ToCity::Ask(_)));
                Reply::Delivered
            }
            other => panic!("a family does not ask {other:?}"),
        };
        self.session.respond(self.now, token, reply);
    }

    fn say(&mut self, message: &ToMember) {
        let op = Op::Send { bytes: message.to_bytes().into() };
        self.session.request(self.now, op).unwrap();
        self.exchange();
    }

    /// Three seconds in which some bytes of a frame come, or nothing does.
    pub(crate) fn slow(&mut self, arriving: bool) {
        self.now.0 += 3_000;
        if arriving {
            self.family.handle(self.now, Input::Arriving);
        }
        self.family.handle(self.now, Input::Tick);
        self.outputs.extend(core::iter::from_fn(|| self.family.poll_output()));
    }

    /// The host did what was asked.
    pub(crate) fn done(&mut self, done: Done) {
        self.family.handle(self.now, Input::Done(done));
        self.exchange();
    }

    /// Has the family prepare for the job: it opens the specification.
    pub(crate) fn prepare(&mut self) {
        self.say(&ToMember::Prepare { job: self.job(), version: Round(0) });
    }

    /// Answers the OPEN that waits.
    pub(crate) fn open_with(&mut self, info: &RegionInfo) {
        let token = self.opening.take().expect("something is being opened");
        self.session.respond(self.now, token, Reply::Opened(info.clone().into()));
        self.exchange();
    }

    /// Cuts the link, and makes another.
    pub(crate) fn cut(&mut self) {
        self.family.handle(self.now, Input::LinkLost);
        self.reads.clear();
        self.session = Session::new(Side::Accepting, self.now, Limits::reliable(), 3);
        self.family.handle(self.now, Input::Linked { seed: 4 });
        self.exchange();
        assert!(self.family.is_admitted());
    }

    /// There is nothing newer than what the family knows.
    pub(crate) fn nothing_new(&mut self) {
        let (newest, _) = self.head.expect("something was signed");
        let job = self.job();
        self.say(&ToMember::Heads { job, newest, heads: Vec::new() });
    }

    /// Which chunks are asked for.
    pub(crate) fn wanted(&self) -> Vec<u32> {
        self.reads.iter().flat_map(|(_, chunks)| chunks.clone()).collect()
    }

    /// Sends a chunk that is asked for; nothing when it is not.
    pub(crate) fn chunk(&mut self, index: u32, bytes: &Bytes) {
        let read = self.reads.iter().rev().find(|(_, chunks)| chunks.contains(&index));
        let Some((request, _)) = read else { return };
        let header = Header::new(Opcode::Read, Direction::Reply, *request);
        let header = Header { version: 1, offset: index.into(), ..header };
        let frame = Frame::unhashed(header, bytes.clone());
        self.family.handle(self.now, Input::Frame(frame));
        self.exchange();
    }

    /// Has the family read the specification.
    pub(crate) fn read_spec(&mut self) {
        self.prepare();
        let spec = self.spec.to_bytes();
        self.open_with(&RegionInfo::of(1, &spec, 1 << 20).unwrap());
        self.chunk(0, &spec.into());
    }

    /// Has the family load the job: it asks for heads.
    pub(crate) fn load(&mut self) {
        self.read_spec();
        let outputs = self.outputs();
        assert!(outputs.iter().any(|output| matches!(output, Output::Work(Work::Load { .. }))));
        self.done(Done::Loaded { job: self.job(), private: Ok(Hash::ZERO) });
    }

    /// Signs that the first parameters have this root: the family opens them.
    pub(crate) fn heads(&mut self, theta_root: Hash) {
        self.sign(Round(0), theta_root);
    }

    /// Signs that the next parameters have this root.
    pub(crate) fn next_head(&mut self, theta_root: Hash) {
        let version = self.head.as_ref().map_or(Round(0), |(version, _)| version.next());
        self.sign(version, theta_root);
    }

    fn sign(&mut self, version: Round, theta_root: Hash) {
        let job = self.job();
        let head = Head {
            format: HEAD_FORMAT,
            city: CityId::from(self.key.node()),
            job,
            fragment: FragmentId(0),
            version,
            before: self.head.as_ref().map_or(Hash::ZERO, |(_, hash)| *hash),
            theta_root,
            update_root: Hash::ZERO,
            merged: Vec::new(),
            tokens: Tokens(0),
            time: self.now,
        };
        let signed = head.sign(&self.key);
        self.head = Some((version, signed.hash()));
        self.say(&ToMember::Heads { job, newest: version, heads: vec![signed] });
    }

    /// Refuses all that is being read.
    pub(crate) fn refuse(&mut self, code: Code) {
        for (request, chunks) in core::mem::take(&mut self.reads) {
            let header = Header::new(Opcode::Read, Direction::Reply, request);
            let header = Header { status: Some(code), offset: chunks[0].into(), ..header };
            self.family.handle(self.now, Input::Frame(Frame::unhashed(header, Bytes::new())));
        }
        self.exchange();
    }

    /// Whether the family asks for work by itself, in time.
    pub(crate) fn is_asked_for_work_within(&mut self, ms: u64) -> bool {
        self.asked = false;
        for _ in 0..ms / 100 {
            self.now = self.now.after(Duration(100));
            self.family.handle(self.now, Input::Tick);
            self.exchange();
        }
        self.asked
    }

    /// What the family wanted of its host since this was asked last.
    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        core::mem::take(&mut self.outputs)
    }
}
