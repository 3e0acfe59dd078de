//! A block directory and its model, taken through the same requests.

use std::ffi::OsString;
use std::sync::Arc;

use super::super::lengths::Files;
use super::super::world::config;
use super::expect::{File, Model, Setup, TemporaryPlace};
use super::handles::Client;
use super::{Len, Name, Op};
use crate::blocks::{Blocks, Listing};
use crate::clock::{Clock, testing::TestClock};
use crate::config::VolumeConfig;
use crate::geometry::{BlockSize, Geometry};
use crate::image::faulty::{History, Memory, UNIT, pattern};
use crate::scan::Tally;
use crate::volume::inode::Inode;
use crate::volume::{Change, Errno, SetTime, Volume};

#[derive(Debug)]
pub(super) struct World {
    pub(super) blocks: Blocks,
    memory: Arc<Memory>,
    clock: Arc<TestClock>,
    pub(super) model: Model,
    pub(super) clients: Vec<Client>,
}

pub(super) fn text(name: Name) -> OsString {
    match name {
        Name::Block(block) => format!("{block:08}"),
        Name::Temporary(block, 0) => format!(".{block:08}.Ab12Cd"),
        Name::Temporary(block, _) => format!("{block:08}.partial"),
        Name::Wrong(0) => "other".to_owned(),
        Name::Wrong(1) => "0000001".to_owned(),
        Name::Wrong(2) => "000000001".to_owned(),
        Name::Wrong(_) => ".000000001.Ab12Cd".to_owned(),
    }
    .into()
}

/// A mount's directory, as it would be made of what the image holds now.
fn directory(memory: &Arc<Memory>, setup: Setup, clock: &Arc<TestClock>) -> Blocks {
    let image = Arc::new(Arc::clone(memory));
    let volume = VolumeConfig {
        sparse: setup.sparse,
        resize: setup.resize,
        snapshot: None,
        detect_zeros: setup.detect,
        staging: setup.staging as u64,
        ..config(setup.block, true, setup.latch)
    };
    let unit = BlockSize::from_bytes(setup.block as u64).unwrap();
    let geometry = Geometry::new(memory.bytes().len() as u64, unit).unwrap();
    let listing = setup
        .sparse
        .then(|| Listing::of(image.as_ref(), geometry, None, 1, &Tally::default()).unwrap());
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Blocks::new(image, volume, clock, None, listing).unwrap()
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let bytes = pattern(setup.size);
        let clock = Arc::new(TestClock::new(100_000));
        let memory = Memory::with(bytes.clone(), History::File, false, Arc::clone(&clock));
        memory.faults(|faults| faults.longest_write = Some(1300 + setup.block / 8));
        let model = Model {
            setup,
            present: (0..bytes.len().div_ceil(setup.block)).collect(),
            bytes,
            pending: None,
            latched: false,
            lengths: Files::default(),
            temporary: Vec::new(),
        };
        Self {
            blocks: directory(&memory, setup, &clock),
            memory,
            clock,
            model,
            clients: Vec::new(),
        }
    }

    /// One request, and a look at the whole image.
    pub(super) fn apply(&mut self, op: Op) {
        self.clock.turn(1);
        match op {
            Op::Create {
                name,
                exclusive,
                truncate,
                write,
            } => self.create(name, exclusive, truncate, write),
            Op::Open { name, write } => self.open(name, write),
            Op::Lookup(name) => self.lookup(name),
            Op::Truncate { name, len } => self.truncate(name, len),
            Op::TruncateOpen { handle, len } => self.truncate_open(handle, len),
            Op::Stamp { name, seconds } => self.stamp(name, seconds.into()),
            Op::Rename { from, to, replace } => self.rename(from, to, replace),
            Op::Remove(name) => self.remove(name),
            Op::Stage {
                block,
                len,
                fill,
                keep_open,
            } => self.stage(block, len, fill, keep_open),
            Op::Write {
                handle,
                offset,
                len,
                fill,
            } => self.write(handle, offset, len, fill),
            Op::Read {
                handle,
                offset,
                len,
            } => self.read(handle, offset, len),
            Op::Zero {
                handle,
                offset,
                len,
                keep_size,
            } => self.zero(handle, offset, len, keep_size),
            Op::Reserve { handle, end } => self.reserve(handle, end),
            Op::Release(handle) => self.release(handle),
            Op::List => self.list(),
        }
        assert!(
            self.memory.holds(&self.model.bytes),
            "the image is not what the model says"
        );
    }

    /// The end of the mount, and a new one.
    pub(super) fn end(mut self) {
        self.list();
        let unfinished = self.model.setup.latch && self.model.is_unfinished();
        let summary = self.blocks.close().unwrap();
        assert_eq!(summary.latched, self.model.latched || unfinished);
        let next = directory(&self.memory, self.model.setup, &self.clock);
        let (bytes, setup) = (&self.model.bytes, self.model.setup);
        for (number, content) in bytes.chunks(setup.block).enumerate() {
            let name = text(Name::Block(u8::try_from(number).unwrap()));
            match next.lookup(Inode::Root, &name) {
                Ok(entry) => assert_eq!(entry.attr.size, content.len() as u64),
                Err(e) => {
                    assert_eq!((e, setup.sparse), (Errno::ENOENT, true));
                    assert!(content.iter().all(|byte| *byte == 0), "block {number}");
                }
            }
        }
    }

    pub(super) fn bytes(&self, len: Len) -> usize {
        let block = self.model.setup.block;
        match len {
            Len::Zero => 0,
            Len::Fits(number) => self.model.len(number.into()),
            Len::Full => block,
            Len::Part(part) => block * usize::from(part) / 1000,
            Len::Past(more) => block + usize::from(more),
        }
    }

    fn lookup(&self, name: Name) {
        let found = self.blocks.lookup(Inode::Root, &text(name));
        let expected = self.model.find(name).map(|file| self.size(file));
        assert_eq!(found.map(|entry| entry.attr.size), expected, "{name:?}");
    }

    pub(super) fn size(&self, file: File) -> u64 {
        let size = match file {
            File::Block(block) => self.model.len(block),
            File::Temporary(number) => self.model.temporary[number].content.len(),
        };
        size as u64
    }

    fn truncate(&mut self, name: Name, len: Len) {
        let size = self.bytes(len);
        let Ok(found) = self.blocks.lookup(Inode::Root, &text(name)) else {
            return self.lookup(name);
        };
        let file = self.model.find(name).unwrap();
        self.change_size(found.attr.inode, file, size);
    }

    pub(super) fn change_size(&mut self, inode: Inode, file: File, size: usize) {
        let change = Change {
            size: Some(size as u64),
            ..Change::default()
        };
        let changed = self.blocks.change(inode, &change);
        let expected = self.model.truncate(file, size).map(|()| self.size(file));
        assert_eq!(
            changed.map(|attr| attr.size),
            expected,
            "{file:?} to {size}"
        );
    }

    fn stamp(&mut self, name: Name, seconds: i64) {
        let (Ok(found), Ok(file)) = (
            self.blocks.lookup(Inode::Root, &text(name)),
            self.model.find(name),
        ) else {
            return;
        };
        let change = Change {
            mtime: Some(SetTime::At(seconds)),
            ..Change::default()
        };
        let changed = self.blocks.change(found.attr.inode, &change).unwrap();
        assert_eq!(changed.stamp, seconds);
        if let File::Temporary(number) = file {
            self.model.temporary[number].stamp = Some(seconds);
        }
    }

    fn rename(&mut self, from: Name, to: Name, replace: bool) {
        if from == to {
            return;
        }
        let stamp = self
            .model
            .named(from)
            .and_then(|number| self.model.temporary[number].stamp);
        let renamed = self.blocks.rename(&text(from), &text(to), replace);
        let expected = self.model.rename(from, to, replace);
        assert_eq!(renamed, expected, "{from:?} to {to:?}");
        if renamed.is_ok() {
            let shown = self.blocks.lookup(Inode::Root, &text(to)).unwrap();
            assert!(stamp.is_none_or(|stamp| stamp == shown.attr.stamp));
            self.lookup(from);
        }
    }

    fn remove(&mut self, name: Name) {
        let removed = self.blocks.remove(Inode::Root, &text(name));
        assert_eq!(removed, self.model.remove(name), "{name:?}");
        let Name::Block(block) = name else {
            return;
        };
        if removed.is_ok() && self.model.has(block.into()) {
            let (start, len) = (self.model.start(block.into()), self.model.len(block.into()));
            let holes = self.memory.holes();
            let units = start / UNIT..(start + len).div_ceil(UNIT);
            assert!(
                holes[units].iter().all(|hole| *hole),
                "{name:?} takes space"
            );
        }
    }

    fn stage(&mut self, block: u8, len: Len, fill: u8, keep_open: bool) {
        let name = Name::Temporary(block, 0);
        self.create(name, false, true, true);
        let Some(last) = self.clients.len().checked_sub(1) else {
            return;
        };
        let last = u8::try_from(last).unwrap();
        self.write(last, Len::Zero, len, fill);
        self.rename(name, Name::Block(block), true);
        if !keep_open {
            self.release(last);
        }
    }

    fn list(&mut self) {
        let handle = self.blocks.open_directory(Inode::Root).unwrap();
        let mut found = Vec::new();
        let mut add = |listed: &crate::volume::Listed<'_>| {
            found.push((listed.name.to_owned(), listed.entry.attr.size));
            true
        };
        self.blocks.list(handle, 2, &mut add).unwrap();
        self.blocks.release_directory(handle);
        let model = &self.model;
        let blocks = (0..=u8::MAX)
            .filter(|block| model.listed(usize::from(*block)))
            .map(|block| (text(Name::Block(block)), model.len(block.into()) as u64));
        let temporary = model.temporary.iter().filter_map(|file| match file.place {
            TemporaryPlace::Named(name) => Some((text(name), file.content.len() as u64)),
            _ => None,
        });
        let expected: Vec<_> = blocks.chain(temporary).collect();
        assert_eq!(found, expected);
        let last = model.blocks().checked_sub(1);
        assert!(
            !model.setup.resize
                || last.is_none_or(|last| model.pending.is_some() || model.listed(last)),
            "the last block has a file"
        );
    }
}
