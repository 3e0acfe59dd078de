//! The answers about the root and the files in it, one operation a function.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::Reverse;
use super::views::View;
use crate::volume::inode::Inode;
use crate::volume::owner::Content;
use crate::volume::sync_errors::SeenErrors;
use crate::volume::{
    Allocate, Attr, Change, Create, Errno, Handle, Listed, LookupEntry, Result, Seek, Space, Volume,
};

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Open {
    /// `None`: the directory.
    view: Option<Arc<View>>,
    writable: bool,
    seen_errors: SeenErrors,
}

impl Open {
    fn file(&self) -> Result<&View> {
        self.view.as_deref().ok_or(Errno::EISDIR)
    }
}

impl Volume for Reverse {
    fn lookup(&self, parent: Inode, name: &OsStr) -> Result<LookupEntry> {
        if parent != Inode::Root {
            return Err(Errno::ENOTDIR);
        }
        let view = self.views.named(name).and_then(|view| view.inode());
        self.entry(view.ok_or(Errno::ENOENT)?)
    }

    fn attr(&self, inode: Inode) -> Result<Attr> {
        let newest = self.newest.load(SeqCst);
        let content = if inode == Inode::Root {
            Content::Names
        } else {
            let view = self.views.of(inode).ok_or(Errno::ENOENT)?;
            Content::Bytes {
                size: view.size(),
                sectors: view.sectors(),
            }
        };
        Ok(self.owners.attr(inode, content, newest, newest))
    }

    fn change(&self, inode: Inode, change: &Change) -> Result<Attr> {
        let before = self.attr(inode)?;
        if !self.config.writable {
            return Err(Errno::EROFS);
        }
        if let Some(size) = change.size {
            if inode == Inode::Root {
                return Err(Errno::EISDIR);
            }
            // Its length is the backup's: who truncates it wants another file, and would lose this one.
            if size > before.size {
                return Err(Errno::EFBIG);
            }
            if size < before.size {
                return Err(Errno::EPERM);
            }
        }
        let newest = self.newest.load(SeqCst);
        self.owners
            .change(inode, change, newest, self.clock.as_ref());
        self.attr(inode)
    }

    fn open(&self, inode: Inode, write: bool) -> Result<Handle> {
        if inode == Inode::Root {
            return Err(Errno::EISDIR);
        }
        let view = self.views.of(inode).ok_or(Errno::ENOENT)?;
        if write && !self.config.writable {
            return Err(Errno::EROFS);
        }
        self.insert(Some(Arc::clone(view)), write)
    }

    fn read_and(
        &self,
        handle: Handle,
        offset: u64,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        let run = self
            .handle(handle)
            .and_then(|open| Ok(open.file()?.run(offset, out.len() as u64)));
        let run = match run {
            Ok(run) => run,
            Err(e) => return reply(Err(e)),
        };
        let len = usize::try_from(run.len()).map_or(out.len(), |len| len.min(out.len()));
        match self.read_image(&mut out[..len], run) {
            (got, None) => reply(Ok(&out[..got])),
            (got, Some(_)) if got > 0 && !whole => reply(Ok(&out[..got])),
            (_, Some(e)) => reply(Err(e)),
        }
    }

    fn write(&self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let open = self.writer(handle)?;
        if data.is_empty() {
            return Ok(0);
        }
        let run = open.file()?.run(offset, data.len() as u64);
        if run.is_empty() {
            return Err(Errno::EFBIG);
        }
        let len = usize::try_from(run.len()).map_or(data.len(), |len| len.min(data.len()));
        open.seen_errors.wrote();
        self.write_image(&data[..len], run)
    }

    fn flush(&self, handle: Handle) -> Result<()> {
        self.sync_errors.look(&self.handle(handle)?.seen_errors)
    }

    fn sync(&self, handle: Handle, data_only: bool) -> Result<()> {
        let open = self.handle(handle)?;
        if !self.config.writable {
            return Ok(());
        }
        let synced = self.sync_all(data_only);
        self.sync_errors.tell(&open.seen_errors)?;
        synced.map_err(|_| Errno::EIO)
    }

    fn release(&self, handle: Handle) {
        self.handles.remove(handle);
    }

    fn allocate(
        &self,
        handle: Handle,
        what: Allocate,
        keep_size: bool,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let open = self.writer(handle)?;
        let run = open.file()?.run(offset, len);
        if run.len() < len && !keep_size {
            return Err(Errno::EFBIG);
        }
        open.seen_errors.wrote();
        self.allocate_image(what, run)
    }

    fn seek(&self, handle: Handle, offset: u64, towards: Seek) -> Result<u64> {
        let open = self.handle(handle)?;
        let view = open.file()?;
        let rest = view.run(offset, u64::MAX);
        if rest.is_empty() {
            return Err(Errno::ENXIO);
        }
        let found = match towards {
            Seek::Data => self.next_data(rest),
            Seek::Hole => self.next_hole(rest),
        };
        let found = found.map_err(|e| {
            log::error!(
                "looking for holes behind byte {offset} of {}: {e}",
                view.name()
            );
            Errno::EIO
        })?;
        if towards == Seek::Data && found.is_empty() {
            return Err(Errno::ENXIO);
        }
        Ok(view.offset_of(found))
    }

    fn open_directory(&self, inode: Inode) -> Result<Handle> {
        match inode {
            Inode::Root => self.insert(None, false),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn list(
        &self,
        handle: Handle,
        position: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.handle(handle)?;
        let dots = [".", ".."].map(|name| (name.to_owned(), Some(Inode::Root)));
        let files = self.views.iter().map(|view| (view.name(), view.inode()));
        let entries = (1_u64..).zip(dots.into_iter().chain(files));
        let left = usize::try_from(position).unwrap_or(usize::MAX);
        for (next, (name, inode)) in entries.skip(left) {
            let listed = Listed {
                name: OsStr::new(&name),
                entry: self.entry(inode.ok_or(Errno::ENOENT)?)?,
                next,
            };
            if !sink(&listed) {
                break;
            }
        }
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
        let found = self.lookup(parent, name).map_err(|e| match e {
            Errno::ENOENT => self.refuse(),
            other => other,
        })?;
        if create.exclusive {
            return Err(Errno::EEXIST);
        }
        let handle = self.open(found.attr.inode, create.write)?;
        if create.truncate && found.attr.size > 0 {
            self.release(handle);
            return Err(self.refuse());
        }
        Ok((found, handle))
    }

    fn remove(&self, parent: Inode, name: &OsStr) -> Result<()> {
        self.lookup(parent, name)?;
        Err(self.refuse())
    }

    fn rename(&self, from: &OsStr, _to: &OsStr, _replace: bool) -> Result<()> {
        self.lookup(Inode::Root, from)?;
        Err(self.refuse())
    }

    fn is_writable(&self) -> bool {
        self.config.writable
    }

    fn space(&self) -> Space {
        Space {
            bytes: self.geometry.image_size(),
            files: 1 + self.views.count() as u64,
        }
    }
}

impl Reverse {
    fn entry(&self, inode: Inode) -> Result<LookupEntry> {
        Ok(LookupEntry {
            attr: self.attr(inode)?,
            lasting: true,
        })
    }

    fn insert(&self, view: Option<Arc<View>>, writable: bool) -> Result<Handle> {
        self.handles.insert(|| Open {
            view,
            writable,
            seen_errors: self.sync_errors.of_new_handle(),
        })
    }

    fn handle(&self, handle: Handle) -> Result<Arc<Open>> {
        self.handles.get(handle).ok_or(Errno::EBADF)
    }

    fn writer(&self, handle: Handle) -> Result<Arc<Open>> {
        let open = self.handle(handle)?;
        open.file()?;
        if open.writable {
            Ok(open)
        } else {
            Err(Errno::EBADF)
        }
    }
}
