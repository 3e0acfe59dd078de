//! File systems of every kind that bmapfs treats differently, each in a file of the test's own.

use std::path::{Path, PathBuf};

use super::command::tool;
use super::scene::Scene;

/// File systems whose holes bmapfs believes.
pub(crate) const WITH_HOLES: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// A mounted file system; it is unmounted when this is dropped.
#[derive(Debug)]
pub(crate) struct Filesystem {
    point: PathBuf,
}

impl Filesystem {
    /// An empty file system of this kind, of at least 400 MiB.
    pub(crate) fn new(scene: &Scene, kind: &str) -> Self {
        Self::sized(scene, kind, 512 << 20)
    }

    /// An empty file system of this kind and size.
    pub(crate) fn sized(scene: &Scene, kind: &str, size: u64) -> Self {
        let point = scene.dir(&format!("fs-{kind}"));
        match kind {
            "tmpfs" | "ramfs" => {
                tool("mount")
                    .args(["-t", kind, "-o", &format!("size={size}"), "none"])
                    .arg(&point)
                    .ok();
            }
            _ => {
                let image = scene.sparse(format!("fs-{kind}.img"), size);
                tool(format!("mkfs.{kind}"))
                    .args(quick_options(kind))
                    .arg(&image)
                    .ok();
                tool("mount")
                    .args(["-o", "loop"])
                    .arg(&image)
                    .arg(&point)
                    .ok();
            }
        }
        Self { point }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// A file in it that is one hole.
    pub(crate) fn sparse(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    pub(crate) fn point(&self) -> &Path {
        &self.point
    }
}

fn quick_options(kind: &str) -> &'static [&'static str] {
    match kind {
        "ext4" => &["-q", "-F", "-m0"],
        _ => &["-q", "-f"],
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let outcome = tool("umount").arg(&self.point).run_when_free();
        if outcome.code() != 0 {
            tool("umount").arg("-l").arg(&self.point).run();
            assert!(
                std::thread::panicking(),
                "the test's own file system is still in use: {outcome:#?}"
            );
        }
    }
}
