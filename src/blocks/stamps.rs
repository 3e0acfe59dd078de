//! The time that each block shows, for mounts without an index (promise P14).
//!
//! Invariant: within a mount, no stamp made here is shown for two contents. Read-only mounts have one stamp for
//! all blocks, which follows the source; writable ones a stamp that is fixed at the mount, and one of its own
//! for every block that is written or given a time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::geometry::BlockIndex;
use crate::image::{Image, Written};
use crate::per_block::PerBlock;

/// A new stamp is this many seconds past the block's last: rsync compares whole seconds, FAT keeps two.
pub(crate) const STEP: i64 = 2;
/// The longest wait for a second to end; a clock that jumps back must not stop the mount.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The longest wait for the second that blocks of a writable mount show.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How the stamp of blocks without a stamp of their own comes about.
#[derive(Debug)]
enum Base {
    /// A file's own mtime, followed.
    File(Mutex<FollowFile>),
    /// The second of the last listing before which the device was, or may have been, written.
    Device(Mutex<FollowDevice>),
    /// What it was at the mount.
    Fixed(i64),
}

#[derive(Debug, Default)]
struct FollowFile {
    /// mtime when last looked at: seconds and nanoseconds.
    mtime: Option<(i64, i64)>,
    /// The oldest and newest stamp shown.
    range: (i64, i64),
    shown: i64,
}

impl FollowFile {
    /// The stamp for a file with this mtime. A second write within a second that was already shown makes a stamp
    /// that was not.
    fn report_stamp(&mut self, seconds: i64, nanos: i64) -> i64 {
        let mtime = Some((seconds, nanos));
        if self.mtime == mtime {
            return self.shown;
        }
        let (low, high) = if self.mtime.is_none() {
            (seconds, seconds - 1)
        } else {
            self.range
        };
        self.shown = if low <= seconds && seconds <= high {
            high + 1
        } else {
            seconds
        };
        self.range = (low.min(self.shown), high.max(self.shown));
        self.mtime = mtime;
        self.shown
    }
}

#[derive(Debug)]
struct FollowDevice {
    written: Option<Written>,
    stamp: i64,
}

const OWN: u8 = 1;
const REPORTED: u8 = 2;
const READ: u8 = 4;
const TOUCHED: u8 = 8;
/// The stamp was made here, not set by a client.
const MADE: u8 = 16;

/// A block's own stamp, if `OWN` is set.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    stamp: i64,
    /// How many seconds the latest stamp that the block ever had lies past this one: a client can set a time back,
    /// and what is written then must not get a stamp that another content had. Saturates at 136 years.
    lead: u32,
    flags: u8,
}

impl Cell {
    fn latest(self, base: i64) -> i64 {
        if self.flags & OWN == 0 {
            base
        } else {
            self.stamp.saturating_add(i64::from(self.lead))
        }
    }
}

/// The newest stamp that a block has of its own.
#[derive(Debug)]
struct Newest {
    stamp: i64,
    /// The block that had it was given another: look at all of them when somebody asks.
    stale: bool,
}

impl Newest {
    fn raise(&mut self, stamp: i64) {
        self.stamp = self.stamp.max(stamp);
    }
}

/// The stamps of all blocks.
#[derive(Debug)]
pub(crate) struct Stamps {
    base: Base,
    own: Option<PerBlock<Cell>>,
    newest: Mutex<Newest>,
    touched: AtomicU64,
    /// How many stamps were made for blocks that were written.
    made: AtomicI64,
    /// The latest stamp that was made for a block and shown.
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
        let base = match (image.written()?, writable) {
            (_, true) => {
                // Not the file's mtime: rsync skips what is as old and as long, so a backup whose times happened to
                // be the same would not be restored. This second begins after the mount has, and has ended when it
                // is ready: no file of a backup can be of it, nor another mount's blocks.
                let second = clock.now().saturating_add(1);
                clock.wait_past(second, FIRST_WAIT);
                Base::Fixed(second)
            }
            (Written::Mtime { seconds, nanos }, false) => {
                let mut follow = FollowFile::default();
                follow.report_stamp(seconds, nanos);
                Base::File(Mutex::new(follow))
            }
            (written @ Written::Device(_), false) => Base::Device(Mutex::new(FollowDevice {
                written: Some(written),
                stamp: clock.now(),
            })),
        };
        Ok(Self {
            base,
            own: writable.then(PerBlock::new),
            newest: Mutex::new(Newest {
                stamp: i64::MIN,
                stale: false,
            }),
            touched: AtomicU64::new(0),
            made: AtomicI64::new(0),
            shown: AtomicI64::new(i64::MIN),
            clock,
        })
    }

    /// Called at each listing of the root: looks at the source again. May wait for the present second to end, so
    /// that what is written later has a later one.
    pub(crate) fn refresh(&self, image: &dyn Image) {
        match &self.base {
            Base::Fixed(_) => {}
            Base::File(_) => {
                if let Ok(Written::Mtime { seconds, .. }) = image.written()
                    && seconds == self.clock.now()
                {
                    self.clock.wait_past(seconds, LONGEST_WAIT);
                }
            }
            Base::Device(follow) => {
                let written = image.written().ok();
                let mut follow = lock(follow);
                let unchanged =
                    matches!(written, Some(Written::Device(Some(_)))) && written == follow.written;
                if !unchanged {
                    follow.stamp = self.clock.now().max(follow.stamp + 1);
                    follow.written = written;
                }
                self.wait_if_near(follow.stamp);
            }
        }
    }

    /// The stamp of blocks that have none of their own.
    pub(crate) fn base(&self, image: &dyn Image) -> i64 {
        match &self.base {
            Base::Fixed(stamp) => *stamp,
            Base::Device(follow) => lock(follow).stamp,
            Base::File(follow) => {
                let mut follow = lock(follow);
                match image.written() {
                    Ok(Written::Mtime { seconds, nanos }) => follow.report_stamp(seconds, nanos),
                    _ => follow.shown,
                }
            }
        }
    }

    /// The stamp that a block shows; from now on it counts as reported.
    pub(crate) fn report_stamp(&self, block: BlockIndex, base: i64) -> i64 {
        let Some(own) = &self.own else {
            return base;
        };
        own.with(block, |cell| {
            if cell.flags & OWN == 0 {
                return base;
            }
            cell.flags |= REPORTED;
            if cell.flags & MADE != 0 {
                self.shown.fetch_max(cell.stamp, SeqCst);
            }
            cell.stamp
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
        let mut newest = lock(&self.newest);
        if newest.stale
            && let Some(own) = &self.own
        {
            newest.stale = false;
            newest.stamp = i64::MIN;
            own.for_each(|cell| {
                if cell.flags & OWN != 0 {
                    newest.raise(cell.stamp);
                }
            });
        }
        newest.stamp
    }

    /// The block was read: its stamp may be told to others with this content.
    pub(crate) fn read(&self, block: BlockIndex) {
        if let Some(own) = &self.own {
            own.with(block, |cell| cell.flags |= READ);
        }
    }

    /// The block was, or may have been, written: called after the write and before it is acknowledged. The stamp
    /// changes if anyone may know the present one.
    pub(crate) fn wrote(&self, block: BlockIndex, base: i64) {
        let Some(own) = &self.own else {
            return;
        };
        let new = own.with(block, |cell| {
            self.touch(cell);
            if cell.flags & OWN != 0 && cell.flags & (REPORTED | READ) == 0 {
                return None;
            }
            let stamp = self.clock.now().max(cell.latest(base).saturating_add(STEP));
            *cell = Cell {
                stamp,
                lead: 0,
                flags: OWN | TOUCHED | MADE,
            };
            Some(stamp)
        });
        if let Some(stamp) = new {
            self.made.fetch_add(1, SeqCst);
            lock(&self.newest).raise(stamp);
        }
    }

    /// A block that the image had before is part of it again, with other content.
    pub(crate) fn came_back(&self, block: BlockIndex, base: i64) {
        let known = self.own.as_ref().and_then(|own| own.peek(block));
        if known.is_some_and(|cell| cell.flags & OWN != 0) {
            self.read(block);
            self.wrote(block, base);
        }
    }

    /// A client sets the block's time.
    pub(crate) fn set(&self, block: BlockIndex, stamp: i64, base: i64) {
        let Some(own) = &self.own else {
            return;
        };
        let replaced = own.with(block, |cell| {
            self.touch(cell);
            let replaced = (cell.flags & OWN != 0).then_some(cell.stamp);
            let lead = cell.latest(base).saturating_sub(stamp).max(0);
            *cell = Cell {
                stamp,
                lead: u32::try_from(lead).unwrap_or(u32::MAX),
                flags: OWN | TOUCHED | REPORTED,
            };
            replaced
        });
        let mut newest = lock(&self.newest);
        newest.stale |= replaced.is_some_and(|replaced| replaced >= newest.stamp);
        newest.raise(stamp);
    }

    /// How many stamps were made for blocks that were written.
    pub(crate) fn made(&self) -> i64 {
        self.made.load(SeqCst)
    }

    /// How many blocks were written or given a time.
    pub(crate) fn touched(&self) -> u64 {
        self.touched.load(SeqCst)
    }

    /// Waits until no stamp that was made here and shown lies in the future, so that a later mount cannot make it
    /// again.
    pub(crate) fn let_pass(&self) {
        self.wait_if_near(self.shown.load(SeqCst));
    }

    fn touch(&self, cell: &mut Cell) {
        if cell.flags & TOUCHED == 0 {
            cell.flags |= TOUCHED;
            self.touched.fetch_add(1, SeqCst);
        }
    }

    /// Waits for `second` to end, unless a clock that was set back makes that a long time.
    fn wait_if_near(&self, second: i64) {
        let now = self.clock.now();
        if now <= second && second <= now.saturating_add(STEP) {
            self.clock.wait_past(second, LONGEST_WAIT);
        }
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
        let mut follow = FollowFile::default();
        assert_eq!(follow.report_stamp(100, 1), 100);
        assert_eq!(follow.report_stamp(100, 1), 100);
        assert_eq!(
            follow.report_stamp(100, 2),
            101,
            "second 100 was shown for another content"
        );
        assert_eq!(follow.report_stamp(101, 0), 102, "so was 101");
        assert_eq!(follow.report_stamp(500, 0), 500);
        assert_eq!(
            follow.report_stamp(7, 0),
            7,
            "a time set back by hand is followed"
        );
        assert_eq!(
            follow.report_stamp(100, 3),
            501,
            "but no stamp is shown twice"
        );
    }
}
