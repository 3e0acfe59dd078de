//! What umount(8) calls: unmounts, and returns when the daemon has ended, so that all is on disk then.
//!
//! Invariant: the mount itself is never asked anything, since its daemon may be dead or stuck. Only a process
//! of the user who made the mount is waited for. This module must not know how the daemon ends.

mod daemon;
mod users;

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::unistd::geteuid;

use super::mount::{FS_TYPE, detach, is_errno, reason};
use crate::config::UmountConfig;
use crate::exit::{self, Failure, Status};
use crate::sys::device::DeviceNumber;
use crate::sys::links::resolve;
use crate::sys::mountinfo::{MountEntry, Table};

use daemon::{Daemon, Ending};

/// Unmounts the topmost mount at the path, which must be ours, and unless asked to be lazy waits for its
/// daemon's end. Refusals: [`Status::MountFailed`], of permission [`Status::Usage`].
pub fn helper(config: &UmountConfig) -> exit::Result<()> {
    let shown = config.mountpoint.display();
    let failed =
        |status: Status, why: String| Failure::new(status, format!("unmounting {shown}: {why}"));

    let point =
        resolve(&config.mountpoint).map_err(|error| failed(Status::MountFailed, reason(&error)))?;
    let table = Table::read().map_err(|error| failed(Status::System, error.to_string()))?;
    let entry = match table.topmost(&point) {
        None => return Err(failed(Status::MountFailed, "not mounted".to_owned())),
        Some(entry) if entry.fs_type != FS_TYPE => {
            return Err(failed(
                Status::MountFailed,
                format!("it is {entry}, not a mount of bmapfs"),
            ));
        }
        Some(entry) => entry,
    };
    let user = geteuid();
    match entry.owner() {
        Some(owner) if !user.is_root() && owner != user.as_raw() => {
            return Err(failed(
                Status::Usage,
                format!("user {owner} mounted it, so only that user and root may"),
            ));
        }
        _ => {}
    }

    // Found before, since afterwards nothing tells which process it was.
    let daemon = if config.lazy {
        None
    } else {
        Daemon::find(entry)
    };
    unmount(&point, entry, config).map_err(|error| match () {
        () if is_errno(&error, Errno::EBUSY) => failed(Status::MountFailed, busy(&point)),
        () if is_errno(&error, Errno::EPERM) => failed(Status::Usage, reason(&error)),
        () => failed(Status::MountFailed, reason(&error)),
    })?;
    log::info!("{shown}: unmounted");

    let Some(daemon) = daemon else { return Ok(()) };
    match daemon.wait() {
        Ok(Ending::Ended) => {}
        Ok(Ending::StillServing) => {
            log::info!("{shown}: the file system is still mounted elsewhere");
        }
        Ok(Ending::NotYet(user)) => log::warn!(
            "{shown}: process {} of user {user} has not ended yet and is not waited for any longer; what it has to \
             write may not be on disk",
            daemon.pid()
        ),
        Err(error) => log::warn!(
            "{shown}: waiting for the daemon, process {}: {}",
            daemon.pid(),
            reason(&error)
        ),
    }
    Ok(())
}

fn unmount(point: &Path, entry: &MountEntry, config: &UmountConfig) -> io::Result<()> {
    let mut flags = MntFlags::empty();
    flags.set(MntFlags::MNT_DETACH, config.lazy);
    if config.force {
        if geteuid().is_root() {
            flags |= MntFlags::MNT_FORCE;
        } else {
            abort(entry.device)?;
        }
    }
    detach(point, flags)
}

/// What `MNT_FORCE` does, for a user: every request that the daemon has not answered fails, and all later ones.
fn abort(device: DeviceNumber) -> io::Result<()> {
    let file = format!("/sys/fs/fuse/connections/{}/abort", device.minor);
    std::fs::write(&file, "1").map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("forcing it by {file}: {}", reason(&error)),
        )
    })
}

fn busy(point: &Path) -> String {
    let users = users::find(point);
    if users.is_empty() {
        return "target is busy; `fuser -vm` shows who uses it, `umount -l` detaches it".to_owned();
    }
    format!("target is busy: used by {}", users.join(", "))
}
