//! A file system whose disk can be looked at, and put back, from below.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

/// File systems whose times bmapfs believes; the last is Btrfs without copy-on-write.
pub(super) const KINDS: [&str; 4] = ["ext4", "xfs", "btrfs", "nocow"];

/// Bytes of the images.
pub(super) const SIZE: usize = 32 * 65_536;

/// A file system on a loop device, and an image in it.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    scene: &'a Scene,
    pub(super) device: LoopDevice,
    /// The file behind the device.
    backing: PathBuf,
    point: PathBuf,
    pub(super) image: PathBuf,
}

impl<'a> Disk<'a> {
    /// Mounted, with an image that has been written to the disk.
    pub(super) fn new(scene: &'a Scene, kind: &str) -> Self {
        let options = if kind == "ext4" { "-q -F" } else { "-q -f" };
        Self::with(scene, kind, options)
    }

    /// The same, with these options for mkfs.
    pub(super) fn with(scene: &'a Scene, kind: &str, options: &str) -> Self {
        let backing = scene.sparse(format!("{kind}.disk"), 320 << 20);
        let program = if kind == "nocow" { "btrfs" } else { kind };
        tool(format!("mkfs.{program}"))
            .words(options)
            .arg(&backing)
            .ok();
        let point = scene.dir(&format!("disk-{kind}"));
        let disk = Self {
            scene,
            device: LoopDevice::new(&backing),
            backing,
            image: point.join("a.img"),
            point,
        };
        disk.mount();
        fs::write(&disk.image, b"").unwrap();
        if kind == "nocow" {
            tool("chattr").arg("+C").arg(&disk.image).ok();
        }
        fs::write(&disk.image, pattern(1, SIZE)).unwrap();
        disk.sync();
        disk
    }

    pub(super) fn mount(&self) {
        tool("mount").arg(self.device.path()).arg(&self.point).ok();
    }

    pub(super) fn unmount(&self) {
        tool("umount").arg(&self.point).ok();
    }

    /// All that was written is on the disk.
    pub(super) fn sync(&self) {
        tool("sync").arg("-f").arg(&self.point).ok();
    }

    /// The disk goes away: what is not on it is lost.
    pub(super) fn shut_down(&self) {
        tool("xfs_io")
            .args(["-x", "-r", "-c", "shutdown"])
            .arg(&self.point)
            .ok();
    }

    /// A copy of the disk as it is now.
    pub(super) fn copy(&self, name: &str) -> PathBuf {
        let copy = self.scene.path(name);
        tool("cp").args([&self.backing, &copy]).ok();
        copy
    }

    /// Puts a copy in the disk's place.
    pub(super) fn put_back(&self, copy: &Path) {
        tool("dd")
            .words("bs=1M conv=notrunc status=none")
            .arg(format!("if={}", copy.display()))
            .arg(format!("of={}", self.backing.display()))
            .ok();
        tool("blockdev")
            .arg("--flushbufs")
            .arg(self.device.path())
            .ok();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        if !machine::mounts_at(&self.point).is_empty() {
            let outcome = tool("umount").arg(&self.point).run_when_free();
            assert!(
                outcome.code() == 0 || std::thread::panicking(),
                "the test's own file system is still in use: {outcome:#?}"
            );
        }
    }
}
