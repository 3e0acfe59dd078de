//! The seconds that stamps are made of.

use std::sync::atomic::AtomicI64;

/// Which seconds since the epoch new stamps may have.
///
/// There is no lock: each but the end of a scan only goes up, and nothing depends on two of them at once. What must not be
/// overtaken (a stamp for all blocks by a scan that begins) is done while the evidence is locked.
#[derive(Debug)]
pub(super) struct Clockwork {
    /// Before this second no stamp is made.
    pub(super) floor: AtomicI64,
    /// The latest second of a stamp that may be shown before the next save.
    pub(super) ceiling: AtomicI64,
    /// While a scan goes on in a mount: later than all stamps that it will make.
    pub(super) scan_ends_below: AtomicI64,
    /// The latest stamp that was made for a block that was written, whether it still has it or not.
    pub(super) last_made: AtomicI64,
}

impl Clockwork {
    pub(super) fn new(floor: i64) -> Self {
        let [ceiling, scan_ends_below, last_made] = [i64::MIN; 3].map(AtomicI64::new);
        Self {
            floor: AtomicI64::new(floor),
            ceiling,
            scan_ends_below,
            last_made,
        }
    }
}
