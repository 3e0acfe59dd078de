//! Finding the process that serves a mount, and waiting for its end.
//!
//! Invariant: a process counts as the daemon only if it is called bmapfs, has the marker thread of the file
//! system, and belongs to root or the user who made the mount; so nobody else can make umount wait. Nor can that user
//! for longer than a limit, if somebody else unmounts: names and threads are the process's own to choose.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, geteuid};

use crate::host::mount::{is_errno, marker_name, reason};
use crate::sys;
use crate::sys::mountinfo::MountEntry;

/// What the daemon's process is called.
const NAME: &str = "bmapfs";
/// How long the connection may take to end after the unmount. If it lasts longer, the file system is still mounted
/// somewhere else.
const CONNECTION_END: Duration = Duration::from_secs(2);
/// How long a process that another user controls may take to write what it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process that serves a mount.
#[derive(Debug)]
pub(super) struct Daemon {
    pid: Pid,
    handle: OwnedFd,
    marker: String,
    /// Who controls it: not root, and not the user who waits.
    stranger: Option<u32>,
}

/// What became of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The process is gone.
    Ended,
    /// It goes on serving, since the file system has another mount.
    StillServing,
    /// It does neither: it was not waited for any longer. The user who controls it.
    NotYet(u32),
}

impl Daemon {
    /// The daemon of this mount. `None`: it has died, or is out of sight (another PID namespace).
    pub(super) fn find(entry: &MountEntry) -> Option<Self> {
        let marker = marker_name(entry.device);
        let owner = entry.owner();
        let mut processes = std::fs::read_dir("/proc").ok()?.flatten();
        let pid = processes.find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            user_of_daemon(&process.path(), &marker, owner).map(|_| Pid::from_raw(pid))
        });
        let Some(pid) = pid else {
            log::info!("no process serves {entry}");
            return None;
        };
        match sys::pidfd_open(pid) {
            Ok(handle) => {
                // Asked again, since the number may have passed to another process before it was opened.
                let user = user_of_daemon(&process_directory(pid), &marker, owner)?;
                Some(Self {
                    pid,
                    handle,
                    marker,
                    stranger: (user != 0 && user != geteuid().as_raw()).then_some(user),
                })
            }
            Err(error) if is_errno(&error, Errno::ESRCH) => None,
            Err(error) => {
                log::warn!(
                    "cannot wait for the daemon, process {pid}: {}",
                    reason(&error)
                );
                None
            }
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until the process has ended, however long it takes to write what it has, unless another user controls
    /// it; but not if it still serves the file system 2 seconds from now.
    pub(super) fn wait(&self) -> io::Result<Ending> {
        self.wait_up_to(PATIENCE)
    }

    /// `patience`: for another user's.
    fn wait_up_to(&self, patience: Duration) -> io::Result<Ending> {
        if self.ends_within(Some(CONNECTION_END))? {
            return Ok(Ending::Ended);
        }
        if serves(&process_directory(self.pid), &self.marker) {
            return Ok(Ending::StillServing);
        }
        log::info!("waiting for process {} to finish writing", self.pid);
        let ended = self.ends_within(self.stranger.map(|_| patience))?;
        Ok(match self.stranger {
            Some(user) if !ended => Ending::NotYet(user),
            _ => Ending::Ended,
        })
    }

    /// `None`: however long it takes.
    fn ends_within(&self, patience: Option<Duration>) -> io::Result<bool> {
        let end = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            // The longest that poll(2) can be told is weeks; no patience is so long.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match poll(
                &mut [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)],
                timeout,
            ) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }
}

/// The user of a process with this directory in /proc, if it is the daemon.
fn user_of_daemon(process: &Path, marker: &str, owner: Option<u32>) -> Option<u32> {
    if !has_name(process, NAME) {
        return None;
    }
    // The directory belongs to the process's effective user.
    let user = std::fs::metadata(process).ok()?.uid();
    let trusted = user == 0 || Some(user) == owner;
    (trusted && serves(process, marker)).then_some(user)
}

/// Whether the process has the marker thread.
fn serves(process: &Path, marker: &str) -> bool {
    std::fs::read_dir(process.join("task")).is_ok_and(|threads| {
        threads
            .flatten()
            .any(|thread| has_name(&thread.path(), marker))
    })
}

/// Whether the process or thread with this directory in /proc is called `name`.
fn has_name(directory: &Path, name: &str) -> bool {
    std::fs::read(directory.join("comm"))
        .is_ok_and(|comm| comm.strip_suffix(b"\n") == Some(name.as_bytes()))
}

fn process_directory(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;

    #[test]
    fn a_marker_thread_is_seen_while_it_lives() {
        let (stop, stopped) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("fuse 0:999999".to_owned())
            .spawn(move || {
                start.send(()).unwrap();
                stopped.recv().unwrap_err();
            });
        started.recv().unwrap();
        let process = process_directory(Pid::this());
        assert!(serves(&process, "fuse 0:999999"));
        assert!(!serves(&process, "fuse 0:99999"));
        drop(stop);
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn an_end_is_waited_for_and_a_live_marker_is_not() {
        let spawn = |seconds| Command::new("sleep").arg(seconds).spawn().unwrap();
        let daemon = |pid: u32, marker: &str, stranger| {
            let pid = Pid::from_raw(pid.try_into().unwrap());
            Daemon {
                pid,
                handle: sys::pidfd_open(pid).unwrap(),
                marker: marker.to_owned(),
                stranger,
            }
        };
        let mut short = spawn("2.3");
        let moment = Duration::from_millis(1);
        let ours = daemon(short.id(), "absent", None);
        assert_eq!(ours.wait_up_to(moment).unwrap(), Ending::Ended);
        short.wait().unwrap();
        let mut long = spawn("60");
        assert_eq!(
            daemon(long.id(), "sleep", None).wait().unwrap(),
            Ending::StillServing
        );
        let theirs = daemon(long.id(), "absent", Some(1234));
        assert_eq!(theirs.wait_up_to(moment).unwrap(), Ending::NotYet(1234));
        long.kill().unwrap();
        long.wait().unwrap();
    }
}
