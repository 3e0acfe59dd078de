//! What the tests stand on: guards that clean up after themselves, and a scene that checks that they did.
//!
//! Invariant: whatever a test makes (mounts, daemons, loop devices, files) ends with the test, passed or
//! failed, and a test that leaves something behind fails. Nothing here waits for a time, only for states.

pub(crate) mod blocks;
pub(crate) mod command;
pub(crate) mod devices;
pub(crate) mod filesystem;
pub(crate) mod machine;
pub(crate) mod mounted;
pub(crate) mod namespace;
pub(crate) mod pattern;
pub(crate) mod scene;

use std::time::{Duration, Instant};

/// How long anything may take before it counts as hanging. No test depends on its value.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for a state.
///
/// # Panics
/// If it has not come by the deadline.
pub(crate) fn wait_until(what: &str, state: impl FnMut() -> bool) {
    assert!(comes_true(DEADLINE, state), "waited in vain until {what}");
}

/// Whether a state comes before `patience` ends.
pub(crate) fn comes_true(patience: Duration, mut state: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if state() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
