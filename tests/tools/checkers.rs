//! fsx and fio with verification, on block files of a file and of a device.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const FSX: &str = "0.3.2";

/// fsx, built once from crates.io and kept among the build's files.
static FSX_PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fsx-{FSX}"));
    let program = root.join("bin/fsx");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let install = tool(cargo)
            .with_environment()
            .patient(10)
            .words("install --quiet --locked --version")
            .args([FSX, "fsx", "--root"])
            .arg(&root);
        // Away from the tests' own settings and lock.
        install
            .arg("--target-dir")
            .arg(root.join("build"))
            .within(Path::new("/"))
            .ok();
        fs::remove_dir_all(root.join("build")).ok();
    }
    program
});

/// Blocks of 256 KiB whose neighbours must not change.
fn guarded(scene: &Scene, source: &Path, options: &str) -> (Mounted, Vec<u8>) {
    let content = fs::read(source).unwrap();
    (
        scene.mount(source).with("-rw -b 256K").with(options).up(),
        content,
    )
}

/// What is not block 1 or 2 is as it was.
fn neighbours_are_untouched(source: &Path, before: &[u8]) {
    let after = fs::read(source).unwrap();
    assert_same(
        "the block before",
        &after[..256 << 10],
        &before[..256 << 10],
    );
    assert_same(
        "the blocks behind",
        &after[768 << 10..],
        &before[768 << 10..],
    );
}

fn fsx(scene: &Scene, mount: &Mounted, weights: &str, operations: u32) {
    let config = scene.file(
        "fsx.toml",
        format!(
            "blockmode = true\n[opsize]\nmax = 65536\nmin = 1\nalign = 1\n[weights]\nclose_open = 0\ntruncate = 0\n\
             posix_fallocate = 0\nread = 10\nwrite = 10\n{weights}\n"
        )
        .as_bytes(),
    );
    for (block, seed) in [(1, 7), (2, 8)] {
        // fsx expects a file of zeros.
        fs::write(mount.block(block), vec![0; 256 << 10]).unwrap();
        let fsx = tool(&*FSX_PROGRAM)
            .arg("-f")
            .arg(&config)
            .arg("-P")
            .arg(scene.dir("artifacts"));
        fsx.args(["-N", &operations.to_string(), "-S", &seed.to_string()])
            .arg(mount.block(block))
            .ok();
    }
}

const ALL: &str = "mapread = 5\nmapwrite = 5\ninvalidate = 1\nfsync = 1\nfdatasync = 1\npunch_hole = 4\nsendfile = 3\n\
                   posix_fadvise = 1\ncopy_file_range = 3";

#[test]
fn fsx_on_block_files_of_a_file() {
    let scene = Scene::new();
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let filesystem = Filesystem::new(&scene, kind);
        let image = filesystem.path("a.img");
        fs::write(&image, pattern(1, 1 << 20)).unwrap();
        let (mount, before) = guarded(&scene, &image, "");
        fsx(&scene, &mount, ALL, 1500);
        mount.unmount();
        neighbours_are_untouched(&image, &before);
    }
}

#[test]
fn fsx_on_block_files_of_a_device() {
    let scene = Scene::new();
    for options in ["", "--sector-size 4096"] {
        let device = LoopDevice::with(options, &scene.file("a.img", &pattern(2, 1 << 20)));
        let (mount, before) = guarded(&scene, device.path(), "");
        fsx(&scene, &mount, ALL, 1500);
        mount.unmount();
        neighbours_are_untouched(device.path(), &before);
    }
}

#[test]
fn fsx_can_fail() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 1 << 20));
    let (mount, _) = guarded(&scene, &image, "");
    fs::write(mount.block(1), vec![0; 256 << 10]).unwrap();
    let config = scene.file("fsx.toml", b"blockmode = true\n[weights]\nclose_open = 0\ntruncate = 0\nposix_fallocate = 0\nread = 1\nwrite = 5\n");
    let fsx = tool(&*FSX_PROGRAM)
        .arg("-f")
        .arg(&config)
        .arg("-P")
        .arg(scene.dir("artifacts"));
    let fsx = fsx
        .words("-N 100000000 -S 1")
        .arg(mount.block(1))
        .log_to(&scene.path("fsx.log"))
        .spawn();
    // Somebody else writes to the image: what fsx reads is not what it wrote.
    let mut running = fsx;
    crate::support::wait_until("fsx has noticed", || {
        crate::support::scene::poke(&image, 262_144, &pattern(4, 262_144));
        running.child().try_wait().unwrap().is_some()
    });
    assert!(!running.finish().success());
}

fn fio(mount: &Mounted, job: &str) {
    let files: Vec<String> = [1, 2]
        .into_iter()
        .map(|index| mount.block(index).display().to_string())
        .collect();
    tool("fio")
        .words("--name=verify --size=512k --overwrite=1 --fallocate=none --verify_fatal=1 --verify_dump=0")
        .arg(format!("--filename={}", files.join(":")))
        .words(job)
        .within(Path::new("/tmp"))
        .ok();
}

#[test]
fn fio_verifies_what_it_wrote() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(5, 1 << 20));
    let device = LoopDevice::new(&scene.file("b.img", &pattern(6, 1 << 20)));
    for source in [image.as_path(), device.path()] {
        let (mount, before) = guarded(&scene, source, "");
        for job in [
            "--rw=write --bs=4k --verify=crc32c --ioengine=psync",
            "--rw=randwrite --bs=4k --verify=crc32c --ioengine=psync --fsync=16 --loops=3",
            "--rw=randwrite --bsrange=512-64k --bs_unaligned --verify=md5 --ioengine=psync --loops=3",
            "--rw=randrw --bs=8k --verify=xxhash --ioengine=libaio --iodepth=16 --direct=1 --loops=3",
            "--rw=randwrite --bs=16k --verify=sha256 --ioengine=mmap --loops=3",
            "--rw=randwrite --bs=4k --verify=pattern --verify_pattern=0xdeadbeef --ioengine=pvsync2 --direct=1",
        ] {
            fio(&mount, job);
        }
        mount.unmount();
        neighbours_are_untouched(source, &before);
    }
}
