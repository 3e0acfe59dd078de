//! `--freeze` and `--thaw`: who writes the sources is stopped while they are cloned, or while a domain's backup begins
//! (promises P34 and P35).
//!
//! Invariant: once FREEZE was started THAW is run, once, whatever happens in between. A signal that would end the process
//! waits until then.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;

use super::prepare::interrupted;
use crate::config::FreezeConfig;
use crate::exit::{Failure, OrFail, Result, Status, why_it_failed};
use crate::libvirt;
use crate::scan::Tally;
use crate::sys;

/// Between two looks at a command that runs.
const TICK: Duration = Duration::from_millis(1);
/// So many open files, and some more, it takes to start a command.
const RESERVE: usize = 8;

/// FREEZE or THAW.
#[derive(Debug)]
pub(super) struct Step {
    /// For messages.
    pub(super) shown: String,
    /// In a process group of its own, so that Ctrl-C does not stop it half way.
    pub(super) command: Command,
}

impl Step {
    /// Both, as /bin/sh runs them: without input, and with their output on stderr.
    pub(super) fn typed(config: &FreezeConfig) -> Result<[Self; 2]> {
        let step = |option: &str, command: &OsStr| {
            let shown = format!("{option} {}", Path::new(command).display());
            let stderr = io::stderr().as_fd().try_clone_to_owned();
            let stderr = stderr.or_fail(Status::System, || shown.clone())?;
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(command).process_group(0);
            shell.stdin(Stdio::null()).stdout(stderr);
            sys::start_as_usual(&mut shell);
            Ok(Self {
                shown,
                command: shell,
            })
        };
        Ok([
            step("--freeze", &config.freeze)?,
            step("--thaw", &config.thaw)?,
        ])
    }

    fn start(&mut self) -> std::result::Result<Child, String> {
        let started = self.command.spawn();
        started.map_err(|e| format!("it cannot be run: {e}"))
    }
}

/// What is frozen, until it is dropped or thawed.
pub(super) struct Frozen {
    thaw: Step,
    since: Instant,
    thawed: bool,
    /// Closed for THAW, which must not fail because the clones have taken all files that may be open.
    reserve: Vec<File>,
    /// The signals that were blocked before.
    blocked: SigSet,
}

impl Frozen {
    /// Runs FREEZE. If that fails, THAW was run. A signal to bmapfs is passed on to it.
    pub(super) fn begin([mut freeze, thaw]: [Step; 2], tally: &Tally) -> Result<Self> {
        let shown = freeze.shown.clone();
        let reserve = (0..RESERVE).map(|_| File::open("/dev/null"));
        let reserve = reserve.collect::<io::Result<_>>();
        let reserve = reserve.or_fail(Status::System, || shown.clone())?;
        // The thread that takes those that are served has blocked all others, too.
        let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let mut frozen = Self {
            thaw,
            since: Instant::now(),
            thawed: false,
            reserve,
            blocked: blocked.or_fail(Status::System, || shown.clone())?,
        };
        let started = freeze.start();
        let running = started.is_ok();
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
        let why = ended.err();
        frozen.thawed = !running || why.as_deref().is_some_and(libvirt::lacks_agent);
        // An error leads to THAW, by the end of `frozen`.
        match why {
            _ if tally.cancel.load(Relaxed) => Err(interrupted()),
            None => Ok(frozen),
            Some(why) => Err(Failure::new(
                Status::MountFailed,
                format!("{shown}: {why}: nothing is copied"),
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
        let ended = self.thaw.start();
        let ended = ended.and_then(|child| end_of(child, |_, _| false));
        if let Err(why) = &ended {
            let shown = &self.thaw.shown;
            log::error!("{shown}: {why}: what was frozen may be so still; thaw it by hand");
        }
        ended.is_ok()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.thawed {
            self.run_thaw();
        }
        if let Err(e) = self.blocked.thread_set_mask() {
            log::debug!("unblocking signals: {e}");
        }
    }
}

/// Waits for it. `look` is asked again and again, with what it has answered last. An error says why it failed.
fn end_of(
    mut child: Child,
    mut look: impl FnMut(&Child, bool) -> bool,
) -> std::result::Result<(), String> {
    let mut told = false;
    let ended = || {
        while child.try_wait()?.is_none() {
            told = look(&child, told);
            thread::sleep(TICK);
        }
        child.wait_with_output()
    };
    match ended() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(why_it_failed(output.status, &output.stderr)),
        Err(e) => Err(format!("it cannot be run: {e}")),
    }
}
