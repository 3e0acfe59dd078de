//! Whether a block device was written: the kernel's own count of what went through it.
//!
//! Invariant: equal [`Counters`] mean that nothing was written through this kernel's block layer between the
//! two moments; whatever is in doubt is `None`, "may have been written". The counters cannot see what goes
//! past the device: another host on shared storage, the file below a loop device, the disks below a logical
//! volume. [`Counters::counts_all`] tells where that is possible. This module opens no device and knows no images.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::sys::device::DeviceNumber;

/// What was written to a device since it appeared, and which device that is. Only equality means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// 512-byte sectors written, also with zeros (of the whole disk, for a partition).
    pub sectors_written: u64,
    /// 512-byte sectors discarded (of the whole disk, for a partition).
    pub sectors_discarded: u64,
    /// Where a partition starts on its disk, in 512-byte sectors; 0 for anything else.
    pub start: u64,
    /// Size of the device in 512-byte sectors.
    pub size: u64,
    /// A number that no other disk gets before the next boot, and a loop device gets anew when it is set up.
    /// `None` before Linux 5.15: then only who has had the device open all along knows that it is the same.
    pub sequence: Option<u64>,
    /// Nothing can be written to it but through its own queue, so that all writes are counted: a disk that is attached
    /// to this machine alone. Not loop, device-mapper, RAID, network and virtual devices.
    pub counts_all: bool,
}

/// The statistics of a block device, those of the whole disk for a partition: a write through the disk's own
/// node counts there alone. Writes to the other partitions look like writes to this one.
///
/// `None`, which means that the device may have been written: no such device, statistics off or unreadable,
/// or a write on its way. The caller fsyncs the device before, or dirty pages are not counted.
#[must_use]
pub(crate) fn counters(device: DeviceNumber) -> Option<Counters> {
    counters_in(Path::new("/sys"), device)
}

/// What is different after each boot. `None` if the kernel does not say.
#[must_use]
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

fn counters_in(sys: &Path, device: DeviceNumber) -> Option<Counters> {
    let own = device.sysfs(sys);
    let is_partition = own.join("partition").try_exists().ok()?;
    // The link leads to a directory below the disk's, so ".." is the disk.
    let disk = if is_partition {
        own.join("..")
    } else {
        own.clone()
    };
    if number(&disk.join("queue/iostats"))? == 0 {
        return None;
    }
    // Writes are counted when they are done. Reads and writes that are under way have a file of their own.
    let in_flight = fs::read_to_string(disk.join("inflight")).ok()?;
    if field(&in_flight, 1)? != 0 {
        return None;
    }
    let stat = fs::read_to_string(disk.join("stat")).ok()?;
    Some(Counters {
        sectors_written: field(&stat, 6)?,
        // Linux before 4.18 has eleven fields and counts no discards: there it cannot be told.
        sectors_discarded: field(&stat, 13)?,
        start: if is_partition {
            number(&own.join("start"))?
        } else {
            0
        },
        size: number(&own.join("size"))?,
        sequence: number(&disk.join("diskseq")),
        counts_all: counts_all(&disk),
    })
}

/// Whether a disk's content can change through its own queue alone: ATA, MMC and USB disks, and `NVMe` on PCI Express. Of
/// all others (or of a kind that is not known) something below may be shared or stacked.
fn counts_all(disk: &Path) -> bool {
    let transport = fs::read_to_string(disk.join("device/transport"));
    if transport.is_ok_and(|transport| transport.trim_end() == "pcie") {
        return true;
    }
    let bus = |name: &OsStr, prefix: &str| {
        let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    fs::canonicalize(disk).is_ok_and(|path| {
        path.iter()
            .any(|name| bus(name, "ata") || bus(name, "mmc") || bus(name, "usb"))
    })
}

fn field(line: &str, index: usize) -> Option<u64> {
    line.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::lock::testing::{LoopDevice, run};
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    const DISK: &str = "disk/stat:9 0 72 0 4 0 800 0 0 0 0 2 0 160 0 0 0\n";

    /// Makes `path:content` files below `sys`, and a disk 8:0 with a partition 8:1.
    fn tree(entries: &[&str]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        fs::create_dir_all(sys.path().join("disk/queue")).unwrap();
        fs::create_dir_all(sys.path().join("disk/part")).unwrap();
        for (link, target) in [("8:0", "../../disk"), ("8:1", "../../disk/part")] {
            std::os::unix::fs::symlink(target, sys.path().join("dev/block").join(link)).unwrap();
        }
        for entry in entries {
            let (path, content) = entry.split_once(':').unwrap();
            fs::write(sys.path().join(path), content).unwrap();
        }
        sys
    }

    fn read(sys: &tempfile::TempDir, minor: u64) -> Option<Counters> {
        counters_in(sys.path(), DeviceNumber { major: 8, minor })
    }

    #[test]
    fn a_partition_counts_what_its_disk_counts() {
        let common = [
            DISK,
            "disk/queue/iostats:1\n",
            "disk/inflight:       3        0\n",
            "disk/size:5000\n",
            "disk/diskseq:7\n",
            "disk/part/partition:1\n",
            "disk/part/start:2048\n",
            "disk/part/size:1000\n",
            "disk/part/stat:0 0 0 0 0 0 1 0 0 0 0 0 0 1 0 0 0\n",
        ];
        let sys = tree(&common);
        let disk = Counters {
            sectors_written: 800,
            sectors_discarded: 160,
            start: 0,
            size: 5000,
            sequence: Some(7),
            counts_all: false,
        };
        assert_eq!(read(&sys, 0), Some(disk));
        assert_eq!(
            read(&sys, 1),
            Some(Counters {
                start: 2048,
                size: 1000,
                ..disk
            })
        );
        assert_eq!(read(&sys, 2), None);
        for doubt in [
            "disk/queue/iostats:0\n",
            "disk/inflight:       0        1\n",
            "disk/stat:9 0 72 0 4 0 800 0 0 0 0\n",
            "disk/stat:9 0 72 0 4 0\n",
            "disk/stat:\n",
            "disk/size:\n",
        ] {
            let sys = tree(&[common.as_slice(), &[doubt]].concat());
            assert_eq!(read(&sys, 0), None, "{doubt}");
        }
        for missing in [
            "disk/queue/iostats",
            "disk/inflight",
            "disk/stat",
            "disk/part/start",
        ] {
            let sys = tree(&common);
            fs::remove_file(sys.path().join(missing)).unwrap();
            assert_eq!(read(&sys, 1), None, "{missing}");
        }
        fs::remove_file(sys.path().join("disk/diskseq")).unwrap();
        assert_eq!(
            read(&sys, 0),
            Some(Counters {
                sequence: None,
                ..disk
            })
        );
    }

    #[test]
    fn p24_only_disks_of_this_machine_alone_count_every_write() {
        let sys = tempfile::tempdir().unwrap();
        for (path, expected) in [
            (
                "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
                true,
            ),
            (
                "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb",
                true,
            ),
            (
                "platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0",
                true,
            ),
            ("pci0000:00/0000:00:02.0/virtio1/block/vda", false),
            (
                "platform/host3/session1/target3:0:0/3:0:0:0/block/sdc",
                false,
            ),
            ("virtual/block/loop0", false),
            ("virtual/block/dm-0", false),
            ("virtual/block/nbd0", false),
            ("virtual/block/md127", false),
            ("virtual/block/atari", false),
        ] {
            let disk = sys.path().join(path);
            fs::create_dir_all(&disk).unwrap();
            assert_eq!(counts_all(&disk), expected, "{path}");
        }
        for (transport, expected) in [("pcie\n", true), ("tcp\n", false), ("rdma\n", false)] {
            let disk = sys.path().join("virtual/nvme/nvme0n1");
            fs::create_dir_all(disk.join("device")).unwrap();
            fs::write(disk.join("device/transport"), transport).unwrap();
            assert_eq!(counts_all(&disk), expected, "{transport}");
        }
    }

    #[test]
    fn boot_ids_stay_the_same() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(boot_id(), Some(id));
    }

    #[test]
    #[ignore = "needs root and loop devices, as make test has them"]
    fn a_real_device_counts_writes_and_discards_but_not_reads() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let device = LoopDevice::on(&image, &[]);
        let mut file = File::open(device.path()).unwrap();
        let number = DeviceNumber::from_raw(file.metadata().unwrap().rdev());
        let sample = || {
            file.sync_all().unwrap();
            counters(number).unwrap()
        };

        let first = sample();
        assert_eq!(first.size, (4 << 20) / 512);
        (&file).read_exact(&mut vec![0; 1 << 20]).unwrap();
        assert_eq!(sample(), first);

        let of = format!("of={}", device.path().display());
        run(
            "dd",
            &[
                "if=/dev/urandom",
                &of,
                "bs=4k",
                "count=1",
                "conv=fsync",
                "status=none",
            ],
        );
        let written = sample();
        assert_eq!(written.sectors_written, first.sectors_written + 8);

        run(
            "blkdiscard",
            &["-o", "0", "-l", "1M", device.path().to_str().unwrap()],
        );
        let discarded = sample();
        assert_ne!(discarded, written);
        run(
            "blkdiscard",
            &[
                "-z",
                "-o",
                "1M",
                "-l",
                "1M",
                device.path().to_str().unwrap(),
            ],
        );
        let zeroed = sample();
        assert_ne!(zeroed, discarded);

        file.read_exact(&mut [0; 4096]).unwrap();
        drop(file);
        drop(device);
        let again = LoopDevice::on(&image, &[]);
        let file = File::open(again.path()).unwrap();
        let number = DeviceNumber::from_raw(file.metadata().unwrap().rdev());
        assert_ne!(counters(number).unwrap().sequence, zeroed.sequence);
    }
}
