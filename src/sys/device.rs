//! Block devices: their numbers, as the kernel shows them in several places, and what the kernel says of an open one.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// Major and minor number of a block device, or of the file system that a file is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DeviceNumber {
    /// Which driver; 0 for file systems without a device, which all of ours are.
    pub major: u64,
    /// Which of its devices; below 2^20.
    pub minor: u64,
}

impl DeviceNumber {
    /// From a number as stat(2) gives it.
    #[must_use]
    pub(crate) fn from_raw(device: u64) -> Self {
        Self {
            major: major(device),
            minor: minor(device),
        }
    }

    /// From `major:minor`, decimal, as sysfs and mountinfo have it.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// Where a block device is described below `sys`, which is /sys but in tests.
    #[must_use]
    pub(crate) fn sysfs(self, sys: &Path) -> PathBuf {
        sys.join("dev/block").join(self.to_string())
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

nix::ioctl_read!(
    /// BLKGETSIZE64: size of a block device in bytes.
    blkgetsize64, 0x12, 114, usize
);
nix::ioctl_read_bad!(
    /// BLKROGET: whether a block device is read-only.
    blkroget, nix::request_code_none!(0x12, 94), libc::c_int
);
nix::ioctl_read_bad!(
    /// BLKSSZGET: logical block size in bytes.
    blksszget, nix::request_code_none!(0x12, 104), libc::c_int
);

/// Size of a block device in bytes, by the kernel's word. ENOTTY: not a block device.
pub(crate) fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: usize = 0;
    // SAFETY: BLKGETSIZE64 writes a u64 to the pointer; it points to a live usize, which is 64 bits wide on
    // every target that FUSE_MAX_PAGES exists for (checked below at compile time).
    unsafe { blkgetsize64(fd.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes as u64)
}
const _: () = assert!(size_of::<usize>() == 8, "BLKGETSIZE64 writes 64 bits");

/// Whether a block device refuses writes.
pub(crate) fn is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut read_only: libc::c_int = 0;
    // SAFETY: BLKROGET writes an int to the pointer, which points to a live one.
    unsafe { blkroget(fd.as_raw_fd(), &raw mut read_only) }?;
    Ok(read_only != 0)
}

/// The unit, in bytes, that direct I/O on a block device must be aligned to. A power of two, at least 512.
pub(crate) fn sector(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes an int to the pointer, which points to a live one.
    unsafe { blksszget(fd.as_raw_fd(), &raw mut bytes) }?;
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && *bytes >= 512)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

nix::ioctl_read!(
    /// BLKGETDISKSEQ: the number that a disk got when it appeared.
    blkgetdiskseq, 0x12, 128, u64
);

/// The number of the disk behind an open block device, which no other disk gets before the next boot. ENOTTY: this
/// kernel (before 5.15) gives none.
pub(crate) fn sequence(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut sequence: u64 = 0;
    // SAFETY: BLKGETDISKSEQ writes a u64 to the pointer, which points to a live one.
    unsafe { blkgetdiskseq(fd.as_raw_fd(), &raw mut sequence) }?;
    Ok(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_they_are_shown() {
        let number = DeviceNumber {
            major: 259,
            minor: 1_048_575,
        };
        assert_eq!(DeviceNumber::parse(&format!("{number}\n")), Some(number));
        for text in ["", "8", "8:", ":1", "8:x", "8:1:2"] {
            assert_eq!(DeviceNumber::parse(text), None, "{text}");
        }
    }
}
