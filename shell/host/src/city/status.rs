//! What a city says of itself: the durable state, who is connected, and what the sockets counted.

use super::Process;
use super::traffic::Traffic;
use crate::control::{
    CityStatus, ContributionStatus, JobState, JobStatus, LossPoint, MemberState, MemberStatus,
    StatusEvent, TrafficStatus,
};
use std::collections::BTreeMap;
use suanli_base::{JobId, NodeId, Round};
use suanli_bus::state::Job;
use suanli_identity::Role;
use suanli_log::{Entry, JobPhase};
use suanli_node::city::{ConnId, Input};

/// How far back the speed of a job is measured.
const SPEED_ROUNDS: usize = 5;

impl Process {
    pub(super) fn status(&self) -> CityStatus {
        let state = self.node.state();
        CityStatus {
            city: state.city.to_string(),
            name: self.name.clone(),
            addresses: self.shown_addresses.clone(),
            folder: self.files.folder.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            log_entries: self.log.chain().next_seq(),
            members: self.members(),
            jobs: self.jobs(),
            upload: self.uplink.status(),
        }
    }

    fn members(&self) -> Vec<MemberStatus> {
        let state = self.node.state();
        let now = self.clock.now();
        let members = state.members.iter().filter(|(_, m)| m.role == Role::Join && !m.left);
        let mut members: Vec<MemberStatus> = members
            .map(|(node, _)| {
                let live = self.node.authority().live().get(node);
                let traffic = self.traffic_of(*node);
                let total = |count: fn(&suanli_bus::state::Contributed) -> u64| -> u64 {
                    state.jobs.values().filter_map(|job| job.contributed.get(node)).map(count).sum()
                };
                MemberStatus {
                    node: node.to_string(),
                    name: self.name_of(*node),
                    state: match live {
                        None => MemberState::Away,
                        Some(live) if live.paused => MemberState::Paused,
                        Some(_) if state.lease_of(*node).is_some() => MemberState::Working,
                        Some(_) => MemberState::Idle,
                    },
                    tokens_per_s: live.map_or(0.0, |live| f64::from(live.rate)),
                    tokens: total(|c| c.tokens.0),
                    contributions: total(|c| c.contributions),
                    share_percent: self.node.told_by(*node).and_then(|told| told.share_percent),
                    bytes_up: traffic.up,
                    bytes_down: traffic.down,
                    last_seen_ms: live.map_or(0, |live| now.since(live.seen).0),
                }
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    pub(super) fn jobs(&self) -> Vec<JobStatus> {
        self.node.state().jobs.iter().map(|(id, job)| self.job(*id, job)).collect()
    }

    fn job(&self, id: JobId, job: &Job) -> JobStatus {
        let t = &job.spec.training;
        let mut traffic = TrafficStatus::default();
        let mut contributions: Vec<ContributionStatus> = job
            .contributed
            .iter()
            .map(|(node, done)| {
                let bytes = self.traffic_of(*node);
                ContributionStatus {
                    node: node.to_string(),
                    name: self.name_of(*node),
                    contributions: done.contributions,
                    steps: done.steps,
                    tokens: done.tokens.0,
                    bytes_up: bytes.up,
                    bytes_down: bytes.down,
                }
            })
            .collect();
        contributions.sort_by_key(|c| core::cmp::Reverse(c.tokens));
        // Several jobs share their members' sockets; the first whole runs one at a time.
        for (node, bytes) in self.peers() {
            if job.contributed.contains_key(&node) {
                traffic.bytes_up += bytes.up;
                traffic.bytes_down += bytes.down;
                traffic.bytes_first_download += bytes.theta;
                traffic.bytes_shards += bytes.shards;
            }
        }
        let steps = self.traffic.counted_steps(id, job);
        traffic.bytes_data_parallel = steps * 8 * job.spec.parameters;
        let untouched = job.version == Round(0) && job.contributed.is_empty();
        JobStatus {
            id: id.to_string(),
            name: job.spec.name.clone(),
            state: match job.phase {
                JobPhase::Running if untouched => JobState::Waiting,
                JobPhase::Running => JobState::Running,
                JobPhase::Paused => JobState::Paused,
                JobPhase::Finished => JobState::Done,
                JobPhase::Cancelled => JobState::Cancelled,
            },
            round: job.version.0,
            rounds: (t.rounds > 0).then_some(t.rounds),
            tokens: job.tokens.0,
            tokens_target: (t.tokens.0 > 0).then_some(t.tokens.0),
            parameters: job.spec.parameters,
            tokens_per_s: self.speed(job),
            losses: job
                .losses
                .iter()
                .map(|point| LossPoint {
                    round: point.version.0,
                    tokens: point.tokens.0,
                    loss: f64::from(point.loss),
                })
                .collect(),
            traffic,
            contributions,
        }
    }

    /// Committed tokens a second over the last rounds, from their heads.
    fn speed(&self, job: &Job) -> f64 {
        let heads: Vec<suanli_bus::Head> = job
            .recent
            .iter()
            .rev()
            .take(SPEED_ROUNDS)
            .filter_map(|recent| postcard::from_bytes(&recent.head.bytes).ok())
            .collect();
        let (Some(last), Some(first)) = (heads.first(), heads.last()) else { return 0.0 };
        let span = last.time.since(first.time).0;
        if span == 0 {
            return 0.0;
        }
        last.tokens.0.saturating_sub(first.tokens.0) as f64 * 1000.0 / span as f64
    }

    fn name_of(&self, node: NodeId) -> String {
        let said = self.node.told_by(node).map(|told| told.name.as_str());
        let said = said.filter(|name| !name.is_empty());
        said.map_or_else(|| node.short(), str::to_string)
    }

    fn traffic_of(&self, node: NodeId) -> Traffic {
        let mut traffic = self.traffic.known(node);
        let works = |conn: &ConnId, peer: NodeId| peer == node && !self.looking_on.contains(conn);
        for (_, (_, wire)) in self.wires.iter().filter(|(conn, (peer, _))| works(conn, *peer)) {
            let (sent, received) = wire.bytes();
            traffic.up += received;
            traffic.down += sent;
        }
        traffic
    }

    /// Tells those who watch what the entries changed.
    pub(super) fn tell_watchers(&self, bodies: &[Vec<u8>]) {
        for entry in bodies.iter().filter_map(|body| Entry::from_bytes(body).ok()) {
            if let Entry::Committed { .. } = &entry {
                self.traffic.save(&self.peers(), self.node.state());
            }
            if let Some(event) = self.event_of(&entry) {
                self.control.publish(event);
            }
        }
    }

    fn event_of(&self, entry: &Entry) -> Option<StatusEvent> {
        let state = self.node.state();
        match entry {
            Entry::Committed { job, head, .. } => {
                let head: suanli_bus::Head = postcard::from_bytes(&head.bytes).ok()?;
                Some(StatusEvent::RoundCommitted {
                    job: job.to_string(),
                    round: head.version.0,
                    contributions: head.merged.len() as u64,
                    tokens: head.tokens.0,
                })
            }
            Entry::Accepted { lease, tokens, .. } => {
                let (id, job, accepted) = state
                    .jobs
                    .iter()
                    .find_map(|(id, job)| Some((id, job, job.accepted.get(lease)?)))?;
                Some(StatusEvent::ContributionAccepted {
                    job: id.to_string(),
                    round: job.version.0,
                    name: self.name_of(accepted.node),
                    tokens: tokens.0,
                })
            }
            Entry::Evaluated { job, round, loss, .. } => {
                let tokens = state.jobs.get(job)?.losses.last().map_or(0, |point| point.tokens.0);
                Some(StatusEvent::LossMeasured {
                    job: job.to_string(),
                    round: round.0,
                    tokens,
                    loss: f64::from(*loss),
                })
            }
            _ => {
                let over = |job: &JobId| {
                    let phase = state.jobs.get(job).map(|job| job.phase);
                    matches!(phase, Some(JobPhase::Finished | JobPhase::Cancelled))
                };
                match entry {
                    Entry::JobMoved { job, .. } if over(job) => {
                        Some(StatusEvent::JobOver { job: job.to_string() })
                    }
                    _ => None,
                }
            }
        }
    }

    /// Tells those who watch that a member's HELLO was accepted.
    pub(super) fn tell_admitted(&self, conn: ConnId) {
        if let Some((peer, _)) = self.wires.get(&conn) {
            let (node, name) = (peer.to_string(), self.name_of(*peer));
            self.control.publish(StatusEvent::MemberConnected { node, name });
        }
    }

    /// Tells those who watch that a member's connection ends.
    pub(super) fn tell_lost(&self, input: &Input) {
        let Input::Closed { conn } = input else { return };
        let member = self.node.connections().find(|(id, _)| id == conn);
        if let Some((_, peer)) = member.filter(|_| self.node.is_member(*conn)) {
            let (node, name) = (peer.to_string(), self.name_of(peer));
            self.control.publish(StatusEvent::MemberLost { node, name });
        }
    }

    /// Members that ever had a socket, each once.
    fn peers(&self) -> BTreeMap<NodeId, Traffic> {
        let members = &self.node.state().members;
        let wired = self.wires.values().map(|(node, _)| *node);
        let known = self.traffic.nodes().chain(wired.filter(|node| members.contains_key(node)));
        known.map(|node| (node, self.traffic_of(node))).collect()
    }
}
