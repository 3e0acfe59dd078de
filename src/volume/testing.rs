//! For tests: reading that waits for the answer.

use super::{Errno, Handle, Result, Volume};

/// [`Volume::read_and`] as a function.
pub(crate) trait Read: Volume {
    /// Returns how many bytes.
    fn read(&self, handle: Handle, offset: u64, out: &mut [u8], whole: bool) -> Result<usize> {
        let mut got = Err(Errno::EIO);
        self.read_and(handle, offset, out, whole, &mut |served| {
            got = served.map(<[u8]>::len);
        });
        got
    }
}

impl<V: Volume> Read for V {}
