//! rsync both ways between a mount and a backup, as root and as a user: P11.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine::Identity;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

const BLOCK: usize = 256 << 10;

/// Twenty blocks, and a short last one.
const SIZE: usize = 20 * BLOCK + 12_345;

/// The ways of copying that people choose, for both directions.
const WAYS: [&str; 14] = [
    "",
    "-S",
    "-W",
    "--no-whole-file",
    "-S -W",
    "-S --no-whole-file",
    "--checksum",
    "--checksum --no-whole-file -S",
    "--fsync",
    "--preallocate",
    "--preallocate -S",
    "--open-noatime",
    "-I",
    "--size-only --checksum -H --numeric-ids",
];

/// rsync as `who`; what it itemized.
fn rsync(who: Identity, options: &str, from: &Path, to: &Path) -> String {
    let rsync = tool("rsync")
        .identity(who)
        .words("-a --inplace --itemize-changes")
        .words(options);
    let outcome = rsync.args([&from.join("."), to]).run();
    assert_eq!(outcome.stderr, "", "{options}: rsync complained");
    outcome.ok()
}

/// Blocks whose content rsync has sent.
fn sent(itemized: &str) -> usize {
    itemized
        .lines()
        .filter(|line| line.starts_with(">f"))
        .count()
}

/// A mount by `who` of an image with this content.
fn mounted(
    scene: &Scene,
    who: Identity,
    name: &str,
    content: &[u8],
    options: &str,
) -> (Mounted, PathBuf) {
    let image = scene.file(format!("{name}.img"), content);
    who.own(&image);
    (
        scene
            .mount(&image)
            .with("-b 256K")
            .with(options)
            .by(who)
            .at(name)
            .up(),
        image,
    )
}

fn backup_in_all_ways(who: Identity) {
    let scene = Scene::new();
    let content = disk_like(1, SIZE);
    let (mount, _) = mounted(&scene, who, "source", &content, "");
    for (number, way) in WAYS.into_iter().enumerate() {
        let backup = scene.dir_of(&format!("backup-{number}"), who);
        assert_eq!(sent(&rsync(who, way, mount.point(), &backup)), 21, "{way}");
        assert_same(way, &blocks::concatenated(&backup), &content);
        let again = rsync(who, way, mount.point(), &backup);
        assert!(
            again.is_empty() || way == "-I",
            "{way}: at once again it has nothing to do: {again}"
        );
        // Over a backup of something else.
        blocks::split_into(&backup, &pattern(2, SIZE), BLOCK);
        rsync(who, way, mount.point(), &backup);
        assert_same(way, &blocks::concatenated(&backup), &content);
        fs::remove_dir_all(&backup).unwrap();
    }
}

#[test]
fn p11_backup_as_root() {
    backup_in_all_ways(Identity::Root);
}

#[test]
fn p11_backup_as_a_user() {
    backup_in_all_ways(Identity::User);
}

fn restore_in_all_ways(who: Identity) {
    let scene = Scene::new();
    let content = disk_like(3, SIZE);
    let backup = scene.dir_of("backup", who);
    blocks::split_into(&backup, &content, BLOCK);
    for name in blocks::names(&backup) {
        who.own(&backup.join(name));
    }
    // Over what has nothing in common with it, and over what has almost all.
    let mut alike = content.clone();
    alike[5 * BLOCK + 100_000..][..30_000].copy_from_slice(&pattern(4, 30_000));
    for old in [pattern(5, SIZE), alike] {
        for way in WAYS {
            let (mount, image) = mounted(&scene, who, "target", &old, "-rw");
            rsync(who, way, &backup, mount.point());
            assert_same(way, &fs::read(&image).unwrap(), &content);
            let again = rsync(who, way, &backup, mount.point());
            assert!(
                again.is_empty() || way == "-I",
                "{way}: at once again it has nothing to do: {again}"
            );
            mount.unmount();
            assert_same(way, &fs::read(&image).unwrap(), &content);
        }
    }
}

#[test]
fn p11_restore_as_root() {
    restore_in_all_ways(Identity::Root);
}

#[test]
fn p11_restore_as_a_user() {
    restore_in_all_ways(Identity::User);
}

#[test]
fn p11_what_a_restore_has_set_stays_set() {
    let scene = Scene::new();
    let content = disk_like(14, SIZE);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    let (mount, _) = mounted(&scene, Identity::Root, "target", &pattern(15, SIZE), "-rw");
    rsync(Identity::Root, "", &backup, mount.point());
    // The kernel remembers attributes for a second; what bmapfs itself remembers shows then.
    let restored = Instant::now();
    wait_until("the kernel has forgotten", || {
        restored.elapsed().as_secs() >= 2
    });
    let again = rsync(Identity::Root, "", &backup, mount.point());
    assert_eq!(again, "", "nothing is left to do");
}

#[test]
fn p11_restore_to_a_device() {
    let scene = Scene::new();
    let size = 20 * BLOCK + 12_288;
    let content = disk_like(6, size);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    for way in WAYS {
        let image = scene.file("target.img", &pattern(7, size));
        let device = LoopDevice::new(&image);
        let mount = scene.mount(device.path()).with("-rw -b 256K").up();
        rsync(Identity::Root, way, &backup, mount.point());
        assert_same(way, &fs::read(device.path()).unwrap(), &content);
        mount.unmount();
        assert_same(way, &fs::read(&image).unwrap(), &content);
    }
}

#[test]
fn p11_a_backup_with_odd_owners_and_modes_is_restored_without_complaint() {
    let scene = Scene::new();
    let content = disk_like(8, SIZE);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    for (index, mode) in (0..).zip([0o777, 0o400, 0o755, 0o660, 0o4755, 0o604]) {
        let path = backup.join(blocks::name(index));
        chown(&path, Some(1234), Some(5678)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(&backup, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&backup, fs::Permissions::from_mode(0o2711)).unwrap();
    let (mount, image) = mounted(&scene, Identity::Root, "target", &pattern(9, SIZE), "-rw");
    assert_eq!(sent(&rsync(Identity::Root, "", &backup, mount.point())), 21);
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    let attributes = fs::metadata(mount.block(3)).unwrap();
    assert_eq!((attributes.uid(), attributes.gid()), (1234, 5678));
    // Modes may differ for ever, but no content is sent again.
    assert_eq!(sent(&rsync(Identity::Root, "", &backup, mount.point())), 0);
    assert_eq!(
        sent(&rsync(Identity::Root, "--checksum", &backup, mount.point())),
        0
    );
    assert_eq!(
        fs::metadata(&image).unwrap().uid(),
        0,
        "the image's own owner"
    );
}

#[test]
fn only_blocks_that_changed_are_sent_with_checksum() {
    let scene = Scene::new();
    let mut content = disk_like(10, SIZE);
    let (mount, image) = mounted(&scene, Identity::Root, "source", &content, "");
    let backup = scene.dir("backup");
    rsync(Identity::Root, "", mount.point(), &backup);
    for at in [0, 7 * BLOCK + 5, 7 * BLOCK + 100_000, SIZE - 3] {
        let bytes = pattern(11, 3);
        poke(&image, at.try_into().unwrap(), &bytes);
        content[at..at + 3].copy_from_slice(&bytes);
    }
    assert_eq!(
        sent(&rsync(Identity::Root, "--checksum", mount.point(), &backup)),
        3
    );
    assert_same("the backup", &blocks::concatenated(&backup), &content);
}

#[test]
fn dated_versions_share_their_unchanged_blocks() {
    let scene = Scene::new();
    let content = disk_like(12, SIZE);
    let (mount, image) = mounted(&scene, Identity::Root, "source", &content, "");
    let (monday, tuesday) = (scene.dir("monday"), scene.dir("tuesday"));
    let from = mount.point().join(".");
    tool("rsync")
        .words("-rp --checksum")
        .args([&from, &monday])
        .ok();
    poke(&image, 3_000_000, b"changed");
    tool("rsync")
        .words("-rp --checksum --link-dest")
        .arg(&monday)
        .args([&from, &tuesday])
        .ok();
    assert_same(
        "the second version",
        &blocks::concatenated(&tuesday),
        &fs::read(&image).unwrap(),
    );
    assert_same(
        "the first version",
        &blocks::concatenated(&monday),
        &content,
    );
    let linked = blocks::names(&tuesday)
        .iter()
        .filter(|name| fs::metadata(tuesday.join(name)).unwrap().nlink() == 2)
        .count();
    assert_eq!(linked, 20);
}

#[test]
fn a_backup_from_a_writable_mount_is_the_same() {
    let scene = Scene::new();
    let content = disk_like(13, SIZE);
    let (mount, image) = mounted(&scene, Identity::Root, "source", &content, "");
    let backup = scene.dir("backup");
    rsync(Identity::Root, "", mount.point(), &backup);
    mount.unmount();
    let mount = scene.mount(&image).with("-b 256K -rw").up();
    let again = rsync(
        Identity::Root,
        "--checksum --no-times",
        mount.point(),
        &backup,
    );
    assert_eq!(again, "", "owner, mode, length and content are the same");
}
