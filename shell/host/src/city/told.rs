//! Ends of connections, told once each: nobody fills an operator's log by connecting again.
//!
//! Whoever is a member is known by its key; a stranger's key costs nothing, so strangers are known
//! by their address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use suanli_base::{Duration, NodeId, Time};

/// Whose ends are remembered at once; past this nothing new is told.
const WHO_MAX: usize = 1024;
/// The next end of the same peer is told after this.
const AGAIN_AFTER: Duration = Duration(3_600_000);

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Member(NodeId),
    /// What counts as one address; none for those that come by a relay.
    Stranger(Option<IpAddr>),
}

/// What was told of whom.
#[derive(Debug, Default)]
pub(super) struct Told {
    book: BTreeMap<Who, Noise>,
}

#[derive(Debug)]
struct Noise {
    since: Time,
    more: u64,
}

impl Told {
    /// The line that is worth telling, if one is.
    pub(super) fn line(&mut self, now: Time, who: Who, what: &str) -> Option<String> {
        let is_old = |noise: &Noise| now.since(noise.since) >= AGAIN_AFTER;
        if let Some(noise) = self.book.get_mut(&who) {
            if !is_old(noise) {
                noise.more += 1;
                return None;
            }
        } else if self.book.len() >= WHO_MAX {
            self.book.retain(|_, noise| !is_old(noise));
            if self.book.len() >= WHO_MAX {
                return None;
            }
        }
        let before = self.book.insert(who, Noise { since: now, more: 0 });
        let more = before.map_or(0, |noise| noise.more);
        let and = if more > 0 { format!(", and {more} like it before") } else { String::new() };
        Some(match who {
            Who::Member(node) => format!("connection of {} closed: {what}{and}", node.short()),
            Who::Stranger(Some(ip)) => format!("connection from {ip} closed: {what}{and}"),
            Who::Stranger(None) => format!("connection by a relay closed: {what}{and}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(last: u8) -> Who {
        Who::Stranger(Some(IpAddr::from([10, 0, 0, last])))
    }

    #[test]
    fn a_hundred_connections_that_break_the_protocol_are_one_line() {
        // Each printed a line of its own, so that whoever came a thousand times a second filled the
        // operator's disk; what broke on the link itself was not told at all.
        let mut told = Told::default();
        let lines = |told: &mut Told, now, who: &dyn Fn(u16) -> Who| -> Vec<String> {
            (0..100).filter_map(|at| told.line(now, who(at), "no frame")).collect()
        };
        let first = lines(&mut told, Time(0), &|_| stranger(1));
        assert_eq!(first, ["connection from 10.0.0.1 closed: no frame"]);
        // Another address, and a member, are others.
        assert_eq!(lines(&mut told, Time(1), &|_| stranger(2)).len(), 1);
        let member = Who::Member(NodeId([3; 32]));
        assert_eq!(lines(&mut told, Time(1), &|_| member).len(), 1);
        let again = lines(&mut told, Time(AGAIN_AFTER.0), &|_| stranger(1));
        assert_eq!(again, ["connection from 10.0.0.1 closed: no frame, and 99 like it before"]);
    }

    #[test]
    fn what_is_remembered_has_a_bound_that_time_makes_room_in() {
        let mut told = Told::default();
        let who = |at: u16| Who::Stranger(Some(IpAddr::from([10, 1, (at >> 8) as u8, at as u8])));
        let lines = |told: &mut Told, now| {
            (0..2000).filter_map(|at| told.line(now, who(at), "no frame")).count()
        };
        assert_eq!(lines(&mut told, Time(0)), WHO_MAX);
        assert!(told.book.len() <= WHO_MAX);
        let member = Who::Member(NodeId([3; 32]));
        assert_eq!(told.line(Time(1), member, "no frame"), None);
        assert!(told.line(Time(AGAIN_AFTER.0), member, "no frame").is_some());
    }
}
