//! What file systems keep of a file beyond stat(2): attributes, the generation of its inode, shared extents and where they
//! are.
#![allow(unsafe_code)]

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::UNIX_EPOCH;

/// The beginning of what `BTRFS_IOC_FS_INFO` tells, and room for the rest.
#[repr(C)]
struct BtrfsInfo {
    _max_id: u64,
    _devices: u64,
    id: [u8; 16],
    _rest: [u64; 124],
}

nix::ioctl_read!(
    /// `BTRFS_IOC_FS_INFO`: what file system a file is on.
    btrfs_ioc_fs_info, 0x94, 31, BtrfsInfo
);

/// The UUID by which the kernel knows the Btrfs that an open file is on. ENOTTY: it is on another file system.
pub(crate) fn btrfs_id(fd: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let mut info = BtrfsInfo {
        _max_id: 0,
        _devices: 0,
        id: [0; 16],
        _rest: [0; 124],
    };
    // SAFETY: the ioctl writes 1024 bytes to the pointer, which points to a live struct of that size.
    unsafe { btrfs_ioc_fs_info(fd.as_raw_fd(), &raw mut info) }?;
    Ok(info.id)
}

/// Makes `target`, from its start on, share the first `len` bytes of `source`, all at one moment (FICLONERANGE).
/// `len` must be the length of `source`. EINVAL: it is not, or the two files cannot share; EOPNOTSUPP, ENOTTY: no
/// file on this file system can.
pub(crate) fn clone_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    len: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: 0,
        src_length: len,
        dest_offset: 0,
    };
    // SAFETY: FICLONERANGE reads a file_clone_range through the pointer, which points to a live one, and both
    // descriptors are open for the duration of the call.
    let result = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What `FS_IOC_GETVERSION` and `FS_IOC_GETFLAGS` write into: the requests are defined with a long, and file systems
/// write an int.
type IntOrLong = [libc::c_uint; 2];

fn read_number(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut number: IntOrLong = [0; 2];
    // SAFETY: the two requests that this is called with write at most a long to the pointer, which points to as many
    // live bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut number) };
    if result == 0 {
        Ok(number[0])
    } else {
        Err(io::Error::last_os_error())
    }
}

/// When a file's inode was made, in seconds since the epoch and nanoseconds; `None` where the file system does not keep
/// that.
pub(crate) fn born(stat: &Metadata) -> Option<(i64, u32)> {
    let since = stat.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()))
}

/// The generation of a file's inode number, which is another one when the number is used again (`FS_IOC_GETVERSION`).
pub(crate) fn inode_generation(fd: BorrowedFd<'_>) -> io::Result<u32> {
    read_number(fd, libc::FS_IOC_GETVERSION)
}

/// The attributes that chattr(1) sets (`FS_IOC_GETFLAGS`): see `FS_*_FL` in linux/fs.h.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    read_number(fd, libc::FS_IOC_GETFLAGS)
}

/// Sets them (`FS_IOC_SETFLAGS`).
pub(crate) fn set_attributes(fd: BorrowedFd<'_>, attributes: u32) -> io::Result<()> {
    let number: IntOrLong = [attributes, 0];
    // SAFETY: FS_IOC_SETFLAGS reads at most a long through the pointer, which points to as many live bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const number) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ExtendedAttributes {
    /// `FS_XFLAG_*`; bit 0: the data is on the realtime device.
    pub flags: u32,
    others: [u32; 6],
}

nix::ioctl_read!(
    /// `FS_IOC_FSGETXATTR`: attributes that not every file system has.
    fsgetxattr, b'X', 31, ExtendedAttributes
);

/// The attributes of `FS_IOC_FSGETXATTR`.
pub(crate) fn extended_attributes(fd: BorrowedFd<'_>) -> io::Result<ExtendedAttributes> {
    let mut attributes = ExtendedAttributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes a struct fsxattr to the pointer, which points to a live one of its layout.
    unsafe { fsgetxattr(fd.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// `struct fiemap_extent` of linux/fiemap.h: where a run of a file's bytes is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MappedExtent {
    /// Its first byte in the file.
    pub logical: u64,
    /// And on the device.
    pub physical: u64,
    /// How many bytes.
    pub length: u64,
    reserved: [u64; 2],
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
    more_reserved: [u32; 3],
}

impl MappedExtent {
    /// An extent as the kernel could tell it.
    #[must_use]
    pub(crate) fn new(logical: u64, physical: u64, length: u64, flags: u32) -> Self {
        Self {
            logical,
            physical,
            length,
            flags,
            ..Self::default()
        }
    }
}

/// How many extents one call of [`map_extents`] asks for.
const MAP_BATCH: usize = 256;

/// `struct fiemap` of linux/fiemap.h, with its extents.
#[repr(C)]
struct FileMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [MappedExtent; MAP_BATCH],
}

/// Where the bytes of a file are from `start` to its end, or the first part of that: `FS_IOC_FIEMAP` after a flush of
/// the file. No extent: nothing but holes from there on. The first may begin before `start`.
pub(crate) fn map_extents(fd: BorrowedFd<'_>, start: u64) -> io::Result<Vec<MappedExtent>> {
    const FIEMAP_FLAG_SYNC: u32 = 1;
    /// As `_IOWR('f', 11, struct fiemap)`, whose size is without extents.
    const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32);
    let mut map = Box::new(FileMap {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: 256,
        reserved: 0,
        extents: [MappedExtent::default(); MAP_BATCH],
    });
    // SAFETY: FS_IOC_FIEMAP reads a struct fiemap through the pointer and writes `extent_count` extents behind it at
    // most; the pointer is to a live one of this layout with as many extents.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *map) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mapped = usize::try_from(map.mapped_extents).map_err(io::Error::other)?;
    Ok(map.extents.iter().take(mapped).copied().collect())
}
const _: () = assert!(MAP_BATCH == 256 && size_of::<FileMap>() == 32 + 56 * MAP_BATCH);
