//! P2 and P5: an image that changes its size, or yields errors, under the mount.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::blocks::{self, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

#[test]
fn p2_a_grown_file_shows_its_new_blocks_at_the_next_opendir() {
    let scene = Scene::new();
    let content = pattern(1, 100_000);
    let image = scene.file("a.img", &content[..20_000]);
    let mount = scene.mount(&image).with("-b 4K").up();
    assert_eq!(blocks::names(mount.point()).len(), 5);
    poke(&image, 20_000, &content[20_000..]);
    wait_until("the new blocks are listed", || {
        blocks::names(mount.point()).len() == 25
    });
    // Attributes may be a second old.
    wait_until("the block that was last is whole", || {
        fs::metadata(mount.block(4)).unwrap().len() == 4096
    });
    assert_same("the grown image", &mount.image(), &content);
}

#[test]
fn p2_a_grown_device_shows_its_new_blocks_at_the_next_opendir() {
    let scene = Scene::new();
    let content = pattern(2, 102_400);
    let image = scene.file("a.img", &content[..20_480]);
    let device = LoopDevice::new(&image);
    let mount = scene.mount(device.path()).with("-b 4K -rw").up();
    poke(&image, 20_480, &content[20_480..]);
    assert_eq!(
        blocks::names(mount.point()).len(),
        5,
        "before the device has grown"
    );
    tool("losetup")
        .arg("--set-capacity")
        .arg(device.path())
        .ok();
    wait_until("the new blocks are listed", || {
        blocks::names(mount.point()).len() == 25
    });
    assert_same("the grown device", &mount.image(), &content);
}

#[test]
fn p2_sighup_reads_the_size_again() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 8192);
    let mount = scene.mount(&image).with("-b 4K").up();
    assert!(fs::metadata(mount.block(2)).is_err());
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(12_288)
        .unwrap();
    mount.signal(Signal::SIGHUP);
    // A name that was not there is asked for again; nobody opens the directory.
    wait_until("the new block is there", || {
        fs::metadata(mount.block(2)).is_ok()
    });
    assert!(mount.daemon_lives());
}

/// Reads a block file as far as it goes: the bytes, and the error that ended it.
fn read_to_error(file: &File) -> (Vec<u8>, Option<i32>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        match file.read_at(&mut buffer, bytes.len().try_into().unwrap()) {
            Ok(0) => return (bytes, None),
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(e) => return (bytes, e.raw_os_error()),
        }
    }
}

fn truncate(path: &Path, len: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

#[test]
fn p5_what_was_cut_off_is_an_error_and_never_zeros() {
    let scene = Scene::new();
    let content = pattern(3, 4 * 65_536);
    let image = scene.file("a.img", &content);
    for options in ["-b 64K", "-b 64K -rw", "-b 64K -o kernel_cache"] {
        fs::write(&image, &content).unwrap();
        let mount = scene.mount(&image).with(options).up();
        let open: Vec<File> = (0..4)
            .map(|i| File::open(mount.block(i)).unwrap())
            .collect();
        // In the middle of block 2, and of a page.
        truncate(&image, 2 * 65_536 + 10_000);

        assert_same(
            "block 1",
            &read_to_error(&open[1]).0,
            &content[65_536..131_072],
        );
        let (bytes, error) = read_to_error(&open[2]);
        assert_eq!(error, Some(libc::EIO), "{options}: the block that was cut");
        assert!(
            bytes.len() <= 10_000 && content[131_072..].starts_with(&bytes),
            "{options}: {} bytes",
            bytes.len()
        );
        if !options.contains("cache") {
            assert_eq!(
                bytes.len(),
                10_000,
                "{options}: what is before the cut is returned"
            );
        }
        assert_eq!(
            read_to_error(&open[3]),
            (Vec::new(), Some(libc::EIO)),
            "{options}: the block that is gone"
        );

        // The same for those who come later, and the names stay.
        for _ in 0..2 {
            assert_eq!(blocks::names(mount.point()).len(), 4, "{options}");
        }
        let late: io::Result<Vec<u8>> = fs::read(mount.block(3));
        refused("reading a block that is gone", late, libc::EIO);
        drop(open);
        mount.unmount();
    }
}

#[test]
fn p5_a_device_that_yields_errors() {
    let scene = Scene::new();
    let content = pattern(4, 4 * 65_536);
    let image = scene.file("a.img", &content);
    // With direct I/O the device reports what its file no longer has; else it makes zeros of it.
    let device = LoopDevice::with("--direct-io=on", &image);
    let mount = scene.mount(device.path()).with("-b 64K").up();
    truncate(&image, 2 * 65_536 + 8192);
    tool("blockdev").arg("--flushbufs").arg(device.path()).ok();

    // The fault is there at all: the device itself cannot be read behind the cut.
    let raw = tool("dd")
        .arg(format!("if={}", device.path().display()))
        .words("of=/dev/null bs=64K skip=3")
        .run();
    assert!(
        raw.code() != 0 && raw.stderr.contains("Input/output error"),
        "{raw:#?}"
    );

    assert_same(
        "a good block",
        &blocks::read(&mount.block(1)),
        &content[65_536..131_072],
    );
    let (bytes, error) = read_to_error(&File::open(mount.block(2)).unwrap());
    assert_eq!(error, Some(libc::EIO));
    assert_same(
        "what is before the bad sector",
        &bytes,
        &content[131_072..131_072 + 8192],
    );
    let opened = File::open(mount.block(3));
    refused("opening what cannot be read", opened, libc::EIO);
    // An error is not the end of the service.
    assert_same(
        "a good block again",
        &blocks::read(&mount.block(0)),
        &content[..65_536],
    );
}

#[test]
fn p5_rsync_of_a_block_that_cannot_be_read_fails() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(5, 4 * 65_536));
    let mount = scene.mount(&image).with("-b 64K").up();
    truncate(&image, 2 * 65_536);
    let outcome = tool("rsync")
        .words("-a --inplace")
        .args([mount.point(), &scene.dir("backup")])
        .run();
    assert_eq!(outcome.code(), 23, "{outcome:#?}");
    assert!(
        outcome.stderr.contains("00000002\": Input/output error"),
        "{outcome:#?}"
    );
}

#[test]
fn p9_a_write_back_error_reaches_every_handle_that_wrote() {
    let scene = Scene::new();
    let small = Filesystem::sized(&scene, "tmpfs", 2 << 20);
    // The device promises more than there is room for.
    let image = small.sparse("a.img", 64 << 20);
    let device = LoopDevice::new(&image);
    let mount = scene.mount(device.path()).with("-rw -b 4M").up();
    let handles: Vec<File> = (0..4).map(|i| blocks::open_rw(mount.block(i))).collect();
    let quiet = blocks::open_rw(mount.block(9));
    let content = pattern(6, 4 << 20);
    let mut told = Vec::new();
    for handle in &handles {
        told.push(handle.write_all_at(&content, 0).is_err());
    }
    for (handle, told) in handles.iter().zip(&mut told) {
        *told |= handle.sync_all().is_err();
    }
    assert!(
        told[1..].iter().all(|told| *told),
        "of four writers of 16 MiB to 2 MiB these heard of it: {told:?}"
    );
    // Whoever has written nothing has lost nothing.
    quiet.sync_all().unwrap();
    drop(handles);
    drop(quiet);
}
