//! `--report`: one JSON object tells how a run or a scan ended, whatever the end is.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::command::{Outcome, Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::mounted::one_line;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change, now};

pub(super) const BLOCKS: u64 = 8;

/// All fields, in order.
const FIELDS: [&str; 24] = [
    "bmapfs_report",
    "version",
    "task",
    "source",
    "began",
    "began_seconds",
    "ended",
    "ended_seconds",
    "blocks",
    "changed",
    "new",
    "unsettled",
    "skipped",
    "uncopied",
    "unreadable",
    "zero",
    "bytes_read",
    "rechecked",
    "bytes_served",
    "written_meanwhile",
    "frozen_seconds",
    "command_status",
    "status",
    "error",
];

/// A source with an index, and where the report goes.
#[derive(Debug)]
pub(super) struct Case<'a> {
    scene: &'a Scene,
    pub(super) rig: Rig<'a>,
    pub(super) file: PathBuf,
}

impl<'a> Case<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        let content = pattern(1, usize::try_from(BLOCKS * BLOCK).unwrap());
        let image = scene.file("a.img", &content);
        Self {
            scene,
            rig: Rig::new(scene, &image),
            file: scene.path("report.json"),
        }
    }

    fn options(&self, options: &str) -> String {
        format!("--report {} {options}", self.file.display())
    }

    pub(super) fn run(&self, options: &str) -> Tool {
        self.rig.run(&self.options(options))
    }

    /// What is in the report, after something that has ended with this.
    pub(super) fn after(&self, outcome: &Outcome) -> Value {
        let report = report(&self.file);
        assert_eq!(report["status"], outcome.code(), "{outcome:#?}");
        let said = report["error"].as_str();
        assert!(said.is_none_or(|line| outcome.stderr.contains(line)));
        let temporary = |name: &str| name.starts_with(".bmapfs-");
        let left = fs::read_dir(self.scene.path("")).unwrap();
        for entry in left {
            let name = entry.unwrap().file_name();
            assert!(!temporary(&name.to_string_lossy()), "{name:?} is left");
        }
        report
    }
}

/// A report, of which every field is there and in its place.
pub(super) fn report(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.ends_with("}\n") && text.lines().count() == 1,
        "one line: {text}"
    );
    let mut from = 0;
    for field in FIELDS {
        let name = format!("\"{field}\":");
        let at = text[from..].find(&name);
        from += at.unwrap_or_else(|| panic!("no {field} in its place: {text}"));
    }
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report.as_object().unwrap().len(), FIELDS.len(), "{text}");
    for point in ["began", "ended"] {
        let seconds = report[format!("{point}_seconds")].as_i64().unwrap();
        let shown = tool("date").words("-u +%FT%TZ -d");
        let shown = shown.arg(format!("@{seconds}")).ok();
        assert_eq!(report[point], shown.trim_end());
        assert!(seconds <= now() && seconds > now() - 600, "{text}");
    }
    report
}

/// What these fields are.
fn fields<const N: usize>(report: &Value, names: [&str; N]) -> [Option<u64>; N] {
    names.map(|name| report[name].as_u64())
}

#[test]
fn a_report_has_what_was_counted() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    let backup = scene.dir("backup");
    let sync = |options: &str| {
        let run = case.run(options).words("rsync -a --inplace {}/");
        let outcome = run.arg(&backup).run();
        case.after(&outcome)
    };
    let counts = [
        "blocks",
        "changed",
        "new",
        "unsettled",
        "skipped",
        "unreadable",
        "zero",
        "bytes_read",
        "bytes_served",
        "command_status",
    ];
    let all = BLOCKS * BLOCK;
    let first = sync("");
    // The command has read it.
    let expected = [BLOCKS, 0, BLOCKS, 0, 0, 0, 0, 0, all, 0].map(Some);
    assert_eq!(fields(&first, counts), expected, "{first}");
    assert_eq!(first["bmapfs_report"], 1);
    assert_eq!(first["task"], "run");
    assert_eq!(first["source"], case.rig.source.to_str().unwrap());
    assert_eq!(first["written_meanwhile"], "no");
    assert_eq!(first["error"], Value::Null);
    change(&case.rig.source, 2 * BLOCK, &vec![0; 65_536]);
    case.rig.change(5, b"changed");
    let second = sync("");
    let expected = [BLOCKS, 2, 0, 0, 0, 0, 1, all, 2 * BLOCK, 0].map(Some);
    assert_eq!(fields(&second, counts), expected, "{second}");
    // What was skipped, and that it is an error.
    case.rig.change(5, b"once more");
    let outcome = case.run("-q -o strict").arg("true").run();
    let skipped = case.after(&outcome);
    assert_eq!(
        fields(&skipped, ["skipped", "status", "command_status"]),
        [1, 9, 0].map(Some)
    );
    // Without an index little is known.
    let plain = scene.bmapfs().words("run -b 64K --report").arg(&case.file);
    let plain = plain.arg(&case.rig.source).arg("--");
    let plain = case.after(&plain.words("cat {}/00000001").run());
    let expected = [Some(BLOCKS), None, None, None, None, Some(0), None];
    assert_eq!(fields(&plain, counts)[..7], expected, "{plain}");
    assert_eq!(fields(&plain, counts)[7..], [None, Some(BLOCK), Some(0)]);
    // A scan has no command.
    case.rig.change(6, b"changed");
    let outcome = case.rig.scan(&case.options("")).run();
    let scanned = case.after(&outcome);
    let expected = [
        Some(BLOCKS),
        Some(1),
        Some(0),
        Some(0),
        None,
        Some(0),
        Some(1),
    ];
    assert_eq!(fields(&scanned, counts)[..7], expected, "{scanned}");
    assert_eq!(fields(&scanned, counts)[7..], [Some(all), None, None]);
    assert_eq!(scanned["task"], "scan");
    assert_eq!(scanned["written_meanwhile"], "no");
}

#[test]
fn a_report_is_written_whatever_the_end_is() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    for (script, status) in [("exit 3", 3), ("kill -TERM $$", 143)] {
        let outcome = case.run("").args(["sh", "-c", script]).run();
        assert_eq!(outcome.code(), status);
        let report = case.after(&outcome);
        assert_eq!(report["command_status"], status, "{report}");
        assert_eq!(report["blocks"], BLOCKS);
    }
    let outcome = case.run("").arg("no-such-program-anywhere").run();
    assert_eq!(case.after(&outcome)["command_status"], 127);
    let image = fs::read(&case.rig.source).unwrap();
    let is_refused = |outcome: &Outcome, status: i32, why: &str| {
        assert_eq!(outcome.code(), status, "{outcome:#?}");
        let report = case.after(outcome);
        assert!(report["error"].as_str().unwrap().contains(why), "{report}");
        assert_eq!(report["command_status"], Value::Null);
        assert_eq!(report["blocks"], Value::Null);
    };
    fs::write(&case.rig.source, b"").unwrap();
    is_refused(&case.run("").arg("true").run(), 32, "-o shrunk");
    fs::remove_file(&case.rig.source).unwrap();
    is_refused(&case.run("").arg("true").run(), 32, "a.img");
    let gone = case.rig.scan(&case.options("")).run();
    is_refused(&gone, 32, "a.img");
    fs::write(&case.rig.source, &image).unwrap();
    let mount = case.rig.mount("").up();
    is_refused(&case.run("").arg("true").run(), 32, "in use");
    mount.unmount();
    let map = scene.file("map", b"no map");
    let map = format!("--since a --changed {}", map.display());
    is_refused(&case.run(&map).arg("true").run(), 32, "map");
}

#[test]
fn a_report_of_a_source_that_dies_and_of_a_mount_that_is_taken_away() {
    let scene = Scene::new();
    let mut case = Case::new(&scene);
    let image = case.rig.source.clone();
    let away = "umount -i -l \"$BMAPFS_MOUNT\"";
    let log = scene.path("log");
    let script = format!(
        "{away}; until grep -q 'was unmounted while' {}; do sleep 0.01; done",
        log.display()
    );
    let run = case.run("").args(["sh", "-c", &script]);
    let status = run.log_to(&log).spawn().finish();
    assert_eq!(
        status.code(),
        Some(2),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    let taken = report(&case.file);
    assert_eq!(
        (&taken["status"], &taken["command_status"]),
        (&2.into(), &0.into())
    );
    let device = LoopDevice::with("--direct-io=on", &image);
    case.rig = Rig::new(&scene, device.path()).with_index(scene.path("b.index"));
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.set_len(3 * BLOCK).unwrap();
    let flush = tool("blockdev").arg("--flushbufs");
    flush.arg(device.path()).ok();
    let outcome = case.run("").args(["sh", "-c", "cat {}/* | wc -c"]).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    let died = case.after(&outcome);
    let expected = [Some(BLOCKS - 3), Some(0), Some(3 * BLOCK)];
    let counts = ["unreadable", "command_status", "bytes_served"];
    assert_eq!(fields(&died, counts), expected, "{died}");
}

#[test]
fn a_report_of_a_run_that_a_signal_ends() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    let told = scene.path("told");
    let script = "touch \"$1\"; exec sleep 1000";
    let run = case.run("").args(["sh", "-c", script, "sh"]).arg(&told);
    let running = run.log_to(&scene.path("log")).spawn();
    wait_until("the command runs", || told.exists());
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code(), Some(143));
    let ended = report(&case.file);
    assert_eq!(ended["command_status"], 143);
    assert_eq!(ended["status"], 143);
    // While it is being scanned.
    let large = scene.sparse("large.img", 1 << 34);
    let device = LoopDevice::new(&large);
    let slow = Rig::new(&scene, device.path()).with_index(scene.path("large.index"));
    for task in ["run", "scan"] {
        fs::remove_file(&case.file).unwrap();
        let options = case.options("--threads 1 -o bs=1G,rescan");
        let tool = match task {
            "run" => slow.run(&options).arg("true"),
            _ => slow.scan(&options),
        };
        let mut running = tool.log_to(&scene.path("log")).spawn();
        let mut ended = false;
        wait_until("it has ended", || {
            // Once it is ready for signals, and not before.
            let process = running.pid();
            let threads = fs::read_dir(format!("/proc/{process}/task"));
            if threads.is_ok_and(|threads| threads.count() > 2) {
                running.signal(Signal::SIGINT);
            }
            ended = running.child().try_wait().unwrap().is_some();
            ended
        });
        assert_eq!(running.finish().code(), Some(8), "{task}");
        let ended = report(&case.file);
        assert_eq!(ended["task"], task);
        assert!(ended["error"].as_str().unwrap().contains("interrupted"));
    }
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_the_command_starts() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    let marker = scene.path("marker");
    let is_refused = |file: &Path, status: i32| {
        for task in ["run", "scan"] {
            let tool = scene.bmapfs().arg(task).arg("--report").arg(file);
            let tool = tool.arg(&case.rig.source);
            let tool = match task {
                "run" => tool.args(["--", "touch"]).arg(&marker),
                _ => tool.arg(format!("--index={}", case.rig.index.display())),
            };
            let outcome = tool.run();
            assert_eq!(outcome.code(), status, "{task}: {outcome:#?}");
            let line = one_line(&outcome.stderr);
            assert!(line.contains("report"), "{task}: {line}");
        }
        assert!(!marker.exists() && !case.rig.index.exists());
    };
    let other = scene.file("other", b"{\"something\":1}\n");
    let image = fs::read(&case.rig.source).unwrap();
    let pipe = scene.path("pipe");
    tool("mkfifo").arg(&pipe).ok();
    for (file, status) in [
        (scene.path("missing/report"), 2),
        (scene.dir("directory"), 2),
        (other.clone(), 2),
        (case.rig.source.clone(), 2),
        (pipe, 2),
        (PathBuf::from("-"), 1),
    ] {
        is_refused(&file, status);
    }
    assert_eq!(fs::read(&other).unwrap(), b"{\"something\":1}\n");
    assert!(fs::read(&case.rig.source).unwrap() == image);
    // Where the mounts of a run would hide it; nothing is made there.
    case.rig.run("").arg("true").ok();
    fs::remove_file(&case.rig.index).unwrap();
    let hidden = Path::new("/run/bmapfs.mounts");
    is_refused(&hidden.join("report.json"), 1);
    let link = scene.path("link");
    symlink(hidden, &link).unwrap();
    is_refused(&link.join("report.json"), 1);
    assert_eq!(fs::read_dir(hidden).unwrap().count(), 0);
}

/// A file beside those of others in a directory that a unit of systemd may have made; it goes when this is dropped.
struct Runtime(PathBuf);

impl Drop for Runtime {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[test]
fn a_report_in_the_directory_of_a_unit() {
    let scene = Scene::new();
    let mut case = Case::new(&scene);
    fs::create_dir_all("/run/bmapfs").unwrap();
    let name = format!("/run/bmapfs/test-{}.json", std::process::id());
    let file = Runtime(name.into());
    case.file.clone_from(&file.0);
    let first = case.run("").arg("true").run();
    let first = case.after(&first).to_string();
    // The command sees the last one.
    let seen = case.run("").arg("cat").arg(&file.0).ok();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen.to_string(), first);
}

#[test]
fn a_report_of_the_reverse_has_no_count_that_nobody_makes() {
    let scene = Scene::new();
    let case = Case::new(&scene);
    let backup = scene.dir("backup");
    case.rig.sync_well(&backup);
    let run = scene.bmapfs().arg("run").words(&case.options(""));
    let run = run.arg(&backup).words("-- cmp {}/image");
    let outcome = run.arg(&case.rig.source).run();
    let report = case.after(&outcome);
    assert_eq!(report["task"], "run");
    assert_eq!(fields(&report, ["blocks", "status"]), [BLOCKS, 0].map(Some));
    let names = ["unreadable", "bytes_served", "written_meanwhile", "changed"];
    for name in names {
        assert_eq!(report[name], Value::Null, "{name}: {report}");
    }
}

#[test]
fn a_report_replaces_an_older_one_as_a_whole_and_nothing_else() {
    let scene = Scene::new();
    let mut case = Case::new(&scene);
    fs::write(&case.file, b"").unwrap();
    case.run("").arg("true").ok();
    let before = fs::read(&case.file).unwrap();
    let inode = fs::metadata(&case.file).unwrap().ino();
    // Until the end it is the old one; and a link stays one.
    let link = scene.path("link.json");
    symlink(&case.file, &link).unwrap();
    let real = std::mem::replace(&mut case.file, link);
    let script = "cat \"$1\"";
    let run = case.run("").args(["sh", "-c", script, "sh"]).arg(&real);
    assert_eq!(run.ok().into_bytes(), before);
    assert!(fs::symlink_metadata(&case.file).unwrap().is_symlink());
    assert_ne!(fs::metadata(&real).unwrap().ino(), inode);
    assert_ne!(fs::read(&real).unwrap(), before);
    // What comes to its place meanwhile is not a report.
    let script = "echo precious > \"$1\"";
    let run = case.run("").args(["sh", "-c", script, "sh"]).arg(&real);
    let outcome = run.run();
    assert_eq!(outcome.code(), 2, "{outcome:#?}");
    assert!(outcome.stderr.contains("writing the report"));
    assert_eq!(fs::read(&real).unwrap(), b"precious\n");
    let run = case.rig.run("-q").arg("true");
    assert_eq!(run.run().code(), 0, "the harness");
}
