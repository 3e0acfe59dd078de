//! Locks that are taken under one another, and the order for that. Builds with debug assertions check it.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// Whoever holds a lock may take those that come after it here, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// No lock.
    Free,
    /// An index is saved, which waits for a disk: nobody may wait for that with another lock in hand.
    Saving,
    /// What is known of an image.
    Evidence,
    /// The newest stamp.
    Newest,
    /// One page of what is kept for each block.
    Page,
    /// Nothing is locked under it.
    Leaf,
}

thread_local! {
    /// The last lock that this thread holds.
    static HELD: Cell<Rank> = const { Cell::new(Rank::Free) };
}

/// The thread holds a lock as long as this lives. What it held before.
#[derive(Debug)]
struct Held(Rank);

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(self.0);
    }
}

/// A value behind a lock that has its place in the order.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    rank: Rank,
    value: Mutex<T>,
}

impl<T> Ordered<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Self {
        let value = Mutex::new(value);
        Self { rank, value }
    }

    /// Works on the value, alone.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let held = Held(HELD.replace(self.rank));
        debug_assert!(
            held.0 < self.rank,
            "{:?} is locked under {:?}",
            self.rank,
            held.0
        );
        work(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_their_order_only() {
        let saving = Ordered::new(Rank::Saving, 1);
        let evidence = Ordered::new(Rank::Evidence, 2);
        let leaf = Ordered::new(Rank::Leaf, 3);
        let sum = saving.with(|a| evidence.with(|b| *a + *b) + leaf.with(|c| *c));
        assert_eq!(sum, 6);
        let wrong =
            |act: &(dyn Fn() + Sync)| std::thread::scope(|scope| scope.spawn(act).join().is_err());
        assert!(wrong(&|| evidence.with(|_| saving.with(|_| ()))));
        assert!(wrong(&|| leaf.with(|_| evidence.with(|_| ()))));
        assert!(wrong(
            &|| leaf.with(|_| Ordered::new(Rank::Leaf, 4).with(|_| ()))
        ));
        assert_eq!(HELD.get(), Rank::Free);
    }
}
