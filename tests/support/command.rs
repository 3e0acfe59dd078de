//! Running programs: with a deadline, as some user, and with all they said in the failure.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{Identity, package_of};
use super::{DEADLINE, comes_true};

/// Held while a process is started. Between fork and exec a child has a copy of all files that this process has
/// open, so that another test's mount would be in use, or the program that it wants to run be open for writing.
static STARTING: Mutex<()> = Mutex::new(());

/// Held, shared, while mounts are made or ended, and alone while a mount namespace is made: it is a copy of all
/// mounts that there are, in which what another test unmounts just then would live on.
static MOUNTS: RwLock<()> = RwLock::new(());

/// While this is held, no other test runs a program that changes what is mounted.
pub(crate) fn hold_mounts() -> RwLockWriteGuard<'static, ()> {
    MOUNTS.write().unwrap_or_else(PoisonError::into_inner)
}

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Tool {
    command: Command,
    input: Vec<u8>,
    deadline: Duration,
}

/// What a program that has ended left.
#[derive(Debug)]
pub(crate) struct Outcome {
    line: String,
    status: ExitStatus,
    /// Standard output, lossily as text.
    pub(crate) stdout: String,
    /// Standard error, lossily as text.
    pub(crate) stderr: String,
}

/// A program that runs in the background; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

/// The program `name`, found through PATH and the directories for administrators. Of the environment it has little else:
/// how the tests were started must not matter.
pub(crate) fn tool(name: impl AsRef<OsStr>) -> Tool {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env_clear().envs([
        (
            "PATH",
            &*format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"),
        ),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("HOME", "/root"),
        // For what is shown on a terminal, which script(1) makes.
        ("TERM", "xterm"),
    ]);
    // By the other one .ci/run knows what its tests have left behind.
    for kept in ["TMPDIR", "BMAPFS_CI_RUN"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    Tool {
        command,
        input: Vec::new(),
        deadline: DEADLINE,
    }
}

impl Tool {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Arguments from one text, split at spaces.
    pub(crate) fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// It may take so many times as long as anything else, as a compiler does on a busy machine.
    pub(crate) fn patient(mut self, times: u32) -> Self {
        self.deadline = DEADLINE * times;
        self
    }

    /// With all of the environment that the tests were started in.
    pub(crate) fn with_environment(mut self) -> Self {
        self.command.envs(std::env::vars_os());
        self
    }

    pub(crate) fn within(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program finds on its standard input (at most a pipe's capacity).
    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    pub(crate) fn identity(mut self, identity: Identity) -> Self {
        if let Some((uid, gid)) = identity.ids() {
            self.command.uid(uid).gid(gid).env("HOME", "/");
        }
        self
    }

    /// It is started with this signal ignored, as by nohup(1). To be called before [`Self::identity`] and the like.
    pub(crate) fn ignoring(self, signal: &str) -> Self {
        let inner = self.command;
        let outer = tool("env").arg(format!("--ignore-signal={signal}"));
        outer.arg(inner.get_program()).args(inner.get_args())
    }

    /// It is run by another program, which is given these arguments before it.
    pub(crate) fn below(self, program: &str, args: &[&str]) -> Self {
        let inner = self.command;
        let outer = tool(program).args(args);
        outer.arg(inner.get_program()).args(inner.get_args())
    }

    /// Standard error goes to this file.
    pub(crate) fn log_to(mut self, file: &Path) -> Self {
        let log = std::fs::File::create(file).unwrap();
        self.command.stderr(log).stdout(Stdio::null());
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Outcome {
        self.run_once()
    }

    /// Runs it until it says something else than that what it works on is busy. A child that another test starts has,
    /// for a moment after its exec, what this process had open at the fork. Who uses it for longer, the outcome tells.
    pub(crate) fn run_when_free(mut self) -> Outcome {
        let mut outcome = self.run_once();
        comes_true(DEADLINE / 12, || {
            let busy = outcome.code() != 0 && outcome.stderr.contains("busy");
            if busy {
                outcome = self.run_once();
            }
            !busy
        });
        outcome
    }

    fn run_once(&mut self) -> Outcome {
        let name = Path::new(self.command.get_program())
            .file_name()
            .unwrap_or_default();
        let changes_mounts = ["mount", "umount", "fusermount3", "losetup", "bmapfs"]
            .iter()
            .any(|tool| name == *tool);
        let _mounts = changes_mounts.then(|| MOUNTS.read().unwrap_or_else(PoisonError::into_inner));
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = self.line();
        let child = self.start(Stdio::piped());
        let pid = child.id();
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(output) = result.recv_timeout(self.deadline) else {
            send_signal(pid, Signal::SIGKILL);
            panic!("{line}: still running, or its output still open, at the deadline");
        };
        let output = output.unwrap();
        Outcome {
            line,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it, umount(8) when the mount is free, expects success, and gives its standard output.
    pub(crate) fn ok(self) -> String {
        if self.command.get_program() == "umount" {
            return self.run_when_free().ok();
        }
        self.run().ok()
    }

    /// Runs it, expects this exit status, and gives its standard error.
    pub(crate) fn fails(self, code: i32) -> String {
        let outcome = self.run();
        assert_eq!(outcome.code(), code, "{outcome:#?}");
        outcome.stderr
    }

    /// Starts it in the background; its standard input is a pipe that stays open.
    pub(crate) fn spawn(mut self) -> Running {
        Running {
            child: self.start(Stdio::piped()),
        }
    }

    /// The same, with standard output to be read by the caller.
    pub(crate) fn spawn_talking(mut self) -> Running {
        self.command.stdout(Stdio::piped());
        self.spawn()
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        words.join(" ")
    }

    fn start(&mut self, stdin: Stdio) -> Child {
        self.command.stdin(stdin);
        let started = {
            let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            self.command.spawn()
        };
        let mut child = started.unwrap_or_else(|e| {
            let program = self.command.get_program().to_owned();
            panic!("{}: {e}{}", self.line(), package_of(&program));
        });
        if !self.input.is_empty() {
            match child.stdin.take().unwrap().write_all(&self.input) {
                // It has ended without reading all of it, as what fails does.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                written => written.unwrap(),
            }
        }
        child
    }
}

impl Outcome {
    /// The exit status; a signal counts as 128 and its number.
    pub(crate) fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// Expects success, and gives standard output.
    pub(crate) fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{}: {}\n{}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Waits for its end by itself.
    pub(crate) fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        super::wait_until("a background process ended", || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

/// Sends a signal to a process that may have ended.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).ok();
}
