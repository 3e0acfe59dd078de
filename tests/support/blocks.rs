//! Looking at a directory of block files, mounted or backed up.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nix::unistd::{Whence, lseek};

/// The name of a block file.
pub(crate) fn name(index: u64) -> String {
    format!("{index:08}")
}

/// All names in a directory, sorted by bytes.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<Vec<u8>> = entries
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| String::from_utf8(name).unwrap())
        .collect()
}

/// The names that an image of `size` bytes has at this block size.
pub(crate) fn expected_names(size: u64, block: u64) -> Vec<String> {
    (0..size.div_ceil(block)).map(name).collect()
}

/// All files of a directory, one after the other in the order of their names.
pub(crate) fn concatenated(dir: &Path) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = names(dir)
        .iter()
        .map(|name| read(&dir.join(name)))
        .collect();
    parts.concat()
}

/// A file's content.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Writes an image into `dir` as block files, as a backup has them: with the times of another day. (Those of
/// today could be those of the mount by chance, and then rsync would skip what it has not seen.)
pub(crate) fn split_into(dir: &Path, image: &[u8], block: usize) {
    let then = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (index, part) in image.chunks(block).enumerate() {
        let path = dir.join(format!("{index:08}"));
        fs::write(&path, part).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(then)).unwrap();
    }
}

/// Opens for reading and writing.
pub(crate) fn open_rw(path: impl AsRef<Path>) -> File {
    let path = path.as_ref();
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The data ranges of a file as `SEEK_DATA` and `SEEK_HOLE` tell them.
pub(crate) fn data_ranges(file: &File) -> Vec<(i64, i64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        match lseek(file.as_fd(), at, Whence::SeekData) {
            Ok(start) => {
                let end = lseek(file.as_fd(), start, Whence::SeekHole).unwrap();
                assert!(end > start, "a data range of no length at {start}");
                ranges.push((start, end));
                at = end;
            }
            Err(nix::Error::ENXIO) => return ranges,
            Err(e) => panic!("SEEK_DATA at {at}: {e}"),
        }
    }
}

/// Expects an error with this number.
pub(crate) fn refused<T, E: Into<io::Error>>(what: &str, result: Result<T, E>, errno: i32) {
    match result {
        Ok(_) => panic!(
            "{what} succeeded, expected {}",
            io::Error::from_raw_os_error(errno)
        ),
        Err(e) => {
            let error: io::Error = e.into();
            let expected = io::Error::from_raw_os_error(errno);
            assert_eq!(
                error.raw_os_error(),
                Some(errno),
                "{what}: {error}, expected {expected}"
            );
        }
    }
}
