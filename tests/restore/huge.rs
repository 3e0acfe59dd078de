//! A sparse image costs what its data cost, however long it is.

use std::fs;

use super::rig::{at_once, extents, space};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::Mounted;
use crate::support::pattern::pattern;
use crate::support::scene::poke;

const SIZE: u64 = 16 << 40;
const BLOCK: u64 = 4 << 20;
const PIECES: u64 = 4;

/// Bytes that the daemon has read so far, by its own system calls.
fn bytes_read(mount: &Mounted) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", mount.pid())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn sixteen_tebibytes_of_holes_cost_nothing() {
    // XFS's files end below 8 EiB, ext4's at 16 TiB; tmpfs takes any length.
    at_once(
        [("tmpfs", SIZE), ("xfs", SIZE / 2)],
        |scene, (kind, size)| {
            let disk = Filesystem::new(scene, kind);
            let (source, target) = (disk.path("source"), disk.path("target"));
            disk.sparse("source", size);
            for piece in 0..PIECES {
                let data = pattern(piece, 4 << 20);
                poke(&source, size / PIECES * piece + 12_288, &data);
            }
            let mount = scene.mount(&source).with("--sparse").up();
            let names = blocks::names(mount.point());
            assert_eq!(
                names.len() as u64,
                2 * PIECES + 1,
                "each piece lies in two blocks"
            );
            // The list of mounts and the like; not a byte of the image.
            let read = bytes_read(&mount);
            assert!(read < 1 << 20, "{read} bytes to mount and list");
            let backup = scene.dir("backup");
            let rsync = |from: &std::path::Path, to: &std::path::Path| {
                tool("rsync")
                    .words("-a --inplace --delete")
                    .args([&from.join("."), to])
                    .ok()
            };
            rsync(mount.point(), &backup);
            let read = bytes_read(&mount);
            assert!(read < (2 * PIECES + 3) * BLOCK, "{read}");
            mount.unmount();
            let mount = scene.mount(&target).with("-rw --sparse --resize").up();
            rsync(&backup, mount.point());
            // What is written comes through a system call that reads, too.
            let read = bytes_read(&mount);
            assert!(read < (2 * PIECES + 3) * BLOCK, "{read}");
            mount.unmount();
            assert_eq!(fs::metadata(&target).unwrap().len(), size);
            assert_eq!(extents(&target).len(), extents(&source).len());
            assert!(space(&target) < space(&source) + 2 * BLOCK);
            for piece in 0..PIECES {
                let at = size / PIECES * piece + 12_288;
                let mut data = vec![0; 4 << 20];
                let file = fs::File::open(&target).unwrap();
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, at).unwrap();
                assert!(data == pattern(piece, 4 << 20), "piece {piece}");
            }
        },
    );
}
