//! A sparse image costs what its data cost, however long it is.

use std::fs;
use std::time::Instant;

use super::rig::{extents, space};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::Mounted;
use crate::support::pattern::pattern;
use crate::support::scene::{Scene, poke};

const SIZE: u64 = 16 << 40;
const BLOCK: u64 = 4 << 20;
const PIECES: u64 = 16;

/// Bytes that the daemon has read so far, by its own system calls.
fn bytes_read(mount: &Mounted) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", mount.pid())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn sixteen_tebibytes_of_holes_cost_nothing() {
    for kind in ["tmpfs", "xfs"] {
        let scene = Scene::new();
        let disk = Filesystem::new(&scene, kind);
        let (source, target) = (disk.path("source"), disk.path("target"));
        let size = if kind == "xfs" { SIZE / 2 } else { SIZE };
        disk.sparse("source", size);
        for piece in 0..PIECES {
            let data = pattern(piece, 4 << 20);
            poke(&source, size / PIECES * piece + 12_288, &data);
        }
        let start = Instant::now();
        let mount = scene.mount(&source).with("--sparse").up();
        let mounted = start.elapsed();
        let start = Instant::now();
        let names = blocks::names(mount.point());
        let listed = start.elapsed();
        assert_eq!(
            names.len() as u64,
            2 * PIECES + 1,
            "each piece lies in two blocks"
        );
        println!("{kind}: mounted in {mounted:?}, listed in {listed:?}");
        assert!((mounted + listed).as_secs() < 3, "{mounted:?}, {listed:?}");
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
        let start = Instant::now();
        let mount = scene.mount(&target).with("-rw --sparse --resize").up();
        rsync(&backup, mount.point());
        println!("{kind}: restored in {:?}", start.elapsed());
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
        fs::remove_dir_all(&backup).unwrap();
    }
}
