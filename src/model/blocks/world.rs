//! A block directory and its model, taken through the same requests.

use std::sync::Arc;

use super::expect::{Model, Setup};
use super::{BytePlace, Length, Op, Time, Wish};
use crate::blocks::{Blocks, Summary};
use crate::clock::{Clock, testing::TestClock};
use crate::config::{OwnerConfig, VolumeConfig};
use crate::geometry::{BlockIndex, BlockSize};
use crate::image::faulty::{Memory, pattern};
use crate::volume::inode::{Inode, block_name};
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Change, Errno, Handle, Result, Seek, SetTime, Volume};

/// A handle as a client and the model know it. `block` is `None` for the root.
#[derive(Debug, Clone, Copy)]
struct Client {
    handle: Handle,
    block: Option<usize>,
    writable: bool,
    wrote: bool,
    /// Sync failures that it was told of.
    told: usize,
    open: bool,
}

/// Both sides.
#[derive(Debug)]
pub(super) struct World {
    pub(super) blocks: Blocks,
    pub(super) memory: Arc<Memory>,
    clock: Arc<TestClock>,
    model: Model,
    clients: Vec<Client>,
    sync_failures: usize,
}

/// Settings of a mount with blocks of so many bytes.
pub(super) fn config(block: usize, writable: bool, latch: bool) -> VolumeConfig {
    VolumeConfig {
        block_size: BlockSize::from_bytes(block as u64).unwrap(),
        writable,
        force: false,
        latch,
        salvage: false,
        staging: 64 * block as u64,
        sparse: false,
        resize: false,
        snapshot: None,
        detect_zeros: false,
        owner: OwnerConfig::default(),
    }
}

/// A block directory without an index.
pub(super) fn directory(
    memory: &Arc<Memory>,
    config: VolumeConfig,
    clock: &Arc<TestClock>,
) -> Blocks {
    let image = Arc::new(Arc::clone(memory));
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Blocks::new(image, config, clock, None, None).unwrap()
}

/// The inode of a block.
pub(super) fn inode(block: usize) -> Inode {
    Inode::Block(BlockIndex::new(block as u64).unwrap())
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let bytes = pattern(setup.size);
        let clock = Arc::new(TestClock::new(100_000));
        let memory = Memory::with(
            bytes.clone(),
            setup.history,
            setup.direct,
            Arc::clone(&clock),
        );
        memory.faults(|faults| {
            faults.longest_read = Some(1500);
            faults.longest_write = Some(1300);
        });
        let blocks = directory(
            &memory,
            config(setup.block, setup.writable, setup.latch),
            &clock,
        );
        let mut world = Self {
            model: Model::new(setup, bytes, clock.now()),
            blocks,
            memory,
            clock,
            clients: Vec::new(),
            sync_failures: 0,
        };
        world.apply(Op::List {
            position: 0,
            room: 0,
            later: true,
        });
        world.apply(Op::Open {
            block: 1,
            write: setup.writable,
        });
        world
    }

    /// One request, and a look at the whole image.
    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Open { block, write } => self.open(block, write),
            Op::Release { handle } => self.release(handle),
            Op::Read {
                handle,
                place,
                len,
                whole,
            } => {
                if let Some((client, offset)) = self.target(handle, place) {
                    self.read(client, offset, usize::from(len), whole);
                }
            }
            Op::Stream { handle, len } => self.stream(handle, usize::from(len)),
            Op::Write {
                handle,
                place,
                len,
                fill,
            } => self.write(handle, place, usize::from(len), fill),
            Op::Allocate {
                handle,
                place,
                len,
                zero,
                keep_size,
            } => {
                let len = usize::from(len);
                self.allocate(handle, place, len, zero, keep_size);
            }
            Op::Seek {
                handle,
                place,
                hole,
            } => self.seek(handle, place, hole),
            Op::Change {
                block,
                length,
                wish,
            } => self.change(block, length, wish),
            Op::Attr { block } => self.attr(block),
            Op::Names { block } => self.names(block),
            Op::List {
                position,
                room,
                later,
            } => self.list(u64::from(position), usize::from(room), later),
            Op::Sync { handle, fails } => self.sync(handle, fails),
            Op::Flush { handle } => self.flush(handle),
            Op::Turn { by } => {
                self.clock.turn(i64::from(by));
                if by < 0 {
                    self.model.followed.turned_back();
                }
            }
            Op::Poke { .. } | Op::Punch { .. } | Op::Grow { .. } | Op::Cut { .. } => {
                self.by_others(op);
            }
        }
        assert!(
            self.memory.holds(&self.model.bytes),
            "the image is not what the model says"
        );
    }

    /// The end of the mount.
    pub(super) fn end(mut self) {
        for client in 0..self.clients.len() {
            self.release(u8::try_from(client % 256).unwrap());
        }
        let blocks = self.model.blocks();
        let untouched = blocks - self.model.touched();
        let model = &self.model;
        let unfinished = model.lengths.unfinished(|block| model.len(block));
        let expected = model.latched || model.setup.latch && unfinished;
        let Summary {
            blocks: listed,
            latched,
            untouched: left,
            report,
            unreadable,
            ..
        } = self.blocks.close().unwrap();
        let unreadable = unreadable.map(|(count, first)| (count, first.as_usize()));
        assert_eq!(unreadable, self.model.unreadable());
        assert_eq!(listed, blocks as u64);
        assert_eq!(left, self.model.setup.writable.then_some(untouched as u64));
        assert_eq!(report, None);
        assert_eq!(latched, expected);
        assert!(self.memory.holds(&self.model.bytes));
    }

    /// A file: the root, a block, one block too many, or something that is not one.
    fn pick(&self, number: u8) -> Inode {
        match usize::from(number) % (self.model.blocks() + 3) {
            0 => Inode::Root,
            n if n == self.model.blocks() + 2 => Inode::Other(0),
            n => inode(n - 1),
        }
    }

    fn client(&self, number: u8) -> Option<usize> {
        (!self.clients.is_empty()).then(|| usize::from(number) % self.clients.len())
    }

    /// A handle and an offset in its block.
    fn target(&self, number: u8, place: BytePlace) -> Option<(usize, u64)> {
        let client = self.client(number)?;
        let len = self.clients[client]
            .block
            .map_or(1, |block| self.model.len(block)) as u64;
        let offset = match place {
            BytePlace::In(at) => u64::from(at) % len,
            BytePlace::BeforeEnd(by) => len.saturating_sub(u64::from(by)),
            BytePlace::Past(by) => len.saturating_add(by),
        };
        Some((client, offset))
    }

    /// The block of an open file, or why it is none.
    fn file(&self, client: usize) -> Result<usize> {
        let client = self.clients[client];
        if !client.open {
            return Err(Errno::EBADF);
        }
        client.block.ok_or(Errno::EISDIR)
    }

    fn writer(&mut self, client: usize) -> Result<usize> {
        let block = self.file(client)?;
        if !self.clients[client].writable {
            return Err(Errno::EBADF);
        }
        if self.model.latched {
            return Err(Errno::EPERM);
        }
        self.clients[client].wrote = true;
        Ok(block)
    }

    /// Bytes `from..to` of the image as a request for them at `offset` of a block means it.
    fn clip(&self, block: usize, offset: u64, len: usize) -> (usize, usize) {
        let (start, end) = self.model.span(block);
        let from = usize::try_from(offset).map_or(end, |offset| end.min(start + offset.min(end)));
        (from, end.min(from + len))
    }

    fn open(&mut self, number: u8, write: bool) {
        let inode = self.pick(number);
        let expected = match inode {
            Inode::Root => Err(Errno::EISDIR),
            _ if !self.model.has(inode) => Err(Errno::ENOENT),
            _ if write && !self.model.setup.writable => Err(Errno::EROFS),
            Inode::Block(block) if !write && !self.model.can_open(block.as_usize()) => {
                Err(Errno::EIO)
            }
            _ => Ok(()),
        };
        let opened = self.blocks.open(inode, write);
        assert_eq!(opened.map(|_| ()), expected);
        if let (Ok(handle), Inode::Block(block)) = (opened, inode) {
            if write {
                self.model.lengths.opened(block.as_usize());
            }
            self.clients.push(Client {
                handle,
                block: Some(block.as_usize()),
                writable: write,
                wrote: false,
                told: self.sync_failures,
                open: true,
            });
        }
    }

    fn release(&mut self, number: u8) {
        if let Some(client) = self.client(number) {
            self.blocks.release(self.clients[client].handle);
            let Client {
                block,
                writable,
                open,
                ..
            } = self.clients[client];
            if let Some(block) = block.filter(|_| writable && open) {
                let len = self.model.len(block);
                let latch = self.model.lengths.closed(block, len);
                self.model.latched |= latch && self.model.setup.latch;
            }
            self.clients[client].open = false;
        }
    }

    fn read(&mut self, client: usize, offset: u64, len: usize, whole: bool) {
        let mut out = vec![0xA5; len];
        let got = self
            .blocks
            .read(self.clients[client].handle, offset, &mut out, whole);
        let block = match self.file(client) {
            Ok(block) => block,
            Err(e) => return assert_eq!(got, Err(e)),
        };
        let (from, to) = self.clip(block, offset, len);
        if from < to {
            self.model.read(block);
        }
        let there = to.min(self.model.bytes.len()).max(from);
        if there < to {
            self.model.cannot_read(block);
        }
        if there < to && (whole || there == from) {
            return assert_eq!(got, Err(Errno::EIO), "cut off, not zeros");
        }
        assert_eq!(got, Ok(there - from));
        assert!(
            from == there || out[..there - from] == self.model.bytes[from..there],
            "other bytes are read than the image holds"
        );
    }

    fn stream(&mut self, number: u8, len: usize) {
        let Some((client, mut offset)) = self.target(number, BytePlace::In(0)) else {
            return;
        };
        for _ in 0..8 {
            self.read(client, offset, len, false);
            offset += len as u64;
        }
    }

    fn write(&mut self, number: u8, place: BytePlace, len: usize, fill: u8) {
        let Some((client, offset)) = self.target(number, place) else {
            return;
        };
        let data: Vec<u8> = (fill..=255).cycle().take(len).collect();
        let handle = self.clients[client].handle;
        let got = self.blocks.write(handle, offset, &data);
        let block = match self.writer(client) {
            Ok(block) => block,
            Err(e) => return assert_eq!(got, Err(e)),
        };
        let (from, to) = self.clip(block, offset, len);
        if len == 0 {
            return assert_eq!(got, Ok(0));
        }
        if from == to {
            self.model.latched |= self.model.setup.latch;
            return assert_eq!(got, Err(Errno::EFBIG));
        }
        let done = self.model.put(from, &data[..to - from]);
        self.model.wrote(block, self.clock.now());
        if done.is_ok() {
            let end = to - self.model.span(block).0;
            self.model.lengths.wrote(block, end);
        }
        assert_eq!(got, done.map(|()| to - from));
    }

    fn allocate(&mut self, number: u8, place: BytePlace, len: usize, zero: bool, keep_size: bool) {
        let Some((client, offset)) = self.target(number, place) else {
            return;
        };
        let handle = self.clients[client].handle;
        let what = if zero {
            Allocate::Zero
        } else {
            Allocate::Reserve
        };
        let got = self
            .blocks
            .allocate(handle, what, keep_size, offset, len as u64);
        let block = match self.writer(client) {
            Ok(block) => block,
            Err(e) => return assert_eq!(got, Err(e)),
        };
        let (from, to) = self.clip(block, offset, len);
        if !zero {
            let end = usize::try_from(offset.saturating_add(len as u64)).unwrap();
            self.model.lengths.announced(block, end);
        }
        if to - from < len && !keep_size {
            return assert_eq!(got, Err(Errno::EFBIG));
        }
        if from == to {
            return assert_eq!(got, Ok(()));
        }
        if zero {
            let zeroed = self.model.put(from, &vec![0; to - from]);
            if zeroed.is_ok() {
                let end = to - self.model.span(block).0;
                self.model.lengths.wrote(block, end);
            }
            assert_eq!(got, zeroed);
            self.model.wrote(block, self.clock.now());
        } else {
            let inside = to <= self.model.bytes.len();
            assert_eq!(got, if inside { Ok(()) } else { Err(Errno::EIO) });
        }
    }
}

mod metadata;
