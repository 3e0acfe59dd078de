//! The answers for staged files. Once one has been renamed over a block, whoever has it open goes on at the block,
//! through a handle that is made for it then.

use std::ffi::OsStr;
use std::sync::{Arc, MutexGuard, OnceLock};

use super::Blocks;
use super::staged::{Staged, StagedPlace, StagedState, Staging};
use crate::geometry::BlockIndex;
use crate::volume::inode::{Inode, parse_block_name};
use crate::volume::{
    Allocate, Attr, Change, Create, Errno, FileKind, Handle, Listed, LookupEntry, Result, Seek,
    SetTime, Volume,
};

/// Set in the handle numbers of staged files.
const STAGED: u64 = 1 << 63;

/// Whether a handle was given out for a staged file.
pub(super) fn is_staged(handle: Handle) -> bool {
    handle.0 & STAGED != 0
}

/// An open staged file.
#[derive(Debug)]
pub(super) struct StagedOpen {
    staged: Arc<Staged>,
    write: bool,
    /// Of the block that it was renamed over.
    inner: OnceLock<Handle>,
}

impl StagedOpen {
    /// The file as long as it is staged. `None`: it has been renamed over a block since its handle was looked at.
    fn state(&self) -> Option<MutexGuard<'_, StagedState>> {
        let state = self.staged.lock();
        (!matches!(state.place, StagedPlace::Block(_))).then_some(state)
    }

    /// How much was read into `out`; `None`: it is a block now.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Option<usize> {
        Some(self.state()?.read(offset, out))
    }

    /// The content is only in memory: it is made durable when it reaches the image. `None`: it has.
    pub(super) fn sync_later(&self) -> Option<()> {
        self.state()?.sync = true;
        Some(())
    }

    /// As lseek(2); `None`: it is a block now.
    pub(super) fn seek(&self, offset: u64, towards: Seek) -> Option<Result<u64>> {
        let len = self.state()?.content.len() as u64;
        Some(match towards {
            _ if offset >= len => Err(Errno::ENXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(len),
        })
    }
}

/// What a handle of a staged file means now.
pub(super) enum Resolved {
    /// Still a staged file.
    Staged(Arc<StagedOpen>),
    /// A block: this handle of it.
    Block(Handle),
}

impl Blocks {
    /// What `handle` means if it is one of a staged file; `None`: it is one of a block.
    pub(super) fn resolve(&self, handle: Handle) -> Option<Result<Resolved>> {
        let number = handle.0.checked_sub(STAGED)?;
        let Some(open) = self.staged_handles.get(Handle(number)) else {
            return Some(Err(Errno::EBADF));
        };
        let StagedPlace::Block(block) = open.staged.lock().place else {
            return Some(Ok(Resolved::Staged(open)));
        };
        Some(self.block_handle(&open, block).map(Resolved::Block))
    }

    /// The handle of the block that a staged file was renamed over.
    fn block_handle(&self, open: &StagedOpen, block: BlockIndex) -> Result<Handle> {
        if let Some(inner) = open.inner.get() {
            return Ok(*inner);
        }
        let made = self.open(Inode::Block(block), open.write)?;
        let inner = *open.inner.get_or_init(|| made);
        if inner != made {
            self.release(made);
        }
        Ok(inner)
    }

    fn open_staged(&self, staged: &Arc<Staged>, write: bool) -> Result<Handle> {
        staged.opened();
        let open = StagedOpen {
            staged: Arc::clone(staged),
            write,
            inner: OnceLock::new(),
        };
        let inserted = self.staged_handles.insert(open);
        let handle = inserted.inspect_err(|_| self.staging.closed(staged))?;
        Ok(Handle(handle.0 | STAGED))
    }

    pub(super) fn staged_open(&self, id: u64, write: bool) -> Result<Handle> {
        let staged = self.staging.numbered(id).ok_or(Errno::ENOENT)?;
        let place = staged.lock().place.clone();
        match place {
            StagedPlace::Block(block) => self.open(Inode::Block(block), write),
            _ => self.open_staged(&staged, write),
        }
    }

    pub(super) fn release_staged(&self, handle: Handle) {
        if let Some(open) = self.staged_handles.remove(Handle(handle.0 & !STAGED)) {
            if let Some(inner) = open.inner.get() {
                self.release(*inner);
            }
            self.staging.closed(&open.staged);
        }
    }

    pub(super) fn lookup_staged(&self, name: &OsStr) -> Option<LookupEntry> {
        let staged = self.staging.named(name)?;
        Some(LookupEntry {
            attr: self.attr_of_staged(&staged),
            lasting: false,
        })
    }

    /// The attributes of inode `Other(id)`, which may be a block by now.
    pub(super) fn staged_attr(&self, id: u64) -> Result<Attr> {
        let staged = self.staging.numbered(id).ok_or(Errno::ENOENT)?;
        let place = staged.lock().place.clone();
        match place {
            StagedPlace::Block(block) => {
                let attr = self.attr(Inode::Block(block))?;
                Ok(Attr {
                    inode: Inode::Other(id),
                    ..attr
                })
            }
            _ => Ok(self.attr_of_staged(&staged)),
        }
    }

    fn attr_of_staged(&self, staged: &Staged) -> Attr {
        let state = staged.lock();
        let size = state.content.len() as u64;
        Attr {
            inode: Inode::Other(staged.id),
            kind: FileKind::File,
            size,
            sectors: size.div_ceil(512),
            stamp: state.mtime,
            atime: state.atime.unwrap_or(state.mtime),
            mode: state.mode & self.owners.widest(Inode::Other(staged.id)),
            links: 1,
            uid: state.uid,
            gid: state.gid,
        }
    }

    pub(super) fn change_number(&self, id: u64, change: &Change) -> Result<Attr> {
        let staged = self.staging.numbered(id).ok_or(Errno::ENOENT)?;
        let mut state = staged.lock();
        if let StagedPlace::Block(block) = state.place {
            drop(state);
            let attr = self.change(Inode::Block(block), change)?;
            return Ok(Attr {
                inode: Inode::Other(id),
                ..attr
            });
        }
        let seconds = |time: SetTime| time.seconds(self.clock.as_ref());
        if let Some(size) = change.size {
            self.resize_staged(&mut state, size)?;
            state.mtime = self.clock.now();
            state.mtime_set = false;
        }
        if let Some(mode) = change.mode {
            state.mode = u16::try_from(mode & 0o7777).unwrap_or(0o600);
        }
        state.uid = change.uid.unwrap_or(state.uid);
        state.gid = change.gid.unwrap_or(state.gid);
        state.atime = change.atime.map(seconds).or(state.atime);
        if let Some(mtime) = change.mtime {
            state.mtime = seconds(mtime);
            state.mtime_set = true;
        }
        drop(state);
        Ok(self.attr_of_staged(&staged))
    }

    pub(super) fn write_staged(
        &self,
        open: &StagedOpen,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        if !open.write {
            return Err(Errno::EBADF);
        }
        let mut state = open.staged.lock();
        // It may have been renamed over its block while this waited.
        if let StagedPlace::Block(block) = state.place {
            drop(state);
            return self.write(self.block_handle(open, block)?, offset, data);
        }
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if end > state.content.len() as u64 {
            self.resize_staged(&mut state, end)?;
        }
        let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        state.content[start..start + data.len()].copy_from_slice(data);
        state.mtime = self.clock.now();
        state.mtime_set = false;
        Ok(data.len())
    }

    /// A file that is longer than its block is as good as a write past the block's end (promise P25).
    fn resize_staged(&self, state: &mut StagedState, len: u64) -> Result<()> {
        let resized = self.staging.resize(state, len);
        if resized == Err(Errno::EFBIG)
            && let StagedPlace::Named(name) = &state.place
            && let Some(block) = Staging::block_in(name)
        {
            self.latch(
                block,
                &format!("a temporary file of it grows to {len} bytes, past its end"),
                None,
            );
        }
        resized
    }

    pub(super) fn allocate_staged(
        &self,
        open: &StagedOpen,
        what: Allocate,
        keep_size: bool,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let mut state = open.staged.lock();
        if let StagedPlace::Block(block) = state.place {
            drop(state);
            let handle = self.block_handle(open, block)?;
            return self.allocate(handle, what, keep_size, offset, len);
        }
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if !keep_size && end > state.content.len() as u64 {
            self.staging.resize(&mut state, end)?;
        }
        if what == Allocate::Zero {
            let most = state.content.len();
            let start = usize::try_from(offset).unwrap_or(most).min(most);
            let end = usize::try_from(end).unwrap_or(most).min(most);
            state.content[start..end].fill(0);
        }
        Ok(())
    }

    /// A name that is not there: a temporary one of a block is staged, anything else would be a mistyped block
    /// that vanishes silently.
    pub(super) fn create_staged(
        &self,
        name: &OsStr,
        create: &Create,
    ) -> Result<(LookupEntry, Handle)> {
        if !self.config.writable {
            return Err(Errno::EROFS);
        }
        if let Some(block) = parse_block_name(name) {
            return self.create_block(block, create);
        }
        let Some((_, most)) = self.stageable(name) else {
            if let Some(block) = Staging::block_in(name) {
                self.refuse_past_end(block);
            }
            return Err(Errno::EPERM);
        };
        let staged = self
            .staging
            .create(name, most.max(1), self.clock.now(), create)?;
        let opened = self.open_staged(&staged, create.write);
        let handle = opened.inspect_err(|_| self.staging.take(name, StagedPlace::Removed))?;
        Ok((
            LookupEntry {
                attr: self.attr_of_staged(&staged),
                lasting: false,
            },
            handle,
        ))
    }

    /// The block that a temporary name is for, and how long the file may become.
    fn stageable(&self, name: &OsStr) -> Option<(BlockIndex, u64)> {
        let block = Staging::block_in(name)?;
        if self.config.resize {
            return Some((block, self.config.block_size.bytes()));
        }
        let geometry = self.geometry();
        geometry
            .has(block)
            .then(|| (block, geometry.span(block).len()))
    }

    /// A block without a file gets one: in a sparse directory, or past the image's end.
    fn create_block(&self, block: BlockIndex, create: &Create) -> Result<(LookupEntry, Handle)> {
        if self.has(self.geometry(), block) {
            self.check_latch()?;
            self.changed(block);
            self.appear(block);
        } else {
            self.make_room(block)?;
        }
        let inode = Inode::Block(block);
        let attr = self.attr(inode)?;
        let handle = self.open(inode, create.write)?;
        self.lengths.cut(block, 0, self.whole());
        Ok((
            LookupEntry {
                attr,
                lasting: true,
            },
            handle,
        ))
    }

    /// Lets the image end before `block`, which comes next; with --resize only.
    fn make_room(&self, block: BlockIndex) -> Result<()> {
        if self.config.resize {
            return self.create_past_end(block);
        }
        self.refuse_past_end(block);
        Err(Errno::EFBIG)
    }

    fn refuse_past_end(&self, block: BlockIndex) {
        let blocks = self.geometry().blocks();
        let remedy = match self.image.mtime() {
            Ok(None) => "use a larger device",
            _ => "to let this one grow, mount it with --resize",
        };
        log::error!(
            "block {block} is past the image's end, which has {blocks} blocks: the backup is of a larger image, or \
             was made with a smaller -b than this mount's {}; {remedy}",
            self.config.block_size
        );
    }

    /// Removes a staged file; a block stays.
    pub(super) fn remove_staged(&self, name: &OsStr) -> Result<()> {
        if self.staging.named(name).is_none() {
            return Err(Errno::ENOENT);
        }
        self.staging.take(name, StagedPlace::Removed);
        Ok(())
    }

    /// Renames a staged file: over a block, which gets its content, or to another temporary name.
    pub(super) fn rename_staged(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<()> {
        let staged = self.staging.named(from).ok_or(Errno::ENOENT)?;
        let geometry = self.geometry();
        if let Some(block) = parse_block_name(to) {
            if !replace && self.listed(geometry, block) {
                return Err(Errno::EEXIST);
            }
            if !self.has(geometry, block) {
                self.make_room(block)?;
            }
            return self.put(&staged, from, block);
        }
        if self.stageable(to).is_none() {
            return Err(Errno::EPERM);
        }
        if !replace && self.staging.named(to).is_some() {
            return Err(Errno::EEXIST);
        }
        self.staging.rename(&staged, to);
        Ok(())
    }

    /// Replaces a block's content by a staged file's. Times, owner and mode go with it.
    fn put(&self, staged: &Staged, name: &OsStr, block: BlockIndex) -> Result<()> {
        self.check_latch()?;
        let span = self.geometry().span(block);
        let inode = Inode::Block(block);
        // A handle, so that the index hashes the block when it is closed.
        let handle = self.open(inode, true)?;
        let put = || -> Result<Change> {
            // Held all along: a write to the staged file comes before or after, and then goes to the block.
            let mut state = staged.lock();
            let len = state.content.len() as u64;
            if len != span.len()
                && let Some(done) = self.truncate_last(block, len)
            {
                done?;
            } else if len != span.len() {
                log::warn!(
                    "{}: it has {len} bytes, and block {block} has {}: not renamed. {}",
                    name.to_string_lossy(),
                    span.len(),
                    self.likely_cause(block, Some(len))
                );
                return Err(Errno::EPERM);
            }
            self.lengths.cut(block, len, self.whole());
            let mut done = 0;
            while done < state.content.len() {
                done += self.write(handle, done as u64, &state.content[done..])?;
            }
            if state.sync {
                self.sync(handle, true)?;
            }
            state.place = StagedPlace::Block(block);
            Ok(Change {
                mode: Some(u32::from(state.mode)),
                uid: Some(state.uid),
                gid: Some(state.gid),
                size: None,
                atime: state.atime.map(SetTime::At),
                mtime: state.mtime_set.then_some(SetTime::At(state.mtime)),
            })
        };
        let result = put();
        self.release(handle);
        let change = result?;
        self.staging.take(name, StagedPlace::Block(block));
        self.set_owner_and_times(inode, &change)
    }

    /// The staged files of a listing, from the one with number `id` on. `base`: the listing position of number 0.
    pub(super) fn list_staged(
        &self,
        id: u64,
        base: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) {
        let mut id = id;
        while let Some((name, staged)) = self.staging.from(id) {
            id = staged.id + 1;
            let entry = LookupEntry {
                attr: self.attr_of_staged(&staged),
                lasting: false,
            };
            if !sink(&Listed {
                name: &name,
                entry,
                next: base + id,
            }) {
                return;
            }
        }
    }

    /// At the end of the mount: what was not renamed is dropped, and said.
    pub(super) fn drop_staged(&self) {
        let (names, refused) = self.staging.leftovers();
        if let Some(first) = names.first() {
            log::warn!(
                "{} temporary files were never renamed over their block and are dropped, the first is {}",
                names.len(),
                first.to_string_lossy()
            );
        }
        if refused > 0 {
            log::warn!(
                "{refused} writes to temporary files found no room; more can be had with -o staging"
            );
        }
    }
}
