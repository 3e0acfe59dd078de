//! An open directory of block files: every system call that takes a name.
//!
//! Invariant: a name is looked up in this directory whatever its path has become, links are not followed, and a file
//! gets the name of a block only when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::geometry::BlockIndex;
use crate::image::{Ownership, believes_holes, lock};
use crate::volume::inode::{block_name, parse_block_name};

/// What came of taking the directory's lock.
#[derive(Debug)]
pub(super) enum Lock {
    /// It is ours.
    Taken,
    /// The file system has no locks, which was logged.
    Unsupported,
    /// Somebody has one that conflicts: a sentence for each.
    Conflicts(Vec<String>),
}

/// A directory that is open.
#[derive(Debug)]
pub(crate) struct Directory {
    file: File,
    /// Whether its file system's word on holes is believed.
    pub(super) believed: bool,
    device: u64,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(path)?;
        Ok(Self {
            believed: believes_holes(&file),
            device: file.metadata()?.dev(),
            file,
        })
    }

    /// Locks it for as long as it is open.
    pub(super) fn lock(&self, exclusive: bool) -> io::Result<Lock> {
        let intent = if exclusive {
            lock::Intent::Write
        } else {
            lock::Intent::Read
        };
        Ok(match lock::acquire_directory(&self.file, intent)? {
            None => Lock::Unsupported,
            Some(conflicts) if conflicts.is_empty() => Lock::Taken,
            Some(conflicts) => Lock::Conflicts(conflicts.iter().map(ToString::to_string).collect()),
        })
    }

    pub(super) fn ownership(&self) -> io::Result<Ownership> {
        let stat = self.file.metadata()?;
        Ok(Ownership {
            uid: stat.uid(),
            gid: stat.gid(),
            mode: stat.mode() & 0o7777,
        })
    }

    /// All names in it.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    pub(crate) fn stat(&self, block: BlockIndex) -> io::Result<FileStat> {
        let name = block_name(block);
        Ok(fstatat(
            &self.file,
            name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?)
    }

    /// Whether a block file is all hole, as far as stat(2) can tell and can be believed.
    pub(super) fn takes_nothing(&self, block: BlockIndex) -> bool {
        // A file may have been mounted on a name.
        self.believed
            && self
                .stat(block)
                .is_ok_and(|stat| stat.st_blocks == 0 && stat.st_dev == self.device)
    }

    /// Opens a block file. EIO: it is no regular file any more.
    pub(crate) fn open_block(&self, block: BlockIndex, write: bool) -> io::Result<File> {
        let access = if write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        // A FIFO would wait for its other end.
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = block_name(block);
        let open = |flags| openat(&self.file, name.as_os_str(), flags, Mode::empty());
        let opened = match open(flags | OFlag::O_NOATIME) {
            // Only the owner may leave the time of the last access as it is.
            Err(Errno::EPERM) => open(flags),
            opened => opened,
        };
        let file = File::from(opened?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }

    /// A new, empty file that will be this block. One at a time for each block.
    pub(super) fn temporary(&self, block: BlockIndex) -> io::Result<File> {
        let name = temporary_name(block);
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || {
            openat(
                &self.file,
                name.as_os_str(),
                flags,
                Mode::from_bits_retain(0o600),
            )
        };
        let opened = match open() {
            Err(Errno::EEXIST) => {
                // Of a mount that was killed.
                self.remove(&name)?;
                open()
            }
            opened => opened,
        };
        Ok(File::from(opened?))
    }

    /// Gives the temporary file its block's name. EEXIST, unless it may `replace`: there is such a file by now.
    pub(super) fn publish(&self, block: BlockIndex, replace: bool) -> io::Result<()> {
        let (from, to) = (temporary_name(block), block_name(block));
        let (from, to) = (from.as_os_str(), to.as_os_str());
        if !replace {
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&self.file, from, &self.file, to, flags) {
                // Not every file system can.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    if self.stat(block).is_ok() {
                        return Err(io::Error::from_raw_os_error(libc::EEXIST));
                    }
                }
                renamed => return Ok(renamed?),
            }
        }
        Ok(renameat(&self.file, from, &self.file, to)?)
    }

    /// Takes the temporary file of a block away again.
    pub(super) fn discard(&self, block: BlockIndex) {
        if let Err(e) = self.remove(&temporary_name(block)) {
            log::warn!("removing the temporary file of block {block}: {e}");
        }
    }

    /// Removes what writers that were killed have left. Only for whoever has the exclusive lock.
    pub(super) fn remove_leftovers(&self) {
        let names = self.names().unwrap_or_default();
        for name in names.iter().filter(|name| is_temporary_name(name)) {
            match self.remove(name) {
                Ok(()) => log::info!(
                    "removed {}, which a mount that was killed had left",
                    name.to_string_lossy()
                ),
                Err(e) => log::warn!("removing {}: {e}", name.to_string_lossy()),
            }
        }
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.file.sync_all() {
            // Where directories cannot be synced, names are not the file system's to lose.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            synced => synced,
        }
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir)?)
    }
}

/// Behind the block's name, so that no name of a block file begins with it.
const SUFFIX: &str = ".bmapfs-new";

fn temporary_name(block: BlockIndex) -> OsString {
    OsString::from(format!(".{block}{SUFFIX}"))
}

fn is_temporary_name(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix('.')?.strip_suffix(SUFFIX))
        .is_some_and(|digits| parse_block_name(OsStr::new(digits)).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_temporary_names_are_taken_for_leftovers() {
        let ours = temporary_name(BlockIndex::new(7).unwrap());
        assert_eq!(ours, ".00000007.bmapfs-new");
        assert!(is_temporary_name(&ours));
        for name in [
            "00000007",
            ".00000007.x8sQ1a",
            ".x.bmapfs-new",
            ".0000007.bmapfs-new",
        ] {
            assert!(!is_temporary_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_file_that_has_appeared_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let block = BlockIndex::new(3).unwrap();
        drop(directory.temporary(block).unwrap());
        // As after a kill: the temporary file is there already.
        drop(directory.temporary(block).unwrap());
        std::fs::write(place.path().join("00000003"), b"theirs").unwrap();
        let error = directory.publish(block, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        directory.discard(block);
        assert_eq!(directory.names().unwrap(), ["00000003"]);
        assert_eq!(
            std::fs::read(place.path().join("00000003")).unwrap(),
            b"theirs"
        );
    }
}
