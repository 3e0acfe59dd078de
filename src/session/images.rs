//! All that comes before a mount of images: opened and locked, cloned, their indexes brought up to date.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::content::{Content, Member};
use super::indexing::{Indexing, scan_threads};
use super::not_thawed;
use super::prepare::{Prepared, interrupted, owned_by_user, unshowable};
use super::source::{Freeze, Source, clone_all};
use super::{definition, domain, vanished};
use crate::blocks::{Blocks, BlocksError, Listing, Memory};
use crate::changes::ChangeMap;
use crate::clock::SystemClock;
use crate::config::{
    DomainConfig, IndexConfig, MountConfig, SourceConfig, Verbosity, VolumeConfig,
};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::geometry::Geometry;
use crate::host::progress::Progress;
use crate::index::{Index, Purpose};
use crate::libvirt::Domain;
use crate::scan::Tally;
use crate::threads;

pub(super) fn prepare_images(
    config: &MountConfig,
    domain: Option<(&mut Domain, &DomainConfig)>,
    map: Option<&ChangeMap>,
    purpose: Purpose,
    tally: &Arc<Tally>,
) -> Result<Prepared> {
    let VolumeConfig {
        writable,
        sparse,
        resize,
        ..
    } = config.volume;
    // Where blocks can be removed, rsync --delete removes all of an image whose directory the backup does not have, and
    // says nothing of it.
    if writable && (sparse || resize) && config.sources.len() > 1 {
        let typed = if sparse { "--sparse" } else { "--resize" };
        return Err(Failure::usage(format!(
            "-w with {typed} is for one SRC: rsync --delete would empty an image that the backup does not have; restore one \
             after the other"
        )));
    }
    let (volume, index) = (&config.volume, config.index.as_ref());
    let place = Some(config.mountpoint.as_path());
    let mut definition = None;
    let (sources, freeze) = match domain {
        Some((domain, of)) => {
            definition = Some(definition::file(domain, of, volume, index)?);
            domain::open(domain, of, volume, index, place, tally)?
        }
        None => open_all(&config.sources, volume, index, place, false, tally)?,
    };
    // Whoever waits for a mount that stays must learn it now.
    if purpose == Purpose::Mount && freeze.is_some_and(|freeze| !freeze.thawed) {
        return Err(not_thawed());
    }
    let preparing = Preparing {
        config,
        map,
        purpose,
    };
    let ready = {
        let _progress = preparing.progress(&sources, tally);
        for_each(&sources, tally, |source, tally| {
            preparing.bring_up(source, tally)
        })
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err((failure, others)) => {
            others.iter().for_each(Ready::close);
            return Err(failure);
        }
    };
    let memory = Memory::new(config.volume.staging);
    let (mut members, mut failed) = (Vec::new(), None);
    for (source, ready) in sources.into_iter().zip(ready) {
        if failed.is_some() {
            ready.close();
            continue;
        }
        match preparing.member(&source, ready, &memory) {
            Ok(member) => members.push(member),
            Err(failure) => failed = Some(failure),
        }
    }
    match failed {
        None => Ok(Prepared {
            members,
            definition,
            freeze,
        }),
        Some(failure) => {
            members.iter().for_each(Member::close_unused);
            Err(failure)
        }
    }
}

/// Opens images, which may be snapshots.
pub(super) fn open_all(
    sources: &[SourceConfig],
    volume: &VolumeConfig,
    index: Option<&IndexConfig>,
    mountpoint: Option<&Path>,
    dry_run: bool,
    tally: &Tally,
) -> Result<(Vec<Source>, Option<Freeze>)> {
    let mut opened: Vec<Source> = Vec::new();
    for typed in sources {
        let source = Source::open(typed, volume, index, mountpoint)?;
        if let Some(at) = opened.iter().position(|other| other.id == source.id) {
            let (one, other) = (sources[at].path.display(), typed.path.display());
            return Err(Failure::usage(format!(
                "{one} and {other} are the same file or device: it can be shown only once"
            )));
        }
        opened.push(source);
    }
    match &volume.snapshot {
        Some(wanted) => clone_all(opened, wanted, dry_run, tally),
        None => Ok((opened, None)),
    }
}

/// Does `work` for all of them at once, and gives what it gives, in order. The tally that it gets is the source's own, and
/// what is said to `tally` goes for all. An error, of the first that has one, ends the others; with it comes what these
/// have given.
pub(super) fn for_each<T: Send>(
    sources: &[Source],
    tally: &Tally,
    work: impl Fn(&Source, &Tally) -> Result<T> + Sync,
) -> std::result::Result<Vec<T>, (Failure, Vec<T>)> {
    let one = |source: &Source| {
        let own = tally.beside();
        let done = work(source, &own);
        if done.is_err() {
            tally.cancel.store(true, Relaxed);
        }
        done
    };
    let all = threads::for_each(sources, one);
    let mut given = Vec::new();
    let mut failures = Vec::new();
    for one in all {
        match one {
            Ok(one) => given.push(one),
            Err(failure) => failures.push(failure),
        }
    }
    // The others may have been interrupted for it.
    let first = failures
        .iter()
        .position(|failure| failure.status() != Status::Interrupted);
    if failures.is_empty() {
        Ok(given)
    } else {
        Err((failures.swap_remove(first.unwrap_or(0)), given))
    }
}

/// What is known of a source that is up to date.
#[derive(Debug)]
struct Ready {
    index: Option<Index>,
    listing: Option<Listing>,
}

impl Ready {
    /// Nothing was made of it.
    fn close(&self) {
        if let Some(Err(e)) = self.index.as_ref().map(Index::close) {
            log::warn!("saving the index: {e}");
        }
    }
}

/// What is to be made of images.
struct Preparing<'a> {
    config: &'a MountConfig,
    map: Option<&'a ChangeMap>,
    purpose: Purpose,
}

impl Preparing<'_> {
    /// Shows how far reading them is, if they are read.
    fn progress(&self, sources: &[Source], tally: &Arc<Tally>) -> Option<Progress> {
        let MountConfig {
            index,
            volume,
            verbosity,
            ..
        } = self.config;
        let must_read = |source: &Source| Listing::must_read(source.image().as_ref(), None);
        let doing = if index.is_some() {
            "scanning"
        } else if volume.sparse && sources.iter().any(must_read) {
            "looking for zeros in"
        } else {
            return None;
        };
        Some(progress(doing, sources, tally, *verbosity))
    }

    /// Refuses a source of a run that is gone; brings its index up to date, and finds out which blocks have a file.
    fn bring_up(&self, source: &Source, tally: &Tally) -> Result<Ready> {
        let config = self.config;
        if let Purpose::Run { refuse_shrunk, .. } = self.purpose {
            refuse_vanished(source, &config.volume, refuse_shrunk, tally)?;
        }
        let index = match &config.index {
            None => None,
            Some(index) => {
                let request = Indexing {
                    source,
                    volume: &config.volume,
                    map: self.map,
                    bmap: None,
                    threads: config.threads,
                };
                Some(request.open(index, self.purpose, tally)?)
            }
        };
        let ready = Ready {
            index,
            listing: None,
        };
        if ready.index.as_ref().is_some_and(Index::is_saved) {
            source.index_saved();
        }
        match self.listing(source, ready.index.as_ref(), tally) {
            Ok(listing) => Ok(Ready { listing, ..ready }),
            Err(failure) => {
                ready.close();
                Err(match (failure.status(), &ready.index) {
                    (Status::Interrupted, Some(_)) => Failure::new(
                        Status::Interrupted,
                        "interrupted before the mount was ready; the index has what was scanned",
                    ),
                    _ => failure,
                })
            }
        }
    }

    /// Which blocks have a file in a sparse directory.
    fn listing(
        &self,
        source: &Source,
        index: Option<&Index>,
        tally: &Tally,
    ) -> Result<Option<Listing>> {
        if tally.cancel.load(Relaxed) {
            return Err(interrupted());
        }
        let VolumeConfig {
            sparse, block_size, ..
        } = self.config.volume;
        if !sparse {
            return Ok(None);
        }
        let (image, path) = (source.image(), &source.path);
        let attempt = || format!("looking for zeros in {}", path.display());
        let size = image.size().or_fail(Status::System, attempt)?;
        let geometry = Geometry::new(size, block_size)
            .map_err(|e| unshowable(&BlocksError::Geometry(e), path))?;
        let threads = scan_threads(self.config.threads);
        let listing = Listing::of(image.as_ref(), geometry, index, threads, tally);
        if tally.cancel.load(Relaxed) {
            return Err(interrupted());
        }
        let listing = listing.or_fail(Status::System, attempt)?;
        Ok(Some(match self.purpose {
            Purpose::Run { .. } => listing.for_run(),
            _ => listing,
        }))
    }

    fn member(&self, source: &Source, ready: Ready, memory: &Memory) -> Result<Member> {
        let volume = owned_by_user(&self.config.volume);
        let index = ready.index.map(Arc::new);
        let clock = Arc::new(SystemClock);
        let blocks = Blocks::new(source.image(), volume, clock, index.clone(), ready.listing);
        match blocks {
            Ok(blocks) => Ok(Member {
                name: source.name.clone(),
                path: source.path.clone(),
                content: Content::Blocks(Arc::new(blocks.sharing(memory))),
            }),
            Err(e) => {
                let listing = None;
                let index = index.and_then(Arc::into_inner);
                Ready { index, listing }.close();
                Err(unshowable(&e, &source.path))
            }
        }
    }
}

/// Shows how far reading all of `sources` is.
pub(super) fn progress(
    doing: &str,
    sources: &[Source],
    tally: &Arc<Tally>,
    verbosity: Verbosity,
) -> Progress {
    let what = match sources {
        [only] => {
            let path = only.path.as_path();
            let name = path.file_name().unwrap_or(path.as_os_str());
            format!("{doing} {}", name.to_string_lossy())
        }
        _ => format!("{doing} {} sources", sources.len()),
    };
    // What cannot be told is said when it is read.
    let size = |source: &Source| source.image().size().unwrap_or(0);
    let total = sources.iter().map(size).sum();
    Progress::show(&what, tally, total, verbosity)
}

/// Refuses the source of a run that is gone. `empty`: also one of no bytes.
fn refuse_vanished(
    source: &Source,
    volume: &VolumeConfig,
    empty: bool,
    tally: &Tally,
) -> Result<()> {
    let (image, path) = (source.image(), &source.path);
    let size = image
        .size()
        .or_fail(Status::System, || format!("reading {}", path.display()))?;
    let geometry = Geometry::new(size, volume.block_size)
        .map_err(|e| unshowable(&BlocksError::Geometry(e), path))?;
    match size {
        0 if empty => Err(vanished::empty(path)),
        1.. if guards_backup(volume) => {
            vanished::refuse_unreadable(image.as_ref(), geometry, path, tally)
        }
        _ => Ok(()),
    }
}

/// Whether what cannot be read stays in the backup. Not where the image is what is restored, nor where what is left of it
/// is wanted.
fn guards_backup(volume: &VolumeConfig) -> bool {
    !volume.writable && !volume.salvage
}
