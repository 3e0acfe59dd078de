//! One mount from beginning to end: opens, mounts, serves, and ends in an orderly way (promise P19).
//!
//! The only place where a source, a block directory, FUSE and a mount point meet.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use fuser::{Config, Session, SessionACL};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use crate::blocks::{Blocks, BlocksError};
use crate::clock::SystemClock;
use crate::config::{Access, MountConfig, OwnerConfig, VolumeConfig};
use crate::daemon::{Ready, served_signals};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::fuse::Adapter;
use crate::image::{self, Opened};
use crate::mount::{self, Mount, Outcome, Request};
use crate::sys;

/// Worker threads unless --threads says otherwise: one a processor, within these bounds. At least two, so that
/// one slow read does not stop everything.
const THREADS: (usize, usize) = (2, 16);

/// What the main thread waits for.
#[derive(Debug)]
enum Event {
    /// The kernel's connection has ended: unmounted, or broken.
    Ended(io::Result<()>),
    /// A signal.
    Signal(Signal),
}

/// Mounts and serves until it is unmounted. `ready` is told when the mount can be used. The signals of
/// [`served_signals`] must be blocked in every thread.
pub fn serve(config: &MountConfig, ready: &mut Ready) -> Result<()> {
    if config.volume.writable
        && let Err(e) = sys::set_io_flusher()
    {
        log::debug!("PR_SET_IO_FLUSHER: {e}");
    }
    // First, because a second mount of the same source has a better answer than its locks.
    let mountpoint = mount::check_mountpoint(&config.mountpoint, &config.source)?;
    let Opened { source, path } = image::open(&config.source, &config.volume)?;
    let blocks = Blocks::new(
        Box::new(source),
        owned_by_user(&config.volume),
        Arc::new(SystemClock),
    )
    .map_err(|e| match e {
        BlocksError::Geometry(_) => Failure::usage(format!("{}: {e}", path.display())),
        BlocksError::Io(_) => {
            Failure::new(Status::System, format!("reading {}: {e}", path.display()))
        }
    })?;
    let blocks = Arc::new(blocks);

    let shown = config.kernel.fsname.as_deref().unwrap_or(path.as_os_str());
    let (fd, mount) = mount::mount(&Request {
        source: shown,
        mountpoint: &mountpoint,
        read_only: !config.volume.writable,
        kernel: &config.kernel,
    })?;
    let served = Served {
        blocks,
        mount,
        source: shown,
    };
    served.run(fd, config, ready).inspect_err(|_| {
        if let Err(e) = served.mount.unmount() {
            log::warn!("unmounting {}: {e}", served.mount.mountpoint().display());
        }
    })
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

/// A mount that exists.
struct Served<'a> {
    blocks: Arc<Blocks>,
    mount: Mount,
    source: &'a OsStr,
}

impl Served<'_> {
    fn run(&self, fd: OwnedFd, config: &MountConfig, ready: &mut Ready) -> Result<()> {
        let attempt = || format!("serving {}", self.mount.mountpoint().display());
        let mut options = Config::default();
        options.acl = match config.kernel.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = config
            .threads
            .map_or(processors.clamp(THREADS.0, THREADS.1), usize::from);
        options.n_threads = Some(threads);

        // Probed now: when fuser finds out, the mount is ready and would be lost.
        options.clone_fd = threads > 1 && sys::can_clone_fuse(fd.as_fd());
        let adapter = Adapter::new(Arc::clone(&self.blocks), config.kernel.page_cache);
        let session = Session::from_fd(adapter, fd, options.acl, options)
            .or_fail(Status::MountFailed, attempt)?;
        let (events, inbox) = channel();
        let ended = events.clone();
        let marker = self.marker();
        thread::Builder::new()
            .name("fuse session".to_owned())
            .spawn(move || {
                let result = session.run();
                drop(marker);
                // Nobody listens any more only when the process is ending.
                let _ = ended.send(Event::Ended(result));
            })
            .or_fail(Status::System, attempt)?;
        forward_signals(events).or_fail(Status::System, attempt)?;

        ready.ready().or_fail(Status::System, attempt)?;
        // Only now: a mount that works has nothing to say to whoever waits for it.
        log::info!(
            "mounted {} on {}: {} blocks of {}, {}",
            self.shown(),
            self.mount.mountpoint().display(),
            self.blocks.geometry().blocks(),
            self.blocks.block_size(),
            if config.volume.writable {
                "writable"
            } else {
                "read-only"
            }
        );
        self.wait(&inbox)
    }

    /// Until the connection ends or a signal ends it.
    fn wait(&self, inbox: &Receiver<Event>) -> Result<()> {
        let mut asked = false;
        loop {
            let event = inbox
                .recv()
                .or_fail(Status::Internal, || "waiting for the session")?;
            match event {
                Event::Ended(result) => {
                    let closed = self.close();
                    result.or_fail(Status::System, || format!("serving {}", self.shown()))?;
                    return closed;
                }
                Event::Signal(Signal::SIGHUP) => self.blocks.reread_size(),
                Event::Signal(signal) if asked => {
                    log::warn!("{signal} again: ending although the mount is still in use");
                    return self.close();
                }
                Event::Signal(signal) => {
                    asked = true;
                    if !self.unmount(signal) {
                        return self.close();
                    }
                }
            }
        }
    }

    /// For a signal. `false`: the mount cannot be taken away, so the process ends without that.
    fn unmount(&self, signal: Signal) -> bool {
        let place = self.mount.mountpoint().display();
        match self.mount.unmount() {
            Ok(Outcome::Unmounted | Outcome::NotMounted) => true,
            Ok(Outcome::Detached) => {
                log::warn!(
                    "{signal}: {place} is in use; it is detached, and ends when its last user has"
                );
                true
            }
            Ok(Outcome::Covered(what)) => {
                log::warn!(
                    "{signal}: {place} is covered by {what}, which stays; run umount there twice"
                );
                false
            }
            Err(e) => {
                log::error!("{signal}: unmounting {place}: {e}");
                false
            }
        }
    }

    fn shown(&self) -> std::path::Display<'_> {
        Path::new(self.source).display()
    }

    /// What every end has in common: writes made durable, one log line.
    fn close(&self) -> Result<()> {
        let source = self.shown();
        let summary = self.blocks.close().or_fail(Status::System, || {
            format!("unmounting {source}: making writes durable; what was written last may be lost")
        })?;
        match summary.untouched {
            Some(untouched) => log::info!(
                "unmounted {source}: {untouched} of {} blocks were neither written nor given a time",
                summary.blocks
            ),
            None => log::info!("unmounted {source}: {} blocks", summary.blocks),
        }
        Ok(())
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
}

fn forward_signals(events: Sender<Event>) -> io::Result<()> {
    let signals: SigSet = served_signals();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}
