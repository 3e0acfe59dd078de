//! What a mounted directory has to answer: the one interface between the FUSE adapter and what it shows.
//!
//! Plain Rust, no FUSE types. An error is an errno from the start, since that is all a client ever sees.
//! Implementations are called from many threads at once.

pub(crate) mod handles;
pub(crate) mod inode;
pub(crate) mod owner;
pub(crate) mod plain;
pub(crate) mod sync_errors;
#[cfg(test)]
pub(crate) mod testing;
mod top;
pub(crate) mod tree;

use std::ffi::OsStr;
use std::fmt;

pub(crate) use nix::errno::Errno;

use crate::clock::Clock;

use inode::Inode;

/// What every operation returns.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// The number of an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle(pub u64);

/// File or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// The root.
    Directory,
    /// Everything in it.
    File,
}

/// What stat(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attr {
    /// Which file.
    pub inode: Inode,
    /// Its kind.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub sectors: u64,
    /// mtime and ctime: whole seconds since the epoch.
    pub stamp: i64,
    /// atime: whole seconds since the epoch.
    pub atime: i64,
    /// Permission bits.
    pub mode: u16,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookupEntry {
    /// Its attributes.
    pub attr: Attr,
    /// Whether the name will stand for this inode for as long as the mount lives.
    pub lasting: bool,
}

/// A time that a client sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetTime {
    /// The time of the request.
    Now,
    /// Whole seconds since the epoch.
    At(i64),
}

impl SetTime {
    /// In seconds since the epoch, by the clock of whoever is asked.
    pub(crate) fn seconds(self, clock: &dyn Clock) -> i64 {
        match self {
            Self::Now => clock.now(),
            Self::At(seconds) => seconds,
        }
    }
}

/// What a setattr request changes; `None` is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// atime.
    pub atime: Option<SetTime>,
    /// mtime.
    pub mtime: Option<SetTime>,
}

/// How a file is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Create {
    /// Permission bits, after the creator's umask.
    pub mode: u32,
    /// The creator.
    pub uid: u32,
    /// The creator's group.
    pub gid: u32,
    /// `O_EXCL`: it must not be there.
    pub exclusive: bool,
    /// `O_TRUNC`: if it is there, it becomes empty.
    pub truncate: bool,
    /// It is opened for writing.
    pub write: bool,
}

/// Which way lseek(2) looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// What fallocate(2) is to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocate {
    /// Mode 0: provide the space, change no byte.
    Reserve,
    /// `PUNCH_HOLE` or `ZERO_RANGE`: make it zeros.
    Zero,
}

/// What statfs(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes in all; none of them is free.
    pub bytes: u64,
    /// How many files there are.
    pub files: u64,
}

/// An entry of a directory listing.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// What it is.
    pub entry: LookupEntry,
    /// The position to go on from after this entry.
    pub next: u64,
}

/// A directory of files, as the FUSE adapter sees it. All offsets and lengths are bytes of the file.
pub(crate) trait Volume: fmt::Debug + Send + Sync + 'static {
    /// The entry `name` of directory `parent`. ENOENT: there is none.
    fn lookup(&self, parent: Inode, name: &OsStr) -> Result<LookupEntry>;

    /// The attributes of a file.
    fn attr(&self, inode: Inode) -> Result<Attr>;

    /// Changes attributes; a refused length changes nothing. Returns the attributes after it.
    fn change(&self, inode: Inode, change: &Change) -> Result<Attr>;

    /// Opens a file.
    fn open(&self, inode: Inode, write: bool) -> Result<Handle>;

    /// Reads at `offset` into `out`, and gives what came to `reply`, once; what need not be waited for is done after that.
    /// Fewer bytes than asked for: the file's end, or a bad place in the source right behind. With `whole`, a bad place
    /// anywhere in the range is an error instead (a page cache would fill the rest with zeros).
    fn read_and(
        &self,
        handle: Handle,
        offset: u64,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    );

    /// Writes at `offset`, returns how many bytes went to the source.
    fn write(&self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize>;

    /// Called at each close(2) of a handle that may have written: the last chance to report an error.
    fn flush(&self, handle: Handle) -> Result<()>;

    /// Makes what was written through this handle durable.
    fn sync(&self, handle: Handle, data_only: bool) -> Result<()>;

    /// Forgets a handle.
    fn release(&self, handle: Handle);

    /// fallocate(2). With `keep_size` a range that goes past the file's end is cut there; EFBIG: without.
    fn allocate(
        &self,
        handle: Handle,
        what: Allocate,
        keep_size: bool,
        offset: u64,
        len: u64,
    ) -> Result<()>;

    /// lseek(2). ENXIO: no data behind `offset`, or `offset` at or past the end.
    fn seek(&self, handle: Handle, offset: u64, towards: Seek) -> Result<u64>;

    /// Opens a directory for listing.
    fn open_directory(&self, inode: Inode) -> Result<Handle>;

    /// Lists a directory from `position` (0: the start) until `sink` returns false, which means that it has no
    /// room for the entry it was just given.
    fn list(
        &self,
        handle: Handle,
        position: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<()>;

    /// Forgets a directory handle.
    fn release_directory(&self, handle: Handle);

    /// Creates and opens a file.
    fn create(&self, parent: Inode, name: &OsStr, create: &Create)
    -> Result<(LookupEntry, Handle)>;

    /// Removes a file.
    fn remove(&self, parent: Inode, name: &OsStr) -> Result<()>;

    /// Renames a file; `replace` is false with `RENAME_NOREPLACE`.
    fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<()>;

    /// Whether anything may be changed.
    fn is_writable(&self) -> bool;

    /// The errno for what a directory of block files never has: directories, links, device nodes.
    fn refuse(&self) -> Errno {
        if self.is_writable() {
            Errno::EPERM
        } else {
            Errno::EROFS
        }
    }

    /// statfs(2).
    fn space(&self) -> Space;
}
