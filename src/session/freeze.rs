//! `--freeze` and `--thaw`: who writes the sources is stopped while they are cloned (promise P34).
//!
//! Invariant: once FREEZE was started THAW is run, once, whatever happens in between.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::FreezeConfig;
use crate::exit::{Failure, Result, Status};
use crate::scan::Tally;
use crate::sys;

/// Between two looks at a command that runs.
const TICK: Duration = Duration::from_millis(1);

/// What is frozen, until it is dropped or thawed.
pub(super) struct Frozen<'a> {
    config: &'a FreezeConfig,
    since: Instant,
    thawed: bool,
}

impl<'a> Frozen<'a> {
    /// Runs FREEZE. If that fails, THAW was run. A signal to bmapfs is passed on to it.
    pub(super) fn begin(config: &'a FreezeConfig, tally: &Tally) -> Result<Self> {
        let frozen = Self {
            config,
            since: Instant::now(),
            thawed: false,
        };
        let ended = run(&config.freeze, |child, told| {
            let cancelled = tally.cancel.load(Relaxed);
            if cancelled && !told {
                // It leads a group of its own.
                let group = i32::try_from(child.id()).unwrap_or(i32::MAX);
                let _ = kill(Pid::from_raw(-group), Signal::SIGTERM);
            }
            cancelled
        });
        // An error leads to THAW, by the end of `frozen`.
        match ended {
            Ok(status) if status.success() => Ok(frozen),
            ended => Err(Failure::new(
                Status::MountFailed,
                format!(
                    "--freeze {}: {}: nothing is copied",
                    Path::new(&config.freeze).display(),
                    said(ended)
                ),
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
        match run(&self.config.thaw, |_, _| false) {
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
    }
}

/// Runs `command` by /bin/sh, without input and with its output on stderr, to its end. It is in a process group of its own,
/// so that Ctrl-C does not stop it half way. `look` is asked again and again, with what it has answered last.
fn run(command: &OsStr, mut look: impl FnMut(&Child, bool) -> bool) -> io::Result<ExitStatus> {
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(io::stderr().as_fd().try_clone_to_owned()?);
    sys::unblock_signals_in(&mut shell);
    let mut child = shell.spawn()?;
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
