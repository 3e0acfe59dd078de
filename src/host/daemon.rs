//! From the process that the user started to the one that serves: fork first, a pipe that says how it went.
//!
//! Invariant: exactly one thing comes through the pipe, "ready" or a failure; silence means that the daemon
//! died. The parent leaves only when it knows which. Nothing here knows what is served.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, Pid};

use super::logging;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::sys::{self, Fork};

/// What this process is after [`start`].
#[derive(Debug)]
pub enum Role {
    /// The process that the user started, with what it has to end with: the daemon is ready, or it failed.
    Parent(Result<()>),
    /// The process that serves: the daemon, or the one in the foreground.
    Server(Ready),
}

/// The signals that the serving process takes with sigwait. [`start`] has blocked them, and threads inherit that.
#[must_use]
pub fn served_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// Those of them that are heard: not those that were ignored when bmapfs was started. nohup(1) does that to HUP, and
/// a shell script to INT in what it starts in the background.
#[must_use]
pub fn heard_signals() -> SigSet {
    let served = served_signals();
    served
        .iter()
        .filter(|signal| !sys::is_ignored(*signal))
        .collect()
}

/// Joins the mount namespace that `path` stands for (`mount -N`). Must come before the first thread.
pub fn enter_namespace(path: &Path) -> Result<()> {
    let attempt = || format!("entering mount namespace: {}", path.display());
    let namespace = File::open(path).or_fail(Status::System, attempt)?;
    setns(namespace, CloneFlags::CLONE_NEWNS).or_fail(Status::System, attempt)
}

/// Becomes a server: at once in the foreground, else in a child of its own session, while the parent waits
/// until that is ready. Must come before the first thread.
pub fn start(foreground: bool) -> Result<Role> {
    // Before the fork, so that no signal falls between it and the child's first instruction. A write past the limit on
    // the length of files (RLIMIT_FSIZE) then is an error like others, and no death by SIGXFSZ.
    let mut blocked = served_signals();
    blocked.add(Signal::SIGXFSZ);
    blocked
        .thread_block()
        .or_fail(Status::System, || "blocking signals")?;
    if let Err(e) = sys::raise_open_files() {
        log::debug!("the limit on open files: {e}");
    }
    if foreground {
        return Ok(Role::Server(Ready {
            state: ReadyState::Foreground,
            announcements: Vec::new(),
        }));
    }
    let starting = || "starting the daemon";
    let (report, teller) = unistd::pipe2(OFlag::O_CLOEXEC).or_fail(Status::System, starting)?;
    let stop = SignalFd::with_flags(&heard_signals(), SfdFlags::SFD_CLOEXEC)
        .or_fail(Status::System, starting)?;
    match sys::fork().or_fail(Status::System, starting)? {
        Fork::Parent(daemon) => {
            drop(teller);
            Ok(Role::Parent(
                Parent {
                    daemon,
                    report: report.into(),
                    stop,
                }
                .wait(),
            ))
        }
        Fork::Child => {
            // A child leads no process group yet, the one reason for which this can fail.
            let _ = unistd::setsid();
            let ready = Ready {
                state: ReadyState::Starting(teller),
                announcements: Vec::new(),
            };
            Ok(Role::Server(ready))
        }
    }
}

/// The server's end of the pipe: to be used once, by [`Ready::ready`] or [`Ready::fail`]. Dropping it without
/// either tells the parent that the daemon died.
#[derive(Debug)]
pub struct Ready {
    state: ReadyState,
    announcements: Vec<String>,
}

#[derive(Debug)]
enum ReadyState {
    Foreground,
    /// stderr is still the caller's, and the caller still waits.
    Starting(OwnedFd),
    /// Nobody waits any more.
    Detached,
}

impl Ready {
    /// Has `line` logged at the moment of readiness, on the caller's stderr.
    pub fn announce(&mut self, line: String) {
        self.announcements.push(line);
    }

    /// Says that the mount can be used. A daemon then has `/` as its directory, nothing on descriptors 0 to 2
    /// (they stay open, on /dev/null) and the system log for its words; in the foreground nothing changes.
    /// A second call does nothing.
    ///
    /// # Errors
    /// The process cannot let go of its caller, or the caller is gone: EPIPE. Nobody then knows of the mount.
    pub fn ready(&mut self) -> io::Result<()> {
        for line in self.announcements.drain(..) {
            log::info!("{line}");
        }
        let ReadyState::Starting(teller) = &self.state else {
            return Ok(());
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        unistd::chdir("/")?;
        let mut teller = File::from(teller.try_clone()?);
        // From here on stderr may be gone before the parent is.
        logging::to_syslog();
        unistd::dup2_stdin(&null)?;
        unistd::dup2_stdout(&null)?;
        unistd::dup2_stderr(&null)?;
        teller.write_all(&[Status::Success.code()])?;
        self.state = ReadyState::Detached;
        Ok(())
    }

    /// Says that the server ends with a failure: to the waiting parent, who prints it, or once nobody waits
    /// to the log. `false`: there is nobody behind this process who prints it, so it is the caller's to print.
    #[must_use = "in the foreground the failure is not printed yet"]
    pub fn fail(self, failure: &Failure) -> bool {
        match self.state {
            ReadyState::Foreground => return false,
            ReadyState::Detached => log::error!("{failure}"),
            ReadyState::Starting(teller) => {
                let mut message = vec![failure.status().code()];
                message.extend_from_slice(failure.to_string().as_bytes());
                if File::from(teller).write_all(&message).is_err() {
                    log::error!("{failure}");
                }
            }
        }
        true
    }
}

/// The waiting parent.
struct Parent {
    daemon: Pid,
    report: File,
    stop: SignalFd,
}

impl Parent {
    /// Waits for the one report. A first signal to end is passed on and the daemon's end awaited, so that
    /// nothing is left when bmapfs returns; after a second one it is not waited for.
    fn wait(mut self) -> Result<()> {
        let mut message = Vec::new();
        let mut interrupted = None;
        while !self.hear(&mut message)? {
            let Some(signal) = self.signal()? else {
                continue;
            };
            if interrupted.replace(signal).is_some() {
                return Err(interruption(
                    signal,
                    &format!("; process {} is still ending", self.daemon),
                ));
            }
            // It fails only if the daemon has ended, which the pipe is about to tell.
            let _ = kill(self.daemon, Signal::SIGTERM);
        }
        match (interrupted, message.split_first()) {
            (Some(signal), _) => {
                self.await_end()?;
                Err(interruption(signal, ""))
            }
            (None, Some((&code, _))) if code == Status::Success.code() => Ok(()),
            (None, Some((&code, sentence))) => {
                // What it held is free only when it is gone, and the caller may try again at once.
                self.await_end()?;
                let sentence = String::from_utf8_lossy(sentence).into_owned();
                Err(Failure::new(Status::from_code(code), sentence))
            }
            (None, None) => Err(died(waitpid(self.daemon, None))),
        }
    }

    /// Waits for the pipe or a signal, and reads from the pipe if it can. Whether all has been said.
    fn hear(&mut self, message: &mut Vec<u8>) -> Result<bool> {
        let waiting = || "waiting for the daemon";
        if !readable([self.report.as_fd(), self.stop.as_fd()]).or_fail(Status::System, waiting)?[0]
        {
            return Ok(false);
        }
        let mut piece = [0; 512];
        let count = self
            .report
            .read(&mut piece)
            .or_fail(Status::System, waiting)?;
        message.extend_from_slice(&piece[..count]);
        Ok(count == 0 || message.first() == Some(&Status::Success.code()))
    }

    /// The signal that has come, if one has.
    fn signal(&self) -> Result<Option<Signal>> {
        let waiting = || "waiting for the daemon";
        let mut come = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        if poll(&mut come, PollTimeout::ZERO).or_fail(Status::System, waiting)? == 0 {
            return Ok(None);
        }
        let read = self.stop.read_signal().or_fail(Status::System, waiting)?;
        Ok(read
            .and_then(|info| i32::try_from(info.ssi_signo).ok())
            .and_then(|n| Signal::try_from(n).ok()))
    }

    /// Waits until the daemon is gone, or the user gives up waiting.
    fn await_end(&self) -> Result<()> {
        let waiting = || "waiting for the daemon's end";
        let end = match sys::pidfd_open(self.daemon) {
            Ok(end) => end,
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(()),
            Err(error) => return Err(error).or_fail(Status::System, waiting),
        };
        while !readable([end.as_fd(), self.stop.as_fd()]).or_fail(Status::System, waiting)?[0] {
            if let Some(signal) = self.signal()? {
                return Err(interruption(
                    signal,
                    &format!("; process {} is still ending", self.daemon),
                ));
            }
        }
        Ok(())
    }
}

/// Waits until one of two descriptors can be read or has been hung up; says which.
fn readable(fds: [BorrowedFd<'_>; 2]) -> nix::Result<[bool; 2]> {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(polled.map(|fd| fd.any().unwrap_or(true))),
        }
    }
}

fn interruption(signal: Signal, more: &str) -> Failure {
    let sentence = format!("interrupted by {signal} before the mount was ready{more}");
    Failure::new(Status::Interrupted, sentence)
}

/// What to say of a daemon that ended without a word.
fn died(how: nix::Result<WaitStatus>) -> Failure {
    let how = match how {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
        Ok(WaitStatus::Exited(_, status)) => format!("it exited with status {status}"),
        _ => "how is not known".to_owned(),
    };
    Failure::new(
        Status::Internal,
        format!("the daemon died before it was ready: {how}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_death_is_told_with_its_cause() {
        let pid = Pid::from_raw(7);
        for (how, cause) in [
            (
                Ok(WaitStatus::Signaled(pid, Signal::SIGKILL, false)),
                "it was killed by SIGKILL",
            ),
            (Ok(WaitStatus::Exited(pid, 3)), "it exited with status 3"),
            (Err(Errno::ECHILD), "how is not known"),
        ] {
            let failure = died(how);
            assert_eq!(failure.status(), Status::Internal);
            assert!(failure.to_string().ends_with(cause), "{failure}");
        }
    }

    #[test]
    fn in_the_foreground_nothing_changes_and_a_failure_is_the_callers_to_print() {
        let here = std::env::current_dir().unwrap();
        let mut ready = Ready {
            state: ReadyState::Foreground,
            announcements: Vec::new(),
        };
        ready.ready().unwrap();
        assert_eq!(std::env::current_dir().unwrap(), here);
        assert!(!ready.fail(&Failure::usage("no")));
    }

    #[test]
    fn a_failure_goes_through_the_pipe_with_its_status() {
        let (report, teller) = unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let ready = Ready {
            state: ReadyState::Starting(teller),
            announcements: Vec::new(),
        };
        assert!(ready.fail(&Failure::new(Status::MountFailed, "opening /a: no\nluck")));
        let mut message = Vec::new();
        File::from(report).read_to_end(&mut message).unwrap();
        assert_eq!(message, b"\x20opening /a: no\\nluck");
    }
}
