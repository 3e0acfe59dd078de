//! An index that cannot be saved counts as lost: new stamps for all blocks, above all that are known to be promised.
//!
//! Invariant: what is shown now was not shown for other content, and will not be: a mount that knows nothing of it is
//! safe from it as it is from a lost index.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

use super::Index;
use super::file::{FileStore, Loaded, Store};
use super::format::FilePlace;
use super::open::Begin;
use super::over::NEAR;
use super::request::{OpenError, Request};
use crate::stamp::{STEP, even};

/// Where an index could be neither made nor locked. What is there is looked at for its promises, and stays as it is.
#[derive(Debug)]
pub(super) struct Nowhere {
    path: PathBuf,
    errno: Option<i32>,
}

impl Nowhere {
    /// `error`: why.
    pub(super) fn new(path: &Path, error: &io::Error) -> Self {
        Self {
            path: path.to_owned(),
            errno: error.raw_os_error(),
        }
    }
}

impl Store for Nowhere {
    fn load(&self) -> io::Result<Option<Loaded>> {
        // Nothing is waited for, whatever is there.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path);
        // Why not will be said once, when saving fails.
        let Ok(file) = opened else { return Ok(None) };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        // That of no file, so that it is worth no more than a copy.
        let place = FilePlace {
            inode: 0,
            born: None,
            lock: None,
            finished: 0,
        };
        Ok(Some(Loaded {
            input: Box::new(file),
            place,
        }))
    }

    fn save(
        &self,
        _: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
        _: &mut dyn FnMut(FilePlace) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let why = self.errno.map(io::Error::from_raw_os_error);
        Err(why.unwrap_or_else(|| io::ErrorKind::Other.into()))
    }

    fn ending(&self) {}

    fn note_ceiling(&self, _: i64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn noted_ceiling(&self) -> Option<i64> {
        FileStore::noted_beside(&self.path)
    }
}

impl Index {
    /// Goes on without a file, after saving has failed with `error`.
    pub(super) fn go_on_unsaved(
        &self,
        request: &Request<'_>,
        begin: &Begin,
        error: io::Error,
    ) -> Result<(), OpenError> {
        let now = self.clock.now();
        let mut first = begin.first.max(even(begin.promised.saturating_add(1)));
        let noted = self.store.note_ceiling(first.saturating_add(STEP)).is_ok();
        if !noted {
            // Nor was it for whoever came before.
            first = first.max(even(now));
        }
        let last = first.saturating_add(STEP);
        // The next mount without a file would show the same again.
        let far = !noted && last > now.saturating_add(NEAR);
        if request.purpose.must_save() || far {
            return Err(OpenError::Unsaved { error, far });
        }
        log::warn!(
            "index {} cannot be saved: {error}; every block gets a new time, now and the next time",
            request.path.display()
        );
        // Nobody has seen the stamps of the scan, and all others are known to be earlier.
        self.stamp_all(first);
        self.pass_stamps();
        self.over.call_once(|| {});
        // They may be later now.
        let _ = self.store.note_ceiling(self.latest());
        self.unsaved.store(true, SeqCst);
        Ok(())
    }
}
