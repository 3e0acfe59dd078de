//! A place for a file: a directory that is held open, and a name in it.
//!
//! Invariant: what is opened, made or replaced is in that directory, whatever is mounted or moved later, and it is a
//! regular file and not the image. No symbolic link is followed that somebody else may have put there, nor any that
//! has the name itself.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::StoreError;

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;
/// Everybody but the owner may write; only owners may rename and remove.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Which file it is, by whatever name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of the file that this is told of.
    #[must_use]
    pub(crate) fn of(stat: &Metadata) -> Self {
        Self {
            device: stat.dev(),
            inode: stat.ino(),
        }
    }

    fn of_stat(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// Why a file is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The index would destroy the image.
    #[error("it is the source itself")]
    Source,
    /// No regular file: what it is.
    #[error("it is {0}, and must be a regular file")]
    Kind(&'static str),
    /// A file of somebody else.
    #[error(
        "it has content and is no index: it is not overwritten; choose another FILE, or remove it"
    )]
    Foreign,
    /// Its lock file is somebody else's.
    #[error(
        "it has content that bmapfs did not write: it is not overwritten; choose another FILE, or remove it"
    )]
    ForeignLock,
    /// What is wrong is its lock file, of this name.
    #[error("its lock file {0}: {1}")]
    Lock(String, Box<Refused>),
    /// A link of this name, on the way to it.
    #[error(
        "the symbolic link {0} is in a directory that others can write, and is not followed; name the file that it \
         leads to"
    )]
    Link(String),
}

impl Refused {
    /// Whether no file that was named so can be right, as with an image that is a FIFO.
    #[must_use]
    pub(crate) fn is_mistake(&self) -> bool {
        match self {
            Self::Source | Self::Kind(_) => true,
            Self::Foreign | Self::ForeignLock | Self::Link(_) => false,
            Self::Lock(_, why) => why.is_mistake(),
        }
    }
}

/// Where a file is, or is to be.
#[derive(Debug)]
pub(super) struct Spot {
    directory: File,
    name: OsString,
    /// The image: whatever name it has here, it is left alone.
    source: Option<FileId>,
}

impl Spot {
    /// The place that `path` means: through links, also one that leads to nothing yet.
    pub(super) fn find(path: &Path, source: Option<FileId>) -> Result<Self, StoreError> {
        let mut left = parts(&std::path::absolute(path)?);
        let mut directory = root()?;
        let mut links = 0;
        while let Some(part) = left.pop() {
            let last = left.is_empty() && part != "..";
            let stat = match fstatat(&directory, part.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) if last => None,
                stat => Some(stat.map_err(io::Error::from)?),
            };
            let link = stat.filter(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFLNK);
            if last && link.is_none() {
                return Ok(Self {
                    directory,
                    name: part,
                    source,
                });
            }
            // The text of a link of /proc is not all that it means.
            let magic = !last && is_in_proc(&directory);
            let Some(link) = link.filter(|_| !magic) else {
                directory = open_directory(&directory, &part)?;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from(Errno::ELOOP).into());
            }
            let above = fstat(&directory).map_err(io::Error::from)?;
            if !may_follow(&above, &link) {
                return Err(Refused::Link(part.to_string_lossy().into_owned()).into());
            }
            let target = readlinkat(&directory, part.as_os_str()).map_err(io::Error::from)?;
            let target = PathBuf::from(target);
            if target.is_absolute() {
                directory = root()?;
            }
            left.extend(parts(&target));
        }
        Err(Refused::Kind("a directory").into())
    }

    /// The name.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The file of this name beside it. `None`: there is none.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<FileId>, StoreError> {
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(io::Error::from(e).into()),
            Ok(stat) => self.check(&stat).map(Some),
        }
    }

    /// Opens the file of this name beside it; with `O_CREAT` for its owner alone.
    pub(super) fn open(&self, name: &OsStr, flags: OFlag) -> Result<File, StoreError> {
        // First: merely opening a device may have effects.
        self.look(name)?;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(io::Error::from)?;
        self.check(&fstat(&file).map_err(io::Error::from)?)?;
        Ok(File::from(file))
    }

    /// Removes the name `name` beside it, if it is there.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), StoreError> {
        if let Err(refused @ StoreError::Refused(Refused::Source)) = self.look(name) {
            return Err(refused);
        }
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(io::Error::from(e).into()),
        }
    }

    /// Puts the file of this name in the place of what is there, for good.
    pub(super) fn replace_by(&self, name: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::from(openat(&self.directory, ".", flags, Mode::empty())?);
        renameat(
            &self.directory,
            name,
            &self.directory,
            self.name.as_os_str(),
        )?;
        directory.sync_all()
    }

    /// Whether the directory is `above`, or below it, also by way of a bind mount.
    pub(super) fn is_below(&self, above: FileId) -> io::Result<bool> {
        let mut directory = self.directory.try_clone()?;
        let mut here = FileId::of_stat(&fstat(&directory)?);
        loop {
            if here == above {
                return Ok(true);
            }
            directory = open_directory(&directory, OsStr::new(".."))?;
            let parent = FileId::of_stat(&fstat(&directory)?);
            if parent == here {
                return Ok(false);
            }
            here = parent;
        }
    }

    fn check(&self, stat: &FileStat) -> Result<FileId, StoreError> {
        let id = FileId::of_stat(stat);
        if self.source == Some(id) {
            return Err(Refused::Source.into());
        }
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => return Ok(id),
            libc::S_IFDIR => "a directory",
            libc::S_IFIFO => "a FIFO",
            libc::S_IFSOCK => "a socket",
            libc::S_IFBLK => "a block device",
            libc::S_IFCHR => "a character device",
            _ => "a symbolic link",
        };
        Err(Refused::Kind(kind).into())
    }
}

/// What a path consists of, the last first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn root() -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open("/", flags, Mode::empty())?.into())
}

fn open_directory(directory: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?.into())
}

fn is_in_proc(directory: &File) -> bool {
    fstatfs(directory).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC)
}

/// As `fs.protected_symlinks`: what everybody may put into a sticky directory is followed only if it is our own or the
/// directory owner's. Where others may also rename and remove, nothing is.
fn may_follow(directory: &FileStat, link: &FileStat) -> bool {
    if directory.st_mode & OTHERS_WRITE == 0 {
        return true;
    }
    let owners = [geteuid().as_raw(), directory.st_uid];
    directory.st_mode & STICKY != 0 && owners.contains(&link.st_uid)
}
