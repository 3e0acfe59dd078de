//! A listing, and a scan that comes in between; and what a scan does not read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::clock::testing::TestClock;
use crate::geometry::BlockIndex;
use crate::image::Image;
use crate::image::faulty::{History, Memory, pattern};
use crate::index::partial::Reading;
use crate::index::record::{SETTLED, UNSERVED};
use crate::scan::Tally;

const BLOCK: usize = 4096;

/// Something else that happens while somebody waits for a second to end.
type Meantime = Box<dyn FnOnce() + Send>;

/// A clock on which something happens in the next wait.
struct BusyClock {
    clock: Arc<TestClock>,
    next: Mutex<Option<Meantime>>,
}

impl std::fmt::Debug for BusyClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.clock.fmt(f)
    }
}

impl Clock for BusyClock {
    fn now(&self) -> i64 {
        self.clock.now()
    }

    fn passed(&self) -> i64 {
        self.clock.passed()
    }

    fn wait_past(&self, second: i64, most: Duration) {
        let next = self.next.lock().unwrap().take();
        if let Some(next) = next {
            next();
        }
        self.clock.wait_past(second, most);
    }
}

/// A mounted device of three blocks whose statistics tell of every write.
fn with_index(work: impl FnOnce(&Arc<Memory>, &Arc<BusyClock>, &Request<'_>, Arc<Index>)) {
    let clock = Arc::new(TestClock::new(2_000_000_000));
    let memory = Memory::with(
        pattern(3 * BLOCK),
        History::Device,
        false,
        Arc::clone(&clock),
    );
    let clock = Arc::new(BusyClock {
        clock,
        next: Mutex::new(None),
    });
    let image: Arc<dyn Image> = Arc::new(Arc::clone(&memory));
    let directory = tempfile::tempdir().unwrap();
    let tally = Tally::default();
    let path = directory.path().join("index");
    let told = Arc::clone(&clock) as Arc<dyn Clock>;
    let request = Request::of_a_test(image, &path, &tally, told);
    let index = Arc::new(Index::open(&request).unwrap());
    work(&memory, &clock, &request, index);
}

fn shown(index: &Index) -> Vec<i64> {
    let block = |number| BlockIndex::new(number).unwrap();
    (0..3)
        .map(|number| index.report_stamp(block(number)))
        .collect()
}

#[test]
fn p24_a_listing_that_waits_while_a_scan_ends_looks_again() {
    with_index(|memory, clock, _, index| {
        let before = shown(&index);
        index.refresh();
        assert_eq!(shown(&index), before, "nothing was written");
        memory.poke(5, b"other");
        let scanning = Arc::clone(&index);
        let scan = move || scanning.rescan(&Tally::default()).unwrap();
        *clock.next.lock().unwrap() = Some(Box::new(scan));
        index.refresh();
        assert!(clock.next.lock().unwrap().is_none(), "the listing waited");
        let after = shown(&index);
        assert!(after[0] > before[0], "the scan has found the write");
        assert_eq!(after[1..], before[1..], "and nothing else");
        // The next one that finds news gives all a new stamp.
        memory.poke(5, b"again");
        index.refresh();
        let after = shown(&index);
        let newest = before.iter().max().unwrap();
        assert!(
            after
                .iter()
                .all(|stamp| stamp > newest && *stamp == after[0])
        );
    });
}

#[test]
fn p23_what_is_not_settled_gets_a_new_stamp_without_being_read() {
    with_index(|_, clock, request, index| {
        let before = shown(&index);
        for number in [0, 1] {
            let block = BlockIndex::new(number).unwrap();
            index.records.with(block, |record| record.clear(SETTLED));
        }
        let now = even(clock.now() + 100);
        index.look(request, now, &Reading::Nothing).unwrap();
        assert_eq!(shown(&index), [now, now + STEP, before[2]]);
        let report = index.report();
        assert_eq!((report.unsettled, report.unchanged), (2, 1));
        assert_eq!(report.bytes_read, 0);
        index.look(request, now + 50, &Reading::Nothing).unwrap();
        assert_eq!(shown(&index), [now, now + STEP, before[2]], "now it is");
    });
}

#[test]
fn p20_the_seconds_of_new_stamps_are_over_before_the_scan_that_a_recheck_leads_to() {
    for unreadable in [false, true] {
        with_index(|memory, clock, request, index| {
            shown(&index);
            let request = Request {
                recheck: Some(1),
                ..request.clone()
            };
            if unreadable {
                let bad = crate::geometry::Span::new(5, 6);
                memory.faults(|faults| faults.bad = vec![bad]);
            } else {
                memory.poke(5, b"below");
            }
            // What is written in the wait is read after it.
            let wait = {
                let memory = Arc::clone(memory);
                move || {
                    memory.faults(|faults| faults.bad.clear());
                    memory.poke(5, b"later");
                }
            };
            *clock.next.lock().unwrap() = Some(Box::new(wait));
            let now = even(clock.now() + 2);
            index.look(&request, now, &Reading::Nothing).unwrap();
            assert!(clock.now() > now + STEP, "{} in {}", now, clock.now());
            let found = index.record(BlockIndex::new(0).unwrap());
            let later = blake3::hash(&memory.bytes()[..BLOCK]);
            assert_eq!(
                (found.digest, found.stamp.second()),
                (*later.as_bytes(), now + STEP)
            );
        });
    }
}

/// What a mount with -w knows of block 0: whether it counts as not copied, and whether what is served is looked at.
fn of_a_writable(request: &Request<'_>, uses: fn(&Index, BlockIndex)) -> (bool, bool) {
    let block = BlockIndex::new(0).unwrap();
    let index = Index::open(request).unwrap();
    index.report_stamp(block);
    uses(&index, block);
    let watched = index.watches(block);
    index.close().unwrap();
    (index.record(block).has(UNSERVED), watched)
}

#[test]
fn p26_with_w_whoever_reads_has_all_of_it_but_in_a_first_pass() {
    for (uses, copied) in [
        ((|_, _| {}) as fn(&Index, BlockIndex), false),
        (|index, block| index.opened(block), true),
        // Through a handle that was opened for writing, too.
        (|index, block| index.read(block), true),
    ] {
        with_index(|memory, _, request, index| {
            index.close().unwrap();
            drop(index);
            memory.poke(5, b"other");
            let request = Request {
                writable: true,
                ..request.clone()
            };
            assert_eq!(of_a_writable(&request, uses), (!copied, false));
            // In a first pass that is looked at: nobody was served anything yet.
            std::fs::remove_file(request.path).unwrap();
            let request = Request {
                zeros: false,
                ..request
            };
            for _ in 0..2 {
                assert_eq!(of_a_writable(&request, uses), (true, true));
            }
        });
    }
}

#[test]
fn p29_nobody_is_accused_of_what_was_written_after_the_look_at_the_image() {
    with_index(|memory, _, _, index| {
        let told = Reading::Told {
            changes: crate::changes::Changes {
                ranges: [].into_iter().collect(),
                checks: 1,
            },
            before: index.geometry(),
        };
        let accused = |reading| index.word_that_was_broken(reading);
        assert!(accused(&told).is_some_and(|word| word.contains("list")));
        let nothing = "nothing shows that the image was written";
        assert_eq!(accused(&Reading::Nothing), Some(nothing));
        memory.poke(5, b"later");
        assert_eq!(accused(&Reading::Nothing), None);
        assert!(accused(&told).is_some(), "its list is of that time");
    });
}
