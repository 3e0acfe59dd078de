//! One thing at a time that a directory of block files can be, or be made to be under a mount.

mod files;
mod writing;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

pub(crate) use super::partitions::tests::boot_record;
use super::*;
use crate::clock::testing::TestClock;
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Allocate, Change, Errno, Handle, Listed, Seek, SetTime, Volume};

/// Length of a block, in bytes.
pub(crate) const BLOCK: usize = 4096;

/// A directory of block files in memory, if the machine lets us.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(crate) fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap() ^ seed | 1)
        .collect()
}

/// A backup of `blocks` full blocks and a short one.
fn backup(blocks: usize) -> (TempDir, Vec<u8>) {
    let place = directory();
    let image = content(blocks * BLOCK + 100, 7);
    for (index, part) in image.chunks(BLOCK).enumerate() {
        fs::write(file(&place, index), part).unwrap();
    }
    (place, image)
}

pub(crate) fn file(place: &TempDir, index: usize) -> PathBuf {
    place.path().join(format!("{index:08}"))
}

pub(crate) fn config(place: &TempDir, writable: bool, sparse: bool) -> ReverseConfig {
    ReverseConfig {
        directory: place.path().to_owned(),
        block_size: None,
        sparse,
        writable,
        force: false,
        detect_zeros: false,
        owner: OwnerConfig::default(),
    }
}

fn open(place: &TempDir, writable: bool, sparse: bool) -> Reverse {
    Reverse::open(
        &config(place, writable, sparse),
        Arc::new(TestClock::new(9_000_000_000)),
    )
    .unwrap()
}

pub(crate) fn file_of(reverse: &Reverse, name: &str, write: bool) -> Handle {
    let found = reverse.lookup(Inode::Root, OsStr::new(name)).unwrap();
    reverse.open(found.attr.inode, write).unwrap()
}

fn image_of(reverse: &Reverse, write: bool) -> Handle {
    file_of(reverse, "image", write)
}

fn read_all(reverse: &Reverse) -> std::result::Result<Vec<u8>, Errno> {
    let handle = image_of(reverse, false);
    let size = usize::try_from(reverse.geometry().image_size()).unwrap();
    let mut out = vec![0xEE; size + 50];
    let got = reverse.read(handle, 0, &mut out, true);
    reverse.release(handle);
    let got = got?;
    assert_eq!(got, size);
    out.truncate(got);
    Ok(out)
}

#[test]
fn the_root_lists_the_image_alone() {
    let (place, image) = backup(3);
    let reverse = open(&place, false, false);
    let root = reverse.open_directory(Inode::Root).unwrap();
    let mut seen = Vec::new();
    let mut left = 2;
    let mut sink = |listed: &Listed<'_>| {
        if left == 0 {
            return false;
        }
        left -= 1;
        seen.push((listed.name.to_owned(), listed.next));
        true
    };
    reverse.list(root, 0, &mut sink).unwrap();
    assert_eq!(seen, [(".".into(), 1), ("..".into(), 2)]);
    let mut seen = Vec::new();
    reverse
        .list(root, 2, &mut |listed| {
            seen.push(listed.name.to_owned());
            true
        })
        .unwrap();
    assert_eq!(seen, ["image"]);
    assert_eq!(read_all(&reverse).unwrap(), image);
    assert_eq!(
        reverse.lookup(Inode::Root, OsStr::new("00000000")),
        Err(Errno::ENOENT)
    );
}

#[test]
fn attributes_come_from_the_block_files() {
    let (place, _) = backup(2);
    fs::set_permissions(file(&place, 0), Permissions::from_mode(0o440)).unwrap();
    for (index, seconds) in [(0, 1000), (1, 5000), (2, 3000)] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = File::open(file(&place, index)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(time))
            .unwrap();
    }
    let reverse = open(&place, false, false);
    let attr = reverse.attr(Inode::from_number(2).unwrap()).unwrap();
    assert_eq!(
        (attr.size, attr.stamp, attr.mode),
        (2 * 4096 + 100, 5000, 0o640)
    );
    assert_eq!(attr.uid, fs::metadata(place.path()).unwrap().uid());
    assert_eq!(reverse.attr(Inode::Root).unwrap().stamp, 5000);
}

#[test]
fn an_empty_directory_is_an_empty_image() {
    let place = directory();
    let reverse = open(&place, true, false);
    assert!(read_all(&reverse).unwrap().is_empty());
    let handle = image_of(&reverse, true);
    assert_eq!(reverse.write(handle, 0, b"x"), Err(Errno::EFBIG));
    assert_eq!(reverse.seek(handle, 0, Seek::Hole), Err(Errno::ENXIO));
    drop(reverse);
    fs::write(place.path().join("readme"), b"x").unwrap();
    let refused = Reverse::open(&config(&place, false, false), Arc::new(TestClock::new(1)));
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("no file in it has the name of a block"),
        "{said}"
    );
}

#[test]
fn only_regular_files_are_blocks() {
    let (place, _) = backup(2);
    symlink("00000000", file(&place, 3)).unwrap();
    let refused = |place: &TempDir| {
        Reverse::open(&config(place, false, false), Arc::new(TestClock::new(1)))
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&place).ends_with("block 00000003 is not a regular file"));
    fs::remove_file(file(&place, 3)).unwrap();
    nix::unistd::mkfifo(&file(&place, 3), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refused(&place).ends_with("block 00000003 is not a regular file"));
}

#[test]
fn what_vanishes_or_changes_its_length_is_an_error() {
    let (place, image) = backup(4);
    let reverse = open(&place, false, false);
    let handle = image_of(&reverse, false);
    fs::remove_file(file(&place, 1)).unwrap();
    File::options()
        .write(true)
        .open(file(&place, 2))
        .unwrap()
        .set_len(50)
        .unwrap();
    fs::remove_file(file(&place, 3)).unwrap();
    symlink("00000000", file(&place, 3)).unwrap();
    let mut out = [0; BLOCK];
    for (block, errno) in [(1, Errno::EIO), (2, Errno::EIO), (3, Errno::EIO)] {
        let at = block * BLOCK as u64;
        assert_eq!(
            reverse.read(handle, at, &mut out, false),
            Err(errno),
            "{block}"
        );
    }
    // What comes before is still served, unless all of it is wanted.
    let mut out = [0; 2 * BLOCK];
    assert_eq!(reverse.read(handle, 10, &mut out, false), Ok(BLOCK - 10));
    assert_eq!(out[..BLOCK - 10], image[10..BLOCK]);
    assert_eq!(reverse.read(handle, 10, &mut out, true), Err(Errno::EIO));
}

#[test]
fn a_file_that_is_cut_while_it_is_open_is_an_error() {
    let (place, image) = backup(2);
    let reverse = open(&place, true, false);
    let handle = image_of(&reverse, true);
    let mut out = vec![0; BLOCK];
    assert_eq!(reverse.read(handle, 0, &mut out, true), Ok(BLOCK));
    assert_eq!(reverse.write(handle, 0, &image[..10]), Ok(10));
    let cut = File::options().write(true).open(file(&place, 0)).unwrap();
    cut.set_len(100).unwrap();
    assert_eq!(reverse.read(handle, 0, &mut out, false), Ok(100));
    assert_eq!(reverse.read(handle, 100, &mut out, false), Err(Errno::EIO));
    assert_eq!(reverse.write(handle, 200, b"x"), Err(Errno::EIO));
    assert_eq!(cut.metadata().unwrap().len(), 100, "it did not grow again");
    fs::rename(file(&place, 1), file(&place, 0)).unwrap();
    assert_eq!(
        reverse.write(handle, 0, b"x"),
        Err(Errno::EIO),
        "nobody would find it"
    );
}

#[test]
fn a_read_only_mount_refuses_to_write() {
    let (place, _) = backup(1);
    let reverse = open(&place, false, false);
    let inode = Inode::from_number(2).unwrap();
    assert_eq!(reverse.open(inode, true), Err(Errno::EROFS));
    assert_eq!(reverse.change(inode, &Change::default()), Err(Errno::EROFS));
    assert_eq!(
        reverse.remove(Inode::Root, OsStr::new("image")),
        Err(Errno::EROFS)
    );
    let handle = image_of(&reverse, false);
    assert_eq!(reverse.write(handle, 0, b"x"), Err(Errno::EBADF));
    assert_eq!(reverse.sync(handle, false), Ok(()));
}

#[test]
fn the_image_keeps_its_length_and_takes_owners_and_times() {
    let (place, image) = backup(1);
    let reverse = open(&place, true, false);
    let inode = Inode::from_number(2).unwrap();
    let size = image.len() as u64;
    for (asked, answer) in [
        (size, Ok(())),
        (0, Err(Errno::EPERM)),
        (size - 1, Err(Errno::EPERM)),
        (size + 1, Err(Errno::EFBIG)),
    ] {
        let change = Change {
            size: Some(asked),
            ..Change::default()
        };
        assert_eq!(
            reverse.change(inode, &change).map(|_| ()),
            answer,
            "{asked}"
        );
    }
    let change = Change {
        mode: Some(0o7777),
        uid: Some(5),
        mtime: Some(SetTime::At(77)),
        atime: Some(SetTime::Now),
        ..Change::default()
    };
    let attr = reverse.change(inode, &change).unwrap();
    assert_eq!((attr.uid, attr.stamp, attr.atime), (5, 77, 9_000_000_000));
    assert_eq!(attr.mode, attr.mode & 0o666 | 0o600);
    assert_eq!(read_all(&reverse).unwrap(), image);
    let handle = image_of(&reverse, true);
    assert_eq!(
        reverse.write(handle, size - 3, b"12345"),
        Ok(3),
        "up to the end"
    );
    assert_eq!(reverse.write(handle, size, b"1"), Err(Errno::EFBIG));
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, 0, size + 1),
        Err(Errno::EFBIG)
    );
    assert_eq!(
        reverse.allocate(handle, Allocate::Zero, false, u64::MAX, 2),
        Err(Errno::EFBIG)
    );
}
