//! Telling umount(8) that a mount has a helper.
//!
//! For root, umount(8) asks statfs(2) for the type of what is mounted, learns no more than "fuse", and so would
//! not call `umount.fuse.bmapfs`, which waits for the daemon's end. A line in its own table (/run/mount/utab)
//! makes it look closer. As libfuse does for mtab, the line is left to mount(8) and umount(8) to write, whose
//! table and lock it is. Invariant: all of this is a courtesy; a failure is logged and changes nothing. A line
//! that is left over (the mount was ended by another program) does no harm.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use super::program::{run, said};
use super::{FS_TYPE, reason};
use crate::sys::mountinfo::unescape;

const TABLE: &str = "/run/mount/utab";

/// Adds the line, unless one is left over from before. To be called before the mount, because mount(8) might look at what is mounted, which cannot
/// answer yet.
pub(super) fn register(source: &OsStr, mountpoint: &Path) {
    if std::fs::read(TABLE).is_ok_and(|table| has_line(&table, source, mountpoint)) {
        return;
    }
    write("mount", |command| {
        let helper = format!("uhelper={FS_TYPE}");
        command.args([
            "--no-canonicalize",
            "--internal-only",
            "--fake",
            "-t",
            FS_TYPE,
            "-o",
            &helper,
            "--",
        ]);
        command.arg(source).arg(mountpoint);
    });
}

/// Removes the line, after an unmount without umount(8).
pub(super) fn forget(mountpoint: &Path) {
    write("umount", |command| {
        command
            .args(["--no-canonicalize", "--internal-only", "--fake", "--"])
            .arg(mountpoint);
    });
}

/// Whether the table names our helper for this source and mount point.
fn has_line(table: &[u8], source: &OsStr, mountpoint: &Path) -> bool {
    let helper = format!("uhelper={FS_TYPE}");
    table.split(|byte| *byte == b'\n').any(|line| {
        let value = |name: &[u8]| {
            line.split(|byte| *byte == b' ')
                .find_map(|field| field.strip_prefix(name))
        };
        value(b"SRC=").is_some_and(|field| unescape(field) == source)
            && value(b"TARGET=").is_some_and(|field| unescape(field) == mountpoint.as_os_str())
            && value(b"OPTS=") == Some(helper.as_bytes())
    })
}

fn write(program: &str, prepare: impl Fn(&mut Command)) {
    match run(program, prepare) {
        Ok(output) if output.status.success() => {}
        Ok(output) => log::debug!("{program} --fake: {}", said(program, &output)),
        Err(error) => log::debug!("running {program}: {}", reason(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_recognised_by_source_target_and_helper() {
        let table = b"SRC=/a TARGET=/m ROOT=/ OPTS=uhelper=fuse.bmapfs\n\
            ID=7 SRC=/b\\040c TARGET=/n ROOT=/ OPTS=uhelper=fuse.bmapfs\n\
            SRC=/c TARGET=/m ROOT=/ OPTS=uhelper=udisks\nSRC=/d\n";
        for (source, mountpoint, there) in [
            ("/a", "/m", true),
            ("/b c", "/n", true),
            ("/a", "/n", false),
            ("/c", "/m", false),
            ("/d", "/m", false),
        ] {
            assert_eq!(
                has_line(table, OsStr::new(source), Path::new(mountpoint)),
                there,
                "{source} {mountpoint}"
            );
        }
    }
}
