//! The programs that do the work: looked for, run, and ended.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exit::{Failure, Result, Status, why_it_failed};
use crate::one_line::one_line;
use crate::sys;

/// Between two looks at a program that starts or ends.
const TICK: Duration = Duration::from_millis(5);

/// How long a program may take to serve what it was started for. QEMU opens whole chains of images.
const STARTS: Duration = Duration::from_secs(60);

/// How long it may take to end.
const ENDS: Duration = Duration::from_secs(5);

/// A program, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
}

pub(super) const VIRSH: Program = program("virsh", "libvirt-clients");
pub(super) const NBDINFO: Program = program("nbdinfo", "libnbd-bin");
pub(super) const NBDFUSE: Program = program("nbdfuse", "libnbd-bin");
pub(super) const FUSERMOUNT: Program = program("fusermount3", "fuse3");
pub(super) const QEMU_NBD: Program = program("qemu-nbd", "qemu-utils");

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

impl Program {
    /// An error that says what to install, unless it can be run.
    pub(super) fn look_for(self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|place| place.join(self.name).is_file());
        if found {
            return Ok(());
        }
        let Self { name, package } = self;
        Err(Failure::new(
            Status::System,
            format!(
                "libvirt: needs {name}, and it is not there: install {package} (Debian's name)"
            ),
        ))
    }

    /// Ctrl-C is not for it, and it can be told to end.
    pub(super) fn command(self) -> Command {
        let mut command = Command::new(self.name);
        command
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::null());
        sys::start_as_usual(&mut command);
        command
    }

    /// What it prints. An error says what it said.
    pub(super) fn run<S: AsRef<OsStr>>(
        self,
        arguments: &[S],
    ) -> std::result::Result<Vec<u8>, String> {
        self.output(self.command().args(arguments))
    }

    /// What `command`, which runs it, prints.
    pub(super) fn output(self, command: &mut Command) -> std::result::Result<Vec<u8>, String> {
        let output = command.output();
        let output = output.map_err(|e| format!("{}: {e}", self.name))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.said(&output.stderr, output.status))
    }

    /// Its last words, on one line.
    fn said(self, stderr: &[u8], status: ExitStatus) -> String {
        format!("{}: {}", self.name, why_it_failed(status, stderr))
    }

    /// Starts it to serve something until it is dropped; it also ends with bmapfs. `log`: takes what it says. `ready`: whether it serves.
    pub(super) fn serve<S: AsRef<OsStr>>(
        self,
        arguments: &[S],
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> std::result::Result<Server, String> {
        let broken = |e: std::io::Error| format!("{}: {e}", self.name);
        let said = File::create(log).map_err(broken)?;
        let mut command = self.command();
        command.args(arguments).stdout(Stdio::null()).stderr(said);
        sys::end_with_parent(&mut command);
        let mut server = Server {
            program: self,
            child: command.spawn().map_err(broken)?,
            log: log.to_owned(),
        };
        let until = Instant::now() + STARTS;
        while !ready() {
            if let Some(status) = server.child.try_wait().map_err(broken)? {
                let words = std::fs::read(log).unwrap_or_default();
                return Err(self.said(&words, status));
            }
            if Instant::now() > until {
                return Err(format!("{}: it does not begin to serve", self.name));
            }
            std::thread::sleep(TICK);
        }
        Ok(server)
    }
}

/// A program that serves something.
#[derive(Debug)]
pub(super) struct Server {
    program: Program,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Whether it has this very file open.
    pub(super) fn has_open(&self, file: &File) -> bool {
        let open = || {
            let file = file.metadata().ok()?;
            let mut open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?;
            Some(open.any(|entry| {
                // What the link leads to, also if it has no name any more.
                let at = entry.and_then(|entry| std::fs::metadata(entry.path()));
                at.is_ok_and(|at| (at.dev(), at.ino()) == (file.dev(), file.ino()))
            }))
        };
        open().unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself.
            if let Ok(None) = self.child.try_wait() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        let until = Instant::now() + ENDS;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > until {
                log::debug!("{} does not end by itself", self.program.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(TICK);
        }
        let words = std::fs::read(&self.log).unwrap_or_default();
        if !words.is_empty() {
            let words = one_line(String::from_utf8_lossy(&words).trim());
            log::debug!("{}: {words}", self.program.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let missing = program("no-such-program-as-this", "some-package");
        let failure = missing.look_for().unwrap_err();
        assert_eq!(failure.status(), Status::System);
        let text = failure.to_string();
        assert!(
            text.contains("no-such-program-as-this") && text.contains("some-package"),
            "{text}"
        );
        program("sh", "dash").look_for().unwrap();
    }

    #[test]
    fn a_program_that_fails_is_quoted_on_one_line() {
        let shell = program("sh", "dash");
        assert_eq!(shell.run(&["-c", "printf 'a\\nb'"]).unwrap(), b"a\nb");
        let why = shell.run(&[
            "-c",
            "echo error: one >&2; echo; echo error: two >&2; exit 1",
        ]);
        assert_eq!(why.unwrap_err(), "sh: one: two");
        let why = shell.run(&["-c", "exit 3"]).unwrap_err();
        assert_eq!(why, "sh: it ended with status 3");
        let why = shell.run(&["-c", "kill -9 $$"]).unwrap_err();
        assert_eq!(why, "sh: signal 9 ended it");
    }

    #[test]
    fn a_server_is_ended_when_nobody_needs_it() {
        let place = tempfile::tempdir().unwrap();
        let (ready, log) = (place.path().join("ready"), place.path().join("log"));
        let script = format!(
            "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
            ready.display()
        );
        let shell = program("sh", "dash");
        let server = shell
            .serve(&["-c", &script], &log, || ready.exists())
            .unwrap();
        let pid = std::fs::read_to_string(&ready).unwrap();
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(process.exists());
        assert!(server.has_open(&File::open(&log).unwrap()));
        assert!(!server.has_open(&File::open(&ready).unwrap()));
        drop(server);
        assert!(!process.exists());
        let why = shell.serve(&["-c", "echo no luck >&2; exit 1"], &log, || false);
        assert_eq!(why.unwrap_err(), "sh: no luck");
    }
}
