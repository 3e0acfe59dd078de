//! The stamp of one block, and the rule by which it changes (promises P14 and P20). [`Stamp`] is pure: no clock, no image, no lock.
//!
//! Invariant: a stamp that is made by the rule is at least [`STEP`] later than every stamp that the block had before.

mod given;

pub(crate) use given::Given;

/// Seconds from a block's latest stamp to a new one, at least: rsync compares whole seconds, FAT keeps every other.
pub(crate) const STEP: i64 = 2;

/// The stamps of a scan lie up to this many seconds before it.
pub(crate) const LOOKS_BACK: i64 = 4;

/// A stamp that a client sets is cut to this many seconds, so that there are later ones.
const FURTHEST: i64 = i64::MAX / 4;

/// The block has a stamp of its own.
pub(crate) const STAMPED: u16 = 4;
/// The stamp was shown to somebody.
pub(crate) const REPORTED: u16 = 8;
/// The block was read since the stamp was made.
pub(crate) const READ: u16 = 16;
/// The block was written or given a time in this mount.
pub(crate) const TOUCHED: u16 = 32;
/// The stamp was made in this mount, and not set by a client.
pub(crate) const MADE: u16 = 4096;
/// The flags of this rule. All others belong to whoever keeps the stamp.
pub(crate) const RULE: u16 = STAMPED | REPORTED | READ | TOUCHED | MADE;

/// The first second from this one on that FAT can keep.
pub(crate) fn even(second: i64) -> i64 {
    second.saturating_add(second & 1)
}

/// The stamps of a scan that begins in second `now`: that of all blocks but the last, which gets [`STEP`] more. Both are
/// over before anything is read, so that nothing that is written later can be of them.
pub(crate) fn before(now: i64) -> i64 {
    even(now.saturating_sub(2)) - STEP
}

/// The stamp of one block, in whole seconds since the epoch. 14 bytes, so that an index's record fits into 48.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(Rust, packed(2))]
pub(crate) struct Stamp {
    second: i64,
    /// Seconds from this stamp to the latest one that the block ever had: a client can set a time back, and other
    /// content must not get a stamp from between. Saturates at 136 years.
    to_latest: u32,
    flags: u16,
}

impl Stamp {
    /// As it was stored: the second, the seconds from there to the latest, flags.
    pub(crate) fn stored(second: i64, to_latest: u32, flags: u16) -> Self {
        Self {
            second,
            to_latest,
            flags,
        }
    }

    /// What is stored of it.
    pub(crate) fn to_store(self) -> (i64, u32, u16) {
        (self.second, self.to_latest, self.flags)
    }

    /// Whether all of these flags are set.
    pub(crate) fn has(self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Whether one of them is.
    pub(crate) fn has_any(self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    pub(crate) fn add(&mut self, flags: u16) {
        self.flags |= flags;
    }

    pub(crate) fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// What the block shows; only with [`STAMPED`] it says something.
    pub(crate) fn second(self) -> i64 {
        self.second
    }

    /// The latest stamp that the block ever had.
    pub(crate) fn latest(self) -> i64 {
        self.second.saturating_add(i64::from(self.to_latest))
    }

    /// Whether other content needs another stamp: somebody may know the present one with the present content, or there
    /// is none.
    pub(crate) fn is_known(self) -> bool {
        !self.has(STAMPED) || self.has_any(REPORTED | READ)
    }

    /// The earliest stamp from `now` on that the block may get.
    pub(crate) fn next(self, now: i64) -> i64 {
        if self.has(STAMPED) {
            now.max(self.latest().saturating_add(STEP))
        } else {
            now
        }
    }

    /// Gives the block a new stamp, which nobody knows yet.
    pub(crate) fn restamp(&mut self, second: i64) {
        self.second = second;
        self.to_latest = 0;
        self.add(STAMPED | MADE);
        self.clear(REPORTED | READ);
    }

    /// Gives the block the time that a client wants.
    pub(crate) fn set(&mut self, second: i64) {
        let second = second.clamp(-FURTHEST, FURTHEST);
        let to_latest = if self.has(STAMPED) {
            self.latest().saturating_sub(second).max(0)
        } else {
            0
        };
        self.to_latest = u32::try_from(to_latest).unwrap_or(u32::MAX);
        self.second = second;
        self.add(STAMPED | REPORTED);
        self.clear(MADE);
    }

    /// A block without a stamp of its own has shown this one until now.
    pub(crate) fn had(&mut self, second: i64) {
        if !self.has(STAMPED) {
            self.second = second;
            self.add(STAMPED | REPORTED);
        }
    }

    /// The block is written or given a time. Whether that is the first time in this mount.
    pub(crate) fn touch(&mut self) -> bool {
        let first = !self.has(TOUCHED);
        self.add(TOUCHED);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to a stamp.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        /// The block without an index has shown this one.
        Had(i64),
        /// Somebody looks at it.
        Shown,
        /// The content is read.
        Read,
        /// The content changes in this second.
        Written(i64),
        /// A client sets this time.
        Set(i64),
    }
    use Event::{Had, Read, Set, Shown, Written};

    fn after(events: &[Event]) -> Stamp {
        let mut stamp = Stamp::default();
        for event in events {
            match *event {
                Had(second) => stamp.had(second),
                Shown => stamp.add(REPORTED),
                Read => stamp.add(READ),
                Written(now) if stamp.is_known() => stamp.restamp(stamp.next(now)),
                Written(_) => {}
                Set(second) => stamp.set(second),
            }
        }
        stamp
    }

    #[test]
    fn p20_every_case_of_the_rule() {
        const FAR: i64 = u32::MAX as i64;
        // What happened, the stamp then, and the latest that the block ever had.
        let cases: &[(&[Event], i64, i64)] = &[
            // The first stamp is the second of the content.
            (&[Written(100)], 100, 100),
            (&[Written(-7)], -7, -7),
            // Nobody knows it: it stays, so that many small writes do not push it into the future.
            (&[Written(100), Written(101), Written(500)], 100, 100),
            // Somebody may know it, or the content: a new one.
            (&[Written(100), Shown, Written(500)], 500, 500),
            (&[Written(100), Read, Written(500)], 500, 500),
            // At least two seconds past the latest.
            (&[Written(100), Shown, Written(100)], 102, 102),
            (&[Written(100), Shown, Written(101)], 102, 102),
            (&[Written(100), Shown, Written(103)], 103, 103),
            (&[Written(100), Read, Written(7)], 102, 102),
            // What was known is not any more.
            (&[Written(100), Shown, Written(200), Written(300)], 200, 200),
            (&[Written(100), Read, Written(200), Written(300)], 200, 200),
            // A client's time stands as it is, and somebody knows it.
            (&[Set(70)], 70, 70),
            (&[Set(70), Written(100)], 100, 100),
            (&[Set(500), Written(100)], 502, 502),
            // Set back: nothing between gets to other content.
            (&[Written(100), Set(7)], 7, 100),
            (&[Written(100), Set(7), Written(50)], 102, 102),
            (&[Written(100), Set(7), Set(30), Written(50)], 102, 102),
            (&[Written(100), Set(300), Set(7), Written(50)], 302, 302),
            // Too far back to be noted exactly: from where it can be.
            (&[Written(2 * FAR), Set(0)], 0, FAR),
            (&[Written(2 * FAR), Set(0), Written(9)], FAR + 2, FAR + 2),
            // There is always a later one.
            (&[Set(i64::MAX)], FURTHEST, FURTHEST),
            (&[Set(i64::MAX), Written(9)], FURTHEST + 2, FURTHEST + 2),
            (&[Set(i64::MIN)], -FURTHEST, -FURTHEST),
            (&[Set(i64::MIN), Written(9)], 9, 9),
            // Without an index: what all blocks showed counts as one's own, and as known.
            (&[Had(100)], 100, 100),
            (&[Had(100), Written(99)], 102, 102),
            (&[Read, Had(100), Written(500)], 500, 500),
            (&[Had(100), Set(7)], 7, 100),
            (&[Had(100), Set(7), Written(50)], 102, 102),
            // But a stamp of its own is not replaced by it.
            (&[Written(200), Had(100)], 200, 200),
            (&[Written(200), Had(100), Written(300)], 200, 200),
        ];
        for (events, second, latest) in cases {
            let stamp = after(events);
            let found = (stamp.second(), stamp.latest());
            assert_eq!(found, (*second, *latest), "{events:?}");
        }
    }

    #[test]
    fn p20_only_stamps_made_here_count_as_made() {
        for (events, made) in [
            (&[Had(1)][..], false),
            (&[Written(1)], true),
            (&[Written(1), Shown], true),
            (&[Written(1), Set(2)], false),
            (&[Written(1), Set(2), Written(3)], true),
        ] {
            assert_eq!(after(events).has(MADE), made, "{events:?}");
        }
    }

    #[test]
    fn p25_a_block_is_touched_once() {
        let mut stamp = Stamp::default();
        assert!(stamp.touch());
        assert!(!stamp.touch());
        stamp.restamp(5);
        assert!(!stamp.touch(), "a new stamp is the same mount");
    }

    #[test]
    fn flags_of_others_stay() {
        let mut stamp = Stamp::stored(100, 0, !RULE);
        stamp.had(5);
        stamp.restamp(7);
        stamp.set(9);
        assert!(stamp.has(!RULE));
        let (second, to_latest, flags) = stamp.to_store();
        assert_eq!(Stamp::stored(second, to_latest, flags), stamp);
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
    }
}
