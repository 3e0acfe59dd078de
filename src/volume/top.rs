//! The directory above several volumes: their names, and nothing else (promise P33).
//!
//! Invariant: nothing can be made, renamed or removed here. Owner, mode and times can be set, since a restore does that.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::inode::Inode;
use super::owner::{Content, Owners};
use super::{
    Allocate, Attr, Change, Create, Errno, FileKind, Handle, Listed, LookupEntry, Result, Seek,
    Space, Volume,
};
use crate::clock::Clock;
use crate::config::OwnerConfig;
use crate::image::Ownership;

/// The only handle: a listing keeps nothing.
const LISTING: Handle = Handle(1);

/// A volume in this directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    /// Under which [`super::tree::Tree`] knows it.
    pub(super) key: u64,
    pub(super) volume: Arc<dyn Volume>,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Top {
    /// In the order of their names.
    entries: Vec<Entry>,
    owners: Owners,
    clock: Arc<dyn Clock>,
}

impl Top {
    /// Of the user who mounts, unless `owner` says otherwise. Whoever may list one of the volumes may list their names.
    pub(super) fn new(entries: Vec<Entry>, owner: OwnerConfig, clock: Arc<dyn Clock>) -> Self {
        let modes = entries.iter().filter_map(|entry| {
            let attr = entry.volume.attr(Inode::Root).ok()?;
            Some(u32::from(attr.mode))
        });
        let source = Ownership {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mode: modes.fold(0, |all, mode| all | mode),
        };
        Self {
            owners: Owners::new(source, owner),
            entries,
            clock,
        }
    }

    /// The newest time of all that is below.
    fn newest(&self) -> Result<i64> {
        let mut newest = i64::MIN;
        for entry in &self.entries {
            newest = newest.max(entry.volume.attr(Inode::Root)?.stamp);
        }
        Ok(newest)
    }

    fn own_attr(&self) -> Result<Attr> {
        let newest = self.newest()?;
        let attr = self
            .owners
            .attr(Inode::Root, Content::Names, newest, newest);
        let directories = self.entries.iter().filter(|entry| !entry.is_file());
        let below = u32::try_from(directories.count()).unwrap_or(u32::MAX - 2);
        Ok(Attr {
            links: attr.links + below,
            ..attr
        })
    }
}

impl Entry {
    fn is_file(&self) -> bool {
        let attr = self.volume.attr(Inode::Root);
        attr.is_ok_and(|attr| attr.kind == FileKind::File)
    }

    fn looked_up(&self) -> Result<LookupEntry> {
        let attr = self.volume.attr(Inode::Root)?;
        Ok(LookupEntry {
            attr: Attr {
                inode: Inode::Other(self.key),
                ..attr
            },
            lasting: true,
        })
    }
}

impl Volume for Top {
    fn lookup(&self, _: Inode, name: &OsStr) -> Result<LookupEntry> {
        let mut entries = self.entries.iter();
        let found = entries.find(|entry| entry.name == name);
        found.ok_or(Errno::ENOENT)?.looked_up()
    }

    fn attr(&self, inode: Inode) -> Result<Attr> {
        match inode {
            Inode::Root => self.own_attr(),
            _ => Err(Errno::ENOENT),
        }
    }

    fn change(&self, inode: Inode, change: &Change) -> Result<Attr> {
        if !self.is_writable() {
            return Err(Errno::EROFS);
        }
        if change.size.is_some() {
            return Err(Errno::EISDIR);
        }
        let newest = self.newest()?;
        self.owners
            .change(inode, change, newest, self.clock.as_ref());
        self.attr(inode)
    }

    fn open(&self, _: Inode, _: bool) -> Result<Handle> {
        Err(Errno::EISDIR)
    }

    fn read_and(
        &self,
        _: Handle,
        _: u64,
        _: &mut [u8],
        _: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        reply(Err(Errno::EBADF));
    }

    fn write(&self, _: Handle, _: u64, _: &[u8]) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn flush(&self, _: Handle) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn sync(&self, _: Handle, _: bool) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn release(&self, _: Handle) {}

    fn allocate(&self, _: Handle, _: Allocate, _: bool, _: u64, _: u64) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn seek(&self, _: Handle, _: u64, _: Seek) -> Result<u64> {
        Err(Errno::EBADF)
    }

    fn open_directory(&self, inode: Inode) -> Result<Handle> {
        self.attr(inode).map(|_| LISTING)
    }

    fn list(
        &self,
        _: Handle,
        position: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        let dots = [".", ".."].map(OsStr::new);
        let names = self.entries.iter().map(|entry| (&*entry.name, Some(entry)));
        let all = dots.into_iter().map(|dots| (dots, None)).chain(names);
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        for (at, (name, entry)) in all.enumerate().skip(from) {
            let entry = match entry {
                Some(entry) => entry.looked_up()?,
                None => LookupEntry {
                    attr: self.own_attr()?,
                    lasting: true,
                },
            };
            let next = at as u64 + 1;
            if !sink(&Listed { name, entry, next }) {
                break;
            }
        }
        Ok(())
    }

    fn release_directory(&self, _: Handle) {}

    fn create(&self, _: Inode, name: &OsStr, create: &Create) -> Result<(LookupEntry, Handle)> {
        match self.lookup(Inode::Root, name) {
            Ok(_) if create.exclusive => Err(Errno::EEXIST),
            Ok(found) if found.attr.kind == FileKind::File => Err(self.refuse()),
            Ok(_) => Err(Errno::EISDIR),
            Err(_) => Err(self.refuse()),
        }
    }

    fn remove(&self, _: Inode, name: &OsStr) -> Result<()> {
        match self.lookup(Inode::Root, name)?.attr.kind {
            FileKind::Directory => Err(Errno::EISDIR),
            FileKind::File => Err(self.refuse()),
        }
    }

    fn rename(&self, _: &OsStr, _: &OsStr, _: bool) -> Result<()> {
        Err(self.refuse())
    }

    fn is_writable(&self) -> bool {
        self.entries.iter().any(|entry| entry.volume.is_writable())
    }

    fn space(&self) -> Space {
        let none = Space { bytes: 0, files: 1 };
        self.entries.iter().fold(none, |all, entry| {
            let space = entry.volume.space();
            Space {
                bytes: all.bytes.saturating_add(space.bytes),
                files: all.files.saturating_add(space.files),
            }
        })
    }
}
