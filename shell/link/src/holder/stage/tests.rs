use super::*;
use suanli_identity::SecretKey;
use suanli_rdpa::RegionInfo;

const LIMITS: HolderLimits = HolderLimits {
    regions_max: 8,
    pinned_bytes_max: 0,
    stages_max: 6,
    stages_per_peer_max: 4,
    staged_bytes_max: 20_000,
    staged_bytes_per_peer_max: 10_000,
};
const CONTENT: &[u8] = b"abcdefgh";

fn peer(seed: u8) -> NodeId {
    SecretKey::from_seed(&[seed; 32]).node()
}

fn key(name: &str, by: u8, kind: StageKind) -> StageKey {
    let info = RegionInfo::of(1, CONTENT, 4).unwrap();
    let info = StageInfo { kind, shape: info.shape, root: info.root };
    StageKey { name: RegionName::new(name).unwrap(), peer: peer(by), info }
}

fn write(name: &str, by: u8) -> StageKey {
    key(name, by, StageKind::Write)
}

fn place(stages: &mut Stages, key: &StageKey, chunk: u32, now: Instant) -> Result<Placement, Code> {
    let from = chunk as usize * 4;
    let bytes = Bytes::copy_from_slice(&CONTENT[from..from + 4]);
    stages.place(key, chunk, Hash::of(&bytes), bytes, now)
}

/// Opens areas for one session, one a second.
fn open(stages: &mut Stages, keys: &[StageKey], session: u64, at: Instant) -> Vec<Code> {
    let moments = (0..).map(|second| at + Duration::from_secs(second));
    let opened = keys
        .iter()
        .zip(moments)
        .map(|(key, now)| stages.open(key.clone(), SessionId(session), &LIMITS, now).err());
    opened.flatten().collect()
}

#[test]
fn what_another_peer_or_another_announcement_opens_is_another_area() {
    // Areas were once looked up by name alone, and the last who opened one was meant: a peer wiped
    // what another had half written, and wrote chunks of one shape into an area of another.
    let (mut stages, now) = (Stages::default(), Instant::now());
    let mine = write("x", 1);
    let mut other_shape = mine.clone();
    other_shape.info.shape.chunk_bytes = 1;
    let keys = [mine.clone(), write("x", 2), key("x", 1, StageKind::Accumulate), other_shape];
    assert_eq!(open(&mut stages, &keys[..1], 1, now), []);
    assert_eq!(place(&mut stages, &mine, 0, now), Ok(Placement::Placed));
    assert_eq!(open(&mut stages, &keys[1..], 2, now), []);
    assert_eq!(stages.held(), (4, 4));
    assert_eq!(place(&mut stages, &keys[3], 0, now), Err(Code::OutOfRange));
    assert_eq!(place(&mut stages, &mine, 1, now), Ok(Placement::Placed));
    assert_eq!(stages.snapshot(&mine, 1).unwrap().run(0, 8), CONTENT);
    stages.remove(&mine);
    assert_eq!(place(&mut stages, &mine, 1, now), Err(Code::BadHandle));
}

#[test]
fn a_peer_finds_its_area_again_in_another_session() {
    let (mut stages, now) = (Stages::default(), Instant::now());
    let mine = write("x", 1);
    open(&mut stages, core::slice::from_ref(&mine), 1, now);
    place(&mut stages, &mine, 1, now).unwrap();
    stages.leave(SessionId(1), |_| true);
    let placed = stages.open(mine, SessionId(2), &LIMITS, now).unwrap();
    assert_eq!(placed.missing().collect::<Vec<_>>(), [0]);
}

#[test]
fn a_peer_has_its_share_and_leaves_room_for_the_others() {
    // One guest once opened every place there was, and nobody could stage anything any more.
    let (mut stages, now) = (Stages::default(), Instant::now());
    let greedy: Vec<StageKey> = (0..5).map(|n| write(&format!("a/{n}"), 1)).collect();
    assert_eq!(open(&mut stages, &greedy, 1, now), [Code::Busy]);
    assert_eq!(
        open(&mut stages, &[write("b", 2), write("b", 3), write("b", 4)], 2, now),
        [Code::Busy]
    );
    // It loses its connection: what it began gives way, the longest untouched first.
    stages.leave(SessionId(1), |_| true);
    assert_eq!(open(&mut stages, &[write("b", 4)], 3, now), []);
    assert!(!stages.0.contains_key(&greedy[0]) && stages.0.contains_key(&greedy[1]));
    // What a session has open gives way when nobody has touched it for long, and last.
    let later = now + IDLE + Duration::from_secs(10);
    place(&mut stages, &write("b", 2), 0, later).unwrap();
    let more: Vec<StageKey> = (5..9).map(|by| write("b", by)).collect();
    assert_eq!(open(&mut stages, &more, 4, later), []);
    assert_eq!(stages.0.keys().filter(|key| key.peer == peer(1)).count(), 0);
    assert!(stages.0.contains_key(&write("b", 2)) && !stages.0.contains_key(&write("b", 4)));
}

#[test]
fn bytes_are_bounded_as_announced_with_what_the_books_take() {
    let (mut stages, now) = (Stages::default(), Instant::now());
    let of = |bytes, chunk_bytes, by| {
        let mut key = write("x", by);
        key.info.shape = Shape { bytes, chunk_bytes };
        key
    };
    assert_eq!(open(&mut stages, &[of(9_900, 9_900, 1)], 1, now), [Code::TooLarge]);
    assert_eq!(open(&mut stages, &[of(100, 1, 1)], 1, now), [Code::TooLarge], "100 hashes");
    assert_eq!(open(&mut stages, &[of(9_800, 9_800, 1)], 1, now), []);
    assert_eq!(open(&mut stages, &[of(10, 10, 1)], 1, now), [Code::Busy]);
    assert_eq!(open(&mut stages, &[of(9_800, 9_800, 2), of(10, 10, 2)], 2, now), [Code::Busy]);
    assert_eq!(open(&mut stages, &[of(200, 200, 3)], 3, now), [Code::Busy], "of all");
}

#[test]
fn a_whole_contribution_waits_for_the_application_whatever_else_comes() {
    let (mut stages, now) = (Stages::default(), Instant::now());
    let given: Vec<StageKey> =
        (1..=6).map(|by| key("round/7", by, StageKind::Accumulate)).collect();
    open(&mut stages, &given, 1, now);
    for area in &given {
        place(&mut stages, area, 0, now).unwrap();
        place(&mut stages, area, 1, now).unwrap();
    }
    stages.leave(SessionId(1), |_| true);
    let later = now + IDLE + IDLE;
    assert_eq!(open(&mut stages, &[write("x", 9)], 2, later), [Code::Busy]);
    let name = RegionName::new("round/7").unwrap();
    assert_eq!(stages.take_contribution(&name).unwrap().concat(), CONTENT);
    assert_eq!(open(&mut stages, &[write("x", 9)], 2, later), []);
    assert_eq!((0..9).filter_map(|_| stages.take_contribution(&name)).count(), 5);
}
