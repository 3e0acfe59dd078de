//! The source of a mount or a scan: the image itself, or a snapshot of it, and the index that goes with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::changes::ChangeSource;
use crate::config::{IndexConfig, VolumeConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::image::{self, Image, Opened};
use crate::index::{self, FileId};
use crate::snapshot::{self, Purpose, Snapshot};

/// A source that is open and locked.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) image: Arc<dyn Image>,
    /// Its canonical path; that of the image itself, if this is a snapshot.
    pub(super) path: PathBuf,
    /// Its file or device node; that of the image itself, if this is a snapshot.
    pub(super) id: FileId,
    /// Where its index is, if it is to have one.
    pub(super) index: Option<PathBuf>,
    snapshot: Option<Snapshot>,
}

impl Source {
    /// Opens the image at `path`, and clones it if it is to be a snapshot. The index must not be below `mountpoint`.
    /// `dry_run`: the index will not be saved.
    pub(super) fn open(
        path: &Path,
        volume: &VolumeConfig,
        index: Option<&IndexConfig>,
        mountpoint: Option<&Path>,
        dry_run: bool,
    ) -> Result<Self> {
        let Opened { source, path } = image::open(path, volume)?;
        let attempt = || format!("opening {}", path.display());
        let stat = source.file().metadata();
        let id = FileId::of(&stat.or_fail(Status::System, attempt)?);
        let index = index
            .map(|index| file_of(index, &path, volume))
            .transpose()?;
        let hidden = index
            .as_ref()
            .zip(mountpoint)
            .filter(|(file, mountpoint)| index::lies_below(file, mountpoint));
        if let Some((file, mountpoint)) = hidden {
            let (file, place) = (file.display(), mountpoint.display());
            return Err(Failure::new(
                Status::MountFailed,
                format!(
                    "mount point {place}: it holds the index {file}, which the mount would hide"
                ),
            ));
        }
        let Some(wanted) = &volume.snapshot else {
            return Ok(Self {
                image: Arc::new(source),
                path,
                id,
                index,
                snapshot: None,
            });
        };
        let purpose = if wanted.keep && !dry_run {
            Purpose::Keep
        } else {
            Purpose::Serve
        };
        let snapshot = Snapshot::take(source.file(), &path, index.as_deref(), purpose)?;
        let attempt = || format!("opening the snapshot of {}", path.display());
        let clone = snapshot.file().or_fail(Status::System, attempt)?;
        let source = source.replaced_by(clone).or_fail(Status::System, attempt)?;
        Ok(Self {
            image: Arc::new(source),
            path,
            id,
            index,
            snapshot: Some(snapshot),
        })
    }

    /// Nobody can write what is served.
    pub(super) fn is_immutable(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Who can tell what changed.
    pub(super) fn changes(&self) -> Option<&dyn ChangeSource> {
        self.snapshot
            .as_ref()
            .map(|snapshot| snapshot as &dyn ChangeSource)
    }

    /// The index was saved: it describes this snapshot, or none.
    pub(super) fn index_saved(&self) {
        match (&self.snapshot, &self.index) {
            (Some(snapshot), _) => snapshot.saved(),
            (None, Some(index)) => snapshot::forget(&self.path, index),
            (None, None) => {}
        }
    }
}

/// The index's file. An error: it cannot be told where that would be.
fn file_of(config: &IndexConfig, path: &Path, volume: &VolumeConfig) -> Result<PathBuf> {
    let default = || index::default_path(path, config.id.as_deref(), volume.block_size);
    config.file.clone().map_or_else(default, Ok).or_fail(
        Status::MountFailed,
        || "looking for the state directory (set XDG_STATE_HOME, or use --index=FILE)",
    )
}
