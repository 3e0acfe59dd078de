//! What clients do to a mount costs no more memory than a limit, whoever they are and whatever they leave open.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::thread::ScopedJoinHandle;

use crate::support::devices::LoopDevice;
use crate::support::mounted::Mounted;
use crate::support::scene::{Scene, poke};

/// What the daemon may have taken at any time, in KiB: well over the limits that it has, well under what there
/// would be without.
const MOST: u64 = 200 << 10;
const PIECE: u64 = 1 << 20;

/// A number in the status of a daemon.
fn status(mount: &Mounted, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let field = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&field));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

fn most_memory(mount: &Mounted) -> u64 {
    status(mount, "VmHWM")
}

#[test]
fn p24_blocks_that_are_read_out_of_order() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 12 * 64 * PIECE);
    let index = scene.path("a.index");
    let options = format!("-b 64M --index={}", index.display());
    let mount = scene.mount(&image).with(&options).up();
    let mut bytes = vec![1; usize::try_from(PIECE).unwrap()];
    let handles: Vec<File> = (0..12)
        .map(|block| File::open(mount.block(block)).unwrap())
        .collect();
    for handle in &handles {
        // Never the first, which all others would have to follow.
        for piece in (1..64).rev() {
            handle.read_exact_at(&mut bytes, piece * PIECE).unwrap();
        }
    }
    let most = most_memory(&mount);
    assert!(most < MOST, "{most} KiB");
    drop(handles);
    mount.unmount();
}

#[test]
fn p4_block_files_of_a_device_that_are_left_open_in_the_middle() {
    let scene = Scene::new();
    let backing = scene.sparse("a.img", 300 * 2 * PIECE);
    let device = LoopDevice::new(&backing);
    let mount = scene.mount(device.path()).with("-b 2M").up();
    let mut bytes = vec![1; 64 << 10];
    let handles: Vec<File> = (0..300)
        .map(|block| File::open(mount.block(block)).unwrap())
        .collect();
    for handle in &handles {
        for piece in 0..6 {
            handle
                .read_exact_at(&mut bytes, piece * (64 << 10))
                .unwrap();
        }
    }
    let most = most_memory(&mount);
    assert!(most < MOST, "{most} KiB");
    drop(handles);
    mount.unmount();
}

#[test]
fn p14_listings_that_many_begin_at_once() {
    const LISTINGS: usize = 200;
    let scene = Scene::new();
    let image = scene.sparse("a.img", 8 << 20);
    let mount = scene.mount(&image).with("-b 1M --threads 4").up();
    let start = Barrier::new(LISTINGS + 1);
    let most = std::thread::scope(|scope| {
        let lists: Vec<_> = (0..LISTINGS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    fs::read_dir(mount.point()).unwrap().count()
                })
            })
            .collect();
        // A listing waits for the end of the second in which the image was written.
        poke(&image, 0, b"written");
        start.wait();
        let mut most = 0;
        while !lists.iter().all(ScopedJoinHandle::is_finished) {
            most = most.max(status(&mount, "Threads"));
        }
        assert!(lists.into_iter().all(|list| list.join().unwrap() == 8));
        most
    });
    assert!(most < 100, "{most} threads");
    mount.unmount();
}
