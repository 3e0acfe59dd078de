//! A place for an index that fails and crashes at a chosen step, and from which older versions can be put back.

use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use super::op::{Fault, Place as Keeping};
use crate::clock::{Clock, testing::TestClock};
use crate::index::door::{FilePlace, Loaded, Store};

#[derive(Debug, Clone)]
struct Version {
    bytes: Vec<u8>,
    place: FilePlace,
}

#[derive(Debug, Default)]
struct DiskState {
    versions: Vec<Version>,
    present: Option<Version>,
    note: Option<i64>,
    inodes: u64,
    /// After so many more saves.
    fault: Option<(usize, Fault, bool)>,
    place: Keeping,
    /// The process is gone: nothing that it does counts.
    dead: bool,
}

/// The disk below; outlives every process.
#[derive(Debug)]
pub(super) struct Disk {
    state: Mutex<DiskState>,
    clock: Arc<TestClock>,
}

impl Disk {
    pub(super) fn new(clock: &Arc<TestClock>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            clock: Arc::clone(clock),
        })
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap()
    }

    pub(super) fn dead(&self) -> bool {
        self.state().dead
    }

    pub(super) fn kill(&self) {
        self.state().dead = true;
    }

    /// A new process.
    pub(super) fn revive(&self) {
        let mut state = self.state();
        state.dead = false;
        state.fault = None;
    }

    pub(super) fn fail(&self, fault: Fault, after: usize, crash: bool) {
        self.state().fault = Some((after, fault, crash));
    }

    pub(super) fn keep(&self, place: Keeping) {
        self.state().place = place;
    }

    pub(super) fn place(&self) -> Keeping {
        self.state().place
    }

    pub(super) fn no_faults(&self) {
        self.state().fault = None;
    }

    pub(super) fn lose(&self, note: bool) {
        let mut state = self.state();
        state.present = None;
        if note {
            state.note = None;
        }
    }

    /// When a version was finished.
    pub(super) fn finished(&self, version: usize) -> Option<i64> {
        let state = self.state();
        let count = state.versions.len();
        (count > 0).then(|| state.versions[version % count].place.finished)
    }

    pub(super) fn put_back(&self, version: usize, link: bool, note: bool) {
        let mut state = self.state();
        let count = state.versions.len();
        let mut old = state.versions[version % count].clone();
        old.place.finished = self.clock.now();
        if !link {
            state.inodes += 1;
            old.place.inode = state.inodes;
            old.place.born = Some((self.clock.now(), 1));
        }
        state.present = Some(old);
        if note {
            state.note = None;
        }
    }
}

/// What one process sees of the disk.
#[derive(Debug)]
pub(super) struct DiskStore {
    disk: Arc<Disk>,
    /// When it began.
    place: Keeping,
}

impl DiskStore {
    pub(super) fn open(disk: &Arc<Disk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            place: disk.place(),
        }
    }

    /// It could be neither made nor locked.
    fn is_nowhere(&self) -> bool {
        matches!(self.place, Keeping::ReadOnly | Keeping::Hidden)
    }
}

impl Store for DiskStore {
    fn load(&self) -> io::Result<Option<Loaded>> {
        if self.place == Keeping::Hidden {
            return Err(io::ErrorKind::NotFound.into());
        }
        let found = self.disk.state().present.clone();
        let nowhere = FilePlace {
            inode: 0,
            born: None,
            lock: None,
            finished: 0,
        };
        Ok(found.map(|found| Loaded {
            input: Box::new(Cursor::new(found.bytes)),
            place: if self.place == Keeping::ReadOnly {
                nowhere
            } else {
                found.place
            },
        }))
    }

    fn save(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let full = || Err(io::Error::from_raw_os_error(libc::ENOSPC));
        if self.is_nowhere() || self.disk.place() != Keeping::Fine {
            return full();
        }
        let fault = {
            let mut state = self.disk.state();
            match &mut state.fault {
                Some((0, ..)) => state.fault.take(),
                Some((after, ..)) => {
                    *after -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, Fault::Nothing, crash)) = fault {
            self.disk.state().dead |= crash;
            return full();
        }
        let mut bytes = Vec::new();
        body(&mut bytes)?;
        let mut state = self.disk.state();
        state.inodes += 1;
        let place = FilePlace {
            lock: None,
            inode: state.inodes,
            born: Some((self.disk.clock.now(), 0)),
            finished: self.disk.clock.now(),
        };
        drop(state);
        bytes.extend(end(place)?);
        let mut state = self.disk.state();
        if state.dead {
            return full();
        }
        if let Some((_, Fault::Temporary, crash)) = fault {
            state.dead |= crash;
            return full();
        }
        let version = Version { bytes, place };
        state.versions.push(version.clone());
        state.present = Some(version);
        if let Some((_, Fault::Replaced, crash)) = fault {
            state.dead |= crash;
            return full();
        }
        Ok(())
    }

    fn ending(&self) {}

    fn note_ceiling(&self, ceiling: i64) -> io::Result<()> {
        let mut state = self.disk.state();
        if self.is_nowhere() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !state.dead {
            state.note = Some(ceiling);
        }
        Ok(())
    }

    fn noted_ceiling(&self) -> Option<i64> {
        if self.place == Keeping::Hidden {
            return None;
        }
        self.disk.state().note
    }
}
