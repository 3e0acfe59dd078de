//! What the requests must do: to a vector of bytes, a set of blocks that have a file, and temporary files.

use std::collections::BTreeSet;

use super::super::lengths::Files;
use super::Name;
use crate::volume::{Errno, Result};

/// What a case starts with.
#[derive(Debug, Clone, Copy)]
// Each is an option of its own, and any of them goes with any other.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Setup {
    pub(super) block: usize,
    pub(super) size: usize,
    pub(super) sparse: bool,
    pub(super) resize: bool,
    pub(super) detect: bool,
    pub(super) latch: bool,
    pub(super) staging: usize,
}

/// Where a temporary file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TemporaryPlace {
    Named(Name),
    Removed,
    Block(usize),
}

#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) place: TemporaryPlace,
    pub(super) content: Vec<u8>,
    pub(super) most: usize,
    pub(super) stamp: Option<i64>,
    pub(super) handles: usize,
}

/// A file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Block(usize),
    /// The number of a temporary one.
    Temporary(usize),
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) setup: Setup,
    pub(super) bytes: Vec<u8>,
    /// An empty block just behind the image.
    pub(super) pending: Option<usize>,
    /// Blocks that have a file, with --sparse.
    pub(super) present: BTreeSet<usize>,
    pub(super) latched: bool,
    pub(super) lengths: Files,
    /// All that there ever were, so that their place here is their number.
    pub(super) temporary: Vec<Temporary>,
}

impl Model {
    pub(super) fn blocks(&self) -> usize {
        self.bytes.len().div_ceil(self.setup.block)
    }

    pub(super) fn start(&self, block: usize) -> usize {
        block * self.setup.block
    }

    pub(super) fn len(&self, block: usize) -> usize {
        let left = self.bytes.len().saturating_sub(self.start(block));
        left.min(self.setup.block)
    }

    pub(super) fn has(&self, block: usize) -> bool {
        block < self.blocks() || self.pending == Some(block)
    }

    pub(super) fn listed(&self, block: usize) -> bool {
        self.has(block) && (!self.setup.sparse || self.present.contains(&block))
    }

    /// Whether the image's end is this block's to move.
    fn ends_in(&self, block: usize) -> bool {
        let last = self.pending.or_else(|| self.blocks().checked_sub(1));
        self.setup.resize && last == Some(block)
    }

    pub(super) fn named(&self, name: Name) -> Option<usize> {
        self.temporary
            .iter()
            .position(|file| file.place == TemporaryPlace::Named(name))
    }

    pub(super) fn find(&self, name: Name) -> Result<File> {
        match name {
            Name::Block(block) if self.listed(block.into()) => Ok(File::Block(block.into())),
            Name::Temporary(..) => self.named(name).map(File::Temporary).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOENT),
        }
    }

    fn check_latch(&self) -> Result<()> {
        if self.latched {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    fn latch(&mut self) {
        self.latched |= self.setup.latch;
    }

    pub(super) fn opened(&mut self, file: File, write: bool) {
        match file {
            File::Temporary(number) => self.temporary[number].handles += 1,
            File::Block(block) if write => self.lengths.opened(block),
            File::Block(_) => {}
        }
    }

    pub(super) fn closed(&mut self, file: File, write: bool) {
        match file {
            File::Temporary(number) => {
                let file = &mut self.temporary[number];
                file.handles -= 1;
                if file.handles == 0 && !matches!(file.place, TemporaryPlace::Named(_)) {
                    file.content = Vec::new();
                }
            }
            File::Block(block) if write && self.lengths.closed(block, self.len(block)) => {
                self.lengths.forget(block);
                self.latch();
            }
            File::Block(_) => {}
        }
    }

    /// Whether at the end some file is shorter than its block.
    pub(super) fn is_unfinished(&self) -> bool {
        self.lengths.unfinished(|block| self.len(block))
    }

    fn set_size(&mut self, size: usize, pending: Option<usize>) {
        self.bytes.resize(size, 0);
        self.pending = pending;
    }

    /// The block with number `block` gets a file.
    fn make(&mut self, block: usize) -> Result<()> {
        if !self.has(block) {
            if !self.setup.resize {
                return Err(Errno::EFBIG);
            }
            let last = self.blocks().checked_sub(1);
            if let Some(last) = last.filter(|last| self.lengths.ended(*last, self.setup.block)) {
                self.lengths.forget(last);
                self.latch();
            }
            self.check_latch()?;
            self.set_size(self.start(block), Some(block));
        }
        self.check_latch()?;
        self.present.insert(block);
        Ok(())
    }

    /// How long a temporary file of this name may become.
    fn stageable(&self, name: Name) -> Result<usize> {
        let Name::Temporary(block, _) = name else {
            return Err(Errno::EPERM);
        };
        let block = usize::from(block);
        if self.setup.resize {
            Ok(self.setup.block)
        } else if block < self.blocks() {
            Ok(self.len(block))
        } else {
            Err(Errno::EPERM)
        }
    }

    /// Creates what is not there.
    pub(super) fn create(&mut self, name: Name) -> Result<File> {
        if let Name::Block(block) = name {
            self.make(block.into())?;
            return Ok(File::Block(block.into()));
        }
        let most = self.stageable(name)?;
        self.temporary.push(Temporary {
            place: TemporaryPlace::Named(name),
            content: Vec::new(),
            most,
            stamp: None,
            handles: 0,
        });
        Ok(File::Temporary(self.temporary.len() - 1))
    }

    fn used(&self) -> usize {
        let held = |file: &Temporary| file.content.capacity();
        self.temporary.iter().map(held).sum()
    }

    fn resize_temporary(&mut self, number: usize, len: usize) -> Result<()> {
        let file = &self.temporary[number];
        if len > file.most {
            return Err(Errno::EFBIG);
        }
        let (present, held) = (file.content.len(), file.content.capacity());
        let room = self.setup.staging - self.used();
        // Memory is taken twice as much at a time, if there is room.
        let twice = len.max(file.most.min(2 * held));
        let content = &mut self.temporary[number].content;
        if len > held {
            let wanted = if twice - held <= room { twice } else { len };
            if wanted - held > room {
                return Err(Errno::ENOSPC);
            }
            content.reserve_exact(wanted - present);
        }
        content.resize(len, 0);
        if len < present {
            content.shrink_to_fit();
        }
        Ok(())
    }

    /// What is longer than its block latches the mount.
    fn latching(&mut self, number: usize, len: usize) -> Result<()> {
        let resized = self.resize_temporary(number, len);
        let named = matches!(self.temporary[number].place, TemporaryPlace::Named(_));
        if resized == Err(Errno::EFBIG) && named {
            self.latch();
        }
        resized
    }

    pub(super) fn truncate(&mut self, file: File, len: usize) -> Result<()> {
        match file {
            File::Temporary(number) => {
                self.latching(number, len)?;
                self.temporary[number].stamp = None;
                Ok(())
            }
            File::Block(block) if !self.has(block) => Err(Errno::ENOENT),
            File::Block(block) => self.truncate_block(block, len),
        }
    }

    fn truncate_block(&mut self, block: usize, len: usize) -> Result<()> {
        let (present, start) = (self.len(block), self.start(block));
        if len == present {
            self.lengths.cut(block, len);
            return Ok(());
        }
        if self.ends_in(block) && len <= self.setup.block {
            self.check_latch()?;
            self.set_size(start + len, (len == 0).then_some(block));
            self.lengths.cut(block, len);
            return Ok(());
        }
        if len == 0 {
            self.check_latch()?;
            self.bytes[start..start + present].fill(0);
            self.lengths.cut(block, len);
            return Ok(());
        }
        self.latch();
        Err(if len > present {
            Errno::EFBIG
        } else {
            Errno::EPERM
        })
    }

    /// How many bytes are written.
    pub(super) fn write(&mut self, file: File, offset: usize, data: &[u8]) -> Result<usize> {
        let block = match file {
            File::Temporary(number) => {
                let end = offset + data.len();
                if end > self.temporary[number].content.len() {
                    self.latching(number, end)?;
                }
                let file = &mut self.temporary[number];
                file.content[offset..end].copy_from_slice(data);
                file.stamp = None;
                return Ok(data.len());
            }
            File::Block(block) => block,
        };
        self.check_latch()?;
        let start = self.start(block);
        let wanted = start + (offset + data.len()).min(self.setup.block);
        if wanted > self.bytes.len() && self.ends_in(block) {
            self.set_size(wanted, None);
        }
        let len = self.len(block).saturating_sub(offset).min(data.len());
        if len == 0 {
            self.latch();
            return Err(Errno::EFBIG);
        }
        self.bytes[start + offset..][..len].copy_from_slice(&data[..len]);
        self.present.insert(block);
        self.lengths.wrote(block, offset + len);
        Ok(len)
    }

    /// What a read gives.
    pub(super) fn read(&self, file: File, offset: usize, len: usize) -> &[u8] {
        let content = match file {
            File::Temporary(number) => &self.temporary[number].content[..],
            File::Block(block) if self.len(block) == 0 => &[],
            File::Block(block) => &self.bytes[self.start(block)..][..self.len(block)],
        };
        let start = offset.min(content.len());
        &content[start..content.len().min(start + len)]
    }

    pub(super) fn reserve(&mut self, file: File, end: usize) -> Result<()> {
        match file {
            File::Temporary(number) if end > self.temporary[number].content.len() => {
                self.resize_temporary(number, end)
            }
            File::Temporary(_) => Ok(()),
            File::Block(block) => {
                self.check_latch()?;
                self.lengths.announced(block, end);
                if end > self.len(block) {
                    return Err(Errno::EFBIG);
                }
                Ok(())
            }
        }
    }

    pub(super) fn zero(
        &mut self,
        file: File,
        offset: usize,
        len: usize,
        keep_size: bool,
    ) -> Result<()> {
        let end = offset + len;
        match file {
            File::Temporary(number) => {
                if !keep_size && end > self.temporary[number].content.len() {
                    self.resize_temporary(number, end)?;
                }
                let content = &mut self.temporary[number].content;
                let most = content.len();
                content[offset.min(most)..end.min(most)].fill(0);
            }
            File::Block(block) => {
                self.check_latch()?;
                let (start, len) = (self.start(block), self.len(block));
                if end > len && !keep_size {
                    return Err(Errno::EFBIG);
                }
                // Of a block that is no more, there is nothing.
                let (from, to) = (offset.min(len), end.min(len));
                if from < to {
                    self.bytes[start + from..start + to].fill(0);
                    self.lengths.wrote(block, to);
                }
            }
        }
        Ok(())
    }

    pub(super) fn lose_name(&mut self, number: usize, place: TemporaryPlace) {
        let file = &mut self.temporary[number];
        if file.handles == 0 || matches!(place, TemporaryPlace::Block(_)) {
            file.content = Vec::new();
        }
        file.place = place;
    }

    pub(super) fn remove(&mut self, name: Name) -> Result<()> {
        let block = match self.find(name)? {
            File::Temporary(number) => {
                self.lose_name(number, TemporaryPlace::Removed);
                return Ok(());
            }
            File::Block(block) => block,
        };
        if !self.ends_in(block) && !self.setup.sparse {
            return Err(Errno::EPERM);
        }
        self.check_latch()?;
        if self.ends_in(block) {
            let left = if self.setup.sparse {
                self.present
                    .range(..block)
                    .next_back()
                    .map_or(0, |last| last + 1)
            } else {
                block
            };
            self.set_size(self.start(left), None);
            self.lengths.forget_from(left);
        } else {
            let (start, len) = (self.start(block), self.len(block));
            self.bytes[start..start + len].fill(0);
            self.lengths.forget(block);
        }
        self.present.remove(&block);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: Name, to: Name, replace: bool) -> Result<()> {
        let File::Temporary(number) = self.find(from)? else {
            return Err(Errno::EPERM);
        };
        let Name::Block(block) = to else {
            self.stageable(to)?;
            if let Some(other) = self.named(to) {
                if !replace {
                    return Err(Errno::EEXIST);
                }
                self.lose_name(other, TemporaryPlace::Removed);
            }
            self.temporary[number].place = TemporaryPlace::Named(to);
            return Ok(());
        };
        let block = usize::from(block);
        if !replace && self.listed(block) {
            return Err(Errno::EEXIST);
        }
        if !self.has(block) {
            self.make(block)?;
        }
        self.check_latch()?;
        self.lengths.opened(block);
        let put = self.put(number, block);
        self.closed(File::Block(block), true);
        put
    }

    fn put(&mut self, number: usize, block: usize) -> Result<()> {
        let content = self.temporary[number].content.clone();
        if content.len() != self.len(block) {
            if !self.ends_in(block) {
                return Err(Errno::EPERM);
            }
            self.truncate_block(block, content.len())?;
        }
        self.lengths.cut(block, content.len());
        if !content.is_empty() {
            self.write(File::Block(block), 0, &content)?;
        }
        self.lose_name(number, TemporaryPlace::Block(block));
        Ok(())
    }
}
