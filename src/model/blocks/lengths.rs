//! The model of promise P25's rule for files that end before their block does.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default)]
struct File {
    writers: usize,
    /// As its client knows it, if that is not the block's.
    len: Option<usize>,
    announced: usize,
}

/// What clients have said of the length of block files.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<usize, File>);

impl Files {
    fn file(&mut self, block: usize) -> &mut File {
        self.0.entry(block).or_default()
    }

    pub(super) fn opened(&mut self, block: usize) {
        self.file(block).writers += 1;
    }

    /// Whether the block, of `len` bytes, shows that the backup has another block size.
    pub(super) fn closed(&mut self, block: usize, len: usize) -> bool {
        let file = self.file(block);
        file.writers -= 1;
        if file.writers > 0 {
            return false;
        }
        if file.len == Some(0) {
            file.len = None;
        }
        file.len.is_some_and(|has| has.max(file.announced) < len)
    }

    pub(super) fn cut(&mut self, block: usize, len: usize) {
        let file = self.file(block);
        file.len = Some(len).filter(|len| *len > 0 || file.writers > 0);
        file.announced = 0;
    }

    pub(super) fn wrote(&mut self, block: usize, end: usize) {
        let file = self.file(block);
        file.len = file.len.map(|len| len.max(end));
    }

    pub(super) fn announced(&mut self, block: usize, end: usize) {
        let file = self.file(block);
        file.announced = file.announced.max(end);
    }

    pub(super) fn forget_from(&mut self, block: usize) {
        for file in self.0.range_mut(block..).map(|(_, file)| file) {
            (file.len, file.announced) = (None, 0);
        }
    }

    pub(super) fn forget(&mut self, block: usize) {
        let file = self.file(block);
        (file.len, file.announced) = (None, 0);
    }

    /// Whether the file is complete, and shorter than a block of `whole` bytes.
    pub(super) fn ended(&mut self, block: usize, whole: usize) -> bool {
        let file = self.file(block);
        let len = file.len.filter(|len| *len > 0 && file.writers == 0);
        len.is_some_and(|len| len.max(file.announced) < whole)
    }

    /// Whether one is shorter than its block at the end of the mount.
    pub(super) fn unfinished(&self, len: impl Fn(usize) -> usize) -> bool {
        self.0
            .iter()
            .any(|(block, file)| file.len.is_some_and(|has| has > 0 && has < len(*block)))
    }
}
