//! The virtual world: one clock, one queue of events, the nodes and the network between them.

mod links;
mod nodes;

use crate::checkers::Watch;
use crate::city_host::CityHost;
use crate::context::{Context, Post, Stop};
use crate::disk::Disk;
use crate::family_host::{Family, FamilyHost};
use crate::faults::Plan;
use crate::job::TinyJob;
use crate::network::{Network, Side, Weather};
use crate::{Bug, Settings};
use std::collections::BTreeMap;
use suanli_base::{CityId, Duration, Random, Time, mix64};
use suanli_bus::worker::Phase;
use suanli_identity::{Grant, Role, SecretKey, Ticket};
use suanli_log::JobPhase;
use suanli_node::city;
use suanli_node::family::{self, Owner};
use suanli_rdpa::{Frame, Limits};

/// When the virtual clocks begin: some time in 2025, so that an hour back is no underflow.
const EPOCH_MS: u64 = 1_750_000_000_000;
/// The most events of a run: a run that needs more is stuck in a loop.
const EVENTS_MAX: u64 = 4_000_000;
/// A round is committed within this after the faults have ended, or the run is stuck.
const ROUND_BOUND_MS: u64 = 120_000;
/// How long the members have to hear their last answers after the job's end.
const DRAIN_MS: u64 = 45_000;

/// What happens at a moment.
enum Event {
    Frame { link: u64, to: Side, frame: Frame },
    Up { link: u64, side: Side },
    Down { link: u64, side: Side },
    Dial { family: usize, boot: u64 },
    Wake { node: usize },
    Task { node: usize, boot: u64, task: u64 },
    Boot { node: usize },
    Fault(usize),
    Heal { node: usize },
    Rejoin { family: usize },
    Resume { family: usize },
    CopyCity,
    OldCity,
}

enum Host {
    Down,
    City(Box<CityHost>),
    Family(Box<FamilyHost>),
}

struct Slot {
    host: Host,
    disk: Disk,
    random: Random,
    boot: u64,
    wake: Option<u64>,
    /// What its clock shows more than the world's.
    offset: i64,
    /// A step so far back that only a start can show it.
    offset_at_boot: i64,
    stalled_until: u64,
    partitioned_until: u64,
    /// Its owner stopped it.
    gone: bool,
    link: Option<u64>,
}

impl Slot {
    /// The host, and what it works in.
    fn parts<'a>(
        &'a mut self,
        now: Time,
        watch: &'a mut Watch,
        bug: Option<Bug>,
    ) -> (&'a mut Host, Context<'a>) {
        let (random, disk) = (&mut self.random, &mut self.disk);
        (&mut self.host, Context { now, random, disk, watch, bug, out: Vec::new() })
    }
}

/// A run.
pub(crate) struct World {
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    network: Network,
    nodes: Vec<Slot>,
    families: Vec<Family>,
    city_key: SecretKey,
    limits: Limits,
    job: TinyJob,
    plan: Plan,
    faults_on: bool,
    pub(crate) watch: Watch,
    pub(crate) trace: u64,
    pub(crate) events: u64,
    pub(crate) crashes: u64,
    settings: Settings,
    random: Random,
    finished_at: Option<u64>,
    /// What the city's disk held when the copy was made.
    old_city: Option<BTreeMap<String, Vec<u8>>>,
    pub(crate) refusals: u64,
}

fn key(random: &mut Random) -> SecretKey {
    let mut seed = [0; 32];
    random.fill(&mut seed);
    SecretKey::from_seed(&seed)
}

impl World {
    pub(crate) fn new(seed: u64, settings: &Settings) -> Self {
        let random = Random::new(seed);
        let mut draws = random.fork(1);
        let families = settings.families.max(1);
        let count = u32::try_from(families).unwrap_or(u32::MAX);
        let job = TinyJob::new(&mut random.fork(2), settings.rounds, count);
        let mut planned = random.fork(3);
        let plan = if settings.faults {
            Plan::draw(&mut planned, families, settings.fault_ms)
        } else {
            Plan::calm(&mut planned, families)
        };
        let city_key = key(&mut draws);
        let city = CityId::from(city_key.node());
        let grant = Grant {
            city,
            role: Role::Join,
            expires: Time(u64::MAX),
            uses: count,
            nonce: seed,
            addresses: vec![],
        };
        let ticket = Ticket::issue(&city_key, grant).expect("a ticket without addresses");
        let limits = match plan.weather {
            Weather::Streams => Limits::reliable(),
            Weather::Datagrams { .. } => Limits::lossy(),
        };
        let members: Vec<Family> = (0..families)
            .map(|index| Family {
                key: key(&mut draws),
                city,
                ticket: ticket.to_bytes(),
                limits,
                name: format!("family {index}"),
                speed: plan.speeds[index],
                liar: plan.liars[index],
            })
            .collect();
        let nodes = (0..=families as u64).map(|index| Slot {
            host: Host::Down,
            disk: Disk::new(random.fork(100 + 2 * index)),
            random: random.fork(101 + 2 * index),
            boot: 0,
            wake: None,
            offset: draws.below(2000) as i64 - 1000,
            offset_at_boot: 0,
            stalled_until: 0,
            partitioned_until: 0,
            gone: false,
            link: None,
        });
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            network: Network::new(random.fork(4), plan.weather),
            nodes: nodes.collect(),
            families: members,
            city_key,
            limits,
            watch: Watch::new(&job),
            job,
            faults_on: settings.faults,
            trace: seed,
            events: 0,
            crashes: 0,
            settings: settings.clone(),
            random: random.fork(5),
            plan,
            finished_at: None,
            old_city: None,
            refusals: 0,
        };
        if settings.forked {
            world.at(settings.fault_ms / 3, Event::CopyCity);
            world.at(settings.fault_ms * 2 / 3, Event::OldCity);
        }
        world.at(0, Event::Boot { node: 0 });
        for (index, join) in world.plan.joins.clone().into_iter().enumerate() {
            world.at(join, Event::Boot { node: index + 1 });
        }
        for (index, (at, _)) in world.plan.faults.clone().into_iter().enumerate() {
            world.at(at, Event::Fault(index));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.queue.insert((time.max(self.now), self.order), event);
    }

    /// Runs to the end of the job, or to the first violation.
    pub(crate) fn run(&mut self) {
        while self.watch.violations().is_empty() {
            let Some(((time, _), event)) = self.queue.pop_first() else {
                self.watch.violation("nothing will ever happen again".into());
                return;
            };
            self.now = time;
            self.watch.now = time;
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.watch.violation(format!("more than {EVENTS_MAX} events"));
                return;
            }
            self.happen(event);
            if self.is_over() {
                return self.end();
            }
        }
    }

    fn is_over(&mut self) -> bool {
        let now = self.now;
        if self.settings.forked {
            return now > 2 * self.settings.fault_ms;
        }
        if self.faults_on && now >= self.settings.fault_ms {
            self.calm_down();
        }
        if self.finished_at.is_none() {
            let mut jobs = self.watch.state().jobs.values();
            let finished = jobs.next().is_some_and(|job| job.phase == JobPhase::Finished);
            if finished && !self.faults_on {
                self.finished_at = Some(now);
            } else if !self.faults_on && !finished {
                let since = self.watch.last_commit.max(self.settings.fault_ms);
                if now > since + ROUND_BOUND_MS {
                    let (rounds, where_all) = (self.watch.rounds, self.standing());
                    self.watch.violation(format!(
                        "no round was committed for {ROUND_BOUND_MS} ms after version {rounds}: {where_all}"
                    ));
                }
            }
        }
        self.finished_at.is_some_and(|at| now > at + DRAIN_MS)
    }

    /// What everybody is doing: for whoever reads a report.
    fn standing(&self) -> String {
        let mut words = Vec::new();
        for (node, slot) in self.nodes.iter().enumerate() {
            words.push(match &slot.host {
                Host::Down => format!("{node} down (left: {})", slot.gone),
                Host::City(city) => {
                    let state = city.node.state();
                    let leases: Vec<_> = state.leases.keys().map(|lease| lease.0).collect();
                    let closing = state.jobs.values().any(|job| job.closing.is_some());
                    let live = city.node.authority().live().len();
                    format!("city: {live} live, leases {leases:?}, closing {closing}")
                }
                Host::Family(family) => {
                    let worker = family.node.worker();
                    let (phase, version) = (worker.phase, worker.version);
                    let lease = worker.lease.map(|lease| lease.0);
                    let (linked, admitted) = (slot.link.is_some(), family.node.is_admitted());
                    format!(
                        "{node} {phase:?} at {version}, lease {lease:?}, linked {linked}, admitted {admitted}, {}",
                        family.standing()
                    )
                }
            });
        }
        words.join("; ")
    }

    /// The city comes back as it was once: what it signs from now on forks its chain.
    fn fork(&mut self) {
        let Some(old) = self.old_city.take() else { return };
        self.crash(0, 300);
        self.nodes[0].disk.heal();
        self.nodes[0].disk.restore(old);
        self.watch.city_forks();
    }

    /// The faults are over: everybody comes back and stays.
    fn calm_down(&mut self) {
        self.faults_on = false;
        self.network.weather = match self.network.weather {
            Weather::Streams => Weather::Streams,
            Weather::Datagrams { .. } => Weather::Datagrams { lost: 0, doubled: 0, held_up: 0 },
        };
        for node in 0..self.nodes.len() {
            let slot = &mut self.nodes[node];
            slot.disk.heal();
            (slot.partitioned_until, slot.gone) = (0, false);
            if matches!(slot.host, Host::Down) {
                self.at(self.now + 10, Event::Boot { node });
            } else if node > 0 {
                self.at(self.now, Event::Resume { family: node - 1 });
            }
        }
    }

    fn mark(&mut self, kind: u64, a: u64, b: u64) {
        let step = mix64(self.now ^ kind << 56) ^ mix64(a.rotate_left(20) ^ b);
        self.trace = mix64(self.trace ^ step);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame { link, to, frame } => self.frame(link, to, frame),
            Event::Up { link, side } => self.up(link, side),
            Event::Down { link, side } => self.down(link, side),
            Event::Dial { family, boot } => self.dial(family, boot),
            Event::Wake { node } => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.mark(2, node as u64, 0);
                    self.tick(node);
                }
            }
            Event::Task { node, boot, task } => {
                if self.nodes[node].boot == boot {
                    if self.stalled(node, Event::Task { node, boot, task }) {
                        return;
                    }
                    self.mark(3, node as u64, task);
                    self.with(node, |host, cx| match host {
                        Host::Down => Ok(()),
                        Host::City(city) => city.due(cx, task),
                        Host::Family(family) => family.due(cx, task),
                    });
                }
            }
            Event::Boot { node } => self.boot(node),
            Event::Fault(index) => {
                if self.faults_on {
                    let fault = self.plan.faults[index].1;
                    self.mark(4, index as u64, 0);
                    self.fault(fault);
                }
            }
            Event::Heal { node } => self.nodes[node].disk.heal(),
            Event::Rejoin { family } => {
                self.nodes[family + 1].gone = false;
                self.boot(family + 1);
            }
            Event::Resume { family } => self.owner(family, Owner::Resume),
            Event::CopyCity => {
                self.watch.city_is_copied();
                self.old_city = Some(self.nodes[0].disk.copy());
            }
            Event::OldCity => self.fork(),
        }
    }

    /// Puts an event off while its node stands still.
    fn stalled(&mut self, node: usize, event: Event) -> bool {
        let until = self.nodes[node].stalled_until;
        if self.now < until {
            self.at(until, event);
            return true;
        }
        false
    }

    fn clock(&self, node: usize) -> Time {
        Time((EPOCH_MS + self.now).saturating_add_signed(self.nodes[node].offset))
    }

    /// Lets a host do something, then does what it wants.
    fn with(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Host, &mut Context<'_>) -> Result<(), Stop>,
    ) {
        let now = self.clock(node);
        let slot = &mut self.nodes[node];
        if matches!(slot.host, Host::Down) {
            return;
        }
        let (host, mut cx) = slot.parts(now, &mut self.watch, self.settings.bug);
        let outcome = act(host, &mut cx);
        let posts = cx.out;
        self.deliver(node, posts);
        match outcome {
            Ok(()) => self.plan_wake(node),
            Err(Stop::Crash) => self.crash(node, 50 + self.now % 900),
            Err(Stop::Broken(why)) => {
                self.watch.violation(format!("node {node} cannot go on: {why}"));
            }
        }
    }

    fn deliver(&mut self, node: usize, posts: Vec<Post>) {
        let boot = self.nodes[node].boot;
        let mut last = None;
        for post in posts {
            match post {
                Post::Later { ms, task } => {
                    self.at(self.now + ms, Event::Task { node, boot, task });
                }
                Post::Send { conn, frame } => {
                    let link = conn.map_or(self.nodes[node].link, |conn| Some(conn.0));
                    let to = if node == 0 { Side::Family } else { Side::City };
                    let Some(link) = link else { continue };
                    for time in self.network.arrivals(self.now, link, to) {
                        self.at(time, Event::Frame { link, to, frame: frame.clone() });
                    }
                }
                Post::Close(conn) => self.drop_link(conn.0, Side::City),
                other => last = Some(other),
            }
        }
        match last {
            Some(Post::Hangup) => {
                if let Some(link) = self.nodes[node].link.take() {
                    self.drop_link(link, Side::Family);
                }
                self.at(self.now + 300, Event::Dial { family: node - 1, boot });
            }
            Some(Post::Refused(_)) if self.watch.is_forked() => {
                self.refusals += 1;
                self.nodes[node].gone = true;
                self.stop(node);
            }
            Some(Post::Refused(why)) => {
                self.watch.violation(format!("family {} was turned away: {why}", node - 1));
            }
            Some(Post::Exit) => {
                self.nodes[node].gone = true;
                self.stop(node);
            }
            _ => {}
        }
    }

    fn plan_wake(&mut self, node: usize) {
        let due = match &self.nodes[node].host {
            Host::Down => None,
            Host::City(city) => Some(city.node.poll_timeout()),
            Host::Family(family) => family.node.poll_timeout(),
        };
        let Some(Time(due)) = due else { return };
        let offset = self.nodes[node].offset;
        let time = due.saturating_add_signed(-offset).saturating_sub(EPOCH_MS).max(self.now + 1);
        let slot = &mut self.nodes[node];
        if slot.wake.is_none_or(|wake| time < wake || wake <= self.now) {
            slot.wake = Some(time);
            self.at(time, Event::Wake { node });
        }
    }

    fn tick(&mut self, node: usize) {
        let until = self.nodes[node].stalled_until;
        if self.now < until {
            self.nodes[node].wake = Some(until);
            return self.at(until, Event::Wake { node });
        }
        self.with(node, |host, cx| match host {
            Host::Down => Ok(()),
            Host::City(city) => city.input(cx, city::Input::Tick),
            Host::Family(family) => family.input(cx, family::Input::Tick),
        });
    }

    // Links.

    fn end(&mut self) {
        if self.settings.forked {
            return;
        }
        let slot = &self.nodes[0];
        if let Host::City(city) = &slot.host {
            let job = city.node.state().jobs.keys().next().copied();
            let path = job.map(|job| format!("heads/{job}")).unwrap_or_default();
            let heads = crate::city_log::parse_heads(slot.disk.read(&path).unwrap_or_default()).0;
            self.watch.city_at_end(city.node.state(), &heads);
            let kept = city.node.state().blobs();
            let named = |name: &String| name.parse().is_ok_and(|blob| kept.contains(&blob));
            if let Some(name) = slot.disk.list("blob/").iter().find(|name| !named(name)) {
                self.watch.violation(format!("blob {name} is kept and nobody needs it"));
            }
            let left = city.staged().into_iter();
            let mut left = left.filter(|lease| !city.node.state().leases.contains_key(lease));
            if let Some(lease) = left.next() {
                self.watch.violation(format!("chunks of the ended lease {lease} are still held"));
            }
        } else {
            self.watch.violation("the city is down at the end".into());
        }
        for (slot, family) in self.nodes[1..].iter().zip(&self.families) {
            let node = family.key.node();
            let Host::Family(host) = &slot.host else { continue };
            if let Some((_, version, theta)) = host.held() {
                self.watch.family_at_end(node, version, theta);
            }
            let (who, phase) = (node.short(), host.node.worker().phase);
            if let Some(lease) = host.waiting() {
                self.watch.violation(format!("{who} never heard what became of lease {lease}"));
            }
            if !matches!(phase, Phase::Asking | Phase::Waiting) {
                self.watch.violation(format!("{who} is stuck: {phase:?} after the job's end"));
            }
        }
        // A last kill: what the disk holds must be all that was ever said.
        self.stop(0);
        self.nodes[0].disk.crash();
        self.boot(0);
    }

    /// The world's time now.
    pub(crate) const fn virtual_time(&self) -> Duration {
        Duration(self.now)
    }
}
