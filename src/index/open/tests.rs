//! An index file that is damaged in every way there is: never believed, and always in the way of nobody.

use super::super::record::HASHED;
use super::*;
use crate::clock::Clock;
use crate::clock::testing::TestClock;
use crate::geometry::{BlockSize, Geometry};
use crate::image::Image;
use crate::image::faulty::{Memory, pattern};
use crate::index::format::{MAGIC, RECORD};
use crate::scan::Tally;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

mod told;

const BLOCK: usize = 4096;

/// An image, its index's file, and a clock.
#[derive(Debug)]
struct Fixture {
    directory: tempfile::TempDir,
    memory: Arc<Memory>,
    clock: Arc<TestClock>,
    tally: Tally,
    block_size: BlockSize,
}

impl Fixture {
    fn new(image: Vec<u8>) -> Self {
        // Memory, where there is some: each save is flushed three times.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self {
            directory: directory.unwrap(),
            memory: Memory::new(image),
            clock: Arc::new(TestClock::new(2_000_000_000)),
            tally: Tally::default(),
            block_size: BlockSize::MIN,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("index")
    }

    fn with<R>(&self, work: impl FnOnce(&Request<'_>) -> R) -> R {
        let image: Arc<dyn Image> = Arc::new(Arc::clone(&self.memory));
        let (path, clock) = (self.path(), Arc::clone(&self.clock) as Arc<dyn Clock>);
        work(&Request {
            geometry: Geometry::new(image.size().unwrap(), self.block_size).unwrap(),
            purpose: Purpose::Run {
                refuse_shrunk: false,
                strict: false,
            },
            threads: 2,
            ..Request::of_a_test(image, &path, &self.tally, clock)
        })
    }

    /// A mount from beginning to end: what each block shows.
    fn stamps(&self) -> Vec<i64> {
        let index = self.with(Index::open).unwrap();
        let blocks = index.geometry().blocks();
        let shown = (0..blocks).map(|number| index.report_stamp(BlockIndex::new(number).unwrap()));
        let shown = shown.collect();
        index.close().unwrap();
        shown
    }

    /// What the file is worth.
    fn worth(&self) -> Worth {
        let store = FileStore::open(&self.path(), None).unwrap();
        let records = PerBlock::new();
        let worth = self.with(|request| load(&store, request, &Fingerprint::Unknown, &records));
        if worth.header.is_none() {
            records.for_each(|record| assert_eq!(*record, Record::default()));
        }
        worth
    }

    /// Overwrites the file where it is.
    fn damage(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    fn assert_refused(&self, what: &str) {
        let worth = self.worth();
        assert!(worth.header.is_none(), "{what}: {worth:?}");
        let reason = worth.doubt.expect(what);
        assert!(!reason.contains('\n'), "{reason}");
    }

    fn assert_all_new(&self, before: &[i64], what: &str) -> Vec<i64> {
        let after = self.stamps();
        let newest = before.iter().max().unwrap();
        assert!(
            after.iter().all(|stamp| stamp > newest),
            "{what}: {after:?} after {before:?}"
        );
        after
    }
}

/// With a sum that is right.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}

fn saved() -> (Fixture, Vec<i64>, Vec<u8>) {
    let fixture = Fixture::new(pattern(2 * BLOCK + 700));
    let stamps = fixture.stamps();
    let bytes = fs::read(fixture.path()).unwrap();
    (fixture, stamps, bytes)
}

#[test]
fn p21_a_file_that_is_whole_is_believed() {
    let (fixture, stamps, bytes) = saved();
    assert!(fixture.worth().good().is_some());
    fixture.damage(&bytes);
    assert!(fixture.worth().good().is_some(), "the same bytes");
    fixture.clock.turn(1000);
    assert_eq!(fixture.stamps(), stamps);
}

#[test]
fn p21_cut_at_every_length() {
    let (fixture, mut stamps, bytes) = saved();
    for len in 0..bytes.len() {
        fixture.damage(&bytes[..len]);
        fixture.assert_refused(&format!("cut to {len} bytes"));
        if len % 97 == 0 || len == bytes.len() - 1 {
            stamps = fixture.assert_all_new(&stamps, &format!("cut to {len} bytes"));
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    fixture.damage(&longer);
    fixture.assert_refused("a byte more");
}

#[test]
fn p21_every_byte_flipped() {
    let (fixture, mut stamps, bytes) = saved();
    for at in 0..bytes.len() {
        let bits = if at < 24 || at % 16 == 0 {
            0..8
        } else {
            at % 8..at % 8 + 1
        };
        for bit in bits {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            fixture.damage(&flipped);
            fixture.assert_refused(&format!("bit {bit} of byte {at}"));
        }
        if at % 61 == 0 {
            stamps = fixture.assert_all_new(&stamps, &format!("byte {at}"));
        }
    }
}

#[test]
fn p21_a_right_sum_of_something_else() {
    let (fixture, stamps, bytes) = saved();
    let body = bytes[..bytes.len() - 32].to_vec();
    let json = MAGIC.len() + 3 * RECORD;
    let mut version = body.clone();
    version[14] = b'2';
    let mut long_header = body.clone();
    let end = body.len();
    long_header[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut record_less = body.clone();
    record_less.drain(json - RECORD..json);
    let mut odd = body.clone();
    odd.remove(json - 1);
    let mut nonsense = body.clone();
    nonsense[json] = b'[';
    let mut empty = MAGIC.to_vec();
    empty.extend_from_slice(&[0; 4]);
    for (what, body) in [
        ("another version", version),
        ("a header longer than the file", long_header),
        ("a record less", record_less),
        ("half a record", odd),
        ("no header", nonsense),
        ("nothing", empty),
        ("less than nothing", MAGIC.to_vec()),
    ] {
        fixture.damage(&seal(body));
        fixture.assert_refused(what);
    }
    fixture.assert_all_new(&stamps, "no header");
}

#[test]
fn p21_another_block_size_is_another_index() {
    let (mut fixture, stamps, _) = saved();
    fixture.block_size = BlockSize::from_bytes(8192).unwrap();
    fixture.assert_refused("blocks of 8192");
    fixture.assert_all_new(&stamps, "blocks of 8192");
}

#[test]
fn p21_indexes_swapped_between_images() {
    let (one, stamps, _) = saved();
    let two = Fixture::new(vec![7; 2 * BLOCK + 700]);
    let old = two.stamps();
    // Within two seconds of its end a file that was moved looks like one that was saved.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let aside = one.directory.path().join("aside");
    fs::rename(one.path(), &aside).unwrap();
    fs::rename(two.path(), one.path()).unwrap();
    fs::copy(&aside, two.path()).unwrap();
    for (fixture, stamps) in [(&one, &stamps), (&two, &old)] {
        let worth = fixture.worth();
        assert!(worth.header.is_some() && worth.doubt.is_some());
        fixture.assert_all_new(stamps, "another image's index");
    }
}

#[test]
fn p21_an_index_that_cannot_be_saved_counts_as_lost() {
    let fixture = Fixture::new(pattern(2 * BLOCK));
    let with = |path: &Path, purpose| {
        fixture.with(|request| {
            Index::open(&Request {
                path,
                purpose,
                ..request.clone()
            })
        })
    };
    let run = |strict| Purpose::Run {
        refuse_shrunk: false,
        strict,
    };
    let scan = Purpose::Scan {
        list: false,
        dry_run: false,
    };
    let mut shown = std::collections::HashSet::new();
    for path in ["missing/index", "loop"] {
        let path = fixture.directory.path().join(path);
        if path.ends_with("loop") {
            std::os::unix::fs::symlink(&path, &path).unwrap();
        }
        for purpose in [Purpose::Mount, run(false)] {
            let index = with(&path, purpose).unwrap();
            for number in 0..2 {
                let stamp = index.report_stamp(BlockIndex::new(number).unwrap());
                assert!(shown.insert((number, stamp)), "{stamp} again");
            }
            index.close().unwrap();
            // Others write within the same second.
            fixture.memory.poke(0, &[0; 9]);
        }
        for purpose in [run(true), scan] {
            let refused = with(&path, purpose);
            assert!(
                matches!(refused, Err(OpenError::Unsaved { far: false, .. })),
                "{}: {refused:?}",
                path.display()
            );
        }
    }
}

#[test]
fn p22_a_scan_that_is_interrupted_leaves_the_file_as_it_was() {
    let (fixture, stamps, bytes) = saved();
    fixture.memory.poke(0, &[0; 5000]);
    fixture.tally.cancel.store(true, Relaxed);
    let opened = fixture.with(Index::open);
    assert!(matches!(opened, Err(OpenError::Interrupted)), "{opened:?}");
    assert_eq!(fs::read(fixture.path()).unwrap(), bytes);
    fixture.tally.cancel.store(false, Relaxed);
    let after = fixture.stamps();
    assert!(after[0] > stamps[0] && after[1] > stamps[1] && after[2] == stamps[2]);
}

#[test]
fn p22_a_block_that_cannot_be_read_has_no_digest_and_a_new_stamp_only_to_salvage_it() {
    let (fixture, mut stamps, _) = saved();
    let bad = crate::geometry::Span::new(5000, 5001);
    fixture.memory.faults(|faults| faults.bad = vec![bad]);
    for salvage in [false, false, true, true, false] {
        let index = fixture.with(|request| {
            Index::open(&Request {
                salvage,
                ..request.clone()
            })
        });
        let index = index.unwrap();
        assert_eq!(index.report().unreadable, 1);
        let block = BlockIndex::new(1).unwrap();
        assert_eq!(index.unreadable(), Some((1, block)));
        let record = index.records.with(block, |record| *record);
        assert!(!record.stamp.has_any(HASHED | SETTLED));
        assert_eq!(record.stamp.second() > stamps[1], salvage);
        stamps[1] = record.stamp.second();
        index.close().unwrap();
    }
    fixture.memory.faults(|faults| faults.bad.clear());
    let after = fixture.stamps();
    assert!(after[1] > stamps[1], "it is new once more");
    assert_eq!((after[0], after[2]), (stamps[0], stamps[2]));
    assert_eq!(fixture.stamps(), after, "and then it stays");
}

#[test]
fn p22_a_killed_index_with_a_block_that_somebody_has_and_nobody_can_read_is_no_first_pass() {
    for has_it in [true, false] {
        let (fixture, _, _) = saved();
        let block = BlockIndex::new(1).unwrap();
        let open = |zeros| {
            let opened = fixture.with(|request| {
                Index::open(&Request {
                    zeros,
                    ..request.clone()
                })
            });
            opened.unwrap()
        };
        let index = open(true);
        if has_it {
            let digest = blake3::hash(&fixture.memory.bytes()[BLOCK..2 * BLOCK]);
            index.served(block, Some(*digest.as_bytes()), index.epoch());
        }
        let stamp = index.report_stamp(block);
        index.close().unwrap();
        drop(index);
        let bad = crate::geometry::Span::new(5000, 5001);
        fixture.memory.faults(|faults| faults.bad = vec![bad]);
        // The first of them ends in order, the second does not.
        open(true).close().unwrap();
        drop(open(true));
        fixture.memory.poke(0, &[7; 9]);
        let index = open(false);
        assert_eq!(index.report().first_pass.is_none(), has_it);
        assert_eq!(index.report_stamp(block) == stamp, has_it);
        assert_eq!(index.is_unreadable(block), has_it);
    }
}

#[test]
fn p20_an_extreme_time_leaves_room_for_later_ones() {
    let fixture = Fixture::new(pattern(BLOCK));
    let block = BlockIndex::new(0).unwrap();
    for extreme in [i64::MAX, i64::MIN, i64::MAX - 1] {
        let index = fixture.with(Index::open).unwrap();
        index.set(block, extreme);
        let shown = index.report_stamp(block);
        index.close().unwrap();
        drop(index);
        let other = fixture.memory.bytes()[0].wrapping_add(1);
        fixture.memory.poke(0, &[other]);
        let after = fixture.stamps();
        assert_ne!(after[0], shown, "{extreme}");
    }
}
