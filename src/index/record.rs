//! What the index knows of one block, and the rule by which its stamp changes (promise P20).
//!
//! Invariants: a stamp made here is later than every stamp made here for the same block before; while
//! [`SETTLED`] is set, whoever copied the block with its stamp has the content that the digest names.

use crate::scan::Digest;

/// The digest is that of the block's content when it was last looked at.
pub(crate) const HASHED: u16 = 1;
/// Whoever copied the block with its stamp has the content that the digest names.
pub(super) const SETTLED: u16 = 2;
/// There is a stamp.
pub(super) const STAMPED: u16 = 4;
/// What is kept between mounts.
pub(super) const LASTING: u16 = HASHED | SETTLED | STAMPED;
/// The stamp was shown to somebody.
pub(super) const REPORTED: u16 = 8;
/// The block was read since the stamp was made.
pub(super) const READ: u16 = 16;
/// The block was written or given a time in this mount.
pub(super) const TOUCHED: u16 = 32;
/// A handle was served something that is not known to be the content of the digest.
pub(crate) const TORN: u16 = 64;
/// The block was written since it was hashed.
pub(super) const DIRTY: u16 = 128;
/// The block was written since the scan began to read it.
pub(super) const WRITTEN: u16 = 256;
/// The block was written or given a time since all blocks got one stamp, and shows its own again.
pub(super) const OWN: u16 = 512;
/// Somebody was served, with the present stamp, what nobody can tell any more: the next hash settles nothing.
pub(super) const DOUBTED: u16 = 1024;

/// The block could not be read when that was tried last.
pub(super) const UNREADABLE: u16 = 2048;
/// The block got a new stamp in a scan of this use, so whoever copies by times has to copy it.
pub(super) const RENEWED: u16 = 4096;
/// Since then it was opened for reading, or written.
pub(super) const OPENED: u16 = 8192;

/// A new stamp is at least this many seconds past the block's last: rsync compares whole seconds, FAT keeps two.
pub(super) const STEP: i64 = 2;

/// The stamps of a scan lie up to this many seconds before it.
pub(crate) const LOOKS_BACK: i64 = 4;

/// The first second from this one on that FAT can keep, which has every other.
pub(super) fn even(second: i64) -> i64 {
    second.saturating_add(second & 1)
}

/// The stamps of a scan that begins in second `now`: that of all blocks but the last, which gets [`STEP`] more. Both are
/// over before anything is read, so that nothing that is written later can be of them.
pub(super) fn before(now: i64) -> i64 {
    even(now.saturating_sub(2)) - STEP
}

/// One block. 48 bytes, which is what a block may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) digest: Digest,
    pub(crate) stamp: i64,
    /// How many seconds the latest stamp that the block ever had lies past this one: a client can set a time back,
    /// and other content must not get a stamp from between. Saturates at 136 years.
    pub(super) lead: u32,
    pub(super) flags: u16,
    /// How often it was hashed after a write; only the last to begin counts.
    pub(super) hashes: u16,
}

const _: () = assert!(size_of::<Record>() <= 48);

impl Record {
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    pub(super) fn has_any(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    pub(super) fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// The latest stamp that this block ever had.
    pub(crate) fn latest(&self) -> i64 {
        self.stamp.saturating_add(i64::from(self.lead))
    }

    /// The earliest stamp that this block may get now.
    pub(super) fn next_stamp(&self, now: i64) -> i64 {
        let after = if self.has(STAMPED) {
            now.max(self.latest().saturating_add(STEP))
        } else {
            now
        };
        even(after)
    }

    /// Gives the block a new stamp, nobody knows it yet.
    pub(super) fn restamp(&mut self, stamp: i64) {
        self.stamp = stamp;
        self.lead = 0;
        self.set(STAMPED);
        self.clear(REPORTED | READ | TORN | DOUBTED);
    }

    /// Gives the block a new stamp in a scan.
    pub(super) fn renew(&mut self, stamp: i64) {
        self.restamp(stamp);
        self.set(RENEWED);
        self.clear(OPENED);
    }

    /// What was served with the present stamp is not known to be what the block holds, nor what it will be found to
    /// hold if it has just been written.
    pub(super) fn doubt(&mut self) {
        self.clear(SETTLED);
        if self.has(DIRTY) {
            self.set(DOUBTED);
        }
    }

    /// What the block holds now, after it was written.
    pub(super) fn hashed(&mut self, digest: Digest) {
        self.digest = digest;
        self.set(HASHED);
        self.clear(UNREADABLE);
        if !self.has(DOUBTED) {
            self.set(SETTLED);
        }
    }

    /// Gives the block the stamp that a client wants.
    pub(super) fn set_stamp(&mut self, stamp: i64) {
        let lead = if self.has(STAMPED) {
            self.latest().saturating_sub(stamp).max(0)
        } else {
            0
        };
        self.lead = u32::try_from(lead).unwrap_or(u32::MAX);
        self.stamp = stamp;
        self.set(STAMPED | REPORTED);
    }

    /// What a scan found, in second `now`. Whether the block got a new stamp. A block that was written meanwhile
    /// has its new stamp already, and what the scan read of it may be half of each.
    pub(super) fn found(&mut self, digest: Digest, now: i64) -> bool {
        if self.has_any(DIRTY | WRITTEN) {
            return false;
        }
        self.clear(UNREADABLE);
        let known = self.has(HASHED | SETTLED | STAMPED) && digest == self.digest;
        if known {
            return false;
        }
        self.renew(self.next_stamp(now));
        self.digest = digest;
        self.set(HASHED | SETTLED);
        true
    }

    /// A scan in second `now` could not read the block: it keeps the stamp that it has, so that who has a copy keeps
    /// that (promise P22), and gets a new one when it can be read again, since nobody knows what it was meanwhile.
    /// `salvage`: it gets a new one now, so that what can be read of it is copied. Whether it got one.
    pub(super) fn not_found(&mut self, now: i64, salvage: bool) -> bool {
        if self.has_any(DIRTY | WRITTEN) {
            return false;
        }
        self.unreadable();
        if self.has(STAMPED) && !salvage {
            return false;
        }
        self.restamp(self.next_stamp(now));
        true
    }

    /// The block cannot be read. The digest stays noted, but it is not that of what the block holds.
    pub(super) fn unreadable(&mut self) {
        self.clear(HASHED | SETTLED);
        self.set(UNREADABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = [1; 32];
    const B: Digest = [2; 32];

    #[test]
    fn p20_a_stamp_stays_while_the_content_does() {
        let mut record = Record::default();
        assert!(record.found(A, 100));
        assert_eq!(record.stamp, 100);
        assert!(!record.found(A, 200));
        assert_eq!(record.stamp, 100);
        assert!(record.found(B, 101));
        assert_eq!(record.stamp, 102, "two seconds past the last, for FAT");
        assert!(
            record.found(A, 50),
            "content that comes back is new content"
        );
        assert_eq!(record.stamp, 104, "also when the clock went back");
    }

    #[test]
    fn p20_unsettled_blocks_get_new_stamps() {
        let mut record = Record::default();
        record.found(A, 100);
        record.clear(SETTLED);
        assert!(record.found(A, 200));
        assert_eq!(record.stamp, 200);
        assert!(record.has(SETTLED));
    }

    #[test]
    fn p22_an_unreadable_block_keeps_its_stamp_until_it_can_be_read() {
        for again in [A, B] {
            let mut record = Record::default();
            record.found(A, 100);
            for now in [200, 300] {
                assert!(!record.not_found(now, false));
                assert_eq!((record.stamp, record.digest), (100, A));
                assert!(record.has(UNREADABLE) && !record.has_any(HASHED | SETTLED));
            }
            assert!(record.found(again, 101));
            assert_eq!((record.stamp, record.digest), (102, again));
            assert!(record.has(HASHED | SETTLED) && !record.has(UNREADABLE));
            assert!(!record.found(again, 400));
        }
    }

    #[test]
    fn p22_an_unreadable_block_without_a_stamp_gets_one() {
        let mut record = Record::default();
        assert!(record.not_found(100, false));
        assert!(!record.not_found(200, false));
        assert_eq!(record.stamp, 100);
        assert!(record.found(A, 300));
        assert_eq!(record.stamp, 300);
    }

    #[test]
    fn p22_with_salvage_an_unreadable_block_gets_a_new_stamp_each_time() {
        let mut record = Record::default();
        record.found(A, 100);
        for now in [200, 300] {
            assert!(record.not_found(now, true));
            assert_eq!(record.stamp, now);
            assert!(record.has(UNREADABLE) && !record.has_any(HASHED | SETTLED));
        }
        assert!(record.found(A, 400));
    }

    #[test]
    fn p22_a_block_that_was_written_while_it_could_not_be_read_is_left_alone() {
        for written in [DIRTY, WRITTEN] {
            let mut record = Record::default();
            record.found(A, 100);
            record.set(written);
            let before = record;
            assert!(!record.not_found(200, false) && !record.not_found(200, true));
            assert_eq!(record, before);
        }
    }

    #[test]
    fn p20_a_stamp_is_not_made_twice_after_a_client_set_an_earlier_one() {
        let mut record = Record::default();
        record.found(A, 100);
        record.set_stamp(7);
        assert!(record.found(B, 100));
        assert_eq!(record.stamp, 102);
    }

    #[test]
    fn p20_the_stamps_of_a_scan_are_even_and_over() {
        for now in [-5, -1, 0, 1, 1000, 1001] {
            let (first, last) = (before(now), before(now) + STEP);
            assert_eq!((first & 1, last & 1), (0, 0));
            assert!(last < now && now - first <= LOOKS_BACK, "{first} in {now}");
        }
        assert_eq!([even(-3), even(7), even(8)], [-2, 8, 8]);
        even(i64::MAX);
        let mut record = Record::default();
        record.found(A, 100);
        record.set_stamp(107);
        assert_eq!(
            record.next_stamp(100),
            110,
            "even, and two seconds past the last"
        );
    }
}
