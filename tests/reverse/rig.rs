//! Backups in all shapes, as the tests of the reverse need them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::scene::Scene;

/// A unit of holes, in bytes.
pub(crate) const PAGE: usize = 4096;

/// A backup of `image` made with rsync from a mount with these options.
pub(crate) fn back_up(scene: &Scene, image: &Path, options: &str, name: &str) -> PathBuf {
    let backup = scene.dir(name);
    let mount = scene.mount(image).with(options).at("forward").up();
    tool("rsync")
        .words("-a")
        .args([mount.point().join("."), backup.clone()])
        .ok();
    mount.unmount();
    backup
}

/// Writes an image into `dir` as block files that have holes where a page is all zeros; with `sparse`, blocks that
/// are all zeros have no file, except the first and the last.
pub(crate) fn split_thin(dir: &Path, image: &[u8], block: usize, sparse: bool) {
    let last = image.len().div_ceil(block) - 1;
    for (index, part) in image.chunks(block).enumerate() {
        let is_zero = part.iter().all(|byte| *byte == 0);
        if sparse && is_zero && index != 0 && index != last {
            continue;
        }
        let file = File::create(dir.join(blocks::name(index as u64))).unwrap();
        file.set_len(part.len() as u64).unwrap();
        for (page, bytes) in part.chunks(PAGE).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                file.write_all_at(bytes, (page * PAGE) as u64).unwrap();
            }
        }
    }
}

/// The runs of pages of an image that are not all zeros.
pub(crate) fn data_runs(image: &[u8]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    let mut at = 0;
    for page in image.chunks(PAGE) {
        let end = at + i64::try_from(page.len()).unwrap();
        if page.iter().any(|byte| *byte != 0) {
            match runs.last_mut() {
                Some(run) if run.1 == at => run.1 = end,
                _ => runs.push((at, end)),
            }
        }
        at = end;
    }
    runs
}

/// Another version of a backup, made of hard links, as `rsync --link-dest` makes it.
pub(crate) fn link_version(scene: &Scene, backup: &Path, name: &str) -> PathBuf {
    let version = scene.path(name);
    tool("cp").arg("-al").args([backup, &version]).ok();
    version
}

/// All that a backup is: names, content and times.
pub(crate) fn everything(dir: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64, u32)> {
    let describe = |name: String| {
        let path = dir.join(&name);
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = blocks::read(&path);
        (
            name,
            (content, stat.mtime(), stat.mtime_nsec(), stat.mode()),
        )
    };
    blocks::names(dir).into_iter().map(describe).collect()
}

/// The image that a sparse backup stands for, by its files alone.
pub(crate) fn assembled(dir: &Path, block: usize, size: usize) -> Vec<u8> {
    let mut image = vec![0; size];
    for name in blocks::names(dir) {
        let start = name.parse::<usize>().unwrap() * block;
        let content = blocks::read(&dir.join(name));
        image[start..start + content.len()].copy_from_slice(&content);
    }
    image
}
