//! Opening a source: what it is, who else uses it, and with which locks (promise P18).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::lock::{self, Intent};
use super::uncached::UncachedReads;
use super::{Source, holders};
use crate::config::VolumeConfig;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::sys;

/// A source that is open and locked.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The image.
    pub source: Source,
    /// Its path with all links resolved.
    pub path: PathBuf,
}

/// What a path turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathKind {
    File,
    Device,
}

/// Opens `path` and takes its locks. With `writable` a conflict with another user of the source is an error that
/// names it, unless `force`; without, somebody who may write the source is worth a warning.
pub(crate) fn open(path: &Path, config: &VolumeConfig) -> Result<Opened> {
    let shown = path.display();
    if config.resize {
        create_missing(path)?;
    }
    let path = std::fs::canonicalize(path).map_err(|e| refused(path, &e))?;
    let kind = kind_of(&path)?;
    if config.resize && kind == PathKind::Device {
        return Err(Failure::usage(format!(
            "opening {}: --resize is for image files; a device has the size it has",
            path.display()
        )));
    }
    if let (Some(snapshot), PathKind::Device) = (&config.snapshot, kind) {
        return Err(Failure::usage(format!(
            "opening {}: {} is for image files; make a snapshot of the device with its own means, such as lvcreate -s",
            path.display(),
            snapshot.typed
        )));
    }
    let look = open_as(&path, OFlag::empty(), false).map_err(|e| refused(&path, &e))?;
    let mut conflicts = Conflicts::new(config, &path);
    for holder in holders::find(&look) {
        if config.writable || holder.writes {
            conflicts.add(&holder.to_string());
        }
    }
    conflicts.refuse_if_any()?;
    if config.writable && kind == PathKind::Device && is_read_only(&look) {
        return Err(Failure::usage(format!(
            "opening {} for writing: the device is read-only (blockdev --getro says 1)",
            path.display()
        )));
    }
    drop(look);

    let (file, exclusive) = open_for_use(&path, kind, config)?;
    if kind_of_file(&file) != Some(kind) {
        return Err(Failure::new(
            Status::MountFailed,
            format!("opening {shown}: it was replaced meanwhile"),
        ));
    }
    let intent = if config.writable {
        Intent::Write
    } else {
        Intent::Read
    };
    let found = lock::acquire(&file, intent, config.resize)
        .or_fail(Status::System, || format!("locking {}", path.display()))?;
    for conflict in found {
        conflicts.add(&conflict.to_string());
    }
    conflicts.refuse_if_any()?;
    warn_of_formats(&file, &path);

    let alone = exclusive && conflicts.found.is_empty();
    let attempt = || format!("opening {}", path.display());
    let source = match kind {
        PathKind::File => Source::regular(file, !config.writable || !conflicts.found.is_empty()),
        PathKind::Device => {
            let alone = if alone {
                true
            } else {
                !set_direct(&file, &path).or_fail(Status::System, attempt)?
            };
            if alone {
                // Pages from before, which a file system may have bypassed since.
                posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                    .or_fail(Status::System, attempt)?;
            }
            Source::device(file, alone)
        }
    };
    Ok(Opened {
        source: source.or_fail(Status::System, attempt)?.named(&path),
        path,
    })
}

/// The canonical path of what [`open`] opens, also of an image that it will make.
pub(crate) fn canonical(path: &Path, config: &VolumeConfig) -> io::Result<PathBuf> {
    let found = std::fs::canonicalize(path);
    match (&found, path.parent(), path.file_name()) {
        (Err(e), Some(parent), Some(name)) if config.resize && e.kind() == ErrorKind::NotFound => {
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        _ => found,
    }
}

/// With --resize an image that is not there is made, empty.
fn create_missing(path: &Path) -> Result<()> {
    if is_among_devices(path) || std::fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map(|_| ())
        .map_err(|e| refused_writing(path, &e))
}

/// Whether a new file would lie in the file system of /dev, so that its name must be that of a device, mistyped. Other file
/// systems below /dev, like /dev/shm, are allowed.
fn is_among_devices(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|stat| stat.dev());
    path.starts_with("/dev") && path.parent().and_then(device) == device(Path::new("/dev"))
}

/// Opens with the access that the mount needs. Also says whether a block device is held exclusively.
fn open_for_use(path: &Path, kind: PathKind, config: &VolumeConfig) -> Result<(File, bool)> {
    if !config.writable {
        return open_as(path, OFlag::empty(), false)
            .map(|file| (file, false))
            .map_err(|e| refused(path, &e));
    }
    if kind == PathKind::File {
        return open_as(path, OFlag::empty(), true)
            .map(|file| (file, true))
            .map_err(|e| refused_writing(path, &e));
    }
    match open_as(path, OFlag::O_EXCL, true) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) && !config.force => Err(claimed(path, &e)),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) && config.force => {
            log::warn!(
                "{} is in use by somebody else; writing to it all the same (-o force)",
                path.display()
            );
            open_as(path, OFlag::empty(), true)
                .map(|file| (file, false))
                .map_err(|e| refused_writing(path, &e))
        }
        Err(e) => Err(refused_writing(path, &e)),
    }
}

/// Who has claimed a device, if its locks say it: most likely another bmapfs.
fn claimed(path: &Path, error: &io::Error) -> Failure {
    let holders = open_as(path, OFlag::empty(), false)
        .and_then(|file| lock::acquire(&file, Intent::Write, false))
        .unwrap_or_default();
    if holders.is_empty() {
        return refused_writing(path, error);
    }
    let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
    Failure::new(
        Status::MountFailed,
        format!(
            "opening {} for writing: {}; end that first",
            path.display(),
            holders.join(", and ")
        ),
    )
}

fn open_as(path: &Path, flags: OFlag, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits())
        .open(path)
}

/// Turns on direct I/O; `false` if this device has none.
fn set_direct(file: &File, path: &Path) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    match fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EINVAL) => {
            log::warn!(
                "{}: this device has no direct I/O: what a mounted file system writes may be seen late",
                path.display()
            );
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

fn is_read_only(file: &File) -> bool {
    sys::device::is_read_only(file.as_fd()).unwrap_or(false)
}

fn kind_of_file(file: &File) -> Option<PathKind> {
    let kind = file.metadata().ok()?.file_type();
    if kind.is_file() {
        Some(PathKind::File)
    } else if kind.is_block_device() {
        Some(PathKind::Device)
    } else {
        None
    }
}

/// What is at `path`, without opening it: opening a FIFO would wait for its other end.
fn kind_of(path: &Path) -> Result<PathKind> {
    let stat = std::fs::metadata(path).map_err(|e| refused(path, &e))?;
    let kind = stat.file_type();
    if kind.is_file() {
        return Ok(PathKind::File);
    }
    if kind.is_block_device() {
        return Ok(PathKind::Device);
    }
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a socket"
    };
    Err(Failure::usage(format!(
        "opening {}: it is {what}; SRC must be an image file or a block device",
        path.display()
    )))
}

/// An open(2) error as a failure: a usage error if the caller has no permission, else a failed mount.
fn refused(path: &Path, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::PermissionDenied => Status::Usage,
        _ => Status::MountFailed,
    };
    Failure::new(
        status,
        format!("opening {}: {}", path.display(), reason(error)),
    )
}

fn refused_writing(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(libc::EBUSY) => "; something else has claimed the device",
        Some(libc::EROFS) => "; mount it without -w to read it",
        Some(libc::EACCES | libc::EPERM) => {
            "; you may not write it: mount it without -w to read it"
        }
        _ => "",
    };
    let status = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Status::Usage,
        _ => Status::MountFailed,
    };
    Failure::new(
        status,
        format!(
            "opening {} for writing: {}{hint}",
            path.display(),
            reason(error)
        ),
    )
}

/// The system's words for an error, without the number that std adds.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Warns of a file that contains a disk in a format of its own (qcow2): what is shown is the file, not the disk.
fn warn_of_formats(file: &File, path: &Path) {
    let mut magic = [0; 4];
    let read = UncachedReads::default().read_at(file, &mut magic, 0);
    if read.is_ok_and(|len| len == magic.len()) && &magic == b"QFI\xfb" {
        log::warn!(
            "{} is a qcow2 file: the mount shows the file itself, not the disk in it",
            path.display()
        );
    }
}

/// Collects who else uses the source: refusals for a writer, warnings for a reader and with `-o force`.
#[derive(Debug)]
struct Conflicts<'a> {
    config: &'a VolumeConfig,
    path: &'a Path,
    found: Vec<String>,
}

impl<'a> Conflicts<'a> {
    fn new(config: &'a VolumeConfig, path: &'a Path) -> Self {
        Self {
            config,
            path,
            found: Vec::new(),
        }
    }

    fn add(&mut self, sentence: &str) {
        if self.found.iter().any(|known| known == sentence) {
            return;
        }
        // A snapshot is of one moment, whoever writes.
        if !self.config.writable && self.config.snapshot.is_none() {
            log::warn!(
                "{}: {sentence}; the copy may be of two moments",
                self.path.display()
            );
        } else if self.config.writable && self.config.force {
            log::warn!(
                "{}: {sentence}; writing to it all the same (-o force)",
                self.path.display()
            );
        }
        self.found.push(sentence.to_owned());
    }

    fn refuse_if_any(&self) -> Result<()> {
        if !self.config.writable || self.config.force || self.found.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Status::MountFailed,
            format!(
                "opening {} for writing: {}; end that first, or use -o force",
                self.path.display(),
                self.found.join(", and ")
            ),
        ))
    }
}
