//! The time that stamps are made of, behind a trait so that tests can turn it.

#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Tells the time in whole seconds since the epoch.
pub(crate) trait Clock: fmt::Debug + Send + Sync {
    /// The present second.
    fn now(&self) -> i64;

    /// Seconds that have passed since some moment, by a clock that nobody can set.
    fn passed(&self) -> i64;

    /// Waits until `second` is over, but never longer than `most`.
    fn wait_past(&self, second: i64, most: Duration);

    /// Waits for `second` to end as [`Clock::wait_past`] does, unless it lies more than `near` seconds ahead. Whether it
    /// waited.
    fn wait_if_near(&self, second: i64, near: i64, most: Duration) -> bool {
        let now = self.now();
        let is_near = now <= second && second <= now.saturating_add(near);
        if is_near {
            self.wait_past(second, most);
        }
        is_near
    }
}

/// The machine's real-time clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX) - 1,
        }
    }

    fn passed(&self) -> i64 {
        // While the machine sleeps, others may write what is on the network.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(i64::MAX, |time| time.tv_sec())
    }

    fn wait_past(&self, second: i64, most: Duration) {
        let step = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while self.now() <= second && waited < most {
            std::thread::sleep(step);
            waited += step;
        }
    }
}
