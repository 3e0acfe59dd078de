//! The partitions that an image's GPT or MBR tells of, as far as they are sound.
//!
//! Tables are read as the kernel reads them: a GPT counts only behind a protective MBR, so that what is left of an old
//! one under a file system that takes the whole disk is none. The parser is our own because those of gpt, gptman and
//! mbrman (looked at in their versions 4.1, 3.1 and 0.6) end the process on tables that are merely damaged.

mod gpt;
mod mbr;

use std::fmt::Write as _;
use std::io;

use crate::geometry::Span;

/// How many faults are named.
const NAMED: usize = 3;

/// The image that a table is read from.
pub(super) struct Disk<'a> {
    /// The whole image.
    pub(super) span: Span,
    /// Fills a buffer with what the image has from an offset on, which lies inside.
    pub(super) read: &'a dyn Fn(&mut [u8], u64) -> io::Result<()>,
}

impl Disk<'_> {
    /// `len` bytes; `None` if the image does not have them all.
    fn get(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.span.end) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        (self.read)(&mut bytes, offset)?;
        Ok(Some(bytes))
    }
}

/// A partition: where a table says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its number in the table, from 1; logical ones from 5.
    pub(super) number: u32,
    /// Where in the image it lies.
    pub(super) span: Span,
}

impl Partition {
    /// From `first` up to, but without, `end`, both in sectors of `sector` bytes.
    fn of_sectors(number: u32, first: u64, end: u64, sector: u64) -> Self {
        // What is past the end of everything is past the image's, too.
        let span = Span::new(first.saturating_mul(sector), end.saturating_mul(sector));
        Self { number, span }
    }
}

/// What an image's tables tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Those that lie inside the image and apart from each other, by their numbers.
    pub(super) partitions: Vec<Partition>,
    /// The others.
    refused: Vec<(u32, &'static str)>,
    /// What is wrong with the tables themselves.
    faults: Vec<&'static str>,
}

impl Table {
    /// One sentence on all that is wrong; `None` if nothing is.
    pub(super) fn warning(&self) -> Option<String> {
        let mut said = self.faults.join("; ");
        for (index, (number, why)) in self.refused.iter().take(NAMED).enumerate() {
            let join = match index {
                0 if said.is_empty() => "not shown: ",
                0 => "; not shown: ",
                _ => ", ",
            };
            let _ = write!(said, "{join}partition {number} ({why})");
        }
        if self.refused.len() > NAMED {
            let _ = write!(said, " and {} others", self.refused.len() - NAMED);
        }
        (!said.is_empty()).then_some(said)
    }

    /// Takes what can be true. Of partitions that overlap none is believed.
    fn judge(&mut self, told: Vec<Partition>, image: Span) {
        let mut inside = Vec::new();
        for partition in told {
            if partition.span.end > image.end {
                let why = "it reaches past the image's end";
                self.refused.push((partition.number, why));
            } else if partition.span.is_empty() {
                let why = "it ends before it begins";
                self.refused.push((partition.number, why));
            } else {
                inside.push((partition, false));
            }
        }
        inside.sort_by_key(|(partition, _)| partition.span.start);
        // The one that reaches furthest so far: who overlaps any before overlaps it.
        let mut furthest = 0;
        for at in 1..inside.len() {
            let reach = inside[furthest].0.span.end;
            if inside[at].0.span.start < reach {
                inside[at].1 = true;
                inside[furthest].1 = true;
            }
            if inside[at].0.span.end > reach {
                furthest = at;
            }
        }
        for (partition, overlaps) in inside {
            if overlaps {
                self.refused.push((partition.number, "it overlaps another"));
            } else {
                self.partitions.push(partition);
            }
        }
        self.partitions.sort_by_key(|partition| partition.number);
        self.refused.sort_unstable();
    }
}

/// Reads the tables of an image. None at all: a table without partitions.
///
/// # Errors
/// The image cannot be read there.
pub(super) fn read(disk: &Disk<'_>) -> io::Result<Table> {
    let Some(record) = mbr::BootRecord::of_disk(disk)? else {
        return Ok(Table::default());
    };
    let mut table = Table::default();
    let told = if record.is_protective() {
        match gpt::read(disk)? {
            Some((told, gpt::Copy::First)) => told,
            Some((told, gpt::Copy::Backup)) => {
                table
                    .faults
                    .push("its GPT is damaged, and the copy at its end is used");
                told
            }
            None => {
                table
                    .faults
                    .push("it has a protective MBR, but no GPT that is whole");
                Vec::new()
            }
        }
    } else {
        record.partitions(disk, &mut table)?
    };
    table.judge(told, disk.span);
    Ok(table)
}

/// A little-endian number in a table.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The same, twice as long.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
pub(crate) mod tests;
