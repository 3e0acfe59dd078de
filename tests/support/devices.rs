//! Loop devices and partitions of them.

use std::fs;
use std::path::{Path, PathBuf};

use super::command::tool;
use super::wait_until;

/// A loop device; it is detached when this is dropped.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    backing: Vec<u8>,
}

impl LoopDevice {
    /// A device over `file`.
    pub(crate) fn new(file: &Path) -> Self {
        Self::with("", file)
    }

    /// A device over `file` with more options for losetup.
    pub(crate) fn with(options: &str, file: &Path) -> Self {
        let mut path = PathBuf::new();
        // Other tests take free devices at the same time.
        wait_until("losetup found a free device", || {
            let outcome = tool("losetup")
                .words("--find --show")
                .words(options)
                .arg(file)
                .run();
            path = outcome.stdout.trim_end().into();
            outcome.code() == 0
        });
        let backing = backing_file(&path);
        Self { path, backing }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A partition `start..start + len`, both multiples of 512 bytes. The device must have been made with `-P`.
    /// The kernel is told directly, because it may have been built without any partition table format.
    pub(crate) fn partition(&self, number: u32, start: u64, len: u64) -> PathBuf {
        let (start, len) = ((start / 512).to_string(), (len / 512).to_string());
        tool("addpart")
            .arg(&self.path)
            .args([&number.to_string(), &start, &len])
            .ok();
        let path = PathBuf::from(format!("{}p{number}", self.path.display()));
        wait_until("the partition's node is there", || path.exists());
        path
    }

    /// Detaches it now, expecting that nobody uses it: for a test of that. Others drop it, since whoever looks at all
    /// devices, as mount(8) does, may have it open for a moment.
    pub(crate) fn detach(mut self) {
        self.release();
        assert!(!self.is_mine(), "{} is still in use", self.path.display());
    }

    /// Whether the number still stands for this device: once free, another test may take it.
    fn is_mine(&self) -> bool {
        !self.backing.is_empty() && self.backing == backing_file(&self.path)
    }

    fn release(&mut self) {
        if self.is_mine() {
            tool("losetup").arg("-d").arg(&self.path).run();
        }
    }
}

/// The file behind a loop device; empty if there is none.
fn backing_file(device: &Path) -> Vec<u8> {
    let name = device.file_name().unwrap();
    let file = Path::new("/sys/block").join(name).join("loop/backing_file");
    fs::read(file).unwrap_or_default()
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        self.release();
        if !std::thread::panicking() {
            // A device in use is detached when its last user goes.
            wait_until("the loop device is detached", || !self.is_mine());
        }
    }
}
