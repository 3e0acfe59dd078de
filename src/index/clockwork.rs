//! The seconds that stamps are made of.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

/// Which seconds new stamps may have, and which were given. All are seconds since the epoch.
///
/// There is no lock: each value only goes up, but for `newest` and the end of a scan, and nothing depends on two of them at
/// once. What must not be overtaken (a stamp for all blocks by a scan that begins) is done while the evidence is locked.
#[derive(Debug)]
pub(super) struct Clockwork {
    /// Before this second no stamp is made.
    floor: AtomicI64,
    /// The latest second of a stamp that may be shown before the next save.
    ceiling: AtomicI64,
    /// While a scan goes on in a mount: later than all stamps that it will make.
    scan_ends_below: AtomicI64,
    /// The latest stamp of all blocks.
    newest: AtomicI64,
    newest_is_stale: AtomicBool,
    /// How many stamps were made for blocks that were written.
    made: AtomicI64,
    /// The latest of them.
    last_made: AtomicI64,
}

impl Clockwork {
    pub(super) fn new(floor: i64) -> Self {
        Self {
            floor: AtomicI64::new(floor),
            ceiling: AtomicI64::new(i64::MIN),
            scan_ends_below: AtomicI64::new(i64::MIN),
            newest: AtomicI64::new(i64::MIN),
            newest_is_stale: AtomicBool::new(false),
            made: AtomicI64::new(0),
            last_made: AtomicI64::new(i64::MIN),
        }
    }

    /// Before this second no stamp is made.
    pub(super) fn floor(&self) -> i64 {
        self.floor.load(SeqCst)
    }

    /// No stamp is made before `second` from now on.
    pub(super) fn raise_floor(&self, second: i64) {
        self.floor.fetch_max(second, SeqCst);
    }

    /// The latest second of a stamp that may be shown before the next save.
    pub(super) fn ceiling(&self) -> i64 {
        self.ceiling.load(SeqCst)
    }

    /// Stamps up to `second` may be shown from now on.
    pub(super) fn raise_ceiling(&self, second: i64) {
        self.ceiling.fetch_max(second, SeqCst);
    }

    /// The first second that is past all stamps of the scan that goes on, if one does, and not below the floor.
    pub(super) fn past_scan(&self) -> i64 {
        self.floor().max(self.scan_ends_below.load(SeqCst))
    }

    /// A scan begins that makes no stamp later than `highest`.
    pub(super) fn scan_begins(&self, highest: i64) {
        self.scan_ends_below
            .store(highest.saturating_add(1), SeqCst);
    }

    pub(super) fn scan_ended(&self) {
        self.scan_ends_below.store(i64::MIN, SeqCst);
    }

    /// The latest stamp of all blocks; `find` looks at all of them, if that is needed.
    pub(super) fn newest(&self, find: impl FnOnce() -> i64) -> i64 {
        if self.newest_is_stale.swap(false, SeqCst) {
            self.found_newest(find());
        }
        self.newest.load(SeqCst)
    }

    pub(super) fn found_newest(&self, newest: i64) {
        self.newest.store(newest, SeqCst);
    }

    /// A block that was written has this stamp; `new`: it was made for that.
    pub(super) fn written(&self, stamp: i64, new: bool) {
        self.newest.fetch_max(stamp, SeqCst);
        if new {
            self.made.fetch_add(1, SeqCst);
            self.last_made.fetch_max(stamp, SeqCst);
        }
    }

    /// A client has set a block's time from `replaced` to `stamp`.
    pub(super) fn set(&self, replaced: i64, stamp: i64) {
        // Looked for only when somebody asks: a restore sets back the newest of all with every block.
        let stale = replaced > stamp && replaced >= self.newest.load(SeqCst);
        self.newest_is_stale.fetch_or(stale, SeqCst);
        self.newest.fetch_max(stamp, SeqCst);
    }

    /// How many stamps were made for blocks that were written.
    pub(super) fn made(&self) -> i64 {
        self.made.load(SeqCst)
    }

    /// The latest of them, whether a block still has it or not.
    pub(super) fn last_made(&self) -> i64 {
        self.last_made.load(SeqCst)
    }
}
