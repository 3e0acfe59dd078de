//! What the tests of locks, holders and activity share: loop devices and other programs.
//!
//! Invariant: what is made here is gone when its value is dropped, also when a test fails.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Runs a program to its end.
pub(in crate::image) fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must succeed, and returns what it printed.
pub(in crate::image) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let output = output(program, arguments);
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Waits until `condition` holds; panics after ten seconds.
pub(in crate::image) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} did not come"
        );
        sleep(Duration::from_millis(10));
    }
}

/// A loop device.
pub(in crate::image) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Sets one up on `file`, with more arguments for losetup(8).
    pub(in crate::image) fn on(file: &Path, arguments: &[&str]) -> Self {
        let mut all: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        all.extend([OsStr::new("--find"), OsStr::new("--show"), file.as_os_str()]);
        Self(PathBuf::from(run("losetup", &all)))
    }

    /// Its node below /dev.
    pub(in crate::image) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        output("losetup", &[OsStr::new("--detach"), self.0.as_os_str()]);
        // Detaching is finished by the last close, which may be udev's.
        let backing = Path::new("/sys/block")
            .join(self.0.file_name().unwrap_or_default())
            .join("loop/backing_file");
        for _ in 0..200 {
            if !backing.exists() {
                break;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// A program that runs beside the test.
pub(in crate::image) struct Running(Child);

impl Running {
    /// Starts it.
    pub(in crate::image) fn start<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Self {
        Self(
            Command::new(program)
                .args(arguments)
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}")),
        )
    }

    /// Its process id.
    pub(in crate::image) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mounted file system.
pub(in crate::image) struct Mounted(PathBuf);

impl Mounted {
    /// Runs `mount ARGUMENTS... mountpoint`.
    pub(in crate::image) fn at(mountpoint: &Path, arguments: &[&str]) -> Self {
        let mut all: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        all.push(mountpoint.as_os_str());
        run("mount", &all);
        Self(mountpoint.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        output("umount", &[&self.0]);
    }
}
