//! P21: whatever happens to the index, no changed block is skipped and the mount works.

use std::fs;
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change, now, synced};

const BLOCKS: u64 = 12;
const ALL: [u64; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// What block 3 holds in the course of the history, and block 7 at its end.
const A: &[u8] = b"the content that comes back";
const B: &[u8] = b"the content of meanwhile---";

fn image(scene: &Scene) -> std::path::PathBuf {
    let image = scene.file("a.img", &disk_like(1, 12 * 65_536));
    change(&image, 3 * BLOCK + 1000, A);
    image
}

/// Block 3 goes from A to B and back to A, each time with a sync, and the index suffers `damage` before the last;
/// it is told where a copy of the index is that was made when block 3 was A first. Gives what the last sync said.
fn nothing_is_skipped_after(damage: impl Fn(&Rig<'_>, &Path)) -> String {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let copy = scene.path("copy.index");
    fs::copy(&rig.index, &copy).unwrap();
    rig.change(3, B);
    assert_eq!(rig.sync_well(&backup), [3]);
    damage(&rig, &copy);
    rig.change(3, A);
    rig.change(7, B);
    let last = rig.sync(&backup);
    rig.same(&backup);
    assert!(last.blocks.contains(&3) && last.blocks.contains(&7));
    assert_eq!(rig.sync_well(&backup), [0; 0], "and it is of use again");
    last.said
}

/// The warning, and that it is one line.
fn warned(said: &str, about: &str) {
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("warning"))
        .collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains(about),
        "expected one line with {about:?}: {said}"
    );
    assert!(warnings[0].contains("a.index"), "which index: {said}");
}

#[test]
fn p21_lost() {
    nothing_is_skipped_after(|rig, _| fs::remove_file(&rig.index).unwrap());
}

#[test]
fn p21_lost_with_its_lock() {
    nothing_is_skipped_after(|rig, _| {
        fs::remove_file(&rig.index).unwrap();
        let mut lock = rig.index.clone().into_os_string();
        lock.push(".lock");
        fs::remove_file(lock).unwrap();
    });
}

#[test]
fn p21_empty() {
    let said = nothing_is_skipped_after(|rig, _| fs::write(&rig.index, b"").unwrap());
    warned(&said, "every block gets a new time");
}

#[test]
fn p21_something_else() {
    let said = nothing_is_skipped_after(|rig, _| fs::write(&rig.index, pattern(1, 900)).unwrap());
    warned(&said, "every block gets a new time");
}

#[test]
fn p21_truncated_by_a_byte() {
    let said = nothing_is_skipped_after(|rig, _| {
        let mut bytes = fs::read(&rig.index).unwrap();
        bytes.pop();
        fs::write(&rig.index, bytes).unwrap();
    });
    warned(&said, "every block gets a new time");
}

#[test]
fn p21_a_bit_flipped() {
    let said = nothing_is_skipped_after(|rig, _| {
        let mut bytes = fs::read(&rig.index).unwrap();
        bytes[150] ^= 1;
        fs::write(&rig.index, bytes).unwrap();
    });
    warned(&said, "every block gets a new time");
}

#[test]
fn p21_used_at_another_block_size_in_between() {
    let mut saw = String::new();
    let said = nothing_is_skipped_after(|rig, _| {
        let index = format!("--index={}", rig.index.display());
        let run = ["run", "-b", "128K", &index];
        let program = std::env!("CARGO_BIN_EXE_bmapfs");
        let outcome = tool(program)
            .args(run)
            .arg(&rig.source)
            .words("-- true")
            .run();
        assert_eq!(outcome.code(), 0);
        warned(&outcome.stderr, "65536");
    });
    saw.push_str(&said);
    warned(&saw, "131072");
}

#[test]
fn p21_an_older_copy_put_back() {
    for put_back in ["cp", "mv"] {
        let said = nothing_is_skipped_after(|rig, copy| {
            tool(put_back).args([copy, &rig.index]).ok();
        });
        warned(&said, "copy");
    }
}

#[test]
fn p21_replaced_by_a_copy_of_itself() {
    let said = nothing_is_skipped_after(|rig, copy| {
        fs::copy(&rig.index, copy).unwrap();
        fs::rename(copy, &rig.index).unwrap();
    });
    warned(&said, "copy");
}

#[test]
fn p21_every_cut_and_many_flips_leave_no_block_its_stamp() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    rig.stamps();
    let good = fs::read(&rig.index).unwrap();
    let all_new = |bytes: &[u8], what: &str| {
        fs::write(&rig.index, bytes).unwrap();
        let counts = rig.counts("-q --dry-run");
        // As a whole and unharmed copy they would be known, and unsettled.
        assert_eq!(counts["new"], BLOCKS, "{what}");
    };
    for len in (0..good.len()).step_by(23) {
        all_new(&good[..len], &format!("cut to {len}"));
    }
    for at in (0..good.len()).step_by(13) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        all_new(&bytes, &format!("flipped at {at}"));
    }
    let mut longer = good.clone();
    longer.push(0);
    all_new(&longer, "with a byte more");
    fs::write(&rig.index, &good).unwrap();
    assert_eq!(rig.counts("-q --dry-run")["new"], 0, "the harness");
}

/// A mount that was synced from is killed.
fn killed_while_mounted(rig: &Rig<'_>, backup: &Path) {
    let mut mount = rig.mount("").up();
    tool("rsync")
        .words("-a --inplace")
        .arg(mount.point().join("."))
        .arg(backup)
        .ok();
    rig.same(backup);
    mount.kill();
    mount.detach();
}

#[test]
fn p21_left_open_and_not_written_since() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.wait_until_old();
    rig.scan("").ok();
    killed_while_mounted(&rig, &backup);
    let after = rig.sync(&backup);
    assert_eq!(after.blocks, [0; 0], "proven unwritten; {}", after.said);
    assert!(!after.said.contains("warning"), "{}", after.said);
}

#[test]
fn p21_left_open_and_written_since() {
    let scene = Scene::new();
    let file = image(&scene);
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(2, 12 * 65_536)));
    change(device.path(), 3 * BLOCK + 1000, A);
    for (name, source) in [("file", file.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}-a.index")));
        let backup = scene.dir(&format!("backup-{name}"));
        rig.sync_well(&backup);
        killed_while_mounted(&rig, &backup);
        let stamps = blocks::names(&backup).len();
        assert_eq!(stamps as u64, BLOCKS);
        rig.change(3, B);
        let after = rig.sync(&backup);
        rig.same(&backup);
        assert_eq!(after.blocks, ALL, "{name}: nothing is settled");
        warned(&after.said, "was killed");
        // Each stamp lies above all that the killed daemon could have shown.
        assert!(rig.stamps()[&0] > now(), "{name}: above the ceiling");
        rig.change(3, A);
        assert_eq!(rig.sync_well(&backup), [3], "{name}");
    }
}

#[test]
fn p21_written_and_put_back_while_a_killed_daemon_was_copied_from() {
    let scene = Scene::new();
    let file = image(&scene);
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(2, 12 * 65_536)));
    change(device.path(), 3 * BLOCK + 1000, A);
    for (name, source) in [("file", file.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}-a.index")));
        let backup = scene.dir(&format!("backup-{name}"));
        let mut mount = rig.mount("").up();
        // The backup gets B with the stamp of A.
        let stamp = fs::metadata(mount.block(3)).unwrap().modified().unwrap();
        rig.change(3, B);
        let copy = backup.join(blocks::name(3));
        fs::write(&copy, blocks::read(&mount.block(3))).unwrap();
        fs::File::open(&copy).unwrap().set_modified(stamp).unwrap();
        rig.change(3, A);
        mount.kill();
        mount.detach();
        rig.sync_well(&backup);
    }
}

#[test]
fn p21_swapped_between_images_that_were_scanned_in_the_same_second() {
    let scene = Scene::new();
    let (one, two) = (disk_like(1, 12 * 65_536), disk_like(2, 12 * 65_536));
    let rig = |name: &str, content: &[u8]| {
        let file = scene.file(format!("{name}.img"), content);
        Rig::new(&scene, &file).with_index(scene.path(format!("{name}.index")))
    };
    let (a, b) = (rig("a", &one), rig("b", &two));
    let backups = [scene.dir("backup-a"), scene.dir("backup-b")];
    let at = now();
    wait_until("a second begins", || now() > at);
    std::thread::scope(|scope| {
        scope.spawn(|| a.sync_well(&backups[0]));
        scope.spawn(|| b.sync_well(&backups[1]));
    });
    let aside = scene.path("aside.index");
    fs::rename(&a.index, &aside).unwrap();
    fs::rename(&b.index, &a.index).unwrap();
    fs::rename(&aside, &b.index).unwrap();
    // What the other image has there, and had when its index was made.
    change(&a.source, 4 * BLOCK, &two[4 * 65_536..5 * 65_536]);
    let outcome = synced(a.rsync("", &backups[0]).run());
    assert_same(
        "the backup",
        &blocks::concatenated(&backups[0]),
        &blocks::read(&a.source),
    );
    assert!(outcome.blocks.contains(&4));
    b.sync_well(&backups[1]);
}

#[test]
fn p21_lost_with_its_lock_in_the_second_after_a_run() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    for round in 0..3 {
        rig.sync_well(&backup);
        let at = now();
        wait_until("a second begins", || now() > at);
        // New stamps of a known index are two seconds ahead at the end of a scan.
        rig.change(3, B);
        rig.sync_well(&backup);
        fs::remove_file(&rig.index).unwrap();
        fs::remove_file(scene.path("a.index.lock")).unwrap();
        let at = now();
        wait_until("the next second begins", || now() > at);
        rig.change(3, A);
        // Not the last of a scan now, so it gets none of the two seconds more.
        let moved = rig.sync(&backup).blocks;
        rig.same(&backup);
        assert_eq!(moved, ALL, "round {round}");
    }
}
