//! The reverse: a plain directory of block files shown as one file, `image`, and one for each partition of it. Plain
//! Rust, no FUSE, no mount point.
//!
//! Invariants: every byte of the image is a byte of a block file, or zero where the block was missing at the mount;
//! what has vanished since then is an error, never zeros. A block file is complete at every instant, and one that has
//! another name somewhere (a version made by `--link-dest`) is never written.

mod data;
mod directory;
mod dirty;
mod holes;
mod layout;
mod partitions;
mod pool;
mod private;
mod sectors;
mod survey;
mod views;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use crate::clock::Clock;
use crate::config::OwnerConfig;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::geometry::{BlockIndex, BlockSize, Geometry, Span};
use crate::image::{Image, Ownership, Source};
use crate::per_block::BlockSet;
use crate::volume::handles::Handles;
use crate::volume::owner::Owners;
use crate::volume::sync_errors::SyncErrors;

pub(crate) use directory::Directory;
pub(crate) use survey::warn_of_strangers;

use directory::Lock;
use dirty::Dirty;
use layout::LayoutError;
use partitions::{Disk, Partition};
use pool::Pool;
use sectors::Sectors;
use survey::Survey;
use views::Views;
use volume::Open;

/// How many block files are open at once.
const OPEN_FILES: usize = 256;
/// A unit of stat(2)'s `st_blocks`, in bytes.
const SECTOR: u64 = 512;

/// What is to be shown, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
// As VolumeConfig: each is an option of its own.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct ReverseConfig {
    /// The directory of block files.
    pub directory: PathBuf,
    /// Length of every block but the last; `None`: that of block 0.
    pub block_size: Option<BlockSize>,
    /// Blocks may be missing: they are zeros.
    pub sparse: bool,
    /// Block files may be written, and missing ones created.
    pub writable: bool,
    /// `-o force`: go on although somebody else has locked the directory.
    pub force: bool,
    /// `-o zero=detect`: long runs of zeros that are written become holes.
    pub detect_zeros: bool,
    /// Owner and mode of the image, where the user overrides the block files'.
    pub owner: OwnerConfig,
}

/// A directory of block files as one file.
#[derive(Debug)]
pub(crate) struct Reverse {
    config: ReverseConfig,
    directory: Directory,
    geometry: Geometry,
    present: BlockSet,
    sectors: Sectors,
    views: Views,
    pool: Pool,
    dirty: Dirty,
    owners: Owners,
    /// What new block files get: that of the first.
    ownership: Ownership,
    handles: Handles<Open>,
    /// The newest mtime of all block files, in whole seconds.
    newest: AtomicI64,
    /// The same at the mount.
    newest_before: i64,
    /// Whether it was said that somebody else writes the block files.
    said_changed: AtomicBool,
    sync_errors: SyncErrors,
    clock: Arc<dyn Clock>,
}

impl Reverse {
    /// Opens and locks the directory, and looks at every name in it.
    ///
    /// # Errors
    /// If the block files do not make up an image, the sentence says which one is wrong and what to do.
    pub(crate) fn open(config: &ReverseConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_keeping(OPEN_FILES, config, clock)
    }

    /// With up to `files` block files open at once.
    pub(crate) fn open_keeping(
        files: usize,
        config: &ReverseConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let path = &config.directory;
        let directory = Directory::open(path).map_err(|e| refused(path, &e))?;
        let alone = lock(&directory, config)?;
        if config.writable && alone {
            directory.remove_leftovers();
        }
        let survey = Survey::of(&directory)
            .map_err(|e| Failure::new(Status::MountFailed, format!("{}: {e}", path.display())))?;
        let geometry = layout::judge(
            &survey.lengths(),
            survey.strangers() > 0,
            config.block_size,
            config.sparse,
        )
        .map_err(|e| unusable(path, &e))?;
        survey.warn_of_strangers(path);
        let ownership = survey
            .ownership()
            .map_or_else(|| directory.ownership(), Ok)
            .or_fail(Status::System, || format!("reading {}", path.display()))?;
        let whole = Span::new(0, geometry.image_size());
        let mut reverse = Self {
            present: survey.blocks().collect(),
            sectors: Sectors::new(),
            views: Views::new(whole, &[]),
            pool: Pool::new(files),
            dirty: Dirty::default(),
            owners: Owners::new(ownership, config.owner),
            ownership,
            handles: Handles::new(),
            newest: AtomicI64::new(survey.newest()),
            newest_before: survey.newest(),
            said_changed: AtomicBool::new(false),
            sync_errors: SyncErrors::default(),
            config: config.clone(),
            directory,
            geometry,
            clock,
        };
        reverse.views = Views::new(whole, &reverse.partitions(whole));
        for (block, sectors) in survey.sectors() {
            reverse.note_sectors(block, sectors);
        }
        Ok(reverse)
    }

    /// The partitions of the image, and one warning if not all that its tables tell can be right.
    fn partitions(&self, whole: Span) -> Vec<Partition> {
        let shown = self.config.directory.display();
        let disk = Disk {
            span: whole,
            read: &|out, offset| {
                let run = Span::new(offset, offset + out.len() as u64);
                match self.read_image(out, run) {
                    (_, None) => Ok(()),
                    (_, Some(errno)) => Err(errno.into()),
                }
            },
        };
        match partitions::read(&disk) {
            Ok(table) => {
                if let Some(warning) = table.warning() {
                    log::warn!("{shown}: the partitions of the image: {warning}");
                }
                table.partitions
            }
            Err(e) => {
                log::warn!(
                    "{shown}: the partitions of the image cannot be read, and are not shown: {e}"
                );
                Vec::new()
            }
        }
    }

    /// How the image is cut into block files.
    #[must_use]
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many of its blocks have a file at present.
    #[must_use]
    pub(crate) fn present(&self) -> u64 {
        self.present.count()
    }

    /// How many partitions of the image have a file, too.
    #[must_use]
    pub(crate) fn partition_count(&self) -> usize {
        self.views.count() - 1
    }

    /// What the file of a block takes now, in units of 512 bytes; where that is not believed, its length.
    fn note_sectors(&self, block: BlockIndex, told: u64) {
        let span = self.geometry.span(block);
        let now = if self.directory.believed {
            told
        } else {
            span.len().div_ceil(SECTOR)
        };
        self.views.note(span, self.sectors.note(block, now), now);
    }

    /// The orderly end: what was written is made durable.
    pub(crate) fn close(&self) -> io::Result<()> {
        if self.config.writable {
            self.sync_all(false)?;
        }
        Ok(())
    }

    /// Makes all writes so far durable: the files, then the directory with their names.
    fn sync_all(&self, data_only: bool) -> io::Result<()> {
        let mut result = Ok(());
        for (block, mark) in self.dirty.pending() {
            let synced = self
                .with_file(block, |source| source.sync(data_only))
                .and_then(|synced| synced);
            self.dirty.synced(block, mark);
            if let Err(e) = synced {
                log::error!("making writes to block {block} durable: {e}; they may be lost");
                result = Err(e);
            }
        }
        let names = self.dirty.sync_names(|| self.directory.sync());
        if let Err(e) = names {
            log::error!("making the names of new block files durable: {e}; they may be lost");
            result = Err(e);
        }
        if result.is_err() {
            self.sync_errors.note();
        }
        result
    }

    /// Works on the file of a block that is there; on one that is opened for reading, unless it was written before.
    fn with_file<R>(&self, block: BlockIndex, work: impl FnOnce(&Source) -> R) -> io::Result<R> {
        let slot = self.pool.slot(block, |block, old| self.retire(block, old));
        loop {
            if let Some(file) = &*slot.read() {
                return Ok(work(&file.source));
            }
            let mut file = slot.write();
            if file.is_none() {
                *file = Some(self.open_to_read(block)?);
            }
        }
    }

    /// Before a file is closed to make room: what was written to it must not be lost unseen afterwards.
    fn retire(&self, block: BlockIndex, old: &pool::Slot) {
        let Some(mark) = self.dirty.mark_of(block) else {
            return;
        };
        if let Some(file) = &*old.read() {
            let synced = file.source.sync(false);
            self.dirty.synced(block, mark);
            if let Err(e) = synced {
                log::error!("making writes to block {block} durable: {e}; they may be lost");
                self.sync_errors.note();
            }
        }
    }
}

/// Takes the directory's lock: exclusive for a writer. Whether nobody else has one that conflicts.
fn lock(directory: &Directory, config: &ReverseConfig) -> Result<bool> {
    let shown = config.directory.display();
    let taken = directory
        .lock(config.writable)
        .or_fail(Status::System, || format!("locking {shown}"))?;
    let conflicts = match taken {
        Lock::Taken => return Ok(true),
        Lock::Unsupported => return Ok(false),
        Lock::Conflicts(conflicts) => conflicts.join(", and "),
    };
    if !config.writable {
        log::warn!("{shown}: {conflicts}; the image may be of two moments");
    } else if config.force {
        log::warn!("{shown}: {conflicts}; writing to it all the same (-o force)");
    } else {
        return Err(Failure::new(
            Status::MountFailed,
            format!("opening {shown} for writing: {conflicts}; end that first, or use -o force"),
        ));
    }
    Ok(false)
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::PermissionDenied => Status::Usage,
        _ => Status::MountFailed,
    };
    let reason = error.raw_os_error().map_or_else(
        || error.to_string(),
        |number| nix::errno::Errno::from_raw(number).desc().to_owned(),
    );
    Failure::new(status, format!("opening {}: {reason}", path.display()))
}

fn unusable(path: &Path, error: &LayoutError) -> Failure {
    let status = if error.is_usage() {
        Status::Usage
    } else {
        Status::MountFailed
    };
    Failure::new(status, format!("{}: {error}", path.display()))
}
