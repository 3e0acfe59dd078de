//! The source of a mount or a scan: the image itself, or a snapshot of it, and the index that goes with it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::changes::{ChangeMap, ChangeSource, Named};
use crate::config::{IndexConfig, IndexPlace, SnapshotConfig, SourceConfig, VolumeConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::image::{self, Image, Opened};
use crate::index::{self, FileId};
use crate::libvirt::{Content, Disk};
use crate::scan::Tally;
use crate::snapshot::{self, Purpose, Snapshot};

use super::freeze::{Frozen, Step};
use super::prepare::interrupted;

/// A source that is open and locked.
#[derive(Debug)]
pub(super) struct Source {
    image: Arc<image::Source>,
    /// Its canonical path; that of the image itself, if this is a snapshot.
    pub(super) path: PathBuf,
    /// Its file or device node; that of the image itself, if this is a snapshot.
    pub(super) id: FileId,
    /// Where its index is, if it is to have one.
    pub(super) index: Option<PathBuf>,
    /// The directory of the mount that shows it, if not all of the mount does.
    pub(super) name: Option<OsString>,
    snapshot: Option<Snapshot>,
    /// It is of a domain.
    of_domain: bool,
    /// What libvirt tells of it.
    told: Option<Named>,
}

impl Source {
    /// Opens an image. The index must not be below `mountpoint`.
    pub(super) fn open(
        source: &SourceConfig,
        volume: &VolumeConfig,
        index: Option<&IndexConfig>,
        mountpoint: Option<&Path>,
    ) -> Result<Self> {
        let name = source.name.clone();
        let opened = image::open(&source.path, volume)?;
        Self::opened(opened, name, volume, index, mountpoint)
    }

    /// Opens the disk of a domain, which is called `path`.
    pub(super) fn of_disk(
        disk: Disk,
        path: &Path,
        volume: &VolumeConfig,
        index: Option<&IndexConfig>,
        mountpoint: Option<&Path>,
    ) -> Result<Self> {
        let attempt = || format!("opening {}", path.display());
        let source = match disk.content {
            Content::Image(file) => image::open(&file, volume)?.source,
            Content::Export(file, zeros) => {
                let source = File::open(&file)
                    .and_then(|file| image::Source::moment(file, zeros, disk.behind));
                source.or_fail(Status::MountFailed, attempt)?.named(path)
            }
        };
        let path = path.to_owned();
        // The same whether it runs or not.
        let source = source.private();
        let opened = Opened { source, path };
        let name = Some(disk.target.into());
        let mut source = Self::opened(opened, name, volume, index, mountpoint)?;
        source.told = source.told_by(disk.written, disk.state)?;
        source.of_domain = true;
        Ok(source)
    }

    /// What is told of the disk of a domain: what was `written` since a state, and what its present `state` is called.
    fn told_by(
        &self,
        written: Option<(String, ChangeMap)>,
        state: Option<String>,
    ) -> Result<Option<Named>> {
        let path = &self.path;
        let size = self.image.size();
        let size = size.or_fail(Status::System, || format!("reading {}", path.display()))?;
        let told = written.and_then(|(since, map)| match map.within(size) {
            Ok(ranges) => Some((since, ranges)),
            Err(why) => {
                let path = path.display();
                log::warn!("{path}: what changed cannot be told: {why}: everything is read");
                None
            }
        });
        if told.is_none() && state.is_none() {
            return Ok(None);
        }
        Ok(Some(Named {
            source: path.display().to_string(),
            told,
            now: state,
        }))
    }

    fn opened(
        opened: Opened,
        name: Option<OsString>,
        volume: &VolumeConfig,
        index: Option<&IndexConfig>,
        mountpoint: Option<&Path>,
    ) -> Result<Self> {
        let Opened { source, path } = opened;
        let attempt = || format!("opening {}", path.display());
        let stat = source.file().metadata();
        let id = FileId::of(&stat.or_fail(Status::System, attempt)?);
        let index = index
            .map(|index| index_file(index, &path, volume))
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
        Ok(Self {
            image: Arc::new(source),
            path,
            id,
            index,
            name,
            snapshot: None,
            of_domain: false,
            told: None,
        })
    }

    /// The bytes.
    pub(super) fn image(&self) -> Arc<dyn Image> {
        Arc::clone(&self.image) as Arc<dyn Image>
    }

    /// Clones the image, and the clone is what is read from now on.
    fn clone_image(self, purpose: Purpose) -> Result<Self> {
        let snapshot = Snapshot::take(
            self.image.file(),
            &self.path,
            self.index.as_deref(),
            purpose,
        )?;
        let attempt = || format!("opening the snapshot of {}", self.path.display());
        let clone = snapshot.file().or_fail(Status::System, attempt)?;
        let image = Arc::into_inner(self.image);
        let image = image.map(|image| image.replaced_by(clone)).transpose();
        let image = image.or_fail(Status::System, attempt)?;
        let image = image.ok_or_else(|| Failure::new(Status::Internal, attempt()))?;
        Ok(Self {
            image: Arc::new(image),
            snapshot: Some(snapshot),
            ..self
        })
    }

    /// Nobody can write what is served.
    pub(super) fn is_immutable(&self) -> bool {
        self.snapshot.is_some() || self.image.is_moment()
    }

    /// Who can tell what changed.
    pub(super) fn changes(&self) -> Option<&dyn ChangeSource> {
        let snapshot = self.snapshot.as_ref();
        let told = self.told.as_ref().map(|told| told as &dyn ChangeSource);
        snapshot
            .map(|snapshot| snapshot as &dyn ChangeSource)
            .or(told)
    }

    /// The index was saved: it describes this snapshot, or none.
    pub(super) fn index_saved(&self) {
        match (&self.snapshot, &self.index) {
            (Some(snapshot), _) => snapshot.saved(),
            (None, Some(index)) if !self.of_domain => snapshot::forget(&self.path, index),
            (None, _) => {}
        }
    }
}

/// For how long the sources were frozen while they were cloned, and whether they were thawed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freeze {
    pub(super) lasted: Duration,
    pub(super) thawed: bool,
}

impl Freeze {
    /// For a log line.
    pub(super) fn describe(self) -> String {
        format!("frozen for {:.3} seconds", self.lasted.as_secs_f64())
    }
}

/// Clones all of them, one right after the other, before anything of them is read. `dry_run`: no index will be saved.
/// After an error no clone is left.
pub(super) fn clone_all(
    sources: Vec<Source>,
    wanted: &SnapshotConfig,
    dry_run: bool,
    tally: &Tally,
) -> Result<(Vec<Source>, Option<Freeze>)> {
    let purpose = if wanted.keep && !dry_run {
        Purpose::Keep
    } else {
        Purpose::Serve
    };
    for source in &sources {
        let flushed = source.image.flush();
        flushed.or_fail(Status::System, || {
            format!("reading {}", source.path.display())
        })?;
    }
    if sources.iter().any(|source| source.index.is_none()) {
        snapshot::wait_for_a_second_of_its_own();
    }
    let frozen = match &wanted.freeze {
        Some(freeze) => Some(Frozen::begin(Step::typed(freeze)?, tally)?),
        None => None,
    };
    // Written until it was frozen, in the second of the clones: others' clones of that second would show the same time.
    for source in sources.iter().filter(|source| source.index.is_none()) {
        let written = snapshot::is_written_just_now(source.image.file());
        if written.or_fail(Status::System, || {
            format!("reading {}", source.path.display())
        })? {
            snapshot::wait_for_a_second_of_its_own();
        }
    }
    let clones = sources.into_iter().map(|source| {
        if tally.cancel.load(Relaxed) {
            return Err(interrupted());
        }
        source.clone_image(purpose)
    });
    let clones: Result<Vec<_>> = clones.collect();
    let freeze = frozen.map(|frozen| {
        let (lasted, thawed) = frozen.thaw();
        Freeze { lasted, thawed }
    });
    let clones = clones?;
    for snapshot in clones.iter().filter_map(|clone| clone.snapshot.as_ref()) {
        snapshot.make_durable()?;
    }
    Ok((clones, freeze))
}

/// The index's file. An error: it cannot be told where that would be.
pub(super) fn index_file(
    config: &IndexConfig,
    path: &Path,
    volume: &VolumeConfig,
) -> Result<PathBuf> {
    let directory = match &config.place {
        IndexPlace::File(file) if file.is_dir() => {
            let file = file.display();
            return Err(Failure::usage(format!(
                "index {file}: it is a directory; if the index is to be in it, add a slash: --index={file}/"
            )));
        }
        IndexPlace::File(file) => return Ok(file.clone()),
        IndexPlace::Directory(directory) => Some(directory.as_path()),
        IndexPlace::State => None,
    };
    index::default_path(directory, path, config.id.as_deref(), volume.block_size).or_fail(
        Status::MountFailed,
        || "looking for the state directory (set XDG_STATE_HOME, or use --index=FILE or --index=DIR/)",
    )
}
