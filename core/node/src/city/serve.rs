//! What peers ask of a city: admission, control messages, reading regions.

use super::{
    After, CityNode, ConnId, Output, ReplyTo, Served, Settle, Source, Stage, Work, Writer, probe,
};
use crate::name::{JobRegion, Name};
use bytes::Bytes;
use std::sync::Arc;
use suanli_base::{JobId, LeaseId, NodeId, Round};
use suanli_bus::{Authority, HEADS_MAX, MESSAGE_BYTES_MAX, Refusal, ToCity, ToMember};
use suanli_identity::{Access, Role, Signed, Ticket};
use suanli_log::{Entry, NAME_CHARS_MAX};
use suanli_rdpa::{
    Code, Hello, Level, PeerLimits, RegionName, RegionStat, Reply, Request, ResponderToken,
    Welcome, runs_of,
};

/// What of a region is read.
enum Part {
    Chunk(u32),
    Runs(Vec<(u64, u32)>),
}

/// Runs of `bytes` one behind the other; nothing when one lies outside.
fn pack(bytes: &[u8], runs: &[(u64, u32)]) -> Option<Bytes> {
    let mut packed = Vec::new();
    for (offset, len) in runs {
        let start = usize::try_from(*offset).ok()?;
        packed.extend_from_slice(bytes.get(start..start.checked_add(*len as usize)?)?);
    }
    Some(packed.into())
}

impl CityNode {
    pub(super) fn respond(&mut self, id: ConnId, token: ResponderToken, reply: Reply) {
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.session.respond(now, token, reply);
        }
    }

    pub(super) fn refuse(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        code: Code,
        text: impl Into<String>,
    ) {
        self.respond(id, token, Reply::Error { code, text: text.into() });
    }

    /// Admits a node by its ticket, or because it is known.
    pub(super) fn hello(&mut self, id: ConnId, token: ResponderToken, hello: &Hello) {
        let Some(peer) = self.conns.get(&id).map(|conn| conn.peer) else { return };
        if Access::is_meant_by(&hello.ticket) {
            return self.hello_of_guest(id, token, &hello.ticket);
        }
        let known = self.state.members.get(&peer);
        if hello.ticket.is_empty() || peer == NodeId::from(self.state.city) {
            let own = peer == NodeId::from(self.state.city);
            // Whoever may do anything may look on.
            let within = |role| [role, Role::Watch].contains(&hello.role) || role == Role::Operate;
            let may = known.is_some_and(|m| !m.left && within(m.role));
            if own || may {
                self.welcome(id, token, hello.role);
            } else {
                let text = "this node is not a member of the city; come with a ticket";
                self.refuse(id, token, Code::Unauthorised, text);
            }
            return;
        }
        let ticket = Ticket::from_bytes(&hello.ticket);
        let checked = ticket.and_then(|ticket| ticket.check(self.now, hello.role).map(|()| ticket));
        let ticket = match checked {
            Ok(ticket) => ticket,
            Err(error) => return self.refuse(id, token, Code::Unauthorised, error.to_string()),
        };
        if ticket.grant().city != self.state.city {
            let text = "the ticket is for another city";
            return self.refuse(id, token, Code::Unauthorised, text);
        }
        let used_by_it = known.is_some_and(|m| m.ticket == ticket.id());
        if used_by_it && known.is_some_and(|m| !m.left && m.role == ticket.grant().role) {
            return self.welcome(id, token, hello.role);
        }
        let uses = self.state.ticket_uses.get(&ticket.id()).copied().unwrap_or(0);
        if !used_by_it && uses >= ticket.grant().uses {
            let text = format!("the ticket was used {uses} times, which is all; ask for a new one");
            return self.refuse(id, token, Code::Unauthorised, text);
        }
        let role = ticket.grant().role;
        let name: String = peer.short().chars().take(NAME_CHARS_MAX).collect();
        let ticket = ticket.id();
        let entry = Entry::Joined { node: peer, name, role, ticket, time: self.now };
        self.after.push(After::Welcome { conn: id, token, role: hello.role });
        self.propose(vec![entry]);
    }

    pub(super) fn answer_hello(&mut self, id: ConnId, token: ResponderToken) {
        let limits = PeerLimits {
            requests_max: u32::try_from(self.limits.serving_max).unwrap_or(u32::MAX),
            bulk_window_bytes: self.limits.bulk_window_bytes,
        };
        let version = suanli_rdpa::limits::PROTOCOL_VERSION;
        let reply = Reply::Welcome(Welcome { version, limits, time: self.now });
        self.respond(id, token, reply);
    }

    pub(super) fn welcome(&mut self, id: ConnId, token: ResponderToken, role: Role) {
        self.answer_hello(id, token);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.role = Some(role);
        if role == Role::Join {
            self.authority.connected(self.now, conn.peer);
        }
        self.outputs.push_back(Output::Admitted { conn: id, role });
        self.admitted(id);
    }

    /// A control message.
    pub(super) fn message(&mut self, id: ConnId, token: ResponderToken, bytes: &Bytes) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (peer, role) = (conn.peer, conn.role);
        let (Some(role), Some(message)) = (role, ToCity::from_bytes(bytes)) else {
            self.refuse(id, token, Code::Protocol, "no message of this version");
            return;
        };
        let trains = matches!(role, Role::Train | Role::Operate);
        self.respond(id, token, Reply::Delivered);
        match message {
            ToCity::Introduce { name, share_percent } => {
                self.introduce(peer, &name, share_percent);
            }
            ToCity::Heads { job, from } => self.heads(id, peer, job, from),
            ToCity::Submit { spec } if trains => self.submit(spec, peer, ReplyTo::Conn(id)),
            ToCity::Move { job, to } if trains => {
                let own = self.state.jobs.get(&job).is_some_and(|j| j.trainer == peer);
                let may = own || role == Role::Operate;
                self.move_job(job, to, may, ReplyTo::Conn(id));
            }
            ToCity::Submit { .. } | ToCity::Move { .. } => {
                self.outcome(
                    ReplyTo::Conn(id),
                    JobId::ZERO,
                    suanli_bus::JobOutcome::Refused(
                        "this needs a ticket of the role \"train\"".into(),
                    ),
                );
            }
            message if role == Role::Join => self.member_message(peer, message),
            _ => {}
        }
    }

    fn member_message(&mut self, peer: NodeId, message: ToCity) {
        let now = self.now;
        match message {
            ToCity::Ask(ask) => {
                let decision = self.authority.ask(&self.state, now, peer, &ask);
                self.decide(decision);
            }
            ToCity::Beat { steps, rate, .. } => self.authority.beat(now, peer, steps, rate),
            ToCity::HandIn { lease, contribution } => self.hand_in(peer, lease, contribution),
            ToCity::Decline { lease } => {
                let decision = Authority::decline(&self.state, now, peer, lease);
                self.decide(decision);
            }
            ToCity::Paused { paused } => {
                self.authority.paused(peer, paused);
                self.evaluate_rounds();
            }
            ToCity::Farewell => self.propose(vec![Entry::Left { node: peer, time: now }]),
            _ => {}
        }
    }

    fn hand_in(&mut self, node: NodeId, lease: LeaseId, signed: Signed) {
        if self.settling.contains(&lease) {
            return;
        }
        let contribution = match Authority::check_hand_in(&self.state, node, lease, &signed) {
            Ok(Some(contribution)) => contribution,
            Ok(None) => return self.tell(node, &ToMember::Accepted { lease }),
            Err(reason) => return self.tell(node, &ToMember::Refused { lease, reason }),
        };
        let stage = Stage::Lease(lease);
        let staged = self.stages.complete(stage);
        let complete = matches!(&staged, Ok(info) if info.root == contribution.payload_root);
        if !complete {
            let reason = Refusal::Incomplete;
            if staged.is_ok() {
                self.unstage(stage);
            }
            return self.tell(node, &ToMember::Refused { lease, reason });
        }
        let Some(job) = self.state.jobs.get(&contribution.job) else { return };
        let (codec, parameters) = (job.spec.training.codec, job.spec.parameters);
        self.settling.insert(lease);
        self.writing.insert(Writer::Settle(lease));
        let settle = Settle { node, lease, contribution, signed, codec, parameters };
        self.work(Work::Settle(Box::new(settle)));
    }

    fn heads(&mut self, id: ConnId, peer: NodeId, job: JobId, from: Option<Round>) {
        let Some(known) = self.state.jobs.get(&job) else { return };
        let newest = known.version;
        let from = from.unwrap_or(newest);
        let oldest = known.recent.first().map_or(newest, |recent| recent.version);
        if from >= oldest {
            let heads = known.recent.iter().filter(|r| r.version >= from).map(|r| r.head.clone());
            let heads = bounded(heads.collect());
            return self.tell(peer, &ToMember::Heads { job, newest, heads });
        }
        self.work(Work::ReadHeads { conn: id, job, from, count: HEADS_MAX });
    }

    pub(super) fn heads_read(&mut self, id: ConnId, job: JobId, heads: Vec<Signed>) {
        let Some(peer) = self.conns.get(&id).map(|conn| conn.peer) else { return };
        let Some(newest) = self.state.jobs.get(&job).map(|job| job.version) else { return };
        self.tell(peer, &ToMember::Heads { job, newest, heads: bounded(heads) });
    }

    /// Reading, staging, subscribing.
    pub(super) fn serve(&mut self, id: ConnId, token: ResponderToken, request: Request) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.guest.is_some() {
            return self.serve_guest(id, token, request);
        }
        let (peer, Some(role)) = (conn.peer, conn.role) else {
            return self.refuse(id, token, Code::Unauthorised, "say HELLO first");
        };
        match request {
            Request::Open { region }
            | Request::ReadIfChanged { region, .. }
            | Request::Subscribe { region }
                if !self.may_read(role, &region) =>
            {
                let text = format!("the role \"{role}\" may not read {region}");
                self.refuse(id, token, Code::Unauthorised, text);
            }
            Request::OpenStage { region, stage } => {
                self.open_stage(id, token, peer, role, &region, stage);
            }
            Request::Stage { level: Some(Level::Durable), .. } => {
                // What is staged is kept in memory; what is handed in or committed is synced.
                let text = "a staged chunk is not durable here: hand in or COMMIT makes it so";
                self.refuse(id, token, Code::Unavailable, text);
            }
            Request::Stage { region, stage, chunk, hash, bytes, .. } => {
                let reply = self.stage(peer, &region, &stage, (chunk, hash), bytes);
                self.respond(id, token, reply);
            }
            Request::Commit { region, stage, expected } => {
                self.commit_content(id, token, peer, &region, &stage, expected);
            }
            Request::Stat { region: Some(region) } if !self.may_read(role, &region) => {
                self.respond(id, token, Reply::Stat { region: None });
            }
            Request::Revoke { prefix, epoch } if role == Role::Operate => {
                self.revoke_for(id, token, &prefix, epoch);
            }
            Request::Revoke { .. } => {
                let text = "only the role \"operate\" revokes grants";
                self.refuse(id, token, Code::Unauthorised, text);
            }
            Request::OpenCells { .. } => {
                self.refuse(id, token, Code::Unsupported, "a city has no cells");
            }
            request => self.serve_reader(id, token, request),
        }
    }

    /// Reading, by whoever may.
    pub(super) fn serve_reader(&mut self, id: ConnId, token: ResponderToken, request: Request) {
        match request {
            Request::Open { region } => match self.regions.get(&region) {
                Some(served) => {
                    let reply = Reply::Opened(Arc::clone(&served.info));
                    self.respond(id, token, reply);
                }
                None => self.refuse(id, token, Code::NoSuchRegion, region.to_string()),
            },
            Request::ReadIfChanged { region, since } => {
                let reply = match self.regions.get(&region) {
                    Some(served) if served.info.version == since => Reply::NotChanged,
                    Some(served) => Reply::Opened(Arc::clone(&served.info)),
                    None => Reply::Error { code: Code::NoSuchRegion, text: region.to_string() },
                };
                self.respond(id, token, reply);
            }
            Request::Subscribe { region } => {
                let version = self.regions.get(&region).map_or(0, |served| served.info.version);
                self.respond(id, token, Reply::Subscribed { version });
            }
            Request::Read { region, version, chunk } => {
                self.read(id, token, &region, version, Part::Chunk(chunk));
            }
            Request::ReadRanges { region, version, spans, start, len } => {
                let runs = runs_of(&spans, start, u64::from(len));
                let short = |len| u32::try_from(len).expect("a run is within a piece");
                let runs = runs.map(|(offset, len)| (offset, short(len))).collect();
                self.read(id, token, &region, version, Part::Runs(runs));
            }
            Request::Fence { level: Some(Level::Durable) } => {
                // A staged chunk before it is in memory; COMMIT and SEND need no fence, they are
                // answered when they are durable.
                let text = "what is staged here is placed, not durable; COMMIT and SEND are";
                self.refuse(id, token, Code::Unavailable, text);
            }
            Request::Fence { .. } => {
                self.respond(id, token, Reply::Fenced { level: Level::Placed });
            }
            Request::Stat { region } => {
                let region = region.and_then(|region| self.stat_of(&region));
                self.respond(id, token, Reply::Stat { region });
            }
            _ => self.refuse(id, token, Code::Unauthorised, "not with this role"),
        }
    }

    fn stat_of(&self, region: &RegionName) -> Option<RegionStat> {
        let newest = &self.regions.get(region)?.info;
        let (version, shape, root) = (newest.version, newest.shape, newest.root);
        let kept = (region.clone(), 0)..=(region.clone(), version);
        let older = self.older.range(kept).map(|((_, version), served)| (*version, served));
        let oldest = older.clone().map(|(version, _)| version).next().unwrap_or(version);
        let pinned_bytes = older.map(|(_, served)| served.info.shape.bytes).sum();
        Some(RegionStat { version, oldest, shape, root, pinned_bytes })
    }

    fn may_read(&self, role: Role, region: &RegionName) -> bool {
        match (Name::parse(region), role) {
            (Some(Name::Probe), _) => true,
            (None | Some(Name::Upload(_)), _) | (_, Role::Watch) => false,
            (Some(Name::Job(_, JobRegion::HeldOut | JobRegion::Tokenizer)), role) => {
                role != Role::Join
            }
            _ => true,
        }
    }

    pub(super) fn served(&self, region: &RegionName, version: u64) -> Option<&Served> {
        let newest = self.regions.get(region).filter(|served| served.info.version == version);
        newest.or_else(|| self.older.get(&(region.clone(), version)))
    }

    fn read(
        &mut self,
        id: ConnId,
        token: ResponderToken,
        region: &RegionName,
        version: u64,
        part: Part,
    ) {
        let Some(Served { info, source }) = self.served(region, version) else {
            return self.refuse(id, token, Code::VersionGone, format!("{region} at {version}"));
        };
        let runs = match part {
            Part::Runs(runs) => runs,
            Part::Chunk(chunk) => {
                let Some(length) = info.shape.chunk_len(chunk) else {
                    let text = format!("chunk {chunk} of {region}");
                    return self.refuse(id, token, Code::OutOfRange, text);
                };
                vec![(u64::from(chunk) * u64::from(info.shape.chunk_bytes), length)]
            }
        };
        if let Source::Spec(job) = *source {
            let spec = self.state.jobs.get(&job).map(|job| job.spec.to_bytes());
            let bytes = spec.and_then(|spec| pack(&spec, &runs));
            return self.read_done(id, token, bytes);
        }
        if let Source::Tensors(job) = *source {
            let bytes = self.tensors.get(&job).and_then(|tensors| pack(tensors, &runs));
            return self.read_done(id, token, bytes);
        }
        if *source == Source::Probe {
            return self.read_done(id, token, pack(probe::bytes(), &runs));
        }
        let (source, length) = (*source, runs.iter().map(|(_, len)| len).sum());
        self.work(Work::Read { conn: id, token, source, runs, length });
    }

    pub(super) fn read_done(&mut self, id: ConnId, token: ResponderToken, bytes: Option<Bytes>) {
        let reply = match bytes {
            Some(bytes) => Reply::Data(bytes),
            None => Reply::Error { code: Code::VersionGone, text: "the bytes are gone".into() },
        };
        self.respond(id, token, reply);
    }
}

/// As many heads as fit a message.
fn bounded(heads: Vec<Signed>) -> Vec<Signed> {
    let mut bytes = 128;
    let fits = |head: &Signed| {
        bytes += head.bytes.len() + 112;
        bytes <= MESSAGE_BYTES_MAX
    };
    heads.into_iter().take(HEADS_MAX).take_while(fits).collect()
}
