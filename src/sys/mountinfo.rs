//! What is mounted where, by the word of /proc/self/mountinfo.
//!
//! Invariant: nothing here calls the file systems that it tells about, so it is safe to use while their
//! daemon is dead, stuck, or this very process. The parser is a pure function over bytes; it must not know
//! what bmapfs does with the answer.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::device::DeviceNumber;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Number of this mount in its namespace.
    pub id: u64,
    /// Number of the mount that this one lies on.
    pub parent: u64,
    /// The file system that is mounted.
    pub device: DeviceNumber,
    /// What of the file system is shown: `/` unless it is a bind mount of a part.
    pub root: PathBuf,
    /// Where, seen from this process's root.
    pub point: PathBuf,
    /// Type with subtype, as in `fuse.bmapfs`.
    pub fs_type: OsString,
    /// Source, which may be anything.
    pub source: OsString,
    /// Options of the file system (not of the mount), with commas between.
    pub options: OsString,
}

impl MountEntry {
    /// The user who made a FUSE mount, `user_id=` in its options; `None` for other file systems.
    #[must_use]
    pub(crate) fn owner(&self) -> Option<u32> {
        let options = self.options.to_str()?;
        options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }

    /// Whether the file system itself, not only this mount of it, is read-only.
    #[must_use]
    pub(crate) fn is_read_only(&self) -> bool {
        let mut options = self.options.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option == b"ro")
    }
}

impl fmt::Display for MountEntry {
    /// For messages: `tmpfs (type tmpfs)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (type {})",
            Path::new(&self.source).display(),
            Path::new(&self.fs_type).display()
        )
    }
}

/// All mounts that a process sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    entries: Vec<MountEntry>,
}

impl Table {
    /// The mounts of this process's namespace, as they are now.
    pub(crate) fn read() -> io::Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo").map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("reading /proc/self/mountinfo: {error}"),
            )
        })?;
        Ok(Self::parse(&text))
    }

    /// Parses the text of a mountinfo file. Lines of another form are left out, since later kernels may add
    /// some.
    #[must_use]
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self {
            entries: text
                .split(|byte| *byte == b'\n')
                .filter_map(parse_line)
                .collect(),
        }
    }

    /// All mounts, in the kernel's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter()
    }

    /// All mounts of one file system, in the kernel's order.
    pub(crate) fn of_device(&self, device: DeviceNumber) -> impl Iterator<Item = &MountEntry> {
        self.entries
            .iter()
            .filter(move |entry| entry.device == device)
    }

    /// The mount that a path walk reaches at `point` (absolute, without `.`, `..` and links): the topmost of a
    /// stack. `None`: nothing is mounted exactly there, or it is hidden below a mount further up.
    #[must_use]
    pub(crate) fn topmost(&self, point: &Path) -> Option<&MountEntry> {
        self.stack(point).pop()
    }

    /// The mounts stacked on `point` that a path walk passes through, lowest first.
    #[must_use]
    pub(crate) fn stack(&self, point: &Path) -> Vec<&MountEntry> {
        let walked = self.walk(point);
        walked
            .into_iter()
            .filter(|entry| entry.point == point)
            .collect()
    }

    /// The mount that holds `path`: the last that a walk to it enters.
    #[must_use]
    pub(crate) fn holder(&self, path: &Path) -> Option<&MountEntry> {
        self.walk(path).pop()
    }

    /// Every mount that a walk from the root to `path` enters, in that order.
    fn walk(&self, path: &Path) -> Vec<&MountEntry> {
        let mut prefixes: Vec<&Path> = path.ancestors().collect();
        prefixes.reverse();
        let mut entered: Vec<&MountEntry> = Vec::new();
        for prefix in prefixes {
            while let Some(next) = self.next_on(entered.last().copied(), prefix) {
                entered.push(next);
            }
        }
        entered
    }

    /// The mount that lies on `lower` at `point`. Without `lower` (the walk has only just begun): a mount whose
    /// parent is not in the table, as for the root of a namespace or what a chroot leaves visible.
    fn next_on(&self, lower: Option<&MountEntry>, point: &Path) -> Option<&MountEntry> {
        self.entries.iter().rfind(|entry| {
            entry.point == point
                && match lower {
                    Some(lower) => entry.parent == lower.id && entry.id != lower.id,
                    None => {
                        entry.parent == entry.id
                            || self.entries.iter().all(|other| other.id != entry.parent)
                    }
                }
        })
    }
}

/// `36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = DeviceNumber::parse(std::str::from_utf8(fields.next()?).ok()?)?;
    let root = PathBuf::from(unescape(fields.next()?));
    let point = PathBuf::from(unescape(fields.next()?));
    let _mount_options = fields.next()?;
    fields.find(|field| field == b"-")?;
    let fs_type = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let options = unescape(fields.next()?);
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        point,
        fs_type,
        source,
        options,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's escapes: a backslash and three octal digits stand for one byte.
#[must_use]
pub(crate) fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let Some((byte, tail)) = octal(rest) {
            bytes.push(byte);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, tail) = text.strip_prefix(b"\\")?.split_at_checked(3)?;
    let digits = OsStr::from_bytes(digits).to_str()?;
    let all_octal = digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let byte = u8::from_str_radix(digits, 8).ok()?;
    all_octal.then_some((byte, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:5 / /proc rw,nosuid - proc proc rw
40 21 0:57 / /mnt/a rw,nosuid,nodev shared:9 master:2 - fuse.bmapfs /srv/a.img rw,user_id=1000,group_id=1000
41 40 0:58 / /mnt/a rw - tmpfs tmpfs rw
50 21 0:59 / /b/c rw - fuse.bmapfs hidden rw,user_id=0
51 21 0:60 / /b rw - tmpfs over rw
nonsense
52 21 0:61 /sub /odd\\040\\011\\012\\134\\043\xff rw -  - rw
53 21 0:62 / /empty rw - fuse  rw
";

    #[test]
    fn lines_are_taken_apart() {
        let table = Table::parse(TEXT);
        assert_eq!(table.entries.len(), 8);
        let entry = &table.entries[2];
        assert_eq!((entry.id, entry.parent), (40, 21));
        assert_eq!(entry.device.to_string(), "0:57");
        assert_eq!(entry.fs_type, "fuse.bmapfs");
        assert_eq!(entry.source, "/srv/a.img");
        assert_eq!(entry.owner(), Some(1000));
        assert_eq!(entry.to_string(), "/srv/a.img (type fuse.bmapfs)");
        assert_eq!(table.entries[1].owner(), None);
        let odd = &table.entries[6];
        assert_eq!(odd.root, Path::new("/sub"));
        assert_eq!(odd.point.as_os_str().as_bytes(), b"/odd \t\n\\#\xff");
        assert_eq!(
            (odd.fs_type.as_bytes(), odd.source.as_bytes()),
            (b"".as_slice(), b"-".as_slice())
        );
        assert_eq!(table.entries[7].source, "");
    }

    #[test]
    fn escapes_are_undone_and_other_backslashes_stay() {
        for (escaped, plain) in [
            (b"plain".as_slice(), b"plain".as_slice()),
            (b"a\\040b", b"a b"),
            (b"\\134040", b"\\040"),
            (b"\\377", b"\xff"),
            (b"\\400", b"\\400"),
            (b"\\04", b"\\04"),
            (b"\\08x", b"\\08x"),
            (b"\\+12", b"\\+12"),
            (b"\\", b"\\"),
            (b"", b""),
        ] {
            assert_eq!(unescape(escaped).as_bytes(), plain, "{escaped:?}");
        }
    }

    #[test]
    fn the_topmost_mount_is_what_a_walk_reaches() {
        let table = Table::parse(TEXT);
        let topmost = |path| table.topmost(Path::new(path)).map(|entry| entry.id);
        assert_eq!(topmost("/"), Some(21));
        assert_eq!(topmost("/mnt/a"), Some(41));
        assert_eq!(topmost("/mnt"), None);
        assert_eq!(topmost("/b/c"), None, "hidden by the tmpfs on /b");
        assert_eq!(topmost("/b"), Some(51));
        let stack: Vec<u64> = table
            .stack(Path::new("/mnt/a"))
            .iter()
            .map(|entry| entry.id)
            .collect();
        assert_eq!(stack, [40, 41]);
        assert_eq!(
            table.holder(Path::new("/b/c/d")).map(|entry| entry.id),
            Some(51)
        );
        assert_eq!(
            table.holder(Path::new("/mnt")).map(|entry| entry.id),
            Some(21)
        );
    }

    #[test]
    fn a_chroot_shows_no_root_mount() {
        let text = b"60 33 0:5 / /proc rw - proc proc rw\n61 33 0:9 / /m rw - fuse.bmapfs x rw\n";
        let table = Table::parse(text);
        assert_eq!(
            table.topmost(Path::new("/m")).map(|entry| entry.id),
            Some(61)
        );
        assert_eq!(table.holder(Path::new("/etc")), None);
    }
}
