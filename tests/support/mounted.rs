//! Mounts of the program under test.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::blocks;
use super::command::{Running, Tool, send_signal, tool};
use super::machine::{self, Identity};
use super::scene::Scene;
use super::{DEADLINE, comes_true, wait_until};

/// A mount that is about to be made.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    scene: &'a Scene,
    source: PathBuf,
    point: Option<PathBuf>,
    options: Vec<OsString>,
    identity: Identity,
}

/// A mount; it is unmounted when this is dropped, and its daemon's end waited for.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: PathBuf,
    pid: u32,
    log: PathBuf,
    foreground: Option<Running>,
    said: String,
    gone: bool,
}

impl<'a> Mount<'a> {
    pub(crate) fn new(scene: &'a Scene, source: &Path) -> Self {
        Self {
            scene,
            source: source.to_owned(),
            point: None,
            options: Vec::new(),
            identity: Identity::Root,
        }
    }

    /// Options of bmapfs, separated by spaces.
    pub(crate) fn with(mut self, options: &str) -> Self {
        self.options
            .extend(options.split_whitespace().map(OsString::from));
        self
    }

    /// At this directory of the scene (made if it is not there), in place of `mnt`.
    pub(crate) fn at(mut self, name: &str) -> Self {
        self.point = Some(self.scene.path(name));
        self
    }

    /// As this user, who also owns the mount point.
    pub(crate) fn by(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Mounts as daemon.
    pub(crate) fn up(self) -> Mounted {
        let (tool, point) = self.prepare();
        let before = machine::daemons_with(point.as_os_str());
        let outcome = tool.run();
        let said = outcome.stderr.clone();
        outcome.ok();
        let new = |pid: &u32| !before.contains(pid);
        let daemons: Vec<u32> = machine::daemons_with(point.as_os_str())
            .into_iter()
            .filter(new)
            .collect();
        assert_eq!(
            daemons.len(),
            1,
            "a mount has one daemon; bmapfs said: {said}"
        );
        Mounted {
            point,
            pid: daemons[0],
            log: PathBuf::new(),
            foreground: None,
            said,
            gone: false,
        }
    }

    /// Mounts in the foreground (-f), so that what it logs can be read.
    pub(crate) fn up_in_foreground(self) -> Mounted {
        let scene = self.scene;
        let (tool, point) = self.prepare();
        let log = scene.path(format!(
            "log-{}",
            point.file_name().unwrap().to_string_lossy()
        ));
        let before = machine::mounts_at(&point).len();
        let mut running = tool.arg("-f").log_to(&log).spawn();
        wait_until("the mount is there", || {
            let ended = running.child().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "bmapfs -f ended: {}",
                fs::read_to_string(&log).unwrap()
            );
            machine::mounts_at(&point).len() > before
        });
        let pid = running.pid();
        Mounted {
            point,
            pid,
            log,
            foreground: Some(running),
            said: String::new(),
            gone: false,
        }
    }

    /// Expects that bmapfs refuses with this exit status and one line on standard error, which is returned,
    /// and that nothing is mounted and no process left.
    pub(crate) fn refused(self, code: i32) -> String {
        let (tool, point) = self.prepare();
        let before = machine::mounts_at(&point).len();
        let line = one_line(&tool.fails(code));
        assert_eq!(
            machine::mounts_at(&point).len(),
            before,
            "refused, but mounted"
        );
        wait_until("the refusing process has ended", || {
            machine::daemons_with(point.as_os_str()).is_empty()
        });
        line
    }

    fn prepare(self) -> (Tool, PathBuf) {
        let point = self.point.unwrap_or_else(|| self.scene.path("mnt"));
        if fs::create_dir(&point).is_ok() {
            self.identity.own(&point);
        }
        let tool = self
            .scene
            .bmapfs()
            .identity(self.identity)
            .args(&self.options)
            .arg(&self.source)
            .arg(&point);
        (tool, point)
    }
}

/// Expects exactly one line.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 1 && !lines[0].trim().is_empty(),
        "expected one line: {text:?}"
    );
    lines[0].to_owned()
}

impl Mounted {
    /// The mount point.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// The path of a block file.
    pub(crate) fn block(&self, index: u64) -> PathBuf {
        self.point.join(blocks::name(index))
    }

    /// The whole image as the mount shows it.
    pub(crate) fn image(&self) -> Vec<u8> {
        blocks::concatenated(&self.point)
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What bmapfs said on standard error while mounting as a daemon.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// What the daemon has logged in the foreground so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.pid, signal);
    }

    /// Unmounts with umount(8) as soon as nobody uses the mount, and waits for the daemon's end.
    pub(crate) fn unmount(self) {
        tool("umount").arg(&self.point).ok();
        self.wait_for_end();
    }

    /// Unmounts, waits for the daemon's end and gives all that it has logged.
    pub(crate) fn unmount_for_log(self) -> String {
        let log = self.log.clone();
        self.unmount();
        fs::read_to_string(log).unwrap()
    }

    /// Waits until the daemon has ended by itself; in the foreground, with success.
    pub(crate) fn wait_for_end(mut self) {
        self.gone = true;
        if let Some(running) = self.foreground.take() {
            let status = running.finish();
            assert!(
                status.success(),
                "the daemon ended with {status}: {}",
                self.log()
            );
        }
        wait_until("the daemon has ended", || !self.daemon_lives());
    }

    /// Kills the daemon with SIGKILL, which leaves the mount, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        drop(self.foreground.take());
        wait_until("the killed daemon has ended", || !self.daemon_lives());
    }

    /// Whether the daemon is there.
    pub(crate) fn daemon_lives(&self) -> bool {
        machine::is_daemon(self.pid, self.point.as_os_str())
    }

    /// Unmounts the topmost mount on the path, lazily, expecting that there is one.
    pub(crate) fn detach(&self) {
        tool("umount").arg("-l").arg(&self.point).ok();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let mut outcome = if std::thread::panicking() {
            tool("umount").arg(&self.point).run()
        } else {
            tool("umount").arg(&self.point).run_when_free()
        };
        if outcome.code() != 0 && !machine::mounts_at(&self.point).is_empty() {
            outcome = tool("umount").arg("-l").arg(&self.point).run();
        }
        let patience = if std::thread::panicking() {
            DEADLINE / 60
        } else {
            DEADLINE / 4
        };
        if let Some(mut running) = self.foreground.take() {
            comes_true(patience, || running.child().try_wait().unwrap().is_some());
        }
        if !comes_true(patience, || !self.daemon_lives()) {
            send_signal(self.pid, Signal::SIGKILL);
            let point = self.point.display();
            assert!(
                std::thread::panicking(),
                "{point}: the daemon did not end after umount: {outcome:#?}"
            );
        }
    }
}
