//! Index files that an earlier build has made are still read, with the same stamps: those of tests/data/index, of which
//! `tests/documents/index_format.rs` tells how they were made.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::clock::testing::TestClock;
use crate::geometry::BlockIndex;
use crate::image::Image;
use crate::image::faulty::Memory;
use crate::index::file::{Loaded, Noted, Store};
use crate::index::record::{HASHED, SETTLED};
use crate::index::{Index, Purpose, Report, Request};
use crate::scan::Tally;
use crate::stamp::STAMPED;

const CLOSED: [i64; 4] = [1_795_903_132, 1_795_903_132, 981_173_106, 1_795_903_134];
const UNSETTLED: [i64; 4] = [1_795_903_140, 1_795_903_140, 1_795_903_140, 1_795_903_142];
const OPEN: [i64; 4] = [1_795_903_152, 1_795_903_140, 1_795_903_140, 1_795_903_142];

/// The image that all of them are of.
fn content() -> Vec<u8> {
    let blocks = [(b'a', 4096), (0, 4096), (b'c', 4096), (b'd', 100)];
    blocks
        .iter()
        .flat_map(|(byte, len)| vec![*byte; *len])
        .collect()
}

fn path(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/index");
    data.join(name)
}

fn stored(name: &str) -> (Header, Vec<Record>) {
    let bytes = std::fs::read(path(name)).unwrap();
    let mut records = Vec::new();
    let header = read(&mut Cursor::new(bytes), |number, record| {
        assert_eq!(number, records.len());
        records.push(record);
    });
    (header.unwrap().unwrap(), records)
}

/// A stored index in its place, as if nobody had moved it.
#[derive(Debug)]
struct InPlace(Vec<u8>, FilePlace);

impl InPlace {
    fn new(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).unwrap();
        Self(bytes, stored(name).0.place)
    }
}

impl Store for InPlace {
    fn load(&self) -> io::Result<Option<Loaded>> {
        Ok(Some(Loaded {
            input: Box::new(Cursor::new(self.0.clone())),
            place: self.1,
        }))
    }

    fn save(
        &self,
        body: &mut dyn FnMut(&mut dyn io::Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        body(&mut io::sink())?;
        end(self.1).map(|_| ())
    }

    fn ending(&self) {}

    fn note(&self, _: Noted) -> io::Result<()> {
        Ok(())
    }

    fn noted(&self) -> Option<Noted> {
        None
    }
}

/// Has an index of the image used, and gives what each block shows, and what the scan found.
fn shown(path: &Path, store: Option<InPlace>) -> (Vec<i64>, Report) {
    let image: Arc<dyn Image> = Arc::new(Memory::new(content()));
    let tally = Tally::default();
    // It was set back: what is later is so because of what was stored.
    let clock = Arc::new(TestClock::new(1_795_900_000));
    let request = Request {
        purpose: Purpose::Run {
            refuse_shrunk: true,
            strict: true,
        },
        ..Request::of_a_test(image, path, &tally, clock)
    };
    let index = match store {
        Some(store) => Index::open_store(&request, Box::new(store)),
        None => Index::open(&request),
    };
    let index = index.unwrap();
    let blocks = (0..4).filter_map(BlockIndex::new);
    let stamps = blocks.map(|block| index.report_stamp(block)).collect();
    (stamps, index.report())
}

#[test]
fn p21_stored_indexes_are_read() {
    for (name, stamps, open, ceiling, state) in [
        (
            "closed.index",
            CLOSED,
            false,
            1_795_903_142,
            Some("night-1"),
        ),
        ("unsettled.index", UNSETTLED, false, 1_795_903_148, None),
        ("open.index", OPEN, true, 1_795_903_753, None),
    ] {
        let (header, records) = stored(name);
        assert_eq!((header.block_size, header.image_size), (4096, 12388));
        assert_eq!(header.source, "/srv/example/disk.img");
        assert_eq!((header.open, header.ceiling), (open, ceiling), "{name}");
        let state = state.map(|name| ImageState::Named(name.to_owned()));
        assert_eq!((header.state, header.vouched), (state, false), "{name}");
        assert!(header.floor <= header.ceiling && header.place.lock.is_some());
        assert!(matches!(header.fingerprint, Fingerprint::File(_)));
        let found: Vec<_> = records.iter().map(|record| record.stamp.second()).collect();
        assert_eq!(found, stamps, "{name}");
        for (number, (record, block)) in records.iter().zip(content().chunks(4096)).enumerate() {
            assert_eq!(record.digest, *blake3::hash(block).as_bytes());
            assert!(record.has(HASHED | STAMPED));
            let settled = name != "unsettled.index" || number != 0;
            assert_eq!(record.has(SETTLED), settled, "{name}, block {number}");
            let latest = if name == "closed.index" && number == 2 {
                CLOSED[0]
            } else {
                stamps[number]
            };
            assert_eq!(record.stamp.latest(), latest, "{name}, block {number}");
        }
    }
}

#[test]
fn p21_stored_indexes_give_the_same_stamps() {
    let (stamps, report) = shown(Path::new("index"), Some(InPlace::new("closed.index")));
    assert_eq!((stamps.as_slice(), report.unchanged), (&CLOSED[..], 4));
    let (stamps, report) = shown(Path::new("index"), Some(InPlace::new("unsettled.index")));
    assert_eq!(stamps[1..], UNSETTLED[1..]);
    assert!(stamps[0] > 1_795_903_148, "{stamps:?}");
    assert_eq!((report.unchanged, report.unsettled), (3, 1));
}

#[test]
fn p21_a_stored_index_that_was_open_or_copied_gives_new_stamps_above_its_ceiling() {
    let (stamps, report) = shown(Path::new("index"), Some(InPlace::new("open.index")));
    assert!(
        stamps.iter().all(|stamp| *stamp > 1_795_903_753),
        "{stamps:?}"
    );
    assert_eq!(report.unsettled, 4);
    for (name, ceiling) in [("closed", 1_795_903_142), ("open", 1_795_903_753)] {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("index");
        std::fs::copy(path(&format!("{name}.index")), &copy).unwrap();
        let lock = directory.path().join("index.lock");
        std::fs::copy(path(&format!("{name}.index.lock")), &lock).unwrap();
        let (stamps, report) = shown(&copy, None);
        assert!(stamps.iter().all(|stamp| *stamp > ceiling), "{stamps:?}");
        assert_eq!(report.unsettled, 4);
        // The lock file alone, as if the index were lost.
        std::fs::remove_file(&copy).unwrap();
        std::fs::copy(path(&format!("{name}.index.lock")), &lock).unwrap();
        let (stamps, report) = shown(&copy, None);
        assert!(stamps.iter().all(|stamp| *stamp > ceiling), "{stamps:?}");
        assert_eq!(report.new, 4);
    }
}
