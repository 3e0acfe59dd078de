//! The seconds that stamps are made of.

use crate::stamp::Second;

/// Which seconds new stamps may have.
///
/// There is no lock: each but the end of a scan only goes up, and nothing depends on two of them at once. What must not be
/// overtaken (a stamp for all blocks by a scan that begins) is done while the evidence is locked.
#[derive(Debug, Default)]
pub(super) struct Clockwork {
    /// Before this second no stamp is made.
    pub(super) floor: Second,
    /// The latest second of a stamp that may be shown before the next save.
    pub(super) ceiling: Second,
    /// While a scan goes on in a mount: later than all stamps that it will make.
    pub(super) scan_ends_below: Second,
    /// The latest stamp that was made for a block that was written, whether it still has it or not.
    pub(super) last_made: Second,
}
