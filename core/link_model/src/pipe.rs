//! A link with what travels in it.

use crate::clock::Moment;
use crate::link::{Counts, Link, Verdict};
use std::collections::VecDeque;

/// A link that holds its packets until they arrive.
///
/// Bounded by its direction: no more bytes than the queue, and what the line sends in its delay.
#[derive(Clone, Debug)]
pub struct Pipe<T> {
    link: Link,
    /// By moment of arrival; equal moments in the order of their offers.
    travelling: VecDeque<(Moment, T)>,
}

impl<T> Pipe<T> {
    /// An empty pipe over `link`.
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self { link, travelling: VecDeque::new() }
    }

    /// Offers a packet of `bytes` at `now`, which is no earlier than any offer before; the pipe
    /// keeps it when it will arrive.
    pub fn offer(&mut self, now: Moment, bytes: u32, packet: T) -> Verdict {
        let verdict = self.link.offer(now, bytes);
        if let Verdict::Deliver { at } = verdict {
            let behind = self.travelling.partition_point(|other| other.0 <= at);
            self.travelling.insert(behind, (at, packet));
        }
        verdict
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<Moment> {
        self.travelling.front().map(|next| next.0)
    }

    /// A packet that has arrived by `now`, the earliest first.
    pub fn arrived(&mut self, now: Moment) -> Option<T> {
        self.travelling.pop_front_if(|next| next.0 <= now).map(|(_, packet)| packet)
    }

    /// How many packets are on their way.
    #[must_use]
    pub fn travelling(&self) -> usize {
        self.travelling.len()
    }

    /// What its link has seen so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.link.counts()
    }
}
