//! The answers about the root and `image`, one operation a function.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::Reverse;
use crate::geometry::Span;
use crate::volume::inode::Inode;
use crate::volume::owner::RootTime;
use crate::volume::{
    Allocate, Attr, Change, Create, Errno, FileKind, Handle, Listed, LookupEntry, Result, Seek,
    SetTime, Space, Volume,
};

/// The one file's name.
const NAME: &str = "image";
/// Its inode's number.
const NUMBER: u64 = 2;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Open {
    inode: Inode,
    writable: bool,
    wrote: AtomicBool,
    /// The sync failures that this handle has been told of, or that are older than it.
    seen_failures: AtomicU64,
}

impl Volume for Reverse {
    fn lookup(&self, parent: Inode, name: &OsStr) -> Result<LookupEntry> {
        match parent {
            Inode::Root if name == NAME => self.entry(image_inode()?),
            Inode::Root => Err(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn attr(&self, inode: Inode) -> Result<Attr> {
        let newest = self.newest.load(SeqCst);
        let (kind, links, size, sectors) = match inode {
            Inode::Root => (FileKind::Directory, 2, 0, 0),
            _ if inode == image_inode()? => {
                let sectors = self.allocated();
                (FileKind::File, 1, self.geometry.image_size(), sectors)
            }
            _ => return Err(Errno::ENOENT),
        };
        let set = self.owners.of(inode);
        let stamp = set
            .mtime
            .filter(|time| time.made == newest)
            .map_or(newest, |time| time.set);
        Ok(Attr {
            inode,
            kind,
            size,
            sectors,
            stamp,
            atime: set.atime.unwrap_or(stamp),
            mode: set.mode.unwrap_or_else(|| self.owners.widest(inode)),
            links,
            uid: set.uid.unwrap_or_else(|| self.owners.uid()),
            gid: set.gid.unwrap_or_else(|| self.owners.gid()),
        })
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
        self.set_owner_and_times(inode, change);
        self.attr(inode)
    }

    fn open(&self, inode: Inode, write: bool) -> Result<Handle> {
        if inode == Inode::Root {
            return Err(Errno::EISDIR);
        }
        self.attr(inode)?;
        if write && !self.config.writable {
            return Err(Errno::EROFS);
        }
        self.insert(inode, write)
    }

    fn read_and(
        &self,
        handle: Handle,
        offset: u64,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        if let Err(e) = self.file(handle) {
            return reply(Err(e));
        }
        let end = self.geometry.image_size();
        let left = end.saturating_sub(offset);
        let len = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        match self.read_image(&mut out[..len], offset) {
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
        let end = self.geometry.image_size();
        let left = end.saturating_sub(offset);
        let len = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
        if len == 0 {
            return Err(Errno::EFBIG);
        }
        open.wrote.store(true, SeqCst);
        self.write_image(&data[..len], offset)
    }

    fn flush(&self, handle: Handle) -> Result<()> {
        self.unseen_failure(self.handle(handle)?.as_ref(), false)
    }

    fn sync(&self, handle: Handle, data_only: bool) -> Result<()> {
        let open = self.handle(handle)?;
        if !self.config.writable {
            return Ok(());
        }
        let synced = self.sync_all(data_only);
        self.unseen_failure(&open, true)?;
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
        let size = self.geometry.image_size();
        let end = offset.saturating_add(len);
        if end > size && !keep_size {
            return Err(Errno::EFBIG);
        }
        open.wrote.store(true, SeqCst);
        self.allocate_image(what, Span::new(offset.min(size), end.min(size)))
    }

    fn seek(&self, handle: Handle, offset: u64, towards: Seek) -> Result<u64> {
        self.file(handle)?;
        if offset >= self.geometry.image_size() {
            return Err(Errno::ENXIO);
        }
        let found = match towards {
            Seek::Data => self.next_data(offset).map(|data| data.ok_or(Errno::ENXIO)),
            Seek::Hole => self.next_hole(offset).map(Ok),
        };
        found.map_err(|e| {
            log::error!("looking for holes behind byte {offset}: {e}");
            Errno::EIO
        })?
    }

    fn open_directory(&self, inode: Inode) -> Result<Handle> {
        match inode {
            Inode::Root => self.insert(inode, false),
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
        let entries = [
            (".", Inode::Root),
            ("..", Inode::Root),
            (NAME, image_inode()?),
        ];
        for (next, (name, inode)) in (1_u64..).zip(entries) {
            if next <= position {
                continue;
            }
            let listed = Listed {
                name: OsStr::new(name),
                entry: self.entry(inode)?,
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

    fn refuse(&self) -> Errno {
        if self.config.writable {
            Errno::EPERM
        } else {
            Errno::EROFS
        }
    }

    fn space(&self) -> Space {
        Space {
            bytes: self.geometry.image_size(),
            files: 2,
        }
    }
}

fn image_inode() -> Result<Inode> {
    Inode::from_number(NUMBER).ok_or(Errno::ENOENT)
}

impl Reverse {
    fn entry(&self, inode: Inode) -> Result<LookupEntry> {
        Ok(LookupEntry {
            attr: self.attr(inode)?,
            lasting: true,
        })
    }

    fn insert(&self, inode: Inode, writable: bool) -> Result<Handle> {
        self.handles.insert(Open {
            inode,
            writable,
            wrote: AtomicBool::new(false),
            seen_failures: AtomicU64::new(self.sync_failures.load(SeqCst)),
        })
    }

    fn handle(&self, handle: Handle) -> Result<Arc<Open>> {
        self.handles.get(handle).ok_or(Errno::EBADF)
    }

    fn file(&self, handle: Handle) -> Result<Arc<Open>> {
        let open = self.handle(handle)?;
        if open.inode == Inode::Root {
            return Err(Errno::EISDIR);
        }
        Ok(open)
    }

    fn writer(&self, handle: Handle) -> Result<Arc<Open>> {
        let open = self.file(handle)?;
        if open.writable {
            Ok(open)
        } else {
            Err(Errno::EBADF)
        }
    }

    fn set_owner_and_times(&self, inode: Inode, change: &Change) {
        let seconds = |time: SetTime| match time {
            SetTime::Now => self.clock.now(),
            SetTime::At(seconds) => seconds,
        };
        let widest = self.owners.widest(inode);
        self.owners.change(inode, |set| {
            if let Some(mode) = change.mode {
                let bits = u16::try_from(mode & 0o7777).unwrap_or(0);
                set.mode = Some(bits & widest);
            }
            set.uid = change.uid.or(set.uid);
            set.gid = change.gid.or(set.gid);
            set.atime = change.atime.map(seconds).or(set.atime);
            let mtime = change.mtime.map(|time| RootTime {
                set: seconds(time),
                made: self.newest.load(SeqCst),
            });
            set.mtime = mtime.or(set.mtime);
        });
    }

    /// Tells a handle that wrote of every sync failure since it was last told (promise P9).
    fn unseen_failure(&self, open: &Open, tell: bool) -> Result<()> {
        let failures = self.sync_failures.load(SeqCst);
        let seen = if tell {
            open.seen_failures.swap(failures, SeqCst)
        } else {
            open.seen_failures.load(SeqCst)
        };
        if open.wrote.load(SeqCst) && seen < failures {
            Err(Errno::EIO)
        } else {
            Ok(())
        }
    }
}
