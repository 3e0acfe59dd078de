//! Where the work on a domain lies: a directory of bmapfs's own, which tells who works on it, and scratch files.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::programs::FUSERMOUNT;
use crate::sys::{self, FlockKind};

/// A directory that this process alone uses. Removed at its end.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    uuid: String,
    _held: File,
}

impl Place {
    /// Takes the one of the domain with this UUID. What is left in it is nobody's, and is removed.
    pub(super) fn take(uuid: &str) -> Result<Self, String> {
        if uuid.contains('/') {
            return Err(format!("{uuid} is no UUID"));
        }
        let base = match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            _ if geteuid().is_root() => PathBuf::from("/run"),
            Some(runtime) if runtime.is_absolute() => runtime,
            _ => return Err("XDG_RUNTIME_DIR is not set; it must be as for libvirt".to_owned()),
        };
        let path = base.join("bmapfs-libvirt").join(uuid);
        let broken = |e: std::io::Error| format!("{}: {e}", path.display());
        let busy = || "another bmapfs is working on it: wait for its end".to_owned();
        let mut made = DirBuilder::new();
        made.recursive(true).mode(0o700);
        made.create(&path).map_err(broken)?;
        let held = File::open(&path).map_err(broken)?;
        if !sys::try_flock(held.as_fd(), FlockKind::Exclusive).map_err(broken)? {
            return Err(busy());
        }
        // Whoever had it before has removed it, and somebody may have made another.
        let (ours, there) = (held.metadata().map_err(broken)?, std::fs::metadata(&path));
        if there.map_or(true, |there| there.ino() != ours.ino()) {
            return Err(busy());
        }
        let place = Self {
            path,
            uuid: uuid.to_owned(),
            _held: held,
        };
        place.empty();
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what is in it, also what an nbdfuse that had no time to unmount has left.
    fn empty(&self) {
        for entry in std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if std::fs::remove_dir(&path).is_ok() {
                    continue;
                }
                let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
                if umount2(&path, flags) == Err(Errno::EPERM) {
                    // That is for users. It may have been unmounted by now.
                    let lazily = [OsStr::new("-u"), OsStr::new("-z"), path.as_os_str()];
                    let _ = FUSERMOUNT.run(&lazily);
                }
                let _ = std::fs::remove_dir(&path);
            } else {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.empty();
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// The directory in which QEMU itself has its files, while the domain with this number runs: there it may make a
/// socket, also where `AppArmor` or `SELinux` watches it.
pub(super) fn domain_directory(id: &str) -> Result<PathBuf, String> {
    let base = if geteuid().is_root() {
        PathBuf::from("/var/lib/libvirt/qemu")
    } else {
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = configured.filter(|config| config.is_absolute()).or(home);
        config.unwrap_or_default().join("libvirt/qemu/lib")
    };
    let begin = format!("domain-{id}-");
    let entries = std::fs::read_dir(&base).map_err(|e| format!("{}: {e}", base.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let of_domain = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&begin))
    };
    names
        .find(of_domain)
        .ok_or_else(|| format!("{}: it has no directory {begin}*", base.display()))
}

/// A directory for what the guest overwrites while it is read. QEMU's user opens the files in it, which libvirt makes.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it anew, in TMPDIR or /var/tmp.
    pub(super) fn make(place: &Place) -> Result<Self, String> {
        let base = std::env::var_os("TMPDIR").map(PathBuf::from);
        let base = base
            .filter(|base| base.is_absolute())
            .unwrap_or_else(|| PathBuf::from("/var/tmp"));
        let path = base.join(format!("bmapfs-libvirt-{}", place.uuid));
        let broken = |e: std::io::Error| format!("scratch files in {}: {e}", path.display());
        if let Ok(stat) = std::fs::symlink_metadata(&path) {
            // Others may write in that directory.
            if !stat.is_dir() || stat.uid() != geteuid().as_raw() {
                return Err(format!(
                    "scratch files in {}: it is somebody else's",
                    path.display()
                ));
            }
            std::fs::remove_dir_all(&path).map_err(broken)?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(broken)?;
        let scratch = Self { path: path.clone() };
        // Whatever the umask is.
        let reachable = Permissions::from_mode(0o711);
        std::fs::set_permissions(&path, reachable).map_err(broken)?;
        Ok(scratch)
    }

    pub(super) fn file(&self, target: &str) -> PathBuf {
        self.path.join(target.replace('/', "_"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            log::debug!("{}: {e}", self.path.display());
        }
    }
}
