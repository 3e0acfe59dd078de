//! A master boot record, and the chain of records that tells of logical partitions. Sectors have 512 bytes.

use std::collections::HashSet;
use std::io;

use super::{Disk, Partition, Table, u32_at};

/// A sector, in bytes.
const SECTOR: u64 = 512;
/// The same, as the length of a record.
const RECORD: usize = 512;
const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// Where the four entries begin, and how long each is.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
/// Types of entries: nothing, a GPT's guard, and what holds logical partitions.
const UNUSED: u8 = 0;
const PROTECTIVE: u8 = 0xEE;
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
/// What the first logical partition is called.
const FIRST_LOGICAL: u32 = 5;
/// How many records a chain may have: as many partitions as the kernel gives a disk.
const LONGEST_CHAIN: usize = 256;

/// An entry, in sectors.
#[derive(Debug, Clone, Copy)]
struct Entry {
    boot: u8,
    kind: u8,
    first: u64,
    len: u64,
}

impl Entry {
    /// Whether its first byte is one that an entry may have.
    fn has_boot_flag(&self) -> bool {
        matches!(self.boot, 0 | 0x80)
    }

    fn is_used(self) -> bool {
        self.kind != UNUSED && self.len != 0
    }

    fn is_extended(self) -> bool {
        self.is_used() && EXTENDED.contains(&self.kind)
    }

    /// As a partition, counted from sector `base`.
    fn partition(self, number: u32, base: u64) -> Partition {
        let first = base + self.first;
        Partition::of_sectors(number, first, first + self.len, SECTOR)
    }
}

/// The entries of a boot record.
#[derive(Debug)]
pub(super) struct BootRecord([Entry; 4]);

impl BootRecord {
    /// That of the disk; `None` if its first sector is none. The boot sector of a FAT file system has the same
    /// signature, but text or code where the entries would be.
    pub(super) fn of_disk(disk: &Disk<'_>) -> io::Result<Option<Self>> {
        let record = Self::at(disk, 0)?;
        Ok(record.filter(|record| record.0.iter().all(Entry::has_boot_flag)))
    }

    fn at(disk: &Disk<'_>, sector: u64) -> io::Result<Option<Self>> {
        let Some(bytes) = disk.get(sector * SECTOR, RECORD)? else {
            return Ok(None);
        };
        if !bytes.ends_with(&SIGNATURE) {
            return Ok(None);
        }
        Ok(Some(Self(std::array::from_fn(|index| {
            let entry = &bytes[ENTRIES + index * ENTRY..][..ENTRY];
            Entry {
                boot: entry[0],
                kind: entry[4],
                first: u64::from(u32_at(entry, 8)),
                len: u64::from(u32_at(entry, 12)),
            }
        }))))
    }

    /// Whether the disk has a GPT.
    pub(super) fn is_protective(&self) -> bool {
        self.0.iter().any(|entry| entry.kind == PROTECTIVE)
    }

    /// The primary and logical partitions that it tells of. What is wrong with the chain goes to `table`.
    pub(super) fn partitions(
        &self,
        disk: &Disk<'_>,
        table: &mut Table,
    ) -> io::Result<Vec<Partition>> {
        let mut told = Vec::new();
        let mut next = FIRST_LOGICAL;
        for (number, entry) in (1..).zip(self.0) {
            if entry.is_extended() {
                let logical = Chain {
                    disk,
                    extended: entry,
                };
                logical.follow(&mut next, table, &mut told)?;
            } else if entry.is_used() {
                told.push(entry.partition(number, 0));
            }
        }
        Ok(told)
    }
}

/// The logical partitions inside an extended one, each behind a record of its own. The records are linked: one entry of
/// each is a partition, counted from the record; another leads to the next record, counted from the extended one.
struct Chain<'a> {
    disk: &'a Disk<'a>,
    extended: Entry,
}

impl Chain<'_> {
    /// Adds to `told`; `number` is that of the next logical partition.
    fn follow(
        &self,
        number: &mut u32,
        table: &mut Table,
        told: &mut Vec<Partition>,
    ) -> io::Result<()> {
        let mut seen = HashSet::new();
        let mut at = 0;
        loop {
            let fault = if at >= self.extended.len {
                "its chain of logical partitions leaves the extended one"
            } else if !seen.insert(at) {
                "its chain of logical partitions is a loop"
            } else if seen.len() > LONGEST_CHAIN {
                "its chain of logical partitions does not end"
            } else if let Some(record) = BootRecord::at(self.disk, self.extended.first + at)? {
                let mut used = record.0.iter().filter(|entry| entry.is_used());
                if let Some(entry) = used.clone().find(|entry| !entry.is_extended()) {
                    if at + entry.first + entry.len > self.extended.len {
                        table.refused.push((*number, "it leaves the extended one"));
                    } else {
                        told.push(entry.partition(*number, self.extended.first + at));
                    }
                    *number += 1;
                }
                match used.find(|entry| entry.is_extended()) {
                    Some(link) => at = link.first,
                    None => return Ok(()),
                }
                continue;
            } else if at == 0 {
                // Nothing was ever put in.
                return Ok(());
            } else {
                "its chain of logical partitions is broken"
            };
            table.faults.push(fault);
            return Ok(());
        }
    }
}
