//! What the index knows of one block: its stamp, its digest, and what the two have to do with each other (promise P20).
//!
//! Invariant: while [`SETTLED`] is set, whoever copied the block with its stamp has the content that the digest names.

use crate::scan::Digest;
use crate::stamp::{RULE, STAMPED, Stamp, even};

/// The digest is that of the block's content when it was last looked at.
pub(crate) const HASHED: u16 = 1;
/// Whoever copied the block with its stamp has the content that the digest names.
pub(super) const SETTLED: u16 = 2;
/// Nobody was served all of the block since it got its stamp, as far as is known: no backup has it.
pub(super) const UNSERVED: u16 = 64;
/// What is kept between mounts.
pub(super) const LASTING: u16 = HASHED | SETTLED | STAMPED | UNSERVED;
/// A handle was served something that is not known to be the content of the digest.
pub(crate) const TORN: u16 = 32768;
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
/// The stamp was made without a look at the block: its digest is that of what is served first (promise P32).
pub(crate) const UNREAD: u16 = 8192;

const OURS: u16 =
    HASHED | SETTLED | UNSERVED | TORN | DIRTY | WRITTEN | OWN | DOUBTED | UNREADABLE | UNREAD;
const _: () = assert!(OURS & RULE == 0, "kept in one word");

/// One block. 48 bytes, which is what a block may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) digest: Digest,
    /// With the flags of the record, too.
    pub(crate) stamp: Stamp,
    /// How often it was hashed after a write; only the last to begin counts.
    pub(super) hashes: u16,
}

const _: () = assert!(size_of::<Record>() <= 48);

impl Record {
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.stamp.has(flags)
    }

    pub(super) fn add(&mut self, flags: u16) {
        self.stamp.add(flags);
    }

    pub(super) fn clear(&mut self, flags: u16) {
        self.stamp.clear(flags);
    }

    /// The earliest stamp from `now` on that the block may get: by the rule, and one that FAT can keep.
    pub(super) fn next_stamp(&self, now: i64) -> i64 {
        even(self.stamp.next(now))
    }

    /// Gives the block a new stamp. Nobody knows it yet, nor was anything served with it.
    pub(super) fn restamp(&mut self, stamp: i64) {
        self.stamp.restamp(stamp);
        self.clear(TORN | DOUBTED);
        self.add(UNSERVED);
    }

    /// Gives the block the time that a client wants, who has the content.
    pub(super) fn set_stamp(&mut self, stamp: i64) {
        self.stamp.set(stamp);
        self.clear(UNSERVED);
    }

    /// What was served with the present stamp is not known to be what the block holds, nor what it will be found to
    /// hold if it has just been written.
    pub(super) fn doubt(&mut self) {
        self.clear(SETTLED | UNREAD);
        if self.has(DIRTY) {
            self.add(DOUBTED);
        }
    }

    /// The block gets a stamp, of second `now` or later, without being read.
    pub(super) fn stamp_unread(&mut self, now: i64) {
        self.restamp(self.next_stamp(now));
        self.clear(HASHED | SETTLED | UNREADABLE);
        self.add(UNREAD);
    }

    /// A handle was served `digest`, or, if that is `None`, not all of the block once and in order.
    pub(super) fn served(&mut self, digest: Option<Digest>) {
        if digest.is_some() {
            self.clear(UNSERVED);
        }
        match digest {
            Some(digest) if self.has(UNREAD) => {
                self.digest = digest;
                self.clear(UNREAD);
                self.add(HASHED | SETTLED);
            }
            Some(digest) if self.has(HASHED) && digest == self.digest => {}
            // Two contents with one stamp, whatever else there is to prove that nothing was written.
            Some(_) if self.has(HASHED) => self.doubt(),
            _ => self.add(TORN),
        }
    }

    /// What the block holds now, after it was written.
    pub(super) fn hashed(&mut self, digest: Digest) {
        self.digest = digest;
        self.add(HASHED);
        self.clear(UNREADABLE | UNREAD);
        if !self.has(DOUBTED) {
            self.add(SETTLED);
        }
    }

    /// What a scan found, in second `now`. Whether the block got a new stamp. A block that was written meanwhile
    /// has its new stamp already, and what the scan read of it may be half of each.
    pub(super) fn found(&mut self, digest: Digest, now: i64) -> bool {
        if self.stamp.has_any(DIRTY | WRITTEN) {
            return false;
        }
        self.clear(UNREADABLE | UNREAD);
        let known = self.has(HASHED | SETTLED | STAMPED) && digest == self.digest;
        if known {
            return false;
        }
        self.restamp(self.next_stamp(now));
        self.digest = digest;
        self.add(HASHED | SETTLED);
        true
    }

    /// A scan in second `now` could not read the block: it keeps the stamp that it has, so that who has a copy keeps
    /// that (promise P22), and gets a new one when it can be read again, since nobody knows what it was meanwhile.
    /// `salvage`: it gets a new one now, so that what can be read of it is copied. Whether it got one.
    pub(super) fn not_found(&mut self, now: i64, salvage: bool) -> bool {
        if self.stamp.has_any(DIRTY | WRITTEN) {
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
        self.clear(HASHED | SETTLED | UNREAD);
        self.add(UNREADABLE);
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
        assert_eq!(record.stamp.second(), 100);
        assert!(!record.found(A, 200));
        assert_eq!(record.stamp.second(), 100);
        assert!(record.found(B, 101));
        assert_eq!(
            record.stamp.second(),
            102,
            "two seconds past the last, for FAT"
        );
        assert!(
            record.found(A, 50),
            "content that comes back is new content"
        );
        assert_eq!(record.stamp.second(), 104, "also when the clock went back");
    }

    #[test]
    fn p20_unsettled_blocks_get_new_stamps() {
        let mut record = Record::default();
        record.found(A, 100);
        record.clear(SETTLED);
        assert!(record.found(A, 200));
        assert_eq!(record.stamp.second(), 200);
        assert!(record.has(SETTLED));
    }

    #[test]
    fn p32_the_first_that_is_served_a_block_whole_tells_its_digest() {
        // What two handles were served; whether the copies are certain, and the digest.
        for (first, second, settled, digest) in [
            (Some(A), Some(A), true, Some(A)),
            (Some(A), Some(B), false, Some(A)),
            // Half a block is judged at the end: it may be half of what the other one is.
            (Some(A), None, true, Some(A)),
            (None, Some(A), true, Some(A)),
            (None, None, false, None),
        ] {
            let mut record = Record::default();
            record.found(B, 90);
            record.stamp_unread(100);
            assert_eq!((record.stamp.second(), record.has(UNREAD)), (100, true));
            record.served(first);
            record.served(second);
            let case = format!("{first:?} and {second:?}: {record:?}");
            assert_eq!(record.has(HASHED | SETTLED), settled, "{case}");
            assert_eq!(
                record.has(HASHED).then_some(record.digest),
                digest,
                "{case}"
            );
            let parts = first.is_none() || second.is_none();
            assert_eq!(record.has(TORN), parts, "{case}");
        }
    }

    #[test]
    fn p26_a_stamp_is_served_when_somebody_has_all_of_the_block_with_it() {
        let mut record = Record::default();
        record.found(A, 100);
        assert!(record.has(UNSERVED));
        record.served(None);
        assert!(record.has(UNSERVED), "a part");
        record.served(Some(A));
        assert!(!record.has(UNSERVED));
        record.found(A, 200);
        assert!(!record.has(UNSERVED), "the same stamp");
        record.found(B, 300);
        assert!(record.has(UNSERVED), "a new one");
        record.set_stamp(7);
        assert!(!record.has(UNSERVED), "a client has put it there");
    }

    #[test]
    fn p32_whatever_else_happens_to_a_block_comes_first() {
        let after = |happens: fn(&mut Record)| {
            let mut record = Record::default();
            record.stamp_unread(100);
            happens(&mut record);
            record.served(Some(A));
            !record.has(UNREAD) && record.digest != A
        };
        assert!(after(|record| record.hashed(B)), "hashed after a write");
        assert!(after(Record::unreadable), "it cannot be read");
        assert!(
            after(|record| _ = record.found(B, 200)),
            "a scan has read it"
        );
        assert!(
            after(|record| _ = record.not_found(200, false)),
            "a scan could not"
        );
        assert!(after(Record::doubt), "somebody has what nobody can tell");
    }

    #[test]
    fn p22_an_unreadable_block_keeps_its_stamp_until_it_can_be_read() {
        for again in [A, B] {
            let mut record = Record::default();
            record.found(A, 100);
            for now in [200, 300] {
                assert!(!record.not_found(now, false));
                assert_eq!((record.stamp.second(), record.digest), (100, A));
                assert!(record.has(UNREADABLE) && !record.stamp.has_any(HASHED | SETTLED));
            }
            assert!(record.found(again, 101));
            assert_eq!((record.stamp.second(), record.digest), (102, again));
            assert!(record.has(HASHED | SETTLED) && !record.has(UNREADABLE));
            assert!(!record.found(again, 400));
        }
    }

    #[test]
    fn p22_an_unreadable_block_without_a_stamp_gets_one() {
        let mut record = Record::default();
        assert!(record.not_found(100, false));
        assert!(!record.not_found(200, false));
        assert_eq!(record.stamp.second(), 100);
        assert!(record.found(A, 300));
        assert_eq!(record.stamp.second(), 300);
    }

    #[test]
    fn p22_with_salvage_an_unreadable_block_gets_a_new_stamp_each_time() {
        let mut record = Record::default();
        record.found(A, 100);
        for now in [200, 300] {
            assert!(record.not_found(now, true));
            assert_eq!(record.stamp.second(), now);
            assert!(record.has(UNREADABLE) && !record.stamp.has_any(HASHED | SETTLED));
        }
        assert!(record.found(A, 400));
    }

    #[test]
    fn p22_a_block_that_was_written_while_it_could_not_be_read_is_left_alone() {
        for written in [DIRTY, WRITTEN] {
            let mut record = Record::default();
            record.found(A, 100);
            record.add(written);
            let before = record;
            assert!(!record.not_found(200, false) && !record.not_found(200, true));
            assert_eq!(record, before);
        }
    }

    #[test]
    fn p20_a_stamp_is_not_made_twice_after_a_client_set_an_earlier_one() {
        let mut record = Record::default();
        record.found(A, 100);
        record.stamp.set(7);
        assert!(record.found(B, 100));
        assert_eq!(record.stamp.second(), 102);
    }

    #[test]
    fn p20_a_new_stamp_is_even() {
        let mut record = Record::default();
        record.found(A, 100);
        record.stamp.set(107);
        assert_eq!(
            record.next_stamp(100),
            110,
            "even, and two seconds past the last"
        );
    }
}
