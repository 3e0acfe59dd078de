//! Finding the process that serves a mount, and waiting for its end.
//!
//! Invariant: a process counts as the daemon only if it is called bmapfs, has the marker thread of the file
//! system, and belongs to root or the user who made the mount; so nobody else can make umount wait.

use std::fs::DirEntry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::host::mount::{is_errno, marker_name, reason};
use crate::sys;
use crate::sys::mountinfo::MountEntry;

/// What the daemon's process is called.
const NAME: &str = "bmapfs";
/// How long the connection may take to end after the unmount, in milliseconds. If it lasts longer, the file
/// system is still mounted somewhere else.
const CONNECTION_END: u16 = 2000;

/// The process that serves a mount.
#[derive(Debug)]
pub(super) struct Daemon {
    pid: Pid,
    handle: OwnedFd,
    marker: String,
}

/// What became of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The process is gone.
    Ended,
    /// It goes on serving, since the file system has another mount.
    StillServing,
}

impl Daemon {
    /// The daemon of this mount. `None`: it has died, or is out of sight (another PID namespace).
    pub(super) fn find(entry: &MountEntry) -> Option<Self> {
        let marker = marker_name(entry.device);
        let owner = entry.owner();
        let mut processes = std::fs::read_dir("/proc").ok()?.flatten();
        let pid = processes.find_map(|process| daemon_pid(&process, &marker, owner));
        let Some(pid) = pid else {
            log::info!("no process serves {entry}");
            return None;
        };
        match sys::pidfd_open(pid) {
            // Asked again, since the number may have passed to another process before it was opened.
            Ok(handle) => serves(&process_directory(pid), &marker).then_some(Self {
                pid,
                handle,
                marker,
            }),
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

    /// Waits until the process has ended, however long it takes to write what it has; but not if it still
    /// serves the file system 2 seconds from now.
    pub(super) fn wait(&self) -> io::Result<Ending> {
        if self.ends_within(PollTimeout::from(CONNECTION_END))? {
            return Ok(Ending::Ended);
        }
        if serves(&process_directory(self.pid), &self.marker) {
            return Ok(Ending::StillServing);
        }
        log::info!("waiting for process {} to finish writing", self.pid);
        self.ends_within(PollTimeout::NONE)?;
        Ok(Ending::Ended)
    }

    fn ends_within(&self, timeout: PollTimeout) -> io::Result<bool> {
        loop {
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

/// The process id, if this entry of /proc is the daemon.
fn daemon_pid(process: &DirEntry, marker: &str, owner: Option<u32>) -> Option<Pid> {
    let pid = process.file_name().to_str()?.parse().ok()?;
    let directory = process.path();
    if !has_name(&directory, NAME) {
        return None;
    }
    // The directory belongs to the process's effective user.
    let user = std::fs::metadata(&directory).ok()?.uid();
    let trusted = user == 0 || Some(user) == owner;
    (trusted && serves(&directory, marker)).then(|| Pid::from_raw(pid))
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
        let daemon = |pid: u32, marker: &str| {
            let pid = Pid::from_raw(pid.try_into().unwrap());
            Daemon {
                pid,
                handle: sys::pidfd_open(pid).unwrap(),
                marker: marker.to_owned(),
            }
        };
        let mut short = spawn("2.3");
        assert_eq!(daemon(short.id(), "absent").wait().unwrap(), Ending::Ended);
        short.wait().unwrap();
        let mut long = spawn("60");
        assert_eq!(
            daemon(long.id(), "sleep").wait().unwrap(),
            Ending::StillServing
        );
        long.kill().unwrap();
        long.wait().unwrap();
    }
}
