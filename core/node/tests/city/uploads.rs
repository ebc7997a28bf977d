//! Content that trainers bring.

use crate::town::{Town, key, upload};
use suanli_identity::Role;
use suanli_node::city::{Done, Stage, Work};
use suanli_rdpa::{Answer, Code, Op, Placement, RegionInfo, Shape, StageInfo, StageKind};

/// A region of `len` bytes, all alike, in chunks of 100.
fn content(fill: u8, len: usize) -> (RegionInfo, Vec<u8>) {
    let bytes = vec![fill; len];
    (RegionInfo::of(1, &bytes, 100).unwrap(), bytes)
}

fn placed(placement: Placement) -> impl Fn(Result<Answer, Code>) -> bool {
    move |answer| matches!(answer, Ok(Answer::Placed { placement: p, .. }) if p == placement)
}

#[test]
fn an_announcement_that_contradicts_what_is_staged_is_a_conflict_and_no_end_of_the_city() {
    // A trainer announced content R as 100 bytes and then as 200. The city went on with the first
    // area, answered a set of one chunk for an announcement of two, and its session's own assertion
    // ended the process: after every restart again.
    let mut town = Town::new();
    let trainer = town.member(1, Role::Train);
    let (info, bytes) = content(1, 100);
    let (handle, _) = town.open_upload(trainer, &info).unwrap();
    let longer = RegionInfo { shape: Shape { bytes: 200, chunk_bytes: 100 }, ..info.clone() };
    assert_eq!(town.open_upload(trainer, &longer), Err(Code::Conflict));
    let finer = RegionInfo { shape: Shape { bytes: 100, chunk_bytes: 50 }, ..info.clone() };
    assert_eq!(town.open_upload(trainer, &finer), Err(Code::Conflict));
    // What was announced first goes on.
    assert!(placed(Placement::Placed)(town.write(trainer, handle, 0, &bytes)));
    let commit = town.send(trainer, Op::Commit { handle, expected: 0 });
    assert!(matches!(town.work.pop(), Some(Work::Store { info: stored, .. }) if stored == info));
    town.done(Done::Stored { root: info.root, info: info.clone(), stored: true });
    let committed = town.outcome(trainer, commit);
    assert!(matches!(committed, Some(Ok(Answer::Committed { version: 1 }))));
    // Nor is it taken for something longer once it is kept.
    assert_eq!(town.open_upload(trainer, &longer), Err(Code::Conflict));
    assert_eq!(town.open_upload(trainer, &info).unwrap().1, 1);
}

#[test]
fn a_handle_of_an_announcement_that_is_over_writes_and_commits_nothing() {
    // The shape of a handle was not compared either: chunks of one cut went into the place of
    // another.
    let mut town = Town::new();
    let trainer = town.member(1, Role::Train);
    let (info, bytes) = content(1, 100);
    let (old, _) = town.open_upload(trainer, &info).unwrap();
    assert!(placed(Placement::Placed)(town.write(trainer, old, 0, &bytes)));
    town.send(trainer, Op::Commit { handle: old, expected: 0 });
    town.done(Done::Stored { root: info.root, info: info.clone(), stored: false });
    // The disk was full; it is announced anew, cut otherwise.
    let other = RegionInfo { shape: Shape { bytes: 100, chunk_bytes: 50 }, ..info.clone() };
    town.open_upload(trainer, &other).unwrap();
    assert_eq!(town.write(trainer, old, 0, &bytes), Err(Code::Conflict));
    assert_eq!(town.ask(trainer, Op::Commit { handle: old, expected: 0 }), Err(Code::Conflict));
}

#[test]
fn one_trainer_does_not_take_away_what_another_stages() {
    // Areas were named by the content alone: whoever opened one threw away the chunks of whoever
    // had opened it before, and two that brought the same content never came to an end.
    let mut town = Town::new();
    let (one, other) = (town.member(1, Role::Train), town.member(2, Role::Train));
    let (info, bytes) = content(1, 250);
    let (handle, _) = town.open_upload(one, &info).unwrap();
    for (chunk, piece) in (0..).zip(bytes.chunks(100)) {
        assert!(placed(Placement::Placed)(town.write(one, handle, chunk, piece)));
    }
    let (theirs, there) = town.open_upload(other, &info).unwrap();
    assert_eq!(there, 0);
    assert!(placed(Placement::Placed)(town.write(other, theirs, 0, &[9; 100])));
    let longer = RegionInfo { shape: Shape { bytes: 251, ..info.shape }, ..info.clone() };
    let third = town.member(3, Role::Train);
    let (lie, _) = town.open_upload(third, &longer).unwrap();
    let commit = town.send(one, Op::Commit { handle, expected: 0 });
    let (by, root) = (key(1).node(), info.root);
    assert!(matches!(town.work.pop(), Some(Work::Store { by: b, .. }) if b == by));
    town.done(Done::Stored { root, info: info.clone(), stored: true });
    assert!(matches!(town.outcome(one, commit), Some(Ok(Answer::Committed { .. }))));
    // What the others had is of no use any more, and what was said of it no more true than it was.
    for number in [2, 3] {
        let gone = Stage::Content { by: key(number).node(), root };
        let unstaged = |work: &Work| matches!(work, Work::Unstage(stage) if *stage == gone);
        assert!(town.work.iter().any(unstaged), "{:?}", town.work);
    }
    let commit = Op::Commit { handle: lie, expected: 0 };
    assert_eq!(town.ask(third, commit), Err(Code::Conflict));
    assert_eq!(town.open_upload(other, &info).unwrap().1, 3);
}

#[test]
fn a_trainer_that_opens_area_after_area_keeps_nobody_else_out() {
    // Areas never ended, and uploads and contributions shared one bound: 4096 empty uploads of one
    // trainer, and no contribution came in any more.
    let mut town = Town::new();
    let (greedy, other) = (town.member(1, Role::Train), town.member(2, Role::Train));
    let open = |town: &mut Town, conn, fill| {
        let (info, _) = content(fill, 100);
        let region = upload(info.root);
        let stage = StageInfo { kind: StageKind::Write, shape: info.shape, root: info.root };
        town.send(conn, Op::OpenStage { region, stage })
    };
    for fill in 0..8 {
        let opened = open(&mut town, greedy, fill);
        assert!(matches!(town.outcome(greedy, opened), Some(Ok(_))), "{fill}");
    }
    let ninth = open(&mut town, greedy, 8);
    assert_eq!(town.outcome(greedy, ninth), None, "BUSY: it rests and asks again");
    let theirs = open(&mut town, other, 8);
    assert!(matches!(town.outcome(other, theirs), Some(Ok(_))));
    assert!(town.work.is_empty());

    // One that was left behind gives way in time, and only to what finds no place.
    town.later(10 * 60_000);
    let greedy = town.member(1, Role::Train);
    open(&mut town, greedy, 0);
    let tenth = open(&mut town, greedy, 10);
    assert!(matches!(town.outcome(greedy, tenth), Some(Ok(_))));
    let all: Vec<Stage> = (1..8)
        .map(|fill| Stage::Content { by: key(1).node(), root: content(fill, 100).0.root })
        .collect();
    let unstaged: Vec<_> = town.work.iter().collect();
    assert!(
        matches!(unstaged[..], [Work::Unstage(stage)] if all.contains(stage)),
        "one of those untouched, not the first: {unstaged:?}"
    );
}
