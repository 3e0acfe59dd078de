//! P13: the daemon killed in the middle of staged renames, of growing and of shrinking.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::rig::{BLOCK, UNITS, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;

const ROUNDS: u64 = 10;

/// Starts a restore, kills the daemon in its midst, and says whether it was.
fn killed(
    scene: &Scene,
    image: &Path,
    options: &str,
    rsync: &str,
    backup: &Path,
    after: Duration,
) -> bool {
    let mut mount = scene.mount(image).with(options).up();
    let from = backup.join(".");
    let mut running = tool("rsync")
        .words(rsync)
        .arg("-q")
        .args([&from, mount.point()])
        .log_to(&scene.path("log-of-rsync"))
        .spawn();
    sleep(after);
    let midst = running.child().try_wait().unwrap().is_none();
    mount.kill();
    running.finish();
    mount.detach();
    midst
}

fn completes(scene: &Scene, image: &Path, options: &str, rsync: &str, backup: &Path) {
    let mount = scene.mount(image).with(options).up();
    tool("rsync")
        .words(rsync)
        .args([&backup.join("."), mount.point()])
        .ok();
    mount.unmount();
}

#[test]
fn p13_killed_during_staged_renames() {
    let scene = Scene::new();
    let size = 200 * BLOCK + 12_345;
    let (old, new) = (pattern(1, size), pattern(2, size));
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &new, BLOCK);
    let mut random = Random::new(3);
    let mut in_the_midst = 0;
    let options = format!("{UNITS} -rw");
    for round in 0..ROUNDS {
        let image = scene.file("image", &old);
        let after = Duration::from_millis(30 + random.below(400));
        in_the_midst += u64::from(killed(&scene, &image, &options, "-a", &backup, after));
        let found = fs::read(&image).unwrap();
        let strange = (0..size).find(|&at| found[at] != old[at] && found[at] != new[at]);
        assert_eq!((strange, found.len()), (None, size), "round {round}");
        completes(&scene, &image, &options, "-a", &backup);
        assert_same("completed", &fs::read(&image).unwrap(), &new);
    }
    assert!(in_the_midst > 0, "no round was interrupted");
}

#[test]
fn p13_killed_while_growing_and_shrinking() {
    let scene = Scene::new();
    let (small, large) = (3 * BLOCK + 77, 240 * BLOCK + 12_345);
    let mut random = Random::new(4);
    let mut in_the_midst = 0;
    for sparse in ["", "--sparse"] {
        let contents = [with_gaps(5, small), with_gaps(6, large)];
        let backups = [scene.dir("small"), scene.dir("large")];
        for (content, backup) in contents.iter().zip(&backups) {
            let source = scene.path("source");
            write_thin(&source, content);
            let mount = scene.mount(&source).with(UNITS).with(sparse).up();
            tool("rsync")
                .words("-a --inplace --delete")
                .args([&mount.point().join("."), backup])
                .ok();
            mount.unmount();
        }
        let options = format!("{UNITS} -rw --resize {sparse}");
        for round in 0..ROUNDS {
            let image = scene.path("image");
            let rsync = ["-a --inplace --delete", "-a --delete"][usize::from(round % 2 == 1)];
            for (content, backup) in contents.iter().zip(&backups).rev() {
                let most = if content.len() == large { 300 } else { 60 };
                let after = Duration::from_millis(20 + random.below(most));
                in_the_midst += u64::from(killed(&scene, &image, &options, rsync, backup, after));
                completes(&scene, &image, &options, rsync, backup);
                let what = format!("round {round}, {rsync} {sparse}, {} bytes", content.len());
                assert_same(&what, &fs::read(&image).unwrap(), content);
            }
        }
    }
    assert!(in_the_midst > 0, "no round was interrupted");
}
