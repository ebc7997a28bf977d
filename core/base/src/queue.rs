//! A queue with a bound, so that growth is a decision and not an accident.

use std::collections::VecDeque;

/// The queue was at its bound; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// First in, first out, never longer than the bound given at its making.
#[derive(Clone, Debug)]
pub struct Bounded<T> {
    items: VecDeque<T>,
    bound: usize,
}

impl<T> Bounded<T> {
    /// An empty queue that holds at most `bound` items.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { items: VecDeque::new(), bound }
    }

    /// Appends an item.
    ///
    /// # Errors
    /// Hands the item back when the queue is at its bound.
    pub fn push(&mut self, item: T) -> Result<(), Full<T>> {
        if self.items.len() >= self.bound {
            return Err(Full(item));
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many more items fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bound - self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_hands_the_item_back() {
        let mut queue = Bounded::new(1);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Err(Full(2)));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
    }
}
