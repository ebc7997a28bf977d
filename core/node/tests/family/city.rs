//! A city that says what the test wants it to say, frame by frame.

use bytes::Bytes;
use suanli_base::{CityId, FragmentId, Hash, JobId, Round, Time, Tokens};
use suanli_bus::{
    DataSpec, HEAD_FORMAT, Head, JOB_FORMAT, JobSpec, Replicas, Schedule, Shape as Curve,
    ShardSpec, ToMember, Training,
};
use suanli_identity::SecretKey;
use suanli_node::family::{Done, FamilyNode, Input, Output, Saved, Setup, Work};
use suanli_params::Codec;
use suanli_rdpa::{
    Direction, Event, Frame, Header, Limits, Op, Opcode, PeerLimits, RegionInfo, Reply, Request,
    ResponderToken, Session, Side, Welcome,
};

pub(crate) struct City {
    key: SecretKey,
    family: FamilyNode,
    session: Session,
    now: Time,
    /// The OPEN that waits for its answer.
    opening: Option<ResponderToken>,
    /// The request ids of READs, oldest first, each with what it asks for.
    reads: Vec<(u64, Vec<u32>)>,
    outputs: Vec<Output>,
}

impl City {
    /// With a family that lends so much memory, admitted.
    pub(crate) fn new(memory_bytes: u64) -> Self {
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
        let mut city = Self { key, family, session, now, opening, reads, outputs };
        city.family.handle(now, Input::Linked { seed: 2 });
        city.exchange();
        assert!(city.family.is_admitted());
        city
    }

    pub(crate) fn spec(&self) -> JobSpec {
        let shard = ShardSpec { bytes: 1000 * 34, samples: 1000, root: Hash([5; 32]) };
        let total = Tokens(100_000);
        let (shape, warmup) = (Curve::Constant, Tokens(0));
        JobSpec {
            format: JOB_FORMAT,
            name: "paper".into(),
            model: "{}".into(),
            parameters: 100,
            numeric_class: "test".into(),
            replica_memory_bytes: 1 << 20,
            theta_root: Hash([9; 32]),
            frozen: None,
            tokenizer: Hash([8; 32]),
            data: DataSpec {
                sample_tokens: 17,
                token_bytes: 2,
                samples: 1000,
                group: 64,
                order_seed: 1,
                shards: vec![shard],
                held_out: shard,
            },
            training: Training {
                inner_steps: 10,
                batch_sequences: 4,
                schedule: Schedule {
                    shape,
                    lr: 1e-3,
                    min_share: 0.1,
                    decay_share: 0.2,
                    warmup,
                    total,
                },
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
                outer_lr: 0.9,
                outer_momentum: vec![0.2],
                codec: Codec::Int4,
                rounds: 3,
                tokens: Tokens(0),
            },
            replicas: Replicas {
                min: 1,
                expected: 2,
                max: 8,
                quorum_per_mille: 600,
                grace_ms: 500,
                staleness_max: 1,
            },
        }
    }

    pub(crate) fn job(&self) -> JobId {
        JobSpec::id_of(&self.spec().to_bytes())
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
            Request::Send { .. } => Reply::Delivered,
            other => panic!("a family does not ask {other:?}"),
        };
        self.session.respond(self.now, token, reply);
    }

    fn say(&mut self, message: &ToMember) {
        let op = Op::Send { bytes: message.to_bytes().into() };
        self.session.request(self.now, op).unwrap();
        self.exchange();
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
        let spec = self.spec().to_bytes();
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
        let job = self.job();
        let head = Head {
            format: HEAD_FORMAT,
            city: CityId::from(self.key.node()),
            job,
            fragment: FragmentId(0),
            version: Round(0),
            before: Hash::ZERO,
            theta_root,
            update_root: Hash::ZERO,
            merged: Vec::new(),
            tokens: Tokens(0),
            time: self.now,
        };
        let heads = vec![head.sign(&self.key)];
        self.say(&ToMember::Heads { job, newest: Round(0), heads });
    }

    /// What the family wanted of its host since this was asked last.
    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        core::mem::take(&mut self.outputs)
    }
}
