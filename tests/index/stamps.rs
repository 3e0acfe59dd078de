//! P20: what stamps look like, and when they change.

use std::os::unix::fs::FileExt;

use crate::support::blocks::open_rw;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::disk_like;
use crate::support::scene::Scene;

use super::rig::{Rig, change, now, stamps_at};

#[test]
fn p20_first_stamps_are_one_second_that_has_ended_and_the_last_is_two_later() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 20 * 65_536 + 1));
    let rig = Rig::new(&scene, &image);
    let before = now();
    let stamps = rig.stamps();
    assert_eq!(stamps.len(), 21);
    let first = stamps[&0];
    assert!(first > before, "the second began after the start");
    assert!(first < now(), "and has ended");
    for (block, stamp) in &stamps {
        let expected = if *block == 20 { first + 2 } else { first };
        assert_eq!(*stamp, expected, "block {block}");
    }
}

#[test]
fn p20_new_stamps_are_two_seconds_later_and_the_last_block_of_a_scan_two_more() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(2, 20 * 65_536));
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(2, 20 * 65_536)));
    for (name, source) in [("file", image.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}.index")));
        let mut before = rig.stamps();
        for round in 0..5_u8 {
            for block in [2, 5, 9] {
                rig.change(block, &[round % 2 + 1; 10]);
            }
            let started = now();
            let after = rig.stamps();
            for (block, stamp) in &after {
                if [2, 5, 9].contains(block) {
                    assert!(*stamp >= before[block] + 2, "block {block} of {name}");
                    // It is over when the scan begins.
                    assert!(*stamp >= started - 4, "block {block} of {name}");
                } else {
                    assert_eq!(*stamp, before[block], "block {block} of {name}");
                }
            }
            let newest = after.values().max().unwrap();
            assert_eq!(after[&9], *newest);
            assert!(after[&9] >= after[&5] + 2, "the last block of the scan");
            before = after;
        }
    }
}

#[test]
fn p20_a_listing_shows_mtime_and_ctime_alike_and_the_root_the_newest() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(3, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    let text = rig
        .run("")
        .args(["sh", "-c", "cd \"$1\" && stat -c '%Y %Z' . *", "sh", "{}"])
        .ok();
    let mut times: Vec<i64> = Vec::new();
    for line in text.lines() {
        let (mtime, ctime) = line.split_once(' ').unwrap();
        assert_eq!(mtime, ctime);
        times.push(mtime.parse().unwrap());
    }
    assert_eq!(times[0], *times[1..].iter().max().unwrap());
}

#[test]
fn p20_what_a_client_set_is_kept_over_remounts_and_is_the_base_of_the_next_stamp() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(4, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    let before = rig.stamps();
    let mount = rig.mount("-rw").up();
    // Before and after the present, and at the very beginning.
    let far = now() + 5_000_000;
    for (block, time) in [(1, 1_000_000_000), (2, far), (3, 0), (4, 1_000_000_001)] {
        tool("touch")
            .arg("-d")
            .arg(format!("@{time}.75"))
            .arg(mount.block(block))
            .ok();
    }
    mount.unmount();
    for (block, time) in [(1, 1_000_000_000), (2, far), (3, 0), (4, 1_000_000_001)] {
        assert_eq!(rig.stamps()[&block], time, "block {block}");
        assert_eq!(rig.counts("")["unchanged"], 10);
    }
    for block in [1, 2, 3] {
        rig.change(block, b"changed");
    }
    let after = rig.stamps();
    assert!(after[&1] >= before[&1] + 2, "never back to what had been");
    assert!(after[&2] >= far + 2);
    assert!(after[&3] >= before[&3] + 2);
    assert_eq!(after[&4], 1_000_000_001);
    assert_eq!(after[&5], before[&5]);
}

#[test]
fn p20_written_blocks_get_one_new_stamp_however_often_they_are_written() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(5, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    let before = rig.stamps();
    let mount = rig.mount("-rw").up();
    let file = open_rw(mount.block(3));
    for piece in 0..64 {
        file.write_all_at(&[7; 1024], piece * 1024).unwrap();
    }
    drop(file);
    let written = stamps_at(mount.point());
    assert!(written[&3] >= before[&3] + 2);
    assert!(
        written[&3] <= now() + 4,
        "1 KiB writes push nothing into the future"
    );
    // Written again after it was shown.
    open_rw(mount.block(3)).write_all_at(&[8; 1024], 0).unwrap();
    let again = stamps_at(mount.point());
    assert!(again[&3] >= written[&3] + 2);
    for block in (0..10).filter(|block| *block != 3) {
        assert_eq!(again[&block], before[&block], "block {block}");
    }
    mount.unmount();
    assert_eq!(
        rig.counts("-o rescan")["unchanged"],
        10,
        "it was hashed at its close"
    );
    assert_eq!(rig.stamps(), again, "what was shown stays");
}

#[test]
fn p20_a_block_that_appears_is_new_and_the_grown_last_one_changed() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(6, 5 * 65_536 + 100));
    let rig = Rig::new(&scene, &image);
    let before = rig.stamps();
    change(&image, 5 * 65_536 + 100, &disk_like(7, 3 * 65_536));
    let counts = rig.counts("--dry-run");
    assert_eq!((counts["new"], counts["changed"]), (3, 1));
    let after = rig.stamps();
    assert_eq!(after.len(), 9);
    for block in 0..5 {
        assert_eq!(after[&block], before[&block], "block {block}");
    }
    assert!(after[&5] >= before[&5] + 2);
}

/// As after a night with a clock that was decades ahead.
#[test]
fn p20_times_far_ahead_stay_and_are_told_of() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(3, 4 * 65_536));
    let rig = Rig::new(&scene, &image);
    let mount = rig.mount("-rw").up();
    tool("touch")
        .args(["-d", "2055-01-01"])
        .arg(mount.block(2))
        .ok();
    mount.unmount();
    let before = rig.stamps();
    rig.change(2, b"changed");
    let outcome = rig.scan("-q").run();
    let warning = format!("{0} and {0}.lock", rig.index.display());
    for part in ["days ahead of the clock", &warning, "--checksum"] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
    }
    let after = rig.stamps();
    assert_eq!(
        after[&2],
        before[&2] + 4,
        "it follows, as the last of its scan"
    );
    assert_eq!(after[&1], before[&1]);
    // An index that is lost does not help: the lock's file knows what was given out.
    std::fs::remove_file(&rig.index).unwrap();
    let outcome = rig.scan("").run();
    assert!(
        outcome.stderr.contains("days ahead"),
        "all of them: {outcome:?}"
    );
    std::fs::remove_file(&rig.index).unwrap();
    std::fs::remove_file(rig.index.with_extension("index.lock")).unwrap();
    let outcome = rig.scan("").run();
    assert!(!outcome.stderr.contains("ahead"), "{outcome:?}");
    assert!(rig.stamps().values().all(|stamp| *stamp <= now() + 2));
}
