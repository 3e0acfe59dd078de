//! `bmapfs --check`: what this machine has of all that bmapfs can use, and what to do for the rest.
//!
//! Nothing stays changed: the mount and the files that are tried are gone at the end.

use std::fmt;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;
use nix::unistd::{AccessFlags, access, geteuid};

use super::run::enter_private_namespace;
use crate::config::KernelConfig;
use crate::exit::{Failure, OrFail, Result, Status};
use crate::fuse;
use crate::host::mount::{self, find_program};
use crate::one_line::one_line;
use crate::snapshot::{self, Reflinks};

const DEVICE: &str = "/dev/fuse";
/// Its numbers, major and minor.
const FUSE: (u64, u64) = (10, 229);
const FUSE_CONF: &str = "/etc/fuse.conf";
/// Where mount(8) and umount(8) of Debian look for helpers.
const HELPER_PLACES: [&str; 3] = ["/sbin", "/sbin/fs.d", "/sbin/fs"];
/// Where the helpers look for bmapfs when PATH has no more, as mount(8) leaves it.
const PROGRAM_PLACES: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/// Programs that are looked for in PATH, what they are for, and the Debian package.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("rsync", "copies the block files", "rsync"),
    (
        "virsh",
        "freezes and resumes guests of libvirt",
        "libvirt-clients",
    ),
    (
        "nbdfuse",
        "shows what an NBD server has as a file",
        "libnbd-bin",
    ),
];
const SET_USER_ID: u32 = 0o4000;

/// What is to be said of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is there.
    Ok(String),
    /// It is not, and the caller cannot mount without it.
    Missing(String),
    /// It is not, and something can be done without it.
    Optional(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match self {
            Self::Ok(text) => ("ok", text),
            Self::Missing(text) => ("missing", text),
            Self::Optional(text) => ("optional", text),
        };
        write!(f, "{word:<9} {}", one_line(text))
    }
}

/// Prints a line for each thing, and one for reflinks in each of `directories`. Must be called before the first thread.
///
/// # Errors
/// System: something is missing without which the caller cannot mount.
pub fn check(directories: &[PathBuf], out: &mut impl Write) -> Result<Status> {
    let is_root = geteuid().is_root();
    let mut states = vec![a_mount(is_root), device(), fusermount(is_root), others()];
    states.extend(["mount", "umount.fuse"].map(helper));
    states.push(program());
    states.extend(PROGRAMS.map(|(name, purpose, package)| in_path(name, purpose, package)));
    states.extend(directories.iter().map(|directory| reflinks(directory)));
    for state in &states {
        writeln!(out, "{state}").or_fail(Status::System, || "writing to stdout")?;
    }
    let is_missing = |state: &State| matches!(state, State::Missing(_));
    if states.iter().any(is_missing) {
        let who = if is_root { "root" } else { "this user" };
        return Err(Failure::new(
            Status::System,
            format!("{who} cannot mount here: see the lines that begin with \"missing\""),
        ));
    }
    Ok(Status::Success)
}

/// Makes a mount and ends it, which is the one way to know that it works, and to hear the kernel's version of FUSE.
fn a_mount(is_root: bool) -> State {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match try_mount(is_root) {
        Ok((major, minor)) => State::Ok(format!(
            "a mount can be made: FUSE {major}.{minor} of Linux {}",
            release.trim()
        )),
        Err(failure) => State::Missing(format!("no mount can be made: {failure}")),
    }
}

fn try_mount(is_root: bool) -> Result<(u32, u32)> {
    if is_root {
        enter_private_namespace()?;
    }
    let attempt = || "making a mount point in the directory for temporary files";
    let directory = tempfile::tempdir().or_fail(Status::System, attempt)?;
    let point = std::fs::canonicalize(directory.path()).or_fail(Status::System, attempt)?;
    let request = mount::Request {
        source: "bmapfs --check".as_ref(),
        mountpoint: &point,
        read_only: true,
        kernel: &KernelConfig::default(),
    };
    let (device, mounted) = mount::mount(&request)?;
    let version = fuse::kernel_version(&device);
    // Now nobody waits for an answer.
    drop(device);
    mounted
        .unmount()
        .or_fail(Status::System, || "ending the mount")?;
    version.or_fail(Status::System, || "reading the kernel's first request")
}

fn device() -> State {
    let found = std::fs::metadata(DEVICE);
    let is_fuse = |found: &Metadata| {
        found.file_type().is_char_device() && found.rdev() == makedev(FUSE.0, FUSE.1)
    };
    let Some(found) = found.ok().filter(is_fuse) else {
        return State::Missing(format!(
            "{DEVICE} is not there: modprobe fuse, or give the container the device"
        ));
    };
    let mode = found.mode() & 0o777;
    if access(DEVICE, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
        return State::Missing(format!(
            "{DEVICE} is not open to you (mode {mode:04o}): chmod 0666 {DEVICE}, as root"
        ));
    }
    if mode & 0o006 == 0o006 {
        State::Ok(format!("{DEVICE} is open to every user"))
    } else {
        State::Optional(format!(
            "{DEVICE} is not open to every user (mode {mode:04o}): chmod 0666 {DEVICE} lets them mount"
        ))
    }
}

/// Users cannot do without it, root can.
fn fusermount(is_root: bool) -> State {
    let lacking = |text: String| {
        if is_root {
            State::Optional(format!("{text}; only root can mount"))
        } else {
            State::Missing(text)
        }
    };
    let Some(path) = find_program("fusermount3") else {
        return lacking("fusermount3 is not there: apt install fuse3".to_owned());
    };
    let shown = path.display();
    let rights = std::fs::metadata(&path).map(|found| (found.mode() & SET_USER_ID, found.uid()));
    match rights {
        Ok((SET_USER_ID, 0)) => State::Ok(format!("{shown}: every user can mount")),
        _ => lacking(format!(
            "{shown} is not set-user-ID root: apt install --reinstall fuse3"
        )),
    }
}

/// Whether users may show their mounts to others.
fn others() -> State {
    let text = std::fs::read_to_string(FUSE_CONF).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return State::Ok(format!(
            "user_allow_other in {FUSE_CONF}: users may show their mounts to others"
        ));
    }
    State::Optional(format!(
        "user_allow_other is not in {FUSE_CONF}: without that line only root may show mounts to others"
    ))
}

fn helper(command: &str) -> State {
    let name = format!("{command}.bmapfs");
    let command = command.trim_end_matches(".fuse");
    let found = HELPER_PLACES
        .iter()
        .map(|place| Path::new(place).join(&name))
        .find(|path| is_program(path));
    match found {
        Some(path) => State::Ok(format!("{}: {command}(8) knows bmapfs", path.display())),
        None => State::Optional(format!(
            "{name} is not in /sbin, where {command}(8) looks: install the Debian package, or copy it there from \
             the source, with mode 0755"
        )),
    }
}

/// Whether the helpers find this program.
fn program() -> State {
    let found = PROGRAM_PLACES
        .iter()
        .map(|place| Path::new(place).join("bmapfs"))
        .find(|path| is_program(path));
    if let Some(path) = found {
        return State::Ok(format!("{}: the helpers find it", path.display()));
    }
    let this = std::env::current_exe().unwrap_or_else(|_| "bmapfs".into());
    State::Optional(format!(
        "bmapfs is not where the helpers look: ln -s {} /usr/local/bin/bmapfs",
        this.display()
    ))
}

fn in_path(name: &str, purpose: &str, package: &str) -> State {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|place| place.join(name))
        .find(|path| is_program(path));
    match found {
        Some(path) => State::Ok(format!("{}: {purpose}", path.display())),
        None => State::Optional(format!(
            "{name}, which {purpose}, is not in PATH: apt install {package}"
        )),
    }
}

fn is_program(path: &Path) -> bool {
    let is_executable = |file: &Metadata| file.permissions().mode() & 0o111 != 0;
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && is_executable(&file))
}

fn reflinks(directory: &Path) -> State {
    let shown = directory.display();
    match snapshot::reflinks_in(directory) {
        Ok(Reflinks::Compared) => State::Ok(format!(
            "{shown}: --snapshot works, and the next one reads only what changed"
        )),
        Ok(Reflinks::Cloned) => State::Ok(format!(
            "{shown}: --snapshot works, and reads everything each time: on XFS and Btrfs only what changed"
        )),
        Ok(Reflinks::None) => State::Optional(format!(
            "{shown}: no reflinks, so no --snapshot: put the images on XFS or Btrfs, or use a snapshot of LVM"
        )),
        Err(error) => State::Optional(format!(
            "{shown}: reflinks cannot be tried: {}: name a directory in which you may make files",
            mount::reason(&error)
        )),
    }
}
