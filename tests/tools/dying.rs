//! A source that dies before, in and after a backup: the backup keeps its last good copy of what cannot be read.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::blocks;
use crate::support::command::{Outcome, Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::mounted::one_line;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

const BLOCK: usize = 65_536;
const BLOCKS: usize = 32;
/// What run ends with if the command is content, and something could not be read.
const UNREADABLE: i32 = 9;

/// A device that can die, what it holds, and a good backup of it.
struct Patient<'a> {
    scene: &'a Scene,
    file: PathBuf,
    device: LoopDevice,
    content: Vec<u8>,
    options: String,
    backup: PathBuf,
}

impl<'a> Patient<'a> {
    fn new(scene: &'a Scene, name: &str, options: &str) -> Self {
        let content = disk_like(1, BLOCKS * BLOCK);
        let file = scene.file(format!("{name}.img"), &content);
        let options = options.replace(
            "--index",
            &format!("--index={}", scene.path(name).display()),
        );
        let patient = Self {
            scene,
            device: LoopDevice::with("--direct-io=on", &file),
            file,
            content,
            options: format!("-b 64K {options}"),
            backup: scene.dir(&format!("{name}-backup")),
        };
        patient.run("rsync -a {}/").arg(&patient.backup).ok();
        assert_eq!(patient.harmed(&patient.backup), Vec::<usize>::new());
        patient
    }

    /// With and without an index.
    fn each(scene: &'a Scene) -> [Self; 2] {
        [
            Self::new(scene, "plain", ""),
            Self::new(scene, "indexed", "--index"),
        ]
    }

    fn indexed(&self) -> bool {
        self.options.contains("--index")
    }

    fn run(&self, command: &str) -> Tool {
        let run = self.scene.bmapfs().arg("run").words(&self.options);
        run.arg(self.device.path()).arg("--").words(command)
    }

    /// Copies all blocks that can be had over the backup.
    fn rsync(&self, options: &str) -> Outcome {
        let rsync = self
            .run("rsync -a --ignore-times")
            .words(options)
            .arg("{}/");
        let outcome = rsync.arg(&self.backup).run();
        assert!(!outcome.stderr.contains("skipped"), "{outcome:#?}");
        outcome
    }

    /// From now on only the first `good` blocks can be read.
    fn die(&self, good: usize) {
        cut(&self.file, good * BLOCK);
        tool("blockdev")
            .arg("--flushbufs")
            .arg(self.device.path())
            .ok();
    }

    fn recover(&self) {
        fs::write(&self.file, &self.content).unwrap();
        tool("blockdev")
            .arg("--flushbufs")
            .arg(self.device.path())
            .ok();
    }

    /// The blocks of a backup that are not what they were.
    fn harmed(&self, backup: &Path) -> Vec<usize> {
        let same = |block: &usize| {
            let file = backup.join(blocks::name(*block as u64));
            let sparse = self.options.contains("sparse");
            let zeros = || sparse.then(|| vec![0; BLOCK]);
            let bytes = fs::read(file).ok().or_else(zeros);
            bytes.is_some_and(|bytes| bytes == self.content[block * BLOCK..][..BLOCK])
        };
        (0..BLOCKS).filter(|block| !same(block)).collect()
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

fn cut(file: &Path, len: usize) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_len(len as u64).unwrap();
}

#[test]
fn rsync_from_a_device_that_died_before() {
    let scene = Scene::new();
    for patient in Patient::each(&scene) {
        for good in [1, BLOCKS / 2] {
            for options in ["", "--inplace", "--inplace --whole-file"] {
                patient.die(good);
                let outcome = patient.rsync(options);
                assert_eq!(outcome.code(), 23, "{outcome:#?}");
                let harmed = patient.harmed(&patient.backup);
                // Without an index nobody knows before the first block is read; and a copy that failed is only
                // thrown away where it was made beside the file.
                let most = usize::from(!patient.indexed() && options.contains("inplace"));
                assert!(harmed.len() <= most, "{options}: {harmed:?}, {outcome:#?}");
                let counted = format!(
                    "; {} cannot be read, the first is {}",
                    BLOCKS - good,
                    blocks::name(good as u64)
                );
                assert!(outcome.stderr.contains(&counted), "{outcome:#?}");
                patient.recover();
                assert_eq!(patient.rsync(options).code(), 0);
                assert_eq!(patient.harmed(&patient.backup), Vec::<usize>::new());
            }
        }
    }
}

#[test]
fn rsync_from_a_device_that_dies_in_the_middle() {
    let scene = Scene::new();
    for patient in Patient::each(&scene) {
        for options in ["", "--inplace"] {
            // It comes back when rsync is there.
            let mark = patient.backup.join(blocks::name(BLOCKS as u64 / 2));
            fs::remove_file(&mark).unwrap();
            let rsync = patient.run("rsync -a --ignore-times --bwlimit=1000");
            let rsync = rsync.words(options).arg("{}/").arg(&patient.backup).spawn();
            wait_until("half of it is copied", || mark.exists());
            patient.die(0);
            let mut rsync = rsync;
            wait_until("rsync has ended", || {
                rsync.child().try_wait().unwrap().is_some()
            });
            assert_eq!(rsync.finish().code(), Some(23));
            let harmed = patient.harmed(&patient.backup);
            assert!(
                harmed.len() <= usize::from(!options.is_empty()),
                "{options}: {harmed:?}"
            );

            patient.recover();
            // What rsync wrote last has the time at which it did so.
            let mtime = |block| fs::metadata(patient.backup.join(blocks::name(block))).unwrap();
            let newest = (0..BLOCKS as u64)
                .map(|block| mtime(block).mtime())
                .max()
                .unwrap();
            wait_until("that second is over", || now() > newest);
            if patient.indexed() {
                // What could not be read is not taken for what was copied.
                patient.run("rsync -a {}/").arg(&patient.backup).ok();
            } else {
                patient.rsync(options).ok();
            }
            assert_eq!(patient.harmed(&patient.backup), Vec::<usize>::new());
        }
    }
}

#[test]
fn p22_what_cannot_be_read_keeps_its_time_and_nobody_asks_for_it() {
    let scene = Scene::new();
    let patient = Patient::new(&scene, "indexed", "--index");
    let sync = |options: &str| {
        let rsync = patient.run("rsync -ai --inplace").words(options).arg("{}/");
        rsync.arg(&patient.backup).run()
    };
    assert_eq!(sync("").ok(), "");
    for good in [BLOCKS - 2, 1] {
        patient.die(good);
        for _ in 0..2 {
            let outcome = sync("--delete");
            assert_eq!(outcome.code(), UNREADABLE, "{outcome:#?}");
            assert_eq!(outcome.stdout, "", "the times are as they were");
            assert!(outcome.stderr.contains("ddrescue"), "{outcome:#?}");
            assert!(outcome.stderr.lines().count() < 20, "{outcome:#?}");
            assert_eq!(patient.harmed(&patient.backup), Vec::<usize>::new());
        }
    }
    patient.run("false").fails(1);
    patient.recover();
    let outcome = sync("");
    assert!(!outcome.stderr.contains("cannot be read"), "{outcome:#?}");
    let copied = outcome.ok();
    assert_eq!(
        copied.matches(">f").count(),
        BLOCKS - 1,
        "new times for all that could not be read: {copied}"
    );
    assert_eq!(sync("").ok(), "");
}

#[test]
fn p22_salvage_copies_what_is_left() {
    let scene = Scene::new();
    for options in ["-o salvage", "--salvage --index"] {
        let patient = Patient::new(&scene, &format!("saved{}", options.len()), options);
        let good = 3 * BLOCK + 20_480;
        cut(&patient.file, good);
        let rescued = scene.dir(&format!("rescued{}", options.len()));
        let rsync = |to: &Path| patient.run("rsync -a --inplace {}/").arg(to).run();
        assert_eq!(rsync(&rescued).code(), 23);
        let mut expected = patient.content[..good].to_vec();
        expected.resize(BLOCKS * BLOCK, 0);
        assert_same("what is left", &blocks::concatenated(&rescued), &expected);
        if patient.indexed() {
            // A new time in each run, so that rsync asks for it again.
            let time = || patient.run("stat -c %Y {}/00000031").run().stdout;
            assert_ne!(time(), time());
        }
    }
}

#[test]
fn cp_from_a_device_that_died() {
    let scene = Scene::new();
    for patient in Patient::each(&scene) {
        for good in [BLOCKS / 2, 1] {
            patient.die(good);
            patient.run("cp -a {}/.").arg(&patient.backup).fails(1);
            let harmed = patient.harmed(&patient.backup);
            assert!(
                harmed.len() <= usize::from(!patient.indexed()),
                "{harmed:?}"
            );
            patient.recover();
            patient.run("cp -a {}/.").arg(&patient.backup).ok();
        }
    }
}

#[test]
fn restic_from_a_device_that_died() {
    let scene = Scene::new();
    for patient in Patient::each(&scene) {
        let repository = scene.path(format!("restic-{}", patient.indexed()));
        let restic = |tool: Tool| {
            tool.env("RESTIC_PASSWORD", "secret")
                .env("RESTIC_REPOSITORY", &repository)
                .env("RESTIC_CACHE_DIR", scene.path("cache"))
        };
        restic(tool("restic").words("init -q")).ok();
        restic(patient.run("restic backup -q {}")).ok();
        patient.die(BLOCKS / 2);
        let outcome = restic(patient.run("restic backup -q {}")).run();
        // With an index restic does not ask for what it has; else it says that its snapshot is not complete.
        let expected = if patient.indexed() { UNREADABLE } else { 3 };
        assert_eq!(outcome.code(), expected, "{outcome:#?}");
        let target = scene.path(format!("restored-{}", patient.indexed()));
        restic(
            tool("restic")
                .words("restore latest -q --target")
                .arg(&target),
        )
        .ok();
        let mount = fs::read_dir(target.join("run/bmapfs.mounts"))
            .unwrap()
            .next();
        let restored = mount.unwrap().unwrap().path();
        let there = |block: &usize| restored.join(blocks::name(*block as u64)).exists();
        let mut harmed = patient.harmed(&restored);
        harmed.retain(there);
        assert_eq!(harmed, Vec::<usize>::new());
        assert!((0..BLOCKS / 2).all(|block| there(&block)));
        assert!(!patient.indexed() || (0..BLOCKS).all(|block| there(&block)));
    }
}

#[test]
fn sparse_directories_of_a_dying_device() {
    let scene = Scene::new();
    for options in ["--sparse", "--sparse --index"] {
        let patient = Patient::new(&scene, &format!("sparse{}", options.len()), options);
        patient.die(BLOCKS / 2);
        let rsync = patient.run("rsync -a --ignore-times --inplace --delete {}/");
        let outcome = rsync.arg(&patient.backup).run();
        assert_eq!(outcome.code(), 23, "{outcome:#?}");
        let lost: Vec<usize> = patient.harmed(&patient.backup);
        assert_eq!(lost, Vec::<usize>::new(), "{outcome:#?}");
    }
}

#[test]
fn p22_a_block_that_cannot_be_read_is_mended_by_writing_it() {
    let scene = Scene::new();
    for patient in Patient::each(&scene) {
        patient.die(BLOCKS / 2);
        // Its file grows again where the device is written.
        let run = scene.bmapfs().arg("run").words(&patient.options).arg("-w");
        let rsync = run
            .arg(patient.device.path())
            .words("-- rsync -a --inplace --ignore-times");
        let outcome = rsync.arg(patient.backup.join(".")).arg("{}/").run();
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        assert_same(
            "the device",
            &fs::read(&patient.file).unwrap(),
            &patient.content,
        );
        patient
            .run("rsync -a --inplace --checksum {}/")
            .arg(&patient.backup)
            .ok();
    }
}

#[test]
fn p22_sighup_tries_again() {
    let scene = Scene::new();
    for options in [
        "-b 64K".to_owned(),
        format!("-b 64K --index={}", scene.path("i").display()),
    ] {
        let content = pattern(2, 4 * BLOCK);
        let image = scene.file("a.img", &content);
        let mount = scene.mount(&image).with(&options).up();
        cut(&image, 2 * BLOCK + 1);
        for block in [2, 3] {
            let opened = File::open(mount.block(block));
            blocks::refused("opening what was cut off", opened, libc::EIO);
        }
        fs::write(&image, &content).unwrap();
        let opened = File::open(mount.block(2));
        blocks::refused("opening it before anybody looked", opened, libc::EIO);
        mount.signal(nix::sys::signal::Signal::SIGHUP);
        wait_until("it can be opened", || File::open(mount.block(2)).is_ok());
        wait_until("and the other", || File::open(mount.block(3)).is_ok());
        assert_same("the image", &mount.image(), &content);
        mount.unmount();
    }
}

#[test]
fn the_first_read_error_is_told_with_what_to_do() {
    let scene = Scene::new();
    let content = pattern(3, 200 * BLOCK);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-b 64K").up_in_foreground();
    cut(&image, 50 * BLOCK);
    for block in 0..200 {
        assert_eq!(fs::read(mount.block(block)).is_ok(), block < 50);
    }
    let log = mount.unmount_for_log();
    let advice: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ddrescue"))
        .collect();
    let advice = advice.join("\n") + "\n";
    let advice = one_line(&advice);
    assert!(
        advice.contains("-o salvage") && advice.contains("00000050"),
        "{advice}"
    );
    let told = log
        .lines()
        .filter(|line| line.contains("reading at byte"))
        .count();
    assert!((2..20).contains(&told), "{told} lines: {log}");
    assert!(
        log.contains("; 150 cannot be read, the first is 00000050"),
        "{log}"
    );
}
