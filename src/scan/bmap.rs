//! A block map of an image in the format bmap 2.0: which of its units of 4096 bytes have data, with the SHA-256 of each
//! run of them. It is made from the bytes that a scan reads for its digests, so that nothing is read twice.
//!
//! Invariant: every byte that is not in a hole is in exactly one run, and the sum of a run is of what was hashed.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::ZEROS;
use crate::geometry::BlockIndex;

/// The format's block size, in bytes, as all makers of such maps have it.
const UNIT: u64 = 4096;
/// What stands in place of the map's own sum while that is computed.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A run of units with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    sum: [u8; 32],
}

/// The map of one image, while it is scanned by many threads and after.
#[derive(Debug, Default)]
pub(crate) struct BlockMap {
    runs: Mutex<Vec<Run>>,
    unreadable: Mutex<Option<BlockIndex>>,
}

/// A part of the map, made by one thread from one piece of the image, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Part {
    /// Up to where in the image it is made. While no run is open, what lies before in this unit is hole.
    at: u64,
    open: Option<(u64, Sha256)>,
    runs: Vec<Run>,
}

impl Part {
    /// From byte `at` of the image on, which is a multiple of 4096.
    pub(super) fn new(at: u64) -> Self {
        Self {
            at,
            open: None,
            runs: Vec::new(),
        }
    }

    /// The next bytes are these.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        let (_, sum) = self.open.get_or_insert_with(|| {
            let mut sum = Sha256::new();
            update_zeros(&mut sum, self.at % UNIT);
            (self.at / UNIT, sum)
        });
        sum.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// The next `len` bytes are a hole.
    pub(super) fn hole(&mut self, len: u64) {
        let rest = self.at.next_multiple_of(UNIT) - self.at;
        if let Some((_, sum)) = self.open.as_mut().filter(|_| len > 0) {
            // The rest of a unit that has data.
            update_zeros(sum, rest.min(len));
            if rest <= len {
                self.at += rest;
                self.end_run();
                self.at += len - rest;
                return;
            }
        }
        self.at += len;
    }

    /// Here ends a run, if one is open.
    fn end_run(&mut self) {
        if let Some((first, sum)) = self.open.take() {
            self.runs.push(Run {
                first,
                last: (self.at - 1) / UNIT,
                sum: sum.finalize().into(),
            });
        }
    }
}

/// Adds less than a unit of zeros.
fn update_zeros(sum: &mut Sha256, len: u64) {
    let len = usize::try_from(len).unwrap_or(0);
    sum.update(&ZEROS[..len]);
}

impl BlockMap {
    /// What a map in a file begins with.
    pub(crate) const BEGINNING: &[u8] = b"<?xml ";

    /// A part is done.
    pub(super) fn add(&self, mut part: Part) {
        part.end_run();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.append(&mut part.runs);
    }

    /// A block cannot be read: there is no map.
    pub(super) fn fail(&self, block: BlockIndex) {
        let mut unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unreadable = Some(unreadable.map_or(block, |known| known.min(block)));
    }

    /// The first block that could not be read, so that the map is not whole.
    #[must_use]
    pub(crate) fn unreadable(&self) -> Option<BlockIndex> {
        *self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the map of an image of `size` bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write(&self, size: u64, out: impl Write) -> io::Result<()> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.sort_unstable_by_key(|run| run.first);
        let mut sum = Sha256::new();
        render(&runs, size, NO_SUM, &mut sum)?;
        let mut out = BufWriter::new(out);
        render(&runs, size, &hex(&sum.finalize()), &mut out)?;
        out.flush()
    }
}

fn render(runs: &[Run], size: u64, sum: &str, out: &mut impl Write) -> io::Result<()> {
    let count = size.div_ceil(UNIT);
    let mapped: u64 = runs.iter().map(|run| run.last - run.first + 1).sum();
    write!(
        out,
        "<?xml version=\"1.0\" ?>\n\
         <bmap version=\"2.0\">\n    \
         <ImageSize> {size} </ImageSize>\n    \
         <BlockSize> {UNIT} </BlockSize>\n    \
         <BlocksCount> {count} </BlocksCount>\n    \
         <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    \
         <ChecksumType> sha256 </ChecksumType>\n    \
         <BmapFileChecksum> {sum} </BmapFileChecksum>\n    \
         <BlockMap>\n"
    )?;
    for run in runs {
        let Run { first, last, sum } = run;
        let sum = hex(sum);
        if first == last {
            writeln!(out, "        <Range chksum=\"{sum}\"> {first} </Range>")?;
        } else {
            writeln!(
                out,
                "        <Range chksum=\"{sum}\"> {first}-{last} </Range>"
            )?;
        }
    }
    out.write_all(b"    </BlockMap>\n</bmap>\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
