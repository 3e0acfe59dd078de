//! P24: what was served counts, not only what was scanned.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::Mounted;
use crate::support::pattern::{Random, assert_same, disk_like, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{Rig, change, now, stamps_at, transferred};

const A: &[u8] = b"the content that comes back";
const B: &[u8] = b"the content of meanwhile---";

fn on_each_kind_of_source(test: impl Fn(&Rig<'_>)) {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 12 * 65_536));
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(1, 12 * 65_536)));
    for (name, source) in [("file", image.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}.index")));
        rig.change(3, A);
        rig.change(4, A);
        test(&rig);
    }
}

/// Runs a shell script under `bmapfs run`, in the mount, with functions that write to blocks 3 and 4.
fn run_script(rig: &Rig<'_>, script: &str) {
    let functions = "put() { printf %s \"$2\" | dd of=\"$0\" bs=1 seek=$(($1 * 65536 + 1000)) \
                     conv=notrunc,fsync status=none; }; A='the content that comes back'; \
                     B='the content of meanwhile---'; cd \"$1\"; ";
    rig.run("")
        .args(["sh", "-ec", &format!("{functions}{script}")])
        .arg(&rig.source)
        .arg("{}")
        .ok();
}

#[test]
fn p24_what_was_read_while_it_was_otherwise_gets_a_new_stamp() {
    on_each_kind_of_source(|rig| {
        let before = rig.stamps();
        // Block 3 is copied as B; block 4 is B for a while, too, but nobody reads it then.
        run_script(
            rig,
            "put 3 \"$B\"; put 4 \"$B\"; cat 00000003; put 3 \"$A\"; put 4 \"$A\"",
        );
        let counts = rig.counts("--dry-run");
        assert_eq!(counts["unsettled"], 1, "{counts:?}");
        assert_eq!(counts["changed"], 0, "{counts:?}");
        let after = rig.stamps();
        assert!(after[&3] >= before[&3] + 2);
        for block in (0..12).filter(|block| *block != 3) {
            assert_eq!(after[&block], before[&block], "block {block}");
        }
        assert_eq!(rig.stamps(), after);
    });
}

#[test]
fn p24_what_was_served_whole_and_as_scanned_stays() {
    on_each_kind_of_source(|rig| {
        let before = rig.stamps();
        run_script(
            rig,
            "put 3 \"$B\"; cat 00000000 00000005; head -c 1 00000006; put 3 \"$A\"; cat 00000003",
        );
        let after = rig.stamps();
        // A part of a block proves nothing about the rest of it.
        assert!(after[&6] >= before[&6] + 2);
        for block in (0..12).filter(|block| *block != 6) {
            assert_eq!(after[&block], before[&block], "block {block}");
        }
    });
}

#[test]
fn p24_a_read_out_of_order_or_by_two_handles_proves_nothing() {
    on_each_kind_of_source(|rig| {
        let before = rig.stamps();
        run_script(
            rig,
            "put 3 \"$B\"; put 3 \"$A\"; dd if=00000001 bs=4096 skip=15; \
             dd if=00000002 bs=32768 count=1; dd if=00000002 bs=32768 skip=1; cat 00000005",
        );
        let after = rig.stamps();
        for block in 0..12 {
            let stays = ![1, 2].contains(&block);
            assert_eq!(after[&block] == before[&block], stays, "block {block}");
        }
    });
}

#[test]
fn p24_rsync_is_never_misled_by_a_b_a() {
    on_each_kind_of_source(|rig| {
        let backup = rig.index.with_extension("backup");
        rig.sync_well(&backup);
        let script = "put 3 \"$B\"; put 4 \"$B\"; touch 2>/dev/null -d @1 00000003 || :; \
                      rsync -a --inplace --ignore-times ./ \"$2\"; put 3 \"$A\"";
        let script = script.replace("$2", backup.to_str().unwrap());
        for _ in 0..2 {
            run_script(rig, &script);
            // The backup has B as block 3 with the stamp of A.
            let moved = rig.sync_well(&backup);
            assert!(moved.contains(&3), "{moved:?}");
            rig.change(4, A);
            assert_eq!(rig.sync_well(&backup), [4]);
        }
    });
}

#[test]
fn p24_a_mount_that_is_still_there_shows_new_times_until_sighup() {
    on_each_kind_of_source(|rig| {
        rig.scan("").ok();
        let mount = rig.mount("").up_in_foreground();
        let before = stamps_at(mount.point());
        // A device could have been written from below: only the listing after a scan shows what that has found.
        let is_device = rig.source.starts_with("/dev");
        if !is_device {
            assert_eq!(stamps_at(mount.point()), before, "nothing is written");
        }
        for round in 0..2_u8 {
            let started = now();
            rig.change(3, &[round; 8]);
            wait_until("all blocks show new times", || {
                let shown = stamps_at(mount.point());
                shown
                    .iter()
                    .all(|(block, stamp)| *stamp >= before[block] + 2)
            });
            assert!(stamps_at(mount.point())[&0] >= started);
            mount.signal(Signal::SIGHUP);
            wait_until("what did not change has its old time back", || {
                let shown = stamps_at(mount.point());
                shown
                    .iter()
                    .all(|(block, stamp)| *block == 3 || *stamp == before[block])
            });
            assert!(stamps_at(mount.point())[&3] >= before[&3] + 2);
        }
        let log = mount.unmount_for_log();
        assert_eq!(
            log.matches("until SIGHUP").count(),
            if is_device { 3 } else { 2 },
            "once each time: {log}"
        );
        let after = rig.stamps();
        assert!(
            after
                .iter()
                .all(|(block, stamp)| *block == 3 || *stamp == before[block])
        );
    });
}

fn rsync(mount: &Mounted, backup: &Path) -> Vec<u64> {
    transferred(
        &tool("rsync")
            .words("-a --inplace --itemize-changes")
            .arg(mount.point().join("."))
            .arg(backup)
            .ok(),
    )
}

#[test]
fn p24_rsync_skips_nothing_of_a_long_lived_mount() {
    on_each_kind_of_source(|rig| {
        let backup = rig.index.with_extension("backup");
        let mount = rig.mount("").up();
        rsync(&mount, &backup);
        let mut random = Random::new(1);
        for round in 0..12_u64 {
            change(
                &rig.source,
                random.below(12 * 65_536 - 50),
                &pattern(round % 2, 50),
            );
            if random.below(3) == 0 {
                mount.signal(Signal::SIGHUP);
            }
            rsync(&mount, &backup);
            rig.same(&backup);
        }
        mount.unmount();
        rig.sync_well(&backup);
        // And of one that comes and goes between writes.
        for round in 0..4 {
            change(
                &rig.source,
                random.below(12 * 65_536 - 50),
                &pattern(round % 2, 50),
            );
            let mount = rig.mount("").up();
            rsync(&mount, &backup);
            mount.unmount();
            rig.same(&backup);
        }
        assert_eq!(rig.sync_well(&backup), [0; 0]);
    });
}

#[test]
fn p24_does_not_apply_to_an_exclusive_mount_but_to_one_that_was_forced() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(2, 12 * 65_536));
    change(&image, 3 * 65_536 + 1000, A);
    let rig = Rig::new(&scene, &image);
    let before = rig.stamps();
    let read_half = |options: &str| {
        let mount = rig.mount(options).up();
        change(&image, 3 * 65_536 + 1000, B);
        let copy = blocks::read(&mount.block(3));
        change(&image, 3 * 65_536 + 1000, A);
        assert_same("served", &copy[1000..1000 + B.len()], B);
        mount.unmount();
    };
    read_half("-rw -o force");
    let after = rig.stamps();
    assert!(after[&3] >= before[&3] + 2, "forced");
    let mount = rig.mount("-rw").up();
    tool("head").words("-c 9").arg(mount.block(5)).ok();
    mount.unmount();
    assert_eq!(rig.stamps()[&5], after[&5], "nobody else writes there");
    assert_eq!(fs::metadata(&image).unwrap().len(), 12 * 65_536);
}

#[test]
fn p24_a_staged_file_that_became_a_block_and_stays_open_counts_too() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(2, 12 * 65_536));
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    let mount = rig.mount("-rw -o force").up();
    let stamp = |block| fs::metadata(mount.block(block)).unwrap().mtime();
    let mut content = pattern(3, 65_536);
    content[1000..1000 + A.len()].copy_from_slice(A);
    let [opened, _other] = [3, 4].map(|block| {
        let staged = mount.point().join(format!(".{block:08}.Ab12Cd"));
        fs::write(&staged, &content).unwrap();
        let opened = File::open(&staged).unwrap();
        fs::rename(&staged, mount.block(block)).unwrap();
        opened
    });
    let before = [3, 4].map(stamp);
    // Block 4 is otherwise for a while, too, but nobody reads it then.
    let put = |bytes| [3, 4].map(|block| rig.change(block, bytes));
    put(B);
    let mut served = vec![0; B.len()];
    opened.read_exact_at(&mut served, 1000).unwrap();
    assert_same("served", &served, B);
    put(A);
    mount.signal(Signal::SIGHUP);
    wait_until("what was served counts", || stamp(3) >= before[0] + 2);
    assert_eq!(stamp(4), before[1]);
}
