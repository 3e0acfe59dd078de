//! The index of one image: asked for, brought up to date, and what its errors mean to whoever asked.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::changes::named;
use super::prepare::{interrupted, unshowable};
use super::source::Source;
use super::vanished;
use crate::blocks::BlocksError;
use crate::changes::{ChangeMap, ChangeSource};
use crate::clock::SystemClock;
use crate::config::{IndexConfig, VolumeConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::geometry::Geometry;
use crate::index::{self, Index, OpenError, Plan, Purpose};
use crate::scan::{BlockMap, Tally};
use crate::sys;

/// With how many threads an image is read: as many as were `asked` for, else one a processor.
pub(super) fn scan_threads(asked: Option<NonZeroUsize>) -> usize {
    asked.map_or_else(sys::processors, usize::from)
}

/// An image whose index is wanted.
pub(super) struct Indexing<'a> {
    pub(super) source: &'a Source,
    pub(super) volume: &'a VolumeConfig,
    /// What `--changed` has told.
    pub(super) map: Option<&'a ChangeMap>,
    /// The block map that `--bmap` wants.
    pub(super) bmap: Option<&'a BlockMap>,
    pub(super) threads: Option<NonZeroUsize>,
}

impl Indexing<'_> {
    /// Brings the index up to date.
    pub(super) fn open(
        &self,
        config: &IndexConfig,
        purpose: Purpose,
        tally: &Tally,
    ) -> Result<Index> {
        self.with_request(config, purpose, tally, Index::open)
    }

    /// What bringing it up to date would read.
    pub(super) fn plan(&self, config: &IndexConfig, tally: &Tally) -> Result<Plan> {
        let purpose = Purpose::Scan {
            list: false,
            dry_run: true,
        };
        self.with_request(config, purpose, tally, Index::plan_open)
    }

    /// Has `act` done with what there is to know of the index and the image's size.
    fn with_request<T>(
        &self,
        config: &IndexConfig,
        purpose: Purpose,
        tally: &Tally,
        act: impl FnOnce(&index::Request<'_>) -> std::result::Result<T, OpenError>,
    ) -> Result<T> {
        let (image, path) = (self.source.image(), &self.source.path);
        let attempt = || format!("reading {}", path.display());
        let size = image.size().or_fail(Status::System, attempt)?;
        let geometry = Geometry::new(size, self.volume.block_size)
            .map_err(|e| unshowable(&BlocksError::Geometry(e), path))?;
        let named = named(&config.changes, self.map, path, size)?;
        let named = named.as_ref().map(|named| named as &dyn ChangeSource);
        image.flush().or_fail(Status::System, attempt)?;
        let file =
            self.source.index.as_deref().ok_or_else(|| {
                Failure::new(Status::Internal, format!("{}: no index", attempt()))
            })?;
        let request = index::Request {
            image,
            geometry,
            path: file,
            source_file: Some(self.source.id),
            source: path.to_string_lossy().into_owned(),
            writable: self.volume.writable,
            force: self.volume.force,
            immutable: self.source.is_immutable(),
            changes: self.source.changes().or(named),
            salvage: self.volume.salvage,
            rescan: config.rescan,
            recheck: config.recheck,
            zeros: self.volume.sparse,
            purpose,
            map: self.bmap,
            threads: scan_threads(self.threads),
            tally,
            clock: Arc::new(SystemClock),
        };
        act(&request).map_err(|e| {
            let object = match e {
                OpenError::Held(_) | OpenError::Refused(_) | OpenError::Unsaved { .. } => {
                    format!("index {}", file.display())
                }
                OpenError::Shrunk { .. } => path.display().to_string(),
                OpenError::Unreadable => return vanished::unreadable(path),
                OpenError::Interrupted => return interrupted(),
            };
            let status = match (&e, purpose) {
                (OpenError::Refused(why), _) if why.is_mistake() => Status::Usage,
                // There is no mount.
                (OpenError::Unsaved { .. }, Purpose::Scan { .. }) => Status::System,
                _ => Status::MountFailed,
            };
            Failure::new(status, format!("{object}: {e}"))
        })
    }
}
