//! A bound on memory that clients can make a mount take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A number of bytes that all its users together may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// Up to `limit` bytes.
    #[must_use]
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    /// How many there may be.
    #[must_use]
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// `false`: so much is not left, and nothing was taken.
    #[must_use]
    pub(crate) fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(SeqCst, SeqCst, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, SeqCst);
    }
}

/// What one of them holds; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: u64,
}

impl Share {
    /// Holds nothing yet.
    #[must_use]
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held: 0,
        }
    }

    /// `false`: so much is not left, and nothing was taken.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let taken = self.budget.take(bytes);
        self.held += if taken { bytes } else { 0 };
        taken
    }

    /// Gives part of it back.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.held -= bytes;
        self.budget.give_back(bytes);
    }

    /// Gives all of it back.
    pub(crate) fn give_back_all(&mut self) {
        self.give_back(self.held);
    }

    /// Whether nothing is held.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back_all();
    }
}

#[cfg(test)]
impl Budget {
    /// How many are taken.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_together_stays_below_the_limit_and_comes_back() {
        let budget = Arc::new(Budget::new(100));
        let (mut one, mut two) = (Share::new(&budget), Share::new(&budget));
        assert!(one.take(60) && !two.take(41) && two.take(40));
        assert!(!one.take(u64::MAX));
        one.give_back(10);
        assert!(two.take(10) && !two.take(1));
        drop(one);
        assert_eq!(budget.used(), 50);
        two.give_back_all();
        assert!(two.is_empty() && budget.used() == 0);
    }
}
