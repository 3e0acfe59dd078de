//! The way from the kernel to a volume, which can be shut.
//!
//! Invariant: when [`Gate::shut`] has returned no request is under way, and none that comes later reaches the
//! volume; so what was served is known when the end is decided, also where a mount cannot be taken away.

use std::sync::{PoisonError, RwLock};

use crate::volume::{Errno, Result};

/// Open until it is shut for ever.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: RwLock<bool>,
}

impl Gate {
    /// Works on one request. ENOTCONN, which also is what the kernel says when nobody serves: the gate is shut.
    pub(super) fn pass<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let shut = self.shut.read().unwrap_or_else(PoisonError::into_inner);
        if *shut {
            return Err(Errno::ENOTCONN);
        }
        work()
    }

    /// Waits for the requests that are under way, and refuses all that come.
    pub(crate) fn shut(&self) {
        *self.shut.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn shutting_waits_for_what_is_under_way_and_lets_nothing_more_pass() {
        let (gate, answered) = (Gate::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let passed = gate.pass(|| {
                scope.spawn(|| {
                    gate.shut();
                    assert!(answered.load(SeqCst), "a request was under way");
                });
                // The thread waits, or has not begun to.
                std::thread::yield_now();
                answered.store(true, SeqCst);
                Ok(())
            });
            assert_eq!(passed, Ok(()));
        });
        assert_eq!(gate.pass(|| Ok(())), Err(Errno::ENOTCONN));
    }
}
