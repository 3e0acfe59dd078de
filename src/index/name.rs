//! What the default index of a source is called: something that is the same tomorrow.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use crate::geometry::BlockSize;

/// The longest readable part of a name, in bytes.
const READABLE: usize = 100;

/// The default index of `source` (canonical) in `directory`, or else in the state directory: `/var/lib/bmapfs` for root,
/// `$XDG_STATE_HOME/bmapfs`, else `$HOME/.local/state/bmapfs`, otherwise. It is made if need be; if that fails, so will saving. `id` stands for the
/// source's name. `NotFound`: this user has no home directory.
pub(crate) fn default_path(
    directory: Option<&Path>,
    source: &Path,
    id: Option<&str>,
    block_size: BlockSize,
) -> io::Result<PathBuf> {
    let directory = directory.map_or_else(state_directory, |given| Ok(given.to_owned()))?;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    if let Err(e) = made {
        log::warn!("making the directory {}: {e}", directory.display());
    }
    Ok(directory.join(format!("{}-{block_size}.index", file_name(source, id))))
}

/// The same, for whoever only reads it: nothing is made, and the source need not be there. The name of a logical volume
/// that was removed still finds the index that it had.
pub(crate) fn known_path(
    directory: Option<&Path>,
    source: &Path,
    id: Option<&str>,
    block_size: BlockSize,
) -> io::Result<PathBuf> {
    let directory = directory.map_or_else(state_directory, |given| Ok(given.to_owned()))?;
    let path = |source: &Path| {
        let name = file_name(source, id);
        directory.join(format!("{name}-{block_size}.index"))
    };
    let plain = path(source);
    if source.exists() || plain.exists() {
        return Ok(plain);
    }
    let mapped = logical_volume(source).map(|volume| path(&volume));
    Ok(mapped.filter(|path| path.exists()).unwrap_or(plain))
}

/// The device-mapper name that LVM gives to /dev/GROUP/VOLUME: hyphens are doubled, and one joins the two.
fn logical_volume(source: &Path) -> Option<PathBuf> {
    let (group, volume) = source
        .strip_prefix("/dev")
        .ok()?
        .to_str()?
        .split_once('/')?;
    let doubled = |name: &str| name.replace('-', "--");
    let name = format!("{}-{}", doubled(group), doubled(volume));
    (!volume.contains('/')).then(|| Path::new("/dev/mapper").join(name))
}

/// A name for `source` that fits a path component, the same each time.
#[must_use]
pub(crate) fn mount_name(source: &Path, id: Option<&str>) -> String {
    file_name(source, id)
}

fn file_name(source: &Path, id: Option<&str>) -> String {
    let stable = id.map_or_else(|| stable_name(source), PathBuf::from);
    let bytes = stable.as_os_str().as_bytes();
    let readable: String = bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(*byte),
            _ => '_',
        })
        .collect();
    let readable = readable.trim_start_matches(['_', '.', '-']);
    let tail = &readable[readable.len().saturating_sub(READABLE)..];
    let digest = blake3::hash(bytes).to_hex();
    format!("{tail}-{}", &digest[..16])
}

/// A path that means the same device after the next boot: a device-mapper name or a by-id link; a file's own path.
fn stable_name(source: &Path) -> PathBuf {
    if !source.starts_with("/dev") {
        return source.to_owned();
    }
    for directory in ["/dev/mapper", "/dev/disk/by-id"] {
        let Ok(links) = std::fs::read_dir(directory) else {
            continue;
        };
        let mut found: Vec<PathBuf> = links
            .filter_map(|link| Some(link.ok()?.path()))
            .filter(|link| std::fs::canonicalize(link).is_ok_and(|target| target == source))
            .collect();
        found.sort();
        if let Some(first) = found.into_iter().next() {
            return first;
        }
    }
    source.to_owned()
}

fn state_directory() -> io::Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/bmapfs"));
    }
    let from_environment = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    if let Some(state) = from_environment.filter(|state| state.is_absolute()) {
        return Ok(state.join("bmapfs"));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = match home.filter(|home| home.is_absolute()) {
        Some(home) => home,
        // It may be missing below mount(8).
        None => {
            User::from_uid(geteuid())?
                .ok_or(io::ErrorKind::NotFound)?
                .dir
        }
    };
    Ok(home.join(".local/state/bmapfs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn names_are_path_components_and_differ_when_paths_do() {
        let name = |path: &str| file_name(Path::new(path), None);
        assert!(name("/srv/vm/a b.img").starts_with("srv_vm_a_b.img-"));
        assert_ne!(name("/srv/a b"), name("/srv/a_b"));
        assert_eq!(name("/srv/a"), name("/srv/a"));
        let long = name(&format!("/{}", "x".repeat(4000)));
        assert!(long.len() <= 120, "{long}");
        let odd = file_name(Path::new(OsStr::from_bytes(b"/\xff\n/..")), None);
        assert!(
            odd.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
            "{odd}"
        );
        assert!(file_name(Path::new("/srv/a"), Some("vm-7")).starts_with("vm-7-"));
    }

    #[test]
    fn logical_volumes_have_their_names_in_the_device_mapper() {
        for (source, name) in [
            ("/dev/vg0/web", Some("vg0-web")),
            ("/dev/my-vg/web-snap", Some("my--vg-web--snap")),
            ("/dev/sda", None),
            ("/dev/disk/by-id/x", None),
            ("/srv/vg0/web", None),
        ] {
            let name = name.map(|name| Path::new("/dev/mapper").join(name));
            assert_eq!(logical_volume(Path::new(source)), name, "{source}");
        }
    }
}
