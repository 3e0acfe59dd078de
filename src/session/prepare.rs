//! All that comes before a mount: the source opened and locked, its index brought up to date.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::Event;
use super::changes::named;
use super::content::Content;
use super::source::Source;
use super::vanished;
use crate::blocks::{Blocks, BlocksError, Listing};
use crate::changes::{ChangeMap, ChangeSource};
use crate::clock::SystemClock;
use crate::config::{IndexConfig, MountConfig, OwnerConfig, Verbosity, VolumeConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::geometry::Geometry;
use crate::host::daemon::{heard_signals, served_signals};
use crate::host::progress::Progress;
use crate::image::Image;
use crate::index::{self, Index, OpenError, Plan, Purpose};
use crate::reverse::{Reverse, ReverseConfig};
use crate::scan::{BlockMap, Tally};
use crate::sys;

/// A source that is ready to be mounted.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) content: Content,
    /// The source's canonical path.
    pub(super) path: PathBuf,
}

/// Opens the source, and scans it if there is to be an index.
pub(super) fn prepare(
    config: &MountConfig,
    map: Option<&ChangeMap>,
    purpose: Purpose,
    tally: &Arc<Tally>,
) -> Result<Prepared> {
    if config.volume.writable {
        if let Err(e) = sys::set_io_flusher() {
            log::debug!("PR_SET_IO_FLUSHER: {e}");
        }
    }
    if config.source.is_dir() {
        return prepare_reverse(config, purpose);
    }
    let source = Source::open(
        &config.source,
        &config.volume,
        config.index.as_ref(),
        Some(&config.mountpoint),
        false,
    )?;
    if let Purpose::Run { refuse_shrunk, .. } = purpose {
        refuse_vanished(&source, &config.volume, refuse_shrunk, tally)?;
    }
    let index = match &config.index {
        None => None,
        Some(index) => {
            let request = Indexing {
                source: &source,
                volume: &config.volume,
                map,
                bmap: None,
                threads: config.threads,
            };
            Some(request.open(index, purpose, config.verbosity, tally)?)
        }
    };
    let guarded = matches!(purpose, Purpose::Run { .. }) && guards_backup(&config.volume);
    let dead = index
        .as_ref()
        .filter(|index| guarded && index.is_all_unreadable());
    if let Some(index) = dead {
        if let Err(e) = index.close() {
            log::warn!("saving the index: {e}");
        }
        return Err(vanished::unreadable(&source.path));
    }
    if index.as_ref().is_some_and(Index::is_saved) {
        source.index_saved();
    }
    let Source { image, path, .. } = source;
    if tally.cancel.load(Relaxed) {
        return Err(interrupted_with(index.as_ref()));
    }
    let volume = owned_by_user(&config.volume);
    let listing = if config.volume.sparse {
        let listing = listing(image.as_ref(), index.as_ref(), config, &path, tally)?;
        Some(match purpose {
            Purpose::Run { .. } => listing.for_run(),
            _ => listing,
        })
    } else {
        None
    };
    let index = index.map(Arc::new);
    let blocks = Blocks::new(image, volume, Arc::new(SystemClock), index, listing)
        .map_err(|e| unshowable(&e, &path))?;
    Ok(Prepared {
        content: Content::Blocks(Arc::new(blocks)),
        path,
    })
}

/// Refuses the source of a run that is gone. `empty`: also one of no bytes.
fn refuse_vanished(
    source: &Source,
    volume: &VolumeConfig,
    empty: bool,
    tally: &Tally,
) -> Result<()> {
    let (image, path) = (source.image.as_ref(), &source.path);
    let size = image
        .size()
        .or_fail(Status::System, || format!("reading {}", path.display()))?;
    let geometry = Geometry::new(size, volume.block_size)
        .map_err(|e| unshowable(&BlocksError::Geometry(e), path))?;
    match size {
        0 if empty => Err(vanished::empty(path)),
        1.. if guards_backup(volume) => vanished::refuse_unreadable(image, geometry, path, tally),
        _ => Ok(()),
    }
}

/// Whether what cannot be read stays in the backup. Not where the image is what is restored, nor where what is left of it
/// is wanted.
fn guards_backup(volume: &VolumeConfig) -> bool {
    !volume.writable && !volume.salvage
}

/// The reverse: opens a directory of block files.
fn prepare_reverse(config: &MountConfig, purpose: Purpose) -> Result<Prepared> {
    let shown = config.source.display();
    if let Some(typed) = &config.typed.image_only {
        return Err(Failure::usage(format!(
            "{typed} has no meaning for {shown}: SRC is a directory of block files"
        )));
    }
    let path = std::fs::canonicalize(&config.source)
        .or_fail(Status::MountFailed, || format!("opening {shown}"))?;
    let reverse = Reverse::open(
        &ReverseConfig {
            directory: path.clone(),
            block_size: config.typed.block_size,
            sparse: config.volume.sparse,
            writable: config.volume.writable,
            force: config.volume.force,
            detect_zeros: config.volume.detect_zeros,
            owner: owned_by_user(&config.volume).owner,
        },
        Arc::new(SystemClock),
    )?;
    if matches!(purpose, Purpose::Run { .. }) && reverse.present() == 0 && !config.volume.writable {
        return Err(vanished::no_block_file(&path));
    }
    Ok(Prepared {
        content: Content::Reverse(Arc::new(reverse)),
        path,
    })
}

/// Which blocks have a file in a sparse directory.
fn listing(
    image: &dyn Image,
    index: Option<&Index>,
    config: &MountConfig,
    path: &std::path::Path,
    tally: &Arc<Tally>,
) -> Result<Listing> {
    let attempt = || format!("looking for zeros in {}", path.display());
    let size = image.size().or_fail(Status::System, attempt)?;
    let geometry = Geometry::new(size, config.volume.block_size)
        .map_err(|e| unshowable(&BlocksError::Geometry(e), path))?;
    let _progress = Listing::must_read(image, index)
        .then(|| Progress::show(&attempt(), tally, size, config.verbosity));
    let listing = Listing::of(image, geometry, index, scan_threads(config.threads), tally);
    if tally.cancel.load(Relaxed) {
        return Err(interrupted_with(index));
    }
    listing.or_fail(Status::System, attempt)
}

/// With how many threads an image is read: as many as were `asked` for, else one a processor.
fn scan_threads(asked: Option<NonZeroUsize>) -> usize {
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
        verbosity: Verbosity,
        tally: &Arc<Tally>,
    ) -> Result<Index> {
        self.with_request(config, purpose, tally, |request, size| {
            let path = &self.source.path;
            let name = path.file_name().unwrap_or(path.as_os_str());
            let what = format!("scanning {}", name.to_string_lossy());
            let _progress = Progress::show(&what, tally, size, verbosity);
            Index::open(request)
        })
    }

    /// What bringing it up to date would read.
    pub(super) fn plan(&self, config: &IndexConfig, tally: &Arc<Tally>) -> Result<Plan> {
        let purpose = Purpose::Scan {
            list: false,
            dry_run: true,
        };
        self.with_request(config, purpose, tally, |request, _| {
            Index::plan_open(request)
        })
    }

    /// Has `act` done with what there is to know of the index and the image's size.
    fn with_request<T>(
        &self,
        config: &IndexConfig,
        purpose: Purpose,
        tally: &Arc<Tally>,
        act: impl FnOnce(&index::Request<'_>, u64) -> std::result::Result<T, OpenError>,
    ) -> Result<T> {
        let (image, path) = (&self.source.image, &self.source.path);
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
            image: Arc::clone(image),
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
        act(&request, size).map_err(|e| {
            let object = match e {
                OpenError::Held(_) | OpenError::Refused(_) | OpenError::Unsaved { .. } => {
                    format!("index {}", file.display())
                }
                OpenError::Shrunk { .. } => path.display().to_string(),
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

/// Interrupted once the index, if there is one, was opened: it is left as by a mount that nobody has used.
fn interrupted_with(index: Option<&Index>) -> Failure {
    let kept = match index.map(Index::close) {
        None => "",
        Some(Ok(_)) => "; the index has what was scanned",
        Some(Err(e)) => {
            log::warn!("saving the index: {e}");
            ""
        }
    };
    let said = format!("interrupted before the mount was ready{kept}");
    Failure::new(Status::Interrupted, said)
}

/// Interrupted before the index was opened, or while it was.
pub(super) fn interrupted() -> Failure {
    Failure::new(
        Status::Interrupted,
        "interrupted before the mount was ready; the index is as it was",
    )
}

fn unshowable(error: &BlocksError, path: &std::path::Path) -> Failure {
    match error {
        BlocksError::Geometry(_) => Failure::usage(format!("{}: {error}", path.display())),
        BlocksError::Io(_) => Failure::new(
            Status::System,
            format!("reading {}: {error}", path.display()),
        ),
    }
}

/// In a user's own mount everything is that user's, unless --uid says otherwise (promise P15).
fn owned_by_user(config: &VolumeConfig) -> VolumeConfig {
    let user = geteuid();
    let uid = config
        .owner
        .uid
        .or((!user.is_root()).then(|| user.as_raw()));
    VolumeConfig {
        owner: OwnerConfig {
            uid,
            ..config.owner
        },
        ..config.clone()
    }
}

/// Starts the thread that takes signals. A signal to end also ends the scan that the returned tally is for. HUP is one,
/// unless it `looks_again`: then it is heard in any case, for a mount outlives the terminal.
pub(super) fn forward_signals(events: Sender<Event>, looks_again: bool) -> Result<Arc<Tally>> {
    let tally = Arc::new(Tally::default());
    let scanning = Arc::clone(&tally);
    let (served, heard) = (served_signals(), heard_signals());
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = served.wait() {
                if looks_again && signal == Signal::SIGHUP {
                    // It is for the mount.
                } else if heard.contains(signal) {
                    scanning.cancel.store(true, Relaxed);
                } else {
                    continue;
                }
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .or_fail(Status::System, || "starting a thread")?;
    Ok(tally)
}
