//! Open staged files. Once one has been renamed over a block, whoever has it open goes on at the block.

use std::sync::{Arc, OnceLock};

use super::Blocks;
use super::open::{Open, OpenBlock, OpenFile};
use super::staged::{Staged, StagedPlace, StagedState, Staging};
use crate::volume::inode::Inode;
use crate::volume::sync_errors::SeenErrors;
use crate::volume::{Allocate, Attr, Change, Errno, FileKind, Handle, Result, SetTime, Volume};

/// An open staged file.
#[derive(Debug)]
pub(super) struct OpenStaged {
    staged: Arc<Staged>,
    write: bool,
    /// Who wrote the staged file lost what the block loses (promise P9).
    seen_errors: SeenErrors,
    /// The block that it was renamed over, once that was asked for something.
    block: OnceLock<OpenBlock>,
}

impl OpenStaged {
    /// The block, if it was renamed over one and used since.
    pub(super) fn block(&self) -> Option<&OpenBlock> {
        self.block.get()
    }
}

impl Blocks {
    /// What a file is now that was staged when it was opened. A block that it has become is opened once.
    pub(super) fn resolve<'a>(&self, open: &'a OpenStaged) -> Result<OpenFile<'a>> {
        let state = open.staged.lock();
        let StagedPlace::Block(block) = state.place else {
            return Ok(OpenFile::Staged(open, state));
        };
        drop(state);
        if open.block().is_none() {
            self.check_open(block, open.write)?;
        }
        let opened = || self.open_block(block, open.write, open.seen_errors.handed_on());
        Ok(OpenFile::Block(open.block.get_or_init(opened)))
    }

    /// ENFILE: too many files are open.
    pub(super) fn open_staged(&self, staged: &Arc<Staged>, write: bool) -> Result<Handle> {
        self.handles.insert(|| {
            staged.opened();
            Open::Staged(OpenStaged {
                staged: Arc::clone(staged),
                write,
                seen_errors: self.sync_errors.of_new_handle(),
                block: OnceLock::new(),
            })
        })
    }

    /// Opens inode `Other(id)`, which may be a block by now.
    pub(super) fn staged_open(&self, id: u64, write: bool) -> Result<Handle> {
        let staged = self.staging.numbered(id).ok_or(Errno::ENOENT)?;
        let place = staged.lock().place.clone();
        match place {
            StagedPlace::Block(block) => self.open(Inode::Block(block), write),
            _ => self.open_staged(&staged, write),
        }
    }

    /// After the handle has gone.
    pub(super) fn release_staged(&self, open: &OpenStaged) {
        if let Some(block) = open.block() {
            self.closed(block);
        }
        self.staging.closed(&open.staged);
    }

    /// The attributes of inode `Other(id)`, which may be a block by now.
    pub(super) fn staged_attr(&self, id: u64) -> Result<Attr> {
        let staged = self.staging.numbered(id).ok_or(Errno::ENOENT)?;
        let state = staged.lock();
        let StagedPlace::Block(block) = state.place else {
            return Ok(self.attr_of_staged(id, &state));
        };
        drop(state);
        let attr = self.attr(Inode::Block(block))?;
        Ok(Attr {
            inode: Inode::Other(id),
            ..attr
        })
    }

    pub(super) fn attr_of_staged(&self, id: u64, state: &StagedState) -> Attr {
        let inode = Inode::Other(id);
        let size = state.content.len() as u64;
        Attr {
            inode,
            kind: FileKind::File,
            size,
            sectors: size.div_ceil(512),
            stamp: state.mtime,
            atime: state.atime.unwrap_or(state.mtime),
            mode: state.mode & self.owners.widest(inode),
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
        Ok(self.attr_of_staged(id, &state))
    }

    pub(super) fn write_staged(
        &self,
        open: &OpenStaged,
        state: &mut StagedState,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        if !open.write {
            return Err(Errno::EBADF);
        }
        open.seen_errors.wrote();
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if end > state.content.len() as u64 {
            self.resize_staged(state, end)?;
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
        let block = match &state.place {
            StagedPlace::Named(name) if resized == Err(Errno::EFBIG) => Staging::block_in(name),
            _ => None,
        };
        if let Some(block) = block {
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
        open: &OpenStaged,
        state: &mut StagedState,
        what: Allocate,
        keep_size: bool,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        open.seen_errors.wrote();
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if !keep_size && end > state.content.len() as u64 {
            self.staging.resize(state, end)?;
        }
        if what == Allocate::Zero {
            let most = state.content.len();
            let start = usize::try_from(offset).unwrap_or(most).min(most);
            let end = usize::try_from(end).unwrap_or(most).min(most);
            state.content[start..end].fill(0);
        }
        Ok(())
    }
}
