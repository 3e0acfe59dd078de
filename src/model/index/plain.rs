//! A mount without an index, between two with one.

use std::sync::Arc;

use super::live::{BLOCK, Shared};
use super::op::Style;
use super::read::{entries, open, release};
use super::world::{Held, Pair, World, number};
use crate::blocks::Blocks;
use crate::clock::Clock;
use crate::config::{OwnerConfig, VolumeConfig};
use crate::geometry::BlockSize;
use crate::image::Image;
use crate::volume::inode::Inode;
use crate::volume::{Attr, Volume};

impl World {
    /// Mounts, syncs twice, and ends; `writes`: with -w, and what is written is copied.
    pub(super) fn plain(&self, target: usize, writes: bool) {
        self.close(false);
        if self.disk.dead() {
            return;
        }
        // What clients set, nobody remembers.
        self.forget_pairs_of_clients();
        self.begin_noting(true, true);
        if writes {
            self.live.let_go();
            let mut model = self.model();
            model.exclusive = true;
            // What is written now is not part of a state that was named before.
            model.checkpoint = None;
        }
        let blocks = self.plain_blocks(writes);
        for _ in 0..2 {
            self.sync_plain(&blocks, target);
            if self.disk.dead() {
                break;
            }
            if writes {
                self.write_plain(&blocks);
            }
        }
        if !self.disk.dead() {
            blocks.close().unwrap();
        }
        self.model().exclusive = false;
    }

    pub(super) fn plain_blocks(&self, writable: bool) -> Blocks {
        let config = VolumeConfig {
            block_size: BlockSize::MIN,
            writable,
            force: false,
            latch: true,
            sparse: false,
            resize: false,
            snapshot: None,
            detect_zeros: false,
            salvage: false,
            staging: 0,
            owner: OwnerConfig::default(),
        };
        let image: Arc<dyn Image> = Arc::new(Shared(Arc::clone(&self.live)));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Blocks::new(image, config, clock, None, None).unwrap()
    }

    fn write_plain(&self, blocks: &Blocks) {
        let handle = blocks.open(Inode::Block(number(0)), true).unwrap();
        let letter = 3 - self.live.present().content(0, BLOCK).letters[0].clamp(1, 2);
        // It fails for a process that was killed.
        let _ = blocks.write(handle, 0, &vec![letter; BLOCK]);
        blocks.release(handle);
    }

    fn sync_plain(&self, blocks: &Blocks, target: usize) {
        let since = self.live.number();
        let directory = blocks.open_directory(Inode::Root).unwrap();
        for (block, attr) in entries(blocks, directory) {
            self.shown_plain(block, &attr, since);
            let has = self.model().targets[target][block];
            let size = usize::try_from(attr.size).unwrap();
            if has.is_some_and(|has| has.stamp == attr.stamp && has.content.len == size) {
                continue;
            }
            let sets = self.model().sets.len();
            let mut reader = open(blocks, block, &attr, Style::Ordered, sets);
            while let Some(next) = reader {
                let last = next.is_last();
                reader = self.advance(blocks, next);
                if let (true, Some(read)) = (last, &reader) {
                    self.model().targets[target][block] = Some(read.pair());
                    release(blocks, read);
                    break;
                }
            }
        }
    }

    /// The listing that began in state `since` showed this.
    fn shown_plain(&self, block: usize, attr: &Attr, since: usize) {
        let mut model = self.model();
        if model.behind || self.disk.dead() {
            return;
        }
        let size = usize::try_from(attr.size).unwrap();
        for Held { pair, at, .. } in &model.held[block] {
            assert!(
                pair.stamp != attr.stamp
                    || pair.content.len != size
                    || *at > since
                    || self.live.had_since(since, block, pair.content),
                "without an index, block {block} shows {}: whoever has {:?} with it would skip {:?}",
                attr.stamp,
                pair.content,
                self.live.present().content(block, size),
            );
        }
        model.latest = model.latest.max(attr.stamp);
        let content = self.live.present().content(block, size);
        if self.live.number() == since && content.len == size && !model.bad {
            let stamp = attr.stamp;
            model.hold(block, Pair { stamp, content }, since);
        }
    }
}
