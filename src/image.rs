//! The source: an image file or block device as a run of bytes with a size, holes and a history of writes.
//!
//! Everything above talks to the trait [`Image`]; [`Source`] is the real one. An image knows no blocks and
//! no mount point. All offsets are bytes from its start.

pub(crate) mod activity;
mod behind;
mod direct;
mod extents;
pub(crate) mod fingerprint;
pub(crate) mod holders;
pub(crate) mod lock;
mod open;
pub(crate) mod readahead;
mod source;
mod uncached;
mod zero;
pub(crate) mod zeros;

#[cfg(test)]
pub(crate) mod faulty;

use std::fmt;
use std::io;
use std::path::{Display, Path};

use crate::geometry::Span;

pub(crate) use behind::Behind;
pub(crate) use extents::believes as believes_holes;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use open::reason;
pub(crate) use open::{Opened, canonical, open};
pub(crate) use source::Source;

/// Owner and permission bits of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, as stat(2) gives them.
    pub mode: u32,
}

/// A positional, thread-safe run of bytes. A change that anyone makes to it is seen by the next call.
pub(crate) trait Image: fmt::Debug + Send + Sync {
    /// Its present size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads once; may return less than asked for. 0: the image ends here.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes once, inside the image; may write less than given. Touches no byte outside the range. EIO: the range
    /// is not all inside the image.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes exactly these bytes zeros, and frees their space where the image can. EIO as for `write_at`.
    fn zero(&self, span: Span) -> io::Result<()>;

    /// Provides space for these bytes where the image can; changes none of them.
    fn reserve(&self, span: Span) -> io::Result<()>;

    /// Makes the image `size` bytes long; what is new is a hole. EOPNOTSUPP: its size is not ours to change.
    fn set_len(&self, size: u64) -> io::Result<()> {
        let _ = size;
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    /// Whether `next_data` tells of holes at all.
    fn has_holes(&self) -> bool {
        true
    }

    /// Makes all writes so far durable.
    fn sync(&self, data_only: bool) -> io::Result<()>;

    /// The first byte at or after `from` that is not in a hole; `None` if the rest is all hole, or past the end.
    /// Where holes cannot be believed, everything is data, also what is past the end.
    fn next_data(&self, from: u64) -> io::Result<Option<u64>>;

    /// The first byte at or after `from` that is in a hole; the image's end or any number past it if none is.
    fn next_hole(&self, from: u64) -> io::Result<u64>;

    /// Makes what `next_data` says trustworthy: flushes what other programs have written and the file system
    /// has not yet laid out. Cheap if nothing was written since the last call.
    fn flush(&self) -> io::Result<()>;

    /// Gives a file the present time as its mtime. A device keeps none.
    fn touch(&self) -> io::Result<()>;

    /// The mtime of a regular file, in seconds and nanoseconds. `None`: it is a device.
    fn mtime(&self) -> io::Result<Option<(i64, i64)>>;

    /// Flushes the image and notes what can later prove that it was not written since.
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(Fingerprint::Unknown)
    }

    /// Whether nobody can write it.
    fn is_moment(&self) -> bool {
        false
    }

    /// As `read_at`, for bytes that are wanted once: what was not in the page cache before is not there after.
    fn read_once(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(out, offset)
    }

    /// The smallest piece, in bytes, that can be read on its own: so much is lost with one bad byte.
    fn sector(&self) -> u64;

    /// Whether each read goes to the device, so that reading ahead pays.
    fn is_direct(&self) -> bool;

    /// Owner and permission bits.
    fn ownership(&self) -> Ownership;

    /// What it is called in messages: its canonical path.
    fn name(&self) -> Display<'_> {
        Path::new("the image").display()
    }
}

/// What [`read_span`] got.
#[derive(Debug)]
pub(crate) struct ReadOutcome {
    /// How many bytes, from the start.
    pub len: usize,
    /// Why not all of them.
    pub error: Option<io::Error>,
}

/// Reads all of `out` from `offset` on, or as much as there is before a bad place or the image's early end;
/// never zeros in place of data (promise P5).
pub(crate) fn read_span(image: &dyn Image, out: &mut [u8], offset: u64) -> ReadOutcome {
    let mut len = 0;
    while len < out.len() {
        match image.read_at(&mut out[len..], offset + len as u64) {
            Ok(0) => {
                let early = io::Error::from_raw_os_error(libc::EIO);
                return ReadOutcome {
                    len,
                    error: Some(early),
                };
            }
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                len += salvage(image, &mut out[len..], offset + len as u64);
                return ReadOutcome {
                    len,
                    error: Some(e),
                };
            }
        }
    }
    ReadOutcome { len, error: None }
}

/// Reads in ever smaller pieces up to the byte that cannot be read: one bad sector fails a whole large request
/// on a device. Returns how many bytes came.
fn salvage(image: &dyn Image, out: &mut [u8], offset: u64) -> usize {
    let mut len = 0;
    for piece in [4096, image.sector()] {
        while len < out.len() {
            let here = offset + len as u64;
            // To the next multiple of the piece, so that a direct read covers no neighbour.
            let step = usize::try_from(piece - here % piece).unwrap_or(1);
            let end = out.len().min(len + step);
            match image.read_at(&mut out[len..end], here) {
                Ok(n) if n > 0 => len += n,
                Ok(_) => return len,
                Err(_) => break,
            }
        }
    }
    len
}

/// Writes all of `data` at `offset`, or as much as can be: the error counts only if nothing could be written.
pub(crate) fn write_span(image: &dyn Image, data: &[u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < data.len() {
        match image.write_at(&data[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if len == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(len)
}
