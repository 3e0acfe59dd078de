//! Direct I/O on a device that others may write: whole sectors of aligned memory, any bytes to the caller.
//!
//! Reads and writes past a file system's or a partition's page cache are seen at once, and nothing of ours is
//! cached beside theirs (promise P4).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use crate::buffer::{ALIGNMENT, AlignedBuffer};
use crate::geometry::Span;

/// Direct I/O in units of the device's sector.
#[derive(Debug)]
pub(super) struct Direct {
    sector: u64,
    /// Held shared by writes of whole sectors, exclusively by those that read a sector, change a part of it and
    /// write it back: what a neighbour writes meanwhile must not be undone.
    edges: RwLock<()>,
}

impl Direct {
    /// For a device with this logical block size in bytes.
    pub(super) fn new(sector: u64) -> Self {
        Self {
            sector,
            edges: RwLock::new(()),
        }
    }

    /// The whole sectors around `len` bytes at `offset`.
    fn around(&self, offset: u64, len: usize) -> Span {
        let end = offset + len as u64;
        Span::new(
            offset - offset % self.sector,
            end.next_multiple_of(self.sector),
        )
    }

    fn is_aligned(&self, bytes: &[u8], offset: u64) -> bool {
        bytes.as_ptr().align_offset(ALIGNMENT) == 0
            && offset % self.sector == 0
            && bytes.len() as u64 % self.sector == 0
    }

    /// One read; may be short.
    pub(super) fn read_at(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_aligned(out, offset) {
            return file.read_at(out, offset);
        }
        let around = self.around(offset, out.len());
        let mut bounce = AlignedBuffer::new();
        let bounce = bounce.get(length(around)?);
        let got = file.read_at(bounce, around.start)?;
        let skip = length(Span::new(around.start, offset))?;
        let usable = got.saturating_sub(skip).min(out.len());
        out[..usable].copy_from_slice(&bounce[skip..skip + usable]);
        Ok(usable)
    }

    /// One write of all of `data`, or an error.
    pub(super) fn write_at(&self, file: &File, data: &[u8], offset: u64) -> io::Result<usize> {
        let around = self.around(offset, data.len());
        let mut bounce = AlignedBuffer::new();
        let bounce = bounce.get(length(around)?);
        let skip = length(Span::new(around.start, offset))?;
        if skip == 0 && bounce.len() == data.len() {
            let _shared = self.edges.read().unwrap_or_else(PoisonError::into_inner);
            bounce.copy_from_slice(data);
            file.write_all_at(bounce, around.start)?;
            return Ok(data.len());
        }
        let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
        let sector = usize::try_from(self.sector).map_err(io::Error::other)?;
        let last = bounce.len() - sector;
        file.read_exact_at(&mut bounce[..sector], around.start)?;
        if last > 0 {
            file.read_exact_at(&mut bounce[last..], around.end - self.sector)?;
        }
        bounce[skip..skip + data.len()].copy_from_slice(data);
        file.write_all_at(bounce, around.start)?;
        Ok(data.len())
    }
}

fn length(span: Span) -> io::Result<usize> {
    usize::try_from(span.len()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // On an ordinary file, which takes any alignment, the sums are what is tested.
        #[test]
        fn bytes_outside_the_range_stay(offset in 0_u64..9000, len in 1_usize..9000) {
            let file = tempfile::tempfile().unwrap();
            let before: Vec<u8> = (0..20_480_u32).map(|i| (i % 251) as u8).collect();
            file.write_all_at(&before, 0).unwrap();
            let direct = Direct::new(512);
            let data = vec![0xEE; len];
            prop_assert_eq!(direct.write_at(&file, &data, offset).unwrap(), len);
            let mut model = before;
            let start = usize::try_from(offset).unwrap();
            model[start..start + len].copy_from_slice(&data);
            let mut after = vec![0; model.len()];
            file.read_exact_at(&mut after, 0).unwrap();
            prop_assert!(after == model);
            let mut part = vec![0; len + 3];
            prop_assert_eq!(direct.read_at(&file, &mut part, offset).unwrap(), len + 3);
            prop_assert!(part[..] == model[start..start + len + 3]);
        }
    }
}
