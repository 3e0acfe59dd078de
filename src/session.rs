//! One mount from beginning to end: opens, mounts, serves, and ends in an orderly way (promise P19).
//!
//! The only place where a source, an index, a block directory, FUSE and a mount point meet.

mod changes;
mod check;
mod content;
mod definition;
mod domain;
mod freeze;
mod images;
mod indexing;
mod prepare;
mod report;
mod rescan;
mod run;
mod scan;
mod served;
mod source;
mod sums;
mod vanished;
mod verdict;
mod verify;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::changes::ChangeMap;
use crate::config::{MountConfig, SourceConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::host::daemon::Ready;
use crate::host::mount;
use crate::index::Purpose;

use prepare::forward_signals;
use served::Served;

pub use changes::read_map;
pub use check::check;
pub use report::{Known, reported};
pub use run::run;
pub use scan::scan;
pub use sums::sums;
pub use verify::verify;

/// How long the kernel may take to end a connection after the unmount. If it lasts longer, somebody else uses the
/// mount, such as a process with a mount namespace of its own.
const CONNECTION_END: Duration = Duration::from_secs(3);

/// What the main thread waits for.
#[derive(Debug)]
enum Event {
    /// The kernel's connection has ended: unmounted, or broken. It is said once.
    Ended(io::Result<()>),
    /// A signal.
    Signal(Signal),
    /// The command of `bmapfs run` has ended.
    Command(io::Result<std::process::ExitStatus>),
}

/// Mounts and serves until it is unmounted. `map`: what [`read_map`] has read. `ready` is told when the mount can be
/// used. The signals of
/// [`crate::host::daemon::served_signals`] must be blocked in every thread.
pub fn serve(config: &MountConfig, map: Option<&ChangeMap>, ready: &mut Ready) -> Result<()> {
    let (events, inbox) = channel();
    let tally = forward_signals(events.clone(), true)?;
    // First, because a second mount of the same source has a better answer than its locks.
    let mountpoint = check_mountpoint(&config.mountpoint, &config.sources)?;
    let prepared = prepare::prepare(config, None, map, Purpose::Mount, &tally)?;
    let served = Served::start(config, prepared, &mountpoint, events)?;
    if let Err(e) = ready.ready() {
        served.abandon();
        return Err(e).or_fail(Status::System, || served.attempt());
    }
    // Only now: a mount that works has nothing to say to whoever waits for it.
    served.tell_begin(config.volume.writable);
    served.wait(&inbox)
}

/// Whether `sources` may be mounted there; the canonical mount point.
fn check_mountpoint(mountpoint: &Path, sources: &[SourceConfig]) -> Result<PathBuf> {
    let mut place = mountpoint.to_owned();
    for source in sources {
        place = mount::check_mountpoint(mountpoint, &source.path)?;
    }
    if let [first, _, ..] = sources {
        let first = std::fs::canonicalize(&first.path).unwrap_or_else(|_| first.path.clone());
        let several = mounted_source(&first, sources.len());
        place = mount::check_mountpoint(mountpoint, Path::new(&several))?;
    }
    Ok(place)
}

/// What mountinfo shows as the source of a mount of `count` sources.
fn mounted_source(first: &Path, count: usize) -> OsString {
    let mut shown = first.as_os_str().to_owned();
    if count > 1 {
        shown.push(format!("+{}", count - 1));
    }
    shown
}

/// THAW has failed, which has been told.
fn not_thawed() -> Failure {
    Failure::new(
        Status::MountFailed,
        "thawing has failed, see above: what was frozen may be so still",
    )
}

/// What the main thread is told next. `None`: nothing until then.
fn next_event(inbox: &Receiver<Event>, until: Option<Instant>) -> Result<Option<Event>> {
    let event = match until {
        None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(until) => inbox.recv_timeout(until.saturating_duration_since(Instant::now())),
    };
    match event {
        Ok(event) => Ok(Some(event)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(e) => Err(e).or_fail(Status::Internal, || "waiting for the session"),
    }
}
