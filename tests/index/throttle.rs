//! A program whose writes to a device are slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::support::command::{Tool, tool};
use crate::support::wait_until;

/// A control group; it is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Throttle {
    group: PathBuf,
    /// What lifts the limit, and where that is written.
    lift: (PathBuf, String),
}

impl Throttle {
    /// Who is in it writes no more than this many bytes a second to the device.
    pub(super) fn new(device: &Path, bytes_per_second: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = device.file_name().unwrap();
        let number = fs::read_to_string(Path::new("/sys/block").join(name).join("dev")).unwrap();
        let number = number.trim();
        let root = Path::new("/sys/fs/cgroup");
        let old = root.join("blkio");
        let own = format!(
            "bmapfs-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, SeqCst)
        );
        let (group, file, limit, none) = if old.is_dir() {
            let limit = |bytes| format!("{number} {bytes}");
            let file = "blkio.throttle.write_bps_device";
            (old.join(own), file, limit(bytes_per_second), limit(0))
        } else {
            // Without effect where it is on, and needed where it is not.
            fs::write(root.join("cgroup.subtree_control"), "+io").ok();
            let limit = format!("{number} wbps={bytes_per_second}");
            let none = format!("{number} wbps=max");
            (root.join(own), "io.max", limit, none)
        };
        fs::create_dir(&group).unwrap();
        let file = group.join(file);
        let throttle = Self {
            group,
            lift: (file.clone(), none),
        };
        fs::write(&file, limit)
            .unwrap_or_else(|e| panic!("{}: {e}: a kernel with io throttling", file.display()));
        throttle
    }

    /// From now on nothing is slow.
    pub(super) fn lift(&self) {
        let (file, none) = &self.lift;
        fs::write(file, none).unwrap();
    }

    /// A program to be run in it.
    pub(super) fn tool(&self, program: &str) -> Tool {
        let enter = "echo $$ > \"$1\"/cgroup.procs; shift; exec \"$@\"";
        tool("sh")
            .args(["-c", enter, "sh"])
            .arg(&self.group)
            .arg(program)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Who has just ended is in it for a moment.
        wait_until("the control group is removed", || {
            fs::remove_dir(&self.group).is_ok()
        });
    }
}
