//! Making a clone of an image: a second file beside it that shares its bytes, as they are at one moment.
//!
//! Invariant: a clone is there as a whole or not at all, nobody but its owner can read it, it is locked for as long
//! as anybody here uses it, and it is never written once it has been made.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, futimens};
use nix::sys::time::TimeSpec;

use super::names::{self, Tag};
use crate::sys::{self, FlockKind};

/// How many times a clone is tried if somebody else removes it meanwhile, or the size of the source changes.
const ATTEMPTS: usize = 16;

/// Btrfs shares between two files only if both or none of them have this attribute (`chattr +C`), and that excludes
/// the other two, which a file may have from its directory.
const FS_NOCOW_FL: u32 = 0x0080_0000;
const FS_COMPR_FL: u32 = 0x4;
const FS_NOCOMP_FL: u32 = 0x400;

/// Why there is no clone.
#[derive(Debug)]
pub(super) enum CloneError {
    /// No file can be made in the directory.
    Directory(io::Error),
    /// The file system cannot share bytes between these files.
    Unsupported(io::Error),
    /// Anything else.
    Io(io::Error),
}

impl From<io::Error> for CloneError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Clones `source` into a new file of `directory`, and opens that for reading, with a shared lock. Also returns its
/// name. After a failure nothing is left. It is not durable yet.
pub(super) fn make(
    source: &File,
    directory: BorrowedFd<'_>,
    tag: &Tag,
    image: &Path,
) -> Result<(File, String), CloneError> {
    for _ in 0..ATTEMPTS {
        let name = tag.new_name(image);
        let Some(target) = create(directory, &name)? else {
            continue;
        };
        let done = fill(source, &target).and_then(|()| reopen(directory, &name, &target));
        match done {
            Ok(Some(file)) => return Ok((file, name)),
            Ok(None) => {}
            Err(e) => {
                remove_unfinished(directory, &name);
                return Err(e);
            }
        }
    }
    let why = "somebody else removes it at once";
    Err(CloneError::Io(io::Error::other(why)))
}

/// A new, empty file, locked. `None`: there is one of this name already, or somebody else removes it.
fn create(directory: BorrowedFd<'_>, name: &str) -> Result<Option<File>, CloneError> {
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let target = match openat(directory, name, flags, mode) {
        Ok(fd) => File::from(fd),
        Err(nix::errno::Errno::EEXIST) => return Ok(None),
        Err(e) => return Err(CloneError::Directory(e.into())),
    };
    match prepare(directory, name, &target) {
        Ok(ready) => Ok(ready.then_some(target)),
        Err(e) => {
            remove_unfinished(directory, name);
            Err(e.into())
        }
    }
}

/// `false`: somebody takes it away.
fn prepare(directory: BorrowedFd<'_>, name: &str, target: &File) -> io::Result<bool> {
    // Whatever the umask is.
    target.set_permissions(Permissions::from_mode(0o600))?;
    Ok(sys::try_flock(target.as_fd(), FlockKind::Shared)?
        && names::is_named(directory, name, target)?)
}

fn remove_unfinished(directory: BorrowedFd<'_>, name: &str) {
    if let Err(e) = names::remove(directory, name) {
        log::warn!("the unfinished snapshot {name} cannot be removed: {e}");
    }
}

/// Gives an empty file the content of `source`.
fn fill(source: &File, target: &File) -> Result<(), CloneError> {
    // So that what the clone has to flush, while nobody can write, is little.
    source.sync_all()?;
    share_attributes(source, target);
    for _ in 0..ATTEMPTS {
        let before = source.metadata()?;
        let began = SystemTime::now();
        let cloned = match before.len() {
            // No length would mean: to the end, wherever that is.
            0 => Ok(()),
            len => sys::files::clone_range(source.as_fd(), target.as_fd(), len),
        };
        let after = source.metadata()?;
        match cloned {
            Ok(()) if before.len() == after.len() => {
                if target.metadata()?.len() != before.len() {
                    return Err(io::Error::other("the clone has another size").into());
                }
                let moments = Moments {
                    before: (before.mtime(), before.mtime_nsec()),
                    after: (after.mtime(), after.mtime_nsec()),
                    began: seconds(began),
                    ended: seconds(SystemTime::now()),
                };
                let (seconds, nanos) = moments.mtime();
                futimens(
                    target,
                    &TimeSpec::UTIME_OMIT,
                    &TimeSpec::new(seconds, nanos),
                )
                .map_err(io::Error::from)?;
                return Ok(());
            }
            Err(e) if before.len() == after.len() => {
                return Err(match e.raw_os_error() {
                    Some(
                        libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY | libc::EINVAL | libc::ENOSYS,
                    ) => CloneError::Unsupported(e),
                    _ => CloneError::Io(e),
                });
            }
            _ => target.set_len(0)?,
        }
    }
    Err(io::Error::other("its size changes all the time").into())
}

/// What fails is for the clone itself to tell.
fn share_attributes(source: &File, target: &File) {
    let attributes = (
        sys::files::attributes(source.as_fd()),
        sys::files::attributes(target.as_fd()),
    );
    let (Ok(wanted), Ok(present)) = attributes else {
        return;
    };
    if (wanted ^ present) & FS_NOCOW_FL == 0 {
        return;
    }
    let others = present & !(FS_NOCOW_FL | FS_COMPR_FL | FS_NOCOMP_FL);
    // One cannot be set while another one goes.
    for attributes in [others, others | (wanted & FS_NOCOW_FL)] {
        if let Err(e) = sys::files::set_attributes(target.as_fd(), attributes) {
            log::debug!("giving a clone the attributes of its source: {e}");
        }
    }
}

/// The same file for reading, so that nothing here can write it. `None`: it is not there any more.
fn reopen(
    directory: BorrowedFd<'_>,
    name: &str,
    target: &File,
) -> Result<Option<File>, CloneError> {
    let file = match names::open_file(directory, name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let (one, other) = (file.metadata()?, target.metadata()?);
    let is_it = (one.dev(), one.ino()) == (other.dev(), other.ino());
    Ok((is_it && sys::try_flock(file.as_fd(), FlockKind::Shared)?).then_some(file))
}

/// Waits until this second ends. Then what was written before it ended has another time than what is written after, and
/// so have the clones of two runs that follow each other.
pub fn wait_for_a_second_of_its_own() {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let passed = Duration::from_nanos(u64::from(since.subsec_nanos()));
    std::thread::sleep(Duration::from_secs(1).saturating_sub(passed));
}

/// Whether `source` was written in this very second, so that a clone made now could not show that time.
pub fn is_written_just_now(source: &File) -> io::Result<bool> {
    Ok(source.metadata()?.mtime() == seconds(SystemTime::now()))
}

/// When a source was written last, by its own word before and after it was cloned, and when that was, in seconds.
#[derive(Debug, Clone, Copy)]
struct Moments {
    before: (i64, i64),
    after: (i64, i64),
    began: i64,
    ended: i64,
}

impl Moments {
    /// The time for the clone: that of the source, unless a later write may leave the source with the same second,
    /// which rsync would take for the same content. Then the second before, in which what is in the clone was not
    /// complete yet, and which no later content can have: a time that is a second too old costs nothing.
    fn mtime(self) -> (i64, i64) {
        let may_come_again = (self.began..=self.ended).contains(&self.after.0);
        if self.before == self.after && !may_come_again {
            self.after
        } else {
            (self.began - 1, 0)
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_may_come_again_is_not_taken_over() {
        for (before, after, began, ended, expected) in [
            ((50, 7), (50, 7), 100, 100, (50, 7)),
            ((99, 7), (99, 7), 100, 101, (99, 7)),
            // Of the future, which no write gives.
            ((900, 1), (900, 1), 100, 100, (900, 1)),
            // Written while it was cloned, or just before: more writes in that second look the same.
            ((50, 7), (100, 0), 100, 100, (99, 0)),
            ((100, 7), (100, 7), 100, 100, (99, 0)),
            ((101, 7), (101, 7), 100, 101, (99, 0)),
            ((50, 7), (99, 999), 100, 100, (99, 0)),
        ] {
            let moments = Moments {
                before,
                after,
                began,
                ended,
            };
            assert_eq!(moments.mtime(), expected, "{moments:?}");
        }
    }
}
