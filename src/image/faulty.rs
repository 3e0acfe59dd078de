//! An image in memory that fails where a test says so, and that somebody else can write.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::fingerprint::{DeviceFingerprint, FileFingerprint};
use super::{Fingerprint, Image, Ownership};
use crate::clock::{Clock, testing::TestClock};
use crate::geometry::Span;

/// The unit that holes come in, in bytes.
pub(crate) const UNIT: usize = 512;
/// Owner and mode of every such image.
pub(crate) const OWNERSHIP: Ownership = Ownership {
    uid: 7,
    gid: 8,
    mode: 0o640,
};

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Reading a byte in one of these spans is EIO.
    pub(crate) bad: Vec<Span>,
    /// Writing a byte at or past this offset is this errno.
    pub(crate) unwritable: Option<(u64, i32)>,
    /// No read returns more than this many bytes.
    pub(crate) longest_read: Option<usize>,
    /// No write takes more than this many bytes.
    pub(crate) longest_write: Option<usize>,
    /// So many reads and writes, in all, are interrupted by a signal first.
    pub(crate) interrupts: usize,
    /// The next syncs fail.
    pub(crate) failing_syncs: usize,
}

/// How an image tells that it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// By its mtime.
    File,
    /// By the device's statistics.
    Device,
    /// Not at all.
    Mute,
}

#[derive(Debug, Default)]
struct MemoryState {
    bytes: Vec<u8>,
    /// Of each unit, whether it is a hole.
    holes: Vec<bool>,
    faults: Faults,
    changes: u32,
    mtime: i64,
}

impl MemoryState {
    /// Marks what `start..end` touches as data.
    fn fill(&mut self, start: usize, end: usize) {
        self.holes.resize(self.bytes.len().div_ceil(UNIT), false);
        if start < end {
            self.holes[start / UNIT..end.div_ceil(UNIT)].fill(false);
        }
    }

    /// Makes zeros of `start..end`, and holes of the whole units in it.
    fn punch(&mut self, start: usize, end: usize) {
        self.bytes[start..end].fill(0);
        let last = if end == self.bytes.len() {
            end.div_ceil(UNIT)
        } else {
            end / UNIT
        };
        for unit in start.div_ceil(UNIT)..last {
            self.holes[unit] = true;
        }
    }
}

/// Bytes, holes, faults, and a counter that tells whether a fault was met.
#[derive(Debug)]
pub(crate) struct Memory {
    state: Mutex<MemoryState>,
    clock: Arc<TestClock>,
    history: History,
    direct: bool,
    met: AtomicUsize,
}

impl Memory {
    /// An image file with these bytes, all of them data.
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Self::with(bytes, History::File, false, Arc::new(TestClock::new(1000)))
    }

    /// `direct`: it pays to read ahead. `clock` makes its mtime.
    pub(crate) fn with(
        bytes: Vec<u8>,
        history: History,
        direct: bool,
        clock: Arc<TestClock>,
    ) -> Arc<Self> {
        let holes = vec![false; bytes.len().div_ceil(UNIT)];
        let mtime = clock.now();
        Arc::new(Self {
            state: Mutex::new(MemoryState {
                bytes,
                holes,
                mtime,
                ..MemoryState::default()
            }),
            clock,
            history,
            direct,
            met: AtomicUsize::new(0),
        })
    }

    /// How many faults were met so far.
    pub(crate) fn met(&self) -> usize {
        self.met.load(SeqCst)
    }

    /// Changes what goes wrong.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().unwrap().faults);
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    /// Whether it holds exactly this.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.state.lock().unwrap().bytes == bytes
    }

    /// Of each unit, whether it is a hole.
    pub(crate) fn holes(&self) -> Vec<bool> {
        self.state.lock().unwrap().holes.clone()
    }

    /// Writes as somebody else would.
    pub(crate) fn poke(&self, offset: usize, data: &[u8]) {
        self.change(|state| {
            state.bytes[offset..offset + data.len()].copy_from_slice(data);
            state.fill(offset, offset + data.len());
        });
    }

    /// Punches a hole as somebody else would.
    pub(crate) fn punch(&self, start: usize, end: usize) {
        self.change(|state| state.punch(start, end));
    }

    /// Appends data as somebody else would.
    pub(crate) fn grow(&self, data: &[u8]) {
        self.change(|state| {
            let start = state.bytes.len();
            state.bytes.extend_from_slice(data);
            let end = state.bytes.len();
            state.fill(start, end);
        });
    }

    /// Truncates as somebody else would.
    pub(crate) fn cut(&self, size: usize) {
        self.change(|state| {
            state.bytes.truncate(size);
            state.holes.truncate(size.div_ceil(UNIT));
        });
    }

    fn change<T>(&self, work: impl FnOnce(&mut MemoryState) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        state.changes += 1;
        state.mtime = self.clock.now();
        work(&mut state)
    }

    fn fault(&self, errno: i32) -> io::Error {
        self.met.fetch_add(1, SeqCst);
        io::Error::from_raw_os_error(errno)
    }

    fn interrupt(&self) -> io::Result<()> {
        let interrupts = &mut self.state.lock().unwrap().faults.interrupts;
        if *interrupts == 0 {
            return Ok(());
        }
        *interrupts -= 1;
        Err(self.fault(libc::EINTR))
    }

    /// How far something can be written that is all inside the image.
    fn writable_end(&self, span: Span) -> io::Result<usize> {
        let state = self.state.lock().unwrap();
        if span.end > state.bytes.len() as u64 {
            return Err(self.fault(libc::EIO));
        }
        match state.faults.unwritable {
            Some((from, errno)) if from <= span.start => Err(self.fault(errno)),
            Some((from, _)) => Ok(at(span.end.min(from))),
            None => Ok(at(span.end)),
        }
    }

    /// An error unless all of `span` was done.
    fn all_done(&self, span: Span, end: usize) -> io::Result<()> {
        if end as u64 == span.end {
            return Ok(());
        }
        self.writable_end(Span::new(end as u64, span.end)).map(drop)
    }

    fn next(&self, from: u64, hole: bool) -> Option<u64> {
        let state = self.state.lock().unwrap();
        let from = at(from);
        (from / UNIT..state.holes.len())
            .find(|unit| state.holes[*unit] == hole)
            .map(|unit| from.max(unit * UNIT))
            .filter(|found| *found < state.bytes.len())
            .map(|found| found as u64)
    }
}

/// So many bytes, none of them 0.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (1..=251).cycle().take(len).collect()
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Image for Arc<Memory> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().bytes.len() as u64)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.interrupt()?;
        let state = self.state.lock().unwrap();
        let end = (offset + out.len() as u64).min(state.bytes.len() as u64);
        if offset >= end {
            self.met.fetch_add(1, SeqCst);
            return Ok(0);
        }
        // A whole request fails for one bad byte in it, as on a device.
        let bad = &state.faults.bad;
        if bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(self.fault(libc::EIO));
        }
        let len = at(end - offset).min(state.faults.longest_read.unwrap_or(usize::MAX));
        out[..len].copy_from_slice(&state.bytes[at(offset)..at(offset) + len]);
        Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.interrupt()?;
        let end = self.writable_end(Span::new(offset, offset + data.len() as u64))?;
        self.change(|state| {
            let most = state.faults.longest_write.unwrap_or(usize::MAX);
            let len = (end - at(offset)).min(most);
            state.bytes[at(offset)..at(offset) + len].copy_from_slice(&data[..len]);
            state.fill(at(offset), at(offset) + len);
            Ok(len)
        })
    }

    fn zero(&self, span: Span) -> io::Result<()> {
        let end = self.writable_end(span)?;
        self.change(|state| state.punch(at(span.start), end));
        self.all_done(span, end)
    }

    fn reserve(&self, span: Span) -> io::Result<()> {
        let end = self.writable_end(span)?;
        self.change(|state| state.fill(at(span.start), end));
        self.all_done(span, end)
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.change(|state| {
            state.bytes.resize(at(size), 0);
            state.holes.resize(at(size).div_ceil(UNIT), true);
        });
        Ok(())
    }

    fn sync(&self, _: bool) -> io::Result<()> {
        let faults = &mut self.state.lock().unwrap().faults;
        if faults.failing_syncs > 0 {
            faults.failing_syncs -= 1;
            return Err(self.fault(libc::EIO));
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        Ok(self.next(from, false))
    }

    fn next_hole(&self, from: u64) -> io::Result<u64> {
        let size = self.size()?;
        Ok(self.next(from, true).unwrap_or(size))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn touch(&self) -> io::Result<()> {
        self.change(|_| ());
        Ok(())
    }

    fn mtime(&self) -> io::Result<Option<(i64, i64)>> {
        let state = self.state.lock().unwrap();
        let mtime = (state.mtime, i64::from(state.changes));
        Ok((self.history == History::File).then_some(mtime))
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        let state = self.state.lock().unwrap();
        let (changes, size) = (state.changes, state.bytes.len() as u64);
        Ok(match self.history {
            History::File => Fingerprint::File(FileFingerprint {
                trusted: true,
                lasting: state.mtime <= self.clock.now() - 2,
                writers: Some(false),
                boot: Some("boot".to_owned()),
                mount: Some(1),
                device: 1,
                inode: 1,
                size,
                mtime: (state.mtime, i64::from(changes)),
                ctime: (state.mtime, i64::from(changes)),
                format: None,
            }),
            History::Device => Fingerprint::Device(DeviceFingerprint {
                counts_all: true,
                boot: "boot".to_owned(),
                major: 8,
                minor: 0,
                sectors_written: u64::from(changes),
                sectors_discarded: 0,
                start: 0,
                size: size / 512,
                sequence: Some(1),
            }),
            History::Mute => Fingerprint::Unknown,
        })
    }

    fn sector(&self) -> u64 {
        UNIT as u64
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn ownership(&self) -> Ownership {
        OWNERSHIP
    }
}

#[cfg(test)]
mod tests;
