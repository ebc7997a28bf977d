//! One region from several holders at once: some slow, some liars, some that vanish.

use super::{Holder, Network, Weather, bytes_of, name, seeds, weather_of};
use std::collections::BTreeMap;
use suanli_base::{Duration, Random, Time};
use suanli_identity::Role;
use suanli_rdpa::{
    ChunkSet, Event, Failure, Gather, GatherStep, Hello, Limits, Op, RegionInfo, Session, Side,
    SourceId, TransferError,
};

const CHUNK: u32 = 1_000;
const CALM: Weather = Weather { loss: 0, duplication: 0, delay: (15, 15) };

/// One holder and the line to it.
struct Line {
    client: Session,
    server: Session,
    net: Network,
    holder: Holder,
    up: bool,
    added: bool,
}

struct Lines {
    now: Time,
    lines: Vec<Line>,
}

/// What came of a transfer.
struct Outcome {
    took: Duration,
    chunks: BTreeMap<u32, Vec<u8>>,
    failed: Vec<(SourceId, TransferError)>,
    stalled: bool,
}

impl Lines {
    fn new(seed: u64, holders: Vec<(Holder, Weather, u64)>) -> Self {
        let mut lines = Vec::new();
        for ((holder, weather, bytes_per_s), at) in holders.into_iter().zip(0_u64..) {
            let limits = Limits { bulk_window_bytes: 40_000, ..Limits::lossy() };
            let seed = seed ^ (at << 32);
            let mut client = Session::new(Side::Connecting, Time(0), limits, seed ^ 1);
            client.request(Time(0), Op::Hello(Hello::new(Role::Join, vec![]))).unwrap();
            let server = Session::new(Side::Accepting, Time(0), limits, seed ^ 2);
            let mut net = Network::new(weather, Random::new(seed));
            net.bytes_per_s = bytes_per_s;
            lines.push(Line { client, server, net, holder, up: true, added: false });
        }
        Self { now: Time(0), lines }
    }

    /// Lets everybody say what they have to say.
    fn settle(&mut self, gather: &mut Gather, outcome: &mut Outcome) {
        loop {
            let mut quiet = true;
            for (line, at) in self.lines.iter_mut().zip(0_u32..).filter(|(line, _)| line.up) {
                let id = SourceId(at);
                while let Some(event) = line.client.poll_event() {
                    quiet = false;
                    gather.handle(self.now, id, &mut line.client, &event);
                }
                if line.client.is_welcome() && !line.added {
                    line.added = true;
                    outcome.stalled = false;
                    gather.add(self.now, id, &mut line.client);
                }
                while let Some(event) = line.server.poll_event() {
                    quiet = false;
                    if !matches!(event, Event::Silent { .. }) {
                        line.holder.serve(self.now, &mut line.server, event);
                    }
                }
                while let Some(frame) = line.client.poll_transmit(self.now) {
                    quiet = false;
                    line.net.send(self.now, 1, &frame);
                }
                while let Some(frame) = line.server.poll_transmit(self.now) {
                    quiet = false;
                    line.net.send(self.now, 0, &frame);
                }
            }
            while let Some(step) = gather.poll() {
                quiet = false;
                self.step_of(gather, step, outcome);
            }
            if quiet {
                return;
            }
        }
    }

    fn step_of(&mut self, gather: &mut Gather, step: GatherStep, outcome: &mut Outcome) {
        match step {
            GatherStep::Chunk(_, chunk, bytes) => {
                let again = outcome.chunks.insert(chunk, bytes.to_vec());
                assert!(again.is_none(), "chunk {chunk} was handed over twice");
            }
            GatherStep::Tend(id) => {
                let line = &mut self.lines[id.0 as usize];
                if line.up {
                    gather.tend(self.now, id, &mut line.client);
                }
            }
            GatherStep::SourceFailed(id, error) => outcome.failed.push((id, error)),
            GatherStep::Stalled => outcome.stalled = true,
            GatherStep::Done => outcome.took = self.now.since(Time(0)),
            GatherStep::Opened(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn is_over(&self, outcome: &Outcome) -> bool {
        let joining = self.lines.iter().any(|line| line.up && !line.added);
        outcome.took.0 > 0 || outcome.stalled && !joining
    }

    fn run(
        &mut self,
        gather: &mut Gather,
        mut each: impl FnMut(&mut Self, &mut Gather, &Outcome),
    ) -> Outcome {
        let mut outcome = Outcome {
            took: Duration(0),
            chunks: BTreeMap::new(),
            failed: Vec::new(),
            stalled: false,
        };
        loop {
            self.settle(gather, &mut outcome);
            if self.is_over(&outcome) {
                return outcome;
            }
            each(self, gather, &outcome);
            let due = |line: &Line| {
                [line.net.next_at(), line.client.poll_timeout(), line.server.poll_timeout()]
                    .into_iter()
                    .flatten()
                    .min()
            };
            let up = self.lines.iter().filter(|line| line.up);
            let next = up.filter_map(due).min().expect("somebody is up");
            self.now = next.max(self.now);
            assert!(self.now < Time(600_000), "not finished");
            for line in self.lines.iter_mut().filter(|line| line.up) {
                while let Some((to, frame)) = line.net.arrive(self.now) {
                    let session = if to == 0 { &mut line.client } else { &mut line.server };
                    session.handle_frame(self.now, frame).unwrap();
                }
                line.client.handle_timeout(self.now);
                line.server.handle_timeout(self.now);
            }
        }
    }
}

fn holder_of(content: &[u8]) -> Holder {
    let mut holder = Holder::default();
    holder.publish(&name("theta"), content, CHUNK);
    holder
}

fn whole(outcome: &Outcome) -> Vec<u8> {
    outcome.chunks.values().flatten().copied().collect()
}

#[test]
fn four_holders_give_nearly_four_times_the_rate_of_one() {
    let content = bytes_of(&mut Random::new(1), 2_000_000);
    let time_of = |count: usize| {
        // 50 Mbit/s each would be 6.25 MB/s; the same shape at a hundredth, with 4 kB chunks.
        let holder = || {
            let mut holder = Holder::default();
            holder.publish(&name("theta"), &content, 4_000);
            holder
        };
        let holders = (0..count).map(|_| (holder(), CALM, 62_500)).collect();
        let mut gather = Gather::new(name("theta"), None);
        let outcome = Lines::new(1, holders).run(&mut gather, |_, _, _| {});
        assert!(whole(&outcome) == content);
        outcome.took.0 as f64
    };
    let (one, four) = (time_of(1), time_of(4));
    assert!(one / four >= 3.5, "{one} ms and {four} ms");
}

#[test]
fn a_fast_holder_does_not_wait_for_a_slow_one() {
    let content = bytes_of(&mut Random::new(2), 500_000);
    let holders = vec![(holder_of(&content), CALM, 200_000), (holder_of(&content), CALM, 2_000)];
    let mut gather = Gather::new(name("theta"), None);
    let outcome = Lines::new(2, holders).run(&mut gather, |_, _, _| {});
    assert!(whole(&outcome) == content);
    assert!(outcome.took < Duration(3_300), "{:?}; alone the fast one needs 2 500", outcome.took);
    let count = gather.count();
    assert!(count.doubled <= 20, "{count:?}");
}

#[test]
fn liars_leavers_and_other_versions_do_not_keep_the_rest_from_giving_everything() {
    for seed in seeds().take(150) {
        let mut random = Random::new(seed).fork(21);
        let len = 20_000 + random.below(60_000);
        let content = bytes_of(&mut random, usize::try_from(len).unwrap());
        let root = RegionInfo::of(1, &content, CHUNK).unwrap().root;
        let mut liar = holder_of(&content);
        liar.lies = true;
        let other = holder_of(&bytes_of(&mut random, 30_000));
        let weather = weather_of(seed);
        let mut rate = || 20_000 + random.below(200_000);
        let holders = vec![
            (holder_of(&content), weather, rate()),
            (liar, CALM, rate()),
            (holder_of(&content), CALM, rate()),
            (other, CALM, rate()),
            (Holder::default(), CALM, rate()),
        ];
        let mut gather = Gather::new(name("theta"), Some(root));
        let leaves_after = random.below(20) as usize;
        let outcome = Lines::new(seed, holders).run(&mut gather, |lines, gather, outcome| {
            if lines.lines[2].up && outcome.chunks.len() >= leaves_after {
                lines.lines[2].up = false;
                gather.lost(SourceId(2));
            }
        });
        let told = (outcome.stalled, &outcome.failed, outcome.chunks.len(), content.len());
        assert!(whole(&outcome) == content, "seed {seed}: {told:?}");
        for (id, error) in &outcome.failed {
            let expected = match id.0 {
                1 => matches!(error, TransferError::Request(Failure::WrongHash { .. })),
                3 => matches!(error, TransferError::OtherContent { .. }),
                4 => matches!(error, TransferError::Request(Failure::Refused { .. })),
                _ => false,
            };
            assert!(expected, "seed {seed}: {id:?}: {error}");
        }
    }
}

#[test]
fn a_transfer_that_lost_all_its_sources_goes_on_with_the_next() {
    for seed in seeds().take(50) {
        let mut random = Random::new(seed).fork(22);
        let content = bytes_of(&mut random, 50_000);
        let root = RegionInfo::of(1, &content, CHUNK).unwrap().root;
        let mut gather = Gather::new(name("theta"), Some(root));
        let stop = 1 + random.below(40) as usize;
        let holders = vec![(holder_of(&content), CALM, 50_000)];
        let first = Lines::new(seed, holders).run(&mut gather, |lines, gather, outcome| {
            if lines.lines[0].up && outcome.chunks.len() >= stop {
                gather.lost(SourceId(0));
            }
            let _ = lines;
        });
        assert!(first.stalled, "seed {seed}");
        let have: ChunkSet = gather.have().unwrap().clone();
        let asked_before = gather.count().requested;
        // In flight at the cut: what was asked and had not come.
        let in_flight = asked_before - u64::from(have.count());
        let mut gather = Gather::new(name("theta"), Some(root)).having(have);
        let holders = vec![(holder_of(&content), CALM, 50_000)];
        let rest = Lines::new(seed, holders).run(&mut gather, |_, _, _| {});
        let mut all = first.chunks;
        all.extend(rest.chunks);
        assert!(all.into_values().flatten().collect::<Vec<u8>>() == content, "seed {seed}");
        let asked = gather.count().requested;
        assert!(
            asked_before + asked <= 50 + in_flight,
            "seed {seed}: only what was in flight again"
        );
    }
}
