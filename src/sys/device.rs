//! Device numbers, as the kernel shows them in several places.

use std::fmt;
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
