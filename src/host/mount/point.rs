//! Mount points: whether a mount may go there. This module must not know how a mount is made.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::{FS_TYPE, reason};
use crate::exit::{self, Failure, Status};
use crate::sys::links::resolve;
use crate::sys::mountinfo::Table;

/// The number in `/dev/fd/N`, the form in which a caller passes a descriptor that it has mounted already.
pub(super) fn descriptor_number(mountpoint: &Path) -> Option<i32> {
    let number = mountpoint.to_str()?.strip_prefix("/dev/fd/")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok())?
}

/// Checks a mount point and gives its canonical path. See [`super::check_mountpoint`].
pub(super) fn check(mountpoint: &Path, source: &Path) -> exit::Result<PathBuf> {
    if descriptor_number(mountpoint).is_some() {
        return Ok(mountpoint.to_owned());
    }
    if mountpoint.as_os_str().is_empty() {
        return Err(Failure::new(
            Status::MountFailed,
            "mount point: its name is empty",
        ));
    }
    let source = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    refuse_second_mount(mountpoint, &source)?;

    let place = std::fs::canonicalize(mountpoint).map_err(|error| unusable(mountpoint, &error))?;
    let metadata = std::fs::metadata(&place).map_err(|error| unusable(mountpoint, &error))?;
    if !metadata.is_dir() {
        return Err(refused(mountpoint, "Not a directory"));
    }
    if source.starts_with(&place) {
        return Err(refused(
            mountpoint,
            format!(
                "it holds the source {}, which the mount would hide",
                source.display()
            ),
        ));
    }
    if place.starts_with(&source) {
        return Err(refused(
            mountpoint,
            format!("it lies inside the source {}", source.display()),
        ));
    }
    let user = geteuid();
    if !user.is_root() {
        let sticky = metadata.mode() & 0o1000 != 0;
        if sticky && metadata.uid() != user.as_raw() {
            return Err(forbidden(
                mountpoint,
                "its sticky bit is set, so only its owner and root may mount there",
            ));
        }
        if eaccess(&place, AccessFlags::W_OK).is_err() {
            return Err(forbidden(
                mountpoint,
                "a user may only mount on a directory that the user can write to",
            ));
        }
    }
    Ok(place)
}

/// Refuses to stack a mount on one of the same source. Comes first, because looking at the mount point itself
/// would call the daemon of what is mounted there.
fn refuse_second_mount(mountpoint: &Path, source: &Path) -> exit::Result<()> {
    let place = resolve(mountpoint).map_err(|error| unusable(mountpoint, &error))?;
    let table = Table::read().map_err(|error| Failure::new(Status::System, error))?;
    match table.topmost(&place) {
        Some(top) if top.fs_type == FS_TYPE && top.source == source.as_os_str() => Err(refused(
            mountpoint,
            format!("{} is mounted there already", source.display()),
        )),
        _ => Ok(()),
    }
}

fn unusable(mountpoint: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => forbidden(mountpoint, reason(error)),
        io::ErrorKind::NotConnected => {
            let shown = mountpoint.display();
            refused(
                mountpoint,
                format!("the daemon of what is mounted there has died; run `umount {shown}` first"),
            )
        }
        _ => refused(mountpoint, reason(error)),
    }
}

fn refused(mountpoint: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Status::MountFailed,
        format!("mount point {}: {why}", mountpoint.display()),
    )
}

fn forbidden(mountpoint: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("mount point {}: {why}", mountpoint.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_from_paths() {
        for (path, number) in [
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/21", Some(21)),
            ("/dev/fd/", None),
            ("/dev/fd/+3", None),
            ("/dev/fd/3/x", None),
            ("/dev/fd/99999999999", None),
            ("/mnt", None),
        ] {
            assert_eq!(descriptor_number(Path::new(path)), number, "{path}");
        }
    }

    #[test]
    fn unusable_mount_points_are_refused_with_the_reason() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("dir/below")).unwrap();
        std::fs::write(base.join("dir/image"), "").unwrap();
        let image = base.join("dir/image");
        for (point, source, words) in [
            (base.join("absent"), &image, "No such file"),
            (image.clone(), &base.join("other"), "Not a directory"),
            (base.join("dir"), &image, "would hide"),
            (base.clone(), &image, "would hide"),
            (
                base.join("dir/below"),
                &base.join("dir"),
                "inside the source",
            ),
            (base.join("dir"), &base.join("dir"), "would hide"),
        ] {
            let failure = check(&point, source).unwrap_err();
            assert_eq!(failure.status(), Status::MountFailed);
            assert!(failure.to_string().contains(words), "{failure}");
        }
        assert_eq!(
            check(&base.join("dir/../dir/below"), &image).unwrap(),
            base.join("dir/below")
        );
        assert_eq!(
            check(Path::new("/dev/fd/7"), &image).unwrap(),
            Path::new("/dev/fd/7")
        );
    }
}
