//! The time that each block shows, for mounts without an index (promise P14).
//!
//! Invariant: within a mount, no stamp made here is shown for two contents. Read-only mounts have one stamp for
//! all blocks, which follows the source; writable ones a stamp that is fixed at the mount, and one of its own
//! for every block that is written or given a time.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::geometry::BlockIndex;
use crate::image::{Fingerprint, Image};
use crate::per_block::PerBlock;
use crate::stamp::{Given, LOOKS_BACK, MADE, READ, REPORTED, RULE, STAMPED, STEP, Stamp};

/// How often a file that was just written is looked at again.
const LOOKS: usize = 3;
/// The longest wait for a second to end; a clock that jumps back must not stop the mount.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The longest wait for the second that blocks of a writable mount show.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How the stamp of blocks without a stamp of their own comes about.
#[derive(Debug)]
enum Base {
    /// It follows the source.
    Followed(Mutex<Follow>),
    /// What it was at the mount.
    Fixed(i64),
}

/// The one stamp of a read-only mount. A stamp is never a second in which, or after which, the content can change
/// unseen: it is a file's own mtime only where every later write is certain to move that, and else the second of the
/// last listing. Either way that second is over before it is shown.
#[derive(Debug)]
struct Follow {
    /// When the source was last looked at.
    fingerprint: Fingerprint,
    /// The file's mtime then, in seconds and nanoseconds, if every later write is certain to move it.
    mtime: Option<(i64, i64)>,
    stamp: i64,
    /// The oldest and the newest stamp so far.
    range: (i64, i64),
}

impl Follow {
    fn at(second: i64) -> Self {
        Self {
            fingerprint: Fingerprint::Unknown,
            mtime: None,
            stamp: second,
            range: (i64::MAX, i64::MIN),
        }
    }

    /// Shows a file's mtime. A second write within a second that was already shown makes a stamp that was not.
    fn follow(&mut self, mtime: (i64, i64)) {
        let (low, high) = self.range;
        let shown = low <= mtime.0 && mtime.0 <= high;
        self.set(if shown { high + 1 } else { mtime.0 });
        self.mtime = Some(mtime);
    }

    /// Whatever it holds, it may be something that nobody has seen.
    fn restamp(&mut self, now: i64) {
        let after = self.stamp.max(self.range.1).saturating_add(1);
        self.set(now.max(after));
    }

    /// Whether a write may still be on its way that was made in the second of the stamp, which is over: the file keeps
    /// that as its time.
    fn is_under_way(&self, image: &dyn Image) -> bool {
        let last = image.mtime().ok().flatten();
        self.mtime.is_none() && last.is_some_and(|(last, _)| last == self.stamp)
    }

    fn set(&mut self, stamp: i64) {
        self.stamp = stamp;
        self.range = (self.range.0.min(stamp), self.range.1.max(stamp));
    }
}

/// Flag of a block's own stamp, beside those of the rule: the block was opened for reading, or written.
const OPENED: u16 = 1;
const _: () = assert!(OPENED & RULE == 0, "kept in one word");

/// The stamps of all blocks.
#[derive(Debug)]
pub(crate) struct Stamps {
    base: Base,
    /// Of writable mounts: the stamps that blocks have of their own.
    own: Option<PerBlock<Stamp>>,
    given: Given,
    /// The latest stamp that was made here and shown.
    shown: AtomicI64,
    clock: Arc<dyn Clock>,
}

impl Stamps {
    /// Looks at the source as it is at the mount.
    pub(crate) fn new(
        image: &dyn Image,
        writable: bool,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let base = if writable {
            // Not the file's mtime: rsync skips what is as old and as long, so a backup whose times happened to
            // be the same would not be restored. This second begins after the mount has, and has ended when it
            // is ready: no file of a backup can be of it, nor another mount's blocks.
            let second = clock.now().saturating_add(1);
            clock.wait_past(second, FIRST_WAIT);
            Base::Fixed(second)
        } else {
            let mut follow = Follow::at(clock.now());
            follow.fingerprint = image.fingerprint()?;
            let last = follow.fingerprint.last_write();
            if last.is_some_and(|last| last <= clock.now()) {
                // Not a second look: somebody may have written since.
                if let Some(mtime) = follow.fingerprint.certain_mtime() {
                    follow.follow(mtime);
                }
            }
            Base::Followed(Mutex::new(follow))
        };
        Ok(Self {
            base,
            own: writable.then(PerBlock::new),
            given: Given::new(),
            shown: AtomicI64::new(i64::MIN),
            clock,
        })
    }

    /// Called at each listing of the root: looks at the source again. May wait for a second to end, so that what is
    /// written later has a later one.
    pub(crate) fn refresh(&self, image: &dyn Image) {
        if let Base::Followed(follow) = &self.base {
            self.look(&mut lock(follow), image);
        }
    }

    fn look(&self, follow: &mut Follow, image: &dyn Image) {
        for _ in 0..LOOKS {
            let present = image.fingerprint().unwrap_or(Fingerprint::Unknown);
            let last = present.last_write();
            if last.is_some_and(|last| self.wait_if_near(last)) {
                // Somebody may have written in the rest of that second.
                continue;
            }
            if !present.proves_unwritten_since(&follow.fingerprint, true) {
                // Of this look, and not of another: somebody may have written since.
                let mtime = present.certain_mtime();
                // Not a time that is still to come: a write may have it, too.
                match mtime.filter(|_| last < Some(self.clock.now())) {
                    Some(mtime) => follow.follow(mtime),
                    None => follow.restamp(self.clock.now()),
                }
                follow.mtime = mtime;
                follow.fingerprint = present;
            }
            self.wait_if_near(follow.stamp);
            if follow.is_under_way(image) {
                continue;
            }
            return;
        }
        // Written in each second, and closed again each time.
        follow.restamp(self.clock.now());
        self.wait_if_near(follow.stamp);
    }

    /// The stamp of blocks that have none of their own.
    pub(crate) fn base(&self, image: &dyn Image) -> i64 {
        let follow = match &self.base {
            Base::Fixed(stamp) => return *stamp,
            Base::Followed(follow) => follow,
        };
        let mut follow = lock(follow);
        self.wait_if_near(follow.stamp);
        // A block file that is named without a listing shows a write, too.
        let written = follow.mtime.is_some() && image.mtime().ok().flatten() != follow.mtime;
        if written || follow.is_under_way(image) {
            self.look(&mut follow, image);
        }
        follow.stamp
    }

    /// The stamp that a block shows; from now on it counts as reported.
    pub(crate) fn report_stamp(&self, block: BlockIndex, base: i64) -> i64 {
        let shown = |stamp| {
            self.shown.fetch_max(stamp, SeqCst);
            stamp
        };
        let Some(own) = &self.own else {
            return shown(base);
        };
        own.with(block, |stamp| {
            if !stamp.has(STAMPED) {
                return shown(base);
            }
            stamp.add(REPORTED);
            if stamp.has(MADE) {
                shown(stamp.second());
            }
            stamp.second()
        })
    }

    /// The newest stamp of all `blocks` blocks.
    pub(crate) fn newest(&self, base: i64, blocks: u64) -> i64 {
        if blocks == 0 || self.touched() < blocks {
            base.max(self.newest_own())
        } else {
            self.newest_own()
        }
    }

    fn newest_own(&self) -> i64 {
        self.given.newest(|| {
            let mut newest = i64::MIN;
            if let Some(own) = &self.own {
                own.for_each(|stamp| {
                    if stamp.has(STAMPED) {
                        newest = newest.max(stamp.second());
                    }
                });
            }
            newest
        })
    }

    /// The block was read: others may know its stamp with this content.
    pub(crate) fn read(&self, block: BlockIndex) {
        if let Some(own) = &self.own {
            own.with(block, |stamp| stamp.add(READ | OPENED));
        }
    }

    /// The block was, or may have been, written: called after the write and before it is acknowledged. The stamp
    /// changes if anyone may know the present one.
    pub(crate) fn wrote(&self, block: BlockIndex, base: i64) {
        let Some(own) = &self.own else {
            return;
        };
        let new = own.with(block, |stamp| {
            self.given.touch(stamp);
            stamp.add(OPENED);
            stamp.had(base);
            stamp.is_known().then(|| {
                stamp.restamp(stamp.next(self.clock.now()));
                stamp.second()
            })
        });
        if let Some(second) = new {
            self.given.written(second, true);
        }
    }

    /// A block that the image had before is part of it again, with other content.
    pub(crate) fn came_back(&self, block: BlockIndex, base: i64) {
        let known = self.own.as_ref().and_then(|own| own.peek(block));
        if known.is_some_and(|stamp| stamp.has(STAMPED)) {
            self.read(block);
            self.wrote(block, base);
        }
    }

    /// A client sets the block's time.
    pub(crate) fn set(&self, block: BlockIndex, second: i64, base: i64) {
        let Some(own) = &self.own else {
            return;
        };
        let (replaced, second) = own.with(block, |stamp| {
            self.given.touch(stamp);
            let replaced = stamp.has(STAMPED).then_some(stamp.second());
            stamp.had(base);
            stamp.set(second);
            (replaced, stamp.second())
        });
        self.given.set(replaced, second);
    }

    /// How many stamps were made for blocks that were written.
    pub(crate) fn made(&self) -> i64 {
        self.given.made()
    }

    /// How many blocks were written or given a time.
    pub(crate) fn touched(&self) -> u64 {
        self.given.touched()
    }

    /// The block was opened for reading.
    pub(crate) fn opened(&self, block: BlockIndex) {
        if let Some(own) = &self.own {
            own.with(block, |stamp| stamp.add(OPENED));
        }
    }

    /// Whether, in a writable mount, the block was neither opened for reading nor written.
    pub(crate) fn was_skipped(&self, block: BlockIndex) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| !own.peek(block).unwrap_or_default().has(OPENED))
    }

    /// Waits until no later mount can show one of the stamps that were made here and shown: none lies in the future, nor
    /// so near that the stamps of a scan could be the same.
    pub(crate) fn let_pass(&self) {
        let last = self.shown.load(SeqCst).saturating_add(LOOKS_BACK);
        (self.clock).wait_if_near(last, LOOKS_BACK + STEP, LONGEST_WAIT * 2);
    }

    /// Waits for `second` to end, unless a clock that was set back makes that a long time. Whether it waited.
    fn wait_if_near(&self, second: i64) -> bool {
        self.clock.wait_if_near(second, STEP, LONGEST_WAIT)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p14_a_file_that_is_written_twice_in_a_second_shows_two_stamps() {
        let mut follow = Follow::at(50);
        let mut show = |mtime| {
            follow.follow(mtime);
            follow.stamp
        };
        assert_eq!(show((100, 1)), 100);
        assert_eq!(
            show((100, 2)),
            101,
            "second 100 was shown for another content"
        );
        assert_eq!(show((101, 0)), 102, "so was 101");
        assert_eq!(show((500, 0)), 500);
        assert_eq!(show((7, 0)), 7, "a time set back by hand is followed");
        assert_eq!(show((100, 3)), 501, "but no stamp is shown twice");
    }

    #[test]
    fn p14_a_stamp_is_not_the_second_of_a_write_that_may_be_under_way() {
        let image = crate::image::faulty::Memory::new(vec![1; 9]);
        // It was written in second 1000.
        for (stamp, mtime, under_way) in [
            (1000, None, true),
            (999, None, false),
            (1001, None, false),
            (1000, Some((1000, 0)), false),
        ] {
            let mut follow = Follow::at(stamp);
            follow.mtime = mtime;
            assert_eq!(follow.is_under_way(&image), under_way, "{stamp} {mtime:?}");
        }
    }
}
