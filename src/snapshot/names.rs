//! What clones are called, and finding and removing those that nobody needs any more.
//!
//! Invariant: only a regular file of a name that bmapfs makes, for the same index, that nobody uses, is removed.

use std::ffi::CStr;
use std::fs::File;
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::{self, FlockKind};

/// The longest name that a file may have, in bytes.
const LONGEST: usize = 255;
/// Between the image's name and what makes the clone's unique.
const MIDDLE: &str = ".bmapfs-";
/// Hexadecimal digits of a tag, and of the random part behind it.
const DIGITS: usize = 8;

/// What all clones that one index has of any image have in common, so that two indexes of an image leave each other's
/// alone: eight hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    /// Of the index at this path; without an index, of all that have none.
    pub(super) fn of(index: Option<&Path>) -> Self {
        let Some(index) = index else {
            return Self("0".repeat(DIGITS));
        };
        // The same through links; the file itself need not be there yet.
        let path = sys::links::resolve(index).unwrap_or_else(|_| index.to_owned());
        let digest = blake3::hash(path.as_os_str().as_bytes()).to_hex();
        Self(digest[..DIGITS].to_owned())
    }

    /// A name for a clone of the image `image`, another one each time.
    pub(super) fn new_name(&self, image: &Path) -> String {
        let random = RandomState::new().build_hasher().finish();
        let digits = format!("{random:016x}");
        format!("{}{}", self.stem(image), &digits[..DIGITS])
    }

    /// Whether a clone is one of this image, for this index.
    pub(super) fn is_of(&self, name: &str, image: &Path) -> bool {
        self.is_in(name) && name.starts_with(&self.stem(image))
    }

    /// Whether a clone is for this index.
    fn is_in(&self, name: &str) -> bool {
        let random = name.len().checked_sub(DIGITS);
        let Some((rest, random)) = random.and_then(|at| name.split_at_checked(at)) else {
            return false;
        };
        let digits = random.bytes().all(|byte| byte.is_ascii_hexdigit());
        let rest = rest.strip_suffix(self.0.as_str());
        name.starts_with('.') && digits && rest.is_some_and(|rest| rest.ends_with(MIDDLE))
    }

    fn stem(&self, image: &Path) -> String {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_control() || c == '\u{fffd}' {
                    '_'
                } else {
                    c
                }
            })
            .collect();
        let room = LONGEST - 1 - MIDDLE.len() - 2 * DIGITS;
        let mut end = name.len().min(room);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        format!(".{}{MIDDLE}{}", &name[..end], self.0)
    }
}

/// Opens a directory to find files in.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty())?;
    Ok(File::from(fd))
}

/// Opens a regular file of this name for reading, and nothing else that may be there.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Whether `file` is what has this name.
pub(super) fn is_named(directory: BorrowedFd<'_>, name: &str, file: &File) -> io::Result<bool> {
    let stat = file.metadata()?;
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (stat.dev(), stat.ino())),
        Err(Errno::ENOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Removes the name of a clone, if it is there.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes all clones for the index of `tag` but `kept`. What is in use stays; what fails is logged.
pub(super) fn sweep(directory: BorrowedFd<'_>, tag: &Tag, kept: Option<&str>) {
    let entries = openat(
        directory,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .and_then(Dir::from_fd);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(e) => {
            log::debug!("looking for old snapshots: {e}");
            return;
        }
    };
    let readable = |name: &CStr| name.to_str().ok().map(str::to_owned);
    let old: Vec<String> = entries
        .iter()
        .filter_map(|entry| readable(entry.ok()?.file_name()))
        .filter(|name| tag.is_in(name) && Some(name.as_str()) != kept)
        .collect();
    for name in old {
        match remove_unused(directory, &name) {
            Ok(true) => log::debug!("removed the old snapshot {name}"),
            Ok(false) => log::debug!("the snapshot {name} is in use"),
            Err(e) => log::warn!("the old snapshot {name} cannot be removed: {e}"),
        }
    }
}

/// Removes a clone that nobody uses. `false`: somebody does.
fn remove_unused(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let file = match open_file(directory, name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    // Whoever uses one holds a shared lock.
    if !sys::try_flock(file.as_fd(), FlockKind::Exclusive)? || !is_named(directory, name, &file)? {
        return Ok(false);
    }
    remove(directory, name)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn names_are_of_an_image_and_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let index = directory.path().join("a.index");
        let tag = Tag::of(Some(&index));
        let other = Tag::of(Some(&directory.path().join("b.index")));
        let (image, neighbour) = (Path::new("/x/web.img"), Path::new("/x/web.img2"));
        let name = tag.new_name(image);
        assert!(name.starts_with(".web.img.bmapfs-"), "{name}");
        assert_eq!(name.len(), ".web.img.bmapfs-".len() + 16);
        assert_ne!(name, tag.new_name(image));
        assert!(tag.is_of(&name, image) && !other.is_of(&name, image));
        assert!(!tag.is_of(&name, neighbour) && !tag.is_of(&tag.new_name(neighbour), image));
        assert!(tag.is_in(&tag.new_name(neighbour)) && !other.is_in(&name));
        for stranger in [
            "",
            ".",
            "..",
            "web.img",
            ".bmapfs-",
            ".web.img.bmapfs-00000000",
            &name[1..],
            &name[..name.len() - 1],
            &format!("{name}0"),
            &format!("{name}.old"),
            &name.replace(".bmapfs-", "-bmapfs-"),
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert!(!tag.is_in(stranger), "{stranger}");
        }
        // One index, whichever way leads to it, whether it is there or not.
        std::os::unix::fs::symlink(directory.path(), directory.path().join("link")).unwrap();
        let detour = directory.path().join("link/a.index");
        assert_eq!(Tag::of(Some(&detour)), tag);
        let dangling = directory.path().join("b.link");
        std::os::unix::fs::symlink("a.index", &dangling).unwrap();
        assert_eq!(Tag::of(Some(&dangling)), tag);
        std::fs::write(&index, b"").unwrap();
        assert_eq!(Tag::of(Some(&detour)), tag);
        assert_ne!(Tag::of(None), tag);
        assert_eq!(Tag::of(None), Tag::of(None));
    }

    #[test]
    fn names_fit_whatever_the_image_is_called() {
        let tag = Tag::of(None);
        for image in [
            "x".repeat(255),
            "\u{e9}".repeat(127),
            "x".to_owned() + &"\u{1f4bf}".repeat(63),
            "a\nb\u{7f}".to_owned(),
        ] {
            let name = tag.new_name(Path::new(&image));
            assert!(name.len() <= 255 && !name.contains('\n'), "{name}");
            assert!(tag.is_of(&name, Path::new(&image)), "{name}");
        }
        let odd = Path::new(OsStr::from_bytes(b"\xff\xfe.img"));
        assert!(tag.new_name(odd).starts_with(".__.img.bmapfs-"));
    }

    #[test]
    fn a_sweep_takes_only_what_is_its_own_and_unused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (tag, other) = (Tag("1234abcd".to_owned()), Tag("1234abce".to_owned()));
        let image = Path::new("a.img");
        let (kept, old, older, used) = (
            tag.new_name(image),
            tag.new_name(image),
            tag.new_name(Path::new("b.img")),
            tag.new_name(image),
        );
        let (foreign, link) = (other.new_name(image), tag.new_name(image));
        for name in [&kept, &old, &older, &used, &foreign, &"a.img".to_owned()] {
            std::fs::write(path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink("a.img", path(&link)).unwrap();
        std::fs::create_dir(path(&tag.new_name(image))).unwrap();
        let holder = File::open(path(&used)).unwrap();
        assert!(sys::try_flock(holder.as_fd(), FlockKind::Shared).unwrap());
        let fd = open_directory(directory.path()).unwrap();
        sweep(fd.as_fd(), &tag, Some(&kept));
        for (name, there) in [
            (&kept, true),
            (&old, false),
            (&older, false),
            (&used, true),
            (&foreign, true),
            (&link, true),
            (&"a.img".to_owned(), true),
        ] {
            assert_eq!(path(name).symlink_metadata().is_ok(), there, "{name}");
        }
        drop(holder);
        sweep(fd.as_fd(), &tag, None);
        assert!(!path(&used).exists() && !path(&kept).exists());
    }
}
