//! File systems of every kind that bmapfs treats differently, each in a file of the test's own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::command::tool;
use super::scene::Scene;

/// File systems whose holes bmapfs believes.
pub(crate) const WITH_HOLES: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// A mounted file system; it is unmounted when this is dropped.
#[derive(Debug)]
pub(crate) struct Filesystem {
    point: PathBuf,
    /// The file that it is in, if there is one.
    below: Option<PathBuf>,
}

impl Filesystem {
    /// An empty file system of this kind, of at least 400 MiB.
    pub(crate) fn new(scene: &Scene, kind: &str) -> Self {
        Self::sized(scene, kind, 512 << 20)
    }

    /// An empty file system of this kind and size.
    pub(crate) fn sized(scene: &Scene, kind: &str, size: u64) -> Self {
        let point = scene.dir(&format!("fs-{kind}"));
        let below = match kind {
            "tmpfs" | "ramfs" => {
                tool("mount")
                    .args(["-t", kind, "-o", &format!("size={size}"), "none"])
                    .arg(&point)
                    .ok();
                None
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
                Some(image)
            }
        };
        Self { point, below }
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

    /// Flips the bits of one byte of a file that is durable, below the file system: no time of the file moves, and
    /// who has read it before may still have the old one in the page cache.
    pub(crate) fn corrupt(&self, file: &Path, offset: u64) {
        const BLOCK: u64 = 4096;
        let told = tool("filefrag").words("-v -b4096").arg(file).ok();
        let place = told.lines().find_map(|line| {
            // number: first.. last: first.. last: length: flags
            let numbers: Vec<u64> = line
                .split([':', '.', ' '])
                .filter_map(|word| word.parse().ok())
                .collect();
            let [_, first, last, below, ..] = numbers[..] else {
                return None;
            };
            let block = offset / BLOCK;
            (first <= block && block <= last)
                .then(|| (below + block - first) * BLOCK + offset % BLOCK)
        });
        let place = place.unwrap_or_else(|| panic!("{told}"));
        let below = File::options()
            .read(true)
            .write(true)
            .open(self.below.as_ref().unwrap());
        let below = below.unwrap();
        let mut byte = [0];
        below.read_exact_at(&mut byte, place).unwrap();
        below.write_all_at(&[!byte[0]], place).unwrap();
        below.sync_all().unwrap();
    }

    /// From now on there is an I/O error for each file that is opened, as if its disk had gone. Not every kind can.
    pub(crate) fn shut_down(&self) {
        let tool = tool("xfs_io").words("-x -c shutdown");
        tool.arg(&self.point).ok();
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
