//! Who uses a file or block device other than through locks: mounts, swap, loop devices, device-mapper, RAID.
//!
//! Invariant: nothing is opened but files of /proc and /sys, so looking changes nothing. What cannot be seen from
//! here (mounts in other namespaces, kernel users without an entry in sysfs) is left to `O_EXCL`. This module
//! says who there is; what follows from that is its caller's business.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys::device::DeviceNumber;
use crate::sys::mountinfo::{MountEntry, Table, unescape};

#[cfg(test)]
mod tests;

/// Somebody who uses the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    sentence: String,
    /// Whether this use may write to the image.
    pub writes: bool,
}

impl fmt::Display for Holder {
    /// A sentence with "it" for the image: `it is mounted on /srv (read-write)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Everything that uses `file`, or, if it is a block device, one of its partitions or the disk that it is a
/// partition of. Where /proc or /sys cannot be read, nothing is found there.
#[must_use]
pub(crate) fn find(file: &File) -> Vec<Holder> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let identify = |path: &Path| fs::metadata(path).ok().as_ref().map(Identity::of);
    let system = System {
        proc: Path::new("/proc"),
        sys: Path::new("/sys"),
        identify: &identify,
    };
    system.find(Identity::of(&metadata))
}

/// What a path leads to, or an open file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// A block device, by whatever node.
    Device(DeviceNumber),
    /// Anything else.
    File { device: u64, inode: u64 },
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(DeviceNumber::from_raw(metadata.rdev()))
        } else {
            Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
            }
        }
    }
}

/// The image, or a device that shares bytes with it.
struct Target {
    identity: Identity,
    /// What sentences call it: "it", "its partition /dev/sda1".
    name: String,
}

/// Where to look; not the running system in tests.
struct System<'a> {
    proc: &'a Path,
    sys: &'a Path,
    identify: &'a dyn Fn(&Path) -> Option<Identity>,
}

impl System<'_> {
    fn find(&self, image: Identity) -> Vec<Holder> {
        let targets = self.targets(image);
        let mut holders = self.mounts(&targets);
        if holders.is_empty() {
            // Of a Btrfs on several devices mountinfo lists one.
            holders = self.btrfs_members(&targets);
        }
        holders.extend(self.swaps(&targets));
        holders.extend(self.loop_devices(&targets));
        holders.extend(self.stacked(&targets));
        holders
    }

    fn targets(&self, image: Identity) -> Vec<Target> {
        let mut targets = vec![Target {
            identity: image,
            name: "it".to_owned(),
        }];
        let Identity::Device(number) = image else {
            return targets;
        };
        let mut add = |directory: &Path, relation: &str| {
            if let Some(number) =
                read(&directory.join("dev")).and_then(|text| DeviceNumber::parse(&text))
            {
                let name = format!("{relation} {}", device_path(directory).display());
                targets.push(Target {
                    identity: Identity::Device(number),
                    name,
                });
            }
        };
        let directory = number.sysfs(self.sys);
        if directory.join("partition").exists() {
            // The link leads to a directory below the disk's, so ".." is the disk.
            add(&directory.join(".."), "its disk");
        }
        for entry in entries(&directory) {
            if entry.join("partition").exists() {
                add(&entry, "its partition");
            }
        }
        targets
    }

    /// Mounted file systems, each once for every target.
    fn mounts(&self, targets: &[Target]) -> Vec<Holder> {
        let table = fs::read(self.proc.join("self/mountinfo")).unwrap_or_default();
        let mounts = Table::parse(&table);
        let mut holders = Vec::new();
        for target in targets {
            let Some(mount) = mounts.iter().find(|mount| self.is_mount_of(mount, target)) else {
                continue;
            };
            let read_only = mount.is_read_only();
            let access = if read_only { "read-only" } else { "read-write" };
            let sentence = format!(
                "{} is mounted on {} ({access})",
                target.name,
                mount.point.display()
            );
            holders.push(Holder {
                sentence,
                writes: !read_only,
            });
        }
        holders
    }

    fn is_mount_of(&self, mount: &MountEntry, target: &Target) -> bool {
        if Identity::Device(mount.device) == target.identity {
            return true;
        }
        // Btrfs, file systems on image files and FUSE file systems have made-up device numbers; their source
        // tells. Locks tell about the mounts that bmapfs makes, which need not exclude each other.
        mount.device.major == 0
            && mount.fs_type != "fuse.bmapfs"
            && mount.source.as_bytes().starts_with(b"/")
            && (self.identify)(Path::new(&mount.source)) == Some(target.identity)
    }

    /// Devices of mounted Btrfs file systems.
    fn btrfs_members(&self, targets: &[Target]) -> Vec<Holder> {
        let members: Vec<PathBuf> = entries(&self.sys.join("fs/btrfs"))
            .into_iter()
            .flat_map(|file_system| entries(&file_system.join("devices")))
            .collect();
        let is_member = |target: &&Target| match target.identity {
            Identity::Device(number) => {
                fs::canonicalize(number.sysfs(self.sys)).is_ok_and(|device| {
                    members
                        .iter()
                        .any(|member| fs::canonicalize(member).is_ok_and(|member| member == device))
                })
            }
            Identity::File { .. } => false,
        };
        let holder = |target: &Target| Holder {
            sentence: format!("{} is part of a mounted Btrfs file system", target.name),
            writes: true,
        };
        targets.iter().filter(is_member).map(holder).collect()
    }

    fn swaps(&self, targets: &[Target]) -> Vec<Holder> {
        let table = fs::read(self.proc.join("swaps")).unwrap_or_default();
        let mut holders = Vec::new();
        for line in table.split(|byte| *byte == b'\n').skip(1) {
            let Some(path) = line
                .split(u8::is_ascii_whitespace)
                .next()
                .filter(|path| !path.is_empty())
            else {
                continue;
            };
            if let Some(target) = self.named_by(unescape(path).as_bytes(), targets) {
                holders.push(Holder {
                    sentence: format!("{} is active swap", target.name),
                    writes: true,
                });
            }
        }
        holders
    }

    fn loop_devices(&self, targets: &[Target]) -> Vec<Holder> {
        let mut holders = Vec::new();
        for device in entries(&self.sys.join("block")) {
            let Ok(mut path) = fs::read(device.join("loop/backing_file")) else {
                continue;
            };
            if path.ends_with(b"\n") {
                path.pop();
            }
            if let Some(target) = self.named_by(&path, targets) {
                let writes = read(&device.join("ro")).is_none_or(|text| text.trim() != "1");
                let access = if writes { "" } else { " (read-only)" };
                let device = device_path(&device);
                let sentence = format!("{} is set up on {}{access}", device.display(), target.name);
                holders.push(Holder { sentence, writes });
            }
        }
        holders
    }

    /// Devices made of a target: device-mapper, md, bcache.
    fn stacked(&self, targets: &[Target]) -> Vec<Holder> {
        let mut holders = Vec::new();
        for target in targets {
            let Identity::Device(number) = target.identity else {
                continue;
            };
            for device in entries(&number.sysfs(self.sys).join("holders")) {
                let path = device_path(&device);
                let user = match read(&device.join("dm/name")) {
                    Some(name) => format!(
                        "device-mapper volume {} ({})",
                        name.trim_end(),
                        path.display()
                    ),
                    None => path.display().to_string(),
                };
                let writes = read(&device.join("ro")).is_none_or(|text| text.trim() != "1");
                let access = if writes { "" } else { " (read-only)" };
                holders.push(Holder {
                    sentence: format!("{user} uses {}{access}", target.name),
                    writes,
                });
            }
        }
        holders
    }

    /// The target that a path of the kernel's leads to, if any; the kernel appends a word to paths that were removed.
    fn named_by<'t>(&self, path: &[u8], targets: &'t [Target]) -> Option<&'t Target> {
        let removed = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let identities =
            [path, removed].map(|path| (self.identify)(Path::new(OsStr::from_bytes(path))));
        targets
            .iter()
            .find(|target| identities.contains(&Some(target.identity)))
    }
}

/// The node below /dev of the device that this directory of sysfs describes.
fn device_path(directory: &Path) -> PathBuf {
    let uevent = read(&directory.join("uevent")).unwrap_or_default();
    let name = match uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
    {
        Some(name) => PathBuf::from(name),
        None => directory.file_name().map(PathBuf::from).unwrap_or_default(),
    };
    Path::new("/dev").join(name)
}

/// The paths of a directory's entries in order; none if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort_unstable();
    paths
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}
