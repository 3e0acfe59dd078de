//! Staged files: what tools write under a temporary name, held in memory until it is renamed over its block
//! (promise P12).
//!
//! Invariant: nothing here touches the image; what a staged file holds reaches it in one go, at the rename. The
//! memory of all together is bounded.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::budget::Budget;
use crate::geometry::BlockIndex;
use crate::volume::inode::{NAME_DIGITS, parse_block_name};
use crate::volume::{Create, Errno, Result, Seek};

/// The most names at once: each costs a little even if it is empty.
const MOST_FILES: usize = 4096;

/// All staged files of a mount.
#[derive(Debug)]
pub(super) struct Staging {
    /// For all contents together: what is held for them, which may be more than they are long.
    memory: Arc<Budget>,
    /// How often there was no room.
    refused: AtomicU64,
    next: AtomicU64,
    files: RwLock<Files>,
}

#[derive(Debug, Default)]
struct Files {
    by_name: HashMap<OsString, Arc<Staged>>,
    /// Also those that have lost their name but are still open.
    by_id: BTreeMap<u64, Arc<Staged>>,
}

/// One staged file.
#[derive(Debug)]
pub(super) struct Staged {
    /// Its number; no other staged file of this mount ever has it.
    pub(super) id: u64,
    state: Mutex<StagedState>,
}

/// What a staged file is at the moment.
#[derive(Debug)]
pub(super) struct StagedState {
    pub(super) place: StagedPlace,
    pub(super) content: Vec<u8>,
    /// No longer than a block.
    most: u64,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: Option<i64>,
    pub(super) mtime: i64,
    /// A client has set the mtime, so it goes with the content.
    pub(super) mtime_set: bool,
    /// The content was to be made durable.
    pub(super) sync: bool,
    handles: u32,
}

/// Where a staged file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StagedPlace {
    /// It has this name.
    Named(OsString),
    /// It was removed, and is still open.
    Removed,
    /// It was renamed over this block: whoever has it open goes on there.
    Block(BlockIndex),
}

impl Staging {
    /// `memory`: what all staged files may take together.
    pub(super) fn new(memory: Arc<Budget>) -> Self {
        Self {
            memory,
            refused: AtomicU64::new(0),
            next: AtomicU64::new(0),
            files: RwLock::default(),
        }
    }

    /// The block that a temporary name is for: the one whose eight digits stand in it, neither shorter nor longer.
    pub(super) fn block_in(name: &OsStr) -> Option<BlockIndex> {
        name.as_bytes()
            .split(|byte| !byte.is_ascii_digit())
            .filter(|digits| digits.len() == NAME_DIGITS && digits.len() < name.len())
            .find_map(|digits| parse_block_name(OsStr::from_bytes(digits)))
    }

    pub(super) fn named(&self, name: &OsStr) -> Option<Arc<Staged>> {
        self.read(|files| files.by_name.get(name).cloned())
    }

    pub(super) fn numbered(&self, id: u64) -> Option<Arc<Staged>> {
        self.read(|files| files.by_id.get(&id).cloned())
    }

    /// The named one with the lowest number from `id` on.
    pub(super) fn from(&self, mut id: u64) -> Option<(OsString, Arc<Staged>)> {
        loop {
            // One that is being written to its block is waited for without the lock of the names.
            let staged =
                self.read(|files| files.by_id.range(id..).next().map(|(_, it)| Arc::clone(it)))?;
            let place = staged.lock().place.clone();
            if let StagedPlace::Named(name) = place {
                return Some((name, staged));
            }
            id = staged.id + 1;
        }
    }

    /// A new, empty file. EEXIST: the name is taken; ENOSPC: there are too many.
    pub(super) fn create(
        &self,
        name: &OsStr,
        most: u64,
        now: i64,
        create: &Create,
    ) -> Result<Arc<Staged>> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if files.by_id.len() >= MOST_FILES {
            return Err(self.full());
        }
        let staged = Arc::new(Staged {
            id: self.next.fetch_add(1, SeqCst),
            state: Mutex::new(StagedState {
                place: StagedPlace::Named(name.to_owned()),
                content: Vec::new(),
                most,
                mode: u16::try_from(create.mode & 0o7777).unwrap_or(0o600),
                uid: create.uid,
                gid: create.gid,
                atime: None,
                mtime: now,
                mtime_set: false,
                sync: false,
                handles: 0,
            }),
        });
        files.by_name.insert(name.to_owned(), Arc::clone(&staged));
        files.by_id.insert(staged.id, Arc::clone(&staged));
        Ok(staged)
    }

    /// Gives a staged file another temporary name; what had it is removed.
    pub(super) fn rename(&self, staged: &Arc<Staged>, to: &OsStr) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = files.by_name.insert(to.to_owned(), Arc::clone(staged));
        let old = std::mem::replace(&mut staged.lock().place, StagedPlace::Named(to.to_owned()));
        match old {
            StagedPlace::Named(old) if old != to => {
                files.by_name.remove(&old);
            }
            _ => {}
        }
        if let Some(replaced) = replaced.filter(|replaced| replaced.id != staged.id) {
            self.lose_name(&mut files, &replaced, StagedPlace::Removed);
        }
    }

    /// Takes a file's name away, because it was removed or is a block now. What it held is freed when nobody has
    /// it open, or at once if it is a block.
    pub(super) fn take(&self, name: &OsStr, place: StagedPlace) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(staged) = files.by_name.remove(name) {
            self.lose_name(&mut files, &staged, place);
        }
    }

    fn lose_name(&self, files: &mut Files, staged: &Staged, place: StagedPlace) {
        let mut state = staged.lock();
        if matches!(place, StagedPlace::Block(_)) || state.handles == 0 {
            self.free(&mut state);
        }
        state.place = place;
        if state.handles == 0 {
            files.by_id.remove(&staged.id);
        }
    }

    /// One handle less.
    pub(super) fn closed(&self, staged: &Staged) {
        let mut state = staged.lock();
        state.handles = state.handles.saturating_sub(1);
        let gone = state.is_gone();
        drop(state);
        if gone {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            let mut state = staged.lock();
            // Somebody may have opened it in between.
            if state.is_gone() {
                self.free(&mut state);
                files.by_id.remove(&staged.id);
            }
        }
    }

    fn free(&self, state: &mut StagedState) {
        self.memory.give_back(state.content.capacity() as u64);
        state.content = Vec::new();
    }

    /// Makes a content `len` bytes long, with zeros where it grows. EFBIG: longer than a block; ENOSPC: more than
    /// all may have together.
    pub(super) fn resize(&self, state: &mut StagedState, len: u64) -> Result<()> {
        if len > state.most {
            return Err(Errno::EFBIG);
        }
        let target = usize::try_from(len).map_err(|_| Errno::EFBIG)?;
        let (present, held) = (state.content.len(), state.content.capacity());
        if target > held {
            // Twice as much where there is room, so that small writes do not copy it again and again.
            let most = usize::try_from(state.most).unwrap_or(usize::MAX);
            let grown = [target.max(held.saturating_mul(2).min(most)), target]
                .into_iter()
                .find(|grown| self.memory.take((grown - held) as u64))
                .ok_or_else(|| self.full())?;
            state.content.reserve_exact(grown - present);
        }
        state.content.resize(target, 0);
        if target < present {
            state.content.shrink_to_fit();
            self.memory
                .give_back((held - state.content.capacity()) as u64);
        }
        Ok(())
    }

    fn full(&self) -> Errno {
        if self.refused.fetch_add(1, SeqCst) == 0 {
            log::warn!(
                "staged files take all the memory they may ({} bytes); see -o staging",
                self.memory.limit()
            );
        }
        Errno::ENOSPC
    }

    /// The names that are left at the end of the mount, and how often there was no room.
    pub(super) fn leftovers(&self) -> (Vec<OsString>, u64) {
        let mut names: Vec<_> = self.read(|files| files.by_name.keys().cloned().collect());
        names.sort();
        (names, self.refused.load(SeqCst))
    }

    fn read<R>(&self, work: impl FnOnce(&Files) -> R) -> R {
        work(&self.files.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Staged {
    /// One handle more.
    pub(super) fn opened(&self) {
        self.lock().handles += 1;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, StagedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StagedState {
    /// It has no name any more, and nobody has it open.
    fn is_gone(&self) -> bool {
        self.handles == 0 && !matches!(self.place, StagedPlace::Named(_))
    }

    /// Reads at `offset` into `out`; fewer bytes at the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.content.len());
        let len = out.len().min(self.content.len() - from);
        out[..len].copy_from_slice(&self.content[from..from + len]);
        len
    }

    /// As lseek(2). There is no hole before the end.
    pub(super) fn seek(&self, offset: u64, towards: Seek) -> Result<u64> {
        let len = self.content.len() as u64;
        match towards {
            _ if offset >= len => Err(Errno::ENXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(len),
        }
    }
}

#[cfg(test)]
mod tests;
