//! Clients that look and read, and targets that are synced.

use super::live::{Content, HALF};
use super::op::Style;
use super::world::{BLOCKS, Mounted, Pair, World, number};
use crate::blocks::Blocks;
use crate::clock::Clock;
use crate::volume::inode::Inode;
use crate::volume::testing::Read as _;
use crate::volume::{Attr, Handle, Volume};

/// A client that copies a block.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) block: usize,
    pub(super) handles: Vec<Handle>,
    /// Which piece comes next, through which handle.
    pieces: Vec<(usize, usize)>,
    next: usize,
    stamp: i64,
    size: usize,
    letters: [u8; 2],
    /// How many stamps clients had set when it looked.
    sets: usize,
}

impl Reader {
    /// The next read is the last.
    pub(super) fn is_last(&self) -> bool {
        self.next + 1 == self.pieces.len()
    }

    /// What it has, after the last.
    pub(super) fn pair(&self) -> Pair {
        Pair {
            stamp: self.stamp,
            content: Content {
                len: self.size,
                letters: self.letters,
            },
        }
    }
}

impl World {
    /// `ls -l`
    pub(super) fn list(&self, mounted: &Mounted) -> Vec<(usize, Attr)> {
        let since = self.live.number();
        let before = mounted.index.overlay();
        // What the scan found, although it may not be so any more.
        let fresh = mounted.index.fresh() >= self.clock.passed();
        let seen = self.live.seen_since(mounted.noted);
        let directory = mounted.blocks.open_directory(Inode::Root).unwrap();
        let renewed = mounted.index.overlay() != before;
        if renewed {
            let mut model = self.model();
            if let Some(mount) = &mut model.mount {
                mount.base = since;
            }
        }
        let hides = self.base().filter(|_| !renewed && !seen && fresh);
        let found = entries(&mounted.blocks, directory);
        for (block, attr) in &found {
            self.shown(mounted, *block, attr, since, hides);
        }
        found
    }

    /// `stat`
    pub(super) fn look(&self, mounted: &Mounted, block: usize) -> Option<Attr> {
        let since = self.live.number();
        let base = self.base().or(Some(since));
        let attr = mounted.blocks.attr(Inode::Block(number(block))).ok()?;
        self.shown(mounted, block, &attr, since, base);
        Some(attr)
    }

    /// Of the mount that is there.
    fn base(&self) -> Option<usize> {
        self.model().mount.as_ref().map(|mount| mount.base)
    }

    pub(super) fn start(&self, mounted: &Mounted, block: usize, style: Style, listed: bool) {
        let sets = self.model().sets.len();
        let attr = if listed {
            let all = self.list(mounted);
            all.into_iter().find(|(b, _)| *b == block).map(|(_, a)| a)
        } else {
            self.look(mounted, block)
        };
        if let Some(reader) = attr.and_then(|attr| open_indexed(mounted, block, &attr, style, sets))
        {
            self.model().readers.push(reader);
        }
    }

    pub(super) fn step(&self, mounted: &Mounted, which: usize) {
        // Taken out, so that nothing that happens meanwhile finds it.
        let reader = {
            let mut model = self.model();
            let count = model.readers.len();
            if count == 0 {
                return;
            }
            model.readers.swap_remove(which % count)
        };
        if let Some(reader) = self.advance(&mounted.blocks, reader) {
            self.model().readers.push(reader);
        }
    }

    pub(super) fn abandon(&self, mounted: &Mounted, which: usize) {
        let reader = {
            let mut model = self.model();
            let count = model.readers.len();
            if count == 0 {
                return;
            }
            model.readers.swap_remove(which % count)
        };
        release(&mounted.blocks, &reader);
    }

    /// One read, or after the last the end. `None`: it has ended.
    pub(super) fn advance(&self, blocks: &Blocks, mut reader: Reader) -> Option<Reader> {
        let Some((piece, handle)) = reader.pieces.get(reader.next).copied() else {
            release(blocks, &reader);
            return None;
        };
        reader.next += 1;
        let offset = piece * HALF;
        let mut out = vec![0; HALF.min(reader.size - offset)];
        let handle = reader.handles[handle];
        let got = blocks.read(handle, offset as u64, &mut out, false);
        if self.disk.dead() {
            return None;
        }
        if got != Ok(out.len()) {
            release(blocks, &reader);
            return None;
        }
        assert!(out.iter().all(|byte| *byte == out[0]));
        reader.letters[piece] = out[0];
        if reader.next == reader.pieces.len() {
            self.copied(&reader);
        }
        Some(reader)
    }

    /// `cp`: looks, and reads all of it.
    pub(super) fn copy(&self, mounted: &Mounted, block: usize) {
        let sets = self.model().sets.len();
        let attr = self.look(mounted, block);
        let mut reader =
            attr.and_then(|attr| open_indexed(mounted, block, &attr, Style::Ordered, sets));
        while let Some(next) = reader {
            reader = self.advance(&mounted.blocks, next);
        }
    }

    /// It has all of the block.
    fn copied(&self, reader: &Reader) -> Pair {
        let pair = reader.pair();
        let at = self.live.number();
        let mut model = self.model();
        let set_since = model.sets[reader.sets..].contains(&(reader.block, reader.stamp));
        if !set_since {
            model.hold(reader.block, pair, at);
        }
        pair
    }

    /// What rsync does. How many blocks it copied.
    pub(super) fn sync(&self, target: usize) -> usize {
        let Some(mounted) = self.mounted() else {
            return 0;
        };
        let since = self.live.number();
        let mut copied = [false; BLOCKS];
        let sets = self.model().sets.len();
        for (block, attr) in self.list(&mounted) {
            let has = self.model().targets[target][block];
            let size = usize::try_from(attr.size).unwrap();
            if has.is_some_and(|has| has.stamp == attr.stamp && has.content.len == size) {
                continue;
            }
            let Some(mut reader) = open_indexed(&mounted, block, &attr, Style::Ordered, sets)
            else {
                continue;
            };
            while reader.next < reader.pieces.len() {
                match self.advance(&mounted.blocks, reader) {
                    Some(next) => reader = next,
                    None if self.disk.dead() => return 0,
                    None => break,
                }
                if reader.next == reader.pieces.len() {
                    let pair = self.copied(&reader);
                    self.model().targets[target][block] = Some(pair);
                    copied[block] = true;
                    release(&mounted.blocks, &reader);
                    break;
                }
            }
        }
        self.check_target(target, since, copied);
        copied.iter().filter(|copied| **copied).count()
    }

    /// After a sync of an image that nobody wrote meanwhile, the target is equal to it.
    fn check_target(&self, target: usize, since: usize, copied: [bool; BLOCKS]) {
        let model = self.model();
        let Some(mount) = &model.mount else {
            return;
        };
        let quiet = self.live.number() == since && !self.live.foreign_since(mount.begin);
        let geometry = mount.blocks.geometry();
        let whole = geometry.image_size() == self.live.size() as u64;
        if !quiet || !whole || model.bad || self.disk.dead() {
            return;
        }
        let count = usize::try_from(geometry.blocks()).unwrap();
        for (block, copied) in copied.into_iter().enumerate().take(count) {
            if mount.index.is_unreadable(number(block)) {
                assert!(!copied);
                continue;
            }
            let has = model.targets[target][block].unwrap();
            let now = self.live.present().content(block, has.content.len);
            // A client that gives a stamp to other content is believed.
            if copied || model.holds(block, has) {
                assert_eq!(has.content, now, "block {block} of target {target}");
            }
        }
    }
}

/// What an open directory lists, which is closed then.
pub(super) fn entries(blocks: &Blocks, directory: Handle) -> Vec<(usize, Attr)> {
    let mut found = Vec::new();
    blocks
        .list(directory, 0, &mut |listed| {
            if let Inode::Block(block) = listed.entry.attr.inode {
                found.push((block.as_usize(), listed.entry.attr));
            }
            true
        })
        .unwrap();
    blocks.release_directory(directory);
    found
}

/// The same, of a mount with an index: a block that is known to be unreadable cannot be opened.
fn open_indexed(
    mounted: &Mounted,
    block: usize,
    attr: &Attr,
    style: Style,
    sets: usize,
) -> Option<Reader> {
    let unreadable = mounted.index.is_unreadable(number(block));
    let opened = open(&mounted.blocks, block, attr, style, sets);
    assert!(!unreadable || opened.is_none(), "block {block}");
    opened
}

pub(super) fn open(
    blocks: &Blocks,
    block: usize,
    attr: &Attr,
    style: Style,
    sets: usize,
) -> Option<Reader> {
    let inode = Inode::Block(number(block));
    let size = usize::try_from(attr.size).unwrap();
    let last = size.div_ceil(HALF).checked_sub(1)?;
    let (handles, pieces) = match style {
        Style::Ordered => (1, (0..=last).map(|piece| (piece, 0)).collect()),
        Style::Backwards => (1, (0..=last).rev().map(|piece| (piece, 0)).collect()),
        Style::TwoHandles => (2, (0..=last).map(|piece| (piece, piece)).collect()),
        Style::Again => (
            1,
            (0..=last).map(|piece| (piece, 0)).chain([(0, 0)]).collect(),
        ),
    };
    let handles: Option<Vec<Handle>> = (0..handles)
        .map(|_| blocks.open(inode, false).ok())
        .collect();
    Some(Reader {
        block,
        handles: handles?,
        pieces,
        next: 0,
        stamp: attr.stamp,
        size,
        letters: [u8::MAX; 2],
        sets,
    })
}

pub(super) fn release(blocks: &Blocks, reader: &Reader) {
    for handle in &reader.handles {
        blocks.release(*handle);
    }
}
