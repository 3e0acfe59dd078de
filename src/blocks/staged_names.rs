//! The names of staged files: they are made, renamed over a block, removed and listed.

use std::ffi::OsStr;

use super::Blocks;
use super::staged::{Staged, StagedPlace, Staging};
use crate::geometry::{BlockIndex, FileOffset};
use crate::volume::inode::{Inode, parse_block_name};
use crate::volume::{Change, Create, Errno, Handle, Listed, LookupEntry, Result, SetTime, Volume};

impl Blocks {
    pub(super) fn lookup_staged(&self, name: &OsStr) -> Option<LookupEntry> {
        let staged = self.staging.named(name)?;
        Some(LookupEntry {
            attr: self.attr_of_staged(staged.id, &staged.lock()),
            lasting: false,
        })
    }

    /// A name that is not there: a temporary one of a block is staged, anything else would be a mistyped block
    /// that vanishes silently.
    pub(super) fn create_staged(
        &self,
        name: &OsStr,
        create: &Create,
    ) -> Result<(LookupEntry, Handle)> {
        if !self.config.writable {
            return Err(Errno::EROFS);
        }
        if let Some(block) = parse_block_name(name) {
            return self.create_block(block, create);
        }
        let Some(most) = self.stageable(name) else {
            if let Some(block) = Staging::block_in(name) {
                self.refuse_past_end(block);
            }
            return Err(Errno::EPERM);
        };
        let staged = self
            .staging
            .create(name, most.max(1), self.clock.now(), create)?;
        let opened = self.open_staged(&staged, create.write);
        let handle = opened.inspect_err(|_| self.staging.take(name, StagedPlace::Removed))?;
        Ok((
            LookupEntry {
                attr: self.attr_of_staged(staged.id, &staged.lock()),
                lasting: false,
            },
            handle,
        ))
    }

    /// How long a file with this temporary name may become. `None`: it is none of a block that there is.
    fn stageable(&self, name: &OsStr) -> Option<u64> {
        let block = Staging::block_in(name)?;
        if self.config.resize {
            return Some(self.config.block_size.bytes());
        }
        let geometry = self.geometry();
        geometry.has(block).then(|| geometry.span(block).len())
    }

    /// A block without a file gets one: in a sparse directory, or past the image's end.
    fn create_block(&self, block: BlockIndex, create: &Create) -> Result<(LookupEntry, Handle)> {
        if self.has(self.geometry(), block) {
            self.check_latch()?;
            self.changed(block);
            self.appear(block);
        } else {
            self.make_room(block)?;
        }
        let inode = Inode::Block(block);
        let attr = self.attr(inode)?;
        let handle = self.open(inode, create.write)?;
        self.lengths.cut(block, 0, self.whole());
        Ok((
            LookupEntry {
                attr,
                lasting: true,
            },
            handle,
        ))
    }

    /// Lets the image end before `block`, which comes next; with --resize only.
    fn make_room(&self, block: BlockIndex) -> Result<()> {
        if self.config.resize {
            return self.create_past_end(block);
        }
        self.refuse_past_end(block);
        Err(Errno::EFBIG)
    }

    fn refuse_past_end(&self, block: BlockIndex) {
        let blocks = self.geometry().blocks();
        let remedy = match self.image.mtime() {
            Ok(None) => "use a larger device",
            _ => "to let this one grow, mount it with --resize",
        };
        log::error!(
            "{}: block {block} is past its end, it has {blocks} blocks: the backup is of a larger image, or was made with \
             a smaller -b than this mount's {}; {remedy}",
            self.image.name(),
            self.config.block_size
        );
    }

    /// Removes a staged file; a block stays.
    pub(super) fn remove_staged(&self, name: &OsStr) -> Result<()> {
        if self.staging.named(name).is_none() {
            return Err(Errno::ENOENT);
        }
        self.staging.take(name, StagedPlace::Removed);
        Ok(())
    }

    /// Renames a staged file: over a block, which gets its content, or to another temporary name.
    pub(super) fn rename_staged(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<()> {
        let staged = self.staging.named(from).ok_or(Errno::ENOENT)?;
        let geometry = self.geometry();
        if let Some(block) = parse_block_name(to) {
            if !replace && self.listed(geometry, block) {
                return Err(Errno::EEXIST);
            }
            if !self.has(geometry, block) {
                self.make_room(block)?;
            }
            return self.put(&staged, from, block);
        }
        if self.stageable(to).is_none() {
            return Err(Errno::EPERM);
        }
        if !replace && self.staging.named(to).is_some() {
            return Err(Errno::EEXIST);
        }
        self.staging.rename(&staged, to);
        Ok(())
    }

    /// Replaces a block's content by a staged file's. Times, owner and mode go with it.
    fn put(&self, staged: &Staged, name: &OsStr, block: BlockIndex) -> Result<()> {
        self.check_latch()?;
        let span = self.geometry().span(block);
        let inode = Inode::Block(block);
        // Opened, so that the index hashes the block when it is closed.
        self.check_open(block, true)?;
        let open = self.open_block(block, true, self.sync_errors.of_new_handle());
        let put = || -> Result<Change> {
            // Held all along: a write to the staged file comes before or after, and then goes to the block.
            let mut state = staged.lock();
            let len = state.content.len() as u64;
            if len != span.len() {
                let Some(done) = self.truncate_last(block, len) else {
                    log::warn!(
                        "{}: {}: it has {len} bytes, and block {block} has {}: not renamed. {}",
                        self.image.name(),
                        name.to_string_lossy(),
                        span.len(),
                        self.likely_cause(block, Some(len))
                    );
                    return Err(Errno::EPERM);
                };
                done?;
            }
            self.lengths.cut(block, len, self.whole());
            let mut done = 0;
            while done < state.content.len() {
                done +=
                    self.write_file(&open, FileOffset::new(done as u64), &state.content[done..])?;
            }
            if state.sync {
                self.sync_file(&open, true)?;
            }
            state.place = StagedPlace::Block(block);
            Ok(Change {
                mode: Some(u32::from(state.mode)),
                uid: Some(state.uid),
                gid: Some(state.gid),
                size: None,
                atime: state.atime.map(SetTime::At),
                mtime: state.mtime_set.then_some(SetTime::At(state.mtime)),
            })
        };
        let result = put();
        self.closed(&open);
        drop(open);
        let change = result?;
        self.staging.take(name, StagedPlace::Block(block));
        self.set_owner_and_times(inode, &change)
    }

    /// The staged files of a listing, from the one with number `id` on. `base`: the listing position of number 0.
    pub(super) fn list_staged(
        &self,
        id: u64,
        base: u64,
        sink: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) {
        let mut id = id;
        while let Some((name, staged)) = self.staging.from(id) {
            id = staged.id + 1;
            let entry = LookupEntry {
                attr: self.attr_of_staged(staged.id, &staged.lock()),
                lasting: false,
            };
            if !sink(&Listed {
                name: &name,
                entry,
                next: base + id,
            }) {
                return;
            }
        }
    }

    /// At the end of the mount: what was not renamed is dropped, and said.
    pub(super) fn drop_staged(&self) {
        let (names, refused) = self.staging.leftovers();
        let image = self.image.name();
        if let Some(first) = names.first() {
            log::warn!(
                "{image}: {} temporary files were never renamed over their block and are dropped, the first is {}",
                names.len(),
                first.to_string_lossy()
            );
        }
        if refused > 0 {
            log::warn!(
                "{image}: {refused} writes to temporary files found no room; more can be had with -o staging"
            );
        }
    }
}
