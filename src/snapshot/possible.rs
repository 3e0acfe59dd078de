//! Whether there can be snapshots in a directory, found out by making one.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use super::reference::is_believed;
use crate::sys;

/// What a file system can do for `--snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reflinks {
    /// Nothing: files cannot share their data.
    None,
    /// A clone can be served.
    Cloned,
    /// And the next one can be compared with it.
    Compared,
}

/// Clones a file without a name in `directory`.
///
/// # Errors
/// No file can be made there.
pub(crate) fn reflinks_in(directory: &Path) -> io::Result<Reflinks> {
    let content = [1; 4096];
    let mut source = tempfile::tempfile_in(directory)?;
    let target = tempfile::tempfile_in(directory)?;
    source.write_all(&content)?;
    match sys::files::clone_range(source.as_fd(), target.as_fd(), 4096) {
        Ok(()) if is_believed(&target) => Ok(Reflinks::Compared),
        Ok(()) => Ok(Reflinks::Cloned),
        Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS => Ok(Reflinks::None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_has_none() {
        assert_eq!(reflinks_in("/dev/shm".as_ref()).unwrap(), Reflinks::None);
    }

    #[test]
    fn a_directory_in_which_nothing_can_be_made_is_an_error() {
        assert!(reflinks_in("/proc".as_ref()).is_err());
    }
}
