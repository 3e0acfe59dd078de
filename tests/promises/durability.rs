//! P13: nothing that is killed in the middle leaves a byte changed that nobody wrote, and the same rsync
//! again completes the job.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::{Tool, tool};
use crate::support::mounted::Mounted;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

const BLOCK: usize = 65_536;
const BLOCKS: usize = 64;

fn restore(backup: &Path, mount: &Mounted) -> Tool {
    tool("rsync")
        .words("-a --inplace")
        .arg(backup.join("."))
        .arg(mount.point())
}

/// Every byte is what it was or what it is to become.
fn nothing_foreign(image: &[u8], old: &[u8], new: &[u8]) {
    assert_eq!(image.len(), old.len());
    // Pages first: there are many bytes.
    for at in (0..image.len()).step_by(4096) {
        let page = at..image.len().min(at + 4096);
        if image[page.clone()] != old[page.clone()] && image[page.clone()] != new[page.clone()] {
            let foreign = page
                .into_iter()
                .find(|&i| image[i] != old[i] && image[i] != new[i]);
            assert_eq!(foreign, None, "a byte that nobody wrote");
        }
    }
}

#[test]
fn p13_a_restore_killed_twenty_times_is_completed_by_rerunning_rsync() {
    let scene = Scene::new();
    let old = pattern(1, BLOCK * BLOCKS + 1000);
    let new = pattern(2, BLOCK * BLOCKS + 1000);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &new, BLOCK);
    let mut random = Random::new(3);
    for round in 0..20 {
        let image = scene.file("a.img", &old);
        let mut mount = scene.mount(&image).with("-rw -b 64K").up();
        // rsync is slowed down, and killed at a random block: no later than with a dozen still to come.
        let victim = random.index(BLOCKS - 12);
        let rsync = restore(&backup, &mount)
            .arg("--bwlimit=16M")
            .log_to(&scene.path("rsync.log"))
            .spawn();
        let raw = File::open(&image).unwrap();
        let (at, mut page) = (victim * BLOCK + random.index(BLOCK - 4096), vec![0; 4096]);
        wait_until("the restore has reached its victim", || {
            raw.read_exact_at(&mut page, at.try_into().unwrap())
                .unwrap();
            page != old[at..at + 4096]
        });
        let kill_daemon = round % 2 == 0;
        if kill_daemon {
            mount.kill();
        } else {
            rsync.signal(Signal::SIGKILL);
        }
        assert!(
            !rsync.finish().success(),
            "round {round}: rsync ended before the kill"
        );
        drop(mount);
        let after = fs::read(&image).unwrap();
        nothing_foreign(&after, &old, &new);
        assert!(
            after != old && after != new,
            "round {round}: the kill came in the middle"
        );

        let mount = scene.mount(&image).with("-rw -b 64K").up();
        restore(&backup, &mount).ok();
        assert_same("after the rerun, through the mount", &mount.image(), &new);
        mount.unmount();
        assert_same("after the rerun", &fs::read(&image).unwrap(), &new);
    }
}

#[test]
fn p13_the_same_mount_goes_on_when_rsync_was_killed() {
    let scene = Scene::new();
    let old = pattern(4, BLOCK * BLOCKS);
    let new = pattern(5, BLOCK * BLOCKS);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &new, BLOCK);
    let image = scene.file("a.img", &old);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    for victim in [0, 20, 40] {
        let rsync = restore(&backup, &mount)
            .arg("--bwlimit=16M")
            .log_to(&scene.path("rsync.log"))
            .spawn();
        wait_until("the restore has reached its victim", || {
            let at = victim * BLOCK + BLOCK / 2;
            blocks::read(&image)[at..at + 4096] != old[at..at + 4096]
        });
        rsync.signal(Signal::SIGKILL);
        assert!(!rsync.finish().success(), "rsync ended before the kill");
        nothing_foreign(&fs::read(&image).unwrap(), &old, &new);
    }
    restore(&backup, &mount).ok();
    assert_same("after the rerun", &fs::read(&image).unwrap(), &new);
}
