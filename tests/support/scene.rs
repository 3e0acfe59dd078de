//! A test's own directory, and the check that nothing of the test outlives it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::command::{Tool, send_signal, tool};
use super::machine::{self, Identity};
use super::mounted::Mount;
use super::{DEADLINE, comes_true};

/// What the names of all scenes' directories begin with.
const PREFIX: &str = "bmapfs-test-";

/// Whether a path belongs to this or any other scene.
pub(crate) fn is_in_a_scene(path: &Path) -> bool {
    let of_scene = |name: &OsStr| name.as_bytes().starts_with(PREFIX.as_bytes());
    path.iter().any(of_scene)
}

/// Where one test happens. Make it first, so that it is dropped last.
#[derive(Debug)]
pub(crate) struct Scene {
    dir: TempDir,
    /// Whether the program is at its path.
    installed: Once,
}

impl Scene {
    pub(crate) fn new() -> Self {
        machine::prepare();
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        // Ordinary users have to get in.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            installed: Once::new(),
        }
    }

    /// The path of something in the scene.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in the scene, made if it is not there.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A directory that an ordinary user owns.
    pub(crate) fn dir_of(&self, name: &str, owner: Identity) -> PathBuf {
        let path = self.dir(name);
        owner.own(&path);
        path
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A program for /bin/sh, called `name`, in a directory of its own or with others.
    pub(crate) fn script(&self, directory: &str, name: &str, text: &str) -> PathBuf {
        let file = self.dir(directory).join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// A file of `len` bytes that is one hole.
    pub(crate) fn sparse(&self, name: impl AsRef<Path>, len: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    /// A mount of `source` to be described further.
    pub(crate) fn mount(&self, source: impl AsRef<Path>) -> Mount<'_> {
        Mount::new(self, source.as_ref())
    }

    /// The program under test, to be run with any arguments.
    pub(crate) fn bmapfs(&self) -> Tool {
        tool(self.program())
    }

    /// The program under test at a path that ordinary users can reach.
    pub(crate) fn program(&self) -> PathBuf {
        let path = self.dir("bin").join("bmapfs");
        // Several threads of a test may ask at once.
        self.installed.call_once(|| {
            let built = Path::new(env!("CARGO_BIN_EXE_bmapfs"));
            if fs::hard_link(built, &path).is_err() {
                // Not fs::copy: a process that another thread forks meanwhile would keep the copy open for
                // writing, and then it cannot be run.
                tool("cp").arg(built).arg(&path).ok();
            }
        });
        path
    }

    fn leftovers(&self) -> Vec<String> {
        let dir = self.dir.path();
        let mounts = machine::mounts_of("self")
            .into_iter()
            .filter(|m| m.point.starts_with(dir));
        let daemons = machine::daemons_with(dir.as_os_str());
        let mut found: Vec<String> = mounts
            .map(|m| {
                format!(
                    "a mount of {} at {}",
                    m.source.to_string_lossy(),
                    m.point.display()
                )
            })
            .collect();
        found.extend(daemons.iter().map(|pid| format!("a daemon, process {pid}")));
        found.extend(
            machine::loops_below(dir)
                .iter()
                .map(|device| format!("the loop device {}", device.display())),
        );
        found
    }

    fn clean(&self) {
        let dir = self.dir.path();
        for mount in machine::mounts_of("self")
            .iter()
            .rev()
            .filter(|m| m.point.starts_with(dir))
        {
            tool("umount").arg("-l").arg(&mount.point).run();
        }
        for pid in machine::daemons_with(dir.as_os_str()) {
            send_signal(pid, Signal::SIGKILL);
        }
        for device in machine::loops_below(dir) {
            tool("losetup").arg("-d").arg(device).run();
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A device that clears itself and a killed daemon take a moment to be gone.
        let patience = if std::thread::panicking() {
            DEADLINE / 60
        } else {
            DEADLINE / 4
        };
        if comes_true(patience, || self.leftovers().is_empty()) {
            return;
        }
        let left = self.leftovers().join(", ");
        self.clean();
        assert!(std::thread::panicking(), "the test has left {left}");
    }
}

/// Overwrites part of a file or device, past every cache of bmapfs.
pub(crate) fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}
