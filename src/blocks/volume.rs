//! The block directory's answers, one operation a function.

use std::ffi::OsStr;

use super::Blocks;
use super::open::{Open, OpenFile};
use crate::geometry::{BlockIndex, FileOffset, MAX_BLOCKS};
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
            Inode::Block(block) => block,
        };
        self.check_open(block, write)?;
        let seen = self.sync_errors.of_new_handle();
        self.handles
            .insert(|| Open::Block(self.open_block(block, write, seen)))
    }

    fn read_and(
        &self,
        handle: Handle,
        offset: u64,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        // Kept until the last piece is hashed: a client may close the handle as soon as it has the reply, and what was
        // served is judged when nobody has the handle any more (promise P24).
        let open = match self.handle(handle) {
            Ok(open) => open,
            Err(e) => return reply(Err(e)),
        };
        match self.file(&open) {
            Ok(OpenFile::Block(block)) => {
                self.read_file(block, FileOffset::new(offset), out, whole, reply);
            }
            Ok(OpenFile::Staged(_, state)) => {
                let len = state.read(offset, out);
                drop(state);
                reply(Ok(&out[..len]));
            }
            Err(e) => reply(Err(e)),
        }
    }

    fn write(&self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        match self.file(self.handle(handle)?.as_ref())? {
            OpenFile::Block(block) => self.write_file(block, FileOffset::new(offset), data),
            OpenFile::Staged(open, mut state) => self.write_staged(open, &mut state, offset, data),
        }
    }

    fn flush(&self, handle: Handle) -> Result<()> {
        match self.file(self.handle(handle)?.as_ref())? {
            OpenFile::Block(block) => self.sync_errors.look(&block.seen_errors),
            OpenFile::Staged(..) => Ok(()),
        }
    }

    fn sync(&self, handle: Handle, data_only: bool) -> Result<()> {
        match self.file(self.handle(handle)?.as_ref())? {
            OpenFile::Block(block) => self.sync_file(block, data_only),
            OpenFile::Staged(_, mut state) => {
                // The content is only in memory: it is made durable when it reaches the image.
                state.sync = true;
                Ok(())
            }
        }
    }

    fn release(&self, handle: Handle) {
        match self.handles.remove(handle).as_deref() {
            Some(Open::Block(block)) => self.closed(block),
            Some(Open::Staged(staged)) => self.release_staged(staged),
            Some(Open::Directory) | None => {}
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
        match self.file(self.handle(handle)?.as_ref())? {
            OpenFile::Block(block) => {
                self.allocate_file(block, what, keep_size, FileOffset::new(offset), len)
            }
            OpenFile::Staged(open, mut state) => {
                self.allocate_staged(open, &mut state, what, keep_size, offset, len)
            }
        }
    }

    fn seek(&self, handle: Handle, offset: u64, towards: Seek) -> Result<u64> {
        match self.file(self.handle(handle)?.as_ref())? {
            OpenFile::Block(block) => self
                .seek_file(block.block, FileOffset::new(offset), towards)
                .map(FileOffset::get),
            OpenFile::Staged(_, state) => state.seek(offset, towards),
        }
    }

    fn open_directory(&self, inode: Inode) -> Result<Handle> {
        if inode != Inode::Root {
            return Err(Errno::ENOTDIR);
        }
        self.refresh();
        self.handles.insert(|| Open::Directory)
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
