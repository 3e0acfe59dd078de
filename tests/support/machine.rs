//! The machine that the tests run on: users, /dev/fuse, mounts, processes, loop devices.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::sys::signal::Signal;

use super::command::tool;

/// Name of the ordinary user that the tests make if the machine has none of that name.
pub(crate) const USER: &str = "bmapfs-test";

/// Who runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    Root,
    /// The tests' own user.
    User,
    /// Somebody else, without rights.
    Nobody,
}

static USER_IDS: LazyLock<(u32, u32)> = LazyLock::new(|| {
    let known = || nix::unistd::User::from_name(USER).unwrap();
    if known().is_none() {
        // The password "*" cannot be typed, but unlike "!" leaves the account open for keys.
        tool("useradd")
            .words("--system --no-create-home --home-dir / --shell /bin/sh --password *")
            .arg(USER)
            .run();
    }
    let user = known().unwrap_or_else(|| panic!("useradd has made no user {USER}"));
    (user.uid.as_raw(), user.gid.as_raw())
});

static FUSE: LazyLock<()> = LazyLock::new(|| {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests mount and set up loop devices: run them as root"
    );
    start_as_usual();
    fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666))
        .expect("/dev/fuse must be there");
    // As systemd has it: where mounts are private, a namespace that one test makes keeps every mount that was there,
    // also when another test unmounts it.
    tool("mount").words("--make-rshared /").run();
});

/// Begins again if these tests were started with signals ignored, as by nohup(1) or in the background of a script: what
/// they start would ignore them, too. So early that nothing else has been done.
fn start_as_usual() {
    // Those that have names, without PIPE, which is ignored in every Rust program.
    const NAMED: u64 = (1 << 31) - 1 - (1 << (Signal::SIGPIPE as u64 - 1));
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    if u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap() & NAMED == 0 {
        return;
    }
    let mut again = std::process::Command::new("env");
    again
        .arg("--default-signal")
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1));
    panic!("env: {}", again.exec());
}

/// Checks, once, that the machine can run the tests at all.
pub(crate) fn prepare() {
    LazyLock::force(&FUSE);
}

impl Identity {
    /// User and group; `None` for root.
    pub(crate) fn ids(self) -> Option<(u32, u32)> {
        match self {
            Self::Root => None,
            Self::User => Some(*USER_IDS),
            Self::Nobody => Some((65534, 65534)),
        }
    }

    /// Makes this user the owner of a file.
    pub(crate) fn own(self, path: &Path) {
        let (uid, gid) = self.ids().unwrap_or((0, 0));
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// Which Debian package has a program, as the end of an error message.
pub(crate) fn package_of(program: &OsStr) -> String {
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let package = match &*name {
        "rsync" | "fio" | "strace" | "tar" | "passwd" | "restic" | "rclone" | "mandoc"
        | "mmdebstrap" | "lintian" | "make" => &*name,
        "borg" => "borgbackup",
        "systemd-nspawn" => "systemd-container",
        "script" => "bsdutils",
        "sfdisk" => "fdisk",
        "bmaptool" => "bmap-tools",
        "mkfs.ext4" | "e2fsck" => "e2fsprogs",
        "mkfs.xfs" | "xfs_io" => "xfsprogs",
        "mkfs.btrfs" => "btrfs-progs",
        "mksquashfs" => "squashfs-tools",
        "qemu-img" | "qemu-io" | "qemu-nbd" => "qemu-utils",
        "thin_restore" | "thin_delta" | "era_restore" | "era_invalidate" => {
            "thin-provisioning-tools"
        }
        "nbdinfo" => "libnbd-bin",
        "virsh" => "libvirt-clients",
        "libvirtd" | "virtlogd" => "libvirt-daemon-system",
        "ssh" | "ssh-keygen" => "openssh-client",
        "sshd" => "openssh-server",
        "useradd" => "passwd",
        "fusermount3" => "fuse3",
        "b3sum" => "b3sum",
        "cmp" => "diffutils",
        "mount" | "umount" | "losetup" => "mount",
        "mkswap" | "swapon" | "swapoff" | "flock" | "findmnt" | "blockdev" | "addpart"
        | "unshare" | "nsenter" | "setpriv" | "blkdiscard" => "util-linux",
        "fincore" => "util-linux-extra",
        _ => return String::new(),
    };
    format!(": apt-get install {package}")
}

/// A line of mountinfo.
#[derive(Debug, Clone)]
pub(crate) struct MountEntry {
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: OsString,
    /// Options of the mount, then of the file system.
    pub(crate) options: Vec<String>,
}

/// The mounts in the mount namespace of a process ("self" for one's own), in the order of mounting.
pub(crate) fn mounts_of(process: &str) -> Vec<MountEntry> {
    let text = fs::read(format!("/proc/{process}/mountinfo")).unwrap();
    text.split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(parse_mount)
        .collect()
}

/// The mounts on exactly this path, lowest first.
pub(crate) fn mounts_at(point: &Path) -> Vec<MountEntry> {
    mounts_of("self")
        .into_iter()
        .filter(|m| m.point == point)
        .collect()
}

fn parse_mount(line: &[u8]) -> MountEntry {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-").unwrap();
    let text = |i: usize| String::from_utf8_lossy(fields[i]).into_owned();
    let options = [text(5), text(dash + 3)]
        .join(",")
        .split(',')
        .map(str::to_owned)
        .collect();
    MountEntry {
        point: unescape(fields[4]).into(),
        kind: text(dash + 1),
        source: unescape(fields[dash + 2]),
        options,
    }
}

/// Undoes the kernel's octal escapes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

/// The processes of a program called bmapfs that have `text` in their command line.
pub(crate) fn daemons_with(text: &OsStr) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| is_daemon(*pid, text))
        .collect()
}

/// The command lines of all processes with `text` in it.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// Whether `pid` is a process of a program called bmapfs with `text` in its command line.
pub(crate) fn is_daemon(pid: u32, text: &OsStr) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().as_bytes();
    name.starts_with(b"bmapfs") && line.windows(text.len()).any(|w| w == text.as_bytes())
}

/// The loop devices, as `/dev/loopN`, whose files lie below `dir`.
pub(crate) fn loops_below(dir: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block")
        .unwrap()
        .map(|entry| entry.unwrap());
    devices
        .filter(|device| {
            let backing = fs::read(device.path().join("loop/backing_file")).unwrap_or_default();
            backing.starts_with(dir.as_os_str().as_bytes())
        })
        .map(|device| Path::new("/dev").join(device.file_name()))
        .collect()
}
