//! A block file that may be written: it is there, complete, and has no other name.
//!
//! Invariant: a name in the directory leads to a complete file at every instant, also when this process is killed;
//! and a file that has a second name anywhere is replaced by a copy, never written.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering::SeqCst;

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use super::Reverse;
use super::pool::BlockFile;
use crate::geometry::{BlockIndex, Span};
use crate::image::{Image, Ownership, Source};

/// How much is copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// What a block that must be replaced or made has to hold at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// What it holds now.
    Same,
    /// Zeros: the caller makes it all zeros anyway.
    Zeros,
}

impl Reverse {
    fn len_of(&self, block: BlockIndex) -> u64 {
        self.geometry.span(block).len()
    }

    /// For reading. An error: it has vanished, or has another length than at the mount.
    pub(super) fn open_to_read(&self, block: BlockIndex) -> io::Result<BlockFile> {
        let file = self.directory.open_block(block, false)?;
        let stat = file.metadata()?;
        self.check_length(block, &stat)?;
        self.watch(block, &stat);
        Ok(BlockFile {
            source: Source::regular(file, !self.config.writable)?,
            writable: false,
        })
    }

    /// Works on the file of a block that may be written. Nobody replaces the file meanwhile.
    pub(super) fn with_private<R>(
        &self,
        block: BlockIndex,
        content: Content,
        work: impl FnOnce(&Source) -> R,
    ) -> io::Result<R> {
        let slot = self.pool.slot(block, |block, old| self.retire(block, old));
        loop {
            if let Some(file) = &*slot.read() {
                if is_private(file)? {
                    let result = work(&file.source);
                    self.note(block, &file.source);
                    self.dirty.wrote(block);
                    return Ok(result);
                }
            }
            let mut file = slot.write();
            let done = match file.as_ref() {
                // Somebody else was faster.
                Some(file) => is_private(file)?,
                None => false,
            };
            if !done {
                *file = Some(self.make_private(block, content)?);
            }
        }
    }

    fn make_private(&self, block: BlockIndex, content: Content) -> io::Result<BlockFile> {
        let file = if self.present.has(block) {
            let file = self.directory.open_block(block, true)?;
            let stat = file.metadata()?;
            self.check_length(block, &stat)?;
            if stat.nlink() == 1 {
                file
            } else {
                self.replace(block, file, &stat, content)?
            }
        } else {
            self.create(block)?
        };
        Ok(BlockFile {
            source: Source::regular(file, false)?,
            writable: true,
        })
    }

    /// A file for a block that has none, all hole.
    fn create(&self, block: BlockIndex) -> io::Result<File> {
        let file = self.build(block, self.ownership, false, |_| Ok(()))?;
        self.present.insert(block);
        Ok(file)
    }

    /// A copy in place of a file that has other names, which keep the old one.
    fn replace(
        &self,
        block: BlockIndex,
        old: File,
        stat: &Metadata,
        content: Content,
    ) -> io::Result<File> {
        let like = Ownership {
            uid: stat.uid(),
            gid: stat.gid(),
            mode: stat.mode() & 0o7777,
        };
        let old = Source::regular(old, false)?;
        log::debug!(
            "block {block} has {} names: it is copied before it is written",
            stat.nlink()
        );
        self.build(block, like, true, |new| match content {
            Content::Same => copy(&old, new, self.len_of(block)),
            Content::Zeros => Ok(()),
        })
    }

    /// Makes a complete file under a temporary name, then gives it the block's.
    fn build(
        &self,
        block: BlockIndex,
        like: Ownership,
        replace: bool,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let made = self.directory.temporary(block)?;
        let built = made
            .set_len(self.len_of(block))
            .and_then(|()| fill(&made))
            .and_then(|()| dress(&made, like))
            // Else a crash could leave the name on a file whose content never arrived.
            .and_then(|()| made.sync_all())
            .and_then(|()| self.directory.publish(block, replace));
        if let Err(e) = built {
            self.directory.discard(block);
            return Err(e);
        }
        self.dirty.named();
        Ok(made)
    }

    /// A file of another length than at the mount was truncated, or is of another image.
    fn check_length(&self, block: BlockIndex, stat: &Metadata) -> io::Result<()> {
        if stat.len() == self.len_of(block) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "it is {} bytes long, and was {} at the mount",
            stat.len(),
            self.len_of(block)
        )))
    }

    /// Says, once, that somebody else writes the block files under a mount that only reads.
    pub(super) fn watch(&self, block: BlockIndex, stat: &std::fs::Metadata) {
        let is_newer = stat.mtime() > self.newest_before;
        if !self.config.writable && is_newer && !self.said_changed.swap(true, SeqCst) {
            log::warn!(
                "{}: block {block} was written since the mount: the image is of more than one moment",
                self.config.directory.display()
            );
        }
    }

    /// After a write: what stat(2) of the image is made of.
    fn note(&self, block: BlockIndex, source: &Source) {
        if let Ok(stat) = source.metadata() {
            self.note_sectors(block, stat.blocks());
            self.newest.fetch_max(stat.mtime(), SeqCst);
        }
    }
}

/// Whether a file may be written. EIO: it has no name any more, so nobody would find what is written.
fn is_private(file: &BlockFile) -> io::Result<bool> {
    if !file.writable {
        return Ok(false);
    }
    match file.source.metadata()?.nlink() {
        0 => Err(io::Error::other(
            "its file was removed or replaced since the mount",
        )),
        links => Ok(links == 1),
    }
}

/// Owner and mode. EPERM: only their owner or root can make files like that.
fn dress(file: &File, like: Ownership) -> io::Result<()> {
    let now = file.metadata()?;
    let uid = (now.uid() != like.uid).then(|| Uid::from_raw(like.uid));
    let gid = (now.gid() != like.gid).then(|| Gid::from_raw(like.gid));
    if uid.is_some() || gid.is_some() {
        fchown(file, uid, gid)?;
    }
    Ok(fchmod(file, Mode::from_bits_truncate(like.mode))?)
}

/// Copies what is not hole.
fn copy(from: &Source, to: &File, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(PIECE.min(len)).unwrap_or(0)];
    let mut at = 0;
    while let Some(start) = from.next_data(at)?.filter(|start| *start < len) {
        let run = Span::new(start, from.next_hole(start)?.min(len));
        let mut offset = run.start;
        while offset < run.end {
            let part = usize::try_from(PIECE.min(run.end - offset)).unwrap_or(buffer.len());
            let got = crate::image::read_span(from, &mut buffer[..part], offset);
            if let Some(e) = got.error {
                return Err(e);
            }
            to.write_all_at(&buffer[..part], offset)?;
            offset += part as u64;
        }
        at = run.end;
    }
    Ok(())
}
