//! Nights when a domain is shut off, and what happens to its images on the days between.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use crate::support::command::tool;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{Rig, Synced, files};

const NOT_READ: &str = "was not written since it was scanned last";

/// A domain that was backed up while it ran, has written block 9 of vda after that, and is off.
fn off(scene: &Scene) -> Rig<'_> {
    let rig = Rig::new(scene);
    rig.sync();
    rig.write("vda", &[9]);
    rig.virsh("destroy").ok();
    rig
}

impl Rig<'_> {
    /// What is older than two seconds proves that nothing came later.
    fn wait_until_old(&self, target: &str) {
        let stat = fs::metadata(self.image(target)).unwrap();
        let last = u64::try_from(stat.ctime().max(stat.mtime())).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(last + 3);
        wait_until("its times are old", || old.elapsed().is_ok());
    }

    /// A night after which the index can tell of a quiet one.
    fn night(&self) -> Synced {
        for target in ["vda", "vdb"] {
            self.wait_until_old(target);
        }
        self.sync()
    }

    /// Expects that nothing of vda is read, or, if it has to be, what comes of that.
    fn expect_read(&self, night: &Synced, read: bool, copied: &[u64]) {
        let line = format!("{}/vda {NOT_READ}", self.name);
        assert_eq!(night.said.contains(&line), !read, "{}", night.said);
        assert_eq!(night.files, files("vda", copied));
        self.expect_backup_is_content();
    }
}

#[test]
fn p35_quiet_nights_of_a_domain_that_is_off() {
    let scene = Scene::new();
    let rig = off(&scene);
    // By the bitmap.
    let first = rig.night();
    assert!(
        first.said.contains("vda: 65536 bytes may have changed"),
        "{}",
        first.said
    );
    rig.expect_read(&first, true, &[9]);
    for _ in 0..2 {
        rig.expect_read(&rig.sync(), false, &[]);
    }
    // Exactly what is written then.
    rig.qemu_io("write -P 3 1310720 65536");
    rig.expect_read(&rig.night(), true, &[20]);
    rig.expect_read(&rig.sync(), false, &[]);
    // A scan has no more to read, and leaves it so.
    let counts: serde_json::Value =
        serde_json::from_str(&rig.bmapfs("scan").arg("--json").ok()).unwrap();
    assert_eq!(counts["sources"][0]["bytes_read"], 0, "{counts}");
    let all = rig.bmapfs("scan").words("--json -o rescan").ok();
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_ne!(all["sources"][0]["bytes_read"], 0, "{all}");
    // What it writes when it runs again.
    rig.virsh("start").ok();
    rig.write("vda", &[21]);
    let on = rig.sync();
    assert_eq!(on.files, files("vda", &[21]));
    rig.virsh("destroy").ok();
    rig.expect_read(&rig.night(), true, &[]);
}

#[test]
fn p35_a_domain_that_ran_between_two_nights_when_it_was_off() {
    let scene = Scene::new();
    let rig = off(&scene);
    rig.night();
    rig.expect_read(&rig.sync(), false, &[]);
    rig.virsh("start").ok();
    rig.write("vda", &[30, 31]);
    rig.virsh("destroy").ok();
    rig.expect_read(&rig.night(), true, &[30, 31]);
    rig.expect_read(&rig.sync(), false, &[]);
}

#[test]
fn p35_an_image_that_changed_without_qemu_while_it_was_off() {
    let scene = Scene::new();
    let rig = off(&scene);
    rig.night();
    let image = rig.image("vda");
    let times = || {
        let stat = fs::metadata(&image).unwrap();
        (stat.modified().unwrap(), stat.accessed().unwrap())
    };
    let (modified, accessed) = times();
    let keep_times = || {
        let file = File::options().write(true).open(&image).unwrap();
        let times = FileTimes::new()
            .set_modified(modified)
            .set_accessed(accessed);
        file.set_times(times).unwrap();
    };
    let old = scene.path("old.qcow2");
    tool("cp").arg("-p").args([&image, &old]).ok();
    // Written, and the time put back.
    rig.qemu_io("write -P 5 655360 65536");
    keep_times();
    assert_eq!(times().0, modified);
    rig.expect_read(&rig.night(), true, &[10]);
    // The old one put in its place, with its times: another file.
    tool("cp").arg("-p").args([&old, &scene.path("copy")]).ok();
    fs::rename(scene.path("copy"), &image).unwrap();
    assert_eq!(times().0, modified);
    rig.expect_read(&rig.night(), true, &[10]);
    rig.expect_read(&rig.sync(), false, &[]);
    // The same file, written over with as many bytes.
    rig.qemu_io("write -P 6 655360 65536");
    rig.night();
    tool("cp").arg("-p").args([&old, &image]).ok();
    rig.expect_read(&rig.night(), true, &[10]);
    // Through a mapping, which somebody has still.
    let at = fs::read(&image).unwrap();
    let pattern = vec![rig.content("vda")[9 * 65_536]; 65_536];
    let at = at
        .windows(pattern.len())
        .position(|part| part == pattern)
        .unwrap();
    let mapped = scene.path("mapped");
    let script = "import mmap, os, sys, time\n\
        file = open(sys.argv[1], 'r+b')\n\
        map = mmap.mmap(file.fileno(), 0)\n\
        file.close()\n\
        map[int(sys.argv[2])] = 255\n\
        open(sys.argv[3], 'w').close()\n\
        sys.stdin.read()\n";
    let mut writer = tool("python3")
        .args(["-c", script])
        .arg(&image)
        .arg(at.to_string())
        .arg(&mapped)
        .spawn_talking();
    wait_until("it is written", || mapped.exists());
    rig.expect_read(&rig.night(), true, &[9]);
    rig.expect_read(&rig.night(), true, &[]);
    drop(writer.child().stdin.take());
    assert!(writer.finish().success());
    rig.night();
    rig.expect_read(&rig.sync(), false, &[]);
    // A write past all caches of bmapfs's, in the middle of the run: of the next night.
    let paused = rig.paused("rsync -a --inplace --delete \"$1/\" \"$2/\"");
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[254], u64::try_from(at).unwrap())
        .unwrap();
    drop(file);
    assert!(paused.go().success());
    let next = rig.night();
    assert!(
        !next.said.contains(&format!("vda {NOT_READ}")),
        "{}",
        next.said
    );
    rig.expect_backup_is_content();
}

#[test]
fn p35_an_image_that_is_not_all_of_its_disk_is_read_each_night() {
    let scene = Scene::new();
    let rig = off(&scene);
    rig.night();
    let image = rig.image("vda");
    let below = scene.path("below.qcow2");
    fs::rename(&image, &below).unwrap();
    tool("qemu-img")
        .words("create -q -f qcow2 -F qcow2 -b")
        .args([&below, &image])
        .ok();
    rig.expect_read(&rig.night(), true, &[]);
    // What is below it is written, and nothing moves the overlay.
    tool("qemu-io")
        .words("-f qcow2 -c")
        .arg("write -P 9 0 65536")
        .arg(&below)
        .ok();
    rig.expect_read(&rig.night(), true, &[0]);
    // The same with the data beside it.
    let data = scene.path("data.raw");
    fs::remove_file(&image).unwrap();
    tool("qemu-img")
        .words("convert -f qcow2 -O qcow2 -o")
        .arg(format!("data_file={},data_file_raw=on", data.display()))
        .args([&below, &image])
        .ok();
    rig.expect_read(&rig.night(), true, &[]);
    let file = File::options().write(true).open(&data).unwrap();
    file.write_all_at(&[77], 65_536).unwrap();
    drop(file);
    rig.expect_read(&rig.night(), true, &[1]);
}
