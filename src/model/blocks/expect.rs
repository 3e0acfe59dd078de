//! The model: a `Vec` of bytes, and for every file what stat(2) is to show.

use std::collections::BTreeSet;

use super::lengths::Files;
use super::stamps::{Followed, Own};
use crate::image::faulty::{History, OWNERSHIP};
use crate::volume::inode::Inode;
use crate::volume::{Attr, Change, Errno, FileKind, SetTime};

/// How a case is mounted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// Bytes of a block.
    pub(super) block: usize,
    pub(super) size: usize,
    pub(super) writable: bool,
    pub(super) latch: bool,
    pub(super) history: History,
    /// Reads ahead; then nobody else writes.
    pub(super) direct: bool,
}

/// What a client has set on a file.
#[derive(Debug, Clone, Copy, Default)]
struct Set {
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    atime: Option<i64>,
}

/// What Blocks is to show.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) setup: Setup,
    /// What the image holds now.
    pub(super) bytes: Vec<u8>,
    /// The image's size as far as the mount has seen it.
    pub(super) known: usize,
    pub(super) latched: bool,
    pub(super) lengths: Files,
    /// Blocks of which something was asked for that had been cut off.
    unreadable: BTreeSet<usize>,
    base: i64,
    files: Vec<(Own, Set)>,
    root: Set,
    /// How many stamps were made for writes.
    made: usize,
    /// An mtime set on the root, and how many stamps had been made then.
    root_time: Option<(i64, usize)>,
    pub(super) followed: Followed,
}

impl Model {
    pub(super) fn new(setup: Setup, bytes: Vec<u8>, now: i64) -> Self {
        // A writable mount has waited for this second to end.
        let base = if setup.writable { now - 1 } else { now };
        let mut model = Self {
            setup,
            known: bytes.len(),
            bytes,
            latched: false,
            lengths: Files::default(),
            unreadable: BTreeSet::new(),
            base,
            files: Vec::new(),
            root: Set::default(),
            made: 0,
            root_time: None,
            followed: Followed::new(setup.history, now),
        };
        model.add_files();
        model
    }

    fn add_files(&mut self) {
        let new = (Own::new(self.base), Set::default());
        self.files
            .resize(self.known.div_ceil(self.setup.block), new);
    }

    pub(super) fn blocks(&self) -> usize {
        self.files.len()
    }

    pub(super) fn touched(&self) -> usize {
        self.files.iter().filter(|(own, _)| own.touched).count()
    }

    /// Where a block lies, as far as the mount knows.
    pub(super) fn span(&self, block: usize) -> (usize, usize) {
        let start = block * self.setup.block;
        (start, (start + self.setup.block).min(self.known))
    }

    pub(super) fn len(&self, block: usize) -> usize {
        let (start, end) = self.span(block);
        end - start
    }

    /// The mount looks at the size again: what has grown is another content.
    pub(super) fn reread(&mut self, now: i64) {
        if self.bytes.len() <= self.known {
            return;
        }
        if self.known % self.setup.block != 0 {
            self.wrote(self.files.len() - 1, now);
            self.lengths.forget(self.files.len() - 1);
        }
        self.known = self.bytes.len();
        self.add_files();
    }

    pub(super) fn read(&mut self, block: usize) {
        self.files[block].0.read();
    }

    /// A block is, or may have been, written.
    pub(super) fn wrote(&mut self, block: usize, now: i64) {
        let before = self.files[block].0.stamp;
        self.files[block].0.write(now);
        self.unreadable.remove(&block);
        self.made += usize::from(self.files[block].0.stamp != before);
    }

    /// Whether the block can be opened for reading: not after that failed, nor if it would.
    pub(super) fn can_open(&mut self, block: usize) -> bool {
        if self.span(block).1 > self.bytes.len() {
            self.unreadable.insert(block);
        }
        !self.unreadable.contains(&block)
    }

    pub(super) fn cannot_read(&mut self, block: usize) {
        self.unreadable.insert(block);
    }

    pub(super) fn unreadable(&self) -> Option<(u64, usize)> {
        let first = self.unreadable.first()?;
        Some((self.unreadable.len() as u64, *first))
    }

    /// Makes a range of the image what it must become; EIO if it is not all there.
    pub(super) fn put(&mut self, start: usize, data: &[u8]) -> Result<(), Errno> {
        let target = self.bytes.get_mut(start..start + data.len());
        target.ok_or(Errno::EIO)?.copy_from_slice(data);
        Ok(())
    }

    fn newest(&self) -> i64 {
        let stamps = self.files.iter().map(|(own, _)| own.stamp);
        stamps.max().unwrap_or(self.base)
    }

    fn set_of(&mut self, inode: Inode) -> &mut Set {
        match inode {
            Inode::Block(block) => &mut self.files[block.as_usize()].1,
            _ => &mut self.root,
        }
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, inode: Inode) -> bool {
        match inode {
            Inode::Root => true,
            Inode::Block(block) => block.as_usize() < self.blocks(),
            Inode::Other(_) => false,
        }
    }

    /// Sets everything but the length.
    pub(super) fn change(&mut self, inode: Inode, change: &Change, now: i64) {
        let seconds = |time| match time {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        let shown = match inode {
            Inode::Block(block) => self.files[block.as_usize()].0.stamp,
            _ => self.root_stamp(),
        };
        let made = self.made;
        match (inode, change.mtime.map(seconds)) {
            (Inode::Block(block), Some(mtime)) => self.files[block.as_usize()].0.set(mtime),
            (_, Some(mtime)) => self.root_time = Some((mtime, made)),
            _ => {}
        }
        let widest = widest(inode);
        let set = self.set_of(inode);
        if let Some(mode) = change.mode {
            set.mode = Some(u16::try_from(mode & 0o7777).unwrap() & widest);
        }
        set.uid = change.uid.or(set.uid);
        set.gid = change.gid.or(set.gid);
        // An atime handed back as it was shown goes on following the stamp.
        let wish = change.atime.map(seconds);
        if wish.is_some() && wish != set.atime.or(Some(shown)) {
            set.atime = wish;
        }
    }

    fn root_stamp(&self) -> i64 {
        let newest = self.newest();
        match self.root_time {
            Some((set, then)) if then == self.made => set,
            _ => newest,
        }
    }

    /// Checks what stat shows, all but the sectors.
    pub(super) fn check(&mut self, attr: &Attr, inode: Inode) {
        let stamp = if self.setup.writable {
            match inode {
                Inode::Block(block) => self.files[block.as_usize()].0.show(),
                _ => self.root_stamp(),
            }
        } else {
            self.followed.show(attr.stamp);
            attr.stamp
        };
        let set = *self.set_of(inode);
        let (kind, links, size) = match inode {
            Inode::Block(block) => (FileKind::File, 1, self.len(block.as_usize())),
            _ => (FileKind::Directory, 2, 0),
        };
        let expected = Attr {
            inode,
            kind,
            size: size as u64,
            sectors: attr.sectors,
            stamp,
            atime: set.atime.unwrap_or(stamp),
            mode: set.mode.unwrap_or(widest(inode)),
            links,
            uid: set.uid.unwrap_or(OWNERSHIP.uid),
            gid: set.gid.unwrap_or(OWNERSHIP.gid),
        };
        assert_eq!(*attr, expected);
        if matches!(inode, Inode::Root) {
            assert_eq!(attr.sectors, 0);
        }
    }
}

/// The source is 0640.
fn widest(inode: Inode) -> u16 {
    match inode {
        Inode::Root => 0o750,
        _ => 0o640,
    }
}
