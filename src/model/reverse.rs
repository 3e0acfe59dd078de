//! Random requests to a block directory shown as an image, beside a plain vector of bytes and the older versions
//! that other directories have: after all of them everything must be as it should.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::clock::testing::TestClock;
use crate::reverse::Reverse;
use crate::reverse::tests::{BLOCK, config, content, directory, file, image_of};
use crate::volume::inode::Inode;
use crate::volume::{Allocate, Change, Errno, Handle, Seek, Volume};

/// A request, or what others do. Places are taken modulo the image's size, a bit past its end.
#[derive(Debug, Clone, Copy)]
enum Op {
    Read {
        at: u32,
        len: u16,
    },
    Write {
        at: u32,
        len: u16,
        fill: u8,
    },
    Allocate {
        at: u32,
        len: u16,
        zero: bool,
        keep_size: bool,
    },
    Seek {
        at: u32,
        hole: bool,
    },
    Truncate {
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
    prop_oneof![
        8 => (at(), len()).prop_map(|(at, len)| Op::Read { at, len }),
        12 => (at(), len(), prop_oneof![3 => any::<u8>(), 1 => Just(0)])
            .prop_map(|(at, len, fill)| Op::Write { at, len, fill }),
        5 => (at(), len(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(at, len, zero, keep_size)| Op::Allocate { at, len, zero, keep_size }),
        5 => (at(), any::<bool>()).prop_map(|(at, hole)| Op::Seek { at, hole }),
        1 => any::<u32>().prop_map(|to| Op::Truncate { to }),
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
    handle: Handle,
}

fn mount(place: &TempDir) -> Reverse {
    let clock = Arc::new(TestClock::new(1));
    Reverse::open_keeping(2, &config(place, true, true), clock).unwrap()
}

impl World {
    fn new(size: usize, missing: u16) -> Self {
        let (place, versions) = (directory(), directory());
        let mut image = content(size, 3);
        let last = size.div_ceil(BLOCK) - 1;
        for (index, part) in image.chunks_mut(BLOCK).enumerate() {
            if index > 0 && index < last && missing >> (index % 16) & 1 == 1 {
                part.fill(0);
            } else {
                fs::write(file(&place, index), part).unwrap();
            }
        }
        let reverse = mount(&place);
        let handle = image_of(&reverse, true);
        Self {
            place,
            versions,
            kept: Vec::new(),
            image,
            reverse: Some(reverse),
            handle,
        }
    }

    fn reverse(&self) -> &Reverse {
        self.reverse.as_ref().unwrap()
    }

    /// A place in the image, or up to 99 bytes past its end; and how much of a request there lies inside.
    fn range(&self, at: u32, len: u16) -> (usize, usize) {
        let at = at as usize % (self.image.len() + 100);
        (
            at,
            usize::from(len).min(self.image.len().saturating_sub(at)),
        )
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Read { at, len } => {
                let (at, inside) = self.range(at, len);
                let mut out = vec![0xEE; usize::from(len)];
                let got = self.reverse().read(self.handle, at as u64, &mut out, true);
                assert_eq!(got, Ok(inside));
                let end = (at + inside).min(self.image.len());
                assert!(out[..inside] == self.image[at.min(end)..end]);
            }
            Op::Write { at, len, fill } => {
                let (at, inside) = self.range(at, len);
                let mut data = content(usize::from(len), fill);
                if fill == 0 {
                    data.fill(0);
                }
                let wrote = self.reverse().write(self.handle, at as u64, &data);
                if inside == 0 && len > 0 {
                    assert_eq!(wrote, Err(Errno::EFBIG));
                } else {
                    assert_eq!(wrote, Ok(inside));
                    let at = at.min(self.image.len());
                    self.image[at..at + inside].copy_from_slice(&data[..inside]);
                }
            }
            Op::Allocate {
                at,
                len,
                zero,
                keep_size,
            } => {
                let (at, _) = self.range(at, len);
                let (end, size) = (at + usize::from(len), self.image.len());
                let what = if zero {
                    Allocate::Zero
                } else {
                    Allocate::Reserve
                };
                let done = self.reverse().allocate(
                    self.handle,
                    what,
                    keep_size,
                    at as u64,
                    u64::from(len),
                );
                if end > size && !keep_size {
                    assert_eq!(done, Err(Errno::EFBIG));
                } else {
                    assert_eq!(done, Ok(()));
                    if zero {
                        self.image[at.min(size)..end.min(size)].fill(0);
                    }
                }
            }
            Op::Seek { at, hole } => self.seek(at, hole),
            Op::Truncate { to } => {
                let (to, size) = (self.range(to, 0).0, self.image.len());
                let change = Change {
                    size: Some(to as u64),
                    ..Change::default()
                };
                let changed = self
                    .reverse()
                    .change(Inode::from_number(2).unwrap(), &change)
                    .map(|attr| attr.size);
                let expected = match to.cmp(&size) {
                    std::cmp::Ordering::Less => Err(Errno::EPERM),
                    std::cmp::Ordering::Equal => Ok(size as u64),
                    std::cmp::Ordering::Greater => Err(Errno::EFBIG),
                };
                assert_eq!(changed, expected);
            }
            Op::Sync => assert_eq!(self.reverse().sync(self.handle, false), Ok(())),
            Op::Link { block } => {
                let index = usize::from(block) % self.image.len().div_ceil(BLOCK);
                let name = format!("{}-{index}", self.kept.len());
                let other = self.versions.path().join(&name);
                if fs::hard_link(file(&self.place, index), &other).is_ok() {
                    self.kept.push((name, fs::read(&other).unwrap()));
                }
            }
            Op::Reopen => {
                self.reverse().release(self.handle);
                self.handle = image_of(self.reverse(), true);
            }
            Op::Remount => {
                self.reverse().close().unwrap();
                // The lock is to be free first.
                self.reverse = None;
                self.reverse = Some(mount(&self.place));
                self.handle = image_of(self.reverse(), true);
            }
        }
    }

    fn seek(&self, at: u32, hole: bool) {
        let (at, inside) = self.range(at, 1);
        let towards = if hole { Seek::Hole } else { Seek::Data };
        let found = self.reverse().seek(self.handle, at as u64, towards);
        if inside == 0 {
            assert_eq!(found, Err(Errno::ENXIO));
            return;
        }
        let found = found.map(|found| usize::try_from(found).unwrap());
        let next_byte = self.image[at..].iter().position(|byte| *byte != 0);
        match (hole, found) {
            (true, found) => {
                let found = found.unwrap();
                assert!(found >= at && found <= self.image.len());
                assert!(self.image.get(found).is_none_or(|byte| *byte == 0));
            }
            (false, Ok(found)) => {
                assert!(found >= at && found < self.image.len());
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
