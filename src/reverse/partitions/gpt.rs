//! A GUID partition table: a header and an array of entries, both with checksums, twice.

use std::io;

use super::{Disk, Partition, u32_at, u64_at};

const SIGNATURE: &[u8] = b"EFI PART";
/// Sectors that disks have, in bytes. Nothing in the image tells which; the header is in the second one.
const SECTORS: [u64; 2] = [512, 4096];
/// Lengths that a header can have, in bytes; at most a sector.
const SHORTEST_HEADER: usize = 92;
/// Where the header has its own checksum.
const CHECKSUM: std::ops::Range<usize> = 16..20;
/// The shortest entry, in bytes; others are multiples.
const ENTRY: usize = 128;
/// The longest array that is read, in bytes: 32768 entries, where 128 are usual. The kernel has the same limit.
const LONGEST_ARRAY: usize = 4 << 20;

/// Which of the two copies it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// At the image's beginning.
    First,
    /// At its end.
    Backup,
}

/// The partitions that the first copy tells of, or else the other. `None`: neither is whole.
pub(super) fn read(disk: &Disk<'_>) -> io::Result<Option<(Vec<Partition>, Copy)>> {
    for copy in [Copy::First, Copy::Backup] {
        for sector in SECTORS {
            let number = match copy {
                Copy::First => 1,
                Copy::Backup => (disk.span.len() / sector).saturating_sub(1),
            };
            if let Some(told) = read_copy(disk, sector, number)? {
                return Ok(Some((told, copy)));
            }
        }
    }
    Ok(None)
}

/// The copy whose header is sector `number`, if it is whole.
fn read_copy(disk: &Disk<'_>, sector: u64, number: u64) -> io::Result<Option<Vec<Partition>>> {
    let Ok(sector_len) = usize::try_from(sector) else {
        return Ok(None);
    };
    let Some(header) = disk.get(number * sector, sector_len)? else {
        return Ok(None);
    };
    let Some(array) = parse_header(&header, number) else {
        return Ok(None);
    };
    let Some(start) = array.first.checked_mul(sector) else {
        return Ok(None);
    };
    let Some(bytes) = disk.get(start, array.len)? else {
        return Ok(None);
    };
    if crc32fast::hash(&bytes) != array.checksum {
        return Ok(None);
    }
    let entries = (1..).zip(bytes.chunks_exact(array.entry));
    let used = entries.filter(|(_, entry)| entry[..16].iter().any(|byte| *byte != 0));
    Ok(Some(
        used.map(|(number, entry)| {
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            Partition::of_sectors(number, first, last.saturating_add(1), sector)
        })
        .collect(),
    ))
}

/// Where the entries are.
struct Array {
    /// The first sector.
    first: u64,
    /// Bytes in all.
    len: usize,
    /// Bytes of one.
    entry: usize,
    /// CRC-32 of all.
    checksum: u32,
}

/// What a header tells, if that is one and is sector `number`.
fn parse_header(sector: &[u8], number: u64) -> Option<Array> {
    let len = usize::try_from(u32_at(sector, 12)).ok()?;
    if !sector.starts_with(SIGNATURE) || len < SHORTEST_HEADER {
        return None;
    }
    let mut header = sector.get(..len)?.to_vec();
    header[CHECKSUM].fill(0);
    let is_whole = crc32fast::hash(&header) == u32_at(sector, CHECKSUM.start);
    if !is_whole || u64_at(sector, 24) != number {
        return None;
    }
    let count = usize::try_from(u32_at(sector, 80)).ok()?;
    let entry = usize::try_from(u32_at(sector, 84)).ok()?;
    let len = count.checked_mul(entry)?;
    let is_usual = entry > 0 && entry % ENTRY == 0 && len <= LONGEST_ARRAY;
    is_usual.then(|| Array {
        first: u64_at(sector, 72),
        len,
        entry,
        checksum: u32_at(sector, 88),
    })
}
