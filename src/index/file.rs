//! Where an index is kept: a file that is replaced as a whole and locked for as long as a daemon uses it.
//!
//! Invariant: at every instant the file is one that was saved completely.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::format::{FilePlace, Input};
use crate::sys::{self, FlockKind};

/// How long a lock that is held is tried for, if its holder does not say that it is ending.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long for one that does: writing the index and flushing the image may take a while.
const ENDING_PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);
/// The seconds between finishing a file's content and its last change by rename; more makes it a copy.
pub(super) const RENAME_TAKES: i64 = 2;
/// What a lock's holder writes behind its process id while it ends; "using" before.
const ENDING: &str = "ending";

/// An index as it was found.
pub(crate) struct Loaded {
    pub(crate) input: Box<dyn Input>,
    /// Where it is.
    pub(crate) place: FilePlace,
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

    /// Notes beside the index, in case it is lost, that no stamp made is later than `ceiling`.
    fn note_ceiling(&self, ceiling: i64);

    /// The ceiling noted last.
    fn noted_ceiling(&self) -> Option<i64>;
}

/// Why a store cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Another process uses it.
    #[error("it is in use by {0}")]
    Held(String),
    /// It cannot be made or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An index in a file.
#[derive(Debug)]
pub(super) struct FileStore {
    path: PathBuf,
    lock: File,
    noted: Mutex<Note>,
}

/// What stands in the lock file: for whoever waits for it, and for the day when the index is lost.
#[derive(Debug, Clone, Copy, Default)]
struct Note {
    ending: bool,
    ceiling: Option<i64>,
}

impl FileStore {
    /// Locks the index at `path`, which need not exist. A link is followed, so that it stays one.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let path = sys::links::resolve(path)?;
        if path.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR).into());
        }
        let (lock, note) = lock(&path)?;
        Ok(Self {
            path,
            lock,
            noted: Mutex::new(note),
        })
    }

    fn note(&self, change: impl FnOnce(&mut Note)) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut noted);
        if let Err(e) = write_note(&self.lock, *noted) {
            log::debug!("{}: {e}", self.path.display());
        }
    }

    /// The inode that a file is, beside which lock, and when it last changed.
    fn place(&self, file: &File) -> io::Result<FilePlace> {
        let (stat, lock) = (file.metadata()?, self.lock.metadata()?);
        Ok(FilePlace {
            inode: stat.ino(),
            born: born(&stat),
            lock: Some((lock.ino(), born(&lock))),
            finished: stat.ctime(),
        })
    }

    fn save_once(
        &self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        end: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<bool> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        // tempfile makes it 0600, and removes it if anything fails.
        let temporary = tempfile::Builder::new()
            .prefix(".bmapfs-index-")
            .tempfile_in(directory)?;
        let mut out = BufWriter::with_capacity(1 << 18, temporary.as_file());
        body(&mut out)?;
        out.flush()?;
        drop(out);
        temporary.as_file().sync_all()?;
        let place = FilePlace {
            finished: now(),
            ..self.place(temporary.as_file())?
        };
        temporary.as_file().write_all(&end(place)?)?;
        temporary.as_file().sync_all()?;
        let file = temporary.persist(&self.path).map_err(|e| e.error)?;
        File::open(directory)?.sync_all()?;
        Ok(file.metadata()?.ctime() - place.finished <= RENAME_TAKES)
    }
}

impl Store for FileStore {
    fn load(&self) -> io::Result<Option<Loaded>> {
        match File::open(&self.path) {
            Ok(file) => {
                let place = self.place(&file)?;
                Ok(Some(Loaded {
                    input: Box::new(file),
                    place,
                }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
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
        self.note(|note| note.ending = true);
    }

    fn note_ceiling(&self, ceiling: i64) {
        self.note(|note| note.ceiling = note.ceiling.max(Some(ceiling)));
    }

    fn noted_ceiling(&self) -> Option<i64> {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ceiling
    }
}

/// When an inode was made, where the file system keeps that.
fn born(stat: &Metadata) -> Option<(i64, u32)> {
    let since = stat.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()))
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Takes the lock beside an index. A holder that is ending is waited for.
fn lock(index: &Path) -> Result<(File, Note), StoreError> {
    let mut name = index.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&name)?;
    let start = Instant::now();
    loop {
        let free = sys::try_flock(file.as_fd(), FlockKind::Exclusive)?;
        let (holder, note) = read_note(&file)?;
        if free {
            let note = Note {
                ending: false,
                ..note
            };
            write_note(&file, note)?;
            return Ok((file, note));
        }
        let patience = if note.ending {
            ENDING_PATIENCE
        } else {
            PATIENCE
        };
        if start.elapsed() >= patience {
            return Err(StoreError::Held(describe(&holder)));
        }
        std::thread::sleep(POLL);
    }
}

/// The holder's process id, and what it has noted.
fn read_note(mut file: &File) -> io::Result<(String, Note)> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(256).read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    let holder = words.next().unwrap_or_default().to_owned();
    let ending = words.next() == Some(ENDING);
    let ceiling = words.next().and_then(|word| word.parse().ok());
    Ok((holder, Note { ending, ceiling }))
}

fn write_note(mut file: &File, note: Note) -> io::Result<()> {
    let state = if note.ending { ENDING } else { "using" };
    let ceiling = note
        .ceiling
        .map(|ceiling| ceiling.to_string())
        .unwrap_or_default();
    let text = format!("{} {state} {ceiling}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// A lock's holder, for an error.
fn describe(process: &str) -> String {
    match std::fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) => format!("{} (process {process})", name.trim_end()),
        Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests;
