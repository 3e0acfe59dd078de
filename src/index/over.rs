//! The seconds that stamps are made of: they are over before anybody sees them, and not that of the image's last write.
//!
//! A file keeps the second in which a write was submitted, or a page first stored to, as its time, while the data comes
//! later; a mount without an index shows that second then.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::Index;
use crate::geometry::BlockIndex;
use crate::image::Fingerprint;
use crate::stamp::{LOOKS_BACK, REPORTED, STAMPED, STEP, before, even};

/// A second that is further ahead, in seconds, is not waited for: a clock was set back, or a client has set it.
pub(crate) const NEAR: i64 = 10;

/// The longest wait for a second to end, for a clock that is being set back.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How often other stamps are made for a file that is written all the time.
const LOOKS: usize = 8;

/// The second of the stamps of a scan that begins, which is over before anything is read; `known`: `floor` is past all
/// stamps that were shown.
pub(super) fn first_stamp(started: i64, known: bool, image: &Fingerprint, floor: i64) -> i64 {
    let first = before(started);
    // If it is not known, an image that was last written before that has nothing new to show.
    let new = known || image.last_write().is_some_and(|last| last < first);
    even(if new { first } else { started }.max(floor))
}

impl Index {
    /// Waits for `second` to end, if it is near.
    pub(super) fn wait_if_near(&self, second: i64) {
        self.clock.wait_if_near(second, NEAR, LONGEST_WAIT);
    }

    /// The latest second of a stamp that is not far away: a client may have set one that is.
    pub(super) fn latest_near(&self) -> i64 {
        let near = self.clock.now().saturating_add(NEAR);
        let mut last = i64::MIN;
        let mut note = |second: i64| {
            if second <= near {
                last = last.max(second);
            }
        };
        // A block that has got another time since is none of them.
        note(self.clockwork.last_made.load(SeqCst));
        self.records.for_each(|record| {
            if record.has(STAMPED) {
                note(record.stamp.second());
                note(record.stamp.latest());
            }
        });
        last
    }

    /// Waits for the seconds of all stamps to end that are not far away.
    pub(super) fn wait_for_stamps(&self) {
        self.wait_if_near(self.latest_near());
    }

    /// At the end of a use that nothing was noted of: waits until no later scan can make one of its stamps, also not of
    /// those that all blocks had, which are below the floor.
    pub(super) fn let_pass(&self) {
        let near = self.clock.now().saturating_add(NEAR);
        let floor = Some(self.clockwork.floor.load(SeqCst)).filter(|floor| *floor <= near);
        let last = self.latest_near().max(floor.unwrap_or(i64::MIN));
        let last = last.saturating_add(LOOKS_BACK);
        if self.clock.now() <= last {
            self.clock.wait_past(last, LONGEST_WAIT);
        }
    }

    /// Whether the image's last write was made in a second from `first` to `last`, which are over. A mount without an
    /// index shows that second, with what arrives later, and to whoever is still copying what was there before.
    fn is_of_last_write(&self, first: i64, last: i64) -> bool {
        let mtime = self.image.mtime().ok().flatten();
        mtime.is_some_and(|(mtime, _)| first <= mtime && mtime <= last)
    }

    /// Makes a stamp with `make` that can be shown, and one that is [`STEP`] earlier: others, not below the floor, if
    /// the image was last written in their seconds.
    pub(super) fn stamp_that_is_over(&self, mut make: impl FnMut() -> i64) -> i64 {
        let mut stamp = make();
        for _ in 0..LOOKS {
            self.wait_if_near(stamp);
            if !self.is_of_last_write(stamp.saturating_sub(STEP), stamp) {
                break;
            }
            self.clockwork
                .floor
                .fetch_max(stamp.saturating_add(1), SeqCst);
            stamp = make();
        }
        stamp
    }

    /// Before anybody sees a stamp: waits until the first ones are over. Who looks waits, and not the mount.
    pub(super) fn let_first_pass(&self) {
        self.over.call_once(|| {
            self.pass_stamps();
            // That may have been long after they were made.
            if let Err(e) = self.raise_ceiling(self.latest()) {
                log::warn!("{}: the index cannot be saved: {e}", self.source);
            }
        });
    }

    /// After a scan, and before anybody sees its stamps: gives others to blocks whose stamps cannot be shown.
    pub(super) fn pass_stamps(&self) {
        for _ in 0..LOOKS {
            self.wait_for_stamps();
            let mtime = self.image.mtime().ok().flatten();
            let Some((second, _)) = mtime else {
                break;
            };
            let mut any = false;
            self.records.for_each(|record| {
                any |=
                    record.has(STAMPED) && !record.has(REPORTED) && record.stamp.second() == second;
            });
            if !any {
                break;
            }
            // All get the same, but those that have had it: the last ones stay the last.
            let by = even(self.clock.now().saturating_sub(second)).max(STEP);
            self.records.for_each(|record| {
                if record.has(STAMPED) && !record.has(REPORTED) {
                    record.restamp(record.stamp.second().saturating_add(by));
                }
            });
            self.counters.given.forget_newest();
        }
        if !self.writable {
            // From now on they count as shown, so that nobody looks at each of them again.
            self.records.for_each(|record| {
                if record.has(STAMPED) {
                    record.add(REPORTED);
                }
            });
        }
    }

    /// Before a block that has appeared since the scan shows its stamp.
    pub(super) fn pass_stamp(&self, block: BlockIndex) {
        for _ in 0..LOOKS {
            let stamp = self.records.with(block, |record| record.stamp.second());
            self.wait_if_near(stamp);
            if !self.is_of_last_write(stamp, stamp) {
                break;
            }
            self.make_stamp(block, |record| {
                record.stamp.second() == stamp && !record.has(REPORTED)
            });
        }
    }
}
