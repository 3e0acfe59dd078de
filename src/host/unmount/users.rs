//! Who uses a busy mount, for the error message.
//!
//! Invariant: paths are compared as text, and only links in /proc are read, so nothing here waits for the
//! mount. What is found is a hint: a user sees only that user's processes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sys::mountinfo::unescape;

/// As many users as a message names.
const MOST: usize = 3;

/// Up to three users of the mount at `point`, such as `rsync (process 4711)` and `/dev/loop0`.
pub(super) fn find(point: &Path) -> Vec<String> {
    let myself = std::process::id();
    let processes = numbered_directories("/proc")
        .filter(|(pid, directory)| *pid != myself && uses(directory, point))
        .map(|(pid, directory)| format!("{} (process {pid})", name(&directory)));
    processes.chain(loops(point)).take(MOST).collect()
}

fn numbered_directories(parent: &str) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

fn name(process: &Path) -> String {
    let comm = std::fs::read(process.join("comm")).unwrap_or_default();
    String::from_utf8_lossy(&comm).trim_end().to_owned()
}

fn uses(process: &Path, point: &Path) -> bool {
    let leads_in =
        |link: &Path| std::fs::read_link(link).is_ok_and(|target| target.starts_with(point));
    let files = || {
        std::fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
    };
    leads_in(&process.join("cwd"))
        || leads_in(&process.join("root"))
        || files().any(|file| leads_in(&file.path()))
        || std::fs::read(process.join("maps")).is_ok_and(|maps| maps_lead_in(&maps, point))
}

/// Whether a line of a maps file names a file below `point`. Its path starts at the first slash, since the
/// fields before have none, and has newlines escaped.
fn maps_lead_in(maps: &[u8], point: &Path) -> bool {
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line
            .iter()
            .position(|byte| *byte == b'/')
            .map(|start| unescape(&line[start..]));
        path.is_some_and(|path| Path::new(&path).starts_with(point))
    })
}

/// Loop devices whose file is a block file. Their processes are the kernel's own.
fn loops(point: &Path) -> impl Iterator<Item = String> {
    let devices = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten();
    devices.filter_map(move |device| {
        let file = std::fs::read(device.path().join("loop/backing_file")).ok()?;
        let file = Path::new(std::ffi::OsStr::from_bytes(file.strip_suffix(b"\n")?));
        file.starts_with(point)
            .then(|| format!("/dev/{}", device.file_name().to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn maps_are_compared_by_path_components() {
        let maps = b"55e0-55e1 r--p 00000000 fe:00 1234   /usr/bin/cat\n7f00-7f01 rw-s 0 00:39 2  /m/a\\012b/00000000\n\
            7ff0-7ff1 rw-p 00000000 00:00 0   [stack]\n";
        for (point, inside) in [
            ("/m/a\nb", true),
            ("/m", true),
            ("/m/a", false),
            ("/usr/bin/cat", true),
            ("/usr/bi", false),
        ] {
            assert_eq!(maps_lead_in(maps, Path::new(point)), inside, "{point:?}");
        }
    }

    #[test]
    fn a_process_in_a_directory_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().canonicalize().unwrap();
        assert!(find(&place).is_empty());
        let mut child = Command::new("cat")
            .current_dir(&place)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The child is still this program until its exec; then its name is its own.
        let expected = format!("(process {})", child.id());
        let users = find(&place);
        assert!(
            users.len() == 1 && users[0].contains(&expected),
            "{users:?}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
