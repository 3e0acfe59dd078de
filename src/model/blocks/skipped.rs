//! What a restore has left as it was (promise P26).

use std::sync::Arc;

use super::world::{config, directory, inode};
use crate::blocks::{Blocks, Listing, Skipped};
use crate::clock::Clock;
use crate::clock::testing::TestClock;
use crate::config::VolumeConfig;
use crate::geometry::{BlockIndex, Geometry, Span};
use crate::image::faulty::{History, Memory, pattern};
use crate::scan::Tally;
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Change, SetTime, Volume};

const BLOCK: usize = 4096;
/// Five blocks and a short one.
const SIZE: usize = 5 * BLOCK + 1000;

fn image(clock: &Arc<TestClock>) -> Arc<Memory> {
    Memory::with(pattern(SIZE), History::File, false, Arc::clone(clock))
}

fn mount(writable: bool) -> (Arc<Memory>, Blocks) {
    let clock = Arc::new(TestClock::new(1000));
    let memory = image(&clock);
    let blocks = directory(&memory, config(BLOCK, writable, true), &clock);
    (memory, blocks)
}

fn write(blocks: &Blocks, block: usize) {
    let handle = blocks.open(inode(block), true).unwrap();
    assert_eq!(blocks.write(handle, 0, &[1, 2, 3]), Ok(3));
    blocks.release(handle);
}

fn set_time(blocks: &Blocks, block: usize) {
    let change = Change {
        mtime: Some(SetTime::At(500)),
        ..Change::default()
    };
    blocks.change(inode(block), &change).unwrap();
}

/// How many were left of how many, and the first.
fn left(blocks: &Blocks) -> Option<(u64, u64, u64)> {
    let skipped = blocks.close().unwrap().skipped;
    skipped.map(
        |Skipped {
             count,
             of,
             first,
             restore,
         }| {
            assert!(restore);
            (count, of, first.get())
        },
    )
}

#[test]
fn p26_a_restore_has_left_what_was_neither_written_nor_read() {
    let (_, blocks) = mount(true);
    write(&blocks, 0);
    // Compared, and found to be equal.
    blocks.release(blocks.open(inode(1), false).unwrap());
    set_time(&blocks, 1);
    write(&blocks, 3);
    set_time(&blocks, 3);
    // Taken for equal.
    blocks.attr(inode(2)).unwrap();
    set_time(&blocks, 2);
    blocks.release(blocks.open(inode(4), true).unwrap());
    assert_eq!(left(&blocks), Some((3, 6, 2)));
    set_time(&blocks, 4);
    for block in [2, 4, 5] {
        write(&blocks, block);
    }
    assert_eq!(left(&blocks), None);
}

#[test]
fn p26_without_an_index_nothing_is_known_of_what_is_only_read() {
    let (_, blocks) = mount(false);
    assert_eq!(left(&blocks), None);
}

#[test]
fn p26_what_cannot_be_read_or_was_cut_off_was_not_skipped() {
    let (memory, blocks) = mount(true);
    memory.faults(|faults| faults.bad = vec![Span::new(100, 101)]);
    let handle = blocks.open(inode(0), false).unwrap();
    assert!(blocks.read(handle, 0, &mut [0; 200], true).is_err());
    blocks.release(handle);
    assert_eq!(left(&blocks), Some((5, 6, 1)));
    memory.cut(3 * BLOCK);
    assert_eq!(left(&blocks), Some((2, 6, 1)));
}

#[test]
fn p26_a_block_without_a_file_was_not_skipped() {
    let clock = Arc::new(TestClock::new(1000));
    let memory = image(&clock);
    memory.punch(BLOCK, 4 * BLOCK);
    let config = VolumeConfig {
        sparse: true,
        ..config(BLOCK, true, true)
    };
    let geometry = Geometry::new(SIZE as u64, config.block_size).unwrap();
    let image: Arc<dyn crate::image::Image> = Arc::new(Arc::clone(&memory));
    let listing = Listing::of(image.as_ref(), geometry, None, 1, &Tally::default()).unwrap();
    let clock = clock as Arc<dyn Clock>;
    let blocks = Blocks::new(image, config, clock, None, Some(listing)).unwrap();
    assert_eq!(left(&blocks), Some((3, 3, 0)));
    // What is removed has no file either.
    let name = crate::volume::inode::block_name(BlockIndex::new(4).unwrap());
    blocks.remove(Inode::Root, &name).unwrap();
    write(&blocks, 0);
    assert_eq!(left(&blocks), Some((1, 2, 5)));
}
