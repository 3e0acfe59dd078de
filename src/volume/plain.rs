//! A file whose content is known from the start and never changes: an entry of the directory above several volumes.

use std::ffi::OsStr;

use super::inode::Inode;
use super::{
    Allocate, Attr, Change, Create, Errno, FileKind, Handle, Listed, LookupEntry, Result, Seek,
    Space, Volume,
};
use crate::config::OwnerConfig;

/// The only handle: reading keeps nothing.
const READING: Handle = Handle(1);

/// The file, which is its volume's root.
#[derive(Debug)]
pub(crate) struct Plain {
    content: Vec<u8>,
    attr: Attr,
}

impl Plain {
    /// `stamp`: its time. It is for its owner alone, who is the user who mounts unless `owner` says otherwise.
    pub(crate) fn new(content: Vec<u8>, stamp: i64, owner: OwnerConfig) -> Self {
        let size = content.len() as u64;
        let attr = Attr {
            inode: Inode::Root,
            kind: FileKind::File,
            size,
            sectors: size.div_ceil(512),
            stamp,
            atime: stamp,
            mode: 0o600,
            links: 1,
            uid: owner.uid.unwrap_or(nix::unistd::geteuid().as_raw()),
            gid: owner.gid.unwrap_or(nix::unistd::getegid().as_raw()),
        };
        Self { content, attr }
    }

    fn from(&self, offset: u64) -> &[u8] {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.content.get(offset..).unwrap_or_default()
    }
}

impl Volume for Plain {
    fn lookup(&self, _: Inode, _: &OsStr) -> Result<LookupEntry> {
        Err(Errno::ENOTDIR)
    }

    fn attr(&self, inode: Inode) -> Result<Attr> {
        match inode {
            Inode::Root => Ok(self.attr),
            _ => Err(Errno::ENOENT),
        }
    }

    fn change(&self, _: Inode, _: &Change) -> Result<Attr> {
        Err(Errno::EROFS)
    }

    fn open(&self, _: Inode, write: bool) -> Result<Handle> {
        if write {
            Err(Errno::EROFS)
        } else {
            Ok(READING)
        }
    }

    fn read_and(
        &self,
        _: Handle,
        offset: u64,
        out: &mut [u8],
        _: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        let rest = self.from(offset);
        reply(Ok(&rest[..rest.len().min(out.len())]));
    }

    fn write(&self, _: Handle, _: u64, _: &[u8]) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn flush(&self, _: Handle) -> Result<()> {
        Ok(())
    }

    fn sync(&self, _: Handle, _: bool) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: Handle) {}

    fn allocate(&self, _: Handle, _: Allocate, _: bool, _: u64, _: u64) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn seek(&self, _: Handle, offset: u64, towards: Seek) -> Result<u64> {
        match towards {
            _ if offset >= self.attr.size => Err(Errno::ENXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(self.attr.size),
        }
    }

    fn open_directory(&self, _: Inode) -> Result<Handle> {
        Err(Errno::ENOTDIR)
    }

    fn list(&self, _: Handle, _: u64, _: &mut dyn FnMut(&Listed<'_>) -> bool) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn release_directory(&self, _: Handle) {}

    fn create(&self, _: Inode, _: &OsStr, _: &Create) -> Result<(LookupEntry, Handle)> {
        Err(Errno::ENOTDIR)
    }

    fn remove(&self, _: Inode, _: &OsStr) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    fn rename(&self, _: &OsStr, _: &OsStr, _: bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn space(&self) -> Space {
        Space {
            bytes: self.attr.size,
            files: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_it_was_given() {
        let plain = Plain::new(b"content".to_vec(), 7, OwnerConfig::default());
        let attr = plain.attr(Inode::Root).unwrap();
        assert_eq!((attr.size, attr.stamp, attr.kind), (7, 7, FileKind::File));
        for (offset, len, expected) in [
            (0, 100, &b"content"[..]),
            (2, 3, b"nte"),
            (6, 9, b"t"),
            (7, 1, b""),
            (u64::MAX, 1, b""),
        ] {
            let mut buffer = vec![0; len];
            let mut got = None;
            plain.read_and(READING, offset, &mut buffer, false, &mut |bytes| {
                got = Some(bytes.unwrap().to_vec());
            });
            assert_eq!(got.unwrap(), expected, "{offset}+{len}");
        }
        assert_eq!(plain.open(Inode::Root, true), Err(Errno::EROFS));
        assert_eq!(plain.seek(READING, 3, Seek::Hole), Ok(7));
        assert_eq!(plain.seek(READING, 7, Seek::Data), Err(Errno::ENXIO));
    }
}
