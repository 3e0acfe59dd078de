//! Locks against locks: our own, QEMU's and flock(1)'s.

use std::fs::OpenOptions;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::testing::{LoopDevice, Mounted, Running, output, run, wait_for};
use super::*;

struct Image {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        Self::at(directory, path)
    }

    /// A file at this path, or what is there already.
    fn at(directory: tempfile::TempDir, path: PathBuf) -> Self {
        if !path.exists() {
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
        }
        Self { directory, path }
    }

    /// Opens the image anew and takes locks. The open file, and the conflicts as text.
    fn acquire(&self, intent: Intent, resize: bool) -> (File, Vec<String>) {
        let file = OpenOptions::new()
            .read(true)
            .write(intent == Intent::Write)
            .open(&self.path)
            .unwrap();
        let patience = Duration::from_millis(500);
        let conflicts = acquire_within(patience, &file, intent, resize).unwrap();
        (file, conflicts.iter().map(ToString::to_string).collect())
    }

    /// Takes locks that must be free. Tries again, because a process that another test is just starting has
    /// a copy of every descriptor for a moment.
    fn acquire_free(&self, intent: Intent, resize: bool) -> File {
        let mut acquired = None;
        wait_for("the lock", || {
            let (file, conflicts) = self.acquire(intent, resize);
            acquired = conflicts.is_empty().then_some(file);
            acquired.is_some()
        });
        acquired.unwrap()
    }

    fn qemu_io(&self, arguments: &[&str]) -> bool {
        let mut all = vec!["-f", "raw"];
        all.extend(arguments);
        all.push(self.path.to_str().unwrap());
        output("qemu-io", &all).status.success()
    }

    /// A qemu-nbd that has the image open.
    fn qemu_nbd(&self, arguments: &[&str]) -> Running {
        let socket = self.directory.path().join("socket");
        let mut all = vec![
            "--persistent",
            "--format=raw",
            "--socket",
            socket.to_str().unwrap(),
        ];
        all.extend(arguments);
        all.push(self.path.to_str().unwrap());
        let nbd = Running::start("qemu-nbd", &all);
        // The socket is there before the image is open, and its locks come and go until a client is answered.
        let url = format!("nbd+unix:///?socket={}", socket.display());
        wait_for("an answer of qemu-nbd", || {
            let asked = std::process::Command::new("qemu-img")
                .args(["info", &url])
                .output();
            asked.is_ok_and(|answer| answer.status.success())
        });
        nbd
    }
}

#[test]
fn any_number_reads_and_one_writes() {
    let image = Image::new();
    let readers = (
        image.acquire_free(Intent::Read, false),
        image.acquire_free(Intent::Read, false),
    );
    let (_, conflicts) = image.acquire(Intent::Write, false);
    assert_eq!(conflicts, ["another process holds an flock on it"]);
    drop(readers);

    let writer = image.acquire_free(Intent::Write, true);
    for intent in [Intent::Write, Intent::Read] {
        let (_, conflicts) = image.acquire(intent, false);
        assert_eq!(
            conflicts[0],
            "another process has it open for writing (QEMU lock)"
        );
    }
    drop(writer);
    image.acquire_free(Intent::Write, false);
}

#[test]
fn a_short_lock_is_waited_for() {
    let image = Image::new();
    let (reader, _) = image.acquire(Intent::Read, false);
    let thread = std::thread::spawn(move || {
        sleep(Duration::from_millis(200));
        drop(reader);
    });
    assert!(image.acquire(Intent::Write, false).1.is_empty());
    thread.join().unwrap();
}

#[test]
#[ignore = "needs qemu-utils, as make test has them"]
fn a_conflict_leaves_only_a_readers_locks() {
    let image = Image::new();
    let nbd = image.qemu_nbd(&[]);
    let (ours, conflicts) = image.acquire(Intent::Write, true);
    assert_eq!(
        conflicts,
        [format!(
            "qemu-nbd (process {}) has it open for writing (QEMU lock)",
            nbd.id()
        )]
    );
    let (theirs, _) = image.acquire(Intent::Read, false);
    assert_eq!(
        is_free(&theirs, libc::F_WRLCK, READS, 1).unwrap(),
        Some(false)
    );
    drop(nbd);
    for byte in [WRITES, RESIZES, FORBIDS_WRITING, FORBIDS_RESIZING] {
        assert_eq!(
            is_free(&theirs, libc::F_WRLCK, byte, 1).unwrap(),
            Some(true),
            "{byte}"
        );
    }
    drop(ours);
}

#[test]
#[ignore = "needs qemu-utils, as make test has them"]
fn qemu_that_writes_is_named_and_qemu_that_reads_is_let_be() {
    let image = Image::new();
    let nbd = image.qemu_nbd(&[]);
    let writes = [format!(
        "qemu-nbd (process {}) has it open for writing (QEMU lock)",
        nbd.id()
    )];
    assert_eq!(image.acquire(Intent::Write, false).1, writes);
    assert_eq!(image.acquire(Intent::Read, false).1, writes);
    drop(nbd);

    let image = Image::new();
    let nbd = image.qemu_nbd(&["--read-only"]);
    assert!(image.acquire(Intent::Read, false).1.is_empty());
    assert!(image.acquire(Intent::Write, false).1.is_empty());
    let resizes = [format!(
        "qemu-nbd (process {}) lets nobody else change its size (QEMU lock)",
        nbd.id()
    )];
    assert_eq!(image.acquire(Intent::Write, true).1, resizes);
}

#[test]
#[ignore = "needs qemu-utils, as make test has them"]
fn qemu_writes_what_we_read_but_not_what_we_write() {
    let image = Image::new();
    let reader = image.acquire_free(Intent::Read, false);
    assert!(image.qemu_io(&["-c", "write 0 512"]));
    drop(reader);
    let writer = image.acquire_free(Intent::Write, false);
    assert!(!image.qemu_io(&["-c", "write 0 512"]));
    assert!(image.qemu_io(&["-r", "-c", "read 0 512"]));
    drop(writer);
    wait_for("the end of our lock", || {
        image.qemu_io(&["-c", "write 0 512"])
    });
}

#[test]
#[ignore = "needs root and loop devices, as make test has them"]
fn holders_are_named_where_stat_and_the_kernel_name_devices_differently() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let point = directory.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    run("mkfs.btrfs", &["-q", disk.to_str().unwrap()]);
    let device = LoopDevice::on(&disk, &[]);
    let mounted = Mounted::at(&point, &[device.path().to_str().unwrap()]);
    let subvolume = point.join("subvolume");
    run(
        "btrfs",
        &["-q", "subvolume", "create", subvolume.to_str().unwrap()],
    );
    let image = Image::at(tempfile::tempdir().unwrap(), subvolume.join("image"));
    let nbd = image.qemu_nbd(&[]);
    let name = format!("qemu-nbd (process {})", nbd.id());
    let found = image.acquire(Intent::Read, false).1;
    drop((nbd, mounted, device));
    assert_eq!(
        found,
        [format!("{name} has it open for writing (QEMU lock)")]
    );
}

#[test]
#[ignore = "needs root and loop devices, as make test has them"]
fn block_devices_have_the_same_locks() {
    let file = Image::new();
    let device = LoopDevice::on(&file.path, &[]);
    let image = Image::at(tempfile::tempdir().unwrap(), device.path().to_owned());
    let nbd = image.qemu_nbd(&[]);
    let expected = [format!(
        "qemu-nbd (process {}) has it open for writing (QEMU lock)",
        nbd.id()
    )];
    assert_eq!(image.acquire(Intent::Write, false).1, expected);
    drop(nbd);
    let writer = image.acquire_free(Intent::Write, false);
    assert!(!image.qemu_io(&["-c", "write 0 512"]));
    drop(writer);
}

#[test]
fn whoever_holds_an_flock_is_named() {
    for (option, writer, reader) in [
        ("--exclusive", Some("exclusive"), Some("exclusive")),
        ("--shared", Some("shared"), None),
    ] {
        let image = Image::new();
        let path = image.path.to_str().unwrap();
        let holder = Running::start("flock", &[option, "--no-fork", path, "sleep", "60"]);
        let comm = format!("/proc/{}/comm", holder.id());
        wait_for("flock", || {
            std::fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n")
        });
        for (intent, kind) in [(Intent::Write, writer), (Intent::Read, reader)] {
            let expected: Vec<_> = kind
                .map(|kind| {
                    let article = if kind == "exclusive" { "an" } else { "a" };
                    format!(
                        "sleep (process {}) holds {article} {kind} flock on it",
                        holder.id()
                    )
                })
                .into_iter()
                .collect();
            assert_eq!(
                image.acquire(intent, false).1,
                expected,
                "{option} {intent:?}"
            );
        }
    }
}

#[test]
fn an_exclusive_fcntl_lock_anywhere_is_a_conflict() {
    let image = Image::new();
    let holder = OpenOptions::new().write(true).open(&image.path).unwrap();
    for byte in [0, WRITES, FORBIDS_WRITING, 1 << 40] {
        assert_eq!(set(&holder, libc::F_WRLCK, byte).unwrap(), Taken::Yes);
        for intent in [Intent::Read, Intent::Write] {
            let conflicts = image.acquire(intent, false).1;
            assert_eq!(
                conflicts,
                ["another process holds an exclusive lock on it (fcntl lock)"],
                "{byte}"
            );
        }
        set(&holder, libc::F_UNLCK, byte).unwrap();
    }
}

#[test]
fn a_file_without_locks_has_no_conflicts() {
    // A descriptor that is only a place in the file system has no locks: EBADF, which is no such answer.
    let image = Image::new();
    let path = nix::fcntl::open(&image.path, OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap();
    assert!(acquire(&File::from(path), Intent::Read, false).is_err());
    // What file systems without locks answer.
    for errno in [
        Errno::ENOLCK,
        Errno::EOPNOTSUPP,
        Errno::EINVAL,
        Errno::ENOSYS,
    ] {
        assert!(is_unsupported(errno));
    }
    assert!(!is_unsupported(Errno::EBADF));
}

#[test]
fn holders_are_named_once_and_counted_past_three() {
    let lock = |process, kind, exclusive, start, last| HeldLock {
        process,
        name: format!("p{process}"),
        kind,
        exclusive,
        start,
        last,
    };
    let text = |obstacles: &[Obstacle], locks: &[HeldLock]| {
        name_holders(obstacles, locks)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let writer = [
        lock(1, LockKind::Flock, true, 0, u64::MAX),
        lock(1, LockKind::Range, false, 100, 101),
        lock(1, LockKind::Range, false, 201, 201),
        lock(2, LockKind::Range, false, 100, 100),
    ];
    let all = [
        Obstacle::Byte(WRITES),
        Obstacle::Byte(FORBIDS_WRITING),
        Obstacle::Flock(Intent::Write),
    ];
    assert_eq!(
        text(&all, &writer),
        ["p1 (process 1) has it open for writing (QEMU lock)"]
    );
    assert_eq!(text(&all, &[]).len(), 3);

    let readers: Vec<_> = (1..=5)
        .map(|process| lock(process, LockKind::Flock, false, 0, u64::MAX))
        .collect();
    let sentences = text(&[Obstacle::Flock(Intent::Write)], &readers);
    assert_eq!(sentences.len(), 4);
    assert_eq!(sentences[0], "p1 (process 1) holds a shared flock on it");
    assert_eq!(sentences[3], "2 more processes hold locks on it");
    assert_eq!(
        text(&[Obstacle::Flock(Intent::Write)], &readers[..4]).len(),
        4
    );
    assert_eq!(text(&[Obstacle::Flock(Intent::Read)], &readers).len(), 1);
}
