//! A mount that exists and is served, until it ends in an orderly way (promise P19).

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::content::{Content, Member};
use super::prepare::Prepared;
use super::rescan::Rescan;
use super::source::Freeze;
use super::verdict::{describe, describe_all};
use super::{CONNECTION_END, Event, definition, mounted_source, next_event};
use crate::blocks::Summary;
use crate::clock::SystemClock;
use crate::config::MountConfig;
use crate::exit::{OrFail, Result, Status};
use crate::fuse::{Adapter, Gate};
use crate::host::mount::{self, Mount, Outcome, Request};
use crate::index::mount_name;
use crate::sys;
use crate::threads;
use crate::volume::Volume;
use crate::volume::plain::Plain;
use crate::volume::tree::{self, Tree};

/// Worker threads unless --threads says otherwise: one a processor, within these bounds. At least two, so that
/// one slow read does not stop everything.
const THREADS: (usize, usize) = (2, 16);
/// At least so many for a directory of block files, which may lie on storage that is slow or far away.
const REVERSE_THREADS: usize = 8;

/// A mount that exists and is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) members: Vec<Member>,
    definition: Option<Arc<Plain>>,
    pub(super) freeze: Option<Freeze>,
    pub(super) mount: Mount,
    /// Through which the kernel asks.
    gate: Arc<Gate>,
    /// What mountinfo shows as the source.
    source: OsString,
}

impl Served {
    /// Mounts what was prepared, and serves it on threads of its own.
    pub(super) fn start(
        config: &MountConfig,
        prepared: Prepared,
        mountpoint: &Path,
        events: Sender<Event>,
    ) -> Result<Self> {
        let Prepared {
            members,
            definition,
            freeze,
        } = prepared;
        let named = config.kernel.fsname.clone();
        let first = members.first().map_or(Path::new(""), |first| &first.path);
        let source = named.unwrap_or_else(|| mounted_source(first, members.len()));
        let mounted = mount::mount(&Request {
            source: &source,
            mountpoint,
            read_only: !config.volume.writable,
            kernel: &config.kernel,
        });
        let (fd, mount) = match mounted {
            Ok(mounted) => mounted,
            Err(failure) => {
                members.iter().for_each(Member::close_unused);
                return Err(failure);
            }
        };
        let served = Self {
            members,
            definition,
            freeze,
            mount,
            gate: Arc::default(),
            source,
        };
        match served.answer(fd, config, events) {
            Ok(()) => Ok(served),
            Err(failure) => {
                served.abandon();
                Err(failure)
            }
        }
    }

    /// Begins to answer the kernel.
    fn answer(&self, fd: OwnedFd, config: &MountConfig, events: Sender<Event>) -> Result<()> {
        let reverse = |member: &Member| matches!(member.content, Content::Reverse(_));
        let fewest = if self.members.iter().any(reverse) {
            REVERSE_THREADS
        } else {
            THREADS.0
        };
        let usual = sys::processors().clamp(fewest, THREADS.1);
        let threads = config.threads.map_or(usual, usize::from);
        let tree = Arc::new(self.tree(config));
        let adapter = Adapter::new(tree, Arc::clone(&self.gate), config.kernel.page_cache);
        let serve = adapter
            .connect(fd, config.kernel.access, threads)
            .or_fail(Status::MountFailed, || self.attempt())?;
        let marker = self.marker();
        thread::Builder::new()
            .name("fuse session".to_owned())
            .spawn(move || {
                let result = serve();
                drop(marker);
                // Nobody listens any more only when the process is ending.
                let _ = events.send(Event::Ended(result));
            })
            .or_fail(Status::System, || self.attempt())?;
        Ok(())
    }

    /// What is served, as directories.
    fn tree(&self, config: &MountConfig) -> Tree {
        match self.members.as_slice() {
            [only] if only.name.is_none() => Tree::one(only.content.volume()),
            members => {
                // Of one source, if there is any.
                let id = config.index.as_ref().and_then(|index| index.id.as_deref());
                let named = members.iter().map(|member| tree::Member {
                    name: member.name.clone().unwrap_or_default(),
                    identity: mount_name(&member.path, id).into(),
                    volume: member.content.volume(),
                });
                let definition = self.definition.iter().map(|file| tree::Member {
                    name: definition::NAME.into(),
                    identity: definition::NAME.into(),
                    volume: Arc::clone(file) as Arc<dyn Volume>,
                });
                Tree::named(
                    named.chain(definition).collect(),
                    config.volume.owner,
                    Arc::new(SystemClock),
                )
            }
        }
    }

    /// After a failure: takes the mount away and gives the index back as it is.
    pub(super) fn abandon(&self) {
        if let Err(e) = self.mount.unmount() {
            log::warn!("unmounting {}: {e}", self.mount.mountpoint().display());
        }
        self.gate.shut();
        self.members.iter().for_each(Member::close_unused);
    }

    /// Until the connection ends or a signal ends it.
    pub(super) fn wait(&self, inbox: &Receiver<Event>) -> Result<()> {
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
                    rescan.begin(&self.members);
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
            let summaries = closed?;
            self.tell("unmounted ", &summaries);
            return Ok(());
        }
    }

    /// Unmounts because of `cause`. `None`: the mount cannot be taken away, so the process ends without that.
    pub(super) fn unmount(&self, cause: &str) -> Option<Outcome> {
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

    pub(super) fn in_use_elsewhere(&self) -> String {
        format!(
            "{} is unmounted, but still in use elsewhere",
            self.mount.mountpoint().display()
        )
    }

    /// What every end has in common: nobody is served any more, writes are made durable, the indexes are saved.
    pub(super) fn close(&self) -> Result<Vec<Summary>> {
        self.gate.shut();
        // One that fails does not keep the others from being saved.
        let closed = threads::for_each(&self.members, Member::close);
        closed.into_iter().collect()
    }

    /// A line for each source, and one for all if there are several.
    pub(super) fn tell(&self, what: &str, summaries: &[Summary]) {
        let each = self.members.iter().zip(summaries);
        let frozen = match self.freeze {
            Some(freeze) => format!("; {}", freeze.describe()),
            None => String::new(),
        };
        let (last, several) = match summaries {
            [_] => (frozen.as_str(), false),
            _ => ("", true),
        };
        for (member, summary) in each {
            let path = member.path.display();
            log::info!("{what}{path}: {}{last}", describe(summary));
        }
        if several {
            log::info!("{what}{}{frozen}", describe_all(summaries));
        }
    }

    /// A line for each source: where it is, and how much.
    pub(super) fn tell_begin(&self, writable: bool) {
        let access = if writable { "writable" } else { "read-only" };
        for member in &self.members {
            let place = self.mount.mountpoint();
            let (shown, place) = match &member.name {
                None => (self.shown(), place.to_owned()),
                Some(name) => (member.path.display(), place.join(name)),
            };
            let place = place.display();
            log::info!(
                "mounted {shown} on {place}: {}, {access}",
                member.content.describe()
            );
        }
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

    pub(super) fn shown(&self) -> std::path::Display<'_> {
        Path::new(&self.source).display()
    }

    pub(super) fn attempt(&self) -> String {
        format!("serving {}", self.mount.mountpoint().display())
    }
}
