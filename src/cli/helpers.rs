//! What mount(8) and umount(8) call.

use std::ffi::OsString;
use std::path::Path;

use clap::ArgMatches;

use super::options::{self, Unknown};
use super::{Command, MountRequest, absolute, given, mount_config, path, sources, words};
use crate::config::{UmountConfig, Verbosity};
use crate::exit::{Failure, Result};

/// `mount.bmapfs`.
pub(super) fn mount_helper(matches: &ArgMatches) -> Result<Command> {
    check_type(matches)?;
    let unknown = if matches.get_flag("sloppy") {
        Unknown::Ignore
    } else {
        Unknown::Refuse
    };
    let settings = options::resolve(&words(matches)?, unknown)?;
    let (ignored, read_only_asked) = (settings.ignored.clone(), settings.read_only_asked);
    let mountpoint = given(matches, "MOUNTPOINT")?;
    let config = mount_config(mountpoint, sources::only(matches)?, settings)?;
    let mut announcements = Vec::new();
    let source = given(matches, "SRC")?;
    let source = Path::new(source).display();
    if matches.get_flag("verbose") {
        announcements.extend(
            ignored
                .iter()
                .map(|word| format!("{word}: unknown option, ignored")),
        );
        announcements.push(format!(
            "{source} mounted on {}",
            config.mountpoint.display()
        ));
    }
    if !read_only_asked && !config.volume.writable {
        announcements.push(format!(
            "{source} is mounted read-only; use -o write to allow writing"
        ));
    }
    Ok(Command::Mount(Box::new(MountRequest {
        namespace: path(matches, "namespace"),
        fake: matches.get_flag("fake"),
        announcements,
        config,
    })))
}

/// `umount.fuse.bmapfs`.
pub(super) fn umount_helper(matches: &ArgMatches) -> Result<Command> {
    check_type(matches)?;
    Ok(Command::Umount(UmountConfig {
        mountpoint: absolute(given(matches, "MOUNTPOINT")?)?,
        lazy: matches.get_flag("lazy"),
        force: matches.get_flag("force"),
        verbose: matches.get_flag("verbose"),
        namespace: path(matches, "namespace"),
    }))
}

/// `-t`: mount(8) and umount(8) say by which type they came here.
fn check_type(matches: &ArgMatches) -> Result<()> {
    match matches
        .get_one::<OsString>("type")
        .map(|given| given.to_string_lossy())
    {
        Some(other) if !["bmapfs", "fuse", "fuse.bmapfs"].contains(&other.as_ref()) => {
            Err(Failure::usage(format!(
                "-t {other}: not a type of bmapfs's: use bmapfs or fuse.bmapfs"
            )))
        }
        _ => Ok(()),
    }
}

/// What is logged while unmounting.
#[must_use]
pub fn umount_verbosity(config: &UmountConfig) -> Verbosity {
    if config.verbose {
        Verbosity::Normal
    } else {
        Verbosity::Quiet
    }
}
