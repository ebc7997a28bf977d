//! The verbs beside whole regions: ranges, cells, fences, STAT.

use super::{Holder, World, bytes_of, cut, name, seeds, stage_of, weather_of};
use std::collections::BTreeMap;
use suanli_base::Random;
use suanli_rdpa::{
    Answer, Code, Event, Failure, Handle, Level, Op, RequestId, Span, StageKind, Stat, check_spans,
};

/// Asks and waits for the answer; what else happens meanwhile must be no failure.
fn ask(world: &mut World, op: Op) -> Result<Answer, Failure> {
    let wanted = world.client.request(world.now, op).unwrap();
    loop {
        for event in world.settle() {
            match event {
                Event::Answered { id, answer } if id == wanted => return Ok(answer),
                Event::Failed { id, failure } if id == wanted => return Err(failure),
                Event::Failed { failure, .. } => panic!("{failure}"),
                _ => {}
            }
        }
        world.step();
    }
}

fn open(world: &mut World, region: &str) -> Handle {
    match ask(world, Op::Open { region: name(region) }) {
        Ok(Answer::Opened { handle, .. }) => handle,
        other => panic!("{other:?}"),
    }
}

fn open_cells(world: &mut World) -> Handle {
    match ask(world, Op::OpenCells { region: name("cells") }) {
        Ok(Answer::CellsOpened { handle, count: 4 }) => handle,
        other => panic!("{other:?}"),
    }
}

fn draw_spans(random: &mut Random, bytes: u64) -> Vec<Span> {
    let mut spans = Vec::new();
    for _ in 0..1 + random.below(5) {
        let count = 1 + random.below(20);
        let len = 1 + random.below(bytes / 40);
        let stride = random.below((bytes - len) / count);
        let offset = random.below(bytes - len - stride * (count - 1) + 1);
        spans.push(Span { offset, len, stride, count: u32::try_from(count).unwrap() });
    }
    spans
}

#[test]
fn ranges_come_packed_as_they_were_asked() {
    for seed in seeds().take(100) {
        let mut random = Random::new(seed).fork(11);
        let len = 1_000 + random.below(600_000);
        let content = bytes_of(&mut random, usize::try_from(len).unwrap());
        let mut holder = Holder::default();
        holder.publish(&name("job/ab/theta"), &content, 40_000);
        let mut world = World::new(seed, weather_of(seed), holder);
        world.say_hello();
        let handle = open(&mut world, "job/ab/theta");
        let spans = draw_spans(&mut random, len);
        let total = usize::try_from(check_spans(&spans, len).unwrap()).unwrap();
        let id = world.client.request(world.now, Op::ReadRanges { handle, spans: spans.clone() });
        let id = id.unwrap();
        let (mut packed, mut came, mut done) = (vec![0; total], 0, false);
        while !done {
            for event in world.settle() {
                match event {
                    Event::Piece { id: of, start, bytes, .. } if of == id => {
                        let start = usize::try_from(start).unwrap();
                        packed[start..start + bytes.len()].copy_from_slice(&bytes);
                        came += bytes.len();
                    }
                    Event::Answered { id: of, answer: Answer::ReadDone } if of == id => done = true,
                    Event::Silent { .. } => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            if !done {
                world.step();
            }
        }
        assert_eq!(came, total, "seed {seed}: every piece came once");
        let mut expected = Vec::new();
        for span in spans {
            for run in 0..u64::from(span.count) {
                let at = usize::try_from(span.offset + run * span.stride).unwrap();
                expected.extend_from_slice(&content[at..at + usize::try_from(span.len).unwrap()]);
            }
        }
        assert!(packed == expected, "seed {seed}");
        world.drain();
    }
}

#[test]
fn every_add_counts_once_and_tells_what_was_there() {
    for seed in seeds() {
        let mut random = Random::new(seed).fork(12);
        let mut world = World::new(seed, weather_of(seed), Holder::default());
        world.say_hello();
        let handle = open_cells(&mut world);
        let adds: Vec<u64> = (0..40).map(|_| 1 + random.below(1000)).collect();
        let mut asked: BTreeMap<RequestId, u64> = BTreeMap::new();
        for add in &adds {
            let op = Op::FetchAdd { handle, cell: 2, add: *add };
            asked.insert(world.client.request(world.now, op).unwrap(), *add);
        }
        let mut held_before = Vec::new();
        while held_before.len() < adds.len() {
            for event in world.settle() {
                match event {
                    Event::Answered { id, answer: Answer::Cell { held } } => {
                        held_before.push((held, asked[&id]));
                    }
                    Event::Silent { .. } => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            world.step();
        }
        world.drain();
        let sum: u64 = adds.iter().sum();
        assert_eq!(world.holder.cells[&name("cells")], [0, 0, sum, 0], "seed {seed}");
        // In some order, each found what the ones before had left.
        held_before.sort_unstable();
        let chain = held_before.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0);
        assert!(chain, "seed {seed}: {held_before:?}");
    }
}

#[test]
fn a_swap_takes_place_only_where_the_expected_value_is() {
    for seed in seeds() {
        let mut world = World::new(seed, weather_of(seed), Holder::default());
        world.say_hello();
        let handle = open_cells(&mut world);
        let mut swap = |expected, new| ask(&mut world, Op::Cas { handle, cell: 0, expected, new });
        assert_eq!(swap(0, 7), Ok(Answer::Cell { held: 0 }), "seed {seed}");
        assert_eq!(swap(0, 9), Ok(Answer::Cell { held: 7 }), "seed {seed}");
        assert_eq!(swap(7, u64::MAX), Ok(Answer::Cell { held: 7 }), "seed {seed}");
        assert_eq!(world.holder.cells[&name("cells")][0], u64::MAX, "seed {seed}");
    }
}

#[test]
fn after_a_revocation_handles_under_it_are_gone_and_all_others_stay() {
    for seed in seeds() {
        let content = bytes_of(&mut Random::new(seed).fork(15), 3_000);
        let mut holder = Holder::default();
        holder.publish(&name("job/ab/theta"), &content, 1_000);
        holder.publish(&name("data/0"), &content, 1_000);
        let mut world = World::new(seed, weather_of(seed), holder);
        world.say_hello();
        let (under, beside) = (open(&mut world, "job/ab/theta"), open(&mut world, "data/0"));
        let read = |world: &mut World, handle| ask(world, Op::Read { handle, chunks: vec![0, 2] });
        assert_eq!(read(&mut world, under), Ok(Answer::ReadDone), "seed {seed}");
        let revoked = ask(&mut world, Op::Revoke { prefix: "job/".to_owned(), epoch: 4 });
        assert_eq!(revoked, Ok(Answer::Revoked { epoch: 4 }), "seed {seed}");
        let gone = read(&mut world, under);
        let bad = matches!(gone, Err(Failure::Refused { code: Code::BadHandle, .. }));
        assert!(bad, "seed {seed}: {gone:?}");
        assert_eq!(read(&mut world, beside), Ok(Answer::ReadDone), "seed {seed}");
        // Whether it may be opened again is decided above.
        let again = open(&mut world, "job/ab/theta");
        assert_ne!(again, under, "seed {seed}");
        assert_eq!(read(&mut world, again), Ok(Answer::ReadDone), "seed {seed}");
        world.drain();
        assert_eq!(world.holder.revoked, 1, "seed {seed}: a duplicate revokes nothing again");
    }
}

#[test]
fn what_is_asked_behind_a_fence_comes_after_all_before_it() {
    for seed in seeds() {
        let mut random = Random::new(seed).fork(13);
        let content = bytes_of(&mut random, 12_000);
        let mut world = World::new(seed, weather_of(seed), Holder::default());
        world.say_hello();
        let (region, stage) = (name("data/0"), stage_of(StageKind::Write, &content));
        let op = Op::OpenStage { region: region.clone(), stage };
        let Ok(Answer::StageOpened { handle, .. }) = ask(&mut world, op) else { panic!() };
        // All at once, nobody waits: only the fence keeps COMMIT behind the chunks.
        let level = Level::Placed;
        let mut waiting: Vec<RequestId> = Vec::new();
        for (chunk, bytes) in (0..).zip(cut(&content, 1_000)) {
            let op = Op::Write { handle, chunk, bytes, level };
            waiting.push(world.client.request(world.now, op).unwrap());
        }
        let fence = world.client.request(world.now, Op::Fence { level }).unwrap();
        let commit = world.client.request(world.now, Op::Commit { handle, expected: 0 }).unwrap();
        let mut order = Vec::new();
        while order.len() < 14 {
            for event in world.settle() {
                match event {
                    Event::Answered { id, .. } => order.push(id),
                    Event::Silent { .. } => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            world.step();
        }
        assert_eq!(order[12..], [fence, commit], "seed {seed}");
        assert_eq!(world.holder.fences, [12], "seed {seed}: all were placed");
        assert_eq!(world.holder.regions[&region].len(), 1);
        world.drain();
    }
}

#[test]
fn stat_tells_of_the_session_and_of_a_region() {
    for seed in seeds().take(100) {
        let mut holder = Holder::default();
        holder.publish(&name("r"), b"some content", 4);
        let mut world = World::new(seed, weather_of(seed), holder);
        world.say_hello();
        let Ok(Answer::Stat(Stat { session, region })) =
            ask(&mut world, Op::Stat { region: Some(name("r")) })
        else {
            panic!("seed {seed}")
        };
        assert_eq!(region.unwrap().version, 1, "seed {seed}");
        // HELLO and STAT itself, which a duplicate has served again.
        assert!(session.requests >= 2, "seed {seed}: {session:?}");
        assert!(session.bytes_received > 100, "seed {seed}: {session:?}");
        let unknown = ask(&mut world, Op::Stat { region: Some(name("q")) });
        assert!(matches!(unknown, Ok(Answer::Stat(Stat { region: None, .. }))), "seed {seed}");
    }
}
