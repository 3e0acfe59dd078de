//! Random requests to a block directory shown as an image and two partitions of it, beside a plain vector of bytes and
//! the older versions that other directories have: after all of them everything must be as it should.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::clock::testing::TestClock;
use crate::reverse::Reverse;
use crate::reverse::tests::{BLOCK, boot_record, config, content, directory, file, file_of};
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Change, Errno, Handle, Seek, Volume};

/// A sector, in bytes.
const SECTOR: usize = 512;
/// The image, and its partitions' numbers.
const FILES: [&str; 3] = ["image", "image1", "image4"];
/// Where the first partition ends and the other begins, in sectors, neither of them between two blocks.
const FIRST: Range<usize> = 3..12;
const SECOND: usize = 13;

/// A request, or what others do. Places are taken modulo the file's size, a bit past its end.
#[derive(Debug, Clone, Copy)]
enum Op {
    Read {
        file: usize,
        at: u32,
        len: u16,
    },
    Write {
        file: usize,
        at: u32,
        len: u16,
        fill: u8,
    },
    Allocate {
        file: usize,
        at: u32,
        len: u16,
        zero: bool,
        keep_size: bool,
    },
    Seek {
        file: usize,
        at: u32,
        hole: bool,
    },
    Truncate {
        file: usize,
        to: u32,
    },
    Sync,
    /// A hard link in the other directory, as the next version has it.
    Link {
        block: u8,
    },
    Reopen,
    Remount,
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![0_u16..100, 0_u16..20_000, Just(4096)];
    let at = || prop_oneof![any::<u32>(), (0_u32..20).prop_map(|block| block * 4096)];
    let file = || 0..FILES.len();
    prop_oneof![
        8 => (file(), at(), len()).prop_map(|(file, at, len)| Op::Read { file, at, len }),
        12 => (file(), at(), len(), prop_oneof![3 => any::<u8>(), 1 => Just(0)])
            .prop_map(|(file, at, len, fill)| Op::Write { file, at, len, fill }),
        5 => (file(), at(), len(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(file, at, len, zero, keep_size)| Op::Allocate { file, at, len, zero, keep_size }),
        5 => (file(), at(), any::<bool>()).prop_map(|(file, at, hole)| Op::Seek { file, at, hole }),
        1 => (file(), any::<u32>()).prop_map(|(file, to)| Op::Truncate { file, to }),
        1 => Just(Op::Sync),
        4 => any::<u8>().prop_map(|block| Op::Link { block }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Remount),
    ]
}

struct World {
    place: TempDir,
    versions: TempDir,
    /// What the other directory's files must hold.
    kept: Vec<(String, Vec<u8>)>,
    image: Vec<u8>,
    reverse: Option<Reverse>,
    handles: [Handle; 3],
}

/// Makes the image's first sector a table of the two partitions.
fn partition(image: &mut [u8]) {
    image[446..SECTOR].fill(0);
    let number = |sectors: usize| u32::try_from(sectors).unwrap();
    let second = number(image.len() / SECTOR - SECOND);
    let entries = [
        (0x83, number(FIRST.start), number(FIRST.len())),
        (0, 0, 0),
        (0, 0, 0),
        (0x83, number(SECOND), second),
    ];
    boot_record(image, 0, &entries);
}

fn mount(place: &TempDir) -> Reverse {
    let clock = Arc::new(TestClock::new(1));
    Reverse::open_keeping(2, &config(place, true, true), clock).unwrap()
}

impl World {
    fn new(size: usize, missing: u16) -> Self {
        let (place, versions) = (directory(), directory());
        let mut image = content(size, 3);
        partition(&mut image);
        let last = size.div_ceil(BLOCK) - 1;
        for (index, part) in image.chunks_mut(BLOCK).enumerate() {
            if index > 0 && index < last && missing >> (index % 16) & 1 == 1 {
                part.fill(0);
            } else {
                fs::write(file(&place, index), part).unwrap();
            }
        }
        let reverse = mount(&place);
        let handles = FILES.map(|name| file_of(&reverse, name, true));
        Self {
            place,
            versions,
            kept: Vec::new(),
            image,
            reverse: Some(reverse),
            handles,
        }
    }

    fn reverse(&self) -> &Reverse {
        self.reverse.as_ref().unwrap()
    }

    /// Where in the image a file lies.
    fn place(&self, file: usize) -> Range<usize> {
        let size = self.image.len();
        let places = [
            0..size,
            FIRST.start * SECTOR..FIRST.end * SECTOR,
            SECOND * SECTOR..size / SECTOR * SECTOR,
        ];
        places[file].clone()
    }

    /// A place in a file, or up to 99 bytes past its end; and the part of the image that a request there means.
    fn range(&self, file: usize, at: u32, len: u16) -> (usize, Range<usize>) {
        let place = self.place(file);
        let at = at as usize % (place.len() + 100);
        let start = (place.start + at).min(place.end);
        let end = (place.start + at + usize::from(len)).min(place.end);
        (at, start..end.max(start))
    }

    fn allocate(&mut self, file: usize, at: u32, len: u16, zero: bool, keep_size: bool) {
        let (at, inside) = self.range(file, at, len);
        let what = if zero {
            Allocate::Zero
        } else {
            Allocate::Reserve
        };
        let (handle, at) = (self.handles[file], at as u64);
        let len = u64::from(len);
        let done = self.reverse().allocate(handle, what, keep_size, at, len);
        if (inside.len() as u64) < len && !keep_size {
            assert_eq!(done, Err(Errno::EFBIG));
        } else {
            assert_eq!(done, Ok(()));
            if zero {
                self.image[inside].fill(0);
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Read { file, at, len } => {
                let (at, inside) = self.range(file, at, len);
                let mut out = vec![0xEE; usize::from(len)];
                let handle = self.handles[file];
                let got = self.reverse().read(handle, at as u64, &mut out, true);
                assert_eq!(got, Ok(inside.len()));
                assert!(out[..inside.len()] == self.image[inside]);
            }
            Op::Write {
                file,
                at,
                len,
                fill,
            } => {
                let (at, inside) = self.range(file, at, len);
                let mut data = content(usize::from(len), fill);
                if fill == 0 {
                    data.fill(0);
                }
                let wrote = self.reverse().write(self.handles[file], at as u64, &data);
                if inside.is_empty() && len > 0 {
                    assert_eq!(wrote, Err(Errno::EFBIG));
                } else {
                    assert_eq!(wrote, Ok(inside.len()));
                    data.truncate(inside.len());
                    self.image[inside].copy_from_slice(&data);
                }
            }
            Op::Allocate {
                file,
                at,
                len,
                zero,
                keep_size,
            } => self.allocate(file, at, len, zero, keep_size),
            Op::Seek { file, at, hole } => self.seek(file, at, hole),
            Op::Truncate { file, to } => {
                let (to, size) = (self.range(file, to, 0).0, self.place(file).len());
                let change = Change {
                    size: Some(to as u64),
                    ..Change::default()
                };
                let found = self
                    .reverse()
                    .lookup(Inode::Root, FILES[file].as_ref())
                    .unwrap();
                let changed = self
                    .reverse()
                    .change(found.attr.inode, &change)
                    .map(|attr| attr.size);
                let expected = match to.cmp(&size) {
                    std::cmp::Ordering::Less => Err(Errno::EPERM),
                    std::cmp::Ordering::Equal => Ok(size as u64),
                    std::cmp::Ordering::Greater => Err(Errno::EFBIG),
                };
                assert_eq!(changed, expected);
            }
            Op::Sync => assert_eq!(self.reverse().sync(self.handles[0], false), Ok(())),
            Op::Link { block } => {
                let index = usize::from(block) % self.image.len().div_ceil(BLOCK);
                let name = format!("{}-{index}", self.kept.len());
                let other = self.versions.path().join(&name);
                if fs::hard_link(file(&self.place, index), &other).is_ok() {
                    self.kept.push((name, fs::read(&other).unwrap()));
                }
            }
            Op::Reopen => {
                for handle in self.handles {
                    self.reverse().release(handle);
                }
                self.handles = FILES.map(|name| file_of(self.reverse(), name, true));
            }
            Op::Remount => {
                // Else it would not find the partitions again.
                partition(&mut self.image);
                let table = &self.image[..SECTOR];
                let wrote = self.reverse().write(self.handles[0], 0, table);
                assert_eq!(wrote, Ok(SECTOR));
                self.reverse().close().unwrap();
                // The lock is to be free first.
                self.reverse = None;
                self.reverse = Some(mount(&self.place));
                self.handles = FILES.map(|name| file_of(self.reverse(), name, true));
            }
        }
    }

    fn seek(&self, file: usize, at: u32, hole: bool) {
        let (at, inside) = self.range(file, at, 1);
        let place = self.place(file);
        let towards = if hole { Seek::Hole } else { Seek::Data };
        let found = self.reverse().seek(self.handles[file], at as u64, towards);
        if inside.is_empty() {
            assert_eq!(found, Err(Errno::ENXIO));
            return;
        }
        let found = found.map(|found| usize::try_from(found).unwrap());
        let content = &self.image[place];
        let next_byte = content[at..].iter().position(|byte| *byte != 0);
        match (hole, found) {
            (true, found) => {
                let found = found.unwrap();
                assert!(found >= at && found <= content.len());
                assert!(content.get(found).is_none_or(|byte| *byte == 0));
            }
            (false, Ok(found)) => {
                assert!(found >= at && found < content.len());
                assert!(
                    next_byte.is_none_or(|next| at + next >= found),
                    "data in a hole"
                );
            }
            (false, Err(e)) => assert_eq!((e, next_byte), (Errno::ENXIO, None)),
        }
    }

    /// What anybody finds in the two directories.
    fn check(mut self) {
        self.reverse().close().unwrap();
        self.reverse = None;
        for (name, content) in &self.kept {
            let now = fs::read(self.versions.path().join(name)).unwrap();
            assert!(now == *content, "version {name} has changed");
        }
        let mut files = 0;
        for (index, part) in self.image.chunks(BLOCK).enumerate() {
            match fs::read(file(&self.place, index)) {
                Ok(now) => {
                    files += 1;
                    assert!(now == part, "block {index}");
                }
                Err(_) => assert!(part.iter().all(|byte| *byte == 0), "block {index} is lost"),
            }
        }
        let names = fs::read_dir(self.place.path()).unwrap().count();
        assert_eq!(names, files, "no temporary file is left");
    }
}

proptest! {
    #![proptest_config(super::config(400, 5_000))]

    #[test]
    fn an_image_made_of_block_files_is_like_a_vector_of_bytes(
        size in 8193_usize..60_000,
        missing in any::<u16>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(size, missing);
        for op in ops {
            world.apply(op);
        }
        world.check();
    }
}
