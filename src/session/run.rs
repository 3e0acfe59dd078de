//! `bmapfs run`: a mount for one command, and gone with it.
//!
//! The answer to two classic disasters: `rsync --delete` from a directory where nothing is mounted, and a cron job
//! that leaves mounts behind.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::prepare::{forward_signals, prepare};
use super::report::Known;
use super::served::Served;
use super::verdict::{NOT_AS_IT_SEEMS, verdict};
use super::{CONNECTION_END, Event, check_mountpoint, domain, next_event, not_thawed};
use crate::blocks::Summary;
use crate::changes::ChangeMap;
use crate::config::{MountConfig, RunConfig};
use crate::exit::{Failure, OrFail, Result, Status};
use crate::host::mount::{Outcome, denied_root};
use crate::image::canonical;
use crate::index::{Purpose, mount_name};
use crate::sys::{self, FlockKind};

/// As env(1): the command was found, but cannot be run.
const CANNOT_RUN: u8 = 126;
/// As env(1): there is no such command.
const NOT_FOUND: u8 = 127;
/// The mount point of sources that are mounted by name.
const NAMED: &str = "images";
/// As shells: a signal ended the command; its number is added.
const BY_SIGNAL: i32 = 128;
/// Where root's runs mount, each over it in a namespace of its own. Not /run/bmapfs: what others keep there, like reports,
/// would be hidden, and systemd removes that directory as some unit's `RuntimeDirectory=`, with what is mounted on it.
pub(super) const PRIVATE_BASE: &str = "/run/bmapfs.mounts";

/// Mounts, runs the command, unmounts. `map`: what [`super::read_map`] has read. `known`: takes what there is to report.
/// The status to exit with: the command's, or 9 if that is 0 and the copy is not what it seems. Must be called before the first thread, with the
/// signals of [`crate::host::daemon::served_signals`] blocked.
pub fn run(config: &RunConfig, map: Option<&ChangeMap>, known: &mut Known) -> Result<u8> {
    let private = geteuid().is_root();
    if private {
        enter_private_namespace()?;
    }
    let (events, inbox) = channel();
    let tally = forward_signals(events.clone(), false)?;
    let domain = config.domain.as_ref();
    let name = match domain {
        Some(domain) => mount_name(Path::new(&domain.shown()), None),
        None => place_name(&config.mount)?,
    };
    let place = mount_directory(&name, private)?;
    // Of the same user; it is held until the end.
    let _held = if private { None } else { Some(hold(&place)?) };
    let place = check_mountpoint(&place, &config.mount.sources)?;
    let purpose = Purpose::Run {
        // What is restored makes the image longer.
        refuse_shrunk: !config.shrunk && !config.mount.volume.writable,
        strict: config.strict,
    };
    let mount_config = MountConfig {
        mountpoint: place.clone(),
        ..config.mount.clone()
    };
    // Ended last, also after an error: what is served rests on it.
    let mut domain = match domain {
        Some(of) => {
            let found = domain::find(of, &mount_config.volume, mount_config.index.as_ref())?;
            Some((found, of))
        }
        None => None,
    };
    let of_domain = domain.as_mut().map(|(found, of)| (found, *of));
    let ended = prepare(&mount_config, of_domain, map, purpose, &tally)
        .and_then(|prepared| Served::start(&mount_config, prepared, &place, events.clone()))
        .and_then(|served| {
            let mut ended = false;
            let status = serve_command(&served, config, &place, events, &inbox, &mut ended);
            known.command = status.as_ref().ok().copied();
            let summaries = finish(&served, &inbox, ended);
            if let Ok(summaries) = &summaries {
                known.ended(&served, summaries);
            }
            match (status?, summaries?) {
                // What it has seen was not all the image.
                (0, summaries) if ended => Ok((Status::System.code(), summaries, served)),
                (status, summaries) => Ok((status, summaries, served)),
            }
        });
    if !private {
        // It is made anew each time; if something is still in it, it stays.
        let _ = std::fs::remove_dir(&place);
    }
    let (status, summaries, served) = ended?;
    let each = served.members.iter().zip(&summaries);
    let judged: Vec<u8> = each
        .map(|(member, summary)| verdict(status, summary, config.strict, &member.path))
        .collect();
    let thawed = served.freeze.is_none_or(|freeze| freeze.thawed);
    drop(served);
    let mut status = judged.into_iter().find(|status| *status != 0).unwrap_or(0);
    if let Some((domain, of)) = &mut domain {
        if status == 0 && !domain::is_of_one_moment(domain, &summaries) {
            log::error!(
                "{}: it was started, or its disks may have been written, while they were copied: the copy may be of two moments",
                of.shown()
            );
            status = NOT_AS_IT_SEEMS;
        }
        domain.end();
    }
    if !thawed {
        return Err(not_thawed());
    }
    Ok(status)
}

/// What the mount point is called: the same for the same source, since restic and borg know files by their whole path; and
/// for all that are mounted by name, so that a source more or less does not make the others new.
fn place_name(config: &MountConfig) -> Result<String> {
    match config.sources.as_slice() {
        [only] if only.name.is_none() => {
            let source = canonical(&only.path, &config.volume)
                .or_fail(Status::MountFailed, || {
                    format!("opening {}", only.path.display())
                })?;
            let id = config.index.as_ref().and_then(|index| index.id.as_deref());
            Ok(mount_name(&source, id))
        }
        _ => Ok(NAMED.to_owned()),
    }
}

/// Takes the directory for this run, which nobody else may mount on until the file that is returned is closed.
fn hold(place: &Path) -> Result<File> {
    let attempt = || format!("mount point {}", place.display());
    if let Some(directory) = try_hold(place).or_fail(Status::MountFailed, attempt)? {
        return Ok(directory);
    }
    let why = "another bmapfs run of yours uses it; wait for its end";
    Err(Failure::new(
        Status::MountFailed,
        format!("{}: {why}", attempt()),
    ))
}

/// `None`: another run holds it.
fn try_hold(place: &Path) -> io::Result<Option<File>> {
    let identity = |stat: &Metadata| (stat.dev(), stat.ino());
    // The mount of the other one hides the directory that is locked.
    let above = std::fs::metadata(place.parent().unwrap_or(place))?;
    if std::fs::metadata(place)?.dev() != above.dev() {
        return Ok(None);
    }
    let directory = File::open(place)?;
    let locked = sys::try_flock(directory.as_fd(), FlockKind::Exclusive)?;
    // It may have been mounted on, or removed, before it was locked.
    let same = identity(&std::fs::metadata(place)?) == identity(&directory.metadata()?);
    let free = locked && same && directory.metadata()?.dev() == above.dev();
    Ok(free.then_some(directory))
}

/// Mounts made from here on are seen by this process and its children alone, and go with them.
pub(super) fn enter_private_namespace() -> Result<()> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)
        // What others mount and unmount still arrives here.
        .and_then(|()| {
            let shared = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(nothing, "/", nothing, shared, nothing)
        })
        .map_err(|errno| denied_root("making a mount namespace for the command", errno))
}

/// The directory that `name` is mounted on, the same each time: restic and borg know files by their whole path.
/// In a private namespace it is in a file system of its own, so that no run can touch the place of another.
fn mount_directory(name: &str, private: bool) -> Result<PathBuf> {
    let base = if private {
        let base = PathBuf::from(PRIVATE_BASE);
        let attempt = format!("making the mount point in {}", base.display());
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&base)
            .or_fail(Status::MountFailed, || attempt.clone())?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("bmapfs"),
            &base,
            Some("tmpfs"),
            flags,
            Some("mode=0700,size=64k"),
        )
        .map_err(|errno| denied_root(&attempt, errno))?;
        base
    } else {
        match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(runtime) if runtime.is_absolute() => runtime.join("bmapfs"),
            _ => std::env::temp_dir().join(format!("bmapfs-{}", geteuid())),
        }
    };
    let place = base.join(name);
    if std::fs::metadata(&place).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)) {
        // What a bmapfs that was killed has left; nobody is served there.
        if let Err(e) = crate::host::mount::detach(&place, nix::mount::MntFlags::MNT_DETACH) {
            log::debug!("{}: {e}", place.display());
        }
    }
    let attempt = || format!("making the mount point {}", place.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place)
        .or_fail(Status::MountFailed, attempt)?;
    let owner = std::fs::symlink_metadata(&base).or_fail(Status::MountFailed, attempt)?;
    if !owner.is_dir() || owner.uid() != geteuid().as_raw() {
        let base = base.display();
        return Err(Failure::new(
            Status::MountFailed,
            format!("making the mount point in {base}: it is somebody else's; set XDG_RUNTIME_DIR"),
        ));
    }
    Ok(place)
}

/// Runs the command to its end. Signals that come meanwhile are its. `ended`: whether the mount has ended before it.
fn serve_command(
    served: &Served,
    config: &RunConfig,
    place: &Path,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
    ended: &mut bool,
) -> Result<u8> {
    let mut words = config.command.iter().map(|word| replace(word, place));
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(words).env("BMAPFS_MOUNT", place);
    sys::start_as_usual(&mut command);
    // First, so that there is no command without somebody who waits for it.
    let waiter = await_child(events)?;
    let pid = match command.spawn() {
        Ok(child) => {
            let pid = child.id();
            // It waits for this.
            let _ = waiter.send(child);
            pid
        }
        Err(e) => {
            log::error!("running {}: {e}", Path::new(&program).display());
            let missing = e.kind() == io::ErrorKind::NotFound;
            return Ok(if missing { NOT_FOUND } else { CANNOT_RUN });
        }
    };
    let pid = i32::try_from(pid).or_fail(Status::Internal, || "starting the command")?;
    loop {
        let Some(event) = next_event(inbox, None)? else {
            continue;
        };
        match event {
            Event::Command(result) => {
                let status = result.or_fail(Status::System, || "waiting for the command")?;
                return Ok(code(status));
            }
            Event::Signal(signal) => pass_on(pid, signal),
            Event::Ended(result) => {
                *ended = true;
                match result {
                    Ok(()) => {
                        log::error!("{} was unmounted while the command ran", served.shown());
                    }
                    Err(e) => log::error!("{}: {e}", served.attempt()),
                }
            }
        }
    }
}

fn pass_on(pid: i32, signal: Signal) {
    // It may just have ended; then the event that says so is on its way.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Starts the thread that waits for the end of the command that it is sent.
fn await_child(events: Sender<Event>) -> Result<Sender<Child>> {
    let (sender, begun) = channel::<Child>();
    thread::Builder::new()
        .name("command".to_owned())
        .spawn(move || {
            if let Ok(mut child) = begun.recv() {
                // The receiver waits for this.
                let _ = events.send(Event::Command(child.wait()));
            }
        })
        .or_fail(Status::System, || "starting a thread")?;
    Ok(sender)
}

/// The word with every `{}` in it replaced by the mount point.
fn replace(word: &OsStr, place: &Path) -> OsString {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let Some(at) = rest.windows(2).position(|two| two == b"{}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(place.as_os_str().as_bytes());
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    OsString::from_vec(out)
}

/// The status that a shell would give.
fn code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => BY_SIGNAL + signal,
        (None, None) => i32::from(CANNOT_RUN),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Unmounts, also if something that the command left behind still uses the mount, and saves. `ended`: the mount has
/// ended already.
fn finish(served: &Served, inbox: &Receiver<Event>, ended: bool) -> Result<Vec<Summary>> {
    match served.unmount("the command has ended") {
        Some(Outcome::Detached) => log::warn!(
            "{} is still in use by something that the command left behind; ending all the same",
            served.mount.mountpoint().display()
        ),
        Some(_) if !ended => await_connection_end(served, inbox)?,
        Some(_) | None => {}
    }
    let summaries = served.close()?;
    served.tell("", &summaries);
    Ok(summaries)
}

/// Waits for the connection's end, but not for those who hold the mount in a namespace of their own.
fn await_connection_end(served: &Served, inbox: &Receiver<Event>) -> Result<()> {
    let until = Instant::now() + CONNECTION_END;
    loop {
        match next_event(inbox, Some(until))? {
            Some(Event::Ended(_)) => return Ok(()),
            Some(Event::Signal(Signal::SIGHUP) | Event::Command(_)) => {}
            Some(Event::Signal(signal)) => {
                log::warn!("{signal}: ending although the mount is still in use");
                return Ok(());
            }
            None => {
                log::warn!("{}; ending all the same", served.in_use_elsewhere());
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_braces_is_replaced() {
        let place = Path::new("/run/x");
        for (word, expected) in [
            ("{}", "/run/x"),
            ("{}/", "/run/x/"),
            ("a{}b{}", "a/run/xb/run/x"),
            ("{", "{"),
            ("{{}}", "{/run/x}"),
            ("", ""),
        ] {
            assert_eq!(replace(OsStr::new(word), place), OsString::from(expected));
        }
    }
}
