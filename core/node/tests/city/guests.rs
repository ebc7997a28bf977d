//! Guests, who read by a grant, and what a city says of how safe things are.

use crate::town::{Town, key};
use suanli_base::Time;
use suanli_identity::{Access, Bounds, Prefix, Role};
use suanli_node::city::ConnId;
use suanli_node::region_of_probe;
use suanli_rdpa::{Answer, Code, Handle, Hello, Level, Op, Span};

const MIB: u64 = 1 << 20;

/// A guest that may read the probe at one MiB a second.
fn guest(town: &mut Town) -> (ConnId, Handle) {
    let bounds = Bounds {
        prefix: Prefix::new("probe").unwrap(),
        rights: "read".parse().unwrap(),
        bytes_max: 100 * MIB,
        bytes_per_s: MIB,
        not_before: Time(0),
        not_after: Time(u64::MAX),
        epoch: 0,
        depth: 0,
    };
    let conn = town.connect(key(5).node(), 5);
    let access = Access::issue(&key(0), key(5).node(), bounds, 1).unwrap();
    let hello = Op::Hello(Hello::new(Role::Watch, access.to_bytes()));
    assert!(matches!(town.ask(conn, hello), Ok(Answer::Welcome(_))));
    let Ok(Answer::Opened { handle, .. }) = town.ask(conn, Op::Open { region: region_of_probe() })
    else {
        panic!("a guest opens what it may read")
    };
    (conn, handle)
}

fn ranges(handle: Handle, at: u64) -> Op {
    Op::ReadRanges { handle, spans: vec![Span::run(at * MIB, MIB)] }
}

#[test]
fn what_a_guest_cancels_while_it_waits_for_its_rate_costs_nothing() {
    // What waited was read all the same once the rate allowed it: bytes of the grant's budget for an
    // answer that nobody took.
    let mut town = Town::new();
    let (conn, handle) = guest(&mut town);
    let used = |town: &Town| town.city.books().used.iter().map(|used| used.bytes).sum::<u64>();
    let first = town.send(conn, ranges(handle, 0));
    assert!(matches!(town.outcome(conn, first), Some(Ok(Answer::ReadDone))));
    assert_eq!(used(&town), MIB);
    let second = town.send(conn, ranges(handle, 1));
    let third = town.send(conn, ranges(handle, 2));
    assert_eq!(used(&town), MIB, "both wait");
    town.cancel(conn, second);
    for _ in 0..20 {
        town.later(100);
    }
    assert!(matches!(town.outcome(conn, third), Some(Ok(Answer::ReadDone))));
    assert_eq!(used(&town), 2 * MIB);
}

#[test]
fn a_fence_says_no_more_than_the_city_can_keep() {
    // Whatever level was asked, the city answered that everything was placed, where it has to say
    // that it cannot.
    let mut town = Town::new();
    let trainer = town.member(1, Role::Train);
    let fence = |level| Op::Fence { level };
    assert_eq!(town.ask(trainer, fence(Level::Durable)), Err(Code::Unavailable));
    for level in [Level::Accepted, Level::Placed] {
        let answer = town.ask(trainer, fence(level));
        assert!(matches!(answer, Ok(Answer::Fenced { level: Level::Placed })), "{answer:?}");
    }
}
