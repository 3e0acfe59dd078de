//! A clock that a test turns by hand. Waiting turns it too, so no test sleeps.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::Clock;

/// A clock that stands still until it is turned or waited for.
#[derive(Debug)]
pub(crate) struct TestClock {
    now: AtomicI64,
    passed: AtomicI64,
    waits: AtomicUsize,
}

impl TestClock {
    pub(crate) fn new(now: i64) -> Self {
        Self {
            now: AtomicI64::new(now),
            passed: AtomicI64::new(0),
            waits: AtomicUsize::new(0),
        }
    }

    /// So many seconds pass; or it is turned back, if negative.
    pub(crate) fn turn(&self, seconds: i64) {
        self.passed.fetch_add(seconds.max(0), SeqCst);
        self.now.fetch_add(seconds, SeqCst);
    }

    /// How many times somebody really had to wait.
    pub(crate) fn waits(&self) -> usize {
        self.waits.load(SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> i64 {
        self.now.load(SeqCst)
    }

    fn passed(&self) -> i64 {
        self.passed.load(SeqCst)
    }

    fn wait_past(&self, second: i64, most: Duration) {
        let missing = second + 1 - self.now();
        if missing > 0 {
            self.waits.fetch_add(1, SeqCst);
            self.turn(missing.min(i64::try_from(most.as_secs()).unwrap()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_it_back_is_no_time_that_passed() {
        let clock = TestClock::new(10);
        clock.turn(5);
        clock.turn(-7);
        assert_eq!((clock.now(), clock.passed()), (8, 5));
        clock.turn(1);
        assert_eq!((clock.now(), clock.passed()), (9, 6));
    }

    #[test]
    fn waiting_turns_the_clock_but_not_further_than_allowed() {
        let clock = TestClock::new(10);
        clock.wait_past(9, Duration::from_secs(3));
        assert_eq!((clock.now(), clock.waits()), (10, 0));
        clock.wait_past(10, Duration::from_secs(3));
        assert_eq!((clock.now(), clock.waits()), (11, 1));
        clock.wait_past(100, Duration::from_secs(3));
        assert_eq!((clock.now(), clock.waits()), (14, 2));
    }
}
