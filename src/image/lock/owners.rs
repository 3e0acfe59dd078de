//! Who holds a lock on a file: what /proc tells of other processes' open files.
//!
//! Invariant: a process is named only if it has the very same file open with a lock on it; a process that may
//! not be looked at is left out, so the answer can be incomplete. Nothing is opened but files below /proc.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockKind {
    /// flock(2), on the whole file.
    Flock,
    /// fcntl(2), on a range of bytes; owned by a process or by an open file.
    Range,
}

/// A lock that another process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// Process id.
    pub(super) process: u32,
    /// The process's name as the kernel has it, at most 15 bytes.
    pub(super) name: String,
    /// Kind of lock.
    pub(super) kind: LockKind,
    /// Nobody else can have a lock there.
    pub(super) exclusive: bool,
    /// First byte.
    pub(super) start: u64,
    /// Last byte.
    pub(super) last: u64,
}

/// The locks that other processes hold on `file`, by process id. `proc` is /proc but in tests.
pub(super) fn of(file: &File, proc: &Path) -> Vec<HeldLock> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let wanted = Wanted {
        device: metadata.dev(),
        inode: metadata.ino(),
        kernel_inode: fs::read_to_string(proc.join(format!("self/fdinfo/{}", file.as_raw_fd())))
            .ok()
            .and_then(|text| kernel_inode(&text)),
    };
    let mut processes: Vec<u32> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| *process != std::process::id())
        .collect();
    processes.sort_unstable();
    processes
        .into_iter()
        .flat_map(|process| of_process(proc, process, &wanted))
        .collect()
}

/// The file that is asked about.
struct Wanted {
    device: u64,
    inode: u64,
    /// The inode as fdinfo shows it (Linux 5.14), which on stacked file systems is not what stat(2) says.
    kernel_inode: Option<u64>,
}

fn of_process(proc: &Path, process: u32, wanted: &Wanted) -> Vec<HeldLock> {
    let directory = proc.join(process.to_string());
    let mut held = Vec::new();
    for entry in fs::read_dir(directory.join("fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let locks: Vec<_> = text.lines().filter_map(parse_lock).collect();
        if locks.is_empty() || !is_same(&directory, &entry.file_name(), &text, wanted) {
            continue;
        }
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        held.extend(
            locks
                .into_iter()
                .map(|(kind, exclusive, start, last)| HeldLock {
                    process,
                    name: name.trim_end().to_owned(),
                    kind,
                    exclusive,
                    start,
                    last,
                }),
        );
    }
    held
}

/// Whether a descriptor is of the wanted file. Asks stat(2) and not the device in the lock's line, which on
/// Btrfs and overlayfs is another one; and asks only if the inode fits, since a stat may hang (a dead NFS server).
fn is_same(process: &Path, descriptor: &OsStr, fdinfo: &str, wanted: &Wanted) -> bool {
    if let (Some(theirs), Some(ours)) = (kernel_inode(fdinfo), wanted.kernel_inode) {
        if theirs != ours {
            return false;
        }
    }
    fs::metadata(process.join("fd").join(descriptor))
        .is_ok_and(|theirs| theirs.dev() == wanted.device && theirs.ino() == wanted.inode)
}

fn kernel_inode(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("ino:"))?
        .trim()
        .parse()
        .ok()
}

/// Reads `lock:  1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 100` (or `0 EOF`). `None`: not a lock, or a lease.
fn parse_lock(line: &str) -> Option<(LockKind, bool, u64, u64)> {
    let mut words = line.strip_prefix("lock:")?.split_ascii_whitespace().skip(1);
    let kind = match words.next()? {
        "FLOCK" => LockKind::Flock,
        "POSIX" | "OFDLCK" => LockKind::Range,
        _ => return None,
    };
    let exclusive = words.nth(1)? == "WRITE";
    let start = words.nth(2)?.parse().ok()?;
    let last = match words.next()? {
        "EOF" => u64::MAX,
        last => last.parse().ok()?,
    };
    Some((kind, exclusive, start, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn lock_lines_are_read() {
        for (line, expected) in [
            (
                "lock:\t1: FLOCK  ADVISORY  READ 6280 fe:00:10010839 0 EOF",
                Some((LockKind::Flock, false, 0, u64::MAX)),
            ),
            (
                "lock:\t2: FLOCK  ADVISORY  WRITE 1 00:1b:7 0 EOF",
                Some((LockKind::Flock, true, 0, u64::MAX)),
            ),
            (
                "lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:10010839 100 101",
                Some((LockKind::Range, false, 100, 101)),
            ),
            (
                "lock:\t12: POSIX  ADVISORY  WRITE 77 fe:00:1 0 EOF",
                Some((LockKind::Range, true, 0, u64::MAX)),
            ),
            ("lock:\t1: LEASE  ACTIVE    READ 1 fe:00:1 0 EOF", None),
            ("lock:\t1: FLOCK", None),
            ("lock:", None),
            ("pos:\t0", None),
        ] {
            assert_eq!(parse_lock(line), expected, "{line}");
        }
    }

    #[test]
    fn only_the_same_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path().join("proc");
        let (image, other) = (
            directory.path().join("image"),
            directory.path().join("other"),
        );
        for path in [&image, &other] {
            fs::write(path, "").unwrap();
        }
        let file = File::open(&image).unwrap();
        fs::create_dir_all(proc.join("self/fdinfo")).unwrap();
        fs::write(
            proc.join(format!("self/fdinfo/{}", file.as_raw_fd())),
            "pos:\t0\nino:\t5\n",
        )
        .unwrap();
        let lock = "lock:\t1: FLOCK  ADVISORY  WRITE 1 00:1b:5 0 EOF\n";
        let mine = std::process::id();
        for (process, path, fdinfo) in [
            (4_000_001, &image, format!("ino:\t5\n{lock}")),
            (4_000_002, &other, format!("ino:\t5\n{lock}")),
            (4_000_003, &image, format!("ino:\t6\n{lock}")),
            (4_000_004, &image, "ino:\t5\n".to_owned()),
            (4_000_005, &image, lock.to_owned()),
            (mine, &image, format!("ino:\t5\n{lock}")),
        ] {
            let process = proc.join(process.to_string());
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::create_dir_all(process.join("fdinfo")).unwrap();
            symlink(path, process.join("fd/3")).unwrap();
            fs::write(process.join("fdinfo/3"), fdinfo).unwrap();
            fs::write(process.join("comm"), "some one\n").unwrap();
        }
        let found = of(&file, &proc);
        assert_eq!(
            found.iter().map(|lock| lock.process).collect::<Vec<_>>(),
            [4_000_001, 4_000_005]
        );
        let expected = HeldLock {
            process: 4_000_001,
            name: "some one".to_owned(),
            kind: LockKind::Flock,
            exclusive: true,
            start: 0,
            last: u64::MAX,
        };
        assert_eq!(found[0], expected);
        assert_eq!(of(&file, &directory.path().join("none")), []);
    }
}
