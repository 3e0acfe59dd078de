//! What a client sees when the image fails: at chosen places, and with the proof that the fault was met.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{config, directory, inode};
use crate::blocks::Blocks;
use crate::clock::testing::TestClock;
use crate::config::VolumeConfig;
use crate::geometry::{BlockIndex, Span};
use crate::image::faulty::{History, Memory, UNIT, pattern};
use crate::scan::Tally;
use crate::volume::inode::{Inode, block_name};
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Change, Create, Errno, Handle, Result, Seek, Volume};

const BLOCK: usize = 4096;
/// Three blocks and a short one.
const SIZE: usize = 3 * BLOCK + 1000;

fn mount(direct: bool) -> (Arc<Memory>, Blocks) {
    mount_with(direct, false)
}

fn mount_with(direct: bool, salvage: bool) -> (Arc<Memory>, Blocks) {
    let clock = Arc::new(TestClock::new(1000));
    let memory = Memory::with(pattern(SIZE), History::File, direct, Arc::clone(&clock));
    let config = VolumeConfig {
        salvage,
        ..config(BLOCK, true, true)
    };
    let blocks = directory(&memory, config, &clock);
    (memory, blocks)
}

fn span(block: usize) -> (usize, usize) {
    (block * BLOCK, SIZE.min((block + 1) * BLOCK))
}

/// Runs `work`, which must meet a fault exactly if `expected`.
fn meets<T>(memory: &Memory, expected: bool, work: impl FnOnce() -> T) -> T {
    let before = memory.met();
    let result = work();
    assert_eq!(memory.met() > before, expected, "whether the fault was met");
    result
}

/// The bytes that one read returns.
fn read(blocks: &Blocks, block: usize, at: usize, len: usize, whole: bool) -> Result<Vec<u8>> {
    let handle = blocks.open(inode(block), false)?;
    let mut out = vec![0xA5; len];
    let got = blocks.read(handle, at as u64, &mut out, whole);
    blocks.release(handle);
    got.map(|got| out[..got].to_vec())
}

#[test]
fn p5_bytes_before_a_bad_place_are_returned_and_then_eio() {
    let (memory, blocks) = mount_with(false, true);
    let bytes = pattern(SIZE);
    let places = [
        0,
        1,
        511,
        512,
        4095,
        4096,
        5000,
        8191,
        12_287,
        12_288,
        SIZE - 1,
    ];
    for bad in places {
        memory.faults(|faults| faults.bad = vec![Span::new(bad as u64, bad as u64 + 1)]);
        let sector = bad - bad % UNIT;
        for (block, at, len) in [
            (0, 0, BLOCK),
            (1, 0, BLOCK),
            (1, 100, 3000),
            (2, 0, 2 * BLOCK),
            (3, 0, BLOCK),
            (3, 999, 5),
        ] {
            let (start, end) = span(block);
            let (from, to) = (start + at, end.min(start + at + len));
            let hit = (from..to).contains(&bad);
            let got = meets(&memory, hit, || read(&blocks, block, at, len, false));
            let good = if hit { sector.max(from) } else { to };
            let expected = if good == from {
                Err(Errno::EIO)
            } else {
                Ok(bytes[from..good].to_vec())
            };
            assert!(got == expected, "byte {bad} is bad, block {block} at {at}");

            let got = meets(&memory, hit, || read(&blocks, block, at, len, true));
            let expected = if hit {
                Err(Errno::EIO)
            } else {
                Ok(bytes[from..to].to_vec())
            };
            assert!(got == expected, "byte {bad} is bad, all of block {block}");
        }
    }
    memory.faults(|faults| faults.bad.clear());
    assert!(read(&blocks, 0, 0, BLOCK, true).unwrap() == bytes[..BLOCK]);
}

#[test]
fn p5_a_reader_that_is_read_ahead_for_meets_the_bad_place_too() {
    for (bad, step) in [(3000, 128), (4000, 200), (600, 300), (0, 64)] {
        let (memory, blocks) = mount(true);
        let sector = bad - bad % UNIT as u64;
        memory.faults(|faults| faults.bad = vec![Span::new(sector, sector + UNIT as u64)]);
        let handle = blocks.open(inode(0), false).unwrap();
        let mut seen = Vec::new();
        let mut out = vec![0xA5; step];
        let end = meets(&memory, true, || {
            loop {
                match blocks.read(handle, seen.len() as u64, &mut out, false) {
                    Ok(0) => break Ok(()),
                    Ok(got) => seen.extend_from_slice(&out[..got]),
                    Err(e) => break Err(e),
                }
            }
        });
        assert_eq!(end, Err(Errno::EIO), "byte {bad} is bad");
        assert_eq!(seen.len() as u64, sector);
        assert!(seen == pattern(SIZE)[..seen.len()]);
    }
}

#[test]
fn p22_after_a_read_error_a_block_is_opened_only_if_all_of_it_can_be_read() {
    for direct in [false, true] {
        let (memory, blocks) = mount(direct);
        let bytes = pattern(SIZE);
        let open = |block| blocks.open(inode(block), false);
        // The last bytes of blocks 1 and 3.
        let last = |block: usize| Span::new(span(block).1 as u64 - 1, span(block).1 as u64);
        memory.faults(|faults| faults.bad = vec![last(1), last(3)]);
        let (first, good, last_block) = (open(1).unwrap(), open(0).unwrap(), open(3).unwrap());
        let mut out = vec![0xA5; BLOCK];
        assert_eq!(blocks.read(first, 0, &mut out, true), Err(Errno::EIO));
        let summary = || {
            let found = blocks.close().unwrap().unreadable;
            found.map(|(count, first)| (count, first.as_usize()))
        };
        assert_eq!(summary(), Some((1, 1)));
        // Known, and not tried again; not known, and tried.
        meets(&memory, false, || assert_eq!(open(1), Err(Errno::EIO)));
        meets(&memory, true, || assert_eq!(open(3), Err(Errno::EIO)));
        meets(&memory, false, || assert_eq!(open(3), Err(Errno::EIO)));
        assert_eq!(summary(), Some((2, 1)));
        // What is good, and what was open, goes on.
        assert_eq!(
            read(&blocks, 2, 0, BLOCK, true).unwrap(),
            bytes[2 * BLOCK..3 * BLOCK]
        );
        assert_eq!(blocks.read(good, 0, &mut out, true), Ok(BLOCK));
        assert_eq!(blocks.read(first, 0, &mut out[..512], true), Ok(512));
        assert_eq!(blocks.read(last_block, 0, &mut out[..400], true), Ok(400));

        // Written, it is tried again: as long as a part of it is bad, for nothing.
        let writer = blocks.open(inode(1), true).unwrap();
        assert_eq!(blocks.write(writer, 0, &[7; 100]), Ok(100));
        meets(&memory, true, || assert_eq!(open(1), Err(Errno::EIO)));
        memory.faults(|faults| faults.bad = vec![last(3)]);
        assert_eq!(open(1), Err(Errno::EIO));
        assert_eq!(blocks.write(writer, 0, &[8; BLOCK]), Ok(BLOCK));
        assert_eq!(read(&blocks, 1, 0, BLOCK, true), Ok(vec![8; BLOCK]));
        assert_eq!(summary(), Some((1, 3)));

        // So it is after SIGHUP.
        memory.faults(|faults| faults.bad.clear());
        assert_eq!(open(3), Err(Errno::EIO));
        blocks.look_again(&Tally::default()).unwrap();
        assert_eq!(
            read(&blocks, 3, 0, BLOCK, true).unwrap(),
            bytes[3 * BLOCK..]
        );
        assert_eq!(summary(), None);
    }
}

#[test]
fn p22_what_was_cut_off_is_not_opened_before_anybody_has_read_it() {
    let (memory, blocks) = mount(false);
    memory.cut(BLOCK + 1000);
    assert!(read(&blocks, 0, 0, BLOCK, true).unwrap() == pattern(BLOCK));
    for block in 1..4 {
        assert_eq!(blocks.open(inode(block), false), Err(Errno::EIO));
    }
    let writer = blocks.open(inode(1), true).unwrap();
    assert_eq!(blocks.write(writer, 0, &[1; 1000]), Ok(1000));
    assert_eq!(blocks.open(inode(1), false), Err(Errno::EIO), "still cut");
    let unreadable = blocks.close().unwrap().unreadable.unwrap();
    assert_eq!((unreadable.0, unreadable.1.as_usize()), (3, 1));
}

#[test]
fn p2_p5_p6_what_was_cut_off_is_listed_and_an_error_and_no_hole() {
    let cut = BLOCK + 1000;
    let (memory, blocks) = mount_with(false, true);
    memory.punch(0, SIZE);
    memory.cut(cut);
    let directory = blocks.open_directory(Inode::Root).unwrap();
    let mut listed = Vec::new();
    let sink = &mut |entry: &crate::volume::Listed<'_>| {
        listed.push((entry.entry.attr.size, entry.entry.attr.sectors));
        true
    };
    blocks.list(directory, 2, sink).unwrap();
    assert_eq!(
        listed,
        [(4096, 0), (4096, 8), (4096, 8), (1000, 2)],
        "all sizes stay; only what is all hole takes no space"
    );

    let mut first = read(&blocks, 1, 0, BLOCK, false).unwrap();
    assert_eq!(first, vec![0; 1000], "what is left can be read");
    for (block, at, whole) in [(1, 0, true), (1, 1000, false), (2, 0, false), (3, 0, false)] {
        let got = meets(&memory, true, || read(&blocks, block, at, BLOCK, whole));
        assert_eq!(got, Err(Errno::EIO), "block {block} at {at}");
    }

    for (block, offset, data, hole) in [
        (0, 0, Err(Errno::ENXIO), Ok(0)),
        (1, 0, Ok(1000), Ok(0)),
        (1, 2000, Ok(2000), Ok(4096)),
        (2, 0, Ok(0), Ok(4096)),
        (3, 7, Ok(7), Ok(1000)),
    ] {
        let handle = blocks.open(inode(block), false).unwrap();
        let found = [Seek::Data, Seek::Hole].map(|to| blocks.seek(handle, offset, to));
        assert_eq!(found, [data, hole], "block {block} from {offset}");
    }

    let handle = blocks.open(inode(1), true).unwrap();
    meets(&memory, true, || {
        assert_eq!(blocks.write(handle, 900, &[1; 200]), Err(Errno::EIO));
        for what in [Allocate::Zero, Allocate::Reserve] {
            assert_eq!(
                blocks.allocate(handle, what, false, 900, 200),
                Err(Errno::EIO)
            );
        }
        let empty = Change {
            size: Some(0),
            ..Change::default()
        };
        assert_eq!(blocks.change(inode(1), &empty), Err(Errno::EIO));
    });
    assert!(
        memory.holds(&vec![0; cut]),
        "nothing was written, nor grown"
    );
    assert_eq!(blocks.write(handle, 900, &[1; 100]), Ok(100));
    first[900..].fill(1);
    assert_eq!(read(&blocks, 1, 0, 1000, true), Ok(first));
}

#[test]
fn p7_a_write_that_fails_is_short_first_and_changes_nothing_else() {
    for errno in [libc::ENOSPC, libc::EIO] {
        for (block, at, len, bad) in [
            (0, 0, BLOCK, 0),
            (0, 0, BLOCK, 1),
            (0, 100, 3000, 2000),
            (1, 0, BLOCK, 2 * BLOCK - 1),
            (2, 50, 2 * BLOCK, 2 * BLOCK + 777),
            (3, 0, 1000, 3 * BLOCK + 999),
            (1, 0, 10, BLOCK + 5),
        ] {
            let (memory, blocks) = mount(false);
            memory.faults(|faults| {
                faults.unwritable = Some((bad as u64, errno));
                faults.longest_write = Some(700);
            });
            let mut model = pattern(SIZE);
            let (start, end) = span(block);
            let to = end.min(start + at + len);
            let handle = blocks.open(inode(block), true).unwrap();
            let mut from = start + at;
            let data = vec![0xEE; len];
            meets(&memory, true, || {
                if from < bad {
                    let got = blocks.write(handle, at as u64, &data);
                    assert_eq!(got, Ok(bad - from), "short up to byte {bad}");
                    model[from..bad].fill(0xEE);
                    from = bad;
                }
                let rest = (from - start) as u64;
                let got = blocks.write(handle, rest, &data[..to - from]);
                assert_eq!(got, Err(Errno::from_raw(errno)));
            });
            assert!(memory.holds(&model), "block {block}, byte {bad}");

            let zero = (start + at, to - start - at);
            meets(&memory, true, || {
                let got = blocks.allocate(handle, Allocate::Zero, false, at as u64, zero.1 as u64);
                assert_eq!(got, Err(Errno::from_raw(errno)));
            });
            model[zero.0..bad.max(zero.0)].fill(0);
            assert!(memory.holds(&model), "zeros before byte {bad} only");

            memory.faults(|faults| faults.unwritable = None);
            let rest = (from - start) as u64;
            let got = blocks.write(handle, rest, &data[..to - from]);
            assert_eq!(got, Ok(to - from), "no latch: it goes on when it can");
            model[from..to].fill(0xEE);
            assert!(memory.holds(&model));
        }
    }
}

#[test]
fn p14_a_block_whose_write_failed_has_a_new_stamp_since_part_may_have_arrived() {
    let (memory, blocks) = mount(false);
    memory.faults(|faults| faults.unwritable = Some((0, libc::EIO)));
    let handle = blocks.open(inode(0), true).unwrap();
    let before = blocks.attr(inode(0)).unwrap().stamp;
    let got = meets(&memory, true, || blocks.write(handle, 0, &[1; 10]));
    assert_eq!(got, Err(Errno::EIO));
    assert!(blocks.attr(inode(0)).unwrap().stamp >= before + 2);
}

#[test]
fn p9_every_handle_that_wrote_is_told_once_and_later_ones_are_not() {
    for data_only in [false, true] {
        let (memory, blocks) = mount(false);
        let open = |block| blocks.open(inode(block), true).unwrap();
        let (first, second, third, idle) = (open(0), open(0), open(2), open(1));
        for handle in [first, second, third] {
            assert_eq!(blocks.write(handle, 0, &[1]), Ok(1));
        }
        let reader = blocks.open(inode(0), false).unwrap();
        memory.faults(|faults| faults.failing_syncs = 1);
        let got = meets(&memory, true, || blocks.sync(first, data_only));
        assert_eq!(got, Err(Errno::EIO));
        let late = open(0);
        assert_eq!(blocks.write(late, 0, &[1]), Ok(1));

        for (handle, name) in [(second, "same block"), (third, "another block")] {
            assert_eq!(blocks.flush(handle), Err(Errno::EIO), "close, {name}");
            assert_eq!(blocks.sync(handle, data_only), Err(Errno::EIO), "{name}");
        }
        for handle in [first, second, third, late, idle, reader] {
            assert_eq!(blocks.flush(handle), Ok(()));
            assert_eq!(blocks.sync(handle, data_only), Ok(()), "told once");
        }
        memory.faults(|faults| faults.failing_syncs = 1);
        let got = meets(&memory, true, || blocks.sync(idle, data_only));
        assert_eq!(
            got,
            Err(Errno::EIO),
            "who asks is told, even without writes"
        );
        assert_eq!(blocks.sync(first, data_only), Err(Errno::EIO), "told anew");
    }
}

#[test]
fn p9_who_wrote_a_staged_file_is_told_after_it_became_a_block() {
    type Write = fn(&Blocks, Handle) -> Result<()>;
    let ways: [Write; 2] = [
        |blocks, handle| blocks.write(handle, 0, &[1; BLOCK]).map(drop),
        |blocks, handle| blocks.allocate(handle, Allocate::Zero, false, 0, BLOCK as u64),
    ];
    for way in ways {
        let (memory, blocks) = mount(false);
        let name = OsStr::new(".00000001.Ab12Cd");
        let create = Create {
            write: true,
            ..Create::default()
        };
        let (entry, writer) = blocks.create(Inode::Root, name, &create).unwrap();
        let idle = blocks.open(entry.attr.inode, true).unwrap();
        assert_eq!(way(&blocks, writer), Ok(()));
        blocks
            .rename(name, &block_name(BlockIndex::new(1).unwrap()), true)
            .unwrap();
        // Before either handle was used again.
        let other = blocks.open(inode(2), true).unwrap();
        memory.faults(|faults| faults.failing_syncs = 1);
        let got = meets(&memory, true, || blocks.sync(other, false));
        assert_eq!(got, Err(Errno::EIO));
        assert_eq!(blocks.flush(writer), Err(Errno::EIO), "close");
        assert_eq!(blocks.sync(writer, false), Err(Errno::EIO));
        for handle in [writer, idle] {
            assert_eq!(blocks.flush(handle), Ok(()));
            assert_eq!(blocks.sync(handle, false), Ok(()), "told once");
        }
    }
}

#[test]
fn p9_the_end_of_the_mount_reports_a_sync_that_fails() {
    let (memory, blocks) = mount(false);
    memory.faults(|faults| faults.failing_syncs = 1);
    let got = meets(&memory, true, || blocks.close());
    assert_eq!(got.unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(blocks.close().unwrap().untouched, Some(4));
}

#[test]
fn p7_signals_and_short_calls_are_no_errors() {
    let (memory, blocks) = mount(false);
    memory.faults(|faults| {
        faults.longest_read = Some(333);
        faults.longest_write = Some(77);
        faults.interrupts = 2;
    });
    let handle = blocks.open(inode(1), true).unwrap();
    let got = meets(&memory, true, || blocks.write(handle, 0, &[3; BLOCK]));
    assert_eq!(got, Ok(BLOCK));
    memory.faults(|faults| faults.interrupts = 2);
    let got = meets(&memory, true, || read(&blocks, 1, 0, BLOCK, true));
    assert!(got.unwrap() == vec![3; BLOCK]);
}
