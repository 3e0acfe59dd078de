//! Single promises about stamps and the latch, each with the case that once broke it or is the reason for it.

use std::sync::Arc;

use super::world::{config, directory, inode};
use crate::blocks::Blocks;
use crate::clock::{Clock, testing::TestClock};
use crate::image::faulty::{History, Memory};
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Change, Errno, SetTime, Volume};

const BLOCK: usize = 4096;

struct Mount {
    clock: Arc<TestClock>,
    memory: Arc<Memory>,
    blocks: Blocks,
}

fn mount(size: usize, history: History, writable: bool, latch: bool) -> Mount {
    // A writable mount waits for its first second, 1000, to end.
    let clock = Arc::new(TestClock::new(if writable { 999 } else { 1000 }));
    let memory = Memory::with(vec![7; size], history, false, Arc::clone(&clock));
    let blocks = directory(&memory, config(BLOCK, writable, latch), &clock);
    Mount {
        clock,
        memory,
        blocks,
    }
}

impl Mount {
    fn stamp(&self, inode: Inode) -> i64 {
        self.blocks.attr(inode).unwrap().stamp
    }

    fn write(&self, block: usize) {
        let handle = self.blocks.open(inode(block), true).unwrap();
        assert_eq!(self.blocks.write(handle, 0, &[1]), Ok(1));
        self.blocks.release(handle);
    }

    fn set_mtime(&self, inode: Inode, seconds: i64) {
        let change = Change {
            mtime: Some(SetTime::At(seconds)),
            ..Change::default()
        };
        assert_eq!(self.blocks.change(inode, &change).unwrap().stamp, seconds);
    }

    fn list(&self) {
        let handle = self.blocks.open_directory(Inode::Root).unwrap();
        self.blocks.release_directory(handle);
    }
}

#[test]
fn p14_what_is_written_after_a_time_was_set_back_gets_no_stamp_that_was_shown() {
    let mount = mount(BLOCK, History::File, true, true);
    assert_eq!(mount.stamp(inode(0)), 1000, "for the first content");
    mount.set_mtime(inode(0), 50);
    mount.write(0);
    assert_eq!(mount.stamp(inode(0)), 1002, "1000 was the first content's");
    mount.set_mtime(inode(0), 60);
    mount.clock.turn(-2);
    mount.write(0);
    assert_eq!(mount.stamp(inode(0)), 1004);
}

#[test]
fn p14_writes_that_nobody_looks_at_between_share_a_stamp() {
    let mount = mount(BLOCK, History::File, true, true);
    for _ in 0..100 {
        mount.write(0);
    }
    assert_eq!(mount.stamp(inode(0)), 1002);
    mount.write(0);
    assert_eq!(mount.stamp(inode(0)), 1004, "1002 was shown");
    mount.write(0);
    let handle = mount.blocks.open(inode(0), false).unwrap();
    mount.blocks.read(handle, 0, &mut [0], false).unwrap();
    mount.write(0);
    assert_eq!(
        mount.stamp(inode(0)),
        1008,
        "1006 was another's that was read"
    );
}

#[test]
fn p14_a_writable_mount_shows_no_time_that_a_backup_can_have() {
    // A backup of another image of the same second: rsync would restore nothing and exit 0.
    let clock = Arc::new(TestClock::new(1000));
    let memory = Memory::with(vec![7; BLOCK], History::File, false, Arc::clone(&clock));
    clock.turn(5);
    let blocks = directory(&memory, config(BLOCK, true, true), &clock);
    let shown = blocks.attr(inode(0)).unwrap().stamp;
    assert_eq!(shown, 1006, "a second that began after the mount");
    assert!(clock.now() > shown, "and ended before it was ready");
    clock.turn(100);
    let later = blocks.attr(inode(0)).unwrap().stamp;
    assert_eq!(later, shown, "fixed at the mount");
}

#[test]
fn p14_the_roots_time_is_the_newest_stamp_even_if_all_are_old() {
    let mount = mount(3 * BLOCK, History::File, true, true);
    assert_eq!(mount.stamp(Inode::Root), 1000);
    for block in 0..3 {
        mount.write(block);
    }
    assert_eq!(mount.stamp(Inode::Root), 1002);
    for (block, set, newest) in [(2, 42, 1002), (0, 40, 1002), (1, 41, 42)] {
        mount.set_mtime(inode(block), set);
        assert_eq!(mount.stamp(Inode::Root), newest);
    }
    mount.set_mtime(Inode::Root, 7);
    assert_eq!(mount.stamp(Inode::Root), 7);
    mount.write(1);
    assert_eq!(mount.stamp(Inode::Root), 1004, "there is a newer block");
}

#[test]
fn p14_a_listing_waits_for_a_second_in_which_the_file_was_written() {
    let mount = mount(BLOCK, History::File, false, true);
    mount.list();
    assert_eq!((mount.clock.waits(), mount.clock.now()), (1, 1001));
    mount.list();
    assert_eq!(mount.clock.waits(), 1, "that second is over");
    mount.memory.poke(0, &[1]);
    assert_eq!(mount.stamp(inode(0)), 1001);
    mount.memory.poke(0, &[2]);
    assert_eq!(mount.stamp(inode(0)), 1002, "1001 was shown");
}

#[test]
fn p14_a_devices_stamp_is_that_of_the_listing_that_found_it_written() {
    let mount = mount(BLOCK, History::Device, false, true);
    mount.list();
    assert_eq!((mount.stamp(inode(0)), mount.clock.now()), (1000, 1001));
    mount.clock.turn(100);
    mount.list();
    assert_eq!(mount.stamp(inode(0)), 1000, "it was not written");
    mount.memory.poke(0, &[1]);
    assert_eq!(mount.stamp(inode(0)), 1000, "not before the next listing");
    mount.list();
    assert_eq!(mount.stamp(inode(0)), 1101);
}

#[test]
fn p14_a_device_without_statistics_gets_a_new_stamp_at_each_listing() {
    let mount = mount(BLOCK, History::Mute, false, true);
    for stamp in [1001, 1002, 1003] {
        mount.list();
        assert_eq!(mount.stamp(inode(0)), stamp);
    }
}

#[test]
fn p14_no_listing_waits_for_a_clock_that_was_set_back_far() {
    let mount = mount(BLOCK, History::Mute, false, true);
    mount.clock.turn(-500);
    mount.list();
    assert_eq!((mount.clock.waits(), mount.clock.now()), (0, 500));
    assert_eq!(mount.stamp(inode(0)), 1001, "and no stamp comes again");
}

#[test]
fn p25_a_backup_with_other_blocks_is_stopped_at_its_first_wrong_request() {
    let wrong = |mount: &Mount, by_write: bool| {
        let handle = mount.blocks.open(inode(0), true).unwrap();
        if by_write {
            // What fits is written short, as write(2) does; the rest is refused.
            let got = mount.blocks.write(handle, 0, &[1; BLOCK + 1]);
            assert_eq!(got, Ok(BLOCK));
            let got = mount.blocks.write(handle, BLOCK as u64, &[1]);
            assert_eq!(got, Err(Errno::EFBIG));
        } else {
            for (size, errno) in [(1, Errno::EPERM), (BLOCK as u64 + 1, Errno::EFBIG)] {
                let change = Change {
                    size: Some(size),
                    mode: Some(0o600),
                    ..Change::default()
                };
                assert_eq!(mount.blocks.change(inode(0), &change), Err(errno));
            }
            assert_eq!(mount.blocks.attr(inode(0)).unwrap().mode, 0o640);
        }
    };
    for by_write in [false, true] {
        let mount = mount(2 * BLOCK, History::File, true, true);
        let before = mount.blocks.open(inode(1), true).unwrap();
        wrong(&mount, by_write);
        let bytes = mount.memory.bytes();
        let after = mount.blocks.open(inode(1), true).unwrap();
        for handle in [before, after] {
            assert_eq!(mount.blocks.write(handle, 0, &[1]), Err(Errno::EPERM));
            for what in [Allocate::Zero, Allocate::Reserve] {
                let got = mount.blocks.allocate(handle, what, false, 0, 1);
                assert_eq!(got, Err(Errno::EPERM));
            }
        }
        let length = |size| Change {
            size: Some(size),
            ..Change::default()
        };
        let got = mount.blocks.change(inode(1), &length(0));
        assert_eq!(got, Err(Errno::EPERM));
        let own = BLOCK as u64;
        assert!(mount.blocks.change(inode(1), &length(own)).is_ok());
        assert!(mount.memory.holds(&bytes));
        let mut out = [0];
        assert_eq!(mount.blocks.read(after, 0, &mut out, false), Ok(1));
    }
    for by_write in [false, true] {
        let mount = mount(2 * BLOCK, History::File, true, false);
        wrong(&mount, by_write);
        mount.write(1);
    }
}

#[test]
fn p25_a_writer_that_found_no_room_among_the_open_files_does_not_count() {
    let mount = mount(BLOCK, History::File, true, true);
    let mut opened = Vec::new();
    let full = loop {
        match mount.blocks.open(inode(0), true) {
            Ok(handle) => opened.push(handle),
            Err(e) => break e,
        }
    };
    assert_eq!(full, Errno::ENFILE);
    for handle in opened {
        mount.blocks.release(handle);
    }
    let empty = Change {
        size: Some(0),
        ..Change::default()
    };
    let handle = mount.blocks.open(inode(0), true).unwrap();
    mount.blocks.change(inode(0), &empty).unwrap();
    assert_eq!(
        mount.blocks.write(handle, 0, &[1; BLOCK / 2]),
        Ok(BLOCK / 2)
    );
    mount.blocks.release(handle);
    let handle = mount.blocks.open(inode(0), true).unwrap();
    assert_eq!(
        mount.blocks.write(handle, 0, &[1]),
        Err(Errno::EPERM),
        "the file ended in the middle of its block"
    );
}
