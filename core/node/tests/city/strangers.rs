//! Those who have proven a key and say nothing, or take long to say it.

use crate::town::{Town, key};
use suanli_identity::Role;
use suanli_node::city::{ConnId, Input};

/// As many as a city has up at once.
const CONNECTIONS_MAX: u64 = 4096;

#[test]
fn a_crowd_of_strangers_pushes_out_its_own_and_keeps_no_member_out() {
    // A city with 4096 connections refused whoever came next, member or not: whoever made 273
    // handshakes a second, each silent for its 15 seconds, kept all members out for as long as they
    // liked.
    let mut town = Town::new();
    let member = town.member(1, Role::Join);
    let lonely = town.connect(key(2).node(), 2);
    let crowd: Vec<ConnId> =
        (0..CONNECTIONS_MAX).map(|at| town.connect(key(3).node(), 3 + (at % 4) as u32)).collect();
    let pushed_out: Vec<ConnId> = town.closed.drain(..).map(|(conn, _)| conn).collect();
    assert_eq!(pushed_out, crowd[..2], "the oldest of the crowd, one for each too many");
    let late = town.member(4, Role::Join);
    for conn in [member, lonely, late] {
        assert!(town.city.connections().any(|(id, _)| id == conn), "{conn:?}");
    }
    assert!(town.city.is_member(member) && town.city.is_member(late));
    assert_eq!(town.city.connections().count() as u64, CONNECTIONS_MAX);
}

#[test]
fn a_member_that_connects_again_and_again_ends_its_own_connections() {
    // Whoever is admitted stays, so one member, or one guest, could have taken all places.
    let mut town = Town::new();
    let other = town.member(2, Role::Join);
    let all: Vec<ConnId> = (0..66).map(|_| town.member(1, Role::Join)).collect();
    let closed: Vec<ConnId> = town.closed.iter().map(|(conn, _)| *conn).collect();
    assert_eq!(closed, all[..2]);
    assert!(town.city.is_member(other) && town.city.is_member(all[65]));
}

#[test]
fn a_member_whose_chunk_takes_minutes_is_not_silent_and_one_that_says_nothing_is() {
    // A chunk of 256 KiB at 100 kbit/s takes 21 seconds, in which its line carries nothing else.
    let mut town = Town::new();
    let slow = town.member(1, Role::Join);
    let gone = town.member(2, Role::Join);
    let arriving = |town: &mut Town| {
        town.now.0 += 3_000;
        town.input(Input::Arriving { conn: slow });
        town.input(Input::Tick);
    };
    (0..6).for_each(|_| arriving(&mut town));
    assert_eq!(town.closed.drain(..).map(|(conn, _)| conn).collect::<Vec<_>>(), [gone]);
    (0..90).for_each(|_| arriving(&mut town));
    assert!(town.closed.is_empty() && town.city.is_member(slow));
    // One frame is not waited for without end.
    (0..10).for_each(|_| arriving(&mut town));
    assert_eq!(town.closed.len(), 1);
}
