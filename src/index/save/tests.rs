//! While an index is being saved: who has to wait for that, and who does not.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::clock::testing::TestClock;
use crate::geometry::BlockIndex;
use crate::image::Image;
use crate::image::faulty::{Memory, pattern};
use crate::index::file::{Loaded, Noted, Store};
use crate::index::format::FilePlace;
use crate::index::{Index, Request};
use crate::scan::Tally;

const BLOCK: usize = 4096;
/// Far longer than what needs no disk takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk on which a save, in the middle of its records, says so and waits until it may go on.
#[derive(Debug)]
struct SlowDisk {
    reached: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

/// Writes as slowly.
struct SlowWriter<'a>(&'a SlowDisk);

impl Write for SlowWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The magic is not the records.
        if bytes.len() > 16 {
            let _ = self.0.reached.send(());
            let _ = self.0.go_on.lock().unwrap().recv();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store for SlowDisk {
    fn load(&self) -> io::Result<Option<Loaded>> {
        Ok(None)
    }

    fn save(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        body(&mut SlowWriter(self))?;
        let place = FilePlace {
            inode: 1,
            born: None,
            lock: None,
            finished: 0,
        };
        end(place).map(|_| ())
    }

    fn ending(&self) {}

    fn note(&self, _: Noted) -> io::Result<()> {
        Ok(())
    }

    fn noted(&self) -> Option<Noted> {
        None
    }
}

/// What others do meanwhile, in a thread, so that a lock that is held is a failure and no hang.
fn does_not_wait(what: &str, index: &Arc<Index>, act: impl FnOnce(&Index) + Send + 'static) {
    let (done, ended) = channel();
    let index = Arc::clone(index);
    thread::spawn(move || {
        act(&index);
        let _ = done.send(());
    });
    assert!(
        ended.recv_timeout(PATIENCE).is_ok(),
        "{what} waits for the disk"
    );
}

#[test]
fn nobody_waits_for_a_save_that_a_listing_needs() {
    let memory = Memory::new(pattern(3 * BLOCK));
    let image: Arc<dyn Image> = Arc::new(Arc::clone(&memory));
    let (reached, at_disk) = channel();
    let (go_on, may_go_on) = channel();
    let disk = SlowDisk {
        reached,
        go_on: Mutex::new(may_go_on),
    };
    let tally = Tally::default();
    let clock = Arc::new(TestClock::new(2_000_000_000));
    let told = Arc::clone(&clock) as Arc<dyn crate::clock::Clock>;
    let path = std::path::Path::new("index");
    let request = Request::of_a_test(image, path, &tally, told);
    go_on.send(()).unwrap();
    let index = Index::open_store(&request, Box::new(disk)).unwrap();
    at_disk.recv().unwrap();
    let index = Arc::new(index);
    let first = BlockIndex::new(0).unwrap();
    let before = index.report_stamp(first);
    // Written by somebody else, so long after that the ceiling must be raised.
    memory.poke(5, b"other");
    clock.turn(100_000);
    let listing = {
        let index = Arc::clone(&index);
        thread::spawn(move || index.refresh())
    };
    at_disk.recv_timeout(PATIENCE).expect("the listing saves");
    does_not_wait("a look at a block", &index, move |index| {
        assert_eq!(
            index.report_stamp(first),
            before,
            "the new stamp is not saved yet"
        );
    });
    does_not_wait("a look at the root", &index, |index| {
        index.newest();
    });
    does_not_wait("a read", &index, move |index| {
        index.read(first);
        index.served(first, None, index.epoch());
    });
    go_on.send(()).unwrap();
    listing.join().unwrap();
    assert!(index.report_stamp(first) > before);
}
