//! Mounting and unmounting: how the file system gets its place in the directory tree.
//!
//! Invariant: bmapfs unmounts only what it has mounted, known by its device number, and never asks its own
//! mount anything (a stat of it would wait for ourselves): all knowledge is /proc/self/mountinfo's. This
//! module hands out a /dev/fuse descriptor and must not know the protocol spoken on it.

mod fusermount;
mod options;
mod point;
mod program;
mod utab;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::unistd::{getegid, geteuid};

use crate::exit::{self, Failure, Status};
use crate::sys;
use crate::sys::device::DeviceNumber;
use crate::sys::mountinfo::Table;

pub(crate) use program::find as find_program;

/// The type that mountinfo shows for all our mounts.
pub(crate) const FS_TYPE: &str = "fuse.bmapfs";

const DEVICE: &str = "/dev/fuse";
/// What mount(2) copies of its data and of its source, with the NUL at the end: a page and `PATH_MAX`.
const KERNEL_STRING: usize = 4096;

/// What to mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Shown as the source: SRC's canonical path, or what `fsname=` says. Any bytes but NUL.
    pub source: &'a OsStr,
    /// Where; as [`check_mountpoint`] gave it.
    pub mountpoint: &'a Path,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
    /// Everything else that the kernel is told.
    pub kernel: &'a crate::config::KernelConfig,
}

/// A mount that this process has made, or (`/dev/fd/N`) was handed. Dropping it does not unmount.
#[derive(Debug)]
pub(crate) struct Mount {
    mountpoint: PathBuf,
    device: Option<DeviceNumber>,
}

/// How an attempt to unmount ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The mount is gone.
    Unmounted,
    /// It was gone already.
    NotMounted,
    /// It was in use, and is detached: out of the directory tree now, gone when its last user has ended.
    Detached,
    /// Nothing was done, because another mount lies on top, or hides it: this one.
    Covered(String),
}

/// Checks a mount point and gives its canonical path: it exists, is a directory, may be used by the caller,
/// neither holds the source nor lies in it, and does not already show `source`. `/dev/fd/N` passes as it is.
/// A refusal is [`Status::Usage`] if it is one of permission, else [`Status::MountFailed`].
pub(crate) fn check_mountpoint(mountpoint: &Path, source: &Path) -> exit::Result<PathBuf> {
    point::check(mountpoint, source)
}

/// Mounts, and returns the /dev/fuse descriptor (close-on-exec, number above 2) on which the kernel now waits
/// for its first answer. Root calls mount(2); a user is helped by fusermount3. For `/dev/fd/N`, which the
/// caller has mounted already, nothing is mounted.
pub(crate) fn mount(request: &Request<'_>) -> exit::Result<(OwnedFd, Mount)> {
    if let Some(number) = point::descriptor_number(request.mountpoint) {
        let descriptor = adopt(number).map_err(|error| {
            let shown = request.mountpoint.display();
            Failure::usage(format!(
                "mount point {shown}: not an open {DEVICE} descriptor: {}",
                reason(&error)
            ))
        })?;
        let device = connection_of(&descriptor);
        return Ok((
            descriptor,
            Mount {
                mountpoint: request.mountpoint.to_owned(),
                device,
            },
        ));
    }
    // A mount that could not be found again could not be unmounted safely, so this is tried first.
    Table::read().map_err(|error| Failure::new(Status::System, error))?;
    // As a user the descriptor comes from fusermount3, but its errors are clearer from here.
    let device = open_device()?;
    let descriptor = if geteuid().is_root() {
        utab::register(request.source, request.mountpoint);
        mount_as_root(request, &device).inspect_err(|_| utab::forget(request.mountpoint))?;
        device
    } else {
        let options =
            options::fusermount_options(request.source, request.read_only, request.kernel)?;
        fusermount::mount(request.mountpoint, &options)?
    };
    let device = connection_of(&descriptor).or_else(|| find_mounted(request));
    Ok((
        descriptor,
        Mount {
            mountpoint: request.mountpoint.to_owned(),
            device,
        },
    ))
}

/// The name of the thread that a serving process has for as long as the kernel is connected to it: by it
/// umount's helper finds the daemon. At most 15 bytes, as much as the kernel keeps, since the major is 0.
#[must_use]
pub(crate) fn marker_name(device: DeviceNumber) -> String {
    format!("fuse {device}")
}

impl Mount {
    /// The device number of the file system. `None` only if it was unmounted at once by somebody else, or for
    /// `/dev/fd/N` where the kernel does not tell.
    #[must_use]
    pub(crate) fn device(&self) -> Option<DeviceNumber> {
        self.device
    }

    /// Where it was mounted.
    #[must_use]
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether the file system is still mounted anywhere in this process's mount namespace.
    pub(crate) fn is_mounted(&self) -> io::Result<bool> {
        let device = self.known_device()?;
        Ok(Table::read()?.of_device(device).next().is_some())
    }

    /// Ends the mount, for a signal: a busy one is detached, and is to be served until its users have ended.
    /// Never touches somebody else's mount on the same path, nor bind mounts of ours elsewhere.
    pub(crate) fn unmount(&self) -> io::Result<Outcome> {
        let device = self.known_device()?;
        let table = Table::read()?;
        let ours = || table.of_device(device);
        // It may have been moved; then its own path is another.
        let Some(entry) = ours()
            .find(|entry| entry.point == self.mountpoint)
            .or_else(|| ours().next())
        else {
            return Ok(Outcome::NotMounted);
        };
        let top = table.holder(&entry.point);
        if top.is_none_or(|top| top.id != entry.id) {
            let what = top.map_or_else(
                || "a mount that is not shown here".to_owned(),
                ToString::to_string,
            );
            return Ok(Outcome::Covered(what));
        }
        let outcome = match detach(&entry.point, MntFlags::empty()) {
            Ok(()) => Outcome::Unmounted,
            Err(error) if is_errno(&error, Errno::EBUSY) => {
                detach(&entry.point, MntFlags::MNT_DETACH)?;
                Outcome::Detached
            }
            // Somebody was faster.
            Err(_) if !self.is_mounted()? => return Ok(Outcome::NotMounted),
            Err(error) => return Err(error),
        };
        if geteuid().is_root() {
            utab::forget(&entry.point);
        }
        Ok(outcome)
    }

    fn known_device(&self) -> io::Result<DeviceNumber> {
        self.device.ok_or_else(|| {
            io::Error::other(format!(
                "{}: whoever mounted it must unmount it",
                self.mountpoint.display()
            ))
        })
    }
}

/// Unmounts what is topmost at `point`, as root or through fusermount3. A user can ask for `MNT_DETACH` only.
pub(crate) fn detach(point: &Path, flags: MntFlags) -> io::Result<()> {
    if geteuid().is_root() {
        return Ok(umount2(point, flags | MntFlags::UMOUNT_NOFOLLOW)?);
    }
    fusermount::unmount(point, flags.contains(MntFlags::MNT_DETACH))
}

/// Whether an error is the kernel's `errno`.
pub(crate) fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// An error's text without the number that std appends to the kernel's.
pub(crate) fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| Errno::from_raw(code).desc().to_owned(),
    )
}

/// Moves a descriptor out of the range 0 to 2, which belongs to stdio and is overwritten when daemonizing.
fn above_stdio(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    sys::adopt_fd(fcntl(&descriptor, FcntlArg::F_DUPFD_CLOEXEC(3))?)
}

fn open_device() -> exit::Result<OwnedFd> {
    let opened = nix::fcntl::open(DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    opened
        .map_err(io::Error::from)
        .and_then(above_stdio)
        .map_err(|error| {
            let hint = match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
                    ": load the kernel module with `modprobe fuse`"
                }
                Errno::EACCES => ": its permissions should be 0666",
                Errno::EPERM => ": a container must be given the device (--device /dev/fuse)",
                _ => "",
            };
            Failure::new(
                Status::System,
                format!("opening {DEVICE}: {}{hint}", reason(&error)),
            )
        })
}

fn mount_as_root(request: &Request<'_>, device: &OwnedFd) -> exit::Result<()> {
    let flags = options::flags(request.read_only, &request.kernel.flags)?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let data = options::kernel_data(device.as_raw_fd(), user, group, request.kernel);
    let shown = request.mountpoint.display();
    // The kernel would cut the data off without a word.
    if data.len() >= KERNEL_STRING {
        return Err(Failure::usage(format!(
            "mounting {shown}: the mount options are longer than a page"
        )));
    }
    if request.source.len() >= KERNEL_STRING {
        return Err(Failure::usage(format!(
            "mounting {shown}: the source name is longer than 4095 bytes"
        )));
    }
    nix::mount::mount(
        Some(request.source),
        request.mountpoint,
        Some(FS_TYPE),
        flags,
        Some(data.as_os_str()),
    )
    .map_err(|errno| denied_root(&format!("mounting {shown}"), errno))
}

/// What is said when the kernel refuses to `attempt` something with mounts for root.
pub(crate) fn denied_root(attempt: &str, errno: Errno) -> Failure {
    let (status, hint) = match errno {
        Errno::EPERM => (
            Status::Usage,
            ": this process lacks the capability CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN)",
        ),
        Errno::EACCES => (
            Status::Usage,
            ": a security module such as AppArmor or SELinux may forbid it",
        ),
        Errno::ENODEV => (
            Status::System,
            ": the kernel has no FUSE; `modprobe fuse` loads it",
        ),
        Errno::EINVAL => (
            Status::MountFailed,
            ": the kernel does not know one of the mount options",
        ),
        Errno::ENOMEM => (Status::System, ""),
        _ => (Status::MountFailed, ""),
    };
    Failure::new(status, format!("{attempt}: {}{hint}", errno.desc()))
}

/// Takes over /dev/fuse that the caller has opened and mounted.
fn adopt(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(Errno::EBADF.into());
    }
    let descriptor = sys::adopt_fd(number)?;
    let rdev = fstat(&descriptor)?.st_rdev;
    // The numbers of /dev/fuse, fixed in the kernel's list of devices.
    if (major(rdev), minor(rdev)) != (10, 229) {
        return Err(Errno::ENODEV.into());
    }
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}

/// Which file system a /dev/fuse descriptor serves, on kernels that show it in fdinfo.
fn connection_of(descriptor: &OwnedFd) -> Option<DeviceNumber> {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).ok()?;
    parse_connection(&text)
}

fn parse_connection(fdinfo: &str) -> Option<DeviceNumber> {
    let number = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    let number: u64 = number.trim().parse().ok()?;
    // The kernel's own form of a device number: 20 bits of minor.
    Some(DeviceNumber {
        major: number >> 20,
        minor: number & 0xf_ffff,
    })
}

/// The mount that was just made: the highest of its kind, should somebody have mounted over it meanwhile.
fn find_mounted(request: &Request<'_>) -> Option<DeviceNumber> {
    let table = Table::read().ok()?;
    let mut stack = table.stack(request.mountpoint).into_iter().rev();
    stack
        .find(|entry| entry.fs_type == FS_TYPE && entry.source == request.source)
        .map(|entry| entry.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_fits_a_thread_name() {
        let name = marker_name(DeviceNumber {
            major: 0,
            minor: 57,
        });
        assert_eq!(name, "fuse 0:57");
        assert!(
            marker_name(DeviceNumber {
                major: 0,
                minor: 0xf_ffff
            })
            .len()
                <= 15
        );
    }

    #[test]
    fn fdinfo_tells_the_connection_or_not() {
        for (text, device) in [
            (
                "pos:\t0\nfuse_connection:\t57\n",
                Some(DeviceNumber {
                    major: 0,
                    minor: 57,
                }),
            ),
            (
                "fuse_connection:\t1048577\n",
                Some(DeviceNumber { major: 1, minor: 1 }),
            ),
            ("pos:\t0\n", None),
            ("fuse_connection:\tx\n", None),
        ] {
            assert_eq!(parse_connection(text), device, "{text}");
        }
    }

    #[test]
    fn only_fuse_descriptors_are_adopted() {
        for number in [0, 2, 9999] {
            assert!(
                is_errno(&adopt(number).unwrap_err(), Errno::EBADF),
                "{number}"
            );
        }
        let scratch = std::os::fd::IntoRawFd::into_raw_fd(tempfile::tempfile().unwrap());
        assert!(is_errno(&adopt(scratch).unwrap_err(), Errno::ENODEV));
    }

    #[test]
    fn reasons_have_no_numbers() {
        assert_eq!(reason(&Errno::ENOENT.into()), "No such file or directory");
        assert_eq!(reason(&io::Error::other("why")), "why");
    }
}
