//! Where an index is kept: a file that is replaced as a whole and locked for as long as a daemon uses it.
//!
//! Invariant: at every instant the file is one that was saved completely. Nothing is replaced but an index, or an empty
//! or absent file.

mod lock;
mod spot;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

use super::format::{FilePlace, Input, MAGIC};
use crate::sys::files::born;

use lock::Note;
use spot::Spot;

pub(crate) use spot::{FileId, Refused};

/// The seconds between finishing a file's content and its last change by rename; more makes it a copy.
pub(super) const RENAME_TAKES: i64 = 2;
/// The part of the magic that indexes of all versions have.
const ANY_VERSION: usize = 13;

/// An index as it was found.
pub(crate) struct Loaded {
    pub(crate) input: Box<dyn Input>,
    /// Where it is.
    pub(crate) place: FilePlace,
}

/// What is noted beside an index, in case it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// No stamp made is later than this second.
    pub(crate) ceiling: i64,
    /// Bytes that the image had; `None`: an older bmapfs has noted nothing of that.
    pub(crate) size: Option<u64>,
}

/// Something that keeps one index.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// What was saved last; `None`: nothing yet. [`FilePlace::finished`] is the file's last change.
    fn load(&self) -> io::Result<Option<Loaded>>;

    /// Replaces what is kept by what `body` writes, followed by what `end` says for the new place, or leaves it as
    /// it is and fails.
    fn save(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()>;

    /// Tells whoever waits for this store that it will be free soon.
    fn ending(&self);

    /// Notes this beside the index.
    fn note(&self, noted: Noted) -> io::Result<()>;

    /// What was noted last.
    fn noted(&self) -> Option<Noted>;
}

/// Why a store cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Another process uses it.
    #[error("it is in use by {0}")]
    Held(String),
    /// Something is there that must be left alone.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be made or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io(e) => e,
            other => Self::other(other),
        }
    }
}

/// Opens the index at `path` for whoever only reads it. `None`: there is none. Nothing is changed; the lock is held only
/// until the file is open, since a save puts another file in its place.
pub(super) fn open_to_read(path: &Path) -> Result<Option<(File, FilePlace)>, StoreError> {
    let spot = match Spot::find(path, None) {
        Err(StoreError::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        spot => spot?,
    };
    if spot.look(spot.name())?.is_none() {
        return Ok(None);
    }
    let lock = lock::share(&spot, &with(spot.name(), ".lock"))?;
    let file = spot.open(spot.name(), OFlag::O_RDONLY)?;
    let place = place(&file, lock.as_ref())?;
    Ok(Some((file, place)))
}

/// Whether the directory of the file that `path` means is `above`, or below it. `false` if it cannot be told.
pub(super) fn lies_below(path: &Path, above: &Path) -> bool {
    let below = || {
        let spot = Spot::find(path, None).ok()?;
        let above = std::fs::metadata(above).ok()?;
        spot.is_below(FileId::of(&above)).ok()
    };
    below().unwrap_or(false)
}

/// An index in a file.
#[derive(Debug)]
pub(super) struct FileStore {
    /// As it was named, for messages.
    path: PathBuf,
    spot: Spot,
    lock: File,
    noted: Mutex<Note>,
    /// The file that was found at the beginning, if only its lock file says that it is an index.
    damaged: Option<FileId>,
}

impl FileStore {
    /// Locks the index at `path`, which need not exist. A link is followed, so that it stays one. `source`: the image,
    /// which the index must not be.
    pub(super) fn open(path: &Path, source: Option<FileId>) -> Result<Self, StoreError> {
        let spot = Spot::find(path, source)?;
        let lock_name = with(spot.name(), ".lock");
        // Nothing is made beside a file of somebody else.
        find_damaged(&spot, lock::is_known(&spot, &lock_name)?)?;
        let (lock, note) = lock::take(&spot, &lock_name)?;
        // The one before may have saved meanwhile.
        let damaged = find_damaged(&spot, note.is_some())?;
        let note = Note {
            ending: false,
            ..note.unwrap_or_default()
        };
        lock::write(&lock, note)?;
        Ok(Self {
            path: path.to_owned(),
            spot,
            lock,
            noted: Mutex::new(note),
            damaged,
        })
    }

    /// What was noted beside an index that cannot be locked.
    pub(super) fn noted_beside(index: &Path) -> Option<Noted> {
        let spot = Spot::find(index, None).ok()?;
        let file = spot
            .open(&with(spot.name(), ".lock"), OFlag::O_RDONLY)
            .ok()?;
        lock::noted(&file)
    }

    fn change_note(&self, change: impl FnOnce(&mut Note)) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut noted);
        lock::write(&self.lock, *noted).inspect_err(|e| log::debug!("{}: {e}", self.path.display()))
    }

    fn save_once(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<bool> {
        let temporary = Temporary::make(&self.spot)?;
        let mut out = BufWriter::with_capacity(1 << 18, &temporary.file);
        body(&mut out)?;
        out.flush()?;
        drop(out);
        temporary.file.sync_all()?;
        let place = FilePlace {
            finished: now(),
            ..place(&temporary.file, Some(&self.lock))?
        };
        (&temporary.file).write_all(&end(place)?)?;
        temporary.file.sync_all()?;
        // Something else may have come to the name.
        let damaged = find_damaged(&self.spot, self.damaged.is_some())?;
        if damaged != self.damaged && damaged.is_some() {
            return Err(StoreError::from(Refused::Foreign).into());
        }
        self.spot.replace_by(&temporary.name)?;
        Ok(temporary.file.metadata()?.ctime() - place.finished <= RENAME_TAKES)
    }
}

impl Store for FileStore {
    fn load(&self) -> io::Result<Option<Loaded>> {
        if self.spot.look(self.spot.name())?.is_none() {
            return Ok(None);
        }
        let file = self.spot.open(self.spot.name(), OFlag::O_RDONLY)?;
        let place = place(&file, Some(&self.lock))?;
        Ok(Some(Loaded {
            input: Box::new(file),
            place,
        }))
    }

    fn save(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        // A disk so slow that the file would look like a copy at the next mount: again, it is quicker now.
        for _ in 0..3 {
            if self.save_once(body, end)? {
                return Ok(());
            }
        }
        log::warn!(
            "{}: saving takes so long that the next mount may not believe it",
            self.path.display()
        );
        Ok(())
    }

    fn ending(&self) {
        // Whoever waits is only less patient then.
        let _ = self.change_note(|note| note.ending = true);
    }

    fn note(&self, noted: Noted) -> io::Result<()> {
        self.change_note(|note| note.noted = Some(noted))
    }

    fn noted(&self) -> Option<Noted> {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .noted
    }
}

/// The inode that a file is, beside which lock, and when it last changed.
fn place(file: &File, lock: Option<&File>) -> io::Result<FilePlace> {
    let stat = file.metadata()?;
    let lock = lock.map(File::metadata).transpose()?;
    Ok(FilePlace {
        inode: stat.ino(),
        born: born(&stat),
        lock: lock.map(|lock| (lock.ino(), born(&lock))),
        finished: stat.ctime(),
    })
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Refuses what must not be replaced. A file that is neither empty nor an index by its first bytes is given back if it
/// is `known` to be one by its lock file.
fn find_damaged(spot: &Spot, known: bool) -> Result<Option<FileId>, StoreError> {
    let found = spot.look(spot.name())?;
    match is_ours(spot) {
        Ok(true) => Ok(None),
        Ok(false) if !known => Err(Refused::Foreign.into()),
        Err(e) if !known => Err(e),
        _ => Ok(found),
    }
}

/// Whether nothing is there, or an empty file, or one that begins as an index.
fn is_ours(spot: &Spot) -> Result<bool, StoreError> {
    if spot.look(spot.name())?.is_none() {
        return Ok(true);
    }
    let file = spot.open(spot.name(), OFlag::O_RDONLY)?;
    let mut first = Vec::new();
    file.take(ANY_VERSION as u64).read_to_end(&mut first)?;
    Ok(first.is_empty() || first == MAGIC[..ANY_VERSION])
}

/// A file that is to become the index; else it is removed again.
#[derive(Debug)]
struct Temporary<'a> {
    spot: &'a Spot,
    name: OsString,
    file: File,
}

impl<'a> Temporary<'a> {
    /// Its name is the same each time, so that what a save that was killed has left goes with the next. Nobody else
    /// makes it: the index is locked, and saved by one thread at a time.
    fn make(spot: &'a Spot) -> Result<Self, StoreError> {
        let digest = blake3::hash(spot.name().as_bytes()).to_hex();
        let name = OsString::from(format!(".bmapfs-index-{}", &digest[..16]));
        spot.remove(&name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = spot.open(&name, flags)?;
        Ok(Self { spot, name, file })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a save the name is gone already. Else the next one tries again.
        if let Err(e) = self.spot.remove(&self.name) {
            log::debug!("{}: {e}", Path::new(&self.name).display());
        }
    }
}

fn with(name: &OsStr, ending: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(ending);
    name
}

#[cfg(test)]
mod tests;
