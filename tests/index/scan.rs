//! `bmapfs scan`, and what a scan does to the machine (promise P22).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{disk_like, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change, now};

#[test]
fn a_scan_counts_and_lists_what_changed() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 20 * BLOCK);
    for block in [0, 1, 4] {
        change(&image, block * BLOCK, &pattern(block, 65_536));
    }
    // Zeros that are no hole.
    change(&image, 5 * BLOCK, &vec![0; 65_536]);
    let rig = Rig::new(&scene, &image);
    let expect = |options: &str, [changed, new, zero, unchanged, bytes_read]: [u64; 5]| {
        let counts = rig.counts(options);
        for (key, expected) in [
            ("blocks", 20),
            ("changed", changed),
            ("new", new),
            ("zero", zero),
            ("unchanged", unchanged),
            ("bytes_read", bytes_read),
        ] {
            assert_eq!(counts[key], expected, "{options}, {key}: {counts:?}");
        }
    };
    expect("-o rescan", [0, 20, 17, 0, 4 * BLOCK]);
    expect("-o rescan", [0, 0, 17, 20, 4 * BLOCK]);
    for block in [4, 7, 8, 9, 19] {
        rig.change(block, b"changed");
    }
    // Only the page that was written is data.
    expect("-o rescan --dry-run", [5, 0, 13, 15, 4 * BLOCK + 4 * 4096]);
    let listed = rig.scan("-v --dry-run").ok();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[..3], ["4", "7-9", "19"], "{listed}");
    assert!(lines[3].contains("20 blocks: 5 changed, 0 new, 15 unchanged"));
    assert_eq!(lines.len(), 4);
    assert!(rig.scan("--dry-run --json").ok().contains("\"seconds\":"));
    expect("", [5, 0, 13, 15, 4 * BLOCK + 4 * 4096]);
    expect("-o rescan", [0, 0, 13, 20, 4 * BLOCK + 4 * 4096]);
    assert_eq!(rig.scan("-v").ok().lines().count(), 1, "nothing to list");
}

#[test]
fn a_dry_run_saves_nothing() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    rig.scan("--dry-run").ok();
    assert!(!rig.index.exists());
    let before = rig.stamps();
    let saved = fs::read(&rig.index).unwrap();
    rig.change(3, b"changed");
    for _ in 0..2 {
        assert_eq!(rig.counts("--dry-run")["changed"], 1);
    }
    assert_eq!(fs::read(&rig.index).unwrap(), saved);
    let after = rig.stamps();
    assert!(after[&3] > before[&3]);
    assert_eq!(after[&4], before[&4]);
}

#[test]
fn a_scan_and_a_mount_share_one_index() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(2, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    assert_eq!(rig.counts("")["new"], 10);
    rig.sync_well(&backup);
    rig.change(3, b"changed");
    assert_eq!(rig.counts("")["changed"], 1);
    // Seen by the scan already: the next sync still has to move it.
    assert_eq!(rig.sync_well(&backup), [3]);
}

/// Pages of a file in the page cache.
fn cached(path: &Path) -> u64 {
    let text = tool("fincore").words("-n -r -o PAGES").arg(path).ok();
    text.trim().parse().unwrap()
}

/// The most pages that the kernel reads ahead at once of a file: its device's setting, or the usual 128 KiB.
fn read_ahead_pages(path: &Path) -> u64 {
    let device = fs::metadata(path).unwrap().dev();
    let (major, minor) = (stat::major(device), stat::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let kilobytes = fs::read_to_string(setting).map_or(128, |text| text.trim().parse().unwrap());
    u64::max(kilobytes, 128) / 4
}

fn drop_pages(path: &Path) {
    let of = format!("of={}", path.display());
    tool("dd")
        .words("if=/dev/null oflag=nocache conv=notrunc,fdatasync count=0")
        .arg(of)
        .ok();
    assert_eq!(cached(path), 0, "the harness");
}

#[test]
fn p22_a_scan_leaves_the_page_cache_as_it_was() {
    const SIZE: u64 = 48 << 20;
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 48 << 20));
    let rig = Rig::new(&scene, &image);
    drop_pages(&image);
    assert_eq!(rig.counts("")["bytes_read"], SIZE);
    assert_eq!(cached(&image), 0, "cached by a scan of a cold file");
    // What somebody else has in use stays.
    tool("dd")
        .words("of=/dev/null bs=1M skip=16 count=8")
        .arg(format!("if={}", image.display()))
        .ok();
    let warm = cached(&image);
    assert!(warm >= 2048, "the harness: {warm}");
    assert_eq!(rig.counts("-o rescan")["bytes_read"], SIZE);
    let after = cached(&image);
    // The mark at the end of what dd has read ahead makes the kernel read ahead once more.
    let bound = warm + read_ahead_pages(&image);
    assert!(bound < SIZE / 4096, "the harness: read-ahead is too large");
    assert!(
        after <= bound,
        "cached by a scan: {warm} pages became {after}"
    );
    assert!(
        after >= 2048,
        "thrown out by a scan: {warm} pages became {after}"
    );
}

#[test]
fn p22_an_unreadable_block_is_logged_and_keeps_its_stamp() {
    let scene = Scene::new();
    let file = scene.file("a.img", &disk_like(3, 10 * 65_536));
    let device = LoopDevice::new(&file);
    let rig = Rig::new(&scene, device.path());
    let before = rig.stamps();
    // The end of the device cannot be read any more.
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(8 * BLOCK)
        .unwrap();
    for _ in 0..3 {
        let outcome = rig
            .run("")
            .args(["sh", "-c", "cd {} && stat -c '%n %.9Y' *"])
            .run();
        for block in [8, 9] {
            let line = format!("block {block:08} cannot be read");
            assert_eq!(
                outcome.stderr.matches(&line).count(),
                1,
                "{}",
                outcome.stderr
            );
        }
        let summary = "; 2 cannot be read, the first is 00000008";
        assert!(outcome.stderr.contains(summary), "{}", outcome.stderr);
        assert_eq!(outcome.code(), 9, "{}", outcome.stderr);
        assert_eq!(super::rig::stamps_in(&outcome.stdout), before);
    }
    let counts = rig.counts("");
    assert_eq!(counts["unreadable"], 2, "{counts:?}");
    assert_eq!(counts["unchanged"], 8, "{counts:?}");
    let said = rig.scan("").run().stderr;
    assert!(said.contains("2 blocks cannot be read, the first is 00000008"));
    // Readable again, whatever is in them now.
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(10 * BLOCK)
        .unwrap();
    let after = rig.stamps();
    for block in 0..8 {
        assert_eq!(after[&block], before[&block], "block {block}");
    }
    for block in [8, 9] {
        assert!(after[&block] >= before[&block] + 2, "block {block}");
    }
    assert_eq!(rig.stamps(), after);
}

/// A scan that takes long enough to be interrupted: one thread, a gibibyte.
fn big(scene: &Scene, memory: &Filesystem) -> std::path::PathBuf {
    let image = memory.path("big.img");
    tool("dd")
        .words("if=/dev/zero bs=1M count=1024 status=none")
        .arg(format!("of={}", image.display()))
        .ok();
    assert!(scene.path("").exists());
    image
}

#[test]
fn p22_an_interrupted_scan_leaves_the_old_index_as_it_was() {
    let scene = Scene::new();
    let memory = Filesystem::sized(&scene, "tmpfs", 1100 << 20);
    let rig = Rig::new(&scene, &big(&scene, &memory)).with_blocks("4M");
    assert_eq!(rig.counts("")["new"], 256);
    let saved = fs::read(&rig.index).unwrap();
    poke(&rig.source, 5 << 22, b"changed");
    let lock = scene.path("a.index.lock");
    let point = scene.dir("mnt");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mount = scene
            .bmapfs()
            .words("-f --threads 1 -b 4M")
            .arg(format!("--index={}", rig.index.display()))
            .args([&rig.source, &point]);
        for tool in [
            rig.scan("--threads 1"),
            rig.run("--threads 1")
                .args([scene.program().as_os_str(), "--version".as_ref()]),
            mount,
        ] {
            let log = scene.path("log");
            let running = tool.log_to(&log).spawn();
            let pid = format!("{} ", running.pid());
            wait_until("the scan has begun", || {
                fs::read_to_string(&lock).unwrap().starts_with(&pid)
            });
            running.signal(signal);
            let status = running.finish();
            let said = fs::read_to_string(&log).unwrap();
            assert_eq!(status.code(), Some(8), "{signal}: {said}");
            assert!(said.contains("interrupted"), "{said}");
            assert_eq!(fs::read(&rig.index).unwrap(), saved, "{signal}: {said}");
        }
    }
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
    assert_eq!(rig.counts("")["changed"], 1);
}

#[test]
fn an_interrupt_after_the_scan_leaves_an_index_that_is_right_and_says_so() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &pattern(1, 8 * 65_536)));
    let rig = Rig::new(&scene, device.path());
    let lock = scene.path("a.index.lock");
    // New stamps are later than what was noted of an index that is lost, and the command waits until they are over.
    fs::write(&lock, format!("1 using {} 524288\n", now() + 8)).unwrap();
    let log = scene.path("log");
    let running = rig.run("").arg("true").log_to(&log).spawn();
    let pid = format!("{} ", running.pid());
    wait_until("the lock is held", || {
        fs::read_to_string(&lock).unwrap().starts_with(&pid)
    });
    running.signal(Signal::SIGINT);
    let status = running.finish();
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(8), "{said}");
    assert!(rig.index.exists(), "the harness");
    assert!(!said.contains("as it was"), "{said}");
    let next = rig.run("").args(["sh", "-c", "cat {}/* > /dev/null"]);
    let next = next.run();
    assert_eq!(next.code(), 0, "{next:#?}");
    assert!(!next.stderr.contains("killed"), "{next:#?}");
}

/// A terminal that is closed ends what it had started, unless that was started with nohup(1).
#[test]
fn p22_a_hangup_ends_a_scan_unless_it_is_ignored() {
    let scene = Scene::new();
    let memory = Filesystem::sized(&scene, "tmpfs", 1100 << 20);
    let source = big(&scene, &memory);
    let point = scene.dir("mnt");
    for ignored in [false, true] {
        for verb in ["scan", "run", "mount"] {
            let index = scene.path(format!("{verb}-{ignored}.index"));
            let tool = scene.bmapfs();
            let tool = if verb == "mount" {
                tool
            } else {
                tool.arg(verb)
            };
            let tool = tool
                .words("--threads 1 -b 4M -o rescan")
                .arg(format!("--index={}", index.display()))
                .arg(&source);
            let tool = match verb {
                "scan" => tool,
                "run" => tool.args([
                    OsStr::new("--"),
                    scene.program().as_ref(),
                    "--version".as_ref(),
                ]),
                _ => tool.arg(&point),
            };
            let tool = if ignored { tool.ignoring("HUP") } else { tool };
            let log = scene.path("log");
            let running = tool.log_to(&log).spawn();
            let lock = index.with_extension("index.lock");
            wait_until("the scan has begun", || {
                fs::read_to_string(&lock).is_ok_and(|holder| !holder.is_empty())
            });
            running.signal(Signal::SIGHUP);
            let status = running.finish();
            let said = fs::read_to_string(&log).unwrap();
            let expected = if ignored { 0 } else { 8 };
            assert_eq!(status.code(), Some(expected), "{verb} {ignored}: {said}");
        }
    }
    tool("umount").arg(&point).ok();
}

#[test]
fn p22_progress_is_shown_on_a_terminal_and_not_with_q() {
    let scene = Scene::new();
    let memory = Filesystem::sized(&scene, "tmpfs", 1100 << 20);
    let rig = Rig::new(&scene, &big(&scene, &memory)).with_blocks("4M");
    let shown = |quiet: &str| {
        let command = format!(
            "{} scan {quiet} --threads 1 -b 4M --index={} -o rescan {}",
            scene.program().display(),
            rig.index.display(),
            rig.source.display()
        );
        tool("script").args(["-qec", &command, "/dev/null"]).ok()
    };
    let text = shown("");
    assert!(text.contains("scanning big.img"), "{text}");
    assert!(text.contains("/s"), "a rate: {text}");
    let text = shown("-q");
    assert!(!text.contains("scanning"), "{text}");
    // In a log, too, -q says nothing at all.
    let outcome = rig.scan("-q -o rescan").run();
    assert_eq!(outcome.stderr, "");
    outcome.ok();
}

#[test]
fn p22_progress_in_a_log_is_a_line_every_ten_seconds() {
    let scene = Scene::new();
    let content = pattern(1, 40 * 65_536);
    // A source that stops to answer when half of it is read: a block of a backup, which is another mount's.
    let far = scene
        .mount(scene.file("far.img", &content))
        .with("-b 64K")
        .at("far")
        .up();
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, 65_536);
    let block = backup.join("00000020");
    tool("mount")
        .arg("--bind")
        .args([far.block(20), block.clone()])
        .ok();
    let near = scene.mount(&backup).at("near").up();
    let rig = Rig::new(&scene, &near.point().join("image"));
    far.signal(Signal::SIGSTOP);
    let log = scene.path("log");
    let running = rig.scan("--threads 1").log_to(&log).spawn();
    wait_until("a line of progress", || {
        fs::read_to_string(&log).unwrap().contains(" left\n")
    });
    far.signal(Signal::SIGCONT);
    assert!(running.finish().success());
    let said = fs::read_to_string(&log).unwrap();
    let line = said.lines().next().unwrap();
    assert!(
        line.contains("scanning image: 1.25 MiB of 2.50 MiB, ") && line.contains("/s, "),
        "{said}"
    );
    near.unmount();
    tool("umount").arg(&block).ok();
    far.unmount();
}
