//! P11, P15 and P17: owners, modes and times, and what the mount says about its space.

use std::fs::{self, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::statvfs;

use crate::support::blocks::refused;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine::Identity;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn set_time(path: &Path, time: SystemTime) -> std::io::Result<()> {
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    fs::File::open(path)?.set_times(times)
}

#[test]
fn p11_owner_and_time_can_be_set_on_blocks_and_on_the_root_and_show() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 20_000);
    let mount = scene.mount(&image).with("-rw -b 4K").up();
    let (uid, gid) = Identity::User.ids().unwrap();
    for path in [mount.block(3), mount.point().to_owned()] {
        chown(&path, Some(uid), Some(gid)).unwrap();
        let attributes = fs::metadata(&path).unwrap();
        assert_eq!(
            (attributes.uid(), attributes.gid()),
            (uid, gid),
            "{}",
            path.display()
        );
        for seconds in [0, 1, 951_782_400, 1_700_000_000, 4_102_444_800] {
            set_time(&path, UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
            let attributes = fs::metadata(&path).unwrap();
            assert_eq!(
                attributes.mtime(),
                i64::try_from(seconds).unwrap(),
                "{}",
                path.display()
            );
        }
        // Before 1970.
        set_time(&path, UNIX_EPOCH - Duration::from_secs(86_400)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().mtime(),
            -86_400,
            "{}",
            path.display()
        );
    }
    // Only what was told has changed.
    assert_eq!(fs::metadata(mount.block(2)).unwrap().uid(), 0);
    assert_eq!(
        fs::metadata(&image).unwrap().uid(),
        0,
        "the image's own owner"
    );
}

#[test]
fn p11_a_mode_gets_no_bits_that_the_source_does_not_have() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 20_000);
    for source_mode in [0o600, 0o640, 0o644, 0o666, 0o755, 0o400, 0o4777] {
        set_mode(&image, source_mode).unwrap();
        let mount = scene.mount(&image).with("-rw -b 4K").up();
        let most = (source_mode & 0o666) | 0o600;
        for asked in [0o777, 0o666, 0o644, 0o600, 0o640, 0o4755] {
            set_mode(&mount.block(1), asked).unwrap();
            let now = mode(&mount.block(1));
            assert_eq!(
                now & !most,
                0,
                "source {source_mode:o}, asked {asked:o}, shown {now:o}"
            );
            assert_eq!(
                now & 0o666,
                asked & most & 0o666,
                "source {source_mode:o}, asked {asked:o}, shown {now:o}"
            );
        }
        assert_eq!(mode(&image), source_mode, "the image's own mode");
        set_mode(mount.point(), 0o700).unwrap();
        assert_eq!(mode(mount.point()), 0o700, "the root");
        mount.unmount();
    }
}

#[test]
fn p11_nothing_can_be_set_on_a_read_only_mount() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 20_000);
    let mount = scene.mount(&image).up();
    for path in [mount.block(0), mount.point().to_owned()] {
        let before = fs::metadata(&path).unwrap();
        refused("chmod", set_mode(&path, 0o600), libc::EROFS);
        refused("chown", chown(&path, Some(1), Some(1)), libc::EROFS);
        refused("utimens", set_time(&path, UNIX_EPOCH), libc::EROFS);
        let after = fs::metadata(&path).unwrap();
        assert_eq!(
            (before.mode(), before.uid(), before.mtime()),
            (after.mode(), after.uid(), after.mtime())
        );
    }
}

#[test]
fn p15_owner_and_mode_are_the_sources_read_only_and_writable_alike() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let (uid, gid) = Identity::User.ids().unwrap();
    chown(&image, Some(uid), Some(gid)).unwrap();
    let device = LoopDevice::new(&scene.sparse("b.img", 16_384));
    for (source_mode, shown) in [
        (0o600, 0o600),
        (0o644, 0o644),
        (0o660, 0o660),
        (0o755, 0o644),
        (0o444, 0o644),
        (0o400, 0o600),
    ] {
        set_mode(&image, source_mode).unwrap();
        for options in ["-b 4K", "-b 4K -rw"] {
            let mount = scene.mount(&image).with(options).up();
            let attributes = fs::metadata(mount.block(0)).unwrap();
            assert!(attributes.is_file());
            assert_eq!(
                (attributes.uid(), attributes.gid()),
                (uid, gid),
                "{options}"
            );
            assert_eq!(
                mode(&mount.block(0)),
                shown,
                "{options}: source {source_mode:o}"
            );
            assert!(fs::metadata(mount.point()).unwrap().is_dir());
            mount.unmount();
        }
    }
    let owner = fs::metadata(device.path()).unwrap();
    let mount = scene.mount(device.path()).up();
    let attributes = fs::metadata(mount.block(0)).unwrap();
    assert_eq!(
        (attributes.uid(), attributes.gid()),
        (owner.uid(), owner.gid())
    );
    assert_eq!(attributes.mode() & 0o7777, (owner.mode() & 0o666) | 0o200);
}

#[test]
fn p15_owner_and_mode_can_be_told() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    set_mode(&image, 0o666).unwrap();
    for options in [
        "--uid 1234 --gid 567 --umask 027",
        "-o uid=1234,gid=567,umask=027",
    ] {
        let mount = scene.mount(&image).with(options).up();
        let attributes = fs::metadata(mount.block(0)).unwrap();
        assert_eq!(
            (attributes.uid(), attributes.gid()),
            (1234, 567),
            "{options}"
        );
        assert_eq!(attributes.mode() & 0o7777, 0o640, "{options}");
        mount.unmount();
    }
    // The owner keeps reading and writing.
    let mount = scene.mount(&image).with("--umask 0777").up();
    assert_eq!(mode(&mount.block(0)), 0o600);
}

#[test]
fn p15_in_a_users_own_mount_the_owner_is_that_user() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 10_000));
    // Readable for the user, but root's.
    set_mode(&image, 0o644).unwrap();
    let mount = scene.mount(&image).with("-b 4K").by(Identity::User).up();
    let stat = tool("stat")
        .identity(Identity::User)
        .words("-c %u:%a")
        .arg(mount.block(0))
        .ok();
    assert_eq!(
        stat.trim(),
        format!("{}:644", Identity::User.ids().unwrap().0)
    );
}

#[test]
fn p15_others_are_denied_without_allow_other() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(2, 10_000));
    set_mode(&image, 0o666).unwrap();
    for (owner, other) in [
        (Identity::Root, Identity::Nobody),
        (Identity::Root, Identity::User),
        (Identity::User, Identity::Nobody),
        (Identity::User, Identity::Root),
    ] {
        let mount = scene
            .mount(&image)
            .with("-rw")
            .at(&format!("{owner:?}-{other:?}"))
            .by(owner)
            .up();
        let said = tool("cat").identity(other).arg(mount.block(0)).fails(1);
        assert!(
            said.contains("Permission denied"),
            "{other:?} reads what {owner:?} mounted: {said}"
        );
        tool("cat").identity(owner).arg(mount.block(0)).ok();
        mount.unmount();
    }
}

#[test]
fn p15_with_allow_other_the_mode_decides() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 10_000));
    for (source_mode, options, may_read, may_write) in [
        (0o600, "--allow-other", false, false),
        (0o644, "--allow-other", true, false),
        (0o666, "--allow-other", true, true),
        (0o666, "-o allow_other", true, true),
    ] {
        set_mode(&image, source_mode).unwrap();
        let mount = scene.mount(&image).with("-rw").with(options).up();
        let nobody = |command: &str| {
            let block = mount.block(0);
            tool("dd")
                .identity(Identity::Nobody)
                .arg(command.replace("BLOCK", &block.display().to_string()))
                .words("bs=512 count=1 conv=notrunc")
        };
        let read = nobody("if=BLOCK").run();
        let write = nobody("of=BLOCK").input(&[0; 512]).run();
        assert_eq!(
            read.code() == 0,
            may_read,
            "mode {source_mode:o}: {read:#?}"
        );
        assert_eq!(
            write.code() == 0,
            may_write,
            "mode {source_mode:o}: {write:#?}"
        );
        assert!(
            tool("chmod")
                .identity(Identity::Nobody)
                .arg("666")
                .arg(mount.block(0))
                .run()
                .code()
                != 0
        );
        mount.unmount();
    }
}

#[test]
fn p17_statfs_shows_the_images_size_and_nothing_free() {
    let scene = Scene::new();
    for size in [0, 4096, 10_000_000, 5 << 40] {
        let image = scene.sparse("a.img", size);
        let mount = scene.mount(&image).up();
        let space = statvfs(mount.point()).unwrap();
        let fragment = space.fragment_size();
        assert_eq!(
            space.blocks(),
            size.div_ceil(fragment),
            "{size} bytes in fragments of {fragment}"
        );
        assert_eq!((space.blocks_free(), space.blocks_available()), (0, 0));
        assert_eq!(space.files_free(), 0);
        assert!(space.name_max() >= 8);
        let df = tool("df")
            .words("--block-size=1 --output=used,avail")
            .arg(mount.point())
            .ok();
        let shown: Vec<u64> = df
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!(shown, [size.next_multiple_of(fragment), 0]);
        mount.unmount();
    }
}
