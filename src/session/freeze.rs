//! `--freeze` and `--thaw`: who writes the sources is stopped while they are cloned (promise P34).
//!
//! Invariant: once FREEZE was started THAW is run, once, whatever happens in between. A signal that would end the process
//! waits until then.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;

use super::prepare::interrupted;
use crate::config::FreezeConfig;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::scan::Tally;
use crate::sys;

/// Between two looks at a command that runs.
const TICK: Duration = Duration::from_millis(1);
/// So many open files, and some more, it takes to start a command.
const RESERVE: usize = 8;

/// What is frozen, until it is dropped or thawed.
pub(super) struct Frozen<'a> {
    config: &'a FreezeConfig,
    since: Instant,
    thawed: bool,
    /// Closed for THAW, which must not fail because the clones have taken all files that may be open.
    reserve: Vec<File>,
    /// The signals that were blocked before.
    blocked: SigSet,
}

impl<'a> Frozen<'a> {
    /// Runs FREEZE. If that fails, THAW was run. A signal to bmapfs is passed on to it.
    pub(super) fn begin(config: &'a FreezeConfig, tally: &Tally) -> Result<Self> {
        let shown = Path::new(&config.freeze).display();
        let attempt = || format!("--freeze {shown}");
        let reserve = (0..RESERVE).map(|_| File::open("/dev/null"));
        let reserve = reserve.collect::<io::Result<_>>();
        let reserve = reserve.or_fail(Status::System, attempt)?;
        // The thread that takes those that are served has blocked all others, too.
        let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let mut frozen = Self {
            config,
            since: Instant::now(),
            thawed: false,
            reserve,
            blocked: blocked.or_fail(Status::System, attempt)?,
        };
        let started = start(&config.freeze);
        frozen.thawed = started.is_err();
        let ended = started.and_then(|child| {
            end_of(child, |child, told| {
                let cancelled = tally.cancel.load(Relaxed);
                if cancelled && !told {
                    // It leads a group of its own, which may have been stopped: in the background none can ask at the terminal.
                    let group = i32::try_from(child.id()).unwrap_or(i32::MAX);
                    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                        let _ = kill(Pid::from_raw(-group), signal);
                    }
                }
                cancelled
            })
        });
        // An error leads to THAW, by the end of `frozen`.
        match ended {
            _ if tally.cancel.load(Relaxed) => Err(interrupted()),
            Ok(status) if status.success() => Ok(frozen),
            ended => Err(Failure::new(
                Status::MountFailed,
                format!("{}: {}: nothing is copied", attempt(), said(ended)),
            )),
        }
    }

    /// Runs THAW. How long it was frozen, and whether THAW succeeded; what failed is told.
    pub(super) fn thaw(mut self) -> (Duration, bool) {
        let thawed = self.run_thaw();
        (self.since.elapsed(), thawed)
    }

    fn run_thaw(&mut self) -> bool {
        self.thawed = true;
        self.reserve.clear();
        match start(&self.config.thaw).and_then(|child| end_of(child, |_, _| false)) {
            Ok(status) if status.success() => true,
            ended => {
                log::error!(
                    "--thaw {}: {}: what was frozen may be so still; thaw it by hand",
                    Path::new(&self.config.thaw).display(),
                    said(ended)
                );
                false
            }
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            self.run_thaw();
        }
        if let Err(e) = self.blocked.thread_set_mask() {
            log::debug!("unblocking signals: {e}");
        }
    }
}

/// Starts `command` by /bin/sh, without input and with its output on stderr. It is in a process group of its own, so that
/// Ctrl-C does not stop it half way.
fn start(command: &OsStr) -> io::Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(io::stderr().as_fd().try_clone_to_owned()?);
    sys::start_as_usual(&mut shell);
    shell.spawn()
}

/// Waits for it. `look` is asked again and again, with what it has answered last.
fn end_of(mut child: Child, mut look: impl FnMut(&Child, bool) -> bool) -> io::Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        told = look(&child, told);
        thread::sleep(TICK);
    }
}

fn said(ended: io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with status {code}"),
            (None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
        },
        Err(e) => format!("it cannot be run: {e}"),
    }
}
