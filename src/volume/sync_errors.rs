//! Writes that could not be made durable: every handle that wrote is told of each failure once (promise P9).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::{Errno, Result};

/// The failures of a mount.
#[derive(Debug, Default)]
pub(crate) struct SyncErrors {
    count: AtomicU64,
}

/// What one handle knows of them.
#[derive(Debug)]
pub(crate) struct SeenErrors {
    wrote: AtomicBool,
    /// The failures that the handle was told of, or that are older than it.
    seen: AtomicU64,
}

impl SyncErrors {
    /// Writes could not be made durable.
    pub(crate) fn note(&self) {
        self.count.fetch_add(1, SeqCst);
    }

    /// For a handle that is opened now.
    pub(crate) fn of_new_handle(&self) -> SeenErrors {
        SeenErrors {
            wrote: AtomicBool::new(false),
            seen: AtomicU64::new(self.count.load(SeqCst)),
        }
    }

    /// EIO: the handle wrote, and there was a failure since it was told last. It stays to be told.
    pub(crate) fn look(&self, handle: &SeenErrors) -> Result<()> {
        handle.judge(self.count.load(SeqCst), handle.seen.load(SeqCst))
    }

    /// As [`Self::look`], and with that the handle has been told.
    pub(crate) fn tell(&self, handle: &SeenErrors) -> Result<()> {
        let failures = self.count.load(SeqCst);
        handle.judge(failures, handle.seen.swap(failures, SeqCst))
    }
}

impl SeenErrors {
    /// The handle is about to write.
    pub(crate) fn wrote(&self) {
        self.wrote.store(true, SeqCst);
    }

    /// The same, for what the handle is of from now on.
    pub(crate) fn handed_on(&self) -> Self {
        Self {
            wrote: AtomicBool::new(self.wrote.load(SeqCst)),
            seen: AtomicU64::new(self.seen.load(SeqCst)),
        }
    }

    fn judge(&self, failures: u64, seen: u64) -> Result<()> {
        if self.wrote.load(SeqCst) && seen < failures {
            Err(Errno::EIO)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_each_handle_that_wrote_is_told_of_each_failure_once() {
        let errors = SyncErrors::default();
        errors.note();
        let (writer, other, reader) = (
            errors.of_new_handle(),
            errors.of_new_handle(),
            errors.of_new_handle(),
        );
        writer.wrote();
        other.wrote();
        assert_eq!(errors.tell(&writer), Ok(()), "it was before the handle");
        errors.note();
        assert_eq!(errors.look(&writer), Err(Errno::EIO));
        assert_eq!(errors.tell(&writer), Err(Errno::EIO), "still to be told");
        assert_eq!(errors.look(&writer), Ok(()));
        assert_eq!(errors.tell(&writer), Ok(()));
        assert_eq!(errors.tell(&other), Err(Errno::EIO));
        assert_eq!(errors.tell(&reader), Ok(()), "it lost nothing");
        reader.wrote();
        assert_eq!(errors.tell(&reader), Ok(()), "what it writes comes after");
    }
}
