//! An image in memory that fails where a test says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use super::{Image, Ownership, Written};
use crate::geometry::Span;

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Reading a byte in one of these spans is EIO.
    pub(crate) bad: Vec<Span>,
    /// Writing a byte at or past this offset is this errno.
    pub(crate) write_errno: BTreeMap<u64, i32>,
    /// No read returns more than this many bytes.
    pub(crate) longest_read: Option<usize>,
    /// The next syncs fail.
    pub(crate) failing_syncs: usize,
}

/// Bytes, holes by page, faults, and counters that tell whether a fault was met.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) bytes: Mutex<Vec<u8>>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) met: AtomicUsize,
    pub(crate) version: AtomicU64,
    pub(crate) holes: Mutex<Vec<Span>>,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
            faults: Mutex::default(),
            met: AtomicUsize::new(0),
            version: AtomicU64::new(0),
            holes: Mutex::default(),
        }
    }

    fn fault(&self, errno: i32) -> io::Error {
        self.met.fetch_add(1, SeqCst);
        io::Error::from_raw_os_error(errno)
    }

    /// Writes as somebody else would.
    pub(crate) fn poke(&self, offset: usize, data: &[u8]) {
        self.bytes.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        self.version.fetch_add(1, SeqCst);
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Image for Memory {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let faults = self.faults.lock().unwrap();
        let bytes = self.bytes.lock().unwrap();
        let end = (offset + out.len() as u64).min(bytes.len() as u64);
        if offset >= end {
            self.met.fetch_add(1, SeqCst);
            return Ok(0);
        }
        // A whole request fails for one bad byte in it, as on a device.
        if faults
            .bad
            .iter()
            .any(|bad| bad.start < end && offset < bad.end)
        {
            return Err(self.fault(libc::EIO));
        }
        let len = at(end - offset).min(faults.longest_read.unwrap_or(usize::MAX));
        out[..len].copy_from_slice(&bytes[at(offset)..at(offset) + len]);
        Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let faults = self.faults.lock().unwrap();
        let mut bytes = self.bytes.lock().unwrap();
        let mut end = offset + data.len() as u64;
        if end > bytes.len() as u64 {
            return Err(self.fault(libc::EIO));
        }
        if let Some((from, errno)) = faults.write_errno.iter().find(|(from, _)| **from < end) {
            if *from <= offset {
                return Err(self.fault(*errno));
            }
            end = *from;
        }
        let len = at(end - offset);
        bytes[at(offset)..at(end)].copy_from_slice(&data[..len]);
        self.version.fetch_add(1, SeqCst);
        Ok(len)
    }

    fn zero(&self, span: Span) -> io::Result<()> {
        let zeros = vec![0; at(span.len())];
        self.write_at(&zeros, span.start).map(|_| ())
    }

    fn reserve(&self, _: Span) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _: bool) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        if faults.failing_syncs > 0 {
            faults.failing_syncs -= 1;
            return Err(self.fault(libc::EIO));
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        let size = self.size()?;
        let mut from = from;
        for hole in self.holes.lock().unwrap().iter() {
            if hole.start <= from && from < hole.end {
                from = hole.end;
            }
        }
        Ok((from < size).then_some(from))
    }

    fn next_hole(&self, from: u64) -> io::Result<u64> {
        let size = self.size()?;
        let holes = self.holes.lock().unwrap();
        Ok(holes
            .iter()
            .filter(|hole| hole.end > from)
            .map(|hole| hole.start.max(from))
            .min()
            .unwrap_or(size))
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    fn written(&self) -> io::Result<Written> {
        let seconds = i64::try_from(self.version.load(SeqCst)).unwrap();
        Ok(Written::Mtime { seconds, nanos: 0 })
    }

    fn sector(&self) -> u64 {
        512
    }

    fn is_direct(&self) -> bool {
        false
    }

    fn ownership(&self) -> Ownership {
        Ownership {
            uid: 0,
            gid: 0,
            mode: 0o640,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_span;
    use super::*;

    #[test]
    fn p5_bytes_before_a_bad_place_are_still_read() {
        let image = Memory::new((0..100_000_u32).map(|i| (i % 253) as u8).collect());
        for bad in [0, 1, 511, 512, 4096, 5000, 70_000, 99_999] {
            image.faults.lock().unwrap().bad = vec![Span::new(bad, bad + 1)];
            image.met.store(0, SeqCst);
            let mut out = vec![0xAA; 100_000];
            let outcome = read_span(&image, &mut out, 0);
            assert!(image.met.load(SeqCst) > 0, "the fault never happened");
            assert_eq!(
                outcome.len as u64,
                bad - bad % 512,
                "all whole sectors before byte {bad}"
            );
            assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::EIO));
            assert!(out[..outcome.len] == image.bytes.lock().unwrap()[..outcome.len]);
        }
    }

    #[test]
    fn p5_an_early_end_is_an_error() {
        let image = Memory::new(vec![7; 1000]);
        let mut out = vec![0; 2000];
        let outcome = read_span(&image, &mut out, 0);
        assert_eq!(outcome.len, 1000);
        assert!(outcome.error.is_some());
    }

    #[test]
    fn short_reads_are_continued() {
        let image = Memory::new((0..10_000_u32).map(|i| (i % 253) as u8).collect());
        image.faults.lock().unwrap().longest_read = Some(7);
        let mut out = vec![0; 9000];
        assert_eq!(read_span(&image, &mut out, 500).len, 9000);
        assert!(out[..] == image.bytes.lock().unwrap()[500..9500]);
    }
}
