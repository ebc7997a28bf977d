use super::*;
use crate::{Hello, Shape, Span, StageInfo};
use suanli_identity::{Role, SecretKey};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn node(seed: u8) -> NodeId {
    key(seed).node()
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

fn bounds(depth: u8) -> Bounds {
    Bounds {
        prefix: prefix("job/1/"),
        rights: Rights::of(&[Right::Read, Right::Accumulate]),
        bytes_max: u64::MAX,
        bytes_per_s: u64::MAX,
        not_before: Time(1_000),
        not_after: Time(100_000),
        epoch: 3,
        depth,
    }
}

fn gate() -> Gate {
    Gate::new(node(1), GateLimits::default(), Vec::new(), GateBooks::default())
}

fn issue(bounds: Bounds, nonce: u64) -> Access {
    Access::issue(&key(1), node(2), bounds, nonce).unwrap()
}

fn admit(gate: &Gate, holder: u8, access: &Access) -> Pass {
    gate.admit(Time(2_000), node(holder), &access.to_bytes()).unwrap()
}

const NOW: Time = Time(2_000);

fn read(gate: &mut Gate, now: Time, pass: &Pass, bytes: u64) -> Result<(), Denied> {
    gate.check(now, pass, Right::Read, &name("job/1/theta"), bytes)
}

#[test]
fn what_the_grant_says_is_what_may_be_done() {
    let mut gate = gate();
    let pass = admit(&gate, 2, &issue(bounds(0), 1));
    assert_eq!(read(&mut gate, NOW, &pass, 1 << 40), Ok(()));
    let denied = gate.check(NOW, &pass, Right::Read, &name("job/17/theta"), 1).unwrap_err();
    assert_eq!((denied.code, denied.again), (Code::Unauthorised, None));
    assert!(matches!(denied.why, DenyReason::OtherRegion { .. }));
    let denied = gate.check(NOW, &pass, Right::Commit, &name("job/1/theta"), 0).unwrap_err();
    assert!(matches!(denied.why, DenyReason::NoRight { right: Right::Commit, .. }), "{denied}");
    assert!(gate.meters.is_empty(), "without a bound there is nothing to meter");
}

#[test]
fn time_is_asked_at_every_operation_of_an_open_connection() {
    let mut gate = gate();
    let access = issue(bounds(0), 1);
    let pass = admit(&gate, 2, &access);
    let early = read(&mut gate, Time(999), &pass, 1).unwrap_err();
    assert_eq!((early.code, early.again), (Code::Unauthorised, Some(Time(1_000))));
    assert_eq!(read(&mut gate, Time(99_999), &pass, 1), Ok(()));
    let late = read(&mut gate, Time(103_000), &pass, 1).unwrap_err();
    assert_eq!(late, DenyReason::Expired { link: 1, ago_s: 3 }.never());
    let hello = gate.admit(Time(103_000), node(2), &access.to_bytes()).unwrap_err();
    assert_eq!(hello, late);
}

#[test]
fn a_grant_shown_by_another_node_or_none_at_all_is_refused() {
    let gate = gate();
    let bytes = issue(bounds(0), 1).to_bytes();
    let denied = gate.admit(NOW, node(3), &bytes).unwrap_err();
    let stolen = AccessError::NotYours { holder: node(2), bearer: node(3) };
    assert_eq!(
        (denied.code, denied.why),
        (Code::Unauthorised, DenyReason::Grant(Box::new(stolen)))
    );
    let none = gate.admit(NOW, node(2), &[]).unwrap_err();
    assert_eq!(none.why, DenyReason::NoGrant { owner: node(1) });
}

#[test]
fn the_owner_needs_no_grant_and_guests_read_what_is_public_at_one_rate() {
    let limits = GateLimits { guest_bytes_per_s: 100_000, ..GateLimits::default() };
    let mut gate = Gate::new(node(1), limits, vec![prefix("open/")], GateBooks::default());
    let owner = gate.admit(Time(0), node(1), b"whatever").unwrap();
    assert_eq!(gate.check(NOW, &owner, Right::Revoke, &name("any"), u64::MAX), Ok(()));
    let (one, two) = (gate.admit(NOW, node(7), &[]), gate.admit(NOW, node(8), &[]));
    let (one, two, open) = (one.unwrap(), two.unwrap(), name("open/weights"));
    assert_eq!(gate.check(NOW, &one, Right::Read, &open, 100_000), Ok(()));
    let denied = gate.check(NOW, &two, Right::Read, &open, 1_000).unwrap_err();
    assert_eq!((denied.code, denied.again), (Code::Busy, Some(Time(2_010))));
    assert!(gate.check(NOW, &one, Right::Write, &open, 0).is_err());
    let closed = gate.check(NOW, &one, Right::Read, &name("opened"), 0).unwrap_err();
    assert_eq!(closed.why, DenyReason::GuestsOnlyRead { owner: node(1) });
    // A grant for other regions does not take away what anybody may.
    let pass = admit(&gate, 2, &issue(bounds(0), 1));
    assert_eq!(gate.check(Time(9_000), &pass, Right::Read, &open, 5), Ok(()));
}

#[test]
fn a_delegates_bytes_are_its_delegators_too_over_all_connections() {
    let mut gate = gate();
    let first = issue(Bounds { bytes_max: 1_000, ..bounds(1) }, 1);
    let sub = |holder, nonce| {
        let bounds = Bounds { bytes_max: 600, ..bounds(0) };
        first.delegate(&key(2), node(holder), bounds, nonce).unwrap()
    };
    let (own, three, four) =
        (admit(&gate, 2, &first), admit(&gate, 3, &sub(3, 1)), admit(&gate, 4, &sub(4, 2)));
    assert_eq!(read(&mut gate, NOW, &three, 600), Ok(()));
    let spent = DenyReason::UsedUp { link: 2, left: 0, max: 600, asked: 1 };
    assert_eq!(read(&mut gate, NOW, &three, 1), Err(spent.never()));
    let denied = read(&mut gate, NOW, &four, 401).unwrap_err();
    let shared = DenyReason::UsedUp { link: 1, left: 400, max: 1_000, asked: 401 };
    assert_eq!((denied.code, denied.why), (Code::OverBudget, shared));
    assert_eq!(read(&mut gate, NOW, &four, 300), Ok(()), "what was refused was not booked");
    let again = admit(&gate, 2, &first);
    assert_eq!(read(&mut gate, NOW, &again, 100), Ok(()));
    assert!(read(&mut gate, NOW, &own, 1).is_err());
}

#[test]
fn the_slowest_link_says_when_to_come_again() {
    let mut gate = gate();
    let first = issue(Bounds { bytes_per_s: 1_000, ..bounds(1) }, 1);
    let slow = Bounds { bytes_per_s: 100, ..bounds(0) };
    let sub = first.delegate(&key(2), node(3), slow, 1).unwrap();
    let pass = admit(&gate, 3, &sub);
    assert_eq!(read(&mut gate, NOW, &pass, 1_000), Ok(()), "from full buckets");
    let denied = read(&mut gate, NOW, &pass, 50).unwrap_err();
    assert_eq!(denied.why, DenyReason::TooFast { link: 2, bytes_per_s: 100 });
    // 900 bytes of debt and 50 to go.
    assert_eq!((denied.code, denied.again), (Code::Busy, Some(Time(11_500))));
    assert_eq!(read(&mut gate, Time(11_500), &pass, 50), Ok(()));
    let none = admit(&gate, 2, &issue(Bounds { bytes_per_s: 0, ..bounds(0) }, 9));
    assert_eq!(read(&mut gate, NOW, &none, 0), Ok(()));
    let denied = read(&mut gate, NOW, &none, 1).unwrap_err();
    assert_eq!((denied.code, denied.again), (Code::OverBudget, None), "asking again never helps");
}

#[test]
fn revoking_ends_grants_of_lower_epochs_there_and_below_at_once() {
    let mut gate = gate();
    let old = admit(&gate, 2, &issue(bounds(0), 1));
    let new = issue(Bounds { epoch: 4, ..bounds(1) }, 2);
    let new_pass = admit(&gate, 2, &new);
    let sub = new.delegate(&key(2), node(3), bounds(0), 1).unwrap();
    let sub_pass = admit(&gate, 3, &sub);
    assert_eq!(gate.revoke(prefix("job/1/theta"), 4), Ok(4));
    let denied = read(&mut gate, NOW, &old, 1).unwrap_err();
    assert_eq!(denied, DenyReason::Revoked { link: 1, epoch: 3, in_force: 4 }.never());
    assert_eq!(gate.check(NOW, &old, Right::Read, &name("job/1/update"), 1), Ok(()));
    assert_eq!(read(&mut gate, NOW, &new_pass, 1), Ok(()));
    let denied = read(&mut gate, NOW, &sub_pass, 1).unwrap_err();
    assert!(matches!(denied.why, DenyReason::Revoked { link: 2, .. }));
    // A broader one takes the place of what is below, and an epoch never falls.
    assert_eq!(gate.revoke(prefix(""), 5), Ok(5));
    assert_eq!(gate.revoke(prefix("job/"), 1), Ok(5));
    assert_eq!(gate.epochs.len(), 1);
    assert!(read(&mut gate, NOW, &new_pass, 1).is_err());
    let refused = gate.admit(NOW, node(2), &new.to_bytes()).unwrap_err();
    assert_eq!(refused.code, Code::Unauthorised);
}

#[test]
fn only_who_may_revoke_does_and_within_its_prefix() {
    let mut gate = gate();
    let reader = admit(&gate, 2, &issue(bounds(0), 1));
    let operator = Bounds { rights: Rights::of(&[Right::Revoke]), ..bounds(0) };
    let operator = admit(&gate, 2, &issue(operator, 2));
    assert!(gate.serve_revoke(NOW, &reader, "job/1/", 9).is_err());
    assert!(gate.serve_revoke(NOW, &operator, "job/", 9).is_err());
    assert!(gate.serve_revoke(NOW, &operator, "", 9).is_err());
    let bad = gate.serve_revoke(NOW, &operator, "job/1//", 9).unwrap_err();
    assert_eq!(bad.code, Code::Protocol);
    assert!(gate.epochs.is_empty(), "nothing of that was carried out");
    assert_eq!(gate.serve_revoke(NOW, &operator, "job/1/", 9), Ok(9));
    assert!(read(&mut gate, NOW, &reader, 1).is_err());
}

#[test]
fn a_full_table_of_epochs_refuses_but_a_shorter_prefix_has_room() {
    let limits = GateLimits { epochs_max: 2, ..GateLimits::default() };
    let mut gate = Gate::new(node(1), limits, Vec::new(), GateBooks::default());
    gate.revoke(prefix("a/b"), 1).unwrap();
    gate.revoke(prefix("a/c"), 1).unwrap();
    let full = gate.revoke(prefix("d"), 1).unwrap_err();
    assert_eq!((full.code, full.why), (Code::TooLarge, DenyReason::EpochsFull { max: 2 }));
    assert_eq!(gate.revoke(prefix("a/b"), 2), Ok(2), "the same prefix needs no room");
    assert_eq!(gate.revoke(prefix("a/"), 2), Ok(2));
    assert_eq!(gate.revoke(prefix("d"), 1), Ok(1));
}

#[test]
fn a_full_table_of_meters_forgets_what_tells_nothing_and_then_says_busy() {
    let limits = GateLimits { meters_max: 4, ..GateLimits::default() };
    let mut gate = Gate::new(node(1), limits, Vec::new(), GateBooks::default());
    let metered = |nonce, not_after| {
        issue(Bounds { bytes_max: 10, not_after: Time(not_after), ..bounds(0) }, nonce)
    };
    let soon = admit(&gate, 2, &metered(0, 3_000));
    assert_eq!(read(&mut gate, NOW, &soon, 10), Ok(()));
    for nonce in 1..4 {
        let pass = admit(&gate, 2, &metered(nonce, 50_000));
        assert_eq!(read(&mut gate, NOW, &pass, 1), Ok(()));
    }
    let more = admit(&gate, 2, &metered(4, 50_000));
    let denied = read(&mut gate, NOW, &more, 1).unwrap_err();
    assert_eq!(denied, DenyReason::MetersFull { max: 4 }.until(Some(Time(3_000))));
    assert_eq!(read(&mut gate, Time(3_000), &more, 1), Ok(()), "one has expired");
    // A rate without a budget is forgotten when its bucket is full again.
    let limits = GateLimits { meters_max: 4, ..GateLimits::default() };
    let mut gate = Gate::new(node(1), limits, Vec::new(), GateBooks::default());
    for nonce in 0..100 {
        let pass = admit(&gate, 2, &issue(Bounds { bytes_per_s: 10, ..bounds(0) }, nonce));
        assert_eq!(read(&mut gate, Time(2_000 + 500 * nonce), &pass, 10), Ok(()));
    }
}

#[test]
fn one_holder_who_may_delegate_cannot_fill_the_table_for_all() {
    let limits = GateLimits { meters_per_grant_max: 4, meters_max: 8, ..GateLimits::default() };
    let mut gate = Gate::new(node(1), limits, Vec::new(), GateBooks::default());
    let first = issue(Bounds { bytes_max: 1 << 20, ..bounds(1) }, 1);
    let mut refused = 0;
    for nonce in 0..20 {
        let sub = Bounds { bytes_max: 10, ..bounds(0) };
        let sub = first.delegate(&key(2), node(3), sub, nonce).unwrap();
        let pass = admit(&gate, 3, &sub);
        refused += usize::from(read(&mut gate, NOW, &pass, 1).is_err());
    }
    assert_eq!((gate.meters.len(), refused), (4, 17));
    let other = admit(&gate, 2, &issue(Bounds { bytes_max: 10, ..bounds(0) }, 2));
    assert_eq!(read(&mut gate, NOW, &other, 1), Ok(()));
}

#[test]
fn revocations_and_budgets_survive_a_restart() {
    let mut gate = gate();
    let access = issue(Bounds { bytes_max: 100, ..bounds(0) }, 1);
    let pass = admit(&gate, 2, &access);
    read(&mut gate, NOW, &pass, 60).unwrap();
    gate.revoke(prefix("job/1/secret/"), 9).unwrap();
    let bytes = postcard::to_stdvec(&gate.books()).unwrap();
    let books: GateBooks = postcard::from_bytes(&bytes).unwrap();
    let mut again = Gate::new(node(1), GateLimits::default(), Vec::new(), books);
    let pass = admit(&again, 2, &access);
    assert!(read(&mut again, NOW, &pass, 41).is_err());
    assert_eq!(read(&mut again, NOW, &pass, 40), Ok(()));
    assert!(again.check(NOW, &pass, Right::Read, &name("job/1/secret/x"), 0).is_err());
}

#[test]
fn every_request_needs_the_right_of_its_verb() {
    let region = || name("job/1/theta");
    let stage =
        |kind| StageInfo { kind, shape: Shape { bytes: 5, chunk_bytes: 5 }, root: Hash::ZERO };
    let place = |kind| Request::Stage {
        region: region(),
        stage: stage(kind),
        chunk: 0,
        hash: Hash::ZERO,
        bytes: vec![0; 5].into(),
        level: None,
    };
    let spans = [Span::run(0, 99)].into();
    let needs = [
        (Request::Hello(Hello::new(Role::Join, Vec::new())), None),
        (Request::Send { bytes: vec![0; 9].into() }, None),
        (Request::Fence { level: None }, None),
        (Request::Stat { region: None }, None),
        (Request::Stat { region: Some(region()) }, Some((Right::Read, Some(0)))),
        (Request::Open { region: region() }, Some((Right::Read, Some(0)))),
        (Request::ReadIfChanged { region: region(), since: 1 }, Some((Right::Read, Some(0)))),
        (Request::Read { region: region(), version: 1, chunk: 0 }, Some((Right::Read, None))),
        (
            Request::ReadRanges { region: region(), version: 1, spans, start: 0, len: 99 },
            Some((Right::Read, Some(99))),
        ),
        (
            Request::OpenStage { region: region(), stage: stage(StageKind::Accumulate) },
            Some((Right::Accumulate, Some(0))),
        ),
        (place(StageKind::Write), Some((Right::Write, Some(5)))),
        (place(StageKind::Accumulate), Some((Right::Accumulate, Some(5)))),
        (
            Request::Commit { region: region(), stage: stage(StageKind::Write), expected: 1 },
            Some((Right::Commit, Some(0))),
        ),
        (Request::Subscribe { region: region() }, Some((Right::Subscribe, Some(0)))),
        (Request::OpenCells { region: region() }, Some((Right::Cells, Some(0)))),
        (
            Request::Cas { region: region(), cell: 0, expected: 0, new: 1 },
            Some((Right::Cells, Some(0))),
        ),
        (Request::FetchAdd { region: region(), cell: 0, add: 1 }, Some((Right::Cells, Some(0)))),
        (
            Request::Revoke { prefix: "job/1/theta".into(), epoch: 1 },
            Some((Right::Revoke, Some(0))),
        ),
    ];
    for (request, expected) in needs {
        let need = right_of(&request);
        assert_eq!(need.map(|need| (need.right, need.bytes)), expected, "{request:?}");
        assert!(need.is_none_or(|need| need.on == "job/1/theta"));
        // A guest of a gate without anything public is stopped exactly by those that need a right.
        let guest = Pass { bearer: node(9), by: By::Guest };
        let checked = gate().check_request(NOW, &guest, &request, 7);
        assert_eq!(checked.is_err(), expected.is_some(), "{request:?}");
    }
}
