//! One mount from beginning to end: opens, mounts, serves, and ends in an orderly way (promise P19).
//!
//! The only place where a source, an index, a block directory, FUSE and a mount point meet.

mod changes;
mod content;
mod prepare;
mod report;
mod run;
mod scan;
mod source;
mod sums;
mod vanished;
mod verdict;
mod verify;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use nix::sys::signal::Signal;

use crate::blocks::Summary;
use crate::changes::ChangeMap;
use crate::config::{Access, MountConfig};
use crate::exit::{OrFail, Result, Status};
use crate::fuse::{Adapter, Gate};
use crate::host::daemon::Ready;
use crate::host::mount::{self, Mount, Outcome, Request};
use crate::index::Purpose;
use crate::scan::Tally;
use crate::sys;
use crate::volume::Volume;

use content::Content;
use prepare::{Prepared, forward_signals};
use verdict::describe;

pub use changes::read_map;
pub use report::{Known, reported};
pub use run::run;
pub use scan::scan;
pub use sums::sums;
pub use verify::verify;

/// Worker threads unless --threads says otherwise: one a processor, within these bounds. At least two, so that
/// one slow read does not stop everything.
const THREADS: (usize, usize) = (2, 16);
/// At least so many for a directory of block files, which may lie on storage that is slow or far away.
const REVERSE_THREADS: usize = 8;

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
    let mountpoint = mount::check_mountpoint(&config.mountpoint, &config.source)?;
    let prepared = prepare::prepare(config, map, Purpose::Mount, &tally)?;
    let served = Served::start(config, prepared, &mountpoint, events)?;
    if let Err(e) = ready.ready() {
        served.abandon();
        return Err(e).or_fail(Status::System, || served.attempt());
    }
    // Only now: a mount that works has nothing to say to whoever waits for it.
    log::info!(
        "mounted {} on {}: {}, {}",
        served.shown(),
        mountpoint.display(),
        served.content.describe(),
        if config.volume.writable {
            "writable"
        } else {
            "read-only"
        }
    );
    served.wait(&inbox)
}

/// A mount that exists and is served.
#[derive(Debug)]
struct Served {
    content: Content,
    mount: Mount,
    /// Through which the kernel asks.
    gate: Arc<Gate>,
    /// What mountinfo shows as the source.
    source: OsString,
}

impl Served {
    /// Mounts what was prepared, and serves it on threads of its own.
    fn start(
        config: &MountConfig,
        prepared: Prepared,
        mountpoint: &Path,
        events: Sender<Event>,
    ) -> Result<Self> {
        let Prepared { content, path } = prepared;
        let named = config.kernel.fsname.clone();
        let source = named.unwrap_or_else(|| path.into_os_string());
        let mounted = mount::mount(&Request {
            source: &source,
            mountpoint,
            read_only: !config.volume.writable,
            kernel: &config.kernel,
        });
        let (fd, mount) = match mounted {
            Ok(mounted) => mounted,
            Err(failure) => {
                content.close_unused();
                return Err(failure);
            }
        };
        let served = Self {
            content,
            mount,
            gate: Arc::default(),
            source,
        };
        let answering = match &served.content {
            Content::Blocks(blocks) => served.answer(blocks, fd, config, events),
            Content::Reverse(reverse) => served.answer(reverse, fd, config, events),
        };
        match answering {
            Ok(()) => Ok(served),
            Err(failure) => {
                served.abandon();
                Err(failure)
            }
        }
    }

    /// Begins to answer the kernel.
    fn answer<V: Volume>(
        &self,
        volume: &Arc<V>,
        fd: OwnedFd,
        config: &MountConfig,
        events: Sender<Event>,
    ) -> Result<()> {
        let mut options = Config::default();
        options.acl = match config.kernel.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        };
        let fewest = match self.content {
            Content::Blocks(_) => THREADS.0,
            Content::Reverse(_) => REVERSE_THREADS,
        };
        let usual = sys::processors().clamp(fewest, THREADS.1);
        let threads = config.threads.map_or(usual, usize::from);
        options.n_threads = Some(threads);
        // Probed now: when fuser finds out, the mount is ready and would be lost.
        options.clone_fd = threads > 1 && sys::can_clone_fuse(fd.as_fd());
        let adapter = Adapter::new(
            Arc::clone(volume),
            Arc::clone(&self.gate),
            config.kernel.page_cache,
        );
        let session = Session::from_fd(adapter, fd, options.acl, options)
            .or_fail(Status::MountFailed, || self.attempt())?;
        let marker = self.marker();
        thread::Builder::new()
            .name("fuse session".to_owned())
            .spawn(move || {
                let result = session.run();
                drop(marker);
                // Nobody listens any more only when the process is ending.
                let _ = events.send(Event::Ended(result));
            })
            .or_fail(Status::System, || self.attempt())?;
        Ok(())
    }

    /// After a failure: takes the mount away and gives the index back as it is.
    fn abandon(&self) {
        if let Err(e) = self.mount.unmount() {
            log::warn!("unmounting {}: {e}", self.mount.mountpoint().display());
        }
        self.gate.shut();
        self.content.close_unused();
    }

    /// Until the connection ends or a signal ends it.
    fn wait(&self, inbox: &Receiver<Event>) -> Result<()> {
        let mut asked = false;
        // When it is time to say that an unmounted mount is in use elsewhere.
        let mut overdue = None;
        let mut rescan = Rescan::default();
        loop {
            let Some(event) = next_event(inbox, overdue)? else {
                overdue = None;
                log::warn!(
                    "{}; it ends when its last user has, or at the next signal",
                    self.in_use_elsewhere()
                );
                continue;
            };
            let ended = match event {
                Event::Ended(result) => result,
                Event::Signal(Signal::SIGHUP) => {
                    rescan.begin(&self.content);
                    continue;
                }
                Event::Signal(signal) if asked => {
                    log::warn!("{signal} again: ending although the mount is still in use");
                    Ok(())
                }
                Event::Signal(signal) => {
                    asked = true;
                    match self.unmount(signal.as_str()) {
                        Some(Outcome::Detached) => {
                            log::warn!(
                                "{signal}: {} is in use; it is detached, and ends when its last user has",
                                self.mount.mountpoint().display()
                            );
                            continue;
                        }
                        Some(_) => {
                            overdue = Some(Instant::now() + CONNECTION_END);
                            continue;
                        }
                        None => Ok(()),
                    }
                }
                Event::Command(_) => continue,
            };
            rescan.end();
            let closed = self.close();
            ended.or_fail(Status::System, || self.attempt())?;
            let summary = closed?;
            log::info!("unmounted {}: {}", self.shown(), describe(&summary));
            return Ok(());
        }
    }

    /// Unmounts because of `cause`. `None`: the mount cannot be taken away, so the process ends without that.
    fn unmount(&self, cause: &str) -> Option<Outcome> {
        let place = self.mount.mountpoint().display();
        match self.mount.unmount() {
            Ok(Outcome::Covered(what)) => {
                log::warn!(
                    "{cause}: {place} is covered by {what}, which stays; run umount there twice"
                );
                None
            }
            Ok(outcome) => Some(outcome),
            Err(e) => {
                log::error!("{cause}: unmounting {place}: {e}");
                None
            }
        }
    }

    fn in_use_elsewhere(&self) -> String {
        format!(
            "{} is unmounted, but still in use elsewhere",
            self.mount.mountpoint().display()
        )
    }

    /// What every end has in common: nobody is served any more, writes are made durable, the index is saved.
    fn close(&self) -> Result<Summary> {
        self.gate.shut();
        self.content.close().or_fail(Status::System, || {
            format!(
                "unmounting {}: making writes durable; what was written last may be lost",
                self.shown()
            )
        })
    }

    /// A thread whose name tells the umount helper which mount this process serves; it ends with the returned
    /// value.
    fn marker(&self) -> Option<Sender<()>> {
        let name = mount::marker_name(self.mount.device()?);
        let (alive, end) = channel::<()>();
        let started = thread::Builder::new().name(name).spawn(move || {
            // Ends when the other side is dropped.
            let _ = end.recv();
        });
        match started {
            Ok(_) => Some(alive),
            Err(e) => {
                log::warn!("umount will not wait for this process: no thread: {e}");
                None
            }
        }
    }

    fn shown(&self) -> std::path::Display<'_> {
        Path::new(&self.source).display()
    }

    fn attempt(&self) -> String {
        format!("serving {}", self.mount.mountpoint().display())
    }
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

/// A scan that SIGHUP has asked for, while the mount is served.
#[derive(Debug, Default)]
struct Rescan(Option<(JoinHandle<()>, Arc<Tally>)>);

impl Rescan {
    fn begin(&mut self, content: &Content) {
        let Content::Blocks(blocks) = content else {
            log::info!("SIGHUP: a directory of block files is looked at only when it is mounted");
            return;
        };
        if blocks.is_snapshot() {
            log::info!("SIGHUP: this mount shows a snapshot, which does not change");
            return;
        }
        let running = |(thread, _): &(JoinHandle<()>, _)| !thread.is_finished();
        if self.0.as_ref().is_some_and(running) {
            log::info!("SIGHUP: a scan is under way already");
            return;
        }
        let tally = Arc::new(Tally::default());
        let (blocks, shared) = (Arc::clone(blocks), Arc::clone(&tally));
        let started = thread::Builder::new()
            .name("rescan".to_owned())
            .spawn(move || match blocks.look_again(&shared) {
                Ok(()) => log::info!("SIGHUP: the image was looked at again"),
                Err(e) => log::warn!("SIGHUP: looking at the image again: {e}"),
            });
        match started {
            Ok(thread) => self.0 = Some((thread, tally)),
            Err(e) => log::warn!("SIGHUP: no thread: {e}"),
        }
    }

    fn end(&mut self) {
        if let Some((thread, tally)) = self.0.take() {
            tally.cancel.store(true, Relaxed);
            // A panic in it has ended the process.
            let _ = thread.join();
        }
    }
}
