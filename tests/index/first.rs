//! P32: the first pass. Every block gets a new stamp anyway, so nothing is scanned: what is served tells the digests.

use std::fs::{self, File};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::{Outcome, send_signal, tool};
use crate::support::devices::LoopDevice;
use crate::support::machine;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change, stamps_at, synced, transferred};

const BLOCKS: u64 = 100;

/// All data, so that all of it is read.
fn image(scene: &Scene, name: &str) -> std::path::PathBuf {
    let len = usize::try_from(BLOCKS * BLOCK - 3000).unwrap();
    scene.file(name, &pattern(1, len))
}

fn on_each_kind_of_source(test: impl Fn(&Scene, &Rig<'_>)) {
    let scene = Scene::new();
    let file = image(&scene, "a.img");
    let device = LoopDevice::new(&image(&scene, "b.img"));
    for (name, source) in [("file", file.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}.index")));
        test(&scene, &rig);
    }
}

/// What a run says at its end: blocks that have a digest, and blocks that were never read. `None`: it scanned.
fn first_pass(said: &str) -> Option<(u64, u64)> {
    let (_, rest) = said.split_once("; not scanned: ")?;
    let (known, rest) = rest.split_once(" blocks have a digest now, ").unwrap();
    let (unread, _) = rest.split_once(" were never read").unwrap();
    Some((known.parse().unwrap(), unread.parse().unwrap()))
}

fn said(outcome: Outcome) -> String {
    let said = outcome.stderr.clone();
    outcome.ok();
    said
}

fn script(rig: &Rig<'_>, script: &str) -> String {
    let tool = rig
        .run("")
        .args(["sh", "-ec", &format!("cd \"$1\"; {script}"), "sh", "{}"]);
    said(tool.arg(&rig.source).run())
}

#[test]
fn p32_the_first_backup_reads_the_source_once() {
    on_each_kind_of_source(|scene, rig| {
        let backup = scene.dir(&format!("backup-{}", rig.index.display()).replace('/', "_"));
        // What bmapfs, whose child the shell is, has read when the copy is complete.
        let script = "rsync -a --inplace \"$1\"/ \"$2\"; cat /proc/$PPID/io";
        let counts = rig
            .run("")
            .args(["sh", "-ec", script, "sh", "{}"])
            .arg(&backup)
            .ok();
        let read = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
        let read: u64 = read.unwrap().parse().unwrap();
        let size = BLOCKS * BLOCK;
        assert!(
            size - 5000 < read && read < size + size / 20,
            "{read} bytes of {size}"
        );
        rig.same(&backup);
        // From now on it is an index like any other.
        let second = synced(rig.rsync("", &backup).run());
        assert_eq!(second.blocks, [0; 0], "{}", second.said);
        assert_eq!(first_pass(&second.said), None);
        for block in [3, 50, 98] {
            rig.change(block, b"changed");
        }
        assert_eq!(rig.sync_well(&backup), [3, 50, 98]);
    });
}

#[test]
fn p32_whatever_index_there_was_that_is_worth_nothing() {
    let scene = Scene::new();
    let file = image(&scene, "a.img");
    let rig = Rig::new(&scene, &file);
    let backup = scene.dir("backup");
    let pass = |options: &str| {
        let synced = synced(rig.rsync(options, &backup).run());
        rig.same(&backup);
        (synced.blocks.len() as u64, first_pass(&synced.said))
    };
    let first = (BLOCKS, Some((BLOCKS, 0)));
    assert_eq!(pass(""), first);
    assert_eq!(pass(""), (0, None));
    // Lost, damaged, a copy.
    fs::remove_file(&rig.index).unwrap();
    assert_eq!(pass(""), first, "lost");
    let bytes = fs::read(&rig.index).unwrap();
    fs::write(&rig.index, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(pass(""), first, "cut");
    let other = scene.path("other");
    fs::copy(&rig.index, &other).unwrap();
    fs::rename(&other, &rig.index).unwrap();
    assert_eq!(pass(""), first, "a copy");
    // Written while nobody looked, by a bmapfs that was killed.
    let mut mount = rig.mount("-rw").up();
    mount.kill();
    mount.detach();
    assert_eq!(pass(""), first, "killed");
    assert_eq!(pass(""), (0, None));
    // What has to be read is read.
    fs::remove_file(&rig.index).unwrap();
    assert_eq!(
        pass("--sparse").1,
        None,
        "which blocks are zeros must be known"
    );
    fs::remove_file(&rig.index).unwrap();
    assert_eq!(pass("-o rescan").1, None);
}

#[test]
fn p32_every_tool_may_be_the_first() {
    let scene = Scene::new();
    let file = image(&scene, "a.img");
    for (number, words) in [
        "cp -r --sparse=always {}/. $2",
        "cp -r --reflink=never {}/. $2",
        "tar -C {} -cf $2/a.tar .",
        "rsync -a {}/ $2",
        "rsync -a --inplace --no-whole-file {}/ $2",
        "rclone --config /dev/null -q sync {} $2",
        "restic init -q -r $2/r && restic -q -r $2/r backup {}",
        "borg init -e none $2/b && borg create $2/b::one {}",
    ]
    .into_iter()
    .enumerate()
    {
        let target = scene.dir(&format!("target-{number}"));
        let rig = Rig::new(&scene, &file).with_index(scene.path(format!("{number}.index")));
        let tool = rig
            .run("")
            .args(["sh", "-ec", &words.replace("{}", "\"$1\""), "sh", "{}"]);
        let outcome = tool
            .arg(&target)
            .env("HOME", scene.path("home"))
            .env("RESTIC_PASSWORD", "x")
            .env("XDG_CACHE_HOME", scene.path("cache"))
            .run();
        assert_eq!(first_pass(&said(outcome)), Some((BLOCKS, 0)), "{words}");
        let counts = rig.counts("");
        assert_eq!(counts["unchanged"], BLOCKS, "{words}");
    }
}

#[test]
fn p32_a_block_that_nobody_read_gets_a_new_stamp_the_next_time() {
    on_each_kind_of_source(|_, rig| {
        let half = script(rig, "cat 0000000? 0000001? > /dev/null");
        assert_eq!(first_pass(&half), Some((20, BLOCKS - 20)));
        let counts = rig.counts("--dry-run");
        assert_eq!(
            (counts["changed"] + counts["new"], counts["unchanged"]),
            (BLOCKS - 20, 20)
        );
        // And one that reads nothing at all: the next one is a first pass again.
        fs::remove_file(&rig.index).unwrap();
        for _ in 0..2 {
            assert_eq!(
                first_pass(&script(rig, "ls > /dev/null")),
                Some((0, BLOCKS))
            );
        }
    });
}

/// As it is for the kernel, which tells of a close(2) only after it, also if that was the command's last.
#[test]
fn p32_a_block_that_was_read_counts_although_its_file_is_open_at_the_end() {
    on_each_kind_of_source(|_, rig| {
        let script = "cd \"$1\"; exec 3< 00000007 4< 00000009; cat <&3; head -c 9 <&4; \
                      sleep 1000 > /dev/null 2>&1 & echo $! > \"$2\"";
        let told = rig.index.with_extension("told");
        let tool = rig.run("").args(["sh", "-ec", script, "sh", "{}"]);
        let run = said(tool.arg(&told).run());
        let left = fs::read_to_string(&told).unwrap();
        send_signal(left.trim_end().parse().unwrap(), Signal::SIGKILL);
        assert_eq!(first_pass(&run), Some((1, BLOCKS - 2)), "{run}");
        assert_eq!(rig.counts("--dry-run")["unchanged"], 1);
    });
}

#[test]
fn p32_half_a_block_or_two_contents_settle_nothing() {
    on_each_kind_of_source(|_, rig| {
        change(&rig.source, 3 * BLOCK + 1000, b"A");
        // Block 1 in parts, block 2 from its end; block 3 is two things, block 4 changes when it has been read.
        let put = "put() { printf %s \"$2\" | dd of=\"$0\" bs=1 seek=$(($1 * 65536 + 1000)) conv=notrunc,fsync status=none; }";
        let text = format!(
            "cd \"$1\"; {put}; head -c 9 00000001; dd if=00000002 bs=32768 skip=1; dd if=00000002 bs=32768 count=1; \
             cat 00000003; put 3 B; cat 00000003; put 3 A; cat 00000004; put 4 B; cat 00000005"
        );
        let outcome = rig
            .run("")
            .args(["sh", "-ec", &text])
            .arg(&rig.source)
            .arg("{}")
            .run();
        let (known, unread) = first_pass(&said(outcome)).unwrap();
        assert_eq!(
            (known, unread),
            (2, BLOCKS - 5),
            "blocks 4 and 5 have a digest"
        );
        let stamps = rig.stamps();
        let counts = rig.counts("--dry-run");
        assert_eq!(
            counts["unchanged"], BLOCKS,
            "all of them were read now: {counts:?}"
        );
        assert_eq!(rig.stamps(), stamps);
    });
}

#[test]
fn p32_a_mount_is_ready_before_anything_was_read() {
    let scene = Scene::new();
    // So much that a scan would have to read for minutes, if it were data; and something at its end.
    let huge = scene.sparse("huge.img", 1 << 40);
    change(&huge, (1 << 40) - 7, b"the end");
    let index = scene.path("huge.index");
    let options = format!("--index={}", index.display());
    let mount = scene.mount(&huge).with(&options).up_in_foreground();
    let at = machine::mounts_at(mount.point());
    assert_eq!(at[0].kind, "fuse.bmapfs", "findmnt and systemd look here");
    tool("cat").arg(mount.block(5)).ok();
    tool("cat").arg(mount.block((1 << 18) - 1)).ok();
    let log = mount.unmount_for_log();
    assert_eq!(first_pass(&log), Some((2, (1 << 18) - 2)), "{log}");
    assert!(log.contains(" 0 bytes read"), "{log}");
}

#[test]
fn p32_written_while_it_is_read() {
    on_each_kind_of_source(|scene, rig| {
        let backup = scene.dir(&format!("backup-{}", rig.index.display()).replace('/', "_"));
        let mut random = Random::new(7);
        for round in 0..6_u8 {
            fs::remove_file(&rig.index).unwrap_or_default();
            let block = random.below(BLOCKS);
            // Between the two halves of its copy, in the one that was read or in the one that is not read yet.
            let torn = round % 2 == 0;
            let at = block * BLOCK + if torn { 77 } else { 40_077 };
            let name = blocks::name(block);
            let text = format!(
                "rsync -a --inplace --exclude={name} \"$1\"/ \"$2\"; \
                 {{ dd bs=32768 count=1 status=none; \
                    printf '{round}' | dd of=\"$0\" bs=1 seek={at} conv=notrunc,fsync status=none; \
                    cat; }} < \"$1/{name}\" > \"$2/{name}\"; \
                 touch -r \"$1/{name}\" \"$2/{name}\""
            );
            let tool = rig
                .run("")
                .args(["sh", "-ec", &text])
                .arg(&rig.source)
                .arg("{}");
            tool.arg(&backup).ok();
            // Nothing of it is hidden.
            let moved = rig.sync_well(&backup);
            assert!(
                moved.contains(&block) || !torn,
                "round {round}: {moved:?} without {block}"
            );
            assert_eq!(rig.sync_well(&backup), [0; 0], "round {round}");
        }
    });
}

#[test]
fn p32_killed_at_any_moment() {
    on_each_kind_of_source(|scene, rig| {
        let backup = scene.dir(&format!("backup-{}", rig.index.display()).replace('/', "_"));
        for blocks in [0, 1, 40, 100] {
            fs::remove_file(&rig.index).unwrap_or_default();
            let mut mount = rig.mount("").up();
            if blocks > 0 {
                let names = (0..blocks).map(|block| mount.block(block));
                let rsync = tool("rsync").words("-a --inplace").args(names);
                rsync.arg(&backup).ok();
            }
            mount.kill();
            mount.detach();
            rig.change(blocks % BLOCKS, &[u8::try_from(blocks).unwrap(); 5]);
            rig.sync_well(&backup);
            assert_eq!(rig.sync_well(&backup), [0; 0], "after {blocks}");
        }
    });
}

#[test]
fn p32_a_writable_mount() {
    on_each_kind_of_source(|_, rig| {
        let mount = rig.mount("-rw").up_in_foreground();
        for block in [1, 2, 3] {
            tool("cat").arg(mount.block(block)).ok();
        }
        change(&mount.block(2), 1000, b"written");
        change(&mount.block(4), 1000, b"written");
        let shown = stamps_at(mount.point());
        let log = mount.unmount_for_log();
        let (known, unread) = first_pass(&log).unwrap();
        assert_eq!((known, unread), (4, BLOCKS - 4), "{log}");
        let counts = rig.counts("");
        assert_eq!(counts["unchanged"], 4, "{counts:?}");
        let stamps = rig.stamps();
        for block in 1..=4 {
            assert_eq!(stamps[&block], shown[&block]);
        }
    });
}

#[test]
fn p32_sighup_reads_what_nobody_did() {
    let scene = Scene::new();
    let file = image(&scene, "a.img");
    let rig = Rig::new(&scene, &file);
    rig.wait_until_old();
    let mount = rig.mount("").up_in_foreground();
    let before = stamps_at(mount.point());
    for block in 0..50 {
        tool("cat").arg(mount.block(block)).ok();
    }
    mount.signal(Signal::SIGHUP);
    wait_until("what nobody had read has new times", || {
        let shown = stamps_at(mount.point());
        (50..BLOCKS).all(|block| shown[&block] > before[&block])
    });
    let after = stamps_at(mount.point());
    assert!(
        (0..50).all(|block| after[&block] == before[&block]),
        "these were read"
    );
    mount.unmount();
    assert_eq!(rig.counts("")["unchanged"], BLOCKS);
    assert!(Path::new(&rig.index).exists());
}

#[test]
fn p22_a_first_pass_passes_over_no_block_that_is_known_to_be_unreadable() {
    let scene = Scene::new();
    let file = image(&scene, "a.img");
    let device = LoopDevice::with("--direct-io=on", &file);
    let rig = Rig::new(&scene, device.path());
    let backup = scene.dir("backup");
    assert_eq!(rig.sync_well(&backup).len() as u64, BLOCKS);
    let good = blocks::concatenated(&backup);
    // The end of the device cannot be read any more.
    let len = 97 * BLOCK;
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(len)
        .unwrap();
    let sync = || {
        let outcome = rig.rsync("", &backup).run();
        assert!(first_pass(&outcome.stderr).is_none(), "{outcome:#?}");
        assert!(
            outcome
                .stderr
                .contains("; 3 cannot be read, the first is 00000097")
        );
        assert_same("the backup", &blocks::concatenated(&backup), &good);
        transferred(&outcome.stdout)
    };
    assert_eq!(sync(), [0; 0]);
    let mut mount = rig.mount("").up();
    mount.kill();
    mount.detach();
    change(&file, 1000, &good[1000..1001]);
    assert_eq!(
        sync().len() as u64,
        97,
        "all that can be read has new times"
    );
}
