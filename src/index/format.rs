//! The index file: bytes to records and back. Pure functions; every byte is checked.
//!
//! Layout: magic, records of [`RECORD`] bytes each, header as JSON, its length (u32), BLAKE3 of all before.
//! Numbers are little-endian. The header comes last so that it can tell when the file was finished. doc/INDEX-FORMAT.md
//! has all of it.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use super::file::RENAME_TAKES;
use super::record::{LASTING, Record};
use crate::changes::ImageState;
use crate::image::Fingerprint;
use crate::stamp::Stamp;

/// The first bytes of every index, with the version of the layout.
pub(super) const MAGIC: [u8; 16] = *b"bmapfs index 01\n";
/// Bytes of a record: digest, stamp, seconds from there to the block's latest stamp, flags.
pub(super) const RECORD: usize = 32 + 8 + 4 + 1;

/// Bytes of the closing sum.
const SUM: u64 = 32;

/// Everything in an index that is not about one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Length of a block in bytes.
    pub(super) block_size: u64,
    /// Size of the image in bytes when it was last scanned.
    pub(super) image_size: u64,
    /// How many records there are.
    pub(super) records: u64,
    /// The source's name, for people.
    pub(super) source: String,
    /// A daemon uses this index, or was killed while it did.
    pub(super) open: bool,
    /// No stamp that bmapfs made is later, as long as nothing later was saved.
    pub(super) ceiling: i64,
    /// No stamp is made before this second.
    pub(super) floor: i64,
    /// Before the last finished scan.
    #[serde(rename = "moment")]
    pub(super) fingerprint: Fingerprint,
    /// Where the file was written, so that a copy of an older one is known as such.
    pub(super) place: FilePlace,
    /// The state of the image that the digests describe, if somebody can tell what changes after it.
    #[serde(default)]
    pub(super) state: Option<ImageState>,
    /// Some digests are of that state, on others' word, and not of `fingerprint`, which may be later.
    #[serde(default)]
    pub(super) vouched: bool,
}

/// What only the file itself has, and no copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilePlace {
    /// Inode number.
    pub(crate) inode: u64,
    /// When the inode was made: seconds and nanoseconds; `None` where the file system does not keep it.
    pub(crate) born: Option<(i64, u32)>,
    /// Inode number of the lock beside it, and when that was made: an index that was moved to another's place is
    /// known by it.
    pub(crate) lock: Option<(u64, Option<(i64, u32)>)>,
    /// When it was finished, in seconds since the epoch.
    pub(crate) finished: i64,
}

impl FilePlace {
    /// Whether a file at `found`, in which this place stands, is not the one that was written, but a copy of it, or was
    /// moved or changed.
    pub(super) fn is_copied_to(&self, found: &Self) -> bool {
        self.inode != found.inode
            || self.born != found.born
            || self.lock != found.lock
            || (found.finished - self.finished).abs() > RENAME_TAKES
    }
}

/// Why bytes are no index. Shown in one log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("it is not an index of this version")]
    NotAnIndex,
    #[error("it is cut short or damaged")]
    Damaged,
}

/// One record as bytes.
pub(super) fn encode(record: &Record) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let (second, to_latest, flags) = record.stamp.to_store();
    bytes[..32].copy_from_slice(&record.digest);
    bytes[32..40].copy_from_slice(&second.to_le_bytes());
    bytes[40..44].copy_from_slice(&to_latest.to_le_bytes());
    bytes[44] = u8::try_from(flags & LASTING).unwrap_or(0);
    bytes
}

fn decode(bytes: &[u8; RECORD]) -> Record {
    let (digest, rest) = bytes.split_at(32);
    let (second, rest) = rest.split_at(8);
    let (to_latest, flags) = rest.split_at(4);
    Record {
        digest: digest.try_into().unwrap_or_default(),
        stamp: Stamp::stored(
            i64::from_le_bytes(second.try_into().unwrap_or_default()),
            u32::from_le_bytes(to_latest.try_into().unwrap_or_default()),
            u16::from(flags[0]) & LASTING,
        ),
        hashes: 0,
    }
}

/// What stands behind the records; `hasher` has seen everything before.
pub(super) fn trailer(header: &Header, mut hasher: blake3::Hasher) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(header)?;
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&len.to_le_bytes());
    hasher.update(&bytes);
    bytes.extend_from_slice(hasher.finalize().as_bytes());
    Ok(bytes)
}

/// Something that an index can be read from.
pub(crate) trait Input: Read + Seek {}

impl<T: Read + Seek> Input for T {}

/// Checks a whole file, then reads it: each record goes to `sink` in order once all of it is known to be right.
/// The outer error is that of reading.
pub(super) fn read(
    input: &mut dyn Input,
    mut sink: impl FnMut(usize, Record),
) -> io::Result<Result<Header, FormatError>> {
    let len = input.seek(SeekFrom::End(0))?;
    let Some(summed) = len
        .checked_sub(SUM)
        .filter(|summed| *summed >= MAGIC.len() as u64 + 4)
    else {
        return Ok(Err(FormatError::NotAnIndex));
    };
    input.rewind()?;
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Ok(Err(FormatError::NotAnIndex));
    }
    input.rewind()?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut Read::take(&mut *input, summed), &mut hasher)?;
    let mut sum = [0; 32];
    input.read_exact(&mut sum)?;
    if *hasher.finalize().as_bytes() != sum {
        return Ok(Err(FormatError::Damaged));
    }
    match read_checked(input, summed, &mut sink) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Err(FormatError::Damaged)),
        Err(e) => Err(e),
        Ok(header) => Ok(Ok(header)),
    }
}

/// `InvalidData`: the sum is right, but what it is of is not.
fn read_checked(
    input: &mut dyn Input,
    summed: u64,
    sink: &mut dyn FnMut(usize, Record),
) -> io::Result<Header> {
    let mut len = [0; 4];
    input.seek(SeekFrom::Start(summed - 4))?;
    input.read_exact(&mut len)?;
    let len = u64::from(u32::from_le_bytes(len));
    let first = MAGIC.len() as u64;
    let start = (summed - 4)
        .checked_sub(len)
        .filter(|start| *start >= first);
    let start = start.ok_or(io::ErrorKind::InvalidData)?;
    input.seek(SeekFrom::Start(start))?;
    let mut json = Vec::new();
    Read::take(&mut *input, len).read_to_end(&mut json)?;
    let header: Header = serde_json::from_slice(&json).map_err(|_| io::ErrorKind::InvalidData)?;
    let bytes = start - first;
    if bytes % RECORD as u64 != 0 || bytes / RECORD as u64 != header.records {
        return Err(io::ErrorKind::InvalidData.into());
    }
    input.seek(SeekFrom::Start(first))?;
    let mut records = BufReader::with_capacity(RECORD << 10, Read::take(&mut *input, bytes));
    let mut record = [0; RECORD];
    for number in 0.. {
        if bytes == (number as u64) * RECORD as u64 {
            break;
        }
        records.read_exact(&mut record)?;
        sink(number, decode(&record));
    }
    Ok(header)
}

#[cfg(test)]
mod tests;
