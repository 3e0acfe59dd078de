//! Requests about everything but content, and what others do to the image.

use std::ffi::{OsStr, OsString};

use super::{BytePlace, Change, Client, Errno, Inode, Length, Op, Seek, SetTime, Time, Wish};
use super::{Clock, Volume, World, block_name, inode};
use crate::image::faulty::UNIT;
use crate::volume::testing::Read as _;
use crate::volume::{Attr, Result};

impl World {
    pub(super) fn seek(&mut self, number: u8, place: BytePlace, hole: bool) {
        let Some((client, offset)) = self.target(number, place) else {
            return;
        };
        let towards = if hole { Seek::Hole } else { Seek::Data };
        let handle = self.clients[client].handle;
        let got = self.blocks.seek(handle, offset, towards);
        let block = match self.file(client) {
            Ok(block) => block,
            Err(e) => return assert_eq!(got, Err(e)),
        };
        let (start, end) = self.model.span(block);
        if offset >= (end - start) as u64 {
            return assert_eq!(got, Err(Errno::ENXIO));
        }
        let holes = self.memory.holes();
        // What was cut off is data: it has no unit that is a hole.
        let is_hole =
            |at: usize| holes.get(at / UNIT) == Some(&true) && at < self.model.bytes.len();
        let from = start + usize::try_from(offset).unwrap();
        let expected = match (from..end).find(|at| is_hole(*at) == hole) {
            Some(at) => Ok((at - start) as u64),
            None if hole => Ok((end - start) as u64),
            None => Err(Errno::ENXIO),
        };
        assert_eq!(got, expected, "{towards:?} from {offset}");
        for at in (from..end).take_while(|at| is_hole(*at)) {
            assert_eq!(self.model.bytes[at], 0, "data is called a hole");
        }
    }

    /// Checks an answer that shows a file.
    fn check(&mut self, got: Result<Attr>, inode: Inode) {
        if !self.model.has(inode) {
            return assert_eq!(got, Err(Errno::ENOENT));
        }
        let attr = got.unwrap();
        self.model.check(&attr, inode);
        let Inode::Block(block) = inode else {
            return;
        };
        let (start, end) = self.model.span(block.as_usize());
        let holes = self.memory.holes();
        let is_data = |unit: &usize| holes.get(*unit) != Some(&true);
        let units = start / UNIT..end.div_ceil(UNIT);
        let runs = units
            .clone()
            .filter(|unit| is_data(unit) && (*unit == start / UNIT || !is_data(&(unit - 1))))
            .count();
        // Promise P6: 0 only if all is hole, else exact or all.
        let exact = if self.model.bytes.len() < end || runs > 8 {
            units.count()
        } else {
            units.filter(is_data).count()
        };
        assert_eq!(attr.sectors, exact as u64, "st_blocks");
    }

    pub(super) fn attr(&mut self, number: u8) {
        let inode = self.pick(number);
        let got = self.blocks.attr(inode);
        self.check(got, inode);
    }

    pub(super) fn change(&mut self, number: u8, length: Option<Length>, wish: Wish) {
        let inode = self.pick(number);
        if !self.model.has(inode) {
            let got = self.blocks.change(inode, &Change::default());
            return assert_eq!(got, Err(Errno::ENOENT));
        }
        let shown = self.blocks.attr(inode).unwrap();
        self.check(Ok(shown), inode);
        let own = usize::try_from(shown.size).unwrap();
        let size = length.map(|length| match length {
            Length::Own => own,
            Length::Zero => 0,
            Length::Shorter => own / 2,
            Length::Longer => own + 1,
        });
        let now = self.clock.now();
        let time = |time, shown| match time {
            Time::Now => SetTime::Now,
            Time::From(by) => SetTime::At(now + i64::from(by)),
            Time::Shown => SetTime::At(shown),
            Time::Old(at) => SetTime::At(i64::from(at)),
        };
        let change = Change {
            mode: wish.mode.map(u32::from),
            uid: wish.uid.map(u32::from),
            gid: wish.gid.map(u32::from),
            size: size.map(|size| size as u64),
            atime: wish.atime.map(|at| time(at, shown.atime)),
            mtime: wish.mtime.map(|at| time(at, shown.stamp)),
        };
        let got = self.blocks.change(inode, &change);
        if !self.model.setup.writable {
            return assert_eq!(got, Err(Errno::EROFS));
        }
        if let Some(size) = size {
            let Inode::Block(block) = inode else {
                return assert_eq!(got, Err(Errno::EISDIR));
            };
            if let Err(e) = self.truncated(block.as_usize(), own, size) {
                return assert_eq!(got, Err(e));
            }
        }
        self.model.change(inode, &change, now);
        self.check(got, inode);
    }

    /// Promise P8.
    fn truncated(&mut self, block: usize, own: usize, size: usize) -> Result<()> {
        if size == own {
            self.model.lengths.cut(block, size);
            return Ok(());
        }
        if size == 0 {
            if self.model.latched {
                return Err(Errno::EPERM);
            }
            let (start, _) = self.model.span(block);
            let done = self.model.put(start, &vec![0; own]);
            self.model.wrote(block, self.clock.now());
            if done.is_ok() {
                self.model.lengths.cut(block, 0);
            }
            return done;
        }
        self.model.latched |= self.model.setup.latch;
        Err(if size > own {
            Errno::EFBIG
        } else {
            Errno::EPERM
        })
    }

    /// Looking up, creating, removing and renaming.
    pub(super) fn names(&mut self, number: u8) {
        let inode = self.pick(number);
        let name = match inode {
            Inode::Block(block) => block_name(block),
            _ => OsString::from(".00000000.Ab3dEf"),
        };
        let found = self.blocks.lookup(Inode::Root, &name).map(|entry| {
            assert!(entry.lasting);
            entry.attr
        });
        let is_block = matches!(inode, Inode::Block(_));
        self.check(found, if is_block { inode } else { Inode::Other(0) });
        let refused = if self.model.setup.writable {
            Errno::EPERM
        } else {
            Errno::EROFS
        };
        let there = is_block && self.model.has(inode);
        let expected = if there { refused } else { Errno::ENOENT };
        assert_eq!(self.blocks.remove(Inode::Root, &name), Err(expected));
        let other = OsStr::new("00000000");
        assert_eq!(self.blocks.rename(&name, other, true), Err(expected));
        let create = crate::volume::Create {
            mode: 0o600,
            write: true,
            ..Default::default()
        };
        let created = self.blocks.create(Inode::Root, &name, &create);
        if !there || !self.model.setup.writable {
            // A block past the end is refused as such, any other name as a mistyped block.
            let past_the_end = is_block && !there && self.model.setup.writable;
            let temporary = !is_block && self.model.blocks() > 0 && self.model.setup.writable;
            if let (true, Ok((entry, handle))) = (temporary, &created) {
                // Staged files have tests of their own; here it must only leave no trace.
                assert!(!entry.lasting);
                self.blocks.release(*handle);
                return assert_eq!(self.blocks.remove(Inode::Root, &name), Ok(()));
            }
            let expected = if past_the_end { Errno::EFBIG } else { refused };
            return assert_eq!(created.unwrap_err(), expected);
        }
        let (entry, handle) = created.unwrap();
        self.check(Ok(entry.attr), inode);
        let Inode::Block(block) = inode else {
            return;
        };
        self.model.lengths.opened(block.as_usize());
        self.clients.push(Client {
            handle,
            block: Some(block.as_usize()),
            writable: true,
            wrote: false,
            told: self.sync_failures,
            open: true,
        });
    }

    /// Lists in pieces of `room` entries, from `position` on. `later`: a second after the last time.
    pub(super) fn list(&mut self, position: u64, room: usize, later: bool) {
        if later {
            *self.blocks.size_read.lock().unwrap() = None;
            self.model.reread(self.clock.now());
        }
        self.model.followed.listed(self.clock.now());
        let handle = self.blocks.open_directory(Inode::Root).unwrap();
        let expected: Vec<(OsString, Inode)> = [".", ".."]
            .map(|dots| (OsString::from(dots), Inode::Root))
            .into_iter()
            .chain((0..self.model.blocks()).map(|block| {
                let name = OsString::from(format!("{block:08}"));
                (name, inode(block))
            }))
            .collect();
        let mut at = position;
        loop {
            let mut page = Vec::new();
            let mut refused = false;
            self.blocks
                .list(handle, at, &mut |listed| {
                    refused = page.len() > room;
                    if !refused {
                        page.push((listed.name.to_owned(), listed.entry.attr, listed.next));
                    }
                    !refused
                })
                .unwrap();
            for (name, attr, next) in page {
                let (expected_name, inode) = &expected[usize::try_from(at).unwrap()];
                assert_eq!(name, *expected_name);
                self.check(Ok(attr), *inode);
                at = next;
            }
            if !refused {
                break;
            }
        }
        assert_eq!(at, position.max(expected.len() as u64), "all are listed");
        self.list_handle(handle);
        self.space();
    }

    /// A directory is no file.
    fn list_handle(&mut self, handle: crate::volume::Handle) {
        let mut out = [0];
        let read = self.blocks.read(handle, 0, &mut out, false);
        assert_eq!(read, Err(Errno::EISDIR));
        self.blocks.release_directory(handle);
        let read = self.blocks.read(handle, 0, &mut out, false);
        assert_eq!(read, Err(Errno::EBADF));
    }

    fn space(&self) {
        let space = self.blocks.space();
        assert_eq!(space.bytes, self.model.known as u64);
        assert_eq!(space.files, self.model.blocks() as u64 + 1);
    }

    pub(super) fn sync(&mut self, number: u8, fails: bool) {
        let Some(client) = self.client(number) else {
            return;
        };
        let fails = fails && self.model.setup.writable && self.clients[client].open;
        if fails {
            self.memory.faults(|faults| faults.failing_syncs = 1);
            self.sync_failures += 1;
        }
        let got = self
            .blocks
            .sync(self.clients[client].handle, number % 2 == 0);
        let client = &mut self.clients[client];
        let untold = client.wrote && client.told < self.sync_failures;
        let expected = match client.open {
            false => Err(Errno::EBADF),
            true if fails || untold => Err(Errno::EIO),
            true => Ok(()),
        };
        assert_eq!(got, expected);
        if client.open {
            client.told = self.sync_failures;
        }
    }

    pub(super) fn flush(&mut self, number: u8) {
        let Some(client) = self.client(number) else {
            return;
        };
        let client = self.clients[client];
        let expected = match client.open {
            false => Err(Errno::EBADF),
            true if client.wrote && client.told < self.sync_failures => Err(Errno::EIO),
            true => Ok(()),
        };
        assert_eq!(self.blocks.flush(client.handle), expected);
    }

    /// Somebody else writes, grows or cuts the image.
    pub(super) fn by_others(&mut self, op: Op) {
        if self.model.setup.direct {
            return;
        }
        let size = self.model.bytes.len();
        let range = |place: u16, len: u16| {
            let start = usize::from(place) % (size + 1);
            (start, size.min(start + usize::from(len)))
        };
        match op {
            Op::Poke { place, len, fill } => {
                let (start, end) = range(place, len);
                self.memory.poke(start, &vec![fill; end - start]);
            }
            Op::Punch { place, len } => {
                let (start, end) = range(place, len);
                self.memory.punch(start, end);
            }
            Op::Grow { by } if size < 60_000 => self.memory.grow(&vec![9; usize::from(by)]),
            Op::Cut { to } => self.memory.cut(usize::from(to) % (size + 1)),
            _ => return,
        }
        self.model.bytes = self.memory.bytes();
        self.model.followed.written(self.clock.now());
    }
}
