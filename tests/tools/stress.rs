//! Many readers and writers at once, on the same and on different blocks.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::support::blocks::open_rw;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::Mounted;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;

const BLOCK: u64 = 256 << 10;
const BLOCKS: u64 = 8;

/// Of every block each of the 64 owns one page, and nobody else writes there.
const WORKERS: u64 = 64;
const PAGE: usize = 4096;

/// Writes and reads back its own pages, in pieces, while 63 others do the same around it. Returns what the
/// pages must be at the end.
fn work(mount: &Mounted, worker: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(worker);
    let mut pages: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![0; PAGE]).collect();
    let handles: Vec<File> = (0..BLOCKS)
        .map(|index| open_rw(mount.block(index)))
        .collect();
    for round in 0..60 {
        let index = random.index(handles.len());
        let start = worker * 4096;
        let (at, page) = (random.index(PAGE - 1), &mut pages[index]);
        let bytes = pattern(random.next(), 1 + random.index(PAGE - at));
        handles[index]
            .write_all_at(&bytes, start + u64::try_from(at).unwrap())
            .unwrap();
        page[at..at + bytes.len()].copy_from_slice(&bytes);
        let mut seen = vec![0; PAGE];
        if round % 3 == 0 {
            let path = mount.block(index.try_into().unwrap());
            let direct = File::options()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .unwrap();
            direct.read_exact_at(&mut seen, start).unwrap();
        } else {
            handles[index].read_exact_at(&mut seen, start).unwrap();
        }
        assert_same("a page of one's own", &seen, page);
        if round % 20 == 19 {
            handles[index].sync_data().unwrap();
        }
        // Somebody else's pages can be read at any time, too.
        handles[random.index(handles.len())]
            .read_at(&mut seen, random.below(BLOCK))
            .unwrap();
    }
    pages
}

fn sixty_four_at_once(scene: &Scene, source: &Path, options: &str) {
    let mount = scene.mount(source).with("-rw -b 256K").with(options).up();
    let pages: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
        let mount = &mount;
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || work(mount, worker)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    let expected: Vec<u8> = (0..pages[0].len())
        .flat_map(|index| pages.iter().flat_map(move |own| &own[index]).copied())
        .collect();
    assert_same("through the mount", &mount.image(), &expected);
    mount.unmount();
    assert_same("the source", &fs::read(source).unwrap(), &expected);
}

#[test]
fn sixty_four_readers_and_writers_of_a_file() {
    let scene = Scene::new();
    let size = usize::try_from(BLOCK * BLOCKS).unwrap();
    for options in ["", "--threads 1", "--threads 8"] {
        let image = scene.file("a.img", &vec![0; size]);
        sixty_four_at_once(&scene, &image, options);
    }
}

#[test]
fn sixty_four_readers_and_writers_of_a_device() {
    let scene = Scene::new();
    let size = usize::try_from(BLOCK * BLOCKS).unwrap();
    let device = LoopDevice::new(&scene.file("a.img", &vec![0; size]));
    sixty_four_at_once(&scene, device.path(), "");
}

#[test]
fn sixty_four_readers_of_a_read_only_mount() {
    let scene = Scene::new();
    let content = pattern(1, 2 << 20);
    let image = scene.file("a.img", &content);
    let device = LoopDevice::new(&image);
    for source in [image.as_path(), device.path()] {
        let mount = scene.mount(source).with("-b 256K").up();
        std::thread::scope(|scope| {
            for worker in 0..64 {
                let (mount, content) = (&mount, &content);
                scope.spawn(move || {
                    let mut random = Random::new(worker);
                    for _ in 0..60 {
                        let at = random.index(content.len());
                        let end = (at / 262_144 + 1) * 262_144;
                        let mut seen = vec![0; 1 + random.index((end - at).min(100_000))];
                        let file =
                            File::open(mount.block((at / 262_144).try_into().unwrap())).unwrap();
                        file.read_exact_at(&mut seen, (at % 262_144).try_into().unwrap())
                            .unwrap();
                        assert_same("what was read", &seen, &content[at..at + seen.len()]);
                    }
                });
            }
        });
        mount.unmount();
    }
}

#[test]
fn several_rsyncs_at_once() {
    let scene = Scene::new();
    let content = pattern(2, 4 << 20);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-b 256K").up();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (scene, mount, content) = (&scene, &mount, &content);
            scope.spawn(move || {
                let backup = scene.dir(&format!("backup-{number}"));
                tool("rsync")
                    .words("-a --inplace")
                    .args([&mount.point().join("."), &backup])
                    .ok();
                assert_same(
                    "a backup",
                    &crate::support::blocks::concatenated(&backup),
                    content,
                );
            });
        }
    });
}
