//! Reflink snapshots of an image, and what changed from one to the next without reading either.
//!
//! Invariant: a clone is never written, so all that is read of it is of one moment; it stays behind only if an index
//! that has been saved names it. Bytes count as unchanged only if the clone that the index describes is there as it
//! was left, and shares them with the new one. This module knows no digests, no blocks and no mount point.

mod clone;
mod extents;
mod names;
mod possible;
mod reference;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::changes::{ChangeSource, Changes, CloneIdentity, ImageState};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::image::reason;

use clone::CloneError;
pub use clone::{is_written_just_now, wait_for_a_second_of_its_own};
use names::Tag;
pub(crate) use possible::{Reflinks, reflinks_in};

/// What is to become of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It goes when nobody uses it any more.
    Serve,
    /// It stays, so that the next one can be compared with it.
    Keep,
}

/// A clone of an image. Unless [`Snapshot::saved`] is called, nothing of it is left when it is dropped and closed.
#[derive(Debug)]
pub struct Snapshot {
    /// What it is a clone of, for people and names.
    image: PathBuf,
    /// Where both are.
    directory: File,
    tag: Tag,
    file: File,
    name: String,
    /// Whether it has that name still.
    named: AtomicBool,
    /// If it is to be kept, and can be known again.
    identity: Option<CloneIdentity>,
}

impl Snapshot {
    /// Clones `source`, the open file at the canonical path `image`, as it is now. `index`: the index that it is for.
    /// A clone is kept only for an index, and only on file systems whose word on extents is believed. Without an index
    /// [`wait_for_a_second_of_its_own`] comes first.
    ///
    /// # Errors
    /// Usage: no file may be made beside the image. `MountFailed`: this file cannot be cloned. System: the rest.
    pub fn take(
        source: &File,
        image: &Path,
        index: Option<&Path>,
        purpose: Purpose,
    ) -> Result<Self> {
        let attempt = || format!("making a snapshot of {}", image.display());
        let parent = image.parent().unwrap_or(Path::new("/"));
        let directory = names::open_directory(parent).or_fail(Status::System, attempt)?;
        let tag = Tag::of(index);
        let (file, name) = clone::make(source, directory.as_fd(), &tag, image)
            .map_err(|e| refused(image, parent, &e))?;
        let mut snapshot = Self {
            image: image.to_owned(),
            directory,
            tag,
            file,
            name,
            named: AtomicBool::new(true),
            identity: None,
        };
        if purpose == Purpose::Keep && index.is_some() {
            snapshot.identity = reference::identity(&snapshot.file, &snapshot.name)
                .or_fail(Status::System, attempt)?;
            if snapshot.identity.is_none() {
                log::info!(
                    "{}: the file system does not tell well enough where files are: each run reads all of it",
                    image.display()
                );
            }
        }
        if snapshot.identity.is_none() {
            snapshot.forget_name().or_fail(Status::System, attempt)?;
        }
        if index.is_none() {
            // What a crash has left; nobody saves an index here.
            names::sweep(snapshot.directory.as_fd(), &snapshot.tag, None);
        }
        Ok(snapshot)
    }

    /// The index that will name it must not outlive it in a crash of the machine. Apart, since while clones are made nobody
    /// may be able to write.
    pub fn make_durable(&self) -> Result<()> {
        if self.identity.is_none() {
            return Ok(());
        }
        self.file.sync_all().or_fail(Status::System, || {
            format!("writing the snapshot of {}", self.image.display())
        })
    }

    /// The clone, open for reading and locked: that lasts until the last copy of this descriptor is closed.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The index was saved, with what [`ChangeSource::now`] says: from now on that is the clone to compare with, and
    /// all others for this index are removed.
    pub fn saved(&self) {
        let kept = self
            .identity
            .as_ref()
            .map(|identity| identity.name.as_str());
        self.named.store(false, SeqCst);
        names::sweep(self.directory.as_fd(), &self.tag, kept);
    }

    fn forget_name(&self) -> io::Result<()> {
        if self.named.swap(false, SeqCst) {
            names::remove(self.directory.as_fd(), &self.name)?;
        }
        Ok(())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(e) = self.forget_name() {
            log::warn!("the snapshot {} cannot be removed: {e}", self.name);
        }
    }
}

impl ChangeSource for Snapshot {
    fn since(&self, then: Option<&ImageState>) -> Option<Changes> {
        let image = self.image.display();
        let then = match then {
            Some(ImageState::Clone(then)) => then,
            Some(ImageState::Named(_)) | None => {
                log::info!("{image}: there is no snapshot of the last scan: all of it is read");
                return None;
            }
        };
        if !self.tag.is_of(&then.name, &self.image) {
            log::info!(
                "{image}: the last scan was of {}, a snapshot of another image or index: all of it is read",
                then.name
            );
            return None;
        }
        match reference::changes(self.directory.as_fd(), then, &self.file) {
            Ok(ranges) => Some(Changes { ranges, checks: 0 }),
            Err(why) => {
                log::info!(
                    "{image}: the snapshot of the last scan, {}, {why}: all of it is read",
                    then.name
                );
                None
            }
        }
    }

    fn now(&self) -> Option<ImageState> {
        self.identity.clone().map(ImageState::Clone)
    }
}

/// An index of `image` was saved that describes no clone: those that it had are removed.
pub fn forget(image: &Path, index: &Path) {
    let parent = image.parent().unwrap_or(Path::new("/"));
    match names::open_directory(parent) {
        // Elsewhere none are kept, and the directory may be long.
        Ok(directory) if reference::is_believed(&directory) => {
            names::sweep(directory.as_fd(), &Tag::of(Some(index)), None);
        }
        Ok(_) => {}
        Err(e) => log::debug!("looking for old snapshots in {}: {e}", parent.display()),
    }
}

fn refused(image: &Path, directory: &Path, error: &CloneError) -> Failure {
    let (CloneError::Unsupported(e) | CloneError::Directory(e) | CloneError::Io(e)) = error;
    let number = e.raw_os_error();
    let no_room = matches!(number, Some(libc::ENOSPC | libc::EDQUOT));
    let not_permitted = matches!(number, Some(libc::EACCES | libc::EPERM | libc::EROFS));
    let (status, hint) = match error {
        CloneError::Unsupported(_) => (
            Status::MountFailed,
            "; it needs a file system with reflinks, XFS or Btrfs: mount it without --snapshot",
        ),
        _ if no_room => (
            Status::System,
            "; make room, or keep no snapshots between runs (-o snapshot-keep=no)",
        ),
        CloneError::Directory(_) if not_permitted => (
            Status::Usage,
            "; mount it without --snapshot, or as a user who may write there",
        ),
        _ => (Status::System, ""),
    };
    let place = match error {
        CloneError::Directory(_) => format!("making a file in {}: ", directory.display()),
        _ => String::new(),
    };
    Failure::new(
        status,
        format!(
            "making a snapshot of {}: {place}{}{hint}",
            image.display(),
            reason(e)
        ),
    )
}
