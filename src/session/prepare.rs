//! All that comes before a mount: the sources opened and locked, their indexes brought up to date.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::geteuid;

use super::Event;
use super::content::{Content, Member};
use super::images::prepare_images;
use super::source::Freeze;
use super::vanished;
use crate::blocks::BlocksError;
use crate::changes::ChangeMap;
use crate::clock::SystemClock;
use crate::config::{DomainConfig, MountConfig, OwnerConfig, SourceConfig, VolumeConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::host::daemon::{heard_signals, served_signals};
use crate::index::Purpose;
use crate::libvirt::Domain;
use crate::reverse::{Reverse, ReverseConfig};
use crate::scan::Tally;
use crate::sys;
use crate::volume::plain::Plain;

/// Sources that are ready to be mounted.
#[derive(Debug)]
pub(super) struct Prepared {
    /// In the order in which they were named; at least one.
    pub(super) members: Vec<Member>,
    /// The definition of the domain that they are of.
    pub(super) definition: Option<Arc<Plain>>,
    /// If they were frozen while they were cloned.
    pub(super) freeze: Option<Freeze>,
}

/// Opens the sources, and scans them if there are to be indexes. After an error everything is closed again.
pub(super) fn prepare(
    config: &MountConfig,
    domain: Option<(&mut Domain, &DomainConfig)>,
    map: Option<&ChangeMap>,
    purpose: Purpose,
    tally: &Arc<Tally>,
) -> Result<Prepared> {
    if config.volume.writable {
        if let Err(e) = sys::set_io_flusher() {
            log::debug!("PR_SET_IO_FLUSHER: {e}");
        }
    }
    let is_directory = |source: &&SourceConfig| source.path.is_dir();
    let directory = config.sources.iter().find(is_directory);
    let image = config.sources.iter().find(|source| !is_directory(source));
    match (directory, image) {
        (Some(directory), Some(image)) if image.path.exists() => Err(Failure::usage(format!(
            "{} is a directory, and {} is an image: one mount shows images or directories of block files, not both",
            directory.path.display(),
            image.path.display()
        ))),
        // What is not there is told of when it is opened.
        (Some(_), _) => prepare_reverse(config, purpose),
        (None, _) => prepare_images(config, domain, map, purpose, tally),
    }
}

/// The reverse: opens directories of block files.
fn prepare_reverse(config: &MountConfig, purpose: Purpose) -> Result<Prepared> {
    let mut members: Vec<Member> = Vec::new();
    for source in &config.sources {
        match open_reverse(source, config, purpose) {
            Ok(member) => members.push(member),
            Err(failure) => {
                members.iter().for_each(Member::close_unused);
                return Err(failure);
            }
        }
    }
    Ok(Prepared {
        members,
        definition: None,
        freeze: None,
    })
}

fn open_reverse(source: &SourceConfig, config: &MountConfig, purpose: Purpose) -> Result<Member> {
    let shown = source.path.display();
    if let Some(typed) = &config.typed.image_only {
        return Err(Failure::usage(format!(
            "{typed} has no meaning for {shown}: SRC is a directory of block files"
        )));
    }
    let path = std::fs::canonicalize(&source.path)
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
    Ok(Member {
        name: source.name.clone(),
        path,
        content: Content::Reverse(Arc::new(reverse)),
    })
}

pub(super) fn interrupted() -> Failure {
    Failure::new(
        Status::Interrupted,
        "interrupted before the mount was ready; the index is as it was",
    )
}

pub(super) fn unshowable(error: &BlocksError, path: &std::path::Path) -> Failure {
    match error {
        BlocksError::Geometry(_) => Failure::usage(format!("{}: {error}", path.display())),
        BlocksError::Io(_) => Failure::new(
            Status::System,
            format!("reading {}: {error}", path.display()),
        ),
    }
}

/// In a user's own mount everything is that user's, unless --uid says otherwise (promise P15).
pub(super) fn owned_by_user(config: &VolumeConfig) -> VolumeConfig {
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
    let attempt = || "starting a thread";
    // It takes no other, so that this thread alone decides when one ends the process.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = thread::Builder::new()
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
        });
    let restored = before.and_then(|before| before.thread_set_mask());
    restored.or_fail(Status::System, attempt)?;
    started.or_fail(Status::System, attempt)?;
    Ok(tally)
}
