//! The block directory's answers, one operation a function.

use std::ffi::OsStr;

use super::Blocks;
use super::data::write_failed;
use super::open::Open;
use super::staged_volume::{Resolved, is_staged};
use crate::geometry::{BlockIndex, MAX_BLOCKS};
use crate::volume::inode::{Inode, block_name, parse_block_name};
use crate::volume::{
    Allocate, Attr, Change, Create, Errno, Handle, Listed, LookupEntry, Result, Seek, Space, Volume,
};

/// Listing positions: 1 after ".", 2 after "..", N + 3 after block N, then staged files by number.
const FIRST_BLOCK: u64 = 2;
/// Behind the last block that there can be: the staged file with number 0.
const FIRST_STAGED: u64 = FIRST_BLOCK + MAX_BLOCKS;

impl Volume for Blocks {
    fn lookup(&self, parent: Inode, name: &OsStr) -> Result<LookupEntry> {
        if parent != Inode::Root {
            return Err(Errno::ENOTDIR);
        }
        if let Some(block) = parse_block_name(name) {
            if !self.listed(self.geometry(), block) {
                return Err(Errno::ENOENT);
            }
            return self.entry(Inode::Block(block));
        }
        self.lookup_staged(name).ok_or(Errno::ENOENT)
    }

    fn attr(&self, inode: Inode) -> Result<Attr> {
        if let Inode::Other(id) = inode {
            return self.staged_attr(id);
        }
        self.attr_in(&self.view(), inode)
    }

    fn change(&self, inode: Inode, change: &Change) -> Result<Attr> {
        if let Inode::Other(id) = inode {
            return self.change_number(id, change);
        }
        self.attr(inode)?;
        if !self.config.writable {
            return Err(Errno::EROFS);
        }
        if let Some(size) = change.size {
            let Inode::Block(block) = inode else {
                return Err(Errno::EISDIR);
            };
            self.truncate(block, size)?;
        }
        self.set_owner_and_times(inode, change)?;
        self.attr(inode)
    }

    fn open(&self, inode: Inode, write: bool) -> Result<Handle> {
        let block = match inode {
            Inode::Root => return Err(Errno::EISDIR),
            Inode::Other(id) => return self.staged_open(id, write),
            Inode::Block(block) if self.has(self.geometry(), block) => block,
            Inode::Block(_) => return Err(Errno::ENOENT),
        };
        if write && !self.config.writable {
            return Err(Errno::EROFS);
        }
        if !write {
            self.check_readable(block)?;
        }
        self.handles.insert(self.open_block(block, write))
    }

    fn read_and(
        &self,
        handle: Handle,
        offset: u64,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        let handle = match self.resolve(handle) {
            None => handle,
            Some(Ok(Resolved::Block(inner))) => inner,
            Some(Ok(Resolved::Staged(staged))) => {
                return match staged.read(offset, out) {
                    Some(len) => reply(Ok(&out[..len])),
                    None => self.read_and(handle, offset, out, whole, reply),
                };
            }
            Some(Err(e)) => return reply(Err(e)),
        };
        // Held until after the last piece is hashed: only then is it known what the handle was served.
        let (open, block) = match self.file(handle) {
            Ok(found) => found,
            Err(e) => return reply(Err(e)),
        };
        let geometry = self.geometry();
        let span = geometry.clip(block, offset, out.len() as u64);
        let Ok(len) = usize::try_from(span.len()) else {
            return reply(Err(Errno::EINVAL));
        };
        if len == 0 {
            return reply(Ok(&[]));
        }
        let end = geometry.span(block).end;
        self.times.read(block, whole);
        match self.read_block(&open, block, &mut out[..len], span.start, end, whole) {
            Ok(got) => {
                let hash = open.note_served(got);
                reply(Ok(&out[..got]));
                if hash {
                    open.hash(offset, &out[..got]);
                }
            }
            Err(e) => reply(Err(e)),
        }
    }

    fn write(&self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let handle = match self.resolve(handle).transpose()? {
            None => handle,
            Some(Resolved::Block(inner)) => inner,
            Some(Resolved::Staged(staged)) => return self.write_staged(&staged, offset, data),
        };
        let (_, block) = self.writer(handle)?;
        self.grow_for(block, offset.saturating_add(data.len() as u64))?;
        let span = self.geometry().clip(block, offset, data.len() as u64);
        let len = usize::try_from(span.len()).map_err(|_| Errno::EINVAL)?;
        if data.is_empty() {
            return Ok(0);
        }
        if len == 0 {
            self.latch(block, &format!("a write at {offset}, past its end"), None);
            return Err(Errno::EFBIG);
        }
        let written = self.write_block(block, &data[..len], span.start)?;
        self.lengths.wrote(block, offset + written as u64);
        Ok(written)
    }

    fn flush(&self, handle: Handle) -> Result<()> {
        let handle = match self.resolve(handle).transpose()? {
            None => handle,
            Some(Resolved::Block(inner)) => inner,
            Some(Resolved::Staged(_)) => return Ok(()),
        };
        self.sync_errors.look(&self.handle(handle)?.seen_errors)
    }

    fn sync(&self, handle: Handle, data_only: bool) -> Result<()> {
        let handle = match self.resolve(handle).transpose()? {
            None => handle,
            Some(Resolved::Block(inner)) => inner,
            Some(Resolved::Staged(staged)) => {
                return match staged.sync_later() {
                    Some(()) => Ok(()),
                    None => self.sync(handle, data_only),
                };
            }
        };
        let open = self.handle(handle)?;
        if !self.config.writable {
            return Ok(());
        }
        let synced = self.image.sync(data_only);
        if let Err(e) = &synced {
            self.sync_errors.note();
            log::error!("making writes durable: {e}; what was written may be lost");
        }
        self.sync_errors.tell(&open.seen_errors)?;
        synced.map_err(|_| Errno::EIO)
    }

    fn release(&self, handle: Handle) {
        if is_staged(handle) {
            self.release_staged(handle);
        } else if let Some(open) = self.handles.remove(handle) {
            self.closed(&open);
        }
    }

    fn allocate(
        &self,
        handle: Handle,
        what: Allocate,
        keep_size: bool,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let handle = match self.resolve(handle).transpose()? {
            None => handle,
            Some(Resolved::Block(inner)) => inner,
            Some(Resolved::Staged(staged)) => {
                return self.allocate_staged(&staged, what, keep_size, offset, len);
            }
        };
        let (_, block) = self.writer(handle)?;
        let span = self.geometry().clip(block, offset, len);
        if what == Allocate::Reserve {
            self.lengths.announced(block, offset.saturating_add(len));
        }
        if span.len() < len && !keep_size {
            return Err(Errno::EFBIG);
        }
        match what {
            _ if span.is_empty() => Ok(()),
            Allocate::Zero => {
                self.zero_block(block, span)?;
                self.lengths.wrote(block, offset + span.len());
                Ok(())
            }
            Allocate::Reserve => self
                .image
                .reserve(span)
                .map_err(|e| write_failed(&e, span.start)),
        }
    }

    fn seek(&self, handle: Handle, offset: u64, towards: Seek) -> Result<u64> {
        let handle = match self.resolve(handle).transpose()? {
            None => handle,
            Some(Resolved::Block(inner)) => inner,
            Some(Resolved::Staged(staged)) => {
                return match staged.seek(offset, towards) {
                    Some(found) => found,
                    None => self.seek(handle, offset, towards),
                };
            }
        };
        let (_, block) = self.file(handle)?;
        let span = self.geometry().span(block);
        let from = span.start.saturating_add(offset);
        if from >= span.end {
            return Err(Errno::ENXIO);
        }
        let io = |e: std::io::Error| super::errno(&e);
        self.image.flush().map_err(io)?;
        // What was cut off is not a hole: it is data that cannot be read.
        let cut = self.image.size().map_err(io)?.max(span.start);
        let found = match towards {
            Seek::Data => match self.image.next_data(from).map_err(io)? {
                Some(data) => data,
                None => from.max(cut),
            },
            Seek::Hole if from >= cut => span.end,
            Seek::Hole => match self.image.next_hole(from).map_err(io)? {
                hole if hole >= cut => span.end,
                hole => hole,
            },
        };
        match towards {
            Seek::Data if found >= span.end => Err(Errno::ENXIO),
            _ => Ok(found.min(span.end) - span.start),
        }
    }

    fn open_directory(&self, inode: Inode) -> Result<Handle> {
        if inode != Inode::Root {
            return Err(Errno::ENOTDIR);
        }
        self.refresh();
        self.handles
            .insert(Open::directory(self.sync_errors.of_new_handle()))
    }

    fn list(
        &self,
        handle: Handle,
        position: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.handle(handle)?;
        let view = self.view();
        for (dots, name) in [".", ".."]
            .into_iter()
            .enumerate()
            .skip(usize::try_from(position).unwrap_or(2))
        {
            let attr = self.attr_in(&view, Inode::Root)?;
            let entry = LookupEntry {
                attr,
                lasting: true,
            };
            let listed = Listed {
                name: OsStr::new(name),
                entry,
                next: dots as u64 + 1,
            };
            if !sink(&listed) {
                return Ok(());
            }
        }
        let mut from = position.saturating_sub(FIRST_BLOCK);
        while let Some(block) = self.next_listed(view.geometry, from) {
            from = block.get() + 1;
            let attr = self.attr_in(&view, Inode::Block(block))?;
            let name = block_name(block);
            let entry = LookupEntry {
                attr,
                lasting: true,
            };
            if !sink(&Listed {
                name: &name,
                entry,
                next: from + FIRST_BLOCK,
            }) {
                return Ok(());
            }
        }
        self.list_staged(position.saturating_sub(FIRST_STAGED), FIRST_STAGED, sink);
        Ok(())
    }

    fn release_directory(&self, handle: Handle) {
        self.handles.remove(handle);
    }

    fn create(
        &self,
        parent: Inode,
        name: &OsStr,
        create: &Create,
    ) -> Result<(LookupEntry, Handle)> {
        let found = match self.lookup(parent, name) {
            Ok(_) if create.exclusive => return Err(Errno::EEXIST),
            Ok(found) => found,
            Err(Errno::ENOENT) => return self.create_staged(name, create),
            Err(e) => return Err(e),
        };
        let inode = found.attr.inode;
        let handle = self.open(inode, create.write)?;
        if create.truncate {
            let empty = Change {
                size: Some(0),
                ..Change::default()
            };
            if let Err(e) = self.change(inode, &empty) {
                self.release(handle);
                return Err(e);
            }
        }
        Ok((found, handle))
    }

    fn remove(&self, parent: Inode, name: &OsStr) -> Result<()> {
        match self.lookup(parent, name)?.attr.inode {
            Inode::Other(_) => self.remove_staged(name),
            Inode::Block(block) if self.config.writable => self.remove_block(block),
            _ => Err(self.refuse()),
        }
    }

    fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<()> {
        match self.lookup(Inode::Root, from)?.attr.inode {
            Inode::Other(_) => self.rename_staged(from, to, replace),
            _ => Err(self.refuse()),
        }
    }

    fn is_writable(&self) -> bool {
        self.config.writable
    }

    fn space(&self) -> Space {
        let geometry = self.geometry();
        Space {
            bytes: geometry.image_size(),
            files: geometry.blocks() + 1,
        }
    }
}

impl Blocks {
    fn entry(&self, inode: Inode) -> Result<LookupEntry> {
        Ok(LookupEntry {
            attr: self.attr_in(&self.view(), inode)?,
            lasting: true,
        })
    }

    /// Promise P8: its own length is fine, 0 makes zeros, all else is refused.
    fn truncate(&self, block: BlockIndex, size: u64) -> Result<()> {
        let span = self.geometry().span(block);
        if size == span.len() {
            self.lengths.cut(block, size, self.whole());
            return Ok(());
        }
        if let Some(done) = self.truncate_last(block, size) {
            return done;
        }
        if size == 0 {
            self.check_latch()?;
            self.zero_block(block, span)?;
            self.lengths.cut(block, 0, self.whole());
            return Ok(());
        }
        self.latch(
            block,
            &format!("truncation to {size} bytes, where it has {}", span.len()),
            Some(size),
        );
        Err(if size > span.len() {
            Errno::EFBIG
        } else {
            Errno::EPERM
        })
    }

    pub(super) fn set_owner_and_times(&self, inode: Inode, change: &Change) -> Result<()> {
        let clock = self.clock.as_ref();
        let before = self.attr(inode)?;
        let mut change = *change;
        if let (Inode::Block(block), Some(mtime)) = (inode, change.mtime) {
            let base = self.times.base(self.image.as_ref());
            self.times.set(block, mtime.seconds(clock), base);
            change.mtime = None;
        }
        // An atime that is handed back as it was shown is no wish; else every restored block would cost memory.
        change
            .atime
            .take_if(|atime| atime.seconds(clock) == before.atime);
        self.owners.change(inode, &change, self.times.made(), clock);
        Ok(())
    }
}
