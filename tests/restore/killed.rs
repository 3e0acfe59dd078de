//! P13: the daemon killed in the middle of staged renames, of growing and of shrinking.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::rig::{BLOCK, UNITS, at_once, with_gaps, write_thin};
use crate::support::DEADLINE;
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;

/// Tries it until it comes out as it must; on a busy machine whoever is to be killed may be quicker.
fn until<T>(what: &str, attempt: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < end, "{what}: not once");
    }
}

/// Starts a restore, and kills the daemon once `reached` says so, or rsync has ended.
fn killed(
    scene: &Scene,
    image: &Path,
    options: &str,
    rsync: &str,
    backup: &Path,
    reached: impl Fn() -> bool,
) {
    let mut mount = scene.mount(image).with(options).up();
    let from = backup.join(".");
    let mut running = tool("rsync")
        .words(rsync)
        .words("-q --bwlimit=40M")
        .args([&from, mount.point()])
        .log_to(&scene.path("log-of-rsync"))
        .spawn();
    let end = Instant::now() + DEADLINE;
    let mut midst = true;
    // Often, since some of it is quick.
    while midst && !reached() {
        assert!(Instant::now() < end, "rsync neither ends nor goes on");
        sleep(Duration::from_micros(200));
        midst = running.child().try_wait().unwrap().is_none();
    }
    mount.kill();
    running.finish();
    mount.detach();
}

/// The same again, to its end.
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
    const LARGE: usize = 1 << 20;
    let size = 20 * LARGE + 12_345;
    let (old, new) = (pattern(1, size), pattern(2, size));
    let outer = Scene::new();
    let backup = outer.dir("backup");
    blocks::split_into(&backup, &new, LARGE);
    at_once(0..6, |scene, round| {
        let mut random = Random::new(round);
        let image = scene.file("image", &old);
        let raw = File::open(&image).unwrap();
        // One that has some more to come; the kill comes while it is written, or soon after.
        let at = random.index(16) * LARGE + random.index(LARGE - 4096);
        let reached = || {
            let mut page = vec![0; 4096];
            raw.read_exact_at(&mut page, at.try_into().unwrap())
                .unwrap();
            page != old[at..at + 4096]
        };
        let found = until(&format!("round {round}: killed in the midst"), || {
            fs::write(&image, &old).unwrap();
            killed(scene, &image, "-b 1M -rw", "-a", &backup, reached);
            Some(fs::read(&image).unwrap()).filter(|found| *found != new)
        });
        assert_eq!(found.len(), size, "round {round}");
        for start in (0..size).step_by(4096) {
            let page = start..size.min(start + 4096);
            if found[page.clone()] != old[page.clone()] && found[page.clone()] != new[page.clone()]
            {
                let strange = page
                    .clone()
                    .find(|&at| ![old[at], new[at]].contains(&found[at]));
                assert_eq!(strange, None, "round {round}");
            }
        }
        completes(scene, &image, "-b 1M -rw", "-a", &backup);
        assert_same("completed", &fs::read(&image).unwrap(), &new);
    });
}

/// A backup made from a mount with these options of an image with this content.
fn back_up(scene: &Scene, content: &[u8], options: &str, name: &str) -> std::path::PathBuf {
    let (source, backup) = (scene.path("source"), scene.dir(name));
    write_thin(&source, content);
    let mount = scene.mount(&source).with(UNITS).with(options).up();
    tool("rsync")
        .words("-a --inplace --delete")
        .args([&mount.point().join("."), &backup])
        .ok();
    mount.unmount();
    backup
}

#[test]
fn p13_killed_while_growing_and_shrinking() {
    let (small, large) = (3 * BLOCK + 77, 60 * BLOCK + 12_345);
    let rsync = ["-a --inplace --delete", "-a --delete"];
    let cases = ["", "--sparse"]
        .into_iter()
        .flat_map(|sparse| rsync.map(|rsync| (sparse, rsync)))
        .flat_map(|(sparse, rsync)| [1, 2].map(|seed| (sparse, rsync, seed)));
    at_once(cases, |scene, (sparse, rsync, seed)| {
        let mut random = Random::new(seed);
        let options = format!("{UNITS} -rw --resize {sparse}");
        let image = scene.path("image");
        let len = || fs::metadata(&image).map_or(0, |stat| stat.len());
        let what = format!("seed {seed}, {rsync} {sparse}");

        let content = with_gaps(6, large);
        let backup = back_up(scene, &content, sparse, "large");
        let enough = random.below(40) * BLOCK as u64;
        until(&format!("{what}: killed in the midst"), || {
            // It need not be there.
            let _ = fs::remove_file(&image);
            killed(scene, &image, &options, rsync, &backup, || len() > enough);
            (len() < large as u64).then_some(())
        });
        completes(scene, &image, &options, rsync, &backup);
        assert_same(&what, &fs::read(&image).unwrap(), &content);

        let content = with_gaps(5, small);
        let backup = back_up(scene, &content, sparse, "small");
        let enough = (5 + random.below(50)) * BLOCK as u64;
        killed(scene, &image, &options, rsync, &backup, || len() < enough);
        completes(scene, &image, &options, rsync, &backup);
        assert_same(&what, &fs::read(&image).unwrap(), &content);
    });
}
